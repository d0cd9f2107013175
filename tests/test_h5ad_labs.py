"""AnnData files as laboratories keep them: sections, positions, genes and files that are easily mistaken."""
import anndata
import numpy as np
import pandas as pd
import pytest
from h5ad_tables import library, picture, run, table
from scipy import sparse

from common.errors import LayerError
from common.io import read_h5ad, read_location
from common.layout import Layout
from data_preprocessing.readers.gene_names import gene_expression, gene_names
from data_preprocessing.readers.h5ad_counts import raw_counts
from data_preprocessing.readers.h5ad_sections import sections_of
from data_preprocessing.readers.spot_array import is_scattered, parts_touch

FILE = "s1.h5ad"


def saved(folder, adata, name=FILE):
    folder.mkdir(exist_ok=True)
    adata.write_h5ad(folder / name)
    return folder / name


def two(column, unique="-", **uns):
    """Two sections of 72 and 63 spots, the second shifted by (7, 4) px; uns: {name: library}."""
    first, second = table(seed=0), table(seed=1, columns=7, rows=9)
    second.obsm["spatial"] = second.obsm["spatial"] + [7, 4]
    both = anndata.concat({"S1": first, "S2": second}, label=column, index_unique=unique)
    both.uns["spatial"] = uns
    return both


# sections ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("column", ["Section ID", "section.id", "sampleName", "LibraryID"])
def test_names_of_columns_are_read_without_case_and_marks(tmp_path, column):
    assert list(sections_of(saved(tmp_path, two(column))).parts) == ["S1", "S2"]


@pytest.mark.parametrize("column", ["condition", "z"])
def test_the_fix_names_the_column_that_separates_the_sections_and_works(tmp_path, column):
    adata = two(column)
    adata.obs["cluster"] = [str(k % 3) for k in range(adata.n_obs)]
    error = sections_of(saved(tmp_path, adata)).error
    assert f"adata.obs['library_id'] = adata.obs['{column}']" in str(error) and "cluster" not in str(error)
    adata.obs["library_id"] = adata.obs[column]
    assert list(sections_of(saved(tmp_path, adata)).parts) == ["S1", "S2"]


def test_the_column_that_names_the_images_goes_first(tmp_path):
    adata = two("sample", V1=library(picture()), V2=library(picture()))
    adata.obs["run"] = adata.obs["library"] = adata.obs["sample"].map({"S1": "V1", "S2": "V2"}).astype(str)
    adata.obs["section"] = adata.obs["sample"].astype(str)
    assert list(sections_of(saved(tmp_path, adata)).parts) == ["V1", "V2"]


def test_images_of_other_names_are_not_taken_and_said(tmp_path, capsys):
    saved(tmp_path / "raw", two("sample", V1=library(picture()), V2=library(picture())))
    assert run(tmp_path / "raw", tmp_path / "root", "--format", "h5ad") == 0
    lines = capsys.readouterr().out
    assert "no image" in lines and "(V1, V2): none is named S1" in lines and "none is named S2" in lines


def test_regions_of_one_array_are_one_section_under_any_name(tmp_path):
    adata = table()
    adata.obs["section"] = ["left" if column < 9 else "right" for column in adata.obs["array_col"]]
    assert list(sections_of(saved(tmp_path, adata)).parts) == [""]
    xy, parts = adata.obsm["spatial"], adata.obs["section"].to_numpy()
    assert parts_touch(xy, parts)
    assert not parts_touch(np.where((parts == "right")[:, None], xy + [500, 0], xy), parts), "pieces with a gap"
    both = two("section")
    assert not parts_touch(both.obsm["spatial"], both.obs["section"].to_numpy()), "over each other"


def test_two_pieces_on_one_array_are_two_sections(tmp_path):
    adata = table(columns=12, rows=10)
    adata = adata[~adata.obs["array_col"].between(9, 13)].copy()
    adata.obs["section"] = np.where(adata.obs["array_col"] < 9, "1", "2")
    assert list(sections_of(saved(tmp_path, adata)).parts) == ["1", "2"]


def test_libraries_that_no_column_names_are_called_libraries(tmp_path):
    adata = table()
    adata.uns["spatial"] = {"A": library(picture()), "B": library(picture())}
    error = str(sections_of(saved(tmp_path, adata)).error)
    assert "2 libraries in uns['spatial'] (A, B)" in error and "library_id'] with the names A, B" in error
    adata.obs["library_id"] = "B"
    assert sections_of(saved(tmp_path, adata)).libraries == ["B"]


