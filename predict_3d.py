"""Give back the expression of every section as AnnData.

INPUT   <save_path>/splits.json, genes.csv, background.csv, fold_<k>/checkpoint.pt    (main_3d.py)
        <root>/3D_npy_information/<sample>.npy, 3D_graph_data/<sample>.pt             the 3D graph of each sample
OUTPUT  <save_path>/imputed/<sample>/<layer>.h5ad
            X                   (n_spots, n_genes) float32, normalised:
                                ln((c + 1) / sum over the background genes (c + 1))
            layers['log1p']     the same on scanpy's usual scale: log1p of counts per 10,000 of the background genes,
                                for a spot of the known spots' median depth
            layers['sd']        (methods msagnet, gp) predicted standard deviation of a measured value, same scale as X
            layers['measured']  same scale as X, where the section was measured (NaN for a spot without counts)
            var                 gene names; gene_ids where the raw data have them
            obs                 barcode index; sample, layer; known (True: this spot's expression was given and used);
                                distance_to_known (um, to the nearest known spot in space, z included); confidence
                                (methods msagnet, gp: share of the prior variance explained, 0 to 1);
                                foreign_tissue (True: the spot lies on a piece of tissue without counterpart in the
                                other sections, or in the measured ones, such as control tissue (step 3 of the
                                registration); its confidence is 0 unless it is known)
            obsm['spatial']     (n_spots, 2) level-0 px of the section's own image
            obsm['spatial_3d']  (n_spots, 3) um: registered x, y, and z: `z_um` of the config, else
                                (layer - lowest layer) x section_thickness_um
            uns['asign']        method, registration_accepted, known layers, known_spots and known_spots_used (msagnet,
                                gp: one process takes 6,000), layers of this sample that trained the model, gene
                                normalisation, checkpoint digest
        <save_path>/imputed/<sample>/sample.h5ad    all these sections in one, obs_names '<layer>_<barcode>'

A sample is predicted by the fold that tested it; a sample that no fold tested, or another dataset, by --fold (default
0).

    python predict_3d.py --root_path demo_data
"""
import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from common import cli, jobs, locks, options, run_folder, stale
from common.device import start_torch
from common.errors import DataError, LayerError
from common.exit_codes import guarded
from common.feature_recipe import check_trained_with
from common.io import read_csr, read_pt, read_table, reading, weights_of
from common.layout import PIPELINE, RunLayout
from common.recipe import file_digest
from common.z import z_um_of


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, sample=True, layer=True, overwrite=False, done=False)
    add = parser.add_argument
    add("--save_path", default=None, help="run folder of main_3d.py (default: the last one under <root>/runs)")
    add("--known_layers", default=None, help="sections whose expression is given (default: as in training)")
    add("--fold", type=options.count, default=None, help="use this fold's checkpoint for every sample")
    add("--gpu", default=None, help="GPU number, or 'cpu' (default: 0 if there is one, else cpu)")
    return parser


def read_checkpoint(path: Path, genes: list[str], graph, config) -> dict:
    """Raises DataError if it is not a checkpoint of main_3d.py, or one of other genes, features or array."""
    if not path.is_file():
        raise DataError(path, "no file", "a checkpoint of main_3d.py", "run main_3d.py first, or give --save_path")
    checkpoint = read_pt(path)
    if not {"state", "genes", "trained_with", "known_layers"} <= set(checkpoint):
        raise DataError(path, f"keys {sorted(checkpoint)}", "a checkpoint of main_3d.py",
                        "give the run folder of main_3d.py, or run it again")
    if checkpoint["genes"] != genes:
        raise DataError(path, "a checkpoint of another gene list", "the genes of the run's genes.csv",
                        "run main_3d.py again")
    check_trained_with(checkpoint, path, graph.feature_recipe, graph.feature_sets, config, graph.sample)
    return checkpoint


def network_of(checkpoint: dict, path: Path):
    """MSAGNet in evaluation mode, from a checkpoint read from `path`.

    Raises DataError for that of another version of the network.
    """
    from models.msagnet import Architecture, MSAGNet
    from models.projection import Projection
    state = checkpoint["state"]
    with weights_of(path, "main_3d.py"):
        architecture, projection = Architecture.of(checkpoint["architecture"]), Projection.of_state(state)
        rest = [state[name] for name in ("basis", "z_scale", "level_offset")]
    model = MSAGNet(architecture, projection, *rest)
    with weights_of(path, "main_3d.py"):
        model.load_state_dict(state)
    return model.eval()


