"""Steps 6 and 7: the graph of a layer and its records."""
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from torch_geometric.data import HeteroData
from toy_roots import (
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
    write_toy_root,
)

from common import io
from common.config import save_config
from common.layout import Layout
from data_preprocessing import expression, patches
from data_preprocessing.graph import membership_edges, near_edges

TENTHS = st.integers(0, 60).map(lambda value: value / 10)
POINTS = arrays(np.float64, st.tuples(st.integers(1, 25), st.just(2)), elements=TENTHS)


def hexagonal_array(columns: int = 9, rows: int = 9) -> np.ndarray:
    """Positions (n, 2) in pitches."""
    column, row = square_array(columns, rows).T
    return np.stack([column + row % 2 / 2, row * np.sqrt(3) / 2], axis=1)


def middle(position: np.ndarray) -> int:
    return int(np.linalg.norm(position - position.mean(axis=0), axis=1).argmin())


def as_dict(edge_index: np.ndarray, weight: np.ndarray) -> dict:
    return {tuple(edge): float(value) for edge, value in zip(edge_index.T.tolist(), weight.ravel(), strict=True)}


# near ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("position, rings", [
    (square_array(9, 9).astype(float), {1.0: 4, np.sqrt(2): 4, 2.0: 4}),
    (hexagonal_array(), {1.0: 6, np.sqrt(3): 6, 2.0: 6})])
def test_neighbours_on_square_and_hexagonal_arrays(position, rings):
    edge_index, weight = near_edges(position)
    of_middle = 2.1 - weight.ravel()[edge_index[1] == middle(position)]
    assert len(of_middle) == sum(rings.values())
    for distance, number in rings.items():
        assert np.isclose(of_middle, distance, atol=1e-5).sum() == number


def test_a_distance_of_2_1_is_too_far_and_one_spot_has_no_edge():
    assert near_edges(np.array([[0, 0], [2.1, 0]]))[0].shape == (2, 0)
    assert near_edges(np.array([[0, 0], [2.09, 0]]))[1].ravel() == pytest.approx([0.01, 0.01])
    assert near_edges(np.zeros((1, 2)))[1].shape == (0, 1)


@given(POINTS)
def test_near_edges_are_those_of_all_pairs(position):
    edge_index, weight = near_edges(position)
    distance = np.linalg.norm(position[:, None] - position[None], axis=2)
    expected = distance < 2.1
    np.fill_diagonal(expected, False)
    dense = np.zeros_like(distance)
    dense[tuple(edge_index)] = weight.ravel()
    assert edge_index.shape[1] == expected.sum() and edge_index.dtype == np.int64 and weight.dtype == np.float32
    np.testing.assert_allclose(dense, np.where(expected, 2.1 - distance, 0), atol=1e-6)
    assert (np.diff(edge_index[1] * len(position) + edge_index[0]) > 0).all()  # sorted by (target, source), none twice


@given(POINTS, st.randoms(use_true_random=False))
def test_permuted_spots_give_the_permuted_graph(position, random):
    order = list(range(len(position)))
    random.shuffle(order)
    order = np.array(order)  # new row k is old row order[k]
    edge_index, weight = near_edges(position[order])
    assert as_dict(order[edge_index], weight) == pytest.approx(as_dict(*near_edges(position)), abs=1e-6)


@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
@settings(max_examples=20)
def test_a_moved_slide_has_the_same_graph(dx, dy):
    edge_index, weight = near_edges(hexagonal_array(5, 5) + [dx, dy])
    still, still_weight = near_edges(hexagonal_array(5, 5))
    np.testing.assert_array_equal(edge_index, still)
    np.testing.assert_allclose(weight, still_weight, atol=1e-5)


def test_membership_edges_are_sorted_by_owner():
    np.testing.assert_array_equal(membership_edges(np.array([1, 0, 1, 0])), [[1, 3, 0, 2], [0, 0, 1, 1]])


# whole graph -----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """A root after step 7; no test writes into it."""
    layout = write_toy_root(tmp_path_factory.mktemp("root"))
    run(layout.root, *STEPS)
    return layout


@pytest.fixture
def own_graphs(graphs, tmp_path):
    """A copy to write into."""
    shutil.copytree(graphs.root, tmp_path, dirs_exist_ok=True)
    return Layout(tmp_path)


