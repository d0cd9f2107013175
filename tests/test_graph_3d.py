"""Steps 1 to 5 of data_preprocessing_3d on a stack of three layers: the graph and the records of a sample."""
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from brute_force import adjacency, brute_cosine, circle
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
)

from common import io
from common.config import save_config
from common.errors import LayerError
from common.layout import Layout
from data_preprocessing_3d import neighbours
from data_preprocessing_3d.records import stack_records

STEPS_3D = ("1_get_iou", "2_get_similarity", "3_build_3d_information", "4_build_3d_graph", "5_build_3d_final_format")
SHIFTS_PX = {1: (400.0, 500.0), 2: (460.0, 420.0), 4: (500.0, 530.0)}  # layer 3 was skipped
OFFSETS_PX = {1: (0.0, 0.0), 2: (30.0, -20.0), 4: (-100.0, 60.0)}      # errors of the registration


def write_registration(layout: Layout, moved_px=(0.0, 0.0)) -> None:
    """Write the outputs of Step3.5: layers registered up to OFFSETS_PX, the whole stack moved by moved_px."""
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
        counts = toy_counts(location["barcode"], GENES, layer) if layer != 4 else None
        add_layer(layout, layer, location, counts)
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
    layer = stack["layer"].to_numpy()
    registered = stack[["registered_x", "registered_y"]].to_numpy() / PITCH_PX
    np.testing.assert_array_equal(graph["spot"].layer, layer)
    np.testing.assert_allclose(graph["spot"].pos, registered, rtol=1e-6)
    paths = (stacks.spot_iou, stacks.similarity, stacks.combined)
    overlap, similarity, combined = (io.read_csr(path("S")).toarray() for path in paths)
    np.testing.assert_allclose(combined, overlap + similarity, atol=1e-7)
    for relation, same_layer in (("cross", False), ("within", True)):
        source, target = graph["spot", relation, "spot"].edge_index.numpy()
        weight, iou, cosine, distance, difference = graph["spot", relation, "spot"].edge_attr.numpy().T
        assert ((layer[source] == layer[target]) == same_layer).all()
        assert (np.diff(target * len(layer) + source) > 0).all()  # sorted by (target, source), none twice
        assert set(zip(source, target, strict=True)) == set(zip(target, source, strict=True))
        np.testing.assert_allclose(weight, iou + cosine, atol=1e-6)
        apart = np.linalg.norm(registered[source] - registered[target], axis=1)
        np.testing.assert_allclose(distance, apart, rtol=1e-5)
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
        edges = graph["spot", relation, "spot"]
        source, target = edges["edge_index"].numpy()
        np.testing.assert_allclose(edges["edge_attr"][:, 2], expected[source, target], atol=1e-5)


PATCH_EDGES = (("region", "near", "region"), ("global", "near", "global"), ("spot", "in", "region"),
               ("spot", "in", "global"), ("region", "in", "global"))


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
        for kind in PATCH_EDGES:
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


def by_edge(edge_index: np.ndarray, edge_attr: torch.Tensor) -> dict[tuple, list[float]]:
    """{(source, target): attributes}."""
    return {tuple(edge): values for edge, values in zip(edge_index.T.tolist(), edge_attr.tolist(), strict=True)}


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
        expected = by_edge(before["edge_index"].numpy(), before["edge_attr"])
        found = by_edge(row_before[edges["edge_index"].numpy()], edges["edge_attr"])
        assert found.keys() == expected.keys()
        for edge in found:
            assert found[edge] == pytest.approx(expected[edge], abs=1e-5)


def test_a_sample_of_one_layer_has_no_edge_across(own_stacks):
    stack = neighbours.read_stack(own_stacks, "S")
    first = stack[stack["layer"] == 1]
    contours = io.read_npy(own_stacks.spot_regist_contours("S"))
    io.write_table(own_stacks.spot_regist("S"), first)
    io.write_npy(own_stacks.spot_regist_contours("S"), contours[:len(first)])
    run(own_stacks.root, *STEPS_3D)
    edges = relations(own_stacks)
    assert edges["cross"]["edge_index"].shape == (2, 0) and edges["cross"]["edge_attr"].shape == (0, 5)
    assert edges["within"]["edge_index"].shape[1] > 0 and len(io.read_npy(own_stacks.npy_3d("S"))) == 30


def without_first(stack: pd.DataFrame) -> pd.DataFrame:
    return stack.iloc[1:]


def without_position(stack: pd.DataFrame) -> pd.DataFrame:
    return stack.assign(registered_x=np.nan)


def upside_down(stack: pd.DataFrame) -> pd.DataFrame:
    return stack.iloc[::-1]


@pytest.mark.parametrize("step, change, message", [
    ("1_get_iou", without_first, "found .*; expected .*location/S/1.csv"),
    ("2_get_similarity", without_first, "found .*; expected .*location/S/1.csv"),
    ("1_get_iou", without_position, "found .*not finite"),
    ("1_get_iou", upside_down, "found sections out of order")])
def test_files_that_disagree_are_reported(own_stacks, capsys, step, change, message):
    io.write_table(own_stacks.spot_regist("S"), change(neighbours.read_stack(own_stacks, "S")))
    run(own_stacks.root, step, code=2)
    err = capsys.readouterr().err
    assert err.startswith(f"{step}  S: left out: {own_stacks.spot_regist('S')}: ") and re.search(message, err)


def test_layers_of_different_feature_width_are_refused():
    kind = [("barcode", "U2"), ("label", "f4", (2,))]
    layers = {1: np.zeros(3, kind + [("feature", "f4", (4,))]), 2: np.zeros(3, kind + [("feature", "f4", (5,))])}
    with pytest.raises(LayerError, match="found .*4.*5.* expected "):
        stack_records(layers, np.zeros((6, 2)))


def test_long_barcodes_are_not_cut():
    kind = [("label", "f4", (2,)), ("feature", "f4", (4,))]
    short, long = np.zeros(1, [("barcode", "U2"), *kind]), np.zeros(1, [("barcode", "U9"), *kind])
    short["barcode"], long["barcode"] = "ab", "abcdefghi"
    assert stack_records({1: short, 2: long}, np.zeros((2, 2)))["barcode"].tolist() == ["ab", "abcdefghi"]
