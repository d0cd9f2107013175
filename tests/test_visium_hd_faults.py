"""Step 0_1 on Visium HD folders of every layout, with sections that cannot be read, and with files that disagree."""
import gzip
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from visium_folders import add_folder
from visium_hd_folders import add_bins, add_section, bins, counts_of, has_pyarrow, own_config, run, status_of, write_h5

from common.config import load_config
from common.io import read_location
from common.layout import Layout
from data_preprocessing.readers import visium_hd

SQUARE, MATRIX = "outs/binned_outputs/square_008um", "filtered_feature_bc_matrix.h5"


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    return own_config(tmp_path / "c.yaml")


# layouts ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("outs, raw_path, sample, entry", [
    ("outs/binned_outputs", "block", "block", "s1"), ("binned_outputs", "block", "block", "s1"),
    ("outs", "block", "block", "s1"), ("", "block", "block", "s1"),
    ("outs/binned_outputs", "block/s1", "s1", "."), ("outs/binned_outputs", "block/s1/outs", "s1", "."),
    ("outs/binned_outputs", "block/s1/outs/binned_outputs", "s1", "."),
    ("outs/binned_outputs", f"block/s1/{SQUARE}", "s1", "."), ("outs/binned_outputs", ".", "raw", "block/s1")])
def test_every_layout_is_one_section(tmp_path, options, outs, raw_path, sample, entry):
    add_section(tmp_path / "raw/block/s1", outs=outs)
    (tmp_path / "raw/block/s1/outs/segmented_outputs").mkdir(parents=True)
    assert run(tmp_path / "raw" / raw_path, tmp_path / "root", *options) == 0
    assert load_config(tmp_path / "root/dataset.yaml").samples[sample].raw == {1: entry}
    assert status_of(tmp_path / "root") == {f"{sample}/1": "ok"}


