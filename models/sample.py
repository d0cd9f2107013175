"""The network's input: the graph of a sample, its projected features, and an episode of some of its spots."""
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from common.feature_recipe import FeatureRecipe
from models.projection import grouped
from models.views import spot_views


@dataclass(frozen=True)
class SampleGraph:
    """Spots, regions and globals of the layers of one sample. n spots, R regions, Q globals, D features, G genes."""
    sample: str
    barcode: np.ndarray        # (n,) str
    pixel: np.ndarray          # (n, 2) level-0 px of the own layer
    array: np.ndarray          # (n, 2) column and row on the spot array
    registered: np.ndarray     # (n, 2) level-0 px of the middle layer (2D: of the own one)
    layer: Tensor              # (n,) int64
    position: Tensor           # (n, 2) float32, the same in pitches
    label: Tensor              # (n, G) float32; 0 where has_label is False
    has_label: Tensor          # (n,) bool
    feature_sets: dict[str, int]  # width of each feature set: the columns of the three features below
    feature: Tensor            # (n, D) float32, standardised per slide
    region_feature: Tensor     # (R, D)
    global_feature: Tensor     # (Q, D)
    region_label: Tensor       # (R, G)
    global_label: Tensor       # (Q, G)
    region_has_label: Tensor   # (R,) bool
    global_has_label: Tensor   # (Q,) bool
    region_layer: Tensor       # (R,) int64
    global_layer: Tensor       # (Q,) int64
    region_of_spot: Tensor     # (n,) int64
    global_of_spot: Tensor     # (n,) int64
    global_of_region: Tensor   # (R,) int64
    region_keys: Tensor        # (R, 9) the region and its neighbours, -1 where none
    global_keys: Tensor        # (Q, 9)
    spot_edges: Tensor         # (2, E) source -> target; 3D: cross and within together
    spot_edge_attr: Tensor     # (E, 5) weight, iou, cosine, distance_pitches, layer_difference;
                               # 2D: (E, 1) 2.1 - distance_pitches
    region_edges: Tensor       # (2, E')
    region_edge_attr: Tensor   # (E', 1)
    global_edges: Tensor       # (2, E'')
    global_edge_attr: Tensor   # (E'', 1)
    feature_recipe: FeatureRecipe = field(default_factory=dict)  # how each feature set was made

    @property
    def n_spots(self) -> int:
        return len(self.layer)

    @property
    def n_genes(self) -> int:
        return self.label.shape[1]

    def labelled_layers(self) -> list[int]:
        """Layers that have measured expression, in z order."""
        return sorted(int(l) for l in torch.unique(self.layer[self.has_label]))

    def in_layers(self, layers: list[int]) -> Tensor:
        """(n,) bool: labelled spots of these layers."""
        return torch.isin(self.layer, torch.tensor(layers, device=self.layer.device)) & self.has_label

    @cached_property
    def views(self) -> dict[str, np.ndarray]:
        """Position and image features of every spot, for the Gaussian process.

        {"position": (n, 2) pitches, "image": (n, ·), "stain": (n, ·)}, see models/views.py.
        """
        features = {group: feature.numpy() for group, feature in grouped(self.feature, self.feature_sets).items()}
        return spot_views(self.position.numpy(), self.layer.numpy(), features)


@dataclass(frozen=True)
class Sample:
    """The part of a sample that is the same in all episodes: projected features, the levels and their graphs."""
    spot_x: Tensor             # (n, n_components)
    around_x: Tensor           # (n, n_components): the same averaged over the spot's surroundings
    position: Tensor           # (n, 2) pitches
    region_x: Tensor           # (R, n_components)
    global_x: Tensor           # (Q, n_components)
    spot_region_keys: Tensor   # (n, 9)
    spot_global_keys: Tensor   # (n, 9)
    region_of_spot: Tensor     # (n,)
    global_of_spot: Tensor     # (n,)
    global_of_region: Tensor   # (R,)
    region_edges: Tensor
    region_edge_attr: Tensor
    global_edges: Tensor
    global_edge_attr: Tensor


@dataclass(frozen=True)
class Episode:
    """m spots of one sample in one pass: context spots with their label, and query spots, whose label is predicted."""
    rows: Tensor      # (m,) spots of the sample
    query: Tensor     # (m,) bool; the others are context
    z: Tensor         # (m, rank) coefficients of the label, 0 of a query spot
    imputed: Tensor   # (m, imputed_width) models/imputation.py, 0 of a context spot
    edges: Tensor     # (2, E) among the m spots
    kind: Tensor      # (E,)
