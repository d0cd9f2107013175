"""Registration: affine algebra and files, known warps recovered, the chain to the middle, the five scripts on a synthetic stack."""
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import fields, replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, load_script
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config import PairConfig
from common.contract.registration import EVIDENCE
from common.errors import DataError, LayerError
from common.io import write_json, write_picture
from common.layout import Layout
from common.status import read_status, set_status
from registration import transforms as T
from registration.by_hand import COLUMNS, read_given
from registration.gate import Evidence, gather, reasons_against
from registration.matching import (
    MIN_INLIERS,
    Match,
    Pairs,
    fit_affine,
    fit_pieces,
    fit_similarity,
    match_outlines,
    register,
)
from registration.matching import TISSUE_PX as MATCHED_PX
from registration.pairing import TISSUE_PX as COMPARED_PX
from registration.pairing import Settled, judge_pieces, settle
from registration.quality import containment, dice, judge
from registration.refinement import refine
from registration.sections import Section, make_view, make_views

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
    chained = T.chain_to_middle(layers, {layer: T.Transform(matrix) for layer, matrix in pairs.items()})
    assert list(chained) == layers
    point = np.array([3.0, 1.0])
    expected = {1: [8, 6], 2: [16, 2], 4: [3, 1], 5: [3, 8], 9: [1, 4]}  # by hand
    for layer in layers:
        np.testing.assert_allclose(T.move(chained[layer], point), expected[layer], atol=1e-9)


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


MIRROR = T.affine(np.diag([-1.0, 1.0]), [SHAPE[1] - 1, 0])
TO_OVERVIEW = T.scaling(1 / SCALE, 1 / SCALE)


def in_overview(matrix: np.ndarray) -> np.ndarray:
    """A level-0 transform in overview px of both sections."""
    return T.compose(TO_OVERVIEW, matrix, T.scaling(SCALE, SCALE))


def registered(moving: Section, fixed: Section, um_per_px: tuple[float, float] = (1.0, 1.0)) -> tuple[Match, Settled]:
    match = register(*make_views(moving, fixed, um_per_px, MATCHED_PX))
    return match, settle(make_views(moving, fixed, um_per_px, COMPARED_PX), match, um_per_px, pitch_um=200.0)


@pytest.mark.parametrize("truth", [known_warp(12, 1.05, (-30, 20)), known_warp(140, 0.95, (20, 10)), T.compose(known_warp(250, 1.1, (15, 30)), MIRROR)],
                         ids=["a little", "upside down", "mirrored"])
def test_known_warp_is_recovered(truth):
    fixed, moving = as_section(section()), as_section(warped(section(), truth, stain=(0.8, 1.3, 1.1)))
    match, settled = registered(moving, fixed)
    assert match.inliers >= 80 and error_share(in_overview(match.matrix), truth, fixed.mask) < 0.003
    assert settled.accepted and settled.method == "xfeat" and not settled.warnings
    assert settled.evidence.mirrored == (np.linalg.det(truth[:, :2]) < 0) == (settled.evidence.determinant < 0)
    assert error_share(in_overview(settled.transform.matrix), truth, fixed.mask) < 0.002


