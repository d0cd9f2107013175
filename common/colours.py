"""The colours of stored samples: any photometric interpretation, depth and number of samples to RGB uint8.

Depth. Samples of more than 8 bits are divided by the full scale: what the file states (bits per sample,
SMaxSampleValue, SignificantBits of OME-XML), else the smallest of 8, 10, 12, 14, 16 … bits that holds the highest
sample. The glass of a section is bright, so a picture whose highest sample is 4,000 is one of 12 bits in words of 16.
"""
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

WHITE = 255
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, SEPARATED, YCBCR, CIELAB = 0, 1, 2, 3, 5, 6, 8  # codes of TIFF
NAMES = {4: "a transparency mask", 9: "ICC Lab", 10: "ITU Lab", 32803: "a colour filter array (raw camera data)",
         32844: "LogL", 32845: "LogLuv", 34892: "linear raw camera data"}
DEPTHS = (8, 10, 12, 14, 16, 24, 32)
LUMA = (0.299, 0.587, 0.114)
REFERENCE_BLACK_WHITE = (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)


class NotColours(ValueError):
    """A picture that is whole and readable, but in no form that is colours; the text is what it is."""


@dataclass(frozen=True)
class Form:
    """How stored samples become colours. top: the sample of full brightness. alpha: index of that sample, or None."""
    photometric: int
    top: float = 255.0
    colormap: np.ndarray | None = None  # (n, 3) uint8
    alpha: int | None = None
    premultiplied: bool = False
    luma: tuple[float, ...] = LUMA
    reference: tuple[float, ...] = REFERENCE_BLACK_WHITE


def full_scale(dtype: np.dtype, bits: int, stated: float | None, highest: Callable[[], float]) -> tuple[float, str]:
    """(the sample of full brightness, a remark or ''). bits: as the file states them; highest: asked only if needed."""
    if dtype.kind == "b":
        return 1.0, ""
    if dtype.kind == "f":
        top = stated or next(one for one in (1.0, 255.0, 65535.0, np.inf) if highest() <= one)
        return top, f"floating-point samples of 0 to {top:g}"
    width = 8 * dtype.itemsize
    if bits < width:
        return 2.0**bits - 1, f"{bits} bit" if bits > 8 else ""
    if stated:
        return float(stated), f"{bits} bit, {stated:g} is white as the file states"
    if width == 8:
        return (127.0 if dtype.kind == "i" else 255.0), ""
    most = float(highest())
    used = next((one for one in DEPTHS if 2.0**one - 1 >= most), width)
    used = min(used, width - (dtype.kind == "i"))
    return 2.0**used - 1, f"{bits} bit" + (f", of which {used} are used" if used < bits else "")


def to_rgb(samples: np.ndarray, form: Form) -> np.ndarray:
    """Samples (h, w, s) of any type -> RGB on white, (h, w, 3) uint8. Raises NotColours."""
    if form.photometric == PALETTE:
        assert form.colormap is not None, "a palette picture has its colours"
        return form.colormap[np.minimum(samples[..., 0].astype(np.int64), len(form.colormap) - 1)]
    if form.photometric == CIELAB:
        return _of_lab(samples)
    bytes_ = eight_bit(samples, form.top)  # (h, w, s)
    if form.photometric in (RGB, BLACK_IS_ZERO):
        rgb = bytes_[..., :3] if bytes_.shape[2] >= 3 else _of_grey(bytes_[..., 0])
    elif form.photometric == WHITE_IS_ZERO:
        rgb = _of_grey(WHITE - bytes_[..., 0])
    elif form.photometric == SEPARATED:
        rgb = _of_inks(bytes_)
    elif form.photometric == YCBCR:
        rgb = _of_ycbcr(bytes_, form)
    else:
        name = NAMES.get(form.photometric, "unknown")
        raise NotColours(f"photometric interpretation {form.photometric}: {name}")
    if form.alpha is None or form.alpha >= bytes_.shape[2]:
        return np.ascontiguousarray(rgb)
    return on_white(np.dstack([rgb, bytes_[..., form.alpha]]), form.premultiplied)


