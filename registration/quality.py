"""How well two sections lie on each other: tissue Dice and image correlation, both 1 for a perfect fit.

Every transform here maps px of the moving rendering to px of the fixed one: a (2, 3) matrix, or a Transform that may
bend.
"""
import cv2
import numpy as np

from registration.sections import Rendering
from registration.transforms import Transform, warp_image

SMOOTH_PX = 2.0  # sigma; neighbouring sections share structures, not cells


def warp_mask(mask: np.ndarray, transform: Transform | np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A mask (h, w) bool moved onto a canvas of `shape` (rows, columns); bool."""
    return warp_image(mask.astype(np.float32), transform, shape) >= 0.5


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """2 |a ∩ b| / (|a| + |b|) of two bool masks; 0 if both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 0.0


def containment(a: np.ndarray, b: np.ndarray) -> float:
    """|a ∩ b| / min(|a|, |b|) of two bool masks; 0 if one is empty.

    It is 1 where the smaller tissue lies within the larger, as a torn section does.
    """
    smaller = min(int(a.sum()), int(b.sum()))
    return int((a & b).sum()) / smaller if smaller else 0.0


def correlation(moving: Rendering, fixed: Rendering, transform: Transform | np.ndarray) -> float:
    """Pearson correlation of the smoothed stain densities over the union of both tissues."""
    shape = fixed.mask.shape
    mask = warp_mask(moving.mask, transform, shape)
    density = warp_image(moving.density, transform, shape)
    return _pearson(_smooth(density), _smooth(fixed.density), mask | fixed.mask)


def overlap_correlation(moving: Rendering, fixed: Rendering, transform: Transform | np.ndarray) -> float:
    """The same inside both tissues alone: the outline adds nothing, so a wrong fit scores about 0."""
    shape = fixed.mask.shape
    mask = warp_mask(moving.mask, transform, shape)
    density = warp_image(moving.density, transform, shape)
    return _pearson(_smooth_inside(density, mask), _smooth_inside(fixed.density, fixed.mask), mask & fixed.mask)


def _smooth(density: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(density, (0, 0), SMOOTH_PX)


def _smooth_inside(density: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mean over the tissue around each pixel: the empty slide does not darken the rim."""
    return _smooth(density * mask) / np.maximum(_smooth(mask.astype(np.float32)), 1e-3)


def _pearson(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    """Pearson correlation over the pixels `where` (h, w) bool; 0 if either is flat there."""
    a, b = a[where].astype(np.float64), b[where].astype(np.float64)
    if len(a) < 2:
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / norm) if norm > 0 else 0.0


def judge(moving: Rendering, fixed: Rendering, transform: Transform | np.ndarray) -> dict[str, float]:
    """tissue_dice and image_correlation of a transform in rendering px.

    Rounded to 6 decimals: the last bits of a sum depend on memory alignment.
    """
    warped = warp_mask(moving.mask, transform, fixed.mask.shape)
    return {"tissue_dice": round(dice(warped, fixed.mask), 6),
            "image_correlation": round(correlation(moving, fixed, transform), 6)}
