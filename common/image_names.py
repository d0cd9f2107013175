"""Names of image files: which suffixes are read, the stem of 's1.ome.tif', and what is not read, with the way out."""
from pathlib import Path

TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf8", ".tf2", ".qptiff")
IMAGE_SUFFIXES = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".dcm", *TIFF_SUFFIXES,
                  ".jpg", ".jpeg", ".png", ".jp2", ".j2k", ".jpx", ".bmp", ".webp")
PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".zip", ".zst")

_TO_OME = "export it as OME-TIFF: bfconvert -series 0 IN OUT.ome.tiff (Bio-Formats), or File > Export images in QuPath"
_TO_TIFF = "export it as TIFF, JPEG or PNG with the program that made it"
_UNREADABLE = {  # suffix: (what it is, the way out)
    ".czi": ("a Zeiss CZI file", _TO_OME), ".zvi": ("a Zeiss ZVI file", _TO_OME), ".lsm": ("a Zeiss LSM file", _TO_OME),
    ".vsi": ("an Olympus VSI file", _TO_OME), ".ets": ("the pixels of an Olympus VSI file", _TO_OME),
    ".oir": ("an Olympus OIR file", _TO_OME), ".oib": ("an Olympus OIB file", _TO_OME),
    ".oif": ("an Olympus OIF file", _TO_OME), ".lif": ("a Leica LIF file", _TO_OME),
    ".lof": ("a Leica LOF file", _TO_OME), ".xlef": ("a Leica project", _TO_OME), ".nd2": ("a Nikon ND2 file", _TO_OME),
    ".ims": ("an Imaris file", _TO_OME), ".dv": ("a DeltaVision file", _TO_OME), ".sld": ("a SlideBook file", _TO_OME),
    ".afi": ("a list of Aperio fluorescence slides", _TO_OME), ".fli": ("a FLIM file", _TO_OME),
    ".isyntax": ("a Philips iSyntax file", "export it as TIFF with the Philips software (OpenSlide reads that TIFF)"),
    ".i2syntax": ("a Philips iSyntax file", "export it as TIFF with the Philips software"),
    ".kfb": ("a KFBio file", "export it as SVS or TIFF with the scanner's program"),
    ".sdpc": ("a Sqray SDPC file", "export it as SVS or TIFF with the scanner's program"),
    ".tmap": ("a TMAP file", "export it as SVS or TIFF with the scanner's program"),
    ".mds": ("a Motic MDS file", "export it as SVS or TIFF with the scanner's program"),
    ".mdsx": ("a Motic MDSX file", "export it as SVS or TIFF with the scanner's program"),
    ".heic": ("a HEIC picture", _TO_TIFF), ".heif": ("a HEIC picture", _TO_TIFF),
    ".avif": ("an AVIF picture", _TO_TIFF),
    ".jxl": ("a JPEG XL picture", _TO_TIFF), ".jxr": ("a JPEG XR picture", _TO_TIFF),
    ".gif": ("a GIF picture of 256 colours", _TO_TIFF), ".psd": ("a Photoshop file", _TO_TIFF),
    ".psb": ("a Photoshop file", _TO_TIFF),
    ".ai": ("an Illustrator file", _TO_TIFF), ".xcf": ("a GIMP file", _TO_TIFF),
    ".pdf": ("a PDF file", _TO_TIFF), ".svg": ("a vector drawing", _TO_TIFF), ".eps": ("a vector drawing", _TO_TIFF),
    ".ppt": ("a presentation", _TO_TIFF), ".pptx": ("a presentation", _TO_TIFF)}


def image_suffix(name: str | Path) -> str:
    """The suffix as the file spells it, '.ome.tif' in one; '' if no image of this suffix is read."""
    name = Path(name).name
    own = Path(name).suffix
    if own.lower() not in IMAGE_SUFFIXES or name.startswith("."):
        return ""
    before = Path(name).with_suffix("").suffix
    return before + own if before.lower() == ".ome" and own.lower() in TIFF_SUFFIXES else own


def image_stem(name: str | Path) -> str:
    """The name without its suffix: 's1' of 's1.ome.tif'; of 's1.tif', 's1.JPG' and 's1' too."""
    name = Path(name).name
    return name.removesuffix(image_suffix(name))


def is_image_name(name: str | Path) -> bool:
    """True for a file name whose suffix is read, in small or capital letters; not for a hidden file."""
    return bool(image_suffix(name))


def why_no_image(name: str | Path) -> tuple[str, str] | None:
    """(what it is, the way out) of a file whose name is that of an image that is not read; None for all others.

    It looks at the name alone: 's1.czi', 's1.tif.gz'.
    """
    path = Path(name)
    suffix = path.suffix.lower()
    if suffix in PACKED_SUFFIXES and (is_image_name(path.stem) or why_no_image(path.stem)):
        unpack = {".gz": "gunzip", ".bz2": "bunzip2", ".xz": "unxz", ".zip": "unzip", ".zst": "unzstd"}[suffix]
        return f"a packed image ({suffix})", f"unpack it: {unpack} {path.name}"
    return _UNREADABLE.get(suffix)
