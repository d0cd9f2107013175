"""Raw data as AnnData files (scanpy, squidpy, Seurat exports; anndata 0.6 and later): one file a layer, or several.

    layers['counts'], …, raw, X              raw counts: whole numbers >= 0            readers/h5ad_counts.py
    var                                      gene names, var['gene_ids']               readers/gene_names.py
    obsm['spatial'], …, or obs               x, y of the spot centres, full-resolution px; array position; in_tissue
                                                                                       readers/h5ad_positions.py
    obs['library_id' | 'batch' | …]          the sections of a file with several       readers/h5ad_sections.py
    uns['spatial'][<library>]                the stored image and its scale            readers/h5ad_image.py

A section of several in one file is the entry '<file>#<value of the column>'. The image is the one that the config names
(samples.<name>.images), else a file beside the table with the name of the table, or of the section (both full
resolution), else the one stored in the table; spot positions are in px of that image. samples.<name>.raw assigns files
to layers; without it the sections in natural order are layers 1, 2, ... of one sample. The array and, where an image
states its um per px, the pitch are held against the config.
"""
from pathlib import Path

import numpy as np
import pandas as pd

from common.config import Config, SampleConfig
from common.errors import DataError, LayerError
from common.geometry import Source, image_sources
from common.image_names import image_stem, image_suffix, is_image_name
from common.image_scale import stated_pixel_size_um
from data_preprocessing.readers import (
    RawLayer,
    checked_spots,
    chosen_image,
    in_reading_order,
    listed_samples,
    matched,
    path_and_part,
    spot_pitch_px,
    visible,
)
from data_preprocessing.readers.h5ad_counts import raw_counts
from data_preprocessing.readers.h5ad_doubts import doubts
from data_preprocessing.readers.h5ad_image import StoredImage, read_pixels, scale_factor, stored_image
from data_preprocessing.readers.h5ad_positions import Positions, check_pixels, read_all_positions
from data_preprocessing.readers.h5ad_sections import library_of, sections_of
from data_preprocessing.readers.spot_array import check_array

SPOT_DIAMETER, UM_PER_PX = "spot_diameter_fullres", "microns_per_pixel"  # of the stored scale factors
__all__ = ["FORMS", "doubts", "list_layers", "platform_sources", "raw_files", "read_layer", "read_positions",
           "spots", "stored", "table_layer", "why_not"]
FORMS = ("<section>.h5ad", "<section>.jpg, or another picture or slide, beside it")
_SEURAT = "an object of R: save it as .h5ad, with the positions in obs or obsm (anndataR, or sceasy)"
OTHER_TABLES = {  # suffix: why it is not read, and the way out
    ".rds": _SEURAT, ".rdata": _SEURAT, ".h5seurat": _SEURAT,
    ".loom": "a loom file: anndata.io.read_loom(…).write_h5ad(…)",
    ".h5mu": "a MuData file: mudata.read_h5mu(…)['rna'].write_h5ad(…)"}
HEST_FOLDERS = ("st", "wsis", "metadata")


def list_layers(raw: Path, config: Config) -> dict[str, SampleConfig]:
    """The samples with every section's file. Raises DataError if there is none or one that the config names is absent.

    A file that cannot be read, or that holds several sections which no column names, keeps its number.
    """
    names = []
    for path in in_reading_order([one.name for one in visible(raw, "*.h5ad")]):
        try:
            sections = sections_of(raw / path)
        except LayerError:
            names.append(path)
            continue
        names += [f"{path}#{part}" for part in sections.parts] if sections.column else [path]
    if not names and config.samples is None and all((raw / folder).is_dir() for folder in HEST_FOLDERS):
        raise DataError(raw, f"the folders {', '.join(HEST_FOLDERS)} of HEST-1k", "*.h5ad files in this folder",
                        "use --format hest")
    return listed_samples(raw, config, names, "*.h5ad file")


