"""Train and evaluate MSAGNet 2D: the expression of a section from its H&E picture alone. No layer is known, nothing is registered.

INPUT   <root>/npy_information/<sample>/<layer>.npy, graph_data/<sample>/<layer>.pt    one graph a layer (data_preprocessing/7 and 6)
        <root>/gene_expression/    gene list, noise ceiling;   <root>/cropped_imgs/patches_224/    with --encoder
OUTPUT  <save_path>/metrics.json, metrics.csv    every method on the same test spots, by fold, sample and layer; identical between two runs of one recipe
        <save_path>/fold_<k>/checkpoint.pt       the network of a fold: python main.py --checkpoint FILE predicts with it
        <save_path>/imputed/<sample>/<layer>.h5ad    every layer of a tested sample that did not train: X (n_spots, n_genes) float32, normalised: ln((c + 1) / sum over the background (c + 1));
                                                 layers['log1p'], layers['measured'] where there are counts; obsm['spatial'] level-0 px
        <save_path>/splits.json, config.yaml, genes.csv, background.csv, runtime.json, tensorboard/
Folds   of the config: each holds samples out, and all labelled layers of the others train. Without folds, or with one sample: --training_layers train (default:
        the config's known layers, else the first with counts), all others test.

Beside MSAGNet: the mean profile of training, ridge regression on principal components (the HEST benchmark's protocol), ST-Net's head (He et al., 2020); both are
our re-implementations, on the same frozen features.

    CUDA_VISIBLE_DEVICES=0 python main.py --root_path demo_data --base_lr 0.001 --batch_size 128
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
from common.feature_recipe import check_trained_with, trained_with
from common.io import read_pt, weights_of, write_json, write_pt, write_table
from common.layout import SCRIPTS, RunLayout
from common.recipe import file_digest
from common.workers import n_cores

TRAINED = ("msagnet", "reference")
METHODS = (*TRAINED, "stnet", "ridge", "mean")


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, sample=True, layer=False, done=False)
    parser.add_argument("--save_path", default=None, help="run folder (default <root>/runs/<method>_2d; with "
                                                          "--checkpoint <root>/runs/msagnet_2d_predicted)")
    parser.add_argument("--method", choices=METHODS, default="msagnet", help="what the h5ad files hold; reference: the released arithmetic and recipe")
    parser.add_argument("--training_layers", default=None, help="without folds: layers that train, e.g. 1 or 2,3")
    parser.add_argument("--checkpoint", default=None, help="train nothing, score nothing: predict every layer with this network")
    parser.add_argument("--encoder", default=None, help="train this image encoder too, on 224 px patches: a timm name, e.g. resnet50 (default: frozen features)")
    parser.add_argument("--encoder_weights", default=None, help="its weight file (.pt, .pth, .safetensors); default: timm downloads")
    parser.add_argument("--base_lr", type=options.positive_float, default=0.003, help="learning rate at the start")
    parser.add_argument("--lr_decay", type=options.not_negative_float, default=0.9, help="lr = base_lr (1 - it / max_iterations)^lr_decay")
    parser.add_argument("--batch_size", type=options.positive_int, default=128, help="spots in the loss per step; the whole layer is in every pass")
    parser.add_argument("--max_iterations", type=options.positive_int, default=300, help="training steps of a member; the best are kept")
    parser.add_argument("--members", type=options.positive_int, default=4, help="networks that are averaged (one with --encoder)")
    parser.add_argument("--optimizer", choices=["adamw", "sgd"], default="adamw", help="sgd (momentum 0.9) is the paper's")
    parser.add_argument("--rank", type=options.count, default=0, help="rank of the expression basis (default: 8 up to 1000 labelled spots, 12 above)")
    parser.add_argument("--width", type=options.positive_int, default=32, help="width of the network")
    parser.add_argument("--reference_width", type=options.positive_int, default=128, help="width of --method reference; released: 1024, which wants a GPU")
    parser.add_argument("--seed", type=options.seed, default=0, help="seed of every random draw")
    parser.add_argument("--num_workers", type=options.positive_int, default=n_cores(), help="folds trained side by side on the CPU, one thread each (default: the cores)")
    parser.add_argument("--gpu", default=None, help="GPU number, or 'cpu' (default: 0 if there is one, else cpu)")
    return parser


def make_encoder(name: str | None, weights: str | None, pretrained: bool = True):
    """The image encoder to be trained, or None. Raises DataError if its weights cannot be had."""
    if name is None:
        return None
    from data_preprocessing.backbone import load_architecture
    from models.spot_encoder import SpotEncoder
    return SpotEncoder(*load_architecture(name, weights, pretrained))


def layers_that_train(config, graphs: list, given: list[int] | None, folds: bool) -> dict[str, list[int]]:
    """{sample: layers of a test sample that train}: none where there are folds. Raises DataError if a layer asked for has no label."""
    labelled = labelled_of(graphs)
    if folds:
        return {sample: [] for sample in labelled}
    chosen = {}
    for sample, layers in labelled.items():
        chosen[sample] = sorted(given or config.samples[sample].known_layers or layers[:1]) if layers else []
        if not set(chosen[sample]) <= set(layers):
            raise DataError(f"sample {sample}", f"training layers {chosen[sample]}", f"layers with counts and image, here {layers}",
                            "correct --training_layers; see status.json")
    return chosen


def labelled_of(graphs: list) -> dict[str, list[int]]:
    """{sample: layers with counts}."""
    return {sample: sorted(layer for graph in graphs if graph.sample == sample for layer in graph.labelled_layers())
            for sample in sorted({graph.sample for graph in graphs})}


def save_checkpoint(path: Path, model, settings, genes: list[str], trained_with: dict, encoder: str | None, depth: float,
                    background: list[str]) -> None:
    write_pt(path, {"state": {name: value.cpu() for name, value in model.state_dict().items()}, "architecture": model.architecture.as_dict(),
                    "settings": asdict(settings) | {"without": list(settings.without)}, "genes": genes, "trained_with": trained_with, "encoder": encoder,
                    "depth": depth, "background": background})


def load_checkpoint(path: Path):
    """(the network, in evaluation mode; the whole checkpoint). Raises DataError if it is none of main.py."""
    from models.encoder import Projection
    from models.msagnet import Architecture
    from models.msagnet_2d import MSAGNet2D
    if not path.is_file():
        raise DataError(path, "no file", "a checkpoint of main.py", "correct --checkpoint, or train first")
    saved = read_pt(path)
    if not {"state", "architecture", "genes", "trained_with", "encoder", "depth", "background"} <= set(saved):
        raise DataError(path, f"keys {sorted(saved)}", "a checkpoint of main.py",
                        "give one of <root>/runs/msagnet_2d/fold_<k>/")
    state = saved["state"]
    encoder = make_encoder(saved["encoder"], None, pretrained=False)
    with weights_of(path, "main.py"):
        parts = (Architecture.of(saved["architecture"]), Projection.of_state(state), state["basis"], state["z_scale"], state["level_offset"], state["mean"])
    model = MSAGNet2D(*parts)
    if encoder:
        model.members[0].encoder = encoder
    with weights_of(path, "main.py"):
        model.load_state_dict(state)
    return model.eval(), saved


def layer_anndata(graph, expression, genes: list[str], background: list[str], depth: float, uns: dict, genes_of_root: list[str] | None = None):
    """One layer as AnnData. expression: (n_spots, n_genes); depth: median of the training spots, sum over the background of (c + 1); genes_of_root: those
    of the labels, if they may be others or in another order. Raises DataError if a number is not finite."""
    import anndata
    import numpy as np
    import pandas as pd

    from common.normalisation import n_background, to_log1p
    from evaluation.outputs import finite
    obs = pd.DataFrame({"sample": graph.sample, "layer": int(graph.layer[0]), "known": False}, index=graph.barcode.astype(str))
    adata = anndata.AnnData(expression.astype(np.float32), obs=obs, var=pd.DataFrame(index=genes), uns={"asign": uns})
    adata.obsm["spatial"] = graph.pixel.astype(np.float64)
    adata.layers["log1p"] = to_log1p(adata.X, depth, n_background(genes, background))
    own = genes_of_root or genes
    if graph.has_label.any() and set(own) == set(genes):
        adata.layers["measured"] = np.where(graph.has_label.numpy()[:, None], graph.label.numpy(), np.float32(np.nan))[:, pd.Index(own).get_indexer(genes)]
    return finite(adata, f"{graph.sample}/{int(graph.layer[0])}")


def tested_of(fold, graphs: list) -> list:
    """The layers that a fold predicts: of its samples those that do not train."""
    return [graph for graph in graphs if graph.sample in fold.test_samples and int(graph.layer[0]) not in fold.training_layers[graph.sample]]


def baseline_predictions(graphs: list, pools: list, tested: list, settings) -> dict[str, list]:
    """{method: [(n_spots, n_genes) of each tested graph]}: the mean profile of training, ridge, ST-Net's head."""
    import numpy as np

    from evaluation import baselines_2d
    used = [(graph.feature[pool].numpy(), graph.label[pool].numpy()) for graph, pool in zip(graphs, pools) if pool.any()]
    feature, label = (np.concatenate(parts) for parts in zip(*used))
    profile = np.mean([one.mean(axis=0) for _, one in used], axis=0, keepdims=True)
    query = [graph.feature.numpy() for graph in tested]
    bounds = np.cumsum([len(one) for one in query])[:-1]
    predicted = {"mean": np.repeat(profile, sum(map(len, query)), axis=0), "ridge": baselines_2d.ridge(feature, label, np.concatenate(query)),
                 "stnet": baselines_2d.stnet(graphs, pools, np.concatenate(query), settings.seed)}
    return {method: np.split(values, bounds) for method, values in predicted.items()}


