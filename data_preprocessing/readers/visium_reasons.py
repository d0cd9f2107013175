"""Why a Visium folder or file is not read: the errors of missing parts, and the reason for each file left over."""
import re
from pathlib import Path
from shlex import quote

from common.errors import DataError, LayerError
from data_preprocessing.packed import unpack_command
from data_preprocessing.readers.space_ranger import MEX_PART
from data_preprocessing.readers.visium_files import (
    DRAWN,
    HD_FOLDER,
    MATRIX_FOLDER,
    SPATIAL_FOLDER,
    Found,
    Section,
    is_hd,
    picture_suffix,
    sections_in,
    visible,
)
from data_preprocessing.readers.visium_images import full_resolution, fullres_size, picture_size

EXCEL = (".xlsx", ".xls", ".ods")
N_SHOWN = 8  # names that a message shows
ARCHIVE = re.compile(r".*\.(tar|tgz|zip|tar\.gz|tar\.bz2)", re.I)
OTHERS = (
    (re.compile(r".*molecule_info\.h5", re.I), "molecules of all spots; the feature-barcode matrix is read"),
    (re.compile(r".*probe_bc_matrix.*", re.I), "counts of probes; those of genes are read"),
    (re.compile(r".*feature_slice\.h5", re.I), "a file of Visium HD: convert it with --format visium_hd"))


def shown(folder: Path) -> str:
    """The names in a folder, as a message shows them."""
    names = [f"{path.name}/" if path.is_dir() else path.name for path in visible(folder)]
    return (", ".join(names[:N_SHOWN]) + (", …" if len(names) > N_SHOWN else "")) or "no file"


def nothing_found(raw: Path, hd: list[str]) -> DataError:
    """The error of a folder without a section of Visium."""
    expected = "filtered_feature_bc_matrix.h5 (or its MEX folder) and spatial/, in one folder or prefix a section"
    if hd:
        names = [raw.name if name == "." else name for name in hd]
        return DataError(raw, f"Visium HD in {', '.join(names)}", expected, "--format visium_hd")
    archives = [path.name for path in visible(raw) if ARCHIVE.fullmatch(path.name)]
    more = f", and {len(archives) - 1} more" if len(archives) > 1 else ""
    fix = f"unpack it first: {unpack_command(archives[0])}{more}" if archives else "correct --raw_path"
    return DataError(raw, "no section of Space Ranger", expected, fix)


def nested(entries: list[str]) -> dict[str, list[str]]:
    """{folder: its entries} where sections lie in several folders of several sections each; else {}."""
    blocks: dict[str, list[str]] = {}
    for entry in entries:
        folder, _, below = re.sub("#", "/#", entry, count=1).partition("/")
        blocks.setdefault(folder if below else "", []).append(entry)
    alone = all(len(found) == 1 for name, found in blocks.items() if name and name != ".")
    return {} if alone or len(blocks) == 1 else {name or ".": found for name, found in blocks.items()}


def no_counts(section: Section) -> LayerError:
    """The error of a section whose counts are not there."""
    packed = next((path for path in section.of("archive") if "matri" in path.name.lower()), None)
    if packed is not None:
        return _packed(section, packed)
    wanted = f"{section.prefix}_filtered_feature_bc_matrix.h5" if section.prefix else "filtered_feature_bc_matrix.h5"
    outs = section.folder / "outs"
    place = outs if outs.is_dir() else section.folder
    return LayerError(place / wanted, f"no file; there are {shown(place)}",
                      "the counts that Space Ranger wrote: the .h5, or its folder of matrix.mtx",
                      "copy it there, or make the section image-only: samples.<name>.images instead of raw")


