"""Which files belong to which Visium section: a folder a section, or several sections in one folder by their prefix.

A file is known by the end of its name, with or without a prefix (GSM6001_A_, 151507_, V1_Human_Lymph_Node_) and .gz.
The files of a section lie in its folder, in outs/, in spatial/, or in a folder of the section's prefix. An entry of
samples.<name>.raw is the folder, or `<folder>#<prefix>` where a folder has several prefixes.
"""
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from common.image_names import IMAGE_SUFFIXES
from data_preprocessing.readers import in_reading_order, path_and_part, visible
from data_preprocessing.readers.space_ranger import MEX_PART

SEPARATORS = "_. -"  # between a prefix and the name of Space Ranger
_MATRIX = r"(?P<kind>filtered|raw)_(?:(?:feature|gene)_bc_)?matri(?:x|ces)(?:_mex|_h5)?"
ROLES = tuple((role, re.compile(rf"(?P<prefix>.*?[{SEPARATORS}])??{pattern}(\.gz)?", re.I)) for role, pattern in (
    ("positions", r"tissue_positions(?P<list>_list)?\.(?:csv|txt|tsv|parquet)"),
    ("scalefactors", r"scalefactors(?:_json)?\.json"),
    ("hires", r"(?:tissue_)?hires(?:_image)?\.(?:png|jpe?g|tiff?)"),
    ("lowres", r"(?:tissue_)?lowres(?:_image)?\.(?:png|jpe?g|tiff?)"),
    ("h5", rf"{_MATRIX}\.h5"),
    ("archive", rf"(?:spatial|outs|{_MATRIX})\.(?:tar|tgz|tar\.gz|zip)")))
MATRIX_FOLDER = re.compile(rf"(?P<prefix>.*[{SEPARATORS}])?{_MATRIX}", re.I)
SPATIAL_FOLDER = re.compile(rf"(?P<prefix>.*[{SEPARATORS}])?spatial", re.I)
HD_FOLDER = re.compile(rf"(?:.*[{SEPARATORS}])?(?:binned_outputs|segmented_outputs|square_\d+um)", re.I)
DRAWN = re.compile(rf"(?:.*[{SEPARATORS}])?(?:cytassist_image|detected_tissue_image|aligned_fiducials|"
                   r"aligned_tissue_image|tissue_fluorescence\w*|spatial_enrichment|registered_\w+|barcode_\w+)"
                   r"\.\w+(\.gz)?", re.I)
PICTURE_SUFFIXES = IMAGE_SUFFIXES
FILTERED, RAW = "filtered", "raw"
MAX_DEPTH = 4  # folders below --raw_path that are searched


@dataclass(frozen=True)
class Found:
    """One file or folder of a section."""
    role: str    # positions, scalefactors, hires, lowres, h5, mex, archive, picture
    prefix: str  # '' for none
    path: Path   # of mex: the matrix.mtx
    rank: tuple  # the lowest of a role is read


@dataclass(frozen=True)
class Section:
    """The files of one section. prefix: '' unless its folder holds several sections."""
    folder: Path
    prefix: str
    found: tuple[Found, ...]

    def of(self, *roles: str) -> list[Path]:
        """The paths of these roles, in the order of the roles, then of preference."""
        mine = [one for one in self.found if one.role in roles]
        return [one.path for one in sorted(mine, key=lambda one: (roles.index(one.role), one.rank, str(one.path)))]

    def counts(self) -> Path | None:
        """The counts that are read: filtered before raw, HDF5 before MEX."""
        mine = [one for one in self.found if one.role in ("h5", "mex")]
        return min(mine, key=lambda one: (one.rank[0], one.role, one.rank, str(one.path))).path if mine else None

    def is_raw(self, path: Path) -> bool:
        """True for a matrix of all spots, on and off the tissue."""
        return any(one.path == path and one.rank[0] == 1 for one in self.found)


def bare(prefix: str | None) -> str:
    """A prefix without the separators at its end."""
    return (prefix or "").rstrip(SEPARATORS)


