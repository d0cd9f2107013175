"""Step 1: crop spot, region and global patches from a section's H&E image.

INPUT   imgs/<sample>/<layer>.<ext>                             H&E
        location/<sample>/<layer>.csv                           spots: barcode, pixel_x, pixel_y (level-0 px), i, j
OUTPUT  patches_csv/patches_<size>/<sample>/<layer>.csv         patch_name, x, y (corner, level-0 px, may be negative),
                                                                i, j (array position of a spot; column, row of the
                                                                grid), width, height (level-0 px)
        cropped_imgs/patches_<size>/<sample>/<layer>.h5         img (N,S,S,3) uint8, coords (N,2) int64 (centre,
                                                                level-0 px), barcode (N,)
for size 224 (centred on each spot), 512 (grid cells that hold a spot) and 1024 (grid cells that overlap such a region).
The window read from the slide is `size` reference px wide (common/geometry.py), resized to the nominal size, and white
beyond the slide.
Source: Zhu et al., CVPR 2025.

    python data_preprocessing/1_cropped_multi_level_patch.py --root_path data/her2st
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import argparse
from collections.abc import Iterator

import numpy as np
import pandas as pd

from common import cli, jobs
from common.errors import LayerError
from common.io import read_location, write_patches, write_table
from common.layout import SIZES
from common.slide import Slide, open_slide
from data_preprocessing.patches import centres, level_tables

STEP = "1_cropped_multi_level_patch"


def crop(slide: Slide, table: pd.DataFrame, size: int) -> Iterator[np.ndarray]:
    """The windows of a patch table in turn, resized to the nominal size: (size, size, 3) uint8."""
    for x, y, width, height in table[["x", "y", "width", "height"]].to_numpy().tolist():
        yield slide.read(x, y, width, height, out_px=(size, size))


def count_inside(location: pd.DataFrame, slide_px: tuple[int, int]) -> int:
    """Number of spot centres on the slide."""
    return int((location["pixel_x"].between(0, slide_px[0]) & location["pixel_y"].between(0, slide_px[1])).sum())


def layer_job(context: jobs.Context, sample: str, layer: int) -> jobs.Job:
    """The patches of one layer."""
    layout, geometry = context.layout, context.geometry(sample, layer)
    image = layout.image(sample, layer) or layout.new_image(sample, layer, ".jpg")
    spots = layout.location(sample, layer)
    window_px = {size: geometry.window_px(size) for size in SIZES}
    outputs = []
    for size in SIZES:
        outputs += [layout.patches_csv(size, sample, layer), layout.patches(size, sample, layer)]

    def work() -> str:
        location = read_location(spots)
        slide = open_slide(image)
        n_inside = count_inside(location, slide.size_px)
        if n_inside == 0:
            raise LayerError(spots, f"no spot on the slide of {slide.size_px[0]} x {slide.size_px[1]} px",
                             "level-0 px of this image", "correct the positions or the image")
        tables = level_tables(location, slide.size_px, window_px)
        for size, table in tables.items():
            write_table(layout.patches_csv(size, sample, layer), table)
            write_patches(layout.patches(size, sample, layer), crop(slide, table, size), size, centres(table),
                          list(table["patch_name"]))
        beyond = f", {len(location) - n_inside} spots beyond the slide" if n_inside < len(location) else ""
        return ", ".join(f"{len(table)} of {size} px" for size, table in tables.items()) + beyond

    return jobs.Job(sample, layer, inputs=[image, spots], outputs=outputs, work=work, settings={"window_px": window_px})


def build_parser() -> argparse.ArgumentParser:
    return cli.make_parser(__doc__, sample=True, layer=True, workers=True)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return jobs.run_layers(STEP, __file__, args, layer_job)


if __name__ == "__main__":
    sys.exit(main())
