"""Hidden discs of spots: every choice on a known layer is made with them.

A single hidden spot has neighbours with visible labels; a spot of a target layer has none. A hidden disc resembles a
target layer.
"""
import numpy as np


def discs(position: np.ndarray, candidates: np.ndarray, share: float, radii: tuple[float, ...],
          generator: np.random.Generator) -> np.ndarray:
    """Hide discs among the candidates until `share` of them is hidden: (n,) bool.

    position: (n, 2) pitches; candidates: (n,) bool; radii: pitches, one is drawn.
    """
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
