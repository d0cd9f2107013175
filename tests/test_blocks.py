"""Step 0_1 groups sections into blocks, states how, and refuses those that cannot be of one block."""
import os
import re
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from raw_sections import HUMAN, MOUSE, convert, write_section
from visium_folders import add_folder, own_config

from common.config import load_config
from common.errors import DataError
from common.layout import Layout
from data_preprocessing.blocks import difference, grouped
from data_preprocessing.gene_panels import genes_of, read_genes
from data_preprocessing.readers import visium

REAL = Path(os.environ.get("ASIGN_DATA", ROOT.parent / "shared" / "data" / "her2st")).parent / "visium"
BRAIN, LUNG = REAL / "mousebrain", REAL / "lungorganoid"
needs_real = pytest.mark.skipif(not LUNG.is_dir(), reason=f"no real sections at {REAL}")


def yaml_said(text: str) -> dict:
    """The last `samples: {…}` of a message, as a person pastes it."""
    return yaml.safe_load(re.findall(r"samples: \{.*\}", text)[-1])["samples"]


def samples_of(root: Path) -> dict[str, dict[int, str]]:
    return {name: one.raw for name, one in load_config(root / "dataset.yaml").samples.items()}


def test_families_of_names_are_samples_and_the_line_can_be_pasted(tmp_path, capsys):
    raw = tmp_path / "dir"
    for name in ("V10F24-078_A1", "V10F24-078_B1", "LungOrg_1", "LungOrg_2", "LungOrg_3"):
        add_folder(raw / name / "outs")
    assert convert("visium", raw, tmp_path / "root") == 0
    assert samples_of(tmp_path / "root") == {
        "LungOrg": {1: "LungOrg_1", 2: "LungOrg_2", 3: "LungOrg_3"},
        "V10F24-078": {1: "V10F24-078_A1", 2: "V10F24-078_B1"}}
    first, lung, slide = capsys.readouterr().out.splitlines()[:3]
    assert "2 blocks" in first and "LungOrg, V10F24-078" in first
    assert "capture areas" in slide and "samples.V10F24-078.raw" in slide and "numbers" in lung
    one_block = yaml_said(first)
    assert list(one_block["dir"]["raw"].values())[:3] == ["LungOrg_1", "LungOrg_2", "LungOrg_3"]
    options = own_config(tmp_path / "own.yaml", samples=one_block)
    assert convert("visium", raw, tmp_path / "root2", *options) == 0
    assert samples_of(tmp_path / "root2") == {"dir": one_block["dir"]["raw"]}


def test_a_gap_in_the_numbers_is_said_with_the_numbers_to_paste(tmp_path, capsys):
    for name in ("section1", "section2", "section4"):
        add_folder(tmp_path / "block" / name)
    assert convert("visium", tmp_path / "block", tmp_path / "root") == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert "one block 'block'" in line and "gap" in line
    assert yaml_said(line) == {"block": {"raw": {1: "section1", 2: "section2", 4: "section4"}}}


def test_the_folder_of_one_section_is_named_as_such(tmp_path, capsys):
    add_folder(tmp_path / "mouse7" / "outs")
    assert convert("visium", tmp_path / "mouse7" / "outs", tmp_path / "root") == 0
    said = capsys.readouterr().out
    assert "one section" in said and "mouse7/1 is outs" in said
    assert list(samples_of(tmp_path / "root")) == ["mouse7"]


def test_sections_of_two_species_are_refused_with_a_grouping(tmp_path, capsys):
    raw = tmp_path / "dir"
    for name, genes in (("s1", MOUSE), ("s2", HUMAN), ("s3", MOUSE)):
        write_section(raw / f"{name}.h5ad", genes)
    assert convert("h5ad", raw, tmp_path / "root") == 2
    error = capsys.readouterr().err
    assert "two species" in error and "human" in error and not Layout(tmp_path / "root").config.exists()
    assert yaml_said(error) == {"dir_1": {"raw": {1: "s1.h5ad", 2: "s3.h5ad"}}, "dir_2": {"raw": {1: "s2.h5ad"}}}


def test_panels_that_share_less_than_half_are_refused_and_a_stated_block_is_not(tmp_path, capsys):
    raw = tmp_path / "dir"
    write_section(raw / "s1.h5ad", [f"Gene{k}" for k in range(20)])
    write_section(raw / "s2.h5ad", [f"Gene{k}" for k in range(12, 40)])
    assert convert("h5ad", raw, tmp_path / "root") == 2
    assert "40%" in capsys.readouterr().err
    config = tmp_path / "own.yaml"
    text = (ROOT / "configs/h5ad.yaml").read_text()
    config.write_text(text + "samples: {b: {raw: {1: s1.h5ad, 2: s2.h5ad}}}\n")
    assert convert("h5ad", raw, tmp_path / "root", "--config", str(config)) == 0


