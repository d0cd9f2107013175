"""Multi-level cross-attention: a spot attends to the patches around it (Zhu et al., CVPR 2025).

    h_spot + Attention(h_spot; its own region and the neighbouring ones) + Attention(h_spot; its own global and the neighbouring ones)

Several keys a query: with one key the softmax is 1 and the query cannot matter (a fault of the released code).
"""
import torch
from torch import Tensor, nn


def patch_neighbourhoods(pos: Tensor, layer: Tensor) -> Tensor:
    """For every grid patch, itself and its up to 8 neighbours on the same layer: (n_patches, 9) indices, -1 where there is none.

    pos: (n_patches, 2) grid column and row; layer: (n_patches,).
    """
    where = {(int(l), int(c), int(r)): k for k, (l, (c, r)) in enumerate(zip(layer.tolist(), pos.tolist()))}
    steps = [(0, 0)] + [(dc, dr) for dr in (-1, 0, 1) for dc in (-1, 0, 1) if (dc, dr) != (0, 0)]
    return torch.tensor([[where.get((l, c + dc, r + dr), -1) for dc, dr in steps] for l, c, r in where], dtype=torch.long).reshape(-1, 9)


class CrossAttention(nn.Module):
    """Multi-head attention of each spot over its own 9 grid patches."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, spot: Tensor, patch: Tensor, keys: Tensor) -> Tensor:
        """spot: (n_spots, width), patch: (n_patches, width), keys: (n_spots, 9) patch indices or -1 -> (n_spots, width)."""
        candidates = self.norm(patch)[keys.clamp_min(0)]  # (n_spots, 9, width)
        attended, _ = self.attention(self.norm(spot).unsqueeze(1), candidates, candidates, key_padding_mask=keys < 0, need_weights=False)
        return attended.squeeze(1)


class MultiLevelCrossAttention(nn.Module):
    """Region and global context, both added to the spot."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.region = CrossAttention(width, heads)
        self.global_ = CrossAttention(width, heads)

    def forward(self, spot: Tensor, region: Tensor, global_: Tensor, region_keys: Tensor, global_keys: Tensor) -> Tensor:
        """(n_spots, width) -> (n_spots, width)."""
        return spot + self.region(spot, region, region_keys) + self.global_(spot, global_, global_keys)
