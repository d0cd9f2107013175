"""Refine a transform with ANTs: an affine and, where the config asks for it, SyN (Avants et al. 2008), which bends.

Both raise the correlation of the stain densities inside the tissue. The moving rendering is moved by the transform
found so far, and ANTs finds the remaining small transform. Only `_ants_affine` and `_ants_syn` convert between its
conventions and ours: ITK's axes are (x, y), so a numpy image is transposed; its affine maps fixed to moving points, so
it is inverted; its inverse field maps moving to fixed points and is used as it is.
"""
import os
import tempfile

import cv2
import numpy as np

from registration.quality import judge, warp_mask
from registration.sections import Rendering
from registration.transforms import Transform, Warp, compose, invert, read_itk, smallest_jacobian, warp_image

ITERATIONS = (60, 30)           # at shrink factors
SHRINK_FACTORS = (4, 2)
SMOOTHING_SIGMAS = (2, 1)
SAMPLING_SHARE = 0.5
MARGIN_PX = 7                   # the metric extends this far beyond the common tissue, so that the outline counts
LOST_PX = 4                     # tissue of one section alone that is twice as wide is a part the other has lost
TOLERANCE = 0.005               # a refinement may lose at most this much Dice or correlation
SEED = 1

SYN_RADIUS_PX = 8               # of the window of the correlation: sections share structures, not cells
SYN_ITERATIONS = (30, 15, 0)    # at a quarter, half and full size; the field is smooth, so full size adds only time
SYN_STEP = 0.2                  # of the gradient
SYN_FLOW_SIGMA = 6.0            # of every update: nothing smaller is bent
SYN_TOTAL_SIGMA = 2.0           # of the whole field: on real neighbours 0.5 shrinks areas to 0.35, 2 to 0.6
SYN_SMOOTH_PX = 1.5             # sigma of both densities
GRID_STEP_PX = 4                # of the field that is kept
MIN_JACOBIAN = 0.0              # an area that shrinks to nothing or turns over is a fold


def refine(moving: Rendering, fixed: Rendering, matrix: np.ndarray, kind: str = "affine") -> tuple[Transform, str]:
    """Refine the moving -> fixed matrix (2, 3), rendering px. Deterministic.

    kind: 'none', 'affine' or 'syn' (affine, then SyN). Returns (the transform in rendering px, the kind that was kept).
    A refinement that loses tissue Dice or image correlation is dropped, and so is a field that folds the tissue.
    """
    best, kept, shape = Transform(matrix), "none", fixed.mask.shape
    where = compared(warp_mask(moving.mask, matrix, shape), fixed.mask)
    if kind == "none" or not where.any():
        return best, kept
    rest = _ants_affine(warp_image(moving.density, matrix, shape), fixed.density, where)
    refined = Transform(compose(rest, matrix))
    if _is_no_worse(moving, fixed, refined, best):
        best, kept = refined, "affine"
    if kind == "syn":
        where = compared(warp_mask(moving.mask, best.matrix, shape), fixed.mask)
        warp = _ants_syn(warp_image(moving.density, best.matrix, shape), fixed.density, where)
        bent = Transform(best.matrix, warp)
        if not folds(warp, fixed.mask) and _is_no_worse(moving, fixed, bent, best):
            best, kept = bent, "syn"
    return best, kept


def folds(warp: Warp, tissue: np.ndarray) -> bool:
    """True if the field (rendering px) folds anywhere on the tissue, (h, w) bool of the fixed rendering."""
    height, width = warp.field.shape[:2]
    inverse_linear = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    on_grid = cv2.warpAffine(tissue.astype(np.float32), warp.to_fixed, (width, height), flags=inverse_linear) > 0
    return smallest_jacobian(warp, on_grid) <= MIN_JACOBIAN


def _is_no_worse(moving: Rendering, fixed: Rendering, new: Transform, old: Transform) -> bool:
    before, after = judge(moving, fixed, old), judge(moving, fixed, new)
    return all(after[name] >= before[name] - TOLERANCE for name in before)


def _ants():
    """ANTs with one thread and a fixed seed: the last bits of a sum depend on the number of threads."""
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"  # read once, when ITK starts
    import ants
    ants.config.set_ants_deterministic(on=False, seed_value=SEED)  # only the seed; 'on' would refuse affine transforms
    return ants


def _as_ants(pixels: np.ndarray):
    return _ants().from_numpy(np.ascontiguousarray(pixels.T.astype(np.float32)))


def compared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The area in which two tissues (h, w) bool are compared: their overlap with a margin, away from lost parts."""
    common = cv2.dilate((a & b).astype(np.uint8), _square(MARGIN_PX))
    lost = cv2.morphologyEx((a ^ b).astype(np.uint8), cv2.MORPH_OPEN, _square(LOST_PX))
    return (common > 0) & (cv2.dilate(lost, _square(SYN_RADIUS_PX)) == 0)


def _square(radius_px: int) -> np.ndarray:
    return np.ones((2 * radius_px + 1, 2 * radius_px + 1), np.uint8)


def _ants_affine(moving: np.ndarray, fixed: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Affine moving -> fixed (2, 3), near the identity, in px of two (h, w) float32 images of the same shape.

    mask: (h, w) bool, the area that the metric uses.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = _ants().registration(
            _as_ants(fixed), _as_ants(moving), type_of_transform="Affine", initial_transform="Identity",
            mask=_as_ants(mask), outprefix=os.path.join(folder, "rest"),
            aff_metric="GC", aff_random_sampling_rate=SAMPLING_SHARE, aff_iterations=ITERATIONS,
            aff_shrink_factors=SHRINK_FACTORS, aff_smoothing_sigmas=SMOOTHING_SIGMAS, singleprecision=False)
        return invert(read_itk(found["fwdtransforms"][0]))


def _ants_syn(moving: np.ndarray, fixed: np.ndarray, mask: np.ndarray) -> Warp:
    """Field moving -> fixed in px of two (h, w) float32 images of the same shape; mask: as for `_ants_affine`."""
    moving, fixed = (cv2.GaussianBlur(image, (0, 0), SYN_SMOOTH_PX) for image in (moving, fixed))
    with tempfile.TemporaryDirectory() as folder:
        found = _ants().registration(
            _as_ants(fixed), _as_ants(moving), type_of_transform="SyNOnly", initial_transform="Identity",
            mask=_as_ants(mask), outprefix=os.path.join(folder, "rest"),
            syn_metric="CC", syn_sampling=SYN_RADIUS_PX, reg_iterations=SYN_ITERATIONS, grad_step=SYN_STEP,
            flow_sigma=SYN_FLOW_SIGMA, total_sigma=SYN_TOTAL_SIGMA, singleprecision=False)
        name = next(name for name in found["invtransforms"] if name.endswith("InverseWarp.nii.gz"))
        field = _ants().image_read(name).numpy().transpose(1, 0, 2)  # (h, w, 2): x, y
    return _on_grid(field)


def _on_grid(field: np.ndarray) -> Warp:
    """A field (h, w, 2) per rendering px, reduced to every GRID_STEP_PX-th of them; zero at the border."""
    coarse = field[::GRID_STEP_PX, ::GRID_STEP_PX].astype(np.float32)
    padded = np.pad(coarse, ((1, 1), (1, 1), (0, 0)))
    return Warp(padded, np.array([[GRID_STEP_PX, 0, -GRID_STEP_PX], [0, GRID_STEP_PX, -GRID_STEP_PX]], np.float64))
