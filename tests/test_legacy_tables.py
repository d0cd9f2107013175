"""The text tables of legacy ST in the forms that they have in public data."""
import re

import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import given, settings, strategies as st
from legacy_folders import GENES, PITCH, aligned, array, counts_text, names, spots_text, values, write
from PIL import Image

from common.errors import LayerError
from common.slide import open_slide
from data_preprocessing.readers.legacy_spots import (
    check_image,
    named_by_spots,
    picture_size_px,
    read_spots,
    read_transformation,
    spots_by_transformation,
)
from data_preprocessing.readers.legacy_tables import genes_of, read_counts, spot_name


def turned(separator: str = "\t") -> str:
    """The table with genes in its rows."""
    return counts_text(list(GENES), names(), separator, "gene", values().T)


AS_TEXT = {
    "plain": counts_text(),
    "X_Y": counts_text(names("{}_{}")),
    "commas": counts_text(separator=","),
    "semicolons": counts_text(separator=";"),
    "blanks": counts_text(separator=" ", corner="spot"),
    "Windows line ends": counts_text().replace("\n", "\r\n"),
    "byte-order mark": "\ufeff" + counts_text(corner="spot"),
    "quotes of R": counts_text([f'"{name}"' for name in names()], [f'"{gene}"' for gene in GENES], ","),
    "R writes no corner": counts_text().removeprefix("\t"),
    "floats": counts_text(counts=values().astype(float)),
    "whole floats as positions": counts_text(names("{}.0x{}.0")),
    "tabs at the ends of lines": counts_text().replace("\n", "\t\n"),
    "tabs at the ends of rows": counts_text().replace("\n", "\t\n").replace("\t\n", "\n", 1),
    "genes in rows": turned(),
    "genes in rows, commas": turned(","),
    "genes in rows by R": turned().replace("\t3x", "\tX3x")}


@pytest.mark.parametrize("text", AS_TEXT.values(), ids=AS_TEXT)
@pytest.mark.parametrize("end", ["tsv", "csv.gz"])
def test_every_form_of_a_table_gives_the_same_counts(tmp_path, text, end):
    found = read_counts(write(tmp_path / f"C1.{end}", text))
    assert list(found.table.obs_names) == names() and list(found.table.var_names) == list(GENES)
    np.testing.assert_array_equal(found.table.X.toarray(), values())
    np.testing.assert_array_equal(found.xy, array())
    assert found.table.X.format == "csr" and found.table.X.dtype == np.float32
    assert ("turned" in found.note) == text.startswith("gene"), "a turned table is named"


def test_the_content_states_whether_a_table_is_packed(tmp_path):
    packed, plain = write(tmp_path / "a.tsv.gz", counts_text()), write(tmp_path / "b.tsv", counts_text())
    for source, name in ((packed, "C1.tsv"), (plain, "C2.tsv.gz")):
        assert list(read_counts(source.rename(tmp_path / name)).table.obs_names) == names()


