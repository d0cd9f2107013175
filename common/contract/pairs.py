"""The contract of overlap, similarity and their sum (3D steps 1 to 3)."""
from pathlib import Path

import numpy as np

from common import io
from common.contract.fault import demand, demand_array
from common.contract.root import Root


def sparse(lowest: float, highest: float):
    """The check of a square, symmetric matrix between sections with values in [lowest, highest]."""
    def check(root: Root, path: Path, sample: str, layer: None) -> None:
        matrix, stack = root.own(path, io.read_csr), root.stack(sample)
        n = matrix.shape[0] if stack is None else len(stack)
        demand(matrix.shape == (n, n), f"shape {matrix.shape}", f"({n}, {n}), the rows of spot_regist/{sample}.csv")
        matrix.check_format(full_check=True)
        demand(bool(matrix.has_canonical_format), "columns out of order or twice", "sorted CSR")
        demand_array(matrix.data, "values", "f4", None)
        transposed = matrix.T.tocsr()
        transposed.sort_indices()
        parts = ("indptr", "indices", "data")
        same = all(np.array_equal(getattr(matrix, part), getattr(transposed, part)) for part in parts)
        demand(same, "a pair with two values", "a symmetric matrix")
        inside = not matrix.nnz or (matrix.data.min() >= lowest and matrix.data.max() <= highest + 1e-4)
        demand(inside, f"values {matrix.data.min(initial=0):.3g} to {matrix.data.max(initial=0):.3g}",
               f"{lowest:.3g} to {highest:.3g}")
        if stack is not None:
            layers, rows = stack["layer"].to_numpy(), np.repeat(np.arange(n), np.diff(matrix.indptr))
            across = (layers[rows] != layers[matrix.indices]).all()
            demand(across, "a pair within one section", "spots of different sections")
    return check


def combined(root: Root, path: Path, sample: str, layer: None) -> None:
    sparse(-1.0001, 2)(root, path, sample, layer)
    matrix = root.own(path, io.read_csr)
    iou = root.read(root.layout.spot_iou(sample), io.read_csr)
    cosine = root.read(root.layout.similarity(sample), io.read_csr)
    if iou is not None and cosine is not None:
        rest = matrix - iou - cosine
        right = matrix.nnz == cosine.nnz and not (np.abs(rest.data) > 1e-4).any()
        demand(right, "weights that are not IoU + cosine",
               f"spot_iou/{sample}.npz + similarity/{sample}.npz on the pairs of the latter")
