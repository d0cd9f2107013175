"""Positions and content of patches: properties of the grid, and steps 1 to 3 on a small slide."""
import cv2
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import load_script
from hypothesis import given, settings, strategies as st
from PIL import Image

from common.io import open_patches, read_table, write_table
from common.layout import Layout
from common.slide import WHITE, ArraySlide
from data_preprocessing import patches

crop_step = load_script("1_cropped_multi_level_patch")
WINDOWS = {224: 56, 512: 128, 1024: 256}


def location(points: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({
        "barcode": [f"s{k}" for k in range(len(points))], "pixel_x": points[:, 0], "pixel_y": points[:, 1],
        "i": np.arange(len(points)), "j": 7})


@st.composite
def layers(draw):
    """(slide size, windows, spots on the slide): slides smaller and larger than a window, remainders included."""
    width, height = draw(st.integers(20, 3000)), draw(st.integers(20, 3000))
    scale = draw(st.floats(0.05, 1.5))
    windows = {size: max(1, int(size * scale + 0.5)) for size in (224, 512, 1024)}
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    points = generator.uniform(0, 1, (draw(st.integers(1, 30)), 2)) * [width, height]
    return (width, height), windows, points


def contains(table: pd.DataFrame, point: np.ndarray) -> np.ndarray:
    high = table[["x", "y"]].to_numpy() + table[["width", "height"]].to_numpy()
    return ((point >= table[["x", "y"]]) & (point <= high)).all(axis=1)


def overlap(a: pd.DataFrame, b: pd.DataFrame) -> np.ndarray:
    """Areas (len(a), len(b)), px, that the square patches of two tables share."""
    a_low, b_low = a[["x", "y"]].to_numpy()[:, None], b[["x", "y"]].to_numpy()[None]
    high = np.minimum(a_low + a["width"].iloc[0], b_low + b["width"].iloc[0])
    return (high - np.maximum(a_low, b_low)).clip(0).prod(axis=2)


@settings(max_examples=80, deadline=None)
@given(layers())
def test_properties_of_the_levels(layer):
    slide_px, windows, points = layer
    tables = patches.level_tables(location(points), slide_px, windows)
    spots, regions, globals_ = (tables[size] for size in (224, 512, 1024))
    # every spot lies inside its region, its centre is the centre of its patch
    row = patches.parent_rows(regions, points)
    assert (row >= 0).all()
    assert contains(regions.iloc[row].reset_index(drop=True), points).all()
    assert np.abs(spots[["x", "y"]].to_numpy() + windows[224] / 2 - points).max() <= 0.5
    # every kept region holds a spot; its own global is kept and overlaps it; every kept global overlaps a region
    assert set(row) == set(range(len(regions)))
    own = patches.parent_rows(globals_, patches.centres(regions))
    assert (own >= 0).all()
    shared = overlap(regions, globals_)
    assert (shared[np.arange(len(regions)), own] > 0).all()
    assert (shared.max(axis=0) > 0).all()
    # patches of the grid lie inside the slide, or at its origin if it is smaller; unique names; rows sorted by (j, i)
    for table, size in ((regions, 512), (globals_, 1024)):
        for axis, side, length in (("x", "width", slide_px[0]), ("y", "height", slide_px[1])):
            assert (table[axis] >= 0).all()
            assert (table[axis] + table[side] <= max(length, windows[size])).all()
        assert table["patch_name"].is_unique
        assert table[["j", "i"]].apply(tuple, axis=1).is_monotonic_increasing


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 1200))
def test_grid_covers_the_slide(width, height, window):
    last = patches.last_cell((width, height), window)
    for axis, length in enumerate((width, height)):
        cells = np.zeros((last[axis] + 1, 2), np.int64)
        cells[:, axis] = np.arange(last[axis] + 1)
        left = patches.cell_corners(cells, (width, height), window)[:, axis]
        assert left[0] == 0 and left[-1] + window >= length
        assert (np.diff(left) <= window).all() and (np.diff(left) > 0).all()


