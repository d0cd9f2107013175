"""Step 0_1 on broken Space Ranger folders: a section is left out, a wrong config ends the run."""
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from visium_folders import HEADER, array_spots, own_config, run, status_of, two_sections, write_matrix

from common.config import load_config
from common.geometry import stated_geometry


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return two_sections(tmp_path / "block7")


def test_a_list_of_positions_that_breaks_off_leaves_the_section_out(raw, tmp_path):
    """Unless it lists spots on tissue alone: these may be a choice."""
    path = raw / "section2/spatial/tissue_positions_list.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:12]))  # 5 spots off the tissue, 7 of 15 on it
    assert run(raw, tmp_path / "root") == 0
    bad = status_of(tmp_path / "root")["block7/1"]
    assert bad.startswith("left out: ") and "8 of the 15 barcodes" in bad and str(path) in bad
    path.write_text("\n".join(lines[5:12]))
    assert run(raw, tmp_path / "root") == 0 and status_of(tmp_path / "root")["block7/1"] == "ok"


# positions that contradict a stated scale ------------------------------------------------------------
SAMPLE_B = {"raw": {1: "section2", 2: "section10"}, "pixel_size_um": {1: 1.0}}


@pytest.mark.parametrize("known, found", [
    ({"pixel_size_um": 2.0}, r"\b2 um/px .*pixel_size_um"),
    ({"pitch_px": 40.0}, r"\b2\.5 um/px "),
    ({"samples": {"b": SAMPLE_B}}, r"\b1 um/px .*samples\.b")])
def test_sections_whose_spots_contradict_the_config_are_left_out(raw, tmp_path, capsys, known, found):
    code = run(raw, tmp_path / "root", *own_config(tmp_path / "c.yaml", **known))
    assert code == (0 if "samples" in known else 2)
    bad = next(text for text in status_of(tmp_path / "root").values() if text != "ok")
    assert re.search(found, bad) and re.search(r"\b4 um/px .*tissue_positions", bad) and bad.count("fix:") == 1


def test_spot_diameter_of_another_image_leaves_the_section_out(raw, tmp_path):
    """Positions of one image and scale factors of another."""
    path = raw / "section2/spatial/scalefactors_json.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"spot_diameter_fullres": 230.0}))  # 100 px are 100 um
    assert run(raw, tmp_path / "root") == 0
    status = status_of(tmp_path / "root")
    assert status["block7/1"].startswith("left out: ") and status["block7/2"] == "ok"
    for source in ("tissue_positions_list.csv", "spot_diameter_fullres", "scalefactors_json.json"):
        assert source in status["block7/1"]


# broken files ----------------------------------------------------------------------------------------
def no_matrix(folder: Path) -> None:
    (folder / "filtered_feature_bc_matrix.h5").unlink()


def break_matrix(folder: Path) -> None:
    path = folder / "filtered_feature_bc_matrix.h5"
    path.write_bytes(path.read_bytes()[:600])


def other_barcodes(folder: Path) -> None:
    write_matrix(folder / "filtered_feature_bc_matrix.h5", [f"OTHER{k}" for k in range(15)])


def no_positions(folder: Path) -> None:
    (folder / "spatial/tissue_positions_list.csv").unlink()


def empty_positions(folder: Path) -> None:
    (folder / "spatial/tissue_positions_list.csv").write_text("")


def no_scale(folder: Path) -> None:
    (folder / "spatial/scalefactors_json.json").write_text('{"spot_diameter_fullres": 55}')


def no_scale_file(folder: Path) -> None:
    (folder / "spatial/scalefactors_json.json").unlink()


def scale_0(folder: Path) -> None:
    (folder / "spatial/scalefactors_json.json").write_text('{"tissue_hires_scalef": 0}')


def off_tissue(folder: Path) -> None:
    array_spots().assign(in_tissue=0).to_csv(folder / "spatial/tissue_positions.csv", index=False)


def not_a_number(folder: Path) -> None:
    array_spots().assign(pxl_row_in_fullres="x").to_csv(folder / "spatial/tissue_positions.csv", index=False)


@pytest.mark.parametrize("damage, file, expected", [
    (no_matrix, "filtered_feature_bc_matrix.h5", "no file"),
    (break_matrix, "filtered_feature_bc_matrix.h5", "cannot be read"),
    (other_barcodes, "filtered_feature_bc_matrix.h5", "tissue_positions_list.csv .*SPOT11-1.* OTHER0"),
    (no_positions, "spatial", "tissue_positions.csv"),
    (empty_positions, "tissue_positions_list.csv", "cannot be read"),
    (no_scale, "scalefactors_json.json", "tissue_hires_scalef"),
    (no_scale_file, "scalefactors_json.json", "tissue_hires_scalef"),
    (scale_0, "scalefactors_json.json", "tissue_hires_scalef 0"),
    (off_tissue, "tissue_positions.csv", "in_tissue"),
    (not_a_number, "tissue_positions.csv", "not a number")], ids=lambda value: getattr(value, "__name__", ""))
