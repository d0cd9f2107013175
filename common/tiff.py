"""A TIFF that is read by region: tiles or strips of its largest picture, decoded by tifffile, in true colours.

OpenSlide reads the scanners' own forms and plain tiled RGB; this module reads every other TIFF: grey, palette, CMYK,
16 bit, planar, several pages, OME-TIFF, strips. A tile or strip is decoded once and kept among the recent ones, so
memory is that of CACHE_BYTES and of one strip. A TIFF that is one compressed strip is decoded whole.
"""
import os
import re
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from common import colours
from common.colours import Form, NotColours
from common.picture_faults import guarded

CACHE_BYTES = 2**28          # of decoded tiles
DIRECT_PX = 2**26            # a window of more px is shrunk band by band
BAND_PX = 2**24
STRIP_BYTES = 2**22          # uncompressed rows are read in pieces of about this size
SAMPLED_SEGMENTS = 64        # of a picture of 16 bit, to find the bits that are used
JPEG = (6, 7, 33007, 34892)  # compressions whose decoder returns RGB for YCbCr
SEPARATE = 2                 # planar configuration of TIFF


@dataclass(frozen=True)
class Chosen:
    """The picture of a TIFF that is read: its levels, largest first, each one page or three grey ones (R, G, B)."""
    levels: list[list[Any]]  # of tifffile's pages
    remarks: tuple[str, ...]


def chosen_picture(tiff) -> Chosen:
    """The largest picture of an open tifffile.TiffFile. Raises NotColours for one that is no RGB or grey picture."""
    all_series = [one for one in tiff.series if {"Y", "X"} <= set(one.axes)]
    if not all_series:
        raise ValueError("a TIFF without a picture")
    area = [one.keyframe.imagelength * one.keyframe.imagewidth for one in all_series]
    series, remarks = all_series[area.index(max(area))], []
    if len(all_series) > 1:
        equal = ", the first of the largest" if area.count(max(area)) > 1 else ", the largest"
        remarks.append(f"picture {area.index(max(area)) + 1} of {len(all_series)} in the file{equal}")
    others = {axis: size for axis, size in zip(series.axes, series.shape, strict=True)
              if axis not in "YXS" and size > 1}
    n_planes = 1
    if others:
        n_planes, remark = _planes(others, series.keyframe)
        remarks.append(remark)
    levels = []
    for level in series.levels:
        levels.append([level.pages[k] for k in range(n_planes)])
    return Chosen(levels, tuple(remarks))


def _planes(others: dict[str, int], page) -> tuple[int, str]:
    """(the number of pages that make one picture, a remark) for a series with further axes. Raises NotColours."""
    text = " x ".join(f"{size} ({axis})" for axis, size in others.items())
    is_grey = page.samplesperpixel == 1 and page.photometric in (colours.WHITE_IS_ZERO, colours.BLACK_IS_ZERO)
    axes = list(others)
    if is_grey and len(axes) == 1 and axes[0] in "CQI" and others[axes[0]] == 3:
        return 3, "3 grey planes, read as red, green, blue"
    narrow = min(page.imagewidth, page.imagelength)
    if is_grey and narrow in (3, 4) and max(others.values()) > narrow:
        raise NotColours(f"{text} grey planes of {page.imagewidth} x {page.imagelength} px: an array (y, x, colour) "
                         "that was written as planes (tifffile: photometric='rgb')")
    if is_grey and "C" in others:
        raise NotColours(f"planes {text}: channels that are not red, green, blue (fluorescence?)")
    return 1, f"the first of {text} planes"


