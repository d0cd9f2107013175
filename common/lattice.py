"""Neighbours on a lattice of spots."""
import numpy as np

TIES = 8  # candidates beyond k, for spots at equal distance: enough for square and hexagonal arrays


def nearest_on_lattice(position: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Each spot's k nearest: position (n, 2) in pitches -> source, target (E,).

    Equal distances are frequent on an array. They are ordered by direction (upper, then left first), so the result does
    not depend on the order of the rows.
    """
    from scipy.spatial import cKDTree
    n = len(position)
    count = min(k, n - 1)
    if count < 1:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    distance, index = cKDTree(position).query(position, min(k + TIES + 1, n))  # (n, m)
    distance = np.where(index == np.arange(n)[:, None], np.inf, distance)
    step = position[index] - position[:, None]  # (n, m, 2)
    order = np.lexsort((step[..., 0].round(6), step[..., 1].round(6), distance.round(6)))[:, :count]
    return np.take_along_axis(index, order, axis=1).ravel(), np.repeat(np.arange(n), count)
