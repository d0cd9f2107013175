"""Every file of the data contract is read and written here: atomic, typed, without pickle.

A reader checks the form and names file, found, expected, fix. The way a file is written is in common/files.py; the HDF5
files of patches are in common/patch_files.py.
"""
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.errors import DataError, LayerError
from common.files import atomic_path, reading, remove_abandoned, require_room, unwritable
from common.patch_files import (
    PATCH_STEP,
    StoredImages,
    open_patches,
    read_feature_attributes,
    read_features,
    require_section,
    section_of,
    write_features,
    write_patches,
)

__all__ = [
    # common/files.py
    "atomic_path", "reading", "remove_abandoned", "require_room", "unwritable",
    # common/patch_files.py
    "PATCH_STEP", "StoredImages", "open_patches", "read_feature_attributes", "read_features", "require_section",
    "section_of", "write_features", "write_patches",
    # text
    "StoredDict", "read_json", "read_location", "read_table", "require_columns", "write_json", "write_table",
    # arrays, tensors, AnnData, pictures
    "read_csr", "read_npy", "read_npz", "write_csr", "write_npy", "write_npz",
    "read_pt", "weights_of", "write_pt",
    "read_h5ad", "write_h5ad",
    "read_picture", "write_picture",
    "LOCATION_COLUMNS", "MAX_POSITION"]

LOCATION_COLUMNS = ("barcode", "pixel_x", "pixel_y", "i", "j")
MAX_POSITION = 2**31  # px or array steps: a larger one is no position


# text ------------------------------------------------------------------------------------------------
def write_json(path: Path, value: dict) -> None:
    """JSON, indented, keys in the given order; NaN is refused."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


class StoredDict(dict):
    """An object of a JSON file. A missing key is a LayerError that names the file: another version wrote it."""

    def __init__(self, entries: dict, path: Path, made_by: str):
        super().__init__(entries)
        self._origin = path, made_by

    def __missing__(self, key):
        path, made_by = self._origin
        raise LayerError(path, f"no key {key!r}", f"the output of {made_by}", f"run {made_by} again")


def read_json(path: Path, made_by: str = "an earlier step") -> StoredDict:
    """The object of a JSON file. NaN is refused, as it is when one is written."""
    with reading(path, made_by):
        value = json.loads(path.read_text(), object_hook=lambda entries: StoredDict(entries, path, made_by),
                           parse_constant=_refuse_constant)
        if not isinstance(value, StoredDict):
            raise ValueError(f"{type(value).__name__} instead of an object")
        return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """CSV without the index."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)


def read_table(path: Path, columns: tuple[str, ...] = (), made_by: str = "an earlier step",
               text: tuple[str, ...] = ("barcode",)) -> pd.DataFrame:
    """CSV with at least these columns; `text` columns stay strings.

    Raises LayerError if it cannot be read or a column is missing.
    """
    with reading(path, made_by):
        table = pd.read_csv(path, dtype={name: str for name in text}, keep_default_na=False, na_values=[""])
    require_columns(table, columns, path)
    return table


def require_columns(table: pd.DataFrame, columns: tuple[str, ...], file: Path) -> None:
    """Raise LayerError if a column is missing."""
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise LayerError(file, f"columns {', '.join(map(str, table.columns))}", f"a column {', '.join(missing)}",
                         "add or rename the column")


