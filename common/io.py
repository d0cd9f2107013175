"""Every file of the data contract is read and written here: atomic, typed, without pickle.

A writer makes a file of a unique temporary name in the target's folder and renames it (`os.replace`): a killed run leaves the old file
or the new one. A reader checks the form and names file, found, expected, fix.
"""
import json
import os
import pickle
import tempfile
import zipfile
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from common.errors import DataError, LayerError

PATCH_STEP = "1_cropped_multi_level_patch.py"
LOCATION_COLUMNS = ("barcode", "pixel_x", "pixel_y", "i", "j")


@contextmanager
def atomic_path(path: Path):
    """Yield a temporary path of the same suffix beside `path`; rename it onto `path` if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _reading(path: Path, made_by: str):
    """Turn a missing file, and whatever a decoder raises on a broken one, into one LayerError."""
    if not path.is_file():
        raise LayerError(path, "no file", f"the output of {made_by}", f"run {made_by} first")
    try:
        yield
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise LayerError(path, f"a file that cannot be read ({error})", f"the output of {made_by}", f"run {made_by} again") from None


# text ------------------------------------------------------------------------------------------------
def write_json(path: Path, value: dict) -> None:
    """JSON, indented, keys in the given order; NaN is refused."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, made_by: str = "an earlier step") -> dict:
    with _reading(path, made_by):
        return json.loads(path.read_text())


