"""One training loop, one evaluation, and the folds (Zhu et al., CVPR 2025; README 'How a number comes about').

Training is mask-and-predict. In every step one sample's whole graph passes the network; some of its training labels are shown, others hidden,
and the loss is on (up to batch_size of) the hidden spots:
    layer episode   one labelled layer is shown, the sample's other training layers are hidden     (samples with several training layers)
    disc episode    discs of 0.8 to 3 pitches of the training layers are hidden, at most 25 % of the spots
No label of a target layer is ever in a training pool: not in the loss, not shown, not in the mean, not in the basis.
The weights kept are the running average at the step with the lowest error on validation spots: training spots that were never in the loss
(in other episodes they may be shown, and the mean and the basis know them).
"""
import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from scipy import sparse

from common.errors import DataError
from dataloader_3d import SampleGraph
from models import baselines, gp, metrics
from models.discs import discs
from models.encoder import fit_pca
from models.losses import consistency_loss, level_loss, spot_loss
from models.msagnet import Architecture, MSAGNet
from models.views import spot_views

DISC_RADII_PITCHES = (0.8, 1.2, 2.0, 3.0)
HIDDEN_SHARE = 0.25
VALIDATION_SHARE = 0.15
VALIDATE_EVERY = 50
LOG_EVERY = 10
MIN_LABELLED_SPOTS = 20
MAX_PCA_ROWS = 20000
NOISE_FACTORS = {"spot_x": 1.0, "region_x": 2.0, "global_x": 4.0}


@dataclass(frozen=True)
class Settings:
    """Options of a training run."""
    base_lr: float = 0.003
    batch_size: int = 128
    max_iterations: int = 200
    lr_decay: float = 0.9
    optimizer: str = "adamw"
    weight_decay: float = 0.05
    averaging: float = 0.97
    rank: int = 0                # 0: 8 up to 1000 labelled spots, 12 above
    width: int = 32
    dropout: float = 0.3
    input_noise: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class PreparedGraph:
    """What the network reads of a SampleGraph: features on principal components, edges with attributes."""
    label: Tensor              # (n, G)
    spot_x: Tensor             # (n, n_components)
    region_x: Tensor           # (R, n_components)
    global_x: Tensor           # (Q, n_components)
    spot_region_keys: Tensor   # (n, 9)
    spot_global_keys: Tensor   # (n, 9)
    region_of_spot: Tensor     # (n,)
    global_of_spot: Tensor     # (n,)
    global_of_region: Tensor   # (R,)
    spot_edges: Tensor
    spot_edge_attr: Tensor     # (E, 3) cosine, distance / 4 up to 1, exp(-distance² / 2)
    edge_distance: Tensor      # (E,) pitches
    region_edges: Tensor
    region_edge_attr: Tensor
    global_edges: Tensor
    global_edge_attr: Tensor


def prepare(graph: SampleGraph, model: MSAGNet) -> PreparedGraph:
    """Project the features once and shape the edges."""
    _, _, cosine, distance, _ = graph.spot_edge_attr.unbind(dim=1)  # (E,) each
    near = torch.exp(-distance ** 2 / 2)
    with torch.no_grad():
        spot_x, region_x, global_x = (model.encoder.project(x) for x in (graph.feature, graph.region_feature, graph.global_feature))
    return PreparedGraph(
        label=graph.label, spot_x=spot_x, region_x=region_x, global_x=global_x,
        spot_region_keys=graph.region_keys[graph.region_of_spot], spot_global_keys=graph.global_keys[graph.global_of_spot],
        region_of_spot=graph.region_of_spot, global_of_spot=graph.global_of_spot, global_of_region=graph.global_of_region,
        spot_edges=graph.spot_edges, spot_edge_attr=torch.stack([cosine, distance.clamp_max(4) / 4, near], dim=1), edge_distance=distance,
        region_edges=graph.region_edges, region_edge_attr=graph.region_edge_attr,
        global_edges=graph.global_edges, global_edge_attr=graph.global_edge_attr)


