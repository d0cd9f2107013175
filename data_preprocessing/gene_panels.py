"""Which genes a raw table has, read without its counts: enough to see that two sections are not of one block."""
import gzip
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from common.names import visible
from data_preprocessing.readers.anndata_file import read_frame

ENSEMBL = re.compile(r"ENS([A-Z]{3})?G\d+")
OF_CODE = {"": "human", "MUS": "mouse", "RNO": "rat", "DAR": "zebrafish", "SSC": "pig", "MMU": "macaque",
           "GAL": "chicken", "BTA": "cow"}
ASSEMBLY = re.compile(r"^(GRCh\d+|hg\d+|GRCm\d+|mm\d+|mRatBN[\d.]+|Rnor[\d.]+)(?:-\w+)?_+", re.IGNORECASE)
OF_ASSEMBLY = {"grch": "human", "hg": "human", "grcm": "mouse", "mm": "mouse", "mratbn": "rat", "rnor": "rat"}
FEATURE_TABLE = re.compile(r"(features|genes)\.tsv(\.gz)?$")
VARS = ("var", "raw/var", "raw.var")  # of an AnnData file
FEWEST = 10              # genes of which a share is formed


@dataclass(frozen=True)
class Genes:
    """The genes of a section. species: all that the names allow; empty if they state none."""
    symbols: frozenset[str]
    ids: frozenset[str]
    species: frozenset[str]

    def overlap(self, other: "Genes") -> float | None:
        """The share of the smaller panel that both have; None if they are named in two ways, or too few."""
        shares = []
        for one, two in ((self.symbols, other.symbols), (self.ids, other.ids)):
            fewer = min(len(one), len(two))
            if fewer >= FEWEST:
                shares.append(len(one & two) / fewer)
        return max(shares, default=None)


def read_genes(files: dict[str, Path]) -> Genes | None:
    """The genes of a section by the files that its reader names; None if they cannot be read."""
    try:
        return genes_of(_names(files))
    except Exception:  # each library raises its own; the section's conversion reports a broken file
        return None


def genes_of(names: Iterable[str]) -> Genes | None:
    """Symbols, Ensembl ids without version, and species of the names of a table; None without any name."""
    symbols, ids, stated = set(), set(), Counter()
    for name in names:
        assembly = ASSEMBLY.match(name)
        bare = name[assembly.end():] if assembly else name
        ensembl = ENSEMBL.match(bare)
        (ids if ensembl else symbols).add(ensembl[0] if ensembl else bare)
        if assembly:
            stated[OF_ASSEMBLY[re.sub(r"[\d.]+", "", assembly[1]).lower()]] += 1
        elif ensembl and (ensembl[1] or "") in OF_CODE:
            stated[OF_CODE[ensembl[1] or ""]] += 1
    if not symbols and not ids:
        return None
    species = frozenset(one for one, number in stated.items() if number > 0.1 * stated.total())
    return Genes(frozenset(symbols), frozenset(ids), species or _species_by_case(symbols))


def _species_by_case(symbols: set[str]) -> frozenset[str]:
    """Human symbols are capitals (ACTB), those of mouse and rat have one (Actb)."""
    if len(symbols) < FEWEST:
        return frozenset()
    if sum(name == name.upper() for name in symbols) > 0.8 * len(symbols):
        return frozenset({"human", "pig", "macaque", "cow", "chicken"})
    if sum(name[:1].isupper() and name[1:] == name[1:].lower() for name in symbols) > 0.6 * len(symbols):
        return frozenset({"mouse", "rat"})
    return frozenset()


def _names(files: dict[str, Path]) -> list[str]:
    """Symbols and ids of the features table, the HDF5 file or the first line of a text table."""
    tables = [path for path in files.values() if FEATURE_TABLE.search(path.name)]
    counts = files.get("counts")
    if counts is not None and counts.is_dir():
        tables += [path for path in visible(counts) if FEATURE_TABLE.search(path.name)]
    names: list[str] = []
    if tables:
        with _opened(tables[0]) as stream:
            for line in stream:
                names += line.rstrip("\r\n").split("\t")[:2]
    elif counts is not None and counts.name.lower().endswith((".h5ad", ".h5")):
        names = _names_of_hdf5(counts)
    elif counts is not None and counts.is_file():
        with _opened(counts) as stream:
            names = stream.readline().rstrip("\r\n").split("\t")[1:]
    return names


def _opened(path: Path):
    return gzip.open(path, "rt") if path.suffix.lower() == ".gz" else open(path)


def _names_of_hdf5(path: Path) -> list[str]:
    """Of an AnnData file those of var and of raw: var may have selected genes alone."""
    import h5py
    names: list[str] = []
    with h5py.File(path, "r") as file:
        if "var" in file:
            for key in VARS:
                table = read_frame(file, key, ("gene_ids",)) if key in file else pd.DataFrame()
                names += [str(value) for column in (table.index, table.get("gene_ids", ())) for value in column]
            return names
        group = file["matrix/features"] if "matrix" in file else file[next(iter(file))]
        for key in ("id", "name", "genes", "gene_names"):
            names += list(group[key].asstr()[:]) if key in group else []
    return names
