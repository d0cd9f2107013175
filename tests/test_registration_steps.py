"""The five registration scripts on a synthetic stack, and the benchmark of registration."""
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, load_script
from synthetic_sections import SCALE, SHAPE, TO_OVERVIEW, as_section, known_warp, section, warped

from common.contract.registration import EVIDENCE
from common.io import write_json, write_picture
from common.layout import Layout
from common.status import read_status, set_status
from registration import transforms as T
from registration.by_hand import COLUMNS
from registration.gate import Evidence
from registration.sections import render

STEPS = ("Step0_original_contour_generation", "Step1_affine_registration_2d_PAS_2048_xfeat",
         "Step2_registration_ANTs", "Step3_registertoMiddle_ANTs",
         "Step3.5_registertoMiddle_ANTs_points_contour_fast")

SPOTS = np.array([[1300.0, 1300.0], [1500.0, 1300.0], [1500.0, 1500.0], [1100.0, 1450.0]])  # level-0 px, on all tissues
WARPS = {1: known_warp(6, 1, (30, 12)), 2: known_warp(-4, 1, (-20, 25)), 3: known_warp(9, 1, (12, -18)),
         4: known_warp(3, 1, (0, 0))}


def make_root(root: Path, warps: dict[int, np.ndarray]) -> Layout:
    """Overviews as step 0_2 writes them, and locations: a section and its spots, moved by every warp (overview px)."""
    layout = Layout(root)
    root.mkdir(parents=True, exist_ok=True)
    layout.config.write_text(f"dataset: toy\npitch_px: 200\nsamples: {{S: {{layers: {list(warps)}}}}}\n")
    for layer, warp in warps.items():
        one = as_section(warped(section(), warp))
        height, width = one.mask.shape
        write_picture(layout.thumbnail("S", layer), one.rgb, quality=95)
        write_picture(layout.mask("S", layer), one.mask.astype(np.uint8) * 255)
        write_json(layout.thumbnail_info("S", layer), {"width_px": width * SCALE, "height_px": height * SCALE,
                                                       "scale": [SCALE, SCALE], "tissue_share": float(one.mask.mean())})
        x, y = T.apply_to_points(T.compose(T.scaling(SCALE, SCALE), warp, TO_OVERVIEW), SPOTS).T
        layout.location("S", layer).parent.mkdir(parents=True, exist_ok=True)
        barcodes = [f"{k}x{layer}" for k in range(len(SPOTS))]
        table = pd.DataFrame({"barcode": barcodes, "pixel_x": x, "pixel_y": y, "i": range(len(SPOTS)), "j": 0})
        table.to_csv(layout.location("S", layer), index=False)
    return layout


def coordinates(path: Path, columns: tuple[str, str] = ("pixel_x", "pixel_y")) -> np.ndarray:
    """(n, 2) of a CSV."""
    return pd.read_csv(path)[list(columns)].to_numpy()


def registered_in(layout: Layout) -> np.ndarray:
    """(n_spots of the sample, 2) registered spots."""
    return coordinates(layout.spot_regist("S"), ("registered_x", "registered_y"))


def quality_of(layout: Layout) -> dict:
    return json.loads(layout.quality("S").read_text())


def pairs_of(quality: dict) -> list[tuple[int, int]]:
    """(moving, fixed) of every pair."""
    return [(pair["moving"], pair["fixed"]) for pair in quality["pairs"]]


def run_all(layout: Layout, *options: str, steps: tuple = STEPS) -> list[int]:
    return [load_script(step).main(["--root_path", str(layout.root), *options]) for step in steps]


@pytest.fixture(scope="module")
def stack(tmp_path_factory) -> Layout:
    layout = make_root(tmp_path_factory.mktemp("registered") / "root", WARPS)
    assert run_all(layout) == [0] * len(STEPS)
    return layout


def test_contours_are_circles_in_reference_radius(stack):
    contours, centres = np.load(stack.contours("S", 2)), coordinates(stack.location("S", 2))
    assert contours.shape == (4, 100, 2) and contours.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(contours - centres[:, None], axis=2), 112 * 200 / 272, atol=1e-3)
    np.testing.assert_allclose(contours.mean(axis=1), centres, atol=1e-3)


