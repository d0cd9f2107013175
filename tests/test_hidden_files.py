"""Hidden files (macOS '._x') are no input anywhere."""
import re
from pathlib import Path

import pytest
from conftest import ROOT
from visium_folders import run, two_sections

from common.config import load_config
from common.layout import Layout
from common.names import visible

LISTINGS = re.compile(r"\.(r?glob|iterdir)\(|os\.(listdir|scandir)\(|^(import|from) glob\b")
RESOURCE = bytes.fromhex("0005160700020000") + b"Mac OS X        " + bytes(4072)


def listing_files() -> list[Path]:
    folder = ROOT / "data_preprocessing"
    names = ("0_1_convert_raw", "raw_sources", "raw_scale", "listing", "not_taken", "blocks", "gene_panels",
             "other_form", "families")
    return [*sorted((folder / "readers").glob("*.py")), *(folder / f"{name}.py" for name in names)]


@pytest.mark.parametrize("file", listing_files(), ids=lambda file: file.stem)
def test_no_reader_lists_a_folder_but_by_visible(file):
    assert [line for line in file.read_text().splitlines() if LISTINGS.search(line)] == []


def test_visible_leaves_out_hidden_files_and_what_lies_in_hidden_folders(tmp_path):
    (tmp_path / ".hidden").mkdir()
    for name in ("s10.txt", "s2.txt", "._s2.txt", ".hidden/s1.txt"):
        (tmp_path / name).write_text("")
    assert [path.name for path in visible(tmp_path, "**/*.txt")] == ["s2.txt", "s10.txt"]
    inside = tmp_path / ".hidden"
    assert [path.name for path in visible(inside)] == ["s1.txt"], "the folder itself may be hidden"


def test_a_root_does_not_list_hidden_folders(tmp_path, capsys):
    for name in ("imgs/A/1.jpg", "imgs/.trash/2.jpg", "imgs/A/._1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    layout = Layout(tmp_path)
    assert layout.layers_on_disk() == {"A": [1]} and layout.unnamed_on_disk() == []
    assert [path.name for path in layout.images("A", 1)] == ["1.jpg"]


def test_space_ranger_folders_copied_from_a_mac(tmp_path, capsys):
    raw = two_sections(tmp_path / "block")
    for path in [*raw.rglob("*")]:
        if path.is_file():
            path.with_name(f"._{path.name}").write_bytes(RESOURCE)
    (raw / "._section2").write_bytes(RESOURCE)
    assert run(raw, tmp_path / "root") == 0
    said = capsys.readouterr()
    assert "._" not in said.out + said.err and "not taken" not in said.out
    assert load_config(tmp_path / "root/dataset.yaml").samples["block"].raw == {1: "section2", 2: "section10"}
