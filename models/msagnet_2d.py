"""MSAGNet 2D (Zhu et al., CVPR 2025): expression from the picture alone.

Unlike 3D (models/msagnet.py) it has no context labels and no imputation:

    1 encoder     standardised features of spot, region, global -> (·, width), one shared linear layer;
                  or the spots' own encoder, trained with the network
    2 to 5        cross-attention, GAT on the layer's spot, region and global graphs, Transformer, heads
                  (models/levels.py)

    expression = mean + z · basis      mean (G,) of the training layers, basis (rank, G) of their labels
"""
import torch
from torch import Tensor, nn

from models.levels import Levels
from models.msagnet import Architecture, Members
from models.projection import Projection
from models.sample import Sample


class Network2D(nn.Module):
    """One member."""

    def __init__(self, a: Architecture):
        super().__init__()
        self.image = nn.Linear(a.n_components, a.width)
        self.around = nn.Linear(a.n_components, a.width, bias=False)
        if a.n_encoder:  # the training sets `encoder`, the SpotEncoder itself
            self.encoded = nn.Linear(a.n_encoder, a.width)
        self.levels = Levels(a.width, a.heads, a.depth, a.transformer_layers, 1, a.dropout, a.rank, a.without)

    def forward(self, sample: Sample, edges: Tensor, edge_attr: Tensor,
                encoded: Tensor | None = None) -> dict[str, Tensor]:
        """Coefficients of the expression basis: spot (n, rank), region (R, rank), global (Q, rank).

        edges (2, E), edge_attr (E, 1) of the spots; encoded (n, n_encoder): the trained encoder's output on the spots'
        pictures.
        """
        if encoded is None:
            spot = self.image(sample.spot_x) + self.around(sample.around_x)  # (n, width)
        else:
            spot = self.encoded((encoded - encoded.mean(dim=0)) / encoded.std(dim=0).clamp_min(1e-6))
        rows = torch.arange(len(spot), device=spot.device)
        region, global_ = self.image(sample.region_x), self.image(sample.global_x)  # (R, width), (Q, width)
        return self.levels(sample, rows, spot, region, global_, edges, edge_attr)


class MSAGNet2D(Members):
    """The members, the features' projection, the expression basis, and the mean that every prediction starts from."""
    network = Network2D
    mean: Tensor  # (n_genes,)

    def __init__(self, architecture: Architecture, projection: Projection, basis: Tensor, z_scale: Tensor,
                 level_offset: Tensor, mean: Tensor):
        super().__init__(architecture, projection, basis, z_scale, level_offset)
        self.register_buffer("mean", mean)

    def forward(self, sample: Sample, edges: Tensor, edge_attr: Tensor, encoded: Tensor | None = None) -> Tensor:
        """Expression (n, n_genes): mean of the members."""
        z = torch.stack([member(sample, edges, edge_attr, encoded)["spot"] for member in self.members]).mean(dim=0)
        return self.mean + self.residual(z)