def test_every_spot_lands_where_it_came_from(stack):
    spots = pd.read_csv(stack.spot_regist("S"))
    assert list(spots.columns) == ["sample", "layer", "barcode", "registered_x", "registered_y"]
    assert spots["layer"].tolist() == np.repeat(list(WARPS), len(SPOTS)).tolist() and spots["barcode"].iloc[5] == "1x2"
    middle = coordinates(stack.location("S", 3))  # index 4 // 2 is layer 3
    registered = registered_in(stack).reshape(4, 4, 2)
    np.testing.assert_array_equal(registered[2], middle)
    limit_px = 0.002 * SCALE * np.hypot(*SHAPE)
    np.testing.assert_allclose(registered, np.broadcast_to(middle, registered.shape), atol=limit_px)
    contours = np.load(stack.spot_regist_contours("S"))
    assert contours.shape == (16, 100, 2) and contours.dtype == np.float32
    np.testing.assert_allclose(contours.mean(axis=1), registered_in(stack), atol=0.01)


def test_quality_and_files_of_the_sample(stack):
    quality = quality_of(stack)
    assert quality["layers"] == [1, 2, 3, 4] and quality["middle"] == 3 and quality["left_out"] == []
    assert pairs_of(quality) == [(1, 2), (2, 3), (4, 3)]
    for pair in quality["pairs"]:
        assert pair["method"] == "xfeat" and pair["accepted"] and pair["reasons"] == pair["warnings"] == []
        before, after = pair["before"], pair["after"]
        assert after["tissue_dice"] > 0.97 and after["image_correlation"] > max(0.9, before["image_correlation"])
        assert abs(pair["determinant"] - 1) < 0.02
        layers = pair["moving"], pair["fixed"]
        assert stack.overlay("S", *layers).is_file()
        matrix, _ = T.read_transform(stack.pair("S", *layers), "a test")
        np.testing.assert_array_equal(T.read_itk(stack.pair_itk("S", *layers)), matrix)
    np.testing.assert_array_equal(T.read_transform(stack.to_middle("S", 3), "a test")[0], T.identity())
    assert stack.stack_view("S").is_file() and stack.to_middle_itk("S", 1).is_file()


def test_two_runs_are_bit_identical(stack, tmp_path):
    """The second run is in a process of its own, with another number of threads."""
    again = make_root(tmp_path / "root", {layer: WARPS[layer] for layer in (2, 3, 4)})
    program = "import sys; sys.path.insert(0, 'tests'); from conftest import load_script\n"
    for step in STEPS[1:3]:
        program += f"assert load_script({step!r}).main(['--root_path', {str(again.root)!r}]) == 0\n"
    environment = {**os.environ, "OMP_NUM_THREADS": "3"}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, check=True, capture_output=True)
    for pair in ((2, 3), (4, 3)):
        for name in (Layout.pair_coarse, Layout.pair, Layout.pair_itk):
            assert name(again, "S", *pair).read_bytes() == name(stack, "S", *pair).read_bytes()


def copy_of(layout: Layout, root: Path) -> Layout:
    """A copy; steps that are up to date there are skipped when they run again."""
    shutil.copytree(layout.root, root)
    return Layout(root)


def test_a_layer_without_tissue_is_bridged(stack, tmp_path):
    layout = copy_of(stack, tmp_path / "root")
    for path in (layout.thumbnail("S", 2), layout.mask("S", 2), layout.thumbnail_info("S", 2)):
        path.unlink()
    assert run_all(layout) == [0] * len(STEPS)
    quality = quality_of(layout)
    assert quality["layers"] == [1, 3, 4] and quality["left_out"] == [2]
    assert pairs_of(quality) == [(1, 3), (4, 3)]
    for step in (STEPS[1], STEPS[3]):
        assert read_status(layout)["S/2"][step].startswith("left out")
    assert sorted(set(pd.read_csv(layout.spot_regist("S"))["layer"])) == [1, 3, 4]


def test_a_layer_refused_by_step_0_2_is_left_out_though_old_files_are_there(tmp_path):
    layout = make_root(tmp_path / "root", {3: WARPS[3], 4: WARPS[4]})
    set_status(layout, "0_2_tissue_mask", "S/4", "left out: no tissue")
    assert run_all(layout, steps=STEPS[1:4]) == [0, 0, 0]
    assert quality_of(layout)["layers"] == [3]


def test_a_layer_without_spots_is_left_out_of_the_spots(stack, tmp_path):
    layout = copy_of(stack, tmp_path / "root")
    layout.location("S", 3).unlink()
    assert run_all(layout, steps=STEPS[4:]) == [0]
    assert set(pd.read_csv(layout.spot_regist("S"))["layer"]) == {1, 2, 4}
    assert "no file" in read_status(layout)["S/3"][STEPS[4]]


