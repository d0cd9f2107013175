"""Names of the genes of one section: symbols where the table has them, and the stable ids beside them.

    ENSG00000000003_TSPAN6     parted, in either order
    names that are numbers     the column of symbols, else refused: number k is another gene in each section
    Ensembl ids as names       the column of symbols; the ids go to var['gene_ids']
    GRCh38_, mm10___, …        a prefix that (nearly) all genes share is removed; two species keep theirs
    ENSG00000000003.15         the version is removed from names and ids
    no name                    the gene is left out

A change is made only if the names stay unique. A symbol that two genes share is replaced by their ids where there are
ids, so that one name is one gene in every section; else its second gene gets '-1' (anndata).
"""
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from common.errors import DataError, LayerError
from data_preprocessing.readers.gene_forms import ENSEMBL, ID_AND_NAME, NAME_AND_ID

SYMBOL_COLUMNS = ("gene_name", "gene_names", "gene_symbols", "gene_symbol", "symbol", "symbols", "feature_name",
                  "feature_names", "hgnc_symbol", "mgi_symbol", "gene_short_name", "genesymbol", "features", "feature",
                  "name", "names", "gene", "genes", "_index", "index", "id")
ID_COLUMNS = ("gene_ids", "gene_id", "ensembl_id", "ensembl_ids", "ensembl", "ensembl_gene_id", "ensemblid",
              "feature_id", "feature_ids", "ensg", "id", "accession")
NUMBER = re.compile(r"\d+(\.0)?")
SPECIES = re.compile(r"((?:GRC[a-z]{1,2}\d|hg\d|mm\d|rn\d|mRatBN|Rnor|T2T|BDGP)[A-Za-z0-9.-]*?_+)(?=[^_\s])")
GENE_EXPRESSION = "Gene Expression"  # var['feature_types']
MOST = 0.9       # a share that decides what kind the names are
FEW_SHARED = 0.5  # of the genes of the smaller section
FEW_TWICE = 0.1  # symbols that may occur more than once


@dataclass(frozen=True)
class GeneNames:
    """names: unique, (n_kept,). ids: stable ids (n_kept,) or None. kept (n_genes,) bool. notes: what was changed."""
    names: pd.Index
    ids: np.ndarray | None
    kept: np.ndarray
    notes: list[str]


def gene_names(var: pd.DataFrame, path: Path, where: str, better: Callable[[], pd.Index | None]) -> GeneNames:
    """The names of the genes of `var`, whose index holds the given names.

    better: gives names of the same genes from elsewhere in the file, for names that are numbers; None if there are
    none. Raises LayerError for numbers without a column of unique names.
    """
    given = _clean(var.index)
    ids = _ids(var)
    names, notes = given, []
    if _share(NUMBER, given) > MOST:
        names, note = _instead_of_numbers(var, path, where, ids, better)
        notes.append(note)
    elif (joined := _parted(given)) is not None:
        names, ids = joined
        names = _with_ids_where_shared(names, ids)
        notes.append(f"gene names such as {given[0]} parted into symbol and gene_ids")
    elif _share(ENSEMBL, given) > MOST:
        ids = given
        symbols, column = _symbols(var)
        if symbols is not None:
            names = _with_ids_where_shared(symbols, ids)
            notes.append(f"gene names of {where}['{column}'], {where} names kept as gene_ids")
    names, removed = _without_prefix(names)
    notes += removed
    if ids is not None:
        ids = _without_version(_without_prefix(ids)[0])
    bare = _without_version(names)
    if (bare != names).any():
        notes.append("versions of Ensembl ids removed")
    kept = np.array([bool(one) for one in bare])
    unique = _unique(bare[kept], None if ids is None else ids[kept])
    return GeneNames(unique, None if ids is None else ids[kept], kept, notes)


