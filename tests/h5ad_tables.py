"""Small AnnData tables as labs keep them, for the tests of the readers h5ad and hest."""
import json
from pathlib import Path

import anndata
import cv2
import numpy as np
import pandas as pd
import tifffile
from conftest import load_script
from scipy import sparse

convert = load_script("0_1_convert_raw")
PITCH_PX = 25.0


def lattice(array: str = "hex", columns: int = 9, rows: int = 8, pitch: float = PITCH_PX) -> pd.DataFrame:
    """x, y (px), i, j of a full array; of hex, i steps by 2 in a row."""
    j, i = (one.ravel() for one in np.mgrid[:rows, :columns])
    if array == "square":
        return pd.DataFrame({"x": pitch * (i + 1), "y": pitch * (j + 1), "i": i, "j": j})
    i = 2 * i + j % 2
    return pd.DataFrame({"x": pitch / 2 * (i + 2), "y": pitch * np.sqrt(0.75) * (j + 1), "i": i, "j": j})


def barcodes(n: int, ending: str = "-1") -> list[str]:
    """Unique barcodes of 16 bases: n numbers written with ACGT as digits."""
    return [np.base_repr(4**15 + 7919 * k, 4).translate(str.maketrans("0123", "ACGT")) + ending for k in range(n)]


def counts_of(n_spots: int, n_genes: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(3.0, (n_spots, n_genes)).astype(np.float32)


def table(array: str = "hex", seed: int = 0, ending: str = "-1", **shape) -> anndata.AnnData:
    """One section: counts in X, array position and in_tissue in obs, obsm['spatial']."""
    at = lattice(array, **shape)
    genes = pd.DataFrame(index=[f"GENE{k}" for k in range(12)])
    out = anndata.AnnData(sparse.csr_matrix(counts_of(len(at), seed=seed)),
                          obs=pd.DataFrame(index=barcodes(len(at), ending)), var=genes)
    out.obs["in_tissue"], out.obs["array_col"], out.obs["array_row"] = 1, at["i"].to_numpy(), at["j"].to_numpy()
    out.obsm["spatial"] = at[["x", "y"]].to_numpy()
    return out


def picture(colour: tuple[int, int, int] = (200, 100, 150), height: int = 240, width: int = 280) -> np.ndarray:
    pixels = np.full((height, width, 3), 240, np.uint8)
    pixels[40:200, 40:240] = colour
    return pixels


def library(pixels: np.ndarray, name: str = "hires", factor: float | None = 0.5) -> dict:
    return {"images": {name: pixels}, "scalefactors": {} if factor is None else {f"tissue_{name}_scalef": factor}}


def write_hest(raw: Path, name: str, um: float = 8.0, slide: bool = True, **metadata) -> anndata.AnnData:
    """One section of HEST-1k, legacy ST 200 um apart on a slide of 8 um/px; returns its table."""
    for folder in ("st", "wsis", "metadata"):
        (raw / folder).mkdir(parents=True, exist_ok=True)
    out = table("square")
    out.obs["in_tissue"] = True
    pixels = picture()
    out.uns["spatial"] = {"ST": library(cv2.resize(pixels, None, fx=0.5, fy=0.5), "downscaled_fullres")}
    out.write_h5ad(raw / "st" / f"{name}.h5ad")
    if slide:
        options = {"photometric": "rgb", "tile": (64, 64), "resolutionunit": "CENTIMETER"}
        with tifffile.TiffWriter(raw / "wsis" / f"{name}.tif") as writer:
            writer.write(pixels, resolution=(1e4 / um, 1e4 / um), **options)
    known = {"id": name, "st_technology": "Spatial Transcriptomics", "pixel_size_um_embedded": 0.2645833,
             "pixel_size_um_estimated": 8.0, "inter_spot_dist": 200.0, "spot_diameter": 100.0}
    (raw / "metadata" / f"{name}.json").write_text(json.dumps(known | metadata))
    return out


def run(raw: Path, root: Path, *options: str) -> int:
    return convert.main(["--raw_path", str(raw), "--root_path", str(root), *options])
