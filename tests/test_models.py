"""The network's parts: each test names the fault of the released code, or the property, that it guards."""
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import training
from dataloader_3d import SampleGraph
from models.cross_attention import CrossAttention, patch_neighbourhoods
from models.encoder import fit_pca, standardise_per_slide
from models.gat import GATStack
from models.imputation import EdgeWeight, GeneGate, neighbour_softmax, propagate
from models.losses import one_minus_pcc, spot_loss
from models.transformer import LevelTransformer
from conftest import ROOT
from toys import permuted, toy_graph


def fresh_model(graph: SampleGraph, seed: int = 0, **options) -> training.MSAGNet:
    pools = {graph.sample: graph.in_layers([1])}
    model = training.build_model([graph], pools, training.Settings(seed=seed, **options)).eval()
    with torch.no_grad():  # the heads start at zero; give them something to say
        for head in model.heads.values():
            head[1].weight.normal_(generator=torch.Generator().manual_seed(1))
    return model


# encoder ---------------------------------------------------------------------------------------------
def test_standardising_is_per_slide():
    feature, slide = torch.randn(40, 5) * 3 + 7, torch.arange(40) % 2
    out = standardise_per_slide(feature, slide)
    for one in (0, 1):
        assert torch.allclose(out[slide == one].mean(dim=0), torch.zeros(5), atol=1e-5)
        assert torch.allclose(out[slide == one].std(dim=0, unbiased=False), torch.ones(5), atol=1e-4)


def test_a_stain_change_of_one_slide_disappears():
    feature, slide = torch.randn(60, 4), torch.arange(60) // 30
    stained = torch.where((slide == 1).unsqueeze(1), feature * 2.5 - 4, feature)
    assert torch.allclose(standardise_per_slide(feature, slide), standardise_per_slide(stained, slide), atol=1e-4)


def test_pca_axes_have_a_fixed_sign_and_order_of_rows_does_not_matter():
    feature = torch.randn(100, 12) * torch.arange(12, 0, -1)
    axes, scale = fit_pca(feature, 4)
    shuffled, _ = fit_pca(feature[torch.randperm(100)], 4)
    assert torch.allclose(axes, shuffled, atol=1e-4)
    assert torch.allclose((feature @ axes / scale)[:, 0].std(), torch.tensor(1.0), atol=1e-4)


# cross-attention -------------------------------------------------------------------------------------
def test_the_spot_changes_what_is_attended_to():
    """Released code: one key per query, so the query cannot change the output at all."""
    torch.manual_seed(0)
    attention = CrossAttention(8, 2).eval()
    patch, keys = torch.randn(9, 8), torch.arange(9).unsqueeze(0)
    one, other = attention(torch.randn(1, 8), patch, keys), attention(torch.randn(1, 8), patch, keys)
    assert (one - other).abs().max() > 1e-4


def test_absent_neighbours_are_not_attended_to():
    torch.manual_seed(0)
    attention = CrossAttention(8, 2).eval()
    spot, patch = torch.randn(1, 8), torch.randn(3, 8)
    keys = torch.tensor([[1, 2, -1]])
    before = attention(spot, patch, keys)
    patch[0] += 10  # index 0 stands in for -1 and must be masked
    assert torch.equal(before, attention(spot, patch, keys))


def test_neighbourhoods_by_hand():
    pos = torch.tensor([[0, 0], [1, 0], [0, 1], [0, 0]])
    layer = torch.tensor([1, 1, 1, 2])
    keys = patch_neighbourhoods(pos, layer)
    assert [sorted(k for k in row.tolist() if k >= 0) for row in keys] == [[0, 1, 2], [0, 1, 2], [0, 1, 2], [3]]
    assert keys[:, 0].tolist() == [0, 1, 2, 3]


# GAT and Transformer ---------------------------------------------------------------------------------
def test_depths_are_stacked_and_differ():
    """Released code: the three blocks read the same input."""
    torch.manual_seed(0)
    gat = GATStack(8, 2, 3, 1, dropout=0.0).eval()
    edges = torch.tensor([[0, 1, 2], [1, 2, 0]])
    out = gat(torch.randn(3, 8), edges, torch.ones(3, 1))
    assert out.shape == (3, 3, 8)
    assert (out[:, 0] - out[:, 1]).abs().max() > 1e-4 and (out[:, 1] - out[:, 2]).abs().max() > 1e-4


