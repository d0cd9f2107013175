"""Step 0_1 on generated her2st folders, and on the real one if it exists."""
import gzip
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT, load_script

from common.config import load_config
from common.io import read_h5ad, read_location
from common.layout import Layout
from data_preprocessing.readers import her2st

REAL = Path(os.environ.get("ASIGN_DATA", ROOT.parent / "shared" / "data" / "her2st"))
convert = load_script("0_1_convert_raw")


COLUMNS = "x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected"


def add_layer(raw: Path, sample: str, layer: int, counts: dict | None, spots: list | None,
              image: bytes | None = b"not decoded here", genes: str = "G1\tG2\tG1", columns: str = COLUMNS,
              zipped: bool = True) -> None:
    """Write the raw files of one layer: counts {'XxY': [values]}, spots [(x, y, pixel_x, pixel_y, selected)]."""
    name = f"{sample}{layer}"
    if counts is not None:
        (raw / "ST-cnts").mkdir(parents=True, exist_ok=True)
        rows = "".join(f"{spot}\t" + "\t".join(map(str, row)) + "\n" for spot, row in counts.items())
        content = f"\t{genes}\n{rows}".encode()
        if zipped:
            (raw / "ST-cnts" / f"{name}.tsv.gz").write_bytes(gzip.compress(content))
        else:
            (raw / "ST-cnts" / f"{name}.tsv").write_bytes(content)
    if spots is not None:
        (raw / "ST-spotfiles").mkdir(parents=True, exist_ok=True)
        rows = "".join(f"{x}\t{y}\t{x}.1\t{y}.2\t{px}\t{py}\t{selected}\n" for x, y, px, py, selected in spots)
        (raw / "ST-spotfiles" / f"{name}_selection.tsv").write_text(columns + "\n" + rows)
    if image is not None:
        (raw / "ST-imgs" / sample / name).mkdir(parents=True)
        (raw / "ST-imgs" / sample / name / "HE_BT.jpg").write_bytes(image)


SPOTS = [(2, 5, 544.5, 1360.25, 1), (3, 5, 816.0, 1360.0, 1), (4, 5, 1088.0, 1361.0, 0), (2, 6, 545.0, 1632.0, 1)]
COUNTS = {"2x6": [0, 7, 1], "2x5": [3, 0, 2], "4x5": [9, 9, 9], "8x8": [1, 1, 1]}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    add_layer(folder, "A", 1, COUNTS, SPOTS)
    add_layer(folder, "A", 2, COUNTS, SPOTS, image=None, zipped=False)
    add_layer(folder, "B", 1, COUNTS, SPOTS)
    return folder


def run(raw: Path, root: Path, *options: str) -> int:
    return convert.main(["--format", "her2st", "--raw_path", str(raw), "--root_path", str(root), *options])


def test_spots_and_counts_are_intersected(raw, tmp_path, capsys):
    assert run(raw, tmp_path / "root") == 0
    layout = Layout(tmp_path / "root")
    location, counts = read_location(layout.location("A", 1)), read_h5ad(layout.counts("A", 1))
    expected = pd.DataFrame({
        "barcode": ["2x5", "2x6"], "pixel_x": [544.5, 545.0], "pixel_y": [1360.25, 1632.0], "i": [2, 2], "j": [5, 6]})
    pd.testing.assert_frame_equal(location, expected)
    assert list(counts.obs_names) == ["2x5", "2x6"]
    assert list(counts.var_names) == ["G1", "G2", "G1-1"]
    assert counts.X.format == "csr" and counts.X.dtype == np.float32
    np.testing.assert_array_equal(counts.X.toarray(), [[3, 0, 2], [0, 7, 1]])
    line = next(line for line in capsys.readouterr().out.splitlines() if "A/1" in line)
    dropped = ("dropped 1 not selected", "dropped 1 spots without counts", "dropped 2 counts without a spot")
    for part in ("2 spots", "3 genes", *dropped):
        assert part in line


