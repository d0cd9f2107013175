"""Give back the expression of every section as AnnData.

INPUT   <save_path>/splits.json, genes.csv, fold_<k>/checkpoint.pt (main_3d.py); the 3D graph of each sample under <root>
OUTPUT  <save_path>/imputed/<sample>/<layer>.h5ad
            X                     (n_spots, n_genes) float32, normalised: ln((c + 1) / sum(c + 1)) over the genes
            layers['log1p']       the same as scanpy users expect it: 10,000 a spot over these genes, log1p; for a spot of the known ones' median depth
            layers['sd']          (methods msagnet, gp) predicted standard deviation of a measured value, same scale
            layers['measured']    the same scale, where the layer was measured (NaN for a spot without counts)
            obs                   barcode index; sample, layer, known (True: this spot's expression was given); distance_to_known (um, to the
                                  nearest known spot, registered); confidence (methods msagnet, gp: share of the prior variance explained, 0 to 1)
            obsm['spatial']       (n_spots, 2) level-0 px of the layer's own image
            obsm['spatial_3d']    (n_spots, 3) um: registered x, y, and z = position in the stack x section thickness
            uns['asign']          method, registration_accepted, known layers, layers of this sample that trained the model, gene
                                  normalisation, checkpoint digest
        <save_path>/imputed/<sample>/sample.h5ad    all these layers in one, obs_names '<layer>_<barcode>'

A sample is predicted by the fold that tested it; a sample that no fold tested, or another dataset, by --fold (default 0).

    python predict_3d.py --root_path demo_data --save_path runs/demo
"""
import argparse
import sys
from pathlib import Path

from common import cli
from common.errors import DataError
from common.io import read_csr, read_json, read_pt, read_table, reading, weights_of, write_h5ad
from common.layout import RunLayout
from common.recipe import file_digest


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, sample=True, layer=True, overwrite=False, done=False)
    parser.add_argument("--save_path", default=None, help="run folder of main_3d.py (default runs/<dataset>)")
    parser.add_argument("--known_layers", default=None, help="layers whose expression is given (default: as in training)")
    parser.add_argument("--fold", type=int, default=None, help="use this fold's checkpoint for every sample")
    parser.add_argument("--gpu", default=None, help="GPU number, or 'cpu' (default: 0 if there is one, else cpu)")
    return parser


def read_checkpoint(path: Path, genes: list[str], feature_sets: dict[str, int]) -> dict:
    """Raises DataError if it is no checkpoint of main_3d.py, or one of other genes or features."""
    if not path.is_file():
        raise DataError(path, "no file", "a checkpoint of main_3d.py", "run main_3d.py first, or give --save_path")
    checkpoint = read_pt(path)
    if not {"state", "genes", "feature_sets", "known_layers"} <= set(checkpoint):
        raise DataError(path, f"keys {sorted(checkpoint)}", "a checkpoint of main_3d.py", "give the run folder that main_3d.py wrote, or run it again")
    if checkpoint["genes"] != genes:
        raise DataError(path, "a checkpoint of another gene list", "the genes of the run's genes.csv", "run main_3d.py again")
    if checkpoint["feature_sets"] != feature_sets:
        raise DataError(path, f"a checkpoint for the features {checkpoint['feature_sets']}", f"the dataset's, {feature_sets}", "run main_3d.py again")
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


def registered_pixel_um(layout, config, sample: str) -> float:
    """um per px of the registered frame, that of the middle layer: the config's, else what its slide says, else pitch_um / pitch_px."""
    middle = read_json(layout.quality(sample), "Step3_registertoMiddle_ANTs.py")["middle"]
    frame = config.of_layer(sample, middle)
    about = layout.thumbnail_info(sample, middle)  # an archive without slides has none
    from_slide = read_json(about, "0_2_tissue_mask.py")["pixel_size_um"] if about.is_file() else None
    return frame.pixel_size_um or from_slide or frame.um_per_px


