"""Refine a transform with ANTs: an affine that raises the correlation of the stain densities inside the tissue.

The moving view is moved by the transform found so far and ANTs looks for the small rest, so its own conventions meet ours in one place,
`_ants_affine`: ITK's axes are (x, y) (a numpy image is transposed) and its transform leads from fixed to moving points (it is inverted).
"""
import os
import tempfile

import cv2
import numpy as np

from registration.quality import judge, warp_density
from registration.sections import View
from registration.transforms import compose, invert, read_itk

SIDE_PX = 500                   # longer side of the compared views
ITERATIONS = (60, 30)           # at shrink factors
SHRINK_FACTORS = (4, 2)
SMOOTHING_SIGMAS = (2, 1)
SAMPLING_SHARE = 0.5
MARGIN_PX = 7                   # the metric looks this far beyond the tissue, so that the outline counts
TOLERANCE = 0.005               # a refinement may lose this much Dice or correlation, not more
SEED = 1


def refine(moving: View, fixed: View, matrix: np.ndarray) -> tuple[np.ndarray, bool]:
    """(matrix, kept): the refined moving -> fixed (2, 3) in view px, or the given one if ANTs lost Dice or correlation. Deterministic."""
    rest = _ants_affine(warp_density(moving.density, matrix, fixed.mask.shape), fixed.density, fixed.mask)
    refined = compose(rest, matrix)
    before, after = judge(moving, fixed, matrix), judge(moving, fixed, refined)
    kept = all(after[name] >= before[name] - TOLERANCE for name in before)
    return (refined, True) if kept else (matrix, False)


def _ants_affine(moving: np.ndarray, fixed: np.ndarray, fixed_mask: np.ndarray) -> np.ndarray:
    """Affine moving -> fixed (2, 3) in px of two (h, w) float32 images of the same shape, near the identity."""
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"  # read once, when ITK starts; sums depend on how threads split them
    import ants
    ants.config.set_ants_deterministic(on=False, seed_value=SEED)  # sets the seed alone; 'on' would refuse affine transforms
    margin = cv2.dilate(fixed_mask.astype(np.float32), np.ones((2 * MARGIN_PX + 1, 2 * MARGIN_PX + 1), np.uint8))
    images = [ants.from_numpy(np.ascontiguousarray(array.T)) for array in (fixed, moving, margin)]
    with tempfile.TemporaryDirectory() as folder:
        found = ants.registration(images[0], images[1], type_of_transform="Affine", initial_transform="Identity", mask=images[2],
                                  outprefix=os.path.join(folder, "rest"), aff_metric="GC", aff_random_sampling_rate=SAMPLING_SHARE,
                                  aff_iterations=ITERATIONS, aff_shrink_factors=SHRINK_FACTORS, aff_smoothing_sigmas=SMOOTHING_SIGMAS,
                                  singleprecision=False)
        return invert(read_itk(found["fwdtransforms"][0]))
