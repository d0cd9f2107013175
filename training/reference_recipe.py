"""The released network (models/reference.py) on our graphs, trained by its own recipe: `--method reference`.

It reads the features of regions and globals, the edges, and labels of the pool. Unlike in the released training, no
label of a target layer trains or stops it. As released, an untrained random linear map takes the features to `width`
numbers (released: 1024), but it is ONE map for all layers. The Transformer has 36 width² parameters: 1024 needs a GPU.
A narrow network learns less in the recipe's few small steps; a very narrow one does not reach the mean level.
"""
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.errors import DataError
from common.io import read_pt
from common.lattice import nearest_on_lattice
from models import reference
from models.reference import Reference, from_state
from models.sample import SampleGraph
from training.multi_level import patches_of

HEADS = 8
K_NEAREST_2D = 8


def draw_projection(n_features: int, width: int, seed: int) -> Tensor:
    """Random map (n_features, width) of standardised features to variance 1. width: a multiple of the 8 heads."""
    return torch.randn(n_features, width, generator=torch.Generator().manual_seed(seed)) / n_features ** 0.5


def reference_graph(graph: SampleGraph, pool: Tensor, projection: Tensor, three_d: bool) -> reference.ReferenceGraph:
    """pool: (n,) bool, the spots whose label may be used; a patch with a labelled spot outside it is not in the loss.

    Spot edges in 3D are the graph's own; in 2D the 8 nearest on the array (column, row as they are counted), directed.
    """
    regions, globals_ = patches_of(graph, pool)
    if three_d:
        spot_edges = graph.spot_edges
    else:
        spot_edges = torch.from_numpy(np.stack(nearest_on_lattice(graph.array.astype(float), K_NEAREST_2D)))
    return reference.ReferenceGraph(
        region_feature=graph.region_feature @ projection, global_feature=graph.global_feature @ projection,
        region_of_spot=graph.region_of_spot, global_of_spot=graph.global_of_spot, spot_edges=spot_edges,
        region_edges=graph.region_edges, global_edges=graph.global_edges, label=graph.label,
        region_label=graph.region_label, global_label=graph.global_label,
        region_in_loss=regions, global_in_loss=globals_)


def train(graphs: list[SampleGraph], pools: list[Tensor], three_d: bool, width: int, seed: int, device: torch.device,
          log: Callable | None = None) -> tuple[reference.Reference, Tensor]:
    """The network and the projection of its features.

    graphs: samples (3D) or layers (2D) whose images may be used; pools: (n,) bool each, the labels that may be used.
    Raises DataError for a width that does not fit the heads, and as reference.train.
    """
    if width < HEADS or width % HEADS:
        raise DataError("--reference_width", width, f"a multiple of the {HEADS} attention heads",
                        "e.g. --reference_width 128")
    projection = draw_projection(graphs[0].region_feature.shape[1], width, seed)
    inputs = [reference_graph(graph, pool, projection, three_d) for graph, pool in zip(graphs, pools, strict=True)]
    return reference.train(inputs, pools, three_d, heads=HEADS, seed=seed, device=device, log=log), projection


def predict(model: reference.Reference, graph: SampleGraph, context: Tensor, projection: Tensor) -> np.ndarray:
    """Normalised expression of every spot: (n, n_genes) float32.

    context: (n,) bool, the spots whose labels are given (3D; in 2D no label is read).
    """
    return reference.predict(model, reference_graph(graph, context, projection, model.three_d), context).numpy()


def checkpoint(model: reference.Reference, projection: Tensor) -> dict:
    """Tensors under the released names, and the projection."""
    return {"state": {name: value.cpu() for name, value in model.state_dict().items()}, "projection": projection}


def from_checkpoint(saved: dict) -> tuple[reference.Reference, Tensor]:
    """The network, in evaluation mode, and the projection. Raises DataError for parameters of another network."""
    return reference.from_state(saved["state"], HEADS)[0], saved["projection"]


def read_checkpoint(file: Path, heads: int = 8) -> tuple[Reference, list[str]]:
    """The network of a released parameter file (3D if it has `alpha`), and the names of the parameters without effect.

    Raises LayerError for a file that cannot be read, DataError as from_state.
    """
    return from_state(read_pt(file, "the released training"), heads, file)
