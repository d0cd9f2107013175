"""Generated Space Ranger folders, and step 0_1 on them."""
import gzip
import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import yaml
from conftest import ROOT, load_script
from PIL import Image
from scipy import io as scipy_io, sparse

PITCH_FULLRES_PX, HIRES, LOWRES = 100, 0.25, 0.05
HEADER = "barcode,in_tissue,array_row,array_col,pxl_row_in_fullres,pxl_col_in_fullres\n"
GENES = ("Actb", "Gapdh", "Actb", "CD3-antibody")


def array_spots() -> pd.DataFrame:
    """4 rows of 5 hexagonal spots, 100 full-resolution px apart; the first row is off the tissue."""
    row, k = (axis.ravel() for axis in np.mgrid[:4, :5])
    col = 2 * k + row % 2
    return pd.DataFrame({"barcode": [f"SPOT{r}{c}-1" for r, c in zip(row, col, strict=True)],
                         "in_tissue": (row > 0).astype(int), "array_row": row, "array_col": col,
                         "pxl_row_in_fullres": 200 + row * PITCH_FULLRES_PX * np.sqrt(0.75),
                         "pxl_col_in_fullres": 300 + col * PITCH_FULLRES_PX // 2})


def write_matrix(path: Path, barcodes: list[str], old_form: bool = False) -> np.ndarray:
    """Write counts (n, 4) of 10 * spot + gene in the new or the old (Cell Ranger 2) form; returns them.

    The fourth feature is an antibody in the new form.
    """
    values = 10 * np.arange(len(barcodes))[:, None] + np.arange(len(GENES))
    matrix = sparse.csr_matrix(values.astype(np.int32))
    with h5py.File(path, "w") as file:
        group = file.create_group("mm10" if old_form else "matrix")
        group.create_dataset("barcodes", data=np.array(barcodes, "S"))
        group.create_dataset("data", data=matrix.data)
        group.create_dataset("indices", data=matrix.indices.astype(np.int64))
        group.create_dataset("indptr", data=matrix.indptr.astype(np.int64))
        group.create_dataset("shape", data=np.array(values.shape[::-1], np.int32))
        names, ids = np.array(GENES, "S"), np.array([f"ENS{k}" for k in range(len(GENES))], "S")
        if old_form:
            group.create_dataset("gene_names", data=names)
            group.create_dataset("genes", data=ids)
        else:
            features = group.create_group("features")
            kinds = np.array(["Gene Expression"] * 3 + ["Antibody Capture"], "S")
            features.create_dataset("name", data=names)
            features.create_dataset("id", data=ids)
            features.create_dataset("feature_type", data=kinds)
            features.create_dataset("genome", data=np.array(["mm10"] * len(GENES), "S"))
    return values


def write_mex(folder: Path, barcodes: list[str], prefix: str = "", packed: bool = True, old: bool = False) -> None:
    """The counts of write_matrix as matrix.mtx, features.tsv (old: genes.tsv of two columns) and barcodes.tsv."""
    folder.mkdir(parents=True, exist_ok=True)
    values = 10 * np.arange(len(barcodes))[:, None] + np.arange(len(GENES))
    plain, kinds = folder / "plain.mtx", ["Gene Expression"] * 3 + ["Antibody Capture"]
    scipy_io.mmwrite(plain, sparse.coo_matrix(values.T), field="integer")
    rows = [f"ENS{k}\t{name}" + ("" if old else f"\t{kinds[k]}") for k, name in enumerate(GENES)]
    texts = {"matrix.mtx": plain.read_text(), ("genes" if old else "features") + ".tsv": "\n".join(rows) + "\n",
             "barcodes.tsv": "\n".join(barcodes) + "\n"}
    plain.unlink()
    for name, text in texts.items():
        content = text.encode()
        path = folder / (prefix + name + ".gz" * packed)
        path.write_bytes(gzip.compress(content) if packed else content)


def on_tissue() -> list[str]:
    """Barcodes of the spots on the tissue, in the order of the counts of add_folder."""
    spots = array_spots()
    return list(spots["barcode"][spots["in_tissue"] == 1])[::-1]


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def with_prefix(folder: Path, prefix: str) -> None:
    """Put the prefix before the name of every file below the folder."""
    for path in files_below(folder):
        path.rename(path.with_name(prefix + path.name))


def pack(folder: Path) -> None:
    """Pack every file below the folder by gzip."""
    for path in files_below(folder):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


def move_up(folder: Path, target: Path) -> None:
    """Move every file below the folder into the target."""
    target.mkdir(exist_ok=True)
    for path in files_below(folder):
        path.rename(target / path.name)
    for one in sorted(folder.rglob("*"), reverse=True):
        if one.is_dir() and one != target:
            one.rmdir()


def add_folder(folder: Path, form: str = "old", image: str | None = "hires", old_matrix: bool = False,
               scales: dict | None = None) -> None:
    """Write a Space Ranger folder. form: of the positions, old (no header) or new (with a header)."""
    spatial = folder / "spatial"
    spatial.mkdir(parents=True)
    spots = array_spots()
    name = {"old": "tissue_positions_list.csv", "new": "tissue_positions.csv"}[form]
    (spatial / name).write_text((HEADER if form == "new" else "") + spots.to_csv(index=False, header=False))
    scales = {"tissue_hires_scalef": HIRES, "tissue_lowres_scalef": LOWRES} if scales is None else scales
    (spatial / "scalefactors_json.json").write_text(json.dumps(scales))
    if image:
        Image.new("RGB", (300, 200), (240, 230, 235)).save(spatial / f"tissue_{image}_image.png")
    write_matrix(folder / "filtered_feature_bc_matrix.h5", on_tissue(), old_matrix)


def two_sections(folder: Path) -> Path:
    """A block of two sections, one with each form of the positions; returns the folder."""
    add_folder(folder / "section2", "old")
    add_folder(folder / "section10" / "outs", "new")
    return folder


def run(raw: Path, root: Path, *options: str) -> int:
    """Run step 0_1; its exit status."""
    script = load_script("0_1_convert_raw")
    return script.main(["--format", "visium", "--raw_path", str(raw), "--root_path", str(root), *options])


def own_config(path: Path, **changes) -> list[str]:
    """Write configs/visium.yaml with these changes to the path; the options that name it."""
    path.write_text(yaml.safe_dump(yaml.safe_load((ROOT / "configs/visium.yaml").read_text()) | changes))
    return ["--config", str(path)]


def status_of(root: Path) -> dict:
    """{sample/layer: status of step 0_1}."""
    status = json.loads((root / "status.json").read_text())
    return {name: steps["0_1_convert_raw"] for name, steps in status.items()}
