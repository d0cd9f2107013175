"""Step 0_1 on generated Space Ranger folders, and on the real mouse brain if it exists."""
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT
from PIL import Image
from visium_folders import (
    HIRES,
    LOWRES,
    PITCH_FULLRES_PX,
    add_folder,
    array_spots,
    own_config,
    run,
    status_of,
    two_sections,
)

from common.config import load_config
from common.geometry import stated_geometry
from common.io import read_h5ad, read_location
from common.layout import Layout
from common.slide import open_slide
from data_preprocessing.readers import in_reading_order, spot_pitch_px, visium

HER2 = Path(os.environ.get("ASIGN_DATA", ROOT.parent / "shared" / "data" / "her2st"))
BRAIN = HER2.parent / "visium" / "mousebrain"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return two_sections(tmp_path / "block7")


def test_folders_become_layers_of_one_sample(raw, tmp_path, capsys):
    root = tmp_path / "root"
    assert run(raw, root) == 0
    lines = capsys.readouterr().out
    assert re.search(r"block7/1\b.*\bsection2\b.*\b4 um/px.*\b25 px", lines)
    assert re.search(r"block7/2\b.*\bsection10\b.*\b4 um/px", lines)
    assert re.search(r"block7/1\b.*\b15 spots, 3 genes.*tissue_hires_image\.png.*\b5 off tissue", lines)
    block = yaml.safe_load((root / "dataset.yaml").read_text())["samples"]["block7"]
    assert block["layers"] == [1, 2] and block["raw"] == {1: "section2", 2: "section10"}
    assert block["pixel_size_um"] == pytest.approx({1: 4.0, 2: 4.0}, rel=1e-5)  # 100 um are 100 fullres px, 25 hires px
    layout, spots = Layout(root), array_spots().query("in_tissue == 1").reset_index(drop=True)
    for layer in (1, 2):  # both forms of the positions
        location = read_location(layout.location("block7", layer))
        counts = read_h5ad(layout.counts("block7", layer))
        expected = pd.DataFrame({
            "barcode": spots["barcode"],
            "pixel_x": spots["pxl_col_in_fullres"] * HIRES, "pixel_y": spots["pxl_row_in_fullres"] * HIRES,
            "i": spots["array_col"], "j": spots["array_row"]})
        pd.testing.assert_frame_equal(location, expected)
        assert list(counts.obs_names) == list(spots["barcode"])
        assert list(counts.var_names) == ["Actb", "Gapdh", "Actb-1"]  # unique; no antibody
        assert counts.X.format == "csr" and counts.X.dtype == np.float32
        in_order_of_the_spots = 10 * np.arange(15)[::-1, None] + np.arange(3)
        np.testing.assert_array_equal(counts.X.toarray(), in_order_of_the_spots)
        assert layout.image("block7", layer).name == f"{layer}.png"


def test_old_matrix_form_and_lowres_image(tmp_path, capsys):
    raw = tmp_path / "one"
    add_folder(raw, image="lowres", old_matrix=True)
    assert run(raw, tmp_path / "root") == 0
    assert "low resolution" in capsys.readouterr().out
    layout = Layout(tmp_path / "root")
    assert read_h5ad(layout.counts("one", 1)).shape == (15, 4)  # the old form has no feature types
    assert read_location(layout.location("one", 1))["pixel_x"].min() == 300 * LOWRES
    assert yaml.safe_load(layout.config.read_text())["samples"]["one"]["raw"] == {1: "."}


def test_the_only_picture_of_a_section_is_its_full_resolution_image(tmp_path, capsys):
    """No hires and no lowres image, as in DLPFC; a second picture leaves the choice to the config."""
    raw = tmp_path / "one"
    add_folder(raw, image=None)
    Image.new("RGB", (1200, 800)).save(raw / "151507_full_image.tif")
    assert run(raw, tmp_path / "root") == 0
    line = capsys.readouterr().out
    assert "image 151507_full_image.tif" in line and "the only picture here" in line
    assert read_location(Layout(tmp_path / "root").location("one", 1))["pixel_x"].min() == 300  # full-resolution px
    Image.new("RGB", (1200, 800)).save(raw / "151507_other.tif")
    assert run(raw, tmp_path / "other") == 0 and "no image" in capsys.readouterr().out
    assert "one of several" in visium.why_not(raw, raw / "151507_other.tif")


def test_config_maps_folders_and_images_to_layers(raw, tmp_path):
    Image.new("RGB", (1300, 800)).save(raw / "full.tif")
    mapping = {"m": {"raw": {1: "section10", 2: "section2"}, "images": {2: "full.tif"}}}
    root = tmp_path / "root"
    assert run(raw, root) == 0 and run(raw, root, *own_config(tmp_path / "c.yaml", samples=mapping)) == 0
    one = load_config(root / "dataset.yaml").samples["m"]
    assert one.layers == [1, 2] and one.raw == mapping["m"]["raw"]
    assert one.pixel_size_um == pytest.approx({1: 4.0, 2: 1.0}, rel=1e-5)
    layout = Layout(root)
    assert read_location(layout.location("m", 2))["pixel_x"].min() == 300  # full-resolution px
    assert layout.image("m", 2).suffix == ".tif"
    resolved = load_config(root / "dataset.yaml")
    assert stated_geometry(resolved, "m", 2).pitch_px == pytest.approx(100, rel=1e-5) and resolved.array == "hex"


