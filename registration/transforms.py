"""2D transforms of points: affine algebra, a field that bends, files, and the chain of pairs to the middle layer.

An affine is a (2, 3) float64 matrix [A | t] that maps a point p = (x, y) to A p + t; x right, y down, level-0 px unless
stated otherwise. A `Transform` is an affine and, where sections are bent onto each other, a displacement field D on a
grid of the FIXED frame: p -> q + D(q), q = A p + t. Points go forward through it. An image is drawn backward: every
fixed pixel is sampled where it came from.
"""
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from common.errors import LayerError
from common.io import atomic_path, read_json, read_npz, reading, write_json, write_npz

ITK_NAME = "AffineTransform_double_2_2"
TOLERANCE_PX = 1e-3     # a point is brought back through a field to within this
MAX_ROUNDS = 200        # of the search for it; a mild field needs 20


@dataclass(frozen=True)
class Warp:
    """A displacement field on a regular grid of the fixed frame.

    Bilinear between the nodes, zero at the grid's border and beyond.
    """
    field: np.ndarray       # (h, w, 2) float32, displacement in x and y, fixed px
    to_fixed: np.ndarray    # (2, 3) float64, grid px -> fixed px; the grid's axes are those of the frame


@dataclass(frozen=True)
class Transform:
    """Points of the moving layer -> points of the fixed layer: p -> q + D(q), q = A p + t."""
    matrix: np.ndarray          # (2, 3) float64
    warp: Warp | None = None    # D; None: the affine is all


# algebra ---------------------------------------------------------------------------------------------
def identity() -> np.ndarray:
    """(2, 3) float64."""
    return np.eye(2, 3)


def affine(linear: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """[A | t] of a (2, 2) linear part and a (2,) shift."""
    return np.column_stack([linear, shift]).astype(np.float64)


def scaling(x: float, y: float) -> np.ndarray:
    """Pixels of an image -> pixels of it enlarged x- and y-fold.

    Pixel centres lie at whole numbers, so the corner stays at -0.5.
    """
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2]])


def rotation(degrees: float, centre: np.ndarray = (0.0, 0.0)) -> np.ndarray:
    """Rotation about `centre`, from the x axis (right) towards the y axis (down)."""
    angle = np.deg2rad(degrees)
    linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.asarray(centre, np.float64)
    return affine(linear, centre - linear @ centre)


def compose(*matrices: np.ndarray) -> np.ndarray:
    """The product of affines; the LAST one is applied first."""
    out = np.eye(3)
    for matrix in matrices:
        out = out @ np.vstack([matrix, [0, 0, 1]])
    return out[:2]


def invert(matrix: np.ndarray) -> np.ndarray:
    """The inverse transform. Raises numpy.linalg.LinAlgError if there is none."""
    linear = np.linalg.inv(matrix[:, :2])
    return affine(linear, -linear @ matrix[:, 2])


