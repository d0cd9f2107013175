"""MSAGNet 3D (the paper's network, with the faults of its released code mended: README, 'What we changed').

    1 encoder            standardised features of spot, region, global        -> (·, width), one shared linear layer
    2 cross-attention    spot += attention over regions + attention over globals
    3 GAT                on the 3D spot graph, the region and the global graphs, 3 deep
    4 Transformer        tokens = own 3 depths + the parent's 3, global -> region -> spot
    5 heads              spot, region, global: coefficients of the expression basis
    6 imputation         known labels propagated over the 3D graph, mixed with the regressed ones by a gate per gene

Expression is written as  mean + z · basis: `mean` is the mean profile of the labels shown (of this sample), `basis` (rank, n_genes) the
leading directions of the training labels. 250 noisy genes from 200 spots have far fewer degrees of freedom than 250.
"""
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from models.cross_attention import MultiLevelCrossAttention
from models.encoder import FeatureEncoder
from models.gat import GATStack
from models.imputation import EdgeWeight, GeneGate, propagate
from models.transformer import LevelTransformer

N_SPOT_EDGE_ATTRIBUTES = 3  # cosine, distance, nearness
MASS_ROUNDS = (1, 3)


@dataclass(frozen=True)
class Architecture:
    """Everything that fixes the shapes of the network."""
    n_genes: int
    rank: int
    width: int = 32
    heads: int = 4
    depth: int = 3
    transformer_layers: int = 1
    dropout: float = 0.3
    n_components: int = 24

    def as_dict(self) -> dict:
        return asdict(self)


class MSAGNet(nn.Module):
    """The network. Build with the encoder's PCA and the expression basis; see training.py."""

    def __init__(self, architecture: Architecture, axes: Tensor, scale: Tensor, basis: Tensor, z_scale: Tensor, train_mean: Tensor,
                 level_offset: Tensor):
        super().__init__()
        a = architecture
        self.architecture = a
        self.register_buffer("basis", basis)            # (rank, n_genes), orthonormal rows
        self.register_buffer("z_scale", z_scale)        # (): sd of the first coefficient
        self.register_buffer("train_mean", train_mean)  # (n_genes,): used where no label is shown
        self.encoder = FeatureEncoder(axes, scale, a.width)
        self.shown_embedding = nn.Linear(2 * a.rank + 1 + len(MASS_ROUNDS), a.width)
        self.cross_attention = MultiLevelCrossAttention(a.width, a.heads)
        self.spot_gat = GATStack(a.width, a.heads, a.depth, N_SPOT_EDGE_ATTRIBUTES, a.dropout)
        self.region_gat = GATStack(a.width, a.heads, a.depth, 1, a.dropout)
        self.global_gat = GATStack(a.width, a.heads, a.depth, 1, a.dropout)
        self.transformer = LevelTransformer(a.width, a.heads, a.depth, a.transformer_layers)
        self.heads = nn.ModuleDict({level: nn.Sequential(nn.LayerNorm(a.width), nn.Linear(a.width, a.rank))
                                    for level in ("spot", "region", "global")})
        for head in self.heads.values():
            nn.init.zeros_(head[1].weight)
            nn.init.zeros_(head[1].bias)
        self.level_offset = nn.Parameter(level_offset.clone())  # (2, n_genes): sums of spots have another pseudo-count
        self.edge_weight = EdgeWeight()
        self.gate = GeneGate(a.n_genes)

    # expression <-> coefficients ---------------------------------------------------------------------
    def coefficients(self, label: Tensor, mean: Tensor) -> Tensor:
        """(n, n_genes) -> (n, rank)."""
        return (label - mean) @ self.basis.T / self.z_scale

    def expression(self, z: Tensor, mean: Tensor) -> Tensor:
        """(n, rank) -> (n, n_genes)."""
        return mean + z * self.z_scale @ self.basis

    # forward -----------------------------------------------------------------------------------------
    def forward(self, graph, shown: Tensor) -> dict[str, Tensor]:
        """graph: PreparedGraph (see prepare); shown: (n,) bool, the spots whose label the network may see.

        Returns spot (n, G), region (R, G), global (Q, G): normalised expression. Labels of spots that are not shown are never read.
        """
        mean = graph.label[shown].mean(dim=0) if bool(shown.any()) else self.train_mean  # (G,)
        z_shown = torch.where(shown.unsqueeze(1), self.coefficients(graph.label, mean), 0.0)  # (n, rank)
        flag = shown.unsqueeze(1).float()
        cosine, distance = graph.spot_edge_attr[:, 0], graph.edge_distance
        weight = self.edge_weight(graph.spot_edges, distance, cosine, len(shown))  # (E,)
        z_propagated = propagate(graph.spot_edges, weight, z_shown, shown)  # (n, rank)
        mass = torch.cat([propagate(graph.spot_edges, weight.detach(), flag, shown, rounds) for rounds in MASS_ROUNDS], dim=1)  # (n, 2)

        spot = self.encoder(graph.spot_x) + self.shown_embedding(torch.cat([z_shown, z_propagated, flag, mass], dim=1))  # (n, width)
        region, global_ = self.encoder(graph.region_x), self.encoder(graph.global_x)  # (R, width), (Q, width)
        spot = self.cross_attention(spot, region, global_, graph.spot_region_keys, graph.spot_global_keys)

        spot = self.spot_gat(spot, graph.spot_edges, graph.spot_edge_attr)  # (n, depth, width)
        region = self.region_gat(region, graph.region_edges, graph.region_edge_attr)  # (R, depth, width)
        global_ = self.global_gat(global_, graph.global_edges, graph.global_edge_attr)  # (Q, depth, width)

        z_global = self.heads["global"](self.transformer(global_))  # (Q, rank)
        z_region = self.heads["region"](self.transformer(region, global_[graph.global_of_region]))  # (R, rank)
        z_spot = self.heads["spot"](self.transformer(spot, region[graph.region_of_spot]))  # (n, rank)

        return {"spot": self.gate(self.expression(z_propagated, mean), self.expression(z_spot, mean)),
                "region": self.expression(z_region, mean) + self.level_offset[0],
                "global": self.expression(z_global, mean) + self.level_offset[1]}
