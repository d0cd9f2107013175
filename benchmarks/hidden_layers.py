"""Functions of `real_stacks.py --part hidden` and `--part confidence`.

A dataset root whose target sections are image-only, interpolation of a prediction from the lattice to the measured
positions, the counting noise of a spot, and the error by confidence.
"""
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import cKDTree

from common.config import load_config, save_config
from common.errors import DataError
from common.io import read_h5ad
from common.layout import Layout, RunLayout, background_beside
from common.normalisation import depth_of
from evaluation.metrics import layer_metrics

MADE_HERE = ".made_by_the_benchmark_hidden"  # marks a folder that `hide_layers` may delete
QUARTERS = ("most confident quarter", "least confident quarter")


def hide_layers(root: Path, hidden: Path, sample: str, known: int, grid_pitch_um: float | None) -> None:
    """Write the root `hidden`: the images and the gene list of a finished root, spots and counts of its known section.

    An earlier `hidden` is replaced. Raises DataError if this benchmark did not write it.
    """
    there, new, mark = Layout(root), Layout(hidden), hidden / MADE_HERE
    if hidden.exists() and not mark.is_file():
        raise DataError(hidden, "a folder that this benchmark did not write", "a free name, or its own earlier folder",
                        "move it away")
    shutil.rmtree(hidden, ignore_errors=True)
    hidden.mkdir(parents=True)
    mark.touch()
    config = load_config(there.config)
    for layer in config.layers_of(sample):
        image = there.image(sample, layer).resolve()
        link = new.new_image(sample, layer, image.suffix)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(image)
    for path in (there.location(sample, known), there.counts(sample, known)):
        copy = hidden / path.relative_to(root)
        copy.parent.mkdir(parents=True)
        shutil.copyfile(path, copy)
    genes = hidden / "genes.csv"
    shutil.copyfile(there.genes, genes)
    shutil.copyfile(there.background, background_beside(genes))
    samples = {sample: config.samples[sample].model_copy(update={"known_layers": [known]})}
    changes = {"samples": samples, "genes": str(genes), "grid_pitch_um": grid_pitch_um}
    save_config(config.model_copy(update=changes), new.config)


def brought_to(xy: np.ndarray, grid_xy: np.ndarray, values: np.ndarray) -> dict[str, np.ndarray]:
    """Values of a lattice at other positions of the same image: {'linear', 'nearest': (n, G)}.

    Linear in the triangle of lattice points around a position; outside all triangles the nearest point.
    xy: (n, 2) and grid_xy: (n_grid, 2), px; values: (n_grid, G).
    """
    nearest = values[cKDTree(grid_xy).query(xy)[1]]
    linear = LinearNDInterpolator(grid_xy, values)(xy)
    return {"linear": np.where(np.isnan(linear), nearest, linear), "nearest": nearest}


def lattice_scores(measured: RunLayout, lattice: RunLayout, sample: str,
                   layers: tuple[int, ...]) -> tuple[dict[str, dict[str, dict]], dict[str, int], int]:
    """Scores of a lattice's predictions at the measured positions.

    Returns {'linear', 'nearest': {layer: metrics}}, {layer: spots scored}, and the number of lattice points.
    """
    scores, n_spots, n_lattice = {"linear": {}, "nearest": {}}, {}, 0
    for layer in layers:
        spots, points = (read_h5ad(run.imputed(sample, layer)) for run in (measured, lattice))
        n_spots[str(layer)] = spots.n_obs
        n_lattice += points.n_obs
        values = points[:, spots.var_names].X
        brought = brought_to(spots.obsm["spatial"], points.obsm["spatial"], values)
        for name, at_spots in brought.items():
            scores[name][str(layer)] = layer_metrics(at_spots, spots.layers["measured"])
    return scores, n_spots, n_lattice


def counting_variance(predicted: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Variance (n, G) of y_g = ln((c_g + 1) / S), S = sum_h (c_h + 1), from counting alone, if the prediction is true.

    predicted: (n, G) normalised; depth: (n,), S of the measured spot. Counts are independent Poisson of mean
    m_g = (S - G) exp(y_g) / sum_h exp(y_h). By the delta method the variance is
    m_g / (m_g + 1)^2 - 2 m_g / ((m_g + 1) S) + sum_h m_h / S^2.
    """
    share = np.exp(predicted.astype(np.float64))
    depth = depth[:, None]  # (n, 1)
    mean = (depth - predicted.shape[1]) * share / share.sum(axis=1, keepdims=True)  # (n, G)
    own = mean / (mean + 1) ** 2
    shared = 2 * mean / ((mean + 1) * depth)
    return own - shared + mean.sum(axis=1, keepdims=True) / depth ** 2


def spot_errors(adata) -> pd.DataFrame:
    """One row per spot of a predicted section: confidence; mse and noise, means over the genes.

    mse: squared error; noise: squared error from counting alone.
    """
    measured = adata.layers["measured"]
    return pd.DataFrame({
        "confidence": adata.obs["confidence"],
        "mse": ((adata.X - measured) ** 2).mean(axis=1),
        "noise": counting_variance(adata.X, depth_of(measured)).mean(axis=1)})


def by_confidence(spots: pd.DataFrame) -> list[dict]:
    """The most and the least confident quarter of the spots, and how much lower the first one's standardised error is.

    `mse_per_noise`, the standardised error, is the squared error of the quarter over its squared error from counting
    alone. It is a ratio of sums, because the noise of a spot without counts is 0.
    """
    order, n = spots.sort_values("confidence", ascending=False, kind="stable"), len(spots) // 4
    rows = []
    for name, part in zip(QUARTERS, (order[:n], order[-n:]), strict=True):
        ratio = part["mse"].sum() / part["noise"].sum()
        rows.append({"quarter": name, "n_spots": n, **part[["mse", "noise"]].mean(), "mse_per_noise": ratio})
    rows[0]["lower_percent"] = 100 * (1 - rows[0]["mse_per_noise"] / rows[1]["mse_per_noise"])
    return rows