def test_one_bad_layer_leaves_the_other(raw, tmp_path, capsys, damage, file, expected):
    damage(raw / "section2")
    options = own_config(tmp_path / "c.yaml", samples={"b": {"raw": {1: "section2", 2: "section10"}}})
    assert run(raw, tmp_path / "root", *options) == 0
    status = status_of(tmp_path / "root")
    assert re.search(f"{file}: found .*{expected}", status["b/1"])
    assert status["b/1"].count("fix:") == 1 and status["b/2"] == "ok"
    config = load_config(tmp_path / "root/dataset.yaml")
    assert stated_geometry(config, "b", 2).pitch_px == pytest.approx(25, rel=1e-5)
    shutil.rmtree(raw / "section10")
    assert run(raw, tmp_path / "alone", *own_config(tmp_path / "c.yaml", samples={"b": {"raw": {1: "section2"}}})) == 2
    assert re.search(f"{file}: found .*{expected}", capsys.readouterr().err)


@pytest.mark.parametrize("changes, expected", [
    ({"samples": {"b": {"raw": {1: "section2", 2: "sction10"}}}},
     r"sction10 .*samples\.b\.raw\.2.* expected .*section2, section10"),
    ({"samples": {"b": {"raw": {1: "section2", 2: "section2"}}}}, r"samples\.b\.raw.* section2 is there twice"),
    ({"samples": {"b": {"images": {1: "full.tif"}}}}, r"samples\.b\.images\.1: full\.tif"),
    ({"samples": {"b": {"layers": [1, 3]}}}, r"sample b \[3\]"),
    ({"samples": {"a": {"raw": {1: "section2"}}, "b": {}}}, r"sample b\b.* expected samples\.b\.raw"),
    ({"pitch_um": 200}, "pitch_um: 200.* expected array: hex, pitch_um: 100"),
    ({"array": "square"}, "array: square.* expected array: hex, pitch_um: 100"),
])
def test_wrong_config_ends_the_run(raw, tmp_path, capsys, changes, expected):
    assert run(raw, tmp_path / "root", *own_config(tmp_path / "c.yaml", **changes)) == 2
    error = capsys.readouterr().err
    assert re.search(expected, error) and error.count("\n") == 1
    assert not (tmp_path / "root").exists()


def test_a_missing_column_leaves_its_layer_out_and_an_empty_folder_ends_the_run(raw, tmp_path, capsys):
    table = HEADER.replace("in_tissue", "tissue") + "A-1,1,0,0,5,5\n"
    (raw / "section2/spatial/tissue_positions.csv").write_text(table)
    (tmp_path / "empty").mkdir()
    assert run(raw, tmp_path / "root") == 0 and run(tmp_path / "empty", tmp_path / "empty_root") == 2
    error = capsys.readouterr().err
    assert re.search("tissue_positions.csv: found .* expected .*in_tissue", error)
    assert f"error: {tmp_path / 'empty'}: found " in error and "filtered_feature_bc_matrix.h5" in error
    ended = sorted(text.partition(":")[0] for text in status_of(tmp_path / "root").values())
    assert ended == ["left out", "ok"]


def test_positions_saved_by_r(raw, tmp_path):
    """Tables of write.csv (quotes, row numbers) and write.csv2 (semicolons) are read."""
    (raw / "section2/spatial/tissue_positions_list.csv").unlink()
    path = raw / "section2/spatial/tissue_positions.csv"
    lines = ['"",' + ",".join(f'"{name}"' for name in HEADER.strip().split(","))]
    for number, row in enumerate(array_spots().itertuples(index=False), 1):
        lines.append(f'"{number}","{row[0]}",' + ",".join(map(str, row[1:])))
    path.write_text("\n".join(lines) + "\n")
    assert run(raw, tmp_path / "root") == 0 and set(status_of(tmp_path / "root").values()) == {"ok"}
    before = (tmp_path / "root/location/block7/1.csv").read_text()
    path.write_text(path.read_text().replace(",", ";").replace(".", ","))
    assert run(raw, tmp_path / "root") == 0 and set(status_of(tmp_path / "root").values()) == {"ok"}
    assert (tmp_path / "root/location/block7/1.csv").read_text() == before


def pyramid(path: Path) -> bytes:
    """The bytes of a scan in the form of Aperio."""
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
        assert err.startswith(f"0_1_convert_raw  b/2: left out: {raw / 'next.svs'}: found ") and err.count("\n") == 1


def test_parquet_positions(raw, tmp_path):
    """A parquet file is read if pyarrow is installed; else the message names pyarrow."""
    path = raw / "section2/spatial/tissue_positions.parquet"
    try:
        array_spots().to_parquet(path, index=False)
        expected = "ok"
    except ImportError:
        path.write_bytes(b"PAR1")
        expected = "pip install pyarrow"
    assert run(raw, tmp_path / "root") == 0
    assert expected in status_of(tmp_path / "root")["block7/1"]