def read_location(path: Path) -> pd.DataFrame:
    """Spots of a section: barcode (str); pixel_x, pixel_y (float64, level-0 px of the spot centre); i, j (int64, array
    column and row).

    Raises LayerError for a missing column, a barcode that is missing, repeated or has a ';', or a position that is no
    number or beyond MAX_POSITION.
    """
    table = read_table(path, LOCATION_COLUMNS, "0_1_convert_raw.py, or 0_3_spot_grid.py for an image-only section,")
    for name in LOCATION_COLUMNS[1:]:
        table[name] = pd.to_numeric(table[name], errors="coerce")
        if not (table[name].abs() < MAX_POSITION).all():
            raise LayerError(path, f"a {name} that is not a number, or beyond {MAX_POSITION:g}", "finite numbers",
                             "correct the row")
    if table["barcode"].isna().any():
        raise LayerError(path, "a spot without barcode", "a barcode a row", "name the spot or remove the row")
    repeated = table["barcode"][table["barcode"].duplicated()]
    if len(repeated):
        raise LayerError(path, f"barcode {repeated.iloc[0]} twice", "unique barcodes", "remove one")
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
        named: dict[str, Any] = {**arrays}  # Any: NumPy's stubs take a keyword for its flag allow_pickle
        np.savez_compressed(stream, **named)


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
    """Raise ValueError for a sparse matrix whose indices are no whole numbers or out of bounds.

    SciPy's loops do not check them: a wrong index ends the process.
    """
    if hasattr(matrix, "indptr"):
        if not matrix.indices.dtype.kind == matrix.indptr.dtype.kind == "i":
            raise ValueError("indices that are no whole numbers")
        matrix.check_format(full_check=True)


# tensors ---------------------------------------------------------------------------------------------
def write_pt(path: Path, value: dict) -> None:
    """A dict of tensors and plain values; loads with weights_only=True."""
    import torch
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        torch.save(value, stream)  # not by path: PyTorch writes a path's name into the file, and the bytes would differ


def read_pt(path: Path, made_by: str = "an earlier step") -> dict:
    import torch
    with reading(path, made_by):
        value = torch.load(path, weights_only=True, map_location="cpu")
        if not isinstance(value, dict):
            raise ValueError(f"{type(value).__name__} instead of a dict")
        return value


@contextmanager
def weights_of(path: Path, made_by: str) -> Iterator[None]:
    """Turn the errors of loading a checkpoint whose network had other parts into one DataError.

    The block loads what was read of `path` and calls no other code of ours.
    """
    try:
        yield
    except (RuntimeError, TypeError, KeyError) as error:
        raise DataError(path, "weights of a network with other parts", "those of this version",
                        f"run {made_by} again") from error


# AnnData ---------------------------------------------------------------------------------------------
def write_h5ad(path: Path, adata) -> None:
    """AnnData, compressed by gzip."""
    require_room(path, sum(_n_bytes(matrix) for matrix in (adata.X, *adata.layers.values())))
    with atomic_path(path) as temporary:
        adata.write_h5ad(temporary, compression="gzip")


def _n_bytes(matrix) -> int:
    """Memory of an array or a sparse matrix."""
    if matrix is None:
        return 0
    parts = (matrix.data, matrix.indices, matrix.indptr) if hasattr(matrix, "indptr") else (matrix,)
    return sum(part.nbytes for part in parts)


def read_h5ad(path: Path, made_by: str = "an earlier step"):
    """AnnData of numbers.

    Raises LayerError if the file is missing or no h5ad, or if the indices of a sparse matrix in it are out of bounds.
    """
    import anndata
    with reading(path, made_by):
        adata = anndata.read_h5ad(path)
        for matrix in (adata.X, *adata.layers.values()):
            if matrix is None or matrix.dtype.kind not in "iufb":
                raise ValueError("a matrix that holds no numbers")
            _check_sparse(matrix)
        return adata


# pictures --------------------------------------------------------------------------------------------
def write_picture(path: Path, pixels: np.ndarray, quality: int = 92) -> None:
    """RGB (h,w,3) or grey (h,w) uint8, by suffix: .jpg or .png."""
    from PIL import Image
    options: dict[str, Any] = {"quality": quality} if path.suffix == ".jpg" else {}
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, **options)


def read_picture(path: Path, made_by: str = "0_2_tissue_mask.py") -> np.ndarray:
    """uint8 (h,w,3) or (h,w)."""
    from PIL import Image
    with reading(path, made_by), Image.open(path) as picture:
        return np.asarray(picture)
