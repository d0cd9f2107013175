"""Steps 1 to 5 of data_preprocessing_3d: overlap, similarity, neighbours and the graph of a sample."""
import re
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import load_script
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse
from test_expression import (
    GENES,
    HOW,
    PITCH_PX,
    STEPS,
    add_layer,
    run,
    square_array,
    toy_config,
    toy_counts,
    toy_location,
)
from torch_geometric.data import HeteroData

from common import io
from common.config import save_config
from common.lattice import nearest_on_lattice
from common.layout import Layout
from data_preprocessing_3d import neighbours
from data_preprocessing_3d.graph import cross_pairs, within_pairs
from data_preprocessing_3d.records import stack_records

STEPS_3D = ("1_get_iou", "2_get_similarity", "3_build_3d_information", "4_build_3d_graph", "5_build_3d_final_format")
step_1, step_2, step_3, step_4, step_5 = map(load_script, STEPS_3D)
PIECES = np.load(Path(__file__).parent / "golden" / "pieces.npz")
RADIUS_PX = 112.0


def circle(centre: np.ndarray, radius: float = RADIUS_PX) -> np.ndarray:
    """Contours (n, 100, 2) of circles at (n, 2)."""
    angle = np.linspace(0, 2 * np.pi, 100, endpoint=False)
    return np.asarray(centre, float)[:, None] + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def adjacency(source: np.ndarray, target: np.ndarray, n: int) -> np.ndarray:
    """Dense 0/1 matrix, union-symmetric."""
    pairs = neighbours.unite(source, target, n)
    return neighbours.symmetric(pairs, np.ones(len(pairs)), n).toarray()


def random_layers(n: int, n_layers: int, seed: int) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).integers(0, n_layers, n))


def brute_cosine(feature: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """Dense cosine of features standardised per layer, float64."""
    standard = np.array(feature, np.float64)
    for own in np.unique(layer):
        rows = standard[layer == own]
        deviation = rows.std(axis=0)
        standard[layer == own] = (rows - rows.mean(axis=0)) / np.where(deviation > 1e-6, deviation, np.inf)
    length = np.linalg.norm(standard, axis=1, keepdims=True)
    standard /= np.where(length > 0, length, 1)
    return standard @ standard.T


def all_directions(feature: np.ndarray, layer: np.ndarray) -> np.ndarray:
    return np.concatenate([neighbours.directions(feature[layer == own]) for own in np.unique(layer)])


# golden pieces ---------------------------------------------------------------------------------------
def test_top_12_is_the_golden_one():
    weights = sparse.csr_array(PIECES["weights"])
    np.testing.assert_array_equal(adjacency(*neighbours.top_k(weights, 12), 30), PIECES["topk12"])
    pairs = cross_pairs(weights)
    np.testing.assert_array_equal(neighbours.symmetric(pairs, np.ones(len(pairs)), 30).toarray(), PIECES["topk12"])


def test_4_nearest_in_the_layer_is_the_golden_one():
    pairs = within_pairs(PIECES["layer_positions"], np.repeat([0, 1, 2], 10))
    np.testing.assert_array_equal(neighbours.symmetric(pairs, np.ones(len(pairs)), 30).toarray(), PIECES["inlayer_k4"])


def test_8_nearest_is_the_golden_one():
    source, target = nearest_on_lattice(PIECES["positions"], 8)
    directed = np.zeros((29, 29), np.float32)
    directed[target, source] = 1
    np.testing.assert_array_equal(directed, PIECES["knn8_adjacency"])


# overlap ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("distance_px", [0, 1, 30, 112, 180, 220])
def test_iou_of_two_circles(distance_px):
    half = distance_px / (2 * RADIUS_PX)
    lens = 2 * RADIUS_PX**2 * (np.arccos(half) - half * np.sqrt(1 - half**2))
    analytic = lens / (2 * np.pi * RADIUS_PX**2 - lens)
    pairs, value = step_1.iou(circle([[500, 500], [500 + distance_px, 500]]), np.array([1, 2]))
    assert pairs.tolist() == [[0, 1]] and value[0] == pytest.approx(analytic, rel=0.01, abs=1e-4)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_iou_is_that_of_every_pair_by_brute_force(seed):
    import shapely
    generator = np.random.default_rng(seed)
    layer = random_layers(24, 3, seed)
    contours = circle(generator.uniform(0, 900, (24, 2))) @ np.array([[1.0, 0.1], [-0.2, 0.9]])  # an affine map: ellipses
    pairs, value = step_1.iou(contours, layer)
    polygons = [shapely.Polygon(contour) for contour in contours]
    expected = np.zeros((24, 24))
    for i in range(24):
        for j in range(24):
            if layer[i] != layer[j]:
                expected[i, j] = polygons[i].intersection(polygons[j]).area / polygons[i].union(polygons[j]).area
    matrix = neighbours.symmetric(pairs, value, 24)
    np.testing.assert_allclose(matrix.toarray(), expected, atol=1e-6)
    assert matrix.dtype == np.float32 and (matrix.data > 0).all() and (abs(matrix - matrix.T)).nnz == 0


def test_iou_in_blocks_is_the_same(monkeypatch):
    contours, layer = circle(np.random.default_rng(0).uniform(0, 900, (60, 2))), random_layers(60, 3, 0)
    whole = step_1.iou(contours, layer)
    monkeypatch.setattr(step_1, "BLOCK_PAIRS", 7)
    for one, other in zip(step_1.iou(contours, layer), whole):
        np.testing.assert_array_equal(one, other)


def test_a_stack_moved_as_a_whole_has_the_same_iou():
    contours, layer = circle(np.random.default_rng(1).uniform(0, 900, (40, 2))), random_layers(40, 2, 1)
    pairs, value = step_1.iou(contours, layer)
    moved_pairs, moved = step_1.iou(contours + [12345.6, -789.1], layer)
    np.testing.assert_array_equal(moved_pairs, pairs)
    np.testing.assert_allclose(moved, value, atol=1e-7)


def test_contours_that_touch_or_cross_themselves():
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]])
    bow_tie = np.array([[0, 0], [1, 1], [1, 0], [0, 1.0]])  # two triangles of area 1/4
    pairs, value = step_1.iou(np.stack([square, square + [1, 0]]), np.array([1, 2]))
    assert len(pairs) == 0 and len(value) == 0
    pairs, value = step_1.iou(np.stack([square, bow_tie]), np.array([1, 2]))
    assert value.tolist() == pytest.approx([0.5])


