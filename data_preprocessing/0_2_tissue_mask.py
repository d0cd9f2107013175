"""Step 0_2: a thumbnail of every layer and where on it tissue is.

INPUT   imgs/<sample>/<layer>.<ext>         H&E, anything OpenSlide, tifffile or Pillow opens
OUTPUT  tissue/<sample>/<layer>.jpg         thumbnail, RGB uint8, longer side at most 2048 px, never enlarged
        tissue/<sample>/<layer>.png         tissue mask of the same size, uint8: 255 tissue, 0 empty slide
        tissue/<sample>/<layer>.json        width_px, height_px (level 0); scale: [x, y] level-0 px per thumbnail px;
                                            tissue_share of the thumbnail (0..1); pixel_size_um of level 0 as the slide says, or null

What every later overview step (registration, spot grids) reads instead of the slide. A layer that cannot be read or shows no tissue
is left out. Source: own (data_preprocessing/tissue.py).

    python data_preprocessing/0_2_tissue_mask.py --root_path data/her2st
"""
import sys; from pathlib import Path
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import argparse

import numpy as np

from common import cli
from common.errors import LayerError
from common.io import write_json, write_picture
from common.layout import Layout
from common.slide import open_slide
from data_preprocessing.tissue import tissue_mask

STEP = "0_2_tissue_mask"
MAX_SIDE_PX = 2048


def layer_job(context: cli.Context, sample: str, layer: int) -> cli.Job:
    """Thumbnail and mask of one layer."""
    layout = context.layout
    image = layout.image(sample, layer)
    outputs = [layout.thumbnail(sample, layer), layout.mask(sample, layer), layout.thumbnail_info(sample, layer)]
    return cli.Job(sample, layer, [image] if image else [], outputs, lambda: write_overview(layout, sample, layer))


def write_overview(layout: Layout, sample: str, layer: int) -> str:
    """Raises LayerError if the image cannot be read or holds no tissue."""
    image = layout.image(sample, layer)
    if image is None:
        raise LayerError(layout.new_image(sample, layer, ".*"), "no image", "the layer's H&E",
                         "put it there, or skip the layer in the config")
    slide = open_slide(image)
    thumbnail = slide.thumbnail(MAX_SIDE_PX)  # (h, w, 3)
    mask = tissue_mask(thumbnail)  # (h, w)
    if not mask.any():
        raise LayerError(image, "no tissue", "a stained section", "look at the image, or skip the layer in the config")
    (width, height), (rows, columns) = slide.size_px, mask.shape
    share = float(mask.mean())
    write_picture(layout.thumbnail(sample, layer), thumbnail)
    write_picture(layout.mask(sample, layer), mask.astype(np.uint8) * 255)
    write_json(layout.thumbnail_info(sample, layer), {"width_px": width, "height_px": height, "scale": [width / columns, height / rows],
                                                      "tissue_share": share, "pixel_size_um": slide.pixel_size_um})
    return f"{layout.mask(sample, layer)}: {columns} x {rows} px, {share:.0%} tissue"


def build_parser() -> argparse.ArgumentParser:
    return cli.make_parser(__doc__, workers=True)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return cli.run_layers(STEP, __file__, args, layer_job)


if __name__ == "__main__":
    sys.exit(main())
