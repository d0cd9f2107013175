"""A GeoJSON outline becomes the tissue mask; one that is broken, empty or of another scale is one line."""
import json

import cv2
import numpy as np
import pytest
from conftest import load_script
from hypothesis import given, settings, strategies as st
from PIL import Image
from scans import polygons, section, tissue

from common.errors import LayerError
from common.layout import Layout
from common.status import read_status
from data_preprocessing.outline import doubt, outline_mask, read_outline

SIZE, SHAPE = (512, 512), (512, 512)
SQUARE = [[100, 100], [300, 100], [300, 300], [100, 300]]
HOLE = [[150, 150], [150, 200], [200, 200], [200, 150]]


def mask_of(tmp_path, value, size=SIZE, shape=SHAPE) -> np.ndarray:
    path = tmp_path / "1.geojson"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return outline_mask(path, size, shape)[0]


def refusal(tmp_path, value) -> str:
    with pytest.raises(LayerError) as error:
        mask_of(tmp_path, value)
    assert "1.geojson" in str(error.value) and "remove it for the automatic mask" in error.value.args[3]
    return error.value.args[1]


def test_a_polygon_with_a_hole_in_every_form_of_geojson(tmp_path):
    collection = polygons([SQUARE, HOLE])
    feature = collection["features"][0]
    multi = {"type": "MultiPolygon", "coordinates": [feature["geometry"]["coordinates"]]}
    many = {"type": "GeometryCollection", "geometries": [multi]}
    expected = np.zeros(SHAPE, bool)
    expected[100:300, 100:300] = True
    expected[150:200, 150:200] = False
    for value in (collection, feature, [feature], feature["geometry"], multi, many, [multi],
                  "\ufeff" + json.dumps(collection)):
        np.testing.assert_array_equal(mask_of(tmp_path, value), expected)


def test_overlapping_crossed_and_repeated_polygons_are_one_area(tmp_path):
    shifted = [[x + 100, y + 100] for x, y in SQUARE]
    bow = [[20, 20], [60, 60], [60, 20], [20, 60]]
    found = mask_of(tmp_path, polygons(SQUARE, shifted, SQUARE, bow))
    assert found[250, 250] and found[350, 350] and found[150, 150] and not found[350, 150]
    assert found.sum() == pytest.approx(70000 + 800, rel=0.01)


@settings(deadline=None, max_examples=15)
@given(st.lists(st.tuples(st.floats(0, 4000), st.floats(0, 3000)), min_size=3, max_size=8, unique=True),
       st.sampled_from([(75, 100), (300, 400), (37, 50)]))
def test_a_px_is_tissue_if_its_centre_is_inside(tmp_path_factory, corners, shape):
    from shapely import contains_xy
    folder = tmp_path_factory.mktemp("outline")
    (folder / "1.geojson").write_text(json.dumps(polygons([list(one) for one in corners])))
    try:
        mask, outline = outline_mask(folder / "1.geojson", (4000, 3000), shape)
    except LayerError as error:
        assert "no area" in str(error) or "smaller than a px" in str(error)
        return
    row, column = np.mgrid[:shape[0], :shape[1]]
    x, y = (column + 0.5) * 4000 / shape[1], (row + 0.5) * 3000 / shape[0]
    np.testing.assert_array_equal(mask, contains_xy(outline.area, x, y))


def test_what_is_no_tissue_is_left_out_and_said(tmp_path):
    value = polygons([[1, 1], [9, 1], [9, 9]], objectType="detection")
    value["features"] += polygons(SQUARE, objectType="annotation", classification={"name": "Region*"})["features"]
    value["features"] += polygons(HOLE, classification={"name": "Ignore*"})["features"]
    value["features"] += [{"type": "Feature", "geometry": {"type": "Point", "coordinates": [5, 5]}, "properties": None}]
    assert mask_of(tmp_path, value).sum() == 200 * 200
    text = str(read_outline(tmp_path / "1.geojson"))
    assert "1 polygon " in text and "1 detections" in text and "1 of class Ignore*" in text and "1 points" in text


