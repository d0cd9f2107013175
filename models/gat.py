"""Graph attention on the spot, region and global graphs (Zhu et al., CVPR 2025).

Blocks of GATv2 with edge attributes are stacked, each with a residual connection:

    x_{l+1} = x_l + GATv2(LayerNorm(x_l), edges),   l = 1..depth
"""
import warnings

import torch
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=r"`torch\.jit\.script` is deprecated")  # PyTorch Geometric's own import
    from torch_geometric.nn import GATv2Conv


class GATStack(nn.Module):
    """`depth` blocks; the output of each depth is kept for the Transformer."""

    def __init__(self, width: int, heads: int, depth: int, n_edge_attributes: int, dropout: float):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.blocks = nn.ModuleList(
            GATv2Conv(width, width // heads, heads=heads, edge_dim=n_edge_attributes, add_self_loops=False)
            for _ in range(depth))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        """(n, width) -> (n, depth, width).

        edge_index: (2, n_edges) source -> target; edge_attr: (n_edges, n_edge_attributes).
        """
        depths = []
        for norm, block in zip(self.norms, self.blocks, strict=True):
            x = x + self.dropout(torch.nn.functional.elu(block(norm(x), edge_index, edge_attr)))
            depths.append(x)
        return torch.stack(depths, dim=1)  # nodes first: a transpose, never a reshape
