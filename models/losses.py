"""The multi-level loss (Zhu et al., CVPR 2025)."""
import torch
from torch import Tensor

MSE_FACTOR = 0.75


def one_minus_pcc(predicted: Tensor, label: Tensor) -> Tensor:
    """Mean over nodes of 1 - PCC across genes. predicted, label: (n, n_genes). 0 for no node."""
    if len(predicted) == 0:
        return predicted.sum()
    a = predicted - predicted.mean(dim=1, keepdim=True)  # (n, n_genes)
    b = label - label.mean(dim=1, keepdim=True)
    pcc = (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1)).clamp_min(1e-8)  # (n,)
    return (1 - pcc).mean()


def spot_loss(predicted: Tensor, label: Tensor, of_pcc: float) -> Tensor:
    """MSE_FACTOR MSE + of_pcc (3D: 0.25, 2D: 0.1) (1 - PCC) on spots."""
    return MSE_FACTOR * torch.mean((predicted - label) ** 2) + of_pcc * one_minus_pcc(predicted, label)


def level_loss(region: Tensor, region_label: Tensor, global_: Tensor, global_label: Tensor, factor: float) -> Tensor:
    """Factor (3D: 0.125, 2D: 0.1) times (1 - PCC) on the labelled regions plus that on the labelled globals."""
    return factor * (one_minus_pcc(region, region_label) + one_minus_pcc(global_, global_label))


def consistency_loss(region_of_spot: Tensor, global_of_spot: Tensor, label: Tensor, factor: float) -> Tensor:
    """Factor (3D: 0.125, 2D: 0.1) times the sum of two (1 - PCC) of the spots' labels.

    One is with the prediction of the spot's region, one with that of its global. All (n, n_genes).
    """
    return factor * (one_minus_pcc(region_of_spot, label) + one_minus_pcc(global_of_spot, label))
