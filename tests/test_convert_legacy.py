"""Step 0_1 on legacy ST: every layout of names that is public, and the reason for each file that is not read."""
import json
import re

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from legacy_folders import (
    PITCH,
    aligned,
    array,
    check_section,
    counts_text,
    layers_of,
    names,
    picture,
    run,
    spots_text,
    values,
    write,
)

from common.config import SampleConfig, load_config
from common.io import read_h5ad, read_location
from common.layout import Layout
from data_preprocessing.readers import cscc, her2st, stahl, stnet

JPG = picture()
LAYOUTS = {  # format: files of the section; the sample, its layer
    "repository": ("her2st", ("ST-cnts/C2.tsv.gz", "ST-spotfiles/C2_selection.tsv", "ST-imgs/C/C2/51_HE.jpg"), "C", 2),
    "repository, packed": ("her2st", ("data/ST-cnts/C2.tsv", "data/ST-spotfiles/C2_selection.tsv.gz",
                                      "data/ST-imgs/C/C2/51_HE.jpg"), "C", 2),
    "Zenodo": ("her2st", ("count-matrices/A10.tsv.gz", "spot-selections/A10_selection.tsv.gz", "images/HE/A10.jpg"),
               "A", 10),
    "half": ("her2st", ("ST-cnts/C2.tsv.gz", "spot-selections/C2_selection.tsv.gz", "images/HE/C2.jpg"), "C", 2),
    "unpacked": ("her2st", ("count-matrices/C2.tsv", "spot-selection/C2_selection.tsv", "ST-imgs/C/C2/C2.png"),
                 "C", 2),
    "side by side": ("her2st", ("C2.tsv", "C2_selection.tsv", "HE_C2.jpg"), "C", 2),
    "cSCC": ("cscc", ("P2_ST_rep3_stdata.tsv", "spot_data-selection-P2_ST_rep3.tsv", "P2_ST_rep3.jpg"), "P2", 3),
    "cSCC of GEO": ("cscc", ("GSM4284316_P2_ST_rep1_stdata.tsv.gz", "GSM4284316_spot_data-selection-P2_ST_rep1.tsv.gz",
                             "GSM4284316_P2_ST_rep1.jpg.gz"), "P2", 1),
    "cSCC in folders": ("cscc", ("P10/P10_ST_rep2_stdata.tsv", "P10/spot_data-selection-P10_ST_rep2.tsv",
                                 "P10/P10_ST_rep2.jpg"), "P10", 2),
    "melanoma": ("cscc", ("Count_data/ST_mel1_rep2_counts.tsv", "spot_data-selection-ST_mel1_rep2.tsv",
                          "HE_ST_mel1_rep2.jpg"), "mel1", 2),
    "ST-Data": ("stnet", ("BC23209_C1_stdata.tsv.gz", "spots_BC23209_C1.tsv.gz", "HE_BC23209_C1.jpg"), "BC23209", 1),
    "ST-Data, Coords": ("stnet", ("BC23209_C1.tsv.gz", "BC23209_C1_Coords.tsv", "BC23209_C1.jpg"), "BC23209", 1),
    "ST-Data, csv": ("stnet", ("BC23209_C1_stdata.csv", "BC23209_C1.csv", "BC23209_C1.tif"), "BC23209", 1),
    "ST-Data, any name": ("stnet", ("BC2_C1_rep2.tsv", "BC2_C1_rep2.spots.txt", "HE_BC2_C1_rep2.jpg"), "BC2", 1),
    "ST-Data, dots": ("stnet", ("BC2_1.5um.tsv", "BC2_1.5um_selection.tsv", "BC2_1.5um.jpg"), "BC2", 1)}


@pytest.mark.parametrize("form, files, sample, layer", LAYOUTS.values(), ids=LAYOUTS)
def test_every_public_layout_is_read(tmp_path, form, files, sample, layer):
    counts, spots, image = (tmp_path / "raw" / file for file in files)
    write(counts, counts_text(separator="," if ".csv" in counts.name else "\t"))
    write(spots, spots_text(separator="," if ".csv" in spots.name else "\t"))
    content = picture(kind={".png": "PNG", ".tif": "TIFF"}.get(image.suffix, "JPEG"))
    write(image, content)
    write(image.with_name(f"._{image.name}"), b"of macOS")
    write(counts.with_name(f"._{counts.name}"), b"of macOS")
    assert run(tmp_path / "raw", tmp_path / "root", form) == 0
    assert layers_of(tmp_path / "root") == {sample: [layer]}
    check_section(tmp_path / "root", sample, layer)
    placed = Layout(tmp_path / "root").image(sample, layer)
    assert placed.read_bytes() == content and placed.suffix == (".jpg" if image.suffix == ".gz" else image.suffix)
    size = load_config(tmp_path / "root/dataset.yaml").samples[sample].pixel_size_um[layer]
    assert size == pytest.approx(200 / PITCH, rel=1e-3)


