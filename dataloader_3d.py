"""Load the 3D graph of one sample as tensors: what `5_build_3d_final_format.py` and `4_build_3d_graph.py` wrote.

INPUT   3D_npy_information/<sample>.npy   structured (n_spots,): barcode, layer, pixel, registered, label, feature, has_label
        3D_graph_data/<sample>.pt         edges of the spot, region and global graphs and between them; region and global features and labels
OUTPUT  SampleGraph: every spot of every layer of one tissue block, in one graph. The whole graph is in every forward pass.
"""
import sys
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from common.cli import Context, set_status
from common.config import Config
from common.errors import DataError, LayerError
from common.io import read_json, read_npy, read_pt
from common.layout import Layout
from models.cross_attention import patch_neighbourhoods
from models.encoder import standardise_per_slide


@dataclass(frozen=True)
class SampleGraph:
    """One tissue block. n spots, R regions, Q globals, D features, G genes."""
    sample: str
    barcode: np.ndarray        # (n,) str
    pixel: np.ndarray          # (n, 2) level-0 px of the own layer
    registered: np.ndarray     # (n, 2) level-0 px of the middle layer
    layer: Tensor              # (n,) int64
    position: Tensor           # (n, 2) float32, registered, in pitches
    label: Tensor              # (n, G) float32; 0 where has_label is False
    has_label: Tensor          # (n,) bool
    feature_sets: dict[str, int]  # width of each feature set: the columns of the three features below
    feature: Tensor            # (n, D) float32, standardised per slide
    region_feature: Tensor     # (R, D)
    global_feature: Tensor     # (Q, D)
    region_label: Tensor       # (R, G)
    global_label: Tensor       # (Q, G)
    region_has_label: Tensor   # (R,) bool
    global_has_label: Tensor   # (Q,) bool
    region_layer: Tensor       # (R,) int64
    global_layer: Tensor       # (Q,) int64
    region_of_spot: Tensor     # (n,) int64
    global_of_spot: Tensor     # (n,) int64
    global_of_region: Tensor   # (R,) int64
    region_keys: Tensor        # (R, 9) the region and its neighbours, -1 where none
    global_keys: Tensor        # (Q, 9)
    spot_edges: Tensor         # (2, E) source -> target, cross and within together
    spot_edge_attr: Tensor     # (E, 5) weight, iou, cosine, distance_pitches, layer_difference
    region_edges: Tensor       # (2, E')
    region_edge_attr: Tensor   # (E', 1)
    global_edges: Tensor       # (2, E'')
    global_edge_attr: Tensor   # (E'', 1)

    @property
    def n_spots(self) -> int:
        return len(self.layer)

    @property
    def n_genes(self) -> int:
        return self.label.shape[1]

    def feature_set(self, name: str) -> Tensor:
        """(n, width) float32: one feature set of the spots, standardised per slide."""
        names = list(self.feature_sets)
        return self.feature.split(list(self.feature_sets.values()), dim=1)[names.index(name)]

    def labelled_layers(self) -> list[int]:
        """Layers that have measured expression, in z order."""
        return sorted(int(l) for l in torch.unique(self.layer[self.has_label]))

    def in_layers(self, layers: list[int]) -> Tensor:
        """(n,) bool: labelled spots of these layers."""
        return torch.isin(self.layer, torch.tensor(layers, device=self.layer.device)) & self.has_label

    def to(self, device: torch.device) -> "SampleGraph":
        """A copy whose tensors are on the device."""
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        return replace(self, **moved)


