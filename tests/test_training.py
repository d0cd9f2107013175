"""Training: no leak, determinism, folds, NaN, and that it learns."""
import dataclasses

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from toys import layers_of, toy_graph

from common.config import absent_of_folds
from common.device import start_torch
from common.errors import DataError
from evaluation.scores import baseline_predictions
from models import gp
from models.discs import discs
from training import three_d, two_d
from training.episodes import draw_hidden
from training.folds import groups_of, make_folds
from training.loop import learning_rate
from training.process import fit_process, gaussian_process
from training.settings import Settings

CPU = torch.device("cpu")
QUICK = Settings(max_iterations=30, members=2)
KERNEL = gp.Kernel(rank=4)


@pytest.fixture(autouse=True)
def as_main_3d_begins():
    """One thread and deterministic kernels, whatever a test before set in this process."""
    start_torch(0, "cpu")


def spoiled(graph, known):
    """The same graph with the labels of all layers but the known ones replaced by noise (spots, regions, globals)."""
    def noise(label, keep):
        other = torch.randn(label.shape, generator=torch.Generator().manual_seed(5)) * 30
        return torch.where(keep.unsqueeze(1), label, other)
    keep = torch.tensor(known)
    return dataclasses.replace(graph, label=noise(graph.label, graph.in_layers(known)),
                               region_label=noise(graph.region_label, torch.isin(graph.region_layer, keep)),
                               global_label=noise(graph.global_label, torch.isin(graph.global_layer, keep)))


def test_target_labels_enter_nothing():
    """Noise in place of the target layers' labels: model and predictions are bit-identical."""
    graph = toy_graph()
    results = []
    for one in (graph, spoiled(graph, [1])):
        process = fit_process(one, [1])
        model = three_d.train([one], {"T": one.in_layers([1])}, {"T": process}, QUICK, CPU)
        classical = baseline_predictions(one, [1], no_overlap(one)) | gaussian_process(one, process, with_sd=True)
        results.append((three_d.predict(model, one, process, [1], CPU)["expression"], model.state_dict(), classical))
    assert np.array_equal(results[0][0], results[1][0])
    assert all(torch.equal(value, results[1][1][name]) for name, value in results[0][1].items())
    assert all(np.array_equal(value, results[1][2][name]) for name, value in results[0][2].items())


def test_target_labels_of_a_test_sample_enter_nothing_beside_training_samples():
    train_graph, test_graph = toy_graph(1, "A"), toy_graph(0, "T")
    fold = make_folds({"A": [1, 2, 3], "T": [1, 2, 3]}, {"A": [1], "T": [1]}, [["A"], ["T"]])[1]
    results = []
    for one in (test_graph, spoiled(test_graph, [1])):
        graphs = [train_graph, one]
        processes = {graph.sample: fit_process(graph, [1], KERNEL) for graph in graphs}
        model = three_d.train(graphs, fold.pools(graphs), processes, QUICK, CPU)
        results.append(three_d.predict(model, one, processes["T"], [1], CPU)["expression"])
    assert np.array_equal(results[0], results[1])


class OneDevice(TorchDispatchMode):
    """An operation on tensors of two devices raises, as on a GPU; copies and indices from the CPU are allowed."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor) and one.dim()]
        devices = {one.device.type for one in tensors}
        if len(devices) > 1 and not str(operation).startswith(("aten.copy_", "aten.index.")):
            raise RuntimeError(f"{operation} on {sorted(devices)}")
        return operation(*args, **(kwargs or {}))


def one_step_on_meta(monkeypatch, train):
    """One pass and the loss of every member on torch's device without data."""
    monkeypatch.setattr(torch.Tensor, "item", lambda self: 0.0)
    seen = []

    def one_step(network, loss_at, *_, **__):
        loss, _, _ = loss_at(0)
        seen.append(loss.device.type)
    for module in (three_d, two_d):
        monkeypatch.setattr(module, "optimise", one_step)
    with OneDevice():
        train(torch.device("meta"))
    return seen


