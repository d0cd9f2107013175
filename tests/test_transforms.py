"""Transforms of points: affine algebra, fields that bend, chains to the middle, JSON and ITK files."""
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from synthetic_sections import CANVAS, bending, smooth_warp, tissue_points

from common.errors import LayerError
from common.io import write_json
from registration import transforms as T
from registration.refinement import folds

CORNERS = np.array([[0, 0], [10000, 0], [0, 8000], [1234.5, 6789.25]])
POINTS = np.array([[400.0, 300.0], [500.0, 250.0], [620.0, 420.0], [380.0, 520.0], [555.0, 560.0]])


@st.composite
def affines(draw):
    angle, log_x, log_y, shear = (draw(st.floats(-limit, limit)) for limit in (180, 0.5, 0.5, 0.3))
    shift = [draw(st.floats(-5000, 5000)) for _ in range(2)]
    linear = T.rotation(angle)[:, :2] @ np.array([[1, shear], [0, 1]]) @ np.diag(np.exp([log_x, log_y]))
    return T.affine(linear, shift), (angle, np.exp(log_x), np.exp(log_y), shear)


# algebra ---------------------------------------------------------------------------------------------
@given(affines())
def test_inverse_brings_points_back(drawn):
    matrix = drawn[0]
    np.testing.assert_allclose(T.compose(matrix, T.invert(matrix)), T.identity(), atol=1e-8)
    moved = T.apply_to_points(matrix, CORNERS)
    np.testing.assert_allclose(T.apply_to_points(T.invert(matrix), moved), CORNERS, atol=0.1)


@given(affines(), affines())
def test_compose_applies_the_last_first(first, second):
    a, b = first[0], second[0]
    expected = T.apply_to_points(a, T.apply_to_points(b, CORNERS))
    np.testing.assert_allclose(T.apply_to_points(T.compose(a, b), CORNERS), expected, atol=1e-6)


@given(affines())
def test_describe_names_what_built_the_matrix(drawn):
    matrix, (angle, scale_x, scale_y, shear) = drawn
    found = T.describe(matrix)
    assert abs((found["rotation_deg"] - angle + 180) % 360 - 180) < 1e-6
    values = [found[name] for name in ("scale_x", "scale_y", "shear", "determinant")]
    np.testing.assert_allclose(values, [scale_x, scale_y, shear, scale_x * scale_y], atol=1e-9)


def test_rotation_turns_x_towards_y():
    np.testing.assert_allclose(T.apply_to_points(T.rotation(90), [1.0, 0.0]), [0, 1], atol=1e-12)
    np.testing.assert_allclose(T.apply_to_points(T.rotation(33, (5.0, 7.0)), [5.0, 7.0]), [5, 7], atol=1e-12)


def test_scaling_keeps_the_corner_of_the_image():
    corners = np.array([[-0.5, -0.5], [99.5, 49.5]])
    np.testing.assert_allclose(T.apply_to_points(T.scaling(4, 2), corners), [[-0.5, -0.5], [399.5, 99.5]])


# points ----------------------------------------------------------------------------------------------
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 40), st.floats(-180, 180), st.floats(0.5, 2), st.booleans())
def test_a_point_comes_back_within_a_tenth_of_a_pixel(seed, largest_px, degrees, scale, mirrored):
    transform = bending(seed, largest_px, degrees, scale)
    if mirrored:
        mirror = T.affine(np.diag([-1.0, 1.0]), [CANVAS[0], 0])
        transform = T.Transform(T.compose(transform.matrix, mirror), transform.warp)
    points = tissue_points(seed)
    np.testing.assert_allclose(T.move_back(transform, T.move(transform, points)), points, atol=0.1)
    np.testing.assert_allclose(T.move(transform, T.move_back(transform, points)), points, atol=0.1)