def gene_expression(var: pd.DataFrame) -> tuple[np.ndarray, dict[str, int]]:
    """(which features are genes (n_features,) bool, {'features of type …': number of the others}).

    All are, where no type is stored or none is 'Gene Expression'.
    """
    column = next((name for name in ("feature_types", "feature_type") if name in var), None)
    kinds = _clean(var[column]) if column else np.full(len(var), GENE_EXPRESSION, dtype=object)
    if not (kinds == GENE_EXPRESSION).any():
        return np.ones(len(var), bool), {}
    others = pd.Series(kinds[kinds != GENE_EXPRESSION]).value_counts()
    return kinds == GENE_EXPRESSION, {f"features of type {kind or 'unknown'}": int(n) for kind, n in others.items()}


def naming_of(names: Sequence[str]) -> str:
    """How genes are named: 'Ensembl ids', 'numbers', 'symbols in capitals', 'capitalised symbols', 'other names'."""
    names = _clean(names)
    for kind, form in (("Ensembl ids", ENSEMBL), ("numbers", NUMBER)):
        if _share(form, names) > MOST:
            return kind
    letters = [one for one in names if sum(letter.isalpha() for letter in one) > 2]
    capitals = np.mean([one == one.upper() for one in letters]) if letters else 0.0
    capitalised = np.mean([one[1:] == one[1:].lower() and one != one.upper() for one in letters]) if letters else 0.0
    if capitals > 0.8:
        return "symbols in capitals"
    return "capitalised symbols" if capitalised > 0.6 else "other names"


def demand_one_naming(sections: dict[str, Sequence[str]]) -> None:
    """Raise DataError if sections that share few genes name them in different ways. sections: {name: gene names}."""
    kinds = {name: naming_of(genes) for name, genes in sections.items()}
    known = [kind for kind in dict.fromkeys(kinds.values()) if kind != "other names"]
    shared = set.intersection(*(set(genes) for genes in sections.values())) if sections else set()
    if len(known) < 2 or len(shared) >= FEW_SHARED * min(map(len, sections.values())):
        return
    parts = []
    for kind in known:
        of_it = [name for name in kinds if kinds[name] == kind]
        example = next(iter(sections[of_it[0]]), "")
        parts.append(f"{kind} in {', '.join(of_it[:5])}{', …' if len(of_it) > 5 else ''} ({example})")
    raise DataError("counts/", f"genes named in different ways: {'; '.join(parts)}; {len(shared)} names are shared",
                    "one naming, of one species, in all sections",
                    "name the genes of the raw files alike and run 0_1_convert_raw.py again, or skip these sections")


def _instead_of_numbers(var: pd.DataFrame, path: Path, where: str, ids: np.ndarray | None,
                        better: Callable[[], pd.Index | None]) -> tuple[np.ndarray, str]:
    """(names, a note) for names that are numbers."""
    symbols, column = _symbols(var)
    if symbols is not None:
        named = symbols if ids is None else _with_ids_where_shared(symbols, ids)
        if len(set(named)) == len(named):
            return named, f"gene names of {where}['{column}'], {where} is numbered"
    elif (other := better()) is not None and _share(NUMBER, _clean(other)) <= MOST:
        return _clean(other), f"gene names of var, {where} is numbered"
    elif ids is not None and len(set(ids)) == len(ids):
        return ids, f"gene ids as names, {where} is numbered"
    columns = ", ".join(map(str, var.columns)) or "none"
    why = f"{column} names {len(symbols) - len(set(symbols))} genes twice" if symbols is not None else "no gene names"
    raise LayerError(path, f"genes named by numbers ({', '.join(map(str, var.index[:3]))}, …) in {where}, and {why} "
                           f"in its columns ({columns})",
                     "gene symbols or Ensembl ids, each once",
                     "set adata.var_names (of raw: adata.raw.var.index) to the symbols before saving")


