"""Raw counts of an AnnData file: which of its matrices holds them, and under which gene names.

Looked at are layers with a usual name, raw, X, and then every other layer. Counts are whole numbers >= 0; a value
within 1e-3 of one is rounded. Of several matrices with counts the one with most genes is taken.
"""
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from common.errors import LayerError
from data_preprocessing.readers.anndata_file import opened, read_frame, read_matrix
from data_preprocessing.readers.gene_names import gene_expression, gene_names

if TYPE_CHECKING:
    import anndata
    import h5py
    from scipy import sparse

COUNT_LAYERS = ("counts", "raw_counts", "counts_raw", "raw_count", "count", "umi", "umis", "umi_counts", "raw",
                "x_counts", "original_counts")
RAW = (("raw/X", "raw/var"), ("raw.X", "raw.var"))
OTHER_MEANING = ("spliced", "unspliced", "ambiguous", "binary", "binarized", "rank", "ranks", "mask")
NO_NUMBER = "values that are no number"
WHOLE = 1e-3          # a value this close to a whole number is one
RELATIVE = 1e-6       # the same for large ones: float32 holds 7 digits
LARGEST_LOG = 20.0    # logarithms of counts are smaller


@dataclass(frozen=True)
class Counts:
    """table: X CSR float32, obs_names, unique var_names, var['gene_ids'] where known. notes: for the step's line.

    dropped: {reason: number of columns left out}.
    """
    table: "anndata.AnnData"
    notes: list[str] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)


def raw_counts(path: Path) -> Counts:
    """The raw counts (n_obs, n_genes) of a file. Raises LayerError if it holds none, or no gene names."""
    import anndata
    with opened(path) as file:
        obs_names = pd.Index(read_frame(file, "obs", ()).index, dtype=str)
        best, best_key, best_note, reasons = None, "", "", []
        for key, var in _candidates(file):
            n_vars = len(read_frame(file, var, ()))
            if best is not None and (n_vars <= best.shape[1] or _is_other(key)):
                continue
            values = read_matrix(file, key, n_vars)
            reason, note = rounded(values, (len(obs_names), n_vars))
            if reason:
                reasons.append(f"{_shown(key)} ({reason})")
            else:
                best, best_key, best_note = values, key, note
        if best is None:
            raise no_counts(path, reasons)
        var_key = dict(_candidates(file))[best_key]
        var = read_frame(file, var_key)
        of_genes, dropped = gene_expression(var)
        best, var = best[:, of_genes], var[of_genes]
        genes = gene_names(var, path, var_key.replace("/", "."), lambda: _names_of_var(file, best, var_key))
    usual = best_key in ("X", "layers/counts", "raw/X", "raw.X")
    notes = ([] if usual else [f"counts of {_shown(best_key)}"]) + ([best_note] if best_note else []) + genes.notes
    table = anndata.AnnData(best[:, genes.kept].astype(np.float32), obs=pd.DataFrame(index=obs_names),
                            var=pd.DataFrame(index=genes.names))
    if genes.ids is not None:
        table.var["gene_ids"] = genes.ids
    return Counts(table, notes, {**dropped, "genes without a name": int((~genes.kept).sum())})


def _names_of_var(file: "h5py.File", counts: "sparse.csr_matrix", var_key: str) -> pd.Index | None:
    """The names in var for counts of raw, if var has the same genes: as many values in every column of X."""
    if var_key == "var" or "X" not in file:
        return None
    names = read_frame(file, "var", ()).index
    same = len(names) == counts.shape[1]
    return names if same and np.array_equal(read_matrix(file, "X", len(names)).getnnz(axis=0),
                                            counts.getnnz(axis=0)) else None


def _candidates(file: "h5py.File") -> list[tuple[str, str]]:
    """(key of a matrix, key of its var) in the order they are looked at."""
    layers = sorted(file["layers"]) if "layers" in file else []
    rank = {name: number for number, name in enumerate(COUNT_LAYERS)}
    usual = sorted((name for name in layers if name.lower() in rank), key=lambda name: rank[name.lower()])
    others = [name for name in layers if name not in usual and name.lower() not in OTHER_MEANING]
    keys = [(f"layers/{name}", "var") for name in usual]
    keys += [(key, var) for key, var in RAW if key in file and var in file]
    keys += [("X", "var")] if "X" in file else []
    return keys + [(f"layers/{name}", "var") for name in others]


def _is_other(key: str) -> bool:
    return key.startswith("layers/") and key.partition("/")[2].lower() not in COUNT_LAYERS


def rounded(values: "sparse.csr_matrix", shape: tuple[int, int]) -> tuple[str, str]:
    """(why these are no counts, or ''; a note on the rounding, or ''). Rounds `values` in place."""
    if values.shape != shape:
        return f"{values.shape[0]} x {values.shape[1]} values for {shape[0]} spots and {shape[1]} genes", ""
    values.sum_duplicates()
    stored = values.data
    if not np.isfinite(stored).all():
        return f"{int((~np.isfinite(stored)).sum())} {NO_NUMBER}", ""
    off = np.abs(stored - np.rint(stored))
    if (stored < -WHOLE).any():
        return f"a negative value, {stored.min():.4g}", ""
    if (off > WHOLE + RELATIVE * stored).any():
        kind = "log-normalised" if stored.max() < LARGEST_LOG else "normalised or corrected"
        return f"values such as {stored[int(off.argmax())]:.4g}: {kind}", ""
    note = f"values up to {off.max():.1g} off whole numbers rounded" if len(off) and off.max() > 0 else ""
    values.data = np.abs(np.rint(stored))
    values.eliminate_zeros()
    if values.nnz and values.data.max() == 1:
        note = ", ".join(filter(None, [note, "no count above 1: are these counts, or genes that are present?"]))
    return ("no value above 0", "") if not values.nnz else ("", note)


def _shown(key: str) -> str:
    return f"layers['{key.partition('/')[2]}']" if key.startswith("layers/") else key.replace("/", ".")


def no_counts(path: Path, reasons: list[str]) -> LayerError:
    return LayerError(path, "no raw counts: " + ("; ".join(reasons) if reasons else "no matrix at all"),
                      "raw counts in X, layers['counts'] or raw",
                      "put 0 for a gene that a section lacks: anndata.concat(…, join='inner'), or fill_value=0"
                      if any(NO_NUMBER in reason for reason in reasons) else
                      "save the counts with the table: adata.layers['counts']")
