"""HEST-1k as downloaded, the array of the spots held against the config, and the proposal of stacks."""
import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from h5ad_tables import PITCH_PX, lattice, run, table, write_hest
from hypothesis import given, settings, strategies as st

from common.config import load_config
from common.errors import DataError
from common.io import read_h5ad, read_location
from common.layout import Layout
from data_preprocessing import propose_hest_stacks
from data_preprocessing.hest_stacks import stacks_of
from data_preprocessing.readers import hest
from data_preprocessing.readers.spot_array import array_of, is_scattered, several_arrays

SAMPLES = {"breast": {"raw": {1: "SPA3", 2: "SPA2"}}}


def config(path: Path, samples: dict | None = SAMPLES, **changes) -> list[str]:
    values = {"dataset": "hest", "raw_format": "hest", "array": "square", "pitch_um": 200.0, "samples": samples}
    path.write_text(yaml.safe_dump(values | changes))
    return ["--config", str(path)]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for name in ("SPA3", "SPA2"):
        write_hest(tmp_path / "hest_data", name)
    return tmp_path / "hest_data"


# HEST-1k -------------------------------------------------------------------------------------------------
def test_ids_are_sections_with_slide_and_scale(raw, tmp_path, capsys):
    (raw / "st" / "._SPA2.h5ad").write_bytes(b"Mac OS X")
    assert run(raw, tmp_path / "root", *config(tmp_path / "c.yaml")) == 0
    layout = Layout(tmp_path / "root")
    one = load_config(layout.config).samples["breast"]
    assert one.raw == {1: "st/SPA3.h5ad", 2: "st/SPA2.h5ad"}
    assert one.pixel_size_um == pytest.approx({1: 8.0, 2: 8.0}, rel=1e-4)
    assert layout.image("breast", 1).resolve() == raw / "wsis/SPA3.tif"
    assert read_location(layout.location("breast", 2))["pixel_x"].max() == 9 * PITCH_PX
    assert read_h5ad(layout.counts("breast", 2)).shape == (72, 12)
    assert "pixel_size_um_embedded 0.2646 is not used" in capsys.readouterr().out
    assert set(hest.raw_files(raw, load_config(layout.config), "breast", 1)) == {"counts", "location", "image",
                                                                               "metadata"}


def test_several_ids_without_a_table_of_samples(raw, tmp_path, capsys):
    assert run(raw, tmp_path / "root", "--format", "hest") == 2
    assert "2 ids (SPA2, SPA3) and no samples" in capsys.readouterr().err
    assert run(raw, tmp_path / "root", "--format", "h5ad") == 2
    assert "--format hest" in capsys.readouterr().err
    samples = {"breast": {"raw": {1: "SPA4"}}}
    assert run(raw, tmp_path / "root", *config(tmp_path / "c.yaml", samples)) == 2
    assert "no SPA4 (samples.breast.raw.1); expected an id among SPA2, SPA3" in capsys.readouterr().err


def test_a_contradiction_of_the_scale_stops_that_section(raw, tmp_path):
    write_hest(raw, "SPA3", pixel_size_um_estimated=9.0)
    assert run(raw, tmp_path / "root", *config(tmp_path / "c.yaml")) == 0
    status = json.loads((tmp_path / "root/status.json").read_text())
    reason = status["breast/1"]["0_1_convert_raw"]
    assert "8 um/px by the spots of SPA3.h5ad" in reason and "9 um/px by pixel_size_um_estimated of SPA3.json" in reason
    assert status["breast/2"]["0_1_convert_raw"] == "ok"


def test_the_slide_is_compared_too(raw, tmp_path):
    write_hest(raw, "SPA3", um=4.0)
    assert run(raw, tmp_path / "root", *config(tmp_path / "c.yaml")) == 0
    status = json.loads((tmp_path / "root/status.json").read_text())
    assert "4 um/px by the metadata of SPA3.tif" in status["breast/1"]["0_1_convert_raw"]


@pytest.mark.parametrize("changes, expected", [
    ({"array": "hex", "pitch_um": 100.0}, ("square array", "200 um at 8 um/px", "array: square, pitch_um: 200")),
    ({"pitch_um": 100.0}, ("pitch_um: 100", "expected array: square, pitch_um: 200"))])
def test_array_and_pitch_are_held_against_the_config(raw, tmp_path, capsys, changes, expected):
    assert run(raw, tmp_path / "root", *config(tmp_path / "c.yaml", **changes)) == 2
    error = capsys.readouterr().err
    assert all(one in error for one in expected) and not (tmp_path / "root").exists()


