"""What `real_stacks.py --part hidden` and `--part confidence` need: a root whose measured layers are only images, a prediction brought
from the lattice to the measured positions, the counting noise of a spot, and the error by confidence."""
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import cKDTree

from common.config import load_config, save_config
from common.errors import DataError
from common.layout import Layout, background_beside
from common.normalisation import depth_of

MADE_HERE = ".made_by_the_benchmark_hidden"  # the folder is deleted when it is made again
QUARTERS = ("most confident quarter", "least confident quarter")


def hide_layers(root: Path, hidden: Path, sample: str, known: int, grid_pitch_um: float | None) -> None:
    """Make `hidden` anew: the images of a finished root, spots and counts of the known layer alone, its gene list.

    Raises DataError if there is a folder of that name that this benchmark did not make.
    """
    there, new, mark = Layout(root), Layout(hidden), hidden / MADE_HERE
    if hidden.exists() and not mark.is_file():
        raise DataError(hidden, "a folder that this benchmark did not make", "a free name, or its own folder of before",
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
    save_config(config.model_copy(update={"samples": samples, "genes": str(genes), "grid_pitch_um": grid_pitch_um}), new.config)


def brought_to(xy: np.ndarray, grid_xy: np.ndarray, values: np.ndarray) -> dict[str, np.ndarray]:
    """Values of a lattice (n_grid, G) at other places (n, 2) of the same picture: {'linear', 'nearest': (n, G)}.

    Linear in the triangle of lattice points around a place; outside all triangles the nearest point.
    """
    nearest = values[cKDTree(grid_xy).query(xy)[1]]
    linear = LinearNDInterpolator(grid_xy, values)(xy)
    return {"linear": np.where(np.isnan(linear), nearest, linear), "nearest": nearest}


def counting_variance(predicted: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Variance of y_g = ln((c_g + 1) / S), S = sum_h (c_h + 1), that counting alone gives, were the prediction true: (n, G).

    predicted: (n, G) normalised; depth: (n,), S of the measured spot. Counts are Poisson, independent, of mean
    m_g = (S - G) exp(y_g) / sum_h exp(y_h); by the delta method the variance is m_g / (m_g + 1)^2 - 2 m_g / ((m_g + 1) S) + sum_h m_h / S^2.
    """
    share = np.exp(predicted.astype(np.float64))
    depth = depth[:, None]  # (n, 1)
    mean = (depth - predicted.shape[1]) * share / share.sum(axis=1, keepdims=True)  # (n, G)
    return mean / (mean + 1) ** 2 - 2 * mean / ((mean + 1) * depth) + mean.sum(axis=1, keepdims=True) / depth ** 2


def spot_errors(adata) -> pd.DataFrame:
    """Of a predicted layer, by spot: confidence; mse and noise (squared error, and what counting alone gives), means over the genes."""
    measured = adata.layers["measured"]
    return pd.DataFrame({"confidence": adata.obs["confidence"], "mse": ((adata.X - measured) ** 2).mean(axis=1),
                         "noise": counting_variance(adata.X, depth_of(measured)).mean(axis=1)})


def by_confidence(spots: pd.DataFrame) -> list[dict]:
    """The most and the least confident quarter of the spots, and by how much the standardised error of the first is lower.

    `mse_per_noise`, the standardised error, is the squared error of the quarter over the squared error that counting alone gives: a ratio of
    sums, as a spot almost without counts has no noise to divide by.
    """
    order, n = spots.sort_values("confidence", ascending=False, kind="stable"), len(spots) // 4
    rows = [{"quarter": name, "n_spots": n, **part[["mse", "noise"]].mean(), "mse_per_noise": part["mse"].sum() / part["noise"].sum()}
            for name, part in zip(QUARTERS, (order[:n], order[-n:]))]
    rows[0]["lower_percent"] = 100 * (1 - rows[0]["mse_per_noise"] / rows[1]["mse_per_noise"])
    return rows
