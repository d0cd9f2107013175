"""Train and evaluate MSAGNet 2D: the expression of a section from its H&E image alone.

No section is known and none is registered.

INPUT   <root>/npy_information/<sample>/<layer>.npy, graph_data/<sample>/<layer>.pt    one graph per section
                                             (data_preprocessing/7 and 6)
        <root>/gene_expression/              gene list, noise ceiling
        <root>/cropped_imgs/patches_224/     with --encoder
OUTPUT  <save_path>/metrics.json, metrics.csv    every method on the same test spots, by fold, sample and section;
                                                 identical between two runs of one recipe
        <save_path>/fold_<k>/checkpoint.pt       the network of a fold, for python main.py --checkpoint FILE
        <save_path>/imputed/<sample>/<layer>.h5ad    every section of a test sample that did not train
            X                     (n_spots, n_genes) float32, normalised: ln((c + 1) / sum over the background (c + 1))
            layers['log1p']       float32, as in predict_3d.py; layers['measured'] where there are counts
            obsm['spatial']       (n_spots, 2) level-0 px; var['gene_ids'] where the raw data have ids
        <save_path>/splits.json, config.yaml, genes.csv, background.csv, runtime.json, tensorboard/
Folds   of the config: each holds out samples, and all labelled sections of the other samples train. Without folds, or
        with one sample: --training_layers train (default: the config's known sections, else the first with counts) and
        all others test.

Baselines: the mean profile of training, ridge regression on principal components (the HEST benchmark's protocol),
ST-Net's head (He et al., 2020). The last two are our re-implementations, on the same frozen features.

    CUDA_VISIBLE_DEVICES=0 python main.py --root_path demo_data --base_lr 0.001 --batch_size 128
"""
import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path

from common import cli, jobs, locks, run_folder, stale
from common.config import absent_of_folds
from common.device import start_torch
from common.errors import DataError
from common.exit_codes import guarded_training
from common.feature_recipe import check_trained_with, trained_with
from common.io import read_pt, weights_of, write_json, write_pt, write_table
from common.layout import SCRIPTS, RunLayout
from common.recipe import file_digest
from training.options import add_training_options

TRAINED = ("msagnet", "reference")
METHODS = (*TRAINED, "stnet", "ridge", "mean")
CHECKPOINT_KEYS = {"state", "architecture", "genes", "trained_with", "encoder", "depth", "background"}


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, sample=True, layer=False, done=False)
    add = parser.add_argument
    add("--save_path", default=None,
        help="run folder (default <root>/runs/<method>_2d; with --checkpoint <root>/runs/msagnet_2d_predicted)")
    add("--method", choices=METHODS, default="msagnet",
        help="method of the h5ad files; reference: the released arithmetic and recipe")
    add("--training_layers", default=None, help="without folds: sections that train, e.g. 1 or 2,3")
    add("--checkpoint", default=None, help="no training, no scores: predict every section with this network")
    add("--encoder", default=None,
        help="train this image encoder too, on 224 px patches: a timm name, e.g. resnet50 (default: frozen features)")
    add("--encoder_weights", default=None, help="its weight file (.pt, .pth, .safetensors); default: timm downloads")
    add_training_options(
        parser, max_iterations=300, max_iterations_help="training steps of a member; the best weights are kept",
        batch_size_help="spots in the loss per step; the whole section is in every pass",
        members_help="networks that are averaged (one with --encoder)")
    return parser


def make_encoder(name: str | None, weights: str | None, pretrained: bool = True):
    """The image encoder to be trained, or None. Raises DataError if its weights are not available."""
    if name is None:
        return None
    from data_preprocessing.backbone import load_architecture
    from models.encoder import SpotEncoder
    return SpotEncoder(*load_architecture(name, weights, pretrained))


def layers_that_train(config, graphs: list, given: list[int] | None, folds: bool) -> dict[str, list[int]]:
    """{sample: layers of a test sample that train}: none where there are folds.

    Raises DataError if a chosen layer has no label.
    """
    labelled = labelled_of(graphs)
    if folds:
        return {sample: [] for sample in labelled}
    chosen = {}
    for sample, layers in labelled.items():
        chosen[sample] = sorted(given or config.samples[sample].known_layers or layers[:1]) if layers else []
        if not set(chosen[sample]) <= set(layers):
            raise DataError(f"sample {sample}", f"training sections {chosen[sample]}",
                            f"sections with counts and image, here {layers}",
                            "correct --training_layers; see status.json")
    return chosen


