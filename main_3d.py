"""Train and evaluate MSAGNet 3D: the expression of every section from H&E and the measured expression of the known layers.
With --method, a Gaussian process or a floor takes its place: nothing is trained, and predict_3d.py uses that.

INPUT   <root>/3D_npy_information/<sample>.npy, 3D_graph_data/<sample>.pt    one 3D graph a sample (data_preprocessing_3d/5 and 4)
        <root>/spot_iou/<sample>.npz, gene_expression/                       for the floors, the noise ceiling and the gene list
OUTPUT  <save_path>/metrics.json, metrics.csv    every method on the same target spots; identical between two runs of one recipe
        <save_path>/fold_<k>/checkpoint.pt       everything predict_3d.py needs
        <save_path>/splits.json, config.yaml, genes.csv, runtime.json, tensorboard/

Target layers are scored and nothing else: their labels are in no loss, no input, no scaling. With `genes_from: all` (as published) the
gene list is chosen on all layers; `genes_from: known` shuts that door too.

    CUDA_VISIBLE_DEVICES=0 python main_3d.py --root_path demo_data --base_lr 0.001 --batch_size 128
"""
import argparse
import os
import platform
import resource
import sys
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from common import cli
from common.errors import DataError
from common.io import read_csr, read_h5ad, read_table, write_json, write_pt, write_table
from common.config import save_config
from common.layout import RunLayout
from common.recipe import file_digest

NETWORK_PARTS = ("levels", "cross_attention", "gat", "transformer", "imputation", "gate")
METHODS = ("msagnet", "gp", "kernel", "similarity", "overlap", "nearest", "mean")


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, sample=True, layer=False)
    parser.add_argument("--save_path", default=None, help="run folder (default runs/<dataset>)")
    parser.add_argument("--method", choices=METHODS, default="msagnet", help="what predict_3d.py will use; any but msagnet needs no training")
    parser.add_argument("--known_layers", default=None, help="layers whose expression is given, e.g. 2 or 1,4 (default: config, else the first)")
    parser.add_argument("--base_lr", type=float, default=0.003, help="learning rate at the start")
    parser.add_argument("--lr_decay", type=float, default=0.9, help="lr = base_lr (1 - it / max_iterations)^lr_decay")
    parser.add_argument("--batch_size", type=int, default=128, help="hidden spots in the loss per step; the whole graph is in every pass")
    parser.add_argument("--max_iterations", type=int, default=100, help="training steps of a member")
    parser.add_argument("--members", type=int, default=4, help="networks that are averaged")
    parser.add_argument("--optimizer", choices=["adamw", "sgd"], default="adamw", help="sgd (momentum 0.9) is the paper's")
    parser.add_argument("--rank", type=int, default=0, help="rank of the expression basis (default: 8 up to 1000 labelled spots, 12 above)")
    parser.add_argument("--width", type=int, default=32, help="width of the network")
    parser.add_argument("--without", nargs="*", choices=NETWORK_PARTS, default=[], help="parts of the network to leave out (ablation)")
    parser.add_argument("--seed", type=int, default=0, help="seed of every random draw")
    parser.add_argument("--num_workers", type=int, default=1, help="folds trained side by side on the CPU, one thread each (default 1)")
    parser.add_argument("--gpu", default=None, help="GPU number, or 'cpu' (default: 0 if there is one, else cpu)")
    return parser


def raw_counts(layout, graph, layer: int):
    """Raw counts of a layer's spots in graph order: (n_spots, n_genes)."""
    import numpy as np
    counts = read_h5ad(layout.member_counts(224, graph.sample, layer), "5_2_get_label_of_other_resolution.py")
    matrix = counts[graph.barcode[graph.in_layers([layer]).numpy()]].X
    return np.asarray(matrix.todense() if hasattr(matrix, "todense") else matrix)


def check_gene_choice(layout, config, known: dict[str, list[int]]) -> None:
    """With `genes_from: known` the genes must have been chosen on none but the known layers of this run. Raises DataError."""
    from data_preprocessing.expression import known_layers
    if config.genes_from != "known":
        return
    for sample, layers in known.items():
        chosen_on = known_layers(config, layout, sample)
        if not set(chosen_on) <= set(layers):
            raise DataError(layout.genes, f"genes_from: known, chosen on layers {chosen_on} of {sample}", f"the known layers {layers} of this run",
                            f"set samples.{sample}.known_layers in the config and run 5_1_find_high_expression.py on again")