def run_fold(fold, args: argparse.Namespace, graphs: list, config, layout, run_layout: RunLayout, settings, device, genes: list[str]) -> dict:
    """Train one fold, write its checkpoint, TensorBoard log and the h5ad files of its test samples, score them.

    Returns scores {method: {layer: metrics}}, ceiling {layer: PCCs} and n_spots {layer: int}.
    """
    import numpy as np
    import torch
    from torch.utils.tensorboard import SummaryWriter

    from common.normalisation import NORMALISATION, n_background
    from dataloader import Pictures
    from evaluation.outputs import background_of, depths
    from evaluation.scores import ceilings, score_layers
    from training import two_d
    from training.loop import check_labelled
    pools, of_data = [graph.in_layers(fold.training_layers[graph.sample]) for graph in graphs], trained_with(config, graphs[0].feature_recipe, graphs[0].feature_sets)
    check_labelled(f"fold {fold.index}", sum(int(pool.sum()) for pool in pools), f"training layers {fold.training_layers}")
    tested = tested_of(fold, graphs)
    started = time.perf_counter()
    predicted = baseline_predictions(graphs, pools, tested, settings) if tested else {}
    with SummaryWriter(str(run_layout.tensorboard(fold.index))) as writer:
        def log(iteration: int, values: dict[str, float]) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, iteration)
        background = background_of(layout)
        own = n_background(genes, background) is None
        depth = float(np.median(np.concatenate([depths(layout, graph, pool.numpy(), own) for graph, pool in zip(graphs, pools)])))
        if args.method == "msagnet":
            encoder = make_encoder(args.encoder, args.encoder_weights)
            pictures_of = lambda graph: Pictures(layout, graph) if encoder else None
            model = two_d.train(graphs, pools, settings, device, log, encoder, [pictures_of(graph) for graph in graphs])
            save_checkpoint(run_layout.checkpoint(fold.index), model, settings, genes, of_data, args.encoder, depth, background)
            predicted["msagnet"] = [two_d.predict(model, graph, device, pictures_of(graph)) for graph in tested]
        elif args.method == "reference":
            from training import reference_recipe
            model, projection = reference_recipe.train(graphs, pools, False, args.reference_width, args.seed, device, log)
            write_pt(run_layout.checkpoint(fold.index), reference_recipe.checkpoint(model, projection) | {"genes": genes, "trained_with": of_data})
            predicted["reference"] = [reference_recipe.predict(model, graph, torch.zeros_like(graph.has_label), projection) for graph in tested]
    result = {"training_seconds": round(time.perf_counter() - started, 1), "scores": {}, "ceiling": {}, "n_spots": {}}
    for k, graph in enumerate(tested):
        layer = int(graph.layer[0])
        uns = {"method": args.method, "training_layers": fold.training_layers, "normalisation": NORMALISATION}
        adata = layer_anndata(graph, predicted[args.method][k], genes, background, depth, uns)
        run_folder.write_prediction(run_layout, graph.sample, run_layout.imputed(graph.sample, layer), adata)
        for method, layers in score_layers(graph, graph.labelled_layers(), {name: values[k] for name, values in predicted.items()}).items():
            result["scores"].setdefault(method, {}).update(layers)
        result["n_spots"] |= {f"{graph.sample}/{one}": int(graph.has_label.sum()) for one in graph.labelled_layers()}
        result["ceiling"] |= ceilings(layout, graph, graph.labelled_layers())
    return result


