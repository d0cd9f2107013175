"""Cross-layer imputation, CLI (paper section 3.3; method.md section 6, item 6).

Known labels are propagated over the 3D graph,  y <- A y,  then known rows are reset, 20 rounds, A = row-normalised edge weights;
a learned gate per gene mixes what was propagated with what was regressed:

    out = sigmoid(a) · propagated + (1 - sigmoid(a)) · regressed
"""
import warnings

import torch
from torch import Tensor, nn

ROUNDS = 20


def row_normalised(edge_index: Tensor, weight: Tensor, n: int) -> Tensor:
    """Sparse CSR (n, n): row = receiving spot, weights of a row sum to 1 (negative weights count as 0)."""
    source, target = edge_index
    weight = weight.clamp_min(1e-6)
    total = torch.zeros(n, device=weight.device, dtype=weight.dtype).index_add(0, target, weight)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_coo_tensor(torch.stack([target, source]), weight / total[target], (n, n), check_invariants=True).coalesce().to_sparse_csr()


def propagate(adjacency: Tensor, label: Tensor, known: Tensor, rounds: int = ROUNDS) -> Tensor:
    """label: (n, n_columns), read where known (n,) is True; others start at 0 -> (n, n_columns), known rows equal to their labels."""
    clamped = known.unsqueeze(1)  # (n, 1)
    start = torch.where(clamped, label, 0.0)
    y = start
    for _ in range(rounds):
        y = torch.where(clamped, start, adjacency @ y)
    return y


class GeneGate(nn.Module):
    """The learned mix per gene; starts at one half."""

    def __init__(self, n_genes: int):
        super().__init__()
        self.a = nn.Parameter(torch.zeros(n_genes))

    def forward(self, propagated: Tensor, regressed: Tensor) -> Tensor:
        """(n, n_genes) twice -> (n, n_genes)."""
        gate = torch.sigmoid(self.a)
        return gate * propagated + (1 - gate) * regressed
