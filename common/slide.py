"""Image access: one small interface over OpenSlide, Pillow and tifffile.

    slide = open_slide(path)            # LayerError if it cannot be read
    slide.size_px                       # (width, height) of level 0
    slide.pixel_size_um                 # from the slide's metadata, or None
    slide.read(x, y, width, height, out_px=None)   # uint8 (h, w, 3); level-0 coordinates, padded white beyond the slide
    slide.thumbnail(2048)               # uint8 (h, w, 3), longer side at most 2048

Pyramids are read by region; images without random access (JPEG, PNG, plain TIFF) are decoded once per process.
"""
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from common.errors import LayerError

WHITE = 255
TIFF_SUFFIXES = (".tif", ".tiff")
UM_OF_UNIT = {"µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4}  # both letters mu are in use
UM_OF_RESOLUTION_UNIT = {2: 25400.0, 3: 1e4}  # codes of TIFF: inch, cm
NO_UNIT = 1  # of TIFF: the resolution is a proportion
MAX_ANISOTROPY = 0.05  # pixels of other proportions are no scale of the image


class PyramidSlide:
    """A slide that OpenSlide reads by region."""

    def __init__(self, path: Path):
        import openslide
        self._slide = openslide.OpenSlide(str(path))
        self._error = openslide.OpenSlideError
        self.path = path
        self.size_px: tuple[int, int] = self._slide.dimensions
        self.pixel_size_um: float | None = stated_pixel_size_um(path)

    def read(self, x: int, y: int, width: int, height: int, out_px: tuple[int, int] | None = None) -> np.ndarray:
        """The window with top-left (x, y), resized to out_px = (width, height) if given: uint8 (h, w, 3)."""
        out_px = out_px or (width, height)
        level = self._slide.get_best_level_for_downsample(max(1.0, min(width / out_px[0], height / out_px[1])))
        factor = self._slide.level_downsamples[level]
        size = (max(1, round(width / factor)), max(1, round(height / factor)))
        try:
            rgba = np.asarray(self._slide.read_region((x, y), level, size))  # (h, w, 4)
        except self._error as error:
            raise unreadable(self.path, error) from None
        return _resized(_on_white(rgba), out_px)

    def thumbnail(self, max_side_px: int) -> np.ndarray:
        return self.read(0, 0, *self.size_px, out_px=fitted_size(self.size_px, max_side_px))


class ArraySlide:
    """An image that is decoded whole."""

    def __init__(self, path: Path, pixels: np.ndarray, pixel_size_um: float | None = None):
        self.path = path
        self._pixels = pixels  # (h, w, 3) uint8
        self.size_px: tuple[int, int] = (pixels.shape[1], pixels.shape[0])
        self.pixel_size_um = pixel_size_um

    def read(self, x: int, y: int, width: int, height: int, out_px: tuple[int, int] | None = None) -> np.ndarray:
        """The window with top-left (x, y), resized to out_px = (width, height) if given: uint8 (h, w, 3)."""
        full_width, full_height = self.size_px
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + width, full_width), min(y + height, full_height)
        window = np.full((height, width, 3), WHITE, np.uint8)
        if right > left and bottom > top:
            window[top - y:bottom - y, left - x:right - x] = self._pixels[top:bottom, left:right]
        return _resized(window, out_px or (width, height))

    def thumbnail(self, max_side_px: int) -> np.ndarray:
        return _resized(self._pixels, fitted_size(self.size_px, max_side_px))


Slide = PyramidSlide | ArraySlide


@lru_cache(maxsize=1)
def open_slide(path: Path) -> Slide:
    """Open an H&E image: by OpenSlide, else tifffile (TIFF) or Pillow. Raises LayerError if none can read it."""
    return open_pyramid(path) or _guarded(path, lambda: ArraySlide(path, _decode(path), stated_pixel_size_um(path)))


def open_pyramid(path: Path) -> PyramidSlide | None:
    """The slide if OpenSlide reads its format, else None; nothing is decoded.

    Raises LayerError if there is no file or it cannot be opened.
    """
    import openslide
    if path is None or not path.is_file():
        raise LayerError(path, "no image", "a slide or picture", "put imgs/<sample>/<layer>.<ext> there")
    own = path.resolve()  # a linked slide of several files (.mrxs, .vms) lies beside the link's target
    return _guarded(path, lambda: PyramidSlide(own) if openslide.OpenSlide.detect_format(str(own)) else None)


def _guarded(path: Path, opened: Callable):
    """opened(); whatever a decoder raises is one LayerError."""
    try:
        return opened()
    except Exception as error:  # every decoder raises its own
        raise unreadable(path, error) from None


# metadata --------------------------------------------------------------------------------------------
def stated_pixel_size_um(path: Path) -> float | None:
    """The um per level-0 px in the metadata of an image file, plausible or not.

    None if they state none, or differ between x and y, or if the file cannot be opened: the step that reads its pixels
    reports this. No pixel is decoded.
    """
    try:
        sizes = _openslide_sizes(path) or _tiff_sizes(path) or _picture_sizes(path)
    except Exception:  # every decoder raises its own
        return None
    if not sizes or not all(np.isfinite(size) and size > 0 for size in sizes):
        return None
    if max(sizes) > (1 + MAX_ANISOTROPY) * min(sizes):
        return None
    return float(sizes[0])


