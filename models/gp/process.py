"""Fit the process to known spots, and predict: exact posterior (Rasmussen & Williams 2006, algorithm 2.1)."""
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from common.errors import DataError
from common.threads import one_thread
from models.gp.choice import Hidings, choose_kernel
from models.gp.kernel import Kernel, at_zero, covariance, squared_distances
from models.gp.labels import centred, leading_directions, spot_weights

MIN_SPOTS = 10
BLOCK = 2048


@dataclass(frozen=True)
class GaussianProcess:
    """A fitted process: m known spots, r components, G genes."""
    kernel: Kernel
    views: dict[str, np.ndarray]   # of the known spots
    mean: np.ndarray               # (G,)
    basis: np.ndarray              # (r, G), orthonormal rows
    cholesky: np.ndarray           # (m, m), lower: of K + noise
    shrinkage: np.ndarray          # (r,) on every predicted score
    coefficient: np.ndarray        # (m, r), shrinkage included
    amplitude: np.ndarray          # (r,) signal variance of a component per unit of the kernel
    noise: np.ndarray              # (G,) variance not explained by the process: rank, counting, the section's offset


def calibration(hidings: Hidings, kernel: Kernel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """From the hidden spots: shrinkage (r,), amplitude (r,), noise (G,).

    Shrinkage is the slope of the true on the predicted scores, at most 1: it removes the noise of a component.
    """
    parts = []
    for draw, rows, mean, variance in hidings.predictions(kernel):
        residual = hidings.label[rows] - draw.mean  # (n_hidden, G)
        parts.append((residual, mean, variance, hidings.noise_factor[rows], draw.basis[:kernel.rank]))
    truth = [residual @ basis.T for residual, _, _, _, basis in parts]  # (n_hidden, r) each
    power = sum((mean ** 2).sum(axis=0) for _, mean, *_ in parts)  # (r,): 0 where the known spots do not differ
    product = sum((true * mean).sum(axis=0) for true, (_, mean, *_) in zip(truth, parts, strict=True))  # (r,)
    shrinkage = np.clip(np.divide(product, power, out=np.zeros_like(power), where=power > 0), 0, 1)
    errors = [(true - shrinkage * mean) ** 2 for true, (_, mean, *_) in zip(truth, parts, strict=True)]
    spread = np.concatenate([variance + kernel.noise * factor for _, _, variance, factor, _ in parts])  # (N,)
    amplitude = np.concatenate(errors).mean(axis=0) / spread.mean()
    rest = np.concatenate([residual - shrinkage * mean @ basis for residual, mean, _, _, basis in parts])  # (N, G)
    explained = np.concatenate(
        [variance[:, None] * (amplitude @ basis ** 2) for _, _, variance, _, basis in parts])  # (N, G)
    square = (rest ** 2).mean(axis=0)
    return shrinkage, amplitude, np.maximum(square - explained.mean(axis=0), 0.1 * square)


def offset_variance(label: np.ndarray, views: dict[str, np.ndarray], layer: np.ndarray, kernel: Kernel,
                    shrinkage: np.ndarray) -> float:
    """Mean squared error over the genes of a section's predicted mean: known layers from each other, or halves of one.

    A section has an offset of its own in every gene. Hidden discs do not show it, and intervals without it are too
    narrow on target layers. label: (m, G); views: (m, ·) each; layer: (m,); shrinkage: (r,).
    """
    noise, offsets = kernel.noise / spot_weights(label), []
    for hidden in layers_or_halves(views["position"], layer):
        residual, mean = centred(label, layer, ~hidden)
        basis = leading_directions(residual[~hidden], spot_weights(label[~hidden]), len(shrinkage))
        context = {name: view[~hidden] for name, view in views.items()}
        target = {name: view[hidden] for name, view in views.items()}
        matrix = covariance(kernel, squared_distances(context, context)) + np.diag(noise[~hidden])
        solved = linalg.solve(matrix, residual[~hidden] @ basis.T, assume_a="pos")  # (n_context, r)
        weight = solved * shrinkage[:len(basis)]
        average = covariance(kernel, squared_distances(target, context)).mean(axis=0)  # (n_context,)
        measured = label[hidden].mean(axis=0, dtype=np.float64)  # (G,)
        offsets.append(((mean + average @ weight @ basis - measured) ** 2).mean())
    return float(np.mean(offsets)) if offsets else 0.0


def layers_or_halves(position: np.ndarray, layer: np.ndarray) -> list[np.ndarray]:
    """Each of several layers, or the four halves of a single one: (m,) bool each, neither empty nor all spots."""
    layers = np.unique(layer)
    if len(layers) > 1:
        parts = [layer == one for one in layers]
    else:
        parts = []
        for k in (0, 1):
            side = position[:, k] > np.median(position[:, k])
            parts += [side, ~side]
    return [part for part in parts if part.any() and not part.all()]  # spots in one place have no halves


@one_thread()
def fit(label: np.ndarray, views: dict[str, np.ndarray], layer: np.ndarray | None = None, kernel: Kernel | None = None,
        seed: int = 0) -> GaussianProcess:
    """Fit to known spots.

    label: (m, G) normalised expression; views: {"position": (m, 2) pitches, "image": (m, d), ...}; layer: (m,);
    kernel: a fixed one; by default it is chosen. All spots are used: memory and time grow with m² and m³
    (models/known_spots.py bounds m). Raises DataError for fewer than MIN_SPOTS, too few for choice and calibration.
    """
    if len(label) < MIN_SPOTS:
        raise DataError("Gaussian process", f"{len(label)} known spots", f"at least {MIN_SPOTS}",
                        "give sections with more measured spots")
    layer = np.zeros(len(label), np.int64) if layer is None else layer
    hidings = Hidings(label, views, layer, seed)
    kernel = choose_kernel(hidings, Kernel()) if kernel is None else kernel
    shrinkage, amplitude, noise = calibration(hidings, kernel)
    offset = offset_variance(label, views, layer, kernel, shrinkage)
    noise = noise * (1 + offset / max(noise.mean(), 1e-12))
    residual, mean = centred(label, layer, np.ones(len(label), bool))
    basis = leading_directions(residual, spot_weights(label), len(shrinkage))
    score, spot_noise = residual @ basis.T, kernel.noise * hidings.noise_factor
    matrix = covariance(kernel, squared_distances(views, views)) + np.diag(spot_noise)  # (m, m)
    cholesky = linalg.cholesky(matrix, lower=True, overwrite_a=True)
    coefficient = linalg.cho_solve((cholesky, True), score) * shrinkage
    return GaussianProcess(kernel, views, mean, basis, cholesky, shrinkage, coefficient, amplitude, noise)


@one_thread()
def predict(process: GaussianProcess, views: dict[str, np.ndarray],
            with_variance: bool = True) -> dict[str, np.ndarray]:
    """Prediction at n spots, in blocks.

    score (n, r), expression (n, G); with_variance: variance (n,) in the kernel's unit, sd (n, G) of a measured value.
    """
    n = len(views["position"])
    score, variance = np.empty((n, len(process.basis))), np.empty(n)
    for start in range(0, n, BLOCK):
        rows = slice(start, start + BLOCK)
        block = {name: view[rows] for name, view in views.items()}
        cross = covariance(process.kernel, squared_distances(block, process.views))  # (block, m)
        score[rows] = cross @ process.coefficient
        if with_variance:
            half = linalg.solve_triangular(process.cholesky, cross.T, lower=True, overwrite_b=True)  # (m, block)
            variance[rows] = at_zero(process.kernel, views) - (half ** 2).sum(axis=0)
    prediction = {"score": score, "expression": (process.mean + score @ process.basis).astype(np.float32)}
    if with_variance:
        variance = np.maximum(variance, 0)
        prediction["variance"] = variance
        sd = np.sqrt(variance[:, None] * (process.amplitude @ process.basis ** 2) + process.noise)  # (n, G)
        prediction["sd"] = sd.astype(np.float32)
    return prediction
