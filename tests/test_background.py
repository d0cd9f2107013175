"""The background of the normalisation: a label does not depend on the other genes of the list."""
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from conftest import load_script
from hypothesis import given, settings, strategies as st
from scipy import sparse
from toy_roots import GENES, STEPS, run, toy_config, write_toy_root
from toys import layers_of, toy_graph

from common import io
from common.config import save_config, validate
from common.errors import DataError
from common.gene_list import read_background, read_gene_list
from common.layout import RunLayout
from common.normalisation import n_background, normalise, thinnable, to_log1p
from data_preprocessing import expression
from evaluation import metrics
from evaluation.outputs import check_background, finite, keep_genes, layer_anndata
from evaluation.scores import score_layers

choose = load_script(STEPS[0])
GOLDEN = Path(__file__).parent / "golden" / "expression.npz"
MANY = [f"G{k:03d}" for k in range(400)]


def old_normalise(counts: np.ndarray) -> np.ndarray:
    """Normalisation as it was before there was a background."""
    dense = np.asarray(counts, np.float64) + 1
    return np.log(dense / dense.sum(axis=1, keepdims=True)).astype(np.float32)


def layer_of(seed: int = 0, n: int = 7) -> anndata.AnnData:
    counts = np.random.default_rng(seed).poisson(np.linspace(20, 0.1, len(MANY)), (n, len(MANY))).astype(np.float32)
    return anndata.AnnData(sparse.csr_matrix(counts), var=pd.DataFrame(index=MANY))


def depth_in(adata, background: list[str]) -> np.ndarray:
    return expression.columns_of(adata, background).toarray().sum(axis=1, dtype=np.float64) + len(background)


def labels_of(adata, genes: list[str], background: list[str]) -> pd.DataFrame:
    return pd.DataFrame(normalise(expression.columns_of(adata, genes), depth_in(adata, background)), columns=genes)


@pytest.fixture
def listed(tmp_path):
    """Write a list of genes; returns the config that names it."""
    def config_of(genes: list[str], **changes):
        (tmp_path / "mine.txt").write_text("\n".join(genes))
        return toy_config([1], genes=str(tmp_path / "mine.txt"), **changes)
    return config_of


# labels ----------------------------------------------------------------------------------------------
def test_the_published_list_is_its_own_background_to_the_last_bit():
    adata, golden = layer_of(), np.load(GOLDEN)
    choice = choose.choose_genes({("S", 1): adata}, toy_config([1], n_genes=250))
    genes = choice.genes["gene"].tolist()
    assert choice.background["gene"].tolist() == genes and len(genes) == 250
    counts = expression.columns_of(adata, genes).toarray()
    np.testing.assert_array_equal(labels_of(adata, genes, genes).to_numpy(), old_normalise(counts))
    counts = golden["counts_spots_by_genes"]
    depth = counts.sum(axis=1) + counts.shape[1]
    np.testing.assert_array_equal(normalise(counts, depth), golden["normalised"].astype(np.float32))


@settings(max_examples=20, deadline=None)
@given(*[st.lists(st.sampled_from(MANY), min_size=1, unique=True) for _ in range(2)])
def test_a_gene_has_the_same_label_whatever_else_is_named(one, other):
    adata = layer_of()
    background = MANY[:250]
    both = sorted(set(one) | set(other))
    of_both, of_one = labels_of(adata, both, background), labels_of(adata, one, background)
    np.testing.assert_array_equal(of_both[one], of_one)
    above_0 = of_one.columns.isin(background) & (of_one > 0).any()
    np.testing.assert_array_equal(above_0, False)  # never more than the whole


@pytest.mark.parametrize("changes", [{"n_genes": 2000}, {"n_genes": 12}, {"genes": "hvg", "n_genes": 30}, {}])
def test_the_background_does_not_depend_on_the_list(listed, changes):
    layers = {("S", 1): layer_of(1), ("S", 2): layer_of(2)}
    default = choose.choose_genes(layers, toy_config([1], n_genes=250))
    config = toy_config([1], **changes) if changes else listed(MANY[100:130])
    pd.testing.assert_frame_equal(choose.choose_genes(layers, config).background, default.background)


