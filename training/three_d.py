"""One training loop, one evaluation, and the folds (Zhu et al., CVPR 2025; README 'How a number comes about').

Training is mask-and-predict. In every step some training labels of one sample are shown, others are hidden, and the loss is on (up to batch_size
of) the hidden ones:
    layer episode   one labelled layer is hidden, the sample's other training layers are shown     (samples with several training layers)
    disc episode    discs of 0.8 to 3 pitches of the training layers are hidden, at most 25 % of the spots
What imputation says of a hidden spot comes from the shown ones; only the mean of their layer and the basis know all training spots. No label of a
target layer is ever in a training pool: not in the loss, not shown, not in the mean, not in the basis.
Every known spot that is used (models/known_spots.py) trains every member: with parts of them held out for validation, hidden discs of the known
layer were predicted 1 % worse (benchmarks/README.md). So nothing is stopped early: the steps are few, and the weights kept are the running average at the end.
"""
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models import gp
from models.encoder import Projection
from models.msagnet import Architecture, MSAGNet, Network
from models.sample import Episode, Sample, SampleGraph
from training.episodes import Known, draw_hidden, prepare, to_device
from training.loop import (
    check_labelled,
    optimise,
    with_noise,
)
from training.multi_level import fit_basis, multi_level_loss, patches_of
from training.process import _with_confidence
from training.settings import Settings

N_EPISODES = (48, 300)       # drawn once a sample: the fewer spots, the more; each is of all spots that train
EPISODE_SPOTS = 60000        # in all of them together, from which their number follows
LOSS_OF_PCC, LOSS_OF_LEVELS = 0.25, 0.125


def build_model(graphs: list[SampleGraph], pools: dict[str, Tensor], settings: Settings) -> MSAGNet:
    """Fit the projection (features only) and the expression basis (training labels only), and make the network."""
    generator = torch.Generator().manual_seed(settings.seed)
    projection = Projection.fit(torch.cat([graph.feature for graph in graphs]), graphs[0].feature_sets, generator)
    basis, z_scale, level_offset = fit_basis([(graph, pools[graph.sample]) for graph in graphs], settings.rank)
    views = 1 + len(projection.groups)
    architecture = Architecture(n_genes=basis.shape[1], rank=len(basis), n_components=projection.width,
                                imputed_width=(3 if views > 1 else 2) * len(basis) + 1, n_members=settings.members, width=settings.width,
                                dropout=settings.dropout, without=settings.without)
    torch.manual_seed(settings.seed)
    return MSAGNet(architecture, projection, basis, z_scale, level_offset)


@dataclass(frozen=True)
class Lesson:
    """A sample in training, and its episodes, drawn once."""
    name: str
    sample: Sample
    label: Tensor                                       # (n, G) of the spots, on the device
    region_label: Tensor                                # (R, G)
    global_label: Tensor                                # (Q, G)
    episodes: list[tuple[np.ndarray, Episode, Tensor]]  # hidden (m,), what the network reads, mean of the shown (G,)
    patches: tuple[Tensor, Tensor]                      # indices of the regions and globals whose label is in the loss


def train(graphs: list[SampleGraph], pools: dict[str, Tensor], processes: dict[str, gp.GaussianProcess], settings: Settings, device: torch.device,
          log: Callable | None = None) -> MSAGNet:
    """Train the network.

    graphs: samples whose images may be seen; pools: {sample: (n,) bool} labels that may be used; processes: {sample: process} whose kernels
    impute. log: callable(iteration, {name: value}). Raises DataError if there is no label, FloatingPointError if the loss is not finite.
    """
    check_labelled("training", sum(int(pool.sum()) for pool in pools.values()), "the training layers")
    model = build_model(graphs, pools, settings)
    generator = np.random.default_rng(settings.seed)
    lessons = []
    for graph in graphs:
        pool = pools[graph.sample].numpy()
        if pool.any():
            known = Known(graph, pool, processes[graph.sample], model)
            position = graph.views["position"][known.rows]
            n_episodes = int(np.clip(EPISODE_SPOTS // len(known.rows), *N_EPISODES))
            hidings = [draw_hidden(position, known.layer, generator) for _ in range(n_episodes)]
            episodes = [(hidden, to_device(known.episode(hidden), device), known.mean_of(~hidden).to(device)) for hidden in hidings]
            lessons.append(Lesson(graph.sample, to_device(prepare(graph, model.projection), device), graph.label.to(device),
                                  graph.region_label.to(device), graph.global_label.to(device), episodes,
                                  tuple(torch.where(rows)[0].to(device) for rows in patches_of(graph, pools[graph.sample]))))
    model = model.to(device)
    for index in range(len(model.members)):
        train_member(model, index, lessons, settings, device, log)
    return model.eval()


def train_member(model: MSAGNet, index: int, lessons: list[Lesson], settings: Settings, device: torch.device, log: Callable | None) -> None:
    """Train one member in place."""
    member, generator = model.members[index], np.random.default_rng([settings.seed, index])
    torch.manual_seed(settings.seed * len(model.members) + index)

    def loss_at(iteration: int) -> tuple[Tensor, dict[str, float], str]:
        lesson = lessons[iteration % len(lessons)]
        hidden, episode, mean = lesson.episodes[generator.integers(len(lesson.episodes))]
        learned = torch.from_numpy(np.sort(generator.permutation(np.flatnonzero(hidden))[:settings.batch_size])).to(device)
        return *episode_loss(model, member, lesson, episode, mean, learned, settings.input_noise), lesson.name

    optimise(member, loss_at, settings, log, start=index * settings.max_iterations)


def episode_loss(model: MSAGNet, member: Network, lesson: Lesson, episode: Episode, mean: Tensor, learned: Tensor,
                 input_noise: float) -> tuple[Tensor, dict[str, float]]:
    """The multi-level loss of one episode.

    mean: (G,) of the shown spots; learned: hidden spots in the loss, by their place in the episode.
    """
    out = member(with_noise(lesson.sample, input_noise), episode)
    return multi_level_loss(model, out, out["spot"][learned], episode.rows[learned], mean, lesson, LOSS_OF_PCC, LOSS_OF_LEVELS)


@torch.no_grad()
def predict(model: MSAGNet, graph: SampleGraph, process: gp.GaussianProcess, known_layers: list[int], device: torch.device,
            with_sd: bool = False) -> dict[str, np.ndarray]:
    """Every spot of a sample with the known layers shown. process: fitted on these layers.

    Returns expression (n_spots, n_genes) float32, normalised, and, if asked for, sd (n_spots, n_genes) of a measured value and confidence (n_spots,):
    the share of the prior variance that the known spots explain, 0 (nothing near or alike) to 1. A shown spot gets what the process makes of its
    own label and its neighbours'; a known spot that is left out (models/known_spots.py) what it makes of its neighbours'.
    """
    model = model.to("cpu").eval()
    known = Known(graph, graph.in_layers(known_layers).numpy(), process, model)
    out = _with_confidence(process, gp.predict(process, graph.views, with_variance=with_sd))
    sample, question = prepare(graph, model.projection), known.question()
    z = model.to(device)(to_device(sample, device), to_device(question, device))  # (m, rank) of the m spots in the question
    regressed = (model.residual(z).cpu() + known.mean_of(np.ones(len(known.rows), bool))).numpy()  # (m, n_genes)
    gate = np.where(question.asked.numpy(), model.gate, 1.0)[:, None].astype(np.float32)  # (m, 1)
    rows = question.rows.numpy()
    out["expression"][rows] = gate * out["expression"][rows] + (1 - gate) * regressed
    return out
