"""Train and evaluate MSAGNet 3D: the expression of every section from H&E and the measured expression of the known layers.
With --method, the released arithmetic (reference), a Gaussian process or a floor takes its place, and predict_3d.py uses that.

INPUT   <root>/3D_npy_information/<sample>.npy, 3D_graph_data/<sample>.pt    one 3D graph a sample (data_preprocessing_3d/5 and 4)
        <root>/spot_iou/<sample>.npz, gene_expression/                       for the floors, the noise ceiling and the gene list
OUTPUT  <save_path>/metrics.json, metrics.csv    every method on the same target spots; identical between two runs of one recipe
        <save_path>/fold_<k>/checkpoint.pt       everything predict_3d.py needs
        <save_path>/splits.json, config.yaml, genes.csv, background.csv, runtime.json, tensorboard/

Target layers are scored and nothing else: their labels are in no loss, no input, no scaling. With `genes_from: all` (as published) the
gene list is chosen on all layers; `genes_from: known` shuts that door too.

    CUDA_VISIBLE_DEVICES=0 python main_3d.py --root_path demo_data --base_lr 0.001 --batch_size 128
"""
import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path

from common import cli, jobs, locks, options, run_folder, stale
from common.config import absent_of_folds, save_config
from common.device import start_torch
from common.errors import DataError
from common.exit_codes import guarded_training
from common.feature_recipe import trained_with
from common.io import read_csr, write_json, write_pt
from common.layout import PIPELINE, RunLayout
from common.recipe import file_digest
from common.status import set_status
from common.workers import n_cores

NETWORK_PARTS = ("levels", "cross_attention", "gat", "transformer", "imputation", "gate")
TRAINED = ("msagnet", "reference")
METHODS = (*TRAINED, "gp", "kernel", "similarity", "overlap", "nearest", "mean")


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, sample=True, layer=False, done=False)
    parser.add_argument("--save_path", default=None, help="run folder (default <root>/runs/<method>)")
    parser.add_argument("--method", choices=METHODS, default="msagnet", help="what predict_3d.py will use; reference: the released arithmetic and recipe; the others need no training")
    parser.add_argument("--known_layers", default=None, help="layers whose expression is given, e.g. 2 or 1,4 (default: config, else the first)")
    parser.add_argument("--base_lr", type=options.positive_float, default=0.003, help="learning rate at the start")
    parser.add_argument("--lr_decay", type=options.not_negative_float, default=0.9, help="lr = base_lr (1 - it / max_iterations)^lr_decay")
    parser.add_argument("--batch_size", type=options.positive_int, default=128, help="hidden spots in the loss per step; the whole graph is in every pass")
    parser.add_argument("--max_iterations", type=options.positive_int, default=100, help="training steps of a member")
    parser.add_argument("--members", type=options.positive_int, default=4, help="networks that are averaged")
    parser.add_argument("--optimizer", choices=["adamw", "sgd"], default="adamw", help="sgd (momentum 0.9) is the paper's")
    parser.add_argument("--rank", type=options.count, default=0, help="rank of the expression basis (default: 8 up to 1000 labelled spots, 12 above)")
    parser.add_argument("--width", type=options.positive_int, default=32, help="width of the network")
    parser.add_argument("--without", nargs="*", choices=NETWORK_PARTS, default=[], help="parts of the network to leave out (ablation)")
    parser.add_argument("--reference_width", type=options.positive_int, default=128, help="width of --method reference; released: 1024, which wants a GPU")
    parser.add_argument("--seed", type=options.seed, default=0, help="seed of every random draw")
    parser.add_argument("--num_workers", type=options.positive_int, default=n_cores(), help="folds trained side by side on the CPU, one thread each (default: the cores)")
    parser.add_argument("--gpu", default=None, help="GPU number, or 'cpu' (default: 0 if there is one, else cpu)")
    return parser


