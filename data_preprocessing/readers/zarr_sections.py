"""Which section of a SpatialData store an entry of the config names, and which image is that section's."""
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.config import Config
from common.errors import LayerError
from data_preprocessing.readers import chosen_image, in_reading_order, path_and_part, zarr_tables as tables
from data_preprocessing.readers.zarr_picture import picture_of
from data_preprocessing.readers.zarr_store import (
    BINS,
    annotations,
    elements,
    folder_of,
    is_store,
    names_of,
    reading_store,
    systems,
)

OF_ANOTHER_CAMERA = "cytassist_image"  # eosin alone, of another slide
AGREE = 0.01  # two systems place the spots at scales that differ by more: they contradict each other


@dataclass(frozen=True)
class Section:
    """One section of a store. table, region: None for an image alone; image: None if there is none."""
    store: Path
    table: str | None
    region: str | None
    kind: str | None  # of the region: shapes, points, or None: the positions are in obsm
    image: str | None
    system: str | None  # the coordinate system that both share
    to_px: np.ndarray  # (3, 3), the spots' own coordinates -> px of the image, counted from the corner


# which section ---------------------------------------------------------------------------------------
def parts_of(store: Path, config: Config) -> list[str]:
    """The sections in a store, as parts of an entry. A broken store has none: reading it raises the error."""
    try:
        found = annotations(store)
    except LayerError:
        return []
    regions = [region for one in found for region in one.regions]
    parts = in_reading_order(sorted(set(_of_one_bin_size(regions, config))))
    return parts + [f"{one.table}/" for one in found if not one.regions]


def _of_one_bin_size(regions: list[str], config: Config) -> list[str]:
    """The regions, of each section of Visium HD only that of one bin size: pitch_um of the config, else the largest."""
    bins: dict[str, dict[int, str]] = {}
    for region in regions:
        if found := BINS.fullmatch(region):
            bins.setdefault(found["name"] or "", {})[int(found["um"])] = region
    chosen = {sizes.get(round(config.pitch_um), sizes[max(sizes)]) for sizes in bins.values()}
    return [region for region in regions if region in chosen or not BINS.fullmatch(region)]


def section_of(raw: Path, config: Config, sample: str, layer: int) -> Section | None:
    """The section of a layer; None if the config gives it an image file only. Raises LayerError if it is not clear."""
    entry = config.samples[sample].raw.get(layer)
    if entry is None:
        return None
    store, part = path_and_part(raw, entry)
    if not is_store(store):
        raise LayerError(store, "no SpatialData store", "a .zarr folder", "correct the name in the config")
    parts, found = parts_of(store, config), annotations(store)
    if part is None and len(parts) > 1:
        raise LayerError(store, f"{len(parts)} sections ({', '.join(parts)})", "one section a layer",
                         f"samples.{sample}.raw: {{{layer}: '{entry}#{parts[0]}'}}, a line a section")
    named, _, image = (part if part is not None else "".join(parts)).partition("@")
    if not found:
        chosen = _image_alone(store, image or named)
        return Section(store, None, None, None, chosen, None, np.eye(3))
    table, region = tables.of_part(store, found, named)
    kind = next((kind for kind in ("shapes", "points") if region in names_of(store, kind)), None)
    if chosen_image(raw, config, sample, layer) is not None:  # the spots' own px are those of the full resolution
        return Section(store, table, region, kind, None, None, np.eye(3))
    image, system, to_px = _image_of(store, region, kind, image)
    return Section(store, table, region, kind, image, system, to_px)


def _image_alone(store: Path, named: str) -> str:
    """The image of a store without tables. Raises LayerError if there are several and none is named."""
    names = [name for name in names_of(store, "images") if named in ("", name)]
    if len(names) != 1:
        there = names_of(store, "images")
        raise LayerError(store, f"no table, and {len(there)} images ({', '.join(there)})", "the section's image",
                         f"name it: '{store.name}#{there[0]}'")
    return names[0]