def test_graph_file_is_a_heterodata_without_pickle(graphs):
    stored = torch.load(graphs.graph("S", 1), weights_only=True)
    graph = HeteroData.from_dict(stored)
    graph.validate()
    assert sorted(graph.node_types) == ["global", "region", "spot"]
    assert sorted(graph.edge_types) == [
        ("global", "near", "global"), ("region", "in", "global"), ("region", "near", "region"),
        ("spot", "in", "global"), ("spot", "in", "region"), ("spot", "near", "spot")]
    assert graph["region"].x.shape[1] == 8 and graph["region"].y.shape[1] == 10
    for level in ("region", "global"):
        assert graph[level].x.dtype == graph[level].y.dtype == graph[level].pos.dtype == torch.float32
        assert graph[level].has_label.dtype == torch.bool
    pixel = io.read_location(graphs.location("S", 1))[["pixel_x", "pixel_y"]]
    np.testing.assert_allclose(graph["spot"].pos, pixel / PITCH_PX, rtol=1e-6)


@pytest.mark.parametrize("level, size", [("region", 512), ("global", 1024)])
def test_patch_nodes_carry_their_feature_label_and_place(graphs, level, size):
    node = io.read_pt(graphs.graph("S", 1))[level]
    table = patches.read_patch_table(graphs, size, "S", 1)
    sets, names = io.read_features(graphs.features(size, "S", 1))
    assert names == table["patch_name"].tolist()
    np.testing.assert_array_equal(node["x"], np.hstack([sets["backbone"], sets["stain"]]))
    labels = io.read_h5ad(graphs.expression(size, "S", 1))
    np.testing.assert_array_equal(node["y"], labels.X)
    np.testing.assert_array_equal(node["has_label"], labels.obs["n_spots"] > 0)
    np.testing.assert_array_equal(node["pos"], table[["i", "j"]])


def test_every_spot_lies_in_its_region_and_global(graphs):
    graph = io.read_pt(graphs.graph("S", 1))
    location = io.read_location(graphs.location("S", 1))
    regions, globals_ = (patches.read_patch_table(graphs, size, "S", 1) for size in (512, 1024))
    centres = {"spot": location[["pixel_x", "pixel_y"]].to_numpy(), "region": patches.centres(regions)}
    levels = (("spot", "region", regions), ("spot", "global", globals_), ("region", "global", globals_))
    for lower, upper, table in levels:
        member, owner = graph[lower, "in", upper]["edge_index"].numpy()
        assert sorted(member) == list(range(len(centres[lower])))  # each in exactly one
        offset = centres[lower][member] - table[["x", "y"]].to_numpy()[owner]
        assert (offset >= 0).all() and (offset <= table["width"].iloc[0]).all()


def test_labels_follow_the_counts(graphs):
    bare, partial = io.read_pt(graphs.graph("S", 2)), io.read_pt(graphs.graph("S", 3))
    for level in ("region", "global"):
        assert not bare[level]["has_label"].any()
        assert not bare[level]["y"].any() and bare[level]["y"].shape[1] == 10
    assert partial["region"]["has_label"].any()
    assert not graphs.graph("S", 4).exists()  # no image, no patches


def test_a_region_whose_spots_have_no_counts_has_no_label(own_graphs):
    location = io.read_location(own_graphs.location("S", 3))
    first = location["barcode"][(location["pixel_x"] < 1024) & (location["pixel_y"] < 1024)]
    kept = [name for name in location["barcode"] if name not in set(first)]
    io.write_h5ad(own_graphs.counts("S", 3), toy_counts(kept, GENES, 3))
    run(own_graphs.root, *STEPS)
    graph = io.read_pt(own_graphs.graph("S", 3))
    names = patches.read_patch_table(own_graphs, 512, "S", 3)["patch_name"].tolist()
    unlabelled = [names[row] for row in np.flatnonzero(~graph["region"]["has_label"])]
    assert unlabelled == ["512_0_0", "512_1_0", "512_0_1", "512_1_1"]


