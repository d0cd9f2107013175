"""Text tables of legacy ST: the table of counts, and what all its tables have in common.

A table may be packed by gzip, begin with a byte-order mark, be UTF-16, have Windows line ends, and be separated by
tabs, commas, semicolons or blanks.
"""
import csv
import gzip
import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np

from common.errors import LayerError
from common.gene_ids import OF_VAR
from data_preprocessing.readers import reading_table
from data_preprocessing.readers.gene_forms import ENSEMBL, ID_AND_NAME, NAME_AND_ID
from data_preprocessing.readers.gene_names import gene_names

if TYPE_CHECKING:
    import anndata
    import pandas as pd

GZIP_MAGIC = b"\x1f\x8b"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # "Unicode text" of Excel
SPREADSHEETS = (b"PK\3\4", b"\xd0\xcf\x11\xe0")
NO_TABLES = {"version https://git-lfs": ("a pointer of git-lfs", "run git lfs pull where the file is from"),
             "<!doctype html": ("a web page", "download the file again"),
             "<html": ("a web page", "download the file again")}
SEPARATORS = ("\t", ";", ",", " ")
NUMBER = r"\d+(?:\.\d+)?"
POSITION = re.compile(rf"X?({NUMBER})[xX_]({NUMBER})")  # R writes an X before a name that begins with a digit
VISIUM_BARCODE = re.compile(r"[ACGT]{14,}(?:-\d+)?")


@dataclass(frozen=True)
class Counts:
    """A table of counts. table: rows are spots, named `XxY` where the name is a position. xy: (n_spots, 2) array
    column and row of these names, NaN for other names. note: what was done beside reading, or ''.
    """
    table: "anndata.AnnData"
    xy: np.ndarray
    note: str


@contextmanager
def opened(path: Path):
    """The text of a table, packed or not, whatever its suffix. Raises LayerError if it holds no table."""
    with open(path, "rb") as stream:
        is_packed = stream.read(2) == GZIP_MAGIC
    open_plain = gzip.open if is_packed else open
    with open_plain(path, "rb") as stream:
        start_bytes = stream.read(8)
    if start_bytes.startswith(SPREADSHEETS):
        raise LayerError(path, "a spreadsheet of Excel, or a zip file", "a text table",
                         "save it as text, tab-separated; unpack a zip file")
    encoding = "utf-16" if start_bytes.startswith(UTF_16) else "utf-8-sig"
    with open_plain(path, "rt", encoding=encoding, newline="") as stream:
        start = stream.read(60).lstrip().lower()
        if not start:
            raise LayerError(path, "an empty file", "a text table", "copy it again")
        for mark, (found, fix) in NO_TABLES.items():
            if start.startswith(mark):
                raise LayerError(path, found, "a text table", fix)
        stream.seek(0)
        yield stream


def header_of(path: Path) -> list[str]:
    """The cells of the first line."""
    with opened(path) as stream:
        return cells(stream.readline())[1]


def cells(line: str) -> tuple[str, list[str]]:
    """(separator, cells) of one line; quotes are removed."""
    line = line.rstrip("\r\n")
    counted = {one: line.count(one) for one in SEPARATORS}
    blank = counted.pop(" ")
    separator = max(counted, key=lambda one: counted[one]) if any(counted.values()) or not blank else " "
    return separator, next(csv.reader([line], delimiter=separator), [])


def positions(names: "pd.Index") -> np.ndarray:
    """Array column and row that names state: (n, 2), NaN where a name is no position."""
    found = [POSITION.fullmatch(str(name)) for name in names]
    return np.array([[float(one[1]), float(one[2])] if one else [np.nan, np.nan] for one in found]).reshape(-1, 2)


def spot_name(x: str, y: str) -> str:
    """`XxY` of two numbers as they are written; 10.0 is 10."""
    return "x".join(f"{float(one):.0f}" if float(one).is_integer() else one for one in (x, y))


