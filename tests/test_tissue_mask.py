"""Step 0_2: the tissue mask on hand-made slides, and the script's files."""
import json

import cv2
import numpy as np
import pytest
from conftest import load_script
from PIL import Image

from common.cli import read_status
from common.layout import Layout
from data_preprocessing.tissue import background_colour, tissue_mask

WHITE, PINK_HAZE, GREY = (242, 240, 241), (234, 217, 234), (166, 166, 168)
PURPLE, PALE_ON_WHITE, PALE_ON_PINK = (120, 70, 150), (225, 190, 215), (212, 168, 205)


def slide(background: tuple, tissue: tuple, seed: int = 0, shape: tuple = (500, 600)) -> tuple[np.ndarray, np.ndarray]:
    """(rgb, truth): a textured ellipse of tissue on a shaded slide."""
    rng = np.random.default_rng(seed)
    truth = cv2.ellipse(np.zeros(shape, np.uint8), (300, 240), (190, 120), 20, 0, 360, 1, -1) > 0
    shade = 4 * np.sin(np.linspace(0, 5, shape[1]))[None, :, None]
    texture = cv2.GaussianBlur(rng.normal(0, 60, shape), (0, 0), 1.2)[..., None]
    rgb = np.where(truth[..., None], np.array(tissue) + texture, np.array(background) + shade) + rng.normal(0, 1, (*shape, 3))
    return np.clip(rgb, 0, 255).astype(np.uint8), truth


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("background", [WHITE, PINK_HAZE, GREY])
def test_tissue_on_any_background(background):
    rgb, truth = slide(background, PURPLE)
    np.testing.assert_allclose(background_colour(rgb), background, atol=6)
    assert dice(tissue_mask(rgb), truth) > 0.97


@pytest.mark.parametrize("background, pale", [(WHITE, PALE_ON_WHITE), (PINK_HAZE, PALE_ON_PINK)])
def test_pale_pink_tissue_beside_dark_tissue_is_tissue(background, pale):
    rgb, truth = slide(background, pale)
    dark, _ = slide(background, PURPLE)
    rgb[:, :300] = dark[:, :300]
    mask = tissue_mask(rgb)
    assert mask[truth].mean() > 0.93 and dice(mask, truth) > 0.95


def test_a_smooth_haze_of_dye_is_not_tissue():
    rgb, truth = slide(WHITE, PURPLE)
    y, x = np.mgrid[:500, :600]
    haze = 0.10 * np.exp(-((x - 480) ** 2 + (y - 320) ** 2) / (2 * 60 ** 2))
    hazy = np.where(truth[..., None], rgb, rgb * np.exp(-haze[..., None] * [0.3, 1.0, 0.6])).astype(np.uint8)
    assert dice(tissue_mask(hazy), truth) > 0.96


def test_small_holes_are_filled_and_dust_and_frame_dots_removed():
    rgb, truth = slide(WHITE, PURPLE)
    cv2.circle(rgb, (300, 240), 8, WHITE, -1)
    for x in range(20, 600, 12):
        cv2.circle(rgb, (x, 20), 3, (60, 60, 60), -1)
    cv2.circle(rgb, (60, 420), 5, (90, 60, 60), -1)
    mask = tissue_mask(rgb)
    assert mask[240, 300]
    assert not mask[:60].any() and not mask[380:460, 30:90].any()


def test_several_large_pieces_and_a_large_hole_stay():
    rgb, _ = slide(WHITE, PURPLE)
    cv2.circle(rgb, (300, 240), 50, WHITE, -1)
    piece = slide(WHITE, PURPLE, seed=1)[0][200:260, 260:340]
    rgb[420:480, 480:560] = piece
    mask = tissue_mask(rgb)
    assert not mask[240, 300] and mask[450, 520]
    assert cv2.connectedComponents(mask.astype(np.uint8))[0] - 1 == 2


@pytest.mark.parametrize("level", [255, 236, 120])
def test_an_empty_slide_has_no_tissue(level):
    noise = np.random.default_rng(0).normal(level, 3, (300, 400, 3))
    assert not tissue_mask(np.clip(noise, 0, 255).astype(np.uint8)).any()


def test_tissue_may_touch_the_border():
    rgb, truth = slide(WHITE, PURPLE)
    mask = tissue_mask(rgb[:, 250:])
    assert dice(mask, truth[:, 250:]) > 0.97


def test_script_writes_overview_and_leaves_bad_layers_out(tmp_path, capsys):
    (tmp_path / "imgs" / "S").mkdir(parents=True)
    (tmp_path / "dataset.yaml").write_text("dataset: toy\npitch_px: 30\n")
    rgb, truth = slide(PINK_HAZE, PURPLE)
    large = cv2.resize(rgb, (2400, 2000), interpolation=cv2.INTER_LINEAR)
    Image.fromarray(large).save(tmp_path / "imgs" / "S" / "1.png")
    (tmp_path / "imgs" / "S" / "2.jpg").write_bytes(b"no image")
    Image.fromarray(np.full((300, 300, 3), 240, np.uint8)).save(tmp_path / "imgs" / "S" / "3.png")
    script, layout = load_script("0_2_tissue_mask"), Layout(tmp_path)
    assert script.main(["--root_path", str(tmp_path)]) == 0
    thumbnail, mask = np.asarray(Image.open(layout.thumbnail("S", 1))), np.asarray(Image.open(layout.mask("S", 1)))
    assert thumbnail.shape == (1707, 2048, 3) and mask.shape == (1707, 2048) and set(np.unique(mask)) == {0, 255}
    info = json.loads(layout.thumbnail_info("S", 1).read_text())
    assert (info["width_px"], info["height_px"]) == (2400, 2000)
    np.testing.assert_allclose(info["scale"], [2400 / 2048, 2000 / 1707])
    assert dice(cv2.resize(mask, (600, 500)) > 127, truth) > 0.97
    status = read_status(layout)
    assert status["S/1"]["0_2_tissue_mask"] == "ok"
    assert "cannot be read" in status["S/2"]["0_2_tissue_mask"] and "no tissue" in status["S/3"]["0_2_tissue_mask"]
    assert not layout.mask("S", 2).exists() and not layout.mask("S", 3).exists()
