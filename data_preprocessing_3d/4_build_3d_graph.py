"""Build the 3D graph of a sample: spots joined across layers and within their layer, with the region and global nodes of all layers.

INPUT   registration/<sample>/quality.json (the middle layer, whose pitch is the unit), spot_regist/<sample>.csv, spot_iou/, similarity/, 3D_combined_information/<sample>.npz,
        npy_information/<sample>/<layer>.npy (feature, pixel), graph_data/<sample>/<layer>.pt
OUTPUT  3D_graph_data/<sample>.pt   the dict of torch_geometric's HeteroData.to_dict(): HeteroData.from_dict(torch.load(path, weights_only=True))
        spot            pos (n, 2) float32 registered px / pitch_px; layer (n,) int64; rows in spot_regist order; feature_sets as in graph_data
        region, global  x (R, D), y (R, n_genes), has_label (R,), pos (R, 2) as in graph_data, layer (R,) int64; layer after layer
        (spot, cross, spot)     the 12 highest weights over all other layers, union-symmetric
        (spot, within, spot)    the 4 nearest spots of the own layer (own-layer px), union-symmetric
            edge_index (2, E) int64 [source; target], edge_attr (E, 5) float32: weight, IoU, cosine, distance (registered, pitches),
            layer difference; weight within a layer = cosine (IoU 0)
        (level, near, level) of regions and globals, (spot, in, region), (spot, in, global), (region, in, global): as in graph_data
        edge_index is sorted by (target, source).
Source: Zhu et al., CVPR 2025.

    python data_preprocessing_3d/4_build_3d_graph.py --root_path ROOT
"""
import sys; from pathlib import Path
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from collections import defaultdict

import numpy as np

from common import cli, io
from common.errors import LayerError
from data_preprocessing_3d import neighbours

STEP = "4_build_3d_graph"
PATCH_LEVELS = ("region", "global")
MEMBERSHIPS = (("spot", "in", "region"), ("spot", "in", "global"), ("region", "in", "global"))


def cross_pairs(combined) -> np.ndarray:
    """Pairs of spots of different layers where one is among the other's 12 highest weights: (P, 2)."""
    return neighbours.unite(*neighbours.top_k(combined), combined.shape[0])