def test_a_field_by_hand_is_bilinear_and_zero_beyond_its_grid():
    field = np.zeros((3, 3, 2), np.float32)
    field[1, 1] = [4, -3]
    transform = T.Transform(T.affine(np.eye(2), [100, 0]), T.Warp(field, np.array([[10.0, 0, 95], [0, 10.0, 20]])))
    points = np.array([[5.0, 30.0], [0.0, 30.0], [0.0, 25.0], [500.0, 500.0]])  # node, half a step off: in x, both; far
    expected = points + [100, 0] + np.array([[4, -3], [2, -1.5], [1, -0.75], [0, 0]])
    np.testing.assert_allclose(T.move(transform, points), expected, atol=1e-6)
    np.testing.assert_allclose(T.move_back(transform, expected), points, atol=0.01)


def test_the_same_transform_in_other_frames():
    transform, points = bending(3), tissue_points()
    moving, fixed = T.scaling(2.5, 2.5), T.compose(T.affine(np.eye(2), [7, -3]), T.scaling(0.4, 0.3))
    expected = T.apply_to_points(fixed, T.move(transform, points))
    found = T.move(T.in_frames(transform, moving, fixed), T.apply_to_points(moving, points))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_jacobian_of_a_linear_field_and_of_a_fold():
    x, y = np.meshgrid(np.arange(9.0), np.arange(7.0))
    to_fixed = T.affine(4 * np.eye(2), [3, 3])  # 4 px a node
    squeezed = T.Warp(np.stack([-0.5 * 4 * x, 0.25 * 4 * y], axis=-1).astype(np.float32), to_fixed)
    assert T.smallest_jacobian(squeezed) == pytest.approx(0.5 * 1.25)
    turned = T.Warp(np.stack([-1.5 * 4 * x, 0 * y], axis=-1).astype(np.float32), squeezed.to_fixed)
    tissue = np.ones((30, 40), bool)
    assert T.smallest_jacobian(turned) == pytest.approx(-0.5) and folds(turned, tissue) and not folds(squeezed, tissue)
    left = T.Warp(np.where((x < 2)[..., None], turned.field, 0).astype(np.float32), to_fixed)  # folds at the left only
    assert folds(left, tissue) and not folds(left, tissue & (np.arange(40) > 20))


# images ----------------------------------------------------------------------------------------------
def dotted(points: np.ndarray) -> np.ndarray:
    picture = np.zeros((int(CANVAS[1]), int(CANVAS[0])), np.float32)
    for x, y in points:
        cv2.circle(picture, (round(x), round(y)), 6, 1.0, -1)
    return picture


def centres(picture: np.ndarray, near: np.ndarray, reach_px: int = 14) -> np.ndarray:
    """(n, 2): the centroid of the picture around every point of `near`."""
    out = []
    for x, y in np.rint(near).astype(int):
        window = picture[y - reach_px:y + reach_px + 1, x - reach_px:x + reach_px + 1]
        row, column = np.mgrid[-reach_px:reach_px + 1, -reach_px:reach_px + 1]
        out.append([x + (window * column).sum() / window.sum(), y + (window * row).sum() / window.sum()])
    return np.array(out)


def test_an_image_goes_where_its_points_go():
    transform = bending(5)
    drawn = T.warp_image(dotted(POINTS), transform, (int(CANVAS[1]), int(CANVAS[0])))
    expected = T.move(transform, POINTS)
    np.testing.assert_allclose(centres(drawn, expected), expected, atol=0.3)
    assert np.abs(expected - T.apply_to_points(transform.matrix, POINTS)).max() > 5  # the affine alone would not do
    white = T.warp_image(np.zeros((20, 20, 3), np.uint8), T.affine(np.eye(2), [50, 0]), (30, 30), outside=255)
    assert (white == 255).all()


# the chain -------------------------------------------------------------------------------------------
def test_pairs_lead_to_the_middle_at_half_of_n():
    assert T.middle_layer([2, 3, 4]) == 3 and T.middle_layer([2, 3, 4, 7]) == 4 and T.middle_layer([5]) == 5
    assert [T.pair_partner([2, 3, 4, 7], layer) for layer in (2, 3, 4, 7)] == [3, 4, None, 4]


