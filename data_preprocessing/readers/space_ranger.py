"""The tables that Space Ranger writes, of every version and as labs pass them on: positions, counts, scale factors.

    positions   tissue_positions(_list).csv, .txt, .tsv, .parquet: with or without header, row numbers, quotes;
                separated by commas, semicolons (write.csv2), tabs or spaces; or Seurat's coordinates
    counts      HDF5 of Space Ranger 1 to 4 and Cell Ranger 2, or matrix.mtx with features.tsv (genes.tsv), barcodes.tsv
    scales      scalefactors_json.json

Any of them may be packed by gzip; the first bytes show it, the name may lack or have `.gz`.
"""
import gzip
import io
import json
import re
import shutil
import tempfile
import warnings
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import pandas as pd

from common.errors import LayerError
from common.io import require_columns
from data_preprocessing.readers import reading_table, shown, visible

if TYPE_CHECKING:
    import anndata

COLUMNS = ("barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres")
SEURAT = {"tissue": "in_tissue", "row": "array_row", "col": "array_col", "imagerow": "pxl_row_in_fullres",
          "imagecol": "pxl_col_in_fullres"}
EXPRESSION = "Gene Expression"
LEFT_OUT = "features_left_out"  # uns of read_matrix: {feature type: number of features}
GENOMES = "genomes"             # uns of read_matrix: {genome: number of genes}, if there are several
MEX_PART = re.compile(r"(?P<prefix>.*?)(?P<part>matrix\.mtx|features\.tsv|genes\.tsv|barcodes\.tsv)(\.gz)?", re.I)
UTF16 = (b"\xff\xfe", b"\xfe\xff")  # as Excel writes "Unicode Text"
GZIP = b"\x1f\x8b"


def unpacked(path: Path) -> IO[bytes]:
    """The open file, unpacked if its bytes are those of gzip."""
    with open(path, "rb") as stream:
        packed = stream.read(2) == GZIP
    return gzip.open(path, "rb") if packed else open(path, "rb")


def require_data(path: Path) -> None:
    """Raise LayerError for a file without content: empty, a git-lfs pointer, a web page saved in its place."""
    if path.is_dir():
        return
    try:
        with unpacked(path) as stream:
            head = stream.read(64).lstrip()
    except (OSError, EOFError):
        return  # the reader reports it
    found = {b"": "an empty file that cannot be read", b"version https://git-lfs": "a git-lfs pointer, not the file",
             b"<": "a web page or XML"}
    start = next((start for start in found if head.startswith(start) and (start or not head)), None)
    if start is not None:
        raise LayerError(path, found[start], "the file that Space Ranger wrote",
                         "git lfs pull" if b"lfs" in start else "copy or download it again")


# positions -------------------------------------------------------------------------------------------
def read_positions_table(path: Path) -> pd.DataFrame:
    """The positions of all spots, on and off the tissue: a row a spot.

    Columns: barcode (str), in_tissue (1, 0), array_row, array_col, pxl_row_in_fullres, pxl_col_in_fullres; a value that
    is no number is NaN. Raises LayerError.
    """
    require_data(path)
    try:
        with reading_table(path, "the positions that Space Ranger wrote"), unpacked(path) as stream:
            content = stream.read()
            table = pd.read_parquet(io.BytesIO(content)) if _is_parquet(path, content) else _read_text(content)
    except ImportError:
        raise LayerError(path, "a parquet file, and no pyarrow to read it", "pyarrow, or tissue_positions.csv",
                         "pip install pyarrow") from None
    if "barcode" not in table.columns and table.index.name == "barcode":
        table = table.reset_index()
    if set(SEURAT) <= set(table.columns):
        table = table.rename(columns=SEURAT)
    if "barcode" not in table.columns and set(COLUMNS[1:]) <= set(table.columns):
        table = table.rename(columns={table.columns[0]: "barcode"})  # row names of R
    require_columns(table, COLUMNS, path)
    table = table[list(COLUMNS)].reset_index(drop=True)
    words = table["in_tissue"].astype(str).str.strip().str.lower()
    table["in_tissue"] = words.replace({"true": "1", "false": "0"})
    for name in COLUMNS[1:]:
        table[name] = pd.to_numeric(table[name], errors="coerce")
    return table.assign(barcode=table["barcode"].astype(str).str.strip())


def _is_parquet(path: Path, content: bytes) -> bool:
    return content[:4] == b"PAR1" or ".parquet" in path.suffixes