def run_checkpoint(args: argparse.Namespace, context: jobs.Context, device) -> int:
    """Predict every layer of the root with a network that is there, into a run folder of its own."""
    import pandas as pd

    from common.gene_list import read_genes
    from common.normalisation import NORMALISATION
    from dataloader import Pictures, load_layers
    from evaluation.outputs import check_background
    from training import two_d
    model, saved = load_checkpoint(Path(args.checkpoint))
    graphs = load_layers(context, "main")
    for graph in graphs:
        check_trained_with(saved, Path(args.checkpoint), graph.feature_recipe, graph.feature_sets, context.config, graph.sample)
    digest = file_digest(Path(args.checkpoint))
    run_layout = run_folder.choose(context.layout, args.save_path, "msagnet_2d_predicted")
    locks.hold(run_layout.root)
    run_folder.take(run_layout, context.layout, args.overwrite, script="main --checkpoint", dataset=context.config.dataset,
              checkpoint_sha256=digest)
    own = read_genes(context.layout)
    if any(graph.has_label.any() for graph in graphs):
        check_background(context.layout, saved["background"], args.checkpoint)
    write_table(run_layout.genes, pd.DataFrame({"gene": saved["genes"]}))
    write_table(run_layout.background, pd.DataFrame({"gene": saved["background"], "rank": range(1, len(saved["background"]) + 1), "mean": 0.0}))
    write_json(run_layout.splits, {"method": "msagnet", "folds": []})
    uns = {"method": "msagnet", "checkpoint_sha256": digest, "normalisation": NORMALISATION}
    for graph in graphs:
        expression = two_d.predict(model, graph, device, Pictures(context.layout, graph) if saved["encoder"] else None)
        adata = layer_anndata(graph, expression, saved["genes"], saved["background"], saved["depth"], uns, own)
        run_folder.write_prediction(run_layout, graph.sample, run_layout.imputed(graph.sample, int(graph.layer[0])), adata)
        print(f"main  {graph.sample}/{int(graph.layer[0])}: {len(expression)} spots, {len(saved['genes'])} genes")
    print(f"wrote {run_layout.root}")
    return 0


