"""Is a registration to be trusted? A pure function of two views, a transform and what it rests on: the reasons against it; none is a pass.

The limits are set where known wrong transforms part from known right ones (benchmarks/registration.py), not by feeling.
"""
from dataclasses import asdict, dataclass

import numpy as np

from registration.matching import MIN_INLIER_SHARE, MIN_INLIERS, Match
from registration.quality import containment, correlation, dice, overlap_correlation, warp_mask
from registration.sections import View
from registration.transforms import Transform, describe, in_frames, invert, move

SCALE_UM = (0.8, 1.25)          # of both axes: sections of one block are as large as each other
MAX_SHEAR = 0.15
MIN_CONTAINMENT = 0.80          # of the smaller tissue within the larger (torn sections: Dice says little)
MIN_DICE = 0.70                 # or the tissue Dice is below this: one of both must hold
MIN_OVERLAP_CORRELATION = 0.25  # of the stain densities inside both tissues
MIN_ON_CANVAS = 0.3             # of the moving tissue stays on the fixed picture
MIN_SPREAD = 0.10               # of the common tissue lies inside the hull of the inliers' middle 90 %
MAX_DISAGREEMENT = 0.03         # median distance of the inliers from where the final transform lays them, share of the tissue's length


@dataclass(frozen=True)
class Evidence:
    """What the verdict rests on. Lengths in fixed-view px, scales in um of the fixed over um of the moving layer."""
    inliers: int
    matches: int
    mirrored: bool              # the start that was matched was mirrored
    scale_um_x: float
    scale_um_y: float
    shear: float
    rotation_deg: float
    determinant: float
    on_canvas: float
    tissue_dice: float
    containment: float
    image_correlation: float
    overlap_correlation: float
    spread: float
    disagreement: float

    def rounded(self) -> dict:
        """To 6 decimals: the last bits of a sum depend on memory alignment."""
        return {name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(self).items()}


def gather(moving: View, fixed: View, transform: Transform, match: Match, um_per_px: tuple[float, float]) -> Evidence:
    """moving, fixed: views; transform in level-0 px, as the match is; um_per_px: of level 0 of the moving and of the fixed layer."""
    in_view = in_frames(transform, invert(moving.to_level0), invert(fixed.to_level0))
    shape, linear = fixed.mask.shape, describe(transform.matrix)
    warped = warp_mask(moving.mask, in_view, shape)
    area_px = moving.mask.sum() * abs(describe(in_view.matrix)["determinant"])
    to_um = um_per_px[1] / um_per_px[0]
    return Evidence(
        match.inliers, match.matches, bool(np.linalg.det(match.matrix[:, :2]) < 0), linear["scale_x"] * to_um, abs(linear["scale_y"]) * to_um,
        linear["shear"], linear["rotation_deg"], linear["determinant"] * to_um ** 2, min(1.0, float(warped.sum() / max(area_px, 1.0))),
        dice(warped, fixed.mask), containment(warped, fixed.mask), correlation(moving, fixed, in_view), overlap_correlation(moving, fixed, in_view),
        _spread(match, fixed, int((warped & fixed.mask).sum())), _disagreement(transform, match, fixed))


def _spread(match: Match, fixed: View, common_px: int) -> float:
    """Area of an ellipse that holds the inliers (two standard deviations), as a share of the common tissue."""
    if match.inliers < 3 or not common_px:
        return 0.0
    points = match.fixed_points @ invert(fixed.to_level0)[:, :2].T
    return float(4 * np.pi * np.sqrt(max(np.linalg.det(np.cov(points.T)), 0)) / common_px)


def _disagreement(transform: Transform, match: Match, fixed: View) -> float:
    """Median distance of the inliers from where the transform lays them, as a share of the length of the fixed tissue."""
    if not match.inliers:
        return 0.0
    away = np.linalg.norm(move(transform, match.moving_points) - match.fixed_points, axis=1)
    per_px = np.sqrt(abs(np.linalg.det(fixed.to_level0[:, :2])))
    return float(np.median(away) / per_px / np.sqrt(max(fixed.mask.sum(), 1)))


def reasons_against(evidence: Evidence) -> list[str]:
    """One phrase a failed test, the number and its limit in it; empty: accepted."""
    one, needed = evidence, max(MIN_INLIERS, int(np.ceil(MIN_INLIER_SHARE * evidence.matches)))
    tests = [
        (one.inliers < needed, f"{one.inliers} of {one.matches} matches agree, < {needed}"),
        *((not SCALE_UM[0] <= scale <= SCALE_UM[1], f"scale {name} {scale:.2f} outside {SCALE_UM[0]}-{SCALE_UM[1]}")
          for name, scale in (("x", one.scale_um_x), ("y", one.scale_um_y))),
        (abs(one.shear) > MAX_SHEAR, f"shear {one.shear:.2f} beyond {MAX_SHEAR}"),
        ((one.determinant < 0) != one.mirrored, "mirrored against the matches"),
        (one.on_canvas < MIN_ON_CANVAS, f"{one.on_canvas:.0%} of the tissue on the picture, < {MIN_ON_CANVAS:.0%}"),
        (one.containment < MIN_CONTAINMENT and one.tissue_dice < MIN_DICE,
         f"tissue Dice {one.tissue_dice:.2f} < {MIN_DICE} and overlap {one.containment:.2f} < {MIN_CONTAINMENT}"),
        (one.overlap_correlation < MIN_OVERLAP_CORRELATION,
         f"image correlation inside both tissues {one.overlap_correlation:.2f} < {MIN_OVERLAP_CORRELATION}"),
        (one.spread < MIN_SPREAD, f"the matches that agree cover {one.spread:.0%} of the tissue, < {MIN_SPREAD:.0%}"),
        (one.disagreement > MAX_DISAGREEMENT, f"the matches lie {one.disagreement:.1%} of the tissue's size off, > {MAX_DISAGREEMENT:.0%}"),
    ]
    return [text for failed, text in tests if failed]


def degenerate(transform: Transform) -> bool:
    """True for a transform given by hand that folds the plane or blows it up: nothing that lays a section."""
    scales = np.linalg.svd(transform.matrix[:, :2], compute_uv=False)
    return bool(scales[1] <= 0.02 * scales[0] or not np.isfinite(scales).all())