@given(st.integers(0, 8), st.integers(0, 8), st.floats(0, 0.999), st.floats(0, 0.999), st.integers(2, 1000))
def test_one_window_further_is_one_column_further(column, row, x, y, window):
    last = np.array([9, 9])
    point = np.floor(np.array([[column + x, row + y]]) * window)
    for step, expected in (((0, 0), (column, row)), ((window, 0), (column + 1, row)), ((0, window), (column, row + 1))):
        assert tuple(patches.cells_of(point + step, last, window)[0]) == expected


def test_golden_grid():
    """A slide of 1300 x 600 px, windows of 512 and 1024 px, by hand."""
    points = np.array([[100.0, 100.0], [511.9, 10.0], [512.0, 10.0], [1290.0, 590.0], [1300.0, 600.0], [-3.0, 1100.0]])
    tables = patches.level_tables(location(points), (1300, 600), {224: 224, 512: 512, 1024: 1024})
    assert tables[512][["patch_name", "x", "y", "i", "j"]].to_numpy().tolist() == [
        ["512_0_0", 0, 0, 0, 0], ["512_1_0", 512, 0, 1, 0], ["512_0_1", 0, 88, 0, 1], ["512_2_1", 788, 88, 2, 1]]
    assert tables[1024][["patch_name", "x", "y"]].to_numpy().tolist() == [["1024_0_0", 0, 0], ["1024_1_0", 276, 0]]
    assert patches.parent_rows(tables[512], points).tolist() == [0, 0, 1, 3, 3, 2]
    assert patches.joined_members(tables[512], pd.Series(list("abcdef")), points) == ["a;b", "c", "f", "d;e"]
    regions = tables[512]["patch_name"], patches.centres(tables[512])
    assert patches.joined_members(tables[1024], *regions) == ["512_0_0;512_1_0;512_0_1", "512_2_1"]
    assert tables[224][["x", "y"]].to_numpy()[0].tolist() == [-12, -12]
    with pytest.raises(ValueError, match="s9"):
        patches.joined_members(tables[512], pd.Series(["s9"]), np.array([[1100.0, 20.0]]))


def stacked(images) -> np.ndarray:
    """(n, S, S, 3)"""
    return np.stack(list(images))


