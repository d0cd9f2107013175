"""Which known spots are used: decided here and nowhere else.

One exact Gaussian process takes at most MAX_KNOWN spots. Where there are more, every part of every known layer gives up
the same share: the spots are ordered so that neighbours on the section follow each other, and taken at equal steps. The
order of the rows has no effect. A spot that is left out is neither context nor query of the network, and is not called
known; its prediction is that of the process.
"""
import numpy as np

from models.halving import halves
from models.sample import SampleGraph

MAX_KNOWN = 6000


def used(graph: SampleGraph, pool: np.ndarray) -> np.ndarray:
    """The spots that are used, (n,) bool, of those whose label may be used. pool: (n,) bool."""
    rows = np.flatnonzero(pool)
    kept = np.zeros(len(pool), bool)
    kept[rows[thinned(graph.position.numpy()[rows], graph.layer.numpy()[rows], MAX_KNOWN)]] = True
    return kept


def thinned(position: np.ndarray, layer: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of n spots, evenly over position (n, 2) and layer (n,): ascending row indices."""
    if len(position) <= most:
        return np.arange(len(position))
    parts = [_by_place(position, np.flatnonzero(layer == one)) for one in np.unique(layer)]
    order = np.concatenate(parts)  # (n,)
    return np.sort(order[np.linspace(0, len(order) - 1, most).round().astype(int)])


def _by_place(position: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """These rows, ordered so that neighbours on the section follow each other: by halving along the longer side."""
    if len(rows) < 2:
        return rows
    return np.concatenate([_by_place(position, half) for half in halves(position, rows)])


def left_out_line(graph: SampleGraph, layers: list[int], what: str) -> str | None:
    """One line on the labelled spots of these layers that are left out, or None. what: known, or training."""
    pool = graph.in_layers(layers).numpy()
    n_used = int(used(graph, pool).sum())
    if n_used == pool.sum():
        return None
    numbers = ", ".join(map(str, layers))
    return (f"{graph.sample}: {n_used} of {int(pool.sum())} {what} spots (sections {numbers}) are used, the same share"
            f" everywhere: one exact Gaussian process takes no more than {MAX_KNOWN}")
