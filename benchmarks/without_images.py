"""The graph of a HER2 sample without images, for `real_stacks.py --part counts`: labels and array positions only."""
from pathlib import Path

import numpy as np
import torch

from common.config import load_config
from common.layout import REPOSITORY
from common.normalisation import normalise
from data_preprocessing.expression import columns_of, layer_mean, ranked, shared_genes
from data_preprocessing.readers import her2st
from models.sample import SampleGraph

N_GENES = 250


def her2_config(raw: Path):
    """The HER2+ dataset with every sample in the raw folder."""
    config = load_config(REPOSITORY / "configs" / "her2st.yaml")
    return config.model_copy(update={"samples": her2st.list_layers(raw, config)})


def counts_graph(raw: Path, sample: str) -> SampleGraph:
    """A sample without images: labels, and the array positions of every layer about their centroid, in pitches.

    Sections without counts are not part of it. Genes: the N_GENES highest of those that all sections share.
    """
    config = her2_config(raw)
    tables = {}  # {layer: AnnData of its counts}
    for number in config.samples[sample].layers:
        counts = her2st.read_layer(raw, config, sample, number).counts
        if counts is not None:
            tables[number] = counts
    genes = shared_genes([list(counts.var_names) for counts in tables.values()])
    means = np.mean([layer_mean(counts, genes) for counts in tables.values()], axis=0)
    chosen = list(ranked(genes, means)["gene"][:N_GENES])
    label = np.concatenate([normalise(columns_of(counts, chosen).toarray()) for counts in tables.values()])
    grid = [array_positions(counts) for counts in tables.values()]
    position = torch.from_numpy(np.concatenate([xy - xy.mean(axis=0) for xy in grid])).float()  # (n_spots, 2)
    layer = torch.from_numpy(np.repeat(list(tables), [len(xy) for xy in grid]))
    return SampleGraph(
        sample=sample, barcode=np.arange(len(layer)).astype(str), pixel=position.numpy(), array=np.concatenate(grid),
        registered=position.numpy(), layer=layer, position=position,
        label=torch.from_numpy(label).float(), has_label=torch.ones(len(layer), dtype=torch.bool),
        **nothing_else(len(layer), label.shape[1]))


def array_positions(counts) -> np.ndarray:
    """(n_spots, 2) float: the array column and row in the spots' names, e.g. `12x7`."""
    return np.array([[*map(float, name.split("x"))] for name in counts.obs_names])


def nothing_else(n_spots: int, n_genes: int) -> dict:
    """The fields of a SampleGraph without features, regions, globals and edges."""
    none = torch.zeros(0, dtype=torch.long)
    return {
        "feature_sets": {}, "feature": torch.zeros(n_spots, 0),
        "region_feature": torch.zeros(0, 0), "global_feature": torch.zeros(0, 0),
        "region_label": torch.zeros(0, n_genes), "global_label": torch.zeros(0, n_genes),
        "region_has_label": none.bool(), "global_has_label": none.bool(),
        "region_layer": none, "global_layer": none,
        "region_of_spot": torch.zeros(n_spots, dtype=torch.long),
        "global_of_spot": torch.zeros(n_spots, dtype=torch.long),
        "global_of_region": none,
        "region_keys": torch.full((1, 9), -1), "global_keys": torch.full((1, 9), -1),
        "spot_edges": torch.zeros(2, 0, dtype=torch.long), "spot_edge_attr": torch.zeros(0, 5),
        "region_edges": torch.zeros(2, 0, dtype=torch.long), "region_edge_attr": torch.zeros(0, 1),
        "global_edges": torch.zeros(2, 0, dtype=torch.long), "global_edge_attr": torch.zeros(0, 1)}