# the image of the spots ------------------------------------------------------------------------------
def _image_of(store: Path, region: str | None, kind: str | None,
              named: str) -> tuple[str | None, str | None, np.ndarray]:
    """(image, shared system, (3, 3) spots -> px counted from the image's corner). Raises LayerError."""
    there = elements(store)
    spots = {"global": np.eye(3)} if kind is None else systems(readable(store, kind, region))
    if named and named not in names_of(store, "images"):
        raise LayerError(store, f"no image {named}", f"one of {', '.join(names_of(store, 'images')) or 'none'}",
                         "correct the name behind @ in the config")
    unreadable = sorted(set(names_of(store, "images")) - set(there.images))
    if unreadable and (not named or named in unreadable):
        raise LayerError(folder_of(store, "images", unreadable[0]), "an image that cannot be read",
                         "a complete image of SpatialData", "copy the whole store again")
    names = [named] if named else of_region([name for name in there.images if _may_be_he(store, name)], region or "")
    found = {}
    for name in sorted(names):
        placed = _placed(store, name, spots, systems(there.images[name]), _start(region or ""))
        if placed is not None:
            found[name] = placed
    if not found:
        return None, None, np.eye(3)
    if not named and len({_stem(name) for name in found}) > 1:
        raise LayerError(store, f"images {', '.join(found)} in the system of {region}", "the image of this section",
                         f"name it: '{store.name}#{region}@{next(iter(found))}'")
    best = max(found, key=lambda name: (abs(np.linalg.det(found[name][1][:2, :2])), name))
    return best, *found[best]


def readable(store: Path, kind: str, name: str):
    """An element. Raises LayerError if SpatialData could not read it."""
    element = getattr(elements(store), kind).get(name)
    if element is None:
        raise LayerError(folder_of(store, kind, name), "an element that cannot be read", "one that SpatialData wrote",
                         "copy the whole store again")
    return element


def _may_be_he(store: Path, name: str) -> bool:
    is_other = name.lower().endswith(OF_ANOTHER_CAMERA)
    return not is_other and picture_of(folder_of(store, "images", name), elements(store).images[name]).is_rgb


def _start(region: str) -> str:
    """What the names of a section's parts begin with."""
    found = BINS.fullmatch(region)
    return (found["name"] or "") if found else region.removesuffix("_spots")


def of_region(names: list[str], region: str) -> list[str]:
    """The images whose names begin like the region: of several sections in one system, those of this one."""
    start = _start(region)
    own = [name for name in names if start and (name == start or name.startswith((f"{start}_", f"{start}-")))]
    return own or names


def _stem(name: str) -> str:
    """The name without the words of a resolution."""
    for word in ("_full_image", "_fullres_image", "_hires_image", "_lowres_image", "_hires", "_lowres", "_fullres",
                 "_image"):
        name = name.removesuffix(word)
    return "" if name in ("full_image", "hires_image", "lowres_image", "hires", "lowres", "image") else name


def _placed(store: Path, name: str, spots: dict[str, np.ndarray],
            image: dict[str, np.ndarray], start: str) -> tuple[str, np.ndarray] | None:
    """(system, spots -> px) by a system that both have; None if they share none.

    `global` comes first, then those whose names begin like the section's, then the others.

    Raises LayerError if two systems place the spots differently.
    """
    shared = sorted(set(spots) & set(image), key=lambda one: (one != "global", not one.startswith(start), one))
    if not shared:
        return None
    with reading_store(folder_of(store, "images", name)):  # a transformation without an inverse
        matrices = [np.linalg.inv(image[system]) @ spots[system] for system in shared]
    for system, matrix in zip(shared[1:], matrices[1:], strict=True):
        linear = matrices[0][:2, :2]
        if np.abs(matrix[:2, :2] - linear).max() > AGREE * np.sqrt(abs(np.linalg.det(linear))):
            raise LayerError(folder_of(store, "images", name),
                             f"spots at other places by the system {system} than by {shared[0]}",
                             "one place in all shared systems", "correct the transformations in the store")
    return shared[0], matrices[0]