# positions ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("factor, said", [([1, -1], "y from"), ([-1, 1], "x from"), ([0.3, 0.3], "spots of 14 px")])
def test_positions_of_a_plot_or_of_another_image_are_refused(tmp_path, capsys, factor, said):
    adata = table()
    adata.uns["spatial"] = {"V1": library(picture())}
    adata.uns["spatial"]["V1"]["scalefactors"]["spot_diameter_fullres"] = 14.0
    adata.obsm["spatial"] = adata.obsm["spatial"] * factor
    saved(tmp_path / "raw", adata)
    assert run(tmp_path / "raw", tmp_path / "root", "--format", "h5ad") == 2
    assert said in capsys.readouterr().err


def test_cells_and_beads_state_no_scale(tmp_path, capsys):
    cells = np.random.default_rng(0).random((400, 2)) * 2000
    assert is_scattered(cells) and not is_scattered(table().obsm["spatial"])
    jittered = table("square").obsm["spatial"] + np.random.default_rng(0).normal(0, 1.5, (72, 2))
    assert not is_scattered(jittered)
    adata = anndata.AnnData(sparse.csr_matrix(np.ones((400, 12), np.float32)), obsm={"spatial": cells})
    adata.var_names = [f"G{k}" for k in range(12)]
    saved(tmp_path / "raw", adata)
    assert run(tmp_path / "raw", tmp_path / "root", "--format", "h5ad") == 2
    assert "on no array" in capsys.readouterr().err


def test_bins_of_visium_hd_take_the_stated_um_per_px(tmp_path, capsys):
    adata = table("square", pitch=29.2)
    adata.uns["spatial"] = {"square_008um": library(picture())}
    adata.uns["spatial"]["square_008um"]["scalefactors"] |= {"microns_per_pixel": 0.274, "spot_diameter_fullres": 29.2}
    saved(tmp_path / "raw", adata)
    assert run(tmp_path / "raw", tmp_path / "root", "--format", "h5ad") == 2
    assert "array: square, pitch_um: 8;" in capsys.readouterr().err
    config = tmp_path / "c.yaml"
    config.write_text("dataset: d\nraw_format: h5ad\narray: square\npitch_um: 8\n")
    assert run(tmp_path / "raw", tmp_path / "root", "--config", str(config)) == 0
    assert "raw/1 is s1.h5ad: 0.548 um/px" in capsys.readouterr().out  # of hires, at half the resolution


# genes -------------------------------------------------------------------------------------------------
def test_features_of_other_types_are_left_out_and_counted(tmp_path):
    adata = table()
    adata.var["feature_types"] = ["Gene Expression"] * 10 + ["Antibody Capture"] * 2
    found = raw_counts(saved(tmp_path, adata))
    assert found.table.shape == (72, 10) and found.dropped["features of type Antibody Capture"] == 2
    assert gene_expression(pd.DataFrame({"feature_types": ["gene"] * 2}))[0].all(), "of no such type at all"


def test_a_symbol_that_holds_its_id_is_the_id(tmp_path):
    ids = [f"ENSG{k:011d}" for k in range(12)]
    var = pd.DataFrame({"feature_name": [f"Y_RNA_{ids[0]}", *(f"G{k}" for k in range(1, 12))]}, index=ids)
    assert gene_names(var, tmp_path, "var", lambda: None).names[:2].tolist() == [ids[0], "G1"]


@pytest.mark.parametrize("form", ["{1}_{0}", "{0}_{1}", "{1}.7|{0}"])
def test_names_of_symbol_and_id_are_parted(tmp_path, form):
    ids = [f"ENSG{k:011d}" for k in range(12)]
    var = pd.DataFrame(index=[form.format(f"G{k}", one) for k, one in enumerate(ids)])
    found = gene_names(var, tmp_path, "var", lambda: None)
    assert found.names.tolist() == [f"G{k}" for k in range(12)] and found.ids.tolist() == ids


def test_selected_genes_of_each_section_are_no_other_block_where_raw_has_all(tmp_path, capsys):
    for number, chosen in ((1, slice(0, 11)), (2, slice(11, 22))):
        adata = table()
        adata = anndata.AnnData(sparse.hstack([adata.X, adata.X], format="csr"), obs=adata.obs, obsm=dict(adata.obsm),
                                var=pd.DataFrame(index=[f"GENE{k}" for k in range(24)]))
        part = adata[:, chosen].copy()
        part.raw, part.X = adata, part.X.log1p()
        saved(tmp_path / "raw", part, f"s{number}.h5ad")
    assert run(tmp_path / "raw", tmp_path / "root", "--format", "h5ad") == 0
    assert read_h5ad(Layout(tmp_path / "root").counts("raw", 2)).shape == (72, 24)