def tissue(height: int, width: int) -> np.ndarray:
    """A smooth picture that a resize by 4 preserves."""
    noise = np.random.default_rng(5).uniform(0, 255, (height // 40, width // 40, 3)).astype(np.float32)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)


def test_quarter_slide_with_quarter_scale_gives_the_same_patches():
    full = tissue(1600, 2000)
    small = cv2.resize(full, (500, 400), interpolation=cv2.INTER_AREA)
    points = np.array([[400.0, 400.0], [1000.0, 800.0], [1900.0, 1500.0], [60.0, 900.0]])
    sizes = {224: 224, 512: 512, 1024: 1024}
    large = patches.level_tables(location(points), (2000, 1600), sizes)
    quarter_sizes = {size: side // 4 for size, side in sizes.items()}
    quarter = patches.level_tables(location(points / 4), (500, 400), quarter_sizes)
    for size in sizes:
        assert large[size]["patch_name"].tolist() == quarter[size]["patch_name"].tolist()
        np.testing.assert_array_equal(large[size][["x", "y"]], quarter[size][["x", "y"]] * 4)
        a = stacked(crop_step.crop(ArraySlide(None, full), large[size], size)).astype(float)
        b = stacked(crop_step.crop(ArraySlide(None, small), quarter[size], size)).astype(float)
        inside = (a != WHITE).all(axis=-1) & (b != WHITE).all(axis=-1)
        assert inside.mean() > 0.5
        assert np.abs(a - b)[inside].mean() < 3


def test_beyond_the_slide_is_white():
    dark = ArraySlide(None, np.zeros((300, 300, 3), np.uint8))
    points = np.array([[0.0, 150.0], [290.0, 299.0]])
    table = patches.level_tables(location(points), (300, 300), {224: 224, 512: 512, 1024: 1024})
    left, corner = stacked(crop_step.crop(dark, table[224], 224))
    assert (left[:, :112] == WHITE).all() and (left[:, 112:] == 0).all()
    assert (corner[113:] == WHITE).all() and (corner[:, 122:] == WHITE).all() and (corner[:113, :122] == 0).all()
    region = stacked(crop_step.crop(dark, table[512], 512))
    assert region.shape == (1, 512, 512, 3)
    assert (region[0, :300, :300] == 0).all()
    assert (region[0, 300:] == WHITE).all() and (region[0, :, 300:] == WHITE).all()


@pytest.fixture
def root(tmp_path):
    """A dataset of one layer: a slide of 400 x 280 px at a pitch of 68 px (a quarter)."""
    layout = Layout(tmp_path)
    layout.config.write_text(yaml.safe_dump({"dataset": "toy", "pitch_px": 68.0}))
    layout.new_image("A", 1, ".png").parent.mkdir(parents=True)
    Image.fromarray(tissue(280, 400)).save(layout.new_image("A", 1, ".png"))
    grid = np.stack(np.meshgrid(np.arange(60, 390, 68.0), np.arange(40, 270, 68.0)), axis=-1).reshape(-1, 2)
    write_table(layout.location("A", 1), location(grid))
    return layout


STEPS = ("1_cropped_multi_level_patch", "2_find_512_pair", "3_find_1024_pair")


def test_steps_write_what_they_promise(root):
    for name in STEPS:
        assert load_script(name).main(["--root_path", str(root.root)]) == 0
    pixels = np.asarray(Image.open(root.image("A", 1)))
    for size, window in WINDOWS.items():
        table = patches.read_patch_table(root, size, "A", 1)
        with open_patches(root.patches(size, "A", 1)) as (stored, coords, names):
            img = stored[:]
        assert img.shape == (len(table), size, size, 3) and names == table["patch_name"].tolist()
        assert (table["width"] == window).all()
        np.testing.assert_array_equal(coords, table[["x", "y"]] + window // 2)
        k = len(table) // 2
        x, y = table.loc[k, ["x", "y"]].astype(int)
        expected = cv2.resize(pixels[y:y + window, x:x + window], (size, size), interpolation=cv2.INTER_CUBIC)
        np.testing.assert_array_equal(img[k], expected)
    spots = read_table(root.region_pairs_csv("A", 1), ("spots",))["spots"]
    regions = read_table(root.global_pairs_csv("A", 1), ("regions",))["regions"].fillna("")
    barcodes = read_table(root.location("A", 1))["barcode"]
    assert sorted(";".join(spots).split(";")) == sorted(barcodes)
    names = patches.read_patch_table(root, 512, "A", 1)["patch_name"]
    assert sorted(filter(None, ";".join(regions).split(";"))) == sorted(names)


def test_second_run_is_skipped_and_output_is_the_same(root, capsys):
    first = {}
    for options in ([], [], ["--overwrite"]):
        assert crop_step.main(["--root_path", str(root.root), *options]) == 0
        for size in WINDOWS:
            found = root.patches(size, "A", 1).read_bytes()
            assert first.setdefault(size, found) == found
    assert capsys.readouterr().out.count("up to date") == 1


def test_layer_that_cannot_be_cropped_is_left_out(root, capsys):
    write_table(root.location("A", 2), location(np.array([[10.0, 10.0]])))  # no image
    write_table(root.location("A", 3), location(np.array([[9000.0, 9000.0]])))  # beyond the slide
    Image.fromarray(tissue(200, 200)).save(root.new_image("A", 3, ".png"))
    assert crop_step.main(["--root_path", str(root.root)]) == 0
    error = capsys.readouterr().err
    assert "A/2: left out:" in error and "no image" in error
    assert "A/3: left out:" in error and "200 x 200 px" in error
    assert crop_step.main(["--root_path", str(root.root), "--layer", "2"]) == 2


def test_spots_newer_than_patches_are_refused(root, capsys):
    assert crop_step.main(["--root_path", str(root.root)]) == 0
    table = patches.read_patch_table(root, 512, "A", 1)
    write_table(root.patches_csv(512, "A", 1), table[table["patch_name"] != "512_2_1"])
    assert load_script("2_find_512_pair").main(["--root_path", str(root.root)]) == 2
    error = capsys.readouterr().err
    assert "fix: " in error and "1_cropped_multi_level_patch.py" in error and "--overwrite" in error
