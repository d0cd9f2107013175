"""The parts of the 3D graph: overlap, similarity and neighbours, against golden values and brute force."""
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from brute_force import RADIUS_PX, adjacency, brute_cosine, circle
from conftest import load_script
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse
from toy_roots import square_array

from common.lattice import nearest_on_lattice
from data_preprocessing_3d import neighbours
from data_preprocessing_3d.graph import cross_pairs, within_pairs

step_1, step_2, step_3 = map(load_script, ("1_get_iou", "2_get_similarity", "3_build_3d_information"))
PIECES = np.load(Path(__file__).parent / "golden" / "pieces.npz")


def random_layers(n: int, n_layers: int, seed: int) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).integers(0, n_layers, n))


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
    contours = circle(generator.uniform(0, 900, (24, 2))) @ np.array([[1.0, 0.1], [-0.2, 0.9]])  # affine: ellipses
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
    for one, other in zip(step_1.iou(contours, layer), whole, strict=True):
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
        highest = np.sort(expected[spot, others])[len(others) - len(found):]
        np.testing.assert_allclose(np.sort(expected[spot, found]), highest, atol=1e-5)
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
    """Features are standardised per layer: an affine change of those of one slide, as of a pink one, has no effect."""
    layer = random_layers(50, 2, 0)
    generator = np.random.default_rng(0)
    feature = generator.normal(size=(50, 5)).astype(np.float32)
    pink = feature.copy()
    pink[layer == 1] = pink[layer == 1] * generator.uniform(0.5, 3, 5) + generator.normal(0, 10, 5)
    np.testing.assert_allclose(all_directions(pink, layer), all_directions(feature, layer), atol=1e-4)


def test_constant_features_have_no_effect():
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
EDGE = st.tuples(st.integers(0, 9), st.integers(0, 9)).filter(lambda pair: pair[0] != pair[1])
SMALL_PAIRS = st.lists(EDGE, max_size=30)


@given(SMALL_PAIRS)
def test_united_pairs_are_unique_and_either_way(edges):
    source, target = np.array(edges, np.int64).reshape(-1, 2).T
    pairs = neighbours.unite(source, target, 10)
    assert [tuple(pair) for pair in pairs.tolist()] == sorted({tuple(sorted(edge)) for edge in edges})
    zeros = neighbours.symmetric(pairs, np.zeros(len(pairs)), 10)
    np.testing.assert_array_equal(neighbours.pairs_of(zeros), pairs)  # stored zeros are kept


@given(SMALL_PAIRS, SMALL_PAIRS)
def test_value_at_a_pair_and_where_none_is_stored(stored, wanted):
    stored, wanted = (np.array(edges, np.int64).reshape(-1, 2).T for edges in (stored, wanted))
    stored, wanted = neighbours.unite(*stored, 10), neighbours.unite(*wanted, 10)
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
    assert neighbours.value_at(combined, pairs).tolist() == [0, 0.5, 0]
    assert combined.nnz == 6 and combined.dtype == np.float32


@settings(max_examples=30)
@given(st.randoms(use_true_random=False), st.booleans(), st.integers(1, 6), st.floats(-1e4, 1e4))
def test_nearest_does_not_depend_on_order_or_place(random, hexagonal, k, shift):
    """An array has many ties, which go by direction: neither the row order nor a moved slide changes the graph."""
    position = square_array(6, 5).astype(float)
    if hexagonal:
        position = np.stack([position[:, 0] + position[:, 1] % 2 / 2, position[:, 1] * np.sqrt(3) / 2], axis=1)
    order = list(range(len(position)))
    random.shuffle(order)
    order = np.array(order)
    expected = set(zip(*nearest_on_lattice(position, k), strict=True))
    assert len(expected) == k * len(position)
    source, target = nearest_on_lattice(position[order] + shift, k)
    assert set(zip(order[source], order[target], strict=True)) == expected


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
