"""Training and prediction in 2D: the expression of a section from its picture alone (Zhu et al., CVPR 2025; loop and folds beside this file).

The whole graph of one layer is in every pass; the loss is on batch_size of its spots, its labelled regions and globals:

    0.75 MSE + 0.1 (1 - PCC) on spots  +  0.1 (1 - PCC) on regions, on globals  +  0.1 (1 - PCC) between a spot and its own region, its own global

The mean of a layer in training is its own, of a layer that is predicted that of training: what a whole section has more of than another is not asked of
pictures that are standardised on their slide. Each member keeps the weights that best predict what it does not train on: one of the training samples
(another one a member); of a single sample one of its layers; of a single layer hidden discs of it. No label of a test layer is seen.
"""
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dataloader import Pictures
from models.discs import discs
from models.encoder import Projection
from models.msagnet import Architecture
from models.msagnet_2d import MSAGNet2D, Network2D
from models.sample import Sample, SampleGraph
from models.spot_encoder import SpotEncoder
from training.episodes import prepare, to_device
from training.loop import check_labelled, optimise, with_noise
from training.multi_level import fit_basis, multi_level_loss, patches_of
from training.settings import Settings

LOSS_SHARE = 0.1
HELD_OUT_SHARE = 0.2
DISC_RADII_PITCHES = (2.0, 3.0)
ENCODER_BATCH = 64


@dataclass(frozen=True)
class Lesson:
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


def make_lesson(graph: SampleGraph, pool: Tensor, sample: Sample, device: torch.device, pictures: Pictures | None) -> Lesson:
    """pool: (n,) bool, the spots whose label may be used; sample: the prepared graph, on the device."""
    regions, globals_ = patches_of(graph, pool)
    on = lambda tensor: tensor.to(device)
    return Lesson(f"{graph.sample}/{int(graph.layer[0])}", sample, on(graph.spot_edges), on(graph.spot_edge_attr),
                  on(graph.label), on(graph.region_label), on(graph.global_label), on(graph.label[pool].mean(dim=0)), on(torch.where(pool)[0]),
                  (on(torch.where(regions)[0]), on(torch.where(globals_)[0])), pictures)


def build_model(graphs: list[SampleGraph], pools: list[Tensor], settings: Settings, encoder: SpotEncoder | None) -> MSAGNet2D:
    """Fit the projection (features of all layers), basis and mean (training labels only), and make the network."""
    projection = Projection.fit(torch.cat([graph.feature for graph in graphs]), graphs[0].feature_sets, torch.Generator().manual_seed(settings.seed))
    basis, z_scale, level_offset = fit_basis(list(zip(graphs, pools)), settings.rank)
    mean = torch.stack([graph.label[pool].mean(dim=0) for graph, pool in zip(graphs, pools) if pool.any()]).mean(dim=0)  # (G,)
    architecture = Architecture(n_genes=basis.shape[1], rank=len(basis), n_components=projection.width, n_encoder=encoder.width if encoder else 0,
                                n_members=settings.members, width=settings.width, dropout=settings.dropout, without=settings.without)
    torch.manual_seed(settings.seed)
    model = MSAGNet2D(architecture, projection, basis, z_scale, level_offset, mean)
    if encoder:
        model.members[0].encoder = encoder
    return model


