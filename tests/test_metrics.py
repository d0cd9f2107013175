"""Metrics and baselines: values by hand, and the properties the README promises."""
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import sparse
from scipy.stats import pearsonr, spearmanr

from evaluation import baselines, metrics


def normalise(counts: np.ndarray) -> np.ndarray:
    """Per spot ln((c + 1) / sum(c + 1)): written out again, so that the ceiling is tested on its own."""
    return np.log((counts + 1) / (counts + 1).sum(axis=1, keepdims=True))


def test_pcc_and_scc_agree_with_scipy():
    generator = np.random.default_rng(0)
    predicted, measured = generator.normal(size=(30, 7)), generator.normal(size=(30, 7))
    got = metrics.layer_metrics(predicted, measured)
    assert got["pcc_gene"] == pytest.approx(np.mean([pearsonr(predicted[:, g], measured[:, g])[0] for g in range(7)]))
    assert got["pcc_spot"] == pytest.approx(np.mean([pearsonr(predicted[s], measured[s])[0] for s in range(30)]))
    assert got["scc_gene"] == pytest.approx(np.mean([spearmanr(predicted[:, g], measured[:, g])[0] for g in range(7)]))
    assert got["mse"] == pytest.approx(np.mean((predicted - measured) ** 2))
    assert got["mae"] == pytest.approx(np.mean(np.abs(predicted - measured)))


def test_a_constant_profile_scores_zero_per_gene_but_not_per_spot():
    generator = np.random.default_rng(0)
    profile = generator.normal(0, 2, 50).astype(np.float32)
    measured = (profile + generator.normal(0, 0.5, (40, 50))).astype(np.float32)
    got = metrics.layer_metrics(np.repeat(profile[None], 40, axis=0), measured)
    assert got["pcc_gene"] == 0 and got["scc_gene"] == 0 and got["pcc_spot"] > 0.9


@given(st.floats(0.1, 10), st.floats(-5, 5), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_pcc_ignores_scale_and_shift(scale, shift, seed):
    a, b = np.random.default_rng(seed).normal(size=(2, 12, 5))
    assert np.allclose(metrics.pearson(a, b, 0), metrics.pearson(a * scale + shift, b, 0), atol=1e-6)


def test_pooling_weighs_spots_for_spot_metrics_and_layers_for_gene_metrics():
    layers = {"C/3": dict.fromkeys(metrics.NAMES, 1.0), "C/4": dict.fromkeys(metrics.NAMES, 0.0)}
    pooled = metrics.pooled_metrics(layers, {"C/3": 300, "C/4": 100})
    assert pooled["mse"] == pooled["pcc_spot"] == 0.75 and pooled["pcc_gene"] == pooled["scc_gene"] == 0.5


def test_ceiling_predicts_the_score_of_the_truth():
    """The noise-free expression, scored against counts, reaches the ceiling computed from these counts alone."""
    generator = np.random.default_rng(0)
    rate = np.exp(generator.normal(0, 0.4, (300, 40)) + generator.normal(3, 1, 40))
    counts = generator.poisson(rate)
    truth = metrics.layer_metrics(normalise(rate), normalise(counts))
    ceiling = metrics.noise_ceiling(counts, normalise)
    assert ceiling["pcc_gene"] == pytest.approx(truth["pcc_gene"], abs=0.03)
    assert ceiling["pcc_spot"] == pytest.approx(truth["pcc_spot"], abs=0.03)
    assert ceiling == metrics.noise_ceiling(counts, normalise)


def test_ceiling_falls_with_depth():
    rate = np.exp(np.random.default_rng(0).normal(1, 1, (100, 30)))
    counts = [np.random.default_rng(1).poisson(rate * depth) for depth in (20, 0.3)]
    deep, shallow = (metrics.noise_ceiling(one, normalise) for one in counts)
    assert shallow["pcc_gene"] < deep["pcc_gene"] <= 1


LABEL = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 8.0]])
POSITION = np.array([[0.0, 0.0], [1.0, 0.0], [5.0, 5.0]])


def test_baselines_by_hand():
    query = np.array([[0.1, 0.0], [4.0, 4.0]])
    assert baselines.mean(LABEL, 2).tolist() == [[2, 4], [2, 4]]
    assert baselines.nearest(LABEL, POSITION, query).tolist() == [[0, 1], [4, 8]]
    iou = sparse.csr_array(np.array([[0.5, 0.25, 0.0], [0.0, 0.0, 0.0]]))
    expected = (0.5 * LABEL[0] + 0.25 * LABEL[1]) / 0.75
    assert np.allclose(baselines.overlap(LABEL, iou, fallback=np.full((2, 2), 7.0)), [expected, [7, 7]])
    weight = np.exp(-np.array([0.1 ** 2, 0.9 ** 2, 4.9 ** 2 + 25]) / (2 * 1.5 ** 2))
    assert np.allclose(baselines.kernel(LABEL, POSITION, query)[0], weight @ LABEL / weight.sum())


def test_similarity_is_the_cosine_weighted_mean_of_the_most_similar():
    known, query = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), np.array([[1.0, 1.0]])
    assert np.allclose(baselines.similarity(LABEL, known, query)[0], LABEL[:2].mean(axis=0), atol=1e-5)
    many = np.concatenate([np.tile([[1.0, 0.1]], (12, 1)), np.tile([[1.0, -0.5]], (20, 1))])
    label = np.concatenate([np.ones((12, 1)), np.full((20, 1), 50.0)])
    assert np.allclose(baselines.similarity(label, many, np.array([[1.0, 0.1]])), 1.0)


@given(st.floats(-100, 100), st.floats(-100, 100))
@settings(max_examples=25, deadline=None)
def test_moving_the_whole_stack_changes_no_baseline(dx, dy):
    generator = np.random.default_rng(0)
    position, query = generator.uniform(0, 8, (40, 2)), generator.uniform(0, 8, (9, 2))
    label = generator.normal(size=(40, 3))
    moved = np.array([dx, dy])
    for baseline in (baselines.nearest, baselines.kernel):
        one, other = baseline(label, position, query), baseline(label, position + moved, query + moved)
        assert np.allclose(one, other, atol=1e-6)


def test_a_spot_far_from_every_known_one_gets_a_finite_kernel_prediction():
    assert np.allclose(baselines.kernel(LABEL, POSITION, np.array([[900.0, 900.0]])), LABEL[2], atol=1e-3)
