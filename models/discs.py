"""Hiding discs of spots: how anything is chosen on a known layer.

A spot left out alone is surrounded by spots that tell its expression; on a target layer none is. A hidden disc is like a target layer.
"""
import numpy as np


def discs(position: np.ndarray, candidates: np.ndarray, share: float, radii: tuple[float, ...], generator: np.random.Generator) -> np.ndarray:
    """Hide discs among the candidates until `share` of them is hidden. position: (n, 2) pitches, candidates: (n,) bool -> (n,) bool."""
    hidden = np.zeros(len(candidates), bool)
    rows = np.flatnonzero(candidates)
    budget = max(1, int(round(share * len(rows))))
    radius = radii[generator.integers(len(radii))]
    for centre in rows[generator.permutation(len(rows))]:
        disc = rows[np.linalg.norm(position[rows] - position[centre], axis=1) <= radius]
        disc = disc[~hidden[disc]]
        hidden[disc[:budget - hidden.sum()]] = True
        if hidden.sum() >= budget:
            break
    return hidden
