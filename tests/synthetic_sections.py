"""Synthetic sections and transforms for the tests of registration."""
import cv2
import numpy as np

from data_preprocessing.tissue import tissue_mask
from registration import transforms as T
from registration.sections import Section

SHAPE = (620, 700)        # rows, columns of the overviews of `section`
SCALE = 4.0               # level-0 px per px of these overviews
CANVAS = (1000.0, 800.0)  # width and height of the frames of `bending`, px
MIRROR = T.affine(np.diag([-1.0, 1.0]), [SHAPE[1] - 1, 0])  # overview px
TO_OVERVIEW = T.scaling(1 / SCALE, 1 / SCALE)               # level-0 px -> overview px


# sections and affine transforms ----------------------------------------------------------------------
def section(seed: int = 0) -> np.ndarray:
    """(h, w, 3) uint8 on level-0 / SCALE: an unsymmetrical piece of textured tissue on a white slide."""
    rng = np.random.default_rng(seed)
    outline = np.array([[140, 330], [230, 170], [420, 140], [560, 260], [520, 430], [300, 480]])
    truth = cv2.fillPoly(np.zeros(SHAPE, np.uint8), [outline.astype(np.int32)], 1)
    noise = [weight * sigma * cv2.GaussianBlur(rng.normal(0, 1, SHAPE), (0, 0), sigma)
             for sigma, weight in ((1.5, 30), (5, 40), (20, 40))]
    texture = sum(noise)
    tissue = np.clip(np.array([140, 90, 160]) + texture[..., None] * [1.0, 1.0, 0.7], 20, 225)
    return np.where(truth[..., None] > 0, tissue, 240).astype(np.uint8)


def warped(rgb: np.ndarray, matrix: np.ndarray, stain: tuple = (1, 1, 1)) -> np.ndarray:
    """The picture moved by matrix (overview px), with another stain and slide shade."""
    moved = cv2.warpAffine(rgb, matrix, SHAPE[::-1], flags=cv2.INTER_LINEAR, borderValue=(240, 240, 240))
    return np.clip(245 * (moved / 245.0) ** np.array(stain) * [0.98, 0.93, 0.97], 0, 255).astype(np.uint8)


def as_section(rgb: np.ndarray) -> Section:
    return Section(rgb, tissue_mask(rgb), T.scaling(SCALE, SCALE))


def known_warp(degrees: float, scale: float, shift: tuple) -> np.ndarray:
    """Rotation and scale about the overview's centre, then a shift: overview px."""
    centre = np.array([SHAPE[1] / 2, SHAPE[0] / 2])
    linear = scale * T.rotation(degrees)[:, :2]
    return T.affine(linear, centre - linear @ centre + shift)


def error_share(found: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Largest distance over tissue points, as a share of the diagonal.

    found: moving -> fixed, truth: fixed -> moving, overview px.
    """
    points = np.argwhere(mask)[::97, ::-1]
    back = T.apply_to_points(found, T.apply_to_points(truth, points))
    return np.linalg.norm(back - points, axis=1).max() / np.hypot(*mask.shape)


def in_overview(matrix: np.ndarray) -> np.ndarray:
    """A level-0 transform in overview px of both sections."""
    return T.compose(TO_OVERVIEW, matrix, T.scaling(SCALE, SCALE))


# transforms that bend --------------------------------------------------------------------------------
def smooth_warp(seed: int, largest_px: float, spacing_px: float = 20.0, sigma_px: float = 120.0) -> T.Warp:
    """A random smooth field over the canvas, zero at the border."""
    rng = np.random.default_rng(seed)
    shape = int(CANVAS[1] / spacing_px) + 5, int(CANVAS[0] / spacing_px) + 5
    sigma = sigma_px / spacing_px
    field = np.stack([cv2.GaussianBlur(rng.normal(size=shape), (0, 0), sigma) for _ in range(2)], axis=-1)
    field *= (np.hanning(shape[0])[:, None] * np.hanning(shape[1]))[..., None] ** 0.5
    return T.Warp((field * largest_px / np.linalg.norm(field, axis=2).max()).astype(np.float32),
                  np.array([[spacing_px, 0, -2 * spacing_px], [0, spacing_px, -2 * spacing_px]]))


def tissue_points(seed: int = 0, n: int = 300) -> np.ndarray:
    return np.random.default_rng(seed).uniform([50, 50], [CANVAS[0] - 50, CANVAS[1] - 50], (n, 2))


def bending(seed: int, largest_px: float = 25.0, degrees: float = 20.0, scale: float = 1.05) -> T.Transform:
    turn = T.rotation(degrees, (CANVAS[0] / 2, CANVAS[1] / 2))
    return T.Transform(T.compose(T.affine(scale * np.eye(2), [seed, -seed]), turn), smooth_warp(seed, largest_px))


def textured(seed: int = 0, shape: tuple[int, int] = (236, 268)) -> np.ndarray:
    """(h, w, 3) uint8: a textured piece of tissue on a white slide."""
    rng = np.random.default_rng(seed)
    outline = np.array([[22, 120], [82, 30], [202, 20], [248, 110], [212, 210], [72, 216]])
    inside = cv2.fillPoly(np.zeros(shape, np.uint8), [outline], 1)
    noise = [weight * sigma * cv2.GaussianBlur(rng.normal(0, 1, shape), (0, 0), sigma)
             for sigma, weight in ((2, 30), (6, 50), (15, 50))]
    tissue = np.clip([140, 90, 160] + sum(noise)[..., None], 20, 225)
    return np.where(inside[..., None] > 0, tissue, 240).astype(np.uint8)