def read_counts(path: Path) -> Counts:
    """Raw counts, X CSR float32: rows are spots named `XxY` or `X_Y`; or genes, where the columns are such names.

    var_names: unique gene names, without the version of an Ensembl id and the prefix of a genome; gene_ids: Ensembl ids
    without version, if most names are or hold one.
    Raises LayerError for a broken table, names that are no positions, a spot twice, or a value that is no count.
    """
    import anndata
    import pandas as pd
    from scipy import sparse
    with reading_table(path, "rows of counts, tab-separated"), opened(path) as stream:
        columns, table = _read(stream)
        values = table.to_numpy(np.float32)  # (n_rows, n_columns)
    if not values.size or values.shape[1] != len(columns):
        raise LayerError(path, f"{len(columns)} names in the first line, rows of {values.shape[1]} values",
                         "a value for every name, tab-separated", "copy it again")
    spots, genes, turned = _spots_and_genes(table.index.astype(str), pd.Index(columns, dtype=str), path)
    matrix = sparse.csr_matrix(values.T if turned else values)  # (n_spots, n_genes)
    _check_counts(matrix.data, path)
    xy = positions(spots)
    named = [POSITION.fullmatch(name) for name in spots]
    barcodes = pd.Index([spot_name(one[1], one[2]) if one else name for one, name in zip(named, spots, strict=True)])
    if barcodes.has_duplicates:
        raise LayerError(path, f"spot {barcodes[barcodes.duplicated()][0]} twice", "one row a spot", "remove one")
    kept, var, notes = _var_of(genes, path)
    if turned:
        notes.insert(0, f"genes were the rows of {path.name}: turned")
    table = anndata.AnnData(matrix[:, kept], obs=pd.DataFrame(index=barcodes), var=var)
    return Counts(table, xy, ", ".join(notes))


def _var_of(genes: "pd.Index", path: Path) -> tuple[np.ndarray, "pd.DataFrame", list[str]]:
    """(which genes are kept (n_genes,) bool, their var, notes), named as those of AnnData files (gene_names.py).

    Raises LayerError for names that are numbers.
    """
    import pandas as pd
    if genes.str.fullmatch(NUMBER).mean() > 0.5:
        raise LayerError(path, f"genes named by numbers ({', '.join(genes[:3])}, …)", "gene symbols or Ensembl ids",
                         "write the names of the genes in the first line (or column)")
    names, ids = genes_of(genes)
    found = gene_names(pd.DataFrame({} if ids is None else {OF_VAR: ids}, index=names), path, "the table", lambda: None)
    var = pd.DataFrame(index=found.names)
    if ids is not None:
        var[OF_VAR] = found.ids if found.ids is not None else np.array(ids, dtype=object)[found.kept]
    return found.kept, var, found.notes


def genes_of(genes: "pd.Index") -> tuple[list[str], list[str] | None]:
    """(names, Ensembl ids without version): 'TP53 ENSG00000141510.11' is split; ids as names stay the names.

    None instead of ids if at most half of the genes have one; '' for a gene without.
    """
    names, ids = [], []
    for gene in genes:
        alone, pair = ENSEMBL.fullmatch(gene), NAME_AND_ID.fullmatch(gene) or ID_AND_NAME.fullmatch(gene)
        names.append(pair["name"] if pair and not alone else gene)
        found = alone or pair
        ids.append(found["id"] if found else "")
    return (names, ids) if 2 * sum(map(bool, ids)) > len(ids) else (list(genes), None)


def _read(stream: TextIO) -> tuple[list[str], "pd.DataFrame"]:
    """(names of the columns, values with the first column as names)."""
    import pandas as pd
    separator, first = cells(stream.readline())
    table = pd.read_csv(stream, sep=separator, header=None, index_col=0, dtype={0: str}, keep_default_na=False,
                        na_values=[""])
    while len(first) > 1 and first[-1] == "":  # a separator at the end of the lines
        first.pop()
    while table.shape[1] >= len(first) and table.shape[1] and table.iloc[:, -1].isna().all():
        table = table.iloc[:, :-1]
    is_shifted = len(first) == table.shape[1]  # R writes no cell above the row names
    return first if is_shifted else first[1:], table


def _spots_and_genes(rows: "pd.Index", columns: "pd.Index", path: Path) -> tuple["pd.Index", "pd.Index", bool]:
    """(spot names, gene names, whether the rows were genes): most spot names are positions."""
    def share(names: "pd.Index") -> float:
        return float(np.isfinite(positions(names)[:, 0]).mean())
    if share(rows) > 0.5:
        return rows, columns, False
    if share(columns) > 0.5:
        return columns, rows, True
    fix = "name the rows by the array position"
    if VISIUM_BARCODE.fullmatch(rows[0]) or VISIUM_BARCODE.fullmatch(columns[0]):
        fix = "barcodes of Visium: use --format visium, or --format h5ad"
    raise LayerError(path, f"rows such as {rows[0]!r}, columns such as {columns[0]!r}",
                     "spots named XxY or X_Y (array column and row) in the rows or in the columns", fix)


def _check_counts(stored: np.ndarray, path: Path) -> None:
    """Raises LayerError for a value that is negative, not finite or not whole."""
    wrong = stored[~(np.isfinite(stored) & (stored >= 0) & (stored == np.floor(stored)))]
    if len(wrong):
        raise LayerError(path, f"{len(wrong)} values that are no counts, such as {wrong[0]:g}",
                         "whole numbers >= 0 (raw counts)", "take the raw table, not a normalised one"
                         if np.isfinite(wrong).all() else "copy it again")