def _symbols(var: pd.DataFrame) -> tuple[np.ndarray | None, str]:
    """(the column of names, its name): the first usual one that holds text and few names twice; (None, '') if none."""
    lower = {str(name).lower(): name for name in var.columns}
    first = None, ""
    for column in SYMBOL_COLUMNS:
        if column not in lower:
            continue
        values = _clean(var[lower[column]])
        named = values[values != ""]
        if len(named) < MOST * len(values) or _share(NUMBER, named) > 0.1 or _share(ENSEMBL, named) > MOST:
            continue
        twice = 1 - len(set(named)) / max(1, len(named))
        if twice == 0:
            return values, str(lower[column])
        if twice < FEW_TWICE and first[0] is None:
            first = values, str(lower[column])
    return first


def _ids(var: pd.DataFrame) -> np.ndarray | None:
    """The column of Ensembl ids (n_genes,), else gene_ids as of another database; None if there are none."""
    lower = {str(name).lower(): name for name in var.columns}
    for column in ID_COLUMNS:
        if column in lower:
            values = _clean(var[lower[column]])
            if _share(ENSEMBL, _without_prefix(values)[0]) > MOST:
                return values
    values = _clean(var[lower["gene_ids"]]) if "gene_ids" in lower else _clean([])
    known = len(values) and len(set(values)) == len(values) and "" not in values and _share(NUMBER, values) < MOST
    return values if known else None


def _with_ids_where_shared(symbols: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The symbols; the id where the symbol is absent or names two genes."""
    with_id = np.array([name.endswith(f"_{one}") for name, one in zip(symbols, ids, strict=True)])  # of CELLxGENE
    shared = pd.Series(symbols).duplicated(keep=False).to_numpy() | (symbols == "") | with_id
    return np.where(shared, _without_version(ids), symbols).astype(object)


def _parted(names: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """(symbols, ids) of names that are both, such as ENSG00000000003_TSPAN6; None for other names."""
    for form in (ID_AND_NAME, NAME_AND_ID):
        found = [form.fullmatch(one) for one in names]
        if len(found) and all(found):
            return tuple(np.array([one[part] for one in found], dtype=object) for part in ("name", "id"))
    return None


def _without_prefix(names: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """(names without the genome's prefix that nearly all have, a note)."""
    found = [match.group(1) if (match := SPECIES.match(one)) else "" for one in names]
    prefixes = sorted(set(found) - {""})
    if not prefixes:
        return names, []
    species = {prefix.rstrip("_") for prefix in prefixes}
    if len(species) > 1:
        return names, [f"genes of {', '.join(sorted(species))}: their prefixes are kept"]
    if np.mean([bool(one) for one in found]) <= MOST:
        return names, []
    bare = np.array([one[len(prefix):] for one, prefix in zip(names, found, strict=True)], dtype=object)
    if len(set(bare)) < len(set(names)):
        return names, [f"prefix {prefixes[0]} kept: the names would not be unique without it"]
    return bare, [f"prefix {prefixes[0]} removed from the gene names"]


def _without_version(names: np.ndarray) -> np.ndarray:
    """Ensembl ids without .<version>; unchanged if two would become one."""
    bare = []
    for one in names:
        match = ENSEMBL.fullmatch(one)
        bare.append(match.group(1) + (match.group(3) or "") if match else one)
    return np.array(bare, dtype=object) if len(set(bare)) == len(set(names)) else names


def _unique(names: np.ndarray, ids: np.ndarray | None) -> pd.Index:
    import anndata
    if ids is not None and len(set(ids)) == len(ids) and _share(ENSEMBL, names) <= MOST:
        names = _with_ids_where_shared(names, ids)
    return anndata.utils.make_index_unique(pd.Index(names, dtype=str))


def _clean(values) -> np.ndarray:
    """Text without surrounding space (n,); '' for what is missing."""
    out = []
    for one in np.asarray(values, dtype=object):
        text = "" if one is None or one is pd.NA or one != one else str(one).strip()
        out.append("" if text.lower() in ("nan", "none", "<na>") else text)
    return np.array(out, dtype=object)


def _share(form: re.Pattern, names: Sequence[str]) -> float:
    return float(np.mean([form.fullmatch(one) is not None for one in names])) if len(names) else 0.0