def test_information_travels_one_edge_a_depth():
    torch.manual_seed(0)
    gat = GATStack(8, 2, 3, 1, dropout=0.0).eval()
    edges = torch.tensor([[0, 1, 2], [1, 2, 3]])  # a chain 0 -> 1 -> 2 -> 3
    x = torch.randn(4, 8)
    moved = x.clone()
    moved[0] = torch.randn(8)
    change = (gat(moved, edges, torch.ones(3, 1)) - gat(x, edges, torch.ones(3, 1))).abs().amax(dim=2)  # (4 nodes, 3 depths)
    assert (change > 1e-6).tolist() == [[True] * 3, [True] * 3, [False, True, True], [False, False, True]]


def test_edge_weights_matter():
    torch.manual_seed(0)
    gat = GATStack(8, 2, 1, 1, dropout=0.0).eval()
    edges, x = torch.tensor([[0, 1], [2, 2]]), torch.randn(3, 8)
    assert not torch.allclose(gat(x, edges, torch.tensor([[1.0], [0.0]])), gat(x, edges, torch.tensor([[0.0], [1.0]])))


def test_transformer_does_not_mix_nodes():
    """Released code: (depth, nodes, d) is reshaped, not transposed, so features of different spots are mixed."""
    torch.manual_seed(0)
    transformer = LevelTransformer(8, 2, 3, 1).eval()
    own, parent = torch.randn(5, 3, 8), torch.randn(5, 3, 8)
    before = transformer(own, parent)
    own[0] += 1
    after = transformer(own, parent)
    assert (after[0] - before[0]).abs().max() > 1e-4
    assert torch.allclose(after[1:], before[1:], atol=1e-6)


def test_transformer_uses_the_parent_and_changes_no_input():
    """Released code: the positional encoding is added in place on a view."""
    torch.manual_seed(0)
    transformer = LevelTransformer(8, 2, 3, 1).eval()
    with torch.no_grad():
        transformer.position.normal_()
    own, parent = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    copy = own.clone()
    assert not torch.allclose(transformer(own, parent), transformer(own, parent + torch.randn(2, 3, 8)))
    assert torch.equal(own, copy)


# imputation ------------------------------------------------------------------------------------------
def test_propagation_on_a_chain_by_hand():
    """0 -(w 1)- 1 -(w 3)- 2, node 0 known 0 and node 2 known 4: node 1 gets (1*0 + 3*4) / 4 = 3."""
    edges = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    weight = neighbour_softmax(edges, torch.tensor([1.0, 1.0, 3.0, 3.0]).log(), 3)
    y = propagate(edges, weight, torch.tensor([[0.0], [99.0], [4.0]]), torch.tensor([True, False, True]))
    assert torch.allclose(y, torch.tensor([[0.0], [3.0], [4.0]]))


def test_a_known_label_of_zero_stays_known():
    """Released code: a known spot is recognised by a non-zero label sum."""
    edges = torch.tensor([[0, 1], [1, 0]])
    y = propagate(edges, torch.ones(2), torch.tensor([[0.0], [5.0]]), torch.tensor([True, True]))
    assert y.tolist() == [[0.0], [5.0]]


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_propagated_values_stay_between_the_known_ones(seed):
    generator = torch.Generator().manual_seed(seed)
    n = 12
    edges = torch.randint(0, n, (2, 60), generator=generator)
    weight = neighbour_softmax(edges, torch.randn(60, generator=generator), n)
    known = torch.rand(n, generator=generator) < 0.5
    label = torch.rand(n, 2, generator=generator) + 1
    y = propagate(edges, weight, label, known)
    assert (y <= label[known].max() + 1e-5).all() if known.any() else (y == 0).all()
    assert torch.equal(y[known], label[known])


