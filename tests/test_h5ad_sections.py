"""Several sections in one AnnData file: split, each with its own image, or refused; never merged."""
import json
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from h5ad_tables import library, picture, run, table

from common.config import load_config
from common.io import read_h5ad, read_location, read_picture
from common.layout import Layout
from data_preprocessing.readers import h5ad

RED, BLUE = (220, 40, 60), (40, 60, 220)


def block(column: str = "library_id", unique: str | None = "-", uns: str | None = "unique") -> anndata.AnnData:
    """Two sections of 72 and 63 spots, the second shifted by (7, 4) px."""
    first, second = table(seed=0), table(seed=1, columns=7, rows=9)
    second.obsm["spatial"] = second.obsm["spatial"] + [7, 4]
    first.uns["spatial"] = {"V1_A": library(picture(RED))}
    second.uns["spatial"] = {"V1_B": library(picture(BLUE))}
    return anndata.concat({"V1_A": first, "V1_B": second}, label=column, index_unique=unique, uns_merge=uns)


def written(folder: Path, adata: anndata.AnnData, name: str = "block.h5ad") -> Path:
    folder.mkdir(exist_ok=True)
    adata.write_h5ad(folder / name)
    return folder


@pytest.mark.parametrize("column, unique", [("library_id", "-"), ("batch", None), ("sample", "-")])
@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_each_section_is_a_layer_with_its_own_image(tmp_path, column, unique):
    raw = written(tmp_path / "raw", block(column, unique))
    assert run(raw, tmp_path / "root", "--format", "h5ad") == 0
    layout = Layout(tmp_path / "root")
    one = load_config(layout.config).samples["raw"]
    assert one.raw == {1: "block.h5ad#V1_A", 2: "block.h5ad#V1_B"}
    assert one.pixel_size_um == pytest.approx({1: 8.0, 2: 8.0}, rel=1e-4)  # 100 um are 12.5 px of hires
    assert [len(read_location(layout.location("raw", layer))) for layer in (1, 2)] == [72, 63]
    assert read_picture(layout.image("raw", 1))[100, 100].tolist() == list(RED)
    assert read_picture(layout.image("raw", 2))[100, 100].tolist() == list(BLUE)
    counts = table(seed=1, columns=7, rows=9).X.toarray()
    np.testing.assert_array_equal(read_h5ad(layout.counts("raw", 2)).X.toarray(), counts)


def test_one_image_of_two_sections_is_named_and_not_taken(tmp_path, capsys):
    raw = written(tmp_path / "raw", block(uns=None))
    (raw / "block.jpg").write_bytes(b"")
    assert run(raw, tmp_path / "root", "--format", "h5ad") == 0
    assert capsys.readouterr().out.count("block.jpg: one image beside a table of 2 sections") == 1
    assert Layout(tmp_path / "root").image("raw", 1) is None
    assert "2 sections" in h5ad.why_not(raw, raw / "block.jpg")


def test_a_part_takes_the_image_of_its_name(tmp_path):
    from PIL import Image
    raw = written(tmp_path / "raw", block(uns=None))
    for name, colour in (("V1_A.png", RED), ("block_V1_B.png", BLUE)):
        Image.fromarray(picture(colour)).save(raw / name)
    assert run(raw, tmp_path / "root", "--format", "h5ad") == 0
    layout = Layout(tmp_path / "root")
    assert read_picture(layout.image("raw", 2))[100, 100].tolist() == list(BLUE)
    assert load_config(layout.config).samples["raw"].pixel_size_um == pytest.approx({1: 4.0, 2: 4.0}, rel=1e-4)


def test_sections_that_no_column_names_are_refused_and_keep_their_number(tmp_path):
    merged = block()
    merged.obs = merged.obs.drop(columns="library_id")
    raw = written(tmp_path / "raw", merged, "a.h5ad")
    table().write_h5ad(raw / "b.h5ad")
    assert run(raw, tmp_path / "root", "--format", "h5ad") == 0
    status = json.loads((tmp_path / "root/status.json").read_text())
    assert "barcodes more than once" in status["raw/1"]["0_1_convert_raw"]
    assert status["raw/2"]["0_1_convert_raw"] == "no image"


def test_arrays_over_each_other_are_found_by_their_positions_alone(tmp_path, capsys):
    merged = block(uns=None)
    merged.obs = pd.DataFrame(index=[f"spot{k}" for k in range(merged.n_obs)])
    assert run(written(tmp_path / "raw", merged), tmp_path / "root", "--format", "h5ad") == 2
    assert "arrays of several sections over each other" in capsys.readouterr().err


def test_a_section_cut_from_a_block_keeps_its_own_library(tmp_path):
    merged = block()
    raw = written(tmp_path / "raw", merged[merged.obs["library_id"] == "V1_B"].copy())
    assert run(raw, tmp_path / "root", "--format", "h5ad") == 0
    layout = Layout(tmp_path / "root")
    assert len(read_location(layout.location("raw", 1))) == 63
    assert read_picture(layout.image("raw", 1))[100, 100].tolist() == list(BLUE)


def test_batches_of_one_array_are_one_section_and_said(tmp_path, capsys):
    adata = table()
    adata.obs["batch"] = ["left" if column < 9 else "right" for column in adata.obs["array_col"]]
    assert run(written(tmp_path / "raw", adata), tmp_path / "root", "--format", "h5ad") == 0
    lines = capsys.readouterr().out
    assert "72 spots" in lines and "obs['batch'] has 2 values (left, right): read as one section" in lines


def test_an_entry_must_name_one_of_several_sections(tmp_path, capsys):
    raw = written(tmp_path / "raw", block())
    config = tmp_path / "c.yaml"
    for entry, expected in (("block.h5ad", "2 sections (V1_A, V1_B)"), ("block.h5ad#C", "no C")):
        config.write_text(f"dataset: d\nraw_format: h5ad\narray: hex\npitch_um: 100\n"
                          f"samples: {{S: {{raw: {{1: '{entry}'}}}}}}\n")
        assert run(raw, tmp_path / "root", "--config", str(config)) == 2
        error = capsys.readouterr().err
        assert expected in error and "block.h5ad#V1_A" in error


@pytest.mark.parametrize("name, place", [("P1/S1", "uns/spatial/P1/S1"), ("", "uns/spatial")])
def test_libraries_with_slashes_and_of_old_files(tmp_path, name, place):
    adata = table()
    adata.uns["spatial"] = library(picture(RED)) if not name else {"P1": {"S1": library(picture(RED))}}
    raw = written(tmp_path / "raw", adata)
    with h5py.File(raw / "block.h5ad") as file:
        assert f"{place}/images/hires" in file
    assert run(raw, tmp_path / "root", "--format", "h5ad") == 0
    assert read_picture(Layout(tmp_path / "root").image("raw", 1))[100, 100].tolist() == list(RED)
