"""The tissue mask of a thumbnail, for step 0_2: arrays in, arrays out.

Tissue absorbs light that the empty slide lets through, whatever the slide's own shade. So every pixel is scored by its
optical-density distance from the background colour plus the local contrast of its optical density (tissue is textured,
a haze of dye is not). Otsu's threshold splits the scores, and the mask is cleaned: gaps closed, small holes filled,
hairs and dust removed.

H&E absorbs green the most, red no more than that, and blue about half as much. What absorbs otherwise is pen, print,
dust or shadow: it does not score, and the mask under it is that of its surroundings.
"""
import cv2
import numpy as np

from common.geometry import median_spacing_px
from common.slide import fitted_size

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
MIN_FLAT_SHARE = 0.01       # with fewer flat pixels, the background colour is that of all pixels
SHADE_BLUE = 0.75           # stain absorbs at most this share of its green in blue; the rest is grey: shadow, vignette
INK_RED = 0.80              # ink absorbs more in red beyond blue than this share of its green (blue pen),
INK_BLUE = 0.85             # or more than this share in blue (black, green, red pen; dark shadow, dust, printed frame),
INK_PURE_RED = 0.15         # or less than this share in red (red pen)
INK_MARGIN = 0.03           # by this much optical density at least;
RIM_MARGIN = 0.005          # by this much
RIM_LENGTH = 4.0            # at most so far from it
UNDER_INK_LENGTH = 20.0     # the mask within this distance decides the mask under ink
HAZE_CONTRAST = 0.01        # dye on the slide has less contrast than this
HAZE_SCORE = 0.4            # and absorbs less than this
PADDING_SHARE = 0.02        # padding (pure white or black) is no background if another colour has this share of its px
MAX_SCORE = 1.5             # darker is not more tissue (ink, folds)
HOLE_SHARE = 0.02           # holes below this share of the tissue are filled
SPECK_SHARE = 0.002         # pieces below this share of the largest are dropped before gaps are closed
PIECE_SHARE = 0.01          # pieces below this share of the largest are dust
MIN_TISSUE_SHARE = 0.001    # less tissue than this share of the thumbnail is none

PICTURE_SIDE_PX = 1024
OUTLINE, SPOT = (0, 200, 0), (255, 200, 0)  # RGB


def background_colour(rgb: np.ndarray) -> np.ndarray:
    """The most frequent colour where the smoothed image is flat: an empty slide is uniform, tissue is textured.

    rgb (h, w, 3) uint8 -> (3,) float32, 0..255.
    """
    smooth = cv2.GaussianBlur(rgb, (0, 0), _px(SMOOTH_LENGTH, rgb))
    flat = local_contrast(np.log(_mean(rgb.astype(np.float32)) + 1)) < FLAT_CONTRAST
    colours = smooth[flat] if flat.mean() > MIN_FLAT_SHARE else smooth.reshape(-1, 3)  # (n, 3)
    bins = colours.astype(np.int64) >> 2  # 64 levels a channel
    key = (bins[:, 0] << 12) | (bins[:, 1] << 6) | bins[:, 2]
    count = np.bincount(key, minlength=1 << 18)
    padding = count[[0, -1]].max()
    beside = count.copy()
    beside[[0, -1]] = 0
    count = beside if beside.max() > PADDING_SHARE * padding else count
    return colours[key == count.argmax()].mean(axis=0).astype(np.float32)


def local_contrast(density: np.ndarray) -> np.ndarray:
    """Standard deviation in a Gaussian window. density (h, w) float32 -> (h, w) float32."""
    sigma = _px(TEXTURE_LENGTH, density)
    mean = cv2.GaussianBlur(density, (0, 0), sigma)
    return np.sqrt(np.maximum(cv2.GaussianBlur(density * density, (0, 0), sigma) - mean * mean, 0))


def optical_density(rgb: np.ndarray) -> np.ndarray:
    """-log(colour / background), 0 where brighter than the slide. rgb (h, w, 3) uint8 -> (h, w, 3) float32."""
    levels = np.arange(256, dtype=np.float32)[:, None]  # (256, 1)
    density = np.maximum(-np.log((levels + 1) / (background_colour(rgb) + 1)), 0)  # (256, 3)
    return cv2.LUT(rgb, density[None])


def shade(smooth: np.ndarray) -> np.ndarray:
    """The grey part of the absorption, that in blue beyond stain: optical density (h, w, 3) -> (h, w) float32."""
    return np.maximum(smooth[..., 2] - SHADE_BLUE * smooth[..., 1], 0) / (1 - SHADE_BLUE)


def ink(smooth: np.ndarray) -> np.ndarray:
    """Pixels of ink: absorption other than H&E, with its pale rim. smooth (h, w, 3) optical density -> (h, w) bool."""
    red, green, blue = np.moveaxis(smooth, 2, 0)
    excess = np.maximum.reduce([red - blue - INK_RED * green, blue - INK_BLUE * green, INK_PURE_RED * green - red])
    rim = cv2.dilate((excess > INK_MARGIN).astype(np.uint8), _disc(RIM_LENGTH, excess)) > 0
    return rim & (excess > RIM_MARGIN)