@pytest.mark.parametrize("changes, expected", [
    ({"inter_spot_dist": 100.0}, "inter_spot_dist 100, but spots 200 um apart"), ({"id": "SPA7"}, "metadata of SPA7")])
def test_wrong_metadata_are_named_and_not_the_config(raw, tmp_path, changes, expected):
    write_hest(raw, "SPA3", **changes)
    assert run(raw, tmp_path / "root", *config(tmp_path / "c.yaml")) == 0
    assert expected in json.loads((tmp_path / "root/status.json").read_text())["breast/1"]["0_1_convert_raw"]


def test_an_id_is_one_section_and_the_table_of_all_ids_is_no_alarm(raw, tmp_path, capsys):
    (raw / "HEST_v1_1_0.csv").write_text("id\nSPA3\n")
    assert run(raw, tmp_path / "root", *config(tmp_path / "c.yaml")) == 0
    assert "HEST_v1_1_0.csv: the table of all ids" in capsys.readouterr().out
    samples = {"S": {"raw": {1: "SPA3", 2: "SPA3"}}}
    assert run(raw, tmp_path / "root2", *config(tmp_path / "c.yaml", samples)) == 2
    assert "SPA3 is there twice" in capsys.readouterr().err


def test_pooled_bins_are_taken_at_the_distance_they_have(raw, tmp_path, capsys):
    for name in ("SPA3", "SPA2"):
        write_hest(raw, name, um=5.12, st_technology="Visium HD", inter_spot_dist=2.0, pixel_size_um_estimated=5.12)
    assert run(raw, tmp_path / "root", *config(tmp_path / "c.yaml")) == 2
    assert "Visium HD 128 um apart" in capsys.readouterr().err
    assert run(raw, tmp_path / "root", *config(tmp_path / "c.yaml", pitch_um=128.0)) == 0
    assert "72 spots" in capsys.readouterr().out
    sizes = load_config(Layout(tmp_path / "root").config).samples["breast"].pixel_size_um
    assert sizes == pytest.approx({1: 5.12, 2: 5.12}, rel=1e-4)


def test_without_a_slide_the_small_image_is_used_at_its_scale(raw, tmp_path):
    (raw / "wsis/SPA3.tif").unlink()
    (raw / "st/SPA2.h5ad").unlink()
    assert run(raw, tmp_path / "root", *config(tmp_path / "c.yaml")) == 0
    layout = Layout(tmp_path / "root")
    assert load_config(layout.config).samples["breast"].pixel_size_um == pytest.approx({1: 16.0, 2: 8.0}, rel=1e-4)
    assert layout.image("breast", 2).resolve() == raw / "wsis/SPA2.tif" and not layout.counts("breast", 2).exists()


def test_an_image_only_section_is_not_made_denser_by_the_shipped_config(raw, tmp_path, capsys):
    (raw / "st/SPA2.h5ad").unlink()
    samples = {"S": {"raw": {1: "st/SPA3.h5ad"}, "images": {1: "wsis/SPA3.tif", 2: "wsis/SPA2.tif"}}}
    options = config(tmp_path / "c.yaml", samples, raw_format="h5ad", array="hex", pitch_um=100.0)
    assert run(raw, tmp_path / "root", *options) == 2
    assert "200 um at 8 um/px by the metadata of SPA3.tif" in capsys.readouterr().err


# the array ---------------------------------------------------------------------------------------------
@settings(max_examples=40, deadline=None)
@given(array=st.sampled_from(["hex", "square"]), angle=st.floats(0, 6.3), jitter=st.floats(0, 0.08),
       share=st.floats(0.5, 1), seed=st.integers(0, 99))
def test_the_array_is_found_turned_jittered_and_with_gaps(array, angle, jitter, share, seed):
    xy = lattice(array, columns=14, rows=12)[["x", "y"]].to_numpy()
    rng = np.random.default_rng(seed)
    xy = xy[rng.random(len(xy)) < share]
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    xy = xy @ turn + rng.normal(0, jitter * PITCH_PX, xy.shape)
    assert array_of(xy) == array and not several_arrays(xy) and not is_scattered(xy)


@pytest.mark.parametrize("angle", [0.0, 3.0, 25.0])
def test_two_arrays_are_seen_and_cells_are_none(angle):
    xy = lattice("hex", columns=16, rows=14)[["x", "y"]].to_numpy()
    turn = np.deg2rad(angle)
    other = xy @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) + [7, 4]
    assert several_arrays(np.vstack([xy, other]))
    cells = np.random.default_rng(0).random((900, 2)) * 400
    assert array_of(cells) is None and not several_arrays(cells)


