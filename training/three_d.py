"""Training and prediction in 3D (Zhu et al., CVPR 2025; README 'How a number comes about').

Training is mask-and-predict. In every step some training labels of one sample are context, others are hidden, and the
loss is on (up to batch_size of) the hidden ones:
    layer episode   one training layer is hidden, the sample's other ones are context  (if there are several)
    disc episode    discs of 0.8 to 3 pitches of the training layers are hidden, at most 25 % of the spots
A hidden spot is imputed from the context; only the mean of its layer and the basis depend on all training spots. No
label of a target layer is ever in a training pool: not in the loss, the context, the mean or the basis.
Every known spot that is used (models/known_spots.py) trains every member: with parts held out for validation, hidden
discs of the known layer were predicted 1 % worse (benchmarks/README.md). So there is no early stopping: the steps are
few, and the weights kept are the running average at the end.
"""
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models import gp
from models.msagnet import Architecture, MSAGNet, Network
from models.projection import Projection
from models.sample import Episode, Sample, SampleGraph
from training.episodes import Known, draw_hidden, prepare, to_device
from training.loop import check_labelled, optimise, with_noise
from training.multi_level import fit_basis, multi_level_loss, patches_of
from training.process import with_confidence
from training.settings import Settings

EPISODE_SPOTS = 60000        # in all episodes of a sample, which fixes their number; each has all training spots
N_EPISODES = (48, 300)       # bounds of that number
LOSS_OF_PCC, LOSS_OF_LEVELS = 0.25, 0.125


def build_model(graphs: list[SampleGraph], pools: dict[str, Tensor], settings: Settings) -> MSAGNet:
    """Fit the projection (features only) and the expression basis (training labels only), and make the network."""
    generator = torch.Generator().manual_seed(settings.seed)
    projection = Projection.fit(torch.cat([graph.feature for graph in graphs]), graphs[0].feature_sets, generator)
    basis, z_scale, level_offset = fit_basis([(graph, pools[graph.sample]) for graph in graphs], settings.rank)
    views = 1 + len(projection.groups)
    imputed_width = (3 if views > 1 else 2) * len(basis) + 1  # models/imputation.py: kernels, and a variance
    architecture = Architecture(n_genes=basis.shape[1], rank=len(basis), n_components=projection.width,
                                imputed_width=imputed_width, n_members=settings.members, width=settings.width,
                                dropout=settings.dropout, without=settings.without)
    torch.manual_seed(settings.seed)
    return MSAGNet(architecture, projection, basis, z_scale, level_offset)


@dataclass(frozen=True)
class TrainingSample:
    """A sample in training, and its episodes, drawn once."""
    name: str
    sample: Sample
    label: Tensor                                       # (n, G) of the spots, on the device
    region_label: Tensor                                # (R, G)
    global_label: Tensor                                # (Q, G)
    episodes: list[tuple[np.ndarray, Episode, Tensor]]  # hidden (m,), the network's input, mean of the context (G,)
    patches: tuple[Tensor, Tensor]                      # indices of the regions and globals whose label is in the loss


def train(graphs: list[SampleGraph], pools: dict[str, Tensor], processes: dict[str, gp.GaussianProcess],
          settings: Settings, device: torch.device, log: Callable | None = None) -> MSAGNet:
    """Train the network.

    graphs: samples whose images may be used; pools: {sample: (n,) bool} labels that may be used; processes:
    {sample: process} whose kernels impute; log: callable(iteration, {name: value}).
    Raises DataError if there is no label, FloatingPointError if the loss is not finite.
    """
    check_labelled("training", sum(int(pool.sum()) for pool in pools.values()), "the training sections")
    model = build_model(graphs, pools, settings)
    generator = np.random.default_rng(settings.seed)
    training_samples = []
    for graph in graphs:
        if pools[graph.sample].any():
            training_samples.append(make_training_sample(graph, pools[graph.sample], processes[graph.sample], model,
                                                         generator, device))
    model = model.to(device)
    for index in range(len(model.members)):
        train_member(model, index, training_samples, settings, device, log)
    return model.eval()


