"""Every file and folder that looks like input and is not taken is named; by-products and hidden files are not."""
import csv
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT
from PIL import Image
from raw_sections import convert, touch, write_section
from visium_folders import add_folder, on_tissue, write_mex

from common.config import load_config
from data_preprocessing import not_taken as module
from data_preprocessing.not_taken import looks_like_input
from data_preprocessing.packed import unpack_command
from data_preprocessing.readers import asign, h5ad, visium


def said(capsys) -> list[str]:
    """What is said of files that are not taken."""
    lines = capsys.readouterr().out.splitlines()
    return [line.partition("not taken: ")[2] for line in lines if "not taken: " in line]


def table(root: Path) -> dict[str, str]:
    with open(root / "not_taken.csv") as stream:
        return {Path(row["path"]).name: row["reason"] for row in csv.DictReader(stream)}


def test_a_folder_that_is_not_taken_is_one_line_and_by_products_are_none(tmp_path, capsys):
    raw, root = tmp_path / "block", tmp_path / "root"
    add_folder(raw / "section1" / "outs")
    outs = raw / "section1" / "outs"
    touch(outs / "molecule_info.h5", outs / "web_summary.html", outs / "analysis/pca/projection.csv",
          outs / "possorted_genome_bam.bam", outs / "raw_feature_bc_matrix/matrix.mtx.gz", raw / "README.txt",
          raw / "md5sum.txt", raw / "._notes.csv", raw / "run.log")
    touch(*(raw / "section2" / "outs" / "raw_feature_bc_matrix" / f"part{k}.tsv.gz" for k in range(30)))
    touch(raw / "section3" / "spatial" / "tissue_positions.csv", raw / "empty" / "notes.docx")
    touch(raw / "notes.csv", raw / "scan.svs", raw / "other.h5ad", raw / "more.tar.gz", raw / "he.tif.gz")
    assert convert("visium", raw, root) == 0
    lines = said(capsys)
    named = sorted(line.partition(": ")[0] for line in lines)
    assert named == ["he.tif.gz", "more.tar.gz", "notes.csv", "other.h5ad", "scan.svs", "section2/"]
    reasons = table(root)
    assert "samples.<name>.images" in reasons["scan.svs"]
    assert "tar xf more.tar.gz" in reasons["more.tar.gz"] and ".images" in reasons["he.tif.gz"]
    assert "--format h5ad" in reasons["other.h5ad"] and "part0.tsv.gz" in reasons["section2"]
    assert "visium" in reasons["notes.csv"]


def test_the_file_is_that_of_the_last_conversion(tmp_path, capsys):
    write_section(tmp_path / "raw" / "s1.h5ad")
    touch(tmp_path / "raw" / "x.csv")
    assert convert("h5ad", tmp_path / "raw", tmp_path / "root") == 0 and list(table(tmp_path / "root")) == ["x.csv"]
    (tmp_path / "raw" / "x.csv").unlink()
    capsys.readouterr()
    assert convert("h5ad", tmp_path / "raw", tmp_path / "root") == 0
    assert table(tmp_path / "root") == {} and said(capsys) == []


def test_sections_that_this_call_does_not_choose_are_taken(tmp_path, capsys):
    for name in ("s1", "s2"):
        write_section(tmp_path / "raw" / f"{name}.h5ad")
    assert convert("h5ad", tmp_path / "raw", tmp_path / "root", "--layer", "2") == 0
    assert said(capsys) == []


def test_sections_that_the_config_does_not_name_are_named(tmp_path, capsys):
    for name in ("s1", "s2", "s3"):
        write_section(tmp_path / "raw" / f"{name}.h5ad")
    Image.new("RGB", (40, 30)).save(tmp_path / "raw" / "full.tif")
    config = tmp_path / "own.yaml"
    config.write_text((ROOT / "configs/h5ad.yaml").read_text()
                      + "samples: {b: {raw: {1: s1.h5ad}, images: {2: full.tif}}}\n")
    assert convert("h5ad", tmp_path / "raw", tmp_path / "root", "--config", str(config)) == 0
    reasons = table(tmp_path / "root")
    assert sorted(reasons) == ["s2.h5ad", "s2.png", "s3.h5ad", "s3.png"]
    assert "samples" in reasons["s3.h5ad"] and len(said(capsys)) == 1, "files of one folder and reason are one line"


def test_a_root_inside_the_raw_data_is_no_input(tmp_path, capsys):
    write_section(tmp_path / "raw" / "s1.h5ad")
    root = tmp_path / "raw" / "root"
    for _ in range(2):
        assert convert("h5ad", tmp_path / "raw", root) == 0
        assert said(capsys) == []


def test_the_reason_of_the_reader_comes_first(tmp_path, capsys, monkeypatch):
    write_section(tmp_path / "raw" / "s1.h5ad")
    touch(tmp_path / "raw" / "s2.csv")
    monkeypatch.setattr(h5ad, "why_not", lambda raw, path: f"my reason for {path.name}", raising=False)
    assert convert("h5ad", tmp_path / "raw", tmp_path / "root") == 0
    assert table(tmp_path / "root") == {"s2.csv": "my reason for s2.csv"}


