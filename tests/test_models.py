"""The network's parts: each test names the fault of the released code, or the property, that it guards."""
import dataclasses

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings, strategies as st
from toys import permuted, toy_graph

from models import edges, gp
from models.cross_attention import CrossAttention, patch_neighbourhoods
from models.gat import GATStack
from models.imputation import Imputer, part_of
from models.losses import one_minus_pcc, spot_loss
from models.msagnet import MSAGNet
from models.projection import Projection, fit_pca, standardise_per_slide
from models.sample import SampleGraph
from models.transformer import LevelTransformer
from training import three_d
from training.episodes import Known, prepare
from training.process import fit_process, gaussian_process
from training.settings import Settings

CPU = torch.device("cpu")


def fresh_model(graph: SampleGraph, seed: int = 0, **options) -> MSAGNet:
    pools = {graph.sample: graph.in_layers([1])}
    model = three_d.build_model([graph], pools, Settings(seed=seed, members=2, **options)).eval()
    with torch.no_grad():  # the heads start at zero
        for member in model.members:
            for head in member.levels.heads.values():
                head[1].weight.normal_(generator=torch.Generator().manual_seed(1))
    return model


def process_of(graph: SampleGraph) -> gp.GaussianProcess:
    return fit_process(graph, [1], gp.Kernel(rank=4))


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
    ones = torch.ones(3, 1)
    change = (gat(moved, edges, ones) - gat(x, edges, ones)).abs().amax(dim=2)  # (4 nodes, 3 depths)
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


# the 3D graph ----------------------------------------------------------------------------------------
@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_a_query_spot_has_edges_from_the_nearest_context_of_any_layer(seed):
    generator = np.random.default_rng(seed)
    position, layer, query = generator.uniform(0, 6, (40, 2)), generator.integers(0, 3, 40), generator.random(40) < 0.5
    query[:2] = True, False
    pairs, kind = edges.spot_edges(position, layer, query)
    source, target = pairs
    assert (source != target).all() and len(np.unique(pairs, axis=1).T) == len(kind)
    assert not query[source[kind == edges.CONTEXT_QUERY]].any() and query[target[kind == edges.CONTEXT_QUERY]].all()
    for kinds, group in ((edges.QUERY_QUERY, query), (edges.CONTEXT_CONTEXT, ~query)):
        assert group[pairs[:, kind == kinds]].all() and (layer[source] == layer[target])[kind == kinds].all()
    one = np.flatnonzero(query)[0]
    context = np.flatnonzero(~query)
    distance = np.linalg.norm(position[context] - position[one], axis=1)
    expected = context[distance <= np.sort(distance)[:edges.N_NEAREST][-1] * (1 + edges.TIE)]
    assert set(source[(target == one) & (kind == edges.CONTEXT_QUERY)]) == set(expected)


def test_on_a_lattice_the_order_of_spots_decides_nothing():
    grid = np.stack(np.meshgrid(np.arange(6.0), np.arange(6.0)), axis=-1).reshape(-1, 2)
    query, layer, order = np.arange(36) % 4 == 0, np.zeros(36, int), np.random.default_rng(0).permutation(36)
    pairs, _ = edges.spot_edges(grid, layer, query)
    others, _ = edges.spot_edges(grid[order], layer, query[order])
    assert {tuple(pair) for pair in pairs.T} == {tuple(order[pair]) for pair in others.T}
    inner, _ = edges.spot_edges(grid, layer, np.zeros(36, bool))
    assert (inner[1] == 14).sum() == 8  # four at 1, four as near as the sixth


def test_no_edge_leads_from_a_query_to_a_context_spot():
    graph = toy_graph()
    query = (graph.layer != 1).numpy()
    (source, target), _ = edges.spot_edges(graph.position.numpy(), graph.layer.numpy(), query)
    assert not (query[source] & ~query[target]).any()


# imputation ------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def imputer():
    generator = np.random.default_rng(0)
    views = {"position": generator.uniform(0, 8, (60, 2)), "image": generator.normal(0, 1, (60, 3)),
             "stain": generator.normal(0, 1, (60, 2))}
    noise, score = generator.uniform(0.5, 2, 60), generator.normal(0, 1, (60, 2))
    return Imputer(gp.Kernel(), views, noise, score, np.array([0.9, 0.5]))


