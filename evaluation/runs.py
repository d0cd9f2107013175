"""What main.py and main_3d.py do with predictions: scores beside the floors, folds that can be resumed, the files of a run.

A fold is kept if its recipe (inputs, settings, split, code) is what it was: a run that was killed goes on with the folds that are missing.
"""
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch

from common.io import read_json, write_json, write_table
from common.layout import RunLayout
from common.recipe import code_digest, is_current, make_recipe, with_outputs
from common.run_folder import clear_predictions
from common.workers import map_workers
from evaluation import metrics
from training.folds import Fold
from training.settings import Settings


def fold_recipe(script: Path, root: Path, inputs: list[Path], fold: Fold, settings: Settings, others: dict) -> dict:
    """What the result of a fold depends on."""
    return make_recipe(script.stem, inputs, {"fold": asdict(fold), "settings": asdict(settings), **others}, root, code_digest(script))


def pending(run: RunLayout, folds: list[Fold], recipes: list[dict], outputs: Callable[[Fold], list[Path]], overwrite: bool) -> list[Fold]:
    """The folds that have to be run. outputs: what a fold leaves beside its result."""
    return [fold for fold, recipe in zip(folds, recipes)
            if overwrite or not is_current(recipe, run.fold_recipe(fold.index), [run.fold_result(fold.index), *outputs(fold)])]


def run_folds(step: str, run: RunLayout, folds: list[Fold], recipes: list[dict], todo: list[Fold], work: Callable[[Fold], dict], workers: int) -> list[dict]:
    """Results of all folds, those in `todo` made by work(fold), each written as soon as it is there. Older predictions of their samples go."""
    def run_one(fold: Fold) -> str:
        run.fold_recipe(fold.index).unlink(missing_ok=True)
        for sample in fold.test_samples:
            clear_predictions(run, sample)
        started = time.perf_counter()
        result = work(fold)
        write_json(run.fold_result(fold.index), result | {"seconds": round(time.perf_counter() - started, 1)})
        write_json(run.fold_recipe(fold.index), with_outputs(recipes[fold.index], [run.checkpoint(fold.index)], run.root))
        return f"{step}  fold {fold.index}: tested {', '.join(fold.test_samples)} ({time.perf_counter() - started:.1f} s)"

    with closing(map_workers(run_one, todo, min(workers, len(todo)))) as lines:
        for line in lines:
            print(line, flush=True)
    for fold in folds:
        if fold not in todo:
            print(f"{step}  fold {fold.index}: tests {', '.join(fold.test_samples)}: up to date")
    return [read_json(run.fold_result(fold.index), step) for fold in folds]


def gather(folds: list[Fold], results: list[dict], recipe: dict) -> dict:
    """metrics.json: every method pooled, by fold, sample and layer; the ceiling; the recipe."""
    n_spots = {name: n for result in results for name, n in result["n_spots"].items()}
    ceiling = {name: one for result in results for name, one in result["ceiling"].items()}
    layers: dict[str, dict] = {}
    for result in results:
        for method, scores in result["scores"].items():
            layers.setdefault(method, {}).update(scores)
    of_fold = {str(fold.index): list(result["n_spots"]) for fold, result in zip(folds, results) if result["n_spots"]}
    of_sample = {sample: [name for name in n_spots if name.rpartition("/")[0] == sample] for sample in sorted({name.rpartition("/")[0] for name in n_spots})}
    pooled = lambda scores, names: metrics.pooled_metrics({name: scores[name] for name in names}, n_spots)
    methods = {method: {"pooled": metrics.pooled_metrics(scores, n_spots), "folds": {fold: pooled(scores, names) for fold, names in of_fold.items()},
                        "samples": {sample: pooled(scores, names) for sample, names in of_sample.items()}, "layers": scores}
               for method, scores in layers.items()}
    return {"methods": methods, "recipe": recipe,
            "ceiling": {"pooled": metrics.pooled_metrics(ceiling, n_spots) if n_spots and set(ceiling) == set(n_spots) else {}, "layers": ceiling}}


def write_result(run: RunLayout, result: dict) -> None:
    """metrics.json, and metrics.csv: one row a method and layer, sample, fold or all of them."""
    write_json(run.metrics_json, result)
    rows = []
    for method, one in [*result["methods"].items(), ("ceiling", result["ceiling"])]:
        named = [("pooled", one["pooled"]), *((f"fold {name}", values) for name, values in one.get("folds", {}).items()),
                 *((f"sample {name}", values) for name, values in one.get("samples", {}).items()), *one["layers"].items()]
        rows += [{"method": method, "layer": name, **values} for name, values in named]
    write_table(run.metrics_csv, pd.DataFrame(rows))


def format_table(methods: dict, ceiling: dict) -> str:
    """The result as a plain table: floors and baselines, MSAGNet last, the ceiling."""
    lines = [f"{'method':12s} {'MSE':>8s} {'MAE':>8s} {'PCC_spot':>9s} {'PCC_gene':>9s} {'SCC_gene':>9s}"]
    for method in sorted(methods, key=lambda name: (name == "msagnet", list(methods).index(name))):
        row = methods[method]["pooled"]
        lines.append(f"{method:12s} {row['mse']:8.4f} {row['mae']:8.4f} {row['pcc_spot']:9.4f} {row['pcc_gene']:9.4f} {row['scc_gene']:9.4f}")
    if ceiling["pooled"]:
        lines.append(f"{'ceiling':12s} {'':8s} {'':8s} {ceiling['pooled']['pcc_spot']:9.4f} {ceiling['pooled']['pcc_gene']:9.4f}")
    return "\n".join(lines)


def print_result(result: dict, n_genes: int, genes_from: str, n_spots: dict[str, int]) -> None:
    """The table on screen."""
    if n_spots:
        print(f"\n{sum(n_spots.values())} target spots in {len(n_spots)} layers, {n_genes} genes (chosen on {genes_from} layers)")
        print(format_table(result["methods"], result["ceiling"]))
    else:
        print("no target layer has counts: nothing to score")


def runtime(started: float, seconds: dict, device: torch.device) -> dict:
    """What it took and on what: seconds, peak memory of the largest process, command, versions, hardware."""
    import torch_geometric
    peak = {"peak_memory_mib": max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) // 1024}
    if device.type == "cuda":
        peak["peak_gpu_memory_mib"] = torch.cuda.max_memory_allocated(device) // 2**20
    return {"seconds": round(time.perf_counter() - started, 1), "training_seconds": seconds, **peak, "command": sys.argv,
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "torch_geometric": torch_geometric.__version__},
            "hardware": {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu", "cores": os.cpu_count(),
                         "machine": platform.machine()}}


def finish(run: RunLayout, folds: list[Fold], results: list[dict], recipe: dict, started: float, device: torch.device, n_genes: int, genes_from: str) -> None:
    """Write metrics.json, metrics.csv and runtime.json of all folds, and print the table."""
    result = gather(folds, results, recipe)
    write_result(run, result)
    write_json(run.runtime, runtime(started, {f"fold_{fold.index}": one["training_seconds"] for fold, one in zip(folds, results)}, device))
    print_result(result, n_genes, genes_from, {name: n for one in results for name, n in one["n_spots"].items()})
