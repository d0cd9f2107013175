"""Step 0_2: the tissue mask on hand-made slides, and the script's files."""
import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
from conftest import load_script
from PIL import Image

from common.io import write_table
from common.layout import Layout
from common.status import read_status
from data_preprocessing.tissue import background_colour, tissue_mask

WHITE, PINK_HAZE, GREY = (242, 240, 241), (234, 217, 234), (166, 166, 168)
PURPLE, PALE_ON_WHITE, PALE_ON_PINK = (120, 70, 150), (225, 190, 215), (212, 168, 205)


def slide(background: tuple, tissue: tuple, seed: int = 0, shape: tuple = (500, 600)) -> tuple[np.ndarray, np.ndarray]:
    """(rgb, truth): a textured ellipse of tissue on a shaded slide."""
    rng = np.random.default_rng(seed)
    truth = cv2.ellipse(np.zeros(shape, np.uint8), (300, 240), (190, 120), 20, 0, 360, 1, -1) > 0
    shade = 4 * np.sin(np.linspace(0, 5, shape[1]))[None, :, None]
    texture = cv2.GaussianBlur(rng.normal(0, 60, shape), (0, 0), 1.2)[..., None]
    rgb = np.where(truth[..., None], np.array(tissue) + texture, np.array(background) + shade)
    return np.clip(rgb + rng.normal(0, 1, (*shape, 3)), 0, 255).astype(np.uint8), truth


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


PENS = {"black": (25, 25, 30), "blue": (30, 50, 180), "light blue": (90, 140, 220), "green": (20, 130, 60),
        "red": (205, 30, 45)}


@pytest.mark.parametrize("pen", sorted(PENS))
def test_pen_is_not_tissue_and_tissue_under_it_stays(pen):
    rgb, truth = slide(WHITE, PURPLE)
    cv2.ellipse(rgb, (300, 240), (215, 150), 20, 0, 360, PENS[pen], 8, cv2.LINE_AA)
    cv2.putText(rgb, "C4", (20, 480), 0, 2, PENS[pen], 8, cv2.LINE_AA)
    cv2.line(rgb, (250, 40), (330, 480), PENS[pen], 7, cv2.LINE_AA)
    mask = tissue_mask(rgb)
    assert dice(mask, truth) > 0.97
    assert mask[240, 200:400].all(), "the stroke across the tissue leaves no cut"


@pytest.mark.parametrize("background", [WHITE, PINK_HAZE, GREY])
def test_shadow_and_vignette_are_not_tissue(background):
    rgb, truth = slide(background, PURPLE)
    y, x = np.mgrid[:500, :600]
    vignette = 1 - 0.1 * ((x - 300) ** 2 + (y - 250) ** 2) / 300 ** 2
    shadow, border = np.where(x > 330, 0.9, 1), 1 - 0.4 * np.exp(-(600 - x) / 20)
    light = vignette * shadow * border
    assert dice(tissue_mask((rgb * light[..., None]).astype(np.uint8)), truth) > 0.97


@pytest.mark.parametrize("level", [0, 255])
def test_the_padding_of_a_scanner_is_not_the_background(level):
    rgb, truth = slide(PINK_HAZE, PURPLE)
    padded = np.pad(rgb, ((0, 300), (200, 0), (0, 0)), constant_values=level)
    np.testing.assert_allclose(background_colour(padded), PINK_HAZE, atol=6)
    assert dice(tissue_mask(padded), np.pad(truth, ((0, 300), (200, 0)))) > 0.96


def test_a_grey_picture_has_a_mask_too():
    rgb, truth = slide(WHITE, PURPLE)
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    assert dice(tissue_mask(np.repeat(grey[..., None], 3, axis=2)), truth) > 0.97


def test_the_mask_does_not_depend_on_the_size_of_the_thumbnail():
    rgb, _ = slide(PINK_HAZE, PURPLE)
    large = tissue_mask(cv2.resize(rgb, (1800, 1500), interpolation=cv2.INTER_CUBIC))
    small = cv2.resize(tissue_mask(rgb).astype(np.uint8), (1800, 1500), interpolation=cv2.INTER_NEAREST) > 0
    assert dice(large, small) > 0.98


def grid(truth: np.ndarray, step: int = 20) -> np.ndarray:
    """Spot centres (n, 2) on the tissue."""
    height, width = truth.shape
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(0, width, step), np.arange(0, height, step)))
    return np.stack([x, y], axis=1)[truth[y, x]].astype(float)


