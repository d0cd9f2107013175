"""Where the sections of Visium HD lie in a folder, and the files of each: names only, no table is read.

A folder of bins is called square_<um>um, with or without a prefix (GSM123_square_008um), or states bin_size_um in its
scale factors (a renamed copy). It lies in binned_outputs/ or not, in outs/ or not, beside other bin sizes or alone.
"""
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from common.errors import LayerError
from data_preprocessing.readers import in_reading_order, path_and_part
from data_preprocessing.readers.space_ranger import mex_files, read_scale_factors

SQUARE = re.compile(r"(?:(?P<prefix>.+?)[_.-])?square_(?P<um>\d{3,})um", re.I)
PACKED = re.compile(r"(?P<name>.*?)[_.-]?(binned_outputs|square_\d{3,}um).*\.(tar|tar\.gz|tgz|zip)", re.I)
MATRIX = re.compile(r"(?:.+[_.-])?(?P<kind>filtered|raw)_feature_bc_matrix(?P<file>\.h5(\.gz)?)?", re.I)
POSITIONS = re.compile(r"(?:.+[_.-])?tissue_positions(_list)?\.(?P<form>parquet|csv|tsv|txt)(\.gz)?", re.I)
SCALES = re.compile(r"(?:.+[_.-])?scalefactors_json\.json(\.gz)?", re.I)
IMAGE = re.compile(r"(?:.+[_.-])?tissue_(?P<size>hires|lowres)_image\.(png|jpe?g|tiff?)", re.I)
OF_SPACE_RANGER = re.compile(r"(?:.+[_.-])?(spatial|segmented_outputs|binned_outputs|feature_slice\.h5|outs)", re.I)
WRAPPERS = {"outs", "binned_outputs"}
WITHOUT_BINS = {"spatial", "segmented_outputs", "analysis", "filtered_feature_bc_matrix", "raw_feature_bc_matrix"}
DEPTH = 5  # <raw>/<block>/<section>/outs/binned_outputs/square_008um


@dataclass(frozen=True)
class BinFolder:
    """Bins of one size. prefix: of its name, '' if it has none. um: side of a bin, by the name, else by the file."""
    path: Path
    prefix: str
    um: float


def visible(folder: Path) -> list[Path]:
    """Files and folders in natural order, without hidden ones; [] if it is no folder."""
    there = {path.name: path for path in folder.iterdir()} if folder.is_dir() else {}
    return [there[name] for name in in_reading_order(list(there)) if not name.startswith(".")]


def sections_in(raw: Path) -> tuple[list[str], list[str]]:
    """(sections with bins, sections without) as entries of `raw`: paths relative to it, each in natural order.

    '.' is raw itself. A section without bins is a Space Ranger folder of another kind, or a packed one.
    """
    found, read = set(), bin_folders(raw)
    for (holder, prefix), bins in _grouped(read).items():
        parts = holder.relative_to(raw).parts if holder.is_relative_to(raw) else ()  # raw is a folder of bins
        while parts and parts[-1] in WRAPPERS:
            parts = parts[:-1]
        shared = len({one.prefix for one in bin_folders(holder, 1)}) > 1 and holder != bins[0].path
        found.add(Path(*parts).as_posix() + (f"#{prefix}" if shared else ""))
    unread = []
    for level in sorted({Path(entry).parent for entry in found} - {Path(".")} | {Path(".")}):
        for path in [] if "." in found else visible(raw / level):
            with_bins = any(one.path.is_relative_to(path) for one in read)
            if not with_bins and (is_of_space_ranger(path) or _is_packed(path, found)):
                unread.append(path.relative_to(raw).as_posix())
    return in_reading_order(list(found)), in_reading_order(unread)


def bin_folders(folder: Path, depth: int = DEPTH) -> list[BinFolder]:
    """All folders of bins: `folder` itself, or those in it."""
    name = SQUARE.fullmatch(folder.name)
    if name:
        return [BinFolder(folder, name["prefix"] or "", float(name["um"]))]
    stated = stated_bin_um(folder)
    if stated is not None:
        return [BinFolder(folder, "", stated)]
    in_outs = bin_folders(folder / "outs", depth - 1) if depth and (folder / "outs").is_dir() else []
    if in_outs:
        return in_outs  # the folders beside outs are those of the pipeline
    found = []
    for path in visible(folder) if depth else []:
        if path.is_dir() and path.name.lower() not in WITHOUT_BINS:
            found += bin_folders(path, depth - 1)
    return found


def stated_bin_um(folder: Path) -> float | None:
    """bin_size_um of the scale factors of a folder with counts, or None."""
    if not first_of(folder, MATRIX):
        return None
    scales = first_of(folder, SCALES)
    return read_scale_factors(scales).get("bin_size_um") if scales else None


