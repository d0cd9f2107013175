"""One pair from the transform that was found to the one that is kept: refine it, ask the gate, and where it is refused fall back.

A pair that is refused is laid by the tissue outlines if these fit plausibly, else by the centroids: the chain goes on, and the pair is marked.
"""
from dataclasses import dataclass

import cv2
import numpy as np

from registration.gate import Evidence, degenerate, gather, reasons_against
from registration.matching import Match, match_centroids, match_outlines
from registration.quality import judge, warp_mask
from registration.refinement import refine
from registration.sections import View
from registration.transforms import Transform, affine, compose, in_frames, invert, move, warp_image

TISSUE_PX = 320                 # longer side of the larger tissue in the compared views
MIN_COMMON_SHARE = 0.05         # of the smaller tissue lies within the other, and
MIN_CONTRAST = 0.01             # its stain density varies: else there is nothing to refine by
MIN_OUTLINE_DICE = 0.60         # outlines that fit less are no better than centroids
PIECE_OFF_PITCHES = 0.5         # a piece further than this from where its own matches lay it is told of
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

    @property
    def accepted(self) -> bool:
        return not self.reasons


def settle(views: tuple[View, View], match: Match, um_per_px: tuple[float, float], pitch_um: float, kind: str = "affine") -> Settled:
    """views: moving, fixed, of the same um per view px; match: in level-0 px; um_per_px: of level 0 of both. Deterministic."""
    moving, fixed = views

    def in_level0(transform: Transform) -> Transform:
        return in_frames(transform, moving.to_level0, fixed.to_level0)

    coarse = compose(invert(fixed.to_level0), match.matrix, moving.to_level0)
    by_hand = match.method in BY_HAND
    unplaced = affine(np.eye(2) * um_per_px[0] / um_per_px[1], np.zeros(2))  # level-0 px, by um
    before = judge(moving, fixed, compose(invert(fixed.to_level0), unplaced, moving.to_level0))
    if by_hand and degenerate(Transform(match.matrix)):
        reasons, transform, kept, evidence = ["the given points or transform fold the section"], Transform(coarse), "none", None
    else:
        transform, kept = refined(moving, fixed, coarse, kind if match.trusted and not by_hand else "none")
        evidence = gather(moving, fixed, in_level0(transform), match, um_per_px)
        reasons = reasons_against(evidence)
    warnings, method = [], match.method
    if by_hand and evidence is not None:  # a person has decided; what the gate would say is said
        warnings, reasons = [f"given by hand, though {reason}" for reason in reasons if "matches" not in reason], []
    if reasons:
        transform, kept, method = fall_back(moving, fixed, kind)
    placed = in_level0(transform)
    pieces = judge_pieces(match, placed, um_per_px[1])
    if len(pieces) >= MIN_PIECES and not reasons:
        off = [f"piece {one['piece']} off by {one['off_um']:.0f} um ({one['off_px']:.0f} px)" for one in pieces
               if one["off_um"] is not None and one["off_um"] > PIECE_OFF_PITCHES * pitch_um]
        warnings += [f"one transform does not fit: {', '.join(off)}"] if off else []
    return Settled(placed, method, kept, tuple(reasons), tuple(warnings), evidence, before, judge(moving, fixed, transform), pieces)


def refined(moving: View, fixed: View, matrix: np.ndarray, kind: str) -> tuple[Transform, str]:
    """`refine`, where both tissues share enough that there is something to compare."""
    warped = warp_mask(moving.mask, matrix, fixed.mask.shape)
    common = cv2.erode((warped & fixed.mask).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0  # a flat piece varies at its rim only
    shown = common.sum() >= MIN_COMMON_SHARE * min(moving.mask.sum(), fixed.mask.sum())
    contrast = [density[common].std() if shown else 0 for density in (warp_image(moving.density, matrix, fixed.mask.shape), fixed.density)]
    return refine(moving, fixed, matrix, kind if min(contrast) > MIN_CONTRAST else "none")


def fall_back(moving: View, fixed: View, kind: str) -> tuple[Transform, str, str]:
    """(transform in view px, refinement, method) of tissue outlines, else centroids."""
    transform, kept = refined(moving, fixed, match_outlines(moving, fixed), "none" if kind == "none" else "affine")
    if judge(moving, fixed, transform)["tissue_dice"] >= MIN_OUTLINE_DICE:
        return transform, kept, "outline"
    return Transform(match_centroids(moving, fixed)), "none", "centroid"


def judge_pieces(match: Match, transform: Transform, um_per_px: float) -> tuple[dict, ...]:
    """How far every piece of the fixed tissue lies from where its own matches alone would lay it (null: too few of them)."""
    found = []
    for number, piece in enumerate(match.pieces, 1):
        off_px = None
        if piece.moving is not None:
            off_px = round(float(np.linalg.norm(move(transform, np.array([piece.moving]))[0] - piece.fixed)), 2)
        found.append({"piece": number, "share": piece.share, "centre": [round(float(value), 1) for value in piece.fixed], "inliers": piece.inliers,
                      "off_px": off_px, "off_um": None if off_px is None else round(off_px * um_per_px, 1)})
    return tuple(found)
