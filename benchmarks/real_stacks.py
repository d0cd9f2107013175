"""How good is the imputation? Every method on real stacks, on the same target spots.

INPUT   --raw_path FOLDER    her2st/ST-{cnts,imgs,spotfiles} (Andersson et al. 2021) and visium/mousebrain (Villacampa et al. 2021)
        --work_path FOLDER   dataset roots and runs; what is there is used again
OUTPUT  <save_path>/<part>.csv   a row a stack, method and seed: all metrics, coverage of intervals, seconds, memory
        <save_path>/<part>.md    the table: mean ± sd over the seeds
Parts
    stacks      HER2-C 2 -> 3, 4 and mouse brain 1 -> 2: floors, Gaussian process, MSAGNet, from raw files by the numbered scripts
    ablation    the same with parts of the network left out
    pictures    2D: HER2-C 2, 3 -> 4 and mouse brain 1 -> 2 from the picture alone: mean profile, ridge, ST-Net's head, MSAGNet 2D
    counts      every HER2 sample, layer 1 -> all others, without images: array positions brought to a common centroid
    hidden      HER2-C 3 -> 2, 4 and mouse brain 1 -> 2 (half the pitch), of the targets only the image left: a lattice is laid, imputed and
                brought to the measured positions; beside it the run on the same genes that knew where the spots are
    confidence  the runs of part stacks (seed 0): error of the most and the least confident quarter of the target spots, by counting noise
Rows are kept if the code and the configs of now made them (column code): a run that was stopped goes on where it stood.
Others are made again, with their dataset root and their run.

    python benchmarks/real_stacks.py --part stacks --raw_path ../data --work_path ../stacks --n_seeds 5
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import argparse
import hashlib
import os
import subprocess
import time
import warnings
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import pandas as pd
from scipy.stats import norm

from benchmarks import hidden_layers
from common import cli, jobs, stale
from common.config import load_config
from common.device import start_torch
from common.exit_codes import guarded
from common.io import atomic_path, read_h5ad, read_json, read_table, write_table
from common.layout import PIPELINE, REPOSITORY, Layout, RunLayout, script_of
from common.recipe import code_digest, file_digest
from evaluation.metrics import layer_metrics, pooled_metrics

STACKS = {  # name: raw folder, Snakemake's settings, sample, known layer, target layers
    "HER2-C": ("her2st", ["samples=C", "layers=2,3,4"], "C", 2, (3, 4)),
    "mouse brain": ("visium/mousebrain", ["dataset_config=configs/mousebrain.yaml"], "brain", 1, (2,))}
HIDDEN = {"HER2-C": (3, (2, 4), None), "mouse brain": (1, (2,), 50.0)}  # known layer, hidden layers, grid_pitch_um
PICTURES = {"HER2-C": "2,3", "mouse brain": "1"}  # layers that train; the others are scored
ABLATION = ("", "levels", "cross_attention", "transformer", "gat", "imputation", "gate")
METRICS = ("mse", "mae", "pcc_spot", "pcc_gene", "scc_gene")
ERRORS = ("noise", "mse_per_noise")
LEVELS = (50, 80, 95)
N_GENES = 250


def script(name: str, *options) -> tuple[float, float]:
    """Run it; seconds, and peak memory (MiB) of its largest process."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, name, *map(str, options)], cwd=REPOSITORY)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def code_of_rows() -> str:
    """What a row depends on beside the raw data: the code of this benchmark, both mains, predict_3d and every step, and
    the configs."""
    scripts = [Path(__file__).resolve(), *(REPOSITORY / f"{name}.py" for name in ("main", "main_3d", "predict_3d")),
               REPOSITORY / "data_preprocessing" / "0_1_convert_raw.py", *map(script_of, PIPELINE)]
    configs = [REPOSITORY / "configs" / name for name in ("her2st.yaml", "mousebrain.yaml", "visium.yaml")]
    return hashlib.sha256("".join([code_digest(*scripts), *map(file_digest, configs)]).encode()).hexdigest()[:12]


def make_root(args: argparse.Namespace, stack: str) -> Path:
    """The stack's dataset root, made from the raw files by the workflow; used again if its recipes are those of now."""
    return root_of(stack, Path(args.raw_path), Path(args.work_path))


