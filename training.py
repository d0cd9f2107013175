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
import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import DataError
from dataloader import SampleGraph
from models import gp, known_spots
from models.encoder import Projection
from models.episodes import Known, draw_hidden, prepare, to_device
from models.losses import consistency_loss, level_loss, spot_loss
from models.msagnet import Architecture, Episode, MSAGNet, Network, Sample

N_EPISODES = (48, 300)       # drawn once a sample: the fewer spots, the more; each is of all spots that train
EPISODE_SPOTS = 60000        # in all of them together, from which their number follows
LOG_EVERY = 10
ENCODER_LR_SHARE = 0.03
MIN_LABELLED_SPOTS = 20
JITTER_PITCHES = 0.3
LOSS_OF_PCC, LOSS_OF_LEVELS = 0.25, 0.125
NOISE_FACTORS = {"spot_x": 1.0, "around_x": 1.0, "region_x": 2.0, "global_x": 4.0}


@dataclass(frozen=True)
class Settings:
    """Options of a training run."""
    base_lr: float = 0.003
    batch_size: int = 128
    max_iterations: int = 100
    lr_decay: float = 0.9
    optimizer: str = "adamw"
    weight_decay: float = 0.05
    averaging: float = 0.97
    rank: int = 0                # 0: 8 up to 1000 labelled spots, 12 above
    width: int = 32
    members: int = 4
    dropout: float = 0.3
    input_noise: float = 0.3     # sd on the features, in units of the first principal component; larger on regions and globals, of which there are few
    without: tuple[str, ...] = ()
    seed: int = 0
    validate_every: int = 10     # steps; 2D

    def __post_init__(self) -> None:
        if self.width < Architecture.heads or self.width % Architecture.heads:
            raise DataError("--width", self.width, f"a multiple of the {Architecture.heads} attention heads", f"e.g. --width {8 * Architecture.heads}")


# the loop --------------------------------------------------------------------------------------------
def optimise(network: nn.Module, loss_at: Callable, settings: Settings, log: Callable | None = None, start: int = 0,
             validate: Callable | None = None) -> None:
    """Train in place. The weights kept are their running average: at the end, or where validate(network) is least.

    loss_at(iteration) -> (loss, {name: its parts}, name of what was learned from); log(start + iteration, {name: value}). Raises FloatingPointError if
    the loss is not finite.
    """
    optimizer = make_optimizer(network, settings)
    average, best = copy.deepcopy(network), (np.inf, None)
    network.train()
    for iteration in range(settings.max_iterations):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, iteration) * group["scale"]
        loss, parts, name = loss_at(iteration)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} at iteration {iteration} ({name}); lower --base_lr "
                                     f"(now {settings.base_lr}); nothing was written")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        decay = min(settings.averaging, (1 + iteration) / (10 + iteration))
        with torch.no_grad():
            for kept, now in zip(average.parameters(), network.parameters()):
                kept.lerp_(now, 1 - decay)
        if log and iteration % LOG_EVERY == 0:
            log(start + iteration, {"train/loss": loss.item(), "train/lr": learning_rate(settings, iteration), **parts})
        if validate and (iteration + 1) % settings.validate_every == 0:
            error = validate(average.eval())
            if log:
                log(start + iteration, {"validation/loss": error})
            if error < best[0]:
                best = error, copy.deepcopy(average.state_dict())
    network.load_state_dict(best[1] or average.state_dict())


def learning_rate(settings: Settings, iteration: int) -> float:
    """base_lr (1 - iteration / max_iterations)^lr_decay."""
    return settings.base_lr * (1 - iteration / settings.max_iterations) ** settings.lr_decay


