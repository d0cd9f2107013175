"""The tables of Space Ranger in every form: positions as text and parquet, counts as HDF5 and matrix.mtx."""
import gzip
import importlib.util
import json

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy import sparse
from visium_folders import array_spots, on_tissue, write_matrix, write_mex

from common.errors import LayerError
from data_preprocessing.readers.space_ranger import (
    GENOMES,
    LEFT_OUT,
    SEURAT,
    read_matrix,
    read_positions_table,
    read_scale_factors,
)


# positions -------------------------------------------------------------------------------------------
def demand_positions(path) -> None:
    pd.testing.assert_frame_equal(read_positions_table(path), array_spots(), check_dtype=False)


@settings(max_examples=150, deadline=None)
@given(separator=st.sampled_from(",;\t "), header=st.booleans(), numbered=st.booleans(), quoted=st.booleans(),
       packed=st.booleans(), ending=st.sampled_from(["\n", "\r\n"]), words=st.booleans(),
       encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_positions_as_text(tmp_path_factory, separator, header, numbered, quoted, packed, ending, encoding, words):
    """Every separator, with or without header, row numbers, quotes, gzip, a byte-order mark, UTF-16 and TRUE/FALSE."""
    spots = array_spots()
    spots = spots.assign(in_tissue=(spots["in_tissue"] == 1).astype(str).str.upper()) if words else spots
    text = spots.to_csv(sep=separator, header=header, index=numbered, quoting=2 if quoted else 0,
                        decimal="," if separator == ";" else ".", lineterminator=ending)
    content = text.encode(encoding)
    path = tmp_path_factory.mktemp("positions") / "tissue_positions_list.csv"
    path.write_bytes(gzip.compress(content) if packed else content)
    demand_positions(path)


def test_positions_as_r_and_seurat_write_them(tmp_path):
    path, spots = tmp_path / "tissue_positions.txt", array_spots().set_index("barcode")
    path.write_text(spots.to_csv(index_label=""))  # write.csv: row names under an empty name
    demand_positions(path)
    path.write_text(spots.to_csv(sep="\t", index_label=False))  # write.table: no name for the row names
    demand_positions(path)
    path.write_text(spots.rename(columns={new: old for old, new in SEURAT.items()}).to_csv(index_label=""))
    demand_positions(path)


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="pyarrow is not installed")
def test_positions_as_parquet(tmp_path):
    path = tmp_path / "tissue_positions.parquet"
    for table in (array_spots(), array_spots().set_index("barcode")):
        table.to_parquet(path)
        demand_positions(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(LayerError, match="tissue_positions.parquet"):
        read_positions_table(path)


# counts ----------------------------------------------------------------------------------------------
def demand_counts(path, n_genes: int = 3) -> None:
    """The counts of visium_folders.write_matrix."""
    table = read_matrix(path)
    assert list(table.obs_names) == on_tissue() and table.X.format == "csr" and table.X.dtype == np.float32
    assert list(table.var_names) == ["Actb", "Gapdh", "Actb-1", "CD3-antibody"][:n_genes]
    assert table.var["gene_ids"].tolist() == ["ENS0", "ENS1", "ENS2", "ENS3"][:n_genes]
    np.testing.assert_array_equal(table.X.toarray(), 10 * np.arange(15)[:, None] + np.arange(n_genes))
    assert table.uns[LEFT_OUT] == ({"Antibody Capture": 1} if n_genes == 3 else {})


@pytest.mark.parametrize("packed", [True, False])
def test_counts_of_every_form(tmp_path, packed):
    write_mex(tmp_path / "filtered_feature_bc_matrix", on_tissue(), packed=packed)
    demand_counts(tmp_path / "filtered_feature_bc_matrix")
    write_mex(tmp_path / "old", on_tissue(), packed=packed, old=True)
    demand_counts(tmp_path / "old", n_genes=4)  # two columns: no feature types
    for prefix in ("GSM1_A_", "GSM2_B_"):
        write_mex(tmp_path / "flat", on_tissue() if prefix == "GSM2_B_" else ["x"], prefix, packed)
    demand_counts(tmp_path / "flat" / ("GSM2_B_matrix.mtx" + ".gz" * packed))
    path = tmp_path / "filtered_feature_bc_matrix.h5"
    write_matrix(path, on_tissue())
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    demand_counts(path)


def test_two_genomes_keep_their_names_apart(tmp_path):
    path = tmp_path / "m.h5"
    write_matrix(path, ["A-1", "B-1"])
    with h5py.File(path, "r+") as file:
        features = file["matrix/features"]
        del features["genome"], features["name"]
        features["genome"] = np.array(["GRCh38", "mm10", "mm10", "GRCh38"], "S")
        features["name"] = np.array(["GRCh38_ACTB", "mm10___Gapdh", "mm10___Actb", "CD3"], "S")
    table = read_matrix(path)
    assert list(table.var_names) == ["GRCh38_ACTB", "mm10___Gapdh", "mm10___Actb"]
    assert table.uns[GENOMES] == {"GRCh38": 1, "mm10": 2}


def test_two_genomes_of_cell_ranger_2(tmp_path):
    """A matrix a genome, with spots of their own; names without the genome get it."""
    path = tmp_path / "filtered_gene_bc_matrices_h5.h5"
    with h5py.File(path, "w") as file:
        for genome, barcodes, value in (("hg19", ["A-1", "B-1"], 1), ("mm10", ["B-1", "C-1"], 7)):
            group, matrix = file.create_group(genome), sparse.csr_matrix(np.full((2, 1), value, np.int32))
            group["barcodes"], group["data"] = np.array(barcodes, "S"), matrix.data
            group["indices"], group["indptr"] = matrix.indices.astype(np.int64), matrix.indptr.astype(np.int64)
            group["shape"] = np.array([1, 2], np.int32)
            group["gene_names"], group["genes"] = np.array(["ACTB"], "S"), np.array([f"{genome}_ENS1"], "S")
    table = read_matrix(path)
    assert list(table.var_names) == ["hg19_ACTB", "mm10_ACTB"]
    assert table.to_df().loc[["A-1", "B-1", "C-1"]].to_numpy().tolist() == [[1, 0], [1, 7], [0, 7]]
    assert table.var["gene_ids"].tolist() == ["hg19_ENS1", "mm10_ENS1"]


def spoil(folder, how: str):
    """A MEX folder with one fault; the path to read."""
    write_mex(folder, on_tissue())
    if how == "no barcodes.tsv":
        (folder / "barcodes.tsv.gz").unlink()
    elif how == "14 barcodes":
        (folder / "barcodes.tsv.gz").write_bytes(gzip.compress("\n".join(on_tissue()[:14]).encode()))
    elif how == "cut off":
        path = folder / "matrix.mtx.gz"
        path.write_bytes(path.read_bytes()[:40])
    elif how == "antibodies only":
        rows = gzip.decompress((folder / "features.tsv.gz").read_bytes()).decode()
        (folder / "features.tsv.gz").write_bytes(gzip.compress(rows.replace("Gene Expression", "Custom").encode()))
    elif how == "one barcode twice":
        (folder / "barcodes.tsv.gz").write_bytes(gzip.compress("\n".join([on_tissue()[0]] * 15).encode()))
    return folder


@pytest.mark.parametrize("how, found", [
    ("no barcodes.tsv", "no barcodes among features.tsv.gz, matrix.mtx.gz"), ("14 barcodes", "4 x 15.*14 barcodes"),
    ("cut off", "cannot be read"), ("antibodies only", "Gene Expression among Antibody Capture, Custom"),
    ("one barcode twice", "twice")])
def test_broken_counts_are_one_line(tmp_path, how, found):
    with pytest.raises(LayerError, match=found):
        read_matrix(spoil(tmp_path / "filtered_feature_bc_matrix", how))


@pytest.mark.parametrize("content, fact", [
    (b"", "empty"), (gzip.compress(b"", mtime=0), "empty"),
    (b"version https://git-lfs.github.com/spec/v1\noid", "git-lfs"),
    (b"\n<!DOCTYPE html>", "web page")])
def test_files_without_content_are_named_as_such(tmp_path, content, fact):
    for name, read in (("filtered_feature_bc_matrix.h5", read_matrix), ("tissue_positions.csv", read_positions_table)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LayerError, match=f"{name}: found .*{fact}"):
            read(tmp_path / name)


# scales ----------------------------------------------------------------------------------------------
def test_scale_factors(tmp_path):
    path = tmp_path / "scalefactors_json.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"tissue_hires_scalef": [0.25], "name": "x"}).encode()))
    assert read_scale_factors(path) == {"tissue_hires_scalef": 0.25}  # a list of one: written by R
    path.write_text("{")
    assert read_scale_factors(path) == {}
