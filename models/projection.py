"""Projection: precomputed backbone and stain features to the model's width (Zhu et al., CVPR 2025).

The features of each slide are standardised on that slide and projected on principal components fitted once on all
slides, image and stain separately (no label is involved). ONE trained linear layer, shared by spots, regions and
globals of every slide, maps them to the model's width: features of all slides and levels are in one space.

    h = W · [PCA_image, PCA_stain]((f - mean_slide) / sd_slide),   f: (n, n_features)  ->  h: (n, width)
"""
import numpy as np
import torch
from torch import Tensor, nn

from common.threads import one_thread

GROUPS = {"image": ("backbone", "context"), "stain": ("stain",)}  # feature sets that share principal components
N_COMPONENTS = {"image": 48, "stain": 24}
WHITENING = 0.25  # 0: components keep their sd, 1: all have the same
MAX_PCA_ROWS = 20000  # the axes are fitted on at most this many random spots; every spot is projected


def standardise_per_slide(feature: Tensor, slide: Tensor) -> Tensor:
    """Zero mean, unit variance per feature within each slide. feature: (n, n_features), slide: (n,) integer."""
    out = torch.zeros_like(feature)
    for one in torch.unique(slide):
        rows = slide == one
        values = feature[rows]
        out[rows] = (values - values.mean(dim=0)) / values.std(dim=0, unbiased=False).clamp_min(1e-6)
    return out


@one_thread()
def fit_pca(feature: Tensor, n_components: int) -> tuple[Tensor, Tensor]:
    """Principal axes (n_features, n_components) of standardised features, and the scale (n_components,) to divide by.

    feature: (n, n_features).
    After scaling the first component has unit variance; WHITENING raises the variance of the others towards it.
    Signs are fixed (largest loading positive): the same data give the same axes on any machine.
    """
    from sklearn.decomposition import PCA
    n_components = min(n_components, *feature.shape)
    solver = "full" if min(feature.shape) <= 200 else "randomized"
    pca = PCA(n_components, svd_solver=solver, iterated_power=7, random_state=0).fit(feature.double().numpy())
    axes = torch.from_numpy(pca.components_.T).float()  # (n_features, n_components)
    sign = torch.sign(axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)))
    sd = torch.from_numpy(np.sqrt(np.maximum(pca.explained_variance_, 1e-12))).float()
    return axes * sign, sd[0] * (sd / sd[0]) ** WHITENING


def grouped(feature: Tensor, widths: dict[str, int]) -> dict[str, Tensor]:
    """Columns of all feature sets, (n, sum of widths), as {group: (n, width of its sets)}.

    A group without a feature set is left out.
    """
    sets = dict(zip(widths, feature.split(list(widths.values()), dim=1), strict=True)) if widths else {}
    groups = {}
    for group, names in GROUPS.items():
        parts = [sets[name] for name in names if name in sets]
        if parts:
            groups[group] = torch.cat(parts, dim=1)
    return groups


class Projection(nn.Module):
    """Principal components of each group of feature sets, side by side, scaled."""

    def __init__(self, axes: dict[str, Tensor], scale: dict[str, Tensor]):
        super().__init__()
        self.groups = sorted(axes)
        for group in self.groups:
            self.register_buffer(f"axes_{group}", axes[group])    # (n_features, n_components)
            self.register_buffer(f"scale_{group}", scale[group])  # (n_components,)

    @classmethod
    def fit(cls, feature: Tensor, widths: dict[str, int], generator: torch.Generator) -> "Projection":
        """Fit to standardised spot features of all slides, (n, sum of widths); to MAX_PCA_ROWS of them at most."""
        rows = torch.randperm(len(feature), generator=generator)[:MAX_PCA_ROWS]
        axes, scale = {}, {}
        for group, values in grouped(feature[rows], widths).items():
            axes[group], scale[group] = fit_pca(values, N_COMPONENTS[group])
        return cls(axes, scale)

    @classmethod
    def of_state(cls, state: dict[str, Tensor]) -> "Projection":
        """The projection of a saved network, from its state dict."""
        parts = []
        for kind in ("axes", "scale"):
            prefix = f"projection.{kind}_"
            parts.append({name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)})
        return cls(*parts)

    @property
    def width(self) -> int:
        return sum(getattr(self, f"axes_{group}").shape[1] for group in self.groups)

    def forward(self, feature: Tensor, widths: dict[str, int]) -> Tensor:
        """(n, sum of widths) standardised -> (n, width)."""
        groups = grouped(feature, widths)
        parts = []
        for group in self.groups:
            parts.append(groups[group] @ getattr(self, f"axes_{group}") / getattr(self, f"scale_{group}"))
        return torch.cat([feature.new_zeros(len(feature), 0), *parts], dim=1)
