"""Runs of main.py and main_3d.py: folds that resume, scores beside the baselines, the files of a run.

A fold is kept if its recipe (inputs, settings, split, code) is unchanged: a killed run continues with the missing
folds.
"""
import argparse
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

from common import locks, run_folder
from common.config import Config, save_config
from common.io import read_json, write_json, write_table
from common.layout import Layout, RunLayout
from common.recipe import code_digest, file_digest, is_current, make_recipe, with_outputs
from common.workers import map_workers
from evaluation import metrics
from evaluation.outputs import keep_genes
from training.folds import Fold
from training.settings import Settings


def open_run(args: argparse.Namespace, layout: Layout, config: Config, name: str, script: str,
             folds: list[Fold]) -> tuple[RunLayout, list[str]]:
    """The run folder (--save_path, else <root>/runs/<name>), locked, with config and gene list; and the genes."""
    run = run_folder.choose(layout, args.save_path, name)
    locks.hold(run.root)
    run_folder.take(run, layout, args.overwrite, script=script, dataset=config.dataset, method=args.method,
                    folds=[asdict(fold) for fold in folds])
    save_config(config, run.config)
    return run, keep_genes(layout, run)


def fold_recipe(script: Path, root: Path, inputs: list[Path], fold: Fold, settings: Settings, others: dict) -> dict:
    """Everything that the result of a fold depends on."""
    options = {"fold": asdict(fold), "settings": asdict(settings), **others}
    return make_recipe(script.stem, inputs, options, root, code_digest(script))


def pending(run: RunLayout, folds: list[Fold], recipes: list[dict], outputs: Callable[[Fold], list[Path]],
            overwrite: bool) -> list[Fold]:
    """The folds to run. outputs: files of a fold beside its result."""
    todo = []
    for fold, recipe in zip(folds, recipes, strict=True):
        files = [run.fold_result(fold.index), *outputs(fold)]
        if overwrite or not is_current(recipe, run.fold_recipe(fold.index), files):
            todo.append(fold)
    return todo


def run_folds(step: str, run: RunLayout, folds: list[Fold], recipes: list[dict], todo: list[Fold],
              work: Callable[[Fold], dict], workers: int) -> list[dict]:
    """Results of all folds; those in `todo` are computed by work(fold) and written immediately.

    Older predictions of the samples of these folds are deleted.
    """
    def run_one(fold: Fold) -> str:
        run.fold_recipe(fold.index).unlink(missing_ok=True)
        for sample in fold.test_samples:
            run_folder.clear_predictions(run, sample)
        started = time.perf_counter()
        result = work(fold)
        write_json(run.fold_result(fold.index), result | {"seconds": round(time.perf_counter() - started, 1)})
        recipe = with_outputs(recipes[fold.index], [run.checkpoint(fold.index)], run.root)
        write_json(run.fold_recipe(fold.index), recipe)
        seconds = time.perf_counter() - started
        return f"{step}  fold {fold.index}: tested {', '.join(fold.test_samples)} ({seconds:.1f} s)"

    with closing(map_workers(run_one, todo, min(workers, len(todo)))) as lines:
        for line in lines:
            print(line, flush=True)
    for fold in folds:
        if fold not in todo:
            print(f"{step}  fold {fold.index}: tests {', '.join(fold.test_samples)}: up to date")
    return [read_json(run.fold_result(fold.index), step) for fold in folds]


def gather(folds: list[Fold], results: list[dict], recipe: dict) -> dict:
    """metrics.json: every method pooled, by fold, sample and layer; the ceiling; the recipe."""
    n_spots: dict[str, int] = {}
    ceiling: dict[str, dict] = {}
    layers: dict[str, dict] = {}
    for result in results:
        n_spots |= result["n_spots"]
        ceiling |= result["ceiling"]
        for method, scores in result["scores"].items():
            layers.setdefault(method, {}).update(scores)
    of_fold = {}  # {fold: its layers}
    for fold, result in zip(folds, results, strict=True):
        if result["n_spots"]:
            of_fold[str(fold.index)] = list(result["n_spots"])
    of_sample: dict[str, list[str]] = {}  # {sample: its layers}
    for name in sorted(n_spots, key=_sample_of):
        of_sample.setdefault(_sample_of(name), []).append(name)

    def pooled(scores: dict, groups: dict[str, list[str]]) -> dict[str, dict]:
        out = {}
        for group, names in groups.items():
            out[group] = metrics.pooled_metrics({name: scores[name] for name in names}, n_spots)
        return out

    methods = {}
    for method, scores in layers.items():
        methods[method] = {"pooled": metrics.pooled_metrics(scores, n_spots), "folds": pooled(scores, of_fold),
                           "samples": pooled(scores, of_sample), "layers": scores}
    complete = n_spots and set(ceiling) == set(n_spots)
    pooled_ceiling = metrics.pooled_metrics(ceiling, n_spots) if complete else {}
    return {"methods": methods, "recipe": recipe, "ceiling": {"pooled": pooled_ceiling, "layers": ceiling}}


