"""Step 0_1 on Visium sections as labs and archives store them: each is read as it was meant, in its place in z."""
import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from visium_folders import (
    HIRES,
    add_folder,
    array_spots,
    files_below,
    move_up,
    on_tissue,
    own_config,
    pack,
    run,
    status_of,
    two_sections,
    with_prefix,
    write_matrix,
    write_mex,
)

from common.config import load_config
from common.io import read_h5ad, read_location
from common.layout import Layout
from data_preprocessing.readers import visium

MATRIX = "filtered_feature_bc_matrix.h5"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return two_sections(tmp_path / "block7")


def demand_section(root: Path, layer: int = 1, sample: str = "block7") -> None:
    """The section is that of visium_folders.add_folder: spots, counts, ids, scale, image."""
    layout, spots = Layout(root), array_spots().query("in_tissue == 1")
    location, counts = read_location(layout.location(sample, layer)), read_h5ad(layout.counts(sample, layer))
    assert list(location["barcode"]) == list(counts.obs_names) == list(spots["barcode"])
    np.testing.assert_allclose(location["pixel_x"], spots["pxl_col_in_fullres"] * HIRES)
    np.testing.assert_array_equal(counts.X.toarray(), 10 * np.arange(15)[::-1, None] + np.arange(3))
    assert counts.var["gene_ids"].tolist() == ["ENS0", "ENS1", "ENS2"]
    assert load_config(layout.config).samples[sample].pixel_size_um[layer] == pytest.approx(4, rel=1e-5)
    assert Image.open(layout.image(sample, layer)).size == (300, 200)


def entries(root: Path) -> dict[int, str]:
    (one,) = yaml.safe_load((root / "dataset.yaml").read_text())["samples"].values()
    return one["raw"]


# forms of one section --------------------------------------------------------------------------------
def geo(folder: Path) -> None:
    with_prefix(folder, "GSM6001_A_s1_")


def geo_packed(folder: Path) -> None:
    geo(folder)
    pack(folder)


def geo_flat(folder: Path) -> None:
    geo_packed(folder)
    move_up(folder, folder)


def dlpfc(folder: Path) -> None:
    (folder / MATRIX).rename(folder / f"151507_{MATRIX}")
    (folder / "spatial/tissue_positions_list.csv").rename(folder / "spatial/151507_tissue_positions_list.txt")
    move_up(folder / "spatial", folder)


def two_prefixes(folder: Path) -> None:
    """The counts with the number of the sample on GEO, the rest without."""
    with_prefix(folder / "spatial", "A_s1_")
    (folder / MATRIX).rename(folder / f"GSM6001_A_s1_{MATRIX}")


def named_spatial(folder: Path) -> None:
    (folder / "spatial").rename(folder / "GSM6001_A_spatial")
    (folder / MATRIX).rename(folder / f"GSM6001_A_{MATRIX}")


def mex(folder: Path) -> None:
    (folder / MATRIX).unlink()
    write_mex(folder / "filtered_feature_bc_matrix", on_tissue())


def mex_flat(folder: Path) -> None:
    (folder / MATRIX).unlink()
    write_mex(folder, on_tissue(), "GSM6001_A_s1_filtered_", packed=False)


def raw_mex(folder: Path) -> None:
    (folder / MATRIX).unlink()
    off = [one for one in array_spots()["barcode"] if one not in on_tissue()]
    write_mex(folder / "raw_feature_bc_matrix", on_tissue() + off)


def raw_h5(folder: Path) -> None:
    (folder / MATRIX).unlink()
    off = [one for one in array_spots()["barcode"] if one not in on_tissue()]
    write_matrix(folder / "raw_feature_bc_matrix.h5", on_tissue() + off)


def both_matrices(folder: Path) -> None:
    raw_h5(folder)
    write_mex(folder / "filtered_feature_bc_matrix", on_tissue())


def hidden_files(folder: Path) -> None:
    for path in files_below(folder):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\26\7")


def cytassist(folder: Path) -> None:
    for name in ("cytassist_image.tiff", "detected_tissue_image.jpg", "aligned_fiducials.jpg"):
        Image.new("RGB", (30, 20)).save(folder / "spatial" / name)


