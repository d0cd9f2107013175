"""What a spot looks like, in few numbers: the views of the Gaussian process and the inputs of the network.

Features are standardised within each slide (a slide's stain and scanner drop out), projected on principal components that all slides of the
sample share, and joined with the same averaged over the spot's surroundings (Gaussian, sigma one pitch, own layer). No label is involved.
"""
import numpy as np
import torch
from scipy import sparse
from scipy.spatial import cKDTree

from common.threads import one_thread
from models.encoder import N_COMPONENTS, fit_pca, standardise_per_slide

SURROUNDINGS_PITCHES = 1.0


def surroundings(position: np.ndarray, layer: np.ndarray, sigma_pitches: float = SURROUNDINGS_PITCHES) -> sparse.csr_array:
    """Averaging over the spots of the own layer within three sigma: (n, n), rows sum to 1. position: (n, 2) pitches, layer: (n,)."""
    blocks, rows = [], []
    for one in np.unique(layer):
        members = np.flatnonzero(layer == one)
        tree = cKDTree(position[members])
        near = tree.sparse_distance_matrix(tree, 3 * sigma_pitches, output_type="coo_matrix")  # leaves out nothing but the zeros
        weight = sparse.csr_array((np.exp(-near.data ** 2 / (2 * sigma_pitches ** 2)), (near.row, near.col)), shape=near.shape)
        weight.setdiag(1.0)
        blocks.append(sparse.diags_array(1 / weight.sum(axis=1)) @ weight)
        rows.append(members)
    order = np.argsort(np.concatenate(rows))
    return sparse.csr_array(sparse.block_diag(blocks, format="csr"))[order][:, order]


@one_thread()
def look(feature: np.ndarray, position: np.ndarray, layer: np.ndarray, n_components: int) -> np.ndarray:
    """(n, D) features, here standardised on their slides -> (n, 2 · components): scaled components and their surroundings, over sqrt(2)."""
    standard = standardise_per_slide(torch.from_numpy(np.ascontiguousarray(feature, np.float32)), torch.from_numpy(np.ascontiguousarray(layer)))
    axes, scale = fit_pca(standard, n_components)
    own = (standard @ axes / scale).double().numpy()  # (n, components)
    around = surroundings(position, layer) @ own
    return np.concatenate([own, around / max(around[:, 0].std(), 1e-12)], axis=1) / np.sqrt(2)


def spot_views(position: np.ndarray, layer: np.ndarray, features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All views of a sample's spots: {"position": (n, 2) pitches, "image": (n, 96), "stain": (n, 48)}, those of `features` that there are."""
    return {"position": np.asarray(position, np.float64),
            **{name: look(features[name], position, layer, N_COMPONENTS[name]) for name in sorted(features)}}