@pytest.mark.parametrize("image, sample, prefix", [
    ("HE_Rep5_MOB.jpg", "MOB", "Rep5_MOB"), ("HE_Rep5.jpg", "MOB", "Rep5_MOB"),
    ("HE_layer5_BC.jpg", "BC", "Layer5_BC")])
@pytest.mark.parametrize("word", ["transformation", "transformaton"])
def test_the_first_study_is_placed_by_its_transformation(tmp_path, image, sample, prefix, word):
    raw, rows = tmp_path / "raw", ["{:.2f}x{:.2f}".format(*one) for one in aligned()]
    write(raw / f"{prefix}_count_matrix-1.tsv", counts_text(rows))
    write(raw / f"{prefix}_{word}.txt", f"{PITCH} 0 0 0 {PITCH} 0 -{PITCH} -{PITCH} 1")
    write(raw / image, JPG)
    write(raw / "HE_Rep7.jpg", JPG)  # a section that is only photographed: its matrix states the scale
    write(raw / f"Rep7_MOB_{word}.txt", f"{PITCH / 2} 0 -9 0 {PITCH / 2} -9 0 0 1")
    assert run(raw, tmp_path / "root", "stahl") == 0
    expected = {sample: [5]} if sample == "BC" else {}
    expected["MOB"] = [7] if sample == "BC" else [5, 7]
    sizes = {}
    for one in load_config(tmp_path / "root/dataset.yaml").samples.values():
        sizes |= one.pixel_size_um
    by_matrix = {5: pytest.approx(200 / PITCH, rel=1e-5), 7: pytest.approx(400 / PITCH, rel=1e-5)}
    assert sizes == by_matrix, "the spots lie off their array"
    assert layers_of(tmp_path / "root") == expected
    layout = Layout(tmp_path / "root")
    location = read_location(layout.location(sample, 5))
    assert list(read_h5ad(layout.counts(sample, 5)).obs_names) == list(location["barcode"])
    np.testing.assert_allclose(location[["pixel_x", "pixel_y"]], (np.array(aligned()) - 1) * PITCH)
    np.testing.assert_array_equal(location[["i", "j"]], array())
    assert layout.image(sample, 5) and layout.image("MOB", 7)


def test_a_table_without_spots_and_transformation_names_what_is_there(tmp_path, capsys):
    write(tmp_path / "raw/Rep1_MOB_count_matrix-1.tsv", counts_text())
    write(tmp_path / "raw/Rep1_transformation.txt", "1 0 0 0 1 0 0 0 1")
    assert run(tmp_path / "raw", tmp_path / "root", "stahl") == 2
    line = capsys.readouterr().err.splitlines()[0]
    assert "MOB/1: left out" in line and "Rep1_MOB_transformation.txt" in line and "Rep1_transformation.txt" in line


def test_counts_of_aligned_positions_meet_the_spot_file(tmp_path, capsys):
    rows = ["{:.2f}x{:.2f}".format(*one) for one in aligned()]
    write(tmp_path / "raw/P2_ST_rep1_stdata.tsv", counts_text([*rows, "1.03x1.98"], counts=[*values(), [9, 9, 9]]))
    write(tmp_path / "raw/spot_data-selection-P2_ST_rep1.tsv", spots_text())
    write(tmp_path / "raw/P2_ST_rep1.jpg", JPG)
    assert run(tmp_path / "raw", tmp_path / "root", "cscc") == 0
    check_section(tmp_path / "root", "P2", 1)
    out = capsys.readouterr().out
    assert "aligned positions" in out and "dropped 1 counts without a spot" in out