def test_an_episode_is_a_fit_to_the_rest(imputer):
    """Hidden spots are imputed as if they had never been known."""
    hidden = np.arange(60) % 5 == 0
    known = {name: view[~hidden] for name, view in imputer.views.items()}
    others = {name: view[hidden] for name, view in imputer.views.items()}
    rest = Imputer(gp.Kernel(), known, imputer.noise[~hidden], imputer.score[~hidden], imputer.shrinkage)
    np.testing.assert_allclose(imputer.hidden(np.flatnonzero(hidden)), rest.targets(others), atol=1e-9)


def test_labels_of_hidden_spots_are_not_in_what_is_imputed(imputer):
    hidden = np.arange(60) % 5 == 0
    score, rows = np.where(hidden[:, None], 1e3, imputer.score), np.flatnonzero(hidden)
    other = Imputer(gp.Kernel(), imputer.views, imputer.noise, score, imputer.shrinkage)
    np.testing.assert_allclose(imputer.hidden(rows), other.hidden(rows), atol=1e-6)


def test_blocks_are_the_whole(imputer, monkeypatch):
    views = {name: view[:30] + 0.3 for name, view in imputer.views.items()}
    whole = imputer.targets(views)
    monkeypatch.setattr(gp, "BLOCK", 7)
    np.testing.assert_allclose(imputer.targets(views), whole, atol=1e-12)


def test_variance_is_0_at_a_noiseless_spot_and_1_far_away(imputer):
    sure = Imputer(gp.Kernel(), imputer.views, np.full(60, 1e-9), imputer.score, imputer.shrinkage)
    assert sure.targets(imputer.views)[:, -1].max() < 1e-6
    far_away = {name: view + 1e3 for name, view in imputer.views.items()}
    np.testing.assert_allclose(sure.targets(far_away)[:, -1], 1, atol=1e-9)


def test_parts_of_a_kernel():
    square = {"position": np.array([[9.0]]), "image": np.array([[1.0]]), "stain": np.array([[2.0]])}
    far = {**square, "position": np.array([[1e9]])}
    unlike = {**square, "image": np.array([[1e9]]), "stain": np.array([[1e9]])}
    place, features = part_of(gp.Kernel(), "position"), part_of(gp.Kernel(), "image_features")
    assert gp.covariance(place, square) == gp.covariance(place, unlike) > gp.covariance(place, far)
    assert gp.covariance(features, square) == gp.covariance(features, far) > gp.covariance(features, unlike)


# losses ----------------------------------------------------------------------------------------------
def test_losses_by_hand():
    predicted, label = torch.tensor([[1.0, 2, 3], [3, 2, 1]]), torch.tensor([[2.0, 4, 6], [1, 2, 3]])
    assert one_minus_pcc(predicted, label).item() == pytest.approx((0 + 2) / 2, abs=1e-6)
    expected = 0.75 * (1 + 4 + 9 + 4 + 0 + 4) / 6 + 0.25 * 1
    assert spot_loss(predicted, label, 0.25).item() == pytest.approx(expected, abs=1e-6)
    assert one_minus_pcc(predicted[:0], label[:0]).item() == 0


def test_pcc_loss_agrees_with_the_golden_pieces():
    with np.load(ROOT / "tests" / "golden" / "pieces.npz") as golden:
        pieces = [np.asarray(golden[name], np.float32) for name in ("pred", "target", "pcc")]
    predicted, label, expected = (torch.from_numpy(piece) for piece in pieces)
    assert one_minus_pcc(predicted, label).item() == pytest.approx(1 - expected.item(), abs=1e-5)


# the whole network -----------------------------------------------------------------------------------
def test_permuting_the_spots_permutes_the_prediction():
    graph = toy_graph()
    model = fresh_model(graph)
    order = torch.from_numpy(np.random.default_rng(0).permutation(graph.n_spots))
    straight = three_d.predict(model, graph, process_of(graph), [1], CPU)["expression"]
    other = permuted(graph, order)
    shuffled = three_d.predict(model, other, process_of(other), [1], CPU)["expression"]
    np.testing.assert_allclose(straight[order.numpy()], shuffled, atol=2e-3)


