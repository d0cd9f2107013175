"""Multi-level cross-attention: a spot attends to the patches around it (Zhu et al., CVPR 2025).

    h_spot + Attention(h_spot; its own region and the neighbouring ones)
           + Attention(h_spot; its own global and the neighbouring ones)

Each query has several keys. With one key, as in the released code, the softmax is 1 and the query has no effect.
"""
import torch
from torch import Tensor, nn


def patch_neighbourhoods(pos: Tensor, layer: Tensor) -> Tensor:
    """Each grid patch and its up to 8 neighbours on the same layer: (n_patches, 9) indices, -1 where there is none.

    pos: (n_patches, 2) grid column and row; layer: (n_patches,).
    """
    places = zip(layer.tolist(), pos.tolist(), strict=True)
    index_of = {(int(l), int(column), int(row)): k for k, (l, (column, row)) in enumerate(places)}
    steps = [(0, 0), (-1, -1), (0, -1), (1, -1), (-1, 0), (1, 0), (-1, 1), (0, 1), (1, 1)]  # column, row
    keys = []
    for l, column, row in index_of:
        keys.append([index_of.get((l, column + right, row + down), -1) for right, down in steps])
    return torch.tensor(keys, dtype=torch.long).reshape(-1, 9)


class CrossAttention(nn.Module):
    """Multi-head attention of each spot over its own 9 grid patches."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, spot: Tensor, patch: Tensor, keys: Tensor) -> Tensor:
        """spot: (n_spots, width), patch: (n_patches, width), keys: (n_spots, 9) patch or -1 -> (n_spots, width)."""
        candidates = self.norm(patch)[keys.clamp_min(0)]  # (n_spots, 9, width)
        queries = self.norm(spot).unsqueeze(1)  # (n_spots, 1, width)
        attended, _ = self.attention(queries, candidates, candidates, key_padding_mask=keys < 0, need_weights=False)
        return attended.squeeze(1)


class MultiLevelCrossAttention(nn.Module):
    """Region and global context, both added to the spot."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.region = CrossAttention(width, heads)
        self.global_ = CrossAttention(width, heads)

    def forward(self, spot: Tensor, region: Tensor, global_: Tensor, region_keys: Tensor,
                global_keys: Tensor) -> Tensor:
        """(n_spots, width) -> (n_spots, width)."""
        return spot + self.region(spot, region, region_keys) + self.global_(spot, global_, global_keys)
