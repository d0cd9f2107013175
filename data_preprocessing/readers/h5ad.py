"""Raw data as AnnData files (scanpy, squidpy, Seurat exports): one file a layer.

    layers['counts'], else raw, else X       raw counts: the first of them with whole numbers >= 0
    obsm['spatial']                          x, y of the spot centres, full-resolution px
    obs['array_col'], obs['array_row']       array position; absent: the pixel position in half pitches
    obs['in_tissue']                         1 on tissue; absent: all are
    uns['spatial'][<library>]                images/hires (or lowres), scalefactors/tissue_hires_scalef (or lowres)

The image is the one that the config names (samples.<name>.images), else a file of the same name beside the table (both
full resolution), else the one stored in the table; spot positions are in px of that image. samples.<name>.raw assigns
files to layers; without it the sorted *.h5ad are layers 1, 2, ... of one sample.
"""
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from common.config import Config, SampleConfig
from common.errors import LayerError
from common.layout import IMAGE_SUFFIXES
from data_preprocessing.readers import (
    RawLayer,
    checked_spots,
    chosen_image,
    in_reading_order,
    listed_samples,
    matched,
    spot_pitch_px,
    visible,
)

if TYPE_CHECKING:
    import anndata
    import h5py

FORMS = ("<section>.h5ad", "<section>.jpg, or another picture or slide, beside it")
STORED_IMAGES = ("hires", "lowres")


def list_layers(raw: Path, config: Config) -> dict[str, SampleConfig]:
    """The samples with every layer's file. Raises DataError if there is none or one that the config names is absent."""
    names = in_reading_order([path.name for path in visible(raw, "*.h5ad")])
    return listed_samples(raw, config, names, "*.h5ad file")


def raw_files(raw: Path, config: Config, sample: str, layer: int) -> dict[str, Path]:
    """The files of a layer by kind; image: the .h5ad itself where it holds the image.

    Raises LayerError for several images beside it.
    """
    image, name = chosen_image(raw, config, sample, layer), config.samples[sample].raw.get(layer)
    if name is None:
        return {"image": image}
    path = raw / name
    beside = sorted(other for other in visible(path.parent)
                    if other.stem == path.stem and other.suffix.lower() in IMAGE_SUFFIXES)
    if image is None and len(beside) > 1:
        raise LayerError(path, f"{len(beside)} images beside it", "one",
                         "move the others away, or name it in samples.<name>.images")
    image = image or next(iter(beside), None)
    if image is None and path.is_file():
        with _opened(path) as file:
            image = path if _stored_image(file, path) else None
    files = {"counts": path, "location": path, "image": image}
    return {kind: file for kind, file in files.items() if file is not None and file.is_file()}


def read_positions(raw: Path, config: Config, sample: str, layer: int) -> pd.DataFrame | None:
    """The spots on tissue, in px of the image that is used; None for an image-only layer. Raises LayerError."""
    return _spots(raw, config, sample, layer)[0] if layer in config.samples[sample].raw else None


def read_layer(raw: Path, config: Config, sample: str, layer: int) -> RawLayer:
    """The rows on tissue of one layer. Raises LayerError if the file is unreadable or lacks raw counts or positions."""
    files = raw_files(raw, config, sample, layer)
    if "counts" not in files:
        return RawLayer(None, None, files.get("image"))
    path, image, note = files["counts"], files.get("image"), ""
    location, n_off_tissue = _spots(raw, config, sample, layer)
    location, counts, _ = matched(location, _raw_counts(path), path, path)
    if image == path:
        with _opened(path) as file:
            name, group = _stored_image(file, path)
            image, note = _as_uint8(group["images"][name][:], path), f"stored in {path.name}: {name}"
    return RawLayer(location, counts, image, {"off tissue": n_off_tissue}, note)


@contextmanager
def _opened(path: Path):
    """The HDF5 file; every error of h5py and anndata on a broken one becomes a LayerError."""
    import h5py
    if not path.is_file():
        raise LayerError(path, "no file", "a table (.h5ad)", "copy it there")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except LayerError:
        raise
    except Exception as error:  # h5py and anndata each raise their own
        raise LayerError(path, f"a table that cannot be read ({error})", "an AnnData file (.h5ad)",
                         "copy it again") from None


def _stored_image(file: "h5py.File", path: Path) -> tuple[str, "h5py.Group"] | None:
    """(hires or lowres, uns['spatial'][<library>]) of the image in the table, or None.

    Raises LayerError for several sections.
    """
    import h5py
    libraries = sorted(name for name, group in file.get("uns/spatial", {}).items()
                       if isinstance(group, h5py.Group) and "images" in group)
    if len(libraries) > 1:
        raise LayerError(path, f"{len(libraries)} sections in one table ({', '.join(libraries)})",
                         "one section a file", "save adata[adata.obs[...] == section] a file each")
    for library in libraries:
        group = file["uns/spatial"][library]
        for name in STORED_IMAGES:
            if name in group["images"]:
                return name, group
    return None


