"""Pieces of tissue: the connected parts of a mask, each named by a point inside it. Arrays in, arrays out.

A number of a piece changes with every other piece; a point inside it stays. So a person names a piece by a point.
"""
from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Piece:
    """One connected part of a tissue mask."""
    label: int                   # in the labels of `label_pieces`
    share: float                 # of the tissue
    area_px: int                 # mask px
    point: tuple[float, float]   # x, y inside the piece, far from its rim, level-0 px (whole numbers)


def label_pieces(mask: np.ndarray) -> np.ndarray:
    """The number of the piece that every px belongs to, from 1 on; 0 on the slide. (h, w) bool -> (h, w) int32."""
    return cv2.connectedComponents(mask.astype(np.uint8), connectivity=8, ltype=cv2.CV_32S)[1]


def pieces_of(labels: np.ndarray, scale: tuple[float, float] | np.ndarray) -> list[Piece]:
    """Every piece, in the order of its label. labels (h, w); scale: level-0 px per mask px, x and y."""
    from scipy.ndimage import find_objects
    areas, found = np.bincount(labels.ravel()), []
    for label, box in enumerate(find_objects(labels), 1):
        column, row = _inner_point(labels[box] == label)
        at = (np.array([column + box[1].start, row + box[0].start]) + 0.5) * scale - 0.5
        point = float(round(at[0])), float(round(at[1]))
        found.append(Piece(label, float(areas[label] / areas[1:].sum()), int(areas[label]), point))
    return found


def _inner_point(piece: np.ndarray) -> tuple[int, int]:
    """The px (column, row) of a piece (h, w) bool that lies farthest from its rim."""
    padded = np.pad(piece, 1).astype(np.uint8)
    row, column = np.unravel_index(cv2.distanceTransform(padded, cv2.DIST_L2, 5).argmax(), padded.shape)
    return int(column) - 1, int(row) - 1


def piece_at(labels: np.ndarray, scale: tuple[float, float] | np.ndarray, xy: np.ndarray) -> np.ndarray:
    """The label of the piece under each point (n, 2), level-0 px; 0 on the slide and outside the picture: (n,) int."""
    column, row = np.floor((np.asarray(xy, np.float64).reshape(-1, 2) + 0.5) / scale).astype(int).T
    height, width = labels.shape
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    found = np.zeros(len(column), int)
    found[inside] = labels[row[inside], column[inside]]
    return found


def nearest_piece(labels: np.ndarray, within_px: float = np.inf) -> np.ndarray:
    """The label of the piece nearest to every px, 0 where none is within so many mask px: (h, w) int32."""
    if not labels.any():
        return np.zeros_like(labels)
    away, source = cv2.distanceTransformWithLabels((labels == 0).astype(np.uint8), cv2.DIST_L2, 5,
                                                   labelType=cv2.DIST_LABEL_PIXEL)
    piece_of = np.zeros(int(source.max()) + 1, np.int32)
    piece_of[source[labels > 0]] = labels[labels > 0]
    return np.where(away <= within_px, piece_of[source], 0).astype(np.int32)
