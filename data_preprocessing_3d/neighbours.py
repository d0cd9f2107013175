"""The neighbouring spots of a stack: sparse pairs, never a dense (n, n). Arrays in, arrays out; readers of the stack.

A set of pairs is `pairs` (P, 2) int64 with pairs[:, 0] < pairs[:, 1], unique, sorted: the union-symmetric form of a
relation.
"""
from collections.abc import Iterator

import numpy as np
import pandas as pd
import scipy  # scipy.sparse is loaded when it is first used: --help stays quick

from common.contract.walk import hold_to_contract
from common.errors import LayerError
from common.geometry import Geometry
from common.io import MAX_POSITION, read_json, read_npy, read_table
from common.jobs import Context
from common.layout import Layout

K_CROSS = 12          # neighbours of a spot over all other layers
K_WITHIN = 4          # neighbours of a spot in its own layer
BLOCK_ROWS = 512      # spots compared with the whole stack at a time
BLOCK_PAIRS = 8192    # pairs whose features are held at a time


# reading ---------------------------------------------------------------------------------------------
def read_stack(layout: Layout, sample: str) -> pd.DataFrame:
    """Spots of a sample: sample, layer, barcode, registered_x, registered_y (px); layers ascending.

    Raises LayerError.
    """
    file = layout.spot_regist(sample)
    stack = read_table(file, ("layer", "barcode", "registered_x", "registered_y"),
                       "Step3.5_registertoMiddle_ANTs_points_contour_fast.py", text=("sample", "barcode"))
    positions = stack[["layer", "registered_x", "registered_y"]].apply(pd.to_numeric, errors="coerce")
    if stack.empty or not (positions.abs() < MAX_POSITION).all(axis=None):
        raise LayerError(file, "a position that is not finite", "registered px", "run Step3.5 again")
    if not stack["layer"].is_monotonic_increasing:
        raise LayerError(file, "sections out of order", "rows in z order, section by section", "run Step3.5 again")
    return stack


def registered_frame(context: Context, sample: str) -> Geometry:
    """The scale of the registered frame, that of the middle layer. Raises LayerError if it is not registered."""
    middle = read_json(context.layout.quality(sample), "Step3_registertoMiddle_ANTs.py")["middle"]
    return context.geometry(sample, middle)


def layers_of(stack: pd.DataFrame) -> list[int]:
    """Layers of the stack in z order."""
    return [int(layer) for layer in stack["layer"].unique()]


def read_records(context: Context, sample: str, stack: pd.DataFrame) -> Iterator[tuple[int, np.ndarray]]:
    """(layer, its records of step 7, memory-mapped), in z order.

    Raises LayerError if their spots are not those of the stack.
    """
    for layer in layers_of(stack):
        file = context.layout.npy(sample, layer)
        hold_to_contract(context.layout, context.all_samples, sample, layer, [file])
        records = read_npy(file, "7_make_dataset.py", mmap=True)
        if records["barcode"].tolist() != stack["barcode"][stack["layer"] == layer].tolist():
            raise LayerError(file, "other spots than spot_regist", "the spots of the location file in its order",
                             "run step 7 and Step3.5 again")
        yield layer, records


def read_directions(context: Context, sample: str, stack: pd.DataFrame) -> np.ndarray:
    """Spot features as unit vectors, standardised per layer: (n, D) float32.

    Raises LayerError if widths differ or one is not finite.
    """
    features = [np.array(records["feature"]) for _, records in read_records(context, sample, stack)]
    widths = {feature.shape[1] for feature in features}
    if len(widths) > 1 or not all(np.isfinite(feature).all() for feature in features):
        raise LayerError(f"npy_information/{sample}", "features of different widths or not finite",
                         "the same finite features in all sections", "run steps 4 and 7 again")
    return np.concatenate([directions(feature) for feature in features])


