"""Step 0_1 on generated AnnData files."""
import json
import re
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT, load_script
from PIL import Image
from scipy import sparse

from common.config import load_config
from common.io import read_h5ad, read_location, read_picture
from common.layout import Layout
from data_preprocessing.readers import path_and_part

N_SPOTS, PITCH_FULLRES_PX, HIRES = 12, 80.0, 0.25
convert = load_script("0_1_convert_raw")
pytestmark = pytest.mark.filterwarnings("ignore:Variable names are not unique")


def raw_counts() -> np.ndarray:
    return np.random.default_rng(0).poisson(2, (N_SPOTS, 3)).astype(np.float32)


def make_table(counts_in: str = "X", stored: str | None = "hires", as_float: bool = True) -> anndata.AnnData:
    """12 spots in 3 rows, and an image of 30 x 40 px in uns.

    counts_in: X, layers or raw (the others are log-normalised), or nowhere. stored: name of the image, or None.
    """
    counts, row, col = raw_counts(), np.arange(N_SPOTS) // 4, np.arange(N_SPOTS) % 4
    logged = np.log1p(counts / 3)
    genes, spots = pd.DataFrame(index=["G1", "G2", "G1"]), pd.DataFrame(index=[f"S{k}" for k in range(N_SPOTS)])
    table = anndata.AnnData(counts.copy() if counts_in in ("X", "raw") else logged.copy(), obs=spots, var=genes)
    if counts_in == "raw":
        table.raw = table.copy()
        table = table[:, [1]].copy()
        table.X = np.log1p(table.X / 3)
    if counts_in == "layers":
        table.layers["counts"] = sparse.csc_matrix(counts)
    table.obs["array_row"], table.obs["array_col"] = row, 2 * col + row % 2
    table.obs["in_tissue"] = (np.arange(N_SPOTS) > 0).astype(int)
    xy = PITCH_FULLRES_PX * np.stack([1 + col + row % 2 / 2, 1 + row * np.sqrt(0.75)], axis=1)
    table.obsm["spatial"] = xy
    if stored:
        pixels = np.zeros((30, 40, 3), np.uint8)
        pixels[10:20] = (200, 100, 150)
        table.uns["spatial"] = {"slide": {"images": {stored: pixels / np.float32(255) if as_float else pixels},
                                          "scalefactors": {f"tissue_{stored}_scalef": HIRES}}, "is_single": True}
    return table


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "block"
    folder.mkdir()
    make_table().write_h5ad(folder / "a.h5ad")
    return folder


def run(raw: Path, root: Path, *options: str) -> int:
    return convert.main(["--format", "h5ad", "--raw_path", str(raw), "--root_path", str(root), *options])


def own_config(path: Path, **changes) -> list[str]:
    path.write_text(yaml.safe_dump(yaml.safe_load((ROOT / "configs/h5ad.yaml").read_text()) | changes))
    return ["--config", str(path)]


def test_stored_image_and_scaled_positions(raw, tmp_path, capsys):
    root = tmp_path / "root"
    assert run(raw, root) == 0
    lines = capsys.readouterr().out
    assert re.search(r"block/1\b.*\ba\.h5ad\b.*\b5 um/px.*\b20 px", lines)
    assert re.search(r"block/1\b.*\b11 spots, 3 genes.*a\.h5ad.*\bhires\b.*\b1 off tissue", lines)
    layout, xy = Layout(root), make_table().obsm["spatial"][1:] * HIRES
    location, counts = read_location(layout.location("block", 1)), read_h5ad(layout.counts("block", 1))
    np.testing.assert_allclose(location[["pixel_x", "pixel_y"]], xy)
    assert list(location["barcode"]) == [f"S{k}" for k in range(1, N_SPOTS)] == list(counts.obs_names)
    assert location[["i", "j"]].iloc[4].tolist() == [3, 1]
    assert list(counts.var_names) == ["G1", "G2", "G1-1"] and counts.X.format == "csr" and counts.X.dtype == np.float32
    np.testing.assert_array_equal(counts.X.toarray(), raw_counts()[1:])
    picture = read_picture(layout.image("block", 1))
    assert picture.shape == (30, 40, 3)
    assert picture[15, 5].tolist() == [200, 100, 150] and picture[0, 0].tolist() == [0, 0, 0]
    pixel_size_um = load_config(layout.config).samples["block"].pixel_size_um
    assert pixel_size_um == pytest.approx({1: 5.0}, rel=1e-5)  # 100 um are 20 hires px
    assert run(raw, root) == 0 and "up to date" in capsys.readouterr().out


@pytest.mark.parametrize("counts_in, genes", [("X", 3), ("layers", 3), ("raw", 3)])
def test_counts_are_found(tmp_path, counts_in, genes):
    (tmp_path / "raw").mkdir()
    make_table(counts_in, stored="lowres", as_float=False).write_h5ad(tmp_path / "raw/a.h5ad")
    assert run(tmp_path / "raw", tmp_path / "root") == 0
    counts = read_h5ad(Layout(tmp_path / "root").counts("raw", 1))
    np.testing.assert_array_equal(counts.X.toarray(), raw_counts()[1:])
    assert counts.n_vars == genes


