"""Stable ids of genes (Ensembl): var['gene_ids'] of counts/, gene_id of genes.csv, var['gene_ids'] of imputed/.

Names stay the key of every table; the id goes with its name wherever the raw file states it.
"""
import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from common.io import read_table

OF_VAR = "gene_ids"   # column of var, as in scanpy
OF_TABLE = "gene_id"  # column of genes.csv; absent where no id is known
_VERSION = re.compile(r"(ENS[A-Z]*\d{6,})\.\d+")


def ids_by_name(var: pd.DataFrame) -> dict[str, str]:
    """{gene name: id} of the known ids in the var of an AnnData."""
    if OF_VAR not in var:
        return {}
    pairs = zip(var.index, var[OF_VAR].tolist(), strict=True)
    return {name: str(one) for name, one in pairs if isinstance(one, (str, int)) and str(one)}


def agreed_ids(sections: dict[str, dict[str, str]], names: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """({name: id}, {name: 'id in section, id in section' of names whose ids differ}). sections: {section: {name: id}}.

    A version of an Ensembl id (ENSG….4) is no difference: the id without it is taken where versions differ. A name of
    different ids has none.
    """
    ids, mixed = {}, {}
    for name in names:
        said = {section: found[name] for section, found in sections.items() if name in found}
        whole = set(said.values())
        bare = {_VERSION.sub(r"\1", one) if _VERSION.fullmatch(one) else one for one in whole}
        if len(bare) == 1:
            ids[name] = (whole if len(whole) == 1 else bare).pop()
        elif bare:
            first = {one: section for section, one in reversed(said.items())}  # a section for each id
            mixed[name] = ", ".join(f"{one} in {first[one]}" for one in sorted(first, key=list(said.values()).index))
    return ids, mixed


def with_ids(table: pd.DataFrame, ids: dict[str, str]) -> pd.DataFrame:
    """The table of genes with a column gene_id, if an id of them is known; unknown ones are empty."""
    known = [ids.get(gene, "") for gene in table["gene"]]
    return table.assign(**{OF_TABLE: known}) if any(known) else table


def read_ids(path: Path) -> dict[str, str]:
    """{gene: id} of the known ids of a genes.csv; {} if there is no such file or column. Raises LayerError."""
    if not path.is_file() or path.suffix != ".csv":
        return {}
    table = read_table(path, ("gene",), "5_1_find_high_expression.py", text=("gene", OF_TABLE))
    if OF_TABLE not in table:
        return {}
    known = table.dropna(subset=["gene", OF_TABLE])
    return dict(zip(known["gene"], known[OF_TABLE], strict=True))


def set_ids(adata, ids: dict[str, str]) -> None:
    """Set var['gene_ids'] of an AnnData, if an id of its genes is known; unknown ones are empty."""
    known = [ids.get(name, "") for name in adata.var_names]
    if any(known):
        adata.var[OF_VAR] = known