def enough_known(graphs: list, known: dict[str, list[int]], layout) -> list:
    """The samples without those of which known layers have too few labelled spots; these are reported. Raises DataError if none is left."""
    from training.loop import check_labelled
    kept, error = [], None
    for graph in graphs:
        try:
            if known[graph.sample]:
                check_labelled(f"sample {graph.sample}", int(graph.in_layers(known[graph.sample]).sum()), f"known layers {known[graph.sample]}")
            kept.append(graph)
        except DataError as one:
            error = one
            set_status(layout, "main_3d", graph.sample, f"left out: {error}")
            print(f"main_3d  {graph.sample}: left out: {error}", file=sys.stderr)
    if not kept:
        raise error
    return kept


def run_fold(fold, method: str, reference_width: int, graphs: list, processes: dict, config, layout, run_layout: RunLayout, settings, device, genes: list[str]) -> dict:
    """Train one fold (methods msagnet, reference), write its checkpoint and TensorBoard log, score its test samples.

    processes: {sample: Gaussian process of its known layers}. Returns scores {method: {layer: metrics}}, ceiling {layer: PCCs}, n_spots {layer: int}
    and the kernels of the test samples.
    """
    from torch.utils.tensorboard import SummaryWriter

    from evaluation.scores import ceilings, floor_predictions, score_layers
    from training import reference_recipe, three_d
    from training.process import gaussian_process
    pools, started = fold.pools(graphs), time.perf_counter()
    if method in TRAINED:
        with SummaryWriter(str(run_layout.tensorboard(fold.index))) as writer:
            def log(iteration: int, values: dict[str, float]) -> None:
                for name, value in values.items():
                    writer.add_scalar(name, value, iteration)
            if method == "msagnet":
                model = three_d.train(graphs, pools, processes, settings, device, log)
                saved = {"state": {name: value.cpu() for name, value in model.state_dict().items()}, "architecture": model.architecture.as_dict()}
            else:
                model, projection = reference_recipe.train(graphs, [pools[graph.sample] for graph in graphs], True, reference_width, settings.seed, device, log)
                saved = reference_recipe.checkpoint(model, projection)
        write_pt(run_layout.checkpoint(fold.index), saved | {
            "settings": asdict(settings) | {"without": list(settings.without)}, "genes": genes, "trained_with": trained_with(config, graphs[0].feature_recipe, graphs[0].feature_sets),
            "known_layers": fold.known_layers, "training_layers": fold.training_layers})
    result = {"training_seconds": round(time.perf_counter() - started, 1), "scores": {}, "ceiling": {}, "n_spots": {},
              "kernels": {sample: asdict(processes[sample].kernel) for sample in fold.test_samples if sample in processes}}
    for graph in graphs:
        targets = fold.target_layers.get(graph.sample)
        if not targets:
            continue
        known = fold.known_layers[graph.sample]
        predictions = floor_predictions(graph, known, read_csr(layout.spot_iou(graph.sample), "1_get_iou.py"))
        predictions["gp"] = gaussian_process(graph, processes[graph.sample])["expression"]
        if method == "reference":
            predictions["reference"] = reference_recipe.predict(model, graph, graph.in_layers(known), projection)
        if method == "msagnet":
            predictions["msagnet"] = three_d.predict(model, graph, processes[graph.sample], known, device)["expression"]
        for name, layers in score_layers(graph, targets, predictions).items():
            result["scores"].setdefault(name, {}).update(layers)
        result["n_spots"] |= {f"{graph.sample}/{layer}": int(graph.in_layers([layer]).sum()) for layer in targets}
        result["ceiling"] |= ceilings(layout, graph, targets)
    return result


