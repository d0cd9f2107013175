"""Pictures without random access (JPEG, PNG, JPEG 2000, BMP) as RGB arrays, turned as their EXIF orientation says."""
from pathlib import Path

import numpy as np

from common.colours import on_white, picture_rgb

PNG_MAGIC, PNG_DEPTH_BYTE = b"\x89PNG\r\n\x1a\n", 24
# Orientation of TIFF and EXIF: (whether rows and columns are exchanged, then what is turned round)
_TURNS = {2: (False, (1,)), 3: (False, (0, 1)), 4: (False, (0,)),
          5: (True, ()), 6: (True, (1,)), 7: (True, (0, 1)), 8: (True, (0,))}
ON_ITS_SIDE = range(5, 9)
ORIENTATION = 0x0112  # tag of EXIF


def decode(path: Path) -> tuple[np.ndarray, list[str]]:
    """(RGB on white, (h, w, 3) uint8, remarks) of a picture as it is shown. Raises what the decoder raises."""
    from PIL import Image, ImageOps
    Image.MAX_IMAGE_PIXELS = None  # a section scan is larger than Pillow's guard against decompression bombs
    with Image.open(path) as picture:
        orientation = picture.getexif().get(ORIENTATION, 1)
        remarks = turned_remark(orientation)
        if picture.format == "PNG" and _png_bits(path) == 16:
            rgb, remark = picture_rgb(_png_of_16_bits(path))
            return turned(rgb, orientation), [*remarks, *([remark] if remark else [])]
        picture.load()
        shown = ImageOps.exif_transpose(picture)
        if shown.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
            rgb, remark = picture_rgb(_narrow(np.asarray(shown)))
            return rgb, [*remarks, *([remark] if remark else [])]
        if shown.mode in ("RGBA", "LA", "PA", "P", "La", "RGBa") or "transparency" in shown.info:
            return on_white(np.asarray(shown.convert("RGBA"))), remarks
        return np.asarray(shown.convert("RGB")), remarks


def shown_size_px(path: Path) -> tuple[int, int]:
    """(width, height) of a picture as it is shown; no pixel is decoded. Raises what the decoder raises."""
    from PIL import Image
    Image.MAX_IMAGE_PIXELS = None
    with Image.open(path) as picture:
        return picture.size[::-1] if picture.getexif().get(ORIENTATION, 1) in ON_ITS_SIDE else picture.size


def _narrow(pixels: np.ndarray) -> np.ndarray:
    """Pillow keeps 16 bits in words of 32: (h, w), as uint16 where every sample fits."""
    fits = pixels.dtype.kind == "i" and pixels.min() >= 0 and pixels.max() < 2**16
    return pixels.astype(np.uint16) if fits else pixels


def decode_by_libtiff(path: Path, page: int) -> np.ndarray:
    """One page of a TIFF as libtiff shows it: RGB on white, (h, w, 3) uint8."""
    import imagecodecs
    return on_white(imagecodecs.tiff_decode(path.read_bytes(), index=page, asrgb=True))


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The picture (h, w, 3) as it is shown by its orientation, 1 to 8."""
    exchange, flips = _TURNS.get(orientation, (False, ()))
    shown = pixels.swapaxes(0, 1) if exchange else pixels
    return np.ascontiguousarray(np.flip(shown, flips))


def turned_remark(orientation: int) -> list[str]:
    """[a remark] if this orientation turns a picture: its spots are in px of the picture as shown."""
    return [f"turned by its orientation tag ({orientation})"] if orientation in _TURNS else []


def _png_bits(path: Path) -> int:
    with open(path, "rb") as stream:
        head = stream.read(PNG_DEPTH_BYTE + 1)
    return head[PNG_DEPTH_BYTE] if head.startswith(PNG_MAGIC) and len(head) > PNG_DEPTH_BYTE else 0


def _png_of_16_bits(path: Path) -> np.ndarray:
    """The samples of a PNG of 16 bits, (h, w) or (h, w, s) uint16: Pillow keeps only 8 of them."""
    import imagecodecs
    return imagecodecs.png_decode(path.read_bytes())
