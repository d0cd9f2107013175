"""Give back the expression of every section as AnnData.

INPUT   <save_path>/splits.json, genes.csv, background.csv, fold_<k>/checkpoint.pt (main_3d.py); the 3D graph of each sample under <root>
OUTPUT  <save_path>/imputed/<sample>/<layer>.h5ad
            X                     (n_spots, n_genes) float32, normalised: ln((c + 1) / sum over the background genes (c + 1))
            layers['log1p']       the same as scanpy users expect it: 10,000 a spot over the background genes, log1p; for a spot of the known ones' median depth
            layers['sd']          (methods msagnet, gp) predicted standard deviation of a measured value, same scale
            layers['measured']    the same scale, where the layer was measured (NaN for a spot without counts)
            obs                   barcode index; sample, layer, known (True: this spot's expression was given and used); distance_to_known (um, to the
                                  nearest known spot in space, z included); confidence (methods msagnet, gp: share of the prior variance explained, 0 to 1)
            obsm['spatial']       (n_spots, 2) level-0 px of the layer's own image
            obsm['spatial_3d']    (n_spots, 3) um: registered x, y, and z: `z_um` of the config, else (layer - lowest layer) x section_thickness_um
            uns['asign']          method, registration_accepted, known layers, known_spots and known_spots_used (msagnet, gp: one process takes 6,000),
                                  layers of this sample that trained the model, gene normalisation, checkpoint digest
        <save_path>/imputed/<sample>/sample.h5ad    all these layers in one, obs_names '<layer>_<barcode>'

A sample is predicted by the fold that tested it; a sample that no fold tested, or another dataset, by --fold (default 0).

    python predict_3d.py --root_path demo_data
"""
import argparse
import sys
from pathlib import Path

from common import cli, jobs, locks, options, run_folder, stale
from common.device import start_torch
from common.errors import DataError, LayerError
from common.exit_codes import guarded
from common.feature_recipe import check_trained_with
from common.io import read_csr, read_json, read_pt, read_table, reading, weights_of
from common.layout import PIPELINE
from common.recipe import file_digest
from common.z import z_um_of


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, sample=True, layer=True, overwrite=False, done=False)
    parser.add_argument("--save_path", default=None,
                        help="run folder of main_3d.py (default: the last one under <root>/runs)")
    parser.add_argument("--known_layers", default=None, help="layers whose expression is given (default: as in training)")
    parser.add_argument("--fold", type=options.count, default=None, help="use this fold's checkpoint for every sample")
    parser.add_argument("--gpu", default=None, help="GPU number, or 'cpu' (default: 0 if there is one, else cpu)")
    return parser


def read_checkpoint(path: Path, genes: list[str], graph, config) -> dict:
    """Raises DataError if it is no checkpoint of main_3d.py, or one of other genes, features or array."""
    if not path.is_file():
        raise DataError(path, "no file", "a checkpoint of main_3d.py", "run main_3d.py first, or give --save_path")
    checkpoint = read_pt(path)
    if not {"state", "genes", "trained_with", "known_layers"} <= set(checkpoint):
        raise DataError(path, f"keys {sorted(checkpoint)}", "a checkpoint of main_3d.py", "give the run folder that main_3d.py wrote, or run it again")
    if checkpoint["genes"] != genes:
        raise DataError(path, "a checkpoint of another gene list", "the genes of the run's genes.csv", "run main_3d.py again")
    check_trained_with(checkpoint, path, graph.feature_recipe, graph.feature_sets, config, graph.sample)
    return checkpoint


def network_of(checkpoint: dict, path: Path):
    """MSAGNet in evaluation mode. Raises DataError if the checkpoint, read from `path`, is that of another version of the network."""
    from models.encoder import Projection
    from models.msagnet import Architecture, MSAGNet
    state = checkpoint["state"]
    with weights_of(path, "main_3d.py"):
        parts = Architecture.of(checkpoint["architecture"]), Projection.of_state(state), state["basis"], state["z_scale"], state["level_offset"]
    model = MSAGNet(*parts)
    with weights_of(path, "main_3d.py"):
        model.load_state_dict(state)
    return model.eval()