def write_layer(root, layer: int, rgb: np.ndarray, xy: np.ndarray | None = None, suffix: str = ".png") -> Path:
    path = root / "imgs" / "S" / f"{layer}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(path)
    if xy is not None:
        number = np.arange(len(xy))
        table = pd.DataFrame({"barcode": number, "pixel_x": xy[:, 0], "pixel_y": xy[:, 1], "i": 0, "j": number})
        write_table(Layout(root).location("S", layer), table)
    return path


def test_script_names_what_is_wrong_with_each_layer_and_goes_on(tmp_path, capsys):
    rgb, truth = slide(WHITE, PURPLE)
    xy = grid(truth)
    (tmp_path / "dataset.yaml").write_text("dataset: toy\npitch_px: 20\n")
    write_layer(tmp_path, 1, rgb, xy)
    for layer, suffix in ((2, ".jpg"), (3, ".png")):  # cut off
        path = write_layer(tmp_path, layer, rgb, suffix=suffix)
        path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    write_layer(tmp_path, 4, rgb, suffix=".jpg").write_bytes(b"")
    write_layer(tmp_path, 5, rgb, suffix=".jpg").write_text("not an image")
    tifffile.imwrite(tmp_path / "imgs" / "S" / "6.tif", rgb.astype(np.uint16) * 257)
    write_layer(tmp_path, 7, np.full_like(rgb, 200))  # one colour
    write_layer(tmp_path, 8, rgb, xy[:, ::-1])  # swapped
    write_layer(tmp_path, 9, rgb, xy * 8)  # of a larger image
    write_layer(tmp_path, 10, np.dstack([rgb, np.full(truth.shape, 255, np.uint8)]))
    write_layer(tmp_path, 11, cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), xy)
    write_layer(tmp_path, 12, rgb, grid(np.ones_like(truth)))  # spots all over the slide
    assert load_script("0_2_tissue_mask").main(["--root_path", str(tmp_path)]) == 0
    layout = Layout(tmp_path)
    status = {name: steps["0_2_tissue_mask"] for name, steps in read_status(layout).items()}
    good = {1, 6, 10, 11, 12}
    for layer in range(1, 13):
        ended = status[f"S/{layer}"]
        assert (ended == "ok") == (layer in good) == layout.mask("S", layer).exists(), ended
    for layer, found in ((2, "ends early"), (3, "ends early"), (4, "an empty file"), (5, "a text file")):
        assert f"{layer}." in status[f"S/{layer}"] and found in status[f"S/{layer}"]
    assert "no tissue" in status["S/7"]
    assert "fix: swap pixel_x and pixel_y;" in status["S/8"] and layout.mask_picture("S", 8).exists()
    assert "600 x 500" in status["S/9"] and "full-resolution" in status["S/9"]
    info = json.loads(layout.thumbnail_info("S", 1).read_text())
    assert info["spots_on_tissue"] > 0.97 and info["orientation"] == "as given"
    assert json.loads(layout.thumbnail_info("S", 10).read_text())["orientation"] is None
    screen = capsys.readouterr().out
    assert f"{info['spots_on_tissue']:.0%} of the spots" in screen and "25% of the spots" in screen
    picture = np.asarray(Image.open(layout.mask_picture("S", 1))).astype(int)
    x, y = xy[len(xy) // 2].astype(int)
    assert picture.shape == (500, 600, 3) and abs(picture[y, x] - (255, 200, 0)).max() < 60, "a spot is drawn"


def test_a_layer_that_goes_bad_keeps_no_old_overview(tmp_path):
    rgb, truth = slide(WHITE, PURPLE)
    (tmp_path / "dataset.yaml").write_text("dataset: toy\npitch_px: 20\n")
    write_layer(tmp_path, 1, rgb, grid(truth))
    script, layout = load_script("0_2_tissue_mask"), Layout(tmp_path)
    assert script.main(["--root_path", str(tmp_path)]) == 0 and layout.mask("S", 1).exists()
    write_layer(tmp_path, 1, rgb, grid(truth)[:, ::-1])
    assert script.main(["--root_path", str(tmp_path)]) == 2 and not layout.mask("S", 1).exists()
    (tmp_path / "dataset.yaml").write_text("dataset: toy\npitch_px: 20\nrefuse_flipped_spots: false\n")
    assert script.main(["--root_path", str(tmp_path)]) == 0
    assert json.loads(layout.thumbnail_info("S", 1).read_text())["orientation"] == "swap pixel_x and pixel_y"


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
    assert "a text file" in status["S/2"]["0_2_tissue_mask"] and "no tissue" in status["S/3"]["0_2_tissue_mask"]
    assert not layout.mask("S", 2).exists() and not layout.mask("S", 3).exists()
