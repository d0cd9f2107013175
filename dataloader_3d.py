"""Load the 3D graph of one sample as tensors, from `5_build_3d_final_format.py` and `4_build_3d_graph.py`.

INPUT   3D_npy_information/<sample>.npy   structured (n_spots,): barcode, layer, pixel, registered, label, feature,
                                          has_label
        3D_graph_data/<sample>.pt         edges of the spot, region and global graphs and between them; region and
                                          global features and labels
OUTPUT  SampleGraph (models/sample.py): every spot of every layer of one tissue block, in one graph. The whole graph is
        in every forward pass.
"""
import sys

import numpy as np
import torch

from common.config import Config
from common.contract.walk import hold_to_contract
from common.errors import DataError, LayerError
from common.io import read_json, read_npy, read_pt
from common.jobs import Context
from common.layout import Layout
from common.status import set_status
from dataloader import check_finite, check_recipe, make_graph, refuse_left_out
from models.sample import SampleGraph


def load_sample(layout: Layout, sample: str, loaded: list[SampleGraph] = ()) -> SampleGraph:
    """Read one sample's graph.

    Raises LayerError if a file is missing, does not fit genes.csv and `loaded`, or has a value that is not finite.
    """
    records = read_npy(layout.npy_3d(sample), "data_preprocessing_3d/5_build_3d_final_format.py")
    graph = read_pt(layout.graph_3d(sample), "data_preprocessing_3d/4_build_3d_graph.py")
    check_recipe(graph, layout.graph_3d(sample), layout, loaded)
    check_finite(records, ("label", "feature", "registered"), layout.npy_3d(sample))
    kinds = [graph["spot", kind, "spot"] for kind in ("cross", "within")]
    edges = torch.cat([kind["edge_index"] for kind in kinds], dim=1)  # (2, E)
    layer, registered = torch.from_numpy(records["layer"].astype(np.int64)), np.asarray(records["registered"])
    edge_attr = torch.cat([kind["edge_attr"] for kind in kinds])  # (E, 5)
    return make_graph(sample, records, graph, layer, registered, edges, edge_attr)


def load_graphs(context: Context, step: str) -> list[SampleGraph]:
    """Every sample that can be loaded; the others are reported. Raises DataError if none is left."""
    graphs = []
    for sample in sorted(context.config.samples):
        try:
            layout = context.layout
            refuse_left_out(layout, sample, "main_3d")
            files = [layout.npy_3d(sample), layout.graph_3d(sample), layout.quality(sample), layout.spot_iou(sample)]
            hold_to_contract(layout, context.all_samples, sample, None, files)
            if layout.quality(sample).is_file():  # its middle layer gives the pixel size of the registered frame
                middle = read_json(layout.quality(sample), "registration/Step3_registertoMiddle_ANTs.py")["middle"]
                files = [layout.thumbnail_info(sample, middle)]
                hold_to_contract(layout, context.all_samples, sample, middle, files)
            graphs.append(load_sample(layout, sample, graphs))
            set_status(context.layout, step, sample, "ok")
        except LayerError as error:
            set_status(context.layout, step, sample, f"left out: {error}")
            print(f"{step}  {sample}: left out: {error}", file=sys.stderr)
    if not graphs:
        raise DataError(context.layout.root, "no sample with a 3D graph", "3D_npy_information/<sample>.npy",
                        "run the numbered steps first (README)")
    return graphs


def refused_layers(layout: Layout, sample: str) -> list[int]:
    """Layers whose registration to the middle layer was refused: their place relative to the others is a guess."""
    to_middle = read_json(layout.quality(sample), "registration/Step3_registertoMiddle_ANTs.py")["to_middle"]
    return sorted(int(layer) for layer, one in to_middle.items() if not one["accepted"])


def known_layers_of(config: Config, graph: SampleGraph, given: list[int] | None, refused: list[int]) -> list[int]:
    """Known layers of a sample: `given` (--known_layers), else the config's, else the first labelled not `refused` one.

    [] if no layer is labelled. Raises DataError if a chosen layer has no label.
    """
    labelled = graph.labelled_layers()
    first = ([layer for layer in labelled if layer not in refused] or labelled)[:1]
    known = given or config.samples[graph.sample].known_layers or first
    if not set(known) <= set(labelled):
        raise DataError(f"sample {graph.sample}", f"known sections {known}",
                        f"sections with counts, image and registration, here {labelled}",
                        "correct --known_layers or the config; see status.json")
    return sorted(known)
