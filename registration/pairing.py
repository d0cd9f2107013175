"""From the transform found for a pair to the one that is kept: refine it, apply the gate, fall back if it is refused.

A refused pair is laid by the tissue outlines if they fit plausibly, else by the centroids. It stays in the chain and is
marked.
"""
from dataclasses import dataclass

import cv2
import numpy as np

from registration.gate import Evidence, degenerate, gather, reasons_against
from registration.matching import Match, match_centroids, match_outlines
from registration.quality import judge, warp_mask
from registration.refinement import refine
from registration.sections import Rendering
from registration.transforms import Transform, affine, compose, in_frames, invert, move, warp_image

TISSUE_PX = 320                 # longer side of the larger tissue in the compared renderings
MIN_COMMON_SHARE = 0.05         # refined only if this share of the smaller tissue lies within the other,
MIN_CONTRAST = 0.01             # and the stain density varies there (standard deviation)
MIN_OUTLINE_DICE = 0.60         # below this the centroids are used instead of the outlines
PIECE_OFF_PITCHES = 0.5         # a piece further than this from its place by its own matches gets a warning
MIN_PIECES = 2
BY_HAND = ("landmarks", "transform")


@dataclass(frozen=True)
class Settled:
    """The transform of a pair and the verdict on it."""
    transform: Transform        # level-0 px of the moving -> of the fixed layer
    method: str                 # 'xfeat', 'landmarks', 'transform'; refused: 'outline' or 'centroid'
    refinement: str             # 'none', 'affine' or 'syn'
    reasons: tuple[str, ...]    # against the registration; empty: accepted
    warnings: tuple[str, ...]
    evidence: Evidence          # of what was judged (not of what a refused pair fell back to)
    before: dict                # tissue_dice and image_correlation, laid on each other by um
    after: dict
    pieces: tuple[dict, ...]
    fixes: tuple[str, ...] = ()  # of a refused pair, beside those that every refused pair has

    @property
    def accepted(self) -> bool:
        return not self.reasons


def settle(renderings: tuple[Rendering, Rendering], match: Match, um_per_px: tuple[float, float], pitch_um: float,
           kind: str = "affine") -> Settled:
    """Refine and judge the match of one pair. Deterministic.

    renderings: moving, fixed, of the same um per px; match: in level-0 px; um_per_px: of level 0 of both;
    kind: of `refine`.
    """
    moving, fixed = renderings

    def in_level0(transform: Transform) -> Transform:
        return in_frames(transform, moving.to_level0, fixed.to_level0)

    coarse = compose(invert(fixed.to_level0), match.matrix, moving.to_level0)
    by_hand = match.method in BY_HAND
    unplaced = affine(np.eye(2) * um_per_px[0] / um_per_px[1], np.zeros(2))  # level-0 px, by um
    before = judge(moving, fixed, compose(invert(fixed.to_level0), unplaced, moving.to_level0))
    if by_hand and degenerate(Transform(match.matrix)):
        transform, kept, evidence = Transform(coarse), "none", None
        reasons = ["the given points or transform fold the section"]
    else:
        transform, kept = refined(moving, fixed, coarse, kind if match.trusted and not by_hand else "none")
        evidence = gather(moving, fixed, in_level0(transform), match, um_per_px)
        reasons = reasons_against(evidence)
    warnings, method = [], match.method
    if by_hand and evidence is not None:  # a person has decided: the gate only warns
        warnings, reasons = [f"given by hand, though {reason}" for reason in reasons if "matches" not in reason], []
    if reasons:
        transform, kept, method = fall_back(moving, fixed, kind)
    placed = in_level0(transform)
    pieces = judge_pieces(match, placed, um_per_px[1])
    if not reasons:
        warnings += warnings_of_pieces(pieces, PIECE_OFF_PITCHES * pitch_um)
    after = judge(moving, fixed, transform)
    return Settled(placed, method, kept, tuple(reasons), tuple(warnings), evidence, before, after, pieces)


def refined(moving: Rendering, fixed: Rendering, matrix: np.ndarray, kind: str) -> tuple[Transform, str]:
    """`refine`, if the tissues share enough area and contrast to compare; else the matrix as it is."""
    shape = fixed.mask.shape
    shared = (warp_mask(moving.mask, matrix, shape) & fixed.mask).astype(np.uint8)
    common = cv2.erode(shared, np.ones((5, 5), np.uint8)) > 0  # without the rim, where even a flat piece varies
    shown = common.sum() >= MIN_COMMON_SHARE * min(moving.mask.sum(), fixed.mask.sum())
    densities = (warp_image(moving.density, matrix, shape), fixed.density)
    contrast = [density[common].std() if shown else 0 for density in densities]
    return refine(moving, fixed, matrix, kind if min(contrast) > MIN_CONTRAST else "none")


def fall_back(moving: Rendering, fixed: Rendering, kind: str) -> tuple[Transform, str, str]:
    """(transform in rendering px, refinement, method) of tissue outlines, else centroids."""
    transform, kept = refined(moving, fixed, match_outlines(moving, fixed), "none" if kind == "none" else "affine")
    if judge(moving, fixed, transform)["tissue_dice"] >= MIN_OUTLINE_DICE:
        return transform, kept, "outline"
    return Transform(match_centroids(moving, fixed)), "none", "centroid"


def judge_pieces(match: Match, transform: Transform, um_per_px: float) -> tuple[dict, ...]:
    """Distance of every piece of the fixed tissue from its place by its own matches alone (None: too few of them).

    transform, off_px: level-0 px of the fixed layer, whose pixel size is um_per_px.
    """
    found = []
    for number, piece in enumerate(match.pieces, 1):
        off_px = None
        if piece.moving is not None:
            off_px = round(float(np.linalg.norm(move(transform, np.array([piece.moving]))[0] - piece.fixed)), 2)
        found.append({"piece": number, "share": piece.share,
                      "centre": [round(float(value), 1) for value in piece.fixed],
                      "inliers": piece.inliers,
                      "off_px": off_px,
                      "off_um": None if off_px is None else round(off_px * um_per_px, 1)})
    return tuple(found)


def warnings_of_pieces(pieces: tuple[dict, ...], limit_um: float) -> list[str]:
    """One warning that names the pieces further off than limit_um; none for a tissue of one piece."""
    off = [f"piece {one['piece']} off by {one['off_um']:.0f} um ({one['off_px']:.0f} px)" for one in pieces
           if one["off_um"] is not None and one["off_um"] > limit_um]
    return [f"one transform does not fit: {', '.join(off)}"] if off and len(pieces) >= MIN_PIECES else []
