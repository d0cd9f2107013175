"""The released arithmetic on our graphs: no label of a target layer is read, and the graph is that of the release."""
import dataclasses
import functools

import numpy as np
import pytest
import torch
from toys import layers_of, toy_graph

from common.device import start_torch
from common.io import read_pt, write_pt
from training import reference_recipe

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def as_the_mains_begin_but_three_epochs(monkeypatch):
    start_torch(0, "cpu")
    reference = reference_recipe.reference
    monkeypatch.setattr(reference, "train", functools.partial(reference.train, epochs=3))


def stage(three_d: bool):
    """Graphs, pools and the context of the last one: sample A trains, of T layer 1 alone (3D), or nothing (2D)."""
    samples = [toy_graph(1, "A"), toy_graph(0, "T")]
    if three_d:
        known = samples[1].in_layers([1])
        return samples, [samples[0].has_label, known], known
    graphs = layers_of(samples[0]) + layers_of(samples[1])
    return graphs, [graph.has_label & (graph.sample == "A") for graph in graphs], torch.zeros(64, dtype=torch.bool)


def spoiled(graph, pool):
    """The graph with noise for the labels outside the pool, and for those of the patches of other layers."""
    layers = torch.unique(graph.layer[pool])

    def noise(label: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        other = torch.randn(label.shape, generator=torch.Generator().manual_seed(5)) * 30
        return torch.where(keep.unsqueeze(1), label, other)

    return dataclasses.replace(graph, label=noise(graph.label, pool),
                               region_label=noise(graph.region_label, torch.isin(graph.region_layer, layers)),
                               global_label=noise(graph.global_label, torch.isin(graph.global_layer, layers)))


@pytest.mark.parametrize("three_d", [True, False])
def test_target_labels_enter_nothing(three_d):
    graphs, pools, context = stage(three_d)
    answers = []
    for given in (graphs, [spoiled(graph, pool) for graph, pool in zip(graphs, pools, strict=True)]):
        model, projection = reference_recipe.train(given, pools, three_d, 16, 0, CPU)
        predicted = reference_recipe.predict(model, given[-1], context, projection)
        answers.append((predicted, projection, model.state_dict()))
    assert np.array_equal(answers[0][0], answers[1][0]) and torch.equal(answers[0][1], answers[1][1])
    assert all(torch.equal(value, answers[1][2][name]) for name, value in answers[0][2].items())


@pytest.mark.parametrize("three_d", [True, False])
def test_a_checkpoint_gives_the_same_prediction(three_d, tmp_path):
    graphs, pools, context = stage(three_d)
    model, projection = reference_recipe.train(graphs, pools, three_d, 16, 0, CPU)
    write_pt(tmp_path / "checkpoint.pt", reference_recipe.checkpoint(model, projection))
    again, projection_again = reference_recipe.from_checkpoint(read_pt(tmp_path / "checkpoint.pt"))
    one = reference_recipe.predict(model, graphs[-1], context, projection)
    assert one.shape == graphs[-1].label.shape and one.dtype == np.float32 and np.isfinite(one).all()
    assert again.three_d == three_d
    assert np.array_equal(one, reference_recipe.predict(again, graphs[-1], context, projection_again))


def test_known_labels_are_used_in_3d_alone():
    for three_d in (True, False):
        graphs, pools, _ = stage(three_d)
        model, projection = reference_recipe.train(graphs, pools, three_d, 16, 0, CPU)
        some = torch.arange(graphs[-1].n_spots) < 20
        answers = []
        for context in (some, torch.zeros_like(some)):
            answers.append(reference_recipe.predict(model, graphs[-1], context, projection))
        assert np.array_equal(*answers) != three_d


def test_the_spot_graph_is_the_samples_own_in_3d_and_the_8_nearest_on_the_array_in_2d():
    graph = toy_graph(0)
    layer = layers_of(graph)[0]
    projection = torch.eye(graph.feature.shape[1])
    in_3d = reference_recipe.reference_graph(graph, graph.has_label, projection, True)
    assert torch.equal(in_3d.spot_edges, graph.spot_edges)
    source, target = reference_recipe.reference_graph(layer, layer.has_label, projection, False).spot_edges
    assert (torch.bincount(target) == 8).all()
    middle = np.flatnonzero((layer.array == 3).all(axis=1))[0]
    around = layer.array[source[target == middle].numpy()] - 3
    assert sorted(map(tuple, around.tolist())) == [
        (-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
    corner = np.flatnonzero((layer.array == 0).all(axis=1))[0]
    assert (target[source == int(corner)]).numel() < 8  # directed


def test_a_patch_with_a_label_outside_the_pool_is_not_in_the_loss():
    graph = toy_graph(0)
    pool = graph.in_layers([1, 2])
    pool[torch.where((graph.region_of_spot == 5))[0][0]] = False  # of layer 2
    ours = reference_recipe.reference_graph(graph, pool, torch.eye(graph.feature.shape[1]), True)
    assert torch.where(ours.region_in_loss)[0].tolist() == [0, 1, 2, 3, 4, 6, 7]
    assert torch.where(ours.global_in_loss)[0].tolist() == [0]
    unlabelled = dataclasses.replace(graph, has_label=graph.has_label & pool)
    ours = reference_recipe.reference_graph(unlabelled, pool, torch.eye(graph.feature.shape[1]), True)
    assert ours.region_in_loss[:8].all()


def test_the_features_of_all_layers_pass_one_map_of_the_width_asked_for():
    feature = torch.randn(400, 150, generator=torch.Generator().manual_seed(0))
    projection = reference_recipe.draw_projection(150, 64, 3)
    assert projection.shape == (150, 64) and 0.9 < (feature @ projection).std(dim=0).mean() < 1.1
    assert torch.equal(projection, reference_recipe.draw_projection(150, 64, 3))
    graphs, pools, _ = stage(False)
    model, drawn = reference_recipe.train(graphs, pools, False, 16, 3, CPU)
    assert torch.equal(drawn, reference_recipe.draw_projection(20, 16, 3))