def run(args: argparse.Namespace) -> int:
    started = time.perf_counter()
    context = jobs.open_context(args)
    layout, config = context.layout, context.config
    device = start_torch(args.seed, args.gpu)
    stale.require_current(context, SCRIPTS["data_preprocessing"])
    if args.checkpoint:
        return run_checkpoint(args, context, device)
    from dataloader import load_layers
    from evaluation import runs
    from evaluation.outputs import keep_genes
    from evaluation.scores import check_gene_choice
    from training.folds import groups_of, make_folds
    from training.settings import Settings

    graphs = load_layers(context, "main")
    labelled = labelled_of(graphs)
    groups = groups_of(list(labelled), config.folds)
    folds = make_folds(labelled, layers_that_train(config, graphs, cli.parse_layers(args.training_layers, "--training_layers"), len(groups) > 1), groups)
    for line in absent_of_folds(list(labelled), config.folds):
        print(f"main  {line}")
    if len(folds) == 1:
        check_gene_choice(layout, config, folds[0].training_layers)
    elif config.genes_from == "known":
        print("main  the genes were chosen on the known layers of all samples, those that a fold tests too")
    steps_an_epoch = max(1, sum(-(-int(graph.has_label.sum()) // args.batch_size) for graph in graphs))
    settings = Settings(base_lr=args.base_lr, batch_size=args.batch_size, max_iterations=args.max_iterations, lr_decay=args.lr_decay,
                                 optimizer=args.optimizer, rank=args.rank, width=args.width, members=1 if args.encoder else args.members, seed=args.seed,
                                 validate_every=min(steps_an_epoch, args.max_iterations) if args.encoder else 10)

    run_layout = run_folder.choose(layout, args.save_path, f"{args.method}_2d")
    locks.hold(run_layout.root)
    run_folder.take(run_layout, layout, args.overwrite, script="main", dataset=config.dataset, method=args.method,
              folds=[asdict(fold) for fold in folds])
    for path in (run_layout.metrics_json, run_layout.splits):
        path.unlink(missing_ok=True)  # nothing old beside new checkpoints
    save_config(config, run_layout.config)
    genes = keep_genes(layout, run_layout)

    inputs = [layout.genes, layout.background, *(path(graph.sample, int(graph.layer[0])) for graph in graphs for path in (layout.npy, layout.graph))]
    inputs += [Path(args.encoder_weights)] if args.encoder_weights else []
    others = {"method": args.method, "encoder": args.encoder, "reference_width": args.reference_width, "device": device.type}
    recipes = [runs.fold_recipe(Path(__file__), layout.root, inputs, fold, settings, others) for fold in folds]
    imputed_of = lambda fold: [run_layout.imputed(graph.sample, int(graph.layer[0])) for graph in tested_of(fold, graphs)]
    outputs = lambda fold: imputed_of(fold) + ([run_layout.checkpoint(fold.index)] if args.method in TRAINED else [])
    todo = runs.pending(run_layout, folds, recipes, outputs, args.overwrite)
    work = lambda fold: run_fold(fold, args, graphs, config, layout, run_layout, settings, device, genes)
    results = runs.run_folds("main", run_layout, folds, recipes, todo, work, args.num_workers if device.type == "cpu" else 1)

    write_json(run_layout.splits, {"method": args.method, "folds": [asdict(fold) for fold in folds]})
    recipe = {"method": args.method, "seed": args.seed, "config_sha256": file_digest(run_layout.config), "genes_sha256": file_digest(run_layout.genes),
              "training_layers": {f"fold_{fold.index}": fold.training_layers for fold in folds},
              "target_layers": {name: layers for fold in folds for name, layers in fold.target_layers.items()}}
    runs.finish(run_layout, folds, results, recipe, started, device, len(genes), config.genes_from)
    print(f"\nwrote {run_layout.root}")
    return 0


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return guarded_training(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
