"""Tissue without a counterpart in the other sections: found, named, marked and left out."""
import json
import re
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import load_script
from foreign_sections import CONTROL, PITCH_PX, UM, block, control, on_wide_glass, say, write_stack
from hypothesis import given, settings, strategies as st

from common.errors import DataError
from common.io import read_location, read_picture, write_table
from common.jobs import open_context
from common.layout import Layout
from common.pieces import label_pieces, nearest_piece, piece_at, pieces_of
from common.status import read_status
from registration import transforms as T
from registration.foreign import entries_of, on_several_pieces, warnings_of, without_counterpart
from registration.foreign_spots import on_foreign_tissue
from registration.sections import Section

OVERVIEW, GRID = "0_2_tissue_mask", "0_3_spot_grid"
STEPS = (OVERVIEW, GRID, "Step0_original_contour_generation", "Step1_affine_registration_2d_PAS_2048_xfeat",
         "Step2_registration_ANTs", "Step3_registertoMiddle_ANTs", "Step3.5_registertoMiddle_ANTs_points_contour_fast")
X, Y = CONTROL[0] + CONTROL[2] // 2, CONTROL[1] + CONTROL[3] // 2  # the control's centre, level-0 px
STILL = T.Transform(T.identity())


# pieces -----------------------------------------------------------------------------------------------
def test_a_piece_is_named_by_a_point_inside_it_in_level0_px():
    mask = np.zeros((40, 60), bool)
    mask[2:38, 2:38] = True
    mask[6:34, 6:34] = False  # a ring: its centroid is no tissue
    mask[10:20, 45:55] = True
    labels = label_pieces(mask)
    pieces = pieces_of(labels, (3.0, 2.0))
    assert [piece.area_px for piece in pieces] == [36 * 36 - 28 * 28, 100]
    assert piece_at(labels, (3.0, 2.0), np.array([piece.point for piece in pieces])).tolist() == [1, 2]
    assert pieces[1].point == pytest.approx((3 * 50, 2 * 15), abs=3)
    assert piece_at(labels, (3.0, 2.0), np.array([[60.0, 40.0], [-5, 3], [500, 3]])).tolist() == [0, 0, 0]
    near = nearest_piece(labels, 3)
    assert near[15, 42] == 2 and near[20, 20] == 0 and near[15, 39] == 1 and nearest_piece(labels)[20, 20] == 1


# the rule ---------------------------------------------------------------------------------------------
def tissue(*boxes: tuple[int, int, int, int]) -> Section:
    """A section of boxes (x, y, width, height) on 300 x 200 px, 2 level-0 px each."""
    mask = np.zeros((200, 300), bool)
    for x, y, width, height in boxes:
        mask[y:y + height, x:x + width] = True
    return Section(np.zeros((200, 300, 3), np.uint8), mask, T.scaling(2, 2))


MAIN, OTHER, SMALL = (20, 20, 100, 150), (200, 60, 40, 40), (250, 10, 9, 9)


def alone(*sections: Section, measured=()) -> dict[int, list[int]]:
    """{layer: areas (px) of its pieces without counterpart}; layers 1, 2, …"""
    stack = dict(enumerate(sections, 1))
    found = without_counterpart(stack, dict.fromkeys(stack, STILL), measured)
    return {layer: [one.piece.area_px for one in pieces] for layer, pieces in found.items()}


def test_only_a_piece_that_no_other_section_has_is_foreign():
    assert alone(tissue(MAIN), tissue(MAIN, OTHER), tissue(MAIN)) == {2: [1600]}
    assert alone(tissue(MAIN, OTHER), tissue(MAIN)) == {1: [1600]}
    assert alone(tissue(MAIN, OTHER), tissue(MAIN, OTHER)) == {}
    assert alone(tissue(MAIN, OTHER), tissue(MAIN), tissue(MAIN, OTHER)) == {}, "its counterpart is further away"
    assert alone(tissue(MAIN, OTHER), tissue(MAIN, (220, 60, 40, 40))) == {}, "it moved by half its width"
    assert alone(tissue(MAIN, OTHER), tissue(MAIN, (20, 20, 220, 150))) == {}
    assert alone(tissue(MAIN, OTHER)) == {}


