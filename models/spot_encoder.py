"""An image encoder that is trained with the network on the spots' 224 px pictures (Zhu et al., CVPR 2025; `main.py --encoder`)."""
import torch
from torch import Tensor, nn


class SpotEncoder(nn.Module):
    """A timm model without classifier, with the normalisation that it was trained with. Its batch statistics stay as they are: a batch is of one slide."""

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
