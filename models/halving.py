"""Spots in two halves by their place: the step by which a section is divided."""
import numpy as np


def halves(position: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """These rows in two halves along the longer side of their extent, each ordered along it. position: (n, 2)."""
    axis = np.ptp(position[rows], axis=0).argmax()
    ordered = rows[np.lexsort((position[rows, 1 - axis], position[rows, axis]))]
    return ordered[:len(rows) // 2], ordered[len(rows) // 2:]
