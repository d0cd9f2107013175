"""The reader of legacy ST. Each format of it is these functions with the Form of its names (legacy_forms.py).

    counts           rows `XxY` or `X_Y` (array column and row, whole or aligned), columns genes; or turned
    spot file        x, y, new_x, new_y, pixel_x, pixel_y, selected: the spots on tissue and their px
    transformation   instead of a spot file: 3 x 3 matrix, array -> px
    image            H&E, a picture or a slide, also packed by gzip
Every file may be in any folder under the raw one. i is the array column, j the row; a spot's barcode is `XxY`.
"""
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.config import Config, SampleConfig
from common.errors import DataError, LayerError
from common.geometry import Source
from data_preprocessing.readers import (
    RawLayer,
    chosen_image,
    legacy_files as files_of,
    matched,
    reading_table,
    visible,
)
from data_preprocessing.readers.legacy_forms import Form
from data_preprocessing.readers.legacy_spots import (
    Spots,
    check_image,
    named_by_spots,
    read_spots,
    read_transformation,
    spots_by_transformation,
)
from data_preprocessing.readers.legacy_tables import cells, opened, positions, read_counts

if TYPE_CHECKING:
    import pandas as pd

PITCH_UM = 200.0  # one step of every array of legacy ST


def list_layers(form: Form, raw: Path, config: Config) -> dict[str, SampleConfig]:
    """The samples of every section with counts, spots or an image, and those that the config names.

    Raises DataError if there is none, or if the config names a file that is not there or belongs to no section.
    """
    there = files_of.sections(raw, form)
    samples = files_of.listed(there, raw, form)
    for name, one in (config.samples or {}).items():
        if form.mapped:
            for layer, entry in one.raw.items():
                if files_of.section_with(there, raw / entry) is None:
                    raise DataError(raw, f"no section {entry} (samples.{name}.raw.{layer})", form.example,
                                    "correct the name in the config")
        entries = (one.raw if form.mapped else {}) or (samples[name].raw if name in samples else {})
        layers = set(entries) if form.mapped else set(samples[name].layers if name in samples else ())
        if one.raw or one.images:
            samples[name] = SampleConfig(layers=sorted(layers | set(one.images)), raw=entries)
    if not samples:
        raise files_of.nothing_found(raw, form)
    return dict(sorted(samples.items()))


def doubts(form: Form, _raw: Path, samples: dict[str, SampleConfig]) -> list[str]:
    """A line for each sample whose sections are known to be of several blocks."""
    return [f"{len(samples[name].layers)} sections of {name} are taken as one block; {form.blocks[name]}: name those "
            "of one animal in samples.<name>.raw of a config" for name in sorted(set(form.blocks) & set(samples))]


def raw_files(form: Form, raw: Path, config: Config, sample: str, layer: int) -> dict[str, Path]:
    """The existing files of a section by kind (counts, location, transformation, image).

    location is the table of counts where its rows and a transformation place the spots. Raises LayerError for two files
    of one kind.
    """
    files = _files(form, raw, config, sample, layer)
    if {"counts", "transformation"} <= set(files):
        files.setdefault("location", files["counts"])
    return files


def _files(form: Form, raw: Path, config: Config, sample: str, layer: int) -> dict[str, Path]:
    """As raw_files; location is a spot file."""
    chosen = chosen_image(raw, config, sample, layer)
    of_config = {"image": chosen} if chosen else {}
    entry = config.samples[sample].raw.get(layer)
    if form.mapped and entry is None:
        return of_config
    there = files_of.sections(raw, form)
    section = files_of.section_with(there, raw / entry) if entry else there.get(form.key(sample, layer))
    if section is None and entry:
        raise LayerError(raw / entry, "a name of no section", form.example, "correct samples.<name>.raw")
    if section is None:
        return of_config
    if chosen:
        section.files.pop("image", None)
    return files_of.chosen_files(section, (raw / entry).parent if entry else None) | of_config