def layer_anndata(graph, layer: int, predicted: dict, genes: list[str], known, config, pixel_um: float, depth: float,
                  n_background: int | None, uns: dict):
    """One layer as AnnData. predicted: {'expression': (n_spots of the sample, n_genes)}, 'sd', 'confidence' if there are; known: (n_spots of the sample,)
    bool, the spots whose expression was given; pixel_um: um per px of the registered frame; depth: median of the known spots; n_background: as in to_log1p.
    Raises DataError if a number is not finite."""
    import anndata
    import numpy as np
    import pandas as pd
    from scipy.spatial import cKDTree

    from common.normalisation import to_log1p
    from evaluation.outputs import finite
    rows = graph.layer.numpy() == layer
    labelled = graph.has_label.numpy()[rows]
    obs = pd.DataFrame({"sample": graph.sample, "layer": layer, "known": known[rows]}, index=graph.barcode[rows].astype(str))
    z_um = {int(one): z_um_of(config, graph.sample, int(one)) for one in np.unique(graph.layer)}
    place_um = np.column_stack([graph.registered * pixel_um, [z_um[one] for one in graph.layer.tolist()]])  # (n, 3)
    adata = anndata.AnnData(predicted["expression"][rows].astype(np.float32), obs=obs, var=pd.DataFrame(index=genes), uns={"asign": uns})
    adata.obsm["spatial"] = graph.pixel[rows].astype(np.float64)
    adata.obsm["spatial_3d"] = place_um[rows]
    adata.obs["distance_to_known"] = cKDTree(place_um[known]).query(place_um[rows])[0]
    adata.layers["log1p"] = to_log1p(adata.X, depth, n_background)
    if "sd" in predicted:
        adata.layers["sd"] = predicted["sd"][rows]
        adata.obs["confidence"] = predicted["confidence"][rows]
    if labelled.any():
        adata.layers["measured"] = np.where(labelled[:, None], graph.label.numpy()[rows], np.float32(np.nan))
    return finite(adata, f"{graph.sample}/{layer}")


def whole_sample(layers: list[int], parts: list, uns: dict):
    """The layers below each other in one AnnData; what a layer has not measured is NaN."""
    import anndata
    import numpy as np
    named = []
    for layer, adata in zip(layers, parts):
        one = adata.copy()
        one.obs_names = [f"{layer}_{barcode}" for barcode in adata.obs_names]
        one.layers.setdefault("measured", np.full(adata.shape, np.nan, np.float32))
        named.append(one)
    whole = anndata.concat(named)
    whole.uns["asign"] = uns
    return whole


