"""Train and evaluate MSAGNet 3D: the expression of every section from H&E and the expression of the known sections.

With --method, the released arithmetic (reference), a Gaussian process or a baseline replaces it, here and in
predict_3d.py.

INPUT   <root>/3D_npy_information/<sample>.npy, 3D_graph_data/<sample>.pt    one 3D graph per sample
                                                                             (data_preprocessing_3d/5 and 4)
        <root>/spot_iou/<sample>.npz, gene_expression/    for the baselines, the noise ceiling and the gene list
OUTPUT  <save_path>/metrics.json, metrics.csv    every method on the same target spots; identical between two runs of
                                                 one recipe
        <save_path>/fold_<k>/checkpoint.pt       everything predict_3d.py needs
        <save_path>/splits.json, config.yaml, genes.csv, background.csv, runtime.json, tensorboard/

Target sections are only scored: their labels are in no loss, no input, no scaling. With `genes_from: all` (as
published) the gene list is chosen on all sections; with `genes_from: known` on the known ones.

    CUDA_VISIBLE_DEVICES=0 python main_3d.py --root_path demo_data --base_lr 0.001 --batch_size 128
"""
import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path

from common import cli, jobs, stale
from common.config import absent_of_folds
from common.device import start_torch
from common.errors import DataError
from common.exit_codes import guarded_training
from common.feature_recipe import trained_with
from common.io import read_csr, write_json, write_pt
from common.layout import PIPELINE, RunLayout
from common.recipe import file_digest
from common.status import set_status
from training.options import add_training_options

NETWORK_PARTS = ("levels", "cross_attention", "gat", "transformer", "imputation", "mix")
TRAINED = ("msagnet", "reference")
METHODS = (*TRAINED, "gp", "kernel", "similarity", "overlap", "nearest", "mean")


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, sample=True, layer=False, done=False)
    add = parser.add_argument
    add("--save_path", default=None, help="run folder (default <root>/runs/<method>)")
    add("--method", choices=METHODS, default="msagnet",
        help="method of predict_3d.py; reference: the released arithmetic and recipe; the others need no training")
    add("--known_layers", default=None,
        help="sections whose expression is given, e.g. 2 or 1,4 (default: config, else the first)")
    add("--without", nargs="*", choices=NETWORK_PARTS, default=[],
        help="parts of the network to leave out (ablation); mix: the share of imputation")
    add_training_options(
        parser, max_iterations=100, max_iterations_help="training steps of a member",
        batch_size_help="hidden spots in the loss per step; the whole graph is in every pass",
        members_help="networks that are averaged")
    return parser


def enough_known(graphs: list, known: dict[str, list[int]], layout) -> list:
    """The samples whose known layers have enough labelled spots, or none; the others are reported.

    Raises DataError if none is left.
    """
    from training.loop import check_labelled
    kept, error = [], None
    for graph in graphs:
        layers = known[graph.sample]
        try:
            if layers:
                n_labelled = int(graph.in_layers(layers).sum())
                check_labelled(f"sample {graph.sample}", n_labelled, f"known sections {layers}")
            kept.append(graph)
        except DataError as one:
            error = one
            set_status(layout, "main_3d", graph.sample, f"left out: {error}")
            print(f"main_3d  {graph.sample}: left out: {error}", file=sys.stderr)
    if not kept:
        raise error
    return kept


def train(method: str, reference_width: int, graphs: list, pools: dict, processes: dict, settings, device,
          log) -> tuple[tuple, dict]:
    """Train msagnet or reference: the network (and the projection of its features), and its part of the checkpoint."""
    from training import reference_recipe, three_d
    if method == "msagnet":
        model = three_d.train(graphs, pools, processes, settings, device, log)
        state = {name: value.cpu() for name, value in model.state_dict().items()}
        return (model,), {"state": state, "architecture": model.architecture.as_dict()}
    in_order = [pools[graph.sample] for graph in graphs]
    model, projection = reference_recipe.train(graphs, in_order, True, reference_width, settings.seed, device, log)
    return (model, projection), reference_recipe.checkpoint(model, projection)


