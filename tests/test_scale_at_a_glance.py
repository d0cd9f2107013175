"""Size and scale of every section after step 0_2, and what a refused registration says of a wrong pixel size."""
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import load_script
from foreign_sections import PITCH_PX, UM, block, on_wide_glass, say, shrunk, write_stack

from common.io import read_json, read_picture, write_picture
from common.layout import Layout
from common.tissue_size import TissueSize, size_warning
from registration import transforms as T
from registration.gate import Evidence
from registration.matching import Match
from registration.pairing import Settled
from registration.remarks import explained
from registration.sections import Section
from registration.size_hint import hint_of_scale

OVERVIEW = "0_2_tissue_mask"
STEPS = (OVERVIEW, "Step1_affine_registration_2d_PAS_2048_xfeat", "Step2_registration_ANTs")


def overviews(root: Path, capsys, *options: str) -> tuple[dict[int, str], list[str]]:
    """({layer: its line of size and scale}, the warnings) of step 0_2."""
    capsys.readouterr()
    assert load_script(OVERVIEW).main(["--root_path", str(root), *options]) == 0
    out, err = capsys.readouterr()
    lines = {int(found[1]): line for line in out.splitlines() if (found := re.match(r".*  S/(\d+): .* mm2 of", line))}
    return lines, [line for line in err.splitlines() if "WARNING" in line]


# after step 0_2 ---------------------------------------------------------------------------------------
def test_one_line_gives_area_size_pitch_and_source(tmp_path, capsys):
    layout = write_stack(tmp_path, {1: block(1), 2: on_wide_glass(block(2))}, "pixel_size_um: {2: 5}")
    lines, _ = overviews(tmp_path, capsys)
    assert list(lines) == [1, 2]
    for layer, um, size_px in ((1, UM, (700, 620)), (2, 5, (1000, 620))):
        mask, line = read_picture(layout.mask("S", layer)) > 0, lines[layer]
        area = float(re.search(r"([\d.]+) mm2 of tissue", line)[1])
        assert area == pytest.approx(mask.sum() * um ** 2 / 1e6, rel=0.01)
        box = [np.ptp(at) + 1 for at in np.nonzero(mask)][::-1]
        for words, px in (("within", box), ("picture", size_px)):
            found = [float(value) for value in re.search(rf"{words} ([\d.]+) x ([\d.]+) mm", line).groups()]
            assert found == pytest.approx(np.array(px) * um / 1000, rel=0.01)
        assert f"{um:.4g} um/px" in line and f"pitch {PITCH_PX * UM / um:.4g} px = {PITCH_PX * UM:g} um" in line
    assert "pixel_size_um or pitch_px" in lines[1] and "samples.S.pixel_size_um" in lines[2] and "2 pieces" in lines[2]


def test_a_pixel_size_four_times_wrong_is_named_with_both_sections(tmp_path, capsys):
    write_stack(tmp_path, {1: block(1), 2: block(2), 3: block(3)}, "pixel_size_um: {3: 8}")
    _, warnings = overviews(tmp_path, capsys)
    line, = warnings
    assert "section 3" in line and ("section 1" in line or "section 2" in line)
    assert "8 um/px" in line and "4 um/px" in line and "samples.S.pixel_size_um" in line
    assert float(re.search(r"([\d.]+) times as large", line)[1]) == pytest.approx(4, abs=0.15)
    assert float(re.search(r"factor of ([\d.]+)", line)[1]) == pytest.approx(2, abs=0.05)
    assert "in px both" in line, "the pictures are alike, so the pixel sizes should be"


def test_sections_of_one_size_get_no_warning(tmp_path, capsys):
    write_stack(tmp_path, {1: block(1), 2: shrunk(block(2), 0.5)}, f"pixel_size_um: {{2: {2 * UM}}}")
    lines, warnings = overviews(tmp_path, capsys)
    assert len(lines) == 2 and warnings == []


def test_the_lines_appear_once_the_sample_is_complete(tmp_path, capsys):
    layout = write_stack(tmp_path, {1: block(1), 2: block(2), 3: block(3)}, "pixel_size_um: {3: 8}")
    assert overviews(tmp_path, capsys, "--layer", "1") == ({}, [])
    layout.new_image("S", 3, ".png").write_bytes(b"no picture")
    lines, warnings = overviews(tmp_path, capsys, "--layer", "2", "--layer", "3")
    assert list(lines) == [1, 2] and warnings == [], "a section that is left out does not hold back the others"
    write_stack(tmp_path, {3: block(3)})
    say(layout, [1, 2, 3], "pixel_size_um: {3: 8}")
    for options in (["--layer", "3"], [], ["--layer", "1"]):  # one section again, all up to date, one of them
        lines, warnings = overviews(tmp_path, capsys, *options)
        assert list(lines) == [1, 2, 3] and len(warnings) == 1


def test_a_mask_corrected_by_a_person_gives_the_area(tmp_path, capsys):
    layout = write_stack(tmp_path, {1: block(1), 2: block(2)})
    overviews(tmp_path, capsys)
    mask = read_picture(layout.mask("S", 2)).copy()
    mask[:, :420] = 0
    write_picture(layout.mask("S", 2), mask)
    lines, warnings = overviews(tmp_path, capsys)
    area = float(re.search(r"([\d.]+) mm2 of", lines[2])[1])
    assert area == pytest.approx((mask > 0).sum() * UM ** 2 / 1e6, rel=0.01)
    assert len(warnings) == 1 and "torn" in warnings[0]


