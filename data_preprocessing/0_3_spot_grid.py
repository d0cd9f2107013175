"""Step 0_3: spots for an image-only section: a lattice over its tissue.

INPUT   tissue/<sample>/<layer>.{jpg,png,json}      overview of step 0_2
        config: array; pitch_um, or a finer grid_pitch_um
OUTPUT  location/<sample>/<layer>.csv               as for a measured section: barcode ('grid_<i>x<j>'),
                                                    pixel_x, pixel_y (level-0 px, spot centres, on tissue),
                                                    i, j (array column, row; hex: i steps by 2 in a row)
        tissue/<sample>/<layer>_grid.jpg            to look at: the mask's outline and these spots,
                                                    longer side at most 1024 px

A section with counts, or with spots of another origin, is measured and stays as it is. Another pitch or mask gives new
spots. To keep spots that you edited, give them barcodes of your own; edited ones with the old barcodes are kept as
<layer>.csv.bak. Source: own (data_preprocessing/grid.py).

    python data_preprocessing/0_3_spot_grid.py --root_path data/her2st
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import argparse

import numpy as np

from common import cli, jobs
from common.errors import LayerError
from common.geometry import Geometry, check_lattice
from common.io import read_json, read_picture, write_picture, write_table
from common.layout import Layout
from common.written import Written
from data_preprocessing.grid import is_measured, spot_grid
from data_preprocessing.tissue import drawn

STEP = "0_3_spot_grid"
MADE_BY = "0_2_tissue_mask.py"


def layer_job(context: jobs.Context, sample: str, layer: int) -> jobs.Job:
    """The spots of one layer. If it is left out, no spots of an earlier run stay."""
    layout, config = context.layout, context.config
    if is_measured(layout, sample, layer):
        return jobs.Job(sample, layer, [], [], lambda: "measured, its spots stay as they are")
    inputs = [layout.thumbnail(sample, layer), layout.mask(sample, layer), layout.thumbnail_info(sample, layer)]
    outputs = [layout.location(sample, layer), layout.grid_picture(sample, layer)]
    geometry, pitch_um = context.geometry(sample, layer), config.grid_pitch_um or config.pitch_um

    def work() -> str:
        try:
            return write_spots(layout, sample, layer, geometry, config.array, pitch_um)
        except LayerError:
            written_by_us(layout, sample, layer).remove([layout.location(sample, layer)])
            layout.grid_picture(sample, layer).unlink(missing_ok=True)
            raise
    settings = {"array": config.array, "pitch_px": geometry.px_of(pitch_um)}
    return jobs.Job(sample, layer, inputs, outputs, work, settings)


def written_by_us(layout: Layout, sample: str, layer: int) -> Written:
    """The record of the lattice that this step laid; a person may have changed it since."""
    return Written(layout.written(STEP, sample, layer), layout.root)


def write_spots(layout: Layout, sample: str, layer: int, geometry: Geometry, array: str, pitch_um: float) -> str:
    """Write the spots of one layer; returns one line.

    Raises LayerError if step 0_2 left the layer out, no spot fits on the tissue, or tissue or spots are more than a
    section can hold.
    """
    mask = read_picture(layout.mask(sample, layer), MADE_BY) > 0  # (h, w)
    info = read_json(layout.thumbnail_info(sample, layer), MADE_BY)
    scale, pitch_px = np.array(info["scale"]), geometry.px_of(pitch_um)
    check_lattice(geometry, mask.sum() * scale.prod(), pitch_px, layout.mask(sample, layer))
    location = spot_grid(mask, scale, pitch_px, array)
    if location.empty:
        raise LayerError(layout.mask(sample, layer), f"no place for a spot every {pitch_px:.4g} px",
                         "tissue wider than the pitch", "set a finer grid_pitch_um, or skip the section in the config")
    thumbnail = read_picture(layout.thumbnail(sample, layer), MADE_BY)
    xy = location[["pixel_x", "pixel_y"]].to_numpy()  # (n_spots, 2)
    write_picture(layout.grid_picture(sample, layer), drawn(thumbnail, mask, xy, (info["width_px"], info["height_px"])))
    with written_by_us(layout, sample, layer).writing(layout.location(sample, layer)) as temporary:
        write_table(temporary, location)
    return (f"{layout.location(sample, layer)}: {len(location)} spots, {array}, "
            f"{pitch_um:g} um = {pitch_px:.4g} px apart ({geometry.um_per_px:.4g} um/px by {geometry.source})")


def build_parser() -> argparse.ArgumentParser:
    return cli.make_parser(__doc__, workers=True)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return jobs.run_layers(STEP, __file__, args, layer_job)


if __name__ == "__main__":
    sys.exit(main())
