"""Every file of the data contract is read and written here: atomic, typed, without pickle.

A writer makes a file of a unique temporary name in the target's folder and renames it (`os.replace`): a killed run leaves the old file
or the new one. A reader checks the form and names file, found, expected, fix.
"""
import errno
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from common.errors import DataError, LayerError

PATCH_STEP = "1_cropped_multi_level_patch.py"
LOCATION_COLUMNS = ("barcode", "pixel_x", "pixel_y", "i", "j")
MAX_POSITION = 2**31  # px or array steps: a larger one is no position
HDF5_BYTES = 2**20    # what an HDF5 file needs beside its arrays, at most
FULL_BYTES = 2**16    # a disk with less is full, whatever the library that could not write says


@contextmanager
def atomic_path(path: Path):
    """Yield a temporary path of the same suffix beside `path`; rename it onto `path` if the block succeeds.

    A temporary file that a killed process left of the same target is removed. Raises DataError if the disk is full or may not be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path)
        handle, name = tempfile.mkstemp(prefix=f"{_own_prefix(path)}{os.getpid()}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # HDF5 and PyTorch raise RuntimeError where a write fails
        raise unwritable(error, path) or error from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _own_prefix(path: Path) -> str:
    """What the names of this machine's temporary files of `path` begin with; the process number follows."""
    return f".{path.stem}.{platform.node()}."


def remove_abandoned(path: Path) -> None:
    """Remove the temporary files of `path` whose process, of this machine, no longer runs."""
    prefix = _own_prefix(path).lstrip(".")
    for name in os.listdir(path.parent):
        bare = name.lstrip(".")  # a writer inside a writer makes a temporary file of the temporary file: one dot more
        if bare != name and bare.startswith(prefix) and name.endswith(path.suffix):
            process = bare[len(prefix):].partition(".")[0]
            if process.isdecimal() and not _runs(int(process)):
                (path.parent / name).unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def unwritable(error: Exception, path: Path | None = None) -> DataError | None:
    """The one line for an error that says that nothing can be written to `path` (default: the file that the error names); None for any other."""
    file = path or getattr(error, "filename", None) or "the disk"
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error) or path is not None and _is_full(path.parent):
        return DataError(file, "no space left on the disk", "room for the output", "free some space and run it again")
    if number in (errno.EROFS, errno.EACCES, errno.EPERM):
        return DataError(file, f"no permission ({os.strerror(number)})", "a file that may be read and written", "change the permission, or use another folder")
    if number in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY):
        return DataError(file, f"something else in its place ({os.strerror(number)})", "a file in a folder", "move it away")
    return None


def _is_full(folder: Path) -> bool:
    return folder.is_dir() and shutil.disk_usage(folder).free < FULL_BYTES


def require_room(path: Path, n_bytes: int) -> None:
    """Raise DataError unless the disk holds so many bytes more: the HDF5 library ends the process if a disk runs full while it writes."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < n_bytes + HDF5_BYTES:
        raise DataError(path, f"no space left on the disk ({free / 2**20:.1f} MiB)", f"room for {(n_bytes + HDF5_BYTES) / 2**20:.1f} MiB",
                        "free some space and run it again")


def _n_bytes(matrix) -> int:
    """Memory of an array or a sparse matrix."""
    return 0 if matrix is None else sum(part.nbytes for part in ((matrix.data, matrix.indices, matrix.indptr) if hasattr(matrix, "indptr") else (matrix,)))


@contextmanager
def reading(path: Path, made_by: str):
    """Turn a missing file, and whatever a decoder raises on a broken one, into one LayerError. Nothing but decoding belongs in the block."""
    if not path.is_file():
        raise LayerError(path, "no file", f"the output of {made_by}", f"run {made_by} first")
    try:
        yield
    except (LayerError, DataError):
        raise
    except Exception as error:  # every decoder raises its own on bad bytes, up to MemoryError for a header that claims too much
        raise LayerError(path, f"a file that cannot be read ({type(error).__name__}: {error})", f"the output of {made_by}",
                         f"run {made_by} again") from None


# text ------------------------------------------------------------------------------------------------
def write_json(path: Path, value: dict) -> None:
    """JSON, indented, keys in the given order; NaN is refused."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


class StoredDict(dict):
    """An object of a JSON file. A key that it lacks is a LayerError naming the file: what reads it is of another version than what wrote it."""

    def __init__(self, entries: dict, path: Path, made_by: str):
        super().__init__(entries)
        self._origin = path, made_by

    def __missing__(self, key):
        path, made_by = self._origin
        raise LayerError(path, f"no key {key!r}", f"the output of {made_by}", f"run {made_by} again")


