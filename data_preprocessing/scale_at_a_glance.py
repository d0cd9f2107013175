"""Size and scale of every section of a sample, printed by step 0_2 once the sample is complete."""
import sys
from collections.abc import Iterator

import cv2
import numpy as np

from common.errors import LayerError
from common.geometry import Geometry
from common.io import read_json, read_picture
from common.jobs import Context
from common.layout import Layout
from common.pieces import label_pieces
from common.status import read_status
from common.tissue_size import TissueSize, size_warning

MADE_BY = "0_2_tissue_mask.py"


def print_scales(context: Context, step: str) -> int:
    """Print the lines of each chosen sample that is complete; the warnings go to stderr. Returns the exit code 0.

    A sample is complete when each of its sections has an overview or was left out.
    """
    for sample in sorted(context.config.listed_samples):
        sizes, lines = [], []
        for layer in context.all_samples.layers_of(sample):
            if not has_overview(context.layout, sample, layer):
                if not was_left_out(context.layout, step, sample, layer):
                    break
                continue
            try:
                geometry = context.geometry(sample, layer)
                size, line = measured(context.layout, sample, layer, geometry)
            except LayerError as error:
                lines.append(f"{step}  {sample}/{layer}: no size ({error})")
                continue
            sizes.append(size)
            lines.append(f"{step}  {sample}/{layer}: {line}")
        else:
            print("".join(f"{line}\n" for line in lines), end="")
            for warning in warnings_of(sizes):
                print(f"{step}  {sample}: WARNING {warning}", file=sys.stderr)
    return 0


def has_overview(layout: Layout, sample: str, layer: int) -> bool:
    return layout.mask(sample, layer).is_file() and layout.thumbnail_info(sample, layer).is_file()


def was_left_out(layout: Layout, step: str, sample: str, layer: int) -> bool:
    return read_status(layout).get(f"{sample}/{layer}", {}).get(step, "").startswith("left out")


def measured(layout: Layout, sample: str, layer: int, geometry: Geometry) -> tuple[TissueSize, str]:
    """The tissue of one section, and its line on screen. Raises LayerError for an overview that cannot be read."""
    mask = read_picture(layout.mask(sample, layer), MADE_BY) > 0  # (h, w)
    info = read_json(layout.thumbnail_info(sample, layer), MADE_BY)
    um = geometry.um_per_px
    mm_per_px = np.array(info["scale"]) * um / 1000  # (2,): per mask px
    width, height = (side * um / 1000 for side in (info["width_px"], info["height_px"]))
    box_width, box_height = cv2.boundingRect(mask.astype(np.uint8))[2:] * mm_per_px
    size = TissueSize(layer, float(mask.sum() * mm_per_px.prod()), um, geometry.source, int(label_pieces(mask).max()))
    pieces = f", {size.n_pieces} pieces" if size.n_pieces > 1 else ""
    return size, (f"{size.area_mm2:.3g} mm2 of tissue within {box_width:.3g} x {box_height:.3g} mm{pieces}; picture "
                  f"{width:.3g} x {height:.3g} mm; pitch {geometry.pitch_px:.4g} px = {geometry.pitch_um:g} um; "
                  f"{um:.4g} um/px by {geometry.source}")


def warnings_of(sizes: list[TissueSize]) -> Iterator[str]:
    """A line for each section whose tissue is unlike that of the section with the median area; at least one line if
    the smallest and the largest are unlike.
    """
    by_area = sorted(sizes, key=lambda one: one.area_mm2)
    if len(by_area) < 2:
        return
    middle = by_area[(len(by_area) - 1) // 2]
    found = [warning for one in sizes if one is not middle and (warning := size_warning(middle, one))]
    extremes = size_warning(by_area[0], by_area[-1])
    yield from found or ([extremes] if extremes else [])