def is_hd(folder: Path) -> bool:
    """True for a folder of Visium HD, of one of its bin sizes, or of all of them."""
    inside = [path for path in (*visible(folder), *visible(folder / "outs")) if path.is_dir()]
    return any(HD_FOLDER.fullmatch(path.name) for path in (folder, *inside))


# one folder ------------------------------------------------------------------------------------------
def sections_in(folder: Path) -> list[Section]:
    """The sections whose files lie in this folder, in natural order of their prefixes."""
    groups: dict[str, list[Found]] = {}
    for one in _scan(folder):
        groups.setdefault(one.prefix, []).append(one)
    named = [prefix for prefix in groups if prefix]
    for prefix in named:  # files of the prefix that were unpacked into a folder of its name
        inside = folder / prefix
        if inside.is_dir() and not _complete(groups[prefix]):
            groups[prefix] += [Found(one.role, prefix, one.path, one.rank) for one in _scan(inside)]
    _join(groups)
    named = in_reading_order([prefix for prefix in groups if prefix and _is_section(groups[prefix])])
    plain = list(chain.from_iterable(found for prefix, found in groups.items() if prefix not in named))
    two = named and _complete(groups[named[0]]) and _complete(groups.get("", ()))  # one of them without a prefix
    if len(named) < 2 and not two:
        whole = (*plain, *chain.from_iterable(groups[prefix] for prefix in named))
        return [Section(folder, "", whole)] if _is_section(whole) else []
    for one in plain:  # a picture, or a part whose own prefix goes on after that of its section
        fitting = [name for name in named if (one.prefix or one.path.name).startswith(name)]
        if fitting and (one.prefix or one.role == "picture"):
            groups[max(fitting, key=len)].append(one)
    sections = [Section(folder, prefix, tuple(groups[prefix])) for prefix in named]
    own = tuple(one for one in plain if not one.prefix)
    return ([Section(folder, "", own)] if _complete(own) else []) + sections


def _is_section(found) -> bool:
    """True for a part that only a section has. A lone hires image counts in spatial/: elsewhere it is a picture."""
    return any(one.role in ("positions", "scalefactors", "h5", "mex", "archive")
               or one.role in ("hires", "lowres") and SPATIAL_FOLDER.fullmatch(one.path.parent.name) for one in found)


def _complete(found) -> bool:
    roles = {one.role for one in found}
    return "positions" in roles and bool(roles & {"h5", "mex"})


def _join(groups: dict[str, list[Found]]) -> None:
    """Join two prefixes of one section, of which one has the counts and the other the positions.

    They are equal without a GEO number, or one ends in the other. Barcodes of Visium are the same on every slide, so
    that other names are never joined.
    """
    def lacks(prefix: str, *roles: str) -> bool:
        return not any(one.role in roles for one in groups[prefix])

    def alike(one: str, other: str) -> bool:
        one, other = (re.sub(r"^GS[EM]\d+[_.-]?", "", name) for name in (one, other))
        ends = any(long.endswith(short) and long[-len(short) - 1] in SEPARATORS
                   for long, short in ((one, other), (other, one)) if short and len(long) > len(short))
        return one == other or ends

    for counts in sorted(groups):
        if not counts or lacks(counts, "h5", "mex") or not lacks(counts, "positions"):
            continue
        partners = [name for name in sorted(groups) if name not in ("", counts) and alike(name, counts)
                    and lacks(name, "h5", "mex") and not lacks(name, "positions")]
        if len(partners) == 1:
            groups[counts] += groups.pop(partners[0])


def _scan(folder: Path) -> Iterator[Found]:
    """Every known file of a section's folder, outs/ and spatial/."""
    for rank, place in enumerate((folder / "outs", folder)):
        pictures = []
        for path in visible(place):
            if path.is_dir():
                yield from _scan_part(path, rank)
            elif (found := _known(path, rank)) is not None:
                yield found
            elif picture_suffix(path) and not DRAWN.fullmatch(path.name):
                pictures.append(path)
        yield from (Found("picture", "", path, (rank,)) for path in pictures)


