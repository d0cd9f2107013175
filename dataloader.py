"""Load the graph of one layer as tensors, from the files of `7_make_dataset.py` and `6_pt_construction.py`.

INPUT   npy_information/<sample>/<layer>.npy   structured (n_spots,): barcode, pixel, array, label, feature,
                                               region_index, global_index, has_label
        graph_data/<sample>/<layer>.pt         edges of the spot, region and global graphs and between them; region and
                                               global features and labels
OUTPUT  SampleGraph: every spot of one layer (2D), or of all layers of a tissue block (dataloader_3d.py). The whole
        graph is in every forward pass.
"""
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from common.contract.walk import hold_to_contract
from common.errors import DataError, LayerError
from common.feature_recipe import difference
from common.gene_list import read_genes
from common.io import open_patches, read_npy, read_pt
from common.jobs import Context
from common.layout import SCRIPTS, Layout
from common.status import first_failure, set_status
from models.cross_attention import patch_neighbourhoods
from models.projection import standardise_per_slide
from models.sample import SampleGraph


def make_graph(sample: str, records: np.ndarray, graph: dict, layer: Tensor, registered: np.ndarray,
               spot_edges: Tensor, spot_edge_attr: Tensor) -> SampleGraph:
    """The SampleGraph of a layer or a sample.

    records: structured (n,) of the spots; graph: the dict of step 6 or of 3D step 4, with `layer` of the patches;
    layer: (n,); registered: (n, 2) px; spot_edges: (2, E); spot_edge_attr: (E, ·).
    """
    spot, region, global_ = graph["spot"], graph["region"], graph["global"]
    near_regions, near_globals = graph["region", "near", "region"], graph["global", "near", "global"]
    n_spots, n_regions = len(records), len(region["x"])
    return SampleGraph(
        sample=sample, barcode=records["barcode"], pixel=np.asarray(records["pixel"]),
        array=np.asarray(records["array"]), registered=registered, layer=layer, position=spot["pos"],
        label=_tensor(records, "label"), has_label=_tensor(records, "has_label"),
        feature_sets=spot["feature_sets"], feature_recipe=spot["feature_recipe"],
        feature=standardise_per_slide(_tensor(records, "feature"), layer),
        region_feature=standardise_per_slide(region["x"], region["layer"]),
        global_feature=standardise_per_slide(global_["x"], global_["layer"]),
        region_label=region["y"], global_label=global_["y"],
        region_layer=region["layer"], global_layer=global_["layer"],
        region_has_label=region["has_label"], global_has_label=global_["has_label"],
        region_of_spot=_parent(graph["spot", "in", "region"]["edge_index"], n_spots),
        global_of_spot=_parent(graph["spot", "in", "global"]["edge_index"], n_spots),
        global_of_region=_parent(graph["region", "in", "global"]["edge_index"], n_regions),
        region_keys=patch_neighbourhoods(region["pos"], region["layer"]),
        global_keys=patch_neighbourhoods(global_["pos"], global_["layer"]),
        spot_edges=spot_edges, spot_edge_attr=spot_edge_attr,
        region_edges=near_regions["edge_index"], region_edge_attr=near_regions["edge_attr"],
        global_edges=near_globals["edge_index"], global_edge_attr=near_globals["edge_attr"])


def _tensor(records: np.ndarray, name: str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(records[name]))


def _parent(membership: Tensor, n: int) -> Tensor:
    """Index of the parent per child, (n,), from child -> parent edges, (2, n)."""
    parent = torch.zeros(n, dtype=torch.long)
    parent[membership[0]] = membership[1]
    return parent


def check_finite(records: np.ndarray, names: tuple[str, ...], file) -> None:
    """Raises LayerError if one of these fields is not finite."""
    for name in names:
        if not np.isfinite(records[name]).all():
            raise LayerError(file, f"a {name} that is not finite", "finite numbers",
                             "make the file again with --overwrite")