def test_two_sections_of_the_block_on_one_slide_are_named():
    left, right = (20, 20, 100, 100), (160, 20, 100, 90)
    stack = {1: tissue(left), 2: tissue(left, right), 3: tissue(right)}
    lines = on_several_pieces(stack, dict.fromkeys(stack, STILL), "S")
    assert len(lines) == 1 and lines[0].startswith("section 3 ") and "section 1" in lines[0]
    assert re.search(r"leave_out: {2: \[\[4\d\d, 1\d\d\]\]}", lines[0]), "x 320 to 520, y 40 to 220, level-0 px"
    stack[3] = tissue(left)
    assert on_several_pieces(stack, dict.fromkeys(stack, STILL), "S") == []
    assert on_several_pieces({1: tissue(left), 2: tissue(right)}, dict.fromkeys((1, 2), STILL), "S") == []


def test_dust_is_not_named():
    assert alone(tissue(MAIN), tissue(MAIN, SMALL)) == {}
    assert alone(tissue(MAIN), tissue(MAIN, (200, 60, 20, 20))) == {}, "2.6 % of the tissue"
    assert alone(tissue(MAIN), tissue(MAIN, OTHER, SMALL)) == {2: [1600]}
    assert alone(tissue(MAIN), tissue(MAIN, (200, 60, 20, 20), (250, 60, 20, 20))) == {2: [400, 400]}


def test_the_control_of_two_stained_sections_is_foreign_to_the_measured_one():
    stack = tissue(MAIN), tissue(MAIN, OTHER), tissue(MAIN, OTHER)
    assert alone(*stack) == {}, "nothing shows which of the two kinds is the block's"
    assert alone(*stack, measured=[1]) == {2: [1600], 3: [1600]}
    assert alone(*stack, measured=[2]) == {} == alone(*stack, measured=[7])
    sections = dict(enumerate(stack, 1))
    found = without_counterpart(sections, dict.fromkeys(sections, STILL), [1])
    lines = warnings_of(entries_of(found, sections, dict.fromkeys(sections, UM)), "S", [1, 2, 3], [1])
    assert [one.also_in for one in found[2]] == [(3,)]
    assert ["section 2:" in lines[0], "section 3:" in lines[1]] == [True, True]
    assert all("measured section 1:" in line for line in lines), "the other stained section has it"


def test_the_largest_tissue_may_be_the_foreign_one():
    assert alone(tissue((20, 60, 60, 60)), tissue((20, 60, 60, 60), (120, 20, 150, 150)), tissue((20, 60, 60, 60))) == {
        2: [22500]}


@settings(max_examples=20, deadline=None, derandomize=True)
@given(degrees=st.floats(0, 360), own=st.floats(-60, 60), mirrored=st.booleans())
def test_the_frame_does_not_matter(degrees, own, mirrored):
    turn = T.compose(T.rotation(degrees, (70, 400)), T.affine(np.diag([-1.0 if mirrored else 1.0, 1.0]), [5, own]))
    stack = {1: tissue(MAIN), 2: tissue(MAIN, OTHER)}
    found = without_counterpart(stack, dict.fromkeys(stack, T.Transform(turn)))
    assert list(found) == [2] and [one.piece.area_px for one in found[2]] == [1600]


# through the steps ------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def stained(tmp_path_factory) -> Layout:
    """Three sections, the middle one with control tissue, registered."""
    pictures = {1: block(1), 2: on_wide_glass(block(2)), 3: block(3)}
    layout = write_stack(tmp_path_factory.mktemp("stained"), pictures)
    for step in STEPS:
        assert load_script(step).main(["--root_path", str(layout.root)]) == 0
    return layout


def quality(layout: Layout) -> dict:
    return json.loads(layout.quality("S").read_text())