def test_training_leaves_no_tensor_on_the_cpu(monkeypatch):
    graph = toy_graph()
    process = fit_process(graph, [1], KERNEL)
    pools, layers = {"T": graph.in_layers([1])}, layers_of(graph)
    used = [one.has_label for one in layers]
    in_3d = one_step_on_meta(monkeypatch, lambda device: three_d.train([graph], pools, {"T": process}, QUICK, device))
    in_2d = one_step_on_meta(monkeypatch, lambda device: two_d.train(layers, used, QUICK, device))
    assert in_3d == in_2d == ["meta"] * 2


def no_overlap(graph):
    from scipy import sparse
    return sparse.csr_array((graph.n_spots, graph.n_spots), dtype=np.float32)


def test_same_seed_same_model_and_another_seed_another():
    graph = toy_graph()
    pools = {"T": graph.in_layers([1])}
    process = fit_process(graph, [1], KERNEL)
    predicted = []
    for seed in (3, 3, 4):
        model = three_d.train([graph], pools, {"T": process}, dataclasses.replace(QUICK, seed=seed), CPU)
        predicted.append(three_d.predict(model, graph, process, [1], CPU)["expression"])
    one, two, other = predicted
    assert np.array_equal(one, two) and not np.array_equal(one, other)


def test_it_learns_more_than_the_mean_and_the_nearest_spot():
    graph = toy_graph(noise=0.5)
    process = fit_process(graph, [1], KERNEL)
    settings = dataclasses.replace(QUICK, max_iterations=100)
    model = three_d.train([graph], {"T": graph.in_layers([1])}, {"T": process}, settings, CPU)
    target = graph.in_layers([2, 3]).numpy()

    def error(predicted: np.ndarray) -> float:
        return float(((predicted - graph.label.numpy())[target] ** 2).mean())

    baselines = baseline_predictions(graph, [1], no_overlap(graph))
    untrained = three_d.build_model([graph], {"T": graph.in_layers([1])}, QUICK)
    answers = [three_d.predict(one, graph, process, [1], CPU)["expression"] for one in (model, untrained)]
    assert error(answers[0]) < min(error(baselines["mean"]), error(baselines["nearest"]), error(answers[1]))


def test_nan_stops_with_a_message():
    graph = toy_graph()
    with pytest.raises(FloatingPointError, match="iteration .*--base_lr"):
        three_d.train([graph], {"T": graph.in_layers([1])}, {"T": fit_process(graph, [1], KERNEL)},
                       dataclasses.replace(QUICK, base_lr=1e30, optimizer="sgd"), CPU)


def test_no_label_is_a_clear_error():
    graph = toy_graph()
    with pytest.raises(DataError, match="0 labelled spots"):
        three_d.train([graph], {"T": torch.zeros(graph.n_spots, dtype=torch.bool)}, {}, QUICK, CPU)
    with pytest.raises(DataError, match="--width.*30.*a multiple of the 4"):
        Settings(width=30)
    with pytest.raises(DataError, match="sample T.*0 labelled spots"):
        fit_process(graph, [])


# episodes and folds ----------------------------------------------------------------------------------
def test_an_episode_hides_discs_or_one_layer_and_never_all():
    graph = toy_graph()
    generator, kinds = np.random.default_rng(0), set()
    for layers in ([1], [1, 2, 3]):
        rows = graph.in_layers(layers).numpy()
        position, layer = graph.position.numpy()[rows], graph.layer.numpy()[rows]
        for _ in range(50):
            hidden = draw_hidden(position, layer, generator)
            whole = [bool(hidden[layer == one].all()) for one in layers]
            assert hidden.any() and not hidden.all() and sum(whole) <= 1
            if sum(whole):
                assert np.array_equal(hidden, layer == layers[whole.index(True)])
            else:
                assert all(abs(hidden[layer == one].sum() - 16) <= 1 for one in layers)
            kinds.add((len(layers), any(whole)))
    assert kinds == {(1, False), (3, False), (3, True)}