# similarity ------------------------------------------------------------------------------------------
@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 60))
def test_similarity_is_that_of_all_pairs_by_brute_force(seed, n_layers, n):
    layer = random_layers(n, n_layers, seed)
    feature = np.random.default_rng(seed).normal(3, 5, (n, 6)).astype(np.float32)
    direction = all_directions(feature, layer)
    expected = brute_cosine(feature, layer)
    source, target = neighbours.most_similar(direction, layer, 12)
    for spot in range(n):
        others = np.flatnonzero(layer != layer[spot])
        found = source[target == spot]
        assert len(found) == len(set(found)) == min(12, len(others)) and (layer[found] != layer[spot]).all()
        np.testing.assert_allclose(np.sort(expected[spot, found]), np.sort(expected[spot, others])[len(others) - len(found):], atol=1e-5)
    pairs = neighbours.unite(source, target, n)
    np.testing.assert_allclose(neighbours.cosine(direction, pairs), expected[tuple(pairs.T)], atol=1e-5)


def test_similarity_in_blocks_is_the_same(monkeypatch):
    layer = random_layers(90, 3, 0)
    direction = all_directions(np.random.default_rng(0).normal(size=(90, 5)).astype(np.float32), layer)
    empty = np.empty((0, 2), np.int64)
    pairs = step_2.candidate_pairs(direction, layer, empty)
    value = neighbours.cosine(direction, pairs)
    monkeypatch.setattr(neighbours, "BLOCK_ROWS", 7)
    monkeypatch.setattr(neighbours, "BLOCK_PAIRS", 11)
    np.testing.assert_array_equal(step_2.candidate_pairs(direction, layer, empty), pairs)
    np.testing.assert_allclose(neighbours.cosine(direction, pairs), value, atol=1e-6)


def test_a_stain_of_the_slide_does_not_change_the_similarity():
    """Standardised per layer: an affine change of every feature of one slide, as of a pink slide, has no effect."""
    layer = random_layers(50, 2, 0)
    generator = np.random.default_rng(0)
    feature = generator.normal(size=(50, 5)).astype(np.float32)
    pink = feature.copy()
    pink[layer == 1] = pink[layer == 1] * generator.uniform(0.5, 3, 5) + generator.normal(0, 10, 5)
    np.testing.assert_allclose(all_directions(pink, layer), all_directions(feature, layer), atol=1e-4)


