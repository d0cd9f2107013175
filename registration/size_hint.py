"""Is a pixel size wrong? What the areas of two tissues, or the scale of the transform found, show of a refused pair."""
from math import sqrt

import numpy as np

from common.pieces import label_pieces
from common.tissue_size import TissueSize, size_warning
from registration.gate import SCALE_UM, Evidence
from registration.matching import TISSUE_PX, register
from registration.sections import Section, render_pair

MAX_UNLIKE = 1.10   # ratio of the scales of both axes: a wrong pixel size scales both alike


def tissue_sizes(sections: dict[int, Section], um_per_px: tuple[float, float]) -> list[TissueSize]:
    """The tissue of each section; um_per_px: of level 0 of each."""
    found = []
    for (layer, section), um in zip(sections.items(), um_per_px, strict=True):
        mm2_per_px = abs(np.linalg.det(section.to_level0[:, :2])) * (um / 1000) ** 2
        n_pieces = int(label_pieces(section.mask).max())
        found.append(TissueSize(layer, float(section.mask.sum() * mm2_per_px), um, n_pieces=n_pieces))
    return found


def hint_of_areas(sections: dict[int, Section], um_per_px: tuple[float, float]) -> str | None:
    """What to say where the tissue of one of two sections is much larger, else None.

    The pair is matched once more with both tissues taken as equally large: if that succeeds, the pixel size is wrong,
    and the value that fits is named. sections: the moving and the fixed one; um_per_px: of level 0 of both.
    """
    moving, fixed = tissue_sizes(sections, um_per_px)
    warning = size_warning(moving, fixed)
    if warning is None:
        return None
    as_large = um_per_px[0] * sqrt(fixed.area_mm2 / moving.area_mm2), um_per_px[1]
    match = register(*render_pair(*sections.values(), as_large, TISSUE_PX))
    if not match.trusted:
        return warning
    factor = sqrt(abs(np.linalg.det(match.matrix[:, :2]))) * um_per_px[1] / um_per_px[0]
    found = (f"Taken as equally large, {match.inliers} of {match.matches} matches agree: "
             f"{right_sizes(list(sections), um_per_px, factor)}")
    return size_warning(moving, fixed, found)


def hint_of_scale(evidence: Evidence, layers: list[int], um_per_px: tuple[float, float]) -> str | None:
    """What to say where the transform found enlarges a section (um) alike in both axes, beyond the gate's limits."""
    scales = evidence.scale_um_x, evidence.scale_um_y
    outside = all(not SCALE_UM[0] <= scale <= SCALE_UM[1] for scale in scales)
    if not outside or max(scales) > MAX_UNLIKE * min(scales):
        return None
    factor = sqrt(scales[0] * scales[1])
    times = max(factor, 1 / factor) ** 2
    larger, other = layers if factor < 1 else layers[::-1]
    return (f"the tissue of section {larger} is {times:.1f} times as large as that of section {other}; is the pixel "
            f"size right? {right_sizes(layers, um_per_px, factor)}")


def right_sizes(layers: list[int], um_per_px: tuple[float, float], factor: float) -> str:
    """The pixel sizes that would make both sections fit. factor: um of the fixed section over um of the moving one."""
    return (f"they fit if section {layers[0]} has {um_per_px[0] * factor:.4g} um/px (now {um_per_px[0]:.4g}), or "
            f"section {layers[1]} {um_per_px[1] / factor:.4g} (now {um_per_px[1]:.4g})")
