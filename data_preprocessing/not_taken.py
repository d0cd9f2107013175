"""What is under --raw_path, looks like input and is not taken: every such file and folder, with the reason.

Taken are the files that a reader names for the listed sections (raw_files), their entries in `raw`, the images of the
config and what belongs to a slide of several files. By-products of Space Ranger are no input. A folder of which nothing
is taken is one line. Hidden files are no input.
"""
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import ModuleType

import pandas as pd

from common.config import Config
from common.errors import DataError, LayerError
from common.image_names import is_image_name, why_no_image
from common.io import write_table
from common.layout import OUTPUTS, Layout
from common.names import natural_key, visible
from data_preprocessing.packed import unpack_command
from data_preprocessing.placing import goes_with
from data_preprocessing.readers import asign, path_and_part, shown

OUTLINE = ".geojson"
TABLES = (".h5", ".h5ad", ".h5mu", ".h5seurat", ".loom", ".rds", ".rdata", ".zarr", ".tsv", ".csv", ".txt", ".mtx",
          ".parquet", ".npy", ".npz", ".pt", ".xlsx", ".gem", ".gef", OUTLINE)
ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar", ".bz2", ".xz")
PACKED = ".gz"
UNREAD = "no name that --format {} reads"
FORMAT_OF = {".h5ad": "h5ad", ".zarr": "spatialdata"}
BY_PRODUCTS = re.compile(
    r"(.*_)?(web_summary\.html|molecule_info\.h5|metrics_summary\.csv|metrics_summary_csv\.csv|probe_set\.csv|"
    r"feature_slice\.h5|barcode_fluorescence_intensity\.csv|spatial_enrichment\.csv|aligned_fiducials\.jpg|"
    r"detected_tissue_image\.jpg|aligned_tissue_image\.jpg|tissue_(hires|lowres)_image\.png|cytassist_image\.tiff|"
    r"scalefactors_json\.json|barcode_mappings\.parquet|raw_feature_bc_matrix(\.h5)?|raw_probe_bc_matrix\.h5|"
    r"filtered_feature_bc_matrix|possorted_genome_bam\.bam|md5(sum)?s?(\.txt)?|(sha256|check)sums?(\.txt)?)(\.gz)?"
    r"|analysis|.*\.mri\.tgz|deconvolution|cloupe|SC_RNA_COUNTER_CS|SPATIAL_RNA_COUNTER_CS"
    r"|(readme|licen[cs]e|changelog|citation|thumbs\.db|filelist\.txt)(\..*)?", re.IGNORECASE)
MOST_LINES = 40          # on the screen; the file has all
MOST_ALIKE = 3           # files of a folder with one reason that have a line each
MOST_LOOKED_AT = 5000    # files of a folder of which nothing is taken


@dataclass
class Taken:
    """Absolute paths of what is taken. folders: taken whole; stems: of sections whose files are unknown."""
    files: set[str] = field(default_factory=set)
    folders: set[str] = field(default_factory=set)
    stems: set[str] = field(default_factory=set)

    def add(self, path: Path) -> None:
        (self.folders if path.is_dir() else self.files).add(os.path.normpath(path))
        for other in _goes_with(path):
            (self.folders if other.is_dir() else self.files).add(os.path.normpath(other))

    def has(self, path: Path) -> bool:
        text = os.path.normpath(path)
        return text in self.files or text in self.folders or os.path.splitext(text)[0] in self.stems

    def is_above(self, folder: Path) -> bool:
        """True if something in this folder is taken."""
        start = os.path.normpath(folder) + os.sep
        return any(one.startswith(start) for one in (*self.files, *self.folders, *self.stems))


def report_not_taken(raw: Path, listed: Config, reader: ModuleType, form: str, layout: Layout, step: str,
                     stated: bool) -> None:
    """Print a line for each file and folder that is not taken, and write <root>/not_taken.csv: path, reason.

    listed: the config with all sections of the raw data. stated: the config lists the samples, not the raw data.
    """
    found = not_taken(raw, listed, reader, form, layout.root.resolve(), stated)
    table = pd.DataFrame([(str(path), reason) for path, reason in found], columns=["path", "reason"])
    layout.root.mkdir(parents=True, exist_ok=True)
    write_table(layout.not_taken, table)
    lines = list(as_lines(found, raw))
    for line in lines[:MOST_LINES]:
        print(f"{step}  not taken: {line}")
    forms = getattr(reader, "FORMS", ())
    if forms and any(reason.startswith(UNREAD.format(form)) for _, reason in found):
        print(f"{step}  --format {form} reads {'; '.join(forms)}")
    if len(lines) > MOST_LINES:
        print(f"{step}  not taken: {len(lines) - MOST_LINES} more lines; all are in {layout.not_taken}")