def _spots(raw: Path, config: Config, sample: str, layer: int) -> tuple[pd.DataFrame, int]:
    """(location table of the spots on tissue in px of the image, number of spots off it)."""
    from anndata.io import read_elem
    path = raw / config.samples[sample].raw[layer]
    stored = raw_files(raw, config, sample, layer).get("image") == path
    with _opened(path) as file:
        if "obsm" not in file or "spatial" not in file["obsm"]:
            raise LayerError(path, f"no obsm['spatial'] (obsm: {', '.join(sorted(file.get('obsm', []))) or 'empty'})",
                             "spot centres x, y in full-resolution px", "add adata.obsm['spatial']")
        obs = read_elem(file["obs"])
        xy = np.asarray(read_elem(file["obsm"]["spatial"]), np.float64)  # (n_obs, 2)
        factor = _px_per_fullres_px(*_stored_image(file, path), path) if stored else 1.0
    if xy.ndim != 2 or xy.shape[1] < 2 or not np.isfinite(xy[:, :2]).all():
        raise LayerError(path, f"obsm['spatial'] of shape {xy.shape} or with a value that is no number",
                         "x, y of every spot", "correct it")
    table = pd.DataFrame({"barcode": obs.index.astype(str),
                          "pixel_x": xy[:, 0] * factor, "pixel_y": xy[:, 1] * factor})
    if {"array_col", "array_row"} <= set(obs):
        table["i"], table["j"] = obs["array_col"].to_numpy(), obs["array_row"].to_numpy()
    else:
        table[["i", "j"]] = np.rint(table[["pixel_x", "pixel_y"]] / (spot_pitch_px(table, path) / 2))
    given = obs["in_tissue"].astype(object) if "in_tissue" in obs else pd.Series(1, index=obs.index)
    on_tissue = pd.to_numeric(given, errors="coerce").to_numpy() == 1
    if not on_tissue.any():
        raise LayerError(path, "no spot on tissue (obs['in_tissue'])", "1 for a spot on tissue",
                         "correct or remove the column")
    return checked_spots(table[on_tissue], path), int((~on_tissue).sum())


def _px_per_fullres_px(name: str, group: "h5py.Group", path: Path) -> float:
    """Scale of the stored image. Raises LayerError if the table does not state it."""
    key = f"tissue_{name}_scalef"
    factor = float(group["scalefactors"][key][()]) if key in group.get("scalefactors", {}) else 0.0
    if not factor > 0:
        raise LayerError(path, f"no {key} in uns['spatial']", f"the scale of the stored image '{name}'",
                         "add it, or put the full-resolution image beside the table")
    return factor


def _raw_counts(path: Path) -> "anndata.AnnData":
    """Raw counts (spots, genes): X CSR float32, gene names made unique. Raises LayerError if the table holds none."""
    import anndata
    from anndata.io import read_elem
    from scipy import sparse
    with _opened(path) as file:
        obs_names, sources = read_elem(file["obs"]).index.astype(str), []
        for matrix, var in (("layers/counts", "var"), ("raw/X", "raw/var"), ("X", "var")):
            if matrix not in file:
                continue
            values = sparse.csr_matrix(read_elem(file[matrix]), dtype=np.float32)  # (n_obs, n_genes)
            stored = values.data
            if np.isfinite(stored).all() and (stored >= 0).all() and (stored == np.floor(stored)).all():
                genes = anndata.utils.make_index_unique(pd.Index(read_elem(file[var]).index, dtype=str))
                return anndata.AnnData(values, obs=pd.DataFrame(index=obs_names), var=pd.DataFrame(index=genes))
            sources.append(matrix)
    where = " and ".join(sources) or "no matrix at all"
    raise LayerError(path, f"values that are no counts, such as log-normalised ones, in {where}",
                     "raw counts in X, layers['counts'] or raw",
                     "save the counts with the table: adata.layers['counts']")


def _as_uint8(pixels: np.ndarray, path: Path) -> np.ndarray:
    """A stored image as uint8 (h, w, 3): scanpy stores floats of 0..1."""
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise LayerError(path, f"a stored image of shape {pixels.shape}", "(height, width, 3)",
                         "put the image beside the table")
    if pixels.dtype != np.uint8:
        pixels = np.rint(np.clip(pixels * (255 if pixels.max() <= 1 else 1), 0, 255)).astype(np.uint8)
    return np.ascontiguousarray(pixels[..., :3])
