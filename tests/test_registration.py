"""Registration of two sections: known warps recovered, the gate, real sections, pairs given by hand."""
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from hypothesis import given, settings, strategies as st
from synthetic_sections import (
    MIRROR,
    SCALE,
    SHAPE,
    TO_OVERVIEW,
    as_section,
    error_share,
    in_overview,
    known_warp,
    section,
    warped,
)

from common.config import PairConfig
from common.errors import DataError, LayerError
from registration import transforms as T
from registration.by_hand import COLUMNS, read_given
from registration.gate import gather, reasons_against
from registration.matching import (
    MIN_INLIERS,
    TISSUE_PX as MATCHED_PX,
    Match,
    Pairs,
    fit_affine,
    fit_pieces,
    fit_similarity,
    match_outlines,
    register,
)
from registration.pairing import TISSUE_PX as COMPARED_PX, Settled, judge_pieces, settle
from registration.quality import containment, dice, judge
from registration.refinement import refine
from registration.sections import Section, render, render_pair


def registered(moving: Section, fixed: Section, um_per_px: tuple[float, float] = (1.0, 1.0)) -> tuple[Match, Settled]:
    match = register(*render_pair(moving, fixed, um_per_px, MATCHED_PX))
    return match, settle(render_pair(moving, fixed, um_per_px, COMPARED_PX), match, um_per_px, pitch_um=200.0)


@pytest.mark.parametrize("truth", [
    pytest.param(known_warp(12, 1.05, (-30, 20)), id="a little"),
    pytest.param(known_warp(140, 0.95, (20, 10)), id="upside down"),
    pytest.param(T.compose(known_warp(250, 1.1, (15, 30)), MIRROR), id="mirrored")])
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
    evidence = settled.evidence
    assert settled.accepted and 0.97 < evidence.scale_um_x < 1.03
    assert evidence.containment > 0.95 > evidence.tissue_dice
    found = T.compose(in_overview(settled.transform.matrix), T.scaling(0.6, 0.6))
    assert error_share(found, truth, fixed.mask) < 0.006
    same_um = settle(render_pair(moving, fixed, (1.0, 1.0), COMPARED_PX), match, (1.0, 1.0), 200.0)
    assert "scale x" in " ".join(same_um.reasons)


def test_ants_mends_a_rest_in_the_right_direction():
    truth = T.compose(T.affine(np.array([[1.01, 0.015], [0, 0.985]]), [4, -6]), known_warp(2, 1, (0, 0)))
    fixed, moving = as_section(section()), as_section(warped(section(), truth))
    renderings = render(moving, 500), render(fixed, 500)
    before = judge(*renderings, T.identity())
    refined, kept = refine(*renderings, T.identity())
    after = judge(*renderings, refined)
    assert kept == "affine" and after["tissue_dice"] > 0.985
    assert after["image_correlation"] > 0.95 > before["image_correlation"]
    found = T.compose(renderings[1].to_level0, refined.matrix, T.invert(renderings[0].to_level0))
    assert error_share(in_overview(found), truth, fixed.mask) < 0.002


def test_a_refinement_that_makes_it_worse_is_dropped(monkeypatch):
    rendering = render(as_section(section()), 500)
    monkeypatch.setattr("registration.refinement._ants_affine", lambda *_: T.affine(np.eye(2), [40, 0]))
    refined, kept = refine(rendering, rendering, T.identity())
    assert kept == "none"
    np.testing.assert_array_equal(refined.matrix, T.identity())


def test_the_image_decides_between_outlines_that_tie():
    disc = cv2.circle(np.zeros(SHAPE, np.uint8), (350, 310), 200, 1, -1)[..., None] > 0
    rng = np.random.default_rng(1)
    blobs = np.clip(150 + 400 * cv2.GaussianBlur(rng.normal(0, 8, SHAPE), (0, 0), 16), 60, 220)[..., None] * [1, 0.8, 1]
    rgb = np.where(disc, blobs, 240).astype(np.uint8)
    moving, fixed = (render(as_section(picture), 1000) for picture in (warped(rgb, known_warp(120, 1, (0, 0))), rgb))
    assert abs(T.describe(match_outlines(moving, fixed))["rotation_deg"] + 120) <= 6


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
    renderings = render_pair(moving, fixed, (1.0, 1.0), COMPARED_PX)
    settled = settle(renderings, nothing_found(T.identity()), (1.0, 1.0), 200.0)
    assert not settled.accepted and settled.method == "outline"
    assert "4 of 500 matches" in settled.reasons[0] and f"< {MIN_INLIERS}" in settled.reasons[0]
    assert error_share(in_overview(settled.transform.matrix), truth, fixed.mask) < 0.02


