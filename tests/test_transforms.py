"""Transforms that may bend: points there and back, chains, files and ITK, SyN, steps 3 and 3.5 on pairs made by hand, the pictures."""
import json
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import load_script
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import LayerError
from common.io import write_json, write_npy, write_picture
from common.layout import Layout
from common.status import read_status, set_status
from registration import pictures
from registration import transforms as T
from registration.quality import judge
from registration.refinement import compared, folds, refine
from registration.sections import Section, make_view

CANVAS = (1000.0, 800.0)  # width and height of the toy frames, px
STEPS = ("Step3_registertoMiddle_ANTs", "Step3.5_registertoMiddle_ANTs_points_contour_fast")


def smooth_warp(seed: int, largest_px: float, spacing_px: float = 20.0, sigma_px: float = 120.0) -> T.Warp:
    """A random smooth field over the canvas, zero at the border."""
    rng = np.random.default_rng(seed)
    shape = int(CANVAS[1] / spacing_px) + 5, int(CANVAS[0] / spacing_px) + 5
    field = np.stack([cv2.GaussianBlur(rng.normal(size=shape), (0, 0), sigma_px / spacing_px) for _ in range(2)], axis=-1)
    field *= (np.hanning(shape[0])[:, None] * np.hanning(shape[1]))[..., None] ** 0.5
    return T.Warp((field * largest_px / np.linalg.norm(field, axis=2).max()).astype(np.float32),
                  np.array([[spacing_px, 0, -2 * spacing_px], [0, spacing_px, -2 * spacing_px]]))


def tissue_points(seed: int = 0, n: int = 300) -> np.ndarray:
    return np.random.default_rng(seed).uniform([50, 50], [CANVAS[0] - 50, CANVAS[1] - 50], (n, 2))


def bending(seed: int, largest_px: float = 25.0, degrees: float = 20.0, scale: float = 1.05) -> T.Transform:
    turn = T.rotation(degrees, (CANVAS[0] / 2, CANVAS[1] / 2))
    return T.Transform(T.compose(T.affine(scale * np.eye(2), [seed, -seed]), turn), smooth_warp(seed, largest_px))


# points ----------------------------------------------------------------------------------------------
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 40), st.floats(-180, 180), st.floats(0.5, 2), st.booleans())
def test_a_point_comes_back_within_a_tenth_of_a_pixel(seed, largest_px, degrees, scale, mirrored):
    transform = bending(seed, largest_px, degrees, scale)
    if mirrored:
        transform = T.Transform(T.compose(transform.matrix, T.affine(np.diag([-1.0, 1.0]), [CANVAS[0], 0])), transform.warp)
    points = tissue_points(seed)
    np.testing.assert_allclose(T.move_back(transform, T.move(transform, points)), points, atol=0.1)
    np.testing.assert_allclose(T.move(transform, T.move_back(transform, points)), points, atol=0.1)


def test_a_field_by_hand_is_bilinear_and_zero_beyond_its_grid():
    field = np.zeros((3, 3, 2), np.float32)
    field[1, 1] = [4, -3]
    transform = T.Transform(T.affine(np.eye(2), [100, 0]), T.Warp(field, np.array([[10.0, 0, 95], [0, 10.0, 20]])))
    points = np.array([[5.0, 30.0], [0.0, 30.0], [0.0, 25.0], [500.0, 500.0]])  # the node, half a step beside it in x, in both, far
    expected = points + [100, 0] + np.array([[4, -3], [2, -1.5], [1, -0.75], [0, 0]])
    np.testing.assert_allclose(T.move(transform, points), expected, atol=1e-6)
    np.testing.assert_allclose(T.move_back(transform, expected), points, atol=0.01)


def test_the_same_transform_in_other_frames():
    transform, moving, fixed = bending(3), T.scaling(2.5, 2.5), T.compose(T.affine(np.eye(2), [7, -3]), T.scaling(0.4, 0.3))
    points = tissue_points()
    expected = T.apply_to_points(fixed, T.move(transform, points))
    np.testing.assert_allclose(T.move(T.in_frames(transform, moving, fixed), T.apply_to_points(moving, points)), expected, atol=1e-4)


