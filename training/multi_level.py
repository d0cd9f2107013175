"""The labels of spots, regions and globals in training: the expression basis, which patches count, and the multi-level loss."""
import numpy as np
import torch
from torch import Tensor

from models import gp
from models.losses import consistency_loss, level_loss, spot_loss
from models.msagnet import MSAGNet
from models.sample import SampleGraph


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


def patches_of(graph: SampleGraph, pool: Tensor) -> tuple[Tensor, Tensor]:
    """Regions and globals whose label may be used, (R,) and (Q,) bool: on a layer of the pool, and no labelled spot in them is outside it."""
    layers, outside = torch.unique(graph.layer[pool]), graph.has_label & ~pool
    whole = lambda of_spot, n: ~torch.isin(torch.arange(n), of_spot[outside])
    return (torch.isin(graph.region_layer, layers) & graph.region_has_label & whole(graph.region_of_spot, len(graph.region_layer)),
            torch.isin(graph.global_layer, layers) & graph.global_has_label & whole(graph.global_of_spot, len(graph.global_layer)))


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
