"""The parts of an AnnData file (.h5ad) of any version: tables, matrices, positions.

    obs, var, raw/var      a group of columns (anndata 0.7 and later); a compound dataset with its categories in uns
                           (0.6 and before); a bare group with a dataset '_index' (SeuratDisk)
    X, raw/X, layers/<n>   dense; CSR or CSC as anndata, h5sparse or SeuratDisk write it
    raw.X, raw.var         the raw part of anndata 0.6
    obsm                   a group, or one compound dataset (0.6)

anndata itself refuses or misreads some of these. A column that cannot be read is left out: a table is not lost by it.
"""
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from common.errors import LayerError
from common.picture_faults import SNIFFED_BYTES, what_else

if TYPE_CHECKING:
    import h5py
    from scipy import sparse

CHUNK_VALUES = 20_000_000  # of a dense matrix read at once
INDEX_KEYS = ("_index", "index", "barcodes", "cell_id", "features", "gene_name")
SPARSE_PARTS = {"data", "indices", "indptr"}


@contextmanager
def opened(path: Path) -> "Iterator[h5py.File]":
    """The HDF5 file; every error of h5py and anndata on a broken one becomes a LayerError."""
    import h5py
    if not path.is_file():
        raise LayerError(path, "no file", "a table (.h5ad)", "copy it there")
    with open(path, "rb") as stream:
        found, fix = what_else(stream.read(SNIFFED_BYTES), path)
    if found:
        raise LayerError(path, found, "an AnnData file (.h5ad)", fix)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", message=".*(old version|without encoding metadata).*")
            with h5py.File(path, "r") as file:
                if "obs" not in file:
                    raise LayerError(path, f"no obs (there are {', '.join(sorted(file)) or 'no parts'})",
                                     "an AnnData file (.h5ad)", "save the table with adata.write_h5ad")
                yield file
    except LayerError:
        raise
    except Exception as error:  # h5py and anndata each raise their own
        cut = "a file that is cut off" if "truncated file" in str(error) else "a table that cannot be read"
        raise LayerError(path, f"{cut} ({error})", "an AnnData file (.h5ad)", "copy it again") from None


# tables ----------------------------------------------------------------------------------------------
def read_frame(file: "h5py.File", key: str, columns: tuple[str, ...] | None = None) -> pd.DataFrame:
    """obs, var or raw/var with its names as the index (str); columns: only these, if they are there."""
    import h5py
    node = file[key]
    if isinstance(node, h5py.Dataset):
        return _compound_frame(file, node, columns)
    index_key = _text(node.attrs.get("_index", ""))
    index_key = next((one for one in (index_key, *INDEX_KEYS) if one and one in node), None)
    if index_key is None:
        raise ValueError(f"no names of the rows in {key}")
    index = pd.Index([_text(one) for one in _column(node, index_key)], dtype=object)
    found = {}
    for name in column_names(file, key):
        if columns is None or name in columns:
            try:
                found[name] = pd.Series(_column(node, name), index=index)
            except Exception:  # a column in a form of its own
                continue
    return pd.DataFrame(found, index=index)


def column_names(file: "h5py.File", key: str) -> list[str]:
    """Names of the columns of obs, var or raw/var, in the order of the file."""
    import h5py
    node = file[key]
    if isinstance(node, h5py.Dataset):
        return list(node.dtype.names[1:])
    index_key = _text(node.attrs.get("_index", "_index"))
    ordered = [_text(one) for one in node.attrs.get("column-order", [])]
    names = [name for name in ordered if name in node]
    return names + [name for name in node if name not in {*names, index_key, "__categories"}]


def _column(group: "h5py.Group", name: str) -> "np.ndarray | pd.Categorical":
    """One column (n,); categories of anndata 0.7 are beside it, in '__categories'."""
    from anndata.io import read_elem
    node = group[name]
    categories = group.get("__categories", {})
    if name in categories:
        return pd.Categorical.from_codes(node[:], [_text(one) for one in categories[name][:]])
    value = read_elem(node)
    if isinstance(value, dict) and {"codes", "categories"} <= set(value):
        return pd.Categorical.from_codes(value["codes"], [_text(one) for one in value["categories"]])
    return _decoded(value)


def _compound_frame(file: "h5py.File", node: "h5py.Dataset", columns: tuple[str, ...] | None) -> pd.DataFrame:
    """A table of anndata 0.6: the first field holds the names; categories are uns['<column>_categories']."""
    rows = node[:]
    first, *others = rows.dtype.names
    found, uns = {}, file.get("uns", {})
    for name in others:
        if columns is not None and name not in columns:
            continue
        values = _decoded(rows[name])
        if f"{name}_categories" in uns and np.issubdtype(values.dtype, np.integer):
            values = pd.Categorical.from_codes(values, [_text(one) for one in uns[f"{name}_categories"][:]])
        found[name] = values
    index = pd.Index([_text(one) for one in rows[first]], dtype=object)
    return pd.DataFrame(found, index=index)


def _decoded(values):
    """Bytes as text; everything else unchanged."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "SO":
        return np.array([_text(one) if isinstance(one, bytes) else one for one in values], dtype=object)
    return values


def _text(value) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


# matrices --------------------------------------------------------------------------------------------
def read_matrix(file: "h5py.File", key: str, n_vars: int) -> "sparse.csr_matrix":
    """X, raw/X or a layer in any stored form: CSR (n_obs, n_vars) float64. A dense one is read in parts."""
    import h5py
    from anndata.io import read_elem
    from scipy import sparse
    node = file[key]
    if isinstance(node, h5py.Group):
        if {"encoding-type", "h5sparse_format"} & set(node.attrs):
            return sparse.csr_matrix(read_elem(node), dtype=np.float64)
        if not set(node) >= SPARSE_PARTS:
            raise ValueError(f"{key} in an unknown form ({', '.join(sorted(node))})")
        data, indices, indptr = (node[name][:] for name in ("data", "indices", "indptr"))
        n_obs = file["obs"].shape[0] if isinstance(file["obs"], h5py.Dataset) else len(read_frame(file, "obs", ()))
        make, shape = (sparse.csr_matrix, (n_obs, n_vars))
        if len(indptr) != n_obs + 1 and len(indptr) == n_vars + 1:
            make = sparse.csc_matrix
        return sparse.csr_matrix(make((data, indices, indptr), shape=shape), dtype=np.float64)
    if node.ndim != 2:
        return sparse.csr_matrix(np.asarray(node[()], np.float64).reshape(-1, n_vars))
    step = max(1, CHUNK_VALUES // max(1, node.shape[1]))
    parts = []
    for start in range(0, node.shape[0], step):
        parts.append(sparse.csr_matrix(np.asarray(node[start:start + step], np.float64)))
    return sparse.vstack(parts, format="csr") if parts else sparse.csr_matrix(node.shape, dtype=np.float64)


# positions -------------------------------------------------------------------------------------------
def obsm_names(file: "h5py.File") -> list[str]:
    """Names of the arrays in obsm, sorted."""
    import h5py
    node = file.get("obsm")
    if node is None:
        return []
    return sorted(node.dtype.names or ()) if isinstance(node, h5py.Dataset) else sorted(node)


def read_obsm(file: "h5py.File", name: str) -> "np.ndarray | pd.DataFrame":
    """One array of obsm: (n_obs, k), or a table with named columns."""
    import h5py
    from anndata.io import read_elem
    node = file["obsm"]
    value = node[name] if isinstance(node, h5py.Dataset) else read_elem(node[name])
    return value if isinstance(value, pd.DataFrame) else np.asarray(value)