def not_taken(raw: Path, listed: Config, reader: ModuleType, form: str, root: Path,
              stated: bool = False) -> list[tuple[Path, str]]:
    """(path, reason) of all that looks like input and is not taken; nothing under the dataset root."""
    taken = taken_of(raw, listed, reader)
    others = sections_not_named(raw, listed, reader) if stated else Taken()
    why_not = getattr(reader, "why_not", None)

    def reason(path: Path) -> str:
        if path.is_symlink() and (leads := where_it_leads(path, raw, taken)):
            return leads
        own = why_not(raw, path) if why_not else None
        if own is not None:
            return own
        if others.has(path) or path.is_dir() and others.is_above(path):
            return "a section that `samples` of the config does not name"
        return general_reason(raw, path, form)

    out: list[tuple[Path, str]] = []
    for path in untaken(raw, taken, root):
        out += [(path, why)] if (why := reason(path)) else []
    if why_not:
        for folder in sorted(taken.folders - {os.path.normpath(raw)}):
            inside = untaken_in(Path(folder), taken)
            out += [(path, own) for path in inside if (own := why_not(raw, path))]
    return sorted(out, key=lambda one: natural_key(one[0].as_posix()))


def taken_of(raw: Path, listed: Config, reader: ModuleType) -> Taken:
    """What is taken of the raw data for the sections of this config."""
    taken = Taken()
    if reader is asign:
        taken.add(asign.picture_folder(raw, ""))
    for name, one in (listed.samples or {}).items():
        for path in asign.sample_files(raw, name) if reader is asign else ():
            taken.add(path)
        for layer in one.layers or []:
            if layer in one.raw and reader is not asign:
                entry = path_and_part(raw, one.raw[layer])[0]
                taken.add(entry)
            try:
                files = {} if reader is asign else reader.raw_files(raw, listed, name, layer)
            except (LayerError, DataError, OSError):  # the section's own line names it
                files = {}
                if layer in one.raw:
                    taken.stems.add(os.path.splitext(os.path.normpath(raw / one.raw[layer]))[0])
            for path in (*files.values(), *(raw / image for image in one.images.values())):
                taken.add(path)
    return taken


def sections_not_named(raw: Path, listed: Config, reader: ModuleType) -> Taken:
    """The sections that the reader finds where the config lists none."""
    config = listed.model_copy(update={"samples": None})
    try:
        found = reader.list_layers(raw, config)
    except (DataError, LayerError):
        return Taken()
    return taken_of(raw, config.model_copy(update={"samples": found}), reader)


def where_it_leads(link: Path, raw: Path, taken: Taken) -> str | None:
    """The reason for a link to nothing, to what is taken, or to a folder above it; None for another one."""
    target = os.path.realpath(link)
    if not os.path.exists(target):
        return f"a link to {os.readlink(link)}, which is not there"
    if f"{os.path.realpath(link.parent)}{os.sep}".startswith(f"{target}{os.sep}"):
        return "a link to a folder above it"
    same = [one for one in sorted(taken.files | taken.folders) if os.path.realpath(one) == target]
    return f"a link to {os.path.relpath(same[0], raw)}, which is read" if same else None


def _goes_with(path: Path) -> list[Path]:
    """What belongs to an image: files of a slide of several, the outline of its tissue; [] for another file."""
    try:
        return goes_with(path) if path.is_file() and is_image_name(path) else []
    except LayerError:  # the section's own line names it
        return []


# the walk --------------------------------------------------------------------------------------------
def untaken(folder: Path, taken: Taken, root: Path) -> Iterator[Path]:
    """Files and folders that look like input and are not taken; a folder that has none that is taken is one."""
    for path in visible(folder):
        if Path(os.path.realpath(path)) == root or BY_PRODUCTS.fullmatch(path.name) or taken.has(path):
            continue
        if path.parent == root and (path.name in OUTPUTS or path.name.startswith("3D_")):
            continue
        if path.is_dir() and path.suffix.lower() != ".zarr":
            if taken.is_above(path):
                yield from untaken(path, taken, root)
            elif any(True for _ in inputs_in(path)) or without_data(path):
                yield path
        elif looks_like_input(path) or not path.exists():
            yield path