def train_fold(fold, method: str, reference_width: int, graphs: list, processes: dict, config, run_layout: RunLayout,
               settings, device, genes: list[str]) -> tuple:
    """Train the network of a fold, write its checkpoint and TensorBoard log: the network, as from train()."""
    from torch.utils.tensorboard import SummaryWriter
    pools = fold.pools(graphs)
    with SummaryWriter(str(run_layout.tensorboard(fold.index))) as writer:
        def log(iteration: int, values: dict[str, float]) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, iteration)

        network, saved = train(method, reference_width, graphs, pools, processes, settings, device, log)
    write_pt(run_layout.checkpoint(fold.index), saved | {
        "settings": asdict(settings) | {"without": list(settings.without)}, "genes": genes,
        "trained_with": trained_with(config, graphs[0].feature_recipe, graphs[0].feature_sets),
        "known_layers": fold.known_layers, "training_layers": fold.training_layers})
    return network


def run_fold(fold, method: str, reference_width: int, graphs: list, processes: dict, config, layout,
             run_layout: RunLayout, settings, device, genes: list[str]) -> dict:
    """Train one fold (methods msagnet, reference) and score its test samples.

    processes: {sample: Gaussian process of its known layers}. Returns scores {method: {layer: metrics}}, ceiling
    {layer: PCCs}, n_spots {layer: int} and the kernels of the test samples.
    """
    from evaluation.scores import baseline_predictions, ceilings, score_layers
    from training import reference_recipe, three_d
    from training.process import gaussian_process
    started = time.perf_counter()
    network = ()
    if method in TRAINED:
        network = train_fold(fold, method, reference_width, graphs, processes, config, run_layout, settings, device,
                             genes)
    kernels = {}
    for sample in fold.test_samples:
        if sample in processes:
            kernels[sample] = asdict(processes[sample].kernel)
    result = {"training_seconds": round(time.perf_counter() - started, 1), "scores": {}, "ceiling": {}, "n_spots": {},
              "kernels": kernels}
    for graph in graphs:
        targets = fold.target_layers.get(graph.sample)
        if not targets:
            continue
        known, process = fold.known_layers[graph.sample], processes[graph.sample]
        iou = read_csr(layout.spot_iou(graph.sample), "1_get_iou.py")
        predictions = baseline_predictions(graph, known, iou)
        predictions["gp"] = gaussian_process(graph, process)["expression"]
        if method == "reference":
            model, projection = network
            predictions["reference"] = reference_recipe.predict(model, graph, graph.in_layers(known), projection)
        if method == "msagnet":
            predictions["msagnet"] = three_d.predict(*network, graph, process, known, device)["expression"]
        for name, layers in score_layers(graph, targets, predictions).items():
            result["scores"].setdefault(name, {}).update(layers)
        for layer in targets:
            result["n_spots"][f"{graph.sample}/{layer}"] = int(graph.in_layers([layer]).sum())
        result["ceiling"] |= ceilings(layout, graph, targets)
    return result


def settings_of(args: argparse.Namespace):
    """The options of the training."""
    from training.settings import Settings
    return Settings(
        base_lr=args.base_lr, batch_size=args.batch_size, max_iterations=args.max_iterations, lr_decay=args.lr_decay,
        optimizer=args.optimizer, rank=args.rank, width=args.width, members=args.members,
        without=tuple(sorted(args.without)), seed=args.seed)


