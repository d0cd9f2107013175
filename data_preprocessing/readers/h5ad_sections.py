"""The sections of one AnnData file: one, or several that a column of obs names.

Signs of several sections in a file: barcodes, or array positions, that occur more than once; several libraries in
uns['spatial'] of which obs names more than one; arrays that lie over each other. A column that names sections
(library_id, section, slide, …) splits the file by itself; a column such as batch or sample splits it where there is a
sign and the column explains it. A sign without such a column is an error: sections are not merged.
"""
import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from common.errors import LayerError
from common.names import natural_key
from data_preprocessing.readers.anndata_file import column_names, opened, read_frame
from data_preprocessing.readers.h5ad_positions import read_all_positions
from data_preprocessing.readers.spot_array import parts_touch, several_arrays

if TYPE_CHECKING:
    import h5py

SECTION_COLUMNS = ("library_id", "library", "library_ids", "section_id", "section", "slice_id", "slice", "slide_id",
                   "slide", "array_id", "capture_area", "puck_id", "puck", "section_name", "slice_name")
OTHER_COLUMNS = ("sample_id", "sample", "sample_name", "samples", "batch", "orig.ident", "orig_ident", "replicate",
                 "rep", "dataset", "layer", "specimen", "donor", "donor_id", "patient", "patient_id", "mouse", "animal")
TENX = re.compile(r"[ACGTN]{12,}")
LEGACY = re.compile(r"\d+x\d+")
TWICE = 0.1       # share of the spots that occur twice: several sections
OVER_EACH_OTHER = "arrays of several sections over each other"
MOST_PARTS = 200  # a column with more values does not name sections


@dataclass(frozen=True)
class Sections:
    """The sections of a file. column: the one of obs that names them, '' for one section.

    parts: {name: rows (n_obs,) bool}, in natural order; {'': all} for one section. libraries: groups of
    uns['spatial']. notes: remarks for the step's line. error: why the file cannot be split, or None.
    """
    column: str
    parts: dict[str, np.ndarray]
    libraries: list[str]
    notes: list[str] = field(default_factory=list)
    error: LayerError | None = None

    def rows(self, part: str | None, path: Path) -> np.ndarray:
        """The rows (n_obs,) bool of a part, or of the one section there is. Raises LayerError."""
        if self.error is not None:
            raise self.error
        if part is None and len(self.parts) == 1:
            return next(iter(self.parts.values()))
        if part not in self.parts:
            names = ", ".join(self.parts) if self.column else "one section"
            raise LayerError(path, f"{len(self.parts)} sections ({names})" + (f", no {part}" if part else ""),
                             "an entry of samples.<name>.raw that names one",
                             f"write {path.name}#{next(iter(self.parts)) or '<section>'}")
        return self.parts[part]


def sections_of(path: Path) -> Sections:
    """The sections of a file. Raises LayerError if it cannot be read."""
    return _sections_of(path, path.stat().st_mtime_ns if path.is_file() else 0)


@lru_cache(maxsize=64)
def _sections_of(path: Path, _changed: int) -> Sections:
    with opened(path) as file:
        names = {_squashed(name): name for name in column_names(file, "obs")}
        usual = dict.fromkeys(map(_squashed, (*SECTION_COLUMNS, *OTHER_COLUMNS)))
        asked = tuple(names[one] for one in usual if one in names)
        obs = read_frame(file, "obs", asked)
        libraries = list(libraries_of(file))
    columns = {column: _values(obs[column]) for column in asked if column in obs}
    cut = next((values[0] for values in columns.values() if set(values) == {values[0]} & set(libraries)), None)
    libraries = [cut] if cut is not None else libraries  # a part of a table that was cut out keeps all libraries
    columns = {column: values for column, values in columns.items() if 1 < len(set(values)) <= MOST_PARTS}
    columns = dict(sorted(columns.items(), key=lambda one: not set(one[1]) & set(libraries)))  # these name the images
    table = read_all_positions(path).table
    sign, keys = _sign(table, libraries)
    every_xy = table[["x", "y"]].to_numpy()
    xy = every_xy if sign == OVER_EACH_OTHER else None
    everything = np.ones(len(obs), bool)
    for column, values in columns.items():
        sure = _squashed(column) in map(_squashed, SECTION_COLUMNS) and (
            sign or set(values) & set(libraries) or not _are_regions(every_xy, values))
        if (sure or sign) and _explains(values, keys, libraries, xy):
            parts = {part: (values == part) for part in natural_values(values)}
            lost = int((values == "").sum())
            note = [f"{lost} spots without obs['{column}'] left out"] if lost else []
            return Sections(column, parts, libraries, note)
    if sign:
        return Sections("", {"": everything}, libraries, error=LayerError(
            path, sign, "one section a file, or a column of obs that names the sections",
            _way_out(path, keys, libraries, xy)))
    notes = []
    for column, values in columns.items():
        shown = ", ".join(sorted(set(values))[:3])
        notes.append(f"obs['{column}'] has {len(set(values))} values ({shown}): read as one section"
                     + ("" if _are_regions(every_xy, values) else "; name it library_id if they are sections"))
    return Sections("", {"": everything}, libraries, notes[:1])