def test_tissue_of_another_shape_is_laid_by_centroids():
    strip = np.full((*SHAPE, 3), 240, np.uint8)
    strip[300:330, 20:680] = section()[300:301, 230:231]
    moving, fixed = Section(strip, strip[..., 0] < 235, T.scaling(SCALE, SCALE)), as_section(section())
    renderings = render_pair(moving, fixed, (1.0, 1.0), COMPARED_PX)
    settled = settle(renderings, nothing_found(T.identity()), (1.0, 1.0), 200.0)
    assert not settled.accepted and settled.method == "centroid"
    centres = [np.argwhere(one.mask)[:, ::-1].mean(axis=0) for one in (moving, fixed)]
    np.testing.assert_allclose(T.apply_to_points(in_overview(settled.transform.matrix), centres[0]), centres[1], atol=2)


@pytest.fixture(scope="module")
def judged() -> tuple:
    truth = known_warp(12, 1.05, (-30, 20))
    fixed, moving = as_section(section()), as_section(warped(section(), truth, stain=(0.8, 1.3, 1.1)))
    match = register(*render_pair(moving, fixed, (1.0, 1.0), MATCHED_PX))
    return render_pair(moving, fixed, (1.0, 1.0), COMPARED_PX), match


def reasons_for(judged: tuple, change: np.ndarray, believed: bool) -> list[str]:
    """The gate's reasons against the right transform followed by `change`; believed: the matches change as well."""
    renderings, match = judged
    wrong = T.compose(change, match.matrix)
    if believed:
        match = replace(match, matrix=wrong, fixed_points=T.apply_to_points(change, match.fixed_points))
    return reasons_against(gather(*renderings, T.Transform(wrong), match, (1.0, 1.0)))


CENTRE = SCALE * np.array([350.0, 310.0])


def test_the_right_transform_passes_the_gate(judged):
    assert reasons_for(judged, T.identity(), True) == []


@pytest.mark.parametrize("believed", [True, False])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(degrees=st.floats(25, 335))
def test_a_wrong_rotation_is_refused_even_if_the_matches_agree_with_it(judged, believed, degrees):
    assert reasons_for(judged, T.rotation(degrees, CENTRE), believed)


@pytest.mark.parametrize("change, reason", [
    (T.affine(1.4 * np.eye(2), -0.4 * CENTRE), "scale x"),
    (T.affine(np.diag([1.0, 0.7]), [0, 0]), "scale y"),
    (T.affine(np.array([[1, 0.3], [0, 1]]), [-0.3 * CENTRE[1], 0]), "shear"),
    (T.compose(T.scaling(SCALE, SCALE), MIRROR, TO_OVERVIEW), "mirrored against the matches"),
    (T.affine(np.eye(2), [2400, 0]), "on the picture"),
    (T.affine(np.eye(2), [700, 0]), "tissue Dice"),
    (T.affine(np.eye(2), [120, 0]), "size off")])
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
    renderings, found = judged
    near = np.argsort(np.linalg.norm(found.fixed_points - found.fixed_points[0], axis=1))[:40]
    crowded = replace(found, moving_points=found.moving_points[near], fixed_points=found.fixed_points[near])
    assert "cover" in reasons_against(gather(*renderings, T.Transform(found.matrix), crowded, (1.0, 1.0)))[-1]


def test_a_squeezed_section_gets_an_affine_where_it_is_well_supported():
    rng = np.random.default_rng(0)
    moving = rng.uniform(0, 700, (400, 2))
    squeezed = T.affine(np.array([[1.06, 0.02], [0, 0.95]]), [5, 9])
    pairs = Pairs(T.identity(), moving, T.apply_to_points(squeezed, moving))
    match = fit_affine(pairs, fit_similarity(pairs))
    np.testing.assert_allclose(match.matrix, squeezed, atol=1e-6)
    assert match.inliers == 400


def test_pieces_that_moved_apart_are_measured():
    """Two pieces, one of them shifted by 100 px of 4 um; the transform is that of the larger."""
    mask = np.zeros((400, 800), bool)
    mask[50:350, 50:400], mask[100:300, 500:700] = True, True
    y, x = np.nonzero(mask)
    fixed = np.stack([x, y], 1)[::211].astype(float)
    moving = fixed - np.where(fixed[:, :1] > 450, [[0.0, 100.0]], [[0.0, 0.0]])
    pieces = fit_pieces(Pairs(T.identity(), moving, fixed), mask)
    match = Match(T.identity(), "xfeat", len(moving), moving, fixed, pieces)
    found = judge_pieces(match, T.Transform(T.identity()), 4.0)
    assert [one["off_px"] for one in found] == [pytest.approx(0, abs=1e-3), pytest.approx(100, abs=1e-3)]
    assert found[1]["off_um"] == pytest.approx(400, abs=0.1) and found[0]["share"] > found[1]["share"]


# real sections ---------------------------------------------------------------------------------------
VISIUM = Path(os.environ.get("ASIGN_DATA", ROOT.parent / "shared" / "data" / "her2st")).parent / "visium"


