"""The multi-level part of MSAGNet, shared by 2D and 3D (Zhu et al., CVPR 2025).

From the levels' hidden features to coefficients of expression:

    cross-attention    spot += attention over regions + attention over globals
    GAT                on the spot, the region and the global graphs, 3 deep
    Transformer        tokens = own 3 depths + the parent's 3, global -> region -> spot
    heads              spot, region, global; they start at zero
"""
from torch import Tensor, nn

from models.cross_attention import MultiLevelCrossAttention
from models.gat import GATStack
from models.transformer import LevelTransformer


class Levels(nn.Module):
    """without: names of parts that are left out ('levels': regions and globals altogether)."""

    def __init__(self, width: int, heads: int, depth: int, transformer_layers: int, n_edge_attributes: int,
                 dropout: float, rank: int, without: tuple[str, ...]):
        super().__init__()
        self.depth, self.without = depth, without
        self.cross_attention = MultiLevelCrossAttention(width, heads)
        self.spot_gat = GATStack(width, heads, depth, n_edge_attributes, dropout)
        self.region_gat = GATStack(width, heads, depth, 1, dropout)
        self.global_gat = GATStack(width, heads, depth, 1, dropout)
        self.transformer = LevelTransformer(width, heads, depth, transformer_layers)
        self.heads = nn.ModuleDict({level: _zero_head(width, rank) for level in ("spot", "region", "global")})

    def forward(self, sample, rows: Tensor, spot: Tensor, region: Tensor, global_: Tensor, edges: Tensor,
                edge_attr: Tensor) -> dict[str, Tensor]:
        """Coefficients (·, rank) of spots, regions and globals; without levels only of spots.

        spot: (m, width) of the sample's spots `rows` (m,), with their edges (2, E) and edge_attr (E, ·);
        region: (R, width); global_: (Q, width).
        """
        with_levels = "levels" not in self.without
        if with_levels and "cross_attention" not in self.without:
            keys = sample.spot_region_keys[rows], sample.spot_global_keys[rows]
            spot = self.cross_attention(spot, region, global_, *keys)
        spot = self.deepen(self.spot_gat, spot, edges, edge_attr)  # (m, depth, width)
        if not with_levels:
            return {"spot": self.heads["spot"](self.combine(spot))}
        region = self.deepen(self.region_gat, region, sample.region_edges, sample.region_edge_attr)  # (R, depth, width)
        global_ = self.deepen(self.global_gat, global_, sample.global_edges, sample.global_edge_attr)  # (Q, ·, ·)
        return {"spot": self.heads["spot"](self.combine(spot, region[sample.region_of_spot[rows]])),
                "region": self.heads["region"](self.combine(region, global_[sample.global_of_region])),
                "global": self.heads["global"](self.combine(global_))}

    def deepen(self, gat: GATStack, x: Tensor, edges: Tensor, edge_attr: Tensor) -> Tensor:
        """(n, width) -> (n, depth, width)."""
        return x.unsqueeze(1).expand(-1, self.depth, -1) if "gat" in self.without else gat(x, edges, edge_attr)

    def combine(self, own: Tensor, parent: Tensor | None = None) -> Tensor:
        """(n, depth, width) -> (n, width)."""
        return own[:, -1] if "transformer" in self.without else self.transformer(own, parent)


def _zero_head(width: int, rank: int) -> nn.Sequential:
    linear = nn.Linear(width, rank)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.LayerNorm(width), linear)
