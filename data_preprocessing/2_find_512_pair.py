"""Step 2: which spots lie in which region (512-patch).

INPUT   location/<sample>/<layer>.csv                           spots: barcode, pixel_x, pixel_y (level-0 px)
        patches_csv/patches_512/<sample>/<layer>.csv            the kept regions of step 1
OUTPUT  patches_csv/patches_512/<sample>/<layer>_spots.csv      the same table and spots (barcodes joined by ';',
                                                                location order)

A spot belongs to the grid cell its centre lies in. Source: Zhu et al., CVPR 2025.

    python data_preprocessing/2_find_512_pair.py --root_path data/her2st
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import argparse

from common import cli, jobs
from common.layout import REGION
from data_preprocessing.patches import pair_level

STEP = "2_find_512_pair"


def layer_job(context: jobs.Context, sample: str, layer: int) -> jobs.Job:
    """The spots of each region of one layer."""
    layout = context.layout
    inputs = [layout.location(sample, layer), layout.patches_csv(REGION, sample, layer)]
    outputs = [layout.region_pairs_csv(sample, layer)]
    return jobs.Job(sample, layer, inputs, outputs, lambda: pair_level(layout, REGION, sample, layer))


def build_parser() -> argparse.ArgumentParser:
    return cli.make_parser(__doc__, sample=True, layer=True, workers=False)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return jobs.run_layers(STEP, __file__, args, layer_job)


if __name__ == "__main__":
    sys.exit(main())
