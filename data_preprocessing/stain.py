"""Stain features: statistics of haematoxylin and eosin around a spot, at several widths.

An H&E pixel's optical density is a mix of the stains' colours (Beer-Lambert); the inverse of the colour matrix of
Ruifrok & Johnston (Anal Quant Cytol Histol 2001) gives the amount of each:

    (haematoxylin, eosin, residual) = -log10((pixel + 1) / 256) · inverse(colours)

The residual is perpendicular to both. A window's statistics: mean, sd, 10 / 50 / 90 % points of each amount, two
textures of the haematoxylin (nuclei are its grain), and the share of white. They are raw: the model standardises them
per slide.
"""
import cv2
import numpy as np

from common.slide import Slide
from data_preprocessing.patches import spot_corners

MODEL = "Ruifrok & Johnston 2001"
PREPROCESSING = "8 bit to optical density, windows wider than 224 px averaged down to it"
WIDTHS = (112, 224, 512, 1024)  # side of the windows, reference px
MAX_READ_PX = 224               # a wider window is averaged down to this side before its statistics
# optical density of red, green, blue (Ruifrok & Johnston 2001)
HAEMATOXYLIN, EOSIN = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11)
POINTS = (0.1, 0.5, 0.9)
WHITE_DENSITY = 0.1             # a pixel below it in every channel is white
STATISTICS = (
    "haematoxylin_mean", "haematoxylin_sd", "haematoxylin_p10", "haematoxylin_p50", "haematoxylin_p90",
    "eosin_mean", "eosin_sd", "eosin_p10", "eosin_p50", "eosin_p90",
    "residual_mean", "residual_sd", "residual_p10", "residual_p50", "residual_p90",
    "nuclear_gradient", "nuclear_grain", "white")


def colours() -> np.ndarray:
    """Unit colours of haematoxylin, eosin and residual, one a row: (3, 3)."""
    h, e = (np.array(colour) / np.linalg.norm(colour) for colour in (HAEMATOXYLIN, EOSIN))
    residual = np.cross(h, e)
    return np.stack([h, e, residual / np.linalg.norm(residual)])


DENSITY = (-np.log10((np.arange(256) + 1) / 256)).astype(np.float32)  # optical density of each 8-bit value
UNMIX = np.linalg.inv(colours()).astype(np.float32)


def amounts(density: np.ndarray) -> np.ndarray:
    """Haematoxylin, eosin and residual of pixels: optical density (n, 3) -> (3 stains, n) float32."""
    return UNMIX.T @ density.T


def gradient(nuclei: np.ndarray) -> np.ndarray:
    """Length of the gradient per px: (h, w) float32. The last bit of cv2.magnitude would depend on memory alignment."""
    across, down = (cv2.Sobel(nuclei, cv2.CV_32F, dx, 1 - dx, scale=1 / 8) for dx in (1, 0))
    return np.sqrt(across * across + down * down)


def statistics(image: np.ndarray) -> np.ndarray:
    """The STATISTICS of one window: (h, w, 3) uint8 -> (18,) float32."""
    density = DENSITY[image].reshape(-1, 3)  # (h w, 3)
    stains = amounts(density)  # (3 stains, h w)
    rank = np.rint(np.array(POINTS) * (len(density) - 1)).astype(int)
    points = np.partition(stains, rank, axis=1)[:, rank]  # (3 stains, 3 points)
    nuclei = stains[0].reshape(image.shape[:2])
    per_stain = np.column_stack([stains.mean(axis=1), stains.std(axis=1), points])  # (3 stains, 5)
    white = (density.max(axis=1) < WHITE_DENSITY).mean()
    texture = [gradient(nuclei).mean(), cv2.Laplacian(nuclei, cv2.CV_32F).std()]
    return np.concatenate([per_stain.ravel(), [*texture, white]]).astype(np.float32)


def stain_features(slide: Slide, centre: np.ndarray, window_px: dict[int, int]) -> np.ndarray:
    """Statistics at every width around each centre: (n, 2) level-0 px -> (n, 4 · 18) float32, widths ascending.

    window_px: level-0 px of each of WIDTHS. Beyond the slide is white. One window is in memory at a time.
    """
    features = np.empty((len(centre), len(WIDTHS), len(STATISTICS)), np.float32)
    for k, width in enumerate(WIDTHS):
        window, out = window_px[width], min(window_px[width], MAX_READ_PX)
        for row, (x, y) in enumerate(spot_corners(centre, window).tolist()):
            features[row, k] = statistics(slide.read(x, y, window, window, out_px=(out, out)))
    return features.reshape(len(centre), -1)
