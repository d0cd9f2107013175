"""Training: no leak, determinism, folds, NaN, and that it learns."""
import dataclasses

import numpy as np
import pytest
import torch

import training
from common import cli
from common.errors import DataError
from models import baselines
from toys import toy_graph

CPU = torch.device("cpu")
QUICK = training.Settings(max_iterations=40, base_lr=0.003)


@pytest.fixture(autouse=True)
def as_main_3d_begins():
    """One thread and deterministic kernels, whatever a test before set in this process."""
    cli.start_torch(0, "cpu")


def spoiled(graph, known):
    """The same graph with the labels of all layers but the known ones replaced by noise (spots, regions, globals)."""
    def noise(label, keep):
        return torch.where(keep.unsqueeze(1), label, torch.randn(label.shape, generator=torch.Generator().manual_seed(5)) * 30)
    keep = torch.tensor(known)
    return dataclasses.replace(graph, label=noise(graph.label, graph.in_layers(known)),
                               region_label=noise(graph.region_label, torch.isin(graph.region_layer, keep)),
                               global_label=noise(graph.global_label, torch.isin(graph.global_layer, keep)))


def test_target_labels_enter_nothing():
    """Noise in place of the target layers' labels: model and predictions are bit-identical."""
    graph = toy_graph()
    results = []
    for one in (graph, spoiled(graph, [1])):
        model = training.train([one], {"T": one.in_layers([1])}, QUICK, CPU)
        classical = training.floor_predictions(one, [1], no_overlap(one)) | training.gaussian_process(one, [1], with_sd=True)
        results.append((training.predict(model, one, [1], CPU), model.state_dict(), classical))
    assert np.array_equal(results[0][0], results[1][0])
    assert all(torch.equal(value, results[1][1][name]) for name, value in results[0][1].items())
    assert all(np.array_equal(value, results[1][2][name]) for name, value in results[0][2].items())


def test_target_labels_of_a_test_sample_enter_nothing_beside_training_samples():
    train_graph, test_graph = toy_graph(1, "A"), toy_graph(0, "T")
    fold = training.make_folds([train_graph, test_graph], {"A": [1], "T": [1]}, [["A"], ["T"]])[1]
    results = []
    for one in (test_graph, spoiled(test_graph, [1])):
        graphs = [train_graph, one]
        model = training.train(graphs, fold.pools(graphs), QUICK, CPU)
        results.append(training.predict(model, one, [1], CPU))
    assert np.array_equal(results[0], results[1])


def no_overlap(graph):
    from scipy import sparse
    return sparse.csr_array((graph.n_spots, graph.n_spots), dtype=np.float32)


def test_same_seed_same_model_and_another_seed_another():
    graph = toy_graph()
    pools = {"T": graph.in_layers([1])}
    one, two, other = (training.predict(training.train([graph], pools, dataclasses.replace(QUICK, seed=seed), CPU), graph, [1], CPU)
                       for seed in (3, 3, 4))
    assert np.array_equal(one, two) and not np.array_equal(one, other)


def test_it_learns_more_than_the_mean_and_the_nearest_spot():
    graph = toy_graph(noise=0.5)
    model = training.train([graph], {"T": graph.in_layers([1])}, dataclasses.replace(QUICK, max_iterations=150), CPU)
    target = graph.in_layers([2, 3]).numpy()
    error = lambda predicted: float(((predicted - graph.label.numpy())[target] ** 2).mean())
    floors = training.floor_predictions(graph, [1], no_overlap(graph))
    assert error(training.predict(model, graph, [1], CPU)) < min(error(floors["mean"]), error(floors["nearest"]))


def test_nan_stops_with_a_message():
    graph = toy_graph()
    with pytest.raises(FloatingPointError, match="iteration .*--base_lr"):
        training.train([graph], {"T": graph.in_layers([1])}, dataclasses.replace(QUICK, base_lr=1e30, optimizer="sgd"), CPU)


def test_no_label_is_a_clear_error():
    graph = toy_graph()
    with pytest.raises(DataError, match="0 labelled spots"):
        training.train([graph], {"T": torch.zeros(graph.n_spots, dtype=torch.bool)}, QUICK, CPU)


# episodes and folds ----------------------------------------------------------------------------------
def test_episodes_stay_in_the_pool_and_hide_what_they_score():
    graph = toy_graph()
    generator = np.random.default_rng(0)
    for layers in ([1], [1, 2, 3]):
        pool = graph.in_layers(layers).numpy()
        for _ in range(50):
            shown, hidden = training.draw_episode(graph.layer.numpy(), graph.position.numpy(), pool, generator)
            assert not (shown & hidden).any() and np.array_equal(shown | hidden, pool) and hidden.any() and shown.any()


def test_discs_hide_the_share_and_are_compact():
    graph = toy_graph()
    pool = graph.in_layers([1]).numpy()
    hidden = training.discs(graph.position.numpy(), pool, 0.25, (2.0,), np.random.default_rng(0))
    assert hidden.sum() == 16
    position = graph.position.numpy()[hidden]
    distance = np.linalg.norm(position[:, None] - position[None], axis=2) + 99 * np.eye(16)
    assert (distance.min(axis=1) < 1.5).mean() > 0.8


def test_validation_spots_are_never_in_the_loss(monkeypatch):
    graph = toy_graph()
    pools = {"T": graph.in_layers([1])}
    validation = training.split_validation([graph], pools, 0)["T"]
    assert 0 < validation.sum() <= 0.16 * pools["T"].sum() and not (validation & ~pools["T"]).any()
    seen = set()
    original = training.episode_loss

    def watch(model, graph, prepared, shown, rows, *rest):
        seen.update(rows.tolist())
        return original(model, graph, prepared, shown, rows, *rest)
    monkeypatch.setattr(training, "episode_loss", watch)
    training.train([graph], pools, QUICK, CPU)
    assert seen and not seen & set(torch.where(validation)[0].tolist())


def test_folds_give_a_test_sample_only_its_known_layers():
    graphs = [toy_graph(k, name) for k, name in enumerate("ABCD")]
    known = {name: [1] for name in "ABCD"}
    folds = training.make_folds(graphs, known, [["A", "B"], ["C", "D"], ["E"]])
    assert [fold.test_samples for fold in folds] == [["A", "B"], ["C", "D"]]
    assert folds[0].training_layers == {"A": [1], "B": [1], "C": [1, 2, 3], "D": [1, 2, 3]}
    assert folds[0].target_layers == {"A": [2, 3], "B": [2, 3]}
    single = training.make_folds(graphs[:1], known, [["A"], ["B"]])
    assert len(single) == 1 and single[0].training_layers == {"A": [1]}


def test_learning_rate_decays_as_published():
    settings = training.Settings(base_lr=0.001, max_iterations=100)
    assert training.learning_rate(settings, 0) == 0.001
    assert training.learning_rate(settings, 50) == pytest.approx(0.001 * 0.5 ** 0.9)
