"""Registration: affine algebra and files, known warps recovered, the chain to the middle, the five scripts on a synthetic stack."""
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

from common.cli import read_status, set_status
from common.io import write_json, write_picture
from common.layout import Layout
from registration import transforms as T
from registration.matching import fit_similarity, match_outlines, register
from registration.quality import dice, judge
from registration.refinement import refine
from registration.sections import Section, make_view

SHAPE = (620, 700)  # rows, columns of the synthetic overviews
SCALE = 4.0         # level-0 px per overview px
STEPS = ("Step0_original_contour_generation", "Step1_affine_registration_2d_PAS_2048_xfeat", "Step2_registration_ANTs",
         "Step3_registertoMiddle_ANTs", "Step3.5_registertoMiddle_ANTs_points_contour_fast")


@st.composite
def affines(draw):
    angle, log_x, log_y, shear = (draw(st.floats(-limit, limit)) for limit in (180, 0.5, 0.5, 0.3))
    shift = [draw(st.floats(-5000, 5000)) for _ in range(2)]
    linear = T.rotation(angle)[:, :2] @ np.array([[1, shear], [0, 1]]) @ np.diag(np.exp([log_x, log_y]))
    return T.affine(linear, shift), (angle, np.exp(log_x), np.exp(log_y), shear)


POINTS = np.array([[0, 0], [10000, 0], [0, 8000], [1234.5, 6789.25]])


# algebra ---------------------------------------------------------------------------------------------
@given(affines())
def test_inverse_brings_points_back(drawn):
    matrix = drawn[0]
    np.testing.assert_allclose(T.compose(matrix, T.invert(matrix)), T.identity(), atol=1e-8)
    np.testing.assert_allclose(T.apply_to_points(T.invert(matrix), T.apply_to_points(matrix, POINTS)), POINTS, atol=0.1)


@given(affines(), affines())
def test_compose_applies_the_last_first(first, second):
    a, b = first[0], second[0]
    np.testing.assert_allclose(T.apply_to_points(T.compose(a, b), POINTS), T.apply_to_points(a, T.apply_to_points(b, POINTS)), atol=1e-6)


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
    np.testing.assert_allclose(T.apply_to_points(T.scaling(4, 2), np.array([[-0.5, -0.5], [99.5, 49.5]])), [[-0.5, -0.5], [399.5, 99.5]])


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
    assert entry["maps"] == "points of layer 3 (level-0 px) to points of layer 2 (level-0 px)" and entry["method"] == "xfeat"


def test_ants_maps_points_and_images_as_we_do(tmp_path):
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


# the chain -------------------------------------------------------------------------------------------
def test_pairs_lead_to_the_middle_at_half_of_n():
    assert T.middle_layer([2, 3, 4]) == 3 and T.middle_layer([2, 3, 4, 7]) == 4 and T.middle_layer([5]) == 5
    assert [T.pair_partner([2, 3, 4, 7], layer) for layer in (2, 3, 4, 7)] == [3, 4, None, 4]


def test_chain_composes_unequal_transforms_in_order():
    layers = [1, 2, 4, 5, 9]  # middle 4
    pairs = {1: T.rotation(90), 2: T.affine(2 * np.eye(2), [10, 0]), 5: T.affine(np.eye(2), [0, 7]), 9: T.rotation(-90)}
    chained = T.chain_to_middle(layers, pairs)
    assert list(chained) == layers
    point = np.array([3.0, 1.0])
    expected = {1: [8, 6], 2: [16, 2], 4: [3, 1], 5: [3, 8], 9: [1, 4]}  # by hand
    for layer in layers:
        np.testing.assert_allclose(T.apply_to_points(chained[layer], point), expected[layer], atol=1e-9)


# synthetic sections ----------------------------------------------------------------------------------
def section(seed: int = 0) -> np.ndarray:
    """(h, w, 3) uint8 on level-0 / SCALE: an unsymmetrical piece of textured tissue on a white slide."""
    rng = np.random.default_rng(seed)
    outline = np.array([[140, 330], [230, 170], [420, 140], [560, 260], [520, 430], [300, 480]])
    truth = cv2.fillPoly(np.zeros(SHAPE, np.uint8), [outline.astype(np.int32)], 1)
    noise = [weight * sigma * cv2.GaussianBlur(rng.normal(0, 1, SHAPE), (0, 0), sigma) for sigma, weight in ((1.5, 30), (5, 40), (20, 40))]
    texture = sum(noise)
    tissue = np.clip(np.array([140, 90, 160]) + texture[..., None] * [1.0, 1.0, 0.7], 20, 225)
    return np.where(truth[..., None] > 0, tissue, 240).astype(np.uint8)


