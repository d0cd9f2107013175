"""Registration step 2: refine every pair with ANTs, judge it, draw it.

INPUT   registration/<sample>/xfeat/<moving>_to_<fixed>.json      step 1
        tissue/<sample>/<layer>.{jpg,png,json}                    overview of step 0_2
OUTPUT  registration/<sample>/pairs/<moving>_to_<fixed>.json
            matrix      (2, 3) float64: points of the moving layer (level-0 px) -> points of the fixed layer (level-0 px)
            method, fallback, matches, inliers (of step 1); ants: whether the refinement was kept
            before, after    tissue_dice and image_correlation, laid on each other by level-0 px and registered
            scale_x, scale_y, shear, rotation_deg, determinant
        registration/<sample>/pairs/<moving>_to_<fixed>.mat       the same as ITK affine (maps points as the matrix does, px)
        registration/<sample>/overlays/<moving>_to_<fixed>.jpg    before with the matches | after: fixed cyan, moving red

The refinement is dropped if it loses tissue Dice or image correlation. Source: Zhu et al., CVPR 2025.

    python registration/Step2_registration_ANTs.py --root_path data/her2st
"""
import sys; from pathlib import Path
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import argparse

import numpy as np

from common import cli
from common.io import write_picture
from common.layout import Layout
from registration.sections import make_view, overview_files, partner_of, read_section
from registration.transforms import compose, describe, identity, invert, read_transform, write_itk, write_transform

STEP = "Step2_registration_ANTs"
MADE_BY = "Step1_affine_registration_2d_PAS_2048_xfeat.py"


def layer_job(context: cli.Context, sample: str, layer: int) -> cli.Job:
    """The pair of which `layer` is the moving one."""
    layout, fixed = context.layout, partner_of(context, sample, layer)
    if fixed is None:
        return cli.Job(sample, layer, [], [], lambda: "the middle layer, it stays where it is")
    inputs = [layout.pair_coarse(sample, layer, fixed), *overview_files(layout, sample, layer), *overview_files(layout, sample, fixed)]
    outputs = [layout.pair(sample, layer, fixed), layout.pair_itk(sample, layer, fixed), layout.overlay(sample, layer, fixed)]
    return cli.Job(sample, layer, inputs, outputs, lambda: refine_pair(layout, sample, layer, fixed))


def refine_pair(layout: Layout, sample: str, moving: int, fixed: int) -> str:
    from registration.pictures import pair_overlay
    from registration.quality import judge
    from registration.refinement import SIDE_PX, refine
    coarse, found = read_transform(layout.pair_coarse(sample, moving, fixed), MADE_BY)
    sections = [read_section(layout, sample, layer) for layer in (moving, fixed)]
    views = [make_view(section, SIDE_PX) for section in sections]

    def in_view(matrix: np.ndarray) -> np.ndarray:
        return compose(invert(views[1].to_level0), matrix, views[0].to_level0)

    refined, kept = refine(*views, in_view(coarse))
    matrix = compose(views[1].to_level0, refined, invert(views[0].to_level0))
    before, after = judge(*views, in_view(identity())), judge(*views, refined)
    of_step_1 = {name: found[name] for name in ("method", "fallback", "matches", "inliers")}
    write_transform(layout.pair(sample, moving, fixed), matrix, moving, fixed, **of_step_1, ants=kept, before=before, after=after,
                    **describe(matrix))
    write_itk(layout.pair_itk(sample, moving, fixed), matrix)
    change = f"tissue Dice {before['tissue_dice']:.3f} to {after['tissue_dice']:.3f}"
    title = f"{sample}: layer {moving} (red) on {fixed} (cyan)   {change}   {found['method']}"
    points = [np.asarray(found[name]).reshape(-1, 2) for name in ("moving_points", "fixed_points")]
    write_picture(layout.overlay(sample, moving, fixed), pair_overlay(*sections, matrix, *points, title))
    change += f", correlation {before['image_correlation']:.2f} to {after['image_correlation']:.2f}"
    return f"{layout.pair(sample, moving, fixed)}: {change}" + ("" if kept else "; ANTs refinement dropped")


def build_parser() -> argparse.ArgumentParser:
    return cli.make_parser(__doc__, workers=True)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return cli.run_layers(STEP, __file__, args, layer_job)


if __name__ == "__main__":
    sys.exit(main())