def untaken_in(section: Path, taken: Taken) -> list[Path]:
    """What is not taken in a section's folder, two levels deep; nothing where its own line names the reason."""
    found: list[Path] = []
    for path in (*visible(section), *visible(section, "*/*")) if taken.is_above(section) else ():
        known = taken.has(path) or taken.is_above(path) or BY_PRODUCTS.fullmatch(path.name)
        if not known and path.parent not in found:
            found.append(path)
    return found


def inputs_in(folder: Path) -> Iterator[str]:
    """Names of the files under a folder that look like input; the walk is bounded."""
    looked_at = 0
    for _, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not BY_PRODUCTS.fullmatch(name)
                            or name in MATRIX_FOLDERS)
        for name in sorted(files):
            looked_at += 1
            if looked_at > MOST_LOOKED_AT:
                return
            if not name.startswith(".") and (looks_like_input(Path(name)) or name in MATRIX_FILES):
                yield name


MATRIX_FOLDERS = ("filtered_feature_bc_matrix", "raw_feature_bc_matrix")
MATRIX_FILES = ("raw_feature_bc_matrix.h5", "tissue_hires_image.png")


def kind_of(path: Path) -> str:
    """The last suffix, without that of a packed file: '.tsv' of x.tsv.gz."""
    name = path.name.lower().removesuffix(PACKED)
    return Path(name).suffix


def looks_like_input(path: Path) -> bool:
    """True for tables, pictures and archives that are no by-product."""
    known = kind_of(path) in (*TABLES, *ARCHIVES) or is_picture(path)
    return known and not BY_PRODUCTS.fullmatch(path.name)


def is_picture(path: Path) -> bool:
    """True by the name, packed or not, for a picture of a form that is read or refused by name."""
    return is_image_name(path) or why_no_image(path) is not None


def as_image_only(relative: str) -> str:
    """How a picture becomes an image-only section."""
    return f"to add it, samples: {{<name>: {{images: {{<number>: {relative!r}}}}}}}"


def without_data(folder: Path) -> str:
    """What a folder without input is, if a section may be expected in it; else empty."""
    names = [path.name for path in islice(visible(folder, "**/*"), MOST_LOOKED_AT) if not path.is_dir()]
    if any("web_summary" in name for name in names):
        return f"a section without counts and positions: it holds {shown(names, 3)}"
    return "" if names else "an empty folder"


def general_reason(raw: Path, path: Path, form: str) -> str:
    """Why this path is not taken, by its name alone."""
    kind = kind_of(path)
    unread = UNREAD.format(form)
    if path.is_dir() and (path / "dataset.yaml").is_file():
        return "a dataset root"
    if path.is_dir() and kind not in FORMAT_OF:
        inside = list(inputs_in(path))
        readable = [one for one in visible(path, "**/*") if is_image_name(one)]
        if readable and all(is_picture(Path(one)) for one in inside):
            relative = readable[0].relative_to(raw).as_posix()
            return f"pictures alone ({shown(inside, 3)}): {as_image_only(relative)}"
        return f"{unread}: it holds {shown(inside, 3)}" if inside else without_data(path)
    if kind in ARCHIVES or kind == OUTLINE and path.suffix.lower() == PACKED:
        return f"packed: {unpack_command(path.name)}"
    if kind == OUTLINE:
        return "an outline of no listed picture: that of s1.tif is s1.geojson, beside it"
    if why_no_image(path):
        found, way_out = why_no_image(path)
        return f"{found}, which is not read; {way_out}"
    if is_image_name(path):
        relative = path.relative_to(raw).as_posix()
        return f"a picture of no listed section: {as_image_only(relative)}"
    if kind in FORMAT_OF and FORMAT_OF[kind] != form:
        return f"a file of --format {FORMAT_OF[kind]}"
    return unread


def as_lines(found: list[tuple[Path, str]], raw: Path) -> Iterator[str]:
    """A line a path; more than a few files, or folders, of one folder with one reason are one line."""
    alike: dict[tuple[Path, str, str], list[Path]] = {}
    for path, reason in found:
        what = "folders" if path.is_dir() else "files"
        alike.setdefault((path.parent, reason.partition(":")[0], what), []).append(path)
    reasons = dict(found)
    for (folder, _, what), paths in alike.items():
        if len(paths) > MOST_ALIKE:
            place = "" if folder == raw else f"{folder.relative_to(raw).as_posix()}/: "
            yield f"{place}{len(paths)} {what} ({shown((path.name for path in paths), 3)}): {reasons[paths[0]]}"
        else:
            for path in paths:
                slash = "/" if path.is_dir() else ""
                yield f"{path.relative_to(raw).as_posix()}{slash}: {reasons[path]}"