def test_jacobian_of_a_linear_field_and_of_a_fold():
    x, y = np.meshgrid(np.arange(9.0), np.arange(7.0))
    squeezed = T.Warp(np.stack([-0.5 * 4 * x, 0.25 * 4 * y], axis=-1).astype(np.float32), T.affine(4 * np.eye(2), [3, 3]))  # 4 px a node
    assert T.smallest_jacobian(squeezed) == pytest.approx(0.5 * 1.25)
    turned = T.Warp(np.stack([-1.5 * 4 * x, 0 * y], axis=-1).astype(np.float32), squeezed.to_fixed)
    tissue = np.ones((30, 40), bool)
    assert T.smallest_jacobian(turned) == pytest.approx(-0.5) and folds(turned, tissue) and not folds(squeezed, tissue)
    part = np.where((x < 2)[..., None], turned.field, 0).astype(np.float32)  # folds at the left only: that counts where tissue is
    assert folds(T.Warp(part, turned.to_fixed), tissue) and not folds(T.Warp(part, turned.to_fixed), tissue & (np.arange(40) > 20))


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


POINTS = np.array([[400.0, 300.0], [500.0, 250.0], [620.0, 420.0], [380.0, 520.0], [555.0, 560.0]])


def test_an_image_goes_where_its_points_go():
    transform = bending(5)
    drawn = T.warp_image(dotted(POINTS), transform, (int(CANVAS[1]), int(CANVAS[0])))
    expected = T.move(transform, POINTS)
    np.testing.assert_allclose(centres(drawn, expected), expected, atol=0.3)
    assert np.abs(expected - T.apply_to_points(transform.matrix, POINTS)).max() > 5  # the affine alone would not do
    white = T.warp_image(np.zeros((20, 20, 3), np.uint8), T.affine(np.eye(2), [50, 0]), (30, 30), outside=255)
    assert (white == 255).all()


# the chain -------------------------------------------------------------------------------------------
def test_a_chain_is_one_affine_and_one_field():
    first, second = bending(1, 20), T.in_frames(bending(2, 15, -35, 0.9), T.identity(), T.scaling(3, 3))  # another pixel size
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
    moved = T.compose(T.affine(np.eye(2), [300, -150]), T.rotation(180, (500, 400)))  # layer 2: moving in its pair, fixed for layer 1
    again = {1: T.in_frames(pairs[1], T.identity(), moved), 2: T.in_frames(pairs[2], moved, T.identity()), 4: pairs[4]}
    for layer, transform in T.chain_to_middle([1, 2, 3, 4], pairs).items():
        points = tissue_points(layer)
        seen = T.apply_to_points(moved, points) if layer == 2 else points
        np.testing.assert_allclose(T.move(T.chain_to_middle([1, 2, 3, 4], again)[layer], seen), T.move(transform, points), atol=0.7)


# files -----------------------------------------------------------------------------------------------
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
def test_ants_maps_points_and_images_as_we_do(spacing):
    import ants
    transform = T.Transform(bending(6).matrix, smooth_warp(6, 25, spacing))
    with tempfile.TemporaryDirectory() as folder:
        mat, for_points, for_images = (Path(folder) / name for name in ("t.mat", "t_points.nii.gz", "t_images.nii.gz"))
        T.write_itk(mat, transform.matrix)
        T.write_itk_warp(for_points, for_images, transform.warp)
        points = tissue_points(n=50)
        moved = ants.apply_transforms_to_points(2, pd.DataFrame(points, columns=["x", "y"]), [str(mat), str(for_points)],
                                                whichtoinvert=[False, False])
        np.testing.assert_allclose(moved[["x", "y"]].to_numpy(), T.move(transform, points), atol=0.02)
        picture = cv2.GaussianBlur(dotted(POINTS), (0, 0), 3)
        as_ants = ants.from_numpy(np.ascontiguousarray(picture.T))
        theirs = ants.apply_transforms(as_ants, as_ants, [str(for_images), str(mat)], whichtoinvert=[False, True]).numpy().T
        np.testing.assert_allclose(theirs, T.warp_image(picture, transform, picture.shape), atol=0.03)
        expected = T.move(transform, POINTS)
        np.testing.assert_allclose(centres(theirs, expected), expected, atol=0.3)
        T.write_itk_warp(for_points, for_images, None)
        assert not for_points.exists() and not for_images.exists()