def test_constant_features_say_nothing():
    feature = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    with_constant = np.hstack([feature, np.full((10, 1), 7.3, np.float32)])
    np.testing.assert_allclose(neighbours.directions(with_constant)[:, :3], neighbours.directions(feature), atol=1e-6)
    assert not neighbours.directions(with_constant[:1]).any()  # one spot: nothing to compare with


def test_candidates_are_bounded_and_no_dense_matrix_is_held():
    n, layer = 6000, np.repeat(np.arange(3), 2000)
    direction = all_directions(np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32), layer)
    overlapping = neighbours.unite(np.arange(2000), np.arange(2000) + 2000, n)
    tracemalloc.start()
    pairs = step_2.candidate_pairs(direction, layer, overlapping)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(pairs) <= 12 * n + len(overlapping)
    assert peak < n * n * 4 / 2  # half of a dense float32 matrix; a tenth at 30,000 spots
    stored = neighbours.symmetric(pairs, np.ones(len(pairs)), n)
    assert (neighbours.value_at(stored, overlapping) == 1).all()
    assert (np.diff(stored.indptr) >= 12).all() and (layer[pairs[:, 0]] != layer[pairs[:, 1]]).all()


# sparse pieces ---------------------------------------------------------------------------------------
SMALL_PAIRS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)).filter(lambda pair: pair[0] != pair[1]), max_size=30)


@given(SMALL_PAIRS)
def test_united_pairs_are_unique_and_either_way(edges):
    source, target = np.array(edges, np.int64).reshape(-1, 2).T
    pairs = neighbours.unite(source, target, 10)
    assert [tuple(pair) for pair in pairs.tolist()] == sorted({tuple(sorted(edge)) for edge in edges})
    zeros = neighbours.symmetric(pairs, np.zeros(len(pairs)), 10)
    np.testing.assert_array_equal(neighbours.pairs_of(zeros), pairs)  # stored zeros are kept


@given(SMALL_PAIRS, SMALL_PAIRS)
def test_value_at_a_pair_and_where_none_is_stored(stored, wanted):
    stored, wanted = (neighbours.unite(*np.array(edges, np.int64).reshape(-1, 2).T, 10) for edges in (stored, wanted))
    matrix = neighbours.symmetric(stored, np.arange(1, len(stored) + 1), 10)
    np.testing.assert_array_equal(neighbours.value_at(matrix, wanted), matrix.toarray()[tuple(wanted.T)])


@given(arrays(np.float32, (8, 8), elements=st.integers(-5, 5).map(float)), st.integers(1, 9))
def test_top_k_of_each_row(dense, k):
    matrix = sparse.csr_array(dense)
    source, target = neighbours.top_k(matrix, k)
    for row in range(8):
        stored = np.flatnonzero(dense[row])
        best = stored[np.argsort(-dense[row, stored], kind="stable")[:k]]
        assert sorted(source[target == row]) == sorted(best)


def test_weights_are_iou_plus_cosine_and_a_sum_of_zero_stays():
    pairs = np.array([[0, 2], [0, 3], [1, 2]])
    overlap = neighbours.symmetric(pairs[:1], np.array([0.25]), 4)
    similarity = neighbours.symmetric(pairs, np.array([-0.25, 0.5, 0]), 4)
    combined = step_3.combine(overlap, similarity)
    np.testing.assert_array_equal(neighbours.pairs_of(combined), pairs)
    assert neighbours.value_at(combined, pairs).tolist() == [0, 0.5, 0] and combined.nnz == 6 and combined.dtype == np.float32


@settings(max_examples=30)
@given(st.randoms(use_true_random=False), st.booleans(), st.integers(1, 6), st.floats(-1e4, 1e4))
def test_nearest_does_not_depend_on_order_or_place(random, hexagonal, k, shift):
    """Ties, which an array is full of, go by direction: neither the order of the rows nor a moved slide changes the graph."""
    position = square_array(6, 5).astype(float)
    if hexagonal:
        position = np.stack([position[:, 0] + position[:, 1] % 2 / 2, position[:, 1] * np.sqrt(3) / 2], axis=1)
    order = list(range(len(position)))
    random.shuffle(order)
    order = np.array(order)
    expected = set(zip(*nearest_on_lattice(position, k)))
    assert len(expected) == k * len(position)
    assert {(order[source], order[target]) for source, target in zip(*nearest_on_lattice(position[order] + shift, k))} == expected


