"""Encoder: precomputed backbone features to the model's width (Zhu et al., CVPR 2025).

The features of each slide are standardised on that slide, projected on principal components fitted once on all slides (no label is
involved), and mapped by ONE trained linear layer that spots, regions and globals of every slide share: features of two slides live in one space.

    h = W · PCA((f - mean_slide) / sd_slide),   f: (n, n_features)  ->  h: (n, width)
"""
import torch
from torch import Tensor, nn


def standardise_per_slide(feature: Tensor, slide: Tensor) -> Tensor:
    """Zero mean, unit variance per feature within each slide. feature: (n, n_features), slide: (n,) integer."""
    out = torch.zeros_like(feature)
    for one in torch.unique(slide):
        rows = slide == one
        values = feature[rows]
        out[rows] = (values - values.mean(dim=0)) / values.std(dim=0, unbiased=False).clamp_min(1e-6)
    return out


def fit_pca(feature: Tensor, n_components: int) -> tuple[Tensor, Tensor]:
    """Principal axes of standardised features. Returns axes (n_features, n_components) and scale (): the first component's sd.

    Signs are fixed (largest loading positive): the same data give the same axes on any machine.
    """
    from sklearn.decomposition import PCA
    n_components = min(n_components, *feature.shape)
    pca = PCA(n_components, svd_solver="full" if min(feature.shape) <= 2000 else "randomized", random_state=0).fit(feature.double().numpy())
    axes = torch.from_numpy(pca.components_.T).float()  # (n_features, n_components)
    sign = torch.sign(axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)))
    return axes * sign, torch.tensor(float(pca.explained_variance_[0]) ** 0.5)


class FeatureEncoder(nn.Module):
    """PCA of standardised features, then the shared linear layer."""

    def __init__(self, axes: Tensor, scale: Tensor, width: int):
        super().__init__()
        self.register_buffer("axes", axes)
        self.register_buffer("scale", scale)
        self.linear = nn.Linear(axes.shape[1], width)

    def project(self, standardised: Tensor) -> Tensor:
        """(n, n_features) standardised -> (n, n_components), the first component with unit variance. Done once per sample."""
        return standardised @ self.axes / self.scale

    def forward(self, projected: Tensor) -> Tensor:
        """(n, n_components) -> (n, width)."""
        return self.linear(projected)