def test_the_gate_names_the_piece_its_area_and_place(stained):
    entry, = quality(stained)["foreign_tissue"]
    assert entry["layer"] == 2 and entry["point"] == pytest.approx([X, Y], abs=12)
    assert entry["area_mm2"] == pytest.approx(control()[1].sum() * UM ** 2 / 1e6, rel=0.1)
    mask = read_picture(stained.mask("S", 2)) > 0
    assert entry["share"] == pytest.approx(mask[:, CONTROL[0] - 20:].sum() / mask.sum(), abs=1e-3)
    for pair in quality(stained)["pairs"]:
        assert pair["accepted"]
        warning, = pair["warnings"]
        assert "section 2" in warning and f"section {pair['moving']}" in warning
        without = float(re.search(r"Dice without (0\.\d+)", warning)[1])
        assert without > 0.95 > pair["after"]["tissue_dice"]


def test_the_line_of_step_3_is_the_one_config_line(stained, tmp_path, capsys):
    step = load_script("Step3_registertoMiddle_ANTs")
    assert step.main(["--root_path", str(stained.root), "--overwrite"]) == 0
    line = next(one for one in capsys.readouterr().err.splitlines() if "leave_out" in one)
    said = re.search(r"samples\.S\.(leave_out: \{2: \[\[\d+, \d+\]\]\})", line)[1]
    layout = write_stack(tmp_path, {1: block(1), 2: on_wide_glass(block(2))}, said)
    assert load_script(OVERVIEW).main(["--root_path", str(layout.root)]) == 0
    mask, whole = (read_picture(one.mask("S", 2)) > 0 for one in (layout, stained))
    assert not mask[:, CONTROL[0] - 20:].any()
    np.testing.assert_array_equal(mask[:, :CONTROL[0] - 20], whole[:, :CONTROL[0] - 20])
    assert load_script(GRID).main(["--root_path", str(layout.root)]) == 0
    spots = read_location(layout.location("S", 2))
    assert len(spots) > 100 and (spots["pixel_x"] < CONTROL[0]).all()


def test_its_spots_are_marked(stained, capsys):
    spots = read_location(stained.location("S", 2))[["pixel_x", "pixel_y"]].to_numpy()
    marked = on_foreign_tissue(stained, "S", 2, spots)
    np.testing.assert_array_equal(marked, spots[:, 0] > CONTROL[0] - 20)
    assert marked.sum() == pytest.approx(control()[1].sum() / PITCH_PX ** 2, rel=0.2)
    assert not on_foreign_tissue(stained, "S", 1, spots).any()
    beside = np.array([[X, CONTROL[1] - 6.0], [300.0, 160.0]])  # a spot beside the rim belongs to the nearest piece
    assert on_foreign_tissue(stained, "S", 2, beside).tolist() == [True, False]
    step = load_script(STEPS[-1])
    assert step.main(["--root_path", str(stained.root), "--overwrite"]) == 0
    assert f"{marked.sum()} of {len(spots)} spots" in capsys.readouterr().err


def test_a_root_of_before_has_no_marks(stained, tmp_path):
    layout = Layout(tmp_path)
    assert on_foreign_tissue(layout, "S", 2, np.zeros((3, 2))).tolist() == [False] * 3
    layout.quality("S").parent.mkdir(parents=True)
    layout.quality("S").write_text('{"layers": [1, 2]}')
    assert on_foreign_tissue(layout, "S", 2, np.zeros((3, 2))).tolist() == [False] * 3


def test_obs_marks_the_spots_and_their_confidence_is_0():
    from types import SimpleNamespace

    from evaluation.outputs import layer_anndata
    graph = SimpleNamespace(sample="S", n_spots=4, layer=torch.tensor([1, 2, 2, 2]), barcode=np.array(list("abcd")),
                            pixel=np.zeros((4, 2)), has_label=torch.zeros(4, dtype=torch.bool))
    predicted = {"expression": np.full((4, 2), -8.0), "sd": np.ones((4, 2)), "confidence": np.full(4, 0.6, np.float32)}
    build = dict(depth=500.0, n_background=None, known=np.array([1, 0, 0, 1], bool))
    foreign = np.array([0, 1, 0, 1], bool)
    adata: anndata.AnnData = layer_anndata(graph, 2, predicted, ["g", "h"], {}, foreign=foreign, **build)
    assert adata.obs["foreign_tissue"].dtype == bool and adata.obs["foreign_tissue"].tolist() == [True, False, True]
    assert adata.obs["confidence"].tolist() == pytest.approx([0, 0.6, 0.6]), "a known spot is measured"
    without = layer_anndata(graph, 2, predicted, ["g", "h"], {}, **build)
    assert "foreign_tissue" not in without.obs and (without.obs["confidence"] > 0.5).all()


