"""The um per px that an image file states: OpenSlide's mpp, OME-XML, ImageJ, the resolution of a TIFF, PNG or JPEG."""
from pathlib import Path

import numpy as np

from common.picture_faults import is_tiff
from common.tiff import chosen_picture

UM_OF_UNIT = {"µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0,  # two letters mu
              "nm": 1e-3, "pm": 1e-6, "Å": 1e-4, "mm": 1e3, "cm": 1e4, "m": 1e6, "in": 25400.0, "inch": 25400.0}
UM_OF_RESOLUTION_UNIT = {2: 25400.0, 3: 1e4, 4: 1e3, 5: 1.0}  # codes of TIFF: inch, cm, and mm, um
NO_UNIT = 1  # of TIFF: the resolution is a proportion
MAX_ANISOTROPY = 0.05  # pixels of other proportions are no scale of the image
GENERIC = "generic-tiff"  # OpenSlide's name of a tiled TIFF that no scanner made


def stated_pixel_size_um(path: Path) -> float | None:
    """The um per level-0 px in the metadata of an image file, plausible or not.

    None if they state none, or differ between x and y, or if the file cannot be opened: the step that reads its pixels
    reports this. No pixel is decoded.
    """
    try:
        sizes = _sizes(path)
    except Exception:  # every decoder raises its own
        return None
    if not sizes or not all(np.isfinite(size) and size > 0 for size in sizes):
        return None
    if max(sizes) > (1 + MAX_ANISOTROPY) * min(sizes):
        return None
    return float(sizes[0])


def _sizes(path: Path) -> list[float] | None:
    """[x, y] of the scanner's metadata, else of the TIFF's own, else of the picture's dots per inch."""
    vendor, sizes = _openslide_sizes(path)
    if sizes and vendor != GENERIC:
        return sizes
    if is_tiff(path):
        return _tiff_sizes(path) or sizes
    return None if vendor else _picture_sizes(path)


def _openslide_sizes(path: Path) -> tuple[str | None, list[float] | None]:
    """(vendor, [x, y]) as OpenSlide knows them; (None, None) for a file that it does not read."""
    import openslide
    own = str(path.resolve())  # a linked slide of several files lies beside the link's target
    vendor = openslide.OpenSlide.detect_format(own)
    if not vendor:
        return None, None
    with openslide.OpenSlide(own) as slide:
        stated = [slide.properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
    return vendor, [float(one) for one in stated if one] or None


def _tiff_sizes(path: Path) -> list[float] | None:
    """[x, y] of the OME-XML, of ImageJ's unit, or of the resolution tags of the picture that is read."""
    import tifffile
    with tifffile.TiffFile(path) as tiff:
        sizes = _ome_sizes(tifffile.xml2dict(tiff.ome_metadata)) if tiff.ome_metadata is not None else None
        if sizes is not None:
            return sizes
        tags = chosen_picture(tiff).levels[0][0].keyframe.tags
        unit = int(tags["ResolutionUnit"].value) if "ResolutionUnit" in tags else NO_UNIT
        um_per_unit = UM_OF_RESOLUTION_UNIT.get(unit)
        if tiff.is_imagej:
            named = str((tiff.imagej_metadata or {}).get("unit", "")).replace("\\u00B5", "µ")
            um_per_unit = UM_OF_UNIT.get(named, um_per_unit)
        if um_per_unit is None or "XResolution" not in tags:
            return None
        per_unit = [tags[f"{axis}Resolution"].value for axis in "XY" if f"{axis}Resolution" in tags]
        return [um_per_unit * denominator / numerator for numerator, denominator in per_unit if numerator]


def _ome_sizes(metadata: dict) -> list[float] | None:
    """[x, y] of the largest image in OME-XML; None if it states no size, or a unit that is not in UM_OF_UNIT."""
    images = metadata["OME"]["Image"]
    every = [one["Pixels"] for one in (images if isinstance(images, list | tuple) else [images])]
    pixels = max(every, key=_n_pixels)
    units = [pixels.get(f"PhysicalSize{axis}Unit", "µm") for axis in "XY"]
    if "PhysicalSizeX" not in pixels or not all(unit in UM_OF_UNIT for unit in units):
        return None
    sizes = zip([pixels.get(f"PhysicalSize{axis}") for axis in "XY"], units, strict=True)
    return [float(size) * UM_OF_UNIT[unit] for size, unit in sizes if size is not None]


def _n_pixels(pixels: dict) -> int:
    return int(pixels.get("SizeX", 0)) * int(pixels.get("SizeY", 0))


def _picture_sizes(path: Path) -> list[float] | None:
    """[x, y] of the dots per inch of a PNG, JPEG or JPEG 2000 file."""
    from PIL import Image
    Image.MAX_IMAGE_PIXELS = None
    with Image.open(path) as picture:
        return [25400.0 / float(one) for one in picture.info.get("dpi", ()) if one > 0]
