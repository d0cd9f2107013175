"""Compare every imputation method on real stacks, on the same target spots.

INPUT   --raw_path FOLDER    her2st/ST-{cnts,imgs,spotfiles} (Andersson et al. 2021) and
                             visium/mousebrain (Villacampa et al. 2021)
        --work_path FOLDER   dataset roots and runs; existing ones are used again
OUTPUT  <save_path>/<part>.csv   one row per stack, method and seed: all metrics, coverage of the intervals (%),
                                 seconds, memory (MiB)
        <save_path>/<part>.md    the table: mean ± sd over the seeds
Parts
    stacks      HER2-C 2 -> 3, 4 and mouse brain 1 -> 2, from raw files by the numbered scripts: baselines, Gaussian
                process, MSAGNet
    ablation    the same stacks with parts of the network left out
    pictures    2D, from the image alone, HER2-C 2, 3 -> 4 and mouse brain 1 -> 2: mean profile, ridge, ST-Net's head,
                MSAGNet 2D
    counts      every HER2 sample, section 1 -> all others, without images: array positions about a common centroid
    hidden      HER2-C 3 -> 2, 4 and mouse brain 1 -> 2 (half the pitch); the target sections are image-only: a lattice
                is laid, imputed and interpolated to the measured positions; for comparison, the run on the same genes
                with the measured spots
    confidence  the runs of part stacks (seed 0): error of the most and the least confident quarter of the target
                spots, relative to the counting noise
A row is kept if the current code and configs produced it (column code): a stopped run continues with what is missing.
Other rows are computed again, with their dataset root and their run.

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
from itertools import product

import numpy as np
import pandas as pd
from scipy.stats import norm

from benchmarks import hidden_layers
from common import cli, jobs, stale
from common.device import start_torch
from common.exit_codes import guarded
from common.io import atomic_path, read_h5ad, read_json, read_table, write_table
from common.layout import PIPELINE, REPOSITORY, Layout, RunLayout, script_of
from common.recipe import code_digest, file_digest
from evaluation.metrics import pooled_metrics
from training.settings import Settings

STACKS = {  # name: raw folder, Snakemake's settings, sample, known layer, target layers
    "HER2-C": ("her2st", ["samples=C", "layers=2,3,4"], "C", 2, (3, 4)),
    "mouse brain": ("visium/mousebrain", ["dataset_config=configs/mousebrain.yaml"], "brain", 1, (2,))}
SHORT = {stack: stack.replace(" ", "_") for stack in STACKS}  # in names of folders
HIDDEN = {"HER2-C": (3, (2, 4), None), "mouse brain": (1, (2,), 50.0)}  # known layer, hidden layers, grid_pitch_um
PICTURES = {"HER2-C": "2,3", "mouse brain": "1"}  # training layers; the others are scored
ABLATION = ("", "levels", "cross_attention", "transformer", "gat", "imputation", "mix")
METRICS = ("mse", "mae", "pcc_spot", "pcc_gene", "scc_gene")
ERRORS = ("noise", "mse_per_noise")
LEVELS = (50, 80, 95)  # % of the intervals


def script(name: str, *options) -> tuple[float, float]:
    """Run a script; its seconds, and the peak memory (MiB) of its largest process. Raises CalledProcessError."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, name, *map(str, options)], cwd=REPOSITORY)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def code_of_rows() -> str:
    """Digest of what a row depends on beside the raw data: the code of this benchmark, of both mains, of predict_3d and
    of every step, and the configs.
    """
    mains = [REPOSITORY / f"{name}.py" for name in ("main", "main_3d", "predict_3d")]
    convert = REPOSITORY / "data_preprocessing" / "0_1_convert_raw.py"
    scripts = [Path(__file__).resolve(), *mains, convert, *map(script_of, PIPELINE)]
    configs = [REPOSITORY / "configs" / name for name in ("her2st.yaml", "mousebrain.yaml", "visium.yaml")]
    return hashlib.sha256("".join([code_digest(*scripts), *map(file_digest, configs)]).encode()).hexdigest()[:12]


def make_root(args: argparse.Namespace, stack: str) -> Path:
    """The stack's dataset root, from the raw files by the workflow; used again if its recipes are current."""
    return root_of(stack, Path(args.raw_path), Path(args.work_path))


