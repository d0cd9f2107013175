"""Step 0_1 on Space Ranger folders made by hand, and on the real mouse brain where it is."""
import json
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT, load_script
from PIL import Image
from scipy import sparse

from common.config import load_config
from common.geometry import stated_geometry
from common.io import read_h5ad, read_location
from common.layout import Layout
from common.slide import open_pyramid, open_slide
from common.written import Written
from data_preprocessing.readers import in_reading_order, spot_pitch_px, visium

HER2 = Path(os.environ.get("ASIGN_DATA", ROOT.parent / "shared" / "data" / "her2st"))
BRAIN = HER2.parent / "visium" / "mousebrain"
PITCH_FULLRES_PX, HIRES, LOWRES = 100, 0.25, 0.05
HEADER = "barcode,in_tissue,array_row,array_col,pxl_row_in_fullres,pxl_col_in_fullres\n"
GENES = ("Actb", "Gapdh", "Actb", "CD3-antibody")
convert = load_script("0_1_convert_raw")


def array_spots() -> pd.DataFrame:
    """4 rows of 5 hexagonal spots, 100 full-resolution px apart; the first row is off the tissue."""
    row, k = (axis.ravel() for axis in np.mgrid[:4, :5])
    col = 2 * k + row % 2
    return pd.DataFrame({"barcode": [f"SPOT{r}{c}-1" for r, c in zip(row, col)], "in_tissue": (row > 0).astype(int),
                         "array_row": row, "array_col": col,
                         "pxl_row_in_fullres": 200 + row * PITCH_FULLRES_PX * np.sqrt(0.75),
                         "pxl_col_in_fullres": 300 + col * PITCH_FULLRES_PX // 2})


def write_matrix(path: Path, barcodes: list[str], old_form: bool = False) -> np.ndarray:
    """Counts (n, 4) of 10 * spot + gene in the new or the old (Cell Ranger 2) form; the fourth feature is an antibody in the new form."""
    values = 10 * np.arange(len(barcodes))[:, None] + np.arange(len(GENES))
    matrix = sparse.csr_matrix(values.astype(np.int32))
    with h5py.File(path, "w") as file:
        group = file.create_group("mm10" if old_form else "matrix")
        for key, value in (("barcodes", np.array(barcodes, "S")), ("data", matrix.data), ("indices", matrix.indices.astype(np.int64)),
                           ("indptr", matrix.indptr.astype(np.int64)), ("shape", np.array(values.shape[::-1], np.int32))):
            group.create_dataset(key, data=value)
        names, ids = np.array(GENES, "S"), np.array([f"ENS{k}" for k in range(len(GENES))], "S")
        if old_form:
            group.create_dataset("gene_names", data=names)
            group.create_dataset("genes", data=ids)
        else:
            features = group.create_group("features")
            kinds = np.array(["Gene Expression"] * 3 + ["Antibody Capture"], "S")
            for key, value in (("name", names), ("id", ids), ("feature_type", kinds), ("genome", np.array(["mm10"] * len(GENES), "S"))):
                features.create_dataset(key, data=value)
    return values


def add_folder(folder: Path, form: str = "old", image: str | None = "hires", old_matrix: bool = False, scales: dict | None = None) -> None:
    """A Space Ranger folder: form of the positions (old: headerless, new: headed), images."""
    spatial = folder / "spatial"
    spatial.mkdir(parents=True)
    spots = array_spots()
    name = {"old": "tissue_positions_list.csv", "new": "tissue_positions.csv"}[form]
    (spatial / name).write_text((HEADER if form == "new" else "") + spots.to_csv(index=False, header=False))
    scales = {"tissue_hires_scalef": HIRES, "tissue_lowres_scalef": LOWRES} if scales is None else scales
    (spatial / "scalefactors_json.json").write_text(json.dumps(scales))
    if image:
        Image.new("RGB", (300, 200), (240, 230, 235)).save(spatial / f"tissue_{image}_image.png")
    write_matrix(folder / "filtered_feature_bc_matrix.h5", list(spots["barcode"][spots["in_tissue"] == 1])[::-1], old_matrix)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "block7"
    add_folder(folder / "section2", "old")
    add_folder(folder / "section10" / "outs", "new")
    return folder


def run(raw: Path, root: Path, *options: str) -> int:
    return convert.main(["--format", "visium", "--raw_path", str(raw), "--root_path", str(root), *options])


def own_config(path: Path, **changes) -> list[str]:
    path.write_text(yaml.safe_dump(yaml.safe_load((ROOT / "configs/visium.yaml").read_text()) | changes))
    return ["--config", str(path)]


def status_of(root: Path) -> dict:
    return {name: steps["0_1_convert_raw"] for name, steps in json.loads((root / "status.json").read_text()).items()}


def test_folders_become_layers_of_one_sample(raw, tmp_path, capsys):
    root = tmp_path / "root"
    assert run(raw, root) == 0
    lines = capsys.readouterr().out
    assert "block7/1 is section2: 4 um/px, pitch 25 px" in lines and "block7/2 is section10: 4 um/px" in lines
    assert "block7/1: 15 spots, 3 genes, image tissue_hires_image.png, dropped 5 off tissue" in lines
    block = yaml.safe_load((root / "dataset.yaml").read_text())["samples"]["block7"]
    assert block["layers"] == [1, 2] and block["raw"] == {1: "section2", 2: "section10"}
    assert block["pixel_size_um"] == pytest.approx({1: 4.0, 2: 4.0}, rel=1e-5)  # 100 um are 100 fullres px, 25 hires px
    layout, spots = Layout(root), array_spots().query("in_tissue == 1").reset_index(drop=True)
    for layer in (1, 2):  # both forms of the positions
        location, counts = read_location(layout.location("block7", layer)), read_h5ad(layout.counts("block7", layer))
        expected = pd.DataFrame({"barcode": spots["barcode"], "pixel_x": spots["pxl_col_in_fullres"] * HIRES,
                                 "pixel_y": spots["pxl_row_in_fullres"] * HIRES, "i": spots["array_col"], "j": spots["array_row"]})
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
    assert read_h5ad(layout.counts("one", 1)).shape == (15, 4)  # the old form knows no feature types
    assert read_location(layout.location("one", 1))["pixel_x"].min() == 300 * LOWRES
    assert yaml.safe_load(layout.config.read_text())["samples"]["one"]["raw"] == {1: "."}


def test_config_says_which_folder_is_which_layer_and_which_image(raw, tmp_path):
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
    root, options = tmp_path / "root", own_config(tmp_path / "c.yaml", samples={"block7": {"images": {1: "full.tif"}}})
    assert run(raw, root) == 0 and run(raw, root, *options) == 0
    assert Layout(root).image("block7", 1).suffix == ".tif"  # the link to hires is gone
    assert run(raw, root) == 0 and [path.name for path in Layout(root).images("block7", 1)] == ["1.png"]  # sorts after 1.jpg, before 1.tif
    assert run(raw, root, *options, "--copy") == 0 and run(raw, root) == 0
    assert [path.name for path in Layout(root).images("block7", 1)] == ["1.png"], "a copy of ours goes, too"
    assert run(raw, root, *options) == 0
    (root / "imgs/block7/1.jpg").write_bytes(b"put there by hand")
    assert run(raw, root, *options, "--overwrite") == 0
    assert status_of(root)["block7/1"].startswith("left out: ") and "another image than 1.tif" in capsys.readouterr().err


def test_layer_that_is_only_an_image(raw, tmp_path, capsys):
    Image.new("RGB", (300, 200)).save(raw / "next.png")
    samples = {"b": {"raw": {1: "section2"}, "images": {2: "next.png"}}}
    assert run(raw, tmp_path / "root", *own_config(tmp_path / "c.yaml", samples=samples)) == 0
    status = status_of(tmp_path / "root")  # a photograph that states no pixel size is left out, the other section is not
    assert status["b/1"] == "ok" and "next.png: found an image that states no pixel size" in status["b/2"]
    assert "samples.b.pixel_size_um: {2: …}" in status["b/2"] and status["b/2"] in capsys.readouterr().err.replace("0_1_convert_raw  b/2: ", "")
    samples["b"]["pixel_size_um"] = {2: 3.5}
    assert run(raw, tmp_path / "root", *own_config(tmp_path / "c.yaml", samples=samples)) == 0
    layout = Layout(tmp_path / "root")
    assert layout.image("b", 2) is not None and not layout.counts("b", 2).exists() and not layout.location("b", 2).exists()
    assert load_config(layout.config).samples["b"].pixel_size_um == pytest.approx({1: 4.0, 2: 3.5}, rel=1e-5)


def test_the_pixel_size_that_a_person_adds_to_the_dataset_is_used(raw, tmp_path):
    """As the line says that leaves the section out; and again in every later call."""
    Image.new("RGB", (300, 200)).save(raw / "next.png")
    root, options = tmp_path / "root", own_config(tmp_path / "c.yaml", samples={"b": {"raw": {1: "section2"}, "images": {2: "next.png"}}})
    assert run(raw, root, *options) == 0 and status_of(root)["b/2"].startswith("left out")
    values = yaml.safe_load((root / "dataset.yaml").read_text())
    values["samples"]["b"]["pixel_size_um"][2] = 3.5
    (root / "dataset.yaml").write_text(yaml.safe_dump(values))
    for _ in range(2):
        assert run(raw, root, *options) == 0 and status_of(root)["b/2"] == "ok"
        assert load_config(root / "dataset.yaml").samples["b"].pixel_size_um == pytest.approx({1: 4.0, 2: 3.5}, rel=1e-5)


@pytest.mark.parametrize("known", [{"pixel_size_um": 4.0}, {"pitch_px": 25.0}])
def test_pixel_size_that_the_config_states_is_kept(raw, tmp_path, known):
    assert run(raw, tmp_path / "root", *own_config(tmp_path / "c.yaml", **known)) == 0
    resolved = load_config(tmp_path / "root/dataset.yaml")
    assert resolved.samples["block7"].pixel_size_um == {} and stated_geometry(resolved, "block7", 1).pitch_px == 25


@pytest.mark.parametrize("known, found", [({"pixel_size_um": 2.0}, "2 um/px by pixel_size_um"), ({"pitch_px": 40.0}, "2.5 um/px by"),
                                          ({"samples": {"b": {"raw": {1: "section2", 2: "section10"}, "pixel_size_um": {1: 1.0}}}}, "1 um/px by samples.b")])
def test_sections_whose_spots_contradict_the_config_are_left_out(raw, tmp_path, capsys, known, found):
    code = run(raw, tmp_path / "root", *own_config(tmp_path / "c.yaml", **known))
    assert code == (0 if "samples" in known else 2)
    bad = next(text for text in status_of(tmp_path / "root").values() if text != "ok")
    assert found in bad and "4 um/px by the spots of tissue_positions" in bad and bad.count("fix:") == 1


def test_spot_diameter_of_another_image_leaves_the_section_out(raw, tmp_path):
    """Positions of one image and scale factors of another."""
    path = raw / "section2/spatial/scalefactors_json.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"spot_diameter_fullres": 230.0}))  # 100 px are 100 um
    assert run(raw, tmp_path / "root") == 0
    status = status_of(tmp_path / "root")
    assert "the spots of" in status["block7/1"] and "spot_diameter_fullres of scalefactors_json.json" in status["block7/1"] and status["block7/2"] == "ok"


def break_matrix(folder: Path) -> None:
    path = folder / "filtered_feature_bc_matrix.h5"
    path.write_bytes(path.read_bytes()[:600])


def other_barcodes(folder: Path) -> None:
    write_matrix(folder / "filtered_feature_bc_matrix.h5", [f"OTHER{k}" for k in range(15)])


def off_tissue(folder: Path) -> None:
    array_spots().assign(in_tissue=0).to_csv(folder / "spatial/tissue_positions.csv", index=False)


def not_a_number(folder: Path) -> None:
    array_spots().assign(pxl_row_in_fullres="x").to_csv(folder / "spatial/tissue_positions.csv", index=False)


@pytest.mark.parametrize("damage, expected", [
    (lambda folder: (folder / "filtered_feature_bc_matrix.h5").unlink(), "filtered_feature_bc_matrix.h5: found no file"),
    (break_matrix, "counts that cannot be read"),
    (other_barcodes, "no barcode of tissue_positions_list.csv (there SPOT11-1, here OTHER0)"),
    (lambda folder: (folder / "spatial/tissue_positions_list.csv").unlink(), "no spot positions"),
    (lambda folder: (folder / "spatial/tissue_positions_list.csv").write_text(""), "a table that cannot be read"),
    (lambda folder: (folder / "spatial/scalefactors_json.json").write_text('{"spot_diameter_fullres": 55}'), "no tissue_hires_scalef"),
    (lambda folder: (folder / "spatial/scalefactors_json.json").unlink(), "no tissue_hires_scalef"),
    (lambda folder: (folder / "spatial/scalefactors_json.json").write_text('{"tissue_hires_scalef": 0}'), "a number above 0"),
    (off_tissue, "no spot with in_tissue 1"),
    (not_a_number, "a position that is not a number"),
], ids=["no matrix", "truncated matrix", "other barcodes", "no positions", "empty positions", "no scale", "no scale file", "scale 0",
        "off tissue", "no number"])
def test_one_bad_layer_leaves_the_other(raw, tmp_path, capsys, damage, expected):
    damage(raw / "section2")
    options = own_config(tmp_path / "c.yaml", samples={"b": {"raw": {1: "section2", 2: "section10"}}})
    assert run(raw, tmp_path / "root", *options) == 0
    status = status_of(tmp_path / "root")
    assert expected in status["b/1"] and status["b/1"].count("fix:") == 1 and status["b/2"] == "ok"
    assert stated_geometry(load_config(tmp_path / "root/dataset.yaml"), "b", 2).pitch_px == pytest.approx(25, rel=1e-5)
    shutil.rmtree(raw / "section10")
    assert run(raw, tmp_path / "alone", *own_config(tmp_path / "c.yaml", samples={"b": {"raw": {1: "section2"}}})) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("changes, expected", [
    ({"samples": {"b": {"raw": {1: "section2", 2: "sction10"}}}}, "no sction10 (samples.b.raw.2); expected one of section2, section10"),
    ({"samples": {"b": {"images": {1: "full.tif"}}}}, "samples.b.images.1: full.tif"),
    ({"samples": {"b": {"layers": [1, 3]}}}, "sample b [3]"),
    ({"samples": {"a": {"raw": {1: "section2"}}, "b": {}}}, "where sample b is"),
    ({"pitch_um": 200}, "expected array: hex, pitch_um: 100"),
    ({"array": "square"}, "expected array: hex, pitch_um: 100"),
])
def test_wrong_config_ends_the_run(raw, tmp_path, capsys, changes, expected):
    assert run(raw, tmp_path / "root", *own_config(tmp_path / "c.yaml", **changes)) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1
    assert not (tmp_path / "root").exists()


def test_a_missing_column_leaves_its_layer_out_and_an_empty_folder_ends_the_run(raw, tmp_path, capsys):
    (raw / "section2/spatial/tissue_positions.csv").write_text(HEADER.replace("in_tissue", "tissue") + "A-1,1,0,0,5,5\n")
    (tmp_path / "empty").mkdir()
    assert run(raw, tmp_path / "root") == 0 and run(tmp_path / "empty", tmp_path / "empty_root") == 2
    error = capsys.readouterr().err
    assert "expected a column in_tissue" in error and "no folder with filtered_feature_bc_matrix.h5" in error
    ended = sorted(text.partition(":")[0] for text in status_of(tmp_path / "root").values())
    assert ended == ["left out", "ok"]


def test_positions_saved_by_r(raw, tmp_path, capsys):
    """write.csv: quotes and a column of row numbers; read. write.csv2: semicolons; its layer is left out, not the stack."""
    path = raw / "section2/spatial/tissue_positions_list.csv"
    spots = array_spots()
    path.unlink()
    path = path.with_name("tissue_positions.csv")
    rows = [f'"{number}","{row[0]}",' + ",".join(map(str, row[1:])) for number, row in enumerate(spots.itertuples(index=False), 1)]
    path.write_text('"",' + ",".join(f'"{name}"' for name in HEADER.strip().split(",")) + "\n" + "\n".join(rows) + "\n")
    assert run(raw, tmp_path / "root") == 0 and set(status_of(tmp_path / "root").values()) == {"ok"}
    path.write_text(path.read_text().replace(",", ";"))
    assert run(raw, tmp_path / "root") == 0
    assert f"block7/1: left out: {path}: " in capsys.readouterr().err
    assert [text.partition(":")[0] for text in status_of(tmp_path / "root").values()] == ["left out", "ok"]


def pyramid(path: Path) -> bytes:
    """The bytes of a scan as Aperio writes it."""
    import tifffile
    pixels = np.random.default_rng(0).integers(0, 255, (512, 640, 3), np.uint8)
    about = "Aperio Image Library v11\r\n640x512 (256x256) JPEG/RGB Q=80|AppMag = 20|MPP = 4.1"
    with tifffile.TiffWriter(path) as file:
        file.write(pixels, description=about, photometric="rgb", tile=(256, 256), compression="jpeg", metadata=None)
    return path.read_bytes()


@pytest.mark.parametrize("share", [1, 0.99, 0.5, 0.1, 0])
def test_a_scan_whose_copy_broke_off_leaves_its_layer_out(raw, tmp_path, capsys, share):
    whole = pyramid(raw / "next.svs")
    (raw / "next.svs").write_bytes(whole[:int(len(whole) * share)])
    samples = {"b": {"raw": {1: "section2"}, "images": {2: "next.svs"}}}
    assert run(raw, tmp_path / "root", *own_config(tmp_path / "c.yaml", samples=samples)) == 0
    status, err = status_of(tmp_path / "root"), capsys.readouterr().err
    assert status["b/1"] == "ok" and (status["b/2"] == "ok") == (share == 1)
    if share < 1:
        assert err.startswith(f"0_1_convert_raw  b/2: left out: {raw / 'next.svs'}: found an image that cannot be read") and err.count("\n") == 1


@pytest.mark.parametrize("options", [(), ("--copy",)])
def test_a_scan_of_several_files_opens_under_the_root(tmp_path, monkeypatch, options):
    """A .mrxs is nothing without the folder of its name; a link is opened where it points, a copy takes the folder along."""
    source, target = tmp_path / "s02.mrxs", tmp_path / "root/imgs/b/2.mrxs"
    source.write_bytes(b"")
    (tmp_path / "s02").mkdir()
    (tmp_path / "s02" / "Slidedat.ini").write_text("[GENERAL]\n")
    written = Written(tmp_path / "written.json", tmp_path / "root")
    for _ in range(2):
        convert.place_image(source, target, bool(options), written)
    assert (target.resolve().with_suffix("") / "Slidedat.ini").is_file()
    import openslide
    asked = []
    monkeypatch.setattr(openslide.OpenSlide, "detect_format", lambda path: asked.append(Path(path)))
    assert open_pyramid(target) is None and asked == [target.resolve()]


def test_parquet_positions(raw, tmp_path):
    """Read where pyarrow is installed, else named as what is missing."""
    path = raw / "section2/spatial/tissue_positions.parquet"
    try:
        array_spots().to_parquet(path, index=False)
        expected = "ok"
    except ImportError:
        path.write_bytes(b"PAR1")
        expected = "pip install pyarrow"
    assert run(raw, tmp_path / "root") == 0
    assert expected in status_of(tmp_path / "root")["block7/1"]


def test_order_and_pitch():
    assert in_reading_order(["s10", "s2", "a", "10", "9"]) == ["9", "10", "a", "s2", "s10"]
    spots = array_spots().rename(columns={"pxl_col_in_fullres": "pixel_x", "pxl_row_in_fullres": "pixel_y"})
    assert spot_pitch_px(spots, "file") == pytest.approx(PITCH_FULLRES_PX, rel=1e-5)


@pytest.mark.skipif(not BRAIN.is_dir(), reason=f"no real sections at {BRAIN}: set ASIGN_DATA to the her2st folder beside it")
def test_real_mouse_brain():
    config = load_config(ROOT / "configs/mousebrain.yaml")
    for layer, n_spots, umi in ((1, 2399, 1854), (2, 2554, 1941)):
        found = visium.read_layer(BRAIN, config, "brain", layer)
        assert len(found.location) == found.counts.n_obs == n_spots and not found.dropped["spots without counts"]
        assert found.counts.X.sum() / n_spots == pytest.approx(umi, abs=1) and found.counts.var_names.is_unique
        assert spot_pitch_px(found.location, "file") == pytest.approx(23.9, abs=0.1)
        xy, slide = found.location[["pixel_x", "pixel_y"]].to_numpy(), open_slide(found.image)
        assert xy.min() > 0 and (xy < slide.size_px).all()
        colour = np.array([slide.read(round(x), round(y), 1, 1)[0, 0] for x, y in xy])  # H&E on grey glass: the tissue is darker in green
        assert np.median(colour[:, 1]) < np.median(slide.thumbnail(200)[..., 1]) - 20
