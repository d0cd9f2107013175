"""Metrics (README, 'How a number comes about'): each number is defined here and nowhere else.

Every metric is computed per layer, then pooled over the layers:

    MSE, MAE   over all scored spots and genes
    PCC_spot   per spot across genes, mean over spots (the paper's PCC; the mean profile of one layer scores 0.7)
    PCC_gene   per gene across the spots of one layer, mean over genes, then over layers; a constant prediction scores 0
    SCC_gene   the same with Spearman's rank correlation
    ceiling    the PCC that a perfect prediction of the underlying expression would reach against counts this noisy
"""
from collections.abc import Callable

import numpy as np
from scipy.stats import rankdata

EPSILON = 1e-12
CEILING_SPLITS = 5
NAMES = ("mse", "mae", "pcc_spot", "pcc_gene", "scc_gene")


def pearson(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
    """Pearson correlation along an axis; 0 where either side is constant."""
    a = a - a.mean(axis=axis, keepdims=True, dtype=np.float64)
    b = b - b.mean(axis=axis, keepdims=True, dtype=np.float64)
    covariance = (a * b).sum(axis=axis)
    scale = np.sqrt((a * a).sum(axis=axis) * (b * b).sum(axis=axis))
    # float32 predictions that are constant up to rounding are constant
    constant = (np.sqrt((a * a).mean(axis=axis)) < 1e-6) | (np.sqrt((b * b).mean(axis=axis)) < 1e-6)
    return np.where(constant, 0.0, covariance / np.maximum(scale, EPSILON))


def layer_metrics(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """All metrics of one layer. predicted, measured: (n_spots, n_genes), normalised expression."""
    difference = predicted.astype(np.float64) - measured
    ranks = rankdata(np.round(predicted, 6), axis=0), rankdata(measured, axis=0)  # (n_spots, n_genes) each
    return {"mse": float(np.mean(difference ** 2)),
            "mae": float(np.mean(np.abs(difference))),
            "pcc_spot": float(pearson(predicted, measured, axis=1).mean()),
            "pcc_gene": float(pearson(predicted, measured, axis=0).mean()),
            "scc_gene": float(pearson(*ranks, axis=0).mean())}


def pooled_metrics(layers: dict[str, dict[str, float]], n_spots: dict[str, int]) -> dict[str, float]:
    """Metrics over all scored spots: spot-wise ones weighted by spots, gene-wise ones averaged over layers."""
    names = sorted(layers)
    weights = np.array([n_spots[name] for name in names], np.float64)
    pooled = {}
    for metric in layers[names[0]]:
        values = np.array([layers[name][metric] for name in names])
        pooled[metric] = float(values.mean() if metric.endswith("_gene") else np.average(values, weights=weights))
    return pooled


def noise_ceiling(counts: np.ndarray, normalise: Callable[[np.ndarray], np.ndarray], seed: int = 0) -> dict[str, float]:
    """PCC_spot and PCC_gene that the true expression would reach against these counts.

    counts: (n_spots, n_genes) raw; normalise: raw counts to the scale of the labels.
    Binomial thinning into two halves, both normalised; r = their correlation (mean over spots or genes);
    Spearman-Brown 2r / (1 + r) is the reliability of the whole, its square root the ceiling; mean over 5 splits.
    """
    generator = np.random.default_rng(seed)
    counts = np.rint(counts).astype(np.int64)
    ceilings = {"pcc_spot": [], "pcc_gene": []}
    for _ in range(CEILING_SPLITS):
        half = generator.binomial(counts, 0.5)
        one, other = normalise(half), normalise(counts - half)
        for name, axis in (("pcc_spot", 1), ("pcc_gene", 0)):
            r = max(0.0, float(pearson(one, other, axis=axis).mean()))
            ceilings[name].append(np.sqrt(2 * r / (1 + r)))
    return {name: float(np.mean(values)) for name, values in ceilings.items()}
