"""Sections that bend: SyN, steps 3 and 3.5 on pairs made by hand, and the overlays."""
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import load_script
from synthetic_sections import CANVAS, bending, smooth_warp, textured

from common.io import write_json, write_npy, write_picture
from common.layout import Layout
from common.status import read_status, set_status
from registration import overlays, transforms as T
from registration.quality import judge
from registration.refinement import compared, folds, refine
from registration.sections import Rendering, Section, render

STEPS = ("Step3_registertoMiddle_ANTs", "Step3.5_registertoMiddle_ANTs_points_contour_fast")


# SyN -------------------------------------------------------------------------------------------------
def rendered(rgb: np.ndarray) -> Rendering:
    return render(Section(rgb, rgb[..., 0] < 235, T.identity()), 500)


@pytest.fixture(scope="module")
def bent_pair() -> tuple[Rendering, Rendering, T.Transform]:
    """(moving, fixed, truth): the moving one is the fixed one, bent by up to 9 px of 268 and turned by 2 degrees."""
    fixed = textured()
    shrunk = smooth_warp(11, 27, sigma_px=150)
    warp = T.Warp(shrunk.field / 3, T.compose(T.scaling(1 / 3, 1 / 3), shrunk.to_fixed))
    truth = T.Transform(T.rotation(2, (134, 118)), warp)  # fixed -> moving
    moving = T.warp_image(fixed, truth, fixed.shape[:2], outside=240)
    moving = np.clip(245 * (moving / 245.0) ** [0.8, 1.2, 1.1], 0, 255).astype(np.uint8)
    return rendered(moving), rendered(fixed), truth


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


def make_root(root: Path, refused: tuple[int, ...] = (), layers: tuple[int, ...] = (1, 2, 3, 4, 5),
              config: str = "") -> Layout:
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
        height, width = tissue.shape
        write_picture(layout.mask("S", layer), np.where(tissue, 255, 0).astype(np.uint8))
        write_json(layout.thumbnail_info("S", layer), {"width_px": width * SCALE, "height_px": height * SCALE,
                                                       "scale": [SCALE, SCALE], "tissue_share": float(tissue.mean())})
        spots = rng.uniform([300, 300], [700, 500], (6, 2))
        layout.location("S", layer).parent.mkdir(parents=True, exist_ok=True)
        table = pd.DataFrame({"barcode": [f"{k}x{layer}" for k in range(6)], "pixel_x": spots[:, 0],
                              "pixel_y": spots[:, 1], "i": range(6), "j": 0})
        table.to_csv(layout.location("S", layer), index=False)
        around = rng.normal(0, 30, (6, 100, 2))
        contours = spots[:, None] + around - around.mean(axis=1, keepdims=True)
        write_npy(layout.contours("S", layer), contours.astype(np.float32))
        if (fixed := T.pair_partner(list(layers), layer)) is not None:
            write_pair(layout, layer, fixed, TRUE_PAIRS[layer], layer not in refused)
    return layout


def write_pair(layout: Layout, layer: int, fixed: int, transform: T.Transform, accepted: bool = True) -> None:
    T.write_transform(layout.pair("S", layer, fixed), transform, layer, fixed, layout.pair_warp("S", layer, fixed),
                      method="xfeat", accepted=accepted, reasons=[] if accepted else ["too few inliers (3)"],
                      warnings=[], refinement="none", before={"tissue_dice": 0.8}, after={"tissue_dice": 0.9},
                      pieces={"moving": 1, "fixed": 1})


def run(layout: Layout, *options: str, steps: tuple[str, ...] = STEPS) -> list[int]:
    return [load_script(step).main(["--root_path", str(layout.root), *options]) for step in steps]


@pytest.fixture(scope="module")
def stack(tmp_path_factory) -> Layout:
    layout = make_root(tmp_path_factory.mktemp("bent") / "root", refused=(2,))
    assert run(layout) == [0, 0]
    return layout


def quality_of(layout: Layout) -> dict:
    return json.loads(layout.quality("S").read_text())