def test_a_section_that_cannot_be_read_keeps_its_number(tmp_path, capsys):
    for k in (1, 2, 4):
        write(tmp_path / f"raw/P2_ST_rep{k}_stdata.tsv", counts_text() if k != 2 else "broken")
        write(tmp_path / f"raw/spot_data-selection-P2_ST_rep{k}.tsv", spots_text())
    write(tmp_path / "raw/P2_ST_rep3.jpg.gz", JPG)
    packed = tmp_path / "raw/P2_ST_rep4.jpg.gz"
    write(packed, JPG)
    packed.write_bytes(packed.read_bytes()[:-20])
    assert run(tmp_path / "raw", tmp_path / "root", "cscc", {"pixel_size_um": 200 / PITCH}) == 0
    assert layers_of(tmp_path / "root") == {"P2": [1, 2, 3, 4]}
    status = json.loads((tmp_path / "root/status.json").read_text())
    words = [status[f"P2/{k}"]["0_1_convert_raw"].split(":")[0] for k in (1, 2, 3, 4)]
    assert words == ["no image", "left out", "ok", "left out"]
    assert "P2_ST_rep4.jpg.gz: found a packed picture that cannot be unpacked" in capsys.readouterr().err
    assert not Layout(tmp_path / "root").image("P2", 4)


def test_a_packed_picture_without_a_scale_is_named_with_the_key_to_set(tmp_path, capsys):
    write(tmp_path / "raw/P2_ST_rep1.jpg.gz", JPG)
    assert run(tmp_path / "raw", tmp_path / "root", "cscc") == 2
    line = capsys.readouterr().err.splitlines()[0]
    assert "P2_ST_rep1.jpg.gz: found an image that states no pixel size" in line and "samples.P2.pixel_size_um" in line


def test_the_config_assigns_replicates_to_animals(tmp_path, capsys):
    for k in (1, 11):
        write(tmp_path / f"raw/Rep{k}_MOB_count_matrix-1.tsv", counts_text(names()))
        write(tmp_path / f"raw/Rep{k}_MOB_transformation.txt", f"{PITCH} 0 0 0 {PITCH} 0 0 0 1")
    write(tmp_path / "raw/HE_Rep1.jpg", JPG)
    write(tmp_path / "raw/HE_Rep2.jpg", JPG)
    assert run(tmp_path / "raw", tmp_path / "one", "stahl", {"pixel_size_um": 200 / PITCH}) == 0
    line = "3 sections of MOB are taken as one block; the replicates of the olfactory bulb are of several animals"
    assert line in capsys.readouterr().out and layers_of(tmp_path / "one") == {"MOB": [1, 2, 11]}
    samples = {"A": {"raw": {1: "Rep1_MOB_count_matrix-1.tsv", 2: "HE_Rep2.jpg"}},
               "E": {"raw": {1: "Rep11_MOB_count_matrix-1.tsv"}}}
    assert run(tmp_path / "raw", tmp_path / "root", "stahl", {"samples": samples, "pixel_size_um": 200 / PITCH}) == 0
    layout = Layout(tmp_path / "root")
    assert layers_of(tmp_path / "root") == {"A": [1, 2], "E": [1]} and "one block" not in capsys.readouterr().out
    check_section(tmp_path / "root", "A", 1)
    assert layout.image("A", 1) and layout.image("A", 2) and not layout.image("E", 1)


def test_several_files_of_one_kind_are_named(tmp_path, capsys):
    for section in ("C1", "C2"):
        write(tmp_path / f"raw/BC1_{section}.tsv", counts_text())
        write(tmp_path / f"raw/BC1_{section}.spots.txt", spots_text())
        write(tmp_path / f"raw/HE_BC1_{section}.jpg", JPG)
    write(tmp_path / "raw/BC1_C1.tif", picture(kind="TIFF"))
    write(tmp_path / "raw/copy/BC1_C2.tsv", counts_text())
    assert run(tmp_path / "raw", tmp_path / "root", "stnet") == 0, "the entry of raw decides between folders"
    error = capsys.readouterr().err
    assert "BC1/1: left out" in error and "BC1_C1.tif, HE_BC1_C1.jpg" in error and "BC1/2" not in error
    reasons = pd.read_csv(tmp_path / "root/not_taken.csv").set_index("path")["reason"].to_dict()
    assert reasons == {str(tmp_path / "raw/copy"): "BC1_C2.tsv of the same section is read"}, "one fault, one line"


def test_a_packed_twin_is_one_file(tmp_path):
    for end in (".tsv", ".tsv.gz"):
        write(tmp_path / f"raw/ST-cnts/C2{end}", counts_text())
        write(tmp_path / f"raw/ST-spotfiles/C2_selection{end}", spots_text())
    assert run(tmp_path / "raw", tmp_path / "root", "her2st") == 0
    check_section(tmp_path / "root", "C", 2)