@lru_cache(maxsize=None)
def root_of(stack: str, raw_path: Path, work_path: Path) -> Path:
    raw, settings, sample, *_ = STACKS[stack]
    root = (work_path / stack.replace(" ", "_")).resolve()
    there = Layout(root).graph_3d(sample).is_file()
    if there and is_current(root):
        return root
    if there:
        print(f"{root}: other code, settings or raw data made it: it is made again", flush=True)
    again = ["--forceall"] if there else []
    script("-m", "snakemake", "--profile", "workflow/profiles/default", *again, "--config", f"root_path={root}",
           f"raw_path={(raw_path / raw).resolve()}", *settings)
    return root


def is_current(root: Path) -> bool:
    """True if every recipe of the root is that of now, the code too."""
    context = jobs.open_context(cli.make_parser(__doc__, done=False).parse_args(["--root_path", str(root)]))
    verdicts, _ = stale.verdicts_of(context, PIPELINE)
    return not any(one.changes or one.other_code for one in verdicts)


def coverage(run: RunLayout, sample: str, layers: tuple[int, ...]) -> dict[str, float]:
    """Share (%) of the target values that lie within the 50, 80 and 95 % intervals."""
    z = []
    for layer in layers:
        adata = read_h5ad(run.imputed(sample, layer))
        z.append(np.abs((adata.layers["measured"] - adata.X) / adata.layers["sd"]).ravel())
    z = np.concatenate(z)
    return {f"covered_{level}": 100 * float((z <= norm.ppf(0.5 + level / 200)).mean()) for level in LEVELS}


def run_stack(args: argparse.Namespace, stack: str, seed: int, without: str = "") -> list[dict]:
    """One training: rows of MSAGNet and, with the first seed of the full network, of every other method and the ceiling."""
    root, (_, _, sample, known, targets) = make_root(args, stack), STACKS[stack]
    run = RunLayout(Path(args.work_path).resolve() / "runs" / f"{stack.replace(' ', '_')}_{without or 'full'}_{seed}")
    script("main_3d.py", "--root_path", root, "--save_path", run.root, "--known_layers", known, "--seed", seed, *(["--without", without] if without else []))
    result, took = read_json(run.metrics_json), read_json(run.runtime)
    shared = {"stack": stack, "seed": seed, "without": without}
    row = {**shared, "method": "msagnet", **result["methods"]["msagnet"]["pooled"], "seconds": sum(took["training_seconds"].values()),
           "peak_memory_mib": took["peak_memory_mib"]}
    if seed or without:
        return [row]
    script("predict_3d.py", "--root_path", root, "--save_path", run.root)
    row |= coverage(run, sample, targets)
    gp_run = RunLayout(run.root.with_name(f"{run.root.name}_gp"))
    script("main_3d.py", "--root_path", root, "--save_path", gp_run.root, "--known_layers", known, "--method", "gp")
    script("predict_3d.py", "--root_path", root, "--save_path", gp_run.root)
    took = read_json(gp_run.runtime)
    others = [{**shared, "method": method, **one["pooled"]} for method, one in result["methods"].items() if method not in ("msagnet", "gp")]
    gp_row = {**shared, "method": "gp", **result["methods"]["gp"]["pooled"], **coverage(gp_run, sample, targets), "seconds": took["seconds"],
              "peak_memory_mib": took["peak_memory_mib"]}
    return [*others, gp_row, row, {**shared, "method": "ceiling", **result["ceiling"]["pooled"]}]


def run_pictures(args: argparse.Namespace, stack: str, seed: int) -> list[dict]:
    """One training in 2D: a row of MSAGNet and, with the first seed, of every other method and the ceiling."""
    run = RunLayout(Path(args.work_path).resolve() / "runs" / f"{stack.replace(' ', '_')}_2d_{seed}")
    script("main.py", "--root_path", make_root(args, stack), "--save_path", run.root, "--training_layers", PICTURES[stack], "--seed", seed)
    result, took = read_json(run.metrics_json), read_json(run.runtime)
    shared = {"stack": f"{stack}, 2D", "seed": seed, "without": ""}
    row = {**shared, "method": "msagnet", **result["methods"].pop("msagnet")["pooled"], "seconds": sum(took["training_seconds"].values()),
           "peak_memory_mib": took["peak_memory_mib"]}
    others = [{**shared, "method": method, **one["pooled"]} for method, one in result["methods"].items()]
    return [row] if seed else [*others, row, {**shared, "method": "ceiling", **result["ceiling"]["pooled"]}]