def test_records(graphs):
    records = np.load(graphs.npy("S", 3), mmap_mode="r", allow_pickle=False)
    location = io.read_location(graphs.location("S", 3))
    kinds = {
        "barcode": "U", "pixel": ("f8", (2,)), "array": ("i4", (2,)), "label": ("f4", (10,)), "feature": ("f4", (8,)),
        "region_index": "i4", "global_index": "i4", "has_label": "?"}
    assert list(records.dtype.names) == list(kinds)
    for name, kind in kinds.items():
        assert records.dtype[name].kind == "U" if kind == "U" else records.dtype[name] == np.dtype(kind)
    assert records["barcode"].tolist() == location["barcode"].tolist()
    np.testing.assert_array_equal(records["pixel"], location[["pixel_x", "pixel_y"]])
    np.testing.assert_array_equal(records["array"], location[["i", "j"]])
    labels = io.read_h5ad(graphs.expression(224, "S", 3))
    np.testing.assert_array_equal(records["has_label"], [False] * 5 + [True] * (len(records) - 5))
    np.testing.assert_array_equal(records["label"][5:], labels.X)
    assert not records["label"][:5].any()
    sets, _ = io.read_features(graphs.features(224, "S", 3))
    np.testing.assert_array_equal(records["feature"], np.hstack([sets["backbone"], sets["stain"]]))
    graph = io.read_pt(graphs.graph("S", 3))
    for field, upper in (("region_index", "region"), ("global_index", "global")):
        member, owner = graph["spot", "in", upper]["edge_index"].numpy()
        np.testing.assert_array_equal(records[field][member], owner)


def test_records_of_a_layer_without_counts(graphs):
    records = np.load(graphs.npy("S", 2), allow_pickle=False)
    assert not records["has_label"].any() and records["label"].shape[1] == 10 and records["feature"].any()


def test_permuted_location_permutes_graph_and_records(tmp_path_factory):
    """With the spots in another order, regions and globals are the same and all values of the spots are permuted."""
    location = toy_location(square_array())
    order = np.random.default_rng(0).permutation(len(location))
    counts = toy_counts(location["barcode"], GENES)
    made = []
    for table in (location, location.iloc[order].reset_index(drop=True)):
        layout = Layout(tmp_path_factory.mktemp("root"))
        add_layer(layout, 1, table, counts)
        save_config(toy_config([1]), layout.config)
        run(layout.root, *STEPS)
        made.append((io.read_pt(layout.graph("S", 1)), np.load(layout.npy("S", 1))))
    (graph, records), (permuted, permuted_records) = made
    np.testing.assert_array_equal(permuted_records, records[order])
    for level in ("region", "global"):
        for name in ("x", "y", "has_label", "pos"):
            assert torch.equal(permuted[level][name], graph[level][name])
        member, owner = permuted["spot", "in", level]["edge_index"].numpy()
        expected = set(map(tuple, graph["spot", "in", level]["edge_index"].T.tolist()))
        assert set(zip(order[member], owner, strict=True)) == expected
    near = [one["spot", "near", "spot"] for one in (graph, permuted)]
    assert as_dict(order[near[1]["edge_index"].numpy()], near[1]["edge_attr"].numpy()) == pytest.approx(
        as_dict(near[0]["edge_index"].numpy(), near[0]["edge_attr"].numpy()), abs=1e-5)


def test_patches_without_a_feature_leave_the_layer_out(own_graphs, capsys):
    sets, names = io.read_features(own_graphs.features(512, "S", 1))
    fewer = {name: values[1:] for name, values in sets.items()}
    io.write_features(own_graphs.features(512, "S", 1), fewer, names[1:], HOW)
    run(own_graphs.root, "6_pt_construction")
    assert f"S/1: left out: {own_graphs.features(512, 'S', 1)}: " in capsys.readouterr().err
    status = io.read_json(own_graphs.status)
    assert status["S/1"]["6_pt_construction"].startswith("left out")
    assert status["S/2"]["6_pt_construction"] == "ok"


def test_spots_that_no_region_holds_leave_the_layer_out(own_graphs, capsys):
    pairs = io.read_table(own_graphs.region_pairs_csv("S", 1), text=("patch_name", "spots"))
    io.write_table(own_graphs.region_pairs_csv("S", 1), pairs.iloc[1:])
    run(own_graphs.root, "7_make_dataset")
    assert f"S/1: left out: {own_graphs.region_pairs_csv('S', 1)}: " in capsys.readouterr().err


def test_read_memberships_agree_with_the_cells(graphs):
    location = io.read_location(graphs.location("S", 1))
    region_of_spot, global_of_spot, _ = expression.read_memberships(graphs, "S", 1, location)
    for size, row in ((512, region_of_spot), (1024, global_of_spot)):
        table = patches.read_patch_table(graphs, size, "S", 1)
        cells = location[["pixel_x", "pixel_y"]].to_numpy() // size
        np.testing.assert_array_equal(table[["i", "j"]].to_numpy()[row], cells)
