"""How good is the imputation? Every method on real stacks, on the same target spots.

INPUT   --raw_path FOLDER    her2st/ST-{cnts,imgs,spotfiles} (Andersson et al. 2021) and visium/mousebrain (Villacampa et al. 2021)
        --work_path FOLDER   dataset roots and runs; what is there is used again
OUTPUT  <save_path>/<part>.csv   a row a stack, method and seed: all metrics, coverage of intervals, seconds, memory
        <save_path>/<part>.md    the table: mean ± sd over the seeds
Parts
    stacks      HER2-C 2 -> 3, 4 and mouse brain 1 -> 2: floors, Gaussian process, MSAGNet, from raw files by the numbered scripts
    ablation    the same with parts of the network left out
    counts      every HER2 sample, layer 1 -> all others, without images: array positions brought to a common centroid
Rows that are there are kept: a run that was stopped goes on where it stood. Delete the CSV, and the runs, after a change of the code.

    python benchmarks/real_stacks.py --part stacks --raw_path ../data --work_path ../stacks --n_seeds 5
"""
import sys; from pathlib import Path
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import argparse
import subprocess
import time
import warnings

import numpy as np
import pandas as pd
from scipy.stats import norm

from common import cli
from common.config import load_config
from common.io import atomic_path, read_h5ad, read_json, read_table, write_table
from common.layout import REPOSITORY, Layout, RunLayout

STACKS = {  # name: raw folder, Snakemake's settings, sample, known layer, target layers
    "HER2-C": ("her2st", ["samples=C", "layers=2,3,4"], "C", 2, (3, 4)),
    "mouse brain": ("visium/mousebrain", ["dataset_config=configs/mousebrain.yaml"], "brain", 1, (2,))}
ABLATION = ("", "levels", "cross_attention", "transformer", "gat", "imputation", "gate")
METRICS = ("mse", "mae", "pcc_spot", "pcc_gene", "scc_gene")
LEVELS = (50, 80, 95)
N_GENES = 250


def script(name: str, *options) -> None:
    subprocess.run([sys.executable, name, *map(str, options)], cwd=REPOSITORY, check=True)


def make_root(args: argparse.Namespace, stack: str) -> Path:
    """The stack's dataset root, made from the raw files by the workflow unless it is there."""
    raw, settings, sample, *_ = STACKS[stack]
    root = (Path(args.work_path) / stack.replace(" ", "_")).resolve()
    if not Layout(root).graph_3d(sample).is_file():
        script("-m", "snakemake", "--profile", "workflow/profiles/default", "--config", f"root_path={root}",
               f"raw_path={(Path(args.raw_path) / raw).resolve()}", *settings)
    return root


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


def her2_config(raw: Path):
    """The HER2+ dataset with every sample that the raw folder holds."""
    from data_preprocessing.readers import her2st
    config = load_config(REPOSITORY / "configs" / "her2st.yaml")
    return config.model_copy(update={"samples": her2st.list_layers(raw, config)})


def counts_graph(raw: Path, sample: str):
    """A sample without images: labels, and array positions of every layer about their centroid, in pitches."""
    import torch
    from data_preprocessing.expression import columns_of, layer_mean, normalise, ranked, shared_genes
    from data_preprocessing.readers import her2st
    from dataloader import SampleGraph
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
    import evaluation
    import training
    from models import baselines, metrics
    device = cli.start_torch(seed, "cpu")
    warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
    graph = counts_graph(Path(args.raw_path) / "her2st", sample)
    known, *targets = graph.labelled_layers()
    process = training.fit_process(graph, [known])
    started = time.perf_counter()
    model = training.train([graph], {sample: graph.in_layers([known])}, {sample: process}, training.Settings(seed=seed, without=("levels",)), device)
    seconds = time.perf_counter() - started
    predictions = {"msagnet": training.predict(model, graph, process, [known], device)["expression"]}
    if seed == 0:
        rows = graph.in_layers([known]).numpy()
        label, position = graph.label.numpy()[rows], graph.position.numpy()
        predictions = {"mean": baselines.mean(label, graph.n_spots), "nearest": baselines.nearest(label, position[rows], position),
                       "kernel": baselines.kernel(label, position[rows], position), "gp": training.gaussian_process(graph, process)["expression"],
                       **predictions}
    n_spots = {f"{sample}/{layer}": int(graph.in_layers([layer]).sum()) for layer in targets}
    return [{"stack": f"HER2-{sample}, counts", "seed": seed, "without": "", "method": method, **metrics.pooled_metrics(layers, n_spots),
             **({"seconds": seconds} if method == "msagnet" else {})} for method, layers in evaluation.score_layers(graph, targets, predictions).items()]