class TiffSlide:
    """A TIFF read by region. Level-0 coordinates; white beyond the picture and in tiles that are not stored."""

    def __init__(self, path: Path, pixel_size_um: float | None = None):
        """Raises what tifffile raises, and ValueError for a picture that is not read."""
        import tifffile
        self.path, self.pixel_size_um = path, pixel_size_um
        self._tiff = tifffile.TiffFile(path)  # open as long as the slide lives
        chosen = chosen_picture(self._tiff)
        self._levels = [_Level(pages) for pages in chosen.levels]
        self.page: int = chosen.levels[0][0].index
        self.orientation: int = orientation_of(chosen.levels[0][0].keyframe)
        self._recent: OrderedDict[tuple[int, int, int], np.ndarray | None] = OrderedDict()
        self._kept_bytes = 0
        first = self._levels[0]
        self.size_px: tuple[int, int] = (first.width, first.height)
        self._form, remark = form_of(first.pages[0].keyframe, _significant_bits(self._tiff), self._highest,
                                    len(first.pages))
        self.remarks = [*chosen.remarks, *([remark] if remark else [])]

    def read(self, x: int, y: int, width: int, height: int, out_px: tuple[int, int] | None = None) -> np.ndarray:
        """The window with top-left (x, y), resized to out_px = (width, height) if given: uint8 (h, w, 3).

        Raises LayerError for a tile that cannot be decoded.
        """
        return guarded(self.path, lambda: self._read(x, y, width, height, out_px or (width, height)))

    def probe(self) -> None:
        """Decode the first tile. Raises what tifffile raises."""
        self._tile(0, 0, 0)

    def _read(self, x: int, y: int, width: int, height: int, out_px: tuple[int, int]) -> np.ndarray:
        factor = max(1.0, min(width / out_px[0], height / out_px[1]))
        number = max(k for k, one in enumerate(self._levels) if self._factor(one) <= factor * 1.001)
        scale = self._factor(self._levels[number])
        left, top = round(x / scale), round(y / scale)
        across, down = max(1, round(width / scale)), max(1, round(height / scale))
        if across * down > DIRECT_PX and out_px[0] <= across and out_px[1] <= down:
            return self._shrunk(number, left, top, across, down, out_px)
        return resized(self._window(number, left, top, across, down), out_px)

    def thumbnail(self, max_side_px: int) -> np.ndarray:
        return self.read(0, 0, *self.size_px, out_px=fitted_size(self.size_px, max_side_px))

    def _factor(self, level: "_Level") -> float:
        return max(1.0, self.size_px[0] / level.width)

    def _window(self, number: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """A window of one level, in its px: uint8 (h, w, 3)."""
        level, out = self._levels[number], np.full((height, width, 3), colours.WHITE, np.uint8)
        top, bottom = max(y, 0), min(y + height, level.height)
        left, right = max(x, 0), min(x + width, level.width)
        for row in range(top // level.rows, -(-bottom // level.rows) if bottom > top else 0):
            for column in range(left // level.columns, -(-right // level.columns) if right > left else 0):
                tile = self._tile(number, row, column)
                if tile is None:
                    continue
                y0, x0 = row * level.rows, column * level.columns
                a, b = max(top, y0), min(bottom, y0 + tile.shape[0])
                c, d = max(left, x0), min(right, x0 + tile.shape[1])
                out[a - y:b - y, c - x:d - x] = tile[a - y0:b - y0, c - x0:d - x0]
        return out

    def _shrunk(self, number: int, x: int, y: int, width: int, height: int, out_px: tuple[int, int]) -> np.ndarray:
        """A large window, area-averaged band by band: uint8 (h, w, 3). Every band is whole rows of tiles."""
        step = height / out_px[1]  # rows of the window per row of the result
        total = np.zeros((out_px[1], out_px[0], 3), np.float32)
        rows = max(1, BAND_PX // width)
        for first in range(0, height, rows):
            band = self._window(number, x, y + first, width, min(rows, height - first))
            last = first + len(band)
            band = cv2.resize(band, (out_px[0], len(band)), interpolation=cv2.INTER_AREA).astype(np.float32)
            for k in range(int(first / step), min(out_px[1], int(np.ceil(last / step)))):
                here = np.arange(max(first, int(k * step)), min(last, int(np.ceil((k + 1) * step))))
                share = np.minimum(here + 1, (k + 1) * step) - np.maximum(here, k * step)  # of each row, in row k
                total[k] += np.tensordot(share.astype(np.float32) / step, band[here - first], 1)
        return np.rint(np.clip(total, 0, colours.WHITE)).astype(np.uint8)

    def _tile(self, number: int, row: int, column: int) -> np.ndarray | None:
        """One tile or strip in RGB, (h, w, 3) uint8; None if the file does not store it."""
        key = (number, row, column)
        if key not in self._recent:
            samples = self._samples(number, row, column)
            tile = self._recent[key] = None if samples is None else colours.to_rgb(samples, self._form)
            self._kept_bytes += _n_bytes(tile)
            while len(self._recent) > 1 and self._kept_bytes > CACHE_BYTES:
                self._kept_bytes -= _n_bytes(self._recent.popitem(last=False)[1])
        self._recent.move_to_end(key)
        return self._recent[key]

    def _samples(self, number: int, row: int, column: int) -> np.ndarray | None:
        """The stored samples of one tile or strip: (h, w, s) of the file's type."""
        level = self._levels[number]
        planes = []
        for page in level.pages:
            for plane in range(level.n_planes):
                samples = self._plane(level, page, plane, row, column)
                if samples is None:
                    return None
                planes.append(samples)
        stored = np.concatenate(planes, axis=2) if len(planes) > 1 else planes[0]
        return stored[:level.height - row * level.rows, :level.width - column * level.columns]

    def _plane(self, level: "_Level", page, plane: int, row: int, column: int) -> np.ndarray | None:
        if level.is_plain:
            return self._plain_rows(level, page, plane, row)
        index = (plane * level.n_down + row) * level.n_across + column
        offset, count = page.dataoffsets[index], page.databytecounts[index]
        if not count:
            return None
        keyframe = page.keyframe
        decoded = keyframe.decode(self._bytes(offset, count), index, jpegtables=keyframe.jpegtables)[0]
        return None if decoded is None else decoded[0]

    def _plain_rows(self, level: "_Level", page, plane: int, row: int) -> np.ndarray:
        """Rows of a picture whose samples lie one after the other in the file."""
        keyframe, n_rows = page.keyframe, min(level.rows, level.height - row * level.rows)
        dtype = keyframe.dtype.newbyteorder(keyframe.parent.byteorder)
        n_samples = 1 if level.n_planes > 1 else keyframe.samplesperpixel
        row_bytes = level.width * n_samples * dtype.itemsize
        offset = page.dataoffsets[0] + (plane * level.height + row * level.rows) * row_bytes
        found = np.frombuffer(self._bytes(offset, n_rows * row_bytes), dtype)
        return found.reshape(n_rows, level.width, n_samples).astype(keyframe.dtype)

    def _bytes(self, offset: int, count: int) -> bytes:
        """Bytes of the file. Read without a position, so that processes that share the file do not disturb each other.

        Raises EOFError at the end of the file.
        """
        parts, done = [], 0
        while done < count:
            part = os.pread(self._tiff.filehandle.fileno(), count - done, offset + done)
            if not part:
                raise EOFError(f"bytes {offset} to {offset + count} are not in the file")
            parts.append(part)
            done += len(part)
        return b"".join(parts)

    def _highest(self) -> float:
        """The highest sample of up to SAMPLED_SEGMENTS tiles or strips, evenly spaced."""
        level = self._levels[0]
        chosen = np.unique(np.linspace(0, level.n_down * level.n_across - 1, SAMPLED_SEGMENTS).astype(int))
        found = (self._samples(0, *divmod(int(k), level.n_across)) for k in chosen)
        return max((float(np.nanmax(one)) for one in found if one is not None and one.size), default=0.0)


class _Level:
    """One level of a picture: its pages, the size of its tiles or strips, and their number."""

    def __init__(self, pages: list):
        page = pages[0].keyframe
        for one in pages:  # tifffile reads these when first asked: now, before processes share the file
            _ = one.dataoffsets, one.databytecounts, one.keyframe.jpegtables, one.keyframe.decode
        self.pages, self.width, self.height = pages, page.imagewidth, page.imagelength
        self.n_planes = page.samplesperpixel if page.planarconfig == SEPARATE else 1
        self.is_plain = bool(page.is_memmappable) and not page.is_tiled
        if page.is_tiled:
            self.rows, self.columns = page.tilelength, page.tilewidth
        elif self.is_plain:
            row_bytes = max(1, page.nbytes // page.imagelength)
            self.rows, self.columns = max(1, min(self.height, STRIP_BYTES // row_bytes)), self.width
        else:
            self.rows, self.columns = min(page.rowsperstrip or self.height, self.height), self.width

    @cached_property
    def n_down(self) -> int:
        return -(-self.height // self.rows)

    @cached_property
    def n_across(self) -> int:
        return -(-self.width // self.columns)


def form_of(page, significant_bits: int | None, highest, n_pages: int = 1) -> tuple[Form, str]:
    """(the form of a page's samples, a remark or ''). highest: returns the highest sample, asked only if needed."""
    photometric = int(page.photometric)
    if photometric == colours.PALETTE:
        return Form(photometric, colormap=colours.colormap_of(np.asarray(page.colormap))), ""
    if photometric == colours.SEPARATED and _tag(page, "InkSet", 1) != 1:
        raise NotColours("inks other than cyan, magenta, yellow, black")
    if photometric == colours.YCBCR and int(page.compression) in JPEG:
        photometric = colours.RGB
    stated = _tag(page, "SMaxSampleValue", None)
    if stated is None and significant_bits:
        stated = 2.0**significant_bits - 1
    bits = page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample)
    top, remark = colours.full_scale(page.dtype, bits, _number(stated), highest)
    alpha = next((k for k, kind in enumerate(page.extrasamples) if int(kind) in (1, 2)), None)
    colours_first = page.samplesperpixel - len(page.extrasamples)
    return Form(photometric, top,
                alpha=None if alpha is None or n_pages > 1 else colours_first + alpha,
                premultiplied=alpha is not None and int(page.extrasamples[alpha]) == 1,
                luma=_ratios(_tag(page, "YCbCrCoefficients", None)) or colours.LUMA,
                reference=_ratios(_tag(page, "ReferenceBlackWhite", None)) or colours.REFERENCE_BLACK_WHITE), remark


def orientation_of(page) -> int:
    """How a page is turned, 1 (upright) to 8."""
    return int(_tag(page, "Orientation", 1))


def _n_bytes(tile: np.ndarray | None) -> int:
    return 0 if tile is None else tile.nbytes


def _tag(page, name: str, default):
    return page.tags[name].value if name in page.tags else default


def _number(value) -> float | None:
    """The largest of the values of a tag, or None."""
    return None if value is None else float(np.max(np.asarray(value, np.float64)))


def _ratios(value) -> tuple[float, ...] | None:
    """Values of a tag of rationals, tifffile's flat pairs of numerator and denominator."""
    if value is None:
        return None
    flat = np.asarray(value, np.float64).ravel()
    return tuple(flat[::2] / flat[1::2]) if len(flat) in (6, 12) and (flat[1::2] > 0).all() else None


def _significant_bits(tiff) -> int | None:
    """SignificantBits of the first image of OME-XML that states it, or None."""
    if tiff.ome_metadata is None:
        return None
    found = re.search(r'SignificantBits="(\d+)"', tiff.ome_metadata)
    return int(found[1]) if found else None


def resized(pixels: np.ndarray, out_px: tuple[int, int]) -> np.ndarray:
    """Resize to (width, height): area averaging down, cubic up."""
    if (pixels.shape[1], pixels.shape[0]) == tuple(out_px):
        return np.ascontiguousarray(pixels)
    shrinks = out_px[0] < pixels.shape[1]
    return cv2.resize(pixels, tuple(out_px), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def fitted_size(size_px: tuple[int, int], max_side_px: int) -> tuple[int, int]:
    """(width, height) with the longer side at most max_side_px, never enlarged."""
    factor = min(1.0, max_side_px / max(size_px))
    return max(1, round(size_px[0] * factor)), max(1, round(size_px[1] * factor))
