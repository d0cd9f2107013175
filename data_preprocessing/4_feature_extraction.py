"""Step 4: features of spot, region and global patches from a frozen image encoder.

INPUT   cropped_imgs/patches_<size>/<sample>/<layer>.h5         img (N,S,S,3) uint8, barcode (N,)
OUTPUT  extracted_feature/<size>/<sample>/<layer>.h5            backbone (N,D) float32, barcode (N,);
                                                                attributes model, weights_sha256, window_px
for sizes 224, 512, 1024. The encoder is config.backbone: efficientnet_lite0 (ImageNet weights from a package, D = 1280), or any timm
model, with local weights if backbone_weights names a file. Every patch is seen at 224 x 224 px.
Source: Zhu et al., CVPR 2025.

    python data_preprocessing/4_feature_extraction.py --root_path data/her2st --num_workers 2
"""
import sys; from pathlib import Path
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import argparse
import os
from functools import lru_cache

from common import cli
from common.io import read_patches, write_features
from common.layout import SIZES
from data_preprocessing.backbone import Backbone, extract, load_backbone

STEP = "4_feature_extraction"
SEED = 0


@lru_cache(maxsize=1)
def open_backbone(name: str, weights: str | None, gpu: str | None, workers: int) -> Backbone:
    """The encoder on its device, once a process; the workers share the CPU's threads. Raises DataError."""
    import torch
    cli.keep_freed_memory()
    torch.manual_seed(SEED)
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // workers))
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    return load_backbone(name, weights, cli.choose_device(gpu))


def layer_job(context: cli.Context, sample: str, layer: int) -> cli.Job:
    """The features of one layer's patches."""
    layout, config, args = context.layout, context.config, context.args
    weights = [Path(config.backbone_weights)] if config.backbone_weights else []

    def work() -> str:
        backbone, n_patches = open_backbone(config.backbone, config.backbone_weights, args.gpu, args.num_workers), 0
        for size in SIZES:
            img, _, names = read_patches(layout.patches(size, sample, layer))
            features = extract(backbone, img, config.feature_batch_size)  # (N, D)
            about = {"model": backbone.name, "weights_sha256": backbone.weights_sha256, "window_px": config.window_px(size)}
            write_features(layout.features(size, sample, layer), {"backbone": features}, names, {"backbone": about})
            n_patches += len(img)
        return f"{n_patches} patches, {features.shape[1]} features each, {backbone.name} on {backbone.device}"

    return cli.Job(sample, layer, inputs=[layout.patches(size, sample, layer) for size in SIZES] + weights,
                   outputs=[layout.features(size, sample, layer) for size in SIZES], work=work,
                   settings={"backbone": config.backbone, "window_px": {size: config.window_px(size) for size in SIZES}})


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, sample=True, layer=True, workers=True)
    parser.add_argument("--gpu", default=None, help="GPU number, or 'cpu' (default: 0 if there is one, else cpu)")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return cli.run_layers(STEP, __file__, args, layer_job)


if __name__ == "__main__":
    sys.exit(main())
