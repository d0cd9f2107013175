"""Raw data of Space Ranger (10x Visium): one folder a layer, with or without `outs/`.

    filtered_feature_bc_matrix.h5            counts; of several feature types only Gene Expression is read
    spatial/tissue_positions.csv             barcode, in_tissue, array_row, array_col, pxl_row_in_fullres,
                                             pxl_col_in_fullres
            tissue_positions.parquet         the same (Space Ranger 3; needs pyarrow)
            tissue_positions_list.csv        the same without a header (Space Ranger 1)
    spatial/scalefactors_json.json           tissue_hires_scalef, tissue_lowres_scalef: px of that image per
                                             full-resolution px
    spatial/tissue_hires_image.png, tissue_lowres_image.png

The image is the full-resolution one that the config names (samples.<name>.images), else hires, else lowres; spot
positions are in px of that image. Spots off the tissue are left out. i = array_col (steps by 2 in a row),
j = array_row. samples.<name>.raw assigns folders to layers; without it the sorted folders are layers 1, 2, ... of one
sample.
"""
import json
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from common.config import Config, SampleConfig
from common.errors import DataError, LayerError
from common.geometry import Source
from common.io import require_columns
from data_preprocessing.readers import (
    RawLayer,
    checked_spots,
    chosen_image,
    in_reading_order,
    listed_samples,
    matched,
    reading_table,
    visible,
)

if TYPE_CHECKING:
    import anndata

MATRIX = "filtered_feature_bc_matrix.h5"
FORMS = (f"<section>/{MATRIX} and <section>/spatial/", f"<section>/outs/{MATRIX} and <section>/outs/spatial/")
POSITIONS = ("tissue_positions.csv", "tissue_positions.parquet", "tissue_positions_list.csv")
COLUMNS = ("barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres")
CONTRACT_NAMES = {"pxl_col_in_fullres": "pixel_x", "pxl_row_in_fullres": "pixel_y",
                  "array_col": "i", "array_row": "j"}
SCALED_IMAGES = ("tissue_hires_image.png", "tissue_lowres_image.png")
VISIUM_PITCH_UM = 100.0
SPOT_DIAMETER_UM = (65.0, 30.0, 150.0)  # likely, smallest, largest: see platform_sources


def list_layers(raw: Path, config: Config) -> dict[str, SampleConfig]:
    """The samples with every layer's folder. Raises DataError if there is none, or one of the config is absent."""
    folders = [path.name for path in visible(raw) if _is_folder(path)]
    names = ["."] if _is_folder(raw) else in_reading_order(folders)
    return listed_samples(raw, config, names, f"folder with {MATRIX} and spatial/")


def raw_files(raw: Path, config: Config, sample: str, layer: int) -> dict[str, Path]:
    """The existing files of a layer by kind (counts, location, scalefactors, image)."""
    files = {"image": chosen_image(raw, config, sample, layer)}
    folder = _folder(raw, config, sample, layer)
    if folder is not None:
        spatial = folder / "spatial"
        positions = (spatial / name for name in POSITIONS)
        images = (files["image"], *(spatial / name for name in SCALED_IMAGES))
        files = {"counts": folder / MATRIX,
                 "location": next((path for path in positions if path.is_file()), None),
                 "scalefactors": spatial / "scalefactors_json.json",
                 "image": next((path for path in images if path is not None and path.is_file()), None)}
    return {kind: path for kind, path in files.items() if path is not None and path.is_file()}


def read_positions(raw: Path, config: Config, sample: str, layer: int) -> pd.DataFrame | None:
    """The spots on tissue, in px of the image that is used; None for an image-only layer.

    Raises LayerError for a missing or broken file or a missing column, DataError for a config that does not fit a
    Visium array.
    """
    if _folder(raw, config, sample, layer) is None:
        return None
    return _spots(_required(raw, config, sample, layer), config)[0]


def read_layer(raw: Path, config: Config, sample: str, layer: int) -> RawLayer:
    """Read one layer; spots on tissue and counts are intersected, in the order of the positions.

    Raises as read_positions.
    """
    if _folder(raw, config, sample, layer) is None:
        return RawLayer(None, None, chosen_image(raw, config, sample, layer))
    files = _required(raw, config, sample, layer)
    location, n_off_tissue = _spots(files, config)
    location, counts, dropped = matched(location, _read_counts(files["counts"]), files["counts"], files["location"])
    image = files.get("image")
    note = f"low resolution: no {SCALED_IMAGES[0]}" if image is not None and image.name == SCALED_IMAGES[1] else ""
    return RawLayer(location, counts, image, {"off tissue": n_off_tissue, **dropped}, note)


def platform_sources(files: dict[str, Path]) -> list[Source]:
    """Scale (um per px) of the image that is used, by scalefactors_json.json; empty if the file does not state it.

    microns_per_pixel (Visium HD) is exact. spot_diameter_fullres belongs to spots of 55, 65 or 70 um, by the version of
    Space Ranger: it only excludes a scale that is wrong by a factor of about two or more, as that of positions of
    another image. Raises LayerError as _px_per_fullres_px.
    """
    try:
        factors = json.loads(files["scalefactors"].read_text())
        name = "microns_per_pixel" if "microns_per_pixel" in factors else "spot_diameter_fullres"
        value = float(factors[name])
    except (OSError, ValueError, KeyError, TypeError):
        return []
    factor, source = _px_per_fullres_px(files), f"{name} of {files['scalefactors'].name}"
    if not (np.isfinite(value) and value > 0):
        return []
    if name == "microns_per_pixel":
        return [Source.of(source, value / factor)]
    likely, smallest, largest = (size / (value * factor) for size in SPOT_DIAMETER_UM)
    return [Source(source, likely, smallest, largest)]


