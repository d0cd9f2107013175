"""Which files of a raw folder belong to which section of legacy ST, and why a file belongs to none."""
import csv
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from common.config import SampleConfig
from common.errors import DataError, LayerError
from common.image_names import IMAGE_SUFFIXES
from data_preprocessing.readers import in_reading_order
from data_preprocessing.readers.legacy_forms import (
    BY_NAME,
    FORMS,
    Form,
    Match,
    form_of,
    is_archive,
    is_space_ranger,
    taken_by,
)
from data_preprocessing.readers.legacy_tables import header_of

LISTED = {"counts", "location", "image"}  # a section is listed for one of these alone
SECOND = {"coords": "location", "picture": "image"}  # kinds that stand in for another one
SPOT_COLUMNS = {"x", "y", "pixel_x", "pixel_y"}
MAX_NAMES = 4  # names shown in a message
NOUNS = {"image": "images", "counts": "tables of counts", "transformation": "transformations"}
TABLE_SUFFIXES = (".tsv", ".csv", ".txt")


@dataclass
class Section:
    """The files of one section by kind: (rank, path). sample and name as they are spelled first."""
    sample: str
    name: str
    files: dict[str, list[tuple[int, Path]]] = field(default_factory=dict)

    def first(self) -> Path:
        """The file that stands for the section: its counts, else its image, else its spots."""
        kind = next(kind for kind in ("counts", "image", "location") if kind in self.files)
        return sorted(self.files[kind])[0][1]


Key = tuple[str, str | int]


def files_under(raw: Path) -> list[Path]:
    """Every file under the raw folder, links followed, in natural order; no hidden one, none of a dataset root."""
    found, seen = [], {os.path.realpath(raw)}
    for folder, folders, names in os.walk(raw, followlinks=True):
        if Path(folder) != raw and "dataset.yaml" in names:
            folders.clear()  # a root that step 0_1 made
            continue
        kept = [name for name in folders if not name.startswith(".")
                and os.path.realpath(os.path.join(folder, name)) not in seen]
        seen |= {os.path.realpath(os.path.join(folder, name)) for name in kept}
        folders[:] = kept
        found += [os.path.relpath(os.path.join(folder, name), raw) for name in names if not name.startswith(".")]
    return [raw / name for name in in_reading_order(found)]


def sections(raw: Path, form: Form) -> dict[Key, Section]:
    """The sections that files of this form belong to, by Form.key; only those that are listed."""
    found: dict[Key, Section] = {}
    for path, match in _matches(raw, form):
        key = form.key(match.sample, match.section)
        section = found.setdefault(key, Section(match.sample, match.section))
        kind = match.kind if match.kind != "either" else _kind_of_table(path)
        section.files.setdefault(kind, []).append((match.rank, path))
    return {key: section for key, section in found.items() if _is_listed(form, section)}


def listed(there: dict[Key, Section], raw: Path, form: Form) -> dict[str, SampleConfig]:
    """{sample: layers and, where the form is mapped, the file that stands for each}; samples sorted."""
    samples: dict[str, dict[int, str]] = {}
    numbers = _numbers(there, form)
    spelling: dict[str, str] = {}
    for key in sorted(there, key=lambda key: (key[0], numbers[key])):
        section = there[key]
        name = spelling.setdefault(key[0], section.sample)
        samples.setdefault(name, {})[numbers[key]] = section.first().relative_to(raw).as_posix()
    return {name: SampleConfig(layers=sorted(entries), raw=entries if form.mapped else {})
            for name, entries in sorted(samples.items())}


def section_with(there: dict[Key, Section], path: Path) -> Section | None:
    """The section that a file belongs to, or None."""
    for section in there.values():
        for candidates in section.files.values():
            if any(other == path for _, other in candidates):
                return section
    return None


def chosen_files(section: Section, beside: Path | None) -> dict[str, Path]:
    """{kind: file} of a section: the preferred name of each kind; of a packed twin the unpacked file.

    beside: the folder that decides between copies in several folders. Raises LayerError for two files of one kind.
    """
    files = {}
    for kind, candidates in section.files.items():
        best = min(rank for rank, _ in candidates)
        paths = {path for rank, path in candidates if rank == best or kind == "image"}  # two images are never alike
        here = {path for path in paths if path.parent == beside}
        paths = here or paths
        paths -= {path for path in paths if path.suffix.lower() == ".gz" and path.with_suffix("") in paths}
        if len(paths) > 1:
            raise _several(section, kind, sorted(paths))
        files[kind] = next(iter(paths))
    for kind, other in SECOND.items():
        if kind in files:
            files.setdefault(other, files.pop(kind))
    if "location" in files:
        files.pop("transformation", None)
    return files


def nothing_found(raw: Path, form: Form) -> DataError:
    """The error of a raw folder without a section of this form: what is there, and which format reads it."""
    names = [path.relative_to(raw).as_posix() for path in files_under(raw)]
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    there = f"no section; there {'are' if len(names) > 1 else 'is'} {', '.join(names[:MAX_NAMES]) or 'nothing'}{more}"
    return DataError(raw, there, form.example, _fix(raw, form, names))