def _scan_part(folder: Path, rank: int) -> Iterator[Found]:
    """The known files of spatial/ or of a folder of matrix.mtx."""
    spatial, matrix = SPATIAL_FOLDER.fullmatch(folder.name), MATRIX_FOLDER.fullmatch(folder.name)
    if spatial:
        inside = [path for path in visible(folder) if path.is_dir() and SPATIAL_FOLDER.fullmatch(path.name)]
        for path in (*visible(folder), *chain.from_iterable(map(visible, inside))):
            found = None if path.is_dir() else _known(path, rank)
            if found is not None:
                yield Found(found.role, found.prefix or bare(spatial["prefix"]), path, found.rank)
            elif picture_suffix(path) and not DRAWN.fullmatch(path.name):
                yield Found("picture", bare(spatial["prefix"]), path, (rank,))
    elif matrix:
        inside = [*visible(folder), *chain.from_iterable(map(visible, visible(folder)))]
        for path in inside:
            if (found := _known(path, rank)) is not None and found.role == "mex":
                is_raw = int(matrix["kind"].lower() == RAW)
                yield Found("mex", bare(matrix["prefix"]) or found.prefix, path, (is_raw, *found.rank[1:]))


def _known(path: Path, rank: int) -> Found | None:
    """The role of a file by its name, or None."""
    packed = int(path.name.lower().endswith(".gz"))
    part = MEX_PART.fullmatch(path.name)
    if part:
        words = MATRIX_FOLDER.fullmatch(bare(part["prefix"])) or re.fullmatch(
            rf"(?P<prefix>.*[{SEPARATORS}])?(?P<kind>filtered|raw)", bare(part["prefix"]), re.I)
        prefix, is_raw = (bare(words["prefix"]), int(words["kind"].lower() == RAW)) if words else (
            bare(part["prefix"]), 0)
        is_matrix = part["part"].lower() == "matrix.mtx"
        return Found("mex", prefix, path, (is_raw, rank, packed)) if is_matrix else None
    for role, pattern in ROLES:
        match = pattern.fullmatch(path.name)
        if match:
            first = int(match["kind"].lower() == RAW) if role == "h5" else rank
            old = int(role == "positions" and bool(match["list"]))
            return Found(role, bare(match["prefix"]), path, (first, rank, old, packed, path.suffix.lower() != ".csv"))
    return None


def picture_suffix(path: Path) -> str | None:
    """The suffix of a picture or slide, in lower case and without .gz; None for another file."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    return suffixes[-1] if suffixes and suffixes[-1] in PICTURE_SUFFIXES else None


# all sections ----------------------------------------------------------------------------------------
def entries_below(raw: Path) -> tuple[list[str], list[str]]:
    """(entries of all sections under `raw`, entries of folders of Visium HD), each in natural order."""
    if is_hd(raw):
        return [], ["."]
    here = sections_in(raw)
    parts = chain.from_iterable(one.found for one in here)
    taken = set(chain.from_iterable(found.path.parents for found in parts))
    below, hd = _walk(raw, raw, taken, 1 if here else MAX_DEPTH)
    if below:  # archives that were unpacked into the folders
        here = [one for one in here if {found.role for found in one.found} - {"archive", "picture"}]
    sections = [f".#{one.prefix}" if one.prefix else "." for one in here]
    return sections + in_reading_order(below), in_reading_order(hd)


def _walk(raw: Path, folder: Path, taken: set[Path], depth: int) -> tuple[list[str], list[str]]:
    """As entries_below, of the folders in `folder`; those of `taken` belong to a section already."""
    sections, hd = [], []
    for child in visible(folder):
        if not child.is_dir() or child in taken or depth == 0:
            continue
        entry = child.relative_to(raw).as_posix()
        if is_hd(child):
            hd.append(entry)
            continue
        here = sections_in(child)
        sections += [f"{entry}#{one.prefix}" if one.prefix else entry for one in here]
        if not here:
            more, more_hd = _walk(raw, child, taken, depth - 1)
            sections, hd = sections + more, hd + more_hd
    return sections, hd


def section_of(raw: Path, entry: str) -> Section:
    """The section of an entry of `raw`; without files if there is none."""
    folder, prefix = path_and_part(raw, entry)
    for one in sections_in(folder):
        if one.prefix == (prefix or "") or prefix and folder.is_dir() and one.prefix == bare(prefix):
            return one
    return Section(folder, prefix or "", ())