def raw_files(raw: Path, config: Config, sample: str, layer: int) -> dict[str, Path]:
    """The files of a layer by kind; image: the .h5ad itself where it holds the image.

    Raises LayerError for several images beside it.
    """
    image, name = chosen_image(raw, config, sample, layer), config.samples[sample].raw.get(layer)
    if name is None:
        return {} if image is None else {"image": image}
    path, part = path_and_part(raw, name)
    image = image or image_beside(path, part)
    if image is None and path.is_file() and stored(path, part) is not None:
        image = path
    files = {"counts": path, "location": path, "image": image}
    return {kind: file for kind, file in files.items() if file is not None and file.is_file()}


def read_positions(raw: Path, config: Config, sample: str, layer: int) -> pd.DataFrame | None:
    """The spots on tissue, in px of the image that is used; None for an image-only layer.

    Raises LayerError, and DataError for a config that does not fit the array.
    """
    if layer not in config.samples[sample].raw:
        return None
    path, part = path_and_part(raw, config.samples[sample].raw[layer])
    location = spots(path, part, raw_files(raw, config, sample, layer).get("image"), config)[0]
    return location


def read_layer(raw: Path, config: Config, sample: str, layer: int) -> RawLayer:
    """The rows on tissue of one layer. Raises LayerError if the file is unreadable or lacks raw counts or positions."""
    files = raw_files(raw, config, sample, layer)
    if "counts" not in files and layer not in config.samples[sample].raw:
        return RawLayer(None, None, files.get("image"))
    path, part = path_and_part(raw, config.samples[sample].raw[layer])
    return table_layer(path, part, files.get("image"), config)


def platform_sources(files: dict[str, Path]) -> list[Source]:
    """Scale (um per px of the image) by microns_per_pixel in uns (Visium HD) of a file of one section."""
    path = files.get("location")
    if path is None or sections_of(path).column:
        return []
    um_per_px = scale_factor(path, library_of(sections_of(path), None), UM_PER_PX)
    if not um_per_px:
        return []
    return [Source.of(_stated_in(path), um_per_px / (stored(path, None).factor if files.get("image") == path else 1.0))]


def _stated_in(path: Path) -> str:
    return f"{UM_PER_PX} in uns['spatial'] of {path.name}"


def why_not(raw: Path, path: Path) -> str | None:
    """Why a picture beside tables is not taken (its name fits none, or it is one of several sections), or a folder."""
    if path.is_dir() and visible(path, "*.h5ad"):
        return f"a folder of other sections: --raw_path {path}"
    if path.is_dir() and path.suffix.lower() == ".zarr" and (path / "obs").exists():
        return f"an AnnData store: anndata.read_zarr('{path.name}').write_h5ad('{path.stem}.h5ad')"
    name = path.name.lower()
    if name.endswith(".h5ad.gz"):
        return f"packed: gunzip '{path.name}'"
    if path.suffix != ".h5ad" and name.endswith(".h5ad"):
        return f"the suffix {path.suffix}: rename it to {path.stem}.h5ad"
    if path.suffix.lower() in OTHER_TABLES:
        return OTHER_TABLES[path.suffix.lower()]
    if not is_image_name(path):
        return None
    table = path.with_name(f"{image_stem(path)}.h5ad")
    if table.is_file():
        try:
            parts = sections_of(table).parts
        except LayerError:
            return None  # the line of that section says why
        if len(parts) > 1:
            return (f"one image beside a table of {len(parts)} sections: name it in samples.<name>.images, or name it "
                    f"{table.stem}_{next(iter(parts))}{image_suffix(path)}")
        return None
    return "no *.h5ad of its name: name it in samples.<name>.images"