def labelled_of(graphs: list) -> dict[str, list[int]]:
    """{sample: layers with counts}."""
    labelled = {sample: [] for sample in sorted({graph.sample for graph in graphs})}
    for graph in graphs:
        labelled[graph.sample] += graph.labelled_layers()
    return {sample: sorted(layers) for sample, layers in labelled.items()}


def load_checkpoint(path: Path):
    """(the network, in evaluation mode; the whole checkpoint). Raises DataError if it is not one of main.py."""
    from models.msagnet import Architecture
    from models.msagnet_2d import MSAGNet2D
    from models.projection import Projection
    if not path.is_file():
        raise DataError(path, "no file", "a checkpoint of main.py", "correct --checkpoint, or train first")
    saved = read_pt(path)
    if not set(saved) >= CHECKPOINT_KEYS:
        raise DataError(path, f"keys {sorted(saved)}", "a checkpoint of main.py",
                        "give one of <root>/runs/msagnet_2d/fold_<k>/")
    state = saved["state"]
    encoder = make_encoder(saved["encoder"], None, pretrained=False)
    with weights_of(path, "main.py"):
        architecture, projection = Architecture.of(saved["architecture"]), Projection.of_state(state)
        rest = [state[name] for name in ("basis", "z_scale", "level_offset", "mean")]
    model = MSAGNet2D(architecture, projection, *rest)
    if encoder:
        model.members[0].encoder = encoder
    with weights_of(path, "main.py"):
        model.load_state_dict(state)
    return model.eval(), saved


def tested_of(fold, graphs: list) -> list:
    """The layers that a fold predicts: those of its samples that do not train."""
    of_samples = [graph for graph in graphs if graph.sample in fold.test_samples]
    return [graph for graph in of_samples if int(graph.layer[0]) not in fold.training_layers[graph.sample]]


def train_and_predict(args: argparse.Namespace, graphs: list, pools: list, tested: list, layout, settings, device,
                      log, saved: dict, path: Path) -> list:
    """Train --method (msagnet or reference) and write its checkpoint: (n_spots, n_genes) of each tested graph.

    saved: what the checkpoint holds beside the network.
    """
    import torch

    from dataloader import Pictures
    from training import reference_recipe, two_d
    if args.method == "reference":
        model, projection = reference_recipe.train(graphs, pools, False, args.reference_width, args.seed, device, log)
        of_reference = {name: saved[name] for name in ("genes", "trained_with")}
        write_pt(path, reference_recipe.checkpoint(model, projection) | of_reference)
        predicted = []
        for graph in tested:
            predicted.append(reference_recipe.predict(model, graph, torch.zeros_like(graph.has_label), projection))
        return predicted
    encoder = make_encoder(args.encoder, args.encoder_weights)

    def pictures_of(graph) -> Pictures | None:
        return Pictures(layout, graph) if encoder else None

    model = two_d.train(graphs, pools, settings, device, log, encoder, [pictures_of(graph) for graph in graphs])
    write_pt(path, {"state": {name: value.cpu() for name, value in model.state_dict().items()},
                    "architecture": model.architecture.as_dict(),
                    "settings": asdict(settings) | {"without": list(settings.without)}, **saved})
    return [two_d.predict(model, graph, device, pictures_of(graph)) for graph in tested]