@lru_cache(maxsize=None)
def root_of(stack: str, raw_path: Path, work_path: Path) -> Path:
    raw, settings, sample, *_ = STACKS[stack]
    root = (work_path / SHORT[stack]).resolve()
    there = Layout(root).graph_3d(sample).is_file()
    if there and is_current(root):
        return root
    if there:
        print(f"{root}: other code, settings or raw data produced it: all its steps run again", flush=True)
    again = ["--forceall"] if there else []
    script("-m", "snakemake", "--profile", "workflow/profiles/default", *again, "--config", f"root_path={root}",
           f"raw_path={(raw_path / raw).resolve()}", *settings)
    return root


def is_current(root: Path) -> bool:
    """True if every recipe of the root is current, its code included."""
    context = jobs.open_context(cli.make_parser(__doc__, done=False).parse_args(["--root_path", str(root)]))
    verdicts, _ = stale.verdicts_of(context, PIPELINE)
    return not any(one.changes or one.other_code for one in verdicts)


def coverage(run: RunLayout, sample: str, layers: tuple[int, ...]) -> dict[str, float]:
    """Share (%) of the target values within the 50, 80 and 95 % intervals."""
    z = []
    for layer in layers:
        adata = read_h5ad(run.imputed(sample, layer))
        z.append(np.abs((adata.layers["measured"] - adata.X) / adata.layers["sd"]).ravel())
    z = np.concatenate(z)
    return {f"covered_{level}": 100 * float((z <= norm.ppf(0.5 + level / 200)).mean()) for level in LEVELS}


def run_folder(args: argparse.Namespace, name: str) -> RunLayout:
    return RunLayout(Path(args.work_path).resolve() / "runs" / name)


def msagnet_row(run: RunLayout, result: dict) -> dict:
    """Scores, seconds of training and peak memory (MiB) of a run of MSAGNet. result: its metrics.json."""
    took = read_json(run.runtime)
    return {"method": "msagnet", **result["methods"]["msagnet"]["pooled"],
            "seconds": sum(took["training_seconds"].values()), "peak_memory_mib": took["peak_memory_mib"]}


def run_stack(args: argparse.Namespace, stack: str, seed: int, without: str = "") -> list[dict]:
    """Rows of one training: MSAGNet; with the first seed of the full network also the other methods and the ceiling."""
    root, (_, _, sample, known, targets) = make_root(args, stack), STACKS[stack]
    run = run_folder(args, f"{SHORT[stack]}_{without or 'full'}_{seed}")
    left_out = ["--without", without] if without else []
    script("main_3d.py", "--root_path", root, "--save_path", run.root,
           "--known_layers", known, "--seed", seed, *left_out)
    result = read_json(run.metrics_json)
    shared = {"stack": stack, "seed": seed, "without": without}
    row = {**shared, **msagnet_row(run, result)}
    if seed or without:
        return [row]
    script("predict_3d.py", "--root_path", root, "--save_path", run.root)
    row |= coverage(run, sample, targets)
    gp_run = RunLayout(run.root.with_name(f"{run.root.name}_gp"))
    script("main_3d.py", "--root_path", root, "--save_path", gp_run.root, "--known_layers", known, "--method", "gp")
    script("predict_3d.py", "--root_path", root, "--save_path", gp_run.root)
    took = read_json(gp_run.runtime)
    gp_row = {**shared, "method": "gp", **result["methods"]["gp"]["pooled"], **coverage(gp_run, sample, targets),
              "seconds": took["seconds"], "peak_memory_mib": took["peak_memory_mib"]}
    others = [{**shared, "method": method, **one["pooled"]} for method, one in result["methods"].items()
              if method not in ("msagnet", "gp")]
    return [*others, gp_row, row, {**shared, "method": "ceiling", **result["ceiling"]["pooled"]}]


def run_pictures(args: argparse.Namespace, stack: str, seed: int) -> list[dict]:
    """Rows of one training in 2D: MSAGNet; with the first seed also every other method and the ceiling."""
    run = run_folder(args, f"{SHORT[stack]}_2d_{seed}")
    script("main.py", "--root_path", make_root(args, stack), "--save_path", run.root,
           "--training_layers", PICTURES[stack], "--seed", seed)
    result = read_json(run.metrics_json)
    shared = {"stack": f"{stack}, 2D", "seed": seed, "without": ""}
    row = {**shared, **msagnet_row(run, result)}
    if seed:
        return [row]
    others = [{**shared, "method": method, **one["pooled"]} for method, one in result["methods"].items()
              if method != "msagnet"]
    return [*others, row, {**shared, "method": "ceiling", **result["ceiling"]["pooled"]}]


