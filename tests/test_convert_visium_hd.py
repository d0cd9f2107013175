"""Step 0_1 on generated Visium HD folders."""
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from visium_hd_folders import (
    HIRES,
    TURN,
    UM_PER_PX,
    add_bins,
    add_section,
    counts_of,
    has_pyarrow,
    own_config,
    run,
    status_of,
    write_image,
)

from common.config import load_config
from common.geometry import stated_geometry
from common.io import read_h5ad, read_location
from common.layout import Layout


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    """A pitch of 32 um: 9 x 10 squares on the chip of 36 x 40 bins of 8 um."""
    return own_config(tmp_path / "c.yaml")


def spots_of(table: pd.DataFrame, um: int, side: int) -> tuple[pd.DataFrame, np.ndarray]:
    """(location, counts (n, 3)) of the squares of side x side bins with half of them on tissue, by pandas."""
    values = pd.DataFrame(counts_of(table, um)).assign(j=table["array_row"] // side, i=table["array_col"] // side)
    groups = values[table["in_tissue"].to_numpy() == 1].groupby(["j", "i"])
    sums = groups.sum()[groups.size() >= side**2 / 2]
    spots = sums.index.to_frame(index=False)
    u, v = (spots[name] * side * um / UM_PER_PX + side * um / UM_PER_PX / 2 for name in ("i", "j"))
    names = [f"s_{side * um:03d}um_{j:05d}_{i:05d}" for j, i in zip(spots["j"], spots["i"], strict=True)]
    return pd.DataFrame({"barcode": names, "pixel_x": 90 + u * np.cos(TURN) - v * np.sin(TURN),
                         "pixel_y": 40 + u * np.sin(TURN) + v * np.cos(TURN),
                         "i": spots["i"], "j": spots["j"]}), sums.to_numpy()


def test_bins_become_spots(tmp_path, options, capsys):
    table = add_bins(tmp_path / "block/s2/outs/binned_outputs/square_008um")
    add_section(tmp_path / "block/s10")
    root = tmp_path / "root"
    assert run(tmp_path / "block", root, *options) == 0
    lines = capsys.readouterr().out
    location, counts = spots_of(table, 8, 4)
    assert len(location) == 56
    assert f"block/1: {len(location)} spots, 3 genes" in lines and "4 x 4 bins of 8 um" in lines
    n_off = int((table["in_tissue"] == 0).sum())
    squares = table[table["in_tissue"] == 1].groupby([table["array_row"] // 4, table["array_col"] // 4]).ngroups
    assert f"dropped {n_off} bins off tissue" in lines and f"dropped {squares - 56} squares with less than 50%" in lines
    layout, config = Layout(root), load_config(root / "dataset.yaml")
    assert config.samples["block"].raw == {1: "s2", 2: "s10"} and config.array == "square"
    for layer in (1, 2):
        found = read_location(layout.location("block", layer))
        pd.testing.assert_frame_equal(found, location.assign(pixel_x=location["pixel_x"] * HIRES,
                                                             pixel_y=location["pixel_y"] * HIRES))
        adata = read_h5ad(layout.counts("block", layer))
        assert list(adata.obs_names) == list(location["barcode"])
        np.testing.assert_array_equal(adata.X.toarray(), counts)
        assert adata.X.format == "csr" and adata.X.dtype == np.float32
        assert list(adata.var_names) == ["Actb", "Gapdh", "Actb-1"]
        assert list(adata.var["gene_ids"]) == ["ENSMUSG01", "ENSMUSG02", "ENSMUSG03"]
        assert stated_geometry(config, "block", layer).um_per_px == UM_PER_PX / HIRES  # exact
        assert stated_geometry(config, "block", layer).pitch_px == 16


@pytest.mark.parametrize("name", ["scan.png", "s1_hires.png"])
def test_the_full_resolution_image_of_the_config(tmp_path, name):
    add_section(tmp_path / "block/s1")
    Image.new("RGB", (880, 800)).save(tmp_path / "block" / name)
    options = own_config(tmp_path / "c.yaml", samples={"b": {"raw": {1: "s1"}, "images": {1: name}}})
    assert run(tmp_path / "block", tmp_path / "root", *options) == 0
    config = load_config(tmp_path / "root/dataset.yaml")
    assert stated_geometry(config, "b", 1).um_per_px == UM_PER_PX and stated_geometry(config, "b", 1).pitch_px == 64
    table = add_bins(tmp_path / "other/square_008um")
    found = read_location(Layout(tmp_path / "root").location("b", 1))
    pd.testing.assert_frame_equal(found, spots_of(table, 8, 4)[0])


def test_default_pitch_and_windows(tmp_path):
    add_bins(tmp_path / "one/square_008um", rows=64, columns=64)
    assert run(tmp_path / "one", tmp_path / "root") == 0
    config = load_config(tmp_path / "root/dataset.yaml")
    geometry = stated_geometry(config, "one", 1)
    assert (geometry.pitch_um, geometry.window_um(224)) == (128, pytest.approx(105.41, abs=0.01))
    found = read_location(Layout(tmp_path / "root").location("one", 1))
    assert len(found) == 12 and found["barcode"][0] == "s_128um_00000_00001"


@pytest.mark.parametrize("um", [2, 8, 16])
def test_every_bin_size_gives_the_same_sums(tmp_path, um):
    """bin_um chooses; the counts of the helper add up, the outline of the tissue differs by less than a bin."""
    add_section(tmp_path / "block/s1", (2, 8, 16))
    assert run(tmp_path / "block", tmp_path / "root", *own_config(tmp_path / "c.yaml", bin_um=um)) == 0
    adata = read_h5ad(Layout(tmp_path / "root").counts("block", 1))
    whole = adata.X[:, 0].toarray().ravel() == 16 * 16  # all 2-um places of a square of 32 um
    assert whole.sum() >= 30
    names = np.array([one.split("_")[2:] for one in adata.obs_names], int)  # row, column
    np.testing.assert_array_equal(adata.X[:, 2].toarray().ravel()[whole], 256 * (names[whole, 0] < 2))


@pytest.mark.parametrize("there, pitch, read", [
    ((2, 8, 16), 32, 8), ((2, 16), 32, 16), ((2,), 32, 2), ((2, 16), 40, 2), ((4, 2), 32, 4), ((16, 32), 32, 16)])
def test_which_bins_are_read_is_said(tmp_path, capsys, there, pitch, read):
    add_section(tmp_path / "block/s1", there)
    assert run(tmp_path / "block", tmp_path / "root", *own_config(tmp_path / "c.yaml", pitch_um=pitch)) == 0
    assert f"bins of {read} um a spot (square_{read:03d}um)" in capsys.readouterr().out


@pytest.mark.parametrize("sizes, changes, facts", [
    ((8, 2), {"pitch_um": 100}, ["pitch_um: 100", "a multiple of 8", "96 or 104", "bin_um"]),
    ((8, 2), {"pitch_um": 4}, ["pitch_um: 4", "a multiple of 8"]),
    ((8,), {"array": "hex"}, ["array: hex", "array: square"])])
def test_a_config_that_does_not_fit_ends_the_run(tmp_path, capsys, sizes, changes, facts):
    add_section(tmp_path / "block/s1", sizes)
    assert run(tmp_path / "block", tmp_path / "root", *own_config(tmp_path / "c.yaml", **changes)) == 2
    error = capsys.readouterr().err
    assert all(fact in error for fact in facts) and error.count("\n") == 1
    assert not (tmp_path / "root").exists()


def test_a_bin_size_that_one_section_lacks_leaves_it_out(tmp_path, capsys):
    add_section(tmp_path / "block/s1", (8, 16))
    add_section(tmp_path / "block/s2", (2, 8))
    assert run(tmp_path / "block", tmp_path / "root", *own_config(tmp_path / "c.yaml", bin_um=16)) == 0
    status = status_of(tmp_path / "root")
    assert status["block/1"] == "ok" and "bins of 2, 8 um" in status["block/2"] and "bin_um: 16" in status["block/2"]


def test_another_pitch_is_converted_again(tmp_path, options, capsys):
    add_section(tmp_path / "block/s1")
    root = tmp_path / "root"
    assert run(tmp_path / "block", root, *options) == 0 and run(tmp_path / "block", root, *options) == 0
    assert "block/1: up to date" in capsys.readouterr().out
    for changes in ({"pitch_um": 64}, {"pitch_um": 64, "bin_um": 16}):
        assert run(tmp_path / "block", root, *own_config(tmp_path / "d.yaml", **changes)) == 0
        assert "up to date" not in capsys.readouterr().out
        assert read_location(Layout(root).location("block", 1))["barcode"][0].startswith("s_064um_")


def test_the_pitch_that_a_person_sets_in_the_dataset_is_used(tmp_path, options):
    add_section(tmp_path / "block/s1")
    root = tmp_path / "root"
    assert run(tmp_path / "block", root, *options) == 0
    text = (root / "dataset.yaml").read_text()
    (root / "dataset.yaml").write_text(text.replace("pitch_um: 32.0", "pitch_um: 64"))
    for _ in range(2):
        assert run(tmp_path / "block", root, *options) == 0
        assert read_location(Layout(root).location("block", 1))["barcode"][0].startswith("s_064um_")
        assert stated_geometry(load_config(root / "dataset.yaml"), "block", 1).pitch_px == 32


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("matrix, mex", [("filtered", True), ("raw", False), ("raw", True)])
def test_every_form_of_the_files(tmp_path, options, form, matrix, mex):
    if form == "parquet" and not has_pyarrow():
        pytest.skip("no pyarrow")
    table = add_bins(tmp_path / "one/square_008um", form=form, matrix=matrix, mex=mex)
    assert run(tmp_path / "one", tmp_path / "root", *options) == 0
    layout, (location, counts) = Layout(tmp_path / "root"), spots_of(table, 8, 4)
    assert list(read_location(layout.location("one", 1))["barcode"]) == list(location["barcode"])
    np.testing.assert_array_equal(read_h5ad(layout.counts("one", 1)).X.toarray(), counts)


def test_the_image_of_a_spatial_above(tmp_path, options):
    """A copy without the links of Space Ranger: the picture is only in outs/spatial; lowres where there is no hires."""
    add_section(tmp_path / "block/s1", (8,), image=False)
    write_image(tmp_path / "block/s1/outs/spatial/tissue_lowres_image.png")
    assert run(tmp_path / "block", tmp_path / "root", *options) == 0
    config = load_config(tmp_path / "root/dataset.yaml")
    assert stated_geometry(config, "block", 1).um_per_px == pytest.approx(UM_PER_PX / 0.025, rel=1e-6)
    write_image(tmp_path / "block/s1/outs/spatial/tissue_hires_image.png")
    assert run(tmp_path / "block", tmp_path / "root", *options) == 0
    config = load_config(tmp_path / "root/dataset.yaml")
    assert stated_geometry(config, "block", 1).um_per_px == UM_PER_PX / HIRES
    shutil.rmtree(tmp_path / "block/s1/outs/spatial")
    assert run(tmp_path / "block", tmp_path / "bare", *options) == 0
    assert status_of(tmp_path / "bare")["block/1"] == "no image"


def test_the_scale_of_a_file_without_microns_per_pixel_is_that_of_the_bins(tmp_path, options):
    folder = tmp_path / "one/square_008um"
    add_bins(folder, scales={"tissue_hires_scalef": HIRES, "bin_size_um": 8})
    assert run(tmp_path / "one", tmp_path / "root", *options) == 0
    config = load_config(tmp_path / "root/dataset.yaml")
    assert stated_geometry(config, "one", 1).um_per_px == pytest.approx(UM_PER_PX / HIRES, rel=1e-5)
    (folder / "spatial/scalefactors_json.json").unlink()
    assert run(tmp_path / "one", tmp_path / "none", *options) == 2  # the scale of hires is unknown
    assert json.loads((tmp_path / "none/status.json").read_text())


def test_the_stated_scale_comes_before_the_measured_one(tmp_path, options):
    """The step of the bins in the image may differ by the registration; microns_per_pixel is taken as it stands."""
    stated = {"microns_per_pixel": UM_PER_PX * 1.01, "tissue_hires_scalef": HIRES, "bin_size_um": 8}
    add_bins(tmp_path / "one/square_008um", scales=stated)
    assert run(tmp_path / "one", tmp_path / "root", *options) == 0
    assert load_config(tmp_path / "root/dataset.yaml").samples["one"].pixel_size_um == {1: UM_PER_PX * 1.01 / HIRES}