def run_hidden(args: argparse.Namespace, stack: str) -> list[dict]:
    """Layers of which only the image is left: a row for the run that knew their spots, two for the lattice (with the cost of all steps)."""
    root, sample, (known, targets, grid_pitch_um) = make_root(args, stack), STACKS[stack][2], HIDDEN[stack]
    hidden = root.with_name(f"{root.name}_hidden")
    hidden_layers.hide_layers(root, hidden, sample, known, grid_pitch_um)
    steps = [script(script_of(step), "--root_path", hidden) for step in PIPELINE]
    rows = []
    for method in ("gp", "msagnet"):
        knew, did_not = (RunLayout(root.parent / "runs" / f"{one.name}_from_{known}_{method}") for one in (root, hidden))
        for one, run in ((root, knew), (hidden, did_not)):
            cost = [script("main_3d.py", "--root_path", one, "--save_path", run.root, "--known_layers", known, "--method", method),
                    script("predict_3d.py", "--root_path", one, "--save_path", run.root)]
        seconds, memory = zip(*steps, *cost)
        scores, n_spots, n_lattice = {"linear": {}, "nearest": {}}, {}, 0
        for layer in targets:
            there, lattice = (read_h5ad(run.imputed(sample, layer)) for run in (knew, did_not))
            n_spots[str(layer)], n_lattice = there.n_obs, n_lattice + lattice.n_obs
            brought = hidden_layers.brought_to(there.obsm["spatial"], lattice.obsm["spatial"], lattice[:, there.var_names].X)
            for name, values in brought.items():
                scores[name][str(layer)] = layer_metrics(values, there.layers["measured"])
        result = read_json(knew.metrics_json)
        rows.append({"method": method, **result["methods"][method]["pooled"], "n_spots": sum(n_spots.values())})
        rows += [{"method": f"{method}, lattice, {name}", **pooled_metrics(one, n_spots), "n_spots": n_lattice, "seconds": sum(seconds),
                  "peak_memory_mib": max(memory)} for name, one in scores.items()]
    rows = [{"method": "mean", **result["methods"]["mean"]["pooled"]}, *rows, {"method": "ceiling", **result["ceiling"]["pooled"]}]
    return [{"stack": stack, "seed": 0, "without": "", **row} for row in rows]


def run_confidence(args: argparse.Namespace) -> list[dict]:
    """Is the confidence informative? Target spots by quarters: of each stack, of both in one ranking, and of both with a quarter of each."""
    rows = []
    for method, end in (("gp", "_gp"), ("msagnet", "")):
        spots = {}
        for stack, (_, _, sample, _, targets) in STACKS.items():
            run = RunLayout(Path(args.work_path).resolve() / "runs" / f"{stack.replace(' ', '_')}_full_0{end}")
            run_stack(args, stack, 0)  # what is up to date in it is not trained again
            spots[stack] = pd.concat([hidden_layers.spot_errors(read_h5ad(run.imputed(sample, layer))) for layer in targets])
        ranked = [one.assign(confidence=one["confidence"].rank(pct=True)) for one in spots.values()]
        spots |= {"both": pd.concat(spots.values()), "both, a quarter of each": pd.concat(ranked)}
        rows += [{"stack": stack, "seed": 0, "without": "", "method": f"{method}, {row.pop('quarter')}", **row}
                 for stack, one in spots.items() for row in hidden_layers.by_confidence(one)]
    return rows


def her2_config(raw: Path):
    """The HER2+ dataset with every sample that the raw folder holds."""
    from data_preprocessing.readers import her2st
    config = load_config(REPOSITORY / "configs" / "her2st.yaml")
    return config.model_copy(update={"samples": her2st.list_layers(raw, config)})