def test_exchanged_image_is_the_only_one(raw, tmp_path, capsys):
    Image.new("RGB", (1300, 800)).save(raw / "full.tif")
    root = tmp_path / "root"
    options = own_config(tmp_path / "c.yaml", samples={"block7": {"images": {1: "full.tif"}}})
    assert run(raw, root) == 0 and run(raw, root, *options) == 0
    assert Layout(root).image("block7", 1).suffix == ".tif"  # the link to hires is gone
    assert run(raw, root) == 0  # back to hires: 1.png sorts after 1.jpg and before 1.tif
    assert [path.name for path in Layout(root).images("block7", 1)] == ["1.png"]
    assert run(raw, root, *options, "--copy") == 0 and run(raw, root) == 0
    assert [path.name for path in Layout(root).images("block7", 1)] == ["1.png"], "a copy of ours is deleted, too"
    assert run(raw, root, *options) == 0
    (root / "imgs/block7/1.jpg").write_bytes(b"put there by hand")
    assert run(raw, root, *options, "--overwrite") == 0
    assert status_of(root)["block7/1"].startswith("left out: ")
    error = capsys.readouterr().err
    assert "1.jpg" in error and "1.tif" in error


def test_layer_that_is_only_an_image(raw, tmp_path, capsys):
    Image.new("RGB", (300, 200)).save(raw / "next.png")
    samples = {"b": {"raw": {1: "section2"}, "images": {2: "next.png"}}}
    assert run(raw, tmp_path / "root", *own_config(tmp_path / "c.yaml", samples=samples)) == 0
    status = status_of(tmp_path / "root")  # an image without a pixel size is left out, the other section is not
    assert status["b/1"] == "ok" and "next.png: found " in status["b/2"]
    assert "samples.b.pixel_size_um: {2: …}" in status["b/2"]
    assert status["b/2"] in capsys.readouterr().err.replace("0_1_convert_raw  b/2: ", "")
    samples["b"]["pixel_size_um"] = {2: 3.5}
    assert run(raw, tmp_path / "root", *own_config(tmp_path / "c.yaml", samples=samples)) == 0
    layout = Layout(tmp_path / "root")
    assert layout.image("b", 2) is not None
    assert not layout.counts("b", 2).exists() and not layout.location("b", 2).exists()
    assert load_config(layout.config).samples["b"].pixel_size_um == pytest.approx({1: 4.0, 2: 3.5}, rel=1e-5)


def test_the_pixel_size_that_a_person_adds_to_the_dataset_is_used(raw, tmp_path):
    """The fix of the message that leaves the section out, and it lasts in every later call."""
    Image.new("RGB", (300, 200)).save(raw / "next.png")
    samples = {"b": {"raw": {1: "section2"}, "images": {2: "next.png"}}}
    root, options = tmp_path / "root", own_config(tmp_path / "c.yaml", samples=samples)
    assert run(raw, root, *options) == 0 and status_of(root)["b/2"].startswith("left out")
    values = yaml.safe_load((root / "dataset.yaml").read_text())
    values["samples"]["b"]["pixel_size_um"][2] = 3.5
    (root / "dataset.yaml").write_text(yaml.safe_dump(values))
    for _ in range(2):
        assert run(raw, root, *options) == 0 and status_of(root)["b/2"] == "ok"
        stated = load_config(root / "dataset.yaml").samples["b"].pixel_size_um
        assert stated == pytest.approx({1: 4.0, 2: 3.5}, rel=1e-5)


@pytest.mark.parametrize("known", [{"pixel_size_um": 4.0}, {"pitch_px": 25.0}])
def test_pixel_size_that_the_config_states_is_kept(raw, tmp_path, known):
    assert run(raw, tmp_path / "root", *own_config(tmp_path / "c.yaml", **known)) == 0
    resolved = load_config(tmp_path / "root/dataset.yaml")
    assert resolved.samples["block7"].pixel_size_um == {}
    assert stated_geometry(resolved, "block7", 1).pitch_px == 25


def test_order_and_pitch():
    assert in_reading_order(["s10", "s2", "a", "10", "9"]) == ["9", "10", "a", "s2", "s10"]
    spots = array_spots().rename(columns={"pxl_col_in_fullres": "pixel_x", "pxl_row_in_fullres": "pixel_y"})
    assert spot_pitch_px(spots, "file") == pytest.approx(PITCH_FULLRES_PX, rel=1e-5)


@pytest.mark.skipif(not BRAIN.is_dir(), reason=f"no real sections at {BRAIN}; set ASIGN_DATA to the her2st beside it")
def test_real_mouse_brain():
    config = load_config(ROOT / "configs/mousebrain.yaml")
    for layer, n_spots, umi in ((1, 2399, 1854), (2, 2554, 1941)):
        found = visium.read_layer(BRAIN, config, "brain", layer)
        assert len(found.location) == found.counts.n_obs == n_spots
        assert not found.dropped["spots without counts"]
        assert found.counts.X.sum() / n_spots == pytest.approx(umi, abs=1) and found.counts.var_names.is_unique
        assert spot_pitch_px(found.location, "file") == pytest.approx(23.9, abs=0.1)
        xy, slide = found.location[["pixel_x", "pixel_y"]].to_numpy(), open_slide(found.image)
        assert xy.min() > 0 and (xy < slide.size_px).all()
        colour = np.array([slide.read(round(x), round(y), 1, 1)[0, 0] for x, y in xy])  # (n_spots, 3)
        # H&E on grey glass: the tissue is darker in green
        assert np.median(colour[:, 1]) < np.median(slide.thumbnail(200)[..., 1]) - 20