def no_positions(section: Section) -> LayerError:
    """The error of a section whose spot positions are not there."""
    packed = next((path for path in section.of("archive") if "matri" not in path.name.lower()), None)
    if packed is not None:
        return _packed(section, packed)
    if section.prefix:
        there = ", ".join(one.path.name for one in section.found[:N_SHOWN])
        return LayerError(section.folder, f"no spot positions of {section.prefix}; there are {there}",
                          f"{section.prefix}_tissue_positions_list.csv (or .parquet, .txt, .gz)", "copy it there")
    places = [path for path in (section.folder / "outs/spatial", section.folder / "spatial") if path.is_dir()]
    place = places[0] if places else section.folder
    wanted = "one of tissue_positions.csv, tissue_positions.parquet, tissue_positions_list.csv"
    named = place if places else place / "spatial"
    tables = [path.name for path in visible(place) if path.suffix.lower() in EXCEL]
    packed = [path for path in visible(place) if re.fullmatch(r".*tissue_positions.*\.(zip|7z|rar)", path.name, re.I)]
    fix = f"save {tables[0]} as tissue_positions.csv" if tables else "copy it there"
    return LayerError(named, f"no spot positions; there are {shown(place)}", wanted,
                      unpack_command(packed[0], place) if packed else fix)


def _packed(section: Section, archive: Path) -> LayerError:
    """The error of a part of a section that is still packed."""
    return LayerError(archive, "a packed folder", "the folder itself", _unpack(section, archive))


def _unpack(section: Section, archive: Path) -> str:
    """The command that unpacks an archive to where the section's files are looked for."""
    if not section.prefix:
        return unpack_command(archive, archive.parent)
    folder = section.folder / section.prefix
    return f"mkdir -p {quote(str(folder))} && {unpack_command(archive, folder)}"


# what is left over -----------------------------------------------------------------------------------
def why_not(raw: Path, path: Path) -> str | None:
    """The reason why a file or folder under `raw` that looks like input is not read; None for no special reason."""
    if path.is_dir() and (HD_FOLDER.fullmatch(path.name) or is_hd(path)):
        return "Visium HD: convert it with --format visium_hd"
    if DRAWN.fullmatch(path.name):
        return "a picture made by Space Ranger or of the CytAssist, not the H&E image"
    for pattern, reason in OTHERS:
        if pattern.fullmatch(path.name):
            return reason
    for folder in reversed([one for one in path.parents if one == raw or raw in one.parents]):
        found = sections_in(folder)
        for section in found:
            mine = [one for one in section.found if one.path == path or path in one.path.parents]
            if mine and path != folder:
                return _of_section(section, mine[0])
        if len(found) > 1 and _is_part(path):
            return f"without a prefix; the sections here are {', '.join(one.prefix or '(no prefix)' for one in found)}"
    if ARCHIVE.fullmatch(path.name):
        return f"packed: {unpack_command(path.name)}"
    picture = path.is_file() and picture_suffix(path)
    return "in no section's folder; to use it, name it in samples.<name>.images" if picture else None


def _is_part(path: Path) -> bool:
    """True for what belongs to one section by its name."""
    return bool(picture_suffix(path) or MEX_PART.fullmatch(path.name) or SPATIAL_FOLDER.fullmatch(path.name)
                or MATRIX_FOLDER.fullmatch(path.name) or re.search(r"scalefactors|tissue_positions", path.name))


def _of_section(section: Section, found: Found) -> str | None:
    """The reason why a file that belongs to a section is not read."""
    if found.role in ("h5", "mex"):
        read = section.counts()
    elif found.role in ("hires", "lowres"):
        read = full_resolution(section) or next(iter(section.of("hires", "lowres")))
    elif found.role == "archive":
        read = section.counts() if "matri" in found.path.name.lower() else next(iter(section.of("positions")), None)
        return f"packed, and {read.name} of this section is read" if read else "packed: see the line of its section"
    elif found.role == "picture":
        return _of_picture(section, found.path)
    else:
        read = section.of(found.role)[0]
    return f"{read.name} of this section is read" if read != found.path else None


def _of_picture(section: Section, picture: Path) -> str | None:
    """The reason why a picture is not the section's image."""
    name = "to use it, name it in samples.<name>.images"
    if picture.suffix.lower() == ".gz":
        return f"packed: gunzip {picture.name}"
    used, size, expected = full_resolution(section), picture_size(picture), fullres_size(section)
    if used == picture:
        return None
    if used is not None:
        return f"{used.name} of this section is read"
    if not section.of("hires", "lowres"):
        return f"one of several pictures; {name}"
    if size is None or expected is None:
        return f"not known as the full-resolution image; {name}"
    return f"{size[0]} x {size[1]} px, and the full-resolution image has {expected[0]:.0f} x {expected[1]:.0f}; {name}"
