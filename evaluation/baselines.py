"""The baselines of 3D (README, 'How a number comes about'): known spots in, prediction of the query spots out.

`baseline_predictions` of evaluation/scores.py calls them, METHODS of main_3d.py and SIMPLE_BASELINES of
report_parts/numbers.py name them; those of 2D are in baselines_2d.py.

All arrays are float; `known_*` are the spots of the sample's known layers, `query_*` the spots to predict.
"""
import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from common.threads import one_thread

SIMILAR_SPOTS = 12
KERNEL_SPOTS = 32
KERNEL_SIGMA_PITCHES = 1.5
CHUNK = 4096


def mean(known_label: np.ndarray, n_query: int) -> np.ndarray:
    """The mean profile of the known spots: (n_query, n_genes)."""
    return np.repeat(known_label.mean(axis=0, keepdims=True), n_query, axis=0)


def nearest(known_label: np.ndarray, known_position: np.ndarray, query_position: np.ndarray) -> np.ndarray:
    """The profile of the closest known spot; positions (n, 2) registered."""
    return known_label[cKDTree(known_position).query(query_position)[1]]


def overlap(known_label: np.ndarray, iou: sparse.csr_array, fallback: np.ndarray) -> np.ndarray:
    """IoU-weighted mean of the overlapping known spots; `fallback` (n_query, n_genes) where none overlaps.

    iou: (n_query, n_known).
    """
    total = np.asarray(iou.sum(axis=1)).reshape(-1, 1)  # (n_query, 1)
    weighted = (iou @ known_label) / np.where(total > 0, total, 1)
    return np.where(total > 0, weighted, fallback)


@one_thread()
def similarity(known_label: np.ndarray, known_feature: np.ndarray, query_feature: np.ndarray) -> np.ndarray:
    """Cosine-weighted mean of the 12 most similar known spots; features (n, d) standardised per slide."""
    known = known_feature / np.maximum(np.linalg.norm(known_feature, axis=1, keepdims=True), 1e-12)
    query = query_feature / np.maximum(np.linalg.norm(query_feature, axis=1, keepdims=True), 1e-12)
    k = min(SIMILAR_SPOTS, len(known))
    predicted = np.empty((len(query), known_label.shape[1]), known_label.dtype)
    for start in range(0, len(query), CHUNK):
        cosine = query[start:start + CHUNK] @ known.T  # (chunk, n_known)
        top = np.argsort(-cosine, axis=1, kind="stable")[:, :k]  # (chunk, k)
        weight = np.maximum(np.take_along_axis(cosine, top, axis=1), 1e-6)
        weight /= weight.sum(axis=1, keepdims=True)
        rows = np.repeat(np.arange(len(top)), k)
        weights = sparse.csr_array((weight.ravel(), (rows, top.ravel())), shape=(len(top), len(known)))
        predicted[start:start + CHUNK] = weights @ known_label
    return predicted


def kernel(known_label: np.ndarray, known_position: np.ndarray, query_position: np.ndarray,
           sigma_pitches: float = KERNEL_SIGMA_PITCHES) -> np.ndarray:
    """Gaussian weights on registered distance over the 32 nearest known spots; positions in pitches."""
    k = min(KERNEL_SPOTS, len(known_position))
    distance, index = cKDTree(known_position).query(query_position, k=np.arange(1, k + 1))  # (n_query, k)
    # relative to the nearest: a spot far from every known one gets the nearest, not 0 / 0
    weight = np.exp(-(distance ** 2 - distance[:, :1] ** 2) / (2 * sigma_pitches ** 2))
    weight /= weight.sum(axis=1, keepdims=True)
    rows, shape = np.repeat(np.arange(len(query_position)), k), (len(query_position), len(known_label))
    return sparse.csr_array((weight.ravel(), (rows, index.ravel())), shape=shape) @ known_label
