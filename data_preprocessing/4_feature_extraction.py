"""Step 4: features of spot, region and global patches.

INPUT   cropped_imgs/patches_<size>/<sample>/<layer>.h5         img (N,S,S,3) uint8, coords (N,2) centres, barcode (N,)
        imgs/<sample>/<layer>.<ext>                             H&E, for the sets that read around a patch
OUTPUT  extracted_feature/<size>/<sample>/<layer>.h5            one (N,D) float32 dataset a set of config.features,
                                                                barcode (N,); attributes model, weights_sha256,
                                                                preprocessing, window_px, window_um, spot_window_um
                                                                (of 224 reference px): common/feature_recipe.py
for sizes 224, 512, 1024.
    backbone   a frozen image encoder on the patch at 224 x 224 px: config.backbone is efficientnet_lite0 (ImageNet
               weights from a package, D = 1280) or any timm model, with local weights if backbone_weights names a file
    context    the same encoder on the 512 and on the 1024 px around the patch's centre, side by side (2 D);
               three times the time of backbone alone
    stain      statistics of haematoxylin and eosin in the 112, 224, 512 and 1024 px around the centre (72): stain.py
Source: Zhu et al., CVPR 2025 (backbone).

    python data_preprocessing/4_feature_extraction.py --root_path data/her2st --num_workers 2
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import argparse
from functools import lru_cache

import numpy as np

from common import cli, jobs
from common.config import Config
from common.device import choose_device, keep_freed_memory
from common.geometry import SPOT_WINDOW_PX, Geometry
from common.io import open_patches, write_features
from common.layout import GLOBAL, REGION, SIZES
from common.slide import Slide, open_slide
from common.workers import n_cores
from data_preprocessing import stain
from data_preprocessing.backbone import Backbone, Windows, extract, load_backbone

STEP = "4_feature_extraction"
SEED = 0
CONTEXT_WIDTHS = (REGION, GLOBAL)  # reference px


@lru_cache(maxsize=1)
def open_backbone(name: str, weights: str | None, gpu: str | None, workers: int) -> Backbone:
    """The encoder on its device, loaded once a process. Raises DataError.

    The workers share the CPU's cores, one batch a core: threads that share a batch wait for each other.
    """
    import torch
    keep_freed_memory()
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    device = choose_device(gpu)
    n_threads = max(1, n_cores() // workers) if device.type == "cpu" else 1
    return load_backbone(name, weights, device, n_threads)


def feature_sets(config: Config, geometry: Geometry, size: int, img, centre: np.ndarray, slide: Slide | None,
                 backbone: Backbone | None) -> tuple[dict[str, np.ndarray], dict[str, dict]]:
    """Every set of config.features of the patches of one level, {set: (n, D)}, and its attributes.

    img (n, S, S, 3), centre (n, 2) level-0 px.
    """
    sets, about = {}, {}
    widths = {"backbone": (size,), "context": CONTEXT_WIDTHS, "stain": stain.WIDTHS}  # reference px
    window_px = {}  # {set: {reference px: level-0 px}}
    for name in config.features:
        window_px[name] = {width: geometry.window_px(width) for width in widths[name]}
    if "backbone" in config.features:
        sets["backbone"] = extract(backbone, img, config.feature_batch_size)
    if "context" in config.features:
        windows = [Windows(slide, centre, window) for window in window_px["context"].values()]
        sets["context"] = np.hstack([extract(backbone, one, config.feature_batch_size) for one in windows])
    if "stain" in config.features:
        sets["stain"] = stain.stain_features(slide, centre, window_px["stain"])
    for name, windows_px in window_px.items():
        if name == "stain":
            by = {"model": stain.MODEL, "weights_sha256": "", "preprocessing": stain.PREPROCESSING}
        else:
            by = {"model": backbone.name, "weights_sha256": backbone.weights_sha256,
                  "preprocessing": backbone.preprocessing}
        about[name] = {**by, "window_px": list(windows_px.values()),
                       "window_um": [geometry.window_um(width) for width in windows_px],
                       "spot_window_um": geometry.window_um(SPOT_WINDOW_PX)}
    return sets, about


def layer_job(context: jobs.Context, sample: str, layer: int) -> jobs.Job:
    """The features of one layer's patches."""
    layout, config, args = context.layout, context.config, context.args
    geometry = context.geometry(sample, layer)
    weights = [Path(config.backbone_weights)] if config.backbone_weights else []
    image = layout.image(sample, layer) or layout.new_image(sample, layer, ".jpg")
    with_encoder = bool({"backbone", "context"} & set(config.features))
    with_slide = bool({"context", "stain"} & set(config.features))

    def work() -> str:
        backbone, n_patches, slide = None, 0, None
        if with_encoder:
            backbone = open_backbone(config.backbone, config.backbone_weights, args.gpu, args.num_workers)
        for size in SIZES:
            with open_patches(layout.patches(size, sample, layer)) as (img, centre, names):
                slide = slide or (open_slide(image) if with_slide else None)
                sets, about = feature_sets(config, geometry, size, img, centre, slide, backbone)
            write_features(layout.features(size, sample, layer), sets, names, about)
            n_patches += len(names)
        widths = ", ".join(f"{values.shape[1]} {name}" for name, values in sets.items())
        encoder = f"; {backbone.name} on {backbone.device}" if backbone else ""
        return f"{n_patches} patches, features: {widths}{encoder}"

    settings = {"features": sorted(config.features), "backbone": config.backbone,
                "window_px": {size: geometry.window_px(size) for size in SIZES},
                "spot_window_um": geometry.window_um(SPOT_WINDOW_PX)}
    inputs = [layout.patches(size, sample, layer) for size in SIZES] + weights + ([image] if with_slide else [])
    outputs = [layout.features(size, sample, layer) for size in SIZES]
    return jobs.Job(sample, layer, inputs, outputs, work, settings)


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, sample=True, layer=True, workers=True)
    parser.add_argument("--gpu", default=None, help="GPU number, or 'cpu' (default: 0 if there is one, else cpu)")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return jobs.run_layers(STEP, __file__, args, layer_job)


if __name__ == "__main__":
    sys.exit(main())