def test_one_gene_varies_and_five_genes_shift_nothing():
    """Before: one gene gave 0 everywhere, five genes shifted a gene from -3.31 to -0.39."""
    adata, background = layer_of(), MANY[:250]
    alone = labels_of(adata, MANY[:1], background)
    assert alone.to_numpy().std() > 0 and (alone < -2).all(axis=None)
    np.testing.assert_array_equal(alone[MANY[0]], labels_of(adata, MANY[:5], background)[MANY[0]])
    assert (old_normalise(expression.columns_of(adata, MANY[:1]).toarray()) == 0).all()


# the choice ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("genes, n_genes", [(MANY[:9], 250), (None, 9)])
def test_a_list_that_is_too_short_is_one_line(tmp_path, capsys, genes, n_genes):
    layout = write_toy_root(tmp_path)
    (tmp_path / "mine.txt").write_text("\n".join(GENES[:9]))
    config = toy_config([1, 2, 3, 4], n_genes=n_genes, genes=str(tmp_path / "mine.txt") if genes else "top_mean")
    save_config(config, layout.config)
    run(tmp_path, STEPS[0], code=2)
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and f"{config.genes}: found 9 genes" in line
    assert "expected 10 or more" in line and "longer list" in line
    assert not layout.genes.exists() and not layout.background.exists()


def test_genes_that_are_not_predicted_are_named(tmp_path, capsys):
    layout = write_toy_root(tmp_path)
    (tmp_path / "mine.txt").write_text("\n".join([*GENES, "ONLY1", *(f"NO{k}" for k in range(6))]))
    save_config(toy_config([1, 2, 3, 4], genes=str(tmp_path / "mine.txt"), exclude_prefixes=["RPL"]), layout.config)
    run(tmp_path, STEPS[0])
    out = capsys.readouterr().out
    assert "8 of the list left out" in out and "RPL3, ONLY1, NO0, NO1, NO2, …" in out
    assert set(io.read_table(layout.genes)["gene"]) == set(GENES) - {"RPL3"}


@pytest.mark.parametrize("content, found", [
    ("A\nB\nA\n", "twice, A"), (b"\xff\xfe\x00", "no text"), ("gene\n", "empty")])
def test_a_list_that_cannot_be_read_is_one_line(tmp_path, content, found):
    file = tmp_path / ("mine.csv" if found == "empty" else "mine.txt")
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=f"{file.name}: found .*{found}"):
        read_gene_list(file)


def test_the_list_of_a_run_brings_its_background(tmp_path):
    """Another root, predicted with the list of a trained network, is normalised as in training."""
    layout, theirs = write_toy_root(tmp_path), RunLayout(tmp_path / "run")
    background = pd.DataFrame({"gene": [*GENES[:5], "ELSEWHERE"], "rank": range(1, 7), "mean": 1.0})
    io.write_table(theirs.background, background)
    io.write_table(theirs.genes, pd.DataFrame({"gene": GENES}))
    save_config(toy_config([1, 2, 3, 4], genes=str(theirs.genes)), layout.config)
    run(tmp_path, *STEPS[:3])
    pd.testing.assert_frame_equal(read_background(layout.background), background)
    raw, labels = io.read_h5ad(layout.counts("S", 1)), io.read_h5ad(layout.expression(224, "S", 1))
    depth = raw[labels.obs_names, GENES[:5]].X.toarray().sum(axis=1) + 6
    np.testing.assert_array_equal(labels.obs["depth"], depth)
    assert keep_genes(layout, RunLayout(tmp_path / "again")) == io.read_table(layout.genes)["gene"].tolist()
    assert RunLayout(tmp_path / "again").background.read_bytes() == layout.background.read_bytes()
    check_background(layout, background["gene"].tolist()[::-1], "x")
    with pytest.raises(DataError, match="background.csv: found another background .*the 12 genes of x"):
        check_background(layout, GENES, "x")