def eight_bit(samples: np.ndarray, top: float) -> np.ndarray:
    """Samples of 0 to `top` as uint8 of the same shape."""
    if samples.dtype == np.uint8 and top == WHITE:
        return samples
    scaled = np.clip(samples.astype(np.float32), 0, top) * np.float32(WHITE / top)
    return np.rint(np.nan_to_num(scaled)).astype(np.uint8)


def picture_rgb(pixels: np.ndarray) -> tuple[np.ndarray, str]:
    """(RGB on white, (h, w, 3) uint8, a remark or '') of a picture without metadata.

    pixels: (h, w) grey, (h, w, 1 to 4) with an opacity as the second or fourth sample; whole numbers, bool or floats.
    Raises NotColours for another shape.
    """
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or not 1 <= pixels.shape[2] <= 4:
        raise NotColours(f"a picture of shape {pixels.shape}")
    n_samples = pixels.shape[2]
    top, remark = full_scale(pixels.dtype, 8 * pixels.dtype.itemsize, None, lambda: float(np.nanmax(pixels)))
    alpha = n_samples - 1 if n_samples in (2, 4) else None
    return to_rgb(pixels, Form(BLACK_IS_ZERO, top, alpha=alpha)), remark


def on_white(rgba: np.ndarray, premultiplied: bool = False) -> np.ndarray:
    """Composite (h, w, 4) uint8 on white: what lies beyond the slide is transparent."""
    alpha = rgba[..., 3]
    if alpha.min() == WHITE:
        return np.ascontiguousarray(rgba[..., :3])
    weight = alpha[..., None].astype(np.float32) / WHITE
    colour = rgba[..., :3] if premultiplied else rgba[..., :3] * weight
    return np.rint(np.minimum(colour + WHITE * (1 - weight), WHITE)).astype(np.uint8)


def colormap_of(table: np.ndarray) -> np.ndarray:
    """The colours of a TIFF palette, (3, n) of 16 bits (of 8 bits in files of some programs), as (n, 3) uint8."""
    return (table >> 8 if table.max() > WHITE else table).astype(np.uint8).T


def _of_grey(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def _of_inks(inks: np.ndarray) -> np.ndarray:
    """Cyan, magenta, yellow and black, 0 no ink to 255 full: (h, w, 3 or 4) uint8 -> RGB (h, w, 3) uint8."""
    light = WHITE - inks[..., :3].astype(np.uint16)
    if inks.shape[2] >= 4:
        light = (light * (WHITE - inks[..., 3:4].astype(np.uint16)) + WHITE // 2) // WHITE
    return light.astype(np.uint8)


def _of_ycbcr(samples: np.ndarray, form: Form) -> np.ndarray:
    """Luma and chroma of TIFF, by its coefficients and reference levels: (h, w, 3) uint8 -> RGB (h, w, 3) uint8."""
    red, green, blue = form.luma
    black, white = np.array(form.reference[::2], np.float32), np.array(form.reference[1::2], np.float32)
    step = np.array([255, 127, 127], np.float32) / (white - black)
    y, cb, cr = np.moveaxis((samples[..., :3] - black) * step, 2, 0)
    r, b = cr * (2 - 2 * red) + y, cb * (2 - 2 * blue) + y
    return np.rint(np.clip(np.dstack([r, (y - red * r - blue * b) / green, b]), 0, WHITE)).astype(np.uint8)


def _of_lab(samples: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of TIFF, 8 bits (L of 0 to 255, a and b signed): (h, w, 3) uint8 -> RGB (h, w, 3) uint8."""
    if samples.dtype.itemsize != 1:
        raise NotColours("CIE L*a*b* of 16 bits")
    from PIL import Image
    stored = np.ascontiguousarray(samples[..., :3]).view(np.uint8)
    size = (samples.shape[1], samples.shape[0])
    picture = Image.frombuffer("LAB", size, stored.tobytes(), "raw", "LAB", 0, 1)
    return np.asarray(_lab_to_srgb().apply(picture))


@lru_cache(maxsize=1)
def _lab_to_srgb():
    from PIL import ImageCms
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(lab, srgb, "LAB", "RGB")
