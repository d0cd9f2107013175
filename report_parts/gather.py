"""Read a run for the report: every layer's role and prediction, the numbers, and the genes to show."""
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np

from common import jobs
from common.config import Config, load_config
from common.errors import DataError, LayerError
from common.geometry import median_spacing_px
from common.io import read_h5ad, read_json, read_table
from common.layout import Layout, RunLayout
from common.run_folder import is_3d, read_splits
from common.status import read_status
from evaluation.metrics import pearson

NOTHING_TRAINED = "This run applied an existing network (main.py --checkpoint); nothing was trained or scored."
OF_CHECKPOINT = {
    "metrics": NOTHING_TRAINED,
    "runtime": "main.py --checkpoint writes no runtime.json.",
    "config": "main.py --checkpoint writes no config.yaml.",
}
MAX_MARKERS = 4
MARKERS = {  # by default the first four that the run has are shown; what each marks
    "ERBB2": "HER2: amplified tumour",
    "ESR1": "oestrogen receptor",
    "MKI67": "dividing cells",
    "KRT19": "epithelium, tumour",
    "COL1A1": "collagen: stroma",
    "CD3D": "T cells",
    "IGKC": "plasma cells",
    "FASN": "lipid synthesis: tumour, fat",
    "ADIPOQ": "fat",
    "Mbp": "myelin: white matter",
    "Nrgn": "neurons of cortex and hippocampus",
    "Prkcd": "thalamus",
    "Penk": "striatum",
    "Ttr": "choroid plexus",
    "Gfap": "astrocytes",
}


@dataclass(frozen=True)
class LayerOfRun:
    """One section of a sample."""
    sample: str
    layer: int
    role: str             # known: measured and given to the model; training: measured, a 2D run learned from it;
                          # target: measured, hidden; image-only: not measured
    adata: object | None  # its imputed AnnData
    problem: str | None   # why an expected prediction is missing

    @property
    def measured(self) -> np.ndarray | None:
        """(n_spots, n_genes), NaN for a spot without counts; None if the layer was not measured."""
        return None if self.adata is None else self.adata.layers.get("measured")

    @cached_property
    def agreement(self) -> np.ndarray:
        """Pearson correlation of predicted and measured of each gene over the measured spots: (n_genes,)."""
        spots = np.isfinite(self.measured).all(axis=1)  # (n_spots,)
        return pearson(np.asarray(self.adata.X)[spots], self.measured[spots], axis=0)

    @cached_property
    def spot_distance_px(self) -> float:
        """Median distance of a spot to its nearest neighbour, level-0 px; infinite for a lone spot."""
        return median_spacing_px(self.adata.obsm["spatial"]) or np.inf


@dataclass(frozen=True)
class Run:
    """Everything the page is made of. If a field is None, `missing` gives the reason under the purpose of its file."""
    config: Config               # of the root, as it is now
    run_config: Config | None    # as it was at the time of the run
    layout: Layout
    run_layout: RunLayout
    splits: dict | None
    metrics: dict | None
    runtime: dict | None
    genes: list[str]
    samples: dict[str, list[LayerOfRun]]
    quality: dict[str, dict | None]   # of each sample's registration
    missing: dict[str, str]

    @property
    def layers(self) -> list[LayerOfRun]:
        return list(chain.from_iterable(self.samples.values()))

    @property
    def method(self) -> str | None:
        return self.splits and self.splits["method"]

    @property
    def folds(self) -> list[dict]:
        return folds_of(self.splits)

    @property
    def flat(self) -> bool:
        return is_2d(self.splits)

    @property
    def untested(self) -> bool:
        return predicts_only(self.splits)

    def refused(self, one: LayerOfRun) -> bool:
        """True if the gate refused the layer's way to the middle of the stack. A 2D run does not need it."""
        quality = self.quality[one.sample] or {}
        return not self.flat and not quality.get("to_middle", {}).get(str(one.layer), {}).get("accepted", True)


def is_2d(splits: dict | None) -> bool:
    """True for a run of main.py: each section separately, no stack."""
    return splits is not None and not is_3d(splits)


def predicts_only(splits: dict | None) -> bool:
    """True for a run of main.py --checkpoint: nothing was trained, nothing scored."""
    return is_2d(splits) and not splits["folds"]


def read_run(context: jobs.Context, run_layout: RunLayout) -> Run:
    """Read a dataset root and a run folder. An absent or broken file is noted in `missing`.

    Raises DataError if there is no run folder.
    """
    if not run_layout.root.is_dir():
        raise DataError(run_layout.root, "no folder", "a run folder of main_3d.py",
                        "run main_3d.py first, or give --save_path")
    missing: dict[str, str] = {}

    def attempt(purpose: str, read, *arguments):
        try:
            return read(*arguments)
        except (LayerError, DataError) as error:
            missing[purpose] = str(error)

    splits = attempt("splits", read_splits, run_layout)
    made_by = "main.py" if is_2d(splits) else "main_3d.py"
    metrics = attempt("metrics", read_metrics, run_layout.metrics_json, made_by)
    runtime = attempt("runtime", read_runtime, run_layout.runtime, made_by)
    table = attempt("genes", read_table, run_layout.genes, ("gene",), made_by, ("gene",))
    genes = [] if table is None else list(table["gene"])
    samples = {}
    for name in samples_of_run(context.config, run_layout, splits):
        layers = context.config.layers_of(name)
        samples[name] = [read_layer(context, run_layout, splits, genes, name, layer) for layer in layers]
    step_3 = "registration/Step3_registertoMiddle_ANTs.py"
    quality = {name: attempt(f"quality {name}", read_json, context.layout.quality(name), step_3) for name in samples}
    run_config = attempt("config", load_config, run_layout.config)
    if predicts_only(splits):
        missing |= {purpose: text for purpose, text in OF_CHECKPOINT.items() if purpose in missing}
    return Run(context.all_samples, run_config, context.layout, run_layout, splits, metrics, runtime, genes, samples,
               quality, missing)


