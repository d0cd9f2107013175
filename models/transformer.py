"""Transformer over the depths of a node and of its parent (Zhu et al., CVPR 2025), from global to region to spot.

Tokens of a spot: its 3 depth outputs + the 3 of its own region; of a region: its 3 + those of its global; of a global:
its 3. The own tokens are pooled.
"""
import torch
from torch import Tensor, nn


class LevelTransformer(nn.Module):
    """One encoder shared by the three levels."""

    def __init__(self, width: int, heads: int, depth: int, n_layers: int):
        super().__init__()
        self.depth = depth
        self.position = nn.Parameter(torch.zeros(2 * depth, width))  # own depths, then the parent's
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, n_layers, enable_nested_tensor=False)

    def forward(self, own: Tensor, parent: Tensor | None = None) -> Tensor:
        """own, parent: (n, depth, width) -> (n, width)."""
        tokens = own if parent is None else torch.cat([own, parent], dim=1)  # (n, depth or 2 depth, width)
        tokens = self.encoder(tokens + self.position[:tokens.shape[1]])
        return tokens[:, :self.depth].mean(dim=1)