def write_table(path: Path, table: pd.DataFrame) -> None:
    """CSV without the index."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)


def read_table(path: Path, columns: tuple[str, ...] = (), made_by: str = "an earlier step", text: tuple[str, ...] = ("barcode",)) -> pd.DataFrame:
    """CSV with at least these columns; `text` columns stay strings. Raises DataError if a column is missing."""
    with _reading(path, made_by):
        table = pd.read_csv(path, dtype={name: str for name in text}, keep_default_na=False, na_values=[""])
    require_columns(table, columns, path)
    return table


def require_columns(table: pd.DataFrame, columns: tuple[str, ...], file: Path) -> None:
    """Raise DataError if a column is missing."""
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise DataError(file, f"columns {', '.join(map(str, table.columns))}", f"a column {', '.join(missing)}", "add or rename the column")


def read_location(path: Path) -> pd.DataFrame:
    """Spots of a layer: barcode (str), pixel_x, pixel_y (float64, level-0 px of the spot centre), i, j (int64, array column, row).

    Raises DataError for a missing column, a repeated barcode or a position that is not finite, LayerError for a barcode
    with ';'.
    """
    table = read_table(path, LOCATION_COLUMNS, "0_1_convert_raw.py, or 0_3_spot_grid.py for an image-only layer,")
    for name in LOCATION_COLUMNS[1:]:
        table[name] = pd.to_numeric(table[name], errors="coerce")
        if not np.isfinite(table[name]).all():
            raise DataError(path, f"a {name} that is not a number", "finite numbers", "correct the row")
    if table["barcode"].isna().any():
        raise DataError(path, "a spot without barcode", "a barcode a row", "name the spot or remove the row")
    if table["barcode"].duplicated().any():
        raise DataError(path, f"barcode {table['barcode'][table['barcode'].duplicated()].iloc[0]} twice", "unique barcodes", "remove one")
    unsafe = table["barcode"][table["barcode"].str.contains(";")]  # steps 2 and 3 join the members of a patch by ';'
    if len(unsafe):
        found = f"barcode {unsafe.iloc[0]} ({len(unsafe)} with ';')"
        raise LayerError(path, found, "barcodes without ';'", "rename them, in counts/ too")
    return table.astype({"pixel_x": np.float64, "pixel_y": np.float64, "i": np.int64, "j": np.int64})


# arrays ----------------------------------------------------------------------------------------------
def write_npy(path: Path, array: np.ndarray) -> None:
    """One array, no pickle."""
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.save(stream, array, allow_pickle=False)


def read_npy(path: Path, made_by: str = "an earlier step", mmap: bool = False) -> np.ndarray:
    with _reading(path, made_by):
        return np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """Named arrays, no pickle."""
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, **arrays)


def read_npz(path: Path, made_by: str = "an earlier step") -> dict[str, np.ndarray]:
    with _reading(path, made_by), np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def write_csr(path: Path, matrix) -> None:
    """SciPy sparse matrix as CSR, sorted indices."""
    from scipy import sparse
    matrix = sparse.csr_array(matrix)
    matrix.sort_indices()
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        sparse.save_npz(stream, matrix)


def read_csr(path: Path, made_by: str = "an earlier step"):
    from scipy import sparse
    with _reading(path, made_by):
        return sparse.csr_array(sparse.load_npz(path))


# tensors ---------------------------------------------------------------------------------------------
def write_pt(path: Path, value: dict) -> None:
    """A dict of tensors and plain values; loads with weights_only=True."""
    import torch
    with atomic_path(path) as temporary:
        torch.save(value, temporary)


def read_pt(path: Path, made_by: str = "an earlier step") -> dict:
    import torch
    with _reading(path, made_by):
        return torch.load(path, weights_only=True, map_location="cpu")


@contextmanager
def weights_of(path: Path, made_by: str):
    """Turn what PyTorch says, in pages, of a checkpoint whose network had other parts into one DataError."""
    try:
        yield
    except (RuntimeError, TypeError, KeyError) as error:
        raise DataError(path, "weights of a network with other parts", "those of this version", f"run {made_by} again") from error


# AnnData ---------------------------------------------------------------------------------------------
def write_h5ad(path: Path, adata) -> None:
    with atomic_path(path) as temporary:
        adata.write_h5ad(temporary, compression="gzip")


def read_h5ad(path: Path, made_by: str = "an earlier step"):
    """AnnData; raises LayerError if the file is missing or is no h5ad."""
    import anndata
    with _reading(path, made_by):
        return anndata.read_h5ad(path)


# patches and features (HDF5) -------------------------------------------------------------------------
def write_patches(path: Path, images: Iterable[np.ndarray], size: int, coords: np.ndarray, barcode: list[str]) -> None:
    """HEST-1k patch file: img (N,S,S,3) uint8, coords (N,2) int64 level-0 px of the patch centre, barcode (N,) utf-8 (a grid patch's name).

    images: N arrays (S,S,3), taken one at a time.
    """
    import h5py
    with atomic_path(path) as temporary, h5py.File(temporary, "w", track_order=False) as file:
        img = file.create_dataset("img", (len(barcode), size, size, 3), np.uint8, chunks=(1, size, size, 3) if barcode else None,
                                  compression="lzf" if barcode else None)
        for k, image in enumerate(images):
            img[k] = image
        file.create_dataset("coords", data=np.asarray(coords, np.int64))
        file.create_dataset("barcode", data=np.asarray(barcode, dtype=h5py.string_dtype()))


class StoredImages:
    """The images of an open patch file: len(), and [start:stop] (n,S,S,3) uint8, read from disk when it is taken."""

    def __init__(self, path: Path, dataset):
        self._path, self._dataset = path, dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, rows: slice) -> np.ndarray:
        with _reading(self._path, PATCH_STEP):
            return self._dataset[rows]


@contextmanager
def open_patches(path: Path):
    """Yield (StoredImages, coords (N,2) int64, barcode list): a patch file without holding its images in memory."""
    import h5py
    with _reading(path, PATCH_STEP):
        file = h5py.File(path, "r")
    with file:
        with _reading(path, PATCH_STEP):
            found = StoredImages(path, file["img"]), file["coords"][:], [name.decode() for name in file["barcode"][:]]
        yield found


def write_features(path: Path, sets: dict[str, np.ndarray], barcode: list[str], attributes: dict[str, dict]) -> None:
    """One float32 dataset (N,D) a feature set, `barcode` (N,), and per set the attributes model, weights_sha256, window_px."""
    import h5py
    with atomic_path(path) as temporary, h5py.File(temporary, "w", track_order=False) as file:
        file.create_dataset("barcode", data=np.asarray(barcode, dtype=h5py.string_dtype()))
        for name in sorted(sets):
            dataset = file.create_dataset(name, data=np.asarray(sets[name], np.float32))
            for key, value in sorted(attributes[name].items()):
                dataset.attrs[key] = value


def read_features(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """({set name: (N,D) float32}, barcode list)."""
    import h5py
    with _reading(path, "4_feature_extraction.py"), h5py.File(path, "r") as file:
        return {name: file[name][:] for name in sorted(file) if name != "barcode"}, [name.decode() for name in file["barcode"][:]]


# pictures --------------------------------------------------------------------------------------------
def write_picture(path: Path, pixels: np.ndarray, quality: int = 92) -> None:
    """RGB (h,w,3) or grey (h,w) uint8, by suffix: .jpg or .png."""
    from PIL import Image
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, **({"quality": quality} if path.suffix == ".jpg" else {}))


def read_picture(path: Path, made_by: str = "0_2_tissue_mask.py") -> np.ndarray:
    """uint8 (h,w,3) or (h,w)."""
    from PIL import Image
    with _reading(path, made_by), Image.open(path) as picture:
        return np.asarray(picture)
