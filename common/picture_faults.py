"""What a file that should be an image is instead: empty, a git-lfs pointer, a web page, cut off, a form not read."""
import logging
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from common.colours import NotColours
from common.errors import LayerError
from common.image_names import IMAGE_SUFFIXES, why_no_image

T = TypeVar("T")
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
JPEG_2000 = (".jp2", ".j2k", ".jpx")
SNIFFED_BYTES = 1024
TAIL_BYTES = 2**20
NEEDED_TAGS = (270, 273, 279, 320, 324, 325, 330)  # of TIFF: description, strips, palette, tiles, sub-directories
BYTES_OF_TYPE = {2: 1, 3: 2, 4: 4, 13: 4, 16: 8, 18: 8}
UNCOMPRESSED = 1  # Compression of TIFF
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # a broken file is one error of ours
_PACKED = {b"\x1f\x8b": ("gzip", "gunzip"), b"PK\x03\x04": ("zip", "unzip"), b"BZh": ("bzip2", "bunzip2"),
           b"\xfd7zXZ": ("xz", "unxz"), b"\x28\xb5\x2f\xfd": ("zstd", "unzstd")}
_ENDS = {b"\x89PNG": b"IEND", b"\xff\xd8\xff": b"\xff\xd9", b"\xff\x4f\xff\x51": b"\xff\xd9",
         b"\0\0\0\x0cjP": b"\xff\xd9"}  # start: end of PNG, JPEG, JPEG 2000


def is_tiff(path: Path) -> bool:
    """True by its first bytes."""
    with open(path, "rb") as stream:
        return stream.read(4) in TIFF_MAGIC


def require_image_file(path: Path) -> None:
    """Raise LayerError for a file that cannot be an image, by its name and its first bytes. No pixel is decoded."""
    if path.is_dir():
        raise LayerError(path, "a folder", "an image file (of a DICOM slide: one of its .dcm files)", "name the file")
    if not path.is_file():
        found = "a link to nothing" if path.is_symlink() else "no image"
        raise LayerError(path, found, "a slide or picture", "put imgs/<sample>/<layer>.<ext> there")
    own = path.resolve()
    refused = why_no_image(own)
    if refused:
        raise LayerError(path, f"{refused[0]}, which is not read", f"one of {' '.join(IMAGE_SUFFIXES)}", refused[1])
    if own.suffix.lower() == ".mrxs":
        _require_mrxs(path, own)
        return
    with open(own, "rb") as stream:
        start = stream.read(SNIFFED_BYTES)
    found, fix = what_else(start, own)
    if found:
        raise LayerError(path, found, "an image", fix)


def _require_mrxs(path: Path, own: Path) -> None:
    """Raise LayerError for a .mrxs without the folder that holds its pixels."""
    folder = own.with_suffix("")
    if not (folder / "Slidedat.ini").is_file():
        there = "without Slidedat.ini" if folder.is_dir() else "missing"
        raise LayerError(path, f"a .mrxs whose folder {folder.name}/ is {there}", f"its pixels in {folder}/",
                         "copy the folder there; the .mrxs alone holds none")
    if own.suffix != ".mrxs":
        raise LayerError(path, f"the suffix {own.suffix}", ".mrxs in small letters, as OpenSlide wants it",
                         f"rename it to {own.stem}.mrxs")


def what_else(start: bytes, path: Path) -> tuple[str, str]:
    """(what a file is that begins like this, the fix); ('', '') for one that may be an image or another binary file."""
    if not start:
        return "an empty file", "copy or download it again"
    if not start.strip(b"\0"):
        return "a file of zeros", "copy or download it again: the transfer broke off"
    if start.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the file", "git lfs pull"
    if start.startswith(b"/annex/objects/") or start.startswith(b"../.git/annex"):
        return "a git-annex pointer, not the file", "git annex get, or datalad get"
    for magic, (name, tool) in _PACKED.items():
        if start.startswith(magic):
            return f"a packed file ({name})", f"unpack it: {tool} {path.name}"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return "a web page (HTML), not the file", "download the file itself: the link leads to a page or a log-in"
    if text.startswith(b"<?xml") and b"<error>" in text:
        return "the error message of a server (XML), not the image", "download it again"
    return "", ""


def _start_of_text(path: Path) -> str:
    """The first words of a file of printable ASCII, else ''."""
    with open(path, "rb") as stream:
        start = stream.read(SNIFFED_BYTES)
    is_text = all(32 <= one < 127 or one in b"\t\r\n" for one in start)
    return " ".join(start[:40].decode().split()) if is_text else ""