def test_image_is_linked_or_copied_byte_for_byte(raw, tmp_path):
    source = raw / "ST-imgs/A/A1/HE_BT.jpg"
    for root, options, linked in ((tmp_path / "linked", (), True), (tmp_path / "copied", ("--copy",), False)):
        assert run(raw, root, *options) == 0
        image = Layout(root).image("A", 1)
        assert image.is_symlink() == linked
        assert image.read_bytes() == source.read_bytes()
    assert run(raw, tmp_path / "copied") == 0  # a link replaces the copy
    assert Layout(tmp_path / "copied").image("A", 1).is_symlink()


def test_layer_without_image_is_kept_and_noted(raw, tmp_path, capsys):
    for _ in range(2):  # and again when everything is up to date
        assert run(raw, tmp_path / "root") == 0
        status = json.loads((tmp_path / "root/status.json").read_text())
        assert status["A/2"]["0_1_convert_raw"] == "no image"
        assert status["A/1"]["0_1_convert_raw"] == "ok"
    assert "A/2: up to date" in capsys.readouterr().out
    assert read_h5ad(Layout(tmp_path / "root").counts("A", 2)).n_obs == 2


def test_image_without_counts_keeps_all_selected_spots(raw, tmp_path):
    add_layer(raw, "C", 3, None, SPOTS)
    add_layer(raw, "C", 4, None, None)
    assert run(raw, tmp_path / "root", "--sample", "C") == 0
    layout = Layout(tmp_path / "root")
    assert list(read_location(layout.location("C", 3))["barcode"]) == ["2x5", "3x5", "2x6"]
    assert not layout.counts("C", 3).exists() and not layout.location("C", 4).exists()
    assert layout.image("C", 4) is not None


def test_resolved_config_lists_the_layers_of_this_call_and_of_those_before(raw, tmp_path, capsys):
    root = tmp_path / "root"
    assert run(raw, root, "--sample", "A", "--layer", "2") == 0
    values = yaml.safe_load((root / "dataset.yaml").read_text())
    assert {name: one["layers"] for name, one in values["samples"].items()} == {"A": [2]} and values["folds"] is None
    capsys.readouterr()
    assert run(raw, root, "--sample", "B") == 0
    assert "dataset.yaml: added B/1" in capsys.readouterr().out
    assert run(raw, root) == 0
    assert "dataset.yaml: added A/1" in capsys.readouterr().out
    values = yaml.safe_load((root / "dataset.yaml").read_text())
    assert {name: one["layers"] for name, one in values["samples"].items()} == {"A": [1, 2], "B": [1]}
    assert values["folds"] == [["A"], ["B"]]  # [[A, E], [B, F], ...] without absent samples
    assert values["pitch_px"] == 272 and values["raw_path"] == str(raw)
    assert run(raw, root, "--sample", "A", "--layer", "2") == 0
    assert yaml.safe_load((root / "dataset.yaml").read_text()) == values


def test_one_bad_layer_leaves_the_others(raw, tmp_path, capsys):
    packed = raw / "ST-cnts/A1.tsv.gz"
    packed.write_bytes(packed.read_bytes()[:-12])  # truncated
    add_layer(raw, "D", 1, {"90x90": [1, 2, 3]}, SPOTS)  # nothing in common
    add_layer(raw, "D", 2, COUNTS, None)  # no spots
    add_layer(raw, "D", 3, {"2x5": [1, -2, 3]}, SPOTS)  # no count
    add_layer(raw, "D", 4, {"2x5,1": [], "2x6,2": []}, SPOTS, genes="")  # comma-separated
    add_layer(raw, "D", 5, COUNTS, SPOTS)
    (raw / "ST-spotfiles/D5_selection.tsv").write_text("")
    add_layer(raw, "D", 6, COUNTS, [(*spot[:4], 0) for spot in SPOTS])  # none selected
    add_layer(raw, "D", 7, COUNTS, [])
    add_layer(raw, "D", 8, COUNTS, SPOTS)
    (raw / "ST-cnts/D8.tsv.gz").write_bytes(gzip.compress(b"\tG1\n2x5\t1\n2x5\t1\n"))  # a spot twice
    assert run(raw, tmp_path / "root") == 0
    status = json.loads((tmp_path / "root/status.json").read_text())
    for name in ("A/1", *(f"D/{layer}" for layer in range(1, 9))):
        assert status[name]["0_1_convert_raw"].startswith("left out: "), name
    assert status["B/1"]["0_1_convert_raw"] == "ok"
    assert "fix:" in capsys.readouterr().err


