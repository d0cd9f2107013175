"""Training and prediction in 2D: the expression of a section from its image alone (Zhu et al., CVPR 2025).

The whole graph of one layer is in every pass; the loss is on batch_size of its spots, its labelled regions and globals:

    0.75 MSE + 0.1 (1 - PCC) on spots  +  0.1 (1 - PCC) on regions, on globals
    + 0.1 (1 - PCC) between a spot and its own region, its own global

Predictions start from a mean: in training that of the layer itself, otherwise that of the training layers. Images are
standardised on their slide, so they cannot predict the difference between the means of two sections. Each member keeps
the weights that best predict its held-out data: one of the training samples (another one for each member); of a single
sample one of its layers; of a single layer hidden discs of it. No label of a test layer is used.
"""
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dataloader import Pictures
from models.discs import discs
from models.encoder import SpotEncoder
from models.msagnet import Architecture
from models.msagnet_2d import MSAGNet2D, Network2D
from models.projection import Projection
from models.sample import Sample, SampleGraph
from training.episodes import prepare, to_device
from training.loop import check_labelled, optimise, with_noise
from training.multi_level import fit_basis, multi_level_loss, patches_of
from training.settings import Settings

LOSS_SHARE = 0.1
HELD_OUT_SHARE = 0.2
DISC_RADII_PITCHES = (2.0, 3.0)
ENCODER_BATCH = 64


@dataclass(frozen=True)
class TrainingLayer:
    """One layer on the device: the graph, the labels, and which spots, regions and globals are in the loss."""
    name: str
    sample: Sample
    edges: Tensor                   # (2, E)
    edge_attr: Tensor               # (E, 1)
    label: Tensor                   # (n, G)
    region_label: Tensor            # (R, G)
    global_label: Tensor            # (Q, G)
    mean: Tensor                    # (G,) of the layer
    spots: Tensor                   # indices
    patches: tuple[Tensor, Tensor]  # indices of regions, of globals
    pictures: Pictures | None       # with an encoder


def make_training_layer(graph: SampleGraph, pool: Tensor, sample: Sample, device: torch.device,
                        pictures: Pictures | None) -> TrainingLayer:
    """pool: (n,) bool, the spots whose label may be used; sample: the prepared graph, on the device."""
    regions, globals_ = patches_of(graph, pool)
    return TrainingLayer(
        name=f"{graph.sample}/{int(graph.layer[0])}", sample=sample,
        edges=graph.spot_edges.to(device), edge_attr=graph.spot_edge_attr.to(device),
        label=graph.label.to(device), region_label=graph.region_label.to(device),
        global_label=graph.global_label.to(device), mean=graph.label[pool].mean(dim=0).to(device),
        spots=torch.where(pool)[0].to(device),
        patches=(torch.where(regions)[0].to(device), torch.where(globals_)[0].to(device)), pictures=pictures)


def build_model(graphs: list[SampleGraph], pools: list[Tensor], settings: Settings,
                encoder: SpotEncoder | None) -> MSAGNet2D:
    """Fit the projection (features of all layers), basis and mean (training labels only), and make the network."""
    generator = torch.Generator().manual_seed(settings.seed)
    projection = Projection.fit(torch.cat([graph.feature for graph in graphs]), graphs[0].feature_sets, generator)
    parts = list(zip(graphs, pools, strict=True))
    basis, z_scale, level_offset = fit_basis(parts, settings.rank)
    mean = torch.stack([graph.label[pool].mean(dim=0) for graph, pool in parts if pool.any()]).mean(dim=0)  # (G,)
    architecture = Architecture(n_genes=basis.shape[1], rank=len(basis), n_components=projection.width,
                                n_encoder=encoder.width if encoder else 0, n_members=settings.members,
                                width=settings.width, dropout=settings.dropout, without=settings.without)
    torch.manual_seed(settings.seed)
    model = MSAGNet2D(architecture, projection, basis, z_scale, level_offset, mean)
    if encoder:
        model.members[0].encoder = encoder
    return model