def unreadable(path: Path, error: Exception) -> LayerError:
    """The error of an image that a decoder refused: cut off, a part missing, no colours, or broken otherwise."""
    own, text = path.resolve(), " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, NotColours):
        return LayerError(path, text, "an H&E picture in colours", "export it as RGB of 8 bits, or take the H&E scan")
    if "No such file" in text and str(own) not in text.rpartition("No such file")[0].rpartition(":")[0]:
        return LayerError(path, f"a slide of several files, one of which is missing ({text})", "all of its files",
                          "copy the whole slide again, with its folder")
    words = _start_of_text(own)
    if words:
        return LayerError(path, f"a text file, an image that cannot be read (it begins {words!r})", "an image",
                          "copy or download it again")
    if ends_early(own):
        return LayerError(path, f"a file that ends early, an image that cannot be read ({text})", "the whole file",
                          "copy or download it again")
    return LayerError(path, f"an image that cannot be read ({text})", "a complete image file",
                      "copy or export it again")


def guarded(path: Path, opened: Callable[[], T]) -> T:
    """opened(); whatever a decoder raises is one LayerError."""
    try:
        return opened()
    except LayerError:
        raise
    except Exception as error:  # every decoder raises its own
        raise unreadable(path, error) from None


def require_whole(path: Path) -> None:
    """Raise LayerError for a TIFF or JPEG 2000 whose pixels lie partly beyond its end, before any of them is read.

    The decoders of the other forms report it; those of JPEG 2000 return what is there.
    """
    if (is_tiff(path) or path.suffix.lower() in JPEG_2000) and ends_early(path):
        raise LayerError(path, f"a file that ends early ({path.stat().st_size:,} bytes), "
                         "an image that cannot be read", "the whole file", "copy or download it again")


def ends_early(path: Path) -> bool:
    """True if the file lacks its end: the data of a TIFF, the last marker of a JPEG, PNG or JPEG 2000."""
    size = path.stat().st_size
    if is_tiff(path):
        return _tiff_needs(path, size) > size
    with open(path, "rb") as stream:
        start = stream.read(SNIFFED_BYTES)
        stream.seek(max(0, size - TAIL_BYTES))
        tail = stream.read()
    return any(start.startswith(magic) and end not in tail for magic, end in _ENDS.items())


def _tiff_needs(path: Path, size: int) -> int:
    """The bytes of a TIFF that its directories, and the strips and tiles that these name, reach to."""
    import tifffile
    needed = 0 if path.suffix.lower() == ".ndpi" else _directories_reach(path, size)  # .ndpi has longer pointers
    if needed > size:
        return needed
    try:
        with tifffile.TiffFile(path) as tiff:
            for page in tiff.pages:
                for one in (page, *(getattr(page, "pages", None) or ())):
                    needed = max([needed, *_segment_ends(one)])
    except (struct.error, tifffile.TiffFileError, ValueError, IndexError, EOFError):
        return needed  # broken otherwise
    return needed


def _segment_ends(page) -> list[int]:
    """The last byte of every strip or tile of a page."""
    offsets, counts = page.dataoffsets, page.databytecounts
    if page.keyframe.compression == UNCOMPRESSED and len(offsets) == 1:
        counts = [min(counts[0], page.keyframe.nbytes)]  # some writers state more
    return [start + count for start, count in zip(offsets, counts, strict=False) if count]


def _directories_reach(path: Path, size: int) -> int:
    """The last byte of the chain of directories of a TIFF and of the tags of NEEDED_TAGS.

    tifffile reads a chain, or a description, that is cut off without an error.
    """
    with open(path, "rb") as stream:
        head = stream.read(16)
        order, big = "<" if head[:2] == b"II" else ">", head[2:4] in (b"+\0", b"\0+")
        number, entry, pointer = ("Q", "HHQQ", "Q") if big else ("H", "HHII", "I")
        at, reach, seen = 8 if big else 4, len(head) if big else 8, set()
        try:
            at = struct.unpack_from(order + pointer, head, at)[0]
            while at and at not in seen:
                seen.add(at)
                stream.seek(at)
                n_tags = struct.unpack(order + number, stream.read(struct.calcsize(number)))[0]
                table = stream.read(n_tags * struct.calcsize(order + entry))
                at = struct.unpack(order + pointer, stream.read(struct.calcsize(pointer)))[0]
                reach = max(reach, stream.tell())
                for tag, kind, count, value in struct.iter_unpack(order + entry, table):
                    n_bytes = BYTES_OF_TYPE.get(kind, 0) * count
                    if tag in NEEDED_TAGS and n_bytes > struct.calcsize(pointer):
                        reach = max(reach, value + n_bytes)
        except (struct.error, OverflowError, OSError):
            return size + 1
    return reach