def foreign_spots(graph, layout):
    """Spots on tissue without counterpart in the stack: (n_spots,) bool. One line on stderr for each section with some.

    Raises LayerError for a file that cannot be read.
    """
    import numpy as np

    from registration.foreign_spots import on_foreign_tissue
    found, layer = np.zeros(graph.n_spots, bool), graph.layer.numpy()
    for one in np.unique(layer):
        rows = layer == one
        found[rows] = on_foreign_tissue(layout, graph.sample, int(one), graph.pixel[rows])
        if found[rows].any():
            print(f"predict_3d  {graph.sample}/{one}: WARNING {found[rows].sum()} of {rows.sum()} spots on tissue "
                  "without counterpart: obs['foreign_tissue']", file=sys.stderr)
    return found


def section_in_stack(graph, layer: int, predicted: dict, genes: list[str], known, config, pixel_um: float, depth: float,
                     n_background: int | None, uns: dict, foreign=None):
    """One layer as AnnData (evaluation.outputs.layer_anndata), with its place in the stack.

    pixel_um: um per px of the registered frame. Raises DataError if a number is not finite.
    """
    import numpy as np

    from evaluation.outputs import layer_anndata
    z_um = {int(one): z_um_of(config, graph.sample, int(one)) for one in np.unique(graph.layer)}
    z = [z_um[one] for one in graph.layer.tolist()]  # (n,)
    place_um = np.column_stack([graph.registered * pixel_um, z])  # (n, 3)
    return layer_anndata(graph, layer, predicted, genes, uns, depth=depth, n_background=n_background, known=known,
                         place_um=place_um, foreign=foreign)


def whole_sample(layers: list[int], parts: list, uns: dict):
    """The layers of a sample in one AnnData; 'measured' is NaN for a layer that was not measured."""
    import anndata
    import numpy as np
    named = []
    for layer, adata in zip(layers, parts, strict=True):
        one = adata.copy()
        one.obs_names = [f"{layer}_{barcode}" for barcode in adata.obs_names]
        one.layers.setdefault("measured", np.full(adata.shape, np.nan, np.float32))
        named.append(one)
    whole = anndata.concat(named)
    whole.uns["asign"] = uns
    return whole


@dataclass(frozen=True)
class TrainedRun:
    """A run of main_3d.py, and the background of its genes."""
    layout: RunLayout
    method: str
    splits: dict
    fold_of: dict[str, int]   # test sample -> fold
    genes: list[str]
    n_background: int | None  # None: the genes are their own background


def open_run(args: argparse.Namespace, context: jobs.Context) -> TrainedRun:
    """Lock the run, and check that root and run are current and have the same genes. Raises DataError."""
    from common.gene_list import read_genes
    from common.normalisation import n_background
    from evaluation.outputs import background_of, check_background
    layout = context.layout
    run_layout = run_folder.find(layout, args.save_path, only_3d=True)
    splits = run_folder.read_splits(run_layout)
    locks.hold(run_layout.root)
    fold_of = {}
    with reading(run_layout.splits, "main_3d.py"):
        method = splits["method"]
        for fold in splits["folds"]:
            fold_of |= dict.fromkeys(fold["test_samples"], fold["index"])
    stale.require_current(context, PIPELINE)
    stale.require_current_run(run_layout, len(splits["folds"]), context)
    genes = read_genes(layout)
    of_run = list(read_table(run_layout.genes, ("gene",), "main_3d.py", text=("gene",))["gene"])
    if of_run != genes:
        raise DataError(layout.genes, "another gene list than the run's",
                        f"the {len(of_run)} genes of {run_layout.genes}, in order",
                        "set genes: to that file and run 5_1 to 7 and 3D 4 to 5 again")
    check_background(layout, background_of(run_layout), run_layout.background)
    return TrainedRun(run_layout, method, splits, fold_of, genes, n_background(genes, background_of(layout)))


