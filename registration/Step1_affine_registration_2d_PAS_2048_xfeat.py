"""Registration step 1: every section onto its neighbour towards the middle, by XFeat keypoints on the tissue.

INPUT   tissue/<sample>/<layer>.{jpg,png,json}               overview of step 0_2
        files named by samples.<sample>.pairs of the config  landmarks (CSV) or a transform (JSON, .mat); they replace
                                                             the automatic registration of the pair
OUTPUT  registration/<sample>/xfeat/<moving>_to_<fixed>.json
            matrix         [[a, b, x], [c, d, y]] float64: points of the moving section (level-0 px) -> points of the
                           fixed section (level-0 px)
            method         'xfeat', or given by hand: 'landmarks', 'transform'
            matches        number of mutual nearest neighbours
            inliers        number of matches that agree with the matrix (step 2 judges whether they are enough)
            moving_points, fixed_points    the inliers, (n, 2) level-0 px
            size_hint      only where too few matches agree and the tissue of one section is much larger: text
            pieces         of the fixed tissue: share of it, inliers of a fit by its own matches, centre (fixed, level-0
                           px) and the point of the moving section (level-0 px) that this fit maps there, or null

The stack is the chosen sections on which step 0_2 found tissue; the middle is the one at index n // 2. Sections may
differ in pixel size, be rotated by any angle, and lie upside down. Source: Zhu et al., CVPR 2025.

    python registration/Step1_affine_registration_2d_PAS_2048_xfeat.py --root_path data/her2st
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import argparse
from dataclasses import asdict

import numpy as np

from common import cli, jobs
from common.config import PairConfig
from common.layout import Layout
from registration.sections import (
    overview_files,
    pair_name,
    pair_names,
    partner_of,
    read_section,
    render_pair,
    um_per_px,
)
from registration.transforms import write_transform

STEP = "Step1_affine_registration_2d_PAS_2048_xfeat"


def layer_job(context: jobs.Context, sample: str, layer: int) -> jobs.Job:
    """The pair whose moving section is `layer`. Raises DataError if the config names a pair outside the chain."""
    from registration.by_hand import check_names, given_file
    layout, given = context.layout, context.all_samples.samples[sample].pairs
    check_names(given, pair_names(context, sample), context.args.config or layout.config)
    fixed = partner_of(context, sample, layer)
    if fixed is None:
        return jobs.Job(sample, layer, [], [], lambda: "the middle section, it stays where it is")
    own, sizes_um = given.get(pair_name(layer, fixed)), um_per_px(context, sample, layer, fixed)
    inputs = [*overview_files(layout, sample, layer), *overview_files(layout, sample, fixed)]
    inputs += [given_file(layout.root, own)] if own else []
    return jobs.Job(sample, layer, inputs, [layout.pair_coarse(sample, layer, fixed)],
                    lambda: register_pair(layout, sample, layer, fixed, sizes_um, own),
                    settings={"um_per_px": sizes_um, "given": own.model_dump() if own else None})


def register_pair(layout: Layout, sample: str, moving: int, fixed: int, sizes_um: tuple[float, float],
                  own: PairConfig | None) -> str:
    from registration.by_hand import read_given
    from registration.matching import TISSUE_PX, register
    from registration.size_hint import hint_of_areas
    path, hint = layout.pair_coarse(sample, moving, fixed), None
    if own:
        match = read_given(layout.root, own)
    else:
        sections = {layer: read_section(layout, sample, layer) for layer in (moving, fixed)}
        match = register(*render_pair(*sections.values(), sizes_um, TISSUE_PX))
        hint = None if match.trusted else hint_of_areas(sections, sizes_um)
    write_transform(path, match.matrix, moving, fixed,
                    method=match.method, matches=match.matches, inliers=match.inliers,
                    moving_points=np.round(match.moving_points, 1).tolist(),
                    fixed_points=np.round(match.fixed_points, 1).tolist(),
                    pieces=[asdict(piece) for piece in match.pieces], **({"size_hint": hint} if hint else {}))
    if own:
        return f"{path}: {moving} -> {fixed} by the given {match.method}"
    too_few = "" if match.trusted else ": too few" + (f"; {hint}" if hint else "")
    return f"{path}: {moving} -> {fixed}, {match.inliers} of {match.matches} matches agree{too_few}"


def build_parser() -> argparse.ArgumentParser:
    return cli.make_parser(__doc__, workers=True)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return jobs.run_layers(STEP, __file__, args, layer_job)


if __name__ == "__main__":
    sys.exit(main())
