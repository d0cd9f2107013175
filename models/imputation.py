"""Cross-layer imputation, CLI (Zhu et al., CVPR 2025): what the shown labels say about every other spot.

Published: labels travel over the 3D graph in 20 rounds of averaging. Here they travel in one exact step, by the posterior mean of a Gaussian
process whose kernel says which spots count as near and as alike (models/gp/); a round of averaging has no such scale and no variance.

    imputed(a) = k(a, shown) · inverse(K + noise) · z(shown)

Three kernels speak side by side to the network: the whole one, position alone, looks alone; and the whole one's variance.
"""
from dataclasses import replace

import numpy as np

from common.threads import one_thread
from models import gp

PARTS = ("whole", "position", "looks")


def part_of(kernel: gp.Kernel, part: str) -> gp.Kernel:
    """The whole kernel, or the one on position alone ('position') or on looks alone, from anywhere ('looks')."""
    if part == "position":
        return replace(kernel, position=kernel.position or 0.5, image=0.0, stain=0.0, near_image=0.0, near_stain=0.0)
    if part == "looks":
        return replace(kernel, position=0.0, image=kernel.image + kernel.near_image or 0.5, stain=kernel.stain + kernel.near_stain or 0.5,
                       near_image=0.0, near_stain=0.0)
    return kernel


class Imputer:
    """Imputation from m known spots. One inverse a kernel serves any number of episodes that hide some of them."""

    @one_thread()
    def __init__(self, kernel: gp.Kernel, views: dict[str, np.ndarray], noise: np.ndarray, score: np.ndarray, shrinkage: np.ndarray):
        """views: of the known spots; noise: (m,) variance of each; score: (m, r) their labels as coefficients; shrinkage: (r,) of every answer."""
        with_looks = len(views) > 1
        self.kernels = {part: part_of(kernel, part) for part in PARTS if with_looks or part != "looks"}
        self.views, self.noise, self.score, self.shrinkage = views, noise, score, shrinkage
        self.scale = gp.at_zero(kernel, views)
        square = gp.squared_distances(views, views)
        self._precision = {part: gp.inverse(gp.covariance(one, square) + np.diag(noise)) for part, one in self.kernels.items()}  # (m, m) each
        self._weighted = {part: precision @ score for part, precision in self._precision.items()}  # (m, r) each

    @property
    def width(self) -> int:
        """Columns of an answer."""
        return len(self.kernels) * self.score.shape[1] + 1

    @one_thread()
    def hidden(self, rows: np.ndarray) -> np.ndarray:
        """Known spots (h,) from the rest of them: (h, width), the whole kernel's coefficients first, its variance (of 1) last."""
        columns, variance = [], None
        for part, precision in self._precision.items():
            conditional = gp.inverse(precision[np.ix_(rows, rows)])  # (h, h)
            columns.append((self.score[rows] - conditional @ self._weighted[part][rows]) * self.shrinkage)
            if part == "whole":
                variance = np.maximum(conditional.diagonal() - self.noise[rows], 0) / self.scale
        return np.column_stack([*columns, variance])

    @one_thread()
    def targets(self, views: dict[str, np.ndarray]) -> np.ndarray:
        """Any other spots from all known ones: (n, width)."""
        out = np.empty((len(views["position"]), self.width))
        for start in range(0, len(out), gp.BLOCK):
            square = gp.squared_distances({name: view[start:start + gp.BLOCK] for name, view in views.items()}, self.views)
            cross = {part: gp.covariance(one, square) for part, one in self.kernels.items()}  # (block, m) each
            variance = 1 - ((cross["whole"] @ self._precision["whole"]) * cross["whole"]).sum(axis=1) / self.scale
            out[start:start + gp.BLOCK] = np.column_stack([*(cross[part] @ self._weighted[part] * self.shrinkage for part in cross), np.maximum(variance, 0)])
        return out
