"""MSAGNet 3D (Zhu et al., CVPR 2025), without the faults of its released code (README, 'What we changed').

    1 encoder            standardised features of spot, region, global -> (·, width), one shared linear layer
      and the labels     a context spot brings its own, a query spot its imputed coefficients
    2 cross-attention    spot += attention over regions + attention over globals
    3 GAT                on the 3D spot graph, the region and the global graphs, 3 deep
    4 Transformer        tokens = own 3 depths + the parent's 3, global -> region -> spot
    5 heads              spot, region, global: coefficients of the expression basis
    6 mixing             imputed and regressed expression, by IMPUTED_SHARE

Expression is  mean + z · basis: `mean` is the mean profile of the context layers (of this sample), `basis` (rank,
n_genes) the leading directions of the training labels: 250 noisy genes of 200 spots have far fewer degrees of freedom.

Several networks ("members"), each with its own starting weights and order of episodes, are averaged. A member starts as
imputation itself (`mix`, zero heads) and learns a correction; one layer of 200 spots allows a small one.
"""
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from models.edges import N_ATTRIBUTES, attributes
from models.levels import Levels
from models.projection import Projection
from models.sample import Episode, Sample

IMPUTED_SHARE = 0.75  # of the predicted expression; the rest is regressed


@dataclass(frozen=True)
class Architecture:
    """Everything that fixes the shapes of the network.

    without: parts that are left out (levels, cross_attention, gat, transformer, imputation, mix: imputation's share).
    """
    n_genes: int
    rank: int
    n_components: int        # of the features
    imputed_width: int = 0   # 3D
    n_encoder: int = 0       # 2D: width of the encoder in training (models/encoder.py); 0: features are given
    n_members: int = 4
    width: int = 32
    heads: int = 4
    depth: int = 3
    transformer_layers: int = 1
    dropout: float = 0.3
    without: tuple[str, ...] = ()

    def as_dict(self) -> dict:
        return asdict(self) | {"without": list(self.without)}

    @classmethod
    def of(cls, saved: dict) -> "Architecture":
        """From as_dict(). Raises TypeError or KeyError for that of another version."""
        return cls(**saved | {"without": tuple(saved["without"])})


class Network(nn.Module):
    """One member."""

    def __init__(self, a: Architecture):
        super().__init__()
        self.a = a
        self.image = nn.Linear(a.n_components, a.width)
        self.around = nn.Linear(a.n_components, a.width, bias=False)
        self.asked = nn.Linear(a.imputed_width, a.width)  # of query spots; checkpoints have this name
        self.shown = nn.Linear(a.rank, a.width)           # of context spots; checkpoints have this name
        n_kernels = (a.imputed_width - 1) // a.rank
        whole_kernel = torch.eye(n_kernels)[0]  # (n_kernels,): 1 for the whole kernel, 0 for its parts
        self.mix = nn.Parameter(whole_kernel.unsqueeze(1).repeat(1, a.rank))  # (n_kernels, rank)
        self.levels = Levels(a.width, a.heads, a.depth, a.transformer_layers, N_ATTRIBUTES, a.dropout, a.rank,
                             a.without)

    def has(self, part: str) -> bool:
        return part not in self.a.without

    def forward(self, sample: Sample, episode: Episode) -> dict[str, Tensor]:
        """Coefficients of the expression basis: spot (m, rank), region (R, rank), global (Q, rank).

        Without levels only spot.
        """
        rows = episode.rows
        imputed = episode.imputed if self.has("imputation") else torch.zeros_like(episode.imputed)
        spot = self.image(sample.spot_x[rows]) + self.around(sample.around_x[rows])  # (m, width)
        spot = spot + torch.where(episode.query.unsqueeze(1), self.asked(imputed), self.shown(episode.z))
        edge_attr = attributes(sample.position[rows], episode.edges, episode.kind)  # (E, N_ATTRIBUTES)
        region, global_ = self.image(sample.region_x), self.image(sample.global_x)  # (R, width), (Q, width)
        out = self.levels(sample, rows, spot, region, global_, episode.edges, edge_attr)
        base = (imputed[:, :-1].unflatten(1, self.mix.shape) * self.mix).sum(dim=1)  # (m, rank)
        return out | {"spot": base + out["spot"]}


class Members(nn.Module):
    """The members of a 2D or 3D network and what they share: the features' projection and the expression basis."""
    network: type[nn.Module]
    basis: Tensor         # (rank, n_genes), orthonormal rows
    z_scale: Tensor       # (): sd of the first coefficient
    level_offset: Tensor  # (2, n_genes): sums of spots have another pseudo-count

    def __init__(self, architecture: Architecture, projection: Projection, basis: Tensor, z_scale: Tensor,
                 level_offset: Tensor):
        super().__init__()
        self.architecture = architecture
        self.projection = projection
        self.register_buffer("basis", basis)
        self.register_buffer("z_scale", z_scale)
        self.register_buffer("level_offset", level_offset)
        self.members = nn.ModuleList(self.network(architecture) for _ in range(architecture.n_members))

    def coefficients(self, residual: Tensor) -> Tensor:
        """Expression minus its mean (n, n_genes) -> (n, rank)."""
        return residual @ self.basis.T / self.z_scale

    def residual(self, z: Tensor) -> Tensor:
        """(n, rank) -> expression minus its mean (n, n_genes)."""
        return z * self.z_scale @ self.basis


class MSAGNet(Members):
    """MSAGNet 3D."""
    network = Network

    @property
    def imputed_share(self) -> float:
        """Share of imputation in the predicted expression."""
        return 0.0 if "mix" in self.architecture.without else IMPUTED_SHARE

    def forward(self, sample: Sample, episode: Episode) -> Tensor:
        """Mean of the members' spot coefficients: (m, rank)."""
        return torch.stack([member(sample, episode)["spot"] for member in self.members]).mean(dim=0)