def section_bins(raw: Path, entry: str) -> list[BinFolder]:
    """The folders of bins of one section, by size. Raises LayerError for none, or those of several sections."""
    folder, part = path_and_part(raw, entry)
    groups = _grouped(bin_folders(folder))
    if part is not None:
        groups = {key: bins for key, bins in groups.items() if key[1] == part}
    if not groups:
        raise LayerError(folder, *why_without_bins(folder))
    if len(groups) > 1:
        names = [(holder / prefix).relative_to(folder).as_posix() for holder, prefix in groups]
        raise LayerError(folder, f"several sections: {', '.join(names)}", "one section", "name each in samples.*.raw")
    return sorted(next(iter(groups.values())), key=lambda one: one.um)


def first_of(folder: Path, name: re.Pattern) -> Path | None:
    """The first file or folder of this name in a folder, then in its `spatial`."""
    for path in [*visible(folder), *visible(folder / "spatial")]:
        if name.fullmatch(path.name):
            return path
    return None


def files_of(folder: Path) -> dict[str, Path]:
    """The files of a folder of bins by kind.

    Of several, filtered before raw, HDF5 before a folder, parquet before text.
    """
    files: dict[str, Path] = {}
    here = [*visible(folder), *visible(folder / "spatial")]
    counts = [path for path in here if MATRIX.fullmatch(path.name)]
    counts.sort(key=lambda path: (MATRIX.fullmatch(path.name)["kind"].lower() != "filtered", path.is_dir()))
    if counts:
        files["counts"] = counts[0]
        if counts[0].is_dir():
            with suppress(LayerError):  # read_matrix reports it
                files |= {f"counts_{kind}": path for kind, path in mex_files(counts[0]).items()}
    positions = [path for path in here if POSITIONS.fullmatch(path.name)]
    positions.sort(key=lambda path: POSITIONS.fullmatch(path.name)["form"].lower() != "parquet")
    if positions:
        files["location"] = positions[0]
    scales = first_of(folder, SCALES)
    if scales:
        files["scalefactors"] = scales
    image = _scaled_image(folder)
    return files if image is None else files | {"image": image}


def _scaled_image(folder: Path) -> Path | None:
    """hires, else lowres: of a folder of bins, else of a `spatial` above it in the same output."""
    above = [folder.parent] if SQUARE.fullmatch(folder.name) else []
    above += [folder.parent.parent] if folder.parent.name == "binned_outputs" else []
    places = [folder, folder / "spatial", *(one / "spatial" for one in above)]
    pictures = []
    for place in places:
        pictures += [path for path in visible(place) if IMAGE.fullmatch(path.name) and path.is_file()]
    return min(pictures, key=lambda path: scaled_size(path) != "hires", default=None)


def scaled_size(image: Path) -> str | None:
    """'hires' or 'lowres' by the name of an image of Space Ranger, else None."""
    match = IMAGE.fullmatch(image.name)
    return match["size"].lower() if match else None


def is_of_space_ranger(path: Path) -> bool:
    """Whether a folder holds output of Space Ranger, of whatever kind."""
    if not path.is_dir():
        return False
    names = [one.name for one in [*visible(path), *visible(path / "outs")]]
    return any(OF_SPACE_RANGER.fullmatch(name) or MATRIX.fullmatch(name) or PACKED.fullmatch(name) for name in names)


def why_without_bins(path: Path) -> tuple[str, str, str]:
    """(found, expected, fix) of a folder or file without bins."""
    expected, inside = "binned_outputs/square_008um of Visium HD", [path]
    if path.is_dir():
        inside = [*visible(path), *visible(path / "outs")]
    packed = [one.name for one in inside if PACKED.fullmatch(one.name)]
    if packed:
        return f"{packed[0]}, which is packed", f"the folder {expected}", f"unpack it: tar -xf {packed[0]}"
    if any(MATRIX.fullmatch(one.name) for one in inside):
        return "spots of Visium, and no bins", expected, "convert it by --format visium"
    cells = [one.name for one in inside if "segmented_outputs" in one.name]
    if cells:
        return f"only the cells of {cells[0]}", expected, "copy binned_outputs of the same run"
    names = ", ".join(one.name for one in inside[:8]) or "an empty folder"
    return f"no folder square_008um ({names})", expected, "copy binned_outputs, or correct the path"


def _grouped(bins: list[BinFolder]) -> dict[tuple[Path, str], list[BinFolder]]:
    """{(folder that holds them, prefix): bins of one section}. A renamed folder is a section of its own."""
    groups: dict[tuple[Path, str], list[BinFolder]] = {}
    for one in bins:
        holder = one.path.parent if SQUARE.fullmatch(one.path.name) else one.path
        groups.setdefault((holder, one.prefix), []).append(one)
    return groups


def _is_packed(path: Path, found: set[str]) -> bool:
    """Whether a file is a packed section that does not lie there unpacked, too."""
    packed = PACKED.fullmatch(path.name) if path.is_file() else None
    return packed is not None and not any(packed["name"] and packed["name"] in entry for entry in found)