# SyN -------------------------------------------------------------------------------------------------
def textured(seed: int = 0, shape: tuple[int, int] = (236, 268)) -> np.ndarray:
    """(h, w, 3) uint8: a textured piece of tissue on a white slide."""
    rng = np.random.default_rng(seed)
    inside = cv2.fillPoly(np.zeros(shape, np.uint8), [np.array([[22, 120], [82, 30], [202, 20], [248, 110], [212, 210], [72, 216]])], 1)
    noise = [weight * sigma * cv2.GaussianBlur(rng.normal(0, 1, shape), (0, 0), sigma) for sigma, weight in ((2, 30), (6, 50), (15, 50))]
    texture = sum(noise)
    return np.where(inside[..., None] > 0, np.clip([140, 90, 160] + texture[..., None], 20, 225), 240).astype(np.uint8)


def view_of(rgb: np.ndarray):
    return make_view(Section(rgb, rgb[..., 0] < 235, T.identity()), 500)


@pytest.fixture(scope="module")
def bent_pair():
    """(moving view, fixed view, truth): the moving one is the fixed one bent by up to 9 px of 268, and a little turned."""
    fixed = textured()
    shrunk = smooth_warp(11, 27, sigma_px=150)
    warp = T.Warp(shrunk.field / 3, T.compose(T.scaling(1 / 3, 1 / 3), shrunk.to_fixed))
    truth = T.Transform(T.rotation(2, (134, 118)), warp)  # fixed -> moving
    moving = T.warp_image(fixed, truth, fixed.shape[:2], outside=240)
    return view_of(np.clip(245 * (moving / 245.0) ** [0.8, 1.2, 1.1], 0, 255).astype(np.uint8)), view_of(fixed), truth


def error_px(found: T.Transform, truth: T.Transform, tissue: np.ndarray) -> np.ndarray:
    points = np.argwhere(tissue)[::53, ::-1].astype(np.float64)
    return np.linalg.norm(T.move(found, T.move(truth, points)) - points, axis=1)


def test_syn_recovers_a_smooth_warp_and_twice_the_same(bent_pair):
    moving, fixed, truth = bent_pair
    bent, kept = refine(moving, fixed, T.identity(), "syn")
    assert kept == "syn"
    straight = T.Transform(bent.matrix)  # what the affine alone achieves
    affine_error, syn_error = (error_px(one, truth, fixed.mask) for one in (straight, bent))
    assert np.mean(affine_error) > 1.5 and np.mean(syn_error) < 0.35 and np.max(syn_error) < 2
    assert T.smallest_jacobian(bent.warp) > 0.4
    assert judge(moving, fixed, bent)["image_correlation"] > judge(moving, fixed, straight)["image_correlation"] + 0.05
    again, _ = refine(moving, fixed, T.identity(), "syn")
    np.testing.assert_array_equal(again.warp.field, bent.warp.field)


def test_a_part_that_one_section_lost_is_not_compared():
    whole, torn, off = (np.zeros((80, 100), bool) for _ in range(3))
    whole[20:60, 20:80] = True
    torn[20:60, 20:60] = True      # its right third is gone
    off[20:60, 22:82] = True       # merely 2 px aside
    where = compared(torn, whole)
    assert where[40, 21:50].all() and not where[40, 56:].any() and where[40, 15]
    assert compared(off, whole)[40, 16:86].all() and not compared(whole, ~whole).any()


def test_without_refinement_the_matrix_stays(bent_pair):
    matrix = T.rotation(3)
    found, kept = refine(*bent_pair[:2], matrix, "none")
    assert kept == "none" and found.warp is None and found.matrix is matrix