def test_moving_and_turning_the_sample_changes_nothing():
    graph = toy_graph()
    model, process = fresh_model(graph), process_of(graph)
    turned = dataclasses.replace(graph, position=graph.position @ torch.tensor([[0.6, -0.8], [0.8, 0.6]]) + 100)
    one = three_d.predict(model, graph, process, [1], CPU)["expression"]
    other = three_d.predict(model, turned, process_of(turned), [1], CPU)["expression"]
    np.testing.assert_allclose(one, other, atol=0.05)  # other discs


def test_every_level_of_the_image_reaches_the_spot_unless_left_out():
    graph = toy_graph()
    process = process_of(graph)
    for without, silent in (((), set()), (("levels",), {"region_feature", "global_feature"})):
        model = fresh_model(graph, without=without)
        base = three_d.predict(model, graph, process, [1], CPU)["expression"]
        for name in ("region_feature", "global_feature"):
            changed = dataclasses.replace(graph, **{name: getattr(graph, name).flip(0)})
            moved = np.abs(three_d.predict(model, changed, process, [1], CPU)["expression"] - base).max()
            assert (moved < 1e-9) == (name in silent) and (moved > 1e-4) == (name not in silent), name


def test_each_part_that_is_left_out_changes_the_answer():
    graph = toy_graph()
    process = process_of(graph)
    answers = [three_d.predict(fresh_model(graph, without=without), graph, process, [1], CPU)["expression"]
               for without in ((), ("levels",), ("cross_attention",), ("gat",), ("transformer",), ("imputation",))]
    for k, one in enumerate(answers):
        assert all(np.abs(one - other).max() > 1e-4 for other in answers[:k]), k


def test_an_untrained_network_predicts_the_imputation():
    """Mix starts as the whole kernel, the heads at zero: training adds a correction."""
    graph = toy_graph()
    model = three_d.build_model([graph], {graph.sample: graph.in_layers([1])}, Settings(members=2)).eval()
    process, target = fit_process(graph, [1], gp.Kernel(rank=8)), (graph.layer != 1).numpy()
    answer = three_d.predict(model, graph, process, [1], CPU)["expression"]
    np.testing.assert_allclose(answer[target], gaussian_process(graph, process)["expression"][target], atol=1e-4)


def test_the_imputed_share_mixes_imputation_and_network_and_can_be_left_out():
    graph = toy_graph()
    process, target = process_of(graph), (graph.layer != 1).numpy()
    imputed = gaussian_process(graph, process)["expression"][target]
    models = [fresh_model(graph, without=without) for without in ((), ("mix",))]
    mixed, network = (three_d.predict(model, graph, process, [1], CPU)["expression"][target] for model in models)
    np.testing.assert_allclose(mixed, 0.75 * imputed + 0.25 * network, atol=1e-5)


def test_a_context_spot_brings_its_label_and_a_query_spot_does_not():
    graph = toy_graph()
    model = fresh_model(graph)
    known = Known(graph, graph.in_layers([1]).numpy(), process_of(graph), model)
    sample, episode = prepare(graph, model.projection), known.whole_sample()
    base = model(sample, episode)
    context, query = (torch.where(rows)[0][0] for rows in (~episode.query, episode.query))

    def change(row: torch.Tensor) -> float:
        changed = dataclasses.replace(episode, z=episode.z.index_fill(0, row, 3.0))
        return (model(sample, changed) - base).abs().max().item()

    assert change(context) > 1e-3 and change(query) == 0


def test_projection_keeps_image_and_stain_apart():
    """1280 columns of a backbone must not drown 72 of stain."""
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(200, 50, generator=generator)
    projection = Projection.fit(feature, {"backbone": 44, "stain": 6}, generator)
    out = projection(feature, {"backbone": 44, "stain": 6})
    assert out.shape == (200, 44 + 6)
    stain_alone = torch.cat([torch.zeros(200, 44), feature[:, 44:]], dim=1)
    assert torch.allclose(out[:, 44:], projection(stain_alone, {"backbone": 44, "stain": 6})[:, 44:], atol=1e-5)