def test_a_broken_section_keeps_its_place(tmp_path, capsys):
    raw = tmp_path / "dir"
    for name in ("s1", "s2", "s3"):
        write_section(raw / f"{name}.h5ad")
    (raw / "s2.h5ad").write_bytes(b"cut off")
    assert convert("h5ad", raw, tmp_path / "root") == 0
    said = capsys.readouterr()
    assert samples_of(tmp_path / "root")["dir"] == {1: "s1.h5ad", 2: "s2.h5ad", 3: "s3.h5ad"}
    assert "dir/2: left out" in said.err and "not taken" not in said.out
    layout = Layout(tmp_path / "root")
    assert layout.counts("dir", 3).is_file() and not layout.counts("dir", 2).exists()


def test_a_section_with_many_times_the_spots_is_named(tmp_path, capsys):
    for name, n_rows in (("s1", 3), ("s2", 12)):
        write_section(tmp_path / "dir" / f"{name}.h5ad", n_rows=n_rows)
    assert convert("h5ad", tmp_path / "dir", tmp_path / "root") == 0
    assert re.search(r"dir: .*0\.1 mm2 of section 1 .*0\.4 mm2 of section 2", capsys.readouterr().err)


@pytest.mark.parametrize("names, species", [
    (["ENSG00000000003.14"], {"human"}), (["ENSMUSG00000000001"], {"mouse"}), (["GRCh38__ACTB"], {"human"}),
    (["mm10___Actb"], {"mouse"}), (["GRCh38_ACTB", "mm10_Actb"], {"human", "mouse"}), (MOUSE, {"mouse", "rat"}),
    (["0", "1"], set())])
def test_species(names, species):
    assert genes_of(names).species == species


def test_names_and_ids_are_two_ways_to_name_the_same_genes():
    symbols, ids = genes_of(MOUSE), genes_of([f"ENSMUSG{k:011d}.{k}" for k in range(20)])
    assert symbols.overlap(ids) is None and difference(symbols, ids) == ""
    both = genes_of([*MOUSE, *ids.ids])
    assert both.overlap(ids) == both.overlap(symbols) == 1


def test_genes_of_each_kind_of_file(tmp_path):
    write_section(tmp_path / "a.h5ad", gene_ids=[f"ENSMUSG{k:011d}" for k in range(20)])
    add_folder(tmp_path / "s")
    mex = tmp_path / "mex"
    mex.mkdir()
    (mex / "features.tsv").write_text("ENSG00000000001\tACTB\tGene Expression\n")
    (tmp_path / "st.tsv").write_text("\tACTB\tGAPDH\n1x1\t3\t4\n")
    found = {name: read_genes({"counts": tmp_path / name})
             for name in ("a.h5ad", "s/filtered_feature_bc_matrix.h5", "mex", "st.tsv", "nowhere.h5")}
    assert len(found["a.h5ad"].ids) == len(found["a.h5ad"].symbols) == 20
    assert "Gapdh" in found["s/filtered_feature_bc_matrix.h5"].symbols
    assert found["mex"].symbols == {"ACTB"} and found["mex"].ids == {"ENSG00000000001"}
    assert found["st.tsv"].symbols == {"ACTB", "GAPDH"} and found["nowhere.h5"] is None


def test_a_copy_of_a_section_is_named(tmp_path, capsys):
    for name, n_rows in (("s1", 3), ("s2", 3), ("s3", 4)):
        write_section(tmp_path / "dir" / f"{name}.h5ad", n_rows=n_rows)
    (tmp_path / "dir/s2.h5ad").write_bytes((tmp_path / "dir/s1.h5ad").read_bytes())
    assert convert("h5ad", tmp_path / "dir", tmp_path / "root") == 0
    same = [line for line in capsys.readouterr().out.splitlines() if "s1.h5ad and s2.h5ad have the same" in line]
    assert len(same) == 1 and "counts" in same[0]


@needs_real
def test_real_sections_of_two_tissues(tmp_path, capsys):
    raw, config = tmp_path / "dir", load_config(ROOT / "configs/visium.yaml")
    raw.mkdir()

    def groups(**links) -> dict:
        for path in raw.iterdir():
            path.unlink()
        for name, source in links.items():
            (raw / name.replace("V10", "V10F24-078")).symlink_to(source)
        found = visium.list_layers(raw, config)
        return {name: list(one.raw.values()) for name, one in
                grouped(found, visium, raw, config, "step", ROOT / "configs/visium.yaml").items()}

    brain = {"V10_A1": BRAIN / "V10F24-078_A1", "V10_B1": BRAIN / "V10F24-078_B1"}
    lung = {"LungOrg_1": LUNG / "V19D02-088_A1", "LungOrg_2": LUNG / "V19D02-088_B1"}
    assert groups(**brain) == {"dir": ["V10F24-078_A1", "V10F24-078_B1"]}
    assert groups(**brain, **lung) == {"V10F24-078": ["V10F24-078_A1", "V10F24-078_B1"],
                                       "LungOrg": ["LungOrg_1", "LungOrg_2"]}
    with pytest.raises(DataError, match="two species"):
        groups(s1=BRAIN / "V10F24-078_A1", s2=LUNG / "V19D02-088_A1")
