"""Cross-layer imputation, CLI (Zhu et al., CVPR 2025).

Known labels are propagated over the 3D graph,  y <- A y,  then known rows are reset, 20 rounds; a learned gate per gene mixes what was
propagated with what was regressed:

    out = sigmoid(a) · propagated + (1 - sigmoid(a)) · regressed

A's rows are a softmax over a spot's neighbours of   -distance² / (2 l²) + b · cosine   with l (pitches) and b learned, from l = 1, b = 0.
The published weight IoU + cosine lets twelve look-alikes from anywhere outweigh the overlapping spot: README, 'What we changed'.
"""
import warnings

import torch
from torch import Tensor, nn

ROUNDS = 20
GRADIENT_ROUNDS = 3


def neighbour_softmax(edge_index: Tensor, logit: Tensor, n: int) -> Tensor:
    """Weight of every edge (n_edges,), those into one spot sum to 1."""
    target = edge_index[1]
    largest = torch.full((n,), -torch.inf, device=logit.device).scatter_reduce(0, target, logit.detach(), "amax")
    weight = torch.exp(logit - largest[target])
    return weight / torch.zeros(n, device=logit.device).index_add(0, target, weight)[target]


def propagate(edge_index: Tensor, weight: Tensor, label: Tensor, known: Tensor, rounds: int = ROUNDS) -> Tensor:
    """label: (n, n_columns), read where known (n,) is True; others start at 0 -> (n, n_columns), known rows equal to their labels.

    The gradient with respect to the weights flows through the last rounds only: the first ones merely bring y near its fixed point.
    """
    source, target = edge_index
    clamped = known.unsqueeze(1)  # (n, 1)
    start = torch.where(clamped, label, 0.0)
    y = start
    without_gradient = max(0, rounds - GRADIENT_ROUNDS) if weight.requires_grad else rounds
    with torch.no_grad():
        matrix = sparse_rows(edge_index, weight.detach(), len(label))
        for _ in range(without_gradient):
            y = torch.where(clamped, start, matrix @ y)
    for _ in range(rounds - without_gradient):
        y = torch.where(clamped, start, torch.zeros_like(y).index_add(0, target, weight.unsqueeze(1) * y[source]))
    return y


def sparse_rows(edge_index: Tensor, weight: Tensor, n: int) -> Tensor:
    """The weighted edges as a sparse CSR matrix (n, n), row = receiving spot."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_coo_tensor(edge_index.flip(0), weight, (n, n), check_invariants=False).coalesce().to_sparse_csr()


class EdgeWeight(nn.Module):
    """The learned weight of an edge from its distance and cosine."""

    def __init__(self):
        super().__init__()
        self.log_length = nn.Parameter(torch.zeros(()))
        self.cosine = nn.Parameter(torch.zeros(()))

    def forward(self, edge_index: Tensor, distance_pitches: Tensor, cosine: Tensor, n: int) -> Tensor:
        """(n_edges,) twice -> (n_edges,), summing to 1 over the edges into a spot."""
        return neighbour_softmax(edge_index, -distance_pitches ** 2 / 2 * torch.exp(-2 * self.log_length) + self.cosine * cosine, n)


class GeneGate(nn.Module):
    """The learned mix per gene; starts at one half."""

    def __init__(self, n_genes: int):
        super().__init__()
        self.a = nn.Parameter(torch.zeros(n_genes))

    def forward(self, propagated: Tensor, regressed: Tensor) -> Tensor:
        """(n, n_genes) twice -> (n, n_genes)."""
        gate = torch.sigmoid(self.a)
        return gate * propagated + (1 - gate) * regressed
