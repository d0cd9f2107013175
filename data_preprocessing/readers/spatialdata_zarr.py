"""Raw data as SpatialData stores (.zarr, format of Zarr 2 or 3): one section a store, or several in one.

    tables/<table>               raw counts: layers['counts'], else raw, else X, the first of them with whole numbers
                                 >= 0; its region names the element of its spots. obs: array_row and array_col (absent:
                                 by the positions), in_tissue (absent: all are). var: gene_ids, feature_types
    shapes/<region>              the spots: circles, or squares of Visium HD; or points/<region>, or obsm['spatial']
    images/<image>               the H&E, with or without several scales

A section is a region of a table, or the image of a store without tables. samples.<name>.raw assigns them to layers;
without it all are layers 1, 2, ... of one sample, in natural order of store and region. An entry is the path of a store
(with one section) or `<store>#<region>`; `<store>#<table>/<region>` where several tables with counts annotate a region,
`<store>#<region>@<image>` where several images could be the section's. Of the bin sizes of Visium HD the one of
`pitch_um` is taken.

The image is the one of the config (samples.<name>.images: full resolution, the px of the spots' own coordinates), else
the finest RGB image that shares a coordinate system with the spots. Positions pass from the spots through that system
(`global` if both have it) to px of the image. SpatialData has the centre of the first pixel at 0.5, the data contract
at 0: 0.5 px are subtracted.
"""
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from common.config import Config, SampleConfig
from common.errors import DataError, LayerError
from common.geometry import Source
from data_preprocessing.readers import (
    RawLayer,
    checked_spots,
    chosen_image,
    in_reading_order,
    listed_samples,
    matched,
    spot_array,
    visible,
    zarr_tables as tables,
)
from data_preprocessing.readers.zarr_picture import SUFFIX, picture_of
from data_preprocessing.readers.zarr_sections import Section, of_region, parts_of, readable, section_of
from data_preprocessing.readers.zarr_store import (
    BINS,
    HALF_PX,
    elements,
    folder_of,
    is_store,
    names_of,
    physical_um,
    require_library,
    table_folder,
)

if TYPE_CHECKING:
    from data_preprocessing.readers.zarr_picture import StorePicture

FORMS = ("<section>.zarr", "<block>.zarr with several regions")
STORED_IMAGE_SUFFIX = SUFFIX


# the API of a reader ----------------------------------------------------------------------------------
def list_layers(raw: Path, config: Config) -> dict[str, SampleConfig]:
    """The samples with every layer's store and region. Raises DataError if there is none, or SpatialData is missing."""
    require_library()
    stores = [raw] if is_store(raw) else [path for path in visible(raw) if is_store(path)]
    names = in_reading_order([path.name for path in stores]) if stores != [raw] else ["."]
    found = []
    for name in names:
        parts = parts_of(raw / name, config)
        found += [name] if len(parts) < 2 else [f"{name}#{part}" for part in parts]
    samples = listed_samples(raw, config, found, "SpatialData store (.zarr)")
    if config.samples is None and names == ["."]:
        return {raw.stem: next(iter(samples.values()))}
    return samples


def raw_files(raw: Path, config: Config, sample: str, layer: int) -> dict[str, Path]:
    """The folders of a layer in its store by kind (counts, location, image). Raises LayerError."""
    section, image = section_of(raw, config, sample, layer), chosen_image(raw, config, sample, layer)
    if section is None:
        return {"image": image} if image is not None else {}
    files = {}
    if section.table is not None:
        files["counts"] = files["location"] = table_folder(section.store, section.table)
    if section.kind is not None:
        files["location"] = folder_of(section.store, section.kind, section.region)
    if image is not None:
        files["image"] = image
    elif section.image is not None:
        files["image"] = folder_of(section.store, "images", section.image)
    return files


def read_positions(raw: Path, config: Config, sample: str, layer: int) -> pd.DataFrame | None:
    """The spots on tissue, in px of the image that is used; None for an image alone.

    Raises LayerError for a store that cannot be read or positions that are none, DataError for an array that is not
    that of the config.
    """
    section = section_of(raw, config, sample, layer)
    return None if section is None or section.table is None else _spots(section, config)[0]


def read_layer(raw: Path, config: Config, sample: str, layer: int) -> RawLayer:
    """One section: spots on tissue with raw counts, and its image as a picture to be copied.

    Raises as read_positions.
    """
    section, image = section_of(raw, config, sample, layer), chosen_image(raw, config, sample, layer)
    if section is None:
        return RawLayer(None, None, image)
    picture = image if image is not None else _picture(section)
    if section.table is None:
        return RawLayer(None, None, picture, note=_note(section, image))
    location, dropped = _spots(section, config)
    folder = table_folder(section.store, section.table)
    found = tables.raw_counts(folder, section.region)
    location, counts, unmatched = matched(location, found.table, folder, folder)
    dropped |= {"spots without counts": unmatched["spots without counts"], **found.dropped}
    return RawLayer(location, counts, picture, dropped, "; ".join([_note(section, image), *found.notes]))