def test_discs_hide_the_share_and_are_compact():
    graph = toy_graph()
    pool = graph.in_layers([1]).numpy()
    hidden = discs(graph.position.numpy(), pool, 0.25, (2.0,), np.random.default_rng(0))
    assert hidden.sum() == 16
    position = graph.position.numpy()[hidden]
    distance = np.linalg.norm(position[:, None] - position[None], axis=2) + 99 * np.eye(16)
    assert (distance.min(axis=1) < 1.5).mean() > 0.8


def test_a_spot_in_the_loss_is_hidden_from_what_the_network_reads(monkeypatch):
    """The labels of the spots in the loss are in no input of that step: neither in the context nor imputed."""
    graph, seen = toy_graph(), []
    original = three_d.episode_loss

    def watch(model, member, training, episode, mean, in_loss, *rest):
        seen.append((episode, in_loss))
        return original(model, member, training, episode, mean, in_loss, *rest)
    monkeypatch.setattr(three_d, "episode_loss", watch)
    three_d.train([graph], {"T": graph.in_layers([1])}, {"T": fit_process(graph, [1], KERNEL)}, QUICK, CPU)
    assert len(seen) == 60
    for episode, in_loss in seen:
        assert len(in_loss) and episode.query[in_loss].all()
        assert (episode.z[episode.query] == 0).all() and (episode.imputed[~episode.query] == 0).all()
        assert (graph.layer[episode.rows] == 1).all()


def test_folds_give_a_test_sample_only_its_known_layers():
    labelled, known = {name: [1, 2, 3] for name in "ABCD"}, {name: [1] for name in "ABCD"}
    folds = make_folds(labelled, known, [["A", "B"], ["C", "D"]])
    assert [fold.test_samples for fold in folds] == [["A", "B"], ["C", "D"]]
    assert folds[0].training_layers == {"A": [1], "B": [1], "C": [1, 2, 3], "D": [1, 2, 3]}
    assert folds[0].target_layers == {"A": [2, 3], "B": [2, 3]}
    single = make_folds({"A": [1, 2, 3]}, known, [["A"]])
    assert len(single) == 1 and single[0].training_layers == {"A": [1]}
    without_known = make_folds(labelled, {name: [] for name in "ABCD"}, [["A", "B"], ["C", "D"]])  # 2D
    assert without_known[1].training_layers == {"A": [1, 2, 3], "B": [1, 2, 3], "C": [], "D": []}
    assert without_known[1].target_layers == {"C": [1, 2, 3], "D": [1, 2, 3]}


@pytest.mark.parametrize("folds, groups", [
    ([["C", "A"], ["B", "X"], ["Y"]], [["A", "C"], ["B"]]), ("leave_one_out", [["A"], ["B"], ["C"], ["D"], ["E"]]),
    (2, [["A", "B", "C"], ["D", "E"]]), (9, [["A"], ["B"], ["C"], ["D"], ["E"]]),
    (None, [list("ABCDE")]), (1, [list("ABCDE")]), ([["A", "B"], ["X"]], [list("ABCDE")])])
def test_groups_held_out_together(folds, groups):
    assert groups_of(list("EDCBA"), folds) == groups


def test_what_is_missing_of_the_folds_is_said():
    assert absent_of_folds(["A", "C", "D"], [["A", "B"], ["C", "D"], ["E", "F"]]) == [
        "folds[0]: B not there; tests A alone", "folds[2]: E, F not there; left out"]
    assert absent_of_folds(["A"], "leave_one_out") == []


def test_learning_rate_decays_as_published():
    settings = Settings(base_lr=0.001, max_iterations=100)
    assert learning_rate(settings, 0) == 0.001
    assert learning_rate(settings, 50) == pytest.approx(0.001 * 0.5 ** 0.9)
