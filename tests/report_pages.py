"""A root and a run as the pipeline writes them, for the tests of report.py, and what is read from a page."""
import base64
import html
import io
import re
import shutil

import anndata
import numpy as np
import pandas as pd
from conftest import load_script
from PIL import Image

from common.config import Config, SampleConfig, save_config
from common.io import read_json, write_h5ad, write_json, write_picture, write_table
from common.layout import Layout, RunLayout

report = load_script("report")
SAMPLE, GENE = "block 7-ü.b", "<script>alert(2)<b>"  # odd, as a sample may be named; the worst that a gene can be named
GENES = [GENE, "ERBB2", "flat", "worse"]
PITCH_PX, THUMBNAIL_SCALE = 40.0, 2.0   # level-0 px; level-0 px per thumbnail px
UM_PER_PX = 5.0
SIDE_SPOTS = 9
QUALITY = {"accepted": True, "reasons": [], "warnings": ["one <piece> moved"], "method": "xfeat",
           "refinement": "affine", "inliers": 50, "matches": 80,
           "rotation_deg": 1.0, "scale_um_x": 1.0, "scale_um_y": 1.0, "shear": 0.0,
           "before": {"tissue_dice": 0.5, "image_correlation": 0.1},
           "after": {"tissue_dice": 0.9, "image_correlation": 0.6}}


def spots(step_px: float) -> np.ndarray:
    """(n, 2) level-0 px: a square grid about the middle of a 600 x 500 slide."""
    ticks = np.arange(0, (SIDE_SPOTS - 1) * PITCH_PX + 1, step_px)
    return np.stack(np.meshgrid(120 + ticks, 90 + ticks), axis=-1).reshape(-1, 2)


def blotches(generator) -> np.ndarray:
    """(250, 300, 3) uint8: blotches."""
    return np.kron(generator.integers(60, 230, (25, 30, 3)), np.ones((10, 10, 1))).astype(np.uint8)


# what the pipeline writes ----------------------------------------------------------------------------
def build(layout: Layout, run: RunLayout) -> None:
    """1 known, 2 target (registration refused), 3 image-only on a dense grid, 4 left out."""
    config = Config(dataset="toy", samples={SAMPLE: SampleConfig(layers=[1, 2, 3, 4])}, pitch_px=PITCH_PX)
    save_config(config, layout.config)
    save_config(config, run.config)
    write_pictures(layout)
    write_quality(layout)
    write_json(layout.status, {f"{SAMPLE}/4": {"0_2_tissue_mask": "left out: no <tissue>"}})
    write_layer(run, 1, PITCH_PX, True, True)
    write_layer(run, 2, PITCH_PX, False, True)
    write_layer(run, 3, PITCH_PX / 4, False, False)
    write_scores(run)


def write_pictures(layout: Layout) -> None:
    generator = np.random.default_rng(0)
    for layer in (1, 2, 3):
        rgb = blotches(generator)
        mask = np.zeros((250, 300), np.uint8)
        mask[35:225, 50:240] = 255
        write_picture(layout.thumbnail(SAMPLE, layer), rgb)
        write_picture(layout.mask(SAMPLE, layer), mask)
        write_json(layout.thumbnail_info(SAMPLE, layer), {"scale": [THUMBNAIL_SCALE] * 2})
    for moving, fixed in ((1, 3), (2, 3)):
        write_picture(layout.overlay(SAMPLE, moving, fixed), np.tile(blotches(generator)[:80, :80], (1, 3, 1)))
    write_picture(layout.stack_view(SAMPLE), blotches(generator))


def write_quality(layout: Layout) -> None:
    refused = {**QUALITY, "accepted": False, "reasons": ["tissue Dice 0.3 < 0.7"]}
    write_json(layout.quality(SAMPLE), {
        "sample": SAMPLE, "layers": [1, 2, 3], "middle": 3, "left_out": [4],
        "pairs": [{"moving": 1, "fixed": 3, **QUALITY}, {"moving": 2, "fixed": 3, **refused}],
        "to_middle": {str(layer): {"accepted": layer != 2} for layer in (1, 2, 3)}})


