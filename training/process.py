"""The Gaussian process of a sample: fitted on its known layers, and its answer for every spot."""
import numpy as np

from models import gp, known_spots
from models.sample import SampleGraph
from training.folds import Fold
from training.loop import check_labelled


def fit_process(graph: SampleGraph, known_layers: list[int], kernel: gp.Kernel | None = None) -> gp.GaussianProcess:
    """The Gaussian process (models/gp/) of a sample, chosen (or with a given kernel) and fitted on its known layers alone. Raises DataError."""
    known, views = known_spots.used(graph, graph.in_layers(known_layers).numpy()), graph.views
    check_labelled(f"sample {graph.sample}", int(known.sum()), f"known layers {known_layers}")
    return gp.fit(graph.label.numpy()[known], {name: view[known] for name, view in views.items()}, graph.layer.numpy()[known], kernel)


def left_out_lines(graphs: list[SampleGraph], known_layers: dict[str, list[int]], folds: list["Fold"]) -> list[str]:
    """One line for every set of layers of a sample, known or training in a fold, of which some spots are left out."""
    lines = []
    for graph in graphs:
        known = known_layers[graph.sample]
        lines.append(known_spots.left_out_line(graph, known, "known"))
        training = [fold.training_layers[graph.sample] for fold in folds]
        lines += [known_spots.left_out_line(graph, layers, "training") for layers in training if layers != known]
    return [line for line in dict.fromkeys(lines) if line]


def gaussian_process(graph: SampleGraph, process: gp.GaussianProcess, with_sd: bool = False) -> dict[str, np.ndarray]:
    """Every spot: expression (n_spots, n_genes) and, if asked for, what `confidence` and `sd` are in predict()."""
    return _with_confidence(process, gp.predict(process, graph.views, with_variance=with_sd))


def _with_confidence(process: gp.GaussianProcess, answer: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of an answer of the process what a user is given."""
    out = {name: answer[name] for name in ("expression", "sd") if name in answer}
    if "variance" in answer:
        out["confidence"] = (1 - answer["variance"] / gp.at_zero(process.kernel, process.views)).astype(np.float32)
    return out