def make_optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Of a network; an encoder inside it, which has learned already, takes steps smaller by ENCODER_LR_SHARE."""
    groups = [{"params": [value for name, value in model.named_parameters() if name.startswith("encoder.") == pretrained], "scale": scale}
              for pretrained, scale in ((False, 1.0), (True, ENCODER_LR_SHARE))]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.base_lr, momentum=0.9, weight_decay=1e-4)
    return torch.optim.AdamW(groups, lr=settings.base_lr, weight_decay=settings.weight_decay, fused=True)


def check_labelled(who: str, n_spots: int, layers: str) -> None:
    """Raises DataError if that is too few to learn from."""
    if n_spots < MIN_LABELLED_SPOTS:
        raise DataError(who, f"{n_spots} labelled spots on {layers}", f"at least {MIN_LABELLED_SPOTS}", "give others, with counts and image; see status.json")


def multi_level_loss(model: MSAGNet, out: dict[str, Tensor], spot_z: Tensor, spots: Tensor, mean: Tensor, lesson, of_pcc: float,
                     of_levels: float) -> tuple[Tensor, dict[str, float]]:
    """The loss on b spots, and with regions and globals in `out` the multi-level one (models/losses.py); its parts by name.

    spot_z: (b, rank) predicted of `spots` (b,), rows of the lesson's sample; mean: (G,) that predictions start from; lesson: labels and patches.
    """
    label = lesson.label[spots]  # (b, G)
    spot = spot_loss(mean + model.residual(spot_z), label, of_pcc)
    if "region" not in out:
        return spot, {"train/spot": spot.item()}
    regions, globals_ = lesson.patches
    region = mean + model.level_offset[0] + model.residual(out["region"])  # (R, G)
    global_ = mean + model.level_offset[1] + model.residual(out["global"])  # (Q, G)
    level = level_loss(region[regions], lesson.region_label[regions], global_[globals_], lesson.global_label[globals_], of_levels)
    consistency = consistency_loss(region[lesson.sample.region_of_spot[spots]], global_[lesson.sample.global_of_spot[spots]], label, of_levels)
    return spot + level + consistency, {"train/spot": spot.item(), "train/level": level.item(), "train/consistency": consistency.item()}


# training in 3D --------------------------------------------------------------------------------------
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


def fit_basis(parts: list[tuple[SampleGraph, Tensor]], rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """From training labels, (graph, (n,) bool the spots that train) each: the expression basis (rank, G), the sd of the first coefficient (), and how far
    regions and globals lie off the spots' mean (2, G). rank 0: 8 up to 1000 spots, 12 above."""
    residuals, weights, offsets = [], [], []
    for graph, pool in parts:
        rows = pool.numpy()
        if not rows.any():
            continue
        label = graph.label.numpy()[rows]
        residual, mean = gp.centred(label, graph.layer.numpy()[rows], np.ones(len(label), bool))
        residuals.append(residual)
        weights.append(gp.spot_weights(label))
        regions, globals_ = patches_of(graph, pool)
        mean = torch.from_numpy(mean)
        offsets.append(torch.stack([labels.mean(dim=0) - mean if len(labels) else torch.zeros_like(mean)
                                    for labels in (graph.region_label[regions], graph.global_label[globals_])]))
    residual = np.concatenate(residuals)  # (n_training, G)
    basis = gp.leading_directions(residual, np.concatenate(weights), rank or (8 if len(residual) <= 1000 else 12))
    return (torch.from_numpy(basis.copy()).float(), torch.tensor(max(1e-6, float((residual @ basis[0]).std()))).float(),
            torch.stack(offsets).mean(dim=0).float())


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


def patches_of(graph: SampleGraph, pool: Tensor) -> tuple[Tensor, Tensor]:
    """Regions and globals whose label may be used, (R,) and (Q,) bool: on a layer of the pool, and no labelled spot in them is outside it."""
    layers, outside = torch.unique(graph.layer[pool]), graph.has_label & ~pool
    whole = lambda of_spot, n: ~torch.isin(torch.arange(n), of_spot[outside])
    return (torch.isin(graph.region_layer, layers) & graph.region_has_label & whole(graph.region_of_spot, len(graph.region_layer)),
            torch.isin(graph.global_layer, layers) & graph.global_has_label & whole(graph.global_of_spot, len(graph.global_layer)))


def episode_loss(model: MSAGNet, member: Network, lesson: Lesson, episode: Episode, mean: Tensor, learned: Tensor,
                 input_noise: float) -> tuple[Tensor, dict[str, float]]:
    """The multi-level loss of one episode.

    mean: (G,) of the shown spots; learned: hidden spots in the loss, by their place in the episode.
    """
    out = member(with_noise(lesson.sample, input_noise), episode)
    return multi_level_loss(model, out, out["spot"][learned], episode.rows[learned], mean, lesson, LOSS_OF_PCC, LOSS_OF_LEVELS)