def run_fold(fold, method: str, graphs: list, processes: dict, layout, run_layout: RunLayout, settings, device,
             genes: list[str]) -> tuple[dict, dict, dict, float]:
    """Train one fold (method msagnet), write its checkpoint and TensorBoard log, score its test samples.

    processes: {sample: Gaussian process of its known layers}. Returns (scores {method: {layer: metrics}}, ceiling {layer: PCCs}, n_spots {layer: int}, seconds).
    """
    from torch.utils.tensorboard import SummaryWriter
    import training
    from data_preprocessing.expression import normalise
    from models.metrics import noise_ceiling
    started = time.perf_counter()
    model = None
    if method == "msagnet":
        with SummaryWriter(str(run_layout.tensorboard(fold.index))) as writer:
            def log(iteration: int, values: dict[str, float]) -> None:
                for name, value in values.items():
                    writer.add_scalar(name, value, iteration)
            model = training.train(graphs, fold.pools(graphs), processes, settings, device, log)
        write_pt(run_layout.checkpoint(fold.index), {
            "state": {name: value.cpu() for name, value in model.state_dict().items()}, "architecture": model.architecture.as_dict(),
            "settings": asdict(settings) | {"without": list(settings.without)}, "genes": genes, "feature_sets": graphs[0].feature_sets,
            "known_layers": fold.known_layers, "training_layers": fold.training_layers})
    seconds = round(time.perf_counter() - started, 1)
    scores, ceiling, n_spots = {}, {}, {}
    for graph in graphs:
        targets = fold.target_layers.get(graph.sample)
        if not targets:
            continue
        known = fold.known_layers[graph.sample]
        predictions = training.floor_predictions(graph, known, read_csr(layout.spot_iou(graph.sample), "1_get_iou.py"))
        predictions["gp"] = training.gaussian_process(graph, processes[graph.sample])["expression"]
        if model is not None:
            predictions["msagnet"] = training.predict(model, graph, processes[graph.sample], known, device)["expression"]
        for method, layers in training.score_layers(graph, targets, predictions).items():
            scores.setdefault(method, {}).update(layers)
        for layer in targets:
            name = f"{graph.sample}/{layer}"
            n_spots[name] = int(graph.in_layers([layer]).sum())
            if layout.member_counts(224, graph.sample, layer).is_file():  # an archive may hold normalised values only
                ceiling[name] = noise_ceiling(raw_counts(layout, graph, layer), normalise)
    return scores, ceiling, n_spots, seconds


