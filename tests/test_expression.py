"""Steps 5_1 to 5_3: choice of genes, sums over members, normalisation."""
import re
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from conftest import load_script
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse
from toy_roots import GENES, STEPS, run, toy_config, toy_counts, write_toy_root

from common import io
from common.config import SampleConfig, save_config
from common.errors import LayerError
from common.known_layers import known_layers
from common.layout import SIZES
from common.normalisation import depth_of, normalise, to_log1p
from data_preprocessing import expression

GOLDEN = Path(__file__).parent / "golden" / "expression.npz"


@pytest.fixture
def root(tmp_path):
    return write_toy_root(tmp_path)


# normalisation ---------------------------------------------------------------------------------------
def test_normalisation_is_the_golden_one():
    golden = np.load(GOLDEN)
    counts, normalised = golden["counts_spots_by_genes"], golden["normalised"].astype(np.float32)
    np.testing.assert_array_equal(normalise(counts), normalised)
    np.testing.assert_array_equal(normalise(sparse.csr_matrix(counts)), normalised)


def test_normalisation_by_hand():
    np.testing.assert_allclose(normalise(np.array([[0, 1, 5]])), np.log([[1 / 9, 2 / 9, 6 / 9]]), rtol=1e-6)


@given(arrays(np.int64, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 100_000)))
def test_normalised_rows_are_log_probabilities(counts):
    y = normalise(counts)
    assert y.dtype == np.float32
    np.testing.assert_allclose(np.exp(y.astype(np.float64)).sum(axis=1), 1, rtol=1e-5)
    for row, label in zip(counts, y, strict=True):
        assert (np.diff(label[np.argsort(row)]) >= 0).all()  # more counts, never a lower label


# members ---------------------------------------------------------------------------------------------
@given(st.data())
def test_sums_are_sums_of_the_members(data):
    owner = np.array(data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=20)))
    counts = data.draw(arrays(np.int64, (len(owner), 3), elements=st.integers(0, 1000)))
    sums = expression.sum_members(sparse.csr_matrix(counts), owner, 5).toarray()
    np.testing.assert_array_equal(sums, [counts[owner == row].sum(axis=0) for row in range(5)])


def test_owner_of_a_member_and_of_none():
    owner = expression.owner_index(pd.Series(["a;b", None, "c"]), ["c", "a", "x", "b"])
    np.testing.assert_array_equal(owner, [2, 0, -1, 0])


def test_columns_follow_the_gene_list_and_absent_genes_count_zero():
    adata = toy_counts(["s1", "s2"], ["A", "B", "C"])
    chosen = expression.columns_of(adata, ["C", "X", "A"]).toarray()
    dense = adata.X.toarray()
    np.testing.assert_array_equal(chosen, np.stack([dense[:, 2], np.zeros(2), dense[:, 0]], axis=1))


# choice of genes -------------------------------------------------------------------------------------
def test_shared_genes_are_those_of_every_layer():
    assert expression.shared_genes([["B", "A", "MT-X"], ["MT-X", "A", "C", "B"]]) == ["A", "B", "MT-X"]
    assert expression.shared_genes([["B", "A", "MT-X"], ["MT-X", "A", "C", "B"]], ["MT-", "B"]) == ["A"]


def test_top_mean_weighs_layers_alike_and_breaks_ties_by_name():
    one = anndata.AnnData(np.array([[9, 0, 2, 2]], np.float32), var=pd.DataFrame(index=list("ADCB")))
    many = anndata.AnnData(np.tile(np.array([[0, 4, 2, 2]], np.float32), (9, 1)), var=pd.DataFrame(index=list("ADCB")))
    choice = load_script(STEPS[0]).choose_genes({("S", 1): one, ("S", 2): many}, toy_config([1, 2], n_genes=3))
    table = choice.genes
    assert table["gene"].tolist() == ["A", "B", "C"] and table["rank"].tolist() == [1, 2, 3]
    assert table["mean"].tolist() == [4.5, 2, 2]
    assert choice.n_shared == 4 and set(table["n_layers"]) == {2}