def test_a_torn_section_of_another_pixel_size_is_recovered():
    """The moving picture has 0.6 times the px, so 1 / 0.6 the um per px; a third of its tissue is missing."""
    truth = known_warp(-35, 1, (10, -5))
    torn = np.where(np.arange(SHAPE[1])[None, :, None] > 420, 240, section()).astype(np.uint8)
    small = cv2.resize(warped(torn, truth), None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    fixed, moving = as_section(section()), as_section(small)
    match, settled = registered(moving, fixed, (1 / 0.6, 1.0))
    assert settled.accepted and 0.97 < settled.evidence.scale_um_x < 1.03 and settled.evidence.containment > 0.95 > settled.evidence.tissue_dice
    found = T.compose(in_overview(settled.transform.matrix), T.scaling(0.6, 0.6))
    assert error_share(found, truth, fixed.mask) < 0.006
    assert "scale x" in " ".join(settle(make_views(moving, fixed, (1.0, 1.0), COMPARED_PX), match, (1.0, 1.0), 200.0).reasons)


def test_ants_mends_a_rest_in_the_right_direction():
    truth = T.compose(T.affine(np.array([[1.01, 0.015], [0, 0.985]]), [4, -6]), known_warp(2, 1, (0, 0)))
    fixed, moving = as_section(section()), as_section(warped(section(), truth))
    views = make_view(moving, 500), make_view(fixed, 500)
    before = judge(*views, T.identity())
    refined, kept = refine(*views, T.identity())
    after = judge(*views, refined)
    assert kept == "affine" and after["image_correlation"] > 0.95 > before["image_correlation"] and after["tissue_dice"] > 0.985
    found = T.compose(views[1].to_level0, refined.matrix, T.invert(views[0].to_level0))
    assert error_share(in_overview(found), truth, fixed.mask) < 0.002


def test_a_refinement_that_makes_it_worse_is_dropped(monkeypatch):
    view = make_view(as_section(section()), 500)
    monkeypatch.setattr("registration.refinement._ants_affine", lambda *_: T.affine(np.eye(2), [40, 0]))
    refined, kept = refine(view, view, T.identity())
    assert kept == "none"
    np.testing.assert_array_equal(refined.matrix, T.identity())


def test_outlines_that_tie_are_told_apart_by_the_image():
    disc = cv2.circle(np.zeros(SHAPE, np.uint8), (350, 310), 200, 1, -1)[..., None] > 0
    rng = np.random.default_rng(1)
    blobs = np.clip(150 + 400 * cv2.GaussianBlur(rng.normal(0, 8, SHAPE), (0, 0), 16), 60, 220)[..., None] * [1, 0.8, 1]
    rgb = np.where(disc, blobs, 240).astype(np.uint8)
    views = [make_view(as_section(picture), 1000) for picture in (warped(rgb, known_warp(120, 1, (0, 0))), rgb)]
    assert abs(T.describe(match_outlines(*views))["rotation_deg"] + 120) <= 6


def test_dice_and_containment_by_hand():
    a, b = np.array([1, 1, 0, 0], bool), np.array([0, 1, 1, 1], bool)
    assert dice(a, b) == 2 / 5 and dice(a, a) == 1 and dice(a & b & ~a, a & ~a) == 0
    assert containment(a, b) == 1 / 2 and containment(a, a | b) == 1 and containment(a, a & ~a) == 0


# the gate --------------------------------------------------------------------------------------------
def nothing_found(truth: np.ndarray) -> Match:
    return Match(truth, "xfeat", 500, np.zeros((4, 2)), np.zeros((4, 2)))


def test_without_agreeing_keypoints_the_outlines_lay_a_refused_pair():
    truth = known_warp(75, 1, (25, -15))
    fixed, moving = as_section(section()), as_section(warped(section(), truth))
    views = make_views(moving, fixed, (1.0, 1.0), COMPARED_PX)
    settled = settle(views, nothing_found(T.identity()), (1.0, 1.0), 200.0)
    assert not settled.accepted and settled.method == "outline" and settled.reasons[0] == f"4 of 500 matches agree, < {MIN_INLIERS}"
    assert error_share(in_overview(settled.transform.matrix), truth, fixed.mask) < 0.02


def test_tissue_of_another_shape_is_laid_by_centroids():
    strip = np.full((*SHAPE, 3), 240, np.uint8)
    strip[300:330, 20:680] = section()[300:301, 230:231]
    moving, fixed = Section(strip, strip[..., 0] < 235, T.scaling(SCALE, SCALE)), as_section(section())
    settled = settle(make_views(moving, fixed, (1.0, 1.0), COMPARED_PX), nothing_found(T.identity()), (1.0, 1.0), 200.0)
    assert not settled.accepted and settled.method == "centroid"
    centres = [np.argwhere(one.mask)[:, ::-1].mean(axis=0) for one in (moving, fixed)]
    np.testing.assert_allclose(T.apply_to_points(in_overview(settled.transform.matrix), centres[0]), centres[1], atol=2)


@pytest.fixture(scope="module")
def judged() -> tuple:
    truth = known_warp(12, 1.05, (-30, 20))
    fixed, moving = as_section(section()), as_section(warped(section(), truth, stain=(0.8, 1.3, 1.1)))
    return make_views(moving, fixed, (1.0, 1.0), COMPARED_PX), register(*make_views(moving, fixed, (1.0, 1.0), MATCHED_PX))


def reasons_for(judged: tuple, change: np.ndarray, believed: bool) -> list[str]:
    """Of the right transform followed by `change`; believed: the matches say the same."""
    views, match = judged
    wrong = T.compose(change, match.matrix)
    if believed:
        match = replace(match, matrix=wrong, fixed_points=T.apply_to_points(change, match.fixed_points))
    return reasons_against(gather(*views, T.Transform(wrong), match, (1.0, 1.0)))


CENTRE = SCALE * np.array([350.0, 310.0])


def test_the_right_transform_passes_the_gate(judged):
    assert reasons_for(judged, T.identity(), True) == []


@pytest.mark.parametrize("believed", [True, False])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(degrees=st.floats(25, 335))
def test_a_wrong_rotation_is_refused_even_if_the_matches_believe_in_it(judged, believed, degrees):
    assert reasons_for(judged, T.rotation(degrees, CENTRE), believed)


@pytest.mark.parametrize("change, reason", [
    (T.compose(T.affine(1.4 * np.eye(2), -0.4 * CENTRE)), "scale x"), (T.compose(T.affine(np.diag([1.0, 0.7]), [0, 0])), "scale y"),
    (T.affine(np.array([[1, 0.3], [0, 1]]), [-0.3 * CENTRE[1], 0]), "shear"),
    (T.compose(T.scaling(SCALE, SCALE), MIRROR, TO_OVERVIEW), "mirrored against the matches"),
    (T.affine(np.eye(2), [2400, 0]), "on the picture"), (T.affine(np.eye(2), [700, 0]), "tissue Dice"), (T.affine(np.eye(2), [120, 0]), "size off")])
def test_each_way_to_be_wrong_has_its_reason(judged, change, reason):
    assert reason in "; ".join(reasons_for(judged, change, False))


def test_few_scattered_or_crowded_inliers_are_not_trusted(judged):
    rng = np.random.default_rng(0)
    moving, fixed = rng.uniform(0, 1000, (600, 2)), rng.uniform(0, 1000, (600, 2))
    assert not fit_similarity(Pairs(T.identity(), moving, fixed)).trusted
    fixed[:120] = T.apply_to_points(T.rotation(20, (500, 500)), moving[:120]) + rng.normal(0, 1, (120, 2))
    match = fit_similarity(Pairs(T.identity(), moving, fixed))
    assert match.trusted and 115 <= match.inliers <= 135
    np.testing.assert_allclose(match.matrix, T.rotation(20, (500, 500)), atol=2)
    views, found = judged
    near = np.argsort(np.linalg.norm(found.fixed_points - found.fixed_points[0], axis=1))[:40]
    crowded = replace(found, moving_points=found.moving_points[near], fixed_points=found.fixed_points[near])
    assert "cover" in reasons_against(gather(*views, T.Transform(found.matrix), crowded, (1.0, 1.0)))[-1]


def test_a_squeezed_section_gets_an_affine_where_it_is_well_supported():
    rng = np.random.default_rng(0)
    moving = rng.uniform(0, 700, (400, 2))
    squeezed = T.affine(np.array([[1.06, 0.02], [0, 0.95]]), [5, 9])
    pairs = Pairs(T.identity(), moving, T.apply_to_points(squeezed, moving))
    match = fit_affine(pairs, fit_similarity(pairs))
    np.testing.assert_allclose(match.matrix, squeezed, atol=1e-6)
    assert match.inliers == 400


def test_pieces_that_moved_apart_are_told_of():
    """Two pieces, one of them shifted by 100 px (400 level-0 px, 400 um): the pair is laid by the larger."""
    mask = np.zeros((400, 800), bool)
    mask[50:350, 50:400], mask[100:300, 500:700] = True, True
    y, x = np.nonzero(mask)
    fixed = np.stack([x, y], 1)[::211].astype(float)
    moving = fixed - np.where(fixed[:, :1] > 450, [[0.0, 100.0]], [[0.0, 0.0]])
    pieces = fit_pieces(Pairs(T.identity(), moving, fixed), mask)
    found = judge_pieces(Match(T.identity(), "xfeat", len(moving), moving, fixed, pieces), T.Transform(T.identity()), 4.0)
    assert [one["off_px"] for one in found] == [pytest.approx(0, abs=1e-3), pytest.approx(100, abs=1e-3)]
    assert found[1]["off_um"] == pytest.approx(400, abs=0.1) and found[0]["share"] > found[1]["share"]


# real sections ---------------------------------------------------------------------------------------
VISIUM = Path(os.environ.get("ASIGN_DATA", ROOT.parent / "shared" / "data" / "her2st")).parent / "visium"


def visium_pair(name: str, turned: int = 0) -> Settled:
    """Two neighbouring sections from their hires images at half size, the fiducial frame round both; the moving one turned by quarters."""
    from data_preprocessing.tissue import tissue_mask
    pictures = sorted((VISIUM / name).glob("*/spatial/tissue_hires_image.png"))
    if len(pictures) < 2:
        pytest.skip(f"no real sections at {VISIUM}: set ASIGN_DATA")
    fixed, moving = (cv2.cvtColor(cv2.imread(str(picture), cv2.IMREAD_REDUCED_COLOR_2), cv2.COLOR_BGR2RGB) for picture in pictures[:2])
    return registered(*(Section(rgb, tissue_mask(rgb), T.identity()) for rgb in (np.rot90(moving, turned).copy(), fixed)), (8.36, 8.36))[1]


def test_mouse_brain_lies_on_mouse_brain_though_upside_down():
    settled = visium_pair("mousebrain", turned=2)
    assert settled.accepted and settled.evidence.inliers > 200 and not settled.evidence.mirrored and settled.warnings == ()
    assert settled.after["tissue_dice"] >= 0.97 and settled.after["image_correlation"] > 0.65 and abs(abs(settled.evidence.rotation_deg) - 180) < 5


def test_organoids_that_moved_apart_are_laid_together_and_told_of():
    settled = visium_pair("lungorganoid")
    assert settled.accepted and settled.after["tissue_dice"] > settled.before["tissue_dice"] + 0.3
    assert len(settled.pieces) >= 6 and len([one for one in settled.pieces if one["off_um"] is not None]) >= 5
    assert "one transform does not fit: piece" in settled.warnings[0]


# by hand ---------------------------------------------------------------------------------------------
def test_landmarks_are_fitted_least_squares(tmp_path):
    truth = T.compose(T.affine(np.array([[1.05, 0.02], [0.01, 0.97]]), [300, -40]), T.rotation(30))
    moving = np.array([[0, 0], [4000, 100], [300, 3000], [2500, 2500.0]])
    pd.DataFrame(np.hstack([moving, T.apply_to_points(truth, moving)]), columns=COLUMNS).to_csv(tmp_path / "l.csv", index=False)
    np.testing.assert_allclose(read_given(tmp_path, PairConfig(landmarks="l.csv")).matrix, truth, atol=1e-6)
    mirrored = T.compose(T.affine(1.1 * np.eye(2), [20, 30]), MIRROR, T.rotation(100))
    pd.DataFrame(np.hstack([moving[:3], T.apply_to_points(mirrored, moving[:3])]), columns=COLUMNS).to_csv(tmp_path / "l.csv", index=False)
    np.testing.assert_allclose(read_given(tmp_path, PairConfig(landmarks="l.csv")).matrix, mirrored, atol=1e-6)  # three points: a similarity
    T.write_itk(tmp_path / "t.mat", truth)
    np.testing.assert_array_equal(read_given(tmp_path, PairConfig(transform="t.mat")).matrix, truth)


@pytest.mark.parametrize("name, text, expected", [
    ("landmarks", None, "no file"), ("landmarks", "moving_x,moving_y,fixed_x\n1,2,3\n", "a column fixed_y"),
    ("landmarks", "moving_x,moving_y,fixed_x,fixed_y\n1,2,3,4\n5,6,7,9\n", "2 points; expected 3 or more"),
    ("landmarks", "moving_x,moving_y,fixed_x,fixed_y\n1,2,3,4\n2,3,4,5\n9,10,5,6\n", "points on one line"),
    ("landmarks", "moving_x,moving_y,fixed_x,fixed_y\n1,2,3,4\n2,x,4,5\n9,10,5,6\n", "not a number"),
    ("landmarks", "moving_x,moving_y,fixed_x,fixed_y\n1,2,3,4\n2,,4,5\n9,10,5,6\n", "not a number"),
    ("transform", "{", "cannot be read"), ("transform", '{"matrix": [[1, 0], [0, 1]]}', "a matrix of shape"), ("transform", "{}", "no transform")])
def test_a_bad_file_given_by_hand_is_one_clear_line(tmp_path, name, text, expected):
    if text is not None:
        (tmp_path / "given").write_text(text)
    with pytest.raises(LayerError if text else DataError, match=expected):  # a broken file is its pair's own, a wrong path the config's
        read_given(tmp_path, PairConfig(**{name: "given"}))


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
        write_json(layout.thumbnail_info("S", layer), {"width_px": one.mask.shape[1] * SCALE, "height_px": one.mask.shape[0] * SCALE,
                                                         "scale": [SCALE, SCALE], "tissue_share": float(one.mask.mean())})
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
        assert pair["method"] == "xfeat" and pair["accepted"] and pair["reasons"] == pair["warnings"] == [] and pair["after"]["tissue_dice"] > 0.97
        assert pair["after"]["image_correlation"] > max(0.9, pair["before"]["image_correlation"]) and abs(pair["determinant"] - 1) < 0.02
        assert stack.overlay("S", pair["moving"], pair["fixed"]).is_file()
        matrix, _ = T.read_transform(stack.pair("S", pair["moving"], pair["fixed"]), "a test")
        np.testing.assert_array_equal(T.read_itk(stack.pair_itk("S", pair["moving"], pair["fixed"])), matrix)
    np.testing.assert_array_equal(T.read_transform(stack.to_middle("S", 3), "a test")[0], T.identity())
    assert stack.stack_view("S").is_file() and stack.to_middle_itk("S", 1).is_file()


def test_two_runs_are_bit_identical(stack, tmp_path):
    """The second in a process of its own, with other threads."""
    again = make_root(tmp_path / "root", {layer: WARPS[layer] for layer in (2, 3, 4)})
    program = "import sys; sys.path.insert(0, 'tests'); from conftest import load_script\n" + "".join(
        f"assert load_script({step!r}).main(['--root_path', {str(again.root)!r}]) == 0\n" for step in STEPS[1:3])
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "3"}, check=True, capture_output=True)
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
    assert read_status(layout)["S/2"]["Step3_registertoMiddle_ANTs"].startswith("left out")  # not gone from the stack without a word
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