def write_layer(run: RunLayout, layer: int, step_px: float, known: bool, measured: bool) -> None:
    generator = np.random.default_rng(layer)
    pixel = spots(step_px)
    wave = np.sin(pixel[:, 0] / 90)
    true = -1.4 + np.stack([wave, np.cos(pixel[:, 1] / 60), 0.5 * wave, 0.5 * wave], axis=1)  # (n, G)
    noise = generator.normal(0, 1, true.shape) * [0.05, 0.4, 0.8, 1.6]
    obs = pd.DataFrame({"sample": SAMPLE, "layer": layer, "known": known,
                        "confidence": np.linspace(0.2, 0.9, len(pixel)), "distance_to_known": 30.0},
                       index=[f"{layer}_{k}" for k in range(len(pixel))])
    adata = anndata.AnnData(true.astype(np.float32), obs=obs, var=pd.DataFrame(index=GENES))
    adata.obsm["spatial"] = pixel
    turned = pixel @ np.array([[0.8, 0.6], [-0.6, 0.8]]) * UM_PER_PX + [700, -50]
    adata.obsm["spatial_3d"] = np.column_stack([turned, np.full(len(pixel), 16.0 * layer)])
    if measured:
        adata.layers["measured"] = (true + noise).astype(np.float32)
        adata.layers["measured"][0] = np.nan  # a spot without counts
    write_h5ad(run.imputed(SAMPLE, layer), adata)


def write_scores(run: RunLayout) -> None:
    from torch.utils.tensorboard import SummaryWriter

    def scores(value: float) -> dict:
        pooled = {"mse": 1 - value, "mae": 0.5 - value / 10, "pcc_spot": 0.7 + value / 10, "pcc_gene": value,
                  "scc_gene": value}
        return {"pooled": pooled, "layers": {f"{SAMPLE}/2": pooled}}

    write_table(run.genes, pd.DataFrame({"gene": GENES}))
    fold = {"index": 0, "test_samples": [SAMPLE], "training_layers": {SAMPLE: [1]}, "known_layers": {SAMPLE: [1]},
            "target_layers": {SAMPLE: [2]}}
    write_json(run.splits, {"method": "msagnet", "folds": [fold], "kernels": {}})
    top = {"pcc_spot": 0.9, "pcc_gene": 0.71}
    write_json(run.metrics_json, {
        "methods": {"mean": scores(0.0), "kernel": scores(0.31), "gp": scores(0.42), "msagnet": scores(0.37)},
        "ceiling": {"pooled": top, "layers": {f"{SAMPLE}/2": top}},
        "recipe": {"method": "msagnet", "seed": 7, "config_sha256": "c0ffee"}})
    write_json(run.runtime, {"seconds": 12.5, "command": ["main_3d.py", "--root_path", "a b"],
                             "versions": {"torch": "9.9"}})
    with SummaryWriter(str(run.tensorboard(0))) as writer:
        for step in range(0, 100, 10):
            writer.add_scalar("train/loss", 1 / (step + 1), step)
            writer.add_scalar("train/spot", 0.5 / (step + 1), step)


def make_flat(run: RunLayout, folds: bool) -> None:
    """Change the run to one of main.py: trained on layer 1, or (folds=False) with --checkpoint.

    It has no kernels, no positions in a stack, no prediction of the training layer.
    """
    splits = read_json(run.splits)
    write_json(run.splits, {"method": "msagnet", "folds": splits["folds"] if folds else []})
    for layer in (1, 2, 3):
        adata = anndata.read_h5ad(run.imputed(SAMPLE, layer))
        del adata.obsm["spatial_3d"], adata.obs["confidence"], adata.obs["distance_to_known"]
        adata.obs["known"] = False
        write_h5ad(run.imputed(SAMPLE, layer), adata)
    if folds:
        run.imputed(SAMPLE, 1).unlink()
    else:
        for path in (run.metrics_json, run.runtime, run.config):
            path.unlink()
        shutil.rmtree(run.tensorboard(0))


# the page --------------------------------------------------------------------------------------------
def page_of(layout: Layout, run: RunLayout, *options: str) -> str:
    assert report.main(["--root_path", str(layout.root), "--save_path", str(run.root), *options]) == 0
    return run.report.read_text()


def words(page: str) -> str:
    """The page's text without tags."""
    without_code = re.sub(r"<(script|style)[^>]*>.*?</\1>", "", page, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", without_code)).split())


def maps(page: str) -> list[tuple[str, float, float, np.ndarray]]:
    """Every map of spots: (alternative text, low, high, picture as RGBA)."""
    image = r'<img src="data:image/png;base64,([^"]+)" alt="([^"]+)" data-low="([^"]+)" data-high="([^"]+)">'
    found = []
    for data, name, low, high in re.findall(image, page):
        picture = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA")
        found.append((html.unescape(name), float(low), float(high), np.asarray(picture)))
    return found
