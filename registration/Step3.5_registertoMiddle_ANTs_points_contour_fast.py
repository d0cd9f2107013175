"""Registration step 3.5: spot centres and contours of all sections in the middle section's frame.

INPUT   registration/<sample>/to_middle/<layer>.json      step 3, and its field (.npz) where it names one
        registration/<sample>/contours/<layer>.npy        step 0
        location/<sample>/<layer>.csv                     barcode, pixel_x, pixel_y (level-0 px, spot centres)
OUTPUT  spot_regist/<sample>.csv      sample, layer, barcode, registered_x, registered_y (level-0 px of the middle
                                      section); sections in z order, rows as in location
        spot_regist/<sample>.npy      contours in the same frame: (n_spots of the sample, 100, 2) float32, rows as in
                                      the CSV

A section without spots, contours or a way to the middle is left out of the file; the others go on.
Source: Zhu et al., CVPR 2025.

    python registration/Step3.5_registertoMiddle_ANTs_points_contour_fast.py --root_path data/her2st
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import argparse

import numpy as np
import pandas as pd

from common import cli, jobs
from common.contract.walk import hold_to_contract
from common.errors import LayerError
from common.io import read_location, read_npy, write_npy, write_table
from common.layout import Layout
from common.status import first_failure, set_status
from registration.foreign_spots import on_foreign_tissue
from registration.sections import usable_layers
from registration.transforms import move, read_bending

STEP = "Step3.5_registertoMiddle_ANTs_points_contour_fast"
MADE_BY = "Step3_registertoMiddle_ANTs.py"
CONTOURS_MADE_BY = "Step0_original_contour_generation.py"


def sample_job(context: jobs.Context, sample: str) -> jobs.Job:
    """The registered spots of one sample, without the layers that an earlier step left out."""
    layout = context.layout
    layers = [layer for layer in usable_layers(context, sample)
              if first_failure(layout, f"{sample}/{layer}", STEP) is None]
    inputs = []
    for layer in layers:
        inputs += files_of(layout, sample, layer)
    return jobs.Job(sample, None, inputs, [layout.spot_regist(sample), layout.spot_regist_contours(sample)],
                    lambda: write_registered(context, sample, layers), settings={"layers": layers})


def files_of(layout: Layout, sample: str, layer: int) -> list[Path]:
    """Inputs of one layer."""
    return [file(sample, layer) for file in (layout.location, layout.contours, layout.to_middle, layout.to_middle_warp)]


def write_registered(context: jobs.Context, sample: str, layers: list[int]) -> str:
    """Write the sample's table and contours. Raises LayerError if no layer has spots."""
    layout = context.layout
    tables, contours = [], []
    for layer in layers:
        try:
            hold_to_contract(layout, context.all_samples, sample, layer, files_of(layout, sample, layer))
            table, contour = registered_spots(layout, sample, layer)
        except LayerError as error:
            set_status(layout, STEP, f"{sample}/{layer}", f"left out: {error}")
            print(f"{STEP}  {sample}/{layer}: left out: {error}", file=sys.stderr)
            continue
        set_status(layout, STEP, f"{sample}/{layer}", "ok")
        say_foreign(layout, sample, layer)
        tables.append(table)
        contours.append(contour)
    if not tables:
        raise LayerError(layout.spot_regist(sample), "no registered section with spots", "at least one",
                         f"see status.json, or run {MADE_BY}")
    spots = pd.concat(tables, ignore_index=True)
    write_table(layout.spot_regist(sample), spots)
    write_npy(layout.spot_regist_contours(sample), np.concatenate(contours))
    return f"{layout.spot_regist(sample)}: {len(spots)} spots of {len(tables)} sections"


def say_foreign(layout: Layout, sample: str, layer: int) -> None:
    """One line on stderr if spots of the layer lie on tissue without counterpart (step 3)."""
    xy = read_location(layout.location(sample, layer))[["pixel_x", "pixel_y"]].to_numpy()
    n_foreign = int(on_foreign_tissue(layout, sample, layer, xy).sum())
    if n_foreign:
        print(f"{STEP}  {sample}/{layer}: WARNING {n_foreign} of {len(xy)} spots on tissue without counterpart "
              f"(foreign_tissue of {layout.quality(sample)})", file=sys.stderr)


def registered_spots(layout: Layout, sample: str, layer: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows of the table and contours (n_spots, 100, 2) float32 of one layer.

    Raises LayerError if a file is missing or does not fit.
    """
    transform, _ = read_bending(layout.to_middle(sample, layer), layout.to_middle_warp(sample, layer), MADE_BY)
    location = read_location(layout.location(sample, layer))
    contours = read_npy(layout.contours(sample, layer), CONTOURS_MADE_BY)  # (n_spots, 100, 2)
    if len(contours) != len(location):
        raise LayerError(layout.contours(sample, layer), f"{len(contours)} contours",
                         f"{len(location)}, one a row of the location file", f"run {CONTOURS_MADE_BY} again")
    centres = move(transform, location[["pixel_x", "pixel_y"]].to_numpy())
    table = pd.DataFrame({"sample": sample, "layer": layer, "barcode": location["barcode"],
                          "registered_x": centres[:, 0], "registered_y": centres[:, 1]})
    return table, move(transform, contours).astype(np.float32)


def build_parser() -> argparse.ArgumentParser:
    return cli.make_parser(__doc__, layer=False, workers=True)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return jobs.run_samples(STEP, __file__, args, sample_job)


if __name__ == "__main__":
    sys.exit(main())