def platform_sources(files: dict[str, Path]) -> list[Source]:
    """Scale of the image in um per px: by a coordinate system in a unit of length, or by the side of an HD bin."""
    image, spots = files.get("image"), files.get("location")
    found = []
    if image is not None and image.parent.name == "images":
        store = image.parents[1]
        for system, um in physical_um(store, "images", image.name, elements(store).images[image.name]).items():
            found.append(Source.of(f"the coordinate system {system} of {store.name}", float(f"{um:.6g}")))
    elif spots is not None and spots.parent.name in ("shapes", "points"):
        store = spots.parents[1]
        for system, um in physical_um(store, spots.parent.name, spots.name, elements(store)[spots.name]).items():
            found.append(Source.of(f"the coordinate system {system} of {store.name}", float(f"{um:.6g}")))
    return found


def why_not(raw: Path, path: Path) -> str | None:
    """Why a file or folder beside the stores is not taken; None: no special reason."""
    name = path.name.lower()
    if name.endswith((".zarr.zip", ".zarr.tar", ".zarr.tar.gz", ".zarr.tgz")):
        return "a packed store: unpack it"
    if name.endswith(".h5ad"):
        return "an AnnData file: --format h5ad"
    return None


# content ---------------------------------------------------------------------------------------------
def _spots(section: Section, config: Config) -> tuple[pd.DataFrame, dict[str, int]]:
    """(location table of the spots on tissue, {reason: number left out})."""
    folder = table_folder(section.store, section.table)
    element = None if section.kind is None else readable(section.store, section.kind, section.region)
    spots, n_without = tables.positions(folder, section.region, element)
    xy = spots[["x", "y"]].to_numpy(np.float64)  # (n_spots, 2)
    px = xy @ section.to_px[:2, :2].T + section.to_px[:2, 2]
    px -= HALF_PX if section.kind is not None else 0  # obsm['spatial'] counts as scanpy does
    location = pd.DataFrame({"barcode": spots["barcode"], "pixel_x": px[:, 0], "pixel_y": px[:, 1]})
    bins = BINS.fullmatch(section.region or "")
    array = "square" if bins else tables.array_of(spots, px)
    if array is not None and array != config.array or bins and config.pitch_um != int(bins["um"]):
        pitch = f", pitch_um: {int(bins['um'])}" if bins else ""
        raise DataError(folder, f"spots on a {'hexagonal' if array == 'hex' else 'square'} array, and a config with "
                                f"array: {config.array}, pitch_um: {config.pitch_um:g}",
                        f"array: {array}{pitch}", "set array and pitch_um in the config (--config)")
    location[["i", "j"]] = tables.array_positions(spots, px, config.array, folder)
    if array is None and spot_array.is_scattered(px):
        raise spot_array.scattered(len(px), folder, config)
    on_tissue = spots["on_tissue"].to_numpy()
    if not on_tissue.any():
        raise LayerError(folder, "no spot on tissue (obs['in_tissue'])", "true or 1 for a spot on tissue",
                         "correct or remove the column")
    left_out = {"off tissue": int((~on_tissue).sum()), "rows without a spot": n_without}
    return checked_spots(location[on_tissue], folder), left_out


def _picture(section: Section) -> "StorePicture | None":
    if section.image is None:
        return None
    picture = picture_of(folder_of(section.store, "images", section.image),
                         readable(section.store, "images", section.image))
    if not picture.is_rgb:
        raise LayerError(picture.path, f"an image of {len(picture.channels)} channels ({', '.join(picture.channels)})",
                         "a photograph of the stained section: red, green, blue", "name another image, behind @")
    return picture


def _note(section: Section, image: Path | None) -> str:
    """The choices that were made, and what of the store is not taken."""
    parts = []
    if section.table is not None:
        parts.append(f"table {section.table}" + (f", spots {section.region}" if section.region else ""))
    if image is None and section.image is not None:
        parts.append(f"image {section.image}" + (f" by the system {section.system}" if section.system else ""))
    own = of_region(names_of(section.store, "images"), section.region or "")
    others = [name for name in own if name != section.image]
    parts += [f"not taken: images {', '.join(others)}"] if others else []
    return "; ".join(parts)