# episodes --------------------------------------------------------------------------------------------
def draw_episode(layer: np.ndarray, position: np.ndarray, pool: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(shown, hidden), both (n,) bool within the pool of training labels."""
    layers = np.unique(layer[pool])
    if len(layers) > 1 and generator.random() < 0.75:
        shown = pool & (layer == layers[generator.integers(len(layers))])
        return shown, pool & ~shown
    hidden = np.zeros(len(pool), bool)
    for one in layers:
        hidden |= discs(position, pool & (layer == one), HIDDEN_SHARE, DISC_RADII_PITCHES, generator)
    return pool & ~hidden, hidden


# training --------------------------------------------------------------------------------------------
def build_model(graphs: list[SampleGraph], pools: dict[str, Tensor], settings: Settings) -> MSAGNet:
    """Fit the PCA of the encoder (features only) and the expression basis (training labels only), and make the network."""
    generator = torch.Generator().manual_seed(settings.seed)
    features = torch.cat([graph.feature for graph in graphs])
    axes, scale = fit_pca(features[torch.randperm(len(features), generator=generator)[:MAX_PCA_ROWS]], Architecture.n_components)
    residuals, region_offsets, global_offsets = [], [], []
    for graph in graphs:
        pool = pools[graph.sample]
        if not bool(pool.any()):
            continue
        mean = graph.label[pool].mean(dim=0)  # (G,)
        residuals.append(graph.label[pool] - mean)
        regions, globals_ = patches_of(graph, pool)
        region_offsets.append(graph.region_label[regions].mean(dim=0) - mean)
        global_offsets.append(graph.global_label[globals_].mean(dim=0) - mean)
    residual = torch.cat(residuals)  # (n_training, G)
    rank = min(settings.rank or (8 if len(residual) <= 1000 else 12), *residual.shape)
    _, singular, basis = torch.linalg.svd(residual.double(), full_matrices=False)
    train_mean = torch.stack([graph.label[pools[graph.sample]].mean(dim=0) for graph in graphs if bool(pools[graph.sample].any())]).mean(dim=0)
    architecture = Architecture(n_genes=residual.shape[1], rank=rank, width=settings.width, dropout=settings.dropout, n_components=axes.shape[1])
    torch.manual_seed(settings.seed)
    return MSAGNet(architecture, axes, scale, basis[:rank].float(), (singular[0] / math.sqrt(len(residual))).clamp_min(1e-6).float(), train_mean,
                   torch.stack([torch.stack(region_offsets).mean(dim=0), torch.stack(global_offsets).mean(dim=0)]))


def split_validation(graphs: list[SampleGraph], pools: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Validation spots per sample: a whole sample where at least three train with all their labels, else discs of every pool.

    Returns {sample: (n,) bool}. A validation spot is never in the loss.
    """
    several = [graph for graph in graphs
               if len(torch.unique(graph.layer[pools[graph.sample]])) > 1 and bool((pools[graph.sample] == graph.has_label).all())]
    if len(several) >= 3:
        held_out = several[-1].sample
        return {graph.sample: pools[graph.sample] if graph.sample == held_out else torch.zeros_like(pools[graph.sample]) for graph in graphs}
    generator = np.random.default_rng(seed)
    return {graph.sample: torch.from_numpy(discs(graph.position.cpu().numpy(), pools[graph.sample].cpu().numpy(), VALIDATION_SHARE,
                                                 DISC_RADII_PITCHES[2:3], generator)) for graph in graphs}


def learning_rate(settings: Settings, iteration: int) -> float:
    """base_lr (1 - iteration / max_iterations)^lr_decay."""
    return settings.base_lr * (1 - iteration / settings.max_iterations) ** settings.lr_decay


def make_optimizer(model: MSAGNet, settings: Settings) -> torch.optim.Optimizer:
    if settings.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), lr=settings.base_lr, momentum=0.9, weight_decay=1e-4)
    return torch.optim.AdamW(model.parameters(), lr=settings.base_lr, weight_decay=settings.weight_decay, fused=True)


