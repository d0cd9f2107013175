"""How step 0_1 brings an image, with all that belongs to it, to imgs/<sample>/: linked, or copied.

A slide of several files is one entry of imgs/. What it needs beside its own file:

    .mrxs           the folder of its name
    .vms, .vmu      the files that it names, in its folder
    .dcm            the other .dcm files of its folder: OpenSlide takes those of the same series

A link is opened at its target, so it needs nothing more. A copy of a .mrxs has its folder beside it. A copy of the
others is the folder imgs/<sample>/<layer>.files/ with all files under their own names, and a link to the one to open.

The tissue of an image, drawn or computed elsewhere (GeoJSON: QuPath, TRIDENT, HEST), becomes
imgs/<sample>/<layer>.geojson. It is looked for under the names of OUTLINE_ENDS, beside the image and in OUTLINE_FOLDERS
beside it or beside its folder.
"""
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from common.errors import LayerError
from common.image_names import image_stem, image_suffix, is_image_name
from common.io import write_picture
from common.layout import Layout
from common.names import visible
from common.picture_faults import require_image_file, require_whole
from common.written import Written, content
from data_preprocessing.packed import is_packed_picture, unpack

OUTLINE_ENDS = ("", "_contours", "_tissue_contours", "_tissue", ".contours", ".tissue")
OUTLINE_FOLDERS = ("tissue_seg", "contours_geojson", "trident_processed/contours_geojson")
NAMED_FILE = re.compile(rb"^(ImageFile|MapFile|OptimisationFile|MacroImage)[^=\r\n]*=[ \t]*([^\r\n]+?)\s*$", re.M)
OPTIONAL = b"OptimisationFile"  # OpenSlide opens the slide without it


# what belongs to an image ------------------------------------------------------------------------------
def companions(image: Path) -> list[Path]:
    """The other files, or the folder, that a slide of several files needs to be opened; sorted. They may be missing."""
    suffix, folder = image_suffix(image).lower(), image.parent
    if suffix == ".mrxs":
        return [image.with_suffix("")]
    if suffix in (".vms", ".vmu"):
        named = {folder / Path(name.decode(errors="replace")).name: key
                 for key, name in NAMED_FILE.findall(image.read_bytes())}
        return sorted(path for path, key in named.items() if key != OPTIONAL or path.is_file())
    if suffix == ".dcm":
        return [path for path in visible(folder) if path.suffix.lower() == ".dcm" and path != image]
    return []


def outline_of(image: Path) -> Path | None:
    """The GeoJSON of this image's tissue, or None. Raises LayerError for several."""
    if not is_image_name(image):  # stored inside another file: beside it lie the outlines of the full image
        return None
    stem, ome = image_stem(image), image.name.removesuffix(image.suffix)  # 's1', and 's1.ome' of s1.ome.tif
    names = {f"{name}.geojson".lower() for name in (image.name, ome, *(stem + end for end in OUTLINE_ENDS))}
    around = (image.parent, image.parent.parent)
    folders = [image.parent, *(one / name for one in around for name in OUTLINE_FOLDERS)]
    found = []
    for folder in folders:
        found += [path for path in visible(folder) if path.name.lower() in names and path.is_file()]
    if len(found) > 1:
        raise LayerError(image, f"{len(found)} outlines of its tissue: {', '.join(map(str, found))}", "one GeoJSON",
                         "move the others away")
    return found[0] if found else None


def goes_with(image: Path) -> list[Path]:
    """Every file and folder that is taken together with an image: its companions and its outline.

    Raises as outline_of.
    """
    outline = outline_of(image)
    return [*companions(image), *([outline] if outline else [])]


def name_under_root(source: Path, stored: str) -> str:
    """The suffix of an image under the root: '.tif' for 's1.ome.TIF'; `stored` for pixels inside another file."""
    return image_suffix(source).lower().removeprefix(".ome") or stored


# placing -----------------------------------------------------------------------------------------------
def bring_image(image: Path | np.ndarray | Callable[[Path], None], target: Path, copy: bool, written: Written) -> None:
    """Bring an image to `target`: a file by link or copy, a packed one unpacked, pixels (h, w, 3) uint8 as PNG.

    A function writes the image to the path that it is given. Raises as place_image and unpack.
    """
    if callable(image):
        with written.writing(target) as temporary:
            image(temporary)
    elif not isinstance(image, Path):
        with written.writing(target) as temporary:
            write_picture(temporary, image)
    elif is_packed_picture(image):
        with written.writing(target) as temporary:
            unpack(image, temporary)
    else:
        place_image(image, target, copy, written)


def place_image(source: Path, target: Path, copy: bool, written: Written) -> None:
    """Copy or link the image unchanged; our older file or link of that name is replaced, a person's is set aside.

    Raises LayerError for a file that is no image, or that lacks a part. No pixel is decoded.
    """
    require_image_file(source)
    require_whole(source)
    beside = companions(source.resolve())
    missing = [path.name for path in beside if not path.exists()]
    if missing:
        raise LayerError(source, f"a slide without {', '.join(missing)}", "all of its files in one folder",
                         "copy the whole slide again")
    if not copy:
        link_file(source, target, written)
    elif not beside:
        copy_file(source, target, written)
    elif image_suffix(source).lower() == ".mrxs":
        shutil.copytree(beside[0], target.with_suffix(""), dirs_exist_ok=True)
        copy_file(source, target, written)
    else:
        folder = target.with_suffix(".files")
        for path in (*beside, source.resolve()):
            copy_file(path, folder / path.name, written)
        _link(Path(folder.name) / source.resolve().name, target, written)


def place_outline(source: Path | None, target: Path, copy: bool, written: Written) -> None:
    """Bring the outline of the tissue to the root. Without a source, one that an earlier run brought is removed."""
    if source is None:
        if written.is_ours(target):
            written.remove([target])
    elif copy:
        copy_file(source, target, written)
    else:
        link_file(source, target, written)


def copy_file(source: Path, target: Path, written: Written) -> None:
    """Copy a file; our older one of that name is replaced, a person's is set aside."""
    with written.writing(target) as temporary:
        shutil.copyfile(source, temporary)


def link_file(source: Path, target: Path, written: Written) -> None:
    """Link a file by its absolute path; our older one of that name is replaced, a person's is set aside."""
    _link(source.resolve(), target, written)


def _link(to: Path, target: Path, written: Written) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    link = target.with_name(f".{target.name}.{os.getpid()}")
    link.unlink(missing_ok=True)
    link.symlink_to(to)
    written.take_place(target, content(link))
    os.replace(link, target)


def make_the_only_image(layout: Layout, sample: str, layer: int, image: Path, written: Written) -> None:
    """Remove earlier images of this layer; a person's link is set aside. Raises LayerError for a person's file."""
    for other in layout.images(sample, layer):
        if other != image:
            if not other.is_symlink() and not written.is_ours(other):
                raise LayerError(other, f"another image than {image.name}", "one image a section",
                                 "remove the one that is not this section's")
            written.remove([other])
