"""The 3D graph of a sample: which spots are joined, by which attributes.

Arrays in, the dict of torch_geometric's HeteroData.to_dict() out.
"""
from collections import defaultdict

import numpy as np

from common.lattice import nearest_on_lattice
from common.layout import LEVELS
from data_preprocessing_3d import neighbours

MEMBERSHIPS = (("spot", "in", "region"), ("spot", "in", "global"), ("region", "in", "global"))


def cross_pairs(combined) -> np.ndarray:
    """Pairs of spots of different layers where one is among the other's 12 highest weights: (P, 2)."""
    return neighbours.unite(*neighbours.top_k(combined), combined.shape[0])


def within_pairs(position: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """Pairs of spots of one layer where one is among the other's 4 nearest: (P, 2).

    position (n, 2) own-layer pitches, layer (n,).
    """
    edges = []
    for own in np.unique(layer):
        rows = np.flatnonzero(layer == own)
        source, target = nearest_on_lattice(position[rows], neighbours.K_WITHIN)
        edges.append(np.stack([rows[source], rows[target]]))
    return neighbours.unite(*np.concatenate(edges, axis=1), len(layer))


def edge_attributes(pairs: np.ndarray, overlap: np.ndarray, cosine: np.ndarray, registered: np.ndarray,
                    layer: np.ndarray) -> np.ndarray:
    """Columns weight, IoU, cosine, distance, layer difference of each pair: (P, 5) float32.

    pairs (P, 2), overlap and cosine (P,), registered (n, 2) pitches, layer (n,).
    """
    source, target = pairs.T
    distance = np.linalg.norm(registered[source] - registered[target], axis=1)
    layer_difference = np.abs(layer[source] - layer[target])
    return np.stack([overlap + cosine, overlap, cosine, distance, layer_difference], axis=1).astype(np.float32)


def both_directions(pairs: np.ndarray, attribute: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """edge_index (2, 2 P) [source; target] sorted by (target, source), and the attributes (2 P, 5) in that order."""
    edge_index = np.concatenate([pairs, pairs[:, ::-1]]).T
    order = np.lexsort(edge_index)
    return np.ascontiguousarray(edge_index[:, order]), np.concatenate([attribute, attribute])[order]


def stack_patches(graph, layer_graphs: dict[int, dict]) -> None:
    """Add the region and global nodes of all layers, the edges among them and the memberships, with shifted indices."""
    import torch
    offset = {"spot": 0, "region": 0, "global": 0}
    edges = {(level, "near", level): [] for level in LEVELS.values()} | {kind: [] for kind in MEMBERSHIPS}
    for one in layer_graphs.values():
        for kind, parts in edges.items():
            source, _, target = kind
            parts.append(one[kind]["edge_index"] + torch.tensor([[offset[source]], [offset[target]]]))
        for level in offset:
            offset[level] += len(one[level]["pos"])
    for level in LEVELS.values():
        for name in ("x", "y", "has_label", "pos"):
            graph[level][name] = torch.cat([one[level][name] for one in layer_graphs.values()])
        layers = [torch.full((len(one[level]["pos"]),), layer) for layer, one in layer_graphs.items()]
        graph[level]["layer"] = torch.cat(layers)
        weights = [one[level, "near", level]["edge_attr"] for one in layer_graphs.values()]
        graph[level, "near", level]["edge_attr"] = torch.cat(weights)
    for kind, parts in edges.items():
        graph[kind]["edge_index"] = torch.cat(parts, dim=1)


def build_graph(stack, own_px: np.ndarray, pitch_px: float, combined, overlap, similarity, direction: np.ndarray,
                layer_graphs: dict):
    """A sample's graph, as HeteroData.to_dict() would give it.

    stack: table (n rows); own_px (n, 2): own-layer positions; combined, overlap, similarity: CSR (n, n);
    direction (n, D): unit features; layer_graphs {layer: graph of step 6}.
    """
    import torch
    layer = stack["layer"].to_numpy(np.int64)
    registered = stack[["registered_x", "registered_y"]].to_numpy(np.float64) / pitch_px

    graph = defaultdict(dict)
    graph["spot"]["pos"] = torch.from_numpy(registered.astype(np.float32))
    graph["spot"]["layer"] = torch.from_numpy(layer)
    first = next(iter(layer_graphs.values()))["spot"]
    graph["spot"] |= {name: first[name] for name in ("feature_sets", "feature_recipe", "genes")}
    across, within = cross_pairs(combined), within_pairs(own_px / pitch_px, layer)
    values = {"cross": (across, neighbours.value_at(overlap, across), neighbours.value_at(similarity, across)),
              "within": (within, np.zeros(len(within), np.float32), neighbours.cosine(direction, within))}
    for relation, (pairs, iou, cosine) in values.items():
        attribute = edge_attributes(pairs, iou, cosine, registered, layer)  # (P, 5)
        edge_index, attribute = both_directions(pairs, attribute)
        graph["spot", relation, "spot"]["edge_index"] = torch.from_numpy(edge_index)
        graph["spot", relation, "spot"]["edge_attr"] = torch.from_numpy(attribute)
    stack_patches(graph, layer_graphs)
    return dict(graph)
