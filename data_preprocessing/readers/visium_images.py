"""The image of a Visium section: which one is used, its scale, and spots outside it."""
from pathlib import Path

import numpy as np
import pandas as pd

from common.errors import LayerError
from common.image_names import IMAGE_SUFFIXES
from common.slide import open_pyramid
from data_preprocessing.readers.space_ranger import read_scale_factors, unpacked
from data_preprocessing.readers.visium_files import ROLES, Section

SCALED = ("hires", "lowres")
SIZE_TOLERANCE = 0.005  # of the side of an image, beside the rounding of the scaled one


def scaled_kind(image: Path) -> str | None:
    """'hires' or 'lowres' by the name of the image; None for another one."""
    return next((role for role, pattern in ROLES if role in SCALED and pattern.fullmatch(image.name)), None)


def px_per_fullres_px(files: dict[str, Path]) -> float:
    """Scale of the image that is used: 1 for the full-resolution one. Raises LayerError if the file lacks it."""
    image = files.get("image")
    if image is None or scaled_kind(image) is None:
        return 1.0
    return stated_scale(image, files.get("scalefactors", files["location"].parent / "scalefactors_json.json"))


def stated_scale(image: Path, path: Path) -> float:
    """Scale of a hires or lowres image by the scale factors in `path`. Raises LayerError if they do not state it."""
    key = f"tissue_{scaled_kind(image)}_scalef"
    factors = read_scale_factors(path)
    if key not in factors:
        there = f" (it has {', '.join(factors)})" if factors else ""
        raise LayerError(path, f"no {key}{there}", f"the scale of {image.name}",
                         "copy the file of Space Ranger, or name the full-resolution image")
    factor = factors[key]
    if not (np.isfinite(factor) and factor > 0):
        raise LayerError(path, f"{key} {factor:g}", f"a number above 0, the scale of {image.name}",
                         "copy the file of Space Ranger, or name the full-resolution image")
    return factor


def picture_size(path: Path) -> tuple[int, int] | None:
    """(width, height) of an image, px; no pixel is decoded. None if it cannot be opened: a later step reports it."""
    from PIL import Image
    Image.MAX_IMAGE_PIXELS = None
    try:
        with unpacked(path) as stream, Image.open(stream) as picture:
            return picture.size
    except Exception:  # every decoder raises its own
        try:
            slide = open_pyramid(path)
        except LayerError:
            return None
        return slide.size_px if slide else None


def outside(location: pd.DataFrame, size: tuple[int, int]) -> np.ndarray:
    """True for a spot whose centre is not on the image: (n_spots,) bool. size: (width, height), px."""
    xy = location[["pixel_x", "pixel_y"]].to_numpy()
    return ((xy < 0) | (xy >= np.array(size))).any(axis=1)


def fullres_size(section: Section) -> tuple[float, float] | None:
    """(width, height) of the full-resolution image by hires (or lowres) and its scale, px; None if not stated."""
    factors = {}
    for path in section.of("scalefactors")[:1]:
        factors = read_scale_factors(path)
    for image in section.of(*SCALED):
        factor, size = factors.get(f"tissue_{scaled_kind(image)}_scalef", 0.0), picture_size(image)
        if size and factor > 0:
            return size[0] / factor, size[1] / factor
    return None


def is_full_resolution(picture: Path, section: Section) -> bool:
    """True if the size of the picture is that of the full-resolution image."""
    expected, size = fullres_size(section), picture_size(picture)
    if expected is None or size is None:
        return False
    hires = next(iter(section.of(*SCALED)))
    rounding = expected[0] / picture_size(hires)[0]  # full-resolution px of one px of the scaled image
    return all(abs(one - other) <= rounding + SIZE_TOLERANCE * other
               for one, other in zip(size, expected, strict=True))


def full_resolution(section: Section) -> Path | None:
    """The full-resolution image among the pictures of a section, or None.

    Its size proves it. Where no scaled image is there to compare, the only picture is taken.
    """
    pictures = [path for path in section.of("picture") if path.suffix.lower() in IMAGE_SUFFIXES]  # not packed
    if not section.of(*SCALED):
        return pictures[0] if len(pictures) == 1 else None
    proven = [path for path in pictures if is_full_resolution(path, section)]
    return proven[0] if len(proven) == 1 else None
