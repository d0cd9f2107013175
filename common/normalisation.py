"""Normalised expression: the scale of every label and prediction.

    y_g = ln((c_g + 1) / sum_h (c_h + 1))       g: a chosen gene; h: the genes of the background

The background (background.csv) does not depend on the chosen genes: the label of a gene does not depend on the other
chosen genes. The published list is its own background, and then sum_g exp(y_g) = 1 on every row.
"""
from collections.abc import Callable

import numpy as np
import scipy  # scipy.sparse is loaded when it is first used: --help stays quick

NORMALISATION = "ln((count + 1) / sum over the background genes (count + 1))"


def normalise(counts, depth: np.ndarray | None = None) -> np.ndarray:
    """y_g = ln((c_g + 1) / depth) of each row (ST-Net, He et al. 2020): (n, n_genes) raw counts -> float32.

    depth: (n,) sum over the background (c_h + 1); default: these genes are the background.
    """
    dense = np.asarray(counts.toarray() if scipy.sparse.issparse(counts) else counts, np.float64) + 1
    total = dense.sum(axis=1) if depth is None else np.asarray(depth, np.float64)
    return np.log(dense / total[:, None]).astype(np.float32)


def thinnable(counts: np.ndarray, depth: np.ndarray, genes: list[str],
              background: list[str]) -> tuple[np.ndarray, Callable]:
    """Counts that may be thinned, and the function that normalises them, thinned or not, to the labels of `genes`.

    counts (n, n_genes) raw, depth (n,). Where the list is not the background, a last column holds the sum of the other
    background genes.
    """
    if set(genes) == set(background):
        return counts, normalise
    listed = np.isin(genes, background)  # (n_genes,)
    rest = depth - len(background) - counts[:, listed].sum(axis=1)  # (n,)

    def of_list(both: np.ndarray) -> np.ndarray:
        return normalise(both[:, :-1], both[:, [*listed, True]].sum(axis=1) + len(background))
    return np.column_stack([counts, rest]), of_list


def depth_of(normalised: np.ndarray) -> np.ndarray:
    """The depth of normalised rows, sum of the background's (c_h + 1), from their smallest value: (n, n_genes) -> (n,).

    This is the depth if a gene of the row has no count, as nearly always among the published 250. For a short list of
    genes that are all expressed it is a lower bound. The true depth is obs['depth'] of counts_<size>.
    """
    return np.exp(-normalised.min(axis=1).astype(np.float64))


def to_log1p(normalised: np.ndarray, depth: float, n_background: int | None = None) -> np.ndarray:
    """What scanpy's normalize_total(target_sum=10,000) and log1p give, for spots of this depth: (n, n_genes) float32.

    depth: sum_h (c_h + 1). The 10,000 are the counts of the background. n_background: its number of genes; None: these
    genes are the background.
    """
    share = np.exp(normalised.astype(np.float64))
    if n_background is not None:
        return np.log1p(1e4 * np.maximum(share * depth - 1, 0) / max(depth - n_background, 1)).astype(np.float32)
    counts = np.maximum(share / share.sum(axis=1, keepdims=True) * depth - 1, 0)
    return np.log1p(1e4 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-12)).astype(np.float32)


def n_background(genes: list[str], background: list[str]) -> int | None:
    """The number of background genes; None if the list is its own background."""
    return None if set(genes) == set(background) else len(background)
