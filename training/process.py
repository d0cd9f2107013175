"""The Gaussian process of a sample: fitted on its known layers, and its prediction for every spot."""
import numpy as np

from models import gp, known_spots
from models.sample import SampleGraph
from training.folds import Fold
from training.loop import check_labelled


def fit_process(graph: SampleGraph, known_layers: list[int], kernel: gp.Kernel | None = None) -> gp.GaussianProcess:
    """The Gaussian process (models/gp/) of a sample, fitted on its known layers alone.

    kernel: by default it is chosen on these layers. Raises DataError for too few labelled spots.
    """
    known = known_spots.used(graph, graph.in_layers(known_layers).numpy())  # (n,) bool
    check_labelled(f"sample {graph.sample}", int(known.sum()), f"known sections {known_layers}")
    views = {name: view[known] for name, view in graph.views.items()}
    return gp.fit(graph.label.numpy()[known], views, graph.layer.numpy()[known], kernel)


def left_out_lines(graphs: list[SampleGraph], known_layers: dict[str, list[int]], folds: list["Fold"]) -> list[str]:
    """One line per set of layers of a sample, known or training in a fold, where some spots are left out."""
    lines = []
    for graph in graphs:
        known = known_layers[graph.sample]
        lines.append(known_spots.left_out_line(graph, known, "known"))
        training = [fold.training_layers[graph.sample] for fold in folds]
        lines += [known_spots.left_out_line(graph, layers, "training") for layers in training if layers != known]
    return [line for line in dict.fromkeys(lines) if line]


def gaussian_process(graph: SampleGraph, process: gp.GaussianProcess, with_sd: bool = False) -> dict[str, np.ndarray]:
    """Prediction for every spot: expression (n_spots, n_genes) float32.

    with_sd: also sd (n_spots, n_genes) and confidence (n_spots,), as in three_d.predict.
    """
    return with_confidence(process, gp.predict(process, graph.views, with_variance=with_sd))


def with_confidence(process: gp.GaussianProcess, prediction: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The user's part of the process' prediction: expression, and with a variance sd and confidence."""
    out = {name: prediction[name] for name in ("expression", "sd") if name in prediction}
    if "variance" in prediction:
        explained = 1 - prediction["variance"] / gp.at_zero(process.kernel, process.views)  # (n_spots,)
        out["confidence"] = explained.astype(np.float32)
    return out