@pytest.mark.parametrize("text, found, fix", [
    (counts_text(counts=values() + 0.5), "1.5", "raw table"),
    (counts_text(counts=-values()), "-1", "raw table"),
    (counts_text([f"AAACAAGTATCTCCCA-{k}" for k in range(25)]), "AAACAAGTATCTCCCA-0", "--format visium"),
    (counts_text([f"5x{name}" for name in names()]), "5x3x4", "array position"),
    (counts_text(["3x4", *names()[:-1]]), "spot 3x4 twice", "remove one"),
    (counts_text(columns=GENES[:1]), "1 names", "copy it again"),
    ("", "found ", "copy it again"),
    ("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "git-lfs", "git lfs pull"),
    ("<!DOCTYPE html>\n<html><body>404</body></html>\n", "a web page", "download")],
    ids=["normalised", "negative", "Visium", "merged sections", "twice", "too few names", "empty", "lfs", "web page"])
def test_a_table_that_is_no_table_of_counts_is_refused(tmp_path, text, found, fix):
    with pytest.raises(LayerError) as error:
        read_counts(write(tmp_path / "C1.tsv", text))
    assert "C1.tsv" in str(error.value) and found in str(error.value) and fix in str(error.value)


@pytest.mark.parametrize("genes, expected, ids", [
    (["ENSG00000141510.11", "ENSMUSG00000000001", "ENSG00000002586.20_PAR_Y"], None,
     ["ENSG00000141510", "ENSMUSG00000000001", "ENSG00000002586"]),
    (["TP53 ENSG00000141510.11", "ENSA_ENSG00000143420", "ENSG00000111640|GAPDH"], ["TP53", "ENSA", "GAPDH"],
     ["ENSG00000141510", "ENSG00000143420", "ENSG00000111640"]),
    (["ENSG00000141510", "ENSG00000143420", "TP53"], None, ["ENSG00000141510", "ENSG00000143420", ""]),
    (["TP53", "ENSG00000143420", "ENSA"], None, None)])
def test_ensembl_ids_are_kept_beside_the_names(genes, expected, ids):
    assert genes_of(pd.Index(genes)) == (expected or genes, ids)


def test_gene_ids_stand_in_the_table(tmp_path):
    ids = [f"ENSG0000000000{k}.{k}" for k in range(3)]
    table = read_counts(write(tmp_path / "C1.tsv", counts_text(columns=ids))).table
    assert list(table.var_names) == list(table.var["gene_ids"]) == [name.split(".")[0] for name in ids]


@pytest.mark.parametrize("genes, expected", [
    (["GRCh38_TP53", "GRCh38_A1BG", "GRCh38_ACTB"], ["TP53", "A1BG", "ACTB"]),
    (["TP53", "TP53", "ACTB"], ["TP53", "TP53-1", "ACTB"]),
    (["A ENSG00000000001.2", "A ENSG00000000002.1", "B ENSG00000000003"], ["ENSG00000000001", "ENSG00000000002", "B"])])
def test_genes_are_named_as_in_other_forms(tmp_path, genes, expected):
    found = read_counts(write(tmp_path / "C1.tsv", counts_text(columns=genes))).table
    assert list(found.var_names) == expected
    np.testing.assert_array_equal(found.X.toarray(), values())


def test_genes_named_by_numbers_are_refused(tmp_path):
    with pytest.raises(LayerError, match=r"genes named by numbers \(0, 1, 2"):
        read_counts(write(tmp_path / "C1.tsv", counts_text(columns=["0", "1", "2"])))


SELECTED = ["1", "0"] * 12 + ["1"]
WORDS = {"1": {"1": "1", "0": "0"}, "1.0": {"1": "1.0", "0": "0.0"}, "TRUE": {"1": "TRUE", "0": "FALSE"},
         "True": {"1": "True", "0": "False"}}


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_words_for_selected(tmp_path, words):
    spots = read_spots(write(tmp_path / "s.tsv", spots_text([words[one] for one in SELECTED])))
    assert list(spots.location["barcode"]) == names()[::2] and spots.n_unselected == 12


SPOT_FILES = {
    "plain": spots_text(),
    "without header": spots_text(header=False),
    "without header, selected": spots_text(["1"] * 25, header=False),
    "commas": spots_text(separator=","),
    "Windows": "\ufeff" + spots_text().replace("\n", "\r\n"),
    "column selection": spots_text(["1"] * 25).replace("selected", "selection"),
    "a tab at the end of the header": spots_text().replace("pixel_y\n", "pixel_y\t\n"),
    "names of rows": "\n".join(f"{k}\t{line}" for k, line in enumerate(spots_text().splitlines())) + "\n",
    "names of rows by R": "\n".join(f"{k}\t{line}" if k else line for k, line in enumerate(spots_text().splitlines())),
    "names and X, Y, without header": "".join(f"{x}x{y},{x * PITCH},{y * PITCH}\n" for x, y in array()),
    "size of the image first": spots_text(first="0\t0\t300\t320"),
    "names and X, Y": ",X,Y\n" + "".join(f"{x}x{y},{x * PITCH},{y * PITCH}\n" for x, y in array())}


@pytest.mark.parametrize("text", SPOT_FILES.values(), ids=SPOT_FILES)
def test_every_form_of_a_spot_file_gives_the_same_spots(tmp_path, text):
    spots = read_spots(write(tmp_path / "s.tsv.gz", text))
    expected = pd.DataFrame({"barcode": names(), "pixel_x": [x * PITCH for x, _ in array()],
                             "pixel_y": [y * PITCH for _, y in array()],
                             "i": [x for x, _ in array()], "j": [y for _, y in array()]})
    pd.testing.assert_frame_equal(spots.location, expected)
    assert spots.image_px == ((300, 320) if text.startswith("0\t0") else None)
    assert (spots.aligned is None) == ("new_x" not in text and text.count("\t") == 0)


@pytest.mark.parametrize("text, found", [
    (spots_text(["maybe"] * 25), "maybe"), (spots_text(["0"] * 25), "none of 25 spots selected"),
    ("3\t4\t90\t120\n", "4 columns"),
    ("x\ty\tpixel_x\tpixel_y\tselected\n3\t4\t90\t120\n", "5 names"), ("x\ty\n3\t4\n", "pixel_x"),
    ("name,X,Y\n3x4,90,\n", "not a number"), ("x\ty\tpixel_x\tpixel_y\n", "no spot")])
def test_a_spot_file_without_positions_is_refused(tmp_path, text, found):
    with pytest.raises(LayerError, match=re.escape(found)):
        read_spots(write(tmp_path / "s.tsv", text))


@given(st.tuples(*[st.floats(-500, 500).map(lambda value: round(value, 3))] * 6))
@settings(max_examples=30, deadline=None)
def test_a_transformation_is_read_by_row_and_by_column(tmp_path_factory, six):
    a, b, c, d, tx, ty = six
    if abs(a * d - b * c) < 1:
        return
    folder = tmp_path_factory.mktemp("t")
    numbers = [a, b, 0, c, d, 0, tx, ty, 1]  # px = (column, row, 1) @ matrix, as on the study's site
    by_row = read_transformation(write(folder / "r.txt", " ".join(map(str, numbers))))
    by_column = np.array(numbers).reshape(3, 3).T
    lines = "\n".join("\t".join(map(str, line)) for line in by_column)
    np.testing.assert_allclose(by_row, [[a, b], [c, d], [tx, ty]])
    if tx or ty:
        np.testing.assert_allclose(read_transformation(write(folder / "c.txt", lines)), by_row)


@pytest.mark.parametrize("text", ["1 2 3", "1 0 0 0 1 0 5 5 2", "0 0 0 0 0 0 5 5 1", "a b c", ""])
def test_no_transformation_is_refused(tmp_path, text):
    with pytest.raises(LayerError, match=r"t\.txt"):
        read_transformation(write(tmp_path / "t.txt", text))


def test_a_transformation_places_aligned_positions_exactly(tmp_path):
    matrix = write(tmp_path / "t.txt", "290.5 -3 0 2.5 291 0 -280 -275 1\n")
    spots = spots_by_transformation(pd.Index(["16.92x9.015", "18x10", "total"]), matrix, tmp_path / "c.tsv")
    assert list(spots.location["barcode"]) == ["16.92x9.015", "18x10"]
    assert list(spots.location["i"]) == [17, 18] and list(spots.location["j"]) == [9, 10]
    expected = [[16.92 * 290.5 + 9.015 * 2.5 - 280, -3 * 16.92 + 9.015 * 291 - 275],
                [18 * 290.5 + 10 * 2.5 - 280, -3 * 18 + 10 * 291 - 275]]
    np.testing.assert_allclose(spots.location[["pixel_x", "pixel_y"]], expected)


def test_rows_of_aligned_positions_are_the_spots_of_these(tmp_path):
    spots = read_spots(write(tmp_path / "s.tsv", spots_text()))
    rows = pd.Index(["{:.2f}x{:.2f}".format(*one) for one in aligned()][::-1] + ["30.51x2.2"])
    xy = np.array([*aligned()[::-1], (30.51, 2.2)])
    assert list(named_by_spots(rows, xy, spots, tmp_path / "c.tsv")) == [*names()[::-1], "30.51x2.2"]


def test_rows_that_round_to_one_spot_are_refused(tmp_path):
    text = "x\ty\tpixel_x\tpixel_y\n3\t4\t90\t120\n4\t4\t120\t120\n"
    spots = read_spots(write(tmp_path / "s.tsv", text))
    rows = pd.Index(["2.98x4.01", "4.1x4", "3.7x4.2"])
    assert list(named_by_spots(rows[:2], np.array([(2.98, 4.01), (4.1, 4)]), spots, tmp_path)) == ["3x4", "4x4"]
    with pytest.raises(LayerError, match=r"4\.1x4 and 3\.7x4\.2"):
        named_by_spots(rows, np.array([(2.98, 4.01), (4.1, 4), (3.7, 4.2)]), spots, tmp_path)


@pytest.mark.parametrize("orientation, expected", [(1, (300, 320)), (6, (320, 300))])
def test_the_size_of_a_picture_follows_its_orientation(tmp_path, orientation, expected):
    exif = Image.Exif()
    exif[274] = orientation
    Image.new("RGB", (300, 320)).save(tmp_path / "a.jpg", exif=exif)
    packed = write(tmp_path / "b.jpg.gz", (tmp_path / "a.jpg").read_bytes())
    assert picture_size_px(tmp_path / "a.jpg") == picture_size_px(packed) == expected
    assert picture_size_px(write(tmp_path / "c.jpg", "no picture")) is None


def test_names_of_spots():
    assert [spot_name("10.0", "3"), spot_name("10.98", "11.02")] == ["10x3", "10.98x11.02"]


@pytest.mark.parametrize("options", [{}, {"tile": (64, 64)}, {"compression": "zstd"}])
@pytest.mark.parametrize("orientation, expected", [(1, (320, 256)), (8, (256, 320))])
def test_the_size_is_that_of_the_picture_that_is_read(tmp_path, options, orientation, expected):
    large, small = np.zeros((256, 320, 3), np.uint8), np.zeros((64, 80, 3), np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(small, photometric="rgb", metadata=None)
        tiff.write(large, photometric="rgb", metadata=None, extratags=[(274, "H", 1, orientation)], **options)
    assert picture_size_px(tmp_path / "a.tif") == open_slide(tmp_path / "a.tif").size_px == expected


def test_tables_of_excel(tmp_path):
    spots = write(tmp_path / "s.csv", spots_text(separator=";").replace(".", ","))
    np.testing.assert_array_equal(read_spots(spots).location[["i", "j"]], array())
    np.testing.assert_allclose(read_spots(spots).aligned, aligned(), atol=0.006)
    assert list(read_counts(write(tmp_path / "c.txt", counts_text().encode("utf-16"))).table.obs_names) == names()
    with pytest.raises(LayerError, match="spreadsheet"):
        read_counts(write(tmp_path / "d.tsv", b"PK\3\4" + bytes(40)))


def test_swapped_positions_are_named(tmp_path):
    Image.new("RGB", (40, 400)).save(tmp_path / "a.png")
    spots = read_spots(write(tmp_path / "s.tsv", "x\ty\tpixel_x\tpixel_y\n1\t1\t300\t20\n2\t1\t340\t20\n"))
    with pytest.raises(LayerError, match="exchange pixel_x and pixel_y"):
        check_image(spots, tmp_path / "s.tsv", tmp_path / "a.png")
