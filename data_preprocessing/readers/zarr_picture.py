"""An image of a SpatialData store as a picture of the contract: an 8-bit RGB TIFF in tiles, which OpenSlide reads."""
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import LayerError
from data_preprocessing.readers.zarr_store import reading_store

SUFFIX = ".tif"
TILE = 512
COARSER = 4       # a level that the store does not have is made from level 0, by this factor
SMALLEST = 4096   # px: a level of at most this side is the last one
RGB = ("r", "g", "b")


@dataclass(frozen=True)
class StorePicture:
    """An image that is copied tile by tile. levels: (c, y, x) dask arrays, level 0 first; channels: names of c."""
    path: Path
    levels: tuple[Any, ...]
    channels: tuple[str, ...]

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height) of level 0."""
        return self.levels[0].shape[2], self.levels[0].shape[1]

    @property
    def is_rgb(self) -> bool:
        """True for three channels, or four with an alpha channel: a photograph of a stained section."""
        if self.levels[0].ndim != 3:  # a stack in z
            return False
        return len(self.channels) == 3 or len(self.channels) == 4 and self.channels[3].lower() in ("a", "alpha", "3")

    def __call__(self, target: Path) -> None:
        """Write the picture; memory holds a row of the stored chunks. Raises LayerError for unreadable pixels."""
        import tifffile
        levels, factor = self.levels, _factor(self)
        with tifffile.TiffWriter(target, bigtiff=True) as tiff:
            for number, level in enumerate(levels):
                shape = (level.shape[1], level.shape[2], 3)
                tiff.write(_tiles(self, level, factor), shape=shape, dtype=np.uint8, tile=(TILE, TILE),
                           photometric="rgb", compression="zlib", subfiletype=int(number > 0), metadata=None)


def picture_of(path: Path, element) -> StorePicture:
    """The picture of an image element, with the levels that it has, or some that are made. path: its folder."""
    import dask.array
    from spatialdata.models import get_channel_names
    if hasattr(element, "children"):  # several scales
        arrays = [next(iter(scale.values())).data for scale in element.children.values()]
    else:
        arrays = [element.data]
    levels = [dask.array.asarray(array) for array in arrays]
    while len(arrays) == 1 and levels[0].ndim == 3 and max(levels[-1].shape[1:]) > SMALLEST:
        factor = COARSER ** len(levels)
        coarse = dask.array.coarsen(np.mean, levels[0], {1: factor, 2: factor}, trim_excess=True)
        levels.append(dask.array.rint(coarse).astype(levels[0].dtype) if levels[0].dtype.kind in "ui" else coarse)
    return StorePicture(path, tuple(levels), tuple(map(str, get_channel_names(element))))


def _factor(picture: StorePicture) -> float:
    """What values are multiplied by to be 0 to 255. Raises LayerError for a range that is none of an image."""
    level = picture.levels[0]
    if level.dtype == np.uint8:
        return 1.0
    with reading_store(picture.path):
        low, high = float(level.min().compute()), float(level.max().compute())
    if np.isfinite([low, high]).all() and low >= 0:
        if level.dtype.kind == "f" and high <= 1:
            return 255.0
        if high <= 255:  # 8 bit in a larger type
            return 1.0
        if level.dtype.kind in "ui":
            return 255.0 / np.iinfo(level.dtype).max
    raise LayerError(picture.path, f"{level.dtype} values from {low:g} to {high:g}",
                     "0 to 255, 16 bit, or 0 to 1 in floating point", "store the image as 8-bit RGB")


def _tiles(picture: StorePicture, level, factor: float):
    """The tiles of a level, row by row: (TILE, TILE, 3) uint8, padded white.

    A row of the stored chunks is decoded at a time, and once.
    """
    _, height, width = level.shape
    step = TILE * -(-level.chunks[1][0] // TILE)
    for start in range(0, height, step):
        with reading_store(picture.path):
            strip = np.asarray(level[:, start:start + step].compute())  # (c, h, width)
        for top in range(0, strip.shape[1], TILE):
            pixels = _rgb(strip[:, top:top + TILE], picture.channels, factor)
            for left in range(0, width, TILE):
                piece = pixels[:, left:left + TILE]
                tile = np.full((TILE, TILE, 3), 255, np.uint8)
                tile[:piece.shape[0], :piece.shape[1]] = piece
                yield tile


def _rgb(strip: np.ndarray, channels: tuple[str, ...], factor: float) -> np.ndarray:
    """(c, h, w) -> (h, w, 3) uint8; named channels in the order r, g, b; transparent is white."""
    names = [name.lower()[:1] for name in channels[:3]]
    order = [names.index(name) for name in RGB] if sorted(names) == sorted(RGB) else [0, 1, 2]
    pixels = np.moveaxis(strip, 0, -1)  # (h, w, c)
    if factor != 1.0 or pixels.dtype != np.uint8:
        pixels = np.rint(pixels * factor).astype(np.uint8)
    colours = pixels[..., order]
    if pixels.shape[-1] == 4:
        weight = pixels[..., 3:].astype(np.float32) / 255
        colours = np.rint(colours * weight + 255 * (1 - weight)).astype(np.uint8)
    return colours