def test_propagation_agrees_with_the_golden_pieces():
    """The released rule, 0/1 adjacency divided by its row sums, is this propagation with equal logits."""
    with np.load(ROOT / "tests" / "golden" / "pieces.npz") as golden:
        pieces = {name: golden[name] for name in golden.files}
    adjacency, label = (torch.from_numpy(np.asarray(pieces[name], np.float32)) for name in ("lp_adjacency", "lp_known"))
    target, source = torch.nonzero(adjacency, as_tuple=True)
    edges = torch.stack([source, target])
    y = propagate(edges, neighbour_softmax(edges, torch.zeros(edges.shape[1]), len(label)), label, label.sum(dim=1) != 0)
    assert torch.allclose(y, torch.from_numpy(np.asarray(pieces["lp_out"], np.float32)), atol=1e-5)


def test_edges_into_a_spot_weigh_one_and_the_nearer_weighs_more():
    edges = torch.tensor([[1, 2, 0], [0, 0, 1]])
    weight = EdgeWeight()(edges, torch.tensor([0.5, 2.0, 60.0]), torch.tensor([-1.0, -1.0, -1.0]), 3)
    assert torch.allclose(weight[:2].sum(), torch.tensor(1.0)) and weight[0] > weight[1] and weight[2] == 1


def test_gate_is_a_mix_per_gene():
    gate = GeneGate(2)
    with torch.no_grad():
        gate.a.copy_(torch.tensor([100.0, -100.0]))
    assert gate(torch.tensor([[1.0, 1.0]]), torch.tensor([[5.0, 5.0]])).tolist() == [[1.0, 5.0]]


# losses ----------------------------------------------------------------------------------------------
def test_losses_by_hand():
    predicted, label = torch.tensor([[1.0, 2, 3], [3, 2, 1]]), torch.tensor([[2.0, 4, 6], [1, 2, 3]])
    assert one_minus_pcc(predicted, label).item() == pytest.approx((0 + 2) / 2, abs=1e-6)
    assert spot_loss(predicted, label).item() == pytest.approx(0.75 * (1 + 4 + 9 + 4 + 0 + 4) / 6 + 0.25 * 1, abs=1e-6)
    assert one_minus_pcc(predicted[:0], label[:0]).item() == 0


def test_pcc_loss_agrees_with_the_golden_pieces():
    with np.load(ROOT / "tests" / "golden" / "pieces.npz") as golden:
        predicted, label, expected = (torch.from_numpy(np.asarray(golden[name], np.float32)) for name in ("pred", "target", "pcc"))
    assert one_minus_pcc(predicted, label).item() == pytest.approx(1 - expected.item(), abs=1e-5)


# the whole network -----------------------------------------------------------------------------------
def test_hidden_labels_are_never_read():
    graph = toy_graph()
    model = fresh_model(graph)
    shown = graph.in_layers([1])
    prepared = training.prepare(graph, model)
    noise = torch.where(shown.unsqueeze(1), prepared.label, torch.randn_like(prepared.label) * 50)
    one, other = model(prepared, shown), model(dataclasses.replace(prepared, label=noise), shown)
    for level in ("spot", "region", "global"):
        assert torch.equal(one[level], other[level])


def test_permuting_the_spots_permutes_the_prediction():
    graph = toy_graph()
    model = fresh_model(graph)
    order = torch.from_numpy(np.random.default_rng(0).permutation(graph.n_spots))
    straight = torch.from_numpy(training.predict(model, graph, [1], torch.device("cpu")))
    shuffled = torch.from_numpy(training.predict(model, permuted(graph, order), [1], torch.device("cpu")))
    assert torch.allclose(straight[order], shuffled, atol=1e-4)


def test_every_level_of_the_image_reaches_the_spot():
    graph = toy_graph()
    model = fresh_model(graph)
    base = training.predict(model, graph, [1], torch.device("cpu"))
    for name in ("feature", "region_feature", "global_feature"):
        changed = dataclasses.replace(graph, **{name: getattr(graph, name).flip(0)})
        assert np.abs(training.predict(model, changed, [1], torch.device("cpu")) - base).max() > 1e-4, name


def test_with_no_label_shown_the_training_mean_is_the_start():
    graph = toy_graph()
    model = training.build_model([graph], {graph.sample: graph.in_layers([1])}, training.Settings()).eval()
    out = model(training.prepare(graph, model), torch.zeros(graph.n_spots, dtype=torch.bool))
    assert torch.allclose(out["spot"], model.train_mean.expand_as(out["spot"]), atol=1e-5)
