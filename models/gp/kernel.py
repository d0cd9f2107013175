"""The kernel: its weights and lengths, its value for every pair of spots, and the inverse of a kernel matrix.

Squared distances come per set of coordinates (`views`): position in pitches, image and stain in sd of the first
principal component.
"""
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import linalg


@dataclass(frozen=True)
class Kernel:
    """Weights, lengths, noise variance, rank of the labels.

    Lengths of position are in pitches, those of image and stain in sd of the first principal component.
    """
    position: float = 0.5
    position_length: float = 2.0
    image: float = 0.5
    image_length: float = 2.5
    stain: float = 0.5
    stain_length: float = 2.5
    near_image: float = 0.5
    near_stain: float = 0.5
    near_length: float = 10.0
    noise: float = 1.0
    rank: int = 8


def squared_distances(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Per view: (n, d), (m, d) -> (n, m)."""
    square = {}
    for name, one in a.items():
        other = b[name]
        square[name] = np.maximum((one ** 2).sum(axis=1)[:, None] + (other ** 2).sum(axis=1) - 2 * one @ other.T, 0)
    return square


def covariance(kernel: Kernel, square: dict[str, np.ndarray]) -> np.ndarray:
    """The kernel's value for every pair: (n, m).

    square: squared distances per view, (n, m) each; an absent view contributes nothing.
    """
    def e(name: str, length: float) -> np.ndarray:
        return np.exp(square[name] / (-2 * length ** 2))

    k = kernel.position * e("position", kernel.position_length)
    near = np.zeros(())
    for name in sorted(set(square) - {"position"}):
        own, with_position, length = (getattr(kernel, field) for field in (name, f"near_{name}", f"{name}_length"))
        if own or with_position:
            alike = e(name, length)
            k += own * alike
            near = near + with_position * alike
    return k + near * e("position", kernel.near_length) if near.any() else k


def at_zero(kernel: Kernel, views: Iterable[str]) -> float:
    """A spot's prior variance: the kernel's value at distance 0. views: their names."""
    features = [name for name in views if name != "position"]
    return kernel.position + sum(getattr(kernel, name) + getattr(kernel, f"near_{name}") for name in features)


def inverse(matrix: np.ndarray) -> np.ndarray:
    """Inverse of a symmetric positive definite matrix."""
    factor, info = linalg.lapack.dpotrf(matrix, lower=True, overwrite_a=False)
    inverse, bad = linalg.lapack.dpotri(factor, lower=True, overwrite_c=True)
    if info or bad:
        raise linalg.LinAlgError("a kernel matrix that is not positive definite")
    return np.tril(inverse) + np.tril(inverse, -1).T