def with_noise(sample: Sample, sd: float) -> Sample:
    """Gaussian noise on features and positions: no two steps see the same numbers."""
    noisy = {name: getattr(sample, name) + sd * factor * torch.randn_like(getattr(sample, name)) for name, factor in NOISE_FACTORS.items()}
    return replace(sample, position=sample.position + JITTER_PITCHES * torch.randn_like(sample.position), **noisy)


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


def fit_process(graph: SampleGraph, known_layers: list[int], kernel: gp.Kernel | None = None) -> gp.GaussianProcess:
    """The Gaussian process (models/gp.py) of a sample, chosen (or with a given kernel) and fitted on its known layers alone. Raises DataError."""
    known, views = known_spots.used(graph, graph.in_layers(known_layers).numpy()), graph.views
    check_labelled(f"sample {graph.sample}", int(known.sum()), f"known layers {known_layers}")
    return gp.fit(graph.label.numpy()[known], {name: view[known] for name, view in views.items()}, graph.layer.numpy()[known], kernel)


def left_out_lines(graphs: list[SampleGraph], known_layers: dict[str, list[int]], folds: list["Fold"]) -> list[str]:
    """One line for every set of layers of a sample, known or training in a fold, of which some spots are left out."""
    lines = []
    for graph in graphs:
        known = known_layers[graph.sample]
        lines.append(known_spots.left_out_line(graph, known, "known"))
        training = [fold.training_layers[graph.sample] for fold in folds]
        lines += [known_spots.left_out_line(graph, layers, "training") for layers in training if layers != known]
    return [line for line in dict.fromkeys(lines) if line]


def gaussian_process(graph: SampleGraph, process: gp.GaussianProcess, with_sd: bool = False) -> dict[str, np.ndarray]:
    """Every spot: expression (n_spots, n_genes) and, if asked for, what `confidence` and `sd` are in predict()."""
    return _with_confidence(process, gp.predict(process, graph.views, with_variance=with_sd))


def _with_confidence(process: gp.GaussianProcess, answer: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of an answer of the process what a user is given."""
    out = {name: answer[name] for name in ("expression", "sd") if name in answer}
    if "variance" in answer:
        out["confidence"] = (1 - answer["variance"] / gp.at_zero(process.kernel, process.views)).astype(np.float32)
    return out


# folds -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Fold:
    """Who trains and who is scored. A test sample gives its known layers to training, every other sample all its labelled layers."""
    index: int
    test_samples: list[str]
    training_layers: dict[str, list[int]]  # sample -> layers whose labels train
    known_layers: dict[str, list[int]]     # test sample -> layers whose labels the prediction sees
    target_layers: dict[str, list[int]]    # test sample -> layers that are scored

    def pools(self, graphs: list[SampleGraph]) -> dict[str, Tensor]:
        """{sample: (n,) bool} labels that training may use."""
        return {graph.sample: graph.in_layers(self.training_layers[graph.sample]) for graph in graphs}


def groups_of(samples: list[str], folds: list[list[str]] | int | str | None) -> list[list[str]]:
    """Which samples are held out together: the config's groups as far as they are there, N parts of the sorted samples, or each alone; one group of
    all samples if there are no folds or less than two groups."""
    samples = sorted(samples)
    if folds == "leave_one_out":
        folds = len(samples)
    if isinstance(folds, int):
        folds = [part.tolist() for part in np.array_split(np.array(samples), min(folds, len(samples)))]
    groups = [sorted(set(group) & set(samples)) for group in folds or []]
    groups = [group for group in groups if group]
    return groups if len(groups) > 1 else [samples]


def make_folds(labelled: dict[str, list[int]], known: dict[str, list[int]], groups: list[list[str]]) -> list[Fold]:
    """labelled, known: {sample: layers with counts, those that are given}; groups: groups_of()."""
    return [Fold(index=k, test_samples=group,
                 training_layers={name: known[name] if name in group else labelled[name] for name in sorted(labelled)},
                 known_layers={name: known[name] for name in group},
                 target_layers={name: [layer for layer in labelled[name] if layer not in known[name]] for name in group})
            for k, group in enumerate(groups)]