def apply_to_points(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Move points (..., 2) -> (..., 2) float64."""
    return np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]


def describe(matrix: np.ndarray) -> dict[str, float]:
    """Decompose the linear part: A = rotation · [[1, shear], [0, 1]] · diag(scale_x, scale_y).

    Keys rotation_deg, scale_x, scale_y, shear, determinant. A mirrored A has scale_y < 0.
    """
    linear = matrix[:, :2]
    scale_x = float(np.hypot(*linear[:, 0]))
    determinant = float(np.linalg.det(linear))
    scale_y = determinant / scale_x
    rotation_deg = float(np.rad2deg(np.arctan2(linear[1, 0], linear[0, 0])))
    shear = float(linear[:, 0] @ linear[:, 1] / determinant)
    return {"rotation_deg": rotation_deg, "scale_x": scale_x, "scale_y": scale_y, "shear": shear,
            "determinant": determinant}


# transforms that may bend -----------------------------------------------------------------------------
def displacement(warp: Warp, points: np.ndarray) -> np.ndarray:
    """The displacement D at points (..., 2) of the fixed frame: (..., 2) float64, fixed px."""
    from scipy.ndimage import map_coordinates
    column_row = apply_to_points(invert(warp.to_fixed), points)
    at = np.moveaxis(column_row[..., ::-1], -1, 0)  # (2, ...): row, column
    field = warp.field.astype(np.float64)
    return np.stack([map_coordinates(field[..., axis], at, order=1, mode="grid-constant") for axis in (0, 1)], axis=-1)


def move(transform: Transform, points: np.ndarray) -> np.ndarray:
    """Points (..., 2) of the moving layer -> of the fixed layer, (..., 2) float64."""
    moved = apply_to_points(transform.matrix, points)
    return moved if transform.warp is None else moved + displacement(transform.warp, moved)


def move_back(transform: Transform, points: np.ndarray) -> np.ndarray:
    """Points (..., 2) of the fixed layer -> of the moving layer, (..., 2) float64: the inverse of `move`."""
    points = np.asarray(points, np.float64)
    straight = points if transform.warp is None else _unbent(transform.warp, points)
    return apply_to_points(invert(transform.matrix), straight)


def _unbent(warp: Warp, points: np.ndarray) -> np.ndarray:
    """The q with q + D(q) = points, by fixed-point iteration in half steps.

    It converges up to a stretch of three if nothing folds.
    """
    found = points
    for _ in range(MAX_ROUNDS):
        rest = points - found - displacement(warp, found)
        if np.abs(rest).max(initial=0) < TOLERANCE_PX:
            break
        found = found + rest / 2
    return found


def inverse_warp(warp: Warp) -> Warp:
    """The field E on the grid of D with p + E(p) = q where q + D(q) = p. It draws an image (fixed -> moving)."""
    nodes = _nodes(warp)
    return Warp((_unbent(warp, nodes) - nodes).astype(np.float32), warp.to_fixed)


def _nodes(warp: Warp) -> np.ndarray:
    """(h, w, 2) float64: the grid's nodes in the fixed frame."""
    height, width = warp.field.shape[:2]
    return apply_to_points(warp.to_fixed, np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1))


def smallest_jacobian(warp: Warp, where: np.ndarray | None = None) -> float:
    """Smallest determinant of the derivative of q + D(q) over the nodes; 0 or less: the tissue folds.

    where: (h, w) bool, the nodes to look at; all if none is chosen.
    """
    linear = np.linalg.inv(warp.to_fixed[:, :2])
    by_row, by_column = np.gradient(warp.field.astype(np.float64), axis=(0, 1))  # (h, w, 2) per grid px
    derivative = np.stack([by_column, by_row], axis=-1) @ linear + np.eye(2)  # (h, w, 2, 2) per fixed px
    determinant = np.linalg.det(derivative)
    return float(determinant.min() if where is None or not where.any() else determinant[where].min())


def in_frames(transform: Transform, moving: np.ndarray, fixed: np.ndarray) -> Transform:
    """The same transform between other frames. moving, fixed: (2, 3) from its px to the new px."""
    matrix, warp = compose(fixed, transform.matrix, invert(moving)), transform.warp
    if warp is None:
        return Transform(matrix)
    field = (warp.field @ fixed[:, :2].T).astype(np.float32)
    return Transform(matrix, Warp(field, compose(fixed, warp.to_fixed)))


def chain(second: Transform, first: Transform) -> Transform:
    """The transform that moves by `first`, then by `second`, as ONE affine and ONE field in the last frame.

    The field is sampled on the finer of both spacings over both grids: D(g) = second(first(M^-1 g)) - g with M the
    product of both affines.
    """
    matrix = compose(second.matrix, first.matrix)
    grids = []  # shape of the field, grid px -> px of the last frame
    if first.warp is not None:
        grids.append((first.warp.field.shape, compose(second.matrix, first.warp.to_fixed)))
    if second.warp is not None:
        grids.append((second.warp.field.shape, second.warp.to_fixed))
    if not grids:
        return Transform(matrix)
    corners = np.concatenate([apply_to_points(to_last, np.array([[0, 0], [w - 1, 0], [0, h - 1], [w - 1, h - 1]]))
                              for (h, w, _), to_last in grids])
    spacing = min(np.sqrt(abs(np.linalg.det(to_last[:, :2]))) for _, to_last in grids)
    low, high = corners.min(axis=0) - spacing, corners.max(axis=0) + spacing
    width, height = np.ceil((high - low) / spacing).astype(int) + 1
    empty = Warp(np.zeros((height, width, 2), np.float32), affine(spacing * np.eye(2), low))
    nodes = _nodes(empty)
    field = move(second, move(first, apply_to_points(invert(matrix), nodes))) - nodes
    return Transform(matrix, Warp(field.astype(np.float32), empty.to_fixed))