def test_a_reader_speaks_of_what_lies_in_a_folder_that_is_taken(tmp_path, capsys):
    raw = tmp_path / "block"
    add_folder(raw / "section1")
    touch(raw / "section1" / "extra_outputs" / "cells.h5")

    def why_not(raw: Path, path: Path) -> str | None:
        return "not used" if path.name == "extra_outputs" else None

    own = ModuleType("reader")
    own.__dict__.update(vars(visium), why_not=why_not)
    config = load_config(ROOT / "configs/visium.yaml")
    listed = config.model_copy(update={"samples": own.list_layers(raw, config)})
    found = module.not_taken(raw, listed, own, "visium", tmp_path / "root")
    assert found == [(raw / "section1" / "extra_outputs", "not used")]


def test_many_lines_are_counted(tmp_path, capsys):
    write_section(tmp_path / "raw" / "s1.h5ad")
    touch(*(tmp_path / "raw" / f"folder{k}" / "x.csv" for k in range(60)))
    touch(*(tmp_path / "raw" / f"scan{k}.svs" for k in range(60)))
    assert convert("h5ad", tmp_path / "raw", tmp_path / "root") == 0
    lines = said(capsys)
    assert len(table(tmp_path / "root")) == 120
    assert any("60 files (scan0.svs, scan1.svs, scan2.svs" in line for line in lines)
    assert any("60 folders (folder0, " in line for line in lines)
    assert len(lines) <= module.MOST_LINES + 1


@pytest.mark.parametrize("name, expected", [
    ("x.tsv.gz", True), ("x.ome.tif", True), ("x.czi", True), ("x.RDS", True), ("P1_molecule_info.h5", False),
    ("README.txt", False), ("x.bam", False), ("GSM1_scalefactors_json.json.gz", False), ("x.pdf", True),
    ("x.doc", False)])
def test_what_looks_like_input(name, expected):
    assert looks_like_input(Path(name)) == expected


def test_of_an_archive_its_files_are_taken_and_others_are_named(tmp_path):
    raw = tmp_path / "archive"
    touch(raw / "npy_information/C/C2.npy", raw / "graph_data/C/C2.pt", raw / "cropped_imgs/patch_224/C2/1x1.png",
          raw / "cropped_imgs/patch_512/C2/1x1.png", raw / "counts.tsv")
    config = load_config(ROOT / "configs/asign.yaml")
    listed = config.model_copy(update={"samples": asign.list_layers(raw, config)})
    found = module.not_taken(raw, listed, asign, "asign", tmp_path / "root")
    assert [path.relative_to(raw).as_posix() for path, _ in found] == ["counts.tsv", "cropped_imgs/patch_512"]


def test_a_link_is_no_second_section_and_one_to_nothing_is_named(tmp_path, capsys):
    raw, root = tmp_path / "block", tmp_path / "root"
    for name in ("s1", "s2", "s10"):
        add_folder(tmp_path / "disk" / name)
    raw.mkdir()
    for name in ("s1", "s2", "s10"):
        (raw / name).symlink_to(tmp_path / "disk" / name)
    for name, target in (("latest", "s1"), ("all", "."), ("s3", "/media/gone/s3"), ("a", "s2")):
        (raw / name).symlink_to(target)
    assert convert("visium", raw, root) == 0
    sample, = load_config(root / "dataset.yaml").samples.values()
    assert list(sample.raw.values()) == ["s1", "s2", "s10"]
    reasons = table(root)
    assert "/media/gone/s3" in reasons["s3"] and "s1, which is read" in reasons["latest"]


def test_a_folder_as_space_ranger_leaves_it_has_no_line(tmp_path, capsys):
    """Both forms of the counts, and spatial/ beside the archive that it came in."""
    raw, root = tmp_path / "block", tmp_path / "root"
    for outs in (raw / "s1/outs", raw / "s2/outs"):
        add_folder(outs)
        write_mex(outs / "filtered_feature_bc_matrix", on_tissue())
        touch(outs.parent / f"{outs.parent.name}.mri.tgz", outs / "cloupe.cloupe", outs / "deconvolution/k2/a.csv")
    assert convert("visium", raw, root) == 0 and said(capsys) == []
    touch(raw / "s2/outs/spatial.tar.gz")
    (raw / "s3/outs").mkdir(parents=True)
    touch(raw / "s4/outs/web_summary.html", raw / "s5/HE.tif")
    assert convert("visium", raw, root) == 0 and said(capsys)
    reasons = table(root)
    assert reasons["spatial.tar.gz"].endswith(" is read") and reasons["s3"] == "an empty folder"
    assert "web_summary.html" in reasons["s4"] and "images: {<number>: 's5/HE.tif'}" in reasons["s5"]


def test_a_root_that_is_the_raw_folder_does_not_name_its_own_files(tmp_path, capsys):
    add_folder(tmp_path / "raw/s1")
    for other in (tmp_path / "raw", tmp_path / "raw", tmp_path / "raw/other", tmp_path / "root"):
        assert convert("visium", tmp_path / "raw", other) == 0
    assert list(table(tmp_path / "root").values()).count("a dataset root") == 1
    assert table(tmp_path / "raw") == {}


@pytest.mark.parametrize("name, command", [("s.zip", "unzip s.zip"), ("a b.tar.bz2", "tar xf 'a b.tar.bz2'"),
                                           ("s.tgz", "tar xf s.tgz"), ("s.7z", "7z x s.7z"),
                                           ("s.tsv.xz", "unxz s.tsv.xz")])
def test_the_command_that_unpacks_an_archive(name, command):
    assert unpack_command(name) == command