# pairs -----------------------------------------------------------------------------------------------
def unite(source: np.ndarray, target: np.ndarray, n: int) -> np.ndarray:
    """The pairs joined in either direction: source, target (E,) -> (P, 2)."""
    key = np.unique(np.minimum(source, target).astype(np.int64) * n + np.maximum(source, target))
    return np.stack([key // n, key % n], axis=1) if n else np.empty((0, 2), np.int64)


def symmetric(pairs: np.ndarray, value: np.ndarray, n: int) -> "scipy.sparse.csr_array":
    """CSR (n, n) float32 with value (P,) at both places of each pair; zeros stay stored."""
    row, column = np.concatenate([pairs, pairs[:, ::-1]]).T
    matrix = scipy.sparse.csr_array((np.tile(value, 2).astype(np.float32), (row, column)), shape=(n, n))
    matrix.sort_indices()
    return matrix


def pairs_of(matrix: "scipy.sparse.csr_array") -> np.ndarray:
    """The stored pairs of a symmetric matrix: (P, 2)."""
    entries = matrix.tocoo()
    return unite(entries.row, entries.col, matrix.shape[0])


def value_at(matrix: "scipy.sparse.csr_array", pairs: np.ndarray) -> np.ndarray:
    """Stored value of each pair, 0 where none is stored: (P,) float32."""
    if not matrix.nnz:
        return np.zeros(len(pairs), np.float32)
    n = matrix.shape[0]
    stored = np.repeat(np.arange(n), np.diff(matrix.indptr)) * n + matrix.indices  # (nnz,) ascending
    wanted = pairs[:, 0] * n + pairs[:, 1]
    at = np.minimum(np.searchsorted(stored, wanted), len(stored) - 1)
    return np.where(stored[at] == wanted, matrix.data[at], 0).astype(np.float32)


# similarity ------------------------------------------------------------------------------------------
def directions(feature: np.ndarray) -> np.ndarray:
    """Columns standardised over the layer's spots, rows scaled to length 1 (a zero row stays 0): (n, D) -> float32."""
    standard = feature - feature.mean(axis=0, dtype=np.float64)
    deviation = standard.std(axis=0)
    standard /= np.where(deviation > 1e-6, deviation, np.inf)  # a constant column becomes 0
    length = np.linalg.norm(standard, axis=1, keepdims=True)
    return (standard / np.where(length > 0, length, 1)).astype(np.float32)


def most_similar(direction: np.ndarray, layer: np.ndarray, k: int = K_CROSS) -> tuple[np.ndarray, np.ndarray]:
    """Each spot's k spots of highest cosine over all other layers: source, target (E,).

    direction (n, D), layer (n,).
    """
    sources, targets = [], []
    for own in np.unique(layer):
        rows, others = np.flatnonzero(layer == own), np.flatnonzero(layer != own)
        count = min(k, len(others))
        if not count:
            continue
        candidates = direction[others]
        for block in np.split(rows, range(BLOCK_ROWS, len(rows), BLOCK_ROWS)):
            distance = -direction[block] @ candidates.T  # (block, n_others)
            best = np.argpartition(distance, count - 1, axis=1)[:, :count]
            sources.append(others[best].ravel())
            targets.append(np.repeat(block, count))
    if not sources:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    return np.concatenate(sources), np.concatenate(targets)


def cosine(direction: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Cosine of each pair of unit vectors: (P,) float32."""
    blocks = np.split(pairs, range(BLOCK_PAIRS, len(pairs), BLOCK_PAIRS))
    values = [np.einsum("pd,pd->p", direction[block[:, 0]], direction[block[:, 1]]) for block in blocks]
    return np.concatenate(values).astype(np.float32)


# neighbours ------------------------------------------------------------------------------------------
def top_k(matrix: "scipy.sparse.csr_array", k: int = K_CROSS) -> tuple[np.ndarray, np.ndarray]:
    """The k highest stored values of each row (ties: lower column): source (column), target (row), (E,)."""
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((matrix.indices, -matrix.data, row))  # row by row
    kept = order[np.arange(matrix.nnz) - matrix.indptr[row] < k]
    return matrix.indices[kept].astype(np.int64), row[kept]
