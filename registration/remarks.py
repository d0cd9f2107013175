"""What the verdict on a pair adds on its likely cause: a wrong pixel size, tissue that only one of the sections has."""
from dataclasses import replace

import numpy as np

from registration.foreign import remark_on_pair
from registration.matching import Match
from registration.pairing import Settled
from registration.sections import Section
from registration.size_hint import hint_of_scale
from registration.transforms import Transform


def explained(settled: Settled, match: Match, sections: dict[int, Section], um_per_px: tuple[float, float],
              size_hint: str | None) -> tuple[Settled, dict[int, np.ndarray]]:
    """The verdict with likely causes, and {layer: (h, w) bool, its tissue without counterpart in the other section}.

    They are reasons of a refused pair and warnings of an accepted one. sections: the moving and the fixed one; match,
    settled: level-0 px; um_per_px: of level 0 of both; size_hint: that of step 1, or None.
    """
    layers = list(sections)
    if settled.accepted:
        remark, alone = remark_on_pair(sections, settled.transform, um_per_px)
        return (replace(settled, warnings=(*settled.warnings, remark)) if remark else settled), alone
    reasons, fixes, alone = list(settled.reasons), [], {}
    hint = size_hint or (hint_of_scale(settled.evidence, layers, um_per_px) if match.trusted else None)
    if hint:
        reasons.append(hint)
        fixes.append("correct the pixel size")
    elif match.trusted:  # the matches hold, so the tissue that one section alone has may spoil the rest
        remark, alone = remark_on_pair(sections, Transform(match.matrix), um_per_px)
        if remark:
            reasons.append(remark)
            fixes.append("leave these pieces out (samples.<sample>.leave_out)")
    return replace(settled, reasons=tuple(reasons), fixes=tuple(fixes)), alone
