"""Raw data in the form of the public her2st repository (legacy ST; Andersson et al., Nat Commun 2021).

    ST-cnts/C2.tsv[.gz]                rows `XxY` (array position), columns genes
    ST-spotfiles/C2_selection.tsv      x, y, new_x, new_y, pixel_x, pixel_y, selected (absent: all are)
    ST-imgs/C/C2/<any name>.jpg        H&E
A name is the sample's letters and the layer's number. x is the array column, y the row; a spot's barcode is `XxY`.
"""
import gzip
import re
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from common.errors import DataError, LayerError
from common.io import require_columns
from common.layout import IMAGE_SUFFIXES
from data_preprocessing.readers import RawLayer

SPOT_COLUMNS = ("x", "y", "pixel_x", "pixel_y")


def list_layers(raw: Path) -> dict[str, list[int]]:
    """{sample: [layer, ...]} of every layer with counts or an image, sorted. Raises DataError if there is none."""
    names = [path.name.split(".")[0] for path in raw.glob("ST-cnts/*.tsv*")] + [path.parent.name for path in raw.glob("ST-imgs/*/*/*")]
    found: dict[str, set[int]] = {}
    for match in filter(None, (re.fullmatch(r"(\D+)(\d+)", name) for name in names)):
        found.setdefault(match[1], set()).add(int(match[2]))
    if not found:
        raise DataError(raw, "no layer", "ST-cnts/<sample><layer>.tsv.gz or ST-imgs/<sample>/<sample><layer>/*.jpg", "correct --raw_path")
    return {sample: sorted(layers) for sample, layers in sorted(found.items())}


def raw_files(raw: Path, sample: str, layer: int) -> dict[str, Path]:
    """The files of a layer by kind (counts, location, image), as far as they exist. Raises LayerError for several images."""
    name = f"{sample}{layer}"
    images = sorted(path for path in (raw / "ST-imgs" / sample / name).glob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if len(images) > 1:
        raise LayerError(images[0].parent, f"{len(images)} images", "one", "move the others away")
    candidates = [("counts", raw / "ST-cnts" / f"{name}.tsv"), ("counts", raw / "ST-cnts" / f"{name}.tsv.gz"),
                  ("location", raw / "ST-spotfiles" / f"{name}_selection.tsv"), *(("image", path) for path in images)]
    return {kind: path for kind, path in candidates if path.is_file()}


def read_layer(raw: Path, sample: str, layer: int) -> RawLayer:
    """Read one layer; spots and counts are intersected (in the order of the spot file), what only one of them has is counted as dropped.

    Raises DataError if the spot file lacks a column, LayerError if a file cannot be read, spots are missing or nothing is common.
    """
    files = raw_files(raw, sample, layer)
    image = files.get("image")
    if "location" not in files:
        if "counts" in files:
            raise LayerError(raw / "ST-spotfiles" / f"{sample}{layer}_selection.tsv", "no file", "the spots of the counts", "add it")
        return RawLayer(None, None, image)
    location, n_unselected = _read_spots(files["location"])
    if "counts" not in files:
        return RawLayer(location, None, image, {"not selected": n_unselected})
    counts = _read_counts(files["counts"])
    common = location["barcode"].isin(counts.obs_names)
    if not common.any():
        raise LayerError(files["counts"], f"no row of {files['location'].name}", "rows named XxY like its spots", "correct one of them")
    dropped = {"not selected": n_unselected, "spots without counts": int((~common).sum()),
               "counts without a spot": counts.n_obs - int(common.sum())}
    location = location[common].reset_index(drop=True)
    return RawLayer(location, counts[location["barcode"]].copy(), image, dropped)


def _read_spots(path: Path) -> tuple[pd.DataFrame, int]:
    """(location table of the selected spots, number of unselected ones)."""
    spots = pd.read_csv(path, sep="\t")
    require_columns(spots, SPOT_COLUMNS, path)
    numbers = spots[list(SPOT_COLUMNS)].apply(pd.to_numeric, errors="coerce")
    if not np.isfinite(numbers).all(axis=None):
        raise LayerError(path, "a position that is not a number", "finite x, y, pixel_x, pixel_y", "correct the row")
    selected = spots["selected"] == 1 if "selected" in spots else np.ones(len(spots), bool)
    numbers = numbers[selected].reset_index(drop=True)
    column, row = numbers["x"].astype(int), numbers["y"].astype(int)
    barcode = column.astype(str) + "x" + row.astype(str)
    if barcode.duplicated().any():
        raise LayerError(path, f"spot {barcode[barcode.duplicated()].iloc[0]} twice", "one row a spot", "remove one")
    location = pd.DataFrame({"barcode": barcode, "pixel_x": numbers["pixel_x"], "pixel_y": numbers["pixel_y"], "i": column, "j": row})
    return location, int(len(spots) - len(numbers))


def _read_counts(path: Path):
    """AnnData (spots, genes) of raw counts: X CSR float32, gene names made unique."""
    import anndata
    from scipy import sparse
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt") as stream:
            genes = stream.readline().rstrip("\r\n").split("\t")[1:]
            table = pd.read_csv(stream, sep="\t", header=None, index_col=0, dtype={0: str})
        values = table.to_numpy(np.float32)  # (n_spots, n_genes)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise LayerError(path, f"a table that cannot be read ({error})", "rows of counts, tab-separated", "copy it again") from None
    if values.shape[1] != len(genes) or not np.isfinite(values).all() or values.min() < 0:
        raise LayerError(path, f"{len(genes)} genes, rows of {values.shape[1]} values, or a value that is no count",
                         "a count >= 0 for every gene", "copy it again")
    return anndata.AnnData(sparse.csr_matrix(values), obs=pd.DataFrame(index=table.index.astype(str).rename(None)),
                           var=pd.DataFrame(index=anndata.utils.make_index_unique(pd.Index(genes, dtype=str))))
