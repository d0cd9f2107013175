"""The labels of the process: expression minus the mean of its layer, as scores on its leading directions."""
import numpy as np
from scipy import linalg

from common.normalisation import depth_of
from common.threads import one_thread


def spot_weights(label: np.ndarray) -> np.ndarray:
    """Square root of the spots' depths, median 1: (n,)."""
    depth = depth_of(label)
    return np.sqrt(depth / np.median(depth))


def centred(label: np.ndarray, layer: np.ndarray, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels minus the mean of the context spots of their layer (n, G), and the mean of those means (G,).

    label: (n, G); layer: (n,); context: (n,) bool, the other rows are 0.
    """
    out, means = np.zeros(label.shape), []
    for one in np.unique(layer[context]):
        rows = context & (layer == one)
        means.append(label[rows].mean(axis=0, dtype=np.float64))
        out[rows] = label[rows] - means[-1]
    return out, np.mean(means, axis=0)


@one_thread()
def leading_directions(residual: np.ndarray, weight: np.ndarray, rank: int) -> np.ndarray:
    """Weighted principal directions of centred labels: (n, G), (n,) -> (rank, G), orthonormal rows."""
    _, axes = linalg.eigh((residual * weight[:, None]).T @ residual)
    return axes[:, ::-1].T[:min(rank, *residual.shape)]
