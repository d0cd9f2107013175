"""The 3D spot graph in one pass. Message direction depends on which spots have visible labels.

    query <- the 6 nearest context spots of any layer        context <- the 6 nearest context spots of its own layer
    query <- the 6 nearest query spots of its own layer

Context spots have a visible label, query spots do not. A query spot has the same relation to the context in training,
where its label is hidden, as at test time, where it lies on another section. Distances are registered ones, in pitches.
Spots lie on a lattice: all spots as near as the 6th count too, so the order of the spots and a rotation of the slide
have no effect.
"""
import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

N_NEAREST = 6
MAX_NEAREST = 16    # with those as near as the last
TIE = 1e-3
QUERY_QUERY, CONTEXT_QUERY, CONTEXT_CONTEXT = 0, 1, 2
N_KINDS = 3
N_ATTRIBUTES = 2 + N_KINDS
FAR_PITCHES = 6.0


def nearest(target: np.ndarray, source: np.ndarray, least: float = -1.0) -> np.ndarray:
    """Edges to every target from its nearest sources farther off than `least`: (2, E) indices, source first.

    target: (n, 2), source: (m, 2) positions.
    """
    distance, found = cKDTree(source).query(target, k=range(1, min(MAX_NEAREST, len(source)) + 1))  # (n, k)
    distance = np.where(distance > least, distance, np.inf)
    last = np.sort(distance, axis=1)[:, min(N_NEAREST, distance.shape[1]) - 1:][:, :1]  # (n, 1)
    row, column = np.nonzero(np.isfinite(distance) & (distance <= last * (1 + TIE)))
    return np.stack([found[row, column], row])


def spot_edges(position: np.ndarray, layer: np.ndarray, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges (2, E) source -> target, and their kind (E,).

    position: (n, 2) pitches; layer: (n,); query: (n,) bool, the other spots are context.
    """
    edges, kinds = [], []

    def add(source: np.ndarray, target: np.ndarray, kind: int, least: float = -1.0) -> None:
        if len(source) and len(target):
            pair = nearest(position[target], position[source], least)
            edges.append(np.stack([source[pair[0]], target[pair[1]]]))
            kinds.append(np.full(pair.shape[1], kind))

    add(np.flatnonzero(~query), np.flatnonzero(query), CONTEXT_QUERY)
    for one in np.unique(layer):
        for group, kind in ((query, QUERY_QUERY), (~query, CONTEXT_CONTEXT)):
            members = np.flatnonzero(group & (layer == one))
            add(members, members, kind, least=0.0)  # not the spot itself
    if not edges:
        return np.zeros((2, 0), np.int64), np.zeros(0, np.int64)
    return np.concatenate(edges, axis=1), np.concatenate(kinds)


def attributes(position: Tensor, edges: Tensor, kind: Tensor) -> Tensor:
    """Distance (thirds, up to FAR_PITCHES), exp(-distance² / 2) and the kind as 0/1: (E, N_ATTRIBUTES).

    position: (n, 2) pitches; edges: (2, E); kind: (E,).
    """
    distance = (position[edges[0]] - position[edges[1]]).norm(dim=1, keepdim=True)  # (E, 1)
    one_hot = torch.nn.functional.one_hot(kind, N_KINDS).float()  # (E, N_KINDS)
    return torch.cat([distance.clamp_max(FAR_PITCHES) / 3, torch.exp(-distance ** 2 / 2), one_hot], dim=1)