def tissue_score(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Optical-density distance from the background + local contrast of the optical density.

    rgb (h, w, 3) uint8 -> score (h, w) float32, about 0 on the empty slide and under ink, 0.2 to 2 on tissue;
    ink (h, w) bool.
    """
    density = optical_density(rgb)
    smooth = cv2.GaussianBlur(density, (0, 0), _px(SMOOTH_LENGTH, rgb))
    inked = np.zeros(rgb.shape[:2], bool)
    if np.abs(smooth - _mean(smooth)[..., None]).max() > INK_MARGIN:  # in a grey picture ink and stain are alike
        inked = ink(smooth)
        smooth = np.maximum(smooth - shade(smooth)[..., None], 0)
        density[inked] = 0
    distance, contrast = np.sqrt(3 * _mean(smooth * smooth)), local_contrast(_mean(density))
    empty = inked | ((contrast < HAZE_CONTRAST) & (distance < HAZE_SCORE))
    return np.where(empty, 0, distance + contrast), inked


def tissue_mask(rgb: np.ndarray) -> np.ndarray:
    """The tissue of a thumbnail: rgb (h, w, 3) uint8 -> (h, w) bool; all False if there is no tissue."""
    score, inked = tissue_score(rgb)
    score = np.minimum(score, MAX_SCORE)
    levels = np.rint(score * (255 / MAX_SCORE)).astype(np.uint8)
    otsu = cv2.threshold(levels, 0, 255, cv2.THRESH_OTSU)[0] * (MAX_SCORE / 255)
    threshold = max(OTSU_SHARE * otsu, MIN_SCORE)
    mask = clean_mask(under_ink((score > threshold) | pale_tissue(score), inked))
    return mask if mask.mean() >= MIN_TISSUE_SHARE else np.zeros_like(mask)


def under_ink(mask: np.ndarray, inked: np.ndarray) -> np.ndarray:
    """The mask, filled in under ink: tissue where most of the ink-free surroundings are tissue.

    mask, inked (h, w) bool -> (h, w) bool.
    """
    side = 2 * round(_px(UNDER_INK_LENGTH, mask)) + 1
    around, free = (cv2.blur(part.astype(np.float32), (side, side)) for part in (mask & ~inked, ~inked))
    return np.where(inked, around > 0.5 * np.maximum(free, 1e-3), mask)


def pale_tissue(score: np.ndarray) -> np.ndarray:
    """Broad areas of low but uniform score. (h, w) float32 -> (h, w) bool."""
    mask = cv2.morphologyEx((score > PALE_SCORE).astype(np.uint8), cv2.MORPH_CLOSE, _disc(PALE_GAP_LENGTH, score))
    return cv2.morphologyEx(mask, cv2.MORPH_OPEN, _disc(PALE_LENGTH, score)) > 0


def clean_mask(mask: np.ndarray) -> np.ndarray:
    """Close gaps, fill small holes, remove hairs and dust. (h, w) bool -> (h, w) bool."""
    mask = _large_pieces(_padded(mask), SPECK_SHARE)  # before closing: rows of dots must not grow together
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, _disc(CLOSE_LENGTH, mask))
    mask = _fill_holes(mask)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, _disc(OPEN_LENGTH, mask))
    return _large_pieces(mask, PIECE_SHARE)[_PAD:-_PAD, _PAD:-_PAD].astype(bool)


def drawn(thumbnail: np.ndarray, mask: np.ndarray, xy: np.ndarray, size_px: tuple[int, int]) -> np.ndarray:
    """The mask's outline and the spots on the thumbnail, RGB uint8.

    thumbnail (h, w, 3) uint8, mask (h, w) bool, xy (n, 2) level-0 px, size_px (width, height) of level 0.
    """
    width, height = fitted_size((mask.shape[1], mask.shape[0]), PICTURE_SIDE_PX)
    picture = cv2.resize(thumbnail, (width, height), interpolation=cv2.INTER_AREA)
    small = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(small, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, outlines, -1, OUTLINE, 2)
    at = xy * np.array([width, height]) / np.array(size_px)
    radius = int(np.clip(median_spacing_px(at) / 6, 1, 4))  # tissue stays visible between neighbouring spots
    for column, row in np.rint(at[((at >= 0) & (at < [width, height])).all(axis=1)]).astype(int).tolist():
        cv2.circle(picture, (column, row), radius, SPOT, -1, cv2.LINE_AA)
    return picture


_PAD = 16  # morphology may reach beyond the border


def _padded(mask: np.ndarray) -> np.ndarray:
    return cv2.copyMakeBorder(mask.astype(np.uint8), _PAD, _PAD, _PAD, _PAD, cv2.BORDER_CONSTANT)


def _mean(image: np.ndarray) -> np.ndarray:
    """Mean of the three channels (faster than NumPy's). (h, w, 3) float32 -> (h, w) float32."""
    return cv2.transform(image, np.full((1, 3), 1 / 3, np.float32))


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