def run_fold(fold, args: argparse.Namespace, graphs: list, config, layout, run_layout: RunLayout, settings, device,
             genes: list[str]) -> dict:
    """Train one fold, write its checkpoint and TensorBoard log (of a network) and the h5ad files of its test samples.

    Returns the scores {method: {layer: metrics}}, ceiling {layer: PCCs} and n_spots {layer: int}.
    """
    import numpy as np
    from torch.utils.tensorboard import SummaryWriter

    from common.normalisation import NORMALISATION, n_background
    from evaluation.baselines_2d import baseline_predictions
    from evaluation.outputs import background_of, depths, layer_anndata
    from evaluation.scores import ceilings, score_layers
    from training.loop import check_labelled
    pools = [graph.in_layers(fold.training_layers[graph.sample]) for graph in graphs]
    check_labelled(f"fold {fold.index}", sum(int(pool.sum()) for pool in pools),
                   f"training sections {fold.training_layers}")
    tested = tested_of(fold, graphs)
    started = time.perf_counter()
    predicted = baseline_predictions(graphs, pools, tested, settings.seed) if tested else {}
    background = background_of(layout)
    n_other = n_background(genes, background)  # None: the list is its own background
    parts = []
    for graph, pool in zip(graphs, pools, strict=True):
        parts.append(depths(layout, graph, pool.numpy(), n_other is None))
    depth = float(np.median(np.concatenate(parts)))
    if args.method in TRAINED:
        of_data = trained_with(config, graphs[0].feature_recipe, graphs[0].feature_sets)
        saved = {"genes": genes, "trained_with": of_data, "encoder": args.encoder, "depth": depth,
                 "background": background}
        with SummaryWriter(str(run_layout.tensorboard(fold.index))) as writer:
            def log(iteration: int, values: dict[str, float]) -> None:
                for name, value in values.items():
                    writer.add_scalar(name, value, iteration)

            predicted[args.method] = train_and_predict(args, graphs, pools, tested, layout, settings, device, log,
                                                       saved, run_layout.checkpoint(fold.index))
    result = {"training_seconds": round(time.perf_counter() - started, 1), "scores": {}, "ceiling": {}, "n_spots": {}}
    for k, graph in enumerate(tested):
        layer, labelled = int(graph.layer[0]), graph.labelled_layers()
        uns = {"method": args.method, "training_layers": fold.training_layers, "normalisation": NORMALISATION}
        adata = layer_anndata(graph, layer, {"expression": predicted[args.method][k]}, genes, uns, depth=depth,
                              n_background=n_other)
        run_folder.write_prediction(run_layout, graph.sample, run_layout.imputed(graph.sample, layer), adata)
        scores = score_layers(graph, labelled, {method: values[k] for method, values in predicted.items()})
        for method, layers in scores.items():
            result["scores"].setdefault(method, {}).update(layers)
        result["n_spots"] |= {f"{graph.sample}/{one}": int(graph.has_label.sum()) for one in labelled}
        result["ceiling"] |= ceilings(layout, graph, labelled)
    return result


def run_checkpoint(args: argparse.Namespace, context: jobs.Context, device) -> int:
    """Predict every layer of the root with a trained network, into a run folder of its own."""
    import pandas as pd

    from common.gene_ids import read_ids, with_ids
    from common.gene_list import read_genes
    from common.normalisation import NORMALISATION, n_background
    from dataloader import Pictures, load_layers
    from evaluation.outputs import check_background, layer_anndata
    from training import two_d
    layout, path = context.layout, Path(args.checkpoint)
    model, saved = load_checkpoint(path)
    graphs = load_layers(context, "main")
    for graph in graphs:
        check_trained_with(saved, path, graph.feature_recipe, graph.feature_sets, context.config, graph.sample)
    digest = file_digest(path)
    run_layout = run_folder.choose(layout, args.save_path, "msagnet_2d_predicted")
    locks.hold(run_layout.root)
    genes_of_root = read_genes(layout)
    genes, background = saved["genes"], saved["background"]
    if any(graph.has_label.any() for graph in graphs):
        check_background(layout, background, args.checkpoint)
    run_folder.take(run_layout, layout, args.overwrite, script="main --checkpoint", dataset=context.config.dataset,
                    checkpoint_sha256=digest)
    write_table(run_layout.genes, with_ids(pd.DataFrame({"gene": genes}), read_ids(layout.genes)))
    ranks = range(1, len(background) + 1)
    write_table(run_layout.background, pd.DataFrame({"gene": background, "rank": ranks, "mean": 0.0}))
    write_json(run_layout.splits, {"method": "msagnet", "folds": []})
    uns = {"method": "msagnet", "checkpoint_sha256": digest, "normalisation": NORMALISATION}
    for graph in graphs:
        layer = int(graph.layer[0])
        pictures = Pictures(layout, graph) if saved["encoder"] else None
        expression = two_d.predict(model, graph, device, pictures)  # (n_spots, n_genes)
        adata = layer_anndata(graph, layer, {"expression": expression}, genes, uns, depth=saved["depth"],
                              n_background=n_background(genes, background), genes_of_labels=genes_of_root)
        run_folder.write_prediction(run_layout, graph.sample, run_layout.imputed(graph.sample, layer), adata)
        print(f"main  {graph.sample}/{layer}: {len(expression)} spots, {len(genes)} genes")
    print(f"wrote {run_layout.root}")
    return 0


