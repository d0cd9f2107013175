"""Bins of a square chip, pooled to spots.

A bin has a place on the chip (array_row, array_col). A spot is the square of `factor` x `factor` bins whose array_row
and array_col have the same quotient by `factor`: the chip's own grid, without interpolation, whichever way the chip
lies in the image.
"""
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import LayerError

if TYPE_CHECKING:
    from scipy import sparse

MIN_ON_TISSUE = 0.5  # share of a square's bins that must lie on tissue
MAX_RESIDUAL = 0.25  # root mean square distance of the bins from the chip's grid, in spot pitches


@dataclass(frozen=True)
class Pooled:
    """The spots of a chip.

    square: (n_spots, 2) int64, column and row of the square, in the order of rows, then columns. xy: (n_spots, 2)
    float64, centre of the whole square, px. spot_of_bin: (n_bins,) int64, -1 for a bin that is in no spot.
    n_too_few: squares with bins on tissue, too few of them. bin_px: side of a bin, px.
    """
    square: np.ndarray
    xy: np.ndarray
    spot_of_bin: np.ndarray
    n_too_few: int
    bin_px: float


def pool(place: np.ndarray, xy: np.ndarray, on_tissue: np.ndarray, factor: int, file: Path) -> Pooled:
    """Pool bins to squares of factor x factor.

    place: (n_bins, 2) int, array column and row; xy: (n_bins, 2) px; on_tissue: (n_bins,) bool; bins off the tissue
    only help to place the centres. A square is a spot if MIN_ON_TISSUE of its factor**2 bins are listed and on tissue.
    Raises LayerError if no square is, or if the positions do not follow the grid of the chip.
    """
    corner = place.min(axis=0) // factor
    square = place // factor - corner  # (n_bins, 2)
    n_columns = int(square[:, 0].max()) + 1
    number = square[:, 1] * n_columns + square[:, 0]  # (n_bins,)
    n_squares = int(number.max()) + 1
    n_on_tissue = np.bincount(number[on_tissue], minlength=n_squares)  # (n_squares,)
    kept = np.flatnonzero(n_on_tissue >= MIN_ON_TISSUE * factor**2)
    if not len(kept):
        raise LayerError(file, f"no square of {factor} x {factor} bins with {MIN_ON_TISSUE:.0%} of them on tissue",
                         "tissue that fills one", "set a smaller pitch_um, or correct in_tissue")
    step, origin = grid_of(place, xy, file)
    residual = xy - place @ step - origin  # (n_bins, 2)
    bin_px = float(np.hypot(*step.T).mean())
    spread = float(np.sqrt((residual**2).sum(axis=1).mean()))
    if not spread <= MAX_RESIDUAL * factor * bin_px:
        raise LayerError(file, f"bins {spread:.3g} px off the grid of the chip (root mean square)",
                         f"at most {MAX_RESIDUAL:g} of a spot's {factor * bin_px:.3g} px",
                         "copy the file again: positions and array places are of one section")
    where = np.column_stack([kept % n_columns, kept // n_columns]) + corner  # (n_spots, 2)
    centre = (where * factor + (factor - 1) / 2) @ step + origin
    n_listed = np.bincount(number, minlength=n_squares)[kept]  # (n_spots,)
    bent = [np.bincount(number, axis, minlength=n_squares)[kept] / n_listed for axis in residual.T]
    spot_of_square = np.full(n_squares, -1)
    spot_of_square[kept] = np.arange(len(kept))
    return Pooled(where, centre + np.column_stack(bent), np.where(on_tissue, spot_of_square[number], -1),
                  int(np.count_nonzero(n_on_tissue)) - len(kept), bin_px)


def grid_of(place: np.ndarray, xy: np.ndarray, file: Path) -> tuple[np.ndarray, np.ndarray]:
    """(step, origin) of the affine grid xy = place @ step + origin: (2, 2) px per array column and row, (2,) px.

    place (n, 2), xy (n, 2). Raises LayerError if the places lie on one line.
    """
    mean, centre = place.mean(axis=0), xy.mean(axis=0)
    shift = place - mean  # (n, 2)
    square = shift.T @ shift
    if len(place) < 3 or np.linalg.matrix_rank(square) < 2:
        raise LayerError(file, f"{len(place)} bins on one line of the chip", "bins in several rows and columns",
                         "copy the file again")
    step = np.linalg.solve(square, shift.T @ (xy - centre))
    return step, centre - mean @ step


def sums(counts: "sparse.csr_matrix", spot_of_row: np.ndarray, n_spots: int) -> "sparse.csr_matrix":
    """Counts of the spots (n_spots, n_genes), CSR float32: sums over the rows of each spot.

    counts: (n_rows, n_genes) CSR; spot_of_row: (n_rows,) int, -1 for a row of no spot.
    """
    from scipy import sparse
    rows = np.flatnonzero(spot_of_row >= 0)
    ones = np.ones(len(rows), np.float32)
    members = sparse.csr_matrix((ones, (spot_of_row[rows], rows)), shape=(n_spots, len(spot_of_row)))
    pooled = (members @ counts).tocsr().astype(np.float32)  # (n_spots, n_genes)
    pooled.sort_indices()
    return pooled