def test_moving_a_whole_slide_with_its_spots_changes_nothing(stack, tmp_path):
    shift = np.array([17, -9])  # whole overview px
    moved = T.compose(T.affine(np.eye(2), shift), WARPS[4])
    layout = make_root(copy_of(stack, tmp_path / "root").root, {**WARPS, 4: moved})
    run_all(layout)
    assert not np.array_equal(coordinates(layout.location("S", 4)), coordinates(stack.location("S", 4)))
    np.testing.assert_allclose(registered_in(layout), registered_in(stack), atol=0.001 * SCALE * np.hypot(*SHAPE))


def test_a_layer_of_an_empty_mask_is_bridged(stack, tmp_path):
    layout = copy_of(stack, tmp_path / "root")
    write_picture(layout.mask("S", 4), np.zeros(SHAPE, np.uint8))
    assert run_all(layout, steps=STEPS[1:4]) == [0, 0, 0]
    quality = quality_of(layout)
    assert quality["layers"] == [1, 2, 3] and quality["middle"] == 2 and quality["left_out"] == [4]
    assert "no tissue mask" in read_status(layout)["S/4"][STEPS[1]]


def test_a_stack_of_one_layer_is_its_own_middle(tmp_path):
    layout = make_root(tmp_path / "root", {3: WARPS[3]})
    assert run_all(layout) == [0] * len(STEPS)
    quality = quality_of(layout)
    assert quality["layers"] == [3] and quality["pairs"] == []
    np.testing.assert_array_equal(registered_in(layout)[:, 0], coordinates(layout.location("S", 3))[:, 0])


def test_given_pairs_replace_the_automatic_ones(stack, tmp_path):
    layout = copy_of(stack, tmp_path / "root")
    spots = {layer: coordinates(layout.location("S", layer)) for layer in WARPS}
    pd.DataFrame(np.hstack([spots[2], spots[3]]), columns=COLUMNS).to_csv(layout.root / "landmarks.csv", index=False)
    write_json(layout.root / "own.json", {"matrix": [[1, 0, 0], [0, 0, 0]]})  # everything onto one line
    by_hand = ", pairs: {2_to_3: {landmarks: landmarks.csv}, 4_to_3: {transform: own.json}}}}"
    layout.config.write_text(layout.config.read_text().replace("}}", by_hand))
    assert run_all(layout, steps=STEPS[1:3]) == [0, 0]
    given, folded = (T.read_transform(layout.pair("S", layer, 3), "a test")[1] for layer in (2, 4))
    assert given["method"] == "landmarks" and given["accepted"] and given["refinement"] == "none"
    assert given["after"]["tissue_dice"] > 0.97
    np.testing.assert_allclose(T.apply_to_points(np.array(given["matrix"]), spots[2]), spots[3], atol=1e-6)
    assert not folded["accepted"] and folded["method"] == "outline" and "fold" in folded["reasons"][0]


def test_a_pair_that_the_chain_does_not_have_is_named(stack, tmp_path, capsys):
    layout = copy_of(stack, tmp_path / "root")
    by_hand = ", pairs: {3_to_2: {landmarks: landmarks.csv}}}}"
    layout.config.write_text(layout.config.read_text().replace("}}", by_hand))
    assert run_all(layout, steps=STEPS[1:2]) == [2]
    error = capsys.readouterr().err
    assert str(layout.config) in error and "found pairs.3_to_2;" in error and "1_to_2, 2_to_3, 4_to_3" in error


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
    assert table["accepted"].all() and (table["error_percent"] < 0.3).all()
    assert "| all | 2 |" in (tmp_path / "registration_a.md").read_text()
    assert "other code" not in capsys.readouterr().out
    monkeypatch.setattr(benchmark, "code_digest", lambda script: "0123456789abcdef")
    assert benchmark.main([*options, "--cases", "1"]) == 0 and "2 cases of other code" in capsys.readouterr().out
    assert pd.read_csv(tmp_path / "registration_a.csv", dtype=str)["code"].tolist() == ["0123456789ab"]


def test_the_benchmark_knows_where_a_spot_went(stack):
    """Spots of the moved and of the unmoved section show the same tissue."""
    benchmark = load_benchmark()
    case = benchmark.make_case(benchmark.root_sources(stack)[0], 3, smooth=True)
    seen = []
    for one, spots in ((case.moving, case.moving_spots), (case.fixed, case.fixed_spots)):
        density = cv2.GaussianBlur(render(one, max(one.mask.shape)).density, (0, 0), 3)
        x, y = spots.T.astype(np.float32)[:, :, None]
        seen.append(cv2.remap(density, x, y, cv2.INTER_LINEAR).ravel())
    assert len(seen[0]) >= 10 and np.corrcoef(*seen)[0, 1] > 0.9


def test_the_contract_knows_what_the_gate_judges():
    assert tuple(field.name for field in fields(Evidence)) == EVIDENCE