def test_spots_of_another_size_of_the_image_are_named(tmp_path, capsys):
    for k, size in ((1, (300, 320)), (2, (600, 640))):
        write(tmp_path / f"raw/P2_ST_rep{k}_stdata.tsv", counts_text())
        write(tmp_path / f"raw/spot_data-selection-P2_ST_rep{k}.tsv", spots_text(first=f"0\t0\t{size[0]}\t{size[1]}"))
        write(tmp_path / f"raw/P2_ST_rep{k}.jpg", JPG)
    assert run(tmp_path / "raw", tmp_path / "root", "cscc") == 0
    error = capsys.readouterr().err
    assert "P2/2: left out" in error and "600 x 640" in error and "300 x 320" in error and "P2/1" not in error


@pytest.mark.parametrize("factor", [0.9, 0.6, 0.25])
def test_spots_on_a_smaller_copy_of_the_image_are_named(tmp_path, capsys, factor):
    width, height = 7 * PITCH + 15, 8 * PITCH + 15  # px; the last column and row are 7 and 8
    for section, scale in (("C1", 1), ("C2", factor)):
        write(tmp_path / f"raw/ST-cnts/{section}.tsv", counts_text())
        write(tmp_path / f"raw/ST-spotfiles/{section}_selection.tsv", spots_text())
        write(tmp_path / f"raw/ST-imgs/C/{section}/a.jpg", picture(round(width * scale), round(height * scale)))
    assert run(tmp_path / "raw", tmp_path / "root", "her2st") == 0
    error = capsys.readouterr().err
    size = f"a.jpg has {round(width * factor)} x {round(height * factor)} px"
    assert "C/2: left out" in error and "210 x 240" in error and size in error and "C/1" not in error


def test_a_few_spots_outside_the_image_are_counted(tmp_path, capsys):
    text = spots_text().replace("\t210.0\t240.0", "\t305.0\t240.0")
    write(tmp_path / "raw/P2_ST_rep1_stdata.tsv", counts_text())
    write(tmp_path / "raw/spot_data-selection-P2_ST_rep1.tsv", text)
    write(tmp_path / "raw/P2_ST_rep1.jpg", JPG)
    assert run(tmp_path / "raw", tmp_path / "root", "cscc") == 0
    assert "25 spots, 3 genes, image P2_ST_rep1.jpg, 1 spots outside the image" in capsys.readouterr().out


@pytest.mark.parametrize("file, form, found, fix", [
    ("P2_ST_rep1_stdata.tsv", "her2st", "P2_ST_rep1_stdata.tsv", "--format cscc"),
    ("P2_ST_rep1_stdata.tsv", "stnet", "P2_ST_rep1_stdata.tsv", "--format cscc"),
    ("Rep1_MOB_count_matrix-1.tsv", "stnet", "Rep1_MOB", "--format stahl"),
    ("count-matrices/C2.tsv.gz", "stahl", "C2.tsv.gz", "--format her2st"),
    ("BC23209_C1_stdata.tsv.gz", "cscc", "BC23209_C1", "--format stnet"),
    ("151507/151507_filtered_feature_bc_matrix.h5", "stnet", "151507", "--format visium"),
    ("151507/tissue_positions_list.txt", "her2st", "tissue_positions_list.txt", "--format visium"),
    ("a.h5ad", "her2st", "a.h5ad", "--format h5ad"),
    ("GSE144240_RAW.tar", "cscc", "GSE144240_RAW.tar", "unpack GSE144240_RAW.tar"),
    ("count-matrices.zip", "her2st", "count-matrices.zip", "unpack"),
    ("section one.tsv", "her2st", "section one.tsv", "letters and a number")])
def test_a_folder_of_another_form_is_refused_with_its_format(tmp_path, capsys, file, form, found, fix):
    write(tmp_path / "raw" / file, counts_text())
    assert run(tmp_path / "raw", tmp_path / "root", form) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and found in line and fix in line and line.count("\n") == 1
    assert not (tmp_path / "root").exists()


def test_a_folder_too_deep_is_named(tmp_path, capsys):
    write(tmp_path / "her2/ST-cnts/readme.md", "x")
    assert run(tmp_path / "her2/ST-cnts", tmp_path / "root", "her2st") == 2
    assert f"give the folder above, {tmp_path / 'her2'}" in capsys.readouterr().err


