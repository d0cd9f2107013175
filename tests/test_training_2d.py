"""2D: no label of a test layer is seen, the picture is, what is held out stops the training, an encoder learns."""
import dataclasses

import numpy as np
import pytest
import torch
from toys import layers_of, permuted, toy_graph

from common.errors import DataError
from evaluation.metrics import layer_metrics
from models.encoder import SpotEncoder
from models.losses import one_minus_pcc
from training import two_d
from training.episodes import prepare
from training.loop import optimise
from training.settings import Settings

CPU = torch.device("cpu")
QUICK = Settings(max_iterations=30, members=2)


def stack() -> tuple[list, list]:
    """Two samples that train and one that is tested: graphs of single layers, and the labels that may be used."""
    graphs = []
    for k, name in enumerate("ABT"):
        graphs += layers_of(toy_graph(k, name))
    return graphs, [graph.has_label if graph.sample != "T" else torch.zeros_like(graph.has_label) for graph in graphs]


def test_a_test_layer_is_predicted_from_its_picture_far_better_than_by_the_mean():
    graphs, pools = stack()
    model = two_d.train(graphs, pools, Settings(max_iterations=100, members=1), CPU)
    for graph in graphs[6:]:
        label = graph.label.numpy()
        ours = layer_metrics(two_d.predict(model, graph, CPU), label)
        mean = layer_metrics(np.repeat(model.mean.numpy()[None], len(label), axis=0), label)
        assert ours["mse"] < 0.8 * mean["mse"] and ours["pcc_gene"] > 0.5 and mean["pcc_gene"] == 0


def test_labels_of_test_layers_enter_nothing():
    graphs, pools = stack()
    spoiled = list(graphs)
    for k, graph in enumerate(graphs):
        if graph.sample == "T":
            spoiled[k] = dataclasses.replace(graph, label=graph.label + 7 * torch.randn_like(graph.label),
                                             region_label=-graph.region_label, global_label=graph.global_label * 0)
    predicted = []
    for some in (graphs, spoiled):
        model = two_d.train(some, pools, QUICK, CPU)
        predicted.append([two_d.predict(model, graph, CPU) for graph in some])
    assert all(np.array_equal(one, other) for one, other in zip(*predicted, strict=True))


def test_the_order_of_the_spots_does_not_matter():
    graphs, pools = stack()
    model = two_d.train(graphs, pools, QUICK, CPU)
    graph, order = graphs[-1], torch.randperm(graphs[-1].n_spots, generator=torch.Generator().manual_seed(0))
    one, other = two_d.predict(model, permuted(graph, order), CPU), two_d.predict(model, graph, CPU)
    assert np.allclose(one, other[order.numpy()], atol=1e-5)


def test_every_level_of_the_image_changes_the_prediction():
    graphs, pools = stack()
    model = two_d.train(graphs, pools, QUICK, CPU)
    graph = graphs[-1]
    before = two_d.predict(model, graph, CPU)
    for name in ("feature", "region_feature", "global_feature"):
        value = getattr(graph, name)
        noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
        changed = dataclasses.replace(graph, **{name: value + noise})
        assert np.abs(two_d.predict(model, changed, CPU) - before).max() > 1e-4, name


@pytest.mark.parametrize("kept, coarse", [("ABT", "sample"), ("A", "layer"), ("1", "disc")])
def test_what_stops_a_member_is_the_coarsest_thing_that_can_be_held_out(kept, coarse):
    graphs, _ = stack()
    last = graphs[-1]
    graphs[-1] = dataclasses.replace(last, label=last.label[:50], has_label=last.has_label[:50])  # of another size
    used = [graph.sample in kept or (kept == "1" and k == 0) for k, graph in enumerate(graphs)]
    pools = [graph.has_label & use for graph, use in zip(graphs, used, strict=True)]
    held_units = set()
    for member in range(3):
        learn, held = two_d.split(graphs, pools, member, seed=0)
        for pool, one, other in zip(pools, learn, held, strict=True):
            assert torch.equal(one | other, pool) and not (one & other).any()
        assert any(one.any() for one in learn) and any(one.any() for one in held)
        touched = [k for k, one in enumerate(held) if one.any()]
        whole = [torch.equal(held[k], pools[k]) for k in touched]
        if coarse == "sample":
            assert all(whole) and len({graphs[k].sample for k in touched}) == 1 and len(touched) == 3
        elif coarse == "layer":
            assert all(whole) and len(touched) == 1
        else:
            assert not any(whole) and touched == [0] and 0.1 < held[0].float().mean() < 0.3
        held_units.add(tuple(held[touched[0]].tolist()) + tuple(touched))
    assert len(held_units) == 3  # each member holds out another


