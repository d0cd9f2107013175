"""The 3D spot graph as the network sees it in one pass: who hears whom depends on which labels are shown.

    asked <- the 6 nearest shown spots of any layer          shown <- the 6 nearest shown spots of its own layer
    asked <- the 6 nearest asked spots of its own layer

A spot whose expression is asked for stands to the shown spots in training, where it is hidden, as it does at test time, where it lies on
another section: one graph for both. Distances are registered ones, in pitches. Spots lie on a lattice: whoever is as near as the 6th counts too,
so that neither the order of the spots nor a turn of the slide decides.
"""
import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

N_NEAREST = 6
MAX_NEAREST = 16    # with those as near as the last
TIE = 1e-3
ASKED_ASKED, SHOWN_ASKED, SHOWN_SHOWN = 0, 1, 2
N_KINDS = 3
N_ATTRIBUTES = 2 + N_KINDS
FAR_PITCHES = 6.0


def nearest(target: np.ndarray, source: np.ndarray, least: float = -1.0) -> np.ndarray:
    """Edges from the nearest sources, farther off than `least`, to every target, positions (n, 2) and (m, 2) -> (2, E) indices, source first."""
    distance, found = cKDTree(source).query(target, k=range(1, min(MAX_NEAREST, len(source)) + 1))  # (n, k)
    distance = np.where(distance > least, distance, np.inf)
    last = np.sort(distance, axis=1)[:, min(N_NEAREST, distance.shape[1]) - 1:][:, :1]  # (n, 1)
    row, column = np.nonzero(np.isfinite(distance) & (distance <= last * (1 + TIE)))
    return np.stack([found[row, column], row])


def spot_edges(position: np.ndarray, layer: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """position: (n, 2) pitches, layer: (n,), asked: (n,) bool; the others are shown -> edges (2, E) source -> target, kind (E,)."""
    edges, kinds = [], []

    def add(source: np.ndarray, target: np.ndarray, kind: int, least: float = -1.0) -> None:
        if len(source) and len(target):
            pair = nearest(position[target], position[source], least)
            edges.append(np.stack([source[pair[0]], target[pair[1]]]))
            kinds.append(np.full(pair.shape[1], kind))

    add(np.flatnonzero(~asked), np.flatnonzero(asked), SHOWN_ASKED)
    for one in np.unique(layer):
        for group, kind in ((asked, ASKED_ASKED), (~asked, SHOWN_SHOWN)):
            members = np.flatnonzero(group & (layer == one))
            add(members, members, kind, least=0.0)  # not the spot itself
    if not edges:
        return np.zeros((2, 0), np.int64), np.zeros(0, np.int64)
    return np.concatenate(edges, axis=1), np.concatenate(kinds)


def attributes(position: Tensor, edges: Tensor, kind: Tensor) -> Tensor:
    """Distance (thirds, up to FAR_PITCHES), exp(-distance² / 2) and the kind as 0/1: (E, N_ATTRIBUTES). position: (n, 2) pitches."""
    distance = (position[edges[0]] - position[edges[1]]).norm(dim=1, keepdim=True)  # (E, 1)
    return torch.cat([distance.clamp_max(FAR_PITCHES) / 3, torch.exp(-distance ** 2 / 2), torch.nn.functional.one_hot(kind, N_KINDS).float()], dim=1)
