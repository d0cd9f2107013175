"""The released arithmetic: equal to the golden outputs, with the faults that the README names."""
import dataclasses

import numpy as np
import pytest
import torch
from conftest import ROOT

from common.errors import DataError
from common.io import write_pt
from models import reference
from models.losses import one_minus_pcc
from training import reference_recipe

GOLDEN = ROOT / "tests" / "golden"
DIMENSIONS = ("2d", "3d")


def read_golden(name: str) -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: torch.from_numpy(np.asarray(file[key], np.float32)) for key in file.files}


def state_of(golden: dict) -> dict[str, torch.Tensor]:
    return {name.removeprefix("w/"): value for name, value in golden.items() if name.startswith("w/")}


def edges_of(adjacency: torch.Tensor) -> torch.Tensor:
    """Row i of a 0/1 adjacency holds the sources of node i."""
    return torch.nonzero(adjacency).T.flip(0)


def forward(golden: dict, model: reference.Reference | None = None) -> tuple[torch.Tensor, ...]:
    model = model or reference.from_state(state_of(golden), heads=4)[0]
    names = ("region_feature_of_spot", "global_feature_of_spot", "region_features", "global_features")
    features = [golden[name] for name in names]
    edges = [edges_of(golden[name]) for name in ("adjacency", "region_adjacency", "global_adjacency")]
    with torch.no_grad():
        return model(*features, *edges, golden.get("known_labels"))