@pytest.mark.parametrize("field", ["folds", "makes it worse"])
def test_a_field_that_folds_or_makes_it_worse_is_dropped(bent_pair, monkeypatch, field):
    moving, fixed, _ = bent_pair
    spread = np.zeros((fixed.mask.shape[0] // 4 + 2, fixed.mask.shape[1] // 4 + 2, 2), np.float32)
    if field == "folds":
        spread[40, 40] = spread[41, 41] = [30, 0]  # a spike, too small to cost Dice or correlation
    else:
        spread[2:-2, 2:-2] = [15, 0]
    warp = T.Warp(spread, np.array([[4.0, 0, -4], [0, 4.0, -4]]))
    monkeypatch.setattr("registration.refinement._ants_affine", lambda *_: T.identity())
    monkeypatch.setattr("registration.refinement._ants_syn", lambda *_: warp)
    assert folds(warp, fixed.mask) == (field == "folds") or field != "folds"
    found, kept = refine(moving, fixed, T.identity(), "syn")
    assert kept == "affine" and found.warp is None


# steps 3 and 3.5 on pairs made by hand ---------------------------------------------------------------
SCALE = 5.0  # level-0 px per overview px
TRUE_PAIRS = {1: bending(1), 2: bending(2, 15, -12), 4: T.Transform(bending(4).matrix), 5: bending(5, 20, 8)}


def make_root(root: Path, refused: tuple[int, ...] = (), layers: tuple[int, ...] = (1, 2, 3, 4, 5), config: str = "") -> Layout:
    """Overviews, pairs, contours and locations of a stack as the steps before write them."""
    layout = Layout(root)
    root.mkdir(parents=True)
    layout.config.write_text(f"dataset: toy\npitch_px: 100\nsamples: {{S: {{layers: {list(layers)}{config}}}}}\n")
    rng = np.random.default_rng(0)
    for layer in layers:
        rgb = np.full((int(CANVAS[1] / SCALE), int(CANVAS[0] / SCALE), 3), 240, np.uint8)
        cv2.ellipse(rgb, (100, 80), (70, 45), 10, 0, 360, (150, 90, 160), -1)
        write_picture(layout.thumbnail("S", layer), rgb, quality=95)
        tissue = rgb[..., 0] < 200
        write_picture(layout.mask("S", layer), np.where(tissue, 255, 0).astype(np.uint8))
        write_json(layout.thumbnail_info("S", layer), {"width_px": tissue.shape[1] * SCALE, "height_px": tissue.shape[0] * SCALE,
                                                         "scale": [SCALE, SCALE], "tissue_share": float(tissue.mean())})
        spots = rng.uniform([300, 300], [700, 500], (6, 2))
        layout.location("S", layer).parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"barcode": [f"{k}x{layer}" for k in range(6)], "pixel_x": spots[:, 0], "pixel_y": spots[:, 1], "i": range(6), "j": 0}
                     ).to_csv(layout.location("S", layer), index=False)
        around = rng.normal(0, 30, (6, 100, 2))
        write_npy(layout.contours("S", layer), (spots[:, None] + around - around.mean(axis=1, keepdims=True)).astype(np.float32))
        if (fixed := T.pair_partner(list(layers), layer)) is not None:
            write_pair(layout, layer, fixed, TRUE_PAIRS[layer], layer not in refused)
    return layout


def write_pair(layout: Layout, layer: int, fixed: int, transform: T.Transform, accepted: bool = True) -> None:
    T.write_transform(layout.pair("S", layer, fixed), transform, layer, fixed, layout.pair_warp("S", layer, fixed), method="xfeat",
                      accepted=accepted, reasons=[] if accepted else ["too few inliers (3)"], warnings=[], refinement="none",
                      before={"tissue_dice": 0.8}, after={"tissue_dice": 0.9}, pieces={"moving": 1, "fixed": 1})


def run(layout: Layout, *options: str, steps: tuple[str, ...] = STEPS) -> list[int]:
    return [load_script(step).main(["--root_path", str(layout.root), *options]) for step in steps]


@pytest.fixture(scope="module")
def stack(tmp_path_factory) -> Layout:
    layout = make_root(tmp_path_factory.mktemp("bent") / "root", refused=(2,))
    assert run(layout) == [0, 0]
    return layout