def run_hidden(args: argparse.Namespace, stack: str) -> list[dict]:
    """Rows of the run on the measured spots, and of the lattice in a root whose target sections are image-only."""
    root, sample, (known, targets, grid_pitch_um) = make_root(args, stack), STACKS[stack][2], HIDDEN[stack]
    hidden = root.with_name(f"{root.name}_hidden")
    hidden_layers.hide_layers(root, hidden, sample, known, grid_pitch_um)
    steps = [script(script_of(step), "--root_path", hidden) for step in PIPELINE]
    rows = []
    for method in ("gp", "msagnet"):
        runs = {one: RunLayout(root.parent / "runs" / f"{one.name}_from_{known}_{method}") for one in (root, hidden)}
        for one, run in runs.items():
            cost = [script("main_3d.py", "--root_path", one, "--save_path", run.root, "--known_layers", known,
                           "--method", method),
                    script("predict_3d.py", "--root_path", one, "--save_path", run.root)]
        seconds, memory = zip(*steps, *cost, strict=True)  # of the lattice: all steps, training and prediction
        scores, n_spots, n_lattice = hidden_layers.lattice_scores(runs[root], runs[hidden], sample, targets)
        result = read_json(runs[root].metrics_json)
        rows.append({"method": method, **result["methods"][method]["pooled"], "n_spots": sum(n_spots.values())})
        for name, layers in scores.items():
            rows.append({"method": f"{method}, lattice, {name}", **pooled_metrics(layers, n_spots),
                         "n_spots": n_lattice, "seconds": sum(seconds), "peak_memory_mib": max(memory)})
    mean = {"method": "mean", **result["methods"]["mean"]["pooled"]}
    ceiling = {"method": "ceiling", **result["ceiling"]["pooled"]}
    return [{"stack": stack, "seed": 0, "without": "", **row} for row in (mean, *rows, ceiling)]


def run_confidence(args: argparse.Namespace) -> list[dict]:
    """Is the confidence informative? Rows of target spots by quarters of confidence.

    The quarters are of each stack, of both stacks in one ranking, and of both with a quarter of each.
    """
    rows = []
    for method, end in (("gp", "_gp"), ("msagnet", "")):
        spots = {}
        for stack, (_, _, sample, _, targets) in STACKS.items():
            run = run_folder(args, f"{SHORT[stack]}_full_0{end}")
            run_stack(args, stack, 0)  # a current run is not trained again
            imputed = [read_h5ad(run.imputed(sample, layer)) for layer in targets]
            spots[stack] = pd.concat([hidden_layers.spot_errors(adata) for adata in imputed])
        ranked = [one.assign(confidence=one["confidence"].rank(pct=True)) for one in spots.values()]
        spots |= {"both": pd.concat(spots.values()), "both, a quarter of each": pd.concat(ranked)}
        for stack, one in spots.items():
            for row in hidden_layers.by_confidence(one):
                name = f"{method}, {row.pop('quarter')}"
                rows.append({"stack": stack, "seed": 0, "without": "", "method": name, **row})
    return rows


def run_counts(args: argparse.Namespace, sample: str, seed: int) -> list[dict]:
    """Rows of one sample without images: MSAGNet without levels, as there are no patches; with the first seed also the
    baselines and the Gaussian process.
    """
    from benchmarks.without_images import counts_graph
    from evaluation import baselines
    from evaluation.scores import score_layers
    from training import three_d
    from training.process import fit_process, gaussian_process
    device = start_torch(seed, "cpu")
    warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
    graph = counts_graph(Path(args.raw_path) / "her2st", sample)
    known, *targets = graph.labelled_layers()
    process = fit_process(graph, [known])
    started = time.perf_counter()
    settings = Settings(seed=seed, without=("levels",))
    model = three_d.train([graph], {sample: graph.in_layers([known])}, {sample: process}, settings, device)
    seconds = time.perf_counter() - started
    predictions = {"msagnet": three_d.predict(model, graph, process, [known], device)["expression"]}
    if seed == 0:
        rows = graph.in_layers([known]).numpy()
        label, position = graph.label.numpy()[rows], graph.position.numpy()
        predictions = {
            "mean": baselines.mean(label, graph.n_spots),
            "nearest": baselines.nearest(label, position[rows], position),
            "kernel": baselines.kernel(label, position[rows], position),
            "gp": gaussian_process(graph, process)["expression"],
            **predictions}
    n_spots = {f"{sample}/{layer}": int(graph.in_layers([layer]).sum()) for layer in targets}
    shared, table_rows = {"stack": f"HER2-{sample}, counts", "seed": seed, "without": ""}, []
    for method, layers in score_layers(graph, targets, predictions).items():
        took = {"seconds": seconds} if method == "msagnet" else {}
        table_rows.append({**shared, "method": method, **pooled_metrics(layers, n_spots), **took})
    return table_rows


