"""The released network (models/reference.py) on our graphs, trained by its own recipe: `--method reference` of main.py and main_3d.py.

It reads the features of regions and globals, the edges, and labels of the pool. It differs from the released training in what it may see: no label
of a target layer trains it or stops it. The released Transformer has 36 width^2 parameters: for a CPU's sake features are reduced to 112 principal
components (released: 1024 features), fitted on the patches of all layers, no label involved. Their scale hardly acts: every node is given length 1.
"""
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from data_preprocessing_3d.neighbours import nearest
from dataloader import SampleGraph
from models import reference
from models.encoder import fit_pca
from training import patches_of

WIDTH = 112
HEADS = 8
K_NEAREST_2D = 8


def fit_projection(graphs: list[SampleGraph]) -> Tensor:
    """(n_features, width): from standardised features of patches to their principal components, scaled as in models/encoder.py.

    width: 112, or what fewer patches or features allow, a multiple of the heads.
    """
    features = torch.cat([feature for graph in graphs for feature in (graph.region_feature, graph.global_feature)])  # (R + Q, n_features)
    axes, scale = fit_pca(features, min(WIDTH, *features.shape) // HEADS * HEADS)
    return axes / scale


def reference_graph(graph: SampleGraph, pool: Tensor, projection: Tensor, three_d: bool) -> reference.ReferenceGraph:
    """pool: (n,) bool, the spots whose label may be used; a patch with a labelled spot outside it is not in the loss.

    Spot edges in 3D are the graph's own; in 2D the 8 nearest on the array (column, row as they are counted), directed.
    """
    regions, globals_ = patches_of(graph, pool)
    outside = graph.has_label & ~pool
    regions[graph.region_of_spot[outside]] = False
    globals_[graph.global_of_spot[outside]] = False
    spot_edges = graph.spot_edges if three_d else torch.from_numpy(np.stack(nearest(graph.array.astype(float), K_NEAREST_2D)))
    return reference.ReferenceGraph(
        region_feature=graph.region_feature @ projection, global_feature=graph.global_feature @ projection,
        region_of_spot=graph.region_of_spot, global_of_spot=graph.global_of_spot, spot_edges=spot_edges,
        region_edges=graph.region_edges, global_edges=graph.global_edges, label=graph.label, region_label=graph.region_label,
        global_label=graph.global_label, region_in_loss=regions, global_in_loss=globals_)


def train(graphs: list[SampleGraph], pools: list[Tensor], three_d: bool, seed: int, device: torch.device,
          log: Callable | None = None) -> tuple[reference.Reference, Tensor]:
    """The network and the projection of its features.

    graphs: samples (3D) or layers (2D) whose pictures may be seen; pools: (n,) bool each, the labels that may be used. Raises as reference.train.
    """
    projection = fit_projection(graphs)
    inputs = [reference_graph(graph, pool, projection, three_d) for graph, pool in zip(graphs, pools)]
    return reference.train(inputs, pools, three_d, heads=HEADS, seed=seed, device=device, log=log), projection


def predict(model: reference.Reference, graph: SampleGraph, shown: Tensor, projection: Tensor) -> np.ndarray:
    """Every spot: (n, n_genes) float32, normalised expression. shown: (n,) bool, the spots whose labels are given (3D; in 2D none is read)."""
    return reference.predict(model, reference_graph(graph, shown, projection, model.three_d), shown).numpy()


def checkpoint(model: reference.Reference, projection: Tensor) -> dict:
    """Tensors under the released names, and the projection."""
    return {"state": {name: value.cpu() for name, value in model.state_dict().items()}, "projection": projection}


def from_checkpoint(saved: dict) -> tuple[reference.Reference, Tensor]:
    """The network, in evaluation mode, and the projection. Raises DataError if it is no such checkpoint."""
    return reference.from_state(saved["state"], HEADS)[0], saved["projection"]