# files and stored images -------------------------------------------------------------------------------
def test_an_image_of_no_pixel_is_none(tmp_path):
    adata = table()
    adata.uns["spatial"] = {"V1": library(picture(), "lowres", 0.2)}
    adata.uns["spatial"]["V1"]["images"]["hires"] = np.zeros((0, 0, 3), np.uint8)
    adata.uns["spatial"]["V1"]["scalefactors"]["tissue_hires_scalef"] = 0.5
    saved(tmp_path / "raw", adata)
    assert run(tmp_path / "raw", tmp_path / "root", "--format", "h5ad") == 0
    location = read_location(Layout(tmp_path / "root").location("raw", 1))
    np.testing.assert_allclose(location["pixel_x"], adata.obsm["spatial"][:, 0] * 0.2)


@pytest.mark.parametrize("content, said", [
    (b"", "an empty file"), (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
    (b"<!DOCTYPE html><html>", "web page"), (b"\x1f\x8b\x08", "gzip"), (None, "cut off")])
def test_what_the_file_is_instead(tmp_path, content, said):
    path = saved(tmp_path, table())
    path.write_bytes(path.read_bytes()[:9000] if content is None else content)
    with pytest.raises(LayerError, match=said):
        raw_counts(path)


def test_tables_of_other_tools_are_named_with_the_way_out(tmp_path, capsys):
    raw = tmp_path / "raw"
    saved(raw, table())
    table().write_zarr(raw / "s2.zarr")
    for name in ("s3.H5AD", "s4.h5ad.gz", "s5.h5seurat", "s6.rds", "s7.h5mu"):
        (raw / name).write_bytes(b"x")
    assert run(raw, tmp_path / "root", "--format", "h5ad") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "not taken" in line]
    for word in ("s3.H5AD: ", "rename it to s3.h5ad", "gunzip 's4.h5ad.gz'", "s5.h5seurat: an object of R", "s6.rds: ",
                 "mudata", "read_zarr('s2.zarr').write_h5ad('s2.h5ad')"):
        assert any(word in line for line in lines), word


def test_one_section_twice_and_two_patients_are_named(tmp_path, capsys):
    raw, first, other = tmp_path / "raw", table(), table(seed=1)
    first.obs["patient"], other.obs["patient"] = "P1", "P2"
    for name, adata in (("s1.h5ad", first), ("s1 (1).h5ad", first), ("s2.h5ad", other)):
        saved(raw, adata, name)
    assert run(raw, tmp_path / "root", "--format", "h5ad") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if "one section twice" in line]) == 1
    assert any("s1 (1).h5ad and s1.h5ad have the same spots" in line or "s1.h5ad and s1 (1).h5ad have" in line
               for line in lines)
    assert any("2 values of obs['patient'] (P1: " in line and "P2: s2.h5ad)" in line for line in lines)


def test_ids_of_another_database_are_kept(tmp_path):
    var = pd.DataFrame({"gene_ids": [f"AT1G{k:05d}" for k in range(12)]}, index=[f"G{k}" for k in range(12)])
    assert gene_names(var, tmp_path, "var", lambda: None).ids[3] == "AT1G00003"
    assert gene_names(var.assign(gene_ids=[*map(str, range(12))]), tmp_path, "var", lambda: None).ids is None


def test_what_surrounds_the_barcodes_may_name_the_sections(tmp_path):
    adata = two("sample")
    pairs = zip(adata.obs["sample"], adata.obs_names, strict=True)
    adata.obs_names = [f"{sample}_{name[:16]}" for sample, name in pairs]
    adata.obs = adata.obs.drop(columns="sample").assign(**{"orig.ident": "SeuratProject"})
    fix = str(sections_of(saved(tmp_path, adata)).error).partition("fix: ")[2]
    assert "(S1_, S2_)" in fix
    exec(fix.partition(", if")[0])
    assert list(sections_of(saved(tmp_path, adata)).parts) == ["S1_", "S2_"]


def test_empty_tables_and_presence_in_place_of_counts(tmp_path):
    adata = table()
    with pytest.raises(LayerError, match="no row in obs"):
        sections_of(saved(tmp_path, adata[:0].copy()))
    assert not is_scattered(np.full((40, 2), 5.0)), "its distance cannot be measured: another error"
    adata.X = (adata.X > 2).astype(np.float32)
    assert any("no count above 1" in note for note in raw_counts(saved(tmp_path, adata)).notes)