def test_spots_file_without_pixels_leaves_its_layer_out(raw, tmp_path, capsys):
    add_layer(raw, "A", 3, COUNTS, SPOTS, columns="x\ty\tnew_x\tnew_y\tpx\tpixel_y\tselected")
    assert run(raw, tmp_path / "root") == 0
    error = capsys.readouterr().err
    assert "A/3: left out" in error and "A3_selection.tsv" in error and "pixel_x" in error and "fix:" in error
    assert not Layout(tmp_path / "root").location("A", 3).exists()


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_wrong_or_empty_raw_folder(make, tmp_path, capsys):
    make(tmp_path / "raw")
    assert run(tmp_path / "raw", tmp_path / "root") == 2
    assert "--raw_path" in capsys.readouterr().err
    assert not (tmp_path / "root").exists()


def test_options_that_name_nothing(raw, tmp_path, capsys):
    assert run(raw, tmp_path / "root", "--sample", "Z") == 2
    assert run(raw, tmp_path / "root", "--layer", "9") == 2
    assert convert.main(["--raw_path", str(raw), "--root_path", str(tmp_path / "root")]) == 2
    assert capsys.readouterr().err.count("fix:") == 3
    assert not (tmp_path / "root").exists()


def test_config_that_lists_a_layer_without_files(raw, tmp_path, capsys):
    values = yaml.safe_load((ROOT / "configs/her2st.yaml").read_text())
    values |= {"samples": {"A": {"layers": [1, 7]}}, "folds": None}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    assert run(raw, tmp_path / "root", "--config", str(tmp_path / "mine.yaml")) == 2
    assert "[7]" in capsys.readouterr().err


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the her2st data")
def test_real_layers():
    config = load_config(ROOT / "configs/her2st.yaml")
    assert her2st.list_layers(REAL, config)["C"].layers == [1, 2, 3, 4]
    config = config.model_copy(update={"samples": her2st.list_layers(REAL, config)})
    numbers = {}
    for layer in (2, 3):
        found = her2st.read_layer(REAL, config, "C", layer)
        dropped = found.dropped["spots without counts"], found.dropped["counts without a spot"]
        numbers[layer] = (len(found.location), found.counts.n_obs, *dropped)
        assert found.image.suffix == ".jpg"
        assert 8_500 < found.counts.X.sum() / found.counts.n_obs < 12_400  # UMI a spot (data/README.md)
    assert numbers == {2: (187, 187, 0, 0), 3: (180, 180, 2, 0)}


def test_image_of_the_config_and_refused_mapping(raw, tmp_path, capsys):
    (raw / "A2_scan.jpg").write_bytes(b"another scan")
    values = yaml.safe_load((ROOT / "configs/her2st.yaml").read_text()) | {"folds": None}
    mine = tmp_path / "mine.yaml"
    cases = (({"images": {2: "A2_scan.jpg"}}, 0), ({"images": {2: "A2_scn.jpg"}}, 2), ({"raw": {1: "A1"}}, 2))
    for sample, code in cases:
        mine.write_text(yaml.safe_dump(values | {"samples": {"A": sample}}))
        assert run(raw, tmp_path / "root", "--config", str(mine)) == code, sample
    assert Layout(tmp_path / "root").image("A", 2).read_bytes() == b"another scan"
    error = capsys.readouterr().err
    assert "samples.A.images.2: A2_scn.jpg" in error and "samples.A.raw" in error