def run(args: argparse.Namespace) -> int:
    context = jobs.open_context(args)
    layout, config = context.layout, context.all_samples
    device = start_torch(0, args.gpu)
    import numpy as np

    from common.gene_list import read_genes
    from common.normalisation import NORMALISATION, n_background
    from data_preprocessing_3d.neighbours import registered_frame
    from dataloader_3d import known_layers_of, load_graphs, refused_layers
    from evaluation.outputs import background_of, check_background, depths
    from evaluation.scores import floor_predictions
    from models import gp, known_spots
    from training import reference_recipe, three_d
    from training.process import fit_process, gaussian_process
    run_layout = run_folder.find(layout, args.save_path, only_3d=True)
    splits = read_json(run_layout.splits, "main_3d.py")
    locks.hold(run_layout.root)
    with reading(run_layout.splits, "main_3d.py"):
        method = splits["method"]
        fold_of = {sample: fold["index"] for fold in splits["folds"] for sample in fold["test_samples"]}
    stale.require_current(context, PIPELINE)
    stale.require_current_run(run_layout, len(splits["folds"]), context)
    genes = read_genes(layout)
    of_run = list(read_table(run_layout.genes, ("gene",), "main_3d.py", text=("gene",))["gene"])
    if of_run != genes:
        raise DataError(layout.genes, "another gene list than the run's", f"the {len(of_run)} genes of {run_layout.genes}, in order",
                        "set genes: to that file and run 5_1 to 7 and 3D 4 to 5 again")
    check_background(layout, background_of(run_layout), run_layout.background)
    n_other = n_background(genes, background_of(layout))  # None: the list is its own background

    def predict_sample(graph) -> bool:
        """Raises LayerError for a file of this sample that cannot be used."""
        index = args.fold if args.fold is not None else fold_of.get(graph.sample, 0)
        if index >= len(splits["folds"]):
            raise DataError("--fold", index, f"a number below {len(splits['folds'])}", "correct --fold")
        fold = splits["folds"][index]
        refused = refused_layers(layout, graph.sample)
        known = known_layers_of(config, graph, cli.parse_layers(args.known_layers) or fold["known_layers"].get(graph.sample), refused)
        uns = {"method": method, "known_layers": known, "training_layers": fold["training_layers"].get(graph.sample, []),
               "normalisation": NORMALISATION}
        if not known:
            print(f"predict_3d  {graph.sample}: left out: no layer has counts, image and registration; what nothing is known of is not imputed", file=sys.stderr)
            return False
        line = known_spots.left_out_line(graph, known, "known") if method in ("msagnet", "gp") else None
        if line:
            print(f"predict_3d  {line}")
        as_in_training = known == fold["known_layers"].get(graph.sample) and graph.sample in splits["kernels"]
        kernel = gp.Kernel(**splits["kernels"][graph.sample]) if as_in_training else None  # None: chosen on these known layers
        if method == "msagnet":
            path = run_layout.checkpoint(index)
            model = network_of(read_checkpoint(path, genes, graph, config), path)
            predicted = three_d.predict(model, graph, fit_process(graph, known, kernel), known, device, with_sd=True)  # (n_spots, n_genes) each
            uns["checkpoint_sha256"] = file_digest(path)
        elif method == "reference":
            path = run_layout.checkpoint(index)
            model, projection = reference_recipe.from_checkpoint(read_checkpoint(path, genes, graph, config))
            predicted = {"expression": reference_recipe.predict(model, graph, graph.in_layers(known), projection)}
            uns["checkpoint_sha256"] = file_digest(path)
        elif method == "gp":
            predicted = gaussian_process(graph, fit_process(graph, known, kernel), with_sd=True)
        else:
            iou = read_csr(layout.spot_iou(graph.sample), "1_get_iou.py")
            predicted = {"expression": floor_predictions(graph, known, iou)[method]}
        given = graph.in_layers(known).numpy()
        used = known_spots.used(graph, given) if method in ("msagnet", "gp") else given
        uns |= {"known_spots": int(given.sum()), "known_spots_used": int(used.sum())}
        layers = [layer for layer in context.config.layers_of(graph.sample) if (graph.layer == layer).any()]
        pixel_um = registered_frame(context, graph.sample).um_per_px
        depth = float(np.median(depths(layout, graph, used, n_other is None)))
        parts = [layer_anndata(graph, layer, predicted, genes, used, config, pixel_um, depth, n_other, uns | {"registration_accepted": layer not in refused})
                 for layer in layers]
        for layer, adata in zip(layers, parts):
            run_folder.write_prediction(run_layout, graph.sample, run_layout.imputed(graph.sample, layer), adata)
        if parts:
            whole = whole_sample(layers, parts, uns)
            run_folder.write_prediction(run_layout, graph.sample, run_layout.imputed_sample(graph.sample), whole)
        print(f"predict_3d  {graph.sample}: layers {', '.join(map(str, layers)) or 'none of those chosen'} -> {run_layout.root}")
        return True

    n_predicted = 0
    for graph in load_graphs(context, "predict_3d"):
        try:
            n_predicted += predict_sample(graph)
        except LayerError as error:
            print(f"predict_3d  {graph.sample}: left out: {error}", file=sys.stderr)
    if n_predicted == 0:
        raise DataError(layout.root, "no sample that can be predicted", "one with known layers", "see the lines above")
    return 0


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return guarded(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