def read_positions(form: Form, raw: Path, config: Config, sample: str, layer: int) -> "pd.DataFrame | None":
    """The selected spots, or None. Raises as read_layer."""
    files = _files(form, raw, config, sample, layer)
    if "location" in files:
        return read_spots(files["location"]).location
    if "counts" in files:
        return _placed(form, raw, files, _row_names(files["counts"])).location
    return None


def read_layer(form: Form, raw: Path, config: Config, sample: str, layer: int) -> RawLayer:
    """Read one section; spots and counts are intersected in the order of the spots, the rest is counted as dropped.

    Raises LayerError if a file cannot be read, lacks a column, spots are missing or nothing is common.
    """
    files = _files(form, raw, config, sample, layer)
    image = files.get("image")
    if "location" not in files and "counts" not in files:
        return RawLayer(None, None, image)
    if "counts" not in files:
        spots = read_spots(files["location"])
        return RawLayer(spots.location, None, image, {"not selected": spots.n_unselected}, _outside(spots, files))
    counts = read_counts(files["counts"])
    spots = (read_spots(files["location"]) if "location" in files
             else _placed(form, raw, files, counts.table.obs_names))
    positions_of = files.get("location", files["counts"])
    notes = [counts.note, _outside(spots, files)]
    fractions = np.isfinite(counts.xy[:, 0]) & (counts.xy != np.rint(counts.xy)).any(axis=1)
    if "location" in files and fractions.any():
        table = counts.table
        table.obs_names = named_by_spots(table.obs_names, counts.xy, spots, files["counts"])
        notes.append("rows of counts by their " + ("nearest array position" if spots.aligned is None
                                                   else "aligned positions"))
    location, table, dropped = matched(spots.location, counts.table, files["counts"], positions_of)
    return RawLayer(location, table, image, {"not selected": spots.n_unselected, **dropped},
                    ", ".join(filter(None, notes)))


def platform_sources(files: dict[str, Path]) -> list[Source]:
    """Scale (um per px) that the transformation states: one step of the array is PITCH_UM; empty without one.

    The printed spots lie off their array by up to 0.2 steps, so that their distances state it less well. Raises
    LayerError as read_transformation.
    """
    if "transformation" not in files:
        return []
    matrix = read_transformation(files["transformation"])
    steps = PITCH_UM / np.hypot(*matrix[:2].T)  # um per px along a column and a row
    return [Source.of(f"the matrix of {files['transformation'].name}", float(f"{steps.mean():.6g}"))]


def why_not(form: Form, raw: Path, path: Path) -> str | None:
    """The reason why a file or folder under the raw folder is not read; None: no special reason."""
    return files_of.why_not(raw, form, path)


def _placed(form: Form, raw: Path, files: dict[str, Path], names: "pd.Index") -> Spots:
    """The spots of a section without a spot file, by the transformation. Raises LayerError if that is missing too."""
    if "transformation" in files:
        return spots_by_transformation(names, files["transformation"], files["counts"])
    beside = [path.name for path in visible(files["counts"].parent)]
    shown = ", ".join(beside[:files_of.MAX_NAMES]) + (", …" if len(beside) > files_of.MAX_NAMES else "")
    raise LayerError(files["counts"], f"no spots beside it (there: {shown})",
                     f"a spot file or a transformation of the same section, as in {form.example}",
                     files_of.folder_above(raw) or "add it; a spot file has x, y, pixel_x, pixel_y")


def _outside(spots: Spots, files: dict[str, Path]) -> str:
    """A remark on spots outside the image, or ''. Raises as check_image."""
    if "image" not in files:
        return ""
    number = check_image(spots, files.get("location", files.get("counts")), files["image"])
    return f"{number} spots outside the image" if number else ""


def _row_names(path: Path) -> "pd.Index":
    """The names of the spots of a table of counts, without its values. Raises as read_counts, less the values."""
    import pandas as pd
    with reading_table(path, "rows of counts, tab-separated"), opened(path) as stream:
        separator, columns = cells(stream.readline())
        if np.isfinite(positions(pd.Index(columns))[:, 0]).mean() > 0.5:
            return pd.Index(columns)
        rows = [line.split(separator, 1)[0].strip().strip('"') for line in stream]
    return pd.Index(rows)
