"""Image features of a spot in few numbers: the views of the Gaussian process and the inputs of the network.

Features are standardised within each slide (which removes a slide's stain and scanner), projected on principal
components that all slides of the sample share, and joined with their average over the spot's surroundings (Gaussian,
sigma one pitch, own layer). No label is involved.
"""
import numpy as np
import torch
from scipy import sparse
from scipy.spatial import cKDTree

from common.threads import one_thread
from models.projection import N_COMPONENTS, fit_pca, standardise_per_slide

SURROUNDINGS_PITCHES = 1.0


def surroundings(position: np.ndarray, layer: np.ndarray,
                 sigma_pitches: float = SURROUNDINGS_PITCHES) -> sparse.csr_array:
    """Average over the spots of the own layer within three sigma: (n, n), rows sum to 1.

    position: (n, 2) pitches; layer: (n,).
    """
    blocks, rows = [], []
    for one in np.unique(layer):
        members = np.flatnonzero(layer == one)
        tree = cKDTree(position[members])
        near = tree.sparse_distance_matrix(tree, 3 * sigma_pitches, output_type="coo_matrix")  # omits the zeros only
        values = np.exp(-near.data ** 2 / (2 * sigma_pitches ** 2))
        weight = sparse.csr_array((values, (near.row, near.col)), shape=near.shape)
        weight.setdiag(1.0)
        blocks.append(sparse.diags_array(1 / weight.sum(axis=1)) @ weight)
        rows.append(members)
    order = np.argsort(np.concatenate(rows))
    return sparse.csr_array(sparse.block_diag(blocks, format="csr"))[order][:, order]


@one_thread()
def image_features(feature: np.ndarray, position: np.ndarray, layer: np.ndarray, n_components: int) -> np.ndarray:
    """Scaled components and their surroundings, over sqrt(2): (n, 2 · components).

    feature: (n, D), standardised here on their slides; position: (n, 2) pitches; layer: (n,).
    """
    values, slide = np.ascontiguousarray(feature, np.float32), np.ascontiguousarray(layer)
    standard = standardise_per_slide(torch.from_numpy(values), torch.from_numpy(slide))
    axes, scale = fit_pca(standard, n_components)
    own = (standard @ axes / scale).double().numpy()  # (n, components)
    around = surroundings(position, layer) @ own
    return np.concatenate([own, around / max(around[:, 0].std(), 1e-12)], axis=1) / np.sqrt(2)


def spot_views(position: np.ndarray, layer: np.ndarray, features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All views of a sample's spots: {"position": (n, 2) pitches, "image": (n, 96), "stain": (n, 48)}.

    features: {"image": (n, D), "stain": (n, D')}, or one of them, or none.
    """
    views = {"position": np.asarray(position, np.float64)}
    for name in sorted(features):
        views[name] = image_features(features[name], position, layer, N_COMPONENTS[name])
    return views