# one section of a file, also for readers/hest.py -------------------------------------------------------
def table_layer(path: Path, part: str | None, image: Path | None, config: Config,
                platform: Source | None = None) -> RawLayer:
    """One section of a file with the image that is used (the .h5ad itself: the stored one). Raises as read_layer."""
    location, n_off_tissue, notes = spots(path, part, image, config, platform)
    rows, counts = sections_of(path).rows(part, path), raw_counts(path)
    location, table, _ = matched(location, counts.table[rows].copy(), path, path)
    notes += counts.notes
    libraries = sections_of(path).libraries
    if part is not None and image is None and libraries and library_of(sections_of(path), part) is None:
        notes.append(f"not the image of uns['spatial'] ({', '.join(libraries)}): none is named {part}; "
                     "name it in adata.obs['library_id'], or another image in samples.<name>.images")
    pixels: Path | np.ndarray | None = image
    if image == path:
        found = stored(path, part)
        pixels = read_pixels(path, found)
        notes.insert(0, f"stored in {path.name}: {found.name}")
    dropped = {"off tissue": n_off_tissue, **counts.dropped}
    return RawLayer(location, table, pixels, dropped, ", ".join(dict.fromkeys(notes)))


def spots(path: Path, part: str | None, image: Path | None, config: Config,
          platform: Source | None = None) -> tuple[pd.DataFrame, int, list[str]]:
    """(location table of the spots on tissue in px of the image, number of spots off it, notes).

    platform: um per px of the image by the platform's own file. Raises LayerError, and DataError for a config that does
    not fit the array.
    """
    sections = sections_of(path)
    rows = sections.rows(part, path)
    positions = read_all_positions(path)
    inside = positions.table[rows]
    chosen = inside[inside["on_tissue"]]
    if chosen.empty:
        raise LayerError(path, f"no spot on tissue in section {part}", "spots on tissue", "leave the section out")
    xy = chosen[["x", "y"]].to_numpy()
    library = library_of(sections, part)
    check_pixels(xy, positions.source, path, scale_factor(path, library, SPOT_DIAMETER))
    factor = stored(path, part).factor if image == path else 1.0
    um_per_px = scale_factor(path, library, UM_PER_PX) / factor
    if platform is None and um_per_px:
        platform = Source.of(_stated_in(path), um_per_px)
    table = pd.DataFrame({"barcode": chosen["barcode"], "pixel_x": xy[:, 0] * factor, "pixel_y": xy[:, 1] * factor})
    table[["i", "j"]] = _array_positions(positions, chosen, table, config.array, path)
    location = checked_spots(table, path)
    if platform is None and image not in (None, path):
        platform = next(iter(image_sources(stated_pixel_size_um(image), image)), None)
    check_array(location[["pixel_x", "pixel_y"]].to_numpy(), config, path, platform)
    notes = [*sections.notes, *positions.notes]
    if positions.source != "obsm['spatial']":
        notes.insert(0, f"positions of {positions.source}")
    return location, int(len(inside) - len(chosen)), notes


def _array_positions(positions: Positions, chosen: pd.DataFrame, table: pd.DataFrame, array: str,
                     path: Path) -> np.ndarray:
    """Array column and row (n, 2): of the file, else the pixel position in steps of the array."""
    if positions.has_array:
        return chosen[["i", "j"]].to_numpy()
    pitch = spot_pitch_px(table, path)
    step = np.array([pitch / 2, pitch * np.sqrt(0.75)]) if array == "hex" else np.array([pitch, pitch])
    return np.rint(table[["pixel_x", "pixel_y"]].to_numpy() / step)


def stored(path: Path, part: str | None) -> StoredImage | None:
    """The stored image of a section of a file, or None. Raises LayerError."""
    sections = sections_of(path)
    sections.rows(part, path)
    return stored_image(path, library_of(sections, part))


def image_beside(path: Path, part: str | None) -> Path | None:
    """The image beside a table with its name, or of a part: with that of the part. Raises LayerError for several."""
    stems = {path.stem} if part is None else {part, *(f"{path.stem}{mark}{part}" for mark in "_-#. ")}
    beside = [other for other in visible(path.parent) if is_image_name(other) and image_stem(other) in stems]
    if len(beside) > 1:
        raise LayerError(path, f"{len(beside)} images beside it ({', '.join(one.name for one in beside)})", "one",
                         "move the others away, or name it in samples.<name>.images")
    return beside[0] if beside else None