def cases_of(args: argparse.Namespace) -> list[tuple[str, int, str]]:
    """(stack or sample, seed, left out) of the part."""
    if args.part == "counts":
        return [(sample, seed, "") for sample in sorted(her2_config(Path(args.raw_path) / "her2st").samples) for seed in range(args.n_seeds)]
    return [(stack, seed, without) for stack in args.stack or STACKS for without in (ABLATION if args.part == "ablation" else ("",)) for seed in range(args.n_seeds)]


def table(rows: pd.DataFrame) -> str:
    """Markdown: a line a stack, method and part left out; mean ± sd over seeds where there are several."""
    names = [name for name in (*METRICS, *(f"covered_{level}" for level in LEVELS), "seconds", "peak_memory_mib") if name in rows]
    lines = ["| stack | method | " + " | ".join(names) + " | seeds |", "| --- " * (len(names) + 3) + "|"]
    for (stack, without, method), group in rows.groupby(["stack", "without", "method"], sort=False):
        cells = []
        for name in names:
            values, digits = group[name].dropna(), 4 if name in METRICS else 1
            spread = f" ± {values.std():.{digits}f}" if len(values) > 1 and name in METRICS else ""
            cells.append(f"{values.mean():.{digits}f}{spread}" if len(values) else "")
        lines.append(f"| {stack} | {method}{' without ' + without if without else ''} | " + " | ".join(cells) + f" | {len(group)} |")
    return "\n".join(lines) + "\n"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["stacks", "ablation", "counts"], required=True, help="see above")
    parser.add_argument("--raw_path", required=True, help="folder with her2st/ and visium/")
    parser.add_argument("--work_path", default="stacks", help="dataset roots and runs")
    parser.add_argument("--save_path", default=str(REPOSITORY / "benchmarks" / "results"), help="where the tables go")
    parser.add_argument("--stack", choices=sorted(STACKS), action="append", help="only this one (repeatable; not for counts)")
    parser.add_argument("--n_seeds", type=int, default=5, help="seeds 0, 1, …")
    return parser


def run(args: argparse.Namespace) -> int:
    file = Path(args.save_path) / f"{args.part}.csv"
    rows = read_table(file, ("stack", "seed", "method"), "this benchmark", text=("stack", "method")).fillna({"without": ""}) if file.is_file() else pd.DataFrame()
    for name, seed, without in cases_of(args):
        stack = f"HER2-{name}, counts" if args.part == "counts" else name
        if len(rows) and ((rows["stack"] == stack) & (rows["seed"] == seed) & (rows["without"] == without) & (rows["method"] == "msagnet")).any():
            continue
        new = run_counts(args, name, seed) if args.part == "counts" else run_stack(args, name, seed, without)
        rows = pd.concat([rows, pd.DataFrame(new)], ignore_index=True)
        write_table(file, rows)
        with atomic_path(file.with_suffix(".md")) as target:
            target.write_text(table(rows))
        print(f"{stack}, seed {seed}{', without ' + without if without else ''}: done", flush=True)
    print(table(rows))
    return 0


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return cli.guarded(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
