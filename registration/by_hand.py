"""Pairs registered by hand: point pairs or a transform given by a person, in place of the automatic registration.

    samples: {C: {pairs: {4_to_3: {landmarks: landmarks/C_4_to_3.csv}}}}

Paths are relative to the dataset root.
"""
from pathlib import Path

import numpy as np

from common.config import PairConfig
from common.errors import DataError, LayerError
from common.io import read_json, read_table, reading
from registration.matching import Match, least_squares_affine
from registration.transforms import affine, read_itk

COLUMNS = ("moving_x", "moving_y", "fixed_x", "fixed_y")
MIN_POINTS = 3
MIN_FLATNESS = 1e-3     # of the points' smaller to their larger extent: on one line they fix no transform


def given_file(root: Path, pair: PairConfig | None) -> Path | None:
    """The file a person gave for a pair, or None."""
    return None if pair is None else root / (pair.landmarks or pair.transform)


def check_names(pairs: dict[str, PairConfig], existing: list[str], file: Path) -> None:
    """Raises DataError if the config names a pair that is not in the chain."""
    unknown = sorted(set(pairs) - set(existing))
    if unknown:
        raise DataError(file, f"pairs.{unknown[0]}", f"a pair of the chain: {', '.join(existing) or 'none'}",
                        "correct the key (moving_to_fixed)")


def read_given(root: Path, pair: PairConfig) -> Match:
    """The match given by the person's file, level-0 px; method 'landmarks' or 'transform'.

    Raises DataError if the config names a file that does not exist, LayerError if the file gives no match: that stops
    only this pair.
    """
    path, none = given_file(root, pair), np.zeros((0, 2))
    if not path.is_file():
        raise DataError(path, "no file", "the landmarks or transform that the config names",
                        "correct the path (relative to the dataset root)")
    if pair.landmarks is None:
        return Match(_read_matrix(path), "transform", 0, none, none)
    moving, fixed = read_landmarks(path)
    fit = least_squares_affine if len(moving) > MIN_POINTS else similarity
    return Match(fit(moving, fixed), "landmarks", len(moving), moving, fixed)


def read_landmarks(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read (moving (n, 2), fixed (n, 2)) level-0 px, n >= 3, not on one line. Raises LayerError."""
    table = read_table(path, COLUMNS, "a person", text=())
    values = table[list(COLUMNS)].apply(lambda column: column.astype(str).str.strip()).replace("nan", "")
    try:
        points = values.to_numpy().astype(np.float64)  # (n, 4)
    except ValueError:
        raise LayerError(path, "a coordinate that is not a number", "numbers (level-0 px)", "correct the row") from None
    if len(points) < MIN_POINTS:
        raise LayerError(path, f"{len(points)} points", f"{MIN_POINTS} or more pairs of points", "add points")
    for side in (points[:, :2], points[:, 2:]):
        extents = np.linalg.svd(side - side.mean(axis=0), compute_uv=False)
        if not extents[1] > MIN_FLATNESS * extents[0]:
            raise LayerError(path, "points on one line", "points spread over the tissue", "add a point off that line")
    return points[:, :2], points[:, 2:]


def similarity(moving: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """Least-squares rotation, scale and shift (2, 3), mirrored if that fits better (Umeyama 1991).

    For three points: an affine would fit them exactly, errors included.
    """
    centre_moving, centre_fixed = moving.mean(axis=0), fixed.mean(axis=0)
    a, b = moving - centre_moving, fixed - centre_fixed
    u, extent, v = np.linalg.svd(b.T @ a)
    linear = (u @ v) * extent.sum() / (a * a).sum()
    return affine(linear, centre_fixed - linear @ centre_moving)


def _read_matrix(path: Path) -> np.ndarray:
    """(2, 3) of a JSON with `matrix`, or of an ITK affine .mat. Raises LayerError."""
    try:
        with reading(path, "a person"):
            if path.suffix == ".mat":
                matrix = read_itk(path)
            else:
                matrix = np.asarray(read_json(path, "a person")["matrix"], np.float64)
    except LayerError as error:
        raise LayerError(path, f"no transform ({error.args[1]})",
                         "JSON with matrix [[a, b, x], [c, d, y]], or an ITK affine .mat", "correct the file") from None
    if matrix.shape != (2, 3) or not np.isfinite(matrix).all():
        raise LayerError(path, f"a matrix of shape {matrix.shape}", "a finite 2 x 3 matrix", "correct the file")
    return matrix
