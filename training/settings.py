"""The options of a training run."""
from dataclasses import dataclass

from common.errors import DataError
from models.msagnet import Architecture


@dataclass(frozen=True)
class Settings:
    """Options of a training run."""
    base_lr: float = 0.003
    batch_size: int = 128
    max_iterations: int = 100
    lr_decay: float = 0.9
    optimizer: str = "adamw"
    weight_decay: float = 0.05
    averaging: float = 0.97
    rank: int = 0                # 0: 8 up to 1000 labelled spots, 12 above
    width: int = 32
    members: int = 4
    dropout: float = 0.3
    input_noise: float = 0.3     # sd on the features, in units of the first principal component; larger on regions and
                                 # globals, which are few
    without: tuple[str, ...] = ()
    seed: int = 0
    validate_every: int = 10     # steps; 2D

    def __post_init__(self) -> None:
        if self.width < Architecture.heads or self.width % Architecture.heads:
            raise DataError("--width", self.width, f"a multiple of the {Architecture.heads} attention heads",
                            f"e.g. --width {8 * Architecture.heads}")
