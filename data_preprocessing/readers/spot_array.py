"""The array that spots lie on, found from their positions: square, hexagonal, or none; one array or several.

The directions to the neighbours decide. With the angles t of all pairs about one pitch apart, the mean of exp(4it) is
1 on a square array and 0 on a hexagonal one, and that of exp(6it) the reverse. Jitter of legacy ST lowers both little.
Several sections over each other have no such order, but the steps of their arrays recur: cells do not.
"""
from pathlib import Path

import numpy as np

from common.config import Config
from common.errors import DataError, LayerError
from common.geometry import TOLERANCE, Source, median_spacing_px

MIN_SPOTS = 10       # fewer show no array
NEAR = (0.7, 1.25)   # pitches: a pair of neighbours
ORDERED = 0.5        # mean of exp(kit) of an array
REACH = 6.0          # nearest distances: steps that may recur
SAME_STEP = 0.2      # nearest distances: two steps this close are the same
N_STEPS = 2000       # steps that are looked at
RECURS = 0.15        # share of the spots that have a recurring step
SAME_DISTANCE = 0.15  # of the median distance: spots of an array have neighbours this equally far
FEWEST_ORDERED = 0.5  # share of the spots of an array that do
TOUCH = 0.01         # share of the spots with a neighbour of another part: parts of one section
WHOLE = 0.002        # a pitch this close to whole um is that
MOST_SPOTS = 10_000  # of more spots, those in the middle
PLATFORMS = {("hex", 100.0): "Visium", ("square", 200.0): "legacy ST"}  # (array, pitch um)
USUAL_PITCH_UM = {array: pitch for array, pitch in PLATFORMS}


def array_of(xy: np.ndarray) -> str | None:
    """'square', 'hex', or None if the positions show neither. xy (n, 2) px."""
    from scipy.spatial import cKDTree
    pitch = median_spacing_px(xy)
    if len(xy) < MIN_SPOTS or pitch <= 0:
        return None
    pairs = cKDTree(xy).query_pairs(NEAR[1] * pitch, output_type="ndarray")  # (n_pairs, 2)
    step = xy[pairs[:, 1]] - xy[pairs[:, 0]]
    step = step[np.hypot(*step.T) > NEAR[0] * pitch]
    if len(step) < len(xy) / 2:
        return None
    angle = np.arctan2(step[:, 1], step[:, 0])
    by_four, by_six = (abs(np.exp(1j * k * angle).mean()) for k in (4, 6))
    if by_four > ORDERED and by_four > 2 * by_six:
        return "square"
    return "hex" if by_six > ORDERED and by_six > 2 * by_four else None


def several_arrays(xy: np.ndarray) -> bool:
    """Whether these are arrays over each other: no order, but steps that recur. xy (n, 2) px."""
    from scipy.spatial import cKDTree
    if len(xy) > MOST_SPOTS:
        xy = xy[np.argsort(np.abs(xy - np.median(xy, axis=0)).max(axis=1))[:MOST_SPOTS]]
    nearest = median_spacing_px(xy)
    if len(xy) < 3 * MIN_SPOTS or nearest <= 0 or array_of(xy) is not None:
        return False
    tree = cKDTree(xy)
    around = tree.query_ball_point(xy, NEAR[1] * nearest, return_length=True) - 1  # (n,)
    pairs = tree.query_pairs(REACH * nearest, output_type="ndarray")
    step = (xy[pairs[:, 1]] - xy[pairs[:, 0]]) / nearest  # (n_pairs, 2)
    step = np.concatenate([step, -step])
    near = step[np.hypot(*step.T) < NEAR[1]]
    in_rows = abs(np.exp(2j * np.arctan2(*near.T)).mean()) > ORDERED and around.mean() > 1.8
    some = step[:: max(1, len(step) // N_STEPS)]
    recurring = cKDTree(step).query_ball_point(some, SAME_STEP, return_length=True).max()
    return recurring > RECURS * len(xy) and not in_rows


def parts_touch(xy: np.ndarray, parts: np.ndarray) -> bool:
    """Whether named parts continue one array, as regions of one section do. xy (n, 2) px; parts (n,) names."""
    from scipy.spatial import cKDTree
    pitch = median_spacing_px(xy)
    if pitch <= 0 or array_of(xy) is None:
        return False
    pairs = cKDTree(xy).query_pairs(NEAR[1] * pitch, output_type="ndarray")  # (n_pairs, 2)
    pairs = pairs[parts[pairs[:, 0]] != parts[pairs[:, 1]]]
    apart = np.hypot(*(xy[pairs[:, 0]] - xy[pairs[:, 1]]).T)  # (n_pairs of two parts,)
    return len(pairs) > max(3, TOUCH * len(xy)) and bool((apart > NEAR[0] * pitch).all())


def is_scattered(xy: np.ndarray) -> bool:
    """Whether these lie on no array, as cells and beads: their nearest neighbours are unequally far. xy (n, 2) px."""
    from scipy.spatial import cKDTree
    if len(xy) < 3 * MIN_SPOTS or array_of(xy) is not None:
        return False
    nearest = cKDTree(xy).query(xy, k=2)[0][:, 1]  # (n,)
    if np.median(nearest) <= 0:
        return False
    alike = np.abs(nearest / np.median(nearest) - 1) < SAME_DISTANCE
    return float(alike.mean()) < FEWEST_ORDERED


def scattered(n_positions: int, file: Path, config: Config) -> LayerError:
    """The error of positions whose distance states no scale."""
    return LayerError(file, f"{n_positions} positions on no array, such as cells or beads",
                      f"spots of a regular array, {config.pitch_um:g} um apart",
                      "sum the counts over the squares of a grid, and save their centres as positions")


def check_array(xy: np.ndarray, config: Config, file: Path, scale: Source | None) -> None:
    """Hold the array found, and where um per px is known its pitch, against the config. xy (n, 2) px of the image.

    scale: um per px by another source than the spots, or None. Raises DataError if the array is another one, or if
    array and pitch are those of a platform and the config states another pitch; LayerError for scattered positions,
    whose distance states no scale.
    """
    array, pitch_px = array_of(xy), median_spacing_px(xy)
    if array is None:
        if is_scattered(xy):
            raise scattered(len(xy), file, config)
        return
    by_scale = None if scale is None else pitch_px * scale.um_per_px
    usual = USUAL_PITCH_UM[array]
    is_usual = by_scale is not None and abs(by_scale / usual - 1) <= 2 * TOLERANCE
    if array == config.array and not (is_usual and abs(config.pitch_um / usual - 1) > 2 * TOLERANCE):
        return
    measured = "" if by_scale is None else f" ({by_scale:.4g} um at {scale})"
    pitch = usual if by_scale is None or is_usual else float(f"{by_scale:.4g}")
    pitch = round(pitch) if abs(pitch - round(pitch)) < WHOLE * pitch else pitch
    whose, name = PLATFORMS.get((array, pitch), ""), {"hex": "hexagonal"}.get(array, array)
    expected = f"array: {array}, pitch_um: {pitch:g}" + (f" ({whose})" if whose else "")
    if by_scale is None and array == "square":
        expected = f"array: square, and pitch_um of the platform: {usual:g} for legacy ST, 8 for bins of 8 um, …"
    raise DataError(
        file, f"{len(xy)} spots on a {name} array, {pitch_px:.4g} px apart{measured}, "
              f"and a config with array: {config.array}, pitch_um: {config.pitch_um:g}",
        expected, "set both in the config")