def run(args: argparse.Namespace) -> int:
    started = time.perf_counter()
    context = jobs.open_context(args)
    layout, config = context.layout, context.config
    device = start_torch(args.seed, args.gpu)
    stale.require_current(context, PIPELINE)
    from dataloader_3d import known_layers_of, load_graphs, refused_layers
    from evaluation import runs
    from evaluation.outputs import keep_genes
    from evaluation.scores import check_gene_choice
    from training.folds import groups_of, make_folds
    from training.process import fit_process, left_out_lines
    from training.settings import Settings

    settings = Settings(base_lr=args.base_lr, batch_size=args.batch_size, max_iterations=args.max_iterations, lr_decay=args.lr_decay,
                                 optimizer=args.optimizer, rank=args.rank, width=args.width, members=args.members, without=tuple(sorted(args.without)), seed=args.seed)
    graphs = load_graphs(context, "main_3d")
    given = cli.parse_layers(args.known_layers)
    refused = {graph.sample: refused_layers(layout, graph.sample) for graph in graphs}
    known = {graph.sample: known_layers_of(config, graph, given, refused[graph.sample]) for graph in graphs}
    graphs = enough_known(graphs, known, layout)
    known = {graph.sample: known[graph.sample] for graph in graphs}
    check_gene_choice(layout, config, known)
    groups = groups_of(list(known), config.folds)
    folds = make_folds({graph.sample: graph.labelled_layers() for graph in graphs}, known, groups)
    for line in absent_of_folds(list(known), config.folds):
        print(f"main_3d  {line}")
    for line in left_out_lines(graphs, known, folds if args.method == "msagnet" else []):
        print(f"main_3d  {line}")

    run_layout = run_folder.choose(layout, args.save_path, args.method)
    locks.hold(run_layout.root)
    run_folder.take(run_layout, layout, args.overwrite, script="main_3d", dataset=config.dataset, method=args.method,
              folds=[asdict(fold) for fold in folds])
    for path in (run_layout.metrics_json, run_layout.splits):
        path.unlink(missing_ok=True)  # nothing old beside new checkpoints
    save_config(config, run_layout.config)
    genes = keep_genes(layout, run_layout)

    inputs = [layout.genes, layout.background, *(path(sample) for sample in sorted(known) for path in (layout.graph_3d, layout.npy_3d, layout.spot_iou))]
    others = {"method": args.method, "reference_width": args.reference_width, "device": device.type, "known_layers": known, "dataset": config.dataset}
    recipes = [runs.fold_recipe(Path(__file__), layout.root, inputs, fold, settings, others) for fold in folds]
    outputs = lambda fold: [run_layout.checkpoint(fold.index)] if args.method in TRAINED else []
    todo = runs.pending(run_layout, folds, recipes, outputs, args.overwrite)
    processes = {graph.sample: fit_process(graph, known[graph.sample]) for graph in graphs if todo and known[graph.sample]}  # seconds each
    work = lambda fold: run_fold(fold, args.method, args.reference_width, graphs, processes, config, layout, run_layout, settings, device, genes)
    results = runs.run_folds("main_3d", run_layout, folds, recipes, todo, work, args.num_workers if device.type == "cpu" else 1)

    write_json(run_layout.splits, {"method": args.method, "folds": [asdict(fold) for fold in folds],
                                   "kernels": {sample: kernel for result in results for sample, kernel in result["kernels"].items()}})
    recipe = {"method": args.method, "seed": args.seed, "config_sha256": file_digest(run_layout.config), "genes_sha256": file_digest(run_layout.genes),
              "known_layers": known, "target_layers": {name: layers for fold in folds for name, layers in fold.target_layers.items()}}
    runs.finish(run_layout, folds, results, recipe, started, device, len(genes), config.genes_from)
    for sample, layers in refused.items():
        for layer in layers:
            print(f"{sample}/{layer}: its registration was refused: do not trust what is said of this layer; see {layout.quality(sample)}")
    print(f"\nwrote {run_layout.root}; next: python predict_3d.py --root_path {layout.root} --save_path {run_layout.root}")
    return 0


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return guarded_training(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
