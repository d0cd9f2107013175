"""One picture, smooth in colour, saved in every form that labs bring."""
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, ImageCms

HEIGHT, WIDTH = 150, 203
TILES = {"tile": (64, 64), "metadata": None}


def picture() -> np.ndarray:
    """Smooth colours, brighter to the right as glass is: (h, w, 3) uint8."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    blue = 140 + 60 * np.sin(x / 60) * np.cos(y / 50)
    return np.stack([x * 200 / WIDTH + 50, y * 200 / HEIGHT + 40, blue], axis=-1).astype(np.uint8)


def grey() -> np.ndarray:
    """The same in grey: (h, w) uint8."""
    return picture()[..., 1]


def palette() -> tuple[np.ndarray, np.ndarray]:
    """(indices (h, w) uint8, their colours (256, 3) uint8)."""
    indexed = Image.fromarray(picture()).quantize(256)
    return np.asarray(indexed), np.array(indexed.getpalette(), np.uint8).reshape(256, 3)


def colour_tiffs() -> dict[str, tuple[np.ndarray, dict]]:
    """{name: (samples, options of tifffile)} of the picture itself."""
    rgb = picture()
    planes, wide = rgb.transpose(2, 0, 1), rgb.astype(np.uint16)
    inks = np.dstack([255 - rgb, np.zeros_like(grey())])
    alpha = np.full_like(grey(), 255)
    return {
        "rgb": (rgb, {"photometric": "rgb"}),
        "planar": (planes, {"photometric": "rgb", "planarconfig": "separate"}),
        "planes": (planes, {"photometric": "minisblack", "metadata": {"axes": "CYX"}}),
        "planes_tiled": (planes, {"photometric": "minisblack", "metadata": {"axes": "CYX"}, "tile": (64, 64)}),
        "samples": (rgb, {"photometric": "minisblack", "planarconfig": "contig"}),
        "cmyk": (inks, {"photometric": "separated"}),
        "rgba": (np.dstack([rgb, alpha]), {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
        "rgb_and_another": (np.dstack([rgb, 0 * alpha]), {"photometric": "rgb", "extrasamples": ["unspecified"]}),
        "of_16_bit": (wide * 257, {"photometric": "rgb"}),
        "of_16_bit_planar": (planes.astype(np.uint16) * 257, {"photometric": "rgb", "planarconfig": "separate"}),
        "of_16_bit_big_endian": (wide * 257, {"photometric": "rgb", "byteorder": ">"}),
        "of_12_bit_in_16": (wide * 16, {"photometric": "rgb"}),
        "of_10_bit_in_16": (wide * 4, {"photometric": "rgb"}),
        "of_8_bit_in_16": (wide, {"photometric": "rgb"}),
        "stated_white": (wide * 40, {"photometric": "rgb", "extratags": [(341, 3, 3, (10200,) * 3, True)]}),
        "of_floats": ((rgb / 255).astype(np.float32), {"photometric": "rgb"}),
        "of_floats_to_255": (rgb.astype(np.float32), {"photometric": "rgb"}),
        "lzw": (rgb, {"photometric": "rgb", "compression": "lzw", "predictor": True, "rowsperstrip": 17}),
        "one_strip": (rgb, {"photometric": "rgb", "compression": "deflate", "rowsperstrip": HEIGHT}),
        "jpeg": (rgb, {"photometric": "rgb", "compression": "jpeg", "compressionargs": {"level": 97}}),
        "jpeg2000": (rgb, {"photometric": "rgb", "compression": "jpeg2000"}),
        "big": (rgb, {"photometric": "rgb", "bigtiff": True})}


def grey_tiffs() -> dict[str, tuple[np.ndarray, dict]]:
    """{name: (samples, options of tifffile)} of the picture in grey."""
    return {
        "black_is_zero": (grey(), {"photometric": "minisblack"}),
        "white_is_zero": (255 - grey(), {"photometric": "miniswhite"}),
        "white_is_zero_of_16_bit": (65535 - grey().astype(np.uint16) * 257, {"photometric": "miniswhite"}),
        "grey_of_16_bit": (grey().astype(np.uint16) * 257, {"photometric": "minisblack"}),
        "grey_of_12_bit": (grey().astype(np.uint16) * 16, {"photometric": "minisblack"})}


def write_tiff(path: Path, samples: np.ndarray, options: dict, tiled: bool) -> Path:
    """Save samples in strips or in tiles."""
    layout = {"tile": (64, 64)} if tiled and "rowsperstrip" not in options else {}
    tifffile.imwrite(path, samples, **({"metadata": None} | options | layout))
    return path


def write_palette(path: Path, tiled: bool, eight_bit: bool = False) -> np.ndarray:
    """Save the picture with a palette; returns its colours (h, w, 3) uint8. eight_bit: as some programs write it."""
    indices, colours = palette()
    colormap = colours.T.astype(np.uint16) * (1 if eight_bit else 257)  # (3, 256)
    write_tiff(path, indices, {"photometric": "palette", "colormap": colormap}, tiled)
    return colours[indices]


def write_lab(path: Path) -> None:
    """Save the picture as CIE L*a*b*."""
    rgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    ImageCms.profileToProfile(Image.fromarray(picture()), rgb, lab, outputMode="LAB").save(path)


def write_subsampled_ycbcr(path: Path) -> None:
    """Save the picture as luma and chroma of half the size, without compression: libtiff alone reads this."""
    import struct
    rgb = picture()[:HEIGHT, :WIDTH // 2 * 2]
    luma, blue, red = np.moveaxis(np.asarray(Image.fromarray(rgb).convert("YCbCr")), 2, 0)
    units = []
    for row in range(0, rgb.shape[0], 2):
        for column in range(0, rgb.shape[1], 2):
            here = np.s_[row:row + 2, column:column + 2]
            units += [*luma[here].ravel().tolist(), round(blue[here].mean()), round(red[here].mean())]
    tags = [(256, 4, 1, rgb.shape[1]), (257, 4, 1, rgb.shape[0]), (258, 3, 3, 0), (259, 3, 1, 1), (262, 3, 1, 6),
            (273, 4, 1, 0), (277, 3, 1, 3), (278, 4, 1, rgb.shape[0]), (279, 4, 1, len(units)), (284, 3, 1, 1),
            (530, 3, 2, 2 | 2 << 16)]
    bits_at = 8 + 2 + 12 * len(tags) + 4
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    for tag, kind, number, value in tags:
        head += struct.pack("<HHII", tag, kind, number, {258: bits_at, 273: bits_at + 6}.get(tag, value))
    path.write_bytes(head + struct.pack("<IHHH", 0, 8, 8, 8) + bytes(units))


def write_png16(path: Path, samples: np.ndarray) -> None:
    """Save uint16 samples (h, w) or (h, w, s) as a PNG of 16 bits."""
    path.write_bytes(imagecodecs.png_encode(samples.astype(np.uint16)))
