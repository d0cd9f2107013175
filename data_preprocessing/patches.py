"""Positions of patches: windows of spots, the grid of region and global patches, and membership in them.

All coordinates are level-0 px, x = column, y = row; a corner is a window's top-left. The grid starts at (0, 0) with the
window as its step and covers the slide: the last column and row are shifted inside. Source: Zhu et al., CVPR 2025.
"""
import numpy as np
import pandas as pd

from common.errors import LayerError
from common.io import read_location, read_table, write_table
from common.layout import GLOBAL, REGION, SPOT, Layout

PATCH_COLUMNS = ("patch_name", "x", "y", "i", "j", "width", "height")


# geometry --------------------------------------------------------------------------------------------
def spot_corners(centre: np.ndarray, window_px: int) -> np.ndarray:
    """Corners of windows centred on the spots: (n, 2) float px -> (n, 2) int64, may lie beyond the slide."""
    return np.floor(centre - window_px / 2 + 0.5).astype(np.int64)


def last_cell(slide_px: tuple[int, int], window_px: int) -> np.ndarray:
    """Last grid column and row of a slide (width, height): (2,) int64."""
    return np.maximum(-(-np.asarray(slide_px, np.int64) // window_px), 1) - 1


def cells_of(point: np.ndarray, last: np.ndarray, window_px: int) -> np.ndarray:
    """Grid column and row of points: (n, 2) px -> (n, 2) int64. Points beyond the slide belong to the nearest cell."""
    return np.clip(np.floor_divide(point, window_px).astype(np.int64), 0, last)


def cell_corners(cell: np.ndarray, slide_px: tuple[int, int], window_px: int) -> np.ndarray:
    """Corners of grid cells: (n, 2) -> (n, 2) int64; inside the slide where the slide is as large as the window."""
    return np.minimum(cell * window_px, np.maximum(np.asarray(slide_px, np.int64) - window_px, 0))


def unique_cells(cell: np.ndarray) -> np.ndarray:
    """Distinct cells sorted by row, then column: (n, 2) -> (m, 2)."""
    return np.unique(cell[:, ::-1], axis=0)[:, ::-1]


def overlapping_cells(corner: np.ndarray, side_px: int, slide_px: tuple[int, int], window_px: int) -> np.ndarray:
    """Cells of the grid whose window shares area with one of the squares: (m, 2), sorted by row, then column.

    corner (n, 2) px and side_px: the squares.
    """
    columns, rows = last_cell(slide_px, window_px) + 1
    cells = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2)  # row by row
    cell_corner = cell_corners(cells, slide_px, window_px)[:, None]  # (n_cells, 1, 2)
    apart = (cell_corner >= corner + side_px) | (corner >= cell_corner + window_px)  # (n_cells, n, 2)
    return cells[(~apart.any(axis=2)).any(axis=1)]


# tables ----------------------------------------------------------------------------------------------
def patch_table(name: list[str], corner: np.ndarray, ij: np.ndarray, window_px: int) -> pd.DataFrame:
    """One row a patch: patch_name, x, y (corner, level-0 px), i, j (column, row), width, height (level-0 px)."""
    return pd.DataFrame({"patch_name": name, "x": corner[:, 0], "y": corner[:, 1], "i": ij[:, 0], "j": ij[:, 1],
                         "width": window_px, "height": window_px}, columns=list(PATCH_COLUMNS))


def grid_table(size: int, cell: np.ndarray, slide_px: tuple[int, int], window_px: int) -> pd.DataFrame:
    """The patches of some grid cells, named `<size>_<column>_<row>`."""
    return patch_table([f"{size}_{i}_{j}" for i, j in cell], cell_corners(cell, slide_px, window_px), cell, window_px)


def level_tables(location: pd.DataFrame, slide_px: tuple[int, int],
                 window_px: dict[int, int]) -> dict[int, pd.DataFrame]:
    """Patches of the three levels, {nominal side: table}.

    One patch a spot (location order), the regions that hold a spot, the globals that overlap such a region.
    """
    centre = location[["pixel_x", "pixel_y"]].to_numpy()  # (n_spots, 2)
    spots = patch_table(list(location["barcode"]), spot_corners(centre, window_px[SPOT]),
                        location[["i", "j"]].to_numpy(), window_px[SPOT])
    cells = unique_cells(cells_of(centre, last_cell(slide_px, window_px[REGION]), window_px[REGION]))
    regions = grid_table(REGION, cells, slide_px, window_px[REGION])
    cells = overlapping_cells(regions[["x", "y"]].to_numpy(), window_px[REGION], slide_px, window_px[GLOBAL])
    return {SPOT: spots, REGION: regions, GLOBAL: grid_table(GLOBAL, cells, slide_px, window_px[GLOBAL])}


def centres(table: pd.DataFrame) -> np.ndarray:
    """Centres of patches: (n, 2) int64 px."""
    return (table[["x", "y"]].to_numpy() + table[["width", "height"]].to_numpy() // 2).astype(np.int64)


# membership ------------------------------------------------------------------------------------------
def parent_rows(parents: pd.DataFrame, point: np.ndarray) -> np.ndarray:
    """Row in `parents` (kept patches of one grid) of the cell of each point (n, 2) px: (n,) int64, -1 if not kept.

    The slide's size is not needed: a point beyond the last kept column or row can only lie beyond the slide.
    """
    cells = cells_of(point, parents[["i", "j"]].to_numpy().max(axis=0), int(parents["width"].iloc[0]))
    row_of = {cell: row for row, cell in enumerate(zip(parents["i"], parents["j"], strict=True))}
    return np.array([row_of.get(tuple(cell), -1) for cell in cells.tolist()], np.int64)


def joined_members(parents: pd.DataFrame, name: pd.Series, point: np.ndarray) -> list[str]:
    """Names of the members of each parent in their own order, joined by ';'.

    Raises ValueError for a point without a parent.
    """
    row = parent_rows(parents, point)
    if (row < 0).any():
        raise ValueError(f"{name[row < 0].iloc[0]} lies in no kept patch")
    members = pd.Series(name.to_numpy()).groupby(row).agg(";".join)
    return list(members.reindex(range(len(parents)), fill_value=""))


def read_patch_table(layout: Layout, size: int, sample: str, layer: int) -> pd.DataFrame:
    """patches_csv of one level. Raises LayerError if step 1 has not written it or a column is missing."""
    return read_table(layout.patches_csv(size, sample, layer), PATCH_COLUMNS, "1_cropped_multi_level_patch.py",
                      text=("patch_name",))


def pair_level(layout: Layout, size: int, sample: str, layer: int) -> str:
    """Write the members of one grid level (512: spots; 1024: regions) beside the patches; returns one line.

    Raises LayerError if a spot or region has no patch of that level: the layer's patches are older than its spots.
    """
    parents = read_patch_table(layout, size, sample, layer)
    if size == REGION:
        spots = read_location(layout.location(sample, layer))
        column, name, point = "spots", spots["barcode"], spots[["pixel_x", "pixel_y"]].to_numpy()
        target = layout.region_pairs_csv(sample, layer)
    else:
        regions = read_patch_table(layout, REGION, sample, layer)
        column, name, point = "regions", regions["patch_name"], centres(regions)
        target = layout.global_pairs_csv(sample, layer)
    try:
        parents[column] = joined_members(parents, name, point)
    except ValueError as error:
        raise LayerError(layout.patches_csv(size, sample, layer), str(error),
                         f"a {size} patch for each of the {column}",
                         "run 1_cropped_multi_level_patch.py again") from None
    write_table(target, parents)
    return f"{len(name)} {column} in {int((parents[column] != '').sum())} patches of {size} px"
