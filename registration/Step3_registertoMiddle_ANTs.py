"""Registration step 3: chain the pairs to the middle layer; the quality of the sample's registration.

INPUT   registration/<sample>/pairs/<moving>_to_<fixed>.json      step 2
        tissue/<sample>/<layer>.{jpg,png,json}                    overview of step 0_2
OUTPUT  registration/<sample>/to_middle/<layer>.json    matrix (2, 3) float64: points of the layer (level-0 px) -> points of the middle
                                                        layer (level-0 px); identity for the middle
        registration/<sample>/to_middle/<layer>.mat     the same as ITK affine
        registration/<sample>/stack.jpg                 all layers in the middle layer's frame, each with the middle's outline
        registration/<sample>/quality.json              layers, middle, left_out, pairs (entries of step 2),
                                                        to_middle (scale, shear, rotation, determinant)

The registered frame is the middle layer's level-0 px (index n // 2). Source: Zhu et al., CVPR 2025.

    python registration/Step3_registertoMiddle_ANTs.py --root_path data/her2st
"""
import sys; from pathlib import Path
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import argparse

from common import cli
from common.errors import LayerError
from common.io import write_json, write_picture
from common.layout import Layout
from registration.sections import MADE_BY as OVERVIEW_MADE_BY
from registration.sections import overview_files, read_section, usable_layers
from registration.transforms import chain_to_middle, describe, middle_layer, pair_partner, read_transform, write_itk, write_transform

STEP = "Step3_registertoMiddle_ANTs"
MADE_BY = "Step2_registration_ANTs.py"


def sample_job(context: cli.Context, sample: str) -> cli.Job:
    """The chain of one sample."""
    layout, layers, chosen = context.layout, usable_layers(context, sample), context.all_samples.layers_of(sample)
    if not layers:
        raise LayerError(layout.root, f"no layer of {sample} with tissue", "the overview of at least one layer",
                         f"see status.json, or run {OVERVIEW_MADE_BY}")
    inputs = [layout.pair(sample, layer, fixed) for layer in layers if (fixed := pair_partner(layers, layer)) is not None]
    inputs += [path for layer in layers for path in overview_files(layout, sample, layer)]
    outputs = [path for layer in layers for path in (layout.to_middle(sample, layer), layout.to_middle_itk(sample, layer))]
    outputs += [layout.stack_view(sample), layout.quality(sample)]
    return cli.Job(sample, None, inputs, outputs, lambda: write_chain(layout, sample, layers, chosen),
                   settings={"layers": layers, "chosen": chosen})


def write_chain(layout: Layout, sample: str, layers: list[int], chosen: list[int]) -> str:
    from registration.pictures import stack_view
    middle = middle_layer(layers)
    read = {layer: read_transform(layout.pair(sample, layer, pair_partner(layers, layer)), MADE_BY) for layer in layers if layer != middle}
    to_middle = chain_to_middle(layers, {layer: matrix for layer, (matrix, _) in read.items()})
    for layer, matrix in to_middle.items():
        write_transform(layout.to_middle(sample, layer), matrix, layer, middle)
        write_itk(layout.to_middle_itk(sample, layer), matrix)
    sections = {layer: read_section(layout, sample, layer) for layer in layers}
    write_picture(layout.stack_view(sample), stack_view(sections, to_middle, middle))
    pairs = [{key: value for key, value in entry.items() if key not in ("maps", "matrix")} for _, entry in read.values()]
    left_out = [layer for layer in chosen if layer not in layers]
    write_json(layout.quality(sample), {"sample": sample, "layers": layers, "middle": middle, "left_out": left_out, "pairs": pairs,
                                        "to_middle": {str(layer): describe(matrix) for layer, matrix in to_middle.items()}})
    worst = min((entry["after"]["tissue_dice"] for entry in pairs), default=1.0)
    return f"{layout.quality(sample)}: {len(layers)} layers in the frame of layer {middle}, lowest tissue Dice of a pair {worst:.3f}"


def build_parser() -> argparse.ArgumentParser:
    return cli.make_parser(__doc__, layer=False, workers=True)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return cli.run_samples(STEP, __file__, args, sample_job)


if __name__ == "__main__":
    sys.exit(main())
