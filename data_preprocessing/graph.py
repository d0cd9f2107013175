"""The graph of one layer: edges within a level and between levels.

Arrays in, the dict of torch_geometric's HeteroData.to_dict() out.
"""
from collections import defaultdict

import numpy as np

NEAR = 2.1  # distance below which two nodes of a level are joined


def near_edges(position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs with d < 2.1, both directions: position (n, 2) -> edge_index (2, E) int64, weight (E, 1) float32 = 2.1 - d.

    edge_index is [source; target], sorted by (target, source).
    """
    from scipy.spatial import cKDTree
    one_way = cKDTree(position).query_pairs(NEAR, output_type="ndarray")  # (E / 2, 2)
    distance = np.linalg.norm(position[one_way[:, 0]] - position[one_way[:, 1]], axis=1)
    one_way, distance = one_way[distance < NEAR], distance[distance < NEAR]
    edge_index = np.concatenate([one_way, one_way[:, ::-1]]).T.astype(np.int64)  # (2, E)
    order = np.lexsort(edge_index)
    return np.ascontiguousarray(edge_index[:, order]), (NEAR - np.tile(distance, 2)[order, None]).astype(np.float32)


def membership_edges(owner: np.ndarray) -> np.ndarray:
    """Member -> owner: owner (n_members,) -> edge_index (2, n_members) int64, sorted by (owner, member)."""
    edge_index = np.stack([np.arange(len(owner)), owner]).astype(np.int64)
    return edge_index[:, np.lexsort(edge_index)]


def build_graph(spot_position, levels: dict, region_of_spot, global_of_spot, global_of_region):
    """A layer's graph, as HeteroData.to_dict() would give it.

    spot_position (n, 2) pitches; levels: {'region' | 'global': dict of x, y, has_label, pos arrays}; the owners are
    rows of the regions (globals).
    """
    import torch
    graph = defaultdict(dict)
    graph["spot"]["pos"] = torch.from_numpy(spot_position.astype(np.float32))
    for level, arrays in levels.items():
        for name, array in arrays.items():
            graph[level][name] = torch.from_numpy(array)
    positions = {"spot": spot_position, "region": levels["region"]["pos"], "global": levels["global"]["pos"]}
    for level, position in positions.items():
        edge_index, weight = near_edges(position)
        graph[level, "near", level]["edge_index"] = torch.from_numpy(edge_index)
        graph[level, "near", level]["edge_attr"] = torch.from_numpy(weight)
    owners = {("spot", "region"): region_of_spot,
              ("spot", "global"): global_of_spot,
              ("region", "global"): global_of_region}
    for (lower, upper), owner in owners.items():
        graph[lower, "in", upper]["edge_index"] = torch.from_numpy(membership_edges(owner))
    return dict(graph)