def test_prefixed_and_renamed_folders(tmp_path, options):
    """GEO's names in one folder, and a copy of square_008um under the section's name; a section is named by a #part."""
    block = tmp_path / "block"
    for name in ("GSM2_square_008um", "GSM1_square_008um", "GSM1_square_016um"):
        um = int(name[-5:-2])
        add_bins(block / name, um, 320 // um, 288 // um)
    add_bins(block / "section_c")
    for name in ("scalefactors_json.json", "tissue_positions.csv", "tissue_hires_image.png"):  # all beside the counts
        (block / "GSM2_square_008um/spatial" / name).rename(block / f"GSM2_square_008um/GSM2_{name}")
    (block / "GSM2_square_008um/filtered_feature_bc_matrix.h5").rename(
        block / "GSM2_square_008um/GSM2_filtered_feature_bc_matrix.h5")
    for hidden in ("._section_c", ".cache"):
        shutil.copytree(block / "section_c", block / hidden)
    (block / "GSM2_square_008um/spatial/._tissue_positions.parquet").write_bytes(b"mac")
    assert run(block, tmp_path / "root", *options) == 0
    listed = load_config(tmp_path / "root/dataset.yaml").samples
    assert {name: one.raw for name, one in listed.items()} == {"GSM": {1: ".#GSM1", 2: ".#GSM2"},
                                                               "section_c": {1: "section_c"}}
    assert set(status_of(tmp_path / "root").values()) == {"ok"}
    own = own_config(tmp_path / "d.yaml", samples={"x": {"raw": {4: ".#GSM2", 7: "section_c"}}})
    assert run(block, tmp_path / "mapped", *own) == 0
    assert status_of(tmp_path / "mapped") == {"x/4": "ok", "x/7": "ok"}


def test_the_files_of_several_sections_in_one_folder(tmp_path, options, capsys):
    """As GEO keeps them: a prefix a section, packed by gzip, the picture too."""
    block = tmp_path / "block"
    block.mkdir()
    for name, rows in (("GSM2_B", 40), ("GSM1_A", 32)):
        add_bins(tmp_path / name, rows=rows)
        (tmp_path / name / "filtered_feature_bc_matrix.h5").rename(block / f"{name}_filtered_feature_bc_matrix.h5")
        for path in (tmp_path / name / "spatial").iterdir():
            (block / f"{name}_{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert run(block, tmp_path / "root", *options) == 0
    config = load_config(tmp_path / "root/dataset.yaml")
    assert config.samples["block"].raw == {1: ".#GSM1_A", 2: ".#GSM2_B"}
    assert set(status_of(tmp_path / "root").values()) == {"ok"}
    assert config.samples["block"].pixel_size_um == {1: 2.0, 2: 2.0}  # positions of the hires image, unpacked
    image = Layout(tmp_path / "root").image("block", 2)
    assert image.suffix == ".png" and Image.open(image).size == (220, 200)
    assert "not taken" not in capsys.readouterr().out
    n_spots = [len(read_location(Layout(tmp_path / "root").location("block", k))) for k in (1, 2)]
    assert n_spots == [40, 56]


def test_the_reader_of_visium_names_this_one(tmp_path, capsys):
    raw = add_section(tmp_path / "block/s1", (8,))
    for path in (tmp_path / "block", raw, raw / "outs", raw / SQUARE):
        assert run(path, tmp_path / "root", form="visium") == 2
        assert "--format visium_hd" in capsys.readouterr().err


def test_a_section_without_bins_keeps_its_place(tmp_path, options, capsys):
    block = tmp_path / "block"
    add_section(block / "s1")
    add_folder(block / "s2")  # Visium
    (block / "s3/outs/segmented_outputs").mkdir(parents=True)
    (block / "s4/outs/binned_outputs").mkdir(parents=True)
    with tarfile.open(block / "s5_binned_outputs.tar.gz", "w:gz") as packed:
        packed.add(block / "s1/outs", "outs")
    add_section(block / "s10")
    assert run(block, tmp_path / "root", *options) == 0
    status = status_of(tmp_path / "root")
    assert [status[f"block/{k}"].partition(":")[0] for k in range(1, 7)] == ["ok", *["left out"] * 4, "ok"]
    assert load_config(tmp_path / "root/dataset.yaml").samples["block"].raw[6] == "s10"
    facts = {2: "--format visium", 3: "segmented_outputs", 4: "binned_outputs", 5: f"-C {block}/s5"}
    assert all(fact in status[f"block/{k}"] for k, fact in facts.items())
    assert capsys.readouterr().err.count("\n") == 4


@pytest.mark.parametrize("name, fact", [("visium", "--format visium"), ("cells", "segmented_outputs"),
                                        ("packed", "X_binned_outputs.tar.gz -C "), ("other", "notes.txt")])
@pytest.mark.parametrize("level", ["", "s1"])
def test_a_folder_of_another_kind_ends_the_run(tmp_path, capsys, name, fact, level):
    folder = tmp_path / "raw" / level
    folder.mkdir(parents=True)
    if name == "visium":
        shutil.rmtree(folder)
        add_folder(folder)
    elif name == "cells":
        (folder / "outs/segmented_outputs").mkdir(parents=True)
    elif name == "packed":
        (folder / "X_binned_outputs.tar.gz").write_bytes(b"")
    else:
        (tmp_path / "raw/notes.txt").write_text("")
    assert run(tmp_path / "raw", tmp_path / "root") == 2
    error = capsys.readouterr().err
    assert fact in error and "binned_outputs" in error and error.count("\n") == 1
    assert not (tmp_path / "root").exists()


def test_an_archive_beside_its_folder_is_named_as_such(tmp_path):
    raw = add_section(tmp_path / "block/s1", (8,)).parent
    for archive in (raw / "s1_binned_outputs.tar.gz", raw / "s1/outs/X_binned_outputs.tar.gz"):
        assert "is there" in visium_hd.why_not(raw, archive) and "tar xf" not in visium_hd.why_not(raw, archive)
    assert "tar xf" in visium_hd.why_not(raw, raw / "s2_binned_outputs.tar.gz")


def test_what_is_not_read_has_a_reason(tmp_path):
    raw = add_section(tmp_path / "s1", (2, 8))
    for name, fact in {"segmented_outputs": "cells", "feature_slice.h5": "image", "X_feature_slice.h5": "image",
                       "square_002um": "bin_um", "X_tissue_image.btf": "images", "molecule_info.h5": "molecules",
                       "X_binned_outputs.tar.gz": "packed", "raw_feature_bc_matrix.h5": "filtered"}.items():
        assert fact in visium_hd.why_not(raw, raw / "outs" / name)
    assert visium_hd.why_not(raw, raw / "outs/notes.txt") is None
    config = load_config(Path(own_config(tmp_path / "c.yaml", samples={"s": {"raw": {1: "."}}})[1]))
    read = visium_hd.raw_files(raw, config, "s", 1)
    folder = raw / SQUARE
    assert read == {"counts": folder / MATRIX,
                    "location": folder / "spatial/tissue_positions.csv",
                    "scalefactors": folder / "spatial/scalefactors_json.json",
                    "image": folder / "spatial/tissue_hires_image.png"}


# files -----------------------------------------------------------------------------------------------
def other_size(folder: Path) -> None:
    write_scales(folder, bin_size_um=16.0)


def other_scale(folder: Path) -> None:
    write_scales(folder, microns_per_pixel=0.25)


def write_scales(folder: Path, **changes) -> None:
    path = folder / "spatial/scalefactors_json.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def positions_of_16_um(folder: Path) -> None:
    bins(16, 20, 18).to_csv(folder / "spatial/tissue_positions.csv", index=False)


def counts_of_another_section(folder: Path) -> None:
    table = bins(8, 40, 36)
    inside = table[::3]  # on and off tissue
    write_h5(folder / MATRIX, list(inside["barcode"]), counts_of(inside, 8))


def other_barcodes(folder: Path) -> None:
    write_h5(folder / MATRIX, ["AAAC-1"], np.ones((1, 3)))


def no_tissue(folder: Path) -> None:
    bins(8, 40, 36).assign(in_tissue=0).to_csv(folder / "spatial/tissue_positions.csv", index=False)


def shuffled(folder: Path) -> None:
    table = bins(8, 40, 36)
    pixels = ["pxl_row_in_fullres", "pxl_col_in_fullres"]
    table[pixels] = np.random.default_rng(0).permutation(table[pixels].to_numpy())
    table.to_csv(folder / "spatial/tissue_positions.csv", index=False)


def broken_parquet(folder: Path) -> None:
    (folder / "spatial/tissue_positions.parquet").write_bytes(b"PAR1" + bytes(64) + b"PAR1")


FAULTS = [
    (other_size, ["8 um by the folder's name", "16 um by scalefactors_json.json"]),
    (other_scale, ["0.25 um/px by microns_per_pixel", "0.5 um/px by the bins of tissue_positions.csv"]),
    (positions_of_16_um, ["bins of 16 um", "s_016um_00000_00000-1", "bins of 8 um"]),
    (counts_of_another_section, ["off tissue by in_tissue of tissue_positions.csv", "one section"]),
    (other_barcodes, ["no barcode of tissue_positions.csv", "s_008um_00000_00000-1", "AAAC-1"]),
    (no_tissue, ["no bin with in_tissue 1"]),
    (shuffled, ["grid of the chip"]),
    (broken_parquet, ["tissue_positions.parquet", "parquet"]),
    (lambda folder: (folder / MATRIX).unlink(), ["no counts", MATRIX]),
    (lambda folder: (folder / MATRIX).write_bytes(b"no"), ["cannot be read", "copy it again"]),
    (lambda folder: (folder / "spatial/tissue_positions.csv").unlink(), ["no positions", "tissue_positions.parquet"]),
    (lambda folder: write_scales(folder, tissue_hires_scalef=0), ["tissue_hires_scalef", "tissue_hires_image.png"])]


@pytest.mark.parametrize("spoil, facts", FAULTS)
def test_one_bad_section_is_left_out(tmp_path, options, capsys, spoil, facts):
    for name in ("s1", "s2"):
        add_section(tmp_path / "block" / name, (8,))
    spoil(tmp_path / "block/s1" / SQUARE)
    assert run(tmp_path / "block", tmp_path / "root", *options) == 0
    status, error = status_of(tmp_path / "root"), capsys.readouterr().err
    assert status["block/1"].startswith("left out: ") and status["block/2"] == "ok"
    assert all(fact in status["block/1"] for fact in facts) and error.count("\n") == 1
    assert status["block/1"].count("fix:") == 1


def test_two_sections_under_one_entry_are_named(tmp_path, capsys):
    for name in ("s1", "s2"):
        add_section(tmp_path / "block/p" / name, (8,))
    own = own_config(tmp_path / "c.yaml", samples={"x": {"raw": {1: "p"}}})
    assert run(tmp_path / "block", tmp_path / "root", *own) == 2
    error = capsys.readouterr().err
    assert "s1" in error and "s2" in error and "several sections" in error


@pytest.mark.skipif(not has_pyarrow(), reason="no pyarrow")
def test_a_table_made_at_home_does_not_replace_the_parquet_file(tmp_path, options):
    add_bins(tmp_path / "one/square_008um", form="parquet")
    (tmp_path / "one/square_008um/spatial/tissue_positions.csv").write_text("barcode\nx\n")
    assert run(tmp_path / "one", tmp_path / "root", *options) == 0
    assert yaml.safe_load((tmp_path / "root/status.json").read_text())["one/1"]["0_1_convert_raw"] == "ok"
