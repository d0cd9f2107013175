"""Generated Visium HD folders, and step 0_1 on them."""
import gzip
import json
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import yaml
from conftest import ROOT, load_script
from PIL import Image
from scipy import io as scipy_io, sparse

UM_PER_PX, HIRES = 0.5, 0.25  # of the full-resolution image; px of hires per full-resolution px
GENES, IDS = ("Actb", "Gapdh", "Actb"), ("ENSMUSG01", "ENSMUSG02", "ENSMUSG03")
TURN = np.deg2rad(7)  # of the chip in the image


def bins(um: int, rows: int, columns: int) -> pd.DataFrame:
    """All bins of a chip that lies turned by TURN in the image; those in a disc are on tissue."""
    row, column = (axis.ravel() for axis in np.mgrid[:rows, :columns])
    u, v = (column + 0.5) * um / UM_PER_PX, (row + 0.5) * um / UM_PER_PX  # px along the chip
    centre, radius = np.array([columns, rows]) * um / UM_PER_PX / 2, 0.45 * min(rows, columns) * um / UM_PER_PX
    on_tissue = np.hypot(u - centre[0], v - centre[1]) < radius
    return pd.DataFrame({
        "barcode": [f"s_{um:03d}um_{r:05d}_{c:05d}-1" for r, c in zip(row, column, strict=True)],
        "in_tissue": on_tissue.astype(int), "array_row": row, "array_col": column,
        "pxl_row_in_fullres": 40 + u * np.sin(TURN) + v * np.cos(TURN),
        "pxl_col_in_fullres": 90 + u * np.cos(TURN) - v * np.sin(TURN)})


def counts_of(table: pd.DataFrame, um: int) -> np.ndarray:
    """(n_bins, 3) counts that add up in larger bins: area, place on the chip, one in the first rows."""
    area, row, column = um * um // 4, table["array_row"].to_numpy(), table["array_col"].to_numpy()
    return np.column_stack([np.full(len(table), area), area * (row + 2 * column), area * (row * um < 64)])


def add_bins(folder: Path, um: int = 8, rows: int = 40, columns: int = 36, form: str = "csv", matrix: str = "filtered",
             mex: bool = False, scales: dict | None = None, image: bool = True) -> pd.DataFrame:
    """Write a folder of bins; returns the table of its bins. form: of the positions, csv or parquet."""
    (folder / "spatial").mkdir(parents=True)
    table = bins(um, rows, columns)
    if form == "parquet":
        table.to_parquet(folder / "spatial/tissue_positions.parquet", index=False)
    else:
        table.to_csv(folder / "spatial/tissue_positions.csv", index=False)
    written = table[table["in_tissue"] == 1] if matrix == "filtered" else table
    written = written[::-1]  # the order is not that of the positions
    write, suffix = (write_mex, "") if mex else (write_h5, ".h5")
    write(folder / f"{matrix}_feature_bc_matrix{suffix}", list(written["barcode"]), counts_of(written, um))
    stated = {"spot_diameter_fullres": um / UM_PER_PX, "bin_size_um": float(um), "microns_per_pixel": UM_PER_PX,
              "regist_target_img_scalef": 0.25, "tissue_lowres_scalef": 0.025, "tissue_hires_scalef": HIRES,
              "fiducial_diameter_fullres": 1200.0}
    (folder / "spatial/scalefactors_json.json").write_text(json.dumps(stated if scales is None else scales))
    if image:
        write_image(folder / "spatial/tissue_hires_image.png")
    return table


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (220, 200), (240, 230, 235)).save(path)


def write_h5(path: Path, barcodes: list[str], values: np.ndarray) -> None:
    """The HDF5 form of counts (n_bins, 3)."""
    matrix = sparse.csr_matrix(values.astype(np.int32))
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"], group["data"] = np.array(barcodes, "S"), matrix.data
        group["indices"], group["indptr"] = matrix.indices.astype(np.int64), matrix.indptr.astype(np.int64)
        group["shape"] = np.array(values.shape[::-1], np.int32)
        features = group.create_group("features")
        features["id"], features["name"] = np.array(IDS, "S"), np.array(GENES, "S")
        features["feature_type"] = np.array(["Gene Expression"] * len(GENES), "S")
        features["genome"] = np.array(["GRCm39"] * len(GENES), "S")


def write_mex(path: Path, barcodes: list[str], values: np.ndarray) -> None:
    """The folder form of counts (n_bins, 3)."""
    path.mkdir(parents=True)
    (path / "barcodes.tsv.gz").write_bytes(gzip.compress("".join(f"{name}\n" for name in barcodes).encode()))
    rows = "".join(f"{one}\t{name}\tGene Expression\n" for one, name in zip(IDS, GENES, strict=True))
    (path / "features.tsv.gz").write_bytes(gzip.compress(rows.encode()))
    with gzip.open(path / "matrix.mtx.gz", "wb") as stream:
        scipy_io.mmwrite(stream, sparse.coo_matrix(values.T.astype(int)))


def add_section(folder: Path, sizes: tuple[int, ...] = (8, 16), outs: str = "outs/binned_outputs", **options) -> Path:
    """Write a section as Space Ranger 4 does; returns its folder. Bins of 8 um: 40 rows of 36; others as many um."""
    for um in sizes:
        add_bins(folder / outs / f"square_{um:03d}um", um, rows=320 // um, columns=288 // um, **options)
    return folder


def has_pyarrow() -> bool:
    return find_spec("pyarrow") is not None


def run(raw: Path, root: Path, *options: str, form: str = "visium_hd") -> int:
    """Run step 0_1; its exit status."""
    script = load_script("0_1_convert_raw")
    return script.main(["--format", form, "--raw_path", str(raw), "--root_path", str(root), *options])


def own_config(path: Path, **changes) -> list[str]:
    """Write configs/visium_hd.yaml with a pitch of 32 um and these changes to the path; the options that name it."""
    shipped = yaml.safe_load((ROOT / "configs/visium_hd.yaml").read_text())
    path.write_text(yaml.safe_dump(shipped | {"pitch_um": 32} | changes))
    return ["--config", str(path)]


def status_of(root: Path) -> dict:
    """{sample/layer: status of step 0_1}."""
    status = json.loads((root / "status.json").read_text())
    return {name: steps["0_1_convert_raw"] for name, steps in status.items()}
