"""Build the 3D graph of a sample: spots joined across and within sections, with all region and global nodes.

INPUT   registration/<sample>/quality.json (the middle section, whose pitch is the unit), spot_regist/<sample>.csv,
        spot_iou/, similarity/, 3D_combined_information/<sample>.npz,
        npy_information/<sample>/<layer>.npy (feature, pixel), graph_data/<sample>/<layer>.pt
OUTPUT  3D_graph_data/<sample>.pt   the dict of torch_geometric's HeteroData.to_dict():
                                    HeteroData.from_dict(torch.load(path, weights_only=True))
        spot            pos (n, 2) float32 registered px / pitch_px; layer (n,) int64; rows in spot_regist order;
                        feature_sets, feature_recipe and genes as in graph_data
        region, global  x (R, D), y (R, n_genes), has_label (R,), pos (R, 2) as in graph_data, layer (R,) int64;
                        section after section
        (spot, cross, spot)     the 12 highest weights over all other sections, union-symmetric
        (spot, within, spot)    the 4 nearest spots of the own section (its own px), union-symmetric
            edge_index (2, E) int64 [source; target], edge_attr (E, 5) float32: weight, IoU, cosine, distance
            (registered, pitches), layer difference; weight within a section = cosine (IoU 0)
        (level, near, level) of regions and globals, (spot, in, region), (spot, in, global), (region, in, global):
            as in graph_data
        edge_index is sorted by (target, source).
Source: Zhu et al., CVPR 2025.

    python data_preprocessing_3d/4_build_3d_graph.py --root_path ROOT
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from common import cli, io, jobs
from common.contract.walk import hold_to_contract
from common.errors import LayerError
from common.feature_recipe import difference
from data_preprocessing_3d import neighbours
from data_preprocessing_3d.graph import build_graph

STEP = "4_build_3d_graph"


def read_layer_graphs(context: jobs.Context, sample: str, layers: list[int]) -> dict[int, dict]:
    """{layer: graph of step 6}. Raises LayerError if feature widths or genes differ between layers."""
    layout = context.layout
    for layer in layers:
        hold_to_contract(layout, context.all_samples, sample, layer, [layout.graph(sample, layer)])
    graphs = {layer: io.read_pt(layout.graph(sample, layer), "6_pt_construction.py") for layer in layers}
    first, *others = ((layout.graph(sample, layer), one["spot"]) for layer, one in graphs.items())
    for file, spot in others:
        differs = difference(spot["feature_recipe"], first[1]["feature_recipe"])
        if differs is None and any(spot[name] != first[1][name] for name in ("feature_sets", "genes")):
            differs = "other features or genes", "the same"
        if differs:
            raise LayerError(file, differs[0], f"{differs[1]}, as in {first[0]}",
                             "run steps 4 to 6 again, for all sections")
    return graphs


def sample_job(context: jobs.Context, sample: str) -> jobs.Job:
    layout = context.layout
    pitch_px = neighbours.registered_frame(context, sample).pitch_px
    stack = neighbours.read_stack(layout, sample)
    layers, target = neighbours.layers_of(stack), layout.graph_3d(sample)
    inputs = [path(sample) for path in
              (layout.quality, layout.spot_regist, layout.spot_iou, layout.similarity, layout.combined)]
    for layer in layers:
        inputs += [layout.npy(sample, layer), layout.graph(sample, layer)]

    def work() -> str:
        overlap = io.read_csr(layout.spot_iou(sample), "1_get_iou.py")
        similarity = io.read_csr(layout.similarity(sample), "2_get_similarity.py")
        combined = io.read_csr(layout.combined(sample), "3_build_3d_information.py")
        direction = neighbours.read_directions(context, sample, stack)  # (n, D)
        records = neighbours.read_records(context, sample, stack)
        own_px = np.concatenate([of_layer["pixel"] for _, of_layer in records])  # (n, 2)
        layer_graphs = read_layer_graphs(context, sample, layers)
        graph = build_graph(stack, own_px, pitch_px, combined, overlap, similarity, direction, layer_graphs)
        io.write_pt(target, graph)
        n_cross, n_within = (graph["spot", relation, "spot"]["edge_index"].shape[1] for relation in ("cross", "within"))
        return (f"{len(stack)} spots of {len(layers)} sections, {n_cross} edges across, {n_within} within, "
                f"{len(graph['region']['pos'])} regions, {len(graph['global']['pos'])} globals")

    return jobs.Job(sample, None, inputs, [target], work, {"pitch_px": pitch_px})


def build_parser():
    return cli.make_parser(__doc__, layer=False)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return jobs.run_samples(STEP, __file__, args, sample_job)


if __name__ == "__main__":
    sys.exit(main())