def train(graphs: list[SampleGraph], pools: dict[str, Tensor], settings: Settings, device: torch.device, log: Callable | None = None) -> MSAGNet:
    """Train one network.

    graphs: samples whose images may be seen; pools: {sample: (n,) bool} labels that may be used. log: callable(iteration, {name: value}).
    Raises DataError if there is no label, FloatingPointError if the loss is not finite.
    """
    n_labelled = sum(int(pool.sum()) for pool in pools.values())
    if n_labelled < MIN_LABELLED_SPOTS:
        raise DataError("training", f"{n_labelled} labelled spots", f"at least {MIN_LABELLED_SPOTS}, on known layers with counts, image, registration",
                        "see status.json")
    model = build_model(graphs, pools, settings).to(device)
    validation = split_validation(graphs, pools, settings.seed)
    generator = np.random.default_rng(settings.seed)
    torch.manual_seed(settings.seed)

    working = []
    for graph in graphs:
        pool = pools[graph.sample].cpu().numpy()
        valid = validation[graph.sample].cpu().numpy()
        if pool.any():
            working.append((graph, prepare(graph.to(device), model), pool, valid))
    trainable = [(*one, patches_in_loss(one[0], one[2], one[3])) for one in working if not np.array_equal(one[2], one[3])]

    optimizer = make_optimizer(model, settings)
    average = copy.deepcopy(model)
    best, best_error = copy.deepcopy(model.state_dict()), math.inf
    for iteration in range(settings.max_iterations):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, iteration)
        graph, prepared, pool, valid, patches = trainable[iteration % len(trainable)]
        shown, hidden = draw_episode(graph.layer.numpy(), graph.position.numpy(), pool, generator)
        rows = np.flatnonzero(hidden & ~valid)
        if len(rows) == 0:
            continue
        rows = torch.from_numpy(np.sort(generator.permutation(rows)[:settings.batch_size])).to(device)
        model.train()
        loss, parts = episode_loss(model, graph, prepared, torch.from_numpy(shown).to(device), rows, *patches, settings.input_noise)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} at iteration {iteration} (sample {graph.sample}); lower --base_lr "
                                     f"(now {settings.base_lr}); nothing was written")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay = min(settings.averaging, (1 + iteration) / (10 + iteration))
        with torch.no_grad():
            for kept, now in zip(average.parameters(), model.parameters()):
                kept.lerp_(now, 1 - decay)
        if log and iteration % LOG_EVERY == 0:
            log(iteration, {"train/loss": loss.item(), "train/lr": learning_rate(settings, iteration), **parts})
        if (iteration + 1) % VALIDATE_EVERY == 0 or iteration + 1 == settings.max_iterations:
            error = validation_error(average, working)
            if log:
                log(iteration, {"validation/mse": error})
            if error < best_error:
                best, best_error = copy.deepcopy(average.state_dict()), error
    model.load_state_dict(best)
    return model.eval()


def patches_of(graph: SampleGraph, pool: Tensor) -> tuple[Tensor, Tensor]:
    """Labelled regions and globals, (R,) and (Q,) bool, of the layers that spots of the pool lie on."""
    layers = torch.unique(graph.layer[pool])
    return (torch.isin(graph.region_layer, layers) & graph.region_has_label, torch.isin(graph.global_layer, layers) & graph.global_has_label)


def patches_in_loss(graph: SampleGraph, pool: np.ndarray, valid: np.ndarray) -> tuple[Tensor, Tensor]:
    """Indices of the regions and globals whose label is in the loss: labelled, on a training layer, without a spot held out for validation."""
    held_out = torch.from_numpy(valid)
    regions, globals_ = patches_of(graph, torch.from_numpy(pool))
    regions[graph.region_of_spot[held_out]] = False
    globals_[graph.global_of_spot[held_out]] = False
    return torch.where(regions)[0], torch.where(globals_)[0]


def episode_loss(model: MSAGNet, graph: SampleGraph, prepared: PreparedGraph, shown: Tensor, rows: Tensor, regions: Tensor, globals_: Tensor,
                 input_noise: float) -> tuple[Tensor, dict[str, float]]:
    """The multi-level loss of one episode. rows: hidden spots in the loss; regions, globals_: labelled patches in the loss."""
    out = model(_with_noise(prepared, input_noise) if input_noise else prepared, shown)
    label = prepared.label[rows]  # (n_rows, G)
    spot = spot_loss(out["spot"][rows], label)
    level = level_loss(out["region"][regions], graph.region_label.to(label.device)[regions],
                       out["global"][globals_], graph.global_label.to(label.device)[globals_])
    consistency = consistency_loss(out["region"][prepared.region_of_spot[rows]], out["global"][prepared.global_of_spot[rows]], label)
    return spot + level + consistency, {"train/spot": spot.item(), "train/level": level.item(), "train/consistency": consistency.item()}


def _with_noise(prepared: PreparedGraph, sd: float) -> PreparedGraph:
    """Gaussian noise on the features, in units of the first principal component; more on the levels that have fewer patches to learn from."""
    return replace(prepared, **{name: getattr(prepared, name) + sd * factor * torch.randn_like(getattr(prepared, name))
                                for name, factor in NOISE_FACTORS.items()})


@torch.no_grad()
def validation_error(model: MSAGNet, working: list) -> float:
    """MSE on the validation spots. A held-out sample shows its first training layer; elsewhere all but the validation spots are shown."""
    model.eval()
    total, count = 0.0, 0
    for graph, prepared, pool, valid in working:
        if not valid.any():
            continue
        whole = np.array_equal(pool, valid)
        layer = graph.layer.numpy()
        shown = pool & (layer == layer[pool].min()) if whole else pool & ~valid
        scored = torch.from_numpy(valid & ~shown)
        predicted = model(prepared, torch.from_numpy(shown).to(prepared.label.device))["spot"].cpu()
        total += float(((predicted[scored] - graph.label[scored]) ** 2).mean(dim=1).sum())
        count += int(scored.sum())
    return total / max(count, 1)