def _read_text(content: bytes) -> pd.DataFrame:
    """A text table, every value as text; decimal commas of write.csv2 become points."""
    text = content.decode("utf-16" if content[:2] in UTF16 else "utf-8-sig")
    first = re.sub(r'"[^"]*"', '""', text.partition("\n")[0])  # separators inside quotes do not count
    separator = next((one for one in ";\t," if one in first), r"\s+")
    has_header = bool({"barcode", "in_tissue", "imagerow"} & set(re.split(r"\W+", text.partition("\n")[0])))
    table = pd.read_csv(io.StringIO(text), sep=separator, header=0 if has_header else None, dtype=str,
                        keep_default_na=False, skipinitialspace=True)
    if separator == ";":
        table = table.apply(lambda column: column.str.replace(",", "."))
    if isinstance(table.index, pd.RangeIndex):
        if not has_header and table.shape[1] == len(COLUMNS) + 1:
            table = table.iloc[:, 1:]  # row numbers
        if not has_header and table.shape[1] == len(COLUMNS):
            table.columns = list(COLUMNS)
        return table
    if "barcode" in table.columns:  # row numbers under a header without a name for them
        return table.reset_index(drop=True)
    return table.reset_index(names="barcode")  # row names under such a header (write.table)


# counts ----------------------------------------------------------------------------------------------
def read_matrix(path: Path) -> "anndata.AnnData":
    """Raw counts (n_spots, n_genes): X CSR float32, var_names gene names made unique, var['gene_ids'].

    path: an HDF5 file, a folder of matrix.mtx, features.tsv and barcodes.tsv, or such a matrix.mtx itself (its prefix
    is that of the other two). Features of other types than Gene Expression are left out: uns['features_left_out'] has
    their numbers. Several genomes are kept, uns['genomes']; a name without its genome gets it. Raises LayerError.
    """
    found = MEX_PART.fullmatch(path.name)
    require_data(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # gene names that occur twice: made unique below
            table = _read_mex(mex_files(path)) if path.is_dir() or found else _read_hdf5(path)
    except LayerError:
        raise
    except Exception as error:  # h5py, scanpy, SciPy and anndata each raise their own on a broken file
        raise LayerError(path, f"counts that cannot be read ({error or type(error).__name__})",
                         "the counts that Space Ranger wrote", "copy it again") from None
    return _of_genes(table, path)


def mex_files(path: Path) -> dict[str, Path]:
    """{matrix, features, barcodes: file} of a folder, or of the folder and prefix of a matrix.mtx.

    Raises LayerError if one is missing or there are several sets.
    """
    folder, prefix = path, None
    if not path.is_dir():
        folder, prefix = path.parent, MEX_PART.fullmatch(path.name)["prefix"]
    found: dict[str, dict[str, Path]] = {}
    for one in visible(folder):
        match = MEX_PART.fullmatch(one.name)
        if match and prefix in (None, match["prefix"]):
            kind = match["part"].lower().partition(".")[0].replace("genes", "features")
            found.setdefault(kind, {}).setdefault(match["prefix"], one)
    missing = [kind for kind in ("matrix", "features", "barcodes") if kind not in found]
    if missing:
        there = shown(one.name for one in visible(folder))
        raise LayerError(path, f"no {' and no '.join(missing)} among {there}",
                         "matrix.mtx, features.tsv (or genes.tsv) and barcodes.tsv, or their .gz", "copy all three")
    if len(set(chain.from_iterable(found.values()))) > 1:
        raise LayerError(path, f"several matrices: {', '.join(one.name for one in found['matrix'].values())}",
                         "one section a folder", "give each its own folder")
    return {kind: next(iter(names.values())) for kind, names in found.items()}


def _read_mex(files: dict[str, Path]) -> "anndata.AnnData":
    import anndata
    from scipy import io as scipy_io, sparse
    with unpacked(files["matrix"]) as stream:
        matrix = sparse.csc_matrix(scipy_io.mmread(stream))  # (n_features, n_spots)
    barcodes, features = _text_rows(files["barcodes"]), _text_rows(files["features"])
    if matrix.shape != (len(features), len(barcodes)):
        raise LayerError(files["matrix"], f"{matrix.shape[0]} x {matrix.shape[1]} values",
                         f"the {len(features)} features of {files['features'].name} x the {len(barcodes)} barcodes of"
                         f" {files['barcodes'].name}", "copy the three files of one run")
    columns = features.shape[1]
    var = pd.DataFrame({"name": features[min(1, columns - 1)]})
    if columns > 1:
        var["gene_ids"] = features[0]
    if columns > 2:
        var["feature_types"] = features[2]
    obs = pd.DataFrame(index=barcodes[0].to_numpy(str))
    return anndata.AnnData(matrix.T.tocsr(), obs=obs, var=var.set_index("name"))


def _text_rows(path: Path) -> pd.DataFrame:
    """The rows of a tab-separated file without header, as text."""
    with unpacked(path) as stream:
        return pd.read_csv(stream, sep="\t", header=None, dtype=str, keep_default_na=False, quoting=3)


def _read_hdf5(path: Path) -> "anndata.AnnData":
    """The matrix of every feature, by scanpy; a packed file is unpacked in a temporary folder."""
    with unpacked(path) as stream:
        if not isinstance(stream, gzip.GzipFile):
            return _read_unpacked_hdf5(path)
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / "matrix.h5"
            with open(plain, "wb") as target:
                shutil.copyfileobj(stream, target)
            return _read_unpacked_hdf5(plain)


def _read_unpacked_hdf5(path: Path) -> "anndata.AnnData":
    import anndata
    import h5py
    import scanpy
    with h5py.File(path) as file:
        genomes = [] if "matrix" in file else sorted(file)
    if not genomes:
        return scanpy.read_10x_h5(path, gex_only=False)
    parts = []
    for genome in genomes:  # Cell Ranger 2: a matrix a genome
        part = scanpy.read_10x_h5(path, genome=genome)
        part.var["genome"], part.var["name"] = genome, part.var_names
        part.var_names = [f"{genome} {number}" for number in range(part.n_vars)]
        parts.append(part)
    table = anndata.concat(parts, axis="var", join="outer", fill_value=0, merge="same")
    table.var_names = table.var.pop("name").to_numpy(str)
    return table


def _of_genes(table: "anndata.AnnData", path: Path) -> "anndata.AnnData":
    """The genes of a matrix of all features, in the reader's form. Raises LayerError."""
    import anndata
    from scipy import sparse
    kinds = table.var["feature_types"] if "feature_types" in table.var else pd.Series(EXPRESSION, table.var_names)
    is_gene = (kinds.astype(str).str.strip().str.lower() == EXPRESSION.lower()).to_numpy()
    others = kinds[~is_gene].value_counts().sort_index()
    if not is_gene.any():
        raise LayerError(path, f"no feature of type {EXPRESSION} among {', '.join(others.index) or 'no feature'}",
                         "gene counts", "copy the file of the right run")
    matrix = sparse.csr_matrix(table.X, dtype=np.float32)[:, is_gene]  # (n_spots, n_genes)
    names = pd.Series(table.var_names[is_gene], dtype=str).reset_index(drop=True)
    ids = table.var["gene_ids"].to_numpy(str)[is_gene] if "gene_ids" in table.var else None
    if ids is not None:
        names = names.where(names.str.strip() != "", ids)
    uns = {LEFT_OUT: {kind: int(number) for kind, number in others.items()}}
    genomes = table.var["genome"].to_numpy(str)[is_gene] if "genome" in table.var else np.array([])
    if len(set(genomes)) > 1:
        pairs = zip(genomes, names, strict=True)
        names = pd.Series([name if name.startswith(f"{genome}_") else f"{genome}_{name}" for genome, name in pairs])
        uns[GENOMES] = {genome: int((genomes == genome).sum()) for genome in sorted(set(genomes))}
    if table.obs_names.has_duplicates:
        raise LayerError(path, f"barcode {table.obs_names[table.obs_names.duplicated()][0]} twice", "one row a spot",
                         "copy the file of one section")
    var = pd.DataFrame(index=anndata.utils.make_index_unique(pd.Index(names.to_numpy(str))))
    if ids is not None:
        var["gene_ids"] = ids
    return anndata.AnnData(matrix, obs=pd.DataFrame(index=table.obs_names.astype(str)), var=var, uns=uns)


# scales ----------------------------------------------------------------------------------------------
def read_scale_factors(path: Path) -> dict[str, float]:
    """The numbers of scalefactors_json.json; also of a list of one, as R writes them. {} if it cannot be read."""
    try:
        with unpacked(path) as stream:
            entries = json.load(stream)
        if not isinstance(entries, dict):
            return {}
    except (OSError, EOFError, ValueError):
        return {}
    factors = {}
    for name, value in entries.items():
        one = value[0] if isinstance(value, list) and len(value) == 1 else value
        if isinstance(one, (int, float)) and not isinstance(one, bool):
            factors[name] = float(one)
    return factors
