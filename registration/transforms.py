"""2D affine transforms of points: algebra, description, files, and the chain of pairs to the middle layer.

A transform is a (2, 3) float64 matrix [A | t] that maps a point p = (x, y) to A p + t; x right, y down, level-0 px unless said otherwise.
To warp an image with OpenCV, hand the same matrix (moving -> fixed) to `cv2.warpAffine`, which inverts it by itself; ITK resamples
the other way round, from fixed to moving: give it the inverse.
"""
from pathlib import Path

import numpy as np

from common.errors import DataError
from common.io import atomic_path, read_json, write_json

ITK_NAME = "AffineTransform_double_2_2"


# algebra ---------------------------------------------------------------------------------------------
def identity() -> np.ndarray:
    """(2, 3) float64."""
    return np.eye(2, 3)


def affine(linear: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """[A | t] of a (2, 2) linear part and a (2,) shift."""
    return np.column_stack([linear, shift]).astype(np.float64)


def scaling(x: float, y: float) -> np.ndarray:
    """Pixels of an image -> pixels of it enlarged x- and y-fold (pixel centres at whole numbers: the corner stays at -0.5)."""
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2]])


def rotation(degrees: float, centre: np.ndarray = (0.0, 0.0)) -> np.ndarray:
    """Rotation about `centre`, from the x axis (right) towards the y axis (down)."""
    angle = np.deg2rad(degrees)
    linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.asarray(centre, np.float64)
    return affine(linear, centre - linear @ centre)


def compose(*matrices: np.ndarray) -> np.ndarray:
    """The transform that applies the LAST matrix first: compose(a, b)(p) = a(b(p))."""
    out = np.eye(3)
    for matrix in matrices:
        out = out @ np.vstack([matrix, [0, 0, 1]])
    return out[:2]


def invert(matrix: np.ndarray) -> np.ndarray:
    """The inverse transform. Raises numpy.linalg.LinAlgError if there is none."""
    linear = np.linalg.inv(matrix[:, :2])
    return affine(linear, -linear @ matrix[:, 2])


def apply_to_points(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """points (..., 2) -> (..., 2) float64."""
    return np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]


def describe(matrix: np.ndarray) -> dict[str, float]:
    """What the linear part does: A = rotation · [[1, shear], [0, 1]] · diag(scale_x, scale_y); a mirrored A has scale_y < 0.

    Keys rotation_deg, scale_x, scale_y, shear, determinant.
    """
    linear = matrix[:, :2]
    scale_x = float(np.hypot(*linear[:, 0]))
    determinant = float(np.linalg.det(linear))
    scale_y = determinant / scale_x
    return {"rotation_deg": float(np.rad2deg(np.arctan2(linear[1, 0], linear[0, 0]))), "scale_x": scale_x, "scale_y": scale_y,
            "shear": float(linear[:, 0] @ linear[:, 1] / determinant), "determinant": determinant}


# the chain -------------------------------------------------------------------------------------------
def middle_layer(layers: list[int]) -> int:
    """The layer at index n // 2 of the layers in z order (released code)."""
    return layers[len(layers) // 2]


def pair_partner(layers: list[int], layer: int) -> int | None:
    """The layer that `layer` is registered to: its neighbour towards the middle; None for the middle itself."""
    index, middle = layers.index(layer), len(layers) // 2
    return None if index == middle else layers[index + (1 if index < middle else -1)]


def chain_to_middle(layers: list[int], pairs: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    """Chain the pair transforms.

    layers in z order; pairs {moving layer: (2, 3) points of it -> points of its partner};
    -> {layer: (2, 3) points of it -> points of the middle}.
    """
    index = len(layers) // 2
    chained = {layers[index]: identity()}
    for layer in (*reversed(layers[:index]), *layers[index + 1:]):  # outwards from the middle
        chained[layer] = compose(chained[pair_partner(layers, layer)], pairs[layer])
    return {layer: chained[layer] for layer in layers}


# files -----------------------------------------------------------------------------------------------
def write_transform(path: Path, matrix: np.ndarray, moving: int, fixed: int, **more) -> None:
    """JSON with the matrix, in words what it maps, and further entries."""
    maps = f"points of layer {moving} (level-0 px) to points of layer {fixed} (level-0 px)"
    write_json(path, {"moving": moving, "fixed": fixed, "maps": maps, "matrix": np.asarray(matrix, np.float64).tolist(), **more})


def read_transform(path: Path, made_by: str) -> tuple[np.ndarray, dict]:
    """((2, 3) float64, the whole JSON). Raises LayerError if the file is missing, DataError if it holds no transform."""
    entry = read_json(path, made_by)
    matrix = np.asarray(entry.get("matrix", []), np.float64)
    if matrix.shape != (2, 3) or not np.isfinite(matrix).all():
        raise DataError(path, f"a matrix of shape {matrix.shape}", "a finite 2 x 3 matrix", f"run {made_by} again with --overwrite")
    return matrix, entry


def write_itk(path: Path, matrix: np.ndarray) -> None:
    """ITK affine (.mat, MATLAB 4) that maps points as our matrix does, in px (spacing 1, origin 0).

    `ants.apply_transforms_to_points(2, points, [file])` equals `apply_to_points`; to resample the moving image, invert it
    (`ants.apply_transforms(fixed, moving, [file], whichtoinvert=[True])`).
    """
    from scipy.io import savemat
    parameters = np.concatenate([matrix[:, :2].ravel(), matrix[:, 2]]).astype(np.float64)  # (6,) row by row, then the shift
    with atomic_path(path) as temporary:
        savemat(temporary, {ITK_NAME: parameters[:, None], "fixed": np.zeros((2, 1))}, format="4", appendmat=False)


def read_itk(path: Path) -> np.ndarray:
    """(2, 3) float64 of an ITK affine .mat, whatever its centre of rotation."""
    from scipy.io import loadmat
    content = loadmat(path, appendmat=False)
    parameters, centre = content[ITK_NAME].ravel(), content["fixed"].ravel()
    linear = parameters[:4].reshape(2, 2)
    return affine(linear, parameters[4:] + centre - linear @ centre)