def quality_of(layout: Layout) -> dict:
    return json.loads(layout.quality("S").read_text())


def to_middle(layout: Layout, layer: int) -> T.Transform:
    return T.read_bending(layout.to_middle("S", layer), layout.to_middle_warp("S", layer), "a test")[0]


def test_points_and_contours_go_to_the_middle_through_every_field_and_back(stack):
    spots, contours = pd.read_csv(stack.spot_regist("S")), np.load(stack.spot_regist_contours("S"))
    for layer, steps in {1: (1, 2), 2: (2,), 3: (), 4: (4,), 5: (5, 4)}.items():
        centres_px = pd.read_csv(stack.location("S", layer))[["pixel_x", "pixel_y"]].to_numpy()
        outline = np.load(stack.contours("S", layer))
        exact, exact_outline = centres_px, outline
        for step in steps:
            exact, exact_outline = T.move(TRUE_PAIRS[step], exact), T.move(TRUE_PAIRS[step], exact_outline)
        rows = (spots["layer"] == layer).to_numpy()
        np.testing.assert_allclose(spots.loc[rows, ["registered_x", "registered_y"]], exact, atol=0.7)
        np.testing.assert_allclose(contours[rows], exact_outline, atol=0.7)
        back = T.move_back(to_middle(stack, layer), spots.loc[rows, ["registered_x", "registered_y"]])
        np.testing.assert_allclose(back, centres_px, atol=0.1)


def test_quality_says_through_which_pairs_a_layer_comes_and_whether_all_are_accepted(stack):
    quality = quality_of(stack)
    assert quality["layers"] == [1, 2, 3, 4, 5] and quality["left_out"] == [] and quality["middle"] == 3
    assert [quality["to_middle"][str(layer)]["through"] for layer in (1, 3, 5)] == [[1, 2, 3], [3], [5, 4, 3]]
    assert [quality["to_middle"][str(layer)]["accepted"] for layer in range(1, 6)] == [False, False, True, True, True]
    assert [pair["accepted"] for pair in quality["pairs"]] == [True, False, True, True]
    assert quality["pairs"][1]["reasons"] == ["too few inliers (3)"] and "matrix" not in quality["pairs"][0]
    assert quality["to_middle"]["1"]["largest_bend_px"] > 10 and quality["to_middle"]["4"]["largest_bend_px"] == 0
    for layer in (1, 2, 5):
        assert stack.to_middle_warp("S", layer).is_file() and all(path.is_file() for path in stack.to_middle_itk_warps("S", layer))
    assert not stack.to_middle_warp("S", 4).exists() and not stack.to_middle_itk_warps("S", 4)[0].exists()
    np.testing.assert_array_equal(T.read_itk(stack.to_middle_itk("S", 5)), to_middle(stack, 5).matrix)


def test_the_refused_pair_is_named_at_the_end(stack, capsys):
    run(stack, "--overwrite", steps=STEPS[:1])
    out = capsys.readouterr().out
    assert "REFUSED: 2 to 3 (too few inliers (3))" in out and out.count("\n") == 1


def test_a_missing_pair_leaves_out_what_lies_beyond_and_the_rest_goes_on(stack, tmp_path, capsys):
    layout = Layout(shutil.copytree(stack.root, tmp_path / "root"))
    set_status(layout, "Step2_registration_ANTs", "S/2", "left out: it broke")  # its old files are still there
    assert run(layout) == [0, 0]
    assert quality_of(layout)["layers"] == [3, 4, 5] and quality_of(layout)["left_out"] == [1, 2]
    assert [pair["moving"] for pair in quality_of(layout)["pairs"]] == [1, 4, 5]
    status = read_status(layout)
    assert status["S/2"][STEPS[0]] == "left out since Step2_registration_ANTs"
    assert status["S/1"][STEPS[0]].startswith("left out: its way to the middle leads through layer 2") and status["S/5"][STEPS[0]] == "ok"
    assert "S/1: left out" in capsys.readouterr().err
    assert sorted(set(pd.read_csv(layout.spot_regist("S"))["layer"])) == [3, 4, 5]
    set_status(layout, "Step2_registration_ANTs", "S/2", "ok")  # mended: all are back
    assert run(layout) == [0, 0]
    assert quality_of(layout)["left_out"] == [] and sorted(set(pd.read_csv(layout.spot_regist("S"))["layer"])) == [1, 2, 3, 4, 5]
    layout.pair("S", 5, 4).unlink()
    assert run(layout) == [0, 0]
    assert quality_of(layout)["left_out"] == [5] and "no file; run Step2" in read_status(layout)["S/5"][STEPS[0]]


