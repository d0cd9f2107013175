"""Time and memory of step 0_1 on a made-up Visium HD section of the real layout.

The section: a chip of 6.7 mm (838 x 838 bins of 8 um, or 3,350 x 3,350 of 2 um), all of them in
tissue_positions.parquet, those of a disc on tissue; 18,085 genes, as many different ones a bin on tissue as
--genes_per_bin, written with the data types and the compression of Space Ranger. Step 0_1 runs in its own process,
whose wall time and peak resident memory (kernel) are measured. The hires image has 2,000 px, where Space Ranger writes
6,000. Needs pyarrow.

    python benchmarks/visium_hd.py --work_path ../hd                                # 400,000 bins of 8 um on tissue
    python benchmarks/visium_hd.py --work_path ../hd --bin_um 2 --n_on_tissue 6400000 --genes_per_bin 20

Adds a row to benchmarks/results/visium_hd.csv. --work_path: an empty or absent folder; it is deleted afterwards.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import time

from common.config import load_config
from common.errors import DataError
from common.exit_codes import guarded

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/visium_hd.csv"
N_GENES, CHIP_UM, UM_PER_PX, HIRES = 18_085, 6_704, 0.2738, 0.0813
BLOCK = 20_000  # bins written at a time


def make_section(folder: Path, bin_um: int, n_on_tissue: int, genes_per_bin: int) -> None:
    """Write <folder>/section/outs/binned_outputs/square_<bin_um>um."""
    import numpy as np
    import pandas as pd
    from PIL import Image
    square = folder / f"section/outs/binned_outputs/square_{bin_um:03d}um"
    (square / "spatial").mkdir(parents=True)
    side = CHIP_UM // bin_um
    row, column = (axis.ravel() for axis in np.mgrid[:side, :side])
    distance = np.hypot(row - side / 2, column - side / 2)  # (n_bins,)
    on_tissue = np.zeros(len(row), bool)
    on_tissue[np.argpartition(distance, n_on_tissue)[:n_on_tissue]] = True
    turn, px = np.deg2rad(2.0), bin_um / UM_PER_PX
    u, v = (column + 0.5) * px, (row + 0.5) * px
    barcode = [f"s_{bin_um:03d}um_{i:05d}_{j:05d}-1" for i, j in zip(row, column, strict=True)]
    table = pd.DataFrame({"barcode": barcode, "in_tissue": on_tissue.astype(int), "array_row": row,
                          "array_col": column, "pxl_row_in_fullres": u * np.sin(turn) + v * np.cos(turn),
                          "pxl_col_in_fullres": u * np.cos(turn) - v * np.sin(turn) + 2000})
    table.to_parquet(square / "spatial/tissue_positions.parquet", index=False)
    write_matrix(square / "filtered_feature_bc_matrix.h5", table["barcode"][on_tissue].to_numpy("S"), genes_per_bin)
    scales = {"spot_diameter_fullres": px, "bin_size_um": float(bin_um), "microns_per_pixel": UM_PER_PX,
              "regist_target_img_scalef": HIRES, "tissue_lowres_scalef": HIRES / 10, "tissue_hires_scalef": HIRES,
              "fiducial_diameter_fullres": 1200.0}
    (square / "spatial/scalefactors_json.json").write_text(json.dumps(scales))
    Image.new("RGB", (2000, 2000), (240, 230, 235)).save(square / "spatial/tissue_hires_image.png")


def write_matrix(path: Path, barcodes, genes_per_bin: int) -> None:
    """Random counts in the HDF5 form of Space Ranger, a block of bins at a time. barcodes: (n_bins,) bytes."""
    import h5py
    import numpy as np
    rng, n_values = np.random.default_rng(0), len(barcodes) * genes_per_bin
    gap = N_GENES // genes_per_bin
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        kept = {"chunks": (80_000,), "compression": "gzip", "compression_opts": 1}
        data = group.create_dataset("data", (n_values,), np.int32, **kept)
        indices = group.create_dataset("indices", (n_values,), np.int64, **kept)
        for start in range(0, len(barcodes), BLOCK):
            n_bins = min(BLOCK, len(barcodes) - start)
            values = slice(start * genes_per_bin, (start + n_bins) * genes_per_bin)
            genes = np.arange(genes_per_bin) * gap + rng.integers(0, gap, (n_bins, genes_per_bin))
            indices[values], data[values] = genes.ravel(), 1 + rng.poisson(0.3, n_bins * genes_per_bin)
        group.create_dataset("barcodes", data=barcodes, **kept)
        group["indptr"] = np.arange(len(barcodes) + 1, dtype=np.int64) * genes_per_bin
        group["shape"] = np.array([N_GENES, len(barcodes)], np.int32)
        features = group.create_group("features")
        features["id"] = np.array([f"ENSG{k:011d}" for k in range(N_GENES)], "S")
        features["name"] = np.array([f"GENE{k}" for k in range(N_GENES)], "S")
        features["feature_type"] = np.array(["Gene Expression"] * N_GENES, "S")
        features["genome"] = np.array(["GRCh38"] * N_GENES, "S")


def measure(raw: Path, root: Path) -> tuple[float, float, str]:
    """(seconds, peak GB, line of the section) of step 0_1. Raises DataError if it fails."""
    command = [sys.executable, str(ROOT / "data_preprocessing/0_1_convert_raw.py"), "--format", "visium_hd",
               "--raw_path", str(raw), "--root_path", str(root)]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise DataError(raw, f"exit {process.returncode} of step 0_1: {text}", "exit 0", "read its message")
    return seconds, usage.ru_maxrss * 1024 / 1e9, text.strip().splitlines()[-1]


def run(args: argparse.Namespace) -> int:
    """Make the section, convert it, write the row. Raises DataError for a folder that is not empty."""
    work = Path(args.work_path)
    if work.exists() and any(work.iterdir()):
        raise DataError(work, "a folder with files", "an empty or absent folder", "give another --work_path")
    try:
        maker = multiprocessing.get_context("spawn").Process(
            target=make_section, args=(work / "raw", args.bin_um, args.n_on_tissue, args.genes_per_bin))
        maker.start()  # its own process: a child's peak memory begins with that of its parent
        maker.join()
        seconds, peak, line = measure(work / "raw", work / "root")
        matrix = next(work.glob("raw/section/outs/binned_outputs/*/*.h5"))
        row = {"bin_um": args.bin_um, "bins": (CHIP_UM // args.bin_um)**2, "bins_on_tissue": args.n_on_tissue,
               "genes_per_bin": args.genes_per_bin, "values": args.n_on_tissue * args.genes_per_bin,
               "matrix_mb": round(matrix.stat().st_size / 1e6), "seconds": round(seconds, 1), "peak_gb": round(peak, 2),
               "um_per_px": load_config(work / "root/dataset.yaml").samples["raw"].pixel_size_um[1]}
    finally:
        shutil.rmtree(work, ignore_errors=True)
    new = not RESULTS.exists()
    with open(RESULTS, "a") as stream:
        stream.write((",".join(row) + "\n" if new else "") + ",".join(map(str, row.values())) + "\n")
    print(line)
    print(f"{row}\nwrote {RESULTS}")
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work_path", required=True, help="an empty or absent folder, deleted afterwards")
    parser.add_argument("--bin_um", type=int, default=8, help="side of a bin, um")
    parser.add_argument("--n_on_tissue", type=int, default=400_000, help="bins on tissue")
    parser.add_argument("--genes_per_bin", type=int, default=300, help="genes with counts in each bin on tissue")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return guarded(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
