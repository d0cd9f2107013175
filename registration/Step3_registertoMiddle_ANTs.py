"""Registration step 3: chain the pairs to the middle section and record the quality of the sample's registration.

INPUT   registration/<sample>/pairs/<moving>_to_<fixed>.json      step 2, and its field (.npz) where it names one
        tissue/<sample>/<layer>.{jpg,png,json}                    overview of step 0_2
OUTPUT  registration/<sample>/to_middle/<layer>.json
            matrix (2, 3) float64: points p of the section (level-0 px) -> q = matrix p, level-0 px of the middle
                   section (its own: identity)
            warp   null, or the name of the file of the field D; then p -> q + D(q)
        registration/<sample>/to_middle/<layer>.npz     only with a field
            field      (h, w, 2) float32, D in x and y (level-0 px of the middle section), bilinear between the nodes,
                       zero beyond
            to_level0  (2, 3) float64, node -> level-0 px of the middle section
        registration/<sample>/to_middle/<layer>.mat     the affine as ITK transform
        registration/<sample>/to_middle/<layer>_{points,images}.nii.gz    only with a field: the field for ITK, which
                   moves points and images in opposite directions:
                   ants.apply_transforms_to_points(2, table, [mat, points], whichtoinvert=[False, False])
                   ants.apply_transforms(fixed, moving, [images, mat], whichtoinvert=[False, True])
        registration/<sample>/stack.jpg                 all sections in the middle section's frame, each with the
                   outline of the middle; red frame: a pair on the way is refused, or the section is left out
        registration/<sample>/quality.json
            layers, middle
            left_out   skipped, without tissue, or without a way to the middle
            pairs      entries of step 2
            to_middle  of every section: through (the sections on its way), accepted (every pair on its way is),
                       scale_x, scale_y, shear, rotation_deg, determinant, largest_bend_px
            foreign_tissue    pieces of tissue without counterpart in the other sections, or in the measured ones
                       (registration/foreign.py), of sections whose way to the middle is accepted: layer, point [x, y]
                       on the piece (level-0 px), area_mm2, share of the section's tissue, also_in (other sections
                       with the same tissue)

A chain is one affine and at most one field. A section whose pair is missing is left out with those beyond it; the
others go on. The registered frame is the middle section's level-0 px (index n // 2). Source: Zhu et al., CVPR 2025.

    python registration/Step3_registertoMiddle_ANTs.py --root_path data/her2st
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import argparse

import numpy as np

from common import cli, jobs
from common.contract.walk import hold_to_contract
from common.errors import LayerError
from common.io import write_json, write_picture
from common.layout import Layout
from common.status import first_failure, read_status, set_status
from registration.sections import (
    MADE_BY as OVERVIEW_MADE_BY,
    Section,
    overview_files,
    read_section,
    um_per_px,
    usable_layers,
)
from registration.transforms import (
    Transform,
    chain_to_middle,
    describe,
    middle_layer,
    pair_partner,
    read_bending,
    way_to_middle,
    write_itk,
    write_itk_warp,
    write_transform,
)

STEP = "Step3_registertoMiddle_ANTs"
PAIR_STEPS = ("Step1_affine_registration_2d_PAS_2048_xfeat", "Step2_registration_ANTs")
MADE_BY = f"{PAIR_STEPS[1]}.py"


def sample_job(context: jobs.Context, sample: str) -> jobs.Job:
    """The chain of one sample."""
    layout, layers, chosen = context.layout, usable_layers(context, sample), context.all_samples.samples[sample].layers
    if not layers:
        raise LayerError(layout.root, f"no section of {sample} with tissue", "the overview of at least one section",
                         f"see status.json, or run {OVERVIEW_MADE_BY}")
    broken = broken_pairs(context, sample, layers)
    reached = [layer for layer in layers if not set(way_to_middle(layers, layer)) & set(broken)]
    pairs = [(layer, fixed) for layer in layers if (fixed := pair_partner(layers, layer)) is not None]
    inputs, outputs = [], []
    for pair in pairs:
        inputs += [layout.pair(sample, *pair), layout.pair_warp(sample, *pair)]
    for layer in layers:
        inputs += overview_files(layout, sample, layer)
    for layer in reached:
        outputs += [layout.to_middle(sample, layer), layout.to_middle_itk(sample, layer)]
    outputs += [layout.stack_view(sample), layout.quality(sample)]
    unusable = [layer for layer in context.all_samples.layers_of(sample) if layer not in layers]

    def work() -> str:
        report_unusable(layout, sample, unusable)
        return write_chain(context, sample, layers, broken, chosen)
    return jobs.Job(sample, None, inputs, outputs, work,
                   settings={"layers": layers, "chosen": chosen, "broken": sorted(broken)})


def broken_pairs(context: jobs.Context, sample: str, layers: list[int]) -> dict[int, str]:
    """{moving layer: why it has no pair}: its step 1 or 2 left it out, or never ran, or its file cannot be used."""
    layout, status, broken = context.layout, read_status(context.layout), {}
    for layer in layers:
        fixed, steps = pair_partner(layers, layer), status.get(f"{sample}/{layer}", {})
        if fixed is None:
            continue
        files = [layout.pair(sample, layer, fixed), layout.pair_warp(sample, layer, fixed)]
        failed = [step for step in PAIR_STEPS if steps.get(step, "ok") != "ok"]
        if failed:
            broken[layer] = f"left out since {failed[0]}"
        elif not files[0].is_file():
            broken[layer] = f"left out: {files[0]}: no file; run {MADE_BY}"
        else:
            try:
                hold_to_contract(layout, context.all_samples, sample, layer, files)
                read_bending(*files, MADE_BY)
            except LayerError as error:
                broken[layer] = f"left out: {error}"
    return broken


def read_pairs(layout: Layout, sample: str, layers: list[int],
               broken: dict[int, str]) -> tuple[dict[int, Transform], dict[int, dict]]:
    """({moving layer: transform to its partner}, {moving layer: entry of step 2}) of every usable pair of the chain."""
    transforms, entries = {}, {}
    for layer in layers:
        fixed = pair_partner(layers, layer)
        if fixed is not None and layer not in broken:
            files = layout.pair(sample, layer, fixed), layout.pair_warp(sample, layer, fixed)
            transforms[layer], entries[layer] = read_bending(*files, MADE_BY)
    return transforms, entries


def write_chain(context: jobs.Context, sample: str, layers: list[int], broken: dict[int, str],
                chosen: list[int]) -> str:
    from registration.overlays import stack_view
    layout, middle = context.layout, middle_layer(layers)
    transforms, pairs = read_pairs(layout, sample, layers, broken)
    to_middle = chain_to_middle(layers, transforms)
    for layer, transform in to_middle.items():
        write_transform(layout.to_middle(sample, layer), transform, layer, middle, layout.to_middle_warp(sample, layer))
        write_itk(layout.to_middle_itk(sample, layer), transform.matrix)
        write_itk_warp(*layout.to_middle_itk_warps(sample, layer), transform.warp)
    report_layers(layout, sample, layers, list(to_middle), broken)
    refused = [layer for layer in pairs if not pairs[layer]["accepted"]]
    way = {layer: way_to_middle(layers, layer) for layer in to_middle}
    accepted = {layer: not set(way[layer]) & set(refused) for layer in to_middle}
    sections = {layer: read_section(layout, sample, layer) for layer in layers}
    write_picture(layout.stack_view(sample), stack_view(sections, to_middle, middle, accepted))
    described = {str(layer): {"through": way[layer], "accepted": accepted[layer], **describe(transform.matrix),
                              "largest_bend_px": largest_bend_px(transform)}
                 for layer, transform in to_middle.items()}
    write_json(layout.quality(sample), {
        "sample": sample, "layers": list(to_middle), "middle": middle,
        "left_out": [layer for layer in chosen if layer not in to_middle],
        "pairs": [without(entry, "maps", "matrix") for entry in pairs.values()],
        "to_middle": described,
        "foreign_tissue": foreign_tissue(context, sample, sections,
                                         {layer: to_middle[layer] for layer in to_middle if accepted[layer]})})
    return (f"{layout.quality(sample)}: {len(to_middle)} sections in the frame of section {middle}, "
            f"{verdict(pairs, refused)}")


def foreign_tissue(context: jobs.Context, sample: str, sections: dict[int, Section],
                   to_middle: dict[int, Transform]) -> list[dict]:
    """Entries of quality.json on tissue without counterpart; one line on stderr for each section that has some.

    to_middle: of the layers whose way to the middle is accepted; the others are not judged.
    """
    from registration.foreign import entries_of, on_several_pieces, warnings_of, without_counterpart
    judged = sorted(to_middle)
    measured = [layer for layer in judged if context.layout.counts(sample, layer).is_file()]
    alone = without_counterpart({layer: sections[layer] for layer in judged}, to_middle, measured)
    sizes_um = dict(zip(alone, um_per_px(context, sample, *alone), strict=True))
    entries = entries_of(alone, sections, sizes_um)
    apart = on_several_pieces({layer: sections[layer] for layer in judged}, to_middle, sample)
    for line in [*warnings_of(entries, sample, judged, measured), *apart]:
        print(f"{STEP}  {sample}: WARNING {line}", file=sys.stderr)
    return entries


def without(entry: dict, *keys: str) -> dict:
    return {key: value for key, value in entry.items() if key not in keys}


def report_unusable(layout: Layout, sample: str, layers: list[int]) -> None:
    """Status and one line of every layer that is not in the stack because its overview is missing, broken or empty."""
    for layer in layers:
        earlier = first_failure(layout, f"{sample}/{layer}", STEP)
        error = LayerError(layout.mask(sample, layer), "no usable tissue mask", "that of a readable image with tissue",
                           f"run {OVERVIEW_MADE_BY} with --overwrite")
        reason = f"left out since {earlier}" if earlier else f"left out: {error}"
        set_status(layout, STEP, f"{sample}/{layer}", reason)
        print(f"{STEP}  {sample}/{layer}: {reason}", file=sys.stderr)


def report_layers(layout: Layout, sample: str, layers: list[int], reached: list[int], broken: dict[int, str]) -> None:
    """The status of every layer of the stack; one line on stderr for each that is left out."""
    for layer in layers:
        if layer in reached:
            set_status(layout, STEP, f"{sample}/{layer}", "ok")
            continue
        gap = next(one for one in way_to_middle(layers, layer) if one in broken)
        beyond = f"left out: its way to the middle leads through section {gap}, which has no pair"
        reason = broken[layer] if gap == layer else beyond
        set_status(layout, STEP, f"{sample}/{layer}", reason)
        print(f"{STEP}  {sample}/{layer}: {reason}", file=sys.stderr)


def largest_bend_px(transform: Transform) -> float:
    """The longest displacement of the field, level-0 px of the middle layer; 0 without one."""
    return 0.0 if transform.warp is None else round(float(np.linalg.norm(transform.warp.field, axis=2).max()), 1)


def verdict(pairs: dict[int, dict], refused: list[int]) -> str:
    """In words: the lowest tissue Dice, and which pairs are refused and why."""
    worst = min((entry["after"]["tissue_dice"] for entry in pairs.values()), default=1.0)
    names = [f"{layer} to {pairs[layer]['fixed']} ({'; '.join(pairs[layer]['reasons'])})" for layer in refused]
    outcome = f"REFUSED: {', '.join(names)}" if names else "every pair accepted"
    return f"lowest tissue Dice of a pair {worst:.3f}; {outcome}"


def build_parser() -> argparse.ArgumentParser:
    return cli.make_parser(__doc__, layer=False, workers=True)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return jobs.run_samples(STEP, __file__, args, sample_job)


if __name__ == "__main__":
    sys.exit(main())
