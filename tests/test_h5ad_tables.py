"""AnnData files of all versions and tools: positions, in_tissue, counts, gene names, stored images."""
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from h5ad_tables import counts_of, lattice, library, picture, run, table
from hypothesis import given, settings, strategies as st
from scipy import sparse

from common.errors import DataError, LayerError
from common.io import read_picture
from common.layout import Layout
from data_preprocessing.readers.gene_names import demand_one_naming, gene_names, naming_of
from data_preprocessing.readers.h5ad_counts import raw_counts
from data_preprocessing.readers.h5ad_positions import read_all_positions

N = 72
FILE = Path("a.h5ad")


def saved(tmp_path: Path, adata: anndata.AnnData) -> Path:
    adata.write_h5ad(tmp_path / "a.h5ad")
    return tmp_path / "a.h5ad"


# positions -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("columns", [
    ("pxl_col_in_fullres", "pxl_row_in_fullres"), ("imagecol", "imagerow"), ("pixel_x", "pixel_y"),
    ("x_pixel", "y_pixel"), ("x", "y"), ("X", "Y")])
def test_positions_of_obs(tmp_path, columns):
    adata = table()
    xy = adata.obsm.pop("spatial")
    adata.obs[columns[0]], adata.obs[columns[1]] = xy.T
    found = read_all_positions(saved(tmp_path, adata))
    np.testing.assert_allclose(found.table[["x", "y"]], xy)
    assert columns[0] in found.source and not found.notes


@pytest.mark.parametrize("name", ["X_spatial", "coords", "X_xy", "spatial"])
def test_positions_of_obsm_also_as_a_table_of_row_and_column(tmp_path, name):
    adata = table()
    xy = adata.obsm.pop("spatial")
    adata.obsm[name] = pd.DataFrame(xy[:, ::-1], index=adata.obs_names,
                                    columns=["pxl_row_in_fullres", "pxl_col_in_fullres"])
    np.testing.assert_allclose(read_all_positions(saved(tmp_path, adata)).table[["x", "y"]], xy)


def test_two_sources_that_differ(tmp_path):
    adata = table()
    x, y = adata.obsm["spatial"].T
    adata.obs["imagecol"], adata.obs["imagerow"] = x / 4, y / 4
    assert "0.25 times" in read_all_positions(saved(tmp_path, adata)).notes[0]
    adata.obs["imagecol"], adata.obs["imagerow"] = y, x
    assert "swapped" in read_all_positions(saved(tmp_path, adata)).notes[0]
    adata.obs["imagecol"], adata.obs["imagerow"] = np.random.default_rng(0).random((2, N)) * 200
    with pytest.raises(LayerError, match=r"obsm\['spatial'\] and obs\['imagecol'\], obs\['imagerow'\]"):
        read_all_positions(saved(tmp_path, adata))


def test_array_positions_are_no_pixels(tmp_path, capsys):
    adata = table("square")
    adata.obsm["spatial"] = adata.obs[["array_col", "array_row"]].to_numpy(float)
    (tmp_path / "raw").mkdir()
    saved(tmp_path / "raw", adata)
    assert run(tmp_path / "raw", tmp_path / "root", "--format", "h5ad") == 2
    assert "1 px apart in obsm['spatial']: array positions" in capsys.readouterr().err


@pytest.mark.parametrize("yes, no", [("True", "False"), ("TRUE", "FALSE"), ("1", "0"), ("1.0", "0.0"), (1.0, 0.0),
                                     (True, False), ("in tissue", "not in tissue"), ("in", "out"), ("yes", "no")])
def test_words_for_in_tissue(tmp_path, yes, no):
    adata = table()
    values = [no] * 5 + [yes] * (N - 5)
    adata.obs["in_tissue"] = pd.Categorical(values) if isinstance(yes, str) else values
    assert read_all_positions(saved(tmp_path, adata)).table["on_tissue"].tolist() == [False] * 5 + [True] * (N - 5)


def test_an_unknown_word_is_named_and_an_organ_is_no_word(tmp_path):
    adata = table()
    adata.obs["in_tissue"] = "maybe"
    with pytest.raises(LayerError, match="'maybe'"):
        read_all_positions(saved(tmp_path, adata))
    adata.obs = adata.obs.drop(columns="in_tissue").assign(tissue="liver")
    assert read_all_positions(saved(tmp_path, adata)).table["on_tissue"].all()