def read_json(path: Path, made_by: str = "an earlier step") -> StoredDict:
    """The object of a JSON file. NaN is refused, as it is when one is written."""
    with reading(path, made_by):
        value = json.loads(path.read_text(), object_hook=lambda entries: StoredDict(entries, path, made_by), parse_constant=_refuse_constant)
        if not isinstance(value, StoredDict):
            raise ValueError(f"{type(value).__name__} instead of an object")
        return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """CSV without the index."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)


def read_table(path: Path, columns: tuple[str, ...] = (), made_by: str = "an earlier step", text: tuple[str, ...] = ("barcode",)) -> pd.DataFrame:
    """CSV with at least these columns; `text` columns stay strings. Raises LayerError if it cannot be read or a column is missing."""
    with reading(path, made_by):
        table = pd.read_csv(path, dtype={name: str for name in text}, keep_default_na=False, na_values=[""])
    require_columns(table, columns, path)
    return table


def require_columns(table: pd.DataFrame, columns: tuple[str, ...], file: Path) -> None:
    """Raise LayerError if a column is missing."""
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise LayerError(file, f"columns {', '.join(map(str, table.columns))}", f"a column {', '.join(missing)}", "add or rename the column")


def read_location(path: Path) -> pd.DataFrame:
    """Spots of a layer: barcode (str), pixel_x, pixel_y (float64, level-0 px of the spot centre), i, j (int64, array column, row).

    Raises LayerError for a missing column, a missing or repeated barcode or one with ';', or a position that is no number or too large to be one.
    """
    table = read_table(path, LOCATION_COLUMNS, "0_1_convert_raw.py, or 0_3_spot_grid.py for an image-only layer,")
    for name in LOCATION_COLUMNS[1:]:
        table[name] = pd.to_numeric(table[name], errors="coerce")
        if not (table[name].abs() < MAX_POSITION).all():
            raise LayerError(path, f"a {name} that is not a number, or beyond {MAX_POSITION:g}", "finite numbers", "correct the row")
    if table["barcode"].isna().any():
        raise LayerError(path, "a spot without barcode", "a barcode a row", "name the spot or remove the row")
    if table["barcode"].duplicated().any():
        raise LayerError(path, f"barcode {table['barcode'][table['barcode'].duplicated()].iloc[0]} twice", "unique barcodes", "remove one")
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
    with reading(path, made_by):
        return np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """Named arrays, no pickle."""
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, **arrays)


def read_npz(path: Path, made_by: str = "an earlier step") -> dict[str, np.ndarray]:
    with reading(path, made_by), np.load(path, allow_pickle=False) as file:
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
    with reading(path, made_by):
        matrix = sparse.csr_array(sparse.load_npz(path))
        _check_sparse(matrix)
        return matrix


def _check_sparse(matrix) -> None:
    """Raise ValueError for a sparse matrix whose indices are no whole numbers or out of bounds: SciPy's loops trust them, a wrong one ends the process."""
    if hasattr(matrix, "indptr"):
        if not matrix.indices.dtype.kind == matrix.indptr.dtype.kind == "i":
            raise ValueError("indices that are no whole numbers")
        matrix.check_format(full_check=True)


# tensors ---------------------------------------------------------------------------------------------
def write_pt(path: Path, value: dict) -> None:
    """A dict of tensors and plain values; loads with weights_only=True."""
    import torch
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        torch.save(value, stream)  # not by its name, which PyTorch would write into the file: the same content is the same bytes


def read_pt(path: Path, made_by: str = "an earlier step") -> dict:
    import torch
    with reading(path, made_by):
        value = torch.load(path, weights_only=True, map_location="cpu")
        if not isinstance(value, dict):
            raise ValueError(f"{type(value).__name__} instead of a dict")
        return value


@contextmanager
def weights_of(path: Path, made_by: str):
    """Turn what is raised of a checkpoint whose network had other parts into one DataError: for what is read of `path`, not for code of ours."""
    try:
        yield
    except (RuntimeError, TypeError, KeyError) as error:
        raise DataError(path, "weights of a network with other parts", "those of this version", f"run {made_by} again") from error


# AnnData ---------------------------------------------------------------------------------------------
def write_h5ad(path: Path, adata) -> None:
    require_room(path, sum(_n_bytes(matrix) for matrix in (adata.X, *adata.layers.values())))
    with atomic_path(path) as temporary:
        adata.write_h5ad(temporary, compression="gzip")


def read_h5ad(path: Path, made_by: str = "an earlier step"):
    """AnnData of numbers; raises LayerError if the file is missing or is no h5ad, or if a sparse matrix in it points beyond its own bounds."""
    import anndata
    with reading(path, made_by):
        adata = anndata.read_h5ad(path)
        for matrix in (adata.X, *adata.layers.values()):
            if matrix is None or matrix.dtype.kind not in "iufb":
                raise ValueError("a matrix that holds no numbers")
            _check_sparse(matrix)
        return adata


# patches and features (HDF5) -------------------------------------------------------------------------
def section_of(path: Path) -> str:
    """<sample>/<layer> of a file of a section."""
    return f"{path.parent.name}/{path.stem}"