def layers_with_spots(layout: Layout) -> list[int]:
    return sorted(set(pd.read_csv(layout.spot_regist("S"))["layer"]))


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
        files = stack.to_middle_warp("S", layer), *stack.to_middle_itk_warps("S", layer)
        assert all(path.is_file() for path in files)
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
    reason = status["S/1"][STEPS[0]]
    assert reason.startswith("left out: ") and "through section 2," in reason and status["S/5"][STEPS[0]] == "ok"
    assert "S/1: left out" in capsys.readouterr().err
    assert layers_with_spots(layout) == [3, 4, 5]
    set_status(layout, "Step2_registration_ANTs", "S/2", "ok")  # mended: all are back
    assert run(layout) == [0, 0]
    assert quality_of(layout)["left_out"] == [] and layers_with_spots(layout) == [1, 2, 3, 4, 5]
    layout.pair("S", 5, 4).unlink()
    assert run(layout) == [0, 0]
    reason = read_status(layout)["S/5"][STEPS[0]]
    assert quality_of(layout)["left_out"] == [5] and str(layout.pair("S", 5, 4)) in reason and "no file" in reason
    assert "Step2_registration_ANTs.py" in reason


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
    unmoved = {"through": [7], "accepted": True, **T.describe(T.identity()), "largest_bend_px": 0.0}
    assert quality_of(layout)["to_middle"]["7"] == unmoved
    spots = pd.read_csv(layout.spot_regist("S"))[["registered_x", "registered_y"]].to_numpy()
    np.testing.assert_allclose(spots, pd.read_csv(layout.location("S", 7))[["pixel_x", "pixel_y"]])


# pictures --------------------------------------------------------------------------------------------
def red(colour: np.ndarray) -> bool:
    return tuple(int(v) for v in colour) == overlays.BAD_COLOUR


def test_a_refused_pair_is_framed_red_and_a_bent_one_shows_its_grid():
    rgb = textured()
    section = Section(rgb, rgb[..., 0] < 235, T.scaling(3, 3))
    still, none = T.Transform(T.identity()), np.zeros((0, 2))
    points = np.array([[400.0, 300.0], [620.0, 420.0], [380.0, 520.0]])
    good = overlays.pair_overlay(section, section, still, points, points, "a pair")
    bad = overlays.pair_overlay(section, section, still, none, none, "a pair of 1.6 µm", False)
    assert good.shape == bad.shape == (overlays.BAR_PX + overlays.PAIR_SIDE_PX, 3 * overlays.PAIR_SIDE_PX, 3)
    assert red(bad[0, 500]) and not red(good[0, 500])
    side = overlays.PAIR_SIDE_PX
    after = good[overlays.BAR_PX:, side:2 * side].astype(int)
    assert np.abs(after[..., 0] - after[..., 1])[100:-100:7, 100:-100:7].mean() < 3  # laid on itself: grey all over
    bent = T.Transform(T.identity(), smooth_warp(0, 20))
    gridded = overlays.pair_overlay(section, section, bent, none, none, "a pair")
    corner = np.s_[overlays.BAR_PX + 4:overlays.BAR_PX + 90, side + 4:side + 90]
    assert (good[corner] == 255).all() and (gridded[corner] < 200).any()


def test_the_stack_view_frames_refused_and_missing_layers_red():
    rgb = textured()
    sections = {layer: Section(rgb, rgb[..., 0] < 235, T.scaling(3, 3)) for layer in (1, 2, 3, 4)}
    still = T.Transform(T.identity())
    picture = overlays.stack_view(sections, {1: still, 3: still, 4: still}, 3, {1: False, 3: True, 4: True})
    side = overlays.STACK_SIDE_PX
    assert picture.shape == (2 * side, 2 * side, 3)
    left, right = side // 2, side + side // 2
    assert [red(picture[0, left]), red(picture[0, right])] == [True, True]        # layers 1 and 2
    assert [red(picture[side, left]), red(picture[side, right])] == [False, False]  # layers 3 and 4
