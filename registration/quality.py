"""How well two sections lie on each other: tissue Dice and image correlation, both 1 for a perfect fit."""
import cv2
import numpy as np

from registration.sections import View

SMOOTH_PX = 2.0  # sigma; neighbouring sections share structures, not cells


def warp_density(density: np.ndarray, matrix: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """density (h, w) float32 moved by matrix (moving -> fixed px) onto a canvas of `shape` (rows, columns); 0 outside."""
    return cv2.warpAffine(density, matrix, shape[::-1], flags=cv2.INTER_LINEAR)


def warp_mask(mask: np.ndarray, matrix: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """mask (h, w) bool moved likewise; bool."""
    return cv2.warpAffine(mask.astype(np.float32), matrix, shape[::-1], flags=cv2.INTER_LINEAR) >= 0.5


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """2 |a ∩ b| / (|a| + |b|) of two bool masks; 0 if both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 0.0


def correlation(moving: View, fixed: View, matrix: np.ndarray) -> float:
    """Pearson correlation of the smoothed stain densities over the union of both tissues, the moving one moved by `matrix` (view px)."""
    shape = fixed.mask.shape
    union = warp_mask(moving.mask, matrix, shape) | fixed.mask
    a = cv2.GaussianBlur(warp_density(moving.density, matrix, shape), (0, 0), SMOOTH_PX)[union].astype(np.float64)
    b = cv2.GaussianBlur(fixed.density, (0, 0), SMOOTH_PX)[union].astype(np.float64)
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / norm) if norm > 0 else 0.0


def judge(moving: View, fixed: View, matrix: np.ndarray) -> dict[str, float]:
    """tissue_dice and image_correlation of a transform in view px, to 6 decimals (the last bits of a sum depend on memory alignment)."""
    return {"tissue_dice": round(dice(warp_mask(moving.mask, matrix, fixed.mask.shape), fixed.mask), 6),
            "image_correlation": round(correlation(moving, fixed, matrix), 6)}
