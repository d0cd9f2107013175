"""Image access: one small interface over OpenSlide, tifffile and Pillow.

    slide = open_slide(path)            # LayerError if it cannot be read
    slide.size_px                       # (width, height) of level 0
    slide.pixel_size_um                 # from the slide's metadata, or None (common/image_scale.py)
    slide.remarks                       # what a person should know: 'picture 2 of 3 in the file, the largest'
    slide.read(x, y, width, height, out_px=None)   # uint8 (h, w, 3); level-0 coordinates, padded white beyond the slide
    slide.thumbnail(2048)               # uint8 (h, w, 3), longer side at most 2048
    size_px_of(path)                    # the size alone, without decoding

Pyramids and TIFF files are read by region; images without random access (JPEG, PNG) and TIFF files that are turned by
their orientation tag are decoded once per process.
"""
from functools import lru_cache
from pathlib import Path

import numpy as np

from common import colours
from common.colours import WHITE, on_white
from common.image_scale import GENERIC, stated_pixel_size_um
from common.picture_faults import guarded, is_tiff, require_image_file, require_whole, unreadable
from common.pictures import ON_ITS_SIDE, decode, decode_by_libtiff, shown_size_px, turned, turned_remark
from common.tiff import TiffSlide, chosen_picture, fitted_size, orientation_of, resized

__all__ = ["WHITE", "ArraySlide", "PyramidSlide", "Slide", "TiffSlide", "fitted_size", "open_pyramid", "open_slide",
           "size_px_of", "stated_pixel_size_um"]

OPENSLIDE_COMPRESSIONS = (1, 5, 7, 8, 32773, 32946)  # of TIFF: none, LZW, JPEG, Deflate, PackBits, Deflate


class PyramidSlide:
    """A slide that OpenSlide reads by region."""

    def __init__(self, path: Path):
        import openslide
        self._slide = openslide.OpenSlide(str(path))
        self._error = openslide.OpenSlideError
        self.path = path
        self.size_px: tuple[int, int] = self._slide.dimensions
        self.pixel_size_um: float | None = stated_pixel_size_um(path)
        self.remarks: list[str] = []

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
        return resized(on_white(rgba), out_px)

    def thumbnail(self, max_side_px: int) -> np.ndarray:
        return self.read(0, 0, *self.size_px, out_px=fitted_size(self.size_px, max_side_px))


class ArraySlide:
    """An image that is decoded whole."""

    def __init__(self, path: Path, pixels: np.ndarray, pixel_size_um: float | None = None,
                 remarks: list[str] | None = None):
        self.path = path
        self._pixels = pixels  # (h, w, 3) uint8
        self.size_px: tuple[int, int] = (pixels.shape[1], pixels.shape[0])
        self.pixel_size_um = pixel_size_um
        self.remarks = remarks or []

    def read(self, x: int, y: int, width: int, height: int, out_px: tuple[int, int] | None = None) -> np.ndarray:
        """The window with top-left (x, y), resized to out_px = (width, height) if given: uint8 (h, w, 3)."""
        full_width, full_height = self.size_px
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + width, full_width), min(y + height, full_height)
        window = np.full((height, width, 3), WHITE, np.uint8)
        if right > left and bottom > top:
            window[top - y:bottom - y, left - x:right - x] = self._pixels[top:bottom, left:right]
        return resized(window, out_px or (width, height))

    def thumbnail(self, max_side_px: int) -> np.ndarray:
        return resized(self._pixels, fitted_size(self.size_px, max_side_px))


Slide = PyramidSlide | TiffSlide | ArraySlide


@lru_cache(maxsize=1)
def open_slide(path: Path) -> Slide:
    """Open an H&E image: by OpenSlide, tifffile (TIFF) or Pillow. Raises LayerError if none can read it."""
    return open_pyramid(path) or guarded(path, lambda: _open_tiff(path) if is_tiff(path) else _open_picture(path))


def open_pyramid(path: Path) -> PyramidSlide | None:
    """The slide if OpenSlide reads its format in true colours, else None; nothing is decoded.

    Raises LayerError if there is no file, it is no image, or it cannot be opened.
    """
    import openslide
    require_image_file(path)
    require_whole(path)
    own = path.resolve()  # a linked slide of several files (.mrxs, .vms, .dcm) lies beside the link's target
    vendor = guarded(path, lambda: openslide.OpenSlide.detect_format(str(own)))
    if not vendor or vendor == GENERIC and not guarded(path, lambda: _is_simple(own)):
        return None
    return guarded(path, lambda: PyramidSlide(own))


def size_px_of(path: Path) -> tuple[int, int]:
    """(width, height) of the picture that open_slide reads, as shown. No pixel is decoded. Raises as open_slide."""
    pyramid = open_pyramid(path)
    return pyramid.size_px if pyramid else guarded(path, lambda: _tiff_size_px(path) if is_tiff(path)
                                                   else shown_size_px(path))


def _tiff_size_px(path: Path) -> tuple[int, int]:
    import tifffile
    with tifffile.TiffFile(path) as tiff:
        page = chosen_picture(tiff).levels[0][0].keyframe
        size = page.imagewidth, page.imagelength
        return size[::-1] if orientation_of(page) in ON_ITS_SIDE else size


def _is_simple(path: Path) -> bool:
    """True for a tiled TIFF that OpenSlide shows as it is meant: the only picture of the file, RGB, 8 bits, upright."""
    import tifffile
    with tifffile.TiffFile(path) as tiff:
        chosen, first = chosen_picture(tiff), tiff.pages.first
        upright = orientation_of(first) == 1
        is_rgb = (first.dtype == np.uint8 and first.samplesperpixel == 3
                  and first.photometric in (colours.RGB, colours.YCBCR))
        return not chosen.remarks and upright and is_rgb and first.compression in OPENSLIDE_COMPRESSIONS


def _open_tiff(path: Path) -> Slide:
    """A TIFF by region; whole, if it is turned by its orientation tag, or in a form that only libtiff reads."""
    scale = stated_pixel_size_um(path)
    slide = TiffSlide(path, scale)
    try:
        slide.probe()
    except NotImplementedError:  # luma and chroma of different sizes without JPEG
        return ArraySlide(path, decode_by_libtiff(path, slide.page), scale, slide.remarks)
    if slide.orientation in range(2, 9):
        pixels = turned(slide.read(0, 0, *slide.size_px), slide.orientation)
        return ArraySlide(path, pixels, scale, [*slide.remarks, *turned_remark(slide.orientation)])
    return slide


def _open_picture(path: Path) -> ArraySlide:
    pixels, remarks = decode(path)
    return ArraySlide(path, pixels, stated_pixel_size_um(path), remarks)