def toy(seed: int = 0, n: int = 60, n_genes: int = 6, width: int = 16) -> reference.ReferenceGraph:
    """Graph of n spots, 6 regions, 2 globals; the region's feature determines the labels."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    def some(n_nodes: int, n_edges: int) -> torch.Tensor:
        return torch.randint(0, n_nodes, (2, n_edges), generator=generator)

    region, region_of_spot = draw(6, width), torch.arange(n) % 6
    region_label = region[:, :n_genes] - 3
    return reference.ReferenceGraph(
        region_feature=region, global_feature=draw(2, width),
        region_of_spot=region_of_spot, global_of_spot=torch.arange(n) % 2,
        spot_edges=some(n, 4 * n), region_edges=some(6, 20), global_edges=some(2, 2),
        label=region_label[region_of_spot] + 0.1 * draw(n, n_genes),
        region_label=region_label, global_label=draw(2, n_genes), region_in_loss=torch.ones(6, dtype=torch.bool),
        global_in_loss=torch.ones(2, dtype=torch.bool))


def quick_train(graph: reference.ReferenceGraph, pool: torch.Tensor, **options) -> reference.Reference:
    return reference.train([graph], [pool], heads=2, **{"three_d": True, "epochs": 2, "batch_size": 16, **options})


def same(one: reference.Reference, other: reference.Reference) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# fidelity --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_outputs_are_the_golden_ones(dimension):
    golden = read_golden(f"model_{dimension}")
    for level, out in zip(("spot", "region", "global"), forward(golden), strict=True):
        torch.testing.assert_close(out, golden[f"out_{level}"], atol=1e-5, rtol=0)


def test_propagation_is_the_golden_one():
    pieces = read_golden("pieces")
    out = reference.propagate(pieces["lp_known"], edges_of(pieces["lp_adjacency"]))
    torch.testing.assert_close(out, pieces["lp_out"], atol=1e-6, rtol=0)
    known = pieces["lp_known"].sum(dim=1) != 0
    assert torch.equal(out[known], pieces["lp_known"][known])


def test_pcc_is_the_golden_one():
    pieces = read_golden("pieces")
    value = one_minus_pcc(pieces["pred"], pieces["target"])
    torch.testing.assert_close(value, pieces["pcc_loss"], atol=1e-6, rtol=0)
    torch.testing.assert_close(1 - value, pieces["pcc"], atol=1e-6, rtol=0)


def test_neighbour_mean_is_the_row_normalised_adjacency():
    adjacency = read_golden("pieces")["lp_adjacency"].clone()
    adjacency[3] = 0  # a node without neighbours
    x = torch.randn(len(adjacency), 4, generator=torch.Generator().manual_seed(0))
    expected = adjacency / adjacency.sum(dim=1, keepdim=True).clamp_min(1e-10) @ x
    torch.testing.assert_close(reference.neighbour_mean(x, edges_of(adjacency)), expected)


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_the_score_of_a_node_never_acts(dimension):
    golden = read_golden(f"model_{dimension}")
    model = reference.from_state(state_of(golden), heads=4)[0]
    for name, parameter in model.named_parameters():
        if any(part in name for part in reference.UNUSED):
            parameter.data.normal_(generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(forward(golden, model)[0], golden["out_spot"], atol=1e-5, rtol=0)


# checkpoints -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_a_released_checkpoint_is_read_and_what_never_acts_is_listed(dimension, tmp_path):
    golden = read_golden(f"model_{dimension}")
    state = state_of(golden) | {"encoder.conv1.weight": torch.zeros(4, 3, 7, 7)}
    write_pt(tmp_path / "best.pt", state)
    model, listed = reference_recipe.read_checkpoint(tmp_path / "best.pt", heads=4)
    torch.testing.assert_close(forward(golden, model)[0], golden["out_spot"], atol=1e-5, rtol=0)
    assert {"encoder.conv1.weight", "gene_head_512.0.bias", "transformer.encoder_layer.norm1.weight",
            "gat_layer_224.0.att_weight", "cross_attention_512.query_proj.weight"} <= set(listed)
    assert ("lstm_512.0.bias_hh_l0" in listed) == (dimension == "2d")
    acting = {name for name in state if name not in listed}
    for name in ("alpha", "cross_attention_512.value_proj.weight", "transformer.positional_encoding",
                 "gene_head_250.1.bias"):
        assert (name in acting) == (name in state)


@pytest.mark.parametrize("spoil", ["missing", "unknown", "shape", "heads", "other"])
def test_another_checkpoint_is_refused_in_one_line(spoil):
    state = state_of(read_golden("model_3d"))
    if spoil == "missing":
        del state["gat_layer_512.1.weight"]
    elif spoil == "unknown":
        state["surprise"] = torch.zeros(1)
    elif spoil == "shape":
        state["alpha"] = torch.zeros(3)
    elif spoil == "other":
        state = {"weight": torch.zeros(1)}
    with pytest.raises(DataError) as error:
        reference.from_state(state, heads=5 if spoil == "heads" else 4, file="best.pt")
    assert str(error.value).startswith("best.pt: ") and "\n" not in str(error.value)


# training --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("three_d", [True, False])
def test_the_loss_by_hand(three_d):
    graph = toy()
    out = (graph.label + 1, graph.region_label * -1, graph.global_label * 2)
    consistency = one_minus_pcc(-graph.region_label[graph.region_of_spot], graph.label) + one_minus_pcc(
        2 * graph.global_label[graph.global_of_spot], graph.label)
    factor = 0.125 if three_d else 0.1
    expected = 0.75 * 1 + 0 + factor * (2 + 0) + factor * consistency  # MSE 1, spots PCC 1; regions PCC -1, globals 1
    torch.testing.assert_close(reference.loss(out, graph, three_d), expected)


def test_a_sub_graph_keeps_the_edges_between_its_spots():
    rows = torch.tensor([5, 2, 40])
    graph = dataclasses.replace(toy(), spot_edges=torch.tensor([[2, 5, 40, 1, 2], [5, 40, 2, 2, 3]]))
    small = graph.of_spots(rows)
    assert small.spot_edges.tolist() == [[1, 0, 2], [0, 2, 1]]
    assert torch.equal(small.label, graph.label[rows]) and torch.equal(small.region_of_spot, graph.region_of_spot[rows])


@pytest.mark.parametrize("three_d", [True, False])
def test_training_lowers_the_loss(three_d):
    values = []
    quick_train(toy(), torch.ones(60, dtype=torch.bool), three_d=three_d, epochs=10, base_lr=0.05,
                log=lambda _, value: values.append(value["train/loss"]))
    assert np.mean(values[-4:]) < 0.3 * values[0]


def test_no_other_label_is_read():
    graph, pool = toy(), torch.arange(60) < 30
    graph = dataclasses.replace(graph, region_in_loss=torch.arange(6) < 3)
    other = dataclasses.replace(graph, label=torch.where(pool.unsqueeze(1), graph.label, 1e6),
                                region_label=torch.where((torch.arange(6) < 3).unsqueeze(1), graph.region_label, 1e6))
    assert same(quick_train(graph, pool), quick_train(other, pool))


def test_the_recipe_is_51_epochs_of_128_spots_and_seeded():
    rates = []
    graphs = [toy(0, n=140, width=4, n_genes=4), toy(1, width=4, n_genes=4)]
    pools = [torch.ones(len(graph.label), dtype=torch.bool) for graph in graphs]

    def log(iteration: int, values: dict[str, float]) -> None:
        rates.append(values["train/lr"])

    model = reference.train(graphs, pools, True, heads=2, log=log)
    assert np.allclose(rates, 0.001 * (1 - np.arange(51 * 3) / (51 * 3)) ** 0.9)
    assert same(quick_train(graphs[1], pools[1]), quick_train(graphs[1], pools[1]))
    assert not same(quick_train(graphs[1], pools[1]), quick_train(graphs[1], pools[1], seed=1))
    assert not model.training


def test_known_labels_reach_their_neighbours_only_in_3d():
    graph = dataclasses.replace(toy(), spot_edges=torch.tensor([[0], [1]]))
    nobody, first = torch.zeros(60, dtype=torch.bool), torch.arange(60) == 0
    for three_d in (True, False):
        model = quick_train(graph, ~first, three_d=three_d)
        with_label, without = (reference.predict(model, graph, known) for known in (first, nobody))
        change = (with_label - without).abs().amax(dim=1) > 1e-6
        assert torch.where(change)[0].tolist() == ([0, 1] if three_d else [])


def test_a_loss_that_explodes_and_no_label_are_said():
    graph = toy()
    with pytest.raises(FloatingPointError, match="the loss is .* at iteration"):
        quick_train(graph, torch.ones(60, dtype=torch.bool), base_lr=1e9, epochs=20)
    with pytest.raises(DataError):
        quick_train(graph, torch.zeros(60, dtype=torch.bool))
