"""A dataset root of toy sections, up to the outputs of step 4; steps 5_1 to 7 are run on it."""
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from conftest import load_script
from scipy import sparse

from common import io
from common.config import Config, SampleConfig, save_config
from common.layout import SIZES, Layout
from data_preprocessing import patches

STEPS = ("5_1_find_high_expression", "5_2_get_label_of_other_resolution", "5_3_normalization", "6_pt_construction",
         "7_make_dataset")
PITCH_PX = 272.0
SLIDE_PX = (3000, 2500)


def square_array(columns: int = 8, rows: int = 6) -> np.ndarray:
    """Array positions (n, 2): column, row."""
    return np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2)


def toy_location(array: np.ndarray, shift_px=(400.0, 500.0)) -> pd.DataFrame:
    pixel = array * PITCH_PX + np.asarray(shift_px)
    return pd.DataFrame({
        "barcode": [f"{i}x{j}" for i, j in array], "pixel_x": pixel[:, 0], "pixel_y": pixel[:, 1],
        "i": array[:, 0], "j": array[:, 1]})


def toy_counts(barcodes, genes, seed: int = 0) -> anndata.AnnData:
    rate = np.linspace(8, 0.5, len(genes))
    values = np.random.default_rng(seed).poisson(rate, (len(barcodes), len(genes))).astype(np.float32)
    obs, var = pd.DataFrame(index=list(barcodes)), pd.DataFrame(index=list(genes))
    return anndata.AnnData(sparse.csr_matrix(values), obs=obs, var=var)


SHARED_RECIPE = {"weights_sha256": "ab" * 32, "preprocessing": "none", "spot_window_um": 200 * 224 / 272}
HOW = {  # recipe of each feature set
    "backbone": {"model": "efficientnet_lite0", **SHARED_RECIPE},
    "stain": {"model": "toy", **SHARED_RECIPE}}


def toy_features(names, seed: int, width: int) -> np.ndarray:
    """Features (n, width) that depend on the name, not on the row."""
    rows = {name: row for row, name in enumerate(sorted(names))}
    return np.random.default_rng(seed).normal(size=(len(names), width))[[rows[name] for name in names]]


def add_layer(layout: Layout, layer: int, location: pd.DataFrame, counts: anndata.AnnData | None, sample: str = "S",
              with_patches: bool = True) -> None:
    """Write the outputs of steps 0 to 4 for one layer; only location and counts if with_patches is False."""
    io.write_table(layout.location(sample, layer), location)
    if counts is not None:
        io.write_h5ad(layout.counts(sample, layer), counts)
    if not with_patches:
        return
    layout.new_image(sample, layer, ".png").parent.mkdir(parents=True, exist_ok=True)
    layout.new_image(sample, layer, ".png").touch()
    for size, table in patches.level_tables(location, SLIDE_PX, {size: size for size in SIZES}).items():
        io.write_table(layout.patches_csv(size, sample, layer), table)
        names = table["patch_name"].tolist()
        sets = {"stain": toy_features(names, size + layer, 3), "backbone": toy_features(names, layer, 5)}
        io.write_features(layout.features(size, sample, layer), sets, names, HOW)
    for size in (512, 1024):
        patches.pair_level(layout, size, sample, layer)


def toy_config(layers, **changes) -> Config:
    samples = {"S": SampleConfig(layers=list(layers))}
    return Config(dataset="toy", pitch_px=PITCH_PX, n_genes=10, samples=samples).model_copy(update=changes)


def run(root: Path, *steps: str, code: int = 0) -> None:
    for step in steps:
        assert load_script(step).main(["--root_path", str(root)]) == code, step


GENES = ["MT-ND1", "ACTB", "RPL3", "KRT8", "ERBB2", "CD74", "IGKC", "COL1A1", "VIM", "FN1", "MUC1", "SPARC"]


def write_toy_root(folder: Path) -> Layout:
    """A root of four layers.

    1: counts and patches, 2: no counts, 3: counts of some spots, 4: counts and no image.
    """
    layout = Layout(folder)
    location = toy_location(square_array())
    add_layer(layout, 1, location, toy_counts(location["barcode"], GENES + ["ONLY1"], 1))
    add_layer(layout, 2, location, None)
    add_layer(layout, 3, location, toy_counts(location["barcode"][5:], GENES, 3))
    add_layer(layout, 4, location, toy_counts(location["barcode"], GENES[::-1] + ["ONLY4"], 4), with_patches=False)
    save_config(toy_config([1, 2, 3, 4]), layout.config)
    return layout
