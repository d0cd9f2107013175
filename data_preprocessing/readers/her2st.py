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

from common.config import Config, SampleConfig
from common.errors import DataError, LayerError
from common.io import require_columns
from common.layout import IMAGE_SUFFIXES
from data_preprocessing.readers import RawLayer, checked_spots, chosen_image, matched

SPOT_COLUMNS = ("x", "y", "pixel_x", "pixel_y")


def list_layers(raw: Path, config: Config) -> dict[str, SampleConfig]:
    """The samples of every layer with counts or an image, sorted. Raises DataError if there is none."""
    names = [path.name.split(".")[0] for path in raw.glob("ST-cnts/*.tsv*")] + [path.parent.name for path in raw.glob("ST-imgs/*/*/*")]
    found: dict[str, set[int]] = {}
    for match in filter(None, (re.fullmatch(r"(\D+)(\d+)", name) for name in names)):
        found.setdefault(match[1], set()).add(int(match[2]))
    if not found:
        raise DataError(raw, "no layer", "ST-cnts/<sample><layer>.tsv.gz or ST-imgs/<sample>/<sample><layer>/*.jpg", "correct --raw_path")
    return {sample: SampleConfig(layers=sorted(layers)) for sample, layers in sorted(found.items())}


def raw_files(raw: Path, config: Config, sample: str, layer: int) -> dict[str, Path]:
    """The files of a layer by kind (counts, location, image), as far as they exist. Raises LayerError for several images."""
    name, chosen = f"{sample}{layer}", chosen_image(raw, config, sample, layer)
    beside = (path for path in (raw / "ST-imgs" / sample / name).glob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    images = [chosen] if chosen else sorted(beside)
    if len(images) > 1:
        raise LayerError(images[0].parent, f"{len(images)} images", "one", "move the others away")
    candidates = [("counts", raw / "ST-cnts" / f"{name}.tsv"), ("counts", raw / "ST-cnts" / f"{name}.tsv.gz"),
                  ("location", raw / "ST-spotfiles" / f"{name}_selection.tsv"), *(("image", path) for path in images)]
    return {kind: path for kind, path in candidates if path.is_file()}


def read_positions(raw: Path, config: Config, sample: str, layer: int) -> pd.DataFrame | None:
    """The selected spots, or None. Raises as read_layer."""
    file = raw_files(raw, config, sample, layer).get("location")
    return _read_spots(file)[0] if file else None


def read_layer(raw: Path, config: Config, sample: str, layer: int) -> RawLayer:
    """Read one layer; spots and counts are intersected (in the order of the spot file), what only one of them has is counted as dropped.

    Raises DataError if the spot file lacks a column, LayerError if a file cannot be read, spots are missing or nothing is common.
    """
    files = raw_files(raw, config, sample, layer)
    image = files.get("image")
    if "location" not in files:
        if "counts" in files:
            raise LayerError(raw / "ST-spotfiles" / f"{sample}{layer}_selection.tsv", "no file", "the spots of the counts", "add it")
        return RawLayer(None, None, image)
    location, n_unselected = _read_spots(files["location"])
    if "counts" not in files:
        return RawLayer(location, None, image, {"not selected": n_unselected})
    location, counts, dropped = matched(location, _read_counts(files["counts"]), files["counts"], files["location"])
    return RawLayer(location, counts, image, {"not selected": n_unselected, **dropped})


def _read_spots(path: Path) -> tuple[pd.DataFrame, int]:
    """(location table of the selected spots, number of unselected ones)."""
    spots = pd.read_csv(path, sep="\t")
    require_columns(spots, SPOT_COLUMNS, path)
    selected = spots["selected"] == 1 if "selected" in spots else np.ones(len(spots), bool)
    numbers = spots.loc[selected, list(SPOT_COLUMNS)].apply(pd.to_numeric, errors="coerce")
    barcode = numbers["x"].map("{:.0f}".format) + "x" + numbers["y"].map("{:.0f}".format)
    location = numbers.rename(columns={"x": "i", "y": "j"}).assign(barcode=barcode)
    return checked_spots(location, path), int(len(spots) - len(location))


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
