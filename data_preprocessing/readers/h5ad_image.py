"""The image that is stored in an AnnData file: uns['spatial'][<library>]['images'].

The largest that has a scale is used: fullres (CELLxGENE), hires, downscaled_fullres (HEST), another name, lowres. Its
scale is scalefactors/tissue_<name>_scalef, px of the image per full-resolution px.
"""
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import LayerError
from data_preprocessing.readers.anndata_file import opened
from data_preprocessing.readers.h5ad_sections import libraries_of

if TYPE_CHECKING:
    import h5py

ORDER = ("fullres", "hires", "downscaled_fullres")
LAST = "lowres"
LARGEST = {8: 255.0, 16: 65535.0}  # value of white, by bits


@dataclass(frozen=True)
class StoredImage:
    """One image in the file. factor: px of it per full-resolution px."""
    library: str
    name: str
    factor: float


def stored_image(path: Path, library: str | None) -> StoredImage | None:
    """The image of a library that is used, or None. Raises LayerError if no image of it has a scale."""
    if library is None:
        return None
    with opened(path) as file:
        group = libraries_of(file).get(library)
        images = group["images"] if group is not None and "images" in group else {}
        names = sorted((name for name in images if _has_pixels(images[name])), key=_rank)
        for name in names:
            factor = _factor(group, name)
            if factor > 0:
                return StoredImage(library, name, factor)
    if names:
        raise LayerError(path, f"no tissue_{names[0]}_scalef in uns['spatial']",
                         f"the scale of the stored image '{names[0]}'",
                         "add it, or put the full-resolution image beside the table")
    return None


def scale_factor(path: Path, library: str | None, key: str) -> float:
    """A number of the scale factors of a library, such as microns_per_pixel; 0 if it states none."""
    if library is None:
        return 0.0
    with opened(path) as file:
        return _number(libraries_of(file)[library].get("scalefactors", {}), key)


def read_pixels(path: Path, image: StoredImage) -> np.ndarray:
    """The stored image as uint8 (h, w, 3). Raises LayerError."""
    with opened(path) as file:
        return _as_uint8(libraries_of(file)[image.library]["images"][image.name][()], path)


def _has_pixels(node: "h5py.Dataset | h5py.Group") -> bool:
    """False for an image of no pixel, which files have whose images were removed, and for a group."""
    return min(getattr(node, "shape", ()), default=0) > 0


def _rank(name: str) -> tuple[int, str]:
    return (ORDER.index(name) if name in ORDER else len(ORDER) + (name == LAST)), name


def _factor(group: "h5py.Group", name: str) -> float:
    key, factors = f"tissue_{name}_scalef", group.get("scalefactors", {})
    return _number(factors, key) if key in factors or name != "fullres" else 1.0


def _number(factors: "h5py.Group", key: str) -> float:
    """A finite number above 0 of the scale factors; else 0."""
    import h5py
    if not isinstance(factors.get(key), h5py.Dataset):
        return 0.0
    try:
        value = float(np.asarray(factors[key][()]).ravel()[0])
    except (IndexError, ValueError):
        return 0.0
    return value if np.isfinite(value) and value > 0 else 0.0


def _as_uint8(pixels: np.ndarray, path: Path) -> np.ndarray:
    """(h, w), (h, w, 1|3|4) or (1|3|4, h, w), whole numbers of 8 or 16 bit or floats of 0..1, 0..255 or 0..65535."""
    if pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4) and pixels.shape[0] in (1, 3, 4):
        pixels = np.moveaxis(pixels, 0, 2)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or pixels.dtype.kind not in "buif":
        raise LayerError(path, f"a stored image of shape {pixels.shape}, {pixels.dtype}", "(height, width, 3)",
                         "put the image beside the table")
    if pixels.dtype != np.uint8:
        pixels = np.rint(pixels * (255.0 / _white(pixels, path)))
        pixels = np.clip(pixels, 0, 255).astype(np.uint8)
    if pixels.shape[2] == 4:  # on glass
        weight = pixels[..., 3:].astype(np.float32) / 255
        pixels = np.rint(pixels[..., :3] * weight + 255 * (1 - weight)).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels)


def _white(pixels: np.ndarray, path: Path) -> float:
    """The value of white: that of 16 bits if the values reach beyond 8 bits, else of 8 bits; 1 for floats up to 1."""
    if pixels.dtype.kind == "b":
        return 1.0
    low, high = float(pixels.min(initial=0)), float(pixels.max(initial=0))
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0 or high > LARGEST[16]:
        raise LayerError(path, f"a stored image with values from {low:g} to {high:g}", "0..1, 0..255 or 0..65535",
                         "put the image beside the table")
    if pixels.dtype.kind == "f" and high <= 1.0:
        return 1.0
    return LARGEST[8] if high <= LARGEST[8] else LARGEST[16]