def require_section(file, path: Path) -> None:
    """Raise ValueError if an open HDF5 file says that it was made of another section: patches of a grid have the same names in all."""
    section = file.attrs.get("section", section_of(path))
    if section != section_of(path):
        raise ValueError(f"content of section {section}")


def write_patches(path: Path, images: Iterable[np.ndarray], size: int, coords: np.ndarray, barcode: list[str]) -> None:
    """HEST-1k patch file: img (N,S,S,3) uint8, coords (N,2) int64 level-0 px of the patch centre, barcode (N,) utf-8 (a grid patch's name).

    images: N arrays (S,S,3), taken one at a time. Compressed by gzip: the bytes of lzf differ between two runs.
    """
    import h5py
    require_room(path, 3 * size * size * len(barcode))
    with atomic_path(path) as temporary, h5py.File(temporary, "w", track_order=False) as file:
        img = file.create_dataset("img", (len(barcode), size, size, 3), np.uint8, chunks=(1, size, size, 3) if barcode else None,
                                  **({"compression": "gzip", "compression_opts": 1} if barcode else {}))
        for k, image in enumerate(images):
            img[k] = image
        file.attrs["section"] = section_of(path)
        file.create_dataset("coords", data=np.asarray(coords, np.int64))
        file.create_dataset("barcode", data=np.asarray(barcode, dtype=h5py.string_dtype()))


class StoredImages:
    """The images of an open patch file: len(), and [start:stop] (n,S,S,3) uint8, read from disk when it is taken."""

    def __init__(self, path: Path, dataset):
        self._path, self._dataset = path, dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, rows: slice) -> np.ndarray:
        with reading(self._path, PATCH_STEP):
            return self._dataset[rows]


@contextmanager
def open_patches(path: Path):
    """Yield (StoredImages, coords (N,2) int64, barcode list): a patch file without holding its images in memory."""
    import h5py
    with reading(path, PATCH_STEP):
        file = h5py.File(path, "r")
    with file:
        with reading(path, PATCH_STEP):
            require_section(file, path)
            img, coords, names = file["img"], file["coords"][:], [name.decode() for name in file["barcode"][:]]
            if img.shape[:1] + img.shape[3:] != (len(names), 3) or img.dtype != np.uint8 or coords.shape != (len(names), 2):
                raise ValueError(f"img {img.shape} {img.dtype}, coords {coords.shape}, {len(names)} barcodes")
        yield StoredImages(path, img), coords, names


def write_features(path: Path, sets: dict[str, np.ndarray], barcode: list[str], attributes: dict[str, dict]) -> None:
    """One float32 dataset (N,D) a feature set, `barcode` (N,), and per set its attributes (common/feature_recipe.py)."""
    import h5py
    require_room(path, sum(_n_bytes(np.asarray(values)) for values in sets.values()))
    with atomic_path(path) as temporary, h5py.File(temporary, "w", track_order=False) as file:
        file.attrs["section"] = section_of(path)
        file.create_dataset("barcode", data=np.asarray(barcode, dtype=h5py.string_dtype()))
        for name in sorted(sets):
            dataset = file.create_dataset(name, data=np.asarray(sets[name], np.float32))
            for key, value in sorted(attributes[name].items()):
                dataset.attrs[key] = value


def read_features(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """({set name: (N,D) float32}, barcode list)."""
    import h5py
    with reading(path, "4_feature_extraction.py"), h5py.File(path, "r") as file:
        require_section(file, path)
        names = [name.decode() for name in file["barcode"][:]]
        sets = {name: file[name][:] for name in sorted(file) if name != "barcode"}
        for name, values in sets.items():
            if values.ndim != 2 or len(values) != len(names) or values.dtype != np.float32 or not np.isfinite(values).all():
                raise ValueError(f"{name} {values.dtype} {values.shape} for {len(names)} patches, or a value that is not finite")
        return sets, names


def read_feature_attributes(path: Path) -> dict[str, dict]:
    """{set name: its attributes}."""
    import h5py
    with reading(path, "4_feature_extraction.py"), h5py.File(path, "r") as file:
        return {name: dict(file[name].attrs) for name in sorted(file) if name != "barcode"}


# pictures --------------------------------------------------------------------------------------------
def write_picture(path: Path, pixels: np.ndarray, quality: int = 92) -> None:
    """RGB (h,w,3) or grey (h,w) uint8, by suffix: .jpg or .png."""
    from PIL import Image
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, **({"quality": quality} if path.suffix == ".jpg" else {}))


def read_picture(path: Path, made_by: str = "0_2_tissue_mask.py") -> np.ndarray:
    """uint8 (h,w,3) or (h,w)."""
    from PIL import Image
    with reading(path, made_by), Image.open(path) as picture:
        return np.asarray(picture)