def predict(trained: TrainedRun, graph, known: list[int], index: int, config, layout, device) -> tuple[dict, dict]:
    """Prediction of every spot of a sample by the run's method, and the digest of its checkpoint, if there is one.

    known: its known layers; index: of the fold. The prediction has expression (n_spots, n_genes); methods msagnet and
    gp also sd (n_spots, n_genes) and confidence (n_spots,). Raises DataError, LayerError.
    """
    from evaluation.scores import baseline_predictions
    from models import gp
    from training import reference_recipe, three_d
    from training.process import fit_process, gaussian_process
    splits, path = trained.splits, trained.layout.checkpoint(index)
    of_training = splits["folds"][index]["known_layers"].get(graph.sample)
    kernel = None  # chosen on these known layers
    if known == of_training and graph.sample in splits["kernels"]:
        kernel = gp.Kernel(**splits["kernels"][graph.sample])
    if trained.method == "msagnet":
        model = network_of(read_checkpoint(path, trained.genes, graph, config), path)
        predicted = three_d.predict(model, graph, fit_process(graph, known, kernel), known, device, with_sd=True)
        return predicted, {"checkpoint_sha256": file_digest(path)}
    if trained.method == "reference":
        model, projection = reference_recipe.from_checkpoint(read_checkpoint(path, trained.genes, graph, config))
        expression = reference_recipe.predict(model, graph, graph.in_layers(known), projection)
        return {"expression": expression}, {"checkpoint_sha256": file_digest(path)}
    if trained.method == "gp":
        return gaussian_process(graph, fit_process(graph, known, kernel), with_sd=True), {}
    iou = read_csr(layout.spot_iou(graph.sample), "1_get_iou.py")
    return {"expression": baseline_predictions(graph, known, iou)[trained.method]}, {}


def predict_sample(trained: TrainedRun, graph, args: argparse.Namespace, context: jobs.Context, device) -> bool:
    """Write the h5ad files of one sample; False if it has no known layer. Raises LayerError for an unusable file."""
    import numpy as np

    from common.normalisation import NORMALISATION
    from data_preprocessing_3d.neighbours import registered_frame
    from dataloader_3d import known_layers_of, refused_layers
    from evaluation.outputs import depths
    from models import known_spots
    layout, config, sample = context.layout, context.all_samples, graph.sample
    index = args.fold if args.fold is not None else trained.fold_of.get(sample, 0)
    if index >= len(trained.splits["folds"]):
        raise DataError("--fold", index, f"a number below {len(trained.splits['folds'])}", "correct --fold")
    fold, refused = trained.splits["folds"][index], refused_layers(layout, sample)
    given = cli.parse_layers(args.known_layers) or fold["known_layers"].get(sample)
    known = known_layers_of(config, graph, given, refused)
    if not known:
        print(f"predict_3d  {sample}: left out: no section has counts, image and registration, so none is known",
              file=sys.stderr)
        return False
    by_process = trained.method in ("msagnet", "gp")
    line = known_spots.left_out_line(graph, known, "known") if by_process else None
    if line:
        print(f"predict_3d  {line}")
    predicted, digest = predict(trained, graph, known, index, config, layout, device)
    known_rows = graph.in_layers(known).numpy()  # (n_spots,) bool
    used = known_spots.used(graph, known_rows) if by_process else known_rows
    uns = {"method": trained.method, "known_layers": known, "training_layers": fold["training_layers"].get(sample, []),
           "normalisation": NORMALISATION, **digest, "known_spots": int(known_rows.sum()),
           "known_spots_used": int(used.sum())}
    layers = [layer for layer in context.config.layers_of(sample) if (graph.layer == layer).any()]
    pixel_um = registered_frame(context, sample).um_per_px
    depth = float(np.median(depths(layout, graph, used, trained.n_background is None)))
    parts, foreign = [], foreign_spots(graph, layout)
    for layer in layers:
        own = uns | {"registration_accepted": layer not in refused}
        parts.append(section_in_stack(graph, layer, predicted, trained.genes, used, config, pixel_um, depth,
                                      trained.n_background, own, foreign))
    for layer, adata in zip(layers, parts, strict=True):
        run_folder.write_prediction(trained.layout, sample, trained.layout.imputed(sample, layer), adata)
    if parts:
        whole = whole_sample(layers, parts, uns)
        run_folder.write_prediction(trained.layout, sample, trained.layout.imputed_sample(sample), whole)
    written = ", ".join(map(str, layers)) or "none of those chosen"
    print(f"predict_3d  {sample}: sections {written} -> {trained.layout.root}")
    return True


def run(args: argparse.Namespace) -> int:
    context = jobs.open_context(args)
    device = start_torch(0, args.gpu)
    from dataloader_3d import load_graphs
    trained, n_predicted = open_run(args, context), 0
    for graph in load_graphs(context, "predict_3d"):
        try:
            n_predicted += predict_sample(trained, graph, args, context, device)
        except LayerError as error:
            print(f"predict_3d  {graph.sample}: left out: {error}", file=sys.stderr)
    if n_predicted == 0:
        raise DataError(context.layout.root, "no sample that can be predicted", "one with known sections",
                        "see the lines above")
    return 0


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return guarded(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