# the config line --------------------------------------------------------------------------------------
def overview(root: Path, more: str) -> tuple[int, str]:
    """(exit code, status) of step 0_2 on one section with control tissue and this key of its sample."""
    layout = write_stack(root, {1: on_wide_glass(block(1))}, more)
    code = load_script(OVERVIEW).main(["--root_path", str(root)])
    return code, read_status(layout).get("S/1", {}).get(OVERVIEW, "")


def test_a_point_beside_the_tissue_is_refused_with_the_pieces(tmp_path):
    code, status = overview(tmp_path, f"leave_out: {{1: [[{X}, {Y}], [5, 7]]}}")
    assert code == 2 and "[5, 7]" in status and str([X, Y]) not in status.split("expected")[0]
    named = [[float(value) for value in one] for one in re.findall(r"\[(\d+), (\d+)\] \(", status)]
    assert len(named) == 2 and named[1] == pytest.approx([X, Y], abs=12), "the largest first"
    assert not Layout(tmp_path).mask("S", 1).exists()


def test_leaving_out_all_tissue_is_refused(tmp_path):
    code, status = overview(tmp_path, f"leave_out: {{1: [[{X}, {Y}], [350, 330]]}}")
    assert code == 2 and "all tissue" in status


def test_measured_spots_on_it_are_refused(tmp_path):
    spots = np.array([[350.0, 330], [400, 330], [X, Y]])
    x, y = spots.T
    table = pd.DataFrame({"barcode": list("abc"), "pixel_x": x, "pixel_y": y, "i": 0, "j": range(3)})
    write_table(Layout(tmp_path).location("S", 1), table)
    code, status = overview(tmp_path, f"leave_out: {{1: [[{X}, {Y}]]}}")
    assert code == 2 and "1 of 3 measured spots" in status and "location/S/1.csv" in status


@pytest.mark.parametrize("more, words", [
    ("leave_out: {4: [[1, 2]]}", "leave_out"), ("leave_out: {1: [[1, 2, 3]]}", "leave_out"),
    ("leave_out: {1: [[a, 2]]}", "leave_out")])
def test_a_wrong_line_stops_before_any_work(tmp_path, more, words, capsys):
    code, status = overview(tmp_path, more)
    assert code == 2 and status == "" and words in capsys.readouterr().err


def test_without_the_line_the_recipe_is_that_of_before(tmp_path):
    layout, parser = write_stack(tmp_path, {1: block(1)}), load_script(OVERVIEW).build_parser()

    def job_settings() -> set[str]:
        context = open_context(parser.parse_args(["--root_path", str(tmp_path)]))
        return set(load_script(OVERVIEW).layer_job(context, "S", 1).settings)
    assert job_settings() == {"refuse_flipped_spots", "um_per_px"}
    say(layout, [1], "leave_out: {1: [[350.5, 330]]}")
    assert job_settings() == {"refuse_flipped_spots", "um_per_px", "leave_out"}
    assert yaml.safe_load(layout.config.read_text())["samples"]["S"]["leave_out"] == {1: [[350.5, 330]]}


def test_the_skipped_section_may_have_the_line(tmp_path):
    layout = write_stack(tmp_path, {1: block(1), 2: block(2)}, "skip: [2], leave_out: {2: [[1, 2]]}")
    assert load_script(OVERVIEW).main(["--root_path", str(layout.root)]) == 0
    with pytest.raises(DataError):
        say(layout, [1], "leave_out: {2: [[1, 2]]}")
        open_context(load_script(OVERVIEW).build_parser().parse_args(["--root_path", str(tmp_path)]))