def wrapped(folder: Path) -> None:
    """An archive unpacked into a folder of its own name."""
    inside = folder / "section2"
    shutil.copytree(folder, folder.with_name("copy"))
    shutil.rmtree(folder)
    folder.mkdir()
    shutil.move(folder.with_name("copy"), inside)


@pytest.mark.parametrize("form", [geo, geo_packed, geo_flat, dlpfc, two_prefixes, named_spatial, mex, mex_flat, raw_mex,
                                  raw_h5, both_matrices, hidden_files, cytassist, wrapped])
def test_a_section_of_every_form_is_the_same(raw, tmp_path, capsys, form):
    form(raw / "section2")
    assert run(raw, tmp_path / "root") == 0 and set(status_of(tmp_path / "root").values()) == {"ok"}
    demand_section(tmp_path / "root", 1)
    demand_section(tmp_path / "root", 2)
    line = next(one for one in capsys.readouterr().out.splitlines() if "block7/1:" in one)
    assert "5 off tissue" in line and "1 features of type Antibody Capture" in line
    assert ("raw_feature_bc_matrix" in line or "matrix.mtx.gz" in line) == (form in (raw_mex, raw_h5))


@pytest.mark.parametrize("packed", [True, False])
def test_sections_of_one_folder_by_their_prefixes(raw, tmp_path, packed):
    for name in ("section2", "section10"):
        with_prefix(raw / name, f"GSM{name[-1]}_{name}_")
        (picture,) = raw.glob(f"{name}/**/*hires_image.png")
        picture.rename(picture.with_name(picture.name.replace("tissue_", "HE_tissue_")))
        if packed:
            pack(raw / name)
        move_up(raw / name, raw)
    assert run(raw, tmp_path / "root") == 0
    assert entries(tmp_path / "root") == {1: ".#GSM0_section10", 2: ".#GSM2_section2"}
    demand_section(tmp_path / "root", 1)
    demand_section(tmp_path / "root", 2)


def test_a_name_of_one_section_is_not_joined_to_another(tmp_path):
    """Barcodes are the same on every slide: counts of one section would fit the positions of another."""
    raw = tmp_path / "block7"
    add_folder(raw)
    with_prefix(raw / "spatial", "s2_")
    (raw / MATRIX).rename(raw / f"s1_{MATRIX}")
    assert run(raw, tmp_path / "root") == 2
    status = status_of(tmp_path / "root")
    assert "no spot positions" in status["block7/1"] and "expected s1_tissue_positions" in status["block7/1"]
    assert f"s2_{MATRIX}" in status["block7/2"]


# what is not read keeps its number -------------------------------------------------------------------
def counts_gone(folder: Path) -> None:
    (folder / MATRIX).unlink()


def cut_off(folder: Path) -> None:
    pack(folder)
    path = folder / f"{MATRIX}.gz"
    path.write_bytes(path.read_bytes()[:500])


def mex_without_features(folder: Path) -> None:
    mex(folder)
    (folder / "filtered_feature_bc_matrix/features.tsv.gz").unlink()


def packed_spatial(folder: Path) -> None:
    shutil.make_archive(str(folder / "V1_spatial"), "gztar", folder, "spatial")
    shutil.rmtree(folder / "spatial")


def visium_hd(folder: Path) -> None:
    shutil.rmtree(folder)
    add_folder(folder / "outs/binned_outputs/square_008um")


def packed_image_cut_off(folder: Path) -> None:
    path = folder / "spatial/tissue_hires_image.png"
    path.write_bytes(np.random.default_rng(0).integers(0, 255, 5000, np.uint8).tobytes())
    pack(path.parent)
    path = path.with_name(path.name + ".gz")
    path.write_bytes(path.read_bytes()[:2500])


def other_picture(folder: Path) -> None:
    Image.new("RGB", (60, 40)).save(folder / "spatial/tissue_hires_image.png")


@pytest.mark.parametrize("damage, facts", [
    (counts_gone, (MATRIX, "no file; there are spatial/")), (cut_off, (f"{MATRIX}.gz", "cannot be read")),
    (mex_without_features, ("no features among barcodes.tsv.gz, matrix.mtx.gz",)),
    (packed_spatial, ("V1_spatial.tar.gz", "packed", "fix: tar xf ", "/section10 ")),
    (visium_hd, ("binned_outputs", "--format visium_hd")),
    (packed_image_cut_off, ("tissue_hires_image.png.gz", "cannot be unpacked")),
    (other_picture, ("15 of 15 spots outside its 60 x 40 px", "tissue_hires_image.png"))])