def visium_pair(name: str, turned: int = 0) -> Settled:
    """Two neighbouring sections from their hires images at half size, with the fiducial frame.

    turned: quarter turns of the moving one.
    """
    from data_preprocessing.tissue import tissue_mask
    pictures = sorted((VISIUM / name).glob("*/spatial/tissue_hires_image.png"))
    if len(pictures) < 2:
        pytest.skip(f"no real sections at {VISIUM}: set ASIGN_DATA")
    fixed, moving = (cv2.cvtColor(cv2.imread(str(picture), cv2.IMREAD_REDUCED_COLOR_2), cv2.COLOR_BGR2RGB)
                     for picture in pictures[:2])
    moving = np.rot90(moving, turned).copy()
    sections = [Section(rgb, tissue_mask(rgb), T.identity()) for rgb in (moving, fixed)]
    return registered(*sections, (8.36, 8.36))[1]


def test_mouse_brain_lies_on_mouse_brain_though_upside_down():
    settled = visium_pair("mousebrain", turned=2)
    assert settled.accepted and settled.evidence.inliers > 200 and not settled.evidence.mirrored
    assert settled.warnings == ()
    assert settled.after["tissue_dice"] >= 0.97 and settled.after["image_correlation"] > 0.65
    assert abs(abs(settled.evidence.rotation_deg) - 180) < 5


def test_organoids_that_moved_apart_are_laid_together_with_a_warning():
    settled = visium_pair("lungorganoid")
    assert settled.accepted and settled.after["tissue_dice"] > settled.before["tissue_dice"] + 0.3
    assert len(settled.pieces) >= 6 and len([one for one in settled.pieces if one["off_um"] is not None]) >= 5
    farthest = max((one for one in settled.pieces if one["off_um"] is not None), key=lambda one: one["off_um"])
    assert f"piece {farthest['piece']} off by {farthest['off_um']:.0f} um" in settled.warnings[0]


# by hand ---------------------------------------------------------------------------------------------
def test_landmarks_are_fitted_least_squares(tmp_path):
    def fitted(matrix: np.ndarray, moving: np.ndarray) -> np.ndarray:
        points = np.hstack([moving, T.apply_to_points(matrix, moving)])
        pd.DataFrame(points, columns=COLUMNS).to_csv(tmp_path / "l.csv", index=False)
        return read_given(tmp_path, PairConfig(landmarks="l.csv")).matrix

    truth = T.compose(T.affine(np.array([[1.05, 0.02], [0.01, 0.97]]), [300, -40]), T.rotation(30))
    moving = np.array([[0, 0], [4000, 100], [300, 3000], [2500, 2500.0]])
    np.testing.assert_allclose(fitted(truth, moving), truth, atol=1e-6)
    mirrored = T.compose(T.affine(1.1 * np.eye(2), [20, 30]), MIRROR, T.rotation(100))
    np.testing.assert_allclose(fitted(mirrored, moving[:3]), mirrored, atol=1e-6)  # three points: a similarity
    T.write_itk(tmp_path / "t.mat", truth)
    np.testing.assert_array_equal(read_given(tmp_path, PairConfig(transform="t.mat")).matrix, truth)


@pytest.mark.parametrize("name, text, expected", [
    ("landmarks", None, "no file"),
    ("landmarks", "moving_x,moving_y,fixed_x\n1,2,3\n", "a column fixed_y"),
    ("landmarks", "moving_x,moving_y,fixed_x,fixed_y\n1,2,3,4\n5,6,7,9\n", "2 points; expected 3"),
    ("landmarks", "moving_x,moving_y,fixed_x,fixed_y\n1,2,3,4\n2,3,4,5\n9,10,5,6\n", "on one line"),
    ("landmarks", "moving_x,moving_y,fixed_x,fixed_y\n1,2,3,4\n2,x,4,5\n9,10,5,6\n", "not a number"),
    ("landmarks", "moving_x,moving_y,fixed_x,fixed_y\n1,2,3,4\n2,,4,5\n9,10,5,6\n", "not a number"),
    ("transform", "{", "cannot be read"),
    ("transform", '{"matrix": [[1, 0], [0, 1]]}', r"shape \(2, 2\)"),
    ("transform", "{}", "no transform")])
def test_a_bad_file_given_by_hand_is_one_clear_line(tmp_path, name, text, expected):
    """A broken file stops its pair (LayerError); a path that does not exist is an error of the config (DataError)."""
    if text is not None:
        (tmp_path / "given").write_text(text)
    with pytest.raises(LayerError if text else DataError, match=expected) as raised:
        read_given(tmp_path, PairConfig(**{name: "given"}))
    line = str(raised.value)
    assert line.startswith(f"{tmp_path / 'given'}: found ") and "; fix: " in line and "\n" not in line