def folds_of(args: argparse.Namespace, graphs: list, known: dict[str, list[int]], layout, config) -> list:
    """The folds; samples that they lack of the config, and known spots that are left out, are printed.

    known: {sample: known layers}. Raises DataError.
    """
    from evaluation.scores import check_gene_choice
    from training.folds import groups_of, make_folds
    from training.process import left_out_lines
    check_gene_choice(layout, config, known)
    labelled = {graph.sample: graph.labelled_layers() for graph in graphs}
    folds = make_folds(labelled, known, groups_of(list(known), config.folds))
    lines = absent_of_folds(list(known), config.folds)
    for line in [*lines, *left_out_lines(graphs, known, folds if args.method == "msagnet" else [])]:
        print(f"main_3d  {line}")
    return folds


def run(args: argparse.Namespace) -> int:
    started = time.perf_counter()
    context = jobs.open_context(args)
    layout, config = context.layout, context.config
    device = start_torch(args.seed, args.gpu)
    stale.require_current(context, PIPELINE)
    from dataloader_3d import known_layers_of, load_graphs, refused_layers
    from evaluation import runs
    from training.process import fit_process

    settings = settings_of(args)
    graphs = load_graphs(context, "main_3d")
    given = cli.parse_layers(args.known_layers)
    refused = {graph.sample: refused_layers(layout, graph.sample) for graph in graphs}
    known = {graph.sample: known_layers_of(config, graph, given, refused[graph.sample]) for graph in graphs}
    graphs = enough_known(graphs, known, layout)
    known = {graph.sample: known[graph.sample] for graph in graphs}
    folds = folds_of(args, graphs, known, layout, config)

    run_layout, genes = runs.open_run(args, layout, config, args.method, "main_3d", folds)
    inputs = [layout.genes, layout.background]
    for sample in sorted(known):
        inputs += [layout.graph_3d(sample), layout.npy_3d(sample), layout.spot_iou(sample)]
    others = {"method": args.method, "reference_width": args.reference_width, "device": device.type,
              "known_layers": known, "dataset": config.dataset}
    recipes = [runs.fold_recipe(Path(__file__), layout.root, inputs, fold, settings, others) for fold in folds]

    def outputs(fold) -> list[Path]:
        return [run_layout.checkpoint(fold.index)] if args.method in TRAINED else []

    todo = runs.pending(run_layout, folds, recipes, outputs, args.overwrite)
    processes = {}
    for graph in graphs if todo else []:
        if known[graph.sample]:
            processes[graph.sample] = fit_process(graph, known[graph.sample])  # seconds each

    def work(fold) -> dict:
        return run_fold(fold, args.method, args.reference_width, graphs, processes, config, layout, run_layout,
                        settings, device, genes)

    n_workers = args.num_workers if device.type == "cpu" else 1
    results = runs.run_folds("main_3d", run_layout, folds, recipes, todo, work, n_workers)
    write_splits_and_result(args, run_layout, folds, results, known, started, device, len(genes), config.genes_from)
    for sample, layers in refused.items():
        for layer in layers:
            print(f"{sample}/{layer}: registration refused: do not trust the prediction of this section;"
                  f" see {layout.quality(sample)}")
    print(f"\nwrote {run_layout.root}; next: python predict_3d.py --root_path {layout.root}"
          f" --save_path {run_layout.root}")
    return 0


def write_splits_and_result(args: argparse.Namespace, run_layout: RunLayout, folds: list, results: list[dict],
                            known: dict[str, list[int]], started: float, device, n_genes: int,
                            genes_from: str) -> None:
    """Write splits.json, metrics.json, metrics.csv and runtime.json, and print the table."""
    from evaluation import runs
    kernels, targets = {}, {}
    for result in results:
        kernels |= result["kernels"]
    for fold in folds:
        targets |= fold.target_layers
    write_json(run_layout.splits, {"method": args.method, "folds": [asdict(fold) for fold in folds],
                                   "kernels": kernels})
    recipe = {"method": args.method, "seed": args.seed, "config_sha256": file_digest(run_layout.config),
              "genes_sha256": file_digest(run_layout.genes), "known_layers": known, "target_layers": targets}
    runs.finish(run_layout, folds, results, recipe, started, device, n_genes, genes_from)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return guarded_training(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
