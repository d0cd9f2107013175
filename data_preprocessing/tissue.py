"""Where on a thumbnail is tissue? The arithmetic of step 0_2: arrays in, arrays out.

Tissue absorbs light that the empty slide lets through, whatever the slide's own shade. So every pixel is scored by its optical-density
distance from the background colour plus the local contrast of its optical density (tissue is textured, a haze of dye is not), the scores
are split by Otsu, and the mask is cleaned: gaps closed, small holes filled, hairs and dust removed.
"""
import cv2
import numpy as np

LENGTH_UNIT = 1000          # all lengths below are in thousandths of the thumbnail's longer side
SMOOTH_LENGTH = 1.5         # Gaussian sigma of the optical density
TEXTURE_LENGTH = 2.0        # Gaussian sigma of the window in which contrast is measured
CLOSE_LENGTH = 4.0          # gaps narrower than twice this are closed
OPEN_LENGTH = 2.0           # hairs narrower than twice this are removed
OTSU_SHARE = 0.6            # the threshold lies below Otsu's: pale tissue absorbs less than the mean of both classes
MIN_SCORE = 0.14            # and never below this score: the slide's own shading, a haze of dye
PALE_SCORE = 0.20           # pale tissue beside dark tissue may score so little,
PALE_LENGTH = 8.0           # where it is at least twice this wide (a printed dot is narrower)
PALE_GAP_LENGTH = 1.5       # gaps narrower than twice this do not count (between printed dots they are wider)
FLAT_CONTRAST = 0.03        # local contrast of the logarithm of grey below which a pixel may be empty slide
MIN_FLAT_SHARE = 0.01       # with fewer flat pixels, all are asked for the background colour
MAX_SCORE = 1.5             # darker is not more tissue (ink, folds)
HOLE_SHARE = 0.02           # holes below this share of the tissue are filled
SPECK_SHARE = 0.002         # pieces below this share of the largest are dropped before gaps are closed
PIECE_SHARE = 0.01          # pieces below this share of the largest are dust
MIN_TISSUE_SHARE = 0.001    # less tissue than this share of the thumbnail is none


def background_colour(rgb: np.ndarray) -> np.ndarray:
    """The most frequent colour where the smoothed image is flat: an empty slide is uniform, tissue is textured.

    rgb (h, w, 3) uint8 -> (3,) float32, 0..255.
    """
    smooth = cv2.GaussianBlur(rgb, (0, 0), _px(SMOOTH_LENGTH, rgb))
    flat = local_contrast(np.log(rgb.mean(axis=2, dtype=np.float32) + 1)) < FLAT_CONTRAST
    colours = smooth[flat] if flat.mean() > MIN_FLAT_SHARE else smooth.reshape(-1, 3)  # (n, 3)
    bins = colours.astype(np.int64) >> 2  # 64 levels a channel
    key = (bins[:, 0] << 12) | (bins[:, 1] << 6) | bins[:, 2]
    return colours[key == np.bincount(key).argmax()].mean(axis=0).astype(np.float32)


def local_contrast(density: np.ndarray) -> np.ndarray:
    """Standard deviation in a Gaussian window. density (h, w) float32 -> (h, w) float32."""
    sigma = _px(TEXTURE_LENGTH, density)
    mean = cv2.GaussianBlur(density, (0, 0), sigma)
    return np.sqrt(np.maximum(cv2.GaussianBlur(density * density, (0, 0), sigma) - mean * mean, 0))


def tissue_score(rgb: np.ndarray) -> np.ndarray:
    """Optical-density distance from the background + local contrast of the optical density.

    rgb (h, w, 3) uint8 -> (h, w) float32, about 0 on the empty slide, 0.2 to 2 on tissue.
    """
    density = -np.log((rgb.astype(np.float32) + 1) / (background_colour(rgb) + 1))
    density = np.maximum(density, 0)  # (h, w, 3); what is brighter than the slide is not tissue
    distance = np.linalg.norm(cv2.GaussianBlur(density, (0, 0), _px(SMOOTH_LENGTH, rgb)), axis=2)
    return distance + local_contrast(density.mean(axis=2))


def tissue_mask(rgb: np.ndarray) -> np.ndarray:
    """rgb (h, w, 3) uint8 -> (h, w) bool; all False if there is no tissue."""
    score = np.minimum(tissue_score(rgb), MAX_SCORE)
    levels = np.rint(score * (255 / MAX_SCORE)).astype(np.uint8)
    otsu = cv2.threshold(levels, 0, 255, cv2.THRESH_OTSU)[0] * (MAX_SCORE / 255)
    threshold = max(OTSU_SHARE * otsu, MIN_SCORE)
    mask = clean_mask((score > threshold) | pale_tissue(score))
    return mask if mask.mean() >= MIN_TISSUE_SHARE else np.zeros_like(mask)


def pale_tissue(score: np.ndarray) -> np.ndarray:
    """Broad areas that score little, but all over. (h, w) float32 -> (h, w) bool."""
    mask = cv2.morphologyEx((score > PALE_SCORE).astype(np.uint8), cv2.MORPH_CLOSE, _disc(PALE_GAP_LENGTH, score))
    return cv2.morphologyEx(mask, cv2.MORPH_OPEN, _disc(PALE_LENGTH, score)) > 0


def clean_mask(mask: np.ndarray) -> np.ndarray:
    """Close gaps, fill small holes, remove hairs and dust. (h, w) bool -> (h, w) bool."""
    mask = _large_pieces(_padded(mask), SPECK_SHARE)  # before closing: rows of dots must not grow together
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, _disc(CLOSE_LENGTH, mask))
    mask = _fill_holes(mask)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, _disc(OPEN_LENGTH, mask))
    return _large_pieces(mask, PIECE_SHARE)[_PAD:-_PAD, _PAD:-_PAD].astype(bool)


_PAD = 16  # the border is not a wall: morphology may reach over it


def _padded(mask: np.ndarray) -> np.ndarray:
    return cv2.copyMakeBorder(mask.astype(np.uint8), _PAD, _PAD, _PAD, _PAD, cv2.BORDER_CONSTANT)


def _px(length: float, image: np.ndarray) -> float:
    return length * max(image.shape[:2]) / LENGTH_UNIT


def _disc(length: float, image: np.ndarray) -> np.ndarray:
    radius = max(1, round(_px(length, image)))
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def _fill_holes(mask: np.ndarray) -> np.ndarray:
    """Fill the holes that are smaller than HOLE_SHARE of the whole tissue."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(1 - mask, connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] < HOLE_SHARE * mask.sum()
    small[0] = False  # label 0 is the tissue
    return np.where(small[labels], 1, mask).astype(np.uint8)


def _large_pieces(mask: np.ndarray, share: float) -> np.ndarray:
    """Keep the pieces of at least this share of the largest. (h, w) uint8 -> (h, w) uint8."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0  # label 0 is the background
    return (areas >= max(1, share * areas.max()))[labels].astype(np.uint8)