def test_a_layer_of_an_empty_mask_is_bridged(stack, tmp_path):
    layout = copy_of(stack, tmp_path / "root")
    write_picture(layout.mask("S", 4), np.zeros(SHAPE, np.uint8))
    assert run_all(layout, steps=STEPS[1:4]) == [0, 0, 0]
    quality = json.loads(layout.quality("S").read_text())
    assert quality["layers"] == [1, 2, 3] and quality["middle"] == 2 and quality["left_out"] == [4]
    assert "no tissue mask" in read_status(layout)["S/4"][STEPS[1]]


def test_a_stack_of_one_layer_is_its_own_middle(tmp_path):
    layout = make_root(tmp_path / "root", {3: WARPS[3]})
    assert run_all(layout) == [0] * len(STEPS)
    quality = json.loads(layout.quality("S").read_text())
    assert quality["layers"] == [3] and quality["pairs"] == []
    np.testing.assert_array_equal(pd.read_csv(layout.spot_regist("S"))["registered_x"], pd.read_csv(layout.location("S", 3))["pixel_x"])


def test_given_pairs_replace_the_automatic_ones(stack, tmp_path):
    layout = copy_of(stack, tmp_path / "root")
    spots = {layer: pd.read_csv(layout.location("S", layer))[["pixel_x", "pixel_y"]].to_numpy() for layer in WARPS}
    pd.DataFrame(np.hstack([spots[2], spots[3]]), columns=COLUMNS).to_csv(layout.root / "landmarks.csv", index=False)
    write_json(layout.root / "own.json", {"matrix": [[1, 0, 0], [0, 0, 0]]})  # everything onto one line
    text = layout.config.read_text()
    layout.config.write_text(text.replace("}}", ", pairs: {2_to_3: {landmarks: landmarks.csv}, 4_to_3: {transform: own.json}}}}"))
    assert run_all(layout, steps=STEPS[1:3]) == [0, 0]
    given, folded = (T.read_transform(layout.pair("S", layer, 3), "a test")[1] for layer in (2, 4))
    assert given["method"] == "landmarks" and given["accepted"] and given["refinement"] == "none" and given["after"]["tissue_dice"] > 0.97
    np.testing.assert_allclose(T.apply_to_points(np.array(given["matrix"]), spots[2]), spots[3], atol=1e-6)
    assert not folded["accepted"] and folded["method"] == "outline" and "fold" in folded["reasons"][0]