@torch.no_grad()
def predict(model: MSAGNet, graph: SampleGraph, known_layers: list[int], device: torch.device) -> np.ndarray:
    """Normalised expression of every spot of a sample with the known layers shown: (n_spots, n_genes) float32."""
    model.eval()
    prepared = prepare(graph.to(device), model)
    return model(prepared, graph.in_layers(known_layers).to(device))["spot"].cpu().numpy()


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


def make_folds(graphs: list[SampleGraph], known: dict[str, list[int]], folds: list[list[str]] | None) -> list[Fold]:
    """Folds of the config with the samples at hand; one fold that tests every sample if there are none or only one sample."""
    names = [graph.sample for graph in graphs]
    groups = [[name for name in group if name in names] for group in folds or []]
    groups = [group for group in groups if group]
    if len(names) < 2 or len(groups) < 2:
        groups = [names]
    labelled = {graph.sample: graph.labelled_layers() for graph in graphs}
    return [Fold(index=k, test_samples=sorted(group),
                 training_layers={name: known[name] if name in group else labelled[name] for name in names},
                 known_layers={name: known[name] for name in sorted(group)},
                 target_layers={name: [layer for layer in labelled[name] if layer not in known[name]] for name in sorted(group)})
            for k, group in enumerate(groups)]


# evaluation ------------------------------------------------------------------------------------------
def floor_predictions(graph: SampleGraph, known_layers: list[int], iou: sparse.csr_array) -> dict[str, np.ndarray]:
    """Every floor (README, 'How a number comes about') for every spot of a sample: {method: (n_spots, n_genes)}. Reads labels of known layers only."""
    known = graph.in_layers(known_layers).numpy()
    label, position, feature = graph.label.numpy()[known], graph.position.numpy(), graph.feature.numpy()
    nearest = baselines.nearest(label, position[known], position)
    return {"mean": baselines.mean(label, graph.n_spots), "nearest": nearest,
            "overlap": baselines.overlap(label, iou[:, known], nearest),
            "similarity": baselines.similarity(label, feature[known], feature),
            "kernel": baselines.kernel(label, position[known], position)}


def gaussian_process(graph: SampleGraph, known_layers: list[int], with_sd: bool = False) -> dict[str, np.ndarray]:
    """The Gaussian process (models/gp.py) of a sample, chosen and fitted on its known layers alone.

    Returns expression (n_spots, n_genes) and, if asked for, sd (n_spots, n_genes): the predicted standard deviation of a measured value.
    """
    known = graph.in_layers(known_layers).numpy()
    image = [graph.feature_set(name) for name in ("backbone", "context") if name in graph.feature_sets]
    features = {"image": torch.cat(image, dim=1).numpy()} if image else {}
    if "stain" in graph.feature_sets:
        features["stain"] = graph.feature_set("stain").numpy()
    layer = graph.layer.numpy()
    views = spot_views(graph.position.numpy(), layer, features)
    process = gp.fit(graph.label.numpy()[known], {name: view[known] for name, view in views.items()}, layer[known])
    answer = gp.predict(process, views, with_variance=with_sd)
    return {name: answer[name] for name in ("expression", "sd") if name in answer}


def score_layers(graph: SampleGraph, target_layers: list[int], predictions: dict[str, np.ndarray]) -> dict[str, dict[str, dict[str, float]]]:
    """{method: {"<sample>/<layer>": metrics}} on the labelled spots of the target layers."""
    scores = {method: {} for method in predictions}
    for layer in target_layers:
        rows = graph.in_layers([layer]).numpy()
        for method, predicted in predictions.items():
            scores[method][f"{graph.sample}/{layer}"] = metrics.layer_metrics(predicted[rows], graph.label.numpy()[rows])
    return scores


def format_table(methods: dict, ceiling: dict) -> str:
    """The result as a plain table: floors, the Gaussian process, MSAGNet."""
    lines = [f"{'method':12s} {'MSE':>8s} {'MAE':>8s} {'PCC_spot':>9s} {'PCC_gene':>9s} {'SCC_gene':>9s}"]
    for method in sorted(methods, key=lambda name: (name == "msagnet", list(methods).index(name))):
        row = methods[method]["pooled"]
        lines.append(f"{method:12s} {row['mse']:8.4f} {row['mae']:8.4f} {row['pcc_spot']:9.4f} {row['pcc_gene']:9.4f} {row['scc_gene']:9.4f}")
    if ceiling["pooled"]:
        lines.append(f"{'ceiling':12s} {'':8s} {'':8s} {ceiling['pooled']['pcc_spot']:9.4f} {ceiling['pooled']['pcc_gene']:9.4f}")
    return "\n".join(lines)