def run(args: argparse.Namespace) -> int:
    started = time.perf_counter()
    context = cli.open_context(args)
    layout, config = context.layout, context.config
    device = cli.start_torch(args.seed, args.gpu)
    import training
    from dataloader_3d import known_layers_of, load_graphs, refused_layers
    from models.metrics import pooled_metrics

    settings = training.Settings(base_lr=args.base_lr, batch_size=args.batch_size, max_iterations=args.max_iterations, lr_decay=args.lr_decay,
                                 optimizer=args.optimizer, rank=args.rank, width=args.width, members=args.members, without=tuple(sorted(args.without)), seed=args.seed)
    graphs = load_graphs(context, "main_3d")
    given = cli.parse_layers(args.known_layers)
    refused = {graph.sample: refused_layers(layout, graph.sample) for graph in graphs}
    known = {graph.sample: known_layers_of(config, graph, given, refused[graph.sample]) for graph in graphs}
    check_gene_choice(layout, config, known)
    folds = training.make_folds(graphs, known, config.folds)
    genes = read_table(layout.genes, ("gene",), "5_1_find_high_expression.py", text=("gene",))

    run_layout = RunLayout(Path(args.save_path)) if args.save_path else RunLayout.default(config.dataset)
    run_layout.metrics_json.unlink(missing_ok=True)  # no old numbers beside new checkpoints
    save_config(config, run_layout.config)
    write_table(run_layout.genes, genes)
    write_json(run_layout.splits, {"method": args.method, "folds": [asdict(fold) for fold in folds]})

    workers = min(args.num_workers, len(graphs)) if device.type == "cpu" else 1
    fitted = cli.map_workers(lambda graph: training.fit_process(graph, known[graph.sample]), [graph for graph in graphs if known[graph.sample]], workers)
    processes = {graph.sample: process for graph, process in zip([graph for graph in graphs if known[graph.sample]], fitted)}
    scores: dict[str, dict[str, dict[str, float]]] = {}
    ceiling: dict[str, dict[str, float]] = {}
    n_spots: dict[str, int] = {}
    seconds: dict[str, float] = {}
    workers = min(args.num_workers, len(folds)) if device.type == "cpu" else 1
    names = list(genes["gene"])
    with closing(cli.map_workers(lambda fold: run_fold(fold, args.method, graphs, processes, layout, run_layout, settings, device, names), folds, workers)) as results:
        for fold, (fold_scores, fold_ceiling, fold_spots, fold_seconds) in zip(folds, results):
            print(f"main_3d  fold {fold.index}: tested {', '.join(fold.test_samples)} ({fold_seconds} s)", flush=True)
            for method, layers in fold_scores.items():
                scores.setdefault(method, {}).update(layers)
            ceiling.update(fold_ceiling)
            n_spots.update(fold_spots)
            seconds[f"fold_{fold.index}"] = fold_seconds

    recipe = {"method": args.method, "seed": args.seed, "config_sha256": file_digest(run_layout.config), "genes_sha256": file_digest(run_layout.genes),
              "known_layers": known, "target_layers": {name: layers for fold in folds for name, layers in fold.target_layers.items()}}
    result = {"methods": {}, "ceiling": {"pooled": {}, "layers": ceiling}, "recipe": recipe}
    if n_spots:
        result["methods"] = {method: {"pooled": pooled_metrics(layers, n_spots), "layers": layers} for method, layers in scores.items()}
        result["ceiling"]["pooled"] = pooled_metrics(ceiling, n_spots) if set(ceiling) == set(n_spots) else {}
    write_json(run_layout.metrics_json, result)
    write_metrics_csv(run_layout, result)
    write_json(run_layout.runtime, runtime(started, seconds, device))
    if n_spots:
        print(f"\n{sum(n_spots.values())} target spots in {len(n_spots)} layers, {graphs[0].n_genes} genes (chosen on {config.genes_from} layers)")
        print(training.format_table(result["methods"], result["ceiling"]))
    else:
        print("no target layer has counts: nothing to score")
    for sample, layers in refused.items():
        for layer in layers:
            print(f"{sample}/{layer}: its registration was refused: do not trust what is said of this layer; see {layout.quality(sample)}")
    print(f"\nwrote {run_layout.root}; next: python predict_3d.py --root_path {layout.root} --save_path {run_layout.root}")
    return 0


def write_metrics_csv(run_layout: RunLayout, result: dict) -> None:
    """metrics.json as one row per method and layer."""
    import pandas as pd
    rows = [{"method": method, "layer": layer, **values} for method, one in result["methods"].items()
            for layer, values in [("pooled", one["pooled"]), *one["layers"].items()]]
    rows += [{"method": "ceiling", "layer": layer, **values}
             for layer, values in [("pooled", result["ceiling"]["pooled"]), *result["ceiling"]["layers"].items()]]
    write_table(run_layout.metrics_csv, pd.DataFrame(rows))


def runtime(started: float, seconds: dict, device) -> dict:
    """What it took and on what: seconds, peak memory, command, versions, hardware."""
    import torch
    import torch_geometric
    peak = {"peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
    if device.type == "cuda":
        peak["peak_gpu_memory_mib"] = torch.cuda.max_memory_allocated(device) // 2**20
    return {"seconds": round(time.perf_counter() - started, 1), "training_seconds": seconds, **peak, "command": sys.argv,
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "torch_geometric": torch_geometric.__version__},
            "hardware": {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu", "cores": os.cpu_count(),
                         "machine": platform.machine()}}


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)

    def work() -> int:
        try:
            return run(args)
        except FloatingPointError as error:
            raise DataError("training", str(error), "a finite loss", "lower --base_lr or check the input with common.cli status") from None
    return cli.guarded(work)


if __name__ == "__main__":
    sys.exit(main())