def test_a_pair_that_the_chain_does_not_have_is_named(stack, tmp_path, capsys):
    layout = copy_of(stack, tmp_path / "root")
    layout.config.write_text(layout.config.read_text().replace("}}", ", pairs: {3_to_2: {landmarks: landmarks.csv}}}}"))
    assert run_all(layout, steps=STEPS[1:2]) == [2]
    assert "pairs.3_to_2; expected a pair of the chain: 1_to_2, 2_to_3, 4_to_3" in capsys.readouterr().err


# the benchmark ---------------------------------------------------------------------------------------
def load_benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_registration", ROOT / "benchmarks" / "registration.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_benchmark_measures_what_it_did_and_goes_on_where_it_stood(stack, tmp_path, monkeypatch, capsys):
    benchmark = load_benchmark()
    options = ["--root_path", str(stack.root), "--save_path", str(tmp_path)]
    assert benchmark.main([*options, "--cases", "1"]) == 0
    first = (tmp_path / "registration_a.csv").read_text()
    assert benchmark.main([*options, "--cases", "2"]) == 0
    table = pd.read_csv(tmp_path / "registration_a.csv")
    assert (tmp_path / "registration_a.csv").read_text().startswith(first.rstrip("\n"))
    assert table["accepted"].all() and (table["error_percent"] < 0.3).all() and "| all | 2 |" in (tmp_path / "registration_a.md").read_text()
    assert "other code" not in capsys.readouterr().out
    monkeypatch.setattr(benchmark, "code_digest", lambda script: "0123456789abcdef")
    assert benchmark.main([*options, "--cases", "1"]) == 0 and "2 cases of other code" in capsys.readouterr().out
    assert pd.read_csv(tmp_path / "registration_a.csv", dtype=str)["code"].tolist() == ["0123456789ab"]


def test_the_benchmark_knows_where_a_spot_went(stack):
    """Spots of the moved and of the unmoved section show the same tissue."""
    benchmark = load_benchmark()
    case = benchmark.make_case(benchmark.root_sources(stack)[0], 3, smooth=True)
    views = [make_view(one, max(one.mask.shape)) for one in (case.moving, case.fixed)]
    seen = [cv2.remap(cv2.GaussianBlur(view.density, (0, 0), 3), *spots.T.astype(np.float32)[:, :, None], cv2.INTER_LINEAR).ravel()
            for view, spots in zip(views, (case.moving_spots, case.fixed_spots))]
    assert len(seen[0]) >= 10 and np.corrcoef(*seen)[0, 1] > 0.9


def test_the_contract_knows_what_the_gate_judges():
    assert EVIDENCE == tuple(field.name for field in fields(Evidence))