def within_pairs(position: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """Pairs of spots of one layer where one is among the other's 4 nearest: own-layer position (n, 2) pitches, layer (n,) -> (P, 2)."""
    edges = []
    for own in np.unique(layer):
        rows = np.flatnonzero(layer == own)
        source, target = neighbours.nearest(position[rows])
        edges.append(np.stack([rows[source], rows[target]]))
    return neighbours.unite(*np.concatenate(edges, axis=1), len(layer))


def edge_attributes(pairs: np.ndarray, overlap: np.ndarray, cosine: np.ndarray, registered: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """Columns weight, IoU, cosine, distance, layer difference of each pair: (P, 5) float32.

    pairs (P, 2), overlap and cosine (P,), registered (n, 2) pitches, layer (n,).
    """
    source, target = pairs.T
    distance = np.linalg.norm(registered[source] - registered[target], axis=1)
    return np.stack([overlap + cosine, overlap, cosine, distance, np.abs(layer[source] - layer[target])], axis=1).astype(np.float32)


def both_directions(pairs: np.ndarray, attribute: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """edge_index (2, 2 P) [source; target] sorted by (target, source), and the attributes (2 P, 5) in that order."""
    edge_index = np.concatenate([pairs, pairs[:, ::-1]]).T
    order = np.lexsort(edge_index)
    return np.ascontiguousarray(edge_index[:, order]), np.concatenate([attribute, attribute])[order]


def stack_patches(graph, layer_graphs: dict[int, dict]) -> None:
    """Add the region and global nodes of all layers, the edges among them and the memberships, with shifted indices."""
    import torch
    offset = {"spot": 0, "region": 0, "global": 0}
    edges = {(level, "near", level): [] for level in PATCH_LEVELS} | {kind: [] for kind in MEMBERSHIPS}
    for one in layer_graphs.values():
        for kind, parts in edges.items():
            parts.append(one[kind]["edge_index"] + torch.tensor([[offset[kind[0]]], [offset[kind[2]]]]))
        for level in offset:
            offset[level] += len(one[level]["pos"])
    for level in PATCH_LEVELS:
        for name in ("x", "y", "has_label", "pos"):
            graph[level][name] = torch.cat([one[level][name] for one in layer_graphs.values()])
        graph[level]["layer"] = torch.cat([torch.full((len(one[level]["pos"]),), layer) for layer, one in layer_graphs.items()])
        graph[level, "near", level]["edge_attr"] = torch.cat([one[level, "near", level]["edge_attr"] for one in layer_graphs.values()])
    for kind, parts in edges.items():
        graph[kind]["edge_index"] = torch.cat(parts, dim=1)


def read_layer_graphs(layout, sample: str, layers: list[int]) -> dict[int, dict]:
    """{layer: graph of step 6}. Raises LayerError if feature widths or gene numbers differ between layers."""
    graphs = {layer: io.read_pt(layout.graph(sample, layer), "6_pt_construction.py") for layer in layers}
    recipes = {(*one["spot"]["feature_sets"].items(), one["region"]["y"].shape[1]) for one in graphs.values()}
    if len(recipes) > 1:
        raise LayerError(f"graph_data/{sample}", "layers with different numbers of features or genes", "one recipe for all layers",
                         "run steps 4 to 6 again")
    return graphs


def build_graph(stack, own_px: np.ndarray, pitch_px: float, combined, overlap, similarity, direction: np.ndarray, layer_graphs: dict):
    """A sample's graph, as HeteroData.to_dict() would give it.

    Takes the stack table (n rows), own-layer positions (n, 2) px, CSR (n, n), unit features (n, D), layer graphs.
    """
    import torch
    layer = stack["layer"].to_numpy(np.int64)
    registered = stack[["registered_x", "registered_y"]].to_numpy(np.float64) / pitch_px

    graph = defaultdict(dict)
    graph["spot"]["pos"] = torch.from_numpy(registered.astype(np.float32))
    graph["spot"]["layer"] = torch.from_numpy(layer)
    graph["spot"]["feature_sets"] = next(iter(layer_graphs.values()))["spot"]["feature_sets"]
    across, within = cross_pairs(combined), within_pairs(own_px / pitch_px, layer)
    values = {"cross": (across, neighbours.value_at(overlap, across), neighbours.value_at(similarity, across)),
              "within": (within, np.zeros(len(within), np.float32), neighbours.cosine(direction, within))}
    for relation, (pairs, iou, cosine) in values.items():
        edge_index, attribute = both_directions(pairs, edge_attributes(pairs, iou, cosine, registered, layer))
        graph["spot", relation, "spot"]["edge_index"] = torch.from_numpy(edge_index)
        graph["spot", relation, "spot"]["edge_attr"] = torch.from_numpy(attribute)
    stack_patches(graph, layer_graphs)
    return dict(graph)


def sample_job(context: cli.Context, sample: str) -> cli.Job:
    layout = context.layout
    pitch_px = neighbours.registered_frame(context, sample).pitch_px
    stack = neighbours.read_stack(layout, sample)
    layers, target = neighbours.layers_of(stack), layout.graph_3d(sample)
    inputs = [layout.quality(sample), layout.spot_regist(sample), layout.spot_iou(sample), layout.similarity(sample), layout.combined(sample)]
    inputs += [path(sample, layer) for layer in layers for path in (layout.npy, layout.graph)]

    def work() -> str:
        overlap = io.read_csr(layout.spot_iou(sample), "1_get_iou.py")
        similarity = io.read_csr(layout.similarity(sample), "2_get_similarity.py")
        combined = io.read_csr(layout.combined(sample), "3_build_3d_information.py")
        direction = neighbours.read_directions(layout, sample, stack)  # (n, D)
        own_px = np.concatenate([records["pixel"] for _, records in neighbours.read_records(layout, sample, stack)])  # (n, 2)
        graph = build_graph(stack, own_px, pitch_px, combined, overlap, similarity, direction, read_layer_graphs(layout, sample, layers))
        io.write_pt(target, graph)
        n_cross, n_within = (graph["spot", relation, "spot"]["edge_index"].shape[1] for relation in ("cross", "within"))
        return (f"{len(stack)} spots of {len(layers)} layers, {n_cross} edges across, {n_within} within, "
                f"{len(graph['region']['pos'])} regions, {len(graph['global']['pos'])} globals")

    return cli.Job(sample, None, inputs, [target], work, {"pitch_px": pitch_px})


def build_parser():
    return cli.make_parser(__doc__, layer=False)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return cli.run_samples(STEP, __file__, args, sample_job)


if __name__ == "__main__":
    sys.exit(main())