def cases_of(args: argparse.Namespace) -> list[tuple[str, int, str, Callable[[], list[dict]]]]:
    """(stack, seed, part left out, function that computes its rows) of the part's cases."""
    seeds = range(args.n_seeds)
    if args.part == "counts":
        from benchmarks.without_images import her2_config
        samples = sorted(her2_config(Path(args.raw_path) / "her2st").samples)
        return [(f"HER2-{sample}, counts", seed, "", partial(run_counts, args, sample, seed))
                for sample, seed in product(samples, seeds)]
    if args.part == "pictures":
        return [(f"{stack}, 2D", seed, "", partial(run_pictures, args, stack, seed))
                for stack, seed in product(args.stack or PICTURES, seeds)]
    if args.part == "hidden":
        return [(stack, 0, "", partial(run_hidden, args, stack)) for stack in args.stack or HIDDEN]
    if args.part == "confidence":
        return [("both", 0, "", partial(run_confidence, args))]
    left_out = ABLATION if args.part == "ablation" else ("",)
    return [(stack, seed, without, partial(run_stack, args, stack, seed, without))
            for stack, without, seed in product(args.stack or STACKS, left_out, seeds)]


def table(rows: pd.DataFrame) -> str:
    """The rows in Markdown: one line per stack, method and part left out; mean ± sd over several seeds."""
    covered = (f"covered_{level}" for level in LEVELS)
    known = ("n_spots", *METRICS, *ERRORS, "lower_percent", *covered, "seconds", "peak_memory_mib")
    names = [name for name in known if name in rows]
    lines = ["| stack | method | " + " | ".join(names) + " | seeds |", "| --- " * (len(names) + 3) + "|"]
    for (stack, without, method), group in rows.groupby(["stack", "without", "method"], sort=False):
        cells = []
        for name in names:
            values = group[name].dropna()
            digits = 4 if name in METRICS + ERRORS else 0 if name == "n_spots" else 1
            spread = f" ± {values.std():.{digits}f}" if len(values) > 1 and name in METRICS else ""
            cells.append(f"{values.mean():.{digits}f}{spread}" if len(values) else "")
        label = f"{method} without {without}" if without else method
        lines.append(f"| {stack} | {label} | " + " | ".join(cells) + f" | {len(group)} |")
    return "\n".join(lines) + "\n"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["stacks", "ablation", "pictures", "counts", "hidden", "confidence"]
    parser.add_argument("--part", choices=parts, required=True, help="see above")
    parser.add_argument("--raw_path", required=True, help="folder with her2st/ and visium/")
    parser.add_argument("--work_path", default="stacks", help="dataset roots and runs")
    parser.add_argument("--save_path", default=str(REPOSITORY / "benchmarks" / "results"), help="folder of the tables")
    parser.add_argument("--stack", choices=sorted(STACKS), action="append",
                        help="only this stack (repeatable; not for counts and confidence)")
    parser.add_argument("--n_seeds", type=int, default=5, help="seeds 0, 1, …")
    return parser


def kept_rows(file: Path) -> pd.DataFrame:
    """The stored rows of the current code; the number of other rows is printed."""
    if not file.is_file():
        return pd.DataFrame(columns=["stack", "seed", "without", "method", "code"])
    rows = read_table(file, ("stack", "seed", "method"), "this benchmark", text=("stack", "method", "code"))
    rows = rows.fillna({"without": ""})
    of_now = rows.get("code", pd.Series("", rows.index)) == code_of_rows()
    if not of_now.all():
        print(f"{file}: {(~of_now).sum()} of {len(rows)} rows are of other code: they are dropped, and the cases of "
              "this call are computed again", flush=True)
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