def test_chain_composes_unequal_transforms_in_order():
    layers = [1, 2, 4, 5, 9]  # middle 4
    pairs = {1: T.rotation(90), 2: T.affine(2 * np.eye(2), [10, 0]),
             5: T.affine(np.eye(2), [0, 7]), 9: T.rotation(-90)}
    chained = T.chain_to_middle(layers, {layer: T.Transform(matrix) for layer, matrix in pairs.items()})
    assert list(chained) == layers
    point = np.array([3.0, 1.0])
    expected = {1: [8, 6], 2: [16, 2], 4: [3, 1], 5: [3, 8], 9: [1, 4]}  # by hand
    for layer in layers:
        np.testing.assert_allclose(T.move(chained[layer], point), expected[layer], atol=1e-9)


def test_a_chain_is_one_affine_and_one_field():
    first = bending(1, 20)
    second = T.in_frames(bending(2, 15, -35, 0.9), T.identity(), T.scaling(3, 3))  # another pixel size
    points = tissue_points()
    both = T.chain(second, first)
    exact = T.move(second, T.move(first, points))
    np.testing.assert_allclose(both.matrix, T.compose(second.matrix, first.matrix))
    assert np.linalg.norm(T.move(both, points) - exact, axis=1).max() < 0.7  # of 45 px bent; 1/3 px of the moving layer
    np.testing.assert_allclose(T.move_back(both, T.move(both, points)), points, atol=0.1)
    assert max(np.abs(both.warp.field[edge]).max() for edge in (0, -1, (slice(None), 0), (slice(None), -1))) < 1e-3
    straight = T.chain(T.Transform(second.matrix), T.Transform(first.matrix))
    assert straight.warp is None
    one = T.chain(T.Transform(second.matrix), first)  # only the first bends: its field is turned and scaled along
    np.testing.assert_allclose(T.move(one, points), T.apply_to_points(second.matrix, T.move(first, points)), atol=0.7)


def test_layers_beyond_a_missing_pair_are_not_reached():
    pairs = {layer: T.Transform(T.affine(np.eye(2), [layer, 0])) for layer in (1, 4, 5)}  # middle 3; no pair of layer 2
    reached = T.chain_to_middle([1, 2, 3, 4, 5], pairs)
    assert list(reached) == [3, 4, 5]
    np.testing.assert_allclose(T.move(reached[5], [0.0, 0.0]), [9, 0])
    assert T.way_to_middle([1, 2, 3, 4, 5], 1) == [1, 2, 3] and T.way_to_middle([7], 7) == [7]


def test_a_slide_moved_in_its_scan_changes_nothing_in_the_middle():
    pairs = {1: bending(1), 2: bending(2, degrees=-10), 4: bending(4)}
    moved = T.compose(T.affine(np.eye(2), [300, -150]), T.rotation(180, (500, 400)))  # layer 2: of two pairs
    again = {1: T.in_frames(pairs[1], T.identity(), moved), 2: T.in_frames(pairs[2], moved, T.identity()), 4: pairs[4]}
    chained = T.chain_to_middle([1, 2, 3, 4], again)
    for layer, transform in T.chain_to_middle([1, 2, 3, 4], pairs).items():
        points = tissue_points(layer)
        seen = T.apply_to_points(moved, points) if layer == 2 else points
        np.testing.assert_allclose(T.move(chained[layer], seen), T.move(transform, points), atol=0.7)


# files -----------------------------------------------------------------------------------------------
@settings(max_examples=15, deadline=None)
@given(affines())
def test_json_and_itk_round_trip(drawn):
    matrix = drawn[0]
    with tempfile.TemporaryDirectory() as folder:
        T.write_transform(Path(folder) / "t.json", matrix, 3, 2, method="xfeat")
        read, entry = T.read_transform(Path(folder) / "t.json", "a test")
        T.write_itk(Path(folder) / "t.mat", matrix)
        np.testing.assert_array_equal(read, matrix)
        np.testing.assert_array_equal(T.read_itk(Path(folder) / "t.mat"), matrix)
    assert "layer 3 (level-0 px) to points of layer 2" in entry["maps"] and entry["method"] == "xfeat"