def test_a_section_that_cannot_be_read_keeps_its_place(tmp_path, damage, facts):
    raw, root = tmp_path / "block7", tmp_path / "root"
    for number in (2, 10, 11):
        add_folder(raw / f"section{number}")
    damage(raw / "section10")
    assert run(raw, root) == 0
    assert entries(root) == {1: "section2", 2: "section10", 3: "section11"}
    status = status_of(root)
    assert status["block7/1"] == status["block7/3"] == "ok"
    assert [fact for fact in facts if fact not in status["block7/2"] + " "] == []


def test_the_fix_for_packed_sections_of_one_folder(tmp_path):
    """Tar xf into a folder of the prefix, as the message says; the counts stay where they are."""
    raw = tmp_path / "block7"
    for name in ("A", "B"):
        add_folder(raw / name)
        packed_spatial(raw / name)
        (raw / name / MATRIX).rename(raw / f"{name}_{MATRIX}")
        (raw / name / "V1_spatial.tar.gz").rename(raw / f"{name}_spatial.tar.gz")
        (raw / name).rmdir()
    assert run(raw, tmp_path / "root") == 2
    assert f"mkdir -p {raw / 'A'} && tar xf {raw / 'A_spatial.tar.gz'} -C {raw / 'A'}" in (
        status_of(tmp_path / "root")["block7/1"])
    for name in ("A", "B"):
        shutil.unpack_archive(raw / f"{name}_spatial.tar.gz", raw / name)
    assert run(raw, tmp_path / "root") == 0 and entries(tmp_path / "root") == {1: ".#A", 2: ".#B"}
    demand_section(tmp_path / "root", 2)


@pytest.mark.parametrize("make, facts", [
    (visium_hd, ("Visium HD", "fix: --format visium_hd")),
    (lambda folder: (folder / "GSE1_RAW.tar").write_bytes(b""), ("GSE1_RAW.tar", "tar xf GSE1_RAW.tar")),
    (lambda folder: (folder / "sections.csv").write_text(""), ("sections.csv",))])
def test_a_folder_without_sections_shows_what_is_there(tmp_path, capsys, make, facts):
    (tmp_path / "in").mkdir()
    make(tmp_path / "in")
    assert run(tmp_path / "in", tmp_path / "root") == 2
    error = capsys.readouterr().err
    assert [fact for fact in facts if fact not in error] == [] and error.count("\n") == 1


def test_sections_of_two_blocks_are_not_one_stack(tmp_path, capsys):
    for name in ("liver/s1", "liver/s2", "heart/s1"):
        add_folder(tmp_path / "in" / name)
    assert run(tmp_path / "in", tmp_path / "root") == 2
    error = capsys.readouterr().err
    assert "heart/ (1), liver/ (2)" in error and f"--raw_path {tmp_path / 'in' / 'heart'}" in error
    samples = {"liver": {"raw": {1: "liver/s1", 2: "liver/s2"}}, "heart": {"raw": {1: "heart/s1"}}}
    assert run(tmp_path / "in", tmp_path / "root", *own_config(tmp_path / "c.yaml", samples=samples)) == 0
    assert len(status_of(tmp_path / "root")) == 3


# images and spots ------------------------------------------------------------------------------------
def test_the_full_resolution_image_is_known_by_its_size(raw, tmp_path, capsys):
    """Hires is 300 x 200 px at 0.25: the full-resolution image has 1200 x 800."""
    Image.new("RGB", (600, 400)).save(raw / "section2/cyt_image.tif")  # of the CytAssist
    Image.new("RGB", (1201, 799)).save(raw / "section2/V1_image.tif")
    config = load_config(Path(own_config(tmp_path / "c.yaml", samples={"b": {"raw": {1: "section2"}}})[1]))
    assert visium.raw_files(raw, config, "b", 1)["image"] == raw / "section2/V1_image.tif"
    reason = visium.why_not(raw, raw / "section2/cyt_image.tif")
    assert "V1_image.tif" in reason
    assert "V1_image.tif" in visium.why_not(raw, raw / "section2/spatial/tissue_hires_image.png")
    assert run(raw, tmp_path / "root") == 0 and "V1_image.tif, full resolution by its size" in capsys.readouterr().out
    assert read_location(Layout(tmp_path / "root").location("block7", 1))["pixel_x"].min() == 300  # unscaled
    assert load_config(tmp_path / "root/dataset.yaml").samples["block7"].pixel_size_um == pytest.approx(
        {1: 1.0, 2: 4.0}, rel=1e-5)
    (raw / "section2/V1_image.tif").unlink()
    reason = visium.why_not(raw, raw / "section2/cyt_image.tif")
    assert "600 x 400 px" in reason and "1200 x 800" in reason and "samples.<name>.images" in reason
    assert visium.raw_files(raw, config, "b", 1)["image"].name == "tissue_hires_image.png"


