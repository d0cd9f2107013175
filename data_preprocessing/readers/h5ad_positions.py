"""Positions of the spots in an AnnData file, under the names that the tools in use write.

    obsm    spatial (scanpy, squidpy), X_spatial (scanpy 1.4, SeuratDisk), coords, X_xy, …; a table by its column names
    obs     pxl_col_in_fullres and pxl_row_in_fullres (Space Ranger, HEST), imagecol and imagerow (Seurat, stLearn),
            pixel_x and pixel_y, …
    obs     array_col and array_row, col and row, array_x and array_y; or names such as 17x9 (legacy ST)
    obs     in_tissue in numbers or words

obsm goes before obs. Where both exist and differ, a note says so if one is the other scaled, swapped or mirrored; else
the section is refused with both named.
"""
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from common.errors import LayerError
from common.geometry import median_spacing_px
from data_preprocessing.readers.anndata_file import column_names, obsm_names, opened, read_frame, read_obsm

if TYPE_CHECKING:
    import h5py

OBSM = ("spatial", "x_spatial", "spatial_fullres", "spatial_coords", "x_spatial_coords", "spatialcoords",
        "spatial_coordinates", "coords", "x_coords", "coordinates", "x_coordinates", "xy", "x_xy", "xy_coords",
        "x_xy_loc", "xy_loc", "pixel", "x_pixel", "pixel_coords", "x_location", "location", "loc")
PAIRS = (("pxl_col_in_fullres", "pxl_row_in_fullres"), ("imagecol", "imagerow"), ("image_col", "image_row"),
         ("pixel_x", "pixel_y"), ("x_pixel", "y_pixel"), ("pxl_x", "pxl_y"), ("px_x", "px_y"), ("x_px", "y_px"),
         ("pixel_col", "pixel_row"), ("sdimx", "sdimy"), ("x_coord", "y_coord"), ("coord_x", "coord_y"),
         ("x_coords", "y_coords"), ("x_centroid", "y_centroid"), ("x_position", "y_position"), ("x_loc", "y_loc"),
         ("spatial_x", "spatial_y"), ("x", "y"))
ARRAY_PAIRS = (("array_col", "array_row"), ("array_column", "array_row"), ("col", "row"), ("array_x", "array_y"))
IN_TISSUE = ("in_tissue", "intissue", "in.tissue", "is_in_tissue", "under_tissue", "on_tissue", "tissue")
YES = {"1", "1.0", "true", "t", "yes", "y", "in", "in tissue", "inside", "on", "on tissue", "tissue", "under tissue"}
NO = {"0", "0.0", "false", "f", "no", "n", "out", "not in tissue", "outside", "off", "off tissue", "out of tissue",
      "background", "no tissue", "outside tissue", "nan", "none", "<na>", "na", ""}
LEGACY_NAME = re.compile(r"(?:.*_)?(\d+)x(\d+)(?:[_-].*)?")
SAME = 0.25          # pitches: two sources that differ by less agree
MOST_DIAMETER = 1.2  # pitches: larger spots would lie over each other
MIN_PITCH_PX = 2.0   # spots closer than this are array positions, no pixels


@dataclass(frozen=True)
class Positions:
    """table: barcode, x, y (full-resolution px), i, j (array column, row; NaN if unknown), on_tissue; rows as obs.

    source: where x, y are from. has_array: i, j are of the file.
    """
    table: pd.DataFrame
    source: str
    has_array: bool
    notes: list[str] = field(default_factory=list)


