"""2D baselines: ridge is the closed form; ST-Net's head starts at the mean, learns, and stops by held-out labels."""
import dataclasses

import numpy as np
import pytest
import torch
from toys import layers_of, toy_graph

from common.device import start_torch
from evaluation import baselines_2d


@pytest.fixture(autouse=True)
def as_main_begins():
    """One thread and deterministic kernels, whatever a test before set in this process."""
    start_torch(0, "cpu")


def toy_layers():
    """Two samples that train, and layers of a third: graphs, pools and the layers that are predicted."""
    graphs = []
    for k, name in enumerate("ABT"):
        graphs += layers_of(toy_graph(k, name))
    return graphs, [graph.has_label & (graph.sample != "T") for graph in graphs], graphs[-3:]


def predict(graphs, pools, tested, seed=0):
    return baselines_2d.stnet(graphs, pools, torch.cat([graph.feature for graph in tested]).numpy(), seed)


def test_ridge_is_standardised_components_and_a_closed_form():
    generator = np.random.default_rng(0)
    feature = generator.normal(0, 1, (400, 300)) * np.geomspace(0.01, 100, 300) + 7
    label = generator.normal(-5, 1, (400, 3)) + feature[:, :3] / feature[:, :3].std(axis=0)
    query = generator.normal(0, 1, (20, 300)) * np.geomspace(0.01, 100, 300) + 7
    centre, sd = feature.mean(axis=0), feature.std(axis=0)
    values, axes = np.linalg.eigh(np.cov((feature - centre) / sd, rowvar=False, ddof=0))
    axes = axes[:, np.argsort(-values)[:256]]
    x, mean = (feature - centre) / sd @ axes, label.mean(axis=0)
    weights = np.linalg.solve(x.T @ x + 100 / (256 * 3) * np.eye(256), x.T @ (label - mean))
    expected = (query - centre) / sd @ axes @ weights + mean
    predicted = baselines_2d.ridge(feature.astype(np.float32), label.astype(np.float32), query.astype(np.float32))
    assert predicted.dtype == np.float32 and np.abs(predicted - expected).max() < 0.02 * np.abs(expected - mean).max()


def test_both_beat_the_mean_on_another_sample():
    graphs, pools, tested = toy_layers()
    feature, label = (values.numpy() for values in baselines_2d.gather(graphs, pools))
    query = torch.cat([graph.feature for graph in tested]).numpy()
    truth = torch.cat([graph.label for graph in tested]).numpy()

    def error(predicted: np.ndarray) -> float:
        return float(((predicted - truth) ** 2).mean())

    of_both = error(predict(graphs, pools, tested)), error(baselines_2d.ridge(feature, label, query))
    assert max(of_both) < 0.7 * error(label.mean(axis=0))


def test_stnet_is_the_mean_of_all_training_labels_where_the_picture_says_nothing():
    graphs, pools, tested = toy_layers()
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randn(graph.feature.shape, generator=generator) for graph in graphs]
    graphs = [dataclasses.replace(graph, feature=one) for graph, one in zip(graphs, noise, strict=True)]
    mean = baselines_2d.gather(graphs, pools)[1].mean(dim=0).numpy()
    assert np.allclose(predict(graphs, pools, tested), mean, atol=0.15)


def test_held_out_labels_stop_stnet():
    """The held-out sample contradicts the training sample, so nothing is learned; alone the latter would teach much."""
    graphs, pools, tested = toy_layers()
    against = [dataclasses.replace(graph, feature=-graph.feature) if graph.sample == "A" else graph for graph in graphs]
    mean = baselines_2d.gather(graphs, pools)[1].mean(dim=0).numpy()
    assert np.allclose(predict(against, pools, tested), mean, atol=1e-6)
    assert not np.allclose(predict(graphs, pools, tested), mean, atol=0.5)


def test_labels_of_test_layers_enter_nothing_and_the_seed_decides():
    graphs, pools, tested = toy_layers()
    spoiled = [dataclasses.replace(graph, label=graph.label + 9) if graph.sample == "T" else graph for graph in graphs]
    one = predict(graphs, pools, tested)
    assert np.array_equal(one, predict(spoiled, pools, tested))
    assert not np.array_equal(one, predict(graphs, pools, tested, seed=2))


def test_a_diverging_rate_is_not_chosen(monkeypatch):
    graphs, pools, tested = toy_layers()
    answers = []
    for rates in ((1e30, 0.003), (0.003,)):
        monkeypatch.setattr(baselines_2d, "LEARNING_RATES", rates)
        answers.append(predict(graphs, pools, tested))
    assert np.array_equal(*answers)