def counts_graph(raw: Path, sample: str):
    """A sample without images: labels, and array positions of every layer about their centroid, in pitches."""
    import torch

    from common.normalisation import normalise
    from data_preprocessing.expression import columns_of, layer_mean, ranked, shared_genes
    from data_preprocessing.readers import her2st
    from models.sample import SampleGraph
    config = her2_config(raw)
    layers = config.samples[sample].layers
    read = [her2st.read_layer(raw, config, sample, layer) for layer in layers]
    pairs = [(layer, one) for layer, one in zip(layers, read) if one.counts is not None]
    genes = shared_genes([list(one.counts.var_names) for _, one in pairs])
    chosen = list(ranked(genes, np.mean([layer_mean(one.counts, genes) for _, one in pairs], axis=0))["gene"][:N_GENES])
    label = np.concatenate([normalise(columns_of(one.counts, chosen).toarray()) for _, one in pairs])
    grid = [np.array([[float(part) for part in name.split("x")] for name in one.counts.obs_names]) for _, one in pairs]
    position = torch.from_numpy(np.concatenate([xy - xy.mean(axis=0) for xy in grid])).float()
    layer = torch.from_numpy(np.repeat([number for number, _ in pairs], [len(xy) for xy in grid]))
    n, nothing = len(layer), torch.zeros(0, dtype=torch.long)
    return SampleGraph(
        sample=sample, barcode=np.arange(n).astype(str), pixel=position.numpy(), array=np.concatenate(grid), registered=position.numpy(), layer=layer, position=position,
        label=torch.from_numpy(label).float(), has_label=torch.ones(n, dtype=torch.bool), feature_sets={}, feature=torch.zeros(n, 0),
        region_feature=torch.zeros(0, 0), global_feature=torch.zeros(0, 0), region_label=torch.zeros(0, label.shape[1]),
        global_label=torch.zeros(0, label.shape[1]), region_has_label=nothing.bool(), global_has_label=nothing.bool(), region_layer=nothing,
        global_layer=nothing, region_of_spot=torch.zeros(n, dtype=torch.long), global_of_spot=torch.zeros(n, dtype=torch.long), global_of_region=nothing,
        region_keys=torch.full((1, 9), -1), global_keys=torch.full((1, 9), -1), spot_edges=torch.zeros(2, 0, dtype=torch.long),
        spot_edge_attr=torch.zeros(0, 5), region_edges=torch.zeros(2, 0, dtype=torch.long), region_edge_attr=torch.zeros(0, 1),
        global_edges=torch.zeros(2, 0, dtype=torch.long), global_edge_attr=torch.zeros(0, 1))


def run_counts(args: argparse.Namespace, sample: str, seed: int) -> list[dict]:
    """One sample without images: MSAGNet (no levels: there are no patches), and with the first seed the floors and the Gaussian process."""
    from evaluation import baselines, metrics
    from evaluation.scores import score_layers
    from training import three_d
    from training.process import fit_process, gaussian_process
    from training.settings import Settings
    device = start_torch(seed, "cpu")
    warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
    graph = counts_graph(Path(args.raw_path) / "her2st", sample)
    known, *targets = graph.labelled_layers()
    process = fit_process(graph, [known])
    started = time.perf_counter()
    model = three_d.train([graph], {sample: graph.in_layers([known])}, {sample: process}, Settings(seed=seed, without=("levels",)), device)
    seconds = time.perf_counter() - started
    predictions = {"msagnet": three_d.predict(model, graph, process, [known], device)["expression"]}
    if seed == 0:
        rows = graph.in_layers([known]).numpy()
        label, position = graph.label.numpy()[rows], graph.position.numpy()
        predictions = {"mean": baselines.mean(label, graph.n_spots), "nearest": baselines.nearest(label, position[rows], position),
                       "kernel": baselines.kernel(label, position[rows], position), "gp": gaussian_process(graph, process)["expression"],
                       **predictions}
    n_spots = {f"{sample}/{layer}": int(graph.in_layers([layer]).sum()) for layer in targets}
    return [{"stack": f"HER2-{sample}, counts", "seed": seed, "without": "", "method": method, **metrics.pooled_metrics(layers, n_spots),
             **({"seconds": seconds} if method == "msagnet" else {})} for method, layers in score_layers(graph, targets, predictions).items()]


