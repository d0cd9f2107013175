"""Scores of every method on the labelled spots of target layers, the baselines' predictions, and the noise ceiling."""
import sys
from collections.abc import Callable

import numpy as np
from scipy import sparse

from common.config import Config
from common.errors import DataError, LayerError
from common.io import read_h5ad
from common.known_layers import known_layers
from common.layout import Layout
from common.normalisation import thinnable
from evaluation import baselines, metrics
from evaluation.outputs import background_of
from models.sample import SampleGraph


def baseline_predictions(graph: SampleGraph, known_layers: list[int], iou: sparse.csr_array) -> dict[str, np.ndarray]:
    """The baselines (README, 'How a number comes about') for every spot of a sample: {method: (n_spots, n_genes)}.

    iou: (n_spots, n_spots). Reads labels of known layers only.
    """
    known = graph.in_layers(known_layers).numpy()
    label, position, feature = graph.label.numpy()[known], graph.position.numpy(), graph.feature.numpy()
    nearest = baselines.nearest(label, position[known], position)
    return {"mean": baselines.mean(label, graph.n_spots), "nearest": nearest,
            "overlap": baselines.overlap(label, iou[:, known], nearest),
            "similarity": baselines.similarity(label, feature[known], feature),
            "kernel": baselines.kernel(label, position[known], position)}


def score_layers(graph: SampleGraph, target_layers: list[int],
                 predictions: dict[str, np.ndarray]) -> dict[str, dict[str, dict[str, float]]]:
    """{method: {"<sample>/<layer>": metrics}} on the labelled spots of the target layers.

    Raises DataError for a prediction that is not finite.
    """
    scores = {method: {} for method in predictions}
    for layer in target_layers:
        rows = graph.in_layers([layer]).numpy()
        for method, predicted in predictions.items():
            if not np.isfinite(predicted[rows]).all():
                where, fix = f"{method}, section {graph.sample}/{layer}", "check the input with common.cli check"
                raise DataError(where, "predictions that are not finite", "finite numbers", fix)
            measured = graph.label.numpy()[rows]
            scores[method][f"{graph.sample}/{layer}"] = metrics.layer_metrics(predicted[rows], measured)
    return scores


def raw_counts(layout: Layout, graph: SampleGraph, layer: int) -> tuple[np.ndarray, Callable]:
    """Raw counts of a layer's labelled spots in graph order and the function that normalises them: `thinnable`.

    Raises LayerError if a labelled spot has no counts.
    """
    file = layout.member_counts(224, graph.sample, layer)
    counts = read_h5ad(file, "5_2_get_label_of_other_resolution.py")
    row = counts.obs_names.get_indexer(graph.barcode[graph.in_layers([layer]).numpy()])  # (n_spots,)
    if (row < 0).any():
        raise LayerError(file, f"no counts of {(row < 0).sum()} labelled spots", "a row for each",
                         "run 5_2_get_label_of_other_resolution.py and all that follows again")
    counts = counts[row]
    matrix = np.asarray(counts.X.todense() if sparse.issparse(counts.X) else counts.X)
    return thinnable(matrix, counts.obs["depth"].to_numpy(), counts.var_names.tolist(), background_of(layout))


def ceilings(layout: Layout, graph: SampleGraph, layers: list[int]) -> dict[str, dict[str, float]]:
    """{"<sample>/<layer>": noise ceiling}.

    Layers without counts (an archive of normalised values) have none; layers with unreadable counts are named.
    """
    found = {}
    for layer in layers:
        name = f"{graph.sample}/{layer}"
        if layout.member_counts(224, graph.sample, layer).is_file():
            try:
                found[name] = metrics.noise_ceiling(*raw_counts(layout, graph, layer))
            except LayerError as error:
                print(f"{name}: no noise ceiling: {error}", file=sys.stderr)
    return found


def check_gene_choice(layout: Layout, config: Config, seen: dict[str, list[int]]) -> None:
    """With `genes_from: known` the genes must be chosen on layers whose labels the run uses, and no others.

    seen: {sample: these layers}. Raises DataError.
    """
    if config.genes_from != "known":
        return
    for sample, layers in seen.items():
        chosen_on = known_layers(config, layout, sample)
        if not set(chosen_on) <= set(layers):
            raise DataError(layout.genes, f"genes_from: known, chosen on sections {chosen_on} of {sample}",
                            f"the sections {layers} that this run trains on",
                            f"set samples.{sample}.known_layers in the config,"
                            " run 5_1_find_high_expression.py and all that follows again")