def test_a_shipped_config_for_another_platform_is_refused(tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    table("square").write_h5ad(tmp_path / "raw/a.h5ad")
    assert run(tmp_path / "raw", tmp_path / "root", "--format", "h5ad") == 2
    assert "72 spots on a square array, 25 px apart, and a config with array: hex" in capsys.readouterr().err


# stacks ------------------------------------------------------------------------------------------------
HEAD = "dataset_title,id,patient,species,st_technology,tissue,subseries"
ROWS = """HER2,SPA134,Patient D,Homo sapiens,Spatial Transcriptomics,Breast,D3
HER2,SPA133,Patient D,Homo sapiens,Spatial Transcriptomics,Breast,D4
HER2,SPA130,Patient E,Homo sapiens,Spatial Transcriptomics,Breast,E1
Bulb,SPA6,,Mus musculus,Spatial Transcriptomics,Olfactory bulb,MOB Replicate 10
Bulb,SPA14,,Mus musculus,Spatial Transcriptomics,Olfactory bulb,MOB Replicate 2
Breast,SPA117,BC23287,Homo sapiens,Spatial Transcriptomics,Breast,BC23287_D1
Breast,SPA118,BC23287,Homo sapiens,Spatial Transcriptomics,Breast,BC23287_C2
Prostate,MEND9,,Homo sapiens,Spatial Transcriptomics,prostate,Patient2_Biopsy4_rep2_Chip3_E2
Prostate,MEND10,,Homo sapiens,Spatial Transcriptomics,prostate,Patient2_Biopsy4_rep1_Chip2_E1
Prostate,MEND11,,Homo sapiens,Spatial Transcriptomics,prostate,Patient2_Biopsy3_rep1_Chip2_E1
Skin,NCBI2,,Homo sapiens,Visium,Skin,"Patient 8 lesional, rep 2 [P16357_1026]"
Skin,NCBI1,,Homo sapiens,Visium,Skin,"Patient 8 lesional, rep 1 [P16357_1025]"
Colon,TENX156,Patient 1,Homo sapiens,Visium HD,Colon,"Visium HD, Sample P1 CRC"
Colon,TENX155,Patient 1,Homo sapiens,Visium HD,Colon,"Visium HD, Sample P2 CRC"
Mouse Brain Serial Section 2 (Anterior),TENX55,,Mus musculus,Visium,Brain,
Mouse Brain Serial Section 1 (Anterior),TENX21,,Mus musculus,Visium,Brain,
Mouse Brain Serial Section 1 (Posterior),TENX19,,Mus musculus,Visium,Brain,
"""


def test_stacks_of_the_forms_that_hest_has():
    rows = [dict(zip(HEAD.split(","), line, strict=True)) for line in csv.reader(ROWS.splitlines())]
    stacks = {tuple(stack.ids.items()): stack for stack in stacks_of(rows)}
    assert set(stacks) == {((3, "SPA134"), (4, "SPA133")), ((2, "SPA14"), (10, "SPA6")),
                           ((1, "SPA118"), (2, "SPA117")), ((1, "MEND10"), (2, "MEND9")),
                           ((1, "NCBI1"), (2, "NCBI2")), ((1, "TENX21"), (2, "TENX55"))}
    bulb, chip = stacks[(2, "SPA14"), (10, "SPA6")], stacks[(1, "SPA118"), (2, "SPA117")]
    assert any("other animals" in one for one in bulb.doubts) and any("no patient" in one for one in bulb.doubts)
    assert any("place on the chip" in one for one in chip.doubts)


def test_the_proposal_is_a_config_a_technology(tmp_path, capsys):
    (tmp_path / "HEST.csv").write_text(f"{HEAD}\n{ROWS}")
    command = ["--metadata", str(tmp_path / "HEST.csv"), "--output", str(tmp_path / "out")]
    assert propose_hest_stacks.main(command) == 0
    visium = load_config(tmp_path / "out/hest_visium.yaml")
    assert (visium.array, visium.pitch_um, visium.raw_format) == ("hex", 100.0, "hest")
    legacy = load_config(tmp_path / "out/hest_spatial_transcriptomics.yaml")
    assert legacy.samples["Patient_D"].raw == {3: "SPA134", 4: "SPA133"} and legacy.array == "square"
    assert "Uncertain" in (tmp_path / "out/hest_visium.yaml").read_text()
    assert "5 sections are in no stack" in capsys.readouterr().err
    assert propose_hest_stacks.main(command) == 2 and "a file of this name" in capsys.readouterr().err


def test_a_table_of_another_form(tmp_path):
    (tmp_path / "HEST.csv").write_text("id,name\n1,2\n")
    with pytest.raises(DataError, match="no column dataset_title.*there is id, name"):
        propose_hest_stacks.read_metadata(tmp_path / "HEST.csv")