def test_ants_maps_points_and_images_by_an_affine_as_we_do(tmp_path):
    import ants
    matrix = T.compose(T.affine(np.array([[1.1, 0.05], [-0.02, 0.9]]), [30, -12]), T.rotation(25))
    T.write_itk(tmp_path / "t.mat", matrix)
    points = np.array([[10.0, 20.0], [60.0, 5.0], [33.0, 44.0]])
    moved = ants.apply_transforms_to_points(2, pd.DataFrame(points, columns=["x", "y"]), [str(tmp_path / "t.mat")])
    np.testing.assert_allclose(moved[["x", "y"]].to_numpy(), T.apply_to_points(matrix, points), atol=1e-3)
    image = cv2.GaussianBlur(np.random.default_rng(0).random((90, 120)).astype(np.float32), (0, 0), 3)
    ours = cv2.warpAffine(image, matrix, (120, 90), flags=cv2.INTER_LINEAR)
    as_ants = ants.from_numpy(np.ascontiguousarray(image.T))
    theirs = ants.apply_transforms(as_ants, as_ants, [str(tmp_path / "t.mat")], whichtoinvert=[True]).numpy().T
    inside = cv2.erode((ours > 0).astype(np.uint8), np.ones((7, 7))) > 0
    assert inside.mean() > 0.2
    np.testing.assert_allclose(ours[inside], theirs[inside], atol=0.02)


def test_json_and_field_round_trip_and_an_old_field_is_removed(tmp_path):
    path, field = tmp_path / "1_to_2.json", tmp_path / "1_to_2.npz"
    transform = bending(7)
    T.write_transform(path, transform, 1, 2, field, method="xfeat")
    read, entry = T.read_bending(path, field, "a test")
    assert entry["warp"] == "1_to_2.npz" and entry["method"] == "xfeat" and "D the field" in entry["maps"]
    np.testing.assert_array_equal(T.move(read, POINTS), T.move(transform, POINTS))
    T.write_transform(path, T.Transform(transform.matrix), 1, 2, field)
    read, entry = T.read_bending(path, field, "a test")
    assert not field.exists() and entry["warp"] is None and read.warp is None
    write_json(path, {**entry, "warp": "1_to_2.npz"})
    with pytest.raises(LayerError, match="no file"):
        T.read_bending(path, field, "a test")
    np.savez(field, field=np.zeros((3, 3)), to_level0=np.zeros((2, 3)))
    with pytest.raises(LayerError, match=r"field of shape \(3, 3\)"):
        T.read_bending(path, field, "a test")


@pytest.mark.parametrize("spacing", [20.0, 7.5])
def test_ants_maps_points_and_images_by_a_field_as_we_do(spacing):
    import ants
    transform = T.Transform(bending(6).matrix, smooth_warp(6, 25, spacing))
    with tempfile.TemporaryDirectory() as folder:
        mat, for_points, for_images = (Path(folder) / name for name in ("t.mat", "t_points.nii.gz", "t_images.nii.gz"))
        T.write_itk(mat, transform.matrix)
        T.write_itk_warp(for_points, for_images, transform.warp)
        points = tissue_points(n=50)
        table = pd.DataFrame(points, columns=["x", "y"])
        both = [str(mat), str(for_points)]
        moved = ants.apply_transforms_to_points(2, table, both, whichtoinvert=[False, False])
        np.testing.assert_allclose(moved[["x", "y"]].to_numpy(), T.move(transform, points), atol=0.02)
        picture = cv2.GaussianBlur(dotted(POINTS), (0, 0), 3)
        as_ants = ants.from_numpy(np.ascontiguousarray(picture.T))
        both = [str(for_images), str(mat)]
        theirs = ants.apply_transforms(as_ants, as_ants, both, whichtoinvert=[False, True]).numpy().T
        np.testing.assert_allclose(theirs, T.warp_image(picture, transform, picture.shape), atol=0.03)
        expected = T.move(transform, POINTS)
        np.testing.assert_allclose(centres(theirs, expected), expected, atol=0.3)
        T.write_itk_warp(for_points, for_images, None)
        assert not for_points.exists() and not for_images.exists()