@given(arrays(np.float64, st.tuples(st.integers(1, 15), st.just(2)), elements=st.floats(0, 5)), st.integers(1, 5))
def test_nearest_are_the_nearest(position, k):
    n = len(position)
    distance = np.linalg.norm(position[:, None] - position[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    source, target = nearest_on_lattice(position, k)
    for spot in range(n):
        found = source[target == spot]
        assert len(set(found)) == len(found) == min(k, n - 1)
        np.testing.assert_allclose(np.sort(distance[spot, found]), np.sort(distance[spot])[:len(found)], atol=2e-6)


# the whole way -------------------------------------------------------------------------------------------
SHIFTS_PX = {1: (400.0, 500.0), 2: (460.0, 420.0), 4: (500.0, 530.0)}  # layer 3 was skipped
OFFSETS_PX = {1: (0.0, 0.0), 2: (30.0, -20.0), 4: (-100.0, 60.0)}      # what registration leaves


def write_registration(layout: Layout, moved_px=(0.0, 0.0)) -> None:
    """A stand-in for Step3.5: layers brought together but for OFFSETS_PX, the stack moved as a whole."""
    tables, contours = [], []
    for layer, offset in OFFSETS_PX.items():
        location = io.read_location(layout.location("S", layer))
        position = location[["i", "j"]].to_numpy() * PITCH_PX + offset + moved_px
        tables.append(pd.DataFrame({"sample": "S", "layer": layer, "barcode": location["barcode"],
                                    "registered_x": position[:, 0], "registered_y": position[:, 1]}))
        contours.append(circle(position))
    io.write_json(layout.quality("S"), {"layers": sorted(OFFSETS_PX), "middle": 2, "pairs": [], "to_middle": {}})
    io.write_table(layout.spot_regist("S"), pd.concat(tables))
    io.write_npy(layout.spot_regist_contours("S"), np.concatenate(contours).astype(np.float32))


@pytest.fixture(scope="module")
def stacks(tmp_path_factory):
    """A root of three layers after all steps; no test writes into it."""
    layout = Layout(tmp_path_factory.mktemp("root"))
    for layer, shift in SHIFTS_PX.items():
        location = toy_location(square_array(7 if layer == 2 else 6, 5), shift)
        add_layer(layout, layer, location, toy_counts(location["barcode"], GENES, layer) if layer != 4 else None)
    save_config(toy_config(SHIFTS_PX), layout.config)
    write_registration(layout)
    run(layout.root, *STEPS, *STEPS_3D)
    return layout


@pytest.fixture
def own_stacks(stacks, tmp_path):
    """A copy to write into."""
    shutil.copytree(stacks.root, tmp_path, dirs_exist_ok=True)
    return Layout(tmp_path)


def test_graph_of_the_sample(stacks):
    graph = HeteroData.from_dict(torch.load(stacks.graph_3d("S"), weights_only=True))
    graph.validate()
    stack = neighbours.read_stack(stacks, "S")
    layer, registered = stack["layer"].to_numpy(), stack[["registered_x", "registered_y"]].to_numpy() / PITCH_PX
    np.testing.assert_array_equal(graph["spot"].layer, layer)
    np.testing.assert_allclose(graph["spot"].pos, registered, rtol=1e-6)
    overlap, similarity, combined = (io.read_csr(path("S")).toarray() for path in (stacks.spot_iou, stacks.similarity, stacks.combined))
    np.testing.assert_allclose(combined, overlap + similarity, atol=1e-7)
    for relation, same_layer in (("cross", False), ("within", True)):
        source, target = graph["spot", relation, "spot"].edge_index.numpy()
        weight, iou, cosine, distance, difference = graph["spot", relation, "spot"].edge_attr.numpy().T
        assert ((layer[source] == layer[target]) == same_layer).all()
        assert (np.diff(target * len(layer) + source) > 0).all()  # sorted by (target, source), none twice
        assert set(zip(source, target)) == set(zip(target, source))
        np.testing.assert_allclose(weight, iou + cosine, atol=1e-6)
        np.testing.assert_allclose(distance, np.linalg.norm(registered[source] - registered[target], axis=1), rtol=1e-5)
        np.testing.assert_array_equal(difference, np.abs(layer[source] - layer[target]))
        np.testing.assert_allclose(iou, overlap[source, target], atol=1e-7)  # 0 within a layer
        if relation == "cross":
            np.testing.assert_allclose(weight, combined[source, target], atol=1e-6)
            assert set(difference) == {1, 2, 3}  # the skipped layer counts
    cross = graph["spot", "cross", "spot"].edge_index.numpy()
    assert (np.bincount(cross[1]) >= 12).all()
    expected = adjacency(*neighbours.top_k(io.read_csr(stacks.combined("S"))), len(layer))
    assert expected.sum() == cross.shape[1]


def test_cosine_on_the_edges_is_that_of_the_features(stacks):
    graph = io.read_pt(stacks.graph_3d("S"))
    records = io.read_npy(stacks.npy_3d("S"))
    expected = brute_cosine(records["feature"], records["layer"])
    for relation in ("cross", "within"):
        source, target = graph["spot", relation, "spot"]["edge_index"].numpy()
        np.testing.assert_allclose(graph["spot", relation, "spot"]["edge_attr"][:, 2], expected[source, target], atol=1e-5)


def test_region_and_global_nodes_of_all_layers(stacks):
    graph, start = io.read_pt(stacks.graph_3d("S")), {"spot": 0, "region": 0, "global": 0}
    for layer in SHIFTS_PX:
        one = io.read_pt(stacks.graph("S", layer))
        stop = {level: start[level] + len(one[level]["pos"]) for level in start}
        for level in ("region", "global"):
            rows = slice(start[level], stop[level])
            assert (graph[level]["layer"][rows] == layer).all() and graph[level]["layer"].dtype == torch.int64
            for name in ("x", "y", "has_label", "pos"):
                assert torch.equal(graph[level][name][rows], one[level][name])
        for kind in [("region", "near", "region"), ("global", "near", "global"), ("spot", "in", "region"), ("spot", "in", "global"),
                     ("region", "in", "global")]:
            source, target = graph[kind]["edge_index"]
            here = (target >= start[kind[2]]) & (target < stop[kind[2]])
            shifted = torch.stack([source[here] - start[kind[0]], target[here] - start[kind[2]]])
            assert torch.equal(shifted, one[kind]["edge_index"])
            if kind[1] == "near":
                assert torch.equal(graph[kind]["edge_attr"][here], one[kind]["edge_attr"])
        start = stop
    assert all(len(graph[level]["layer"]) == start[level] for level in start)


def test_records_of_the_sample(stacks):
    records = np.load(stacks.npy_3d("S"), mmap_mode="r", allow_pickle=False)
    stack = neighbours.read_stack(stacks, "S")
    assert records["barcode"].tolist() == stack["barcode"].tolist() and records["layer"].dtype == np.int32
    np.testing.assert_array_equal(records["layer"], stack["layer"])
    np.testing.assert_array_equal(records["registered"], stack[["registered_x", "registered_y"]])
    for layer in SHIFTS_PX:
        one = np.load(stacks.npy("S", layer))
        for name in one.dtype.names:
            np.testing.assert_array_equal(records[records["layer"] == layer][name], one[name])
        assert records["has_label"][records["layer"] == layer].all() == (layer != 4)


def relations(layout: Layout) -> dict:
    graph = io.read_pt(layout.graph_3d("S"))
    return {relation: graph["spot", relation, "spot"] for relation in ("cross", "within")}


def test_moving_the_stack_changes_nothing(stacks, own_stacks):
    write_registration(own_stacks, moved_px=(5000.0, -3000.0))
    run(own_stacks.root, *STEPS_3D)
    for relation, edges in relations(own_stacks).items():
        assert torch.equal(edges["edge_index"], relations(stacks)[relation]["edge_index"])
        torch.testing.assert_close(edges["edge_attr"], relations(stacks)[relation]["edge_attr"], rtol=1e-4, atol=1e-5)


def test_moving_a_slide_that_registration_brings_back_changes_nothing(stacks, own_stacks):
    """Layer 2 lies elsewhere on its slide; its registered positions are the same."""
    location = io.read_location(own_stacks.location("S", 2))
    location[["pixel_x", "pixel_y"]] += [512, 256]
    features = io.read_features(own_stacks.features(224, "S", 2))
    add_layer(own_stacks, 2, location, toy_counts(location["barcode"], GENES, 2))
    io.write_features(own_stacks.features(224, "S", 2), *features, HOW)
    run(own_stacks.root, *STEPS, *STEPS_3D)
    for relation, edges in relations(own_stacks).items():
        assert torch.equal(edges["edge_index"], relations(stacks)[relation]["edge_index"])
        torch.testing.assert_close(edges["edge_attr"], relations(stacks)[relation]["edge_attr"], rtol=1e-4, atol=1e-5)


def test_permuting_the_spots_of_a_layer_permutes_the_graph(stacks, own_stacks):
    location = io.read_location(own_stacks.location("S", 2))
    order = np.random.default_rng(0).permutation(len(location))
    shuffled = location.iloc[order].reset_index(drop=True)
    add_layer(own_stacks, 2, shuffled, toy_counts(location["barcode"], GENES, 2))
    write_registration(own_stacks)
    run(own_stacks.root, *STEPS, *STEPS_3D)
    stack = neighbours.read_stack(own_stacks, "S")
    row_before = np.arange(len(stack))
    start = int((stack["layer"] < 2).sum())
    row_before[start:start + len(order)] = start + order
    for relation, edges in relations(own_stacks).items():
        before = relations(stacks)[relation]
        expected = {tuple(edge): attribute for edge, attribute in zip(before["edge_index"].T.tolist(), before["edge_attr"].tolist())}
        moved = row_before[edges["edge_index"].numpy()].T.tolist()
        found = {tuple(edge): attribute for edge, attribute in zip(moved, edges["edge_attr"].tolist())}
        assert found.keys() == expected.keys()
        for edge in found:
            assert found[edge] == pytest.approx(expected[edge], abs=1e-5)


def test_a_sample_of_one_layer_has_no_edge_across(own_stacks):
    stack = neighbours.read_stack(own_stacks, "S")
    io.write_table(own_stacks.spot_regist("S"), stack[stack["layer"] == 1])
    io.write_npy(own_stacks.spot_regist_contours("S"), io.read_npy(own_stacks.spot_regist_contours("S"))[:int((stack["layer"] == 1).sum())])
    run(own_stacks.root, *STEPS_3D)
    graph = io.read_pt(own_stacks.graph_3d("S"))
    assert graph["spot", "cross", "spot"]["edge_index"].shape == (2, 0) and graph["spot", "cross", "spot"]["edge_attr"].shape == (0, 5)
    assert graph["spot", "within", "spot"]["edge_index"].shape[1] > 0 and len(io.read_npy(own_stacks.npy_3d("S"))) == 30


@pytest.mark.parametrize("step, change, message", [
    ("1_get_iou", lambda stack: stack.iloc[1:], "where .* belongs.*spots of location/S/1.csv"),
    ("2_get_similarity", lambda stack: stack.iloc[1:], "where .* belongs.*spots of location/S/1.csv"),
    ("1_get_iou", lambda stack: stack.assign(registered_x=np.nan), "a position that is not finite"),
    ("1_get_iou", lambda stack: stack.iloc[::-1], "layers out of order")])
def test_files_that_disagree_are_reported(own_stacks, capsys, step, change, message):
    io.write_table(own_stacks.spot_regist("S"), change(neighbours.read_stack(own_stacks, "S")))
    run(own_stacks.root, step, code=2)
    err = capsys.readouterr().err
    assert err.startswith(f"{step}  S: left out: {own_stacks.spot_regist('S')}: ") and re.search(message, err)


def test_layers_of_different_feature_width_are_refused():
    kind = [("barcode", "U2"), ("label", "f4", (2,))]
    layers = {1: np.zeros(3, kind + [("feature", "f4", (4,))]), 2: np.zeros(3, kind + [("feature", "f4", (5,))])}
    with pytest.raises(Exception, match="expected the same in all layers"):
        stack_records(layers, np.zeros((6, 2)))


def test_long_barcodes_are_not_cut():
    kind = [("label", "f4", (2,)), ("feature", "f4", (4,))]
    short, long = np.zeros(1, [("barcode", "U2")] + kind), np.zeros(1, [("barcode", "U9")] + kind)
    short["barcode"], long["barcode"] = "ab", "abcdefghi"
    assert stack_records({1: short, 2: long}, np.zeros((2, 2)))["barcode"].tolist() == ["ab", "abcdefghi"]
