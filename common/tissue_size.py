"""Compare the tissue of two sections of a block by area: neighbours have about the same."""
from dataclasses import dataclass
from math import sqrt

MAX_RATIO = 1.5     # of two tissue areas, mm²: neighbouring sections of a block differ by less (real stacks: 1.1)
SAME_IN_PX = 1.2    # tissues whose areas in px differ by less are alike in the pictures


@dataclass(frozen=True)
class TissueSize:
    """The tissue of one section."""
    layer: int
    area_mm2: float
    um_per_px: float    # of level 0
    source: str = ""    # what states um_per_px
    n_pieces: int = 1

    @property
    def area_px(self) -> float:
        """Level-0 px²."""
        return self.area_mm2 * 1e6 / self.um_per_px ** 2

    def __str__(self) -> str:
        by = f" by {self.source}" if self.source else ""
        return f"section {self.layer} ({self.area_mm2:.3g} mm2 at {self.um_per_px:.4g} um/px{by})"


def ratio_of(a: TissueSize, b: TissueSize) -> float:
    """The larger area over the smaller one, 1 or more; 1 if one has no tissue."""
    areas = sorted((a.area_mm2, b.area_mm2))
    return areas[1] / areas[0] if areas[0] > 0 else 1.0


def size_warning(a: TissueSize, b: TissueSize, found: str | None = None) -> str | None:
    """One line if the areas differ by more than MAX_RATIO: both sections, areas and um per px, and likely causes.

    found: the cause, where it is known.
    """
    ratio = ratio_of(a, b)
    if ratio <= MAX_RATIO:
        return None
    small, large = sorted((a, b), key=lambda one: one.area_mm2)
    factor = sqrt(ratio)
    in_px = max(small.area_px, large.area_px) / min(small.area_px, large.area_px)
    alike = "; in px both tissues are about as large" if in_px < SAME_IN_PX else ""
    is_larger = (f"the tissue of {large} is {ratio:.1f} times as large as that of {small}{alike}; "
                 "is the pixel size right?")
    if found:
        return f"{is_larger} {found}"
    other = "" if large.n_pieces == 1 else f"other tissue among the {large.n_pieces} pieces of section {large.layer}, "
    return (f"{is_larger} Likely causes: one pixel size wrong by a factor of {factor:.2f}, a scan at another "
            f"magnification, {other}section {small.layer} torn")