def read_all_positions(path: Path) -> Positions:
    """The positions of all rows of a file. Raises LayerError if it has none, or an unknown word for in_tissue."""
    with opened(path) as file:
        names = column_names(file, "obs")
        if not len(read_frame(file, "obs", ())):
            raise LayerError(path, "no row in obs", "a row a spot", "save the table of this section again")
        wanted = {name for name in names if name.lower() in _wanted()}
        obs = read_frame(file, "obs", tuple(wanted))
        found = _sources(file, obs)
        if not found:
            raise LayerError(path, f"no positions (obsm: {', '.join(obsm_names(file)) or 'empty'}; "
                                   f"obs: {', '.join(names) or 'empty'})",
                             "spot centres x, y in full-resolution px in obsm['spatial']",
                             "add adata.obsm['spatial'], or obs['pxl_col_in_fullres'] and obs['pxl_row_in_fullres']")
    source, xy = found[0]
    table = pd.DataFrame({"barcode": obs.index.astype(str), "x": xy[:, 0], "y": xy[:, 1]})
    table["on_tissue"], notes = on_tissue(obs, path), []
    array = _array(obs)
    table["i"], table["j"] = array.T if array is not None else (np.nan, np.nan)
    for other, theirs in found[1:]:
        note = _difference(xy, theirs, source, other, path)
        if note:
            notes.append(note)
    return Positions(table, source, array is not None, notes)


def _wanted() -> set[str]:
    """Lower-case names of all columns of obs that are read here."""
    wanted = set(IN_TISSUE)
    for pair in (*PAIRS, *ARRAY_PAIRS):
        wanted |= set(pair)
    return wanted


def _sources(file: "h5py.File", obs: pd.DataFrame) -> list[tuple[str, np.ndarray]]:
    """(where, xy (n_obs, 2)) of every source, the one that is used first."""
    found = []
    given = {name.lower(): name for name in obsm_names(file)}
    for name in OBSM:
        if name in given:
            xy = _xy_of(read_obsm(file, given[name]))
            if xy is not None:
                found.append((f"obsm['{given[name]}']", xy))
    columns = {name.lower(): name for name in obs}
    for x, y in PAIRS:
        if {x, y} <= set(columns):
            pair = obs[[columns[x], columns[y]]].astype(object)
            xy = pair.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
            if not (x == "x" and found) and np.isfinite(xy).any():
                found.append((f"obs['{columns[x]}'], obs['{columns[y]}']", xy))
    return found


def _xy_of(value: "np.ndarray | pd.DataFrame") -> np.ndarray | None:
    """x, y (n_obs, 2) float64 of an array of obsm, NaN where it is no number; None for one of another shape."""
    if isinstance(value, pd.DataFrame):
        columns = {str(name).lower(): name for name in value}
        pair = next((pair for pair in PAIRS if set(pair) <= set(columns)), None)
        value = value[[columns[name] for name in pair]] if pair else value
        value = value.to_numpy(object)
    if value.ndim != 2 or value.shape[1] < 2:
        return None
    text = pd.DataFrame(value[:, :2]).map(lambda one: one.decode() if isinstance(one, bytes) else one)
    return text.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)


def on_tissue(obs: pd.DataFrame, path: Path) -> np.ndarray:
    """Which spots are on tissue (n_obs,) bool, by numbers or words; all of them where no column states it.

    Raises LayerError for an unknown word, or for none on tissue.
    """
    columns = {name.lower(): name for name in obs}
    for name in IN_TISSUE:
        if name not in columns:
            continue
        words = obs[columns[name]].astype(object).map(lambda one: str(one).strip().lower().replace("_", " "))
        unknown = sorted(set(words) - YES - NO)
        if not unknown:
            inside = words.isin(YES).to_numpy()
            if not inside.any():
                raise LayerError(path, f"no spot on tissue (obs['{columns[name]}']: {', '.join(sorted(set(words)))})",
                                 "1 for a spot on tissue", "correct or remove the column")
            return inside
        if name != "tissue":  # which may be the name of an organ
            raise LayerError(path, f"obs['{columns[name]}'] with {', '.join(map(repr, unknown[:3]))}",
                             "1, True, yes or 'in tissue' for a spot on tissue", "correct or remove the column")
    return np.ones(len(obs), bool)


