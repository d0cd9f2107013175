"""The gate: from two renderings, a transform and its matches to the reasons against the registration; none: accepted.

Each limit separates transforms known to be wrong from transforms known to be right (benchmarks/registration.py).
"""
from dataclasses import asdict, dataclass

import numpy as np

from registration.matching import MIN_INLIER_SHARE, MIN_INLIERS, Match
from registration.quality import containment, correlation, dice, overlap_correlation, warp_mask
from registration.sections import Rendering
from registration.transforms import Transform, describe, in_frames, invert, move

SCALE_UM = (0.8, 1.25)          # of both axes: sections of one block have the same size
MAX_SHEAR = 0.15
MIN_CONTAINMENT = 0.80          # of the smaller tissue within the larger (for torn sections, whose Dice is low)
MIN_DICE = 0.70                 # one of these two must hold
MIN_OVERLAP_CORRELATION = 0.25  # of the stain densities inside both tissues
MIN_ON_CANVAS = 0.3             # of the moving tissue stays on the fixed picture
MIN_SPREAD = 0.10               # of the common tissue: area of an ellipse that holds the inliers (`_spread`)
MAX_DISAGREEMENT = 0.03         # median distance of the inliers from their place by the final transform, of the tissue


@dataclass(frozen=True)
class Evidence:
    """The numbers behind the verdict. Scales in um of the fixed over um of the moving layer."""
    inliers: int
    matches: int
    mirrored: bool              # the matches were found on the mirrored section
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
        """Every number to 6 decimals: the last bits of a sum depend on memory alignment."""
        return {name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(self).items()}


def gather(moving: Rendering, fixed: Rendering, transform: Transform, match: Match,
           um_per_px: tuple[float, float]) -> Evidence:
    """Measure a transform and its match, both in level-0 px.

    um_per_px: of level 0, of the moving and of the fixed layer.
    """
    rendered = in_frames(transform, invert(moving.to_level0), invert(fixed.to_level0))
    linear = describe(transform.matrix)
    warped = warp_mask(moving.mask, rendered, fixed.mask.shape)
    area_px = moving.mask.sum() * abs(describe(rendered.matrix)["determinant"])
    to_um = um_per_px[1] / um_per_px[0]
    return Evidence(
        inliers=match.inliers,
        matches=match.matches,
        mirrored=bool(np.linalg.det(match.matrix[:, :2]) < 0),
        scale_um_x=linear["scale_x"] * to_um,
        scale_um_y=abs(linear["scale_y"]) * to_um,
        shear=linear["shear"],
        rotation_deg=linear["rotation_deg"],
        determinant=linear["determinant"] * to_um ** 2,
        on_canvas=min(1.0, float(warped.sum() / max(area_px, 1.0))),
        tissue_dice=dice(warped, fixed.mask),
        containment=containment(warped, fixed.mask),
        image_correlation=correlation(moving, fixed, rendered),
        overlap_correlation=overlap_correlation(moving, fixed, rendered),
        spread=_spread(match, fixed, int((warped & fixed.mask).sum())),
        disagreement=_disagreement(transform, match, fixed))


def _spread(match: Match, fixed: Rendering, common_px: int) -> float:
    """Area of an ellipse that holds the inliers (two standard deviations), as a share of the common tissue."""
    if match.inliers < 3 or not common_px:
        return 0.0
    points = match.fixed_points @ invert(fixed.to_level0)[:, :2].T
    return float(4 * np.pi * np.sqrt(max(np.linalg.det(np.cov(points.T)), 0)) / common_px)


def _disagreement(transform: Transform, match: Match, fixed: Rendering) -> float:
    """Median distance of the inliers from their place by the transform, over the square root of the tissue's area."""
    if not match.inliers:
        return 0.0
    away = np.linalg.norm(move(transform, match.moving_points) - match.fixed_points, axis=1)
    per_px = np.sqrt(abs(np.linalg.det(fixed.to_level0[:, :2])))
    return float(np.median(away) / per_px / np.sqrt(max(fixed.mask.sum(), 1)))


def reasons_against(evidence: Evidence) -> list[str]:
    """One phrase a failed test, with the number and its limit; empty: accepted."""
    one, needed = evidence, max(MIN_INLIERS, int(np.ceil(MIN_INLIER_SHARE * evidence.matches)))
    low, high = SCALE_UM
    tests = [
        (one.inliers < needed, f"{one.inliers} of {one.matches} matches agree, < {needed}"),
        (not low <= one.scale_um_x <= high, f"scale x {one.scale_um_x:.2f} outside {low}-{high}"),
        (not low <= one.scale_um_y <= high, f"scale y {one.scale_um_y:.2f} outside {low}-{high}"),
        (abs(one.shear) > MAX_SHEAR, f"shear {one.shear:.2f} beyond {MAX_SHEAR}"),
        ((one.determinant < 0) != one.mirrored, "mirrored against the matches"),
        (one.on_canvas < MIN_ON_CANVAS, f"{one.on_canvas:.0%} of the tissue on the picture, < {MIN_ON_CANVAS:.0%}"),
        (one.containment < MIN_CONTAINMENT and one.tissue_dice < MIN_DICE,
         f"tissue Dice {one.tissue_dice:.2f} < {MIN_DICE} and overlap {one.containment:.2f} < {MIN_CONTAINMENT}"),
        (one.overlap_correlation < MIN_OVERLAP_CORRELATION,
         f"image correlation inside both tissues {one.overlap_correlation:.2f} < {MIN_OVERLAP_CORRELATION}"),
        (one.spread < MIN_SPREAD, f"the matches that agree cover {one.spread:.0%} of the tissue, < {MIN_SPREAD:.0%}"),
        (one.disagreement > MAX_DISAGREEMENT,
         f"the matches lie {one.disagreement:.1%} of the tissue's size off, > {MAX_DISAGREEMENT:.0%}"),
    ]
    return [text for failed, text in tests if failed]


def degenerate(transform: Transform) -> bool:
    """True for a transform given by hand that collapses the plane onto a line or is not finite."""
    scales = np.linalg.svd(transform.matrix[:, :2], compute_uv=False)
    return bool(scales[1] <= 0.02 * scales[0] or not np.isfinite(scales).all())
