"""The check of spot coordinates in step 0_2: do a layer's spots lie on its tissue? Arrays in, a verdict out.

Common errors of spot coordinates are swapped axes and a mirrored or turned image: eight orientations, swap or not, then
mirror x or not, mirror y or not. Each gets two measures: the share of spots whose centre is tissue, and the Dice of the
tissue and the area of the spots (spots are chosen to cover the tissue, so the right orientation fills it). Source: own.
"""
from dataclasses import dataclass

import cv2
import numpy as np

from common.geometry import median_spacing_px

AS_GIVEN = "as given"
ORIENTATIONS = {  # name, which is also the fix in words: (swap, mirror x, mirror y), done in this order
    AS_GIVEN: (False, False, False),
    "mirror pixel_x": (False, True, False),
    "mirror pixel_y": (False, False, True),
    "mirror pixel_x and pixel_y": (False, True, True),
    "swap pixel_x and pixel_y": (True, False, False),
    "swap pixel_x and pixel_y, then mirror pixel_x": (True, True, False),
    "swap pixel_x and pixel_y, then mirror pixel_y": (True, False, True),
    "swap pixel_x and pixel_y, then mirror both": (True, True, True),
}
SPOT_REACH = 0.6            # a spot represents the tissue within this many pitches of its centre
MAX_SIDE_PX = 512           # the mask is compared at this size
GOOD_SHARE = 0.6            # a smaller share of spots on tissue gives a warning
NONE_SHARE = 0.1  # of the spots on tissue: coordinates of another image
# gains of another orientation in share of spots on tissue and in Dice
BETTER = (0.05, 0.05)       # beyond these: a warning
CLEARLY_BETTER = (0.15, 0.10)  # beyond these: the given one is wrong (on real sections the right one is best in both)
MIN_SPOTS = 20              # with fewer spots there is a warning, never a refusal
SMALL_REACH = 0.5           # coordinates within this share of the image may be those of a smaller image


@dataclass(frozen=True)
class Fit:
    """How well one orientation of the coordinates fits the tissue."""
    name: str
    on_tissue: float  # share of spots whose centre is tissue
    dice: float       # of the tissue and the area of the spots


@dataclass(frozen=True)
class Verdict:
    """`wrong`: the layer cannot be used as it is. `found` and `fix` are parts of a message, '' if all is well."""
    on_tissue: float
    orientation: str
    wrong: bool = False
    found: str = ""
    fix: str = ""


def oriented(xy: np.ndarray, size_px: tuple[int, int], name: str) -> np.ndarray:
    """The coordinates after the fix `name`. xy (n, 2) px, size_px (width, height) of the image -> (n, 2) px."""
    swap, *mirrored = ORIENTATIONS[name]
    out = xy[:, ::-1] if swap else xy
    return np.where(mirrored, np.array(size_px) - 1 - out, out)


def share_inside(xy: np.ndarray, size_px: tuple[int, int]) -> float:
    """Share of the points (n, 2) that lie in the image of (width, height)."""
    return float(((xy >= -0.5) & (xy < np.array(size_px) - 0.5)).all(axis=1).mean())


def fits(xy: np.ndarray, mask: np.ndarray, size_px: tuple[int, int]) -> list[Fit]:
    """All eight orientations, the given one first.

    xy (n, 2) level-0 px, mask (h, w) bool of any size, size_px (width, height) of level 0.
    """
    tissue = _small(mask)  # (h, w)
    per_px = np.array(tissue.shape[::-1]) / np.array(size_px)  # mask px per level-0 px
    reach = max(1.0, SPOT_REACH * median_spacing_px(xy) * per_px.mean())
    return [_fit(name, oriented(xy, size_px, name) * per_px, tissue, reach) for name in ORIENTATIONS]


def check(xy: np.ndarray, mask: np.ndarray, size_px: tuple[int, int]) -> Verdict:
    """Judge a layer's spot coordinates.

    xy (n, 2) level-0 px, n >= 1; mask (h, w) bool; size_px (width, height) of level 0.
    """
    given, *others = fits(xy, mask, size_px)
    best = max(others, key=lambda fit: fit.dice)
    if max(share_inside(oriented(xy, size_px, name), size_px) for name in ORIENTATIONS) < 0.5:
        found = _reach(xy, size_px) + ": probably full-resolution coordinates on a down-scaled image"
        return Verdict(given.on_tissue, AS_GIVEN, True, found,
                       "scale the coordinates, or take the image they belong to")
    gain = (best.on_tissue - given.on_tissue, best.dice - given.dice)
    if gain[0] > BETTER[0] and gain[1] > BETTER[1]:
        found = f"{given.on_tissue:.0%} of the spots on tissue, but {best.on_tissue:.0%} after '{best.name}'"
        wrong = len(xy) >= MIN_SPOTS and gain[0] > CLEARLY_BETTER[0] and gain[1] > CLEARLY_BETTER[1]
        return Verdict(given.on_tissue, best.name, wrong, found, best.name)
    if given.on_tissue < GOOD_SHARE:
        small = (xy.max(axis=0) < SMALL_REACH * np.array(size_px)).all()
        reason = _reach(xy, size_px) + ": probably coordinates of a down-scaled image" if small else "too few of them"
        found = f"only {given.on_tissue:.0%} of the spots on tissue; {reason}"
        wrong = bool(small) and len(xy) >= MIN_SPOTS and given.on_tissue < NONE_SHARE
        return Verdict(given.on_tissue, AS_GIVEN, wrong, found,
                       "scale the coordinates to px of this image" if wrong else "check image and coordinates")
    return Verdict(given.on_tissue, AS_GIVEN)


def _fit(name: str, at: np.ndarray, tissue: np.ndarray, reach: float) -> Fit:
    """The fit of spots `at` (n, 2) mask px to tissue (h, w) bool; reach in mask px."""
    column, row = np.floor(at).astype(np.int64).T
    rows, columns = tissue.shape
    inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    column, row = column[inside], row[inside]
    empty = np.ones(tissue.shape, np.uint8)
    empty[row, column] = 0
    area = np.zeros_like(tissue)  # (h, w) within reach of a spot
    if inside.any():
        area = cv2.distanceTransform(empty, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= reach
    dice = 2 * (area & tissue).sum() / max(1, area.sum() + tissue.sum())
    return Fit(name, float(tissue[row, column].sum() / len(at)), float(dice))


def _small(mask: np.ndarray) -> np.ndarray:
    """(h, w) bool -> at most MAX_SIDE_PX, bool."""
    factor = min(1.0, MAX_SIDE_PX / max(mask.shape))
    size = (max(1, round(mask.shape[1] * factor)), max(1, round(mask.shape[0] * factor)))
    return cv2.resize(mask.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA) > 127


def _reach(xy: np.ndarray, size_px: tuple[int, int]) -> str:
    right, bottom = xy.max(axis=0)
    return f"coordinates reach {right:,.0f} x {bottom:,.0f} px but the image has {size_px[0]:,} x {size_px[1]:,}"