@pytest.mark.parametrize("areas, named", [((10, 14), None), ((10, 15.1), (1, 2)), ((16, 10), (1, 2)), ((0, 10), None)])
def test_the_limit_is_1_5(areas, named):
    sizes = [TissueSize(layer, area, 1.0) for layer, area in enumerate(areas, 1)]
    line = size_warning(*sizes)
    assert (line is None) == (named is None)
    assert named is None or all(f"section {layer}" in line for layer in named)


def test_two_small_steps_that_add_up_are_named():
    warnings_of = load_script(OVERVIEW).print_scales.__globals__["warnings_of"]
    line, = warnings_of([TissueSize(layer, area, 1.0) for layer, area in ((1, 10), (2, 13), (3, 16.9))])
    assert "section 1" in line and "section 3" in line and "1.7 times" in line
    assert list(warnings_of([TissueSize(1, 10, 1.0)])) == []


# a refused registration -------------------------------------------------------------------------------
def refused(root: Path, pictures: dict, capsys) -> tuple[Layout, str, str]:
    """(root, line of step 1, line of step 2) of the pair 1 -> 2."""
    layout = write_stack(root, pictures)
    for step in STEPS:
        assert load_script(step).main(["--root_path", str(root)]) == 0
    out = capsys.readouterr().out.splitlines()
    return layout, *(next(line for line in out if line.startswith(step) and "1 -> 2" in line) for step in STEPS[1:])


def test_half_the_pixels_are_named_as_twice_the_pixel_size(tmp_path, capsys):
    layout, coarse, verdict = refused(tmp_path, {1: shrunk(block(1), 0.5), 2: block(2)}, capsys)
    assert not read_json(layout.pair("S", 1, 2))["accepted"]
    for line in (coarse, verdict):
        assert re.search(r"section 2 \(.*\) is (3\.9|4\.[01]) times as large as that of section 1 \(.*\)", line)
        assert "is the pixel size right?" in line
        fits = re.search(r"section 1 has ([\d.]+) um/px \(now 4\), or section 2 ([\d.]+) \(now 4\)", line).groups()
        assert [float(value) for value in fits] == pytest.approx([8, 2], rel=0.03)
    assert "correct the pixel size" in verdict.split("fix:")[1]


def evidence(scale_x: float, scale_y: float) -> Evidence:
    return Evidence(300, 900, False, scale_x, scale_y, 0.0, 0.0, scale_x * scale_y, 1.0, 0.7, 1.0, 0.8, 0.8, 0.5, 0.0)


def test_the_scale_found_names_the_right_pixel_size():
    line = hint_of_scale(evidence(1.32, 1.34), [1, 2], (4.0, 2.0))
    assert "section 2 is 1.8 times as large as that of section 1" in line
    assert "section 1 has 5.32 um/px (now 4), or section 2 1.504 (now 2)" in line
    assert "section 1 is 1.8 times as large as that of section 2" in hint_of_scale(evidence(0.75, 0.75), [1, 2], (4, 2))
    assert hint_of_scale(evidence(1.32, 1.0), [1, 2], (4.0, 2.0)) is None, "squeezed, so no pixel size"
    assert hint_of_scale(evidence(1.1, 1.1), [1, 2], (4.0, 2.0)) is None


def masks() -> dict[int, Section]:
    """Two sections of one tissue, each with foreign tissue of its own: x 60 on one, y 150 on the other."""
    found = {}
    for layer, (x, y) in {1: (210, 20), 2: (20, 150)}.items():
        mask = np.zeros((260, 320), bool)
        mask[20:120, 20:150] = mask[y:y + 90, x:x + 100] = True
        found[layer] = Section(np.full((260, 320, 3), 200, np.uint8), mask, T.identity())
    return found


@pytest.mark.parametrize("accepted", [True, False])
def test_the_verdict_says_what_foreign_tissue_does_to_it(accepted):
    still, points = T.Transform(T.identity()), np.zeros((60, 2))
    reasons = () if accepted else ("tissue Dice 0.59 < 0.7",)
    settled = Settled(still, "xfeat", "none", reasons, (), evidence(1, 1), {}, {}, ())
    match = Match(T.identity(), "xfeat", 100, points, points)
    judged, alone = explained(settled, match, masks(), (1.0, 1.0), None)
    said, = judged.warnings if accepted else judged.reasons[1:]
    assert judged.accepted == accepted and "Dice without 1.00" in said
    assert set(alone) == {1, 2} and all(mask.sum() == 9000 for mask in alone.values())
    assert any("leave_out" in fix for fix in judged.fixes) != accepted
    untrusted = Match(T.identity(), "xfeat", 100, points[:5], points[:5])
    if not accepted:
        assert explained(settled, untrusted, masks(), (1.0, 1.0), None)[0].reasons == settled.reasons
        hinted = explained(settled, untrusted, masks(), (1.0, 1.0), "4 times as large")[0]
        assert hinted.reasons[-1] == "4 times as large" and "pixel size" in hinted.fixes[0]


def test_control_tissue_is_a_likely_cause_of_a_larger_area():
    line = size_warning(TissueSize(1, 10, 1.0), TissueSize(2, 20, 1.0, n_pieces=3))
    assert "3 pieces of section 2" in line and "section 1 torn" in line