def cases_of(args: argparse.Namespace) -> list[tuple[str, int, str, Callable[[], list[dict]]]]:
    """(stack, seed, left out, what makes its rows) of the part."""
    if args.part == "counts":
        samples = sorted(her2_config(Path(args.raw_path) / "her2st").samples)
        return [(f"HER2-{sample}, counts", seed, "", partial(run_counts, args, sample, seed))
                for sample in samples for seed in range(args.n_seeds)]
    if args.part == "pictures":
        return [(f"{stack}, 2D", seed, "", partial(run_pictures, args, stack, seed)) for stack in args.stack or PICTURES for seed in range(args.n_seeds)]
    if args.part == "hidden":
        return [(stack, 0, "", partial(run_hidden, args, stack)) for stack in args.stack or HIDDEN]
    if args.part == "confidence":
        return [("both", 0, "", partial(run_confidence, args))]
    return [(stack, seed, without, partial(run_stack, args, stack, seed, without)) for stack in args.stack or STACKS
            for without in (ABLATION if args.part == "ablation" else ("",)) for seed in range(args.n_seeds)]


def table(rows: pd.DataFrame) -> str:
    """Markdown: a line a stack, method and part left out; mean ± sd over seeds where there are several."""
    covered = (f"covered_{level}" for level in LEVELS)
    names = [name for name in ("n_spots", *METRICS, *ERRORS, "lower_percent", *covered, "seconds", "peak_memory_mib") if name in rows]
    lines = ["| stack | method | " + " | ".join(names) + " | seeds |", "| --- " * (len(names) + 3) + "|"]
    for (stack, without, method), group in rows.groupby(["stack", "without", "method"], sort=False):
        cells = []
        for name in names:
            values, digits = group[name].dropna(), 4 if name in METRICS + ERRORS else 0 if name == "n_spots" else 1
            spread = f" ± {values.std():.{digits}f}" if len(values) > 1 and name in METRICS else ""
            cells.append(f"{values.mean():.{digits}f}{spread}" if len(values) else "")
        lines.append(f"| {stack} | {method}{' without ' + without if without else ''} | " + " | ".join(cells) + f" | {len(group)} |")
    return "\n".join(lines) + "\n"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["stacks", "ablation", "pictures", "counts", "hidden", "confidence"], required=True, help="see above")
    parser.add_argument("--raw_path", required=True, help="folder with her2st/ and visium/")
    parser.add_argument("--work_path", default="stacks", help="dataset roots and runs")
    parser.add_argument("--save_path", default=str(REPOSITORY / "benchmarks" / "results"), help="where the tables go")
    parser.add_argument("--stack", choices=sorted(STACKS), action="append", help="only this one (repeatable; not counts, confidence)")
    parser.add_argument("--n_seeds", type=int, default=5, help="seeds 0, 1, …")
    return parser


def kept_rows(file: Path) -> pd.DataFrame:
    """The rows that the code of now has made; how many others there are is said on screen."""
    if not file.is_file():
        return pd.DataFrame(columns=["stack", "seed", "without", "method", "code"])
    rows = read_table(file, ("stack", "seed", "method"), "this benchmark", text=("stack", "method", "code"))
    rows = rows.fillna({"without": ""})
    of_now = rows.get("code", pd.Series("", rows.index)) == code_of_rows()
    if not of_now.all():
        print(f"{file}: {(~of_now).sum()} of {len(rows)} rows are of other code: they go, and what this call covers is "
              "made again", flush=True)
    return rows.reindex(columns=list(dict.fromkeys([*rows.columns, "code"])))[of_now]


def run(args: argparse.Namespace) -> int:
    file = Path(args.save_path) / f"{args.part}.csv"
    code, rows = code_of_rows(), kept_rows(file)
    for stack, seed, without, work in cases_of(args):
        if ((rows["stack"] == stack) & (rows["seed"] == seed) & (rows["without"] == without)).any():
            continue
        rows = pd.concat([rows, pd.DataFrame(work()).assign(code=code)], ignore_index=True)
        write_table(file, rows)
        with atomic_path(file.with_suffix(".md")) as target:
            target.write_text(table(rows))
        print(f"{stack}, seed {seed}{', without ' + without if without else ''}: done", flush=True)
    print(table(rows))
    return 0


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return guarded(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