def test_reasons_for_files_that_are_left_over(raw):
    folder = raw / "section2"
    both_matrices(folder)
    cytassist(folder)
    Image.new("RGB", (60, 40)).save(folder / "spatial/tissue_lowres_image.png")
    (folder / "molecule_info.h5").write_bytes(b"")
    (raw / "hd/binned_outputs").mkdir(parents=True)
    for name, fact in (("section2/raw_feature_bc_matrix.h5", "matrix.mtx.gz"),
                       ("section2/spatial/tissue_lowres_image.png", "tissue_hires_image.png"),
                       ("section2/spatial/cytassist_image.tiff", "not the H&E"),
                       ("section2/molecule_info.h5", "matrix"),
                       ("hd", "visium_hd"), ("hd/binned_outputs", "visium_hd")):
        assert fact in visium.why_not(raw, raw / name), name
    assert visium.why_not(raw, folder / "spatial/tissue_hires_image.png") is None


def test_empty_spots_stay_and_spots_outside_are_named(raw, tmp_path, capsys):
    folder, spots = raw / "section2", array_spots()
    (folder / MATRIX).unlink()
    names = on_tissue()
    write_mex(folder / "filtered_feature_bc_matrix", names)
    text = array_spots().assign(pxl_row_in_fullres=spots["pxl_row_in_fullres"].where(spots["barcode"] != names[0], -30))
    text.to_csv(folder / "spatial/tissue_positions_list.csv", header=False, index=False)
    empty = without_counts(folder, names)
    assert run(raw, tmp_path / "root") == 0
    line = next(one for one in capsys.readouterr().out.splitlines() if "block7/1:" in one)
    for fact in ("15 spots", "2 spots with no count at all", f"1 spots outside the picture ({names[0]})"):
        assert fact in line
    assert set(empty) <= set(read_h5ad(Layout(tmp_path / "root").counts("block7", 1)).obs_names)


def without_counts(folder: Path, names: list[str]) -> list[str]:
    """Remove all counts of two spots from the matrix; their barcodes."""
    path = folder / "filtered_feature_bc_matrix/matrix.mtx.gz"
    head, shape, *rows = [line for line in gzip.decompress(path.read_bytes()).decode().splitlines()
                          if line.startswith("%%") or not line.startswith("%")]
    kept = [row for row in rows if row.split()[1] not in ("4", "5")]
    shape = " ".join([*shape.split()[:2], str(len(kept))])
    path.write_bytes(gzip.compress("\n".join([head, shape, *kept]).encode()))
    return [names[3], names[4]]


def test_barcodes_are_joined_by_their_letters(tmp_path, capsys):
    raw, letters = tmp_path / "block7", "ACGTACGTACGTACGT"
    add_folder(raw)
    names = {old: letters[:-2] + "ACGT"[k // 4] + "ACGT"[k % 4] for k, old in enumerate(on_tissue())}
    spots = array_spots().query("in_tissue == 1")
    spots.assign(barcode=spots["barcode"].map(names) + "-1").to_csv(raw / "spatial/tissue_positions.csv", index=False)
    write_matrix(raw / MATRIX, [f"s1_{names[old]}.1" for old in on_tissue()])  # as R writes them
    assert run(raw, tmp_path / "root") == 0 and "joined by their letters" in capsys.readouterr().out
    counts = read_h5ad(Layout(tmp_path / "root").counts("block7", 1))
    assert counts[names[on_tissue()[3]] + "-1"].X.toarray().tolist() == [[30, 31, 32]]