def test_a_patch_that_holds_a_spot_held_out_is_not_in_the_loss():
    graph = layers_of(toy_graph(0))[0]
    pool = torch.ones(graph.n_spots, dtype=torch.bool)
    pool[torch.where(graph.region_of_spot == 2)[0][0]] = False
    model = two_d.build_model([graph], [pool], QUICK, None)
    regions, globals_ = two_d.make_training_layer(graph, pool, prepare(graph, model.projection), CPU, None).patches
    assert regions.tolist() == [0, 1, 3] and globals_.tolist() == []


def test_the_loss_is_the_published_one():
    graph = layers_of(toy_graph(0))[0]
    pool = torch.ones(graph.n_spots, dtype=torch.bool)
    model = two_d.build_model([graph], [pool], QUICK, None)
    layer = two_d.make_training_layer(graph, pool, prepare(graph, model.projection), CPU, None)
    spots, member = torch.arange(5), model.members[0].eval()
    torch.nn.init.normal_(member.levels.heads["spot"][1].weight)
    torch.nn.init.normal_(member.levels.heads["region"][1].weight)
    total, _ = two_d.layer_loss(model, member, layer, spots, 0.0, None)
    torch.manual_seed(0)
    out = member(layer.sample, layer.edges, layer.edge_attr)
    expression = layer.mean + model.residual(out["spot"])[spots]
    region = layer.mean + model.level_offset[0] + model.residual(out["region"])
    global_ = layer.mean + model.level_offset[1] + model.residual(out["global"])
    label = graph.label[spots]
    expected = (0.75 * ((expression - label) ** 2).mean() + 0.1 * one_minus_pcc(expression, label)
                + 0.1 * (one_minus_pcc(region, graph.region_label) + one_minus_pcc(global_, graph.global_label))
                + 0.1 * (one_minus_pcc(region[graph.region_of_spot[spots]], label)
                         + one_minus_pcc(global_[graph.global_of_spot[spots]], label)))
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_weights_kept_are_those_that_were_best_on_what_is_held_out():
    network, errors = torch.nn.Linear(1, 1, bias=False), iter([3.0, 1.0, 2.0])
    seen = []

    def validate(average) -> float:
        seen.append(average.weight.item())
        return next(errors)
    settings = Settings(max_iterations=30, validate_every=10)
    optimise(network, lambda k: ((network.weight - 5).square().sum(), {}, "toy"), settings, validate=validate)
    assert network.weight.item() == seen[1] and len(set(seen)) == 3


def test_too_few_labels_end_the_training():
    graphs, _ = stack()
    with pytest.raises(DataError, match="0 labelled spots"):
        two_d.train(graphs, [torch.zeros_like(graph.has_label) for graph in graphs], QUICK, CPU)


# an encoder of its own -------------------------------------------------------------------------------
class Tiny(torch.nn.Module):
    """In place of a timm model."""
    num_features = 6

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 16, stride=16), torch.nn.BatchNorm2d(6),
                                        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())

    def forward(self, x):
        return self.body(x)


def coloured(graph) -> torch.Tensor:
    """Pictures whose colour follows the first three features: (n, 224, 224, 3) uint8."""
    colour = (128 + 40 * graph.feature[:, :3]).clamp(0, 255).to(torch.uint8)
    return colour[:, None, None].expand(-1, 224, 224, -1)


def test_an_encoder_learns_and_its_batch_statistics_stay():
    graphs, pools = stack()
    graphs, pools = [graphs[k] for k in (0, 3, 6)], [pools[k] for k in (0, 3, 6)]
    torch.manual_seed(0)
    encoder = SpotEncoder(Tiny(), (0.5,) * 3, (0.2,) * 3)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    settings = Settings(max_iterations=8, members=1, validate_every=4, batch_size=8)
    model = two_d.train(graphs, pools, settings, CPU, encoder=encoder, pictures=[coloured(graph) for graph in graphs])
    after = model.members[0].encoder.state_dict()
    assert not torch.equal(before["model.body.0.weight"], after["model.body.0.weight"])
    assert all(torch.equal(before[name], after[name]) for name in before if "running" in name)
    pictures = coloured(graphs[2])
    predicted = two_d.predict(model, graphs[2], CPU, pictures)
    other = two_d.predict(model, graphs[2], CPU, pictures.flip(0))
    assert np.abs(predicted - other).max() > 1e-4
