"""The network's input in one pass: a sample, its context spots with their label, and its query spots."""
from dataclasses import fields, replace

import numpy as np
import torch
from torch import Tensor

from models import edges, gp, known_spots
from models.discs import discs
from models.imputation import Imputer
from models.msagnet import MSAGNet
from models.projection import Projection
from models.sample import Episode, Sample, SampleGraph
from models.views import surroundings

DISC_RADII_PITCHES = (0.8, 1.2, 2.0, 3.0)
HIDDEN_SHARE = 0.25
LAYER_EPISODE_SHARE = 0.75


def prepare(graph: SampleGraph, projection: Projection) -> Sample:
    """Project the features once (on the CPU)."""
    with torch.no_grad():
        spot_x = projection(graph.feature, graph.feature_sets)  # (n, n_components)
        region_x = projection(graph.region_feature, graph.feature_sets)
        global_x = projection(graph.global_feature, graph.feature_sets)
    average = surroundings(graph.position.numpy(), graph.layer.numpy())  # (n, n)
    around = torch.from_numpy(average @ spot_x.double().numpy())  # (n, n_components)
    if around.shape[1]:
        around = around / around[:, 0].std().clamp_min(1e-12)
    return Sample(
        spot_x=spot_x, around_x=around.float(), region_x=region_x, global_x=global_x, position=graph.position,
        spot_region_keys=graph.region_keys[graph.region_of_spot],
        spot_global_keys=graph.global_keys[graph.global_of_spot],
        region_of_spot=graph.region_of_spot, global_of_spot=graph.global_of_spot,
        global_of_region=graph.global_of_region,
        region_edges=graph.region_edges, region_edge_attr=graph.region_edge_attr,
        global_edges=graph.global_edges, global_edge_attr=graph.global_edge_attr)


def to_device(batch, device: torch.device):
    """A Sample or an Episode on the device."""
    return replace(batch, **{f.name: getattr(batch, f.name).to(device) for f in fields(batch)})


class Known:
    """The known spots of a sample: their means, their coefficients, and the imputation from them."""

    def __init__(self, graph: SampleGraph, pool: np.ndarray, process: gp.GaussianProcess, model: MSAGNet):
        """pool: (n,) bool, spots whose label may be used; of very many, a part is used (models/known_spots.py)."""
        self.graph, views = graph, graph.views
        used = known_spots.used(graph, pool)
        self.rows, self.left_out = np.flatnonzero(used), pool & ~used  # (m,), (n,) bool
        self.layer = graph.layer.numpy()[self.rows]  # (m,)
        label = graph.label.numpy()[self.rows].astype(np.float64)
        residual, _ = gp.centred(label, self.layer, np.ones(len(label), bool))
        self.layer_mean = {}  # (n_genes,) each
        for one in np.unique(self.layer).tolist():
            self.layer_mean[one] = label[self.layer == one].mean(axis=0)
        self.z = model.coefficients(torch.from_numpy(residual).float().to(model.basis.device)).cpu()  # (m, rank)
        shared = model.basis.cpu().double().numpy() @ process.basis.T  # (rank, rank of the process)
        noise = process.kernel.noise / gp.spot_weights(label)  # (m,)
        self.imputer = Imputer(process.kernel, {name: view[self.rows] for name, view in views.items()}, noise,
                               self.z.double().numpy(), (shared ** 2) @ process.shrinkage)

    def mean_of(self, context: np.ndarray) -> Tensor:
        """Mean of the means of the layers that have a context spot: (n_genes,). context: (m,) bool."""
        means = [self.layer_mean[one] for one in np.unique(self.layer[context]).tolist()]
        return torch.from_numpy(np.mean(means, axis=0)).float()

    def episode(self, hidden: np.ndarray) -> Episode:
        """The known spots alone, the hidden ones as query. hidden: (m,) bool."""
        imputed = torch.zeros(len(self.rows), self.imputer.width)
        imputed[torch.from_numpy(hidden)] = torch.from_numpy(self.imputer.hidden(np.flatnonzero(hidden))).float()
        z = torch.where(torch.from_numpy(hidden).unsqueeze(1), 0.0, self.z)  # (m, rank)
        return self._episode(self.rows, hidden, z, imputed)

    def whole_sample(self) -> Episode:
        """All spots of the sample but those left out: the known ones as context, the others as query."""
        rows = np.flatnonzero(~self.left_out)
        query = ~np.isin(rows, self.rows)
        z, imputed = torch.zeros(len(rows), self.z.shape[1]), torch.zeros(len(rows), self.imputer.width)
        z[torch.from_numpy(~query)] = self.z
        if query.any():
            targets = {name: view[rows[query]] for name, view in self.graph.views.items()}
            imputed[torch.from_numpy(query)] = torch.from_numpy(self.imputer.targets(targets)).float()
        return self._episode(rows, query, z, imputed)

    def _episode(self, rows: np.ndarray, query: np.ndarray, z: Tensor, imputed: Tensor) -> Episode:
        pairs, kind = edges.spot_edges(self.graph.views["position"][rows], self.graph.layer.numpy()[rows], query)
        return Episode(rows=torch.from_numpy(rows), query=torch.from_numpy(query), z=z, imputed=imputed,
                       edges=torch.from_numpy(pairs), kind=torch.from_numpy(kind))


def draw_hidden(position: np.ndarray, layer: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Which of the known spots an episode hides: (m,) bool, never all. position: (m, 2) pitches, layer: (m,)."""
    layers = np.unique(layer)
    if len(layers) > 1 and generator.random() < LAYER_EPISODE_SHARE:
        return layer == layers[generator.integers(len(layers))]
    hidden = np.zeros(len(layer), bool)
    for one in layers:
        hidden |= discs(position, layer == one, HIDDEN_SHARE, DISC_RADII_PITCHES, generator)
    return hidden
