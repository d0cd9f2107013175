"""A small sample graph with structure: three layers, smooth expression that the features partly show."""
import dataclasses
import itertools

import numpy as np
import torch

from models.cross_attention import patch_neighbourhoods
from models.projection import standardise_per_slide
from models.sample import SampleGraph

SIDE, LAYERS, GENES, FEATURES = 8, (1, 2, 3), 30, 20


def toy_graph(seed: int = 0, sample: str = "T", noise: float = 0.3) -> SampleGraph:
    """8 x 8 spots a layer in register; 2 x 2 regions of 4 x 4 spots, one global a layer."""
    generator = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), axis=-1).reshape(-1, 2)  # (64, 2)
    position = np.concatenate([grid + generator.normal(0, 0.05, 2) for _ in LAYERS])
    layer = np.repeat(LAYERS, len(grid))
    programme = np.stack([np.sin(position[:, 0] / 2 + seed), np.cos(position[:, 1] / 2),
                          np.sin(position.sum(axis=1) / 3)], axis=1)  # (n, 3)
    loading = np.random.default_rng(99).normal(0, 0.6, (3, GENES))
    label = -5 + np.linspace(-1, 1, GENES) + programme @ loading + generator.normal(0, noise, (len(layer), GENES))
    visible = programme @ np.random.default_rng(98).normal(0, 1, (3, FEATURES))
    feature = visible + generator.normal(0, 0.5, (len(layer), FEATURES))

    k = np.searchsorted(LAYERS, layer)
    region = k * 4 + (position[:, 1].round() // 4).clip(0, 1) * 2 + (position[:, 0].round() // 4).clip(0, 1)
    region = region.astype(np.int64)
    region_layer, region_pos = np.repeat(LAYERS, 4), np.tile([[0, 0], [1, 0], [0, 1], [1, 1]], (3, 1))

    edges, attributes = [], []
    for a in range(len(layer)):
        distance = np.linalg.norm(position - position[a], axis=1)
        near = np.flatnonzero((distance < np.where(layer == layer[a], 1.3, 0.8)) & (np.arange(len(layer)) != a))
        for b in near:
            iou = max(0.0, 1 - distance[b]) if layer[a] != layer[b] else 0.0
            cosine = float(feature[a] @ feature[b] / np.linalg.norm(feature[a]) / np.linalg.norm(feature[b]))
            edges.append((b, a))
            attributes.append((iou + cosine, iou, cosine, distance[b], abs(layer[a] - layer[b])))
    pairs = itertools.permutations(range(12), 2)
    region_edges = np.array([(a, b) for a, b in pairs if a // 4 == b // 4]).T
    layers = torch.from_numpy(layer.astype(np.int64))
    return SampleGraph(
        sample=sample, barcode=np.array([f"{l}_{i}" for i, l in enumerate(layer)]), pixel=position * 10,
        array=np.tile(grid, (len(LAYERS), 1)), registered=position * 10, layer=layers,
        position=tensor(position), label=tensor(label), has_label=torch.ones(len(layer), dtype=torch.bool),
        feature_sets={"backbone": FEATURES}, feature=standardise_per_slide(tensor(feature), layers),
        region_feature=standardise_per_slide(tensor(means(feature, region)), torch.from_numpy(region_layer)),
        global_feature=tensor(means(feature, k)),
        region_label=tensor(means(label, region)), global_label=tensor(means(label, k)),
        region_has_label=torch.ones(12, dtype=torch.bool), global_has_label=torch.ones(3, dtype=torch.bool),
        region_layer=torch.from_numpy(region_layer.astype(np.int64)), global_layer=torch.tensor(LAYERS),
        region_of_spot=torch.from_numpy(region), global_of_spot=torch.from_numpy(k.astype(np.int64)),
        global_of_region=torch.arange(12) // 4,
        region_keys=patch_neighbourhoods(torch.from_numpy(region_pos), torch.from_numpy(region_layer)),
        global_keys=patch_neighbourhoods(torch.zeros(3, 2, dtype=torch.long), torch.tensor(LAYERS)),
        spot_edges=torch.tensor(edges).T.contiguous(), spot_edge_attr=tensor(np.array(attributes)),
        region_edges=torch.from_numpy(region_edges), region_edge_attr=torch.ones(region_edges.shape[1], 1),
        global_edges=torch.zeros(2, 0, dtype=torch.long), global_edge_attr=torch.zeros(0, 1))


def means(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    return np.stack([values[index == one].mean(axis=0) for one in np.unique(index)])


def tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))


OF_SPOT = ("layer", "position", "label", "has_label", "feature")
OF_PATCH = ("feature", "label", "has_label", "layer")
ARRAYS = ("barcode", "pixel", "array", "registered")


def permuted(graph: SampleGraph, order: torch.Tensor) -> SampleGraph:
    """The same graph with its spots in another order."""
    inverse = torch.argsort(order)
    rows = {name: getattr(graph, name)[order] for name in (*OF_SPOT, "region_of_spot", "global_of_spot")}
    numpy_rows = {name: getattr(graph, name)[order.numpy()] for name in ARRAYS}
    return dataclasses.replace(graph, **rows, **numpy_rows, spot_edges=inverse[graph.spot_edges])


def layers_of(graph: SampleGraph) -> list[SampleGraph]:
    """The layers of a sample as graphs of their own, as dataloader.load_layer gives them.

    No edge leads to another layer; edge attributes are distances.
    """
    return [layer_of(graph, layer) for layer in graph.labelled_layers()]


def layer_of(graph: SampleGraph, layer: int) -> SampleGraph:
    spots, regions, globals_ = (
        torch.where(of == layer)[0] for of in (graph.layer, graph.region_layer, graph.global_layer))
    spot = new_index(spots, graph.n_spots)
    region = new_index(regions, len(graph.region_layer))
    global_ = new_index(globals_, len(graph.global_layer))
    edges, region_edges = spot[graph.spot_edges], region[graph.region_edges]
    within, region_within = (edges >= 0).all(dim=0), (region_edges >= 0).all(dim=0)
    of_spot = {name: getattr(graph, name)[spots] for name in OF_SPOT}
    arrays = {name: getattr(graph, name)[spots.numpy()] for name in ARRAYS}
    of_region = {f"region_{name}": getattr(graph, f"region_{name}")[regions] for name in OF_PATCH}
    of_global = {f"global_{name}": getattr(graph, f"global_{name}")[globals_] for name in OF_PATCH}
    return dataclasses.replace(
        graph, **of_spot, **arrays, **of_region, **of_global,
        region_of_spot=region[graph.region_of_spot[spots]], global_of_spot=global_[graph.global_of_spot[spots]],
        global_of_region=global_[graph.global_of_region[regions]],
        region_keys=new_keys(graph.region_keys[regions], region),
        global_keys=new_keys(graph.global_keys[globals_], global_),
        spot_edges=edges[:, within], spot_edge_attr=2.1 - graph.spot_edge_attr[within, 3:4],
        region_edges=region_edges[:, region_within], region_edge_attr=graph.region_edge_attr[region_within])


def new_index(rows: torch.Tensor, n: int) -> torch.Tensor:
    """Place of each of n nodes among `rows`, -1 where it is none of them."""
    index = torch.full((n,), -1)
    index[rows] = torch.arange(len(rows))
    return index


def new_keys(keys: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return torch.where(keys < 0, -1, index[keys])