def why_not(raw: Path, form: Form, path: Path) -> str | None:
    """The reason why a file or folder under the raw folder is not read; None: no special reason.

    '' for the files of a section whose own line names the fault. A folder has the reason of the first of its files that
    has a meaning.
    """
    if path.is_dir():
        inside = (one for one in files_under(path) if taken_by(form, one.relative_to(raw).as_posix()))
        path = next(inside, path)
    name, relative = path.name, (path.relative_to(raw) if path.is_relative_to(raw) else Path(path.name)).as_posix()
    if is_archive(name):
        return "a packed archive; fix: unpack it"
    if is_space_ranger(name):
        return "a file of Space Ranger; fix: convert its folder with --format visium"
    if path.suffix.lower() == ".h5ad":
        return "an AnnData file; fix: convert it with --format h5ad"
    match = taken_by(form, relative)
    if match is not None:
        return _why_not_chosen(raw, form, path, match)
    if set(map(str.lower, Path(relative).parts[:-1])) & {role.lower() for role in form.roles}:
        return form.rule
    other = form_of(relative)
    if other is not None and other is not form:
        return f"a file of the form {other.name}; fix: convert it with --format {other.name}"
    plain = Path(name[:-3]) if name.lower().endswith(".gz") else path
    is_input = not form.roles and plain.suffix.lower() in (*TABLE_SUFFIXES, *IMAGE_SUFFIXES)
    return form.rule if is_input else None


def _matches(raw: Path, form: Form) -> list[tuple[Path, Match]]:
    """Every file that the form has a meaning for; a picture whose name lacks the sample gets it."""
    found = []
    for path in files_under(raw):
        match = taken_by(form, path.relative_to(raw).as_posix())
        if match is not None:
            found.append((path, match))
    out = []
    for path, match in found:
        if not match.sample:
            named = {other.sample for _, other in found if other.word == match.word and other.sample}
            sample = next(iter(named)) if len(named) == 1 else form.samples_of_words[match.word]
            if len(named) > 1 and sample not in named:
                continue
            match = Match(match.kind, match.rank, sample, match.section, match.word)
        out.append((path, match))
    return out


def _kind_of_table(path: Path) -> str:
    """Location or counts, by the header of a table whose name states neither."""
    try:
        columns = header_of(path)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error):
        return "counts"  # its reader reports it
    return "location" if SPOT_COLUMNS & {column.strip().lower() for column in columns} else "counts"


def _is_listed(form: Form, section: Section) -> bool:
    sure = form.numbered or re.fullmatch(form.sure, section.name) is not None
    return bool(LISTED & set(section.files)) and (sure or len(section.files) > 1)


def _numbers(there: dict[Key, Section], form: Form) -> dict[Key, int]:
    """The layer number of each section."""
    if form.numbered:
        return {key: int(key[1]) for key in there}
    numbers = {}
    for sample in {key[0] for key in there}:
        names = in_reading_order([str(key[1]) for key in there if key[0] == sample])
        numbers |= {(sample, name): number for number, name in enumerate(names, 1)}
    return numbers


def _several(section: Section, kind: str, paths: list[Path]) -> LayerError:
    noun = NOUNS.get(kind, "spot files")
    same = {path.parent for path in paths}
    names = ", ".join(path.name if len(same) == 1 else str(path) for path in paths)
    fix = "move the others away" + (", or name it in samples.<name>.images" if kind == "image" else "")
    where = paths[0].parent if len(same) == 1 else Path(os.path.commonpath(paths))
    return LayerError(where, f"{len(paths)} {noun} of section {section.sample}/{section.name}: {names}", "one", fix)


def _fix(raw: Path, form: Form, names: list[str]) -> str:
    """What to do with a raw folder that holds nothing of this form."""
    for other in FORMS:
        if other is not form and sections(raw, other):
            return f"these are files of the form {other.name}: use --format {other.name}"
    archives = [name for name in names if is_archive(name)]
    if archives:
        return f"unpack {archives[0]}"
    if any(is_space_ranger(name) for name in names):
        return "these are files of Space Ranger: use --format visium"
    if any(name.endswith(".h5ad") for name in names):
        return "these are AnnData files: use --format h5ad"
    return folder_above(raw) or "correct --raw_path, or rename the files: " + form.rule


def folder_above(raw: Path) -> str:
    """The fix if the raw folder is one of those that hold the files of one kind, else ''."""
    is_role = raw.name.lower() in {role.lower() for role in BY_NAME["her2st"].roles}
    return f"correct --raw_path: give the folder above, {raw.parent}" if is_role else ""


def _why_not_chosen(raw: Path, form: Form, path: Path, match: Match) -> str | None:
    """The reason for a file whose name fits the form."""
    section = section_with(sections(raw, form), path)
    if section is not None:
        kind = next(kind for kind, found in section.files.items() if path in [one for _, one in found])
        try:
            files = chosen_files(section, section.first().parent)
        except LayerError:
            return ""
        if kind == "transformation" and kind not in files:
            kind = "location"
        other = files.get(SECOND.get(kind, kind))
        name = other and (other.relative_to(raw).as_posix() if other.name == path.name else other.name)
        return None if other in (None, path) else f"{name} of the same section is read"
    if match.kind in ("coords", "transformation"):
        return "no counts, spots or picture of a section of this name"
    if not match.sample:
        return "its name gives no sample, and there are several"
    return f"the only file of this name; a section has counts, spots or a picture beside it, and {form.rule}"