def test_image_beside_the_table_is_full_resolution(raw, tmp_path):
    Image.new("RGB", (500, 400)).save(raw / "a.jpg")
    assert run(raw, tmp_path / "root") == 0
    layout = Layout(tmp_path / "root")
    assert layout.image("block", 1).suffix == ".jpg"
    assert read_location(layout.location("block", 1))["pixel_x"].max() == PITCH_FULLRES_PX * 4.5
    assert load_config(layout.config).samples["block"].pixel_size_um == pytest.approx({1: 1.25}, rel=1e-5)


def test_config_maps_files_and_images(raw, tmp_path):
    table = make_table(stored=None)
    table.obs = table.obs.drop(columns=["array_row", "array_col", "in_tissue"])
    table.write_h5ad(raw / "b.h5ad")
    Image.new("RGB", (500, 400)).save(raw / "scan.png")
    samples = {"m": {"raw": {1: "b.h5ad", 2: "a.h5ad"}, "images": {1: "scan.png"}}}
    assert run(raw, tmp_path / "root", *own_config(tmp_path / "c.yaml", samples=samples)) == 0
    layout = Layout(tmp_path / "root")
    location = read_location(layout.location("m", 1))
    assert len(location) == N_SPOTS and layout.image("m", 1).resolve() == raw / "scan.png"
    assert location[["i", "j"]].iloc[:2].to_numpy().tolist() == [[2, 1], [4, 1]]  # pixel position in steps of the array
    assert load_config(layout.config).samples["m"].pixel_size_um == pytest.approx({1: 1.25, 2: 5.0}, rel=1e-5)


def no_spatial(table):
    del table.obsm["spatial"]


def no_scale(table):
    table.uns["spatial"]["slide"]["scalefactors"] = {}


def two_sections(table):
    table.uns["spatial"]["other"] = table.uns["spatial"]["slide"]


def lost_position(table):
    table.obsm["spatial"][3, 0] = np.nan


def logged(table):
    table.X = np.log1p(table.X)


def negative(table):
    table.X = table.X - 3


def off_tissue(table):
    table.obs["in_tissue"] = pd.Categorical(["0"] * N_SPOTS)


def same_place(table):
    table.obsm["spatial"][:] = 5


@pytest.mark.parametrize("damage, expected", [
    (no_spatial, r"found .*obsm\['spatial'\]"),
    (no_scale, "found .*tissue_hires_scalef"),
    (two_sections, r"found 2 .*\(other, slide\)"),
    (lost_position, "found .*no number"),
    (logged, "found .*log-normalised"),
    (negative, r"expected .*X, layers\['counts'\] or raw"),
    (off_tissue, "found no spot on tissue"),
    (same_place, f"found {N_SPOTS - 1} spots .* expected two spots"),
])
def test_one_bad_table_leaves_the_other(raw, tmp_path, capsys, damage, expected):
    table = make_table()
    damage(table)
    table.write_h5ad(raw / "b.h5ad")
    assert run(raw, tmp_path / "root") == 0
    status = json.loads((tmp_path / "root/status.json").read_text())
    bad = status["block/2"]["0_1_convert_raw"]
    assert "b.h5ad: found " in bad and re.search(expected, bad) and bad.count("fix:") == 1
    assert status["block/1"]["0_1_convert_raw"] == "ok"


def test_truncated_table_and_several_images(raw, tmp_path, capsys):
    for name in ("b.h5ad", "c.h5ad"):
        make_table().write_h5ad(raw / name)
    (raw / "b.h5ad").write_bytes((raw / "a.h5ad").read_bytes()[:5000])
    for suffix in ("png", "jpg"):
        (raw / f"c.{suffix}").write_bytes(b"")
    assert run(raw, tmp_path / "root") == 0
    error = capsys.readouterr().err
    assert "b.h5ad: found " in error and "c.h5ad: found 2 images" in error and error.count("left out") == 2


def test_nothing_to_read_ends_the_run(raw, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty", tmp_path / "root") == 2
    assert run(raw, tmp_path / "root", *own_config(tmp_path / "c.yaml", samples={"m": {"raw": {1: "x.h5ad"}}})) == 2
    error = capsys.readouterr().err
    assert f"error: {tmp_path / 'empty'}: found no *.h5ad" in error
    assert re.search(r"found .*x\.h5ad .*samples\.m\.raw\.1.* expected .*a\.h5ad", error)
    assert not (tmp_path / "root").exists()


def test_an_entry_may_name_one_section_of_a_file(tmp_path):
    (tmp_path / "block.h5ad").touch()
    (tmp_path / "odd#name.h5ad").touch()
    assert path_and_part(tmp_path, "block.h5ad#C2") == (tmp_path / "block.h5ad", "C2")
    assert path_and_part(tmp_path, "odd#name.h5ad") == (tmp_path / "odd#name.h5ad", None)
    assert path_and_part(tmp_path, "block.h5ad") == (tmp_path / "block.h5ad", None)