def settings_of(args: argparse.Namespace, graphs: list):
    """The options of the training. An encoder is one member, and is validated once per epoch."""
    from training.settings import Settings
    steps_per_epoch = max(1, sum(-(-int(graph.has_label.sum()) // args.batch_size) for graph in graphs))
    return Settings(
        base_lr=args.base_lr, batch_size=args.batch_size, max_iterations=args.max_iterations, lr_decay=args.lr_decay,
        optimizer=args.optimizer, rank=args.rank, width=args.width, members=1 if args.encoder else args.members,
        seed=args.seed, validate_every=min(steps_per_epoch, args.max_iterations) if args.encoder else 10)


def folds_of(args: argparse.Namespace, graphs: list, layout, config) -> list:
    """The folds; what they lack of the config, and what the gene list depends on, is printed. Raises DataError."""
    from evaluation.scores import check_gene_choice
    from training.folds import groups_of, make_folds
    labelled = labelled_of(graphs)
    groups = groups_of(list(labelled), config.folds)
    given = cli.parse_layers(args.training_layers, "--training_layers")
    folds = make_folds(labelled, layers_that_train(config, graphs, given, len(groups) > 1), groups)
    for line in absent_of_folds(list(labelled), config.folds):
        print(f"main  {line}")
    if len(folds) == 1:
        check_gene_choice(layout, config, folds[0].training_layers)
    elif config.genes_from == "known":
        print("main  the genes were chosen on the known sections of all samples, test samples included")
    return folds


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

    graphs = load_layers(context, "main")
    folds, settings = folds_of(args, graphs, layout, config), settings_of(args, graphs)
    run_layout, genes = runs.open_run(args, layout, config, f"{args.method}_2d", "main", folds)
    inputs = [layout.genes, layout.background]
    for graph in graphs:
        inputs += [file(graph.sample, int(graph.layer[0])) for file in (layout.npy, layout.graph)]
    inputs += [Path(args.encoder_weights)] if args.encoder_weights else []
    others = {"method": args.method, "encoder": args.encoder, "reference_width": args.reference_width,
              "device": device.type}
    recipes = [runs.fold_recipe(Path(__file__), layout.root, inputs, fold, settings, others) for fold in folds]

    def outputs(fold) -> list[Path]:
        imputed = [run_layout.imputed(graph.sample, int(graph.layer[0])) for graph in tested_of(fold, graphs)]
        return imputed + ([run_layout.checkpoint(fold.index)] if args.method in TRAINED else [])

    def work(fold) -> dict:
        return run_fold(fold, args, graphs, config, layout, run_layout, settings, device, genes)

    todo = runs.pending(run_layout, folds, recipes, outputs, args.overwrite)
    n_workers = args.num_workers if device.type == "cpu" else 1
    results = runs.run_folds("main", run_layout, folds, recipes, todo, work, n_workers)

    write_json(run_layout.splits, {"method": args.method, "folds": [asdict(fold) for fold in folds]})
    targets = {}
    for fold in folds:
        targets |= fold.target_layers
    recipe = {"method": args.method, "seed": args.seed, "config_sha256": file_digest(run_layout.config),
              "genes_sha256": file_digest(run_layout.genes),
              "training_layers": {f"fold_{fold.index}": fold.training_layers for fold in folds},
              "target_layers": targets}
    runs.finish(run_layout, folds, results, recipe, started, device, len(genes), config.genes_from)
    print(f"\nwrote {run_layout.root}")
    return 0


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return guarded_training(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