def warped(rgb: np.ndarray, matrix: np.ndarray, stain: tuple = (1, 1, 1)) -> np.ndarray:
    """The picture moved by matrix (overview px), another stain and slide shade."""
    moved = cv2.warpAffine(rgb, matrix, SHAPE[::-1], flags=cv2.INTER_LINEAR, borderValue=(240, 240, 240))
    return np.clip(245 * (moved / 245.0) ** np.array(stain) * [0.98, 0.93, 0.97], 0, 255).astype(np.uint8)


def as_section(rgb: np.ndarray) -> Section:
    from data_preprocessing.tissue import tissue_mask
    return Section(rgb, tissue_mask(rgb), T.scaling(SCALE, SCALE))


def known_warp(degrees: float, scale: float, shift: tuple) -> np.ndarray:
    """Rotation and scale about the overview's centre, then a shift: overview px."""
    centre = np.array([SHAPE[1] / 2, SHAPE[0] / 2])
    linear = scale * T.rotation(degrees)[:, :2]
    return T.affine(linear, centre - linear @ centre + shift)


def error_share(found: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Largest distance over tissue points, as a share of the diagonal. found: moving -> fixed, truth: fixed -> moving, overview px."""
    points = np.argwhere(mask)[::97, ::-1]
    return np.linalg.norm(T.apply_to_points(found, T.apply_to_points(truth, points)) - points, axis=1).max() / np.hypot(*mask.shape)


@pytest.mark.parametrize("degrees, scale, shift", [(12, 1.05, (-30, 20)), (140, 0.95, (20, 10))])
def test_known_warp_is_recovered(degrees, scale, shift):
    truth = known_warp(degrees, scale, shift)
    fixed, moving = as_section(section()), as_section(warped(section(), truth, stain=(0.8, 1.3, 1.1)))
    match = register(make_view(moving, 1000), make_view(fixed, 1000))
    assert match.method == "xfeat" and match.inliers >= 80
    to_overview = T.scaling(1 / SCALE, 1 / SCALE)
    assert error_share(T.compose(to_overview, match.matrix, T.scaling(SCALE, SCALE)), truth, fixed.mask) < 0.003
    views = make_view(moving, 500), make_view(fixed, 500)
    refined, kept = refine(*views, T.compose(T.invert(views[1].to_level0), match.matrix, views[0].to_level0))
    refined = T.compose(to_overview, views[1].to_level0, refined, T.invert(views[0].to_level0), T.scaling(SCALE, SCALE))
    assert kept and error_share(refined, truth, fixed.mask) < 0.002


def test_ants_mends_a_rest_in_the_right_direction():
    truth = T.compose(T.affine(np.array([[1.01, 0.015], [0, 0.985]]), [4, -6]), known_warp(2, 1, (0, 0)))
    fixed, moving = as_section(section()), as_section(warped(section(), truth))
    views = make_view(moving, 500), make_view(fixed, 500)
    before = judge(*views, T.identity())
    refined, kept = refine(*views, T.identity())
    after = judge(*views, refined)
    assert kept and after["image_correlation"] > 0.95 > before["image_correlation"] and after["tissue_dice"] > 0.985
    found = T.compose(T.scaling(1 / SCALE, 1 / SCALE), views[1].to_level0, refined, T.invert(views[0].to_level0), T.scaling(SCALE, SCALE))
    assert error_share(found, truth, fixed.mask) < 0.002


def test_a_refinement_that_makes_it_worse_is_dropped(monkeypatch):
    view = make_view(as_section(section()), 500)
    monkeypatch.setattr("registration.refinement._ants_affine", lambda *_: T.affine(np.eye(2), [40, 0]))
    matrix, kept = refine(view, view, T.identity())
    assert not kept
    np.testing.assert_array_equal(matrix, T.identity())


def test_without_agreeing_keypoints_the_outlines_decide(monkeypatch):
    truth = known_warp(75, 1, (25, -15))
    fixed, moving = as_section(section()), as_section(warped(section(), truth))
    monkeypatch.setattr("registration.matching.match_from", lambda *_: fit_similarity(np.zeros((0, 2)), np.zeros((0, 2))))
    match = register(make_view(moving, 1000), make_view(fixed, 1000))
    assert match.method == "outline" and match.inliers == 0
    assert error_share(T.compose(T.scaling(1 / SCALE, 1 / SCALE), match.matrix, T.scaling(SCALE, SCALE)), truth, fixed.mask) < 0.02


def test_few_or_scattered_inliers_are_not_trusted():
    rng = np.random.default_rng(0)
    moving, fixed = rng.uniform(0, 1000, (600, 2)), rng.uniform(0, 1000, (600, 2))
    assert not fit_similarity(moving, fixed).trusted
    fixed[:120] = T.apply_to_points(T.rotation(20, (500, 500)), moving[:120]) + rng.normal(0, 1, (120, 2))
    match = fit_similarity(moving, fixed)
    assert match.trusted and 115 <= match.inliers <= 135
    np.testing.assert_allclose(match.matrix, T.rotation(20, (500, 500)), atol=2)


def test_outline_tie_is_broken_by_the_image():
    disc = cv2.circle(np.zeros(SHAPE, np.uint8), (350, 310), 200, 1, -1)[..., None] > 0
    rng = np.random.default_rng(1)
    blobs = np.clip(150 + 400 * cv2.GaussianBlur(rng.normal(0, 8, SHAPE), (0, 0), 16), 60, 220)[..., None] * [1, 0.8, 1]
    rgb = np.where(disc, blobs, 240).astype(np.uint8)
    truth = known_warp(120, 1, (0, 0))
    views = [make_view(as_section(picture), 1000) for picture in (warped(rgb, truth), rgb)]
    found = match_outlines(*views)
    assert abs(T.describe(found)["rotation_deg"] + 120) <= 3


def test_dice_by_hand():
    a, b = np.array([1, 1, 0, 0], bool), np.array([0, 1, 1, 1], bool)
    assert dice(a, b) == 2 / 5 and dice(a, a) == 1 and dice(a & b & ~a, a & ~a) == 0


# the scripts -----------------------------------------------------------------------------------------
SPOTS = np.array([[1300.0, 1300.0], [1500.0, 1300.0], [1500.0, 1500.0], [1100.0, 1450.0]])  # level-0 px, on the tissue of every layer
WARPS = {1: known_warp(6, 1, (30, 12)), 2: known_warp(-4, 1, (-20, 25)), 3: known_warp(9, 1, (12, -18)), 4: known_warp(3, 1, (0, 0))}


def make_root(root: Path, warps: dict[int, np.ndarray]) -> Layout:
    """Overviews as step 0_2 writes them and locations, of one section moved by every warp (overview px); spots move along."""
    layout = Layout(root)
    root.mkdir(parents=True, exist_ok=True)
    layout.config.write_text("dataset: toy\npitch_px: 200\nsamples: {S: {layers: [" + ", ".join(map(str, warps)) + "]}}\n")
    for layer, warp in warps.items():
        one = as_section(warped(section(), warp))
        write_picture(layout.thumbnail("S", layer), one.rgb, quality=95)
        write_picture(layout.mask("S", layer), one.mask.astype(np.uint8) * 255)
        write_json(layout.thumbnail_info("S", layer), {"scale": [SCALE, SCALE]})
        moved = T.apply_to_points(T.compose(T.scaling(SCALE, SCALE), warp, T.scaling(1 / SCALE, 1 / SCALE)), SPOTS)
        layout.location("S", layer).parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"barcode": [f"{k}x{layer}" for k in range(len(SPOTS))], "pixel_x": moved[:, 0], "pixel_y": moved[:, 1],
                      "i": range(len(SPOTS)), "j": 0}).to_csv(layout.location("S", layer), index=False)
    return layout


def run_all(layout: Layout, *options: str, steps: tuple = STEPS) -> list[int]:
    return [load_script(step).main(["--root_path", str(layout.root), *options]) for step in steps]


@pytest.fixture(scope="module")
def stack(tmp_path_factory) -> Layout:
    layout = make_root(tmp_path_factory.mktemp("registered") / "root", WARPS)
    assert run_all(layout) == [0] * len(STEPS)
    return layout


def test_contours_are_circles_in_reference_radius(stack):
    contours = np.load(stack.contours("S", 2))
    centres = pd.read_csv(stack.location("S", 2))[["pixel_x", "pixel_y"]].to_numpy()
    assert contours.shape == (4, 100, 2) and contours.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(contours - centres[:, None], axis=2), 112 * 200 / 272, atol=1e-3)
    np.testing.assert_allclose(contours.mean(axis=1), centres, atol=1e-3)


def test_every_spot_lands_where_it_came_from(stack):
    spots = pd.read_csv(stack.spot_regist("S"))
    assert list(spots.columns) == ["sample", "layer", "barcode", "registered_x", "registered_y"]
    assert spots["layer"].tolist() == [layer for layer in WARPS for _ in SPOTS] and spots["barcode"].iloc[5] == "1x2"
    middle = pd.read_csv(stack.location("S", 3))[["pixel_x", "pixel_y"]].to_numpy()  # index 4 // 2 is layer 3
    registered = spots[["registered_x", "registered_y"]].to_numpy().reshape(4, 4, 2)
    np.testing.assert_array_equal(registered[2], middle)
    np.testing.assert_allclose(registered, np.broadcast_to(middle, registered.shape), atol=0.002 * SCALE * np.hypot(*SHAPE))
    contours = np.load(stack.spot_regist_contours("S"))
    assert contours.shape == (16, 100, 2) and contours.dtype == np.float32
    np.testing.assert_allclose(contours.mean(axis=1), spots[["registered_x", "registered_y"]], atol=0.01)


def test_quality_and_files_of_the_sample(stack):
    quality = json.loads(stack.quality("S").read_text())
    assert quality["layers"] == [1, 2, 3, 4] and quality["middle"] == 3 and quality["left_out"] == []
    assert [(pair["moving"], pair["fixed"]) for pair in quality["pairs"]] == [(1, 2), (2, 3), (4, 3)]
    for pair in quality["pairs"]:
        assert pair["method"] == "xfeat" and not pair["fallback"] and pair["after"]["tissue_dice"] > 0.97
        assert pair["after"]["image_correlation"] > max(0.9, pair["before"]["image_correlation"]) and abs(pair["determinant"] - 1) < 0.02
        assert stack.overlay("S", pair["moving"], pair["fixed"]).is_file()
        matrix, _ = T.read_transform(stack.pair("S", pair["moving"], pair["fixed"]), "a test")
        np.testing.assert_array_equal(T.read_itk(stack.pair_itk("S", pair["moving"], pair["fixed"])), matrix)
    np.testing.assert_array_equal(T.read_transform(stack.to_middle("S", 3), "a test")[0], T.identity())
    assert stack.stack_view("S").is_file() and stack.to_middle_itk("S", 1).is_file()


def test_two_runs_are_bit_identical(stack, tmp_path):
    again = make_root(tmp_path / "root", {layer: WARPS[layer] for layer in (2, 3, 4)})
    run_all(again, steps=STEPS[1:3])
    for pair in ((2, 3), (4, 3)):
        for name in (Layout.pair_coarse, Layout.pair, Layout.pair_itk):
            assert name(again, "S", *pair).read_bytes() == name(stack, "S", *pair).read_bytes()


def copy_of(layout: Layout, root: Path) -> Layout:
    """What is up to date there is skipped when the steps run again."""
    shutil.copytree(layout.root, root)
    return Layout(root)


def test_a_layer_without_tissue_is_bridged(stack, tmp_path):
    layout = copy_of(stack, tmp_path / "root")
    for path in (layout.thumbnail("S", 2), layout.mask("S", 2), layout.thumbnail_info("S", 2)):
        path.unlink()
    assert run_all(layout) == [0] * len(STEPS)
    quality = json.loads(layout.quality("S").read_text())
    assert quality["layers"] == [1, 3, 4] and quality["left_out"] == [2]
    assert [(pair["moving"], pair["fixed"]) for pair in quality["pairs"]] == [(1, 3), (4, 3)]
    assert read_status(layout)["S/2"][STEPS[1]].startswith("left out")
    assert sorted(set(pd.read_csv(layout.spot_regist("S"))["layer"])) == [1, 3, 4]


def test_a_layer_refused_by_step_0_2_is_left_out_though_old_files_are_there(tmp_path):
    layout = make_root(tmp_path / "root", {3: WARPS[3], 4: WARPS[4]})
    set_status(layout, "0_2_tissue_mask", "S/4", "left out: no tissue")
    assert run_all(layout, steps=STEPS[1:4]) == [0, 0, 0]
    assert json.loads(layout.quality("S").read_text())["layers"] == [3]


def test_a_layer_without_spots_is_left_out_of_the_spots(stack, tmp_path):
    layout = copy_of(stack, tmp_path / "root")
    layout.location("S", 3).unlink()
    assert run_all(layout, steps=STEPS[4:]) == [0]
    assert set(pd.read_csv(layout.spot_regist("S"))["layer"]) == {1, 2, 4}
    assert "no file" in read_status(layout)["S/3"][STEPS[4]]


def test_moving_a_whole_slide_with_its_spots_changes_nothing(stack, tmp_path):
    shift = np.array([17, -9])  # whole overview px
    layout = make_root(copy_of(stack, tmp_path / "root").root, {**WARPS, 4: T.compose(T.affine(np.eye(2), shift), WARPS[4])})
    run_all(layout)
    assert not np.array_equal(pd.read_csv(layout.location("S", 4)), pd.read_csv(stack.location("S", 4)))
    found, expected = (pd.read_csv(one.spot_regist("S"))[["registered_x", "registered_y"]].to_numpy() for one in (layout, stack))
    np.testing.assert_allclose(found, expected, atol=0.001 * SCALE * np.hypot(*SHAPE))
