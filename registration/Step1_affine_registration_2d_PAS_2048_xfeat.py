"""Registration step 1: every layer onto its neighbour towards the middle, by XFeat keypoints on the tissue.

INPUT   tissue/<sample>/<layer>.{jpg,png,json}               overview of step 0_2
OUTPUT  registration/<sample>/xfeat/<moving>_to_<fixed>.json
            matrix         [[a, b, x], [c, d, y]] float64: points of the moving layer (level-0 px) -> points of the fixed layer (level-0 px)
            method         'xfeat', or 'outline' where too few keypoints agree (fallback: true)
            matches        mutual nearest neighbours; inliers: those that agree with the matrix
            moving_points, fixed_points    the inliers, (n, 2) level-0 px

The stack is made of the chosen layers that step 0_2 found tissue on; the middle is the one at index n // 2. Source: Zhu et al., CVPR 2025.

    python registration/Step1_affine_registration_2d_PAS_2048_xfeat.py --root_path data/her2st
"""
import sys; from pathlib import Path
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import argparse

import numpy as np

from common import cli
from common.layout import Layout
from registration.sections import make_view, overview_files, partner_of, read_section
from registration.transforms import write_transform

STEP = "Step1_affine_registration_2d_PAS_2048_xfeat"


def layer_job(context: cli.Context, sample: str, layer: int) -> cli.Job:
    """The pair of which `layer` is the moving one."""
    layout, fixed = context.layout, partner_of(context, sample, layer)
    if fixed is None:
        return cli.Job(sample, layer, [], [], lambda: "the middle layer, it stays where it is")
    inputs = [*overview_files(layout, sample, layer), *overview_files(layout, sample, fixed)]
    return cli.Job(sample, layer, inputs, [layout.pair_coarse(sample, layer, fixed)], lambda: register_pair(layout, sample, layer, fixed))


def register_pair(layout: Layout, sample: str, moving: int, fixed: int) -> str:
    from registration.matching import SIDE_PX, register
    match = register(*(make_view(read_section(layout, sample, layer), SIDE_PX) for layer in (moving, fixed)))
    path = layout.pair_coarse(sample, moving, fixed)
    fallback = match.method != "xfeat"
    write_transform(path, match.matrix, moving, fixed, method=match.method, fallback=fallback, matches=match.matches, inliers=match.inliers,
                    moving_points=np.round(match.moving_points, 1).tolist(), fixed_points=np.round(match.fixed_points, 1).tolist())
    return f"{path}: {match.inliers} of {match.matches} matches agree" + (f"; too few, by {match.method}" if fallback else "")


def build_parser() -> argparse.ArgumentParser:
    return cli.make_parser(__doc__, workers=True)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return cli.run_layers(STEP, __file__, args, layer_job)


if __name__ == "__main__":
    sys.exit(main())