def load_sample(layout: Layout, sample: str) -> SampleGraph:
    """Read one sample's graph. Raises LayerError if a file is missing, DataError if a value is not finite."""
    spots = read_npy(layout.npy_3d(sample), "data_preprocessing_3d/5_build_3d_final_format.py")
    graph = read_pt(layout.graph_3d(sample), "data_preprocessing_3d/4_build_3d_graph.py")
    for name in ("label", "feature", "registered"):
        if not np.isfinite(spots[name]).all():
            raise DataError(layout.npy_3d(sample), f"a {name} that is not finite", "finite numbers", "make the file again with --overwrite")
    layer = torch.from_numpy(spots["layer"].astype(np.int64))
    region, global_ = graph["region"], graph["global"]
    edges, attributes = zip(*((graph["spot", kind, "spot"]["edge_index"], graph["spot", kind, "spot"]["edge_attr"]) for kind in ("cross", "within")))
    return SampleGraph(
        sample=sample, barcode=spots["barcode"], pixel=np.asarray(spots["pixel"]), registered=np.asarray(spots["registered"]), layer=layer,
        position=graph["spot"]["pos"],
        label=torch.from_numpy(np.ascontiguousarray(spots["label"])), has_label=torch.from_numpy(np.ascontiguousarray(spots["has_label"])),
        feature_sets=graph["spot"]["feature_sets"],
        feature=standardise_per_slide(torch.from_numpy(np.ascontiguousarray(spots["feature"])), layer),
        region_feature=standardise_per_slide(region["x"], region["layer"]), global_feature=standardise_per_slide(global_["x"], global_["layer"]),
        region_label=region["y"], global_label=global_["y"], region_layer=region["layer"], global_layer=global_["layer"],
        region_has_label=region["has_label"], global_has_label=global_["has_label"],
        region_of_spot=_parent(graph["spot", "in", "region"]["edge_index"], len(spots)),
        global_of_spot=_parent(graph["spot", "in", "global"]["edge_index"], len(spots)),
        global_of_region=_parent(graph["region", "in", "global"]["edge_index"], len(region["x"])),
        region_keys=patch_neighbourhoods(region["pos"], region["layer"]), global_keys=patch_neighbourhoods(global_["pos"], global_["layer"]),
        spot_edges=torch.cat(edges, dim=1), spot_edge_attr=torch.cat(attributes),
        region_edges=graph["region", "near", "region"]["edge_index"], region_edge_attr=graph["region", "near", "region"]["edge_attr"],
        global_edges=graph["global", "near", "global"]["edge_index"], global_edge_attr=graph["global", "near", "global"]["edge_attr"])


def _parent(membership: Tensor, n: int) -> Tensor:
    """(2, n) child -> parent edges as the parent's index per child."""
    parent = torch.zeros(n, dtype=torch.long)
    parent[membership[0]] = membership[1]
    return parent


def load_graphs(context: Context, step: str) -> list[SampleGraph]:
    """Every sample that can be loaded; the others are reported. Raises DataError if none is left."""
    graphs = []
    for sample in sorted(context.config.samples):
        try:
            graphs.append(load_sample(context.layout, sample))
            set_status(context.layout, step, sample, "ok")
        except LayerError as error:
            set_status(context.layout, step, sample, f"left out: {error}")
            print(f"{step}  {sample}: left out: {error}", file=sys.stderr)
    if not graphs:
        raise DataError(context.layout.root, "no sample with a 3D graph", "3D_npy_information/<sample>.npy", "run the numbered steps first (README)")
    return graphs


def refused_layers(layout: Layout, sample: str) -> list[int]:
    """Layers whose registration was refused on the way to the middle layer: what is between them and the others is a guess."""
    to_middle = read_json(layout.quality(sample), "registration/Step3_registertoMiddle_ANTs.py")["to_middle"]
    return sorted(int(layer) for layer, one in to_middle.items() if not one["accepted"])


def known_layers_of(config: Config, graph: SampleGraph, given: list[int] | None, refused: list[int]) -> list[int]:
    """Known layers of a sample: `given` (--known_layers), else the config's, else the first labelled one that is not `refused`.

    [] if no layer is labelled. Raises DataError if a layer asked for has no label.
    """
    labelled = graph.labelled_layers()
    known = given or config.samples[graph.sample].known_layers or ([layer for layer in labelled if layer not in refused] or labelled)[:1]
    if not set(known) <= set(labelled):
        raise DataError(f"sample {graph.sample}", f"known layers {known}", f"layers with counts, image and registration, here {labelled}",
                        "correct --known_layers or the config; see status.json")
    return sorted(known)