def read_metrics(path: Path, made_by: str) -> dict:
    """metrics.json. Raises LayerError if a value in it is no number."""
    metrics = read_json(path, made_by)
    for value in leaves({name: metrics[name] for name in ("methods", "ceiling")}):
        if type(value) not in (int, float):
            raise LayerError(path, f"{value!r} for a metric", "a number", f"run {made_by} again, with --overwrite")
    return metrics


def leaves(value) -> Iterator:
    """The values in nested dicts and lists."""
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from leaves(one)
    else:
        yield value


def read_runtime(path: Path, made_by: str) -> dict:
    """runtime.json. Raises LayerError if its command is no list of text."""
    runtime = read_json(path, made_by)
    command = runtime["command"]
    if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
        raise LayerError(path, f"the command {command!r}", "a list of text", f"run {made_by} again, with --overwrite")
    return runtime


def samples_of_run(config: Config, run_layout: RunLayout, splits: dict | None) -> list[str]:
    """The config's samples that the run tested or predicted; all if it names none."""
    tested = set()
    for fold in folds_of(splits):
        tested.update(fold["test_samples"])
    chosen = [name for name in sorted(config.samples)
              if name in tested or any(run_layout.imputed(name, layer).is_file() for layer in config.layers_of(name))]
    return chosen or sorted(config.samples)


def folds_of(splits: dict | None) -> list[dict]:
    return splits["folds"] if splits else []


def read_layer(context: jobs.Context, run_layout: RunLayout, splits: dict | None, genes: list[str], sample: str,
               layer: int) -> LayerOfRun:
    folds = [fold for fold in folds_of(splits) if sample in fold["test_samples"]]
    if is_2d(splits) and any(layer in fold["training_layers"].get(sample, []) for fold in folds):
        return LayerOfRun(sample, layer, "training", None, None)  # not predicted
    adata, problem = None, None
    file, made_by = run_layout.imputed(sample, layer), "main.py" if is_2d(splits) else "predict_3d.py"
    try:
        adata = read_h5ad(file, made_by)
        if list(adata.var_names) != genes:
            raise LayerError(file, "another gene list than the run's", f"the {len(genes)} genes of genes.csv",
                             f"run {made_by} again")
    except LayerError as error:
        adata, problem = None, str(error)
        status = read_status(context.layout).get(f"{sample}/{layer}", {})
        problem = next((f"{step}: {text}" for step, text in status.items() if text != "ok"), problem)
    if adata is not None:
        known = bool(adata.obs["known"].any())
    else:
        known = any(layer in fold["known_layers"].get(sample, []) for fold in folds)
    measured = (adata is not None and "measured" in adata.layers) or context.layout.counts(sample, layer).is_file()
    role = "known" if known else "target" if measured else "image-only"
    return LayerOfRun(sample, layer, role, adata, problem)


# genes -----------------------------------------------------------------------------------------------
def gene_agreement(layers: list[LayerOfRun], n_genes: int) -> np.ndarray:
    """Pearson correlation of predicted and measured expression, a row a target layer: (n_target_layers, n_genes)."""
    rows = [one.agreement for one in layers if one.role == "target" and one.measured is not None]
    return np.array(rows).reshape(-1, n_genes)


def choose_genes(run: Run, asked: str | None) -> dict[str, str]:
    """{gene: why it is shown}: those asked for, else the best predicted, the median and markers.

    Raises DataError for a gene that the run does not have.
    """
    if asked is not None:
        names = list(dict.fromkeys(name.strip() for name in asked.split(",") if name.strip()))
        for name in names:
            if name not in run.genes:
                near = difflib.get_close_matches(name, run.genes, n=1, cutoff=0.0) or ["none"]
                raise DataError("--genes", name, f"genes of {run.run_layout.genes}",
                                f"choose among them; the nearest name is {near[0]}")
        return {name: MARKERS.get(name, "asked for") for name in names}
    if not any(one.adata is not None for one in run.layers):
        return {}
    scores = gene_agreement(run.layers, len(run.genes))
    if len(scores):
        order, of = np.argsort(-scores.mean(axis=0), kind="stable"), f"of {len(run.genes)} genes"
        chosen = {run.genes[order[0]]: f"best predicted {of}", run.genes[order[len(order) // 2]]: f"median {of}"}
    else:
        predicted = [np.asarray(one.adata.X) for one in run.layers if one.adata is not None]
        spread = np.mean([expression.std(axis=0) for expression in predicted], axis=0)
        chosen = {run.genes[int(np.argmax(spread))]: "varies most in the prediction"}
    markers = [name for name in MARKERS if name in run.genes and name not in chosen][:MAX_MARKERS]
    return chosen | {name: MARKERS[name] for name in markers}