def test_variable_genes_are_the_ones_that_vary():
    generator = np.random.default_rng(0)
    genes = [f"G{k:03d}" for k in range(400)]
    mean = generator.uniform(5, 50, 400)
    varying = np.arange(0, 400, 20)  # as high as the others, but half of the spots have three times the other half
    layers = []
    for _ in range(2):
        rate = np.tile(mean, (80, 1))
        rate[:, varying] *= generator.choice([0.5, 1.5], (80, len(varying)))
        layers.append(anndata.AnnData(generator.poisson(rate).astype(np.float32), var=pd.DataFrame(index=genes)))
    chosen = expression.variable_genes(layers, genes, len(varying))
    assert len(chosen) == len(varying)
    assert len(set(chosen) & {genes[k] for k in varying}) >= 18  # a bin of scanpy may hold one gene


def test_genes_csv_of_all_layers(root, capsys):
    run(root.root, STEPS[0])
    table = pd.read_csv(root.genes)
    assert list(table) == ["gene", "rank", "mean", "chosen_by", "genes_from", "n_layers"]
    assert len(table) == 10 and set(table["gene"]) <= set(GENES) and table["mean"].is_monotonic_decreasing
    assert set(table["n_layers"]) == {3}  # the layer without image contributes its counts
    line = next(line for line in capsys.readouterr().out.splitlines() if "S/1" in line)
    for fact in ("10 genes", "top_mean", "12", "S/1, S/3, S/4"):
        assert fact in line


def test_excluded_prefixes(root):
    save_config(toy_config([1, 2, 3, 4], exclude_prefixes=["MT-", "RPL"]), root.config)
    run(root.root, STEPS[0])
    assert set(pd.read_csv(root.genes)["gene"]) == set(GENES) - {"MT-ND1", "RPL3"}


@pytest.mark.parametrize("known, expected", [(None, 1), ([3], 3)])
def test_known_genes_do_not_depend_on_target_counts(root, known, expected, monkeypatch):
    samples = {"S": SampleConfig(layers=[1, 2, 3, 4], known_layers=known)}
    save_config(toy_config([1, 2, 3, 4], genes_from="known", samples=samples), root.config)
    opened, read = [], io.read_h5ad

    def read_and_note(path: Path, *made_by: str) -> anndata.AnnData:
        opened.append(path)
        return read(path, *made_by)
    monkeypatch.setattr(io, "read_h5ad", read_and_note)
    run(root.root, STEPS[0])
    assert opened == [root.counts("S", expected)]
    before = root.genes.read_bytes()
    for layer in {1, 3, 4} - {expected}:
        io.write_h5ad(root.counts("S", layer), toy_counts(["a", "b"], ["OTHER"], 9))
    run(root.root, STEPS[0])
    assert root.genes.read_bytes() == before


def test_default_known_layer_has_counts_and_image(root):
    root.counts("S", 1).unlink()
    assert known_layers(toy_config([1, 2, 3, 4]), root, "S") == [3]
    root.image("S", 3).unlink()
    assert known_layers(toy_config([1, 2, 3, 4]), root, "S") == [3]  # none has both: the first with counts
    assert known_layers(toy_config([4, 2]), root, "S") == [4]


def test_gene_list_is_taken_whole_and_in_rank_order(root, tmp_path):
    listed = tmp_path / "genes.txt"
    listed.write_text("COL1A1\nNOT_A_GENE\n\n" + "\n".join(GENES[:7] + GENES[8:]) + "\n")
    save_config(toy_config([1, 2, 3, 4], genes=str(listed)), root.config)
    run(root.root, STEPS[0])
    table = pd.read_csv(root.genes)
    assert set(table["gene"]) == set(GENES) and set(table["chosen_by"]) == {"file:genes.txt"}
    assert table["mean"].is_monotonic_decreasing


@pytest.mark.parametrize("content", ["ENSG01\nENSG02\n", "", None])
def test_gene_list_without_a_gene_of_the_counts_is_one_line(root, tmp_path, capsys, content):
    listed = tmp_path / "genes.txt"
    if content is not None:
        listed.write_text(content)
    save_config(toy_config([1, 2, 3, 4], genes=str(listed)), root.config)
    run(root.root, STEPS[0], code=2)
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"error: {listed}: found ") and "\n" not in error and not root.genes.exists()


def test_layers_that_share_no_gene(root, capsys):
    io.write_h5ad(root.counts("S", 3), toy_counts(["0x0"], ["ENSG01"]))
    run(root.root, STEPS[0], code=2)
    assert re.search("^error: .*found no .*gene.* 3 ", capsys.readouterr().err)