def make_training_sample(graph: SampleGraph, pool: Tensor, process: gp.GaussianProcess, model: MSAGNet,
                         generator: np.random.Generator, device: torch.device) -> TrainingSample:
    """Draw the episodes of a sample. pool: (n,) bool, the labels that may be used."""
    known = Known(graph, pool.numpy(), process, model)
    position = graph.views["position"][known.rows]
    n_episodes = int(np.clip(EPISODE_SPOTS // len(known.rows), *N_EPISODES))
    episodes = []
    for _ in range(n_episodes):
        hidden = draw_hidden(position, known.layer, generator)
        episodes.append((hidden, to_device(known.episode(hidden), device), known.mean_of(~hidden).to(device)))
    regions, globals_ = patches_of(graph, pool)
    return TrainingSample(
        name=graph.sample, sample=to_device(prepare(graph, model.projection), device), label=graph.label.to(device),
        region_label=graph.region_label.to(device), global_label=graph.global_label.to(device), episodes=episodes,
        patches=(torch.where(regions)[0].to(device), torch.where(globals_)[0].to(device)))


def train_member(model: MSAGNet, index: int, training_samples: list[TrainingSample], settings: Settings,
                 device: torch.device, log: Callable | None) -> None:
    """Train one member in place."""
    member, generator = model.members[index], np.random.default_rng([settings.seed, index])
    torch.manual_seed(settings.seed * len(model.members) + index)

    def loss_at(iteration: int) -> tuple[Tensor, dict[str, float], str]:
        training = training_samples[iteration % len(training_samples)]
        hidden, episode, mean = training.episodes[generator.integers(len(training.episodes))]
        batch = np.sort(generator.permutation(np.flatnonzero(hidden))[:settings.batch_size])
        in_loss = torch.from_numpy(batch).to(device)
        loss, parts = episode_loss(model, member, training, episode, mean, in_loss, settings.input_noise)
        return loss, parts, training.name

    optimise(member, loss_at, settings, log, start=index * settings.max_iterations)


def episode_loss(model: MSAGNet, member: Network, training: TrainingSample, episode: Episode, mean: Tensor,
                 in_loss: Tensor, input_noise: float) -> tuple[Tensor, dict[str, float]]:
    """The multi-level loss of one episode.

    mean: (G,) of the context; in_loss: indices, within the episode, of the hidden spots in the loss.
    """
    out = member(with_noise(training.sample, input_noise), episode)
    return multi_level_loss(model, out, out["spot"][in_loss], episode.rows[in_loss], mean, training,
                            LOSS_OF_PCC, LOSS_OF_LEVELS)


@torch.no_grad()
def predict(model: MSAGNet, graph: SampleGraph, process: gp.GaussianProcess, known_layers: list[int],
            device: torch.device, with_sd: bool = False) -> dict[str, np.ndarray]:
    """Every spot of a sample, with the known layers as context. process: fitted on these layers.

    Returns expression (n_spots, n_genes) float32, normalised; with_sd: also sd (n_spots, n_genes) of a measured value
    and confidence (n_spots,), the share of the prior variance that the known spots explain, from 0 (none is near or
    similar) to 1. The prediction of a context spot is that of the process from its own label and its neighbours'; of a
    known spot that is left out (models/known_spots.py), from its neighbours'.
    """
    model = model.to("cpu").eval()
    known = Known(graph, graph.in_layers(known_layers).numpy(), process, model)
    out = with_confidence(process, gp.predict(process, graph.views, with_variance=with_sd))
    sample, episode = prepare(graph, model.projection), known.whole_sample()
    z = model.to(device)(to_device(sample, device), to_device(episode, device))  # (m, rank) of the m spots in it
    regressed = (model.residual(z).cpu() + known.mean_of(np.ones(len(known.rows), bool))).numpy()  # (m, n_genes)
    share = np.where(episode.query.numpy(), model.imputed_share, 1.0)[:, None].astype(np.float32)  # (m, 1)
    rows = episode.rows.numpy()
    out["expression"][rows] = share * out["expression"][rows] + (1 - share) * regressed
    return out
