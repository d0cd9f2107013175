"""Where the sections of Visium HD lie in a folder, and the files of each: names and scale factors, no table is read.

A folder of bins is called square_<um>um, with or without a prefix (GSM123_square_008um), and lies in binned_outputs/ or
not, in outs/ or not, beside other bin sizes or alone. Or its scale factors state bin_size_um: a renamed copy, or a
folder with the files of several sections, each with its prefix.
"""
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from common.errors import LayerError
from data_preprocessing.packed import unpack_command
from data_preprocessing.readers import in_reading_order, path_and_part
from data_preprocessing.readers.space_ranger import MEX_PART, mex_files, read_scale_factors
from data_preprocessing.readers.visium_files import Section, sections_in as files_of_sections, visible
from data_preprocessing.readers.visium_images import scaled_kind

SQUARE = re.compile(r"(?:(?P<prefix>.+?)[_. -])?square_(?P<um>\d{3,})um", re.I)
PACKED = re.compile(r"(?P<name>.*?)[_. -]?(binned_outputs|square_\d{3,}um).*\.(tar|tar\.gz|tgz|zip)", re.I)
OF_SPACE_RANGER = re.compile(r"(?:.+[_. -])?(spatial|segmented_outputs|binned_outputs|feature_slice\.h5|outs)", re.I)
WRAPPERS, WITHOUT_BINS = {"outs", "binned_outputs"}, {"spatial", "segmented_outputs", "analysis"}
DEPTH = 5  # <raw>/<block>/<section>/outs/binned_outputs/square_008um


@dataclass(frozen=True)
class BinFolder:
    """Bins of one size. prefix: of the section, '' if it has none. um: side of a bin, by the name, else by the file."""
    path: Path
    prefix: str
    um: float
    section: Section


def sections_in(raw: Path) -> tuple[list[str], list[str]]:
    """(sections with bins, sections without) as entries of `raw`: paths relative to it, each in natural order.

    '.' is raw itself. A section without bins is a Space Ranger folder of another kind, or a packed one.
    """
    found, read = set(), bin_folders(raw)
    groups = _grouped(read)
    for holder, prefix in groups:
        parts = holder.relative_to(raw).parts if holder.is_relative_to(raw) else ()  # raw is a folder of bins
        while parts and parts[-1] in WRAPPERS:
            parts = parts[:-1]
        shared = len([one for one in groups if one[0] == holder]) > 1
        found.add(Path(*parts).as_posix() + (f"#{prefix}" if shared else ""))
    unread = []
    for level in sorted({Path(entry).parent for entry in found} | {Path(".")}):
        for path in [] if "." in found else visible(raw / level):
            with_bins = any(one.path.is_relative_to(path) for one in read)
            if not with_bins and (is_of_space_ranger(path) or _is_packed(path, found)):
                unread.append(path.relative_to(raw).as_posix())
    return in_reading_order(list(found)), in_reading_order(unread)


def bin_folders(folder: Path, depth: int = DEPTH) -> list[BinFolder]:
    """All folders of bins: `folder` itself, or those in it."""
    name, here = SQUARE.fullmatch(folder.name), files_of_sections(folder)
    if name:
        section = here[0] if len(here) == 1 else Section(folder, "", ())
        return [BinFolder(folder, name["prefix"] or "", float(name["um"]), section)]
    found = []
    for section in here:
        scales = section.of("scalefactors")
        um = read_scale_factors(scales[0]).get("bin_size_um") if scales and section.counts() else None
        if um is not None:
            found.append(BinFolder(folder, section.prefix, um, section))
    if not found and depth and (folder / "outs").is_dir():
        found = bin_folders(folder / "outs", depth - 1)  # the folders beside outs are those of the pipeline
    for path in visible(folder) if depth and not found else []:
        if path.is_dir() and path.name not in WITHOUT_BINS:
            found += bin_folders(path, depth - 1)
    return found


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


def files_of(bins: BinFolder) -> dict[str, Path]:
    """The files of a folder of bins by kind: counts, location, scalefactors, image.

    counts is the matrix.mtx of a folder in that form; its three files follow as counts_matrix, counts_features and
    counts_barcodes. Of several, filtered before raw, HDF5 before matrix.mtx, parquet before text.
    """
    section, files = bins.section, {}
    counts = section.counts()
    if counts is not None:
        files["counts"] = counts
        if MEX_PART.fullmatch(counts.name):
            with suppress(LayerError):  # read_matrix reports it
                files |= {f"counts_{kind}": path for kind, path in mex_files(counts).items()}
    positions = sorted(section.of("positions"), key=lambda path: ".parquet" not in path.suffixes)
    for kind, paths in (("location", positions), ("scalefactors", section.of("scalefactors")),
                        ("image", scaled_images(bins))):
        if paths:
            files[kind] = paths[0]
    return files


def scaled_images(bins: BinFolder) -> list[Path]:
    """Pictures hires, then lowres: of a folder of bins, else of a `spatial` above it in the same output."""
    own = bins.section.of("hires", "lowres")
    above = [bins.path.parent] if SQUARE.fullmatch(bins.path.name) else []
    above += [bins.path.parent.parent] if bins.path.parent.name == "binned_outputs" else []
    for place in above:
        own += [path for path in visible(place / "spatial") if scaled_kind(path) and path.is_file()]
    return sorted(own, key=lambda path: (scaled_kind(path) != "hires", path.suffix == ".gz"))


def is_of_space_ranger(path: Path) -> bool:
    """Whether a folder holds output of Space Ranger, of whatever kind."""
    if not path.is_dir():
        return False
    names = [one.name for one in [*visible(path), *visible(path / "outs")]]
    named = any(OF_SPACE_RANGER.fullmatch(name) or PACKED.fullmatch(name) for name in names)
    return named or any(one.counts() for one in files_of_sections(path))


def why_without_bins(path: Path) -> tuple[str, str, str]:
    """(found, expected, fix) of a folder or file without bins."""
    expected, inside = "binned_outputs/square_008um of Visium HD", [path]
    if path.is_dir():
        inside = [*visible(path), *visible(path / "outs")]
    packed = [one for one in inside if PACKED.fullmatch(one.name)]
    if packed:
        own = packed[0].parent / PACKED.fullmatch(packed[0].name)["name"]  # beside other sections it needs a folder
        unpack = unpack_command(packed[0], packed[0].parent)
        if own != packed[0].parent and path == packed[0]:
            unpack = f"mkdir -p {quote(str(own))} && {unpack_command(packed[0], own)}"
        return f"{packed[0].name}, which is packed", f"the folder {expected}", unpack
    if path.is_dir() and any(one.counts() for folder in (path, *inside) for one in files_of_sections(folder)):
        return "spots of Visium, and no bins", expected, "convert it by --format visium"
    cells = [one.name for one in inside if "segmented_outputs" in one.name]
    if cells:
        return f"only the cells of {cells[0]}", expected, "copy binned_outputs of the same run"
    names = ", ".join(one.name for one in inside[:8]) or "an empty folder"
    return f"no folder square_008um (there is {names})", expected, "copy binned_outputs, or correct the path"


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
