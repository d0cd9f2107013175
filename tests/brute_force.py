"""Contours, and slow references of the 3D graph, for its tests."""
import numpy as np

from data_preprocessing_3d import neighbours

RADIUS_PX = 112.0


def circle(centre: np.ndarray, radius: float = RADIUS_PX) -> np.ndarray:
    """Contours (n, 100, 2) of circles at (n, 2)."""
    angle = np.linspace(0, 2 * np.pi, 100, endpoint=False)
    return np.asarray(centre, float)[:, None] + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def adjacency(source: np.ndarray, target: np.ndarray, n: int) -> np.ndarray:
    """Dense 0/1 matrix, union-symmetric."""
    pairs = neighbours.unite(source, target, n)
    return neighbours.symmetric(pairs, np.ones(len(pairs)), n).toarray()


def brute_cosine(feature: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """Dense cosine of features standardised per layer, float64."""
    standard = np.array(feature, np.float64)
    for own in np.unique(layer):
        rows = standard[layer == own]
        deviation = rows.std(axis=0)
        standard[layer == own] = (rows - rows.mean(axis=0)) / np.where(deviation > 1e-6, deviation, np.inf)
    length = np.linalg.norm(standard, axis=1, keepdims=True)
    standard /= np.where(length > 0, length, 1)
    return standard @ standard.T
