"""Small AnnData sections with chosen genes, and step 0_1 on them."""
import anndata
import numpy as np
import pandas as pd
from conftest import load_script
from folders import touch
from PIL import Image

MOUSE = [f"Gene{k}" for k in range(20)]
HUMAN = [f"GENE{k}" for k in range(20)]


def write_section(path, genes=MOUSE, n_rows: int = 3, image: bool = True, **var) -> None:
    """A hexagonal array of 4 * n_rows spots, 80 px apart, and a picture beside it."""
    k = np.arange(4 * n_rows)
    row, col = k // 4, k % 4
    table = anndata.AnnData(np.random.default_rng(0).poisson(2, (len(k), len(genes))).astype(np.float32),
                            obs=pd.DataFrame(index=[f"S{one}" for one in k]), var=pd.DataFrame(var, index=list(genes)))
    table.obs["array_row"], table.obs["array_col"] = row, 2 * col + row % 2
    table.obsm["spatial"] = 80.0 * np.stack([1 + col + row % 2 / 2, 1 + row * np.sqrt(0.75)], axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    table.write_h5ad(path)
    if image:
        Image.new("RGB", (400, 300), (240, 230, 235)).save(path.with_suffix(".png"))


def convert(form: str, raw, root, *options: str) -> int:
    """Run step 0_1; its exit status."""
    return load_script("0_1_convert_raw").main(
        ["--format", form, "--raw_path", str(raw), "--root_path", str(root), *options])


__all__ = ["HUMAN", "MOUSE", "convert", "touch", "write_section"]
