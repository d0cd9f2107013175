"""Cross-layer imputation, CLI (Zhu et al., CVPR 2025): an estimate of every query spot from the context labels.

Published: labels travel over the 3D graph in 20 rounds of averaging. Here they travel in one exact step, the posterior
mean of a Gaussian process; its kernel defines which spots are near and similar (models/gp/). Averaging in rounds has no
such scale and no variance.

    imputed(a) = k(a, context) · inverse(K + noise) · z(context)

The network reads three kernels side by side (the whole one, position alone, image features alone) and the variance of
the whole one.
"""
from dataclasses import replace

import numpy as np

from common.threads import one_thread
from models import gp

PARTS = ("whole", "position", "image_features")


def part_of(kernel: gp.Kernel, part: str) -> gp.Kernel:
    """The whole kernel, the one on position alone ('position'), or the one on image features alone, at any distance."""
    if part == "position":
        return replace(kernel, position=kernel.position or 0.5, image=0.0, stain=0.0, near_image=0.0, near_stain=0.0)
    if part == "image_features":
        image, stain = kernel.image + kernel.near_image or 0.5, kernel.stain + kernel.near_stain or 0.5
        return replace(kernel, position=0.0, image=image, stain=stain, near_image=0.0, near_stain=0.0)
    return kernel


class Imputer:
    """Imputation from m known spots. One inverse per kernel serves any number of episodes that hide some of them."""

    @one_thread()
    def __init__(self, kernel: gp.Kernel, views: dict[str, np.ndarray], noise: np.ndarray, score: np.ndarray,
                 shrinkage: np.ndarray):
        """Invert the kernels.

        views: of the known spots; noise: (m,) variance of each; score: (m, r) their labels as coefficients;
        shrinkage: (r,) factor on every imputed coefficient.
        """
        parts = PARTS if len(views) > 1 else [part for part in PARTS if part != "image_features"]
        self.kernels = {part: part_of(kernel, part) for part in parts}
        self.views, self.noise, self.score, self.shrinkage = views, noise, score, shrinkage
        self.scale = gp.at_zero(kernel, views)
        square = gp.squared_distances(views, views)
        self._precision = {}  # (m, m) each
        for part, one in self.kernels.items():
            self._precision[part] = gp.inverse(gp.covariance(one, square) + np.diag(noise))
        self._weighted = {part: precision @ score for part, precision in self._precision.items()}  # (m, r) each

    @property
    def width(self) -> int:
        """Number of imputed columns."""
        return len(self.kernels) * self.score.shape[1] + 1

    @one_thread()
    def hidden(self, rows: np.ndarray) -> np.ndarray:
        """Known spots (h,) imputed from the other known spots: (h, width).

        The coefficients of the whole kernel come first, its variance (relative to the prior) last.
        """
        columns, variance = [], np.zeros(len(rows))
        for part, precision in self._precision.items():
            conditional = gp.inverse(precision[np.ix_(rows, rows)])  # (h, h)
            columns.append((self.score[rows] - conditional @ self._weighted[part][rows]) * self.shrinkage)
            if part == "whole":
                variance = np.maximum(conditional.diagonal() - self.noise[rows], 0) / self.scale
        return np.column_stack([*columns, variance])

    @one_thread()
    def targets(self, views: dict[str, np.ndarray]) -> np.ndarray:
        """Any other spots imputed from all known ones: (n, width)."""
        out = np.empty((len(views["position"]), self.width))
        for start in range(0, len(out), gp.BLOCK):
            block = {name: view[start:start + gp.BLOCK] for name, view in views.items()}
            square = gp.squared_distances(block, self.views)
            cross = {part: gp.covariance(one, square) for part, one in self.kernels.items()}  # (block, m) each
            explained = ((cross["whole"] @ self._precision["whole"]) * cross["whole"]).sum(axis=1)  # (block,)
            variance = 1 - explained / self.scale
            columns = [cross[part] @ self._weighted[part] * self.shrinkage for part in cross]  # (block, r) each
            out[start:start + gp.BLOCK] = np.column_stack([*columns, np.maximum(variance, 0)])
        return out