def _way_out(path: Path, keys: list[np.ndarray], libraries: list[str], xy: np.ndarray | None) -> str:
    """The fix for sections that no usual column names: another column that separates them, if there is one."""
    with opened(path) as file:
        obs = read_frame(file, "obs")
    values = {column: _values(obs[column]) for column in obs if 1 < obs[column].nunique() <= MOST_PARTS}
    fitting = [column for column in values if _explains(values[column], keys, libraries, xy)]
    marks = np.array([TENX.sub("", str(one), count=1) for one in obs.index], dtype=object)
    if not fitting and 1 < len(set(marks)) <= MOST_PARTS and _explains(marks, keys, libraries, xy):
        return (f"adata.obs['library_id'] = adata.obs_names.str.replace('{TENX.pattern}', '', n=1, regex=True), if "
                f"what surrounds the letters of a barcode ({', '.join(natural_values(marks)[:3])}) names its section")
    if not fitting:
        names = f" with the names {', '.join(libraries)}" if len(libraries) > 1 else ""
        return f"add adata.obs['library_id']{names}, or save adata[adata.obs[…] == section] a file each"
    column = min(fitting, key=lambda one: len(set(values[one])))
    names = natural_values(values[column])
    return (f"adata.obs['library_id'] = adata.obs['{column}'], if its {len(names)} values ({', '.join(names[:3])}"
            f"{', …' if len(names) > 3 else ''}) are the sections")


def natural_values(values: np.ndarray) -> list[str]:
    """The names of the parts in natural order; '' is none."""
    return sorted(set(values) - {""}, key=natural_key)


def _are_regions(xy: np.ndarray, values: np.ndarray) -> bool:
    """Whether the parts continue one array: regions of one section."""
    known = np.isfinite(xy).all(axis=1) & (values != "")
    return parts_touch(xy[known], values[known])


def _squashed(name: str) -> str:
    """'Section ID', 'section.id' and 'sectionId' are sectionid."""
    return "".join(one for one in name.lower() if one.isalnum())


def libraries_of(file: "h5py.File") -> "dict[str, h5py.Group]":
    """{name: group} of uns['spatial']: groups with images or scale factors. Names may have slashes; '' in old files."""
    import h5py
    found = {}

    def look(group, name):
        if {"images", "scalefactors"} & set(group):
            found[name] = group
            return
        for key in sorted(group):
            if isinstance(group[key], h5py.Group):
                look(group[key], f"{name}/{key}" if name else key)
    node = file.get("uns/spatial")
    if isinstance(node, h5py.Group):
        look(node, "")
    return found


def library_of(sections: Sections, part: str | None) -> str | None:
    """The library of uns['spatial'] of a part: the one of its name, or the only one of an only section; else None."""
    for one in sections.libraries:
        if part and part.lower() in (one.lower(), one.replace("#", "_").lower()):
            return one
    return sections.libraries[0] if len(sections.libraries) == 1 and not sections.column else None


def _values(column: pd.Series) -> np.ndarray:
    """The values as text (n,), '' for none; '#' would part an entry of the config."""
    text = [("" if one is None or one is pd.NA or one != one else str(one).strip()) for one in column.astype(object)]
    text = [one.removesuffix(".0") if one.replace(".", "", 1).isdecimal() else one for one in text]
    return np.array([one.replace("#", "_") for one in text], dtype=object)


def _sign(table: pd.DataFrame, libraries: list[str]) -> tuple[str, list[np.ndarray]]:
    """(the sign of several sections, or ''; what may occur once in a section (n,) each)."""
    array = table[["i", "j"]].astype(str).agg("x".join, axis=1).to_numpy()
    keys, signs = [], []
    for values, what in ((table["barcode"].map(_core).to_numpy(), "barcodes"), (array, "array positions")):
        twice = pd.Series(values).duplicated().mean() if len(values) else 0.0
        if twice > TWICE and not (what == "array positions" and table["i"].isna().any()):
            keys.append(values)
            signs.append(f"{twice:.0%} of the {what} more than once, as in a table of several sections")
    if not signs and len(libraries) > 1:
        signs.append(f"{len(libraries)} libraries in uns['spatial'] ({', '.join(libraries)}), and no column of obs "
                     "that states the library of a spot")
    xy = table.loc[table["on_tissue"], ["x", "y"]].to_numpy()
    if not signs and several_arrays(xy[np.isfinite(xy).all(axis=1)]):
        signs.append(OVER_EACH_OTHER)
    return (signs[0] if signs else ""), keys


def _explains(values: np.ndarray, keys: list[np.ndarray], libraries: list[str], xy: np.ndarray | None) -> bool:
    """Whether the parts of a column are single sections: what occurs once in a section does, one array each."""
    for key in keys:
        if pd.DataFrame({"key": key, "part": values}).duplicated().mean() > TWICE / 2:
            return False
    parts = sorted(set(values) - {""})
    if len(libraries) > 1 and len(parts) != len(libraries) and not set(parts) & set(libraries):
        return False
    return xy is None or not any(several_arrays(xy[values == part]) for part in parts)


def _core(barcode: str) -> str:
    """The barcode without what names its section: the bases, or the array position."""
    match = TENX.search(barcode) or LEGACY.search(barcode)
    return match.group() if match else barcode
