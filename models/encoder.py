"""An image encoder trained with the network on 224 px patches of spots (Zhu et al., CVPR 2025; `main.py --encoder`)."""
from typing import Any

import torch
from torch import Tensor, nn


class SpotEncoder(nn.Module):
    """A timm model without classifier, with the normalisation of its own training.

    Its batch statistics are not updated: a batch is of one slide.
    """
    model: Any            # timm: nn.Module with num_features
    channel_mean: Tensor  # (1, 3, 1, 1)
    channel_std: Tensor   # (1, 3, 1, 1)

    def __init__(self, model: nn.Module, mean: tuple[float, float, float], std: tuple[float, float, float]):
        super().__init__()
        self.model = model
        self.register_buffer("channel_mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("channel_std", torch.tensor(std).view(1, 3, 1, 1))

    def train(self, mode: bool = True) -> "SpotEncoder":
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    @property
    def width(self) -> int:
        return self.model.num_features

    def forward(self, images: Tensor) -> Tensor:
        """(b, 224, 224, 3) uint8 -> (b, width)."""
        return self.model((images.permute(0, 3, 1, 2).float() / 255 - self.channel_mean) / self.channel_std)