def split(graphs: list[SampleGraph], pools: list[Tensor], member: int, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """What a member trains on, and what it holds out to choose its weights: pools of each, (n,) bool per layer."""
    labelled = [k for k, pool in enumerate(pools) if pool.any()]
    samples = sorted({graphs[k].sample for k in labelled})
    if len(samples) > 1:
        held = [k for k in labelled if graphs[k].sample == samples[(member + seed) % len(samples)]]
    elif len(labelled) > 1:
        held = [labelled[(member + seed) % len(labelled)]]
    else:
        held = labelled
    hidden = [pool if k in held else torch.zeros_like(pool) for k, pool in enumerate(pools)]
    if len(labelled) == 1:
        only, generator = labelled[0], np.random.default_rng([seed, member])
        position, pool = graphs[only].position.numpy(), pools[only].numpy()
        hidden[only] = torch.from_numpy(discs(position, pool, HELD_OUT_SHARE, DISC_RADII_PITCHES, generator))
    return [pool & ~one for pool, one in zip(pools, hidden, strict=True)], hidden


def train(graphs: list[SampleGraph], pools: list[Tensor], settings: Settings, device: torch.device,
          log: Callable | None = None, encoder: SpotEncoder | None = None,
          pictures: list[Pictures] | None = None) -> MSAGNet2D:
    """Train the network.

    graphs: layers whose images may be used, one per graph; pools: (n,) bool each, the labels that may be used. An
    encoder, with the pictures of each layer, is trained too, in place (one member only). Raises as three_d.train.
    """
    check_labelled("training", sum(int(pool.sum()) for pool in pools), "the training sections")
    model = build_model(graphs, pools, settings, encoder)
    samples = [to_device(prepare(graph, model.projection), device) for graph in graphs]
    model, pictures = model.to(device), pictures or [None] * len(graphs)

    def layers_of(part: list[Tensor]) -> list[TrainingLayer]:
        layers = []
        for graph, pool, sample, own in zip(graphs, part, samples, pictures, strict=True):
            if pool.any():
                layers.append(make_training_layer(graph, pool, sample, device, own))
        return layers

    for index in range(len(model.members)):
        training, held_out = split(graphs, pools, index, settings.seed)
        train_member(model, index, layers_of(training), layers_of(held_out), settings, log)
    return model.eval()


def train_member(model: MSAGNet2D, index: int, training_layers: list[TrainingLayer], held_out: list[TrainingLayer],
                 settings: Settings, log: Callable | None) -> None:
    """Train one member in place.

    An encoder encodes the pictures of the spots in the loss anew; of the others its last output is used.
    """
    member, generator = model.members[index], np.random.default_rng([settings.seed, index])
    torch.manual_seed(settings.seed * len(model.members) + index)
    last = {layer.name: encode(member, layer.pictures, layer.label.device) for layer in training_layers}

    def loss_at(iteration: int) -> tuple[Tensor, dict[str, float], str]:
        layer = training_layers[iteration % len(training_layers)]
        batch = np.sort(generator.permutation(len(layer.spots))[:settings.batch_size])
        spots = layer.spots[torch.from_numpy(batch).to(layer.spots.device)]
        encoded = last[layer.name]  # (n, n_encoder)
        if encoded is not None:
            pictures = layer.pictures[spots.cpu().numpy()].to(spots.device)  # (b, 224, 224, 3)
            encoded = encoded.index_copy(0, spots, member.encoder(pictures))
            last[layer.name] = encoded.detach()
        loss, parts = layer_loss(model, member, layer, spots, settings.input_noise, encoded)
        return loss, parts, layer.name

    def validate(network: Network2D) -> float:
        """Loss on the spots that the member does not train on."""
        losses = []
        with torch.no_grad():
            for layer in held_out:
                encoded = encode(network, layer.pictures, layer.label.device)
                losses.append(layer_loss(model, network, layer, layer.spots, 0.0, encoded)[1]["train/spot"])
        return float(np.mean(losses))

    optimise(member, loss_at, settings, log, start=index * settings.max_iterations, validate=validate)


@torch.no_grad()
def encode(member: Network2D, pictures: Pictures | None, device: torch.device) -> Tensor | None:
    """The output of the member's encoder on all pictures of a layer: (n, n_encoder); None without an encoder."""
    if pictures is None:
        return None
    was_training = member.encoder.training
    member.encoder.eval()
    parts = []
    for start in range(0, len(pictures), ENCODER_BATCH):
        rows = np.arange(start, min(start + ENCODER_BATCH, len(pictures)))
        parts.append(member.encoder(pictures[rows].to(device)))
    member.encoder.train(was_training)
    return torch.cat(parts)


def layer_loss(model: MSAGNet2D, member: Network2D, layer: TrainingLayer, spots: Tensor, input_noise: float,
               encoded: Tensor | None) -> tuple[Tensor, dict[str, float]]:
    """The multi-level loss of one pass; spots: indices of those in the loss."""
    out = member(with_noise(layer.sample, input_noise), layer.edges, layer.edge_attr, encoded)
    return multi_level_loss(model, out, out["spot"][spots], spots, layer.mean, layer, LOSS_SHARE, LOSS_SHARE)


@torch.no_grad()
def predict(model: MSAGNet2D, graph: SampleGraph, device: torch.device, pictures: Pictures | None = None) -> np.ndarray:
    """Normalised expression of every spot of a layer: (n, n_genes) float32. No label is read."""
    sample = to_device(prepare(graph, model.to("cpu").projection), device)
    encoded = encode(model.to(device).eval().members[0], pictures, device)
    return model(sample, graph.spot_edges.to(device), graph.spot_edge_attr.to(device), encoded).cpu().numpy()
