"""Registration step 2: refine every pair with ANTs, judge it, draw it.

INPUT   registration/<sample>/xfeat/<moving>_to_<fixed>.json      step 1
        tissue/<sample>/<layer>.{jpg,png,json}                    overview of step 0_2
OUTPUT  registration/<sample>/pairs/<moving>_to_<fixed>.json
            matrix      (2, 3) float64: points of the moving section (level-0 px) -> points of the fixed section
                        (level-0 px)
            accepted    false: the gate refused the registration, `reasons` states why, and the matrix comes from the
                        tissue outlines or centroids (method 'outline' or 'centroid')
            reasons, warnings    text
            method      'xfeat', 'landmarks', 'transform'; refused: 'outline', 'centroid'
            refinement  the refinement by ANTs that was kept: 'none', 'affine', 'syn'
            inliers, matches, mirrored, scale_um_x, scale_um_y, shear, rotation_deg, determinant, on_canvas,
            tissue_dice, containment, image_correlation, overlap_correlation, spread, disagreement
                        the evidence of the gate (registration/gate.py)
            before, after    tissue_dice and image_correlation: corners on each other at equal um per px, and registered
            pieces      of the fixed tissue: distance of each from where its own matches alone would place it: off_px
                        (level 0), off_um, or null
        registration/<sample>/pairs/<moving>_to_<fixed>.mat       the matrix as ITK affine (maps the same points, px)
        registration/<sample>/pairs/<moving>_to_<fixed>.npz, ..._{points,images}.nii.gz
                        only after SyN: the displacement field, `warp` of the JSON (registration/transforms.py), and the
                        same as ITK fields
        registration/<sample>/overlays/<moving>_to_<fixed>.jpg    before with the matches | after: fixed cyan, moving
                        red, orange outlines: tissue without counterpart in the other section | checkerboard

A refinement that loses tissue Dice or image correlation is dropped; a pair given by hand is not refined. A refused pair
never stops the sample. Source: Zhu et al., CVPR 2025.

    python registration/Step2_registration_ANTs.py --root_path data/her2st
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import argparse
from typing import TYPE_CHECKING

from common import cli, jobs
from common.io import reading, write_picture
from common.layout import Layout
from registration.sections import overview_files, pair_name, partner_of, read_section, render_pair, um_per_px
from registration.transforms import read_transform, write_itk, write_itk_warp, write_transform

if TYPE_CHECKING:
    from registration.pairing import Settled

STEP = "Step2_registration_ANTs"
MADE_BY = "Step1_affine_registration_2d_PAS_2048_xfeat.py"


def layer_job(context: jobs.Context, sample: str, layer: int) -> jobs.Job:
    """The pair whose moving section is `layer`."""
    layout, fixed = context.layout, partner_of(context, sample, layer)
    if fixed is None:
        return jobs.Job(sample, layer, [], [], lambda: "the middle section, it stays where it is")
    pair = (sample, layer, fixed)
    settings = {"kind": context.all_samples.refinement, "sizes_um": um_per_px(context, sample, layer, fixed),
                "pitch_um": context.all_samples.pitch_um}
    inputs = [layout.pair_coarse(*pair), *overview_files(layout, sample, layer), *overview_files(layout, sample, fixed)]
    outputs = [layout.pair(*pair), layout.pair_itk(*pair), layout.overlay(*pair)]
    return jobs.Job(sample, layer, inputs, outputs, lambda: refine_pair(layout, *pair, **settings), settings=settings)


def refine_pair(layout: Layout, sample: str, moving: int, fixed: int, kind: str, sizes_um: tuple[float, float],
                pitch_um: float) -> str:
    from registration.matching import match_of
    from registration.overlays import pair_overlay
    from registration.pairing import TISSUE_PX, settle
    from registration.remarks import explained
    coarse = layout.pair_coarse(sample, moving, fixed)
    matrix, entry = read_transform(coarse, MADE_BY)
    with reading(coarse, MADE_BY):
        match = match_of(matrix, entry)
    sections = {layer: read_section(layout, sample, layer) for layer in (moving, fixed)}
    settled = settle(render_pair(*sections.values(), sizes_um, TISSUE_PX), match, sizes_um, pitch_um, kind)
    settled, alone = explained(settled, match, sections, sizes_um, entry.get("size_hint"))
    write_transform(layout.pair(sample, moving, fixed), settled.transform, moving, fixed,
                    layout.pair_warp(sample, moving, fixed), **entry_of(settled))
    write_itk(layout.pair_itk(sample, moving, fixed), settled.transform.matrix)
    write_itk_warp(*layout.pair_itk_warps(sample, moving, fixed), settled.transform.warp)
    line = verdict_line(settled, moving, fixed)
    picture = pair_overlay(*sections.values(), settled.transform, match.moving_points, match.fixed_points,
                           f"{sample}: {line}", settled.accepted, (alone.get(moving), alone.get(fixed)))
    write_picture(layout.overlay(sample, moving, fixed), picture)
    return line


def entry_of(settled: "Settled") -> dict:
    """Entries of the pair's file beside the transform."""
    judged = settled.evidence.rounded() if settled.evidence else {}
    return {"accepted": settled.accepted, "reasons": list(settled.reasons), "warnings": list(settled.warnings),
            "method": settled.method, "refinement": settled.refinement, **judged,
            "before": settled.before, "after": settled.after, "pieces": list(settled.pieces)}


def verdict_line(settled: "Settled", moving: int, fixed: int) -> str:
    """One line for the screen and the picture."""
    if not settled.accepted:
        fixes = "".join(f"{fix}, or " for fix in settled.fixes)
        return (f"{moving} -> {fixed} REFUSED ({'; '.join(settled.reasons)}): placed by {settled.method}, "
                f"{changes(settled)}; fix: {fixes}give landmarks or a transform for pairs: "
                f"{pair_name(moving, fixed)}, or skip the section")
    mirrored = ", mirrored" if settled.evidence.mirrored else ""
    by = f"xfeat {settled.evidence.inliers} inliers" if settled.method == "xfeat" else f"given {settled.method}"
    warned = "".join(f"; WARNING {text}" for text in settled.warnings)
    return f"{moving} -> {fixed} accepted: {by}{mirrored}, refinement {settled.refinement}, {changes(settled)}{warned}"


def changes(settled: "Settled") -> str:
    """Tissue Dice and image correlation, before and after, in words."""
    before, after = settled.before, settled.after
    return (f"tissue Dice {before['tissue_dice']:.2f} -> {after['tissue_dice']:.2f}, "
            f"correlation {before['image_correlation']:.2f} -> {after['image_correlation']:.2f}")


def build_parser() -> argparse.ArgumentParser:
    return cli.make_parser(__doc__, workers=True)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return jobs.run_layers(STEP, __file__, args, layer_job)


if __name__ == "__main__":
    sys.exit(main())
