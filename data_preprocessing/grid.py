"""Spots for an image-only layer: the points of a lattice that lie on its tissue. Arrays in, a table out.

The lattice is that of the measured arrays, with the same indices:

    square    legacy ST: i = column, j = row
    hex       Visium: i = array_col, which steps by 2 in a row, j = array_row; i + j is even,
              rows lie sqrt(3) / 2 of the pitch apart

A lattice point is at the tissue's centroid, so the lattice moves with the tissue and does not depend on the pixel size.
Source: own.
"""
from pathlib import Path

import numpy as np
import pandas as pd

from common.layout import Layout

GENERATED = "grid_"  # prefix of the barcodes of generated spots; measured spots never have it
STEP_PITCHES = {"square": (1.0, 1.0), "hex": (0.5, np.sqrt(0.75))}  # x of one i, y of one j


def spot_grid(mask: np.ndarray, scale: np.ndarray, pitch_px: float, array: str) -> pd.DataFrame:
    """The lattice points on tissue, row by row: barcode, pixel_x, pixel_y (level-0 px), i, j (from 0 on).

    mask (h, w) bool, not empty; scale (2,) level-0 px per mask px (x, y); pitch_px in level-0 px; array: 'square' or
    'hex'.
    """
    step = pitch_px * np.array(STEP_PITCHES[array])
    tissue = np.argwhere(mask)[:, ::-1]  # (n_tissue, 2) x, y
    bounds = (tissue.min(axis=0), tissue.mean(axis=0), tissue.max(axis=0))  # mask px
    low, centre, high = ((at + 0.5) * scale - 0.5 for at in bounds)  # level-0 px
    first, last = np.floor((low - centre) / step).astype(int), np.ceil((high - centre) / step).astype(int)
    first[0] -= first.sum() % 2  # whole pairs of steps: i + j stays even
    columns, rows = (np.arange(a, b + 1) for a, b in zip(first, last, strict=True))
    index = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)  # row by row
    if array == "hex":
        index = index[index.sum(axis=1) % 2 == 0]
    xy = centre + index * step  # (n, 2)
    on_tissue = is_tissue(xy, mask, scale)
    (i, j), (x, y) = (index[on_tissue] - first).T, xy[on_tissue].T
    barcode = [f"{GENERATED}{column}x{row}" for column, row in zip(i, j, strict=True)]
    return pd.DataFrame({"barcode": barcode, "pixel_x": x, "pixel_y": y, "i": i, "j": j})


def is_tissue(xy: np.ndarray, mask: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Which points (n, 2), level-0 px, lie on tissue: (n,) bool."""
    column, row = np.floor((xy + 0.5) / scale).astype(int).T
    rows, columns = mask.shape
    inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    inside[inside] = mask[row[inside], column[inside]]
    return inside


def measured_location(layout: Layout, sample: str, layer: int) -> Path | None:
    """The layer's location file; None if there is none or its spots are those of step 0_3, by the first barcode."""
    path = layout.location(sample, layer)
    if not path.is_file():
        return None
    with open(path, errors="replace") as stream:
        stream.readline()
        return None if stream.readline().startswith(GENERATED) else path


def is_measured(layout: Layout, sample: str, layer: int) -> bool:
    """True if this layer has counts, or spots that are not those of step 0_3."""
    return layout.counts(sample, layer).is_file() or measured_location(layout, sample, layer) is not None