def _is_folder(path: Path) -> bool:
    return (path / MATRIX).is_file() or (path / "outs" / MATRIX).is_file()


def _folder(raw: Path, config: Config, sample: str, layer: int) -> Path | None:
    """The Space Ranger folder of a layer; None if the config gives it an image only."""
    name = config.samples[sample].raw.get(layer)
    if name is None:
        return None
    return raw / name / "outs" if (raw / name / "outs" / MATRIX).is_file() else raw / name


def _required(raw: Path, config: Config, sample: str, layer: int) -> dict[str, Path]:
    """The files of a layer that has spots. Raises LayerError if counts or positions are missing."""
    files, folder = raw_files(raw, config, sample, layer), _folder(raw, config, sample, layer)
    if "counts" not in files:
        raise LayerError(folder / MATRIX, "no file", "the counts that Space Ranger wrote",
                         "copy it there, or give the section an image only")
    if "location" not in files:
        raise LayerError(folder / "spatial", "no spot positions", f"one of {', '.join(POSITIONS)}", "copy it there")
    return files


def _spots(files: dict[str, Path], config: Config) -> tuple[pd.DataFrame, int]:
    """(location table of the spots on tissue in px of the image, number of spots off it)."""
    path = files["location"]
    table = _read_table(path)
    on_tissue = pd.to_numeric(table["in_tissue"], errors="coerce") == 1
    if not on_tissue.any():
        raise LayerError(path, "no spot with in_tissue 1", "spots on tissue", "copy the file again")
    spots, factor = table[on_tissue], _px_per_fullres_px(files)
    location = checked_spots(spots.rename(columns=CONTRACT_NAMES), path)
    location[["pixel_x", "pixel_y"]] *= factor
    all_even = ((location["i"] + location["j"]) % 2 == 0).all()
    is_visium = len(location) > 1 and all_even  # a hexagonal array; Visium HD is square
    if is_visium and (config.array, config.pitch_um) != ("hex", VISIUM_PITCH_UM):
        raise DataError(path,
                        f"a Visium array, and a config with array: {config.array}, pitch_um: {config.pitch_um:g}",
                        f"array: hex, pitch_um: {VISIUM_PITCH_UM:g}", "set both in the config")
    return location, int((~on_tissue).sum())


def _read_table(path: Path) -> pd.DataFrame:
    """The positions of all spots, in whichever form they are. Raises LayerError."""
    try:
        with reading_table(path, "the positions that Space Ranger wrote"):
            if path.suffix == ".parquet":
                table = pd.read_parquet(path)
            else:
                with open(path) as stream:
                    words = re.split(r"\W+", stream.readline())
                has_header = "barcode" in words  # a row-number column may be before it
                table = pd.read_csv(path, header=0 if has_header else None,
                                    dtype={COLUMNS[0] if has_header else 0: str})
                if not has_header and table.shape[1] == len(COLUMNS):
                    table.columns = list(COLUMNS)
    except ImportError:
        raise LayerError(path, "a parquet file, and no pyarrow to read it", f"pyarrow, or {POSITIONS[0]}",
                         "pip install pyarrow") from None
    require_columns(table, COLUMNS, path)
    return table


def _px_per_fullres_px(files: dict[str, Path]) -> float:
    """Scale of the image that is used: 1 for the full-resolution one. Raises LayerError if the file lacks it."""
    image = files.get("image")
    if image is None or image.parent != files["location"].parent or image.name not in SCALED_IMAGES:
        return 1.0
    key = image.name.replace("_image.png", "_scalef")
    path = files.get("scalefactors", image.parent / "scalefactors_json.json")
    try:
        factor = float(json.loads(path.read_text())[key])
    except (OSError, ValueError, KeyError, TypeError):
        raise LayerError(path, f"no {key}", f"the scale of {image.name}",
                         "copy the file of Space Ranger, or name the full-resolution image") from None
    if not (np.isfinite(factor) and factor > 0):
        raise LayerError(path, f"{key} {factor}", "a number above 0", "copy the file of Space Ranger")
    return factor


def _read_counts(path: Path) -> "anndata.AnnData":
    """Raw counts (spots, genes): X CSR float32, gene names made unique; from the old or new form of the HDF5 file."""
    import anndata
    import scanpy
    from scipy import sparse
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # gene names that occur twice: made unique below
            table = scanpy.read_10x_h5(path)
    except Exception as error:  # h5py, scanpy and anndata each raise their own on a broken file
        raise LayerError(path, f"counts that cannot be read ({error})", "the HDF5 file that Space Ranger wrote",
                         "copy it again") from None
    if not table.n_vars:
        raise LayerError(path, "no feature of type Gene Expression", "gene counts", "copy the file of the right run")
    names = anndata.utils.make_index_unique(pd.Index(table.var_names, dtype=str))
    return anndata.AnnData(sparse.csr_matrix(table.X, dtype=np.float32),
                           obs=pd.DataFrame(index=table.obs_names.astype(str)), var=pd.DataFrame(index=names))