@pytest.mark.parametrize("values", [[[0.5, 1]], [[-1, 1]]])
def test_normalised_values_are_refused(values):
    with pytest.raises(LayerError, match="x.h5ad: found .*counts"):
        expression.check_counts(anndata.AnnData(np.array(values)), Path("x.h5ad"))


def test_unreadable_counts_leave_one_layer_out(root, capsys):
    root.counts("S", 4).write_text("no h5ad")
    run(root.root, *STEPS[:2])
    assert set(pd.read_csv(root.genes)["n_layers"]) == {2}
    assert "S/4: left out" in capsys.readouterr().err


# the whole way -------------------------------------------------------------------------------------------
def test_labels_of_every_level(root):
    run(root.root, *STEPS[:3])
    genes = pd.read_csv(root.genes)["gene"].tolist()
    location = io.read_location(root.location("S", 3))
    raw = io.read_h5ad(root.counts("S", 3))
    level = {size: io.read_h5ad(root.expression(size, "S", 3)) for size in SIZES}
    assert level[224].obs_names.tolist() == location["barcode"][5:].tolist()  # spots without counts have no row
    for size in SIZES:
        assert level[size].var_names.tolist() == genes and level[size].X.dtype == np.float32
        of_row = level[size].obs["depth"].to_numpy()
        np.testing.assert_array_equal(level[size].X, normalise(level[size].layers["counts"], of_row))
        assert of_row.sum() == raw[level[224].obs_names, GENES].X.sum() + len(GENES) * len(of_row)
        assert level[size].layers["counts"].sum() == raw[:, genes].X.sum()
    np.testing.assert_array_equal(level[224].layers["counts"].toarray(), raw[level[224].obs_names, genes].X.toarray())
    for size in (512, 1024):
        table = io.read_table(root.patches_csv(size, "S", 3), text=("patch_name",))
        assert level[size].obs_names.tolist() == table["patch_name"].tolist()
        for row, patch in table.iterrows():
            inside = (location["pixel_x"] // size == patch["i"]) & (location["pixel_y"] // size == patch["j"])
            members = [name for name in location["barcode"][inside] if name in raw.obs_names]
            assert level[size].obs["n_spots"].iloc[row] == len(members)
            found = level[size].layers["counts"][row].toarray().ravel()
            np.testing.assert_array_equal(found, raw[members, genes].X.toarray().sum(axis=0))


def test_layers_without_counts_or_image(root, capsys):
    run(root.root, *STEPS[:3])
    assert not root.expression(224, "S", 2).exists() and not root.member_counts(224, "S", 2).exists()
    assert not root.expression(224, "S", 4).exists()
    status = io.read_json(root.status)
    assert status["S/2"][STEPS[1]] == "ok" and status["S/4"][STEPS[1]].startswith("left out")


def test_steps_are_skipped_when_nothing_changed(root, capsys):
    run(root.root, *STEPS[:3])
    before = root.expression(512, "S", 1).stat().st_mtime_ns
    run(root.root, *STEPS[:3])
    assert root.expression(512, "S", 1).stat().st_mtime_ns == before


@settings(max_examples=5, deadline=None)
@given(st.permutations(range(len(GENES))))
def test_gene_order_of_a_layer_does_not_matter(order):
    adata = toy_counts([f"s{k}" for k in range(5)], GENES)
    shuffled = adata[:, list(order)].copy()
    choose = load_script(STEPS[0]).choose_genes
    one, other = (choose({("S", 1): counts}, toy_config([1])) for counts in (adata, shuffled))
    pd.testing.assert_frame_equal(one.genes, other.genes)
    pd.testing.assert_frame_equal(one.background, other.background)


def test_log1p_is_that_of_scanpy():
    import scanpy
    counts = np.random.default_rng(0).poisson(3, (6, 40)).astype(np.float32)
    counts[:, 0] = 0
    adata = anndata.AnnData(counts.copy())
    scanpy.pp.normalize_total(adata, target_sum=1e4)
    scanpy.pp.log1p(adata)
    normalised = normalise(counts)
    depth = depth_of(normalised)
    np.testing.assert_allclose(depth, counts.sum(axis=1) + 40, rtol=1e-5)
    for k in range(6):
        np.testing.assert_allclose(to_log1p(normalised[[k]], depth[k])[0], adata.X[k], atol=2e-3)