def test_legacy_names_are_array_positions(tmp_path):
    adata = table("square")
    at = lattice("square")
    adata.obs = pd.DataFrame(index=[f"{i}x{j}" for i, j in zip(at["i"], at["j"], strict=True)])
    found = read_all_positions(saved(tmp_path, adata)).table
    assert found[["i", "j"]].to_numpy().tolist() == at[["i", "j"]].to_numpy().tolist()


# counts ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("change", [
    lambda x: x.toarray().astype(np.int64), lambda x: sparse.csc_matrix(x.astype(np.uint16)),
    lambda x: x.toarray().astype(float), lambda x: (x.toarray() * np.float32(1.0000001)) * 1.0 - 0.0])
def test_every_form_of_x(tmp_path, change):
    adata = table()
    adata.X = change(adata.X)
    found = raw_counts(saved(tmp_path, adata)).table
    np.testing.assert_array_equal(found.X.toarray(), counts_of(N))
    assert found.X.format == "csr" and found.X.dtype == np.float32


@settings(max_examples=20, deadline=None)
@given(off=st.floats(-9e-4, 9e-4), seed=st.integers(0, 99))
def test_noise_below_a_thousandth_is_rounded_and_said(tmp_path_factory, off, seed):
    adata = table(seed=seed)
    adata.X = (counts_of(N, seed=seed).astype(np.float64) + off)
    found = raw_counts(saved(tmp_path_factory.mktemp("noise"), adata))
    np.testing.assert_array_equal(found.table.X.toarray(), counts_of(N, seed=seed))
    assert bool(found.notes) == (off != 0)


def test_the_source_with_most_genes_is_taken(tmp_path):
    full = table()
    part = full[:, :4].copy()
    part.layers["counts"] = part.X.copy()
    part.X = part.X.log1p()
    part.raw = full
    assert raw_counts(saved(tmp_path, part)).table.n_vars == 12
    full.layers["raw_counts"], full.X = full.X.copy(), full.X.log1p()
    found = raw_counts(saved(tmp_path, full))
    assert found.table.X.sum() == counts_of(N).sum() and found.notes == ["counts of layers['raw_counts']"]


@pytest.mark.parametrize("value, reason", [(np.nan, "no number"), (-1.0, "negative value, -1"), (0.5, "such as 0.5"),
                                           (None, "no value above 0")])
def test_why_values_are_no_counts(tmp_path, value, reason):
    adata = table()
    values = counts_of(N) * (value is not None)
    values[3, 2] = values[3, 2] if value is None else value
    adata.X = values
    with pytest.raises(LayerError, match=reason):
        raw_counts(saved(tmp_path, adata))


def test_files_of_anndata_0_6(tmp_path):
    path = saved(tmp_path, table())
    names = [str(one) for one in table().obs_names]
    with h5py.File(path, "r+") as file:
        for key in ("obs", "var", "obsm", "X"):
            del file[key]
        obs = np.array([(one.encode(), code, 1) for code, one in enumerate(names)],
                       dtype=[("index", "S20"), ("region", "i4"), ("in_tissue", "i4")])
        obs["region"] %= 2
        file["obs"], file["uns/region_categories"] = obs, np.array([b"white", b"grey"])
        file["var"] = np.array([(f"HVG{k}".encode(),) for k in range(3)], dtype=[("index", "S9")])
        file["obsm"] = np.array([(one,) for one in table().obsm["spatial"]], dtype=[("spatial", "f8", (2,))])
        file["X"] = np.log1p(counts_of(N, 3))
        file["raw.var"] = np.array([(f"GENE{k}".encode(),) for k in range(12)], dtype=[("index", "S9")])
        group, csr = file.create_group("raw.X"), sparse.csr_matrix(counts_of(N))
        group["data"], group["indices"], group["indptr"] = csr.data, csr.indices, csr.indptr
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", csr.shape
    found = raw_counts(path).table
    np.testing.assert_array_equal(found.X.toarray(), counts_of(N))
    assert found.obs_names.tolist() == names and found.var_names[11] == "GENE11"
    np.testing.assert_allclose(read_all_positions(path).table[["x", "y"]], table().obsm["spatial"])


# gene names --------------------------------------------------------------------------------------------
def named(index: list[str], **columns):
    return gene_names(pd.DataFrame(columns, index=index), FILE, "var", lambda: None)


