"""Step 0_2: a thumbnail and a tissue mask of every section, and a check that its spots lie on the tissue.

INPUT   imgs/<sample>/<layer>.<ext>         H&E, anything OpenSlide, tifffile or Pillow opens
        imgs/<sample>/<layer>.geojson       its tissue, optional: replaces the automatic mask (outline.py has the form)
        location/<sample>/<layer>.csv       spots, if the section was measured
OUTPUT  tissue/<sample>/<layer>.jpg         thumbnail, RGB uint8, longer side at most 2048 px, never enlarged
        tissue/<sample>/<layer>.png         tissue mask of the same size, uint8: 255 tissue, 0 empty slide
        tissue/<sample>/<layer>_mask.jpg    to look at: the mask's outline and the spots, longer side at most 1024 px
        tissue/<sample>/<layer>.json        width_px, height_px (level 0); scale: [x, y] level-0 px per thumbnail px;
                                            tissue_share of the thumbnail (0..1); pixel_size_um of level 0 as the image
                                            states it, believed or not, or null; um_per_px that is used
                                            (common/geometry.py); thumbnail_sha256, of the JPEG;
                                            spots_on_tissue (0..1) and orientation ("as given", or a better one),
                                            null without spots

Once all sections of a sample are there, one line each gives the area of its tissue (mm2), its pitch (px) and its um per
px. A warning names sections of one sample whose tissue areas differ by more than 1.5 times.
`samples.<sample>.leave_out: {<layer>: [[x, y], ...]}` leaves out the piece of tissue under each point (level-0 px),
such as control tissue on the slide. Registration, spot grid and everything later are then without it.

Later steps (registration, spot grids) read this overview instead of the slide. A section is left out if it cannot be
read, no source states its scale, two sources contradict each other, it has no tissue, or its spots lie on the tissue
only after a flip or turn of their coordinates (often swapped x and y). The picture with the outline is always written.
Source: own (data_preprocessing/tissue.py, data_preprocessing/orientation.py).

    python data_preprocessing/0_2_tissue_mask.py --root_path data/her2st
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import argparse
import os

import numpy as np

from common import cli, jobs
from common.errors import LayerError
from common.exit_codes import guarded
from common.image_names import image_stem, image_suffix, is_image_name, why_no_image
from common.io import read_location, write_json, write_picture
from common.layout import Layout
from common.names import visible
from common.picture_faults import require_image_file
from common.recipe import file_digest
from common.slide import open_slide
from common.written import Written
from data_preprocessing.grid import measured_location
from data_preprocessing.leave_out import check_spots, without_pieces
from data_preprocessing.orientation import Verdict, check
from data_preprocessing.outline import doubt, outline_mask
from data_preprocessing.scale_at_a_glance import print_scales
from data_preprocessing.tissue import drawn, tissue_mask

STEP = "0_2_tissue_mask"
MAX_SIDE_PX = 2048


def layer_job(context: jobs.Context, sample: str, layer: int) -> jobs.Job:
    """Overview of one layer. If it is left out, no overview of an earlier run stays."""
    layout, refuse, um_per_px = context.layout, context.config.refuse_flipped_spots, None
    points = context.config.listed_samples[sample].leave_out.get(layer, [])
    if layout.image(sample, layer) is not None:
        um_per_px = context.geometry(sample, layer).um_per_px
    outline = layout.outline(sample, layer) if os.path.lexists(layout.outline(sample, layer)) else None
    inputs = [path for path in (layout.image(sample, layer), outline, measured_location(layout, sample, layer)) if path]
    outputs = [path(sample, layer)
               for path in (layout.thumbnail, layout.mask, layout.mask_picture, layout.thumbnail_info)]

    def work() -> str:
        try:
            return write_overview(layout, sample, layer, refuse, um_per_px, points)
        except LayerError:
            written_by_us(layout, sample, layer).remove([layout.mask(sample, layer)])
            for path in (layout.thumbnail(sample, layer), layout.thumbnail_info(sample, layer)):
                path.unlink(missing_ok=True)
            raise
    settings = {"refuse_flipped_spots": refuse, "um_per_px": um_per_px} | ({"leave_out": points} if points else {})
    return jobs.Job(sample, layer, inputs, outputs, work, settings)


def written_by_us(layout: Layout, sample: str, layer: int) -> Written:
    """The record of the mask that this step drew; a person may have changed it since."""
    return Written(layout.written(STEP, sample, layer), layout.root)


def write_overview(layout: Layout, sample: str, layer: int, refuse: bool, um_per_px: float | None,
                   leave_out: list[list[float]]) -> str:
    """Write the overview of one layer; returns one line. leave_out: points on pieces of tissue, level-0 px.

    Raises LayerError if the image cannot be read, has no tissue or, with `refuse`, is not that of the spots; or if a
    piece to leave out is not there or holds measured spots.
    """
    image = layout.image(sample, layer)
    if image is None:
        for other in sorted((layout.root / "imgs" / sample).glob(f"{layer}.*")):
            if why_no_image(other):
                require_image_file(other)
        raise LayerError(layout.new_image(sample, layer, ".*"), "no image", "the section's H&E",
                         "put it there, or skip the section in the config")
    slide = open_slide(image)
    thumbnail = slide.thumbnail(MAX_SIDE_PX)  # (h, w, 3)
    mask, remarks = mask_of(layout, sample, layer, slide.size_px, thumbnail)  # (h, w)
    xy = spots(layout, sample, layer)  # (n_spots, 2)
    write_picture(layout.mask_picture(sample, layer), drawn(thumbnail, mask, xy, slide.size_px))
    if not mask.any():
        raise LayerError(image, "no tissue", "a section stained with H&E",
                         "look at the image, or skip the section in the config")
    verdict = check(xy, mask, slide.size_px) if len(xy) else None
    if verdict and verdict.wrong and refuse:
        raise LayerError(layout.location(sample, layer), verdict.found, "the spots on the tissue",
                         f"{verdict.fix}; picture: {layout.mask_picture(sample, layer)}; "
                         "if the positions are right: refuse_flipped_spots: false")
    (width, height), (rows, columns) = slide.size_px, mask.shape
    if leave_out:
        whole, mask = mask, without_pieces(mask, leave_out, slide.size_px, layout.image(sample, layer))
        check_spots(xy, whole & ~mask, slide.size_px, layout.location(sample, layer))
        write_picture(layout.mask_picture(sample, layer), drawn(thumbnail, mask, xy, slide.size_px))
    share = float(mask.mean())
    write_picture(layout.thumbnail(sample, layer), thumbnail)
    with written_by_us(layout, sample, layer).writing(layout.mask(sample, layer)) as temporary:
        write_picture(temporary, mask.astype(np.uint8) * 255)
    info = {"width_px": width, "height_px": height, "scale": [width / columns, height / rows],
            "tissue_share": share, "pixel_size_um": slide.pixel_size_um, "um_per_px": um_per_px,
            "spots_on_tissue": verdict and verdict.on_tissue, "orientation": verdict and verdict.orientation,
            "thumbnail_sha256": file_digest(layout.thumbnail(sample, layer))}
    write_json(layout.thumbnail_info(sample, layer), info)
    without = f" without that at {len(leave_out)} points of leave_out" if leave_out else ""
    remarks = "".join(f"; {remark}" for remark in [*slide.remarks, *remarks])
    return f"{layout.mask(sample, layer)}: {columns} x {rows} px, {share:.0%} tissue{without}{words(verdict)}{remarks}"


def mask_of(layout: Layout, sample: str, layer: int, size_px: tuple[int, int],
            thumbnail: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """(the tissue (h, w) bool of a thumbnail (h, w, 3), remarks): by the section's outline, else by its colours.

    Raises LayerError for an outline that is broken, empty or not of this picture.
    """
    path, automatic = layout.outline(sample, layer), tissue_mask(thumbnail)
    if not os.path.lexists(path):
        return automatic, []
    mask, outline = outline_mask(path, size_px, automatic.shape)
    return mask, [f"tissue by {path.name}: {outline}", *doubt(mask, automatic)]


def spots(layout: Layout, sample: str, layer: int) -> np.ndarray:
    """Level-0 spot centres (n_spots, 2) float64; none for an image-only layer, even if it has spots of step 0_3."""
    path = measured_location(layout, sample, layer)
    return read_location(path)[["pixel_x", "pixel_y"]].to_numpy() if path else np.zeros((0, 2))


def words(verdict: Verdict | None) -> str:
    """The end of the line on screen."""
    if verdict is None:
        return ""
    if verdict.found:
        return f"; warning: {verdict.found}: {verdict.fix}"
    return f", {verdict.on_tissue:.0%} of the spots on it"


def reported(context: jobs.Context) -> int:
    """Print what is not taken, and the sizes. Returns the exit code 0."""
    print_untaken(context)
    return print_scales(context, STEP)


def print_untaken(context: jobs.Context) -> None:
    """A line on stderr for each picture in imgs/<sample>/ that is no section's."""
    for sample in sorted(context.config.listed_samples):
        layers = set(map(str, context.all_samples.layers_of(sample)))
        for path in visible(context.layout.root / "imgs" / sample):
            refused = why_no_image(path)
            if is_image_name(path) and not image_stem(path).isdecimal():
                print(f"{STEP}  not taken: {path}: its name is no number; fix: rename it to the section's number, "
                      f"such as 1{image_suffix(path)}", file=sys.stderr)
            elif refused and path.name.partition(".")[0] not in layers:
                print(f"{STEP}  not taken: {path}: {refused[0]}, which is not read; fix: {refused[1]}", file=sys.stderr)


def build_parser() -> argparse.ArgumentParser:
    return cli.make_parser(__doc__, workers=True)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    code = jobs.run_layers(STEP, __file__, args, layer_job)
    return code or guarded(lambda: reported(jobs.open_context(args)))


if __name__ == "__main__":
    sys.exit(main())