# depth, ceiling, log1p -------------------------------------------------------------------------------
def test_the_ceiling_of_the_published_list_is_as_it_was():
    counts = expression.columns_of(layer_of(n=40), MANY[:250]).toarray()
    depth = counts.sum(axis=1, dtype=np.float64) + 250
    now = metrics.noise_ceiling(*thinnable(counts, depth, MANY[:250], MANY[249::-1]))
    assert now == metrics.noise_ceiling(counts, old_normalise)


@pytest.mark.parametrize("genes", [MANY[:12], MANY[240:260], MANY])
def test_the_ceiling_thins_the_rest_of_the_background_too(genes):
    adata, background = layer_of(n=400), MANY[:250]
    counts, depth = expression.columns_of(adata, genes).toarray(), depth_in(adata, background)
    both, normalise_list = thinnable(counts, depth, genes, background)
    np.testing.assert_array_equal(normalise_list(both), normalise(counts, depth))
    half = np.random.default_rng(0).binomial(both.astype(int), 0.5)
    ratio = np.exp(normalise_list(half)[:, 0].astype(float)) / (half[:, 0] + 1)  # 1 / depth of the half
    assert np.median(1 / ratio) == pytest.approx(np.median(depth - 250) / 2 + 250, rel=0.02)
    assert 0 <= metrics.noise_ceiling(both, normalise_list)["pcc_gene"] < 1


def test_log1p_of_a_gene_does_not_depend_on_the_list():
    adata, background = layer_of(), MANY[:250]
    full = labels_of(adata, background, background).to_numpy()[[0]]
    depth = float(depth_in(adata, background)[0])
    few = to_log1p(full[:, :12], depth, n_background=250)
    np.testing.assert_allclose(few, to_log1p(full, depth)[:, :12], rtol=1e-4)
    assert n_background(background[::-1], background) is None and n_background(background[:12], background) == 250


# what is written is finite ---------------------------------------------------------------------------
@pytest.mark.parametrize("where", ["X", "sd", "confidence"])
def test_what_is_not_finite_is_not_written(where):
    obs = pd.DataFrame({"sample": "A", "confidence": 0.5}, index=list("abc"))
    adata = anndata.AnnData(np.zeros((3, 2), np.float32), obs=obs)
    adata.layers["sd"], adata.layers["measured"] = np.ones((3, 2), np.float32), np.full((3, 2), np.nan, np.float32)
    assert finite(adata, "A/1") is adata
    if where == "confidence":
        adata.obs["confidence"] = [0.5, np.nan, 0.5]
    else:
        (adata.X if where == "X" else adata.layers["sd"])[1, 1] = np.inf
    with pytest.raises(DataError, match=f"A/1: found 1 of .*{where}.* that are not finite; expected finite numbers"):
        finite(adata, "A/1")


@pytest.mark.parametrize("main", ["predict_3d", "main"])
def test_a_prediction_that_is_not_finite_is_refused_where_it_is_built(main):
    graph = toy_graph()
    genes = [f"G{k}" for k in range(graph.n_genes)]
    values = graph.label.numpy().copy()
    config = validate({"dataset": "d", "pitch_px": 10, "samples": {"T": {"layers": [1, 2, 3]}}}, "c")
    values[3, 5] = np.nan

    def built():
        if main == "main":
            predicted = {"expression": values[:64]}
            return layer_anndata(layers_of(graph)[0], 1, predicted, genes, {}, depth=500.0, n_background=None)
        known = graph.in_layers([1]).numpy()
        build = load_script("predict_3d").section_in_stack
        return build(graph, 1, {"expression": values}, genes, known, config, 2.0, 500.0, None, {})
    with pytest.raises(DataError, match="prediction of T/1: found 1 of .* values of X that are not finite"):
        built()
    with pytest.raises(DataError, match="gp, .* T/1: found predictions that are not finite"):
        score_layers(graph, [1], {"gp": values})
    values[3, 5] = -4
    assert np.isfinite(built().X).all()