def test_names_that_are_numbers():
    assert named(["0", "1"], features=["CD3E", "CD8A"]).names.tolist() == ["CD3E", "CD8A"]
    assert named(["0", "1"], _index=["CD3E", "CD8A"]).names.tolist() == ["CD3E", "CD8A"]
    with pytest.raises(LayerError, match=r"named by numbers .*\(mean, kind\)"):
        named(["0", "1"], mean=[1.0, 2.0], kind=["gene", "gene"])
    symbols = [f"G{k}A" for k in range(30)] + ["G0A"]
    with pytest.raises(LayerError, match="gene_name names 1 genes twice"):
        named([str(k) for k in range(31)], gene_name=symbols)


def test_symbols_in_place_of_ensembl_ids():
    ids = [f"ENSG{k:011d}" for k in range(30)]
    symbols = [f"ABC{k}" for k in range(29)] + ["ABC0"]
    found = named([f"{one}.{k}" for k, one in enumerate(ids)], feature_name=symbols)
    assert found.names.tolist() == [ids[0], *symbols[1:29], ids[29]]  # a shared symbol is no name
    assert found.ids.tolist() == ids


def test_prefixes_versions_and_genes_without_a_name():
    assert named(["GRCh38______TP53", "GRCh38______MYC"]).names.tolist() == ["TP53", "MYC"]
    assert named(["mm10___Trp53", "mm10___Myc"]).names.tolist() == ["Trp53", "Myc"]
    assert named(["hg19_TP53", "mm10_Myc"]).names.tolist() == ["hg19_TP53", "mm10_Myc"]
    assert named(["ENSG00000141510.18", "ENSG00000136997.2"]).names.tolist() == ["ENSG00000141510", "ENSG00000136997"]
    both = ["ENSG00000182378.15", "ENSG00000182378.15_PAR_Y"]
    assert named(both).names.tolist() == ["ENSG00000182378", "ENSG00000182378_PAR_Y"]
    assert named(["", "MYC"]).kept.tolist() == [False, True]


def test_sections_that_name_genes_in_different_ways():
    human, mouse = ["TP53", "MYC", "CD3E"], ["Trp53", "Myc", "Cd3e"]
    ids = ["ENSG00000141510", "ENSG00000136997"]
    assert [naming_of(one) for one in (human, mouse, ids)] == ["symbols in capitals", "capitalised symbols",
                                                               "Ensembl ids"]
    demand_one_naming({"A/1": human, "A/2": [*human, "CD8A"]})
    for other in (mouse, ids):
        with pytest.raises(DataError, match="A/1 .*A/2 "):
            demand_one_naming({"A/1": human, "A/2": other})


def test_numbered_raw_takes_the_names_of_the_same_genes(tmp_path):
    adata, numbered = table(), table()
    numbered.var_names = [str(k) for k in range(12)]
    adata.X, adata.raw = adata.X.log1p(), numbered
    assert raw_counts(saved(tmp_path, adata)).table.var_names[5] == "GENE5"


# stored images -----------------------------------------------------------------------------------------
PIXELS = picture((200, 100, 150))
ALPHA = np.where((PIXELS == 240).all(axis=2), 0.0, 1.0)


@pytest.mark.parametrize("stored, name, factor", [
    (PIXELS / np.float32(255), "hires", 0.5), (PIXELS.astype(np.uint16) * 257, "hires", 0.5),
    (PIXELS.astype(np.float32), "hires", 0.5), (np.ascontiguousarray(PIXELS.transpose(2, 0, 1)), "hires", 0.5),
    (np.dstack([PIXELS / 255.0, ALPHA]), "hires", 0.5), (PIXELS, "fullres", None), (PIXELS, "downscaled_fullres", 0.2)])
def test_stored_images(tmp_path, stored, name, factor):
    adata = table()
    adata.uns["spatial"] = {"V1": library(stored, name, factor), "is_single": True}
    (tmp_path / "raw").mkdir()
    saved(tmp_path / "raw", adata)
    assert run(tmp_path / "raw", tmp_path / "root", "--format", "h5ad") == 0
    layout = Layout(tmp_path / "root")
    assert read_picture(layout.image("raw", 1))[100, 100].tolist() == [200, 100, 150]
    assert read_picture(layout.image("raw", 1))[0, 0].min() >= 240
    x = pd.read_csv(layout.location("raw", 1))["pixel_x"]
    np.testing.assert_allclose(x, adata.obsm["spatial"][:, 0] * (factor or 1.0))