def check_recipe(graph: dict, file: Path, layout: Layout, loaded: list[SampleGraph]) -> None:
    """Raises LayerError for labels of other genes than genes.csv, or other features than in the graphs in `loaded`."""
    if graph["spot"].get("genes") != read_genes(layout):
        raise LayerError(file, "labels of another gene list", f"the genes of {layout.genes}, in order",
                         "run 5_2_get_label_of_other_resolution.py and all that follows again")
    if "feature_recipe" not in graph["spot"]:
        raise LayerError(file, "features without a recipe", "a graph of this version",
                         "run 4_feature_extraction.py and all that follows again")
    if loaded:
        differs = difference(graph["spot"]["feature_recipe"], loaded[0].feature_recipe)
        if differs is None and graph["spot"]["feature_sets"] != loaded[0].feature_sets:
            differs = f"features {graph['spot']['feature_sets']}", f"{loaded[0].feature_sets}"
        if differs:
            raise LayerError(file, differs[0], f"{differs[1]}, as in {loaded[0].sample}",
                             "run 4_feature_extraction.py and all that follows again, for all samples")


def load_layer(layout: Layout, sample: str, layer: int, loaded: list[SampleGraph] = ()) -> SampleGraph:
    """Read one layer's graph.

    Raises LayerError if a file is missing, does not fit genes.csv and `loaded`, or has a value that is not finite.
    """
    records = read_npy(layout.npy(sample, layer), "data_preprocessing/7_make_dataset.py")
    graph = read_pt(layout.graph(sample, layer), "data_preprocessing/6_pt_construction.py")
    check_recipe(graph, layout.graph(sample, layer), layout, loaded)
    check_finite(records, ("label", "feature", "pixel"), layout.npy(sample, layer))
    near = graph["spot", "near", "spot"]
    for level in ("region", "global"):
        graph[level]["layer"] = torch.full((len(graph[level]["x"]),), layer)
    of_layer, pixel = torch.full((len(records),), layer), np.asarray(records["pixel"])
    return make_graph(sample, records, graph, of_layer, pixel, near["edge_index"], near["edge_attr"])


def refuse_left_out(layout: Layout, name: str, step: str) -> None:
    """Raises LayerError if a step before `step` left this layer or sample out: its files are of an earlier run."""
    if earlier := first_failure(layout, name, step):
        raise LayerError(layout.status, f"{name} left out by {earlier}",
                         "a section or sample that every step could process",
                         f"see there; correct the cause and run {earlier} and the steps after it again")


def load_layers(context: Context, step: str) -> list[SampleGraph]:
    """Every layer that can be loaded, by sample and number; the others are reported.

    Raises DataError if none is left.
    """
    graphs = []
    for sample in sorted(context.config.samples):
        for layer in context.config.layers_of(sample):
            try:
                refuse_left_out(context.layout, f"{sample}/{layer}", SCRIPTS["registration"][0])
                files = [context.layout.npy(sample, layer), context.layout.graph(sample, layer)]
                hold_to_contract(context.layout, context.all_samples, sample, layer, files)
                graphs.append(load_layer(context.layout, sample, layer, graphs))
                set_status(context.layout, step, f"{sample}/{layer}", "ok")
            except LayerError as error:
                set_status(context.layout, step, f"{sample}/{layer}", f"left out: {error}")
                print(f"{step}  {sample}/{layer}: left out: {error}", file=sys.stderr)
    if not graphs:
        raise DataError(context.layout.root, "no section with a graph", "npy_information/<sample>/<layer>.npy",
                        "run the numbered steps first (README)")
    return graphs


class Pictures:
    """The 224 px patches of a layer's spots, read from disk by rows. Raises LayerError if a spot has none."""

    def __init__(self, layout: Layout, graph: SampleGraph):
        self._file = layout.patches(224, graph.sample, int(graph.layer[0]))
        with open_patches(self._file) as (_, _, names):
            self._row = pd.Index(names).get_indexer(graph.barcode)  # (n,)
        if (self._row < 0).any():
            raise LayerError(self._file, f"no picture for {(self._row < 0).sum()} spots", "one for every spot",
                             "run 1_cropped_multi_level_patch.py again")

    def __len__(self) -> int:
        return len(self._row)

    def __getitem__(self, rows: np.ndarray) -> Tensor:
        """Patches of these rows, (b,): (b, 224, 224, 3) uint8."""
        order = np.argsort(self._row[rows])  # HDF5 reads in the file's order
        with open_patches(self._file) as (images, _, _):
            found = images[self._row[rows][order]]
        return torch.from_numpy(found[np.argsort(order)])