def layer_anndata(graph, layer: int, predicted: dict, genes: list[str], known_layers: list[int], config, pixel_um: float, uns: dict):
    """One layer as AnnData. predicted: {'expression': (n_spots of the sample, n_genes)}, 'sd', 'confidence' if there are; pixel_um: um per px of the
    registered frame."""
    import anndata
    import numpy as np
    import pandas as pd
    from scipy.spatial import cKDTree
    from data_preprocessing.expression import depth_of, to_log1p
    rows = graph.layer.numpy() == layer
    labelled = graph.has_label.numpy()[rows]
    obs = pd.DataFrame({"sample": graph.sample, "layer": layer, "known": labelled & (layer in known_layers)}, index=graph.barcode[rows].astype(str))
    z_um = config.samples[graph.sample].layers.index(layer) * config.section_thickness_um
    adata = anndata.AnnData(predicted["expression"][rows].astype(np.float32), obs=obs, var=pd.DataFrame(index=genes), uns={"asign": uns})
    adata.obsm["spatial"] = graph.pixel[rows].astype(np.float64)
    adata.obsm["spatial_3d"] = np.column_stack([graph.registered[rows] * pixel_um, np.full(rows.sum(), z_um)])
    shown = graph.in_layers(known_layers).numpy()
    adata.obs["distance_to_known"] = cKDTree(graph.registered[shown]).query(graph.registered[rows])[0] * pixel_um
    adata.layers["log1p"] = to_log1p(adata.X, float(np.median(depth_of(graph.label.numpy()[shown]))))
    if "sd" in predicted:
        adata.layers["sd"] = predicted["sd"][rows]
        adata.obs["confidence"] = predicted["confidence"][rows]
    if labelled.any():
        adata.layers["measured"] = np.where(labelled[:, None], graph.label.numpy()[rows], np.float32(np.nan))
    return adata


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
    context = cli.open_context(args)
    layout, config = context.layout, context.all_samples
    device = cli.start_torch(0, args.gpu)
    import evaluation
    import training
    import training_reference
    from data_preprocessing.expression import read_genes
    from dataloader_3d import known_layers_of, load_graphs, refused_layers
    from models import gp
    run_layout = RunLayout(Path(args.save_path)) if args.save_path else RunLayout.default(config.dataset)
    splits = read_json(run_layout.splits, "main_3d.py")
    cli.hold(run_layout.root)
    with reading(run_layout.splits, "main_3d.py"):
        method = splits["method"]
        fold_of = {sample: fold["index"] for fold in splits["folds"] for sample in fold["test_samples"]}
    genes = read_genes(layout)
    of_run = list(read_table(run_layout.genes, ("gene",), "main_3d.py", text=("gene",))["gene"])
    if of_run != genes:
        raise DataError(layout.genes, "another gene list than the run's", f"the {len(of_run)} genes of {run_layout.genes}, in order",
                        "set genes: to that list (one symbol a line) and run 5_1 to 7 and 3D 4 to 5 again")
    for graph in load_graphs(context, "predict_3d"):
        index = args.fold if args.fold is not None else fold_of.get(graph.sample, 0)
        if index >= len(splits["folds"]):
            raise DataError("--fold", index, f"a number below {len(splits['folds'])}", "correct --fold")
        fold = splits["folds"][index]
        refused = refused_layers(layout, graph.sample)
        known = known_layers_of(config, graph, cli.parse_layers(args.known_layers) or fold["known_layers"].get(graph.sample), refused)
        uns = {"method": method, "known_layers": known, "training_layers": fold["training_layers"].get(graph.sample, []),
               "normalisation": "ln((count + 1) / sum over genes (count + 1))"}
        if not known:
            print(f"predict_3d  {graph.sample}: left out: no layer has counts, image and registration; what nothing is known of is not imputed", file=sys.stderr)
            continue
        as_in_training = known == fold["known_layers"].get(graph.sample) and graph.sample in splits["kernels"]
        kernel = gp.Kernel(**splits["kernels"][graph.sample]) if as_in_training else None  # None: chosen on these known layers
        if method == "msagnet":
            path = run_layout.checkpoint(index)
            model = network_of(read_checkpoint(path, genes, graph.feature_sets), path)
            predicted = training.predict(model, graph, training.fit_process(graph, known, kernel), known, device, with_sd=True)  # (n_spots, n_genes) each
            uns["checkpoint_sha256"] = file_digest(path)
        elif method == "reference":
            path = run_layout.checkpoint(index)
            model, projection = training_reference.from_checkpoint(read_checkpoint(path, genes, graph.feature_sets))
            predicted = {"expression": training_reference.predict(model, graph, graph.in_layers(known), projection)}
            uns["checkpoint_sha256"] = file_digest(path)
        elif method == "gp":
            predicted = training.gaussian_process(graph, training.fit_process(graph, known, kernel), with_sd=True)
        else:
            iou = read_csr(layout.spot_iou(graph.sample), "1_get_iou.py")
            predicted = {"expression": evaluation.floor_predictions(graph, known, iou)[method]}
        layers = [layer for layer in context.config.layers_of(graph.sample) if (graph.layer == layer).any()]
        pixel_um = registered_pixel_um(layout, config, graph.sample)
        parts = [layer_anndata(graph, layer, predicted, genes, known, config, pixel_um, uns | {"registration_accepted": layer not in refused})
                 for layer in layers]
        for layer, adata in zip(layers, parts):
            write_h5ad(run_layout.imputed(graph.sample, layer), adata)
        if parts:
            write_h5ad(run_layout.imputed_sample(graph.sample), whole_sample(layers, parts, uns))
        print(f"predict_3d  {graph.sample}: layers {', '.join(map(str, layers)) or 'none of those chosen'} -> {run_layout.root}")
    return 0


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return cli.guarded(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
