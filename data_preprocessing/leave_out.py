"""Pieces of tissue that the config leaves out of a section's mask: control tissue, a second section on the slide."""
from pathlib import Path

import numpy as np

from common.errors import LayerError
from common.pieces import label_pieces, piece_at, pieces_of

SHOWN = 12  # pieces named in an error, the largest first


def without_pieces(mask: np.ndarray, points: list[list[float]], size_px: tuple[int, int], image: Path) -> np.ndarray:
    """The mask without the piece under each point. (h, w) bool -> (h, w) bool.

    points: [x, y] each, level-0 px; size_px: width and height of level 0. Raises LayerError, which names the pieces, if
    a point lies on no piece or nothing is left.
    """
    labels, scale = label_pieces(mask), _scale(mask, size_px)
    chosen = piece_at(labels, scale, np.array(points))  # (n,)
    if (chosen == 0).any():
        off = ", ".join(str([round(value) for value in points[k]]) for k in np.flatnonzero(chosen == 0))
        raise LayerError(image, f"no tissue at {off} of leave_out",
                         f"points on pieces of tissue: {_named(labels, scale)}",
                         "correct leave_out (level-0 px of this image, x and y)")
    rest = mask & ~np.isin(labels, chosen)
    if not rest.any():
        raise LayerError(image, "leave_out of all tissue", f"a piece that stays: {_named(labels, scale)}",
                         "leave out fewer pieces, or skip the section")
    return rest


def check_spots(xy: np.ndarray, left_out: np.ndarray, size_px: tuple[int, int], location: Path) -> None:
    """Raise LayerError if measured spots lie on tissue that is left out.

    xy (n, 2) level-0 px; left_out (h, w) bool.
    """
    n_spots = int(np.count_nonzero(piece_at(left_out.astype(np.int32), _scale(left_out, size_px), xy)))
    if n_spots:
        raise LayerError(location, f"{n_spots} of {len(xy)} measured spots on tissue that leave_out leaves out",
                         "none: their counts would train the model",
                         "deselect them in the raw files (in_tissue, selected) and run step 0_1 again, or remove "
                         "their rows from location/ and counts/, or the piece from leave_out")


def _scale(mask: np.ndarray, size_px: tuple[int, int]) -> np.ndarray:
    """(2,): level-0 px per mask px, x and y."""
    return np.array(size_px) / mask.shape[::-1]


def _named(labels: np.ndarray, scale: np.ndarray) -> str:
    """A point on every piece with its share of the tissue, the largest first."""
    found = sorted(pieces_of(labels, scale), key=lambda piece: -piece.area_px)
    more = f" and {len(found) - SHOWN} smaller ones" if len(found) > SHOWN else ""
    named = [f"[{piece.point[0]:.0f}, {piece.point[1]:.0f}] ({piece.share:.1%})" for piece in found[:SHOWN]]
    return ", ".join(named) + more