@pytest.mark.parametrize("reader, read, file, reason", [
    (her2st, "ST-cnts/C2.tsv", "ST-cnts/C2_rep2.tsv", "letters and a number"),
    (her2st, "ST-cnts/C2.tsv", "ST-imgs/C/C2x/a.jpg", "letters and a number"),
    (her2st, "ST-cnts/C2.tsv", "ST-cnts/C2.tsv.gz", "C2.tsv of the same section is read"),
    (her2st, "ST-cnts/C2.tsv", "P2_ST_rep1_stdata.tsv", "--format cscc"),
    (her2st, "ST-cnts/C2.tsv", "count-matrices.zip", "unpack"),
    (her2st, "ST-cnts/C2.tsv", "ST-pat/lbl/C2_labeled_coordinates.tsv", None),
    (cscc, "P2_ST_rep1_stdata.tsv", "P4_rep1_stdata.tsv", "<patient>_ST_rep<number>|--format stnet"),
    (cscc, "P2_ST_rep1_stdata.tsv", "GSM456_P4_rep1_tissue_positions_list.csv.gz", "--format visium"),
    (cscc, "P2_ST_rep1_stdata.tsv", "GSE144240_RAW.tar", "unpack"),
    (stahl, "Rep1_MOB_count_matrix-1.tsv", "Rep2_count_matrix-1.tsv", "Rep<number>_<sample>|--format"),
    (stahl, "Rep1_MOB_count_matrix-1.tsv", "Rep2_MOB_transformation.txt", "no counts, spots or picture"),
    (stnet, "BC1_C1.tsv", "gene_names_all.tsv", "the only file of this name"),
    (stnet, "BC1_C1.tsv", "metadata.csv", "<patient>_<section>"),
    (stnet, "BC1_C1.tsv", "a.h5ad", "--format h5ad")])
def test_the_reason_for_a_file_that_is_not_read(tmp_path, reader, read, file, reason):
    write(tmp_path / read, counts_text())
    path = write(tmp_path / file, "x")
    found = reader.why_not(tmp_path, path)
    assert found is None if reason is None else re.search(reason, found), found


def test_drawings_and_copies_are_no_pictures_of_a_section(tmp_path):
    for file in ("count-matrices/C2.tsv", "HE_BC1_C1.jpg"):
        write(tmp_path / "raw" / file, counts_text())
    for file in ("images/HE/C2.jpg", "images/annotation/C2.jpg", "D1.jpg", "HE_BC1_C1(1).jpg"):
        write(tmp_path / "raw" / file, JPG)
    config = load_config(ROOT / "configs/her2st.yaml")
    assert {name: one.layers for name, one in her2st.list_layers(tmp_path / "raw", config).items()} == {"C": [2]}
    files = her2st.raw_files(tmp_path / "raw", config.model_copy(update={"samples": {"C": SampleConfig()}}), "C", 2)
    assert files["image"] == tmp_path / "raw/images/HE/C2.jpg"
    assert {name: one.layers for name, one in stnet.list_layers(tmp_path / "raw", config).items()} == {"BC1": [1]}


def test_labels_of_a_tumour_and_a_transformation_give_way_to_spots(tmp_path):
    for file in ("BC1_C1.tsv", "BC1_C1.spots.txt"):
        write(tmp_path / file, counts_text() if file.endswith("tsv") else spots_text())
    labels = write(tmp_path / "BC1_C1_Coords.tsv", "\tx\ty\ttumor\n3x4\t3\t4\ttumor\n")
    matrix = write(tmp_path / "BC1_C1_transformation.txt", "1 0 0 0 1 0 0 0 1")
    for path in (labels, matrix):
        assert "BC1_C1.spots.txt of the same section is read" in stnet.why_not(tmp_path, path)


def test_linked_folders_are_read_and_a_root_inside_is_not(tmp_path):
    write(tmp_path / "disk/C2.tsv", counts_text())
    write(tmp_path / "raw/ST-spotfiles/C2_selection.tsv", spots_text())
    (tmp_path / "raw/ST-cnts").symlink_to(tmp_path / "disk")
    (tmp_path / "raw/loop").symlink_to(tmp_path / "raw")
    assert run(tmp_path / "raw", tmp_path / "raw/root", "her2st") == 0
    check_section(tmp_path / "raw/root", "C", 2)
    write(tmp_path / "raw/root/ST-cnts/C3.tsv", counts_text())
    assert run(tmp_path / "raw", tmp_path / "raw/root", "her2st") == 0
    assert layers_of(tmp_path / "raw/root") == {"C": [2]}