def test_a_skipped_layer_is_bridged(tmp_path):
    layout = make_root(tmp_path / "root", config=", skip: [2]")
    write_pair(layout, 1, 3, bending(9))
    write_pair(layout, 3, 4, bending(3))  # of 1, 3, 4, 5 the middle is 4
    assert run(layout) == [0, 0]
    quality = quality_of(layout)
    assert quality["layers"] == [1, 3, 4, 5] and quality["left_out"] == [2] and quality["middle"] == 4
    assert quality["to_middle"]["1"]["through"] == [1, 3, 4]
    spots = pd.read_csv(layout.location("S", 1))[["pixel_x", "pixel_y"]].to_numpy()
    registered = pd.read_csv(layout.spot_regist("S")).query("layer == 1")[["registered_x", "registered_y"]]
    np.testing.assert_allclose(registered, T.move(bending(3), T.move(bending(9), spots)), atol=0.7)


def test_a_stack_of_one_layer_stays_where_it_is(tmp_path):
    layout = make_root(tmp_path / "root", layers=(7,))
    assert run(layout) == [0, 0]
    assert quality_of(layout)["to_middle"]["7"] == {"through": [7], "accepted": True, **T.describe(T.identity()), "largest_bend_px": 0.0}
    spots = pd.read_csv(layout.spot_regist("S"))[["registered_x", "registered_y"]].to_numpy()
    np.testing.assert_allclose(spots, pd.read_csv(layout.location("S", 7))[["pixel_x", "pixel_y"]])


# pictures --------------------------------------------------------------------------------------------
def red(colour: np.ndarray) -> bool:
    return tuple(int(v) for v in colour) == pictures.BAD_COLOUR


def test_a_refused_pair_is_framed_red_and_a_bent_one_shows_its_grid():
    rgb = textured()
    section = Section(rgb, rgb[..., 0] < 235, T.scaling(3, 3))
    none = np.zeros((0, 2))
    good = pictures.pair_overlay(section, section, T.Transform(T.identity()), POINTS, POINTS, "a pair")
    bad = pictures.pair_overlay(section, section, T.Transform(T.identity()), none, none, "a pair of 1.6 µm", False)
    assert good.shape == bad.shape == (pictures.BAR_PX + pictures.PAIR_SIDE_PX, 3 * pictures.PAIR_SIDE_PX, 3)
    assert red(bad[0, 500]) and not red(good[0, 500])
    side = pictures.PAIR_SIDE_PX
    after = good[pictures.BAR_PX:, side:2 * side].astype(int)
    assert np.abs(after[..., 0] - after[..., 1])[100:-100:7, 100:-100:7].mean() < 3  # laid on itself: grey all over
    gridded = pictures.pair_overlay(section, section, T.Transform(T.identity(), smooth_warp(0, 20)), none, none, "a pair")
    corner = np.s_[pictures.BAR_PX + 4:pictures.BAR_PX + 90, side + 4:side + 90]
    assert (good[corner] == 255).all() and (gridded[corner] < 200).any()


def test_the_stack_view_frames_refused_and_missing_layers_red():
    rgb = textured()
    sections = {layer: Section(rgb, rgb[..., 0] < 235, T.scaling(3, 3)) for layer in (1, 2, 3, 4)}
    still = T.Transform(T.identity())
    picture = pictures.stack_view(sections, {1: still, 3: still, 4: still}, 3, {1: False, 3: True, 4: True})
    side = pictures.STACK_SIDE_PX
    assert picture.shape == (2 * side, 2 * side, 3)
    assert [red(picture[row, column]) for row in (0, side) for column in (side // 2, side + side // 2)] == [True, True, False, False]