def _array(obs: pd.DataFrame) -> np.ndarray | None:
    """Array column and row (n_obs, 2) of obs, or of names such as 17x9; None if there are none."""
    columns = {name.lower(): name for name in obs}
    for pair in ARRAY_PAIRS:
        if set(pair) <= set(columns):
            values = obs[[columns[name] for name in pair]].astype(object).apply(pd.to_numeric, errors="coerce")
            if np.isfinite(values.to_numpy(np.float64)).all():
                return np.rint(values.to_numpy(np.float64))
    matches = [LEGACY_NAME.fullmatch(str(name)) for name in obs.index]
    if matches and all(matches):
        return np.array([[float(one.group(1)), float(one.group(2))] for one in matches])
    return None


def _difference(xy: np.ndarray, other: np.ndarray, source: str, other_source: str, path: Path) -> str:
    """What differs between two sources: '' if nothing. Raises LayerError if they are positions of different things."""
    both = np.isfinite(xy).all(axis=1) & np.isfinite(other).all(axis=1)
    xy, other = xy[both], other[both]
    pitch = median_spacing_px(xy)
    if len(xy) < 3 or pitch <= 0 or np.median(np.abs(xy - other)) < SAME * pitch:
        return ""
    for swapped, way in ((other, ""), (other[:, ::-1], "with x and y swapped, ")):
        factor, offset = _line(swapped, xy)
        if (np.abs(swapped * factor + offset - xy) < SAME * pitch).all(axis=1).mean() > 0.95:
            share = " and ".join(dict.fromkeys(f"{1 / one:.3g}" for one in factor))
            return f"positions of {source}; {other_source} are {way}{share} times these"
    raise LayerError(path, f"{source} and {other_source} that are positions of different things",
                     "the same positions in both", "remove the wrong one")


def _line(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(factor, offset) (2,) each of the straight lines through y over x, by column."""
    spread = np.maximum(((x - x.mean(axis=0)) ** 2).mean(axis=0), 1e-12)
    factor = ((x - x.mean(axis=0)) * (y - y.mean(axis=0))).mean(axis=0) / spread
    factor = np.where(np.abs(factor) < 1e-9, 1.0, factor)
    return factor, y.mean(axis=0) - factor * x.mean(axis=0)


def check_pixels(xy: np.ndarray, source: str, path: Path, diameter_px: float) -> None:
    """Raises LayerError for a position that is no number, and for positions that are no full-resolution px. xy (n, 2).

    diameter_px: of a spot in full-resolution px by the file; 0 if unknown.
    """
    lost = ~np.isfinite(xy).all(axis=1)
    if lost.any():
        raise LayerError(path, f"{int(lost.sum())} of {len(xy)} spots whose position in {source} is no number",
                         "x, y of every spot on tissue", "correct them, or remove these spots")
    pitch = median_spacing_px(xy)
    if 0 < pitch < MIN_PITCH_PX:
        raise LayerError(path, f"spots {pitch:.3g} px apart in {source}: array positions or mm, no pixels",
                         f"full-resolution px, {MIN_PITCH_PX:g} px apart or more",
                         "put the px in adata.obsm['spatial']")
    if pitch > 0 and diameter_px > MOST_DIAMETER * pitch:
        raise LayerError(path, f"spots {pitch:.3g} px apart in {source}, and spots of {diameter_px:.3g} px by "
                               "spot_diameter_fullres", "spot centres in full-resolution px",
                         "put the full-resolution px in adata.obsm['spatial'], or correct spot_diameter_fullres")
    for axis, name in enumerate("xy"):
        if len(xy) and np.median(xy[:, axis]) < 0:
            low, high = xy[:, axis].min(), xy[:, axis].max()
            raise LayerError(path, f"{name} from {low:.0f} to {high:.0f} in {source}: below 0, outside any image",
                             "px from the upper left corner of the image, y downwards",
                             f"turn the sign of {name}, if it was turned for a plot")