def _sample_of(name: str) -> str:
    """Sample of '<sample>/<layer>'."""
    return name.rpartition("/")[0]


def write_result(run: RunLayout, result: dict) -> None:
    """Write metrics.json, and metrics.csv: one row per method and layer, sample, fold, and all of them."""
    write_json(run.metrics_json, result)
    rows = []
    for method, one in [*result["methods"].items(), ("ceiling", result["ceiling"])]:
        named = [("pooled", one["pooled"])]
        named += [(f"fold {name}", values) for name, values in one.get("folds", {}).items()]
        named += [(f"sample {name}", values) for name, values in one.get("samples", {}).items()]
        named += one["layers"].items()
        rows += [{"method": method, "layer": name, **values} for name, values in named]
    write_table(run.metrics_csv, pd.DataFrame(rows))


def format_table(methods: dict, ceiling: dict) -> str:
    """The result as a plain table: baselines, MSAGNet last, the ceiling."""
    lines = [f"{'method':12s} {'MSE':>8s} {'MAE':>8s} {'PCC_spot':>9s} {'PCC_gene':>9s} {'SCC_gene':>9s}"]
    for method in sorted(methods, key=lambda name: (name == "msagnet", list(methods).index(name))):
        row = methods[method]["pooled"]
        lines.append(f"{method:12s} {row['mse']:8.4f} {row['mae']:8.4f} {row['pcc_spot']:9.4f} {row['pcc_gene']:9.4f}"
                     f" {row['scc_gene']:9.4f}")
    if ceiling["pooled"]:
        row = ceiling["pooled"]
        lines.append(f"{'ceiling':12s} {'':8s} {'':8s} {row['pcc_spot']:9.4f} {row['pcc_gene']:9.4f}")
    return "\n".join(lines)


def print_result(result: dict, n_genes: int, genes_from: str, n_spots: dict[str, int]) -> None:
    """Print the table."""
    if n_spots:
        print(f"\n{sum(n_spots.values())} target spots in {len(n_spots)} sections, {n_genes} genes"
              f" (chosen on {genes_from} sections)")
        print(format_table(result["methods"], result["ceiling"]))
    else:
        print("no target section has counts: nothing to score")


def runtime(started: float, seconds: dict, device: torch.device) -> dict:
    """runtime.json: seconds, peak memory of the largest process, command, versions, hardware."""
    import torch_geometric
    processes = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peak = {"peak_memory_mib": max(resource.getrusage(who).ru_maxrss for who in processes) // 1024}
    if device.type == "cuda":
        peak["peak_gpu_memory_mib"] = torch.cuda.max_memory_allocated(device) // 2**20
    versions = {"python": platform.python_version(), "torch": torch.__version__,
                "torch_geometric": torch_geometric.__version__}
    hardware = {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
                "cores": os.cpu_count(), "machine": platform.machine()}
    return {"seconds": round(time.perf_counter() - started, 1), "training_seconds": seconds, **peak,
            "command": sys.argv, "versions": versions, "hardware": hardware}


def finish(run: RunLayout, folds: list[Fold], results: list[dict], recipe: dict, started: float, device: torch.device,
           n_genes: int, genes_from: str) -> None:
    """Write metrics.json, metrics.csv and runtime.json of all folds, and print the table."""
    result = gather(folds, results, recipe | {"splits_sha256": file_digest(run.splits)})
    write_result(run, result)
    seconds = {f"fold_{fold.index}": one["training_seconds"] for fold, one in zip(folds, results, strict=True)}
    write_json(run.runtime, runtime(started, seconds, device))
    n_spots: dict[str, int] = {}
    for one in results:
        n_spots |= one["n_spots"]
    print_result(result, n_genes, genes_from, n_spots)
