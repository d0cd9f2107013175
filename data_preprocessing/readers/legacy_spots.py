"""Spot files and transformations of legacy ST: where the spots lie in the image."""
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import LayerError
from common.io import require_columns
from common.slide import size_px_of
from data_preprocessing.packed import unpacked
from data_preprocessing.readers import checked_spots, reading_table
from data_preprocessing.readers.legacy_tables import POSITION, cells, opened, positions, spot_name

if TYPE_CHECKING:
    import pandas as pd

WITHOUT_HEADER = ("x", "y", "new_x", "new_y", "pixel_x", "pixel_y", "selected")  # ST Spot Detector
NAMED_SPOT = ("name", "X", "Y")  # ST-Data
SELECTED = ("selected", "selection")
YES_NO = {"1": True, "1.0": True, "true": True, "t": True, "yes": True,
          "0": False, "0.0": False, "false": False, "f": False, "no": False}
ALIGNED_TOLERANCE = 0.011  # array steps: positions are written with two digits or more
MAX_OUTSIDE = 0.05  # share of the spots: a few lie on the cut edge of a picture
DECIMAL_COMMA = r"^\s*(-?\d+),(\d+)\s*$"
IDENTITY_ROW = (0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Spots:
    """The selected spots of a section. location: as in the data contract.

    aligned: (n, 2) measured array column and row, fractions of a step, or None where the file has none. image_px:
    (width, height) of the image that the positions were measured on, or None.
    """
    location: "pd.DataFrame"
    n_unselected: int = 0
    aligned: np.ndarray | None = None
    image_px: tuple[int, int] | None = None


def read_spots(path: Path) -> Spots:
    """A spot file: x, y (array column, row) or a first column `XxY`; pixel_x, pixel_y or X, Y; new_x, new_y; selected.

    new_x, new_y and selected may be absent: all are selected. Without a header: WITHOUT_HEADER. A first line 0, 0,
    width, height states the image. Raises LayerError for a broken file, a missing column, another word than those of
    YES_NO in `selected`, and as checked_spots.
    """
    import pandas as pd
    with reading_table(path, "spots, tab-separated"):
        table, image_px = _spot_table(path)
    if {"x", "y"} <= set(table):
        xy = table[["x", "y"]].apply(pd.to_numeric, errors="coerce")
        barcode = xy["x"].map("{:.0f}".format) + "x" + xy["y"].map("{:.0f}".format)
    else:
        barcode = table.iloc[:, 0].astype(str)
        xy = pd.DataFrame(positions(barcode), columns=["x", "y"], index=table.index)
    pixel = ["X", "Y"] if {"X", "Y"} <= set(table) and "pixel_x" not in table else ["pixel_x", "pixel_y"]
    require_columns(table, (*(("x", "y") if xy.isna().all(axis=None) else ()), *pixel), path)
    chosen = _selected(table, path)
    at = table.loc[chosen, pixel].set_axis(["pixel_x", "pixel_y"], axis=1)
    array = np.rint(xy[chosen]).set_axis(["i", "j"], axis=1)
    if len(table) and not chosen.any():
        raise LayerError(path, f"none of {len(table)} spots selected", "1 or True for the spots on tissue",
                         "correct the column, or remove it: then all are taken")
    location = checked_spots(pd.concat([at, array], axis=1).assign(barcode=barcode[chosen]), path)
    aligned = xy
    if {"new_x", "new_y"} <= set(table):
        aligned = table[["new_x", "new_y"]].apply(pd.to_numeric, errors="coerce")
    at_array = aligned[chosen].to_numpy(float)
    has_fractions = np.isfinite(at_array).all() and (at_array != np.rint(at_array)).any()
    return Spots(location, int((~chosen).sum()), at_array if has_fractions else None, image_px)


def _spot_table(path: Path) -> tuple["pd.DataFrame", tuple[int, int] | None]:
    """(the table with its columns named, (width, height) of the image if the file states it)."""
    import pandas as pd
    with opened(path) as stream:
        lines = stream.read().splitlines()
    image_px = None
    separator, first = cells(lines[0])
    if len(first) == 4 and first[:2] == ["0", "0"] and all(map(_is_number, first)):
        image_px = int(float(first[2])), int(float(first[3]))
        lines = lines[1:]
        separator, first = cells(lines[0]) if lines else ("\t", [])
    has_header = not all(map(_is_number, first[1:])) or not (first and (_is_number(first[0])
                                                                        or POSITION.fullmatch(first[0])))
    rows = lines[1:] if has_header else lines
    names = [name.strip() for name in first] if has_header else _names_without_header(first, path)
    if not any(map(str.strip, rows)):
        return pd.DataFrame(columns=names, dtype=str), image_px
    table = pd.read_csv(io.StringIO("\n".join(rows)), sep=separator, header=None, dtype=str)
    if table.shape[1] == len(names) + 1:
        names = ["", *names]  # R writes no cell above the row names
    while len(names) > table.shape[1] and names[-1] == "":
        names.pop()  # a separator at the end of the header
    if len(names) != table.shape[1]:
        raise LayerError(path, f"{len(names)} names of columns, rows of {table.shape[1]} values", "a value for each",
                         "correct the first line")
    if separator == ";":  # a spreadsheet of a country with decimal commas
        table = table.replace(DECIMAL_COMMA, r"\1.\2", regex=True)
    table.columns = [name or f"unnamed {k}" for k, name in enumerate(names)]
    return table, image_px


def _names_without_header(first: list[str], path: Path) -> list[str]:
    """The names of the columns of a file whose first line is a spot."""
    if len(first) == len(NAMED_SPOT) and not _is_number(first[0]):
        return list(NAMED_SPOT)
    if len(first) not in (len(WITHOUT_HEADER) - 1, len(WITHOUT_HEADER)):
        raise LayerError(path, f"{len(first)} columns and no line with their names",
                         f"{', '.join(WITHOUT_HEADER)}", "add a first line with the names of the columns")
    return list(WITHOUT_HEADER[:len(first)])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _selected(table: "pd.DataFrame", path: Path) -> np.ndarray:
    """Which rows are selected: (n,) bool; all where no column states it."""
    names = [name for name in SELECTED if name in table and table[name].notna().any()]
    if not names:
        return np.ones(len(table), bool)
    words = table[names[0]].fillna("").astype(str).str.strip().str.lower()
    unknown = sorted(set(words) - set(YES_NO))
    if unknown:
        raise LayerError(path, f"{names[0]}: {unknown[0]!r}", f"one of {', '.join(YES_NO)}", "correct the column")
    return words.map(YES_NO).to_numpy(bool)


def read_transformation(path: Path) -> np.ndarray:
    """The affine map array column, row, 1 -> px as (3, 2): nine numbers, in one line or three.

    The translation is in the last row (as the Spatial Research site writes it) or in the last column; the other of the
    two is 0 0 1. Raises LayerError for anything else.
    """
    with reading_table(path, "nine numbers"), opened(path) as stream:
        numbers = [float(word) for word in stream.read().replace(",", " ").replace(";", " ").split()]
    matrix = np.array(numbers).reshape(3, 3) if len(numbers) == 9 else np.full((3, 3), np.nan)
    for one in (matrix, matrix.T):
        if tuple(one[:, 2]) == IDENTITY_ROW and np.isfinite(one).all() and abs(np.linalg.det(one)) > 1e-9:
            return one[:, :2]
    raise LayerError(path, f"{len(numbers)} numbers: {' '.join(f'{number:g}' for number in numbers[:9])}",
                     "nine numbers of a 3 x 3 affine matrix, whose last column or last row is 0 0 1",
                     "copy the file again")


def spots_by_transformation(names: "pd.Index", transformation: Path, counts: Path) -> Spots:
    """Positions of the rows of a table of counts, by their names and the transformation. Rows that are no position are
    left out. Raises as read_transformation, and LayerError if two rows have one position.
    """
    import pandas as pd
    xy = positions(names)
    placed = np.isfinite(xy[:, 0])
    matrix = read_transformation(transformation)
    at = np.column_stack([xy[placed], np.ones(placed.sum())]) @ matrix  # (n, 2) px
    words = [POSITION.fullmatch(name) for name in names[placed]]
    location = pd.DataFrame({"barcode": [spot_name(one[1], one[2]) for one in words],
                             "pixel_x": at[:, 0], "pixel_y": at[:, 1],
                             "i": np.rint(xy[placed, 0]), "j": np.rint(xy[placed, 1])})
    return Spots(checked_spots(location, counts))


def named_by_spots(names: "pd.Index", xy: np.ndarray, spots: Spots, counts: Path) -> "pd.Index":
    """The names of the rows of a table whose positions are fractions of a step, as the names of the spot file.

    xy: (n_rows, 2) positions that the names state. A row is the spot of the same aligned position; where the spot file
    has none, the spot of the nearest whole position. Raises LayerError if two rows are one spot.
    """
    import pandas as pd
    from scipy.spatial import cKDTree
    rows = np.flatnonzero(np.isfinite(xy[:, 0]))
    array = spots.location[["i", "j"]].to_numpy(float)
    known, reach = (array, 0.5) if spots.aligned is None else (spots.aligned, ALIGNED_TOLERANCE)
    points = np.rint(xy[rows]) if spots.aligned is None else xy[rows]
    distance, nearest = cKDTree(known).query(points, distance_upper_bound=reach)
    near = np.isfinite(distance)
    found = pd.Series(nearest[near], index=rows[near])
    twice = found[found.duplicated(keep=False)]
    if len(twice):
        pair = twice[twice == twice.iloc[0]].index
        raise LayerError(counts, f"rows {names[pair[0]]} and {names[pair[1]]} of one spot, "
                         f"{spots.location['barcode'].iloc[twice.iloc[0]]}", "one row a spot",
                         "give a spot file with new_x and new_y, or remove a row")
    out = names.to_series().to_numpy(object)
    out[found.index] = spots.location["barcode"].to_numpy()[found.to_numpy()]
    return pd.Index(out, dtype=str)


def check_image(spots: Spots, file: Path, image: Path) -> int:
    """The number of spots whose centre lies outside the image.

    Raises LayerError if these are more than MAX_OUTSIDE of all, or if the spot file states another size of the image:
    the positions were measured on another copy of it.
    """
    actual = picture_size_px(image)
    if actual is None:
        return 0
    fix = "take the image they were measured on, or scale the positions"
    has = f"{image.name} has {actual[0]} x {actual[1]} px"
    if spots.image_px not in (None, actual):
        raise LayerError(file, f"positions on an image of {spots.image_px[0]} x {spots.image_px[1]} px, and {has}",
                         "positions in px of the image that is there", f"{fix} and correct the first line")
    xy = spots.location[["pixel_x", "pixel_y"]].to_numpy()
    outside = _n_outside(xy, actual)
    if outside > MAX_OUTSIDE * len(xy):
        right, bottom = xy.max(axis=0)
        if _n_outside(xy[:, ::-1], actual) <= MAX_OUTSIDE * len(xy):
            fix = f"exchange pixel_x and pixel_y if they are swapped: then the spots fit; else {fix}"
        raise LayerError(file, f"{outside} of {len(xy)} spots outside the image: they reach {right:.0f} x {bottom:.0f} "
                         f"px, and {has}", "positions in px of the image that is there", fix)
    return outside


def _n_outside(xy: np.ndarray, size_px: tuple[int, int]) -> int:
    """Of points (n, 2), level-0 px."""
    return int(((xy < -0.5) | (xy >= np.array(size_px) - 0.5)).any(axis=1).sum())


def picture_size_px(image: Path) -> tuple[int, int] | None:
    """(width, height) of level 0; None if it cannot be opened: the step that reads it reports it."""
    try:
        with unpacked(image) as plain:
            return size_px_of(plain)
    except LayerError:
        return None
