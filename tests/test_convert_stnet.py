"""Step 0_1 on generated ST-Net folders, in the form of the paper's code and of the data set's download."""
import gzip
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import load_script

from common.config import load_config
from common.io import read_h5ad, read_location
from common.layout import Layout

convert = load_script("0_1_convert_raw")
SPOTS = [(2, 5, 600.4, 1500.25), (3, 5, 900.4, 1500.25), (2, 6, 600.4, 1800.25), (4, 6, 1200.4, 1800.25)]
COUNTS = {"3x5": [0, 7, 1], "2x5": [3, 0, 2], "9x9": [1, 1, 1], "2x6": [5, 5, 5]}
STATED_PITCH = "dataset: mine\nraw_format: stnet\npitch_px: 300\n"


def add_section(folder: Path, patient: str, section: str, download: bool = False,
                parts: str = "counts spots image") -> None:
    """Write the files of one section in the form of the paper's code or of the download."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{patient}_{section}"
    if "counts" in parts:
        genes = "\tENSG1\tENSG2\tENSG3\n"
        text = genes + "".join(f"{spot}\t" + "\t".join(map(str, row)) + "\n" for spot, row in COUNTS.items())
        (folder / f"{name}{'_stdata' if download else ''}.tsv.gz").write_bytes(gzip.compress(text.encode()))
    if "spots" in parts and download:
        (folder / f"spots_{name}.csv").write_text(",X,Y\n" + "".join(f"{x}x{y},{px},{py}\n" for x, y, px, py in SPOTS))
    elif "spots" in parts:
        rows = "".join(f"{x}\t{y}\t{x}.1\t{y}.2\t{px}\t{py}\n" for x, y, px, py in SPOTS)
        (folder / f"{name}.spots.txt").write_text("x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\n" + rows)
    if "coords" in parts:
        rows = "".join(f"{x}x{y}\t{x}\t{y}\tDC\ttumor\n" for x, y, *_ in SPOTS)
        (folder / f"{name}_Coords.tsv").write_text("\tx\ty\tlab\ttumor\n" + rows)
    if "image" in parts:
        (folder / f"{'HE_' if download else ''}{name}.jpg").write_bytes(f"{name}: not decoded here".encode())


def run(raw: Path, root: Path, *options: str) -> int:
    return convert.main(["--format", "stnet", "--raw_path", str(raw), "--root_path", str(root), *options])


@pytest.mark.parametrize("download", [False, True])
def test_sections_of_a_patient_become_layers_in_the_order_of_their_names(tmp_path, download):
    folder = tmp_path / "raw" if download else tmp_path / "raw" / "Luminal_B" / "BC23377"
    for section in ("D1", "C2", "C1"):
        add_section(folder, "BC23377", section, download, "counts spots image coords")
    assert run(tmp_path / "raw", tmp_path / "root") == 0
    layout, config = Layout(tmp_path / "root"), load_config(tmp_path / "root" / "dataset.yaml")
    assert config.samples["BC23377"].layers == [1, 2, 3]
    sections = [Path(one).name.split("_")[1][:2] for one in config.samples["BC23377"].raw.values()]
    assert sections == ["C1", "C2", "D1"]
    images = [layout.image("BC23377", layer).read_text()[:10] for layer in (1, 2, 3)]
    assert images == ["BC23377_C1", "BC23377_C2", "BC23377_D1"]
    expected = pd.DataFrame({
        "barcode": ["2x5", "3x5", "2x6"],
        "pixel_x": [600.4, 900.4, 600.4], "pixel_y": [1500.25, 1500.25, 1800.25],
        "i": [2, 3, 2], "j": [5, 5, 6]})
    pd.testing.assert_frame_equal(read_location(layout.location("BC23377", 2)), expected)
    counts = read_h5ad(layout.counts("BC23377", 2))
    assert counts.obs_names.tolist() == ["2x5", "3x5", "2x6"]
    assert counts.var_names.tolist() == ["ENSG1", "ENSG2", "ENSG3"]
    assert counts.X.toarray().tolist() == [[3, 0, 2], [0, 7, 1], [5, 5, 5]]


def test_the_pixel_size_is_measured_on_the_spots(tmp_path, capsys):
    add_section(tmp_path / "raw", "BC1", "C1")
    assert run(tmp_path / "raw", tmp_path / "root") == 0
    config = load_config(tmp_path / "root" / "dataset.yaml")
    assert config.samples["BC1"].pixel_size_um == {1: 0.666667}  # 200 um are 300 px
    assert re.search(r"\b1 spots without counts.*\b1 counts without a spot", capsys.readouterr().out)


def test_the_config_orders_the_sections(tmp_path):
    for section in ("C1", "C2", "D1"):
        add_section(tmp_path / "raw", "BC1", section)
    add_section(tmp_path / "raw", "BC2", "C1")
    samples = {"BC1": {"raw": {1: "BC1_D1.tsv.gz", 4: "BC1_C1.tsv.gz"}}, "BC2": {}}
    config = {"dataset": "mine", "raw_format": "stnet", "samples": samples}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(config))
    options = ["--config", str(tmp_path / "mine.yaml"), "--raw_path", str(tmp_path / "raw")]
    assert convert.main([*options, "--root_path", str(tmp_path / "root")]) == 0
    layout = Layout(tmp_path / "root")
    resolved = load_config(layout.config).samples
    assert {sample: one.layers for sample, one in resolved.items()} == {"BC1": [1, 4], "BC2": [1]}
    assert layout.image("BC1", 1).read_text().startswith("BC1_D1")
    assert layout.image("BC1", 4).read_text().startswith("BC1_C1")


def test_a_section_of_an_image_alone_and_one_without_image(tmp_path):
    add_section(tmp_path / "raw", "BC1", "C1")
    add_section(tmp_path / "raw", "BC1", "C2", parts="image")
    add_section(tmp_path / "raw", "BC1", "D1", parts="counts spots")
    (tmp_path / "config.yaml").write_text(STATED_PITCH)
    assert run(tmp_path / "raw", tmp_path / "root", "--config", str(tmp_path / "config.yaml")) == 0
    layout = Layout(tmp_path / "root")
    assert layout.image("BC1", 2)
    assert not layout.location("BC1", 2).exists() and not layout.counts("BC1", 2).exists()
    assert layout.image("BC1", 3) is None and len(read_location(layout.location("BC1", 3))) == 3


def test_counts_without_spots_leave_the_layer_out(tmp_path, capsys):
    add_section(tmp_path / "raw", "BC1", "C1")
    add_section(tmp_path / "raw", "BC1", "C2", parts="counts image")
    (tmp_path / "config.yaml").write_text(STATED_PITCH)
    assert run(tmp_path / "raw", tmp_path / "root", "--config", str(tmp_path / "config.yaml")) == 0
    line = capsys.readouterr().err
    assert "BC1/2: left out" in line and "BC1_C2.tsv.gz: found no spots" in line


CUT = gzip.compress(b",X,Y\n2x5,600,1500\n" * 99)[:-9]


@pytest.mark.parametrize("content", [CUT, b"", gzip.compress(b"")], ids=["cut", "empty", "packed"])
def test_a_broken_spot_file_leaves_its_layer_out(tmp_path, capsys, content):
    add_section(tmp_path / "raw", "BC1", "C1")
    add_section(tmp_path / "raw", "BC1", "C2", parts="counts image")
    (tmp_path / "raw" / "spots_BC1_C2.csv.gz").write_bytes(content)
    assert run(tmp_path / "raw", tmp_path / "root") == 0
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "BC1/2: left out: " in error and "spots_BC1_C2.csv.gz: found " in error
    assert Layout(tmp_path / "root").counts("BC1", 1).is_file()


def test_names_in_capitals_slides_and_images_of_the_config_are_layers(tmp_path):
    raw, layout = tmp_path / "raw", Layout(tmp_path / "root")
    add_section(raw, "BC1", "C1")
    (raw / "BC1_C1.jpg").rename(raw / "he_bc1_C1.JPG")
    (raw / "BC1_C1.tsv.gz").rename(raw / "BC1_C1.TSV.GZ")
    (raw / "BC1_C1.spots.txt").rename(raw / "BC1_c1.Spots.txt")
    (raw / "BC1_C2.svs").write_bytes(b"a slide")
    (raw / "BC1_D1.JPG").write_bytes(b"a picture")
    (raw / "extra.png").write_bytes(b"of the config")
    samples = "samples: {BC1: {images: {7: extra.png}}, BC2: {images: {1: extra.png}}}\n"
    (tmp_path / "config.yaml").write_text(STATED_PITCH + samples)
    assert run(raw, layout.root, "--config", str(tmp_path / "config.yaml")) == 0
    resolved = load_config(layout.config).samples
    assert {name: one.layers for name, one in resolved.items()} == {"BC1": [1, 2, 3, 7], "BC2": [1]}
    images = [layout.image("BC1", layer).read_bytes()[:9] for layer in (1, 2, 3, 7)]
    assert images == [b"BC1_C1: n", b"a slide", b"a picture", b"of the co"]
    assert len(read_location(layout.location("BC1", 1))) == 3
    assert read_h5ad(layout.counts("BC1", 1)).shape == (3, 3)
    assert not layout.location("BC1", 2).exists() and layout.image("BC2", 1).read_bytes() == b"of the config"


@pytest.mark.parametrize("spoil, found", [
    ("nothing", "raw: found no section"), ("named", "BC1_X9.tsv.gz"), ("annotation", "pixel_x"), ("columns", "x, y")])
def test_a_wrong_form_is_one_line(tmp_path, capsys, spoil, found):
    raw = tmp_path / "raw"
    raw.mkdir()
    options = []
    if spoil == "named":
        add_section(raw, "BC1", "C1")
        samples = "samples: {BC1: {raw: {1: BC1_X9.tsv.gz}}}\n"
        (tmp_path / "config.yaml").write_text("dataset: mine\nraw_format: stnet\n" + samples)
        options = ["--config", str(tmp_path / "config.yaml")]
    elif spoil == "annotation":
        add_section(raw, "BC1", "C1", parts="counts image coords")
    elif spoil == "columns":
        add_section(raw, "BC1", "C1")
        (raw / "BC1_C1.spots.txt").write_text("x\ty\n1\t2\n")
    assert run(raw, tmp_path / "root", *options) == 2
    first, *rest = capsys.readouterr().err.splitlines()
    assert found in first
    if spoil in ("nothing", "named"):  # a wrong folder or config ends the run; a bad section is left out first
        assert first.startswith("error: ") and not rest
    else:
        assert "BC1/1: left out" in first and len(rest) == 1