def warp_image(pixels: np.ndarray, transform: Transform | np.ndarray, shape: tuple[int, int],
               outside: float = 0) -> np.ndarray:
    """Draw an image (h, w) or (h, w, c) in the fixed frame on a canvas of `shape` (rows, columns).

    transform: moving -> fixed, px of the image -> px of the canvas; a (2, 3) matrix is taken as it is. Interpolation is
    linear; `outside` is the value beyond the image's border.
    """
    matrix, warp = (transform, None) if isinstance(transform, np.ndarray) else (transform.matrix, transform.warp)
    border = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": (outside,) * 4}
    if warp is None:
        return cv2.warpAffine(pixels, matrix, shape[::-1], flags=cv2.INTER_LINEAR, **border)
    x_y = np.meshgrid(np.arange(shape[1]), np.arange(shape[0]))
    canvas = np.stack(x_y, axis=-1).astype(np.float64)  # (rows, columns, 2)
    source = apply_to_points(invert(matrix), canvas + displacement(inverse_warp(warp), canvas)).astype(np.float32)
    return cv2.remap(pixels, source[..., 0], source[..., 1], cv2.INTER_LINEAR, **border)


# the chain of a stack --------------------------------------------------------------------------------
def middle_layer(layers: list[int]) -> int:
    """The layer at index n // 2 of the layers in z order (released code)."""
    return layers[len(layers) // 2]


def pair_partner(layers: list[int], layer: int) -> int | None:
    """The layer that `layer` is registered to: its neighbour towards the middle; None for the middle itself."""
    index, middle = layers.index(layer), len(layers) // 2
    return None if index == middle else layers[index + (1 if index < middle else -1)]


def way_to_middle(layers: list[int], layer: int) -> list[int]:
    """The layers from `layer` to the middle, both included: [1, 2] for layer 1 of the layers [1, 2, 4]."""
    way = [layer]
    while (partner := pair_partner(layers, way[-1])) is not None:
        way.append(partner)
    return way


def chain_to_middle(layers: list[int], pairs: dict[int, Transform]) -> dict[int, Transform]:
    """Chain the pair transforms.

    layers: in z order; pairs: {moving layer: points of it -> points of its partner}.
    Returns {layer: points of it -> points of the middle}, without the layers whose way to the middle lacks a pair.
    """
    index = len(layers) // 2
    chained = {layers[index]: Transform(identity())}
    for layer in (*reversed(layers[:index]), *layers[index + 1:]):  # outwards from the middle
        if layer in pairs and (partner := pair_partner(layers, layer)) in chained:
            chained[layer] = chain(chained[partner], pairs[layer])
    return {layer: chained[layer] for layer in layers if layer in chained}


# files -----------------------------------------------------------------------------------------------
def write_transform(path: Path, transform: Transform | np.ndarray, moving: int, fixed: int,
                    warp_path: Path | None = None, **more) -> None:
    """Write a JSON: the matrix, what it maps in words, `warp` (name of the field's file, or null), and further entries.

    The field lies beside it at `warp_path` (.npz): field (h, w, 2) float32, x and y in level-0 px of the fixed layer;
    to_level0 (2, 3) float64, grid px -> level-0 px of the fixed layer. If there is no field now, an old one is removed.
    """
    maps = f"points of layer {moving} (level-0 px) to points of layer {fixed} (level-0 px)"
    matrix, warp = (transform, None) if isinstance(transform, np.ndarray) else (transform.matrix, transform.warp)
    if warp is not None:
        write_npz(warp_path, field=warp.field.astype(np.float32), to_level0=warp.to_fixed.astype(np.float64))
        maps += ": p -> q + D(q), q = matrix p, D the field of `warp`"
    elif warp_path is not None:
        warp_path.unlink(missing_ok=True)
    name = None if warp is None else warp_path.name
    matrix = np.asarray(matrix, np.float64).tolist()
    write_json(path, {"moving": moving, "fixed": fixed, "maps": maps, "matrix": matrix, "warp": name, **more})


def read_transform(path: Path, made_by: str) -> tuple[np.ndarray, dict]:
    """Read (matrix (2, 3) float64, the whole JSON). Raises LayerError if the file is missing or holds no transform."""
    entry = read_json(path, made_by)
    with reading(path, made_by):
        matrix = np.asarray(entry["matrix"], np.float64)
    if matrix.shape != (2, 3) or not np.isfinite(matrix).all():
        raise LayerError(path, f"a matrix of shape {matrix.shape}", "a finite 2 x 3 matrix",
                         f"run {made_by} again with --overwrite")
    return matrix, entry


def read_bending(path: Path, warp_path: Path, made_by: str) -> tuple[Transform, dict]:
    """Read (the transform with its field, if the JSON names one; the whole JSON).

    Raises LayerError if a file is missing or holds no transform or field.
    """
    matrix, entry = read_transform(path, made_by)
    warp = None if entry.get("warp") is None else _read_warp(warp_path, made_by)
    return Transform(matrix, warp), entry


def _read_warp(path: Path, made_by: str) -> Warp:
    arrays = read_npz(path, made_by)
    field, to_level0 = arrays.get("field", np.zeros(0)), arrays.get("to_level0", np.zeros(0))
    if field.ndim != 3 or field.shape[2] != 2 or to_level0.shape != (2, 3) or not np.isfinite(field).all():
        raise LayerError(path, f"a field of shape {field.shape}", "field (h, w, 2), finite, and to_level0 (2, 3)",
                         f"run {made_by} again with --overwrite")
    return Warp(field.astype(np.float32), to_level0.astype(np.float64))


def write_itk(path: Path, matrix: np.ndarray) -> None:
    """Write an ITK affine (.mat, MATLAB 4) that maps points as our matrix does, in px (spacing 1, origin 0).

    `ants.apply_transforms_to_points(2, points, [file])` equals `apply_to_points`. To resample the moving image, invert
    it: `ants.apply_transforms(fixed, moving, [file], whichtoinvert=[True])`.
    """
    from scipy.io import savemat
    parameters = np.concatenate([matrix[:, :2].ravel(), matrix[:, 2]]).astype(np.float64)  # (6,): A row by row, t
    with atomic_path(path) as temporary:
        savemat(temporary, {ITK_NAME: parameters[:, None], "fixed": np.zeros((2, 1))}, format="4", appendmat=False)


def read_itk(path: Path) -> np.ndarray:
    """Read an ITK affine .mat as (2, 3) float64, whatever its centre of rotation."""
    from scipy.io import loadmat
    content = loadmat(path, appendmat=False)
    parameters, centre = content[ITK_NAME].ravel(), content["fixed"].ravel()
    linear = parameters[:4].reshape(2, 2)
    return affine(linear, parameters[4:] + centre - linear @ centre)


def write_itk_warp(points_path: Path, images_path: Path, warp: Warp | None) -> None:
    """Write the field as two ITK displacement fields (.nii.gz; px, spacing and origin of the grid).

    Without a field, old files are removed. ITK moves points and images in opposite directions, cannot invert a field by
    itself, and moves a point by the first transform of a list first. With the affine `mat` of `write_itk`:
    `ants.apply_transforms_to_points(2, points, [mat, points_path], whichtoinvert=[False, False])` equals `move`;
    `ants.apply_transforms(fixed, moving, [images_path, mat], whichtoinvert=[False, True])` equals `warp_image`.
    """
    for path, one in ((points_path, warp), (images_path, None if warp is None else inverse_warp(warp))):
        if one is None:
            path.unlink(missing_ok=True)
            continue
        import ants
        spacing, origin = np.diag(one.to_fixed[:, :2]).tolist(), one.to_fixed[:, 2].tolist()
        pixels = np.ascontiguousarray(one.field.transpose(1, 0, 2))
        image = ants.from_numpy(pixels, origin=origin, spacing=spacing, has_components=True)
        with tempfile.TemporaryDirectory() as folder, atomic_path(path) as temporary:
            ants.image_write(image, str(Path(folder) / path.name))  # the format goes by the whole suffix
            shutil.copyfile(Path(folder) / path.name, temporary)