def _openslide_sizes(path: Path) -> list[float] | None:
    """[x, y] as OpenSlide knows them, from the vendor's metadata or the resolution of a tiled TIFF."""
    import openslide
    own = str(path.resolve())  # as in open_pyramid
    if not openslide.OpenSlide.detect_format(own):
        return None
    with openslide.OpenSlide(own) as slide:
        stated = [slide.properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
    return [float(one) for one in stated if one] or None


def _tiff_sizes(path: Path) -> list[float] | None:
    """[x, y] of the OME-XML or the resolution tags of a TIFF."""
    if path.suffix.lower() not in TIFF_SUFFIXES:
        return None
    import tifffile
    with tifffile.TiffFile(path) as tiff:
        sizes = _ome_sizes(tifffile.xml2dict(tiff.ome_metadata)) if tiff.ome_metadata is not None else None
        if sizes is not None:
            return sizes
        tags = tiff.pages.first.tags
        unit = int(tags["ResolutionUnit"].value) if "ResolutionUnit" in tags else NO_UNIT
        um_per_unit = UM_OF_RESOLUTION_UNIT.get(unit)
        if um_per_unit is None or "XResolution" not in tags:
            return None
        per_unit = [tags[f"{axis}Resolution"].value for axis in "XY" if f"{axis}Resolution" in tags]
        return [um_per_unit * denominator / numerator for numerator, denominator in per_unit if numerator]


def _ome_sizes(metadata: dict) -> list[float] | None:
    """[x, y] of the OME-XML of a TIFF; None if it states no size, or a unit that is not in UM_OF_UNIT."""
    image = metadata["OME"]["Image"]
    pixels = (image[0] if isinstance(image, list) else image)["Pixels"]
    units = [pixels.get(f"PhysicalSize{axis}Unit", "µm") for axis in "XY"]
    if "PhysicalSizeX" not in pixels or not all(unit in UM_OF_UNIT for unit in units):
        return None
    sizes = zip([pixels.get(f"PhysicalSize{axis}") for axis in "XY"], units, strict=True)
    return [float(size) * UM_OF_UNIT[unit] for size, unit in sizes if size is not None]


def _picture_sizes(path: Path) -> list[float] | None:
    """[x, y] of the dots per inch of a PNG or JPEG file."""
    from PIL import Image
    Image.MAX_IMAGE_PIXELS = None
    with Image.open(path) as picture:
        return [25400.0 / float(one) for one in picture.info.get("dpi", ()) if one > 0]


def unreadable(path: Path, error: Exception) -> LayerError:
    return LayerError(path, f"an image that cannot be read ({error})", "a complete image file",
                      "copy or export it again")


def _decode(path: Path) -> np.ndarray:
    """Decode a picture to uint8 (h, w, 3)."""
    if path.suffix.lower() in TIFF_SUFFIXES:
        import tifffile
        pixels = tifffile.imread(path)
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[..., None], 3, axis=2)
        if pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or pixels.dtype != np.uint8:
            raise ValueError(f"TIFF of shape {pixels.shape}, {pixels.dtype}")
        return _on_white(pixels) if pixels.shape[2] == 4 else pixels
    from PIL import Image
    Image.MAX_IMAGE_PIXELS = None  # a section scan is larger than Pillow's guard against decompression bombs
    with Image.open(path) as picture:
        if picture.mode in ("RGBA", "LA", "P"):
            return _on_white(np.asarray(picture.convert("RGBA")))
        return np.asarray(picture.convert("RGB"))


def _on_white(rgba: np.ndarray) -> np.ndarray:
    """Composite (h, w, 4) on white: what lies beyond the slide is transparent."""
    alpha = rgba[..., 3]
    if alpha.min() == 255:
        return np.ascontiguousarray(rgba[..., :3])
    weight = alpha[..., None].astype(np.float32) / 255
    return np.rint(rgba[..., :3] * weight + WHITE * (1 - weight)).astype(np.uint8)


def _resized(pixels: np.ndarray, out_px: tuple[int, int]) -> np.ndarray:
    """Resize to (width, height): area averaging down, cubic up."""
    if (pixels.shape[1], pixels.shape[0]) == tuple(out_px):
        return np.ascontiguousarray(pixels)
    shrinks = out_px[0] < pixels.shape[1]
    return cv2.resize(pixels, tuple(out_px), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def fitted_size(size_px: tuple[int, int], max_side_px: int) -> tuple[int, int]:
    """(width, height) with the longer side at most max_side_px, never enlarged."""
    factor = min(1.0, max_side_px / max(size_px))
    return max(1, round(size_px[0] * factor)), max(1, round(size_px[1] * factor))