@pytest.mark.parametrize("value, found", [
    ("", "no GeoJSON"), ("{", "no GeoJSON"), ("<html>", "no GeoJSON"), ([1, 2], "no GeoJSON"), ({"a": 1}, "no GeoJSON"),
    ({"type": "Topology"}, "Topology"), ({"type": "FeatureCollection", "features": []}, "there is: nothing"),
    ({"type": "Point", "coordinates": [1, 2]}, "1 points or lines"),
    (polygons([[1, 1], [1, 1], [1, 1]]), "no area"), (polygons([[1, 1], [2, "x"], [1, 1]]), "no GeoJSON"),
    (polygons([[x * 4, y * 4] for x, y in SQUARE]), "x 400 to 1200, y 400 to 1200"),
    (polygons([[x / 1e4, y / 1e4] for x, y in SQUARE]), "smaller than a px")])
def test_what_is_no_outline_of_this_picture_is_one_line(tmp_path, value, found):
    assert found in refusal(tmp_path, value)


def test_an_outline_of_a_smaller_scale_is_doubted():
    small = np.zeros(SHAPE, bool)
    small[:128, :128] = cv2.resize(tissue().astype(np.uint8), (128, 128)) > 0
    assert "is it in level-0 px" in doubt(small, tissue())[0]
    assert doubt(tissue(), tissue()) == [] and doubt(small, np.zeros(SHAPE, bool)) == []


def test_step_0_2_takes_the_outline_and_follows_its_changes(tmp_path, capsys):
    layout, script = Layout(tmp_path), load_script("0_2_tissue_mask")
    (tmp_path / "imgs/S").mkdir(parents=True)
    (tmp_path / "dataset.yaml").write_text("dataset: toy\npitch_px: 20\n")
    for layer in (1, 2, 3):
        Image.fromarray(section()).save(tmp_path / f"imgs/S/{layer}.png")
    layout.outline("S", 1).write_text(json.dumps(polygons(SQUARE)))
    layout.outline("S", 2).write_text(json.dumps(polygons([[900, 900], [990, 900], [990, 990]])))
    layout.outline("S", 3).symlink_to(tmp_path / "moved.geojson")
    assert script.main(["--root_path", str(tmp_path)]) == 0
    out, status = capsys.readouterr().out, read_status(layout)
    assert "S/1: " in out and "tissue by 1.geojson: 1 polygon" in out
    mask = np.asarray(Image.open(layout.mask("S", 1))) > 0
    assert mask.sum() == 200 * 200 and mask[100:300, 100:300].all()
    assert "2.geojson: found an outline of x 900 to 990" in status["S/2"]["0_2_tissue_mask"]
    assert "3.geojson: found a link to nothing" in status["S/3"]["0_2_tissue_mask"]
    layout.outline("S", 1).unlink()
    assert script.main(["--root_path", str(tmp_path), "--sample", "S"]) == 0
    assert "up to date" not in capsys.readouterr().out
    automatic = np.asarray(Image.open(layout.mask("S", 1))) > 0
    assert 2 * (automatic & tissue()).sum() / (automatic.sum() + tissue().sum()) > 0.95


def test_step_0_2_says_how_the_picture_was_read_and_names_what_is_not(tmp_path, capsys):
    (tmp_path / "imgs/S").mkdir(parents=True)
    (tmp_path / "dataset.yaml").write_text("dataset: toy\npitch_px: 20\nsamples: {S: {layers: [1, 2]}}\n")
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(section()).save(tmp_path / "imgs/S/1.jpg", exif=exif)
    (tmp_path / "imgs/S/2.czi").write_bytes(b"ZISRAWFILE")
    (tmp_path / "imgs/S/3.czi").write_bytes(b"ZISRAWFILE")
    Image.fromarray(section()).save(tmp_path / "imgs/S/s4.png")
    load_script("0_2_tissue_mask").main(["--root_path", str(tmp_path)])
    out, err = capsys.readouterr()
    assert "orientation tag (6)" in out and err.count("not taken") == 2
    assert "3.czi: a Zeiss CZI file" in err and "s4.png: its name is no number" in err
    ended = read_status(Layout(tmp_path))["S/2"]["0_2_tissue_mask"]
    assert "Zeiss CZI" in ended and "bfconvert" in ended