def split(graphs: list[SampleGraph], pools: list[Tensor], member: int, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """What a member trains on and what it is stopped by: pools of each, (n,) bool a layer."""
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
        hidden[only] = torch.from_numpy(discs(graphs[only].position.numpy(), pools[only].numpy(), HELD_OUT_SHARE, DISC_RADII_PITCHES, generator))
    return [pool & ~one for pool, one in zip(pools, hidden)], hidden


def train(graphs: list[SampleGraph], pools: list[Tensor], settings: Settings, device: torch.device, log: Callable | None = None,
          encoder: SpotEncoder | None = None, pictures: list[Pictures] | None = None) -> MSAGNet2D:
    """Train the network.

    graphs: layers whose pictures may be seen, one a graph; pools: (n,) bool each, the labels that may be used. An encoder, with the pictures of each layer,
    is trained too, in place (one member only). Raises as training.train.
    """
    check_labelled("training", sum(int(pool.sum()) for pool in pools), "the training layers")
    model = build_model(graphs, pools, settings, encoder)
    samples = [to_device(prepare(graph, model.projection), device) for graph in graphs]
    model, pictures = model.to(device), pictures or [None] * len(graphs)
    for index, member in enumerate(model.members):
        lessons, checks = ([make_lesson(graph, pool, sample, device, picture) for graph, pool, sample, picture in zip(graphs, part, samples, pictures) if pool.any()]
                           for part in split(graphs, pools, index, settings.seed))
        train_member(model, index, lessons, checks, settings, log)
    return model.eval()


def train_member(model: MSAGNet2D, index: int, lessons: list[Lesson], checks: list[Lesson], settings: Settings, log: Callable | None) -> None:
    """Train one member in place. An encoder sees the pictures in the loss anew; of the others what it last made of them is taken."""
    member, generator = model.members[index], np.random.default_rng([settings.seed, index])
    torch.manual_seed(settings.seed * len(model.members) + index)
    banks = {lesson.name: encode(member, lesson.pictures, lesson.label.device) for lesson in lessons}

    def loss_at(iteration: int) -> tuple[Tensor, dict[str, float], str]:
        lesson = lessons[iteration % len(lessons)]
        batch = np.sort(generator.permutation(len(lesson.spots))[:settings.batch_size])
        spots = lesson.spots[torch.from_numpy(batch).to(lesson.spots.device)]
        encoded = banks[lesson.name]
        if encoded is not None:
            encoded = encoded.index_copy(0, spots, member.encoder(lesson.pictures[spots.cpu().numpy()].to(spots.device)))
            banks[lesson.name] = encoded.detach()
        return *layer_loss(model, member, lesson, spots, settings.input_noise, encoded), lesson.name

    def validate(network: Network2D) -> float:
        """Loss on the spots that the member does not train on."""
        with torch.no_grad():
            return float(np.mean([layer_loss(model, network, lesson, lesson.spots, 0.0, encode(network, lesson.pictures, lesson.label.device))[1]["train/spot"]
                                  for lesson in checks]))

    optimise(member, loss_at, settings, log, start=index * settings.max_iterations, validate=validate)


@torch.no_grad()
def encode(member: Network2D, pictures: Pictures | None, device: torch.device) -> Tensor | None:
    """What the member's encoder makes of all pictures of a layer: (n, n_encoder); None without an encoder."""
    if pictures is None:
        return None
    was_training = member.encoder.training
    member.encoder.eval()
    parts = [member.encoder(pictures[np.arange(start, min(start + ENCODER_BATCH, len(pictures)))].to(device)) for start in range(0, len(pictures), ENCODER_BATCH)]
    member.encoder.train(was_training)
    return torch.cat(parts)


def layer_loss(model: MSAGNet2D, member: Network2D, lesson: Lesson, spots: Tensor, input_noise: float, encoded: Tensor | None) -> tuple[Tensor, dict[str, float]]:
    """The multi-level loss of one pass; spots: indices of those in the loss."""
    out = member(with_noise(lesson.sample, input_noise), lesson.edges, lesson.edge_attr, encoded)
    return multi_level_loss(model, out, out["spot"][spots], spots, lesson.mean, lesson, LOSS_SHARE, LOSS_SHARE)


@torch.no_grad()
def predict(model: MSAGNet2D, graph: SampleGraph, device: torch.device, pictures: Pictures | None = None) -> np.ndarray:
    """Every spot of a layer: (n, n_genes) float32, normalised expression. No label is read."""
    sample = to_device(prepare(graph, model.to("cpu").projection), device)
    encoded = encode(model.to(device).eval().members[0], pictures, device)
    return model(sample, graph.spot_edges.to(device), graph.spot_edge_attr.to(device), encoded).cpu().numpy()
