"""Step 3: which regions (512-patches) lie in which global patch (1024-patch).

INPUT   patches_csv/patches_512/<sample>/<layer>.csv            the kept regions of step 1
        patches_csv/patches_1024/<sample>/<layer>.csv           the kept global patches of step 1
OUTPUT  patches_csv/patches_1024/<sample>/<layer>_regions.csv   the same table and regions (patch names joined by ';')

A region belongs to the grid cell its centre lies in; a global patch that only overlaps a region has none.
Source: Zhu et al., CVPR 2025.

    python data_preprocessing/3_find_1024_pair.py --root_path data/her2st
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import argparse

from common import cli, jobs
from common.layout import GLOBAL, REGION
from data_preprocessing.patches import pair_level

STEP = "3_find_1024_pair"


def layer_job(context: jobs.Context, sample: str, layer: int) -> jobs.Job:
    """The regions of each global patch of one layer."""
    layout = context.layout
    inputs = [layout.patches_csv(REGION, sample, layer), layout.patches_csv(GLOBAL, sample, layer)]
    outputs = [layout.global_pairs_csv(sample, layer)]
    return jobs.Job(sample, layer, inputs, outputs, lambda: pair_level(layout, GLOBAL, sample, layer))


def build_parser() -> argparse.ArgumentParser:
    return cli.make_parser(__doc__, sample=True, layer=True, workers=False)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return jobs.run_layers(STEP, __file__, args, layer_job)


if __name__ == "__main__":
    sys.exit(main())
