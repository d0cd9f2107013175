"""Labels of spots, regions and globals in training: the expression basis, usable patches, and the multi-level loss."""
import numpy as np
import torch
from torch import Tensor

from models import gp
from models.losses import consistency_loss, level_loss, spot_loss
from models.msagnet import Members
from models.sample import SampleGraph


def fit_basis(parts: list[tuple[SampleGraph, Tensor]], rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """From training labels: the expression basis (rank, G), the sd of the first coefficient (), and the offsets (2, G).

    parts: (graph, (n,) bool the spots that train) each; rank 0: 8 up to 1000 spots, 12 above. Offsets are the mean of
    the regions and of the globals minus the mean of the spots.
    """
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
        of_levels = []
        for labels in (graph.region_label[regions], graph.global_label[globals_]):
            of_levels.append(labels.mean(dim=0) - mean if len(labels) else torch.zeros_like(mean))
        offsets.append(torch.stack(of_levels))
    residual = np.concatenate(residuals)  # (n_training, G)
    basis = gp.leading_directions(residual, np.concatenate(weights), rank or (8 if len(residual) <= 1000 else 12))
    z_scale = torch.tensor(max(1e-6, float((residual @ basis[0]).std()))).float()
    return torch.from_numpy(basis.copy()).float(), z_scale, torch.stack(offsets).mean(dim=0).float()


def patches_of(graph: SampleGraph, pool: Tensor) -> tuple[Tensor, Tensor]:
    """Regions and globals whose label may be used, (R,) and (Q,) bool.

    They lie on a layer of the pool, and contain no labelled spot outside it. pool: (n,) bool.
    """
    layers, outside = torch.unique(graph.layer[pool]), graph.has_label & ~pool

    def whole(of_spot: Tensor, n: int) -> Tensor:
        return ~torch.isin(torch.arange(n), of_spot[outside])

    regions = torch.isin(graph.region_layer, layers) & graph.region_has_label
    globals_ = torch.isin(graph.global_layer, layers) & graph.global_has_label
    return (regions & whole(graph.region_of_spot, len(regions)), globals_ & whole(graph.global_of_spot, len(globals_)))


def multi_level_loss(model: Members, out: dict[str, Tensor], spot_z: Tensor, spots: Tensor, mean: Tensor, training,
                     of_pcc: float, of_levels: float) -> tuple[Tensor, dict[str, float]]:
    """The loss on b spots, with regions and globals in `out` the multi-level one (models/losses.py); its parts by name.

    spot_z: (b, rank) predicted of `spots` (b,), rows of the sample; mean: (G,) that predictions start from;
    training: TrainingSample or TrainingLayer, with labels and patches.
    """
    label = training.label[spots]  # (b, G)
    spot = spot_loss(mean + model.residual(spot_z), label, of_pcc)
    if "region" not in out:
        return spot, {"train/spot": spot.item()}
    regions, globals_ = training.patches
    region = mean + model.level_offset[0] + model.residual(out["region"])  # (R, G)
    global_ = mean + model.level_offset[1] + model.residual(out["global"])  # (Q, G)
    level = level_loss(region[regions], training.region_label[regions],
                       global_[globals_], training.global_label[globals_], of_levels)
    consistency = consistency_loss(region[training.sample.region_of_spot[spots]],
                                   global_[training.sample.global_of_spot[spots]], label, of_levels)
    parts = {"train/spot": spot.item(), "train/level": level.item(), "train/consistency": consistency.item()}
    return spot + level + consistency, parts
