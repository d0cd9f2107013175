"""Raw data of Space Ranger (10x Visium), versions 1 to 4: one folder a section, or one prefix a section in one folder.

    filtered_feature_bc_matrix.h5, or the folder of matrix.mtx, features.tsv and barcodes.tsv; else the raw matrix, of
                                             which the spots on tissue are taken. Only Gene Expression is read
    spatial/tissue_positions.csv             barcode, in_tissue, array_row, array_col, pxl_row_in_fullres,
                                             pxl_col_in_fullres; readers/space_ranger.py lists the other forms
    spatial/scalefactors_json.json           tissue_hires_scalef, tissue_lowres_scalef: px of that image per
                                             full-resolution px
    spatial/tissue_hires_image.png, tissue_lowres_image.png

Every file may have a prefix, be packed by gzip, and lie beside or inside spatial/ and outs/ (readers/visium_files.py).
The image is the one that the config names (samples.<name>.images), else a picture of the folder whose size proves that
it is the full-resolution one, else hires, else lowres; spot positions are in px of that image. Spots off the tissue are
left out. i = array_col (steps by 2 in a row), j = array_row. samples.<name>.raw assigns folders to layers; without it
the sorted folders and prefixes are layers 1, 2, ... of one sample.
"""
import re
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
    without_aliases,
)
from data_preprocessing.readers.space_ranger import (
    GENOMES,
    LEFT_OUT,
    mex_files,
    read_matrix,
    read_positions_table,
    read_scale_factors,
)
from data_preprocessing.readers.visium_files import Section, entries_below, is_hd, section_of
from data_preprocessing.readers.visium_images import (
    full_resolution,
    outside,
    picture_size,
    px_per_fullres_px,
    scaled_kind,
)
from data_preprocessing.readers.visium_reasons import nested, no_counts, no_positions, nothing_found, why_not

if TYPE_CHECKING:
    import anndata

__all__ = ["list_layers", "platform_sources", "raw_files", "read_layer", "read_positions", "why_not"]

FORMS = ("<section>/filtered_feature_bc_matrix.h5 (or its folder) and <section>/spatial/, with or without outs/",
         "the same files side by side: <section>_filtered_feature_bc_matrix.h5, <section>_tissue_positions.csv, …")
CONTRACT_NAMES = {"pxl_col_in_fullres": "pixel_x", "pxl_row_in_fullres": "pixel_y",
                  "array_col": "i", "array_row": "j"}
VISIUM_PITCH_UM = 100.0
SPOT_DIAMETER_UM = (65.0, 30.0, 150.0)  # likely, smallest, largest: see platform_sources
MAX_ABSENT = 0.05  # share of the filtered matrix whose spots the list of all spots may lack
N_NAMED = 3  # spots that are named in a line
LETTERS = re.compile(r"[ACGT]{14,18}")  # of a barcode, without a section's prefix and its number


def list_layers(raw: Path, config: Config) -> dict[str, SampleConfig]:
    """The samples with every layer's folder or prefix.

    A folder of Visium HD beside sections of Visium is listed, to keep its number; reading it is a LayerError. Raises
    DataError if there is none, one of the config is absent, or they lie in the folders of several blocks.
    """
    sections, hd = (without_aliases(raw, entries) for entries in entries_below(raw))
    if config.samples is None:
        if not sections:
            raise nothing_found(raw, hd)
        blocks = nested(sections)
        if blocks:
            raise blocks_error(raw, blocks)
    return listed_samples(raw, config, in_reading_order([*sections, *hd]) if sections else [],
                          "folder of Space Ranger (counts and spatial/)")


def blocks_error(raw: Path, blocks: dict[str, list[str]]) -> DataError:
    """The error of sections that lie in the folders of several blocks."""
    found = ", ".join(f"{name}/ ({len(entries)})" for name, entries in blocks.items())
    name, entries = next(iter(blocks.items()))
    example = ", ".join(f"{number}: {entry}" for number, entry in enumerate(entries, 1))
    return DataError(raw, f"sections in several folders: {found}", "the sections of one block",
                     f"--raw_path {raw / name}, or in the config samples: {{{name}: {{raw: {{{example}}}}}, …}}")


def raw_files(raw: Path, config: Config, sample: str, layer: int) -> dict[str, Path]:
    """The existing files of a layer by kind: counts (with features and barcodes of a MEX folder), location,
    scalefactors, image.
    """
    image = chosen_image(raw, config, sample, layer)
    section = _section(raw, config, sample, layer)
    files: dict[str, Path | None] = {"image": image}
    if section is not None and not is_hd(section.folder):  # read_layer refuses that
        counts = section.counts()
        if counts is not None and counts.suffix not in (".h5",) and "mtx" in counts.name.lower():
            try:
                parts = mex_files(counts)
                files |= {"features": parts["features"], "barcodes": parts["barcodes"]}
            except LayerError:
                pass  # read_layer reports it
        files |= {"counts": counts, "location": next(iter(section.of("positions")), None),
                  "scalefactors": next(iter(section.of("scalefactors")), None),
                  "image": image or full_resolution(section) or next(iter(section.of("hires", "lowres")), None)}
    return {kind: path for kind, path in files.items() if path is not None and path.is_file()}


def read_positions(raw: Path, config: Config, sample: str, layer: int) -> pd.DataFrame | None:
    """The spots on tissue, in px of the image that is used; None for an image-only layer.

    Raises LayerError for a missing or broken file or a missing column, DataError for a config that does not fit a
    Visium array.
    """
    section = _section(raw, config, sample, layer)
    return None if section is None else _spots(_required(section, raw_files(raw, config, sample, layer)), config)[0]


def read_layer(raw: Path, config: Config, sample: str, layer: int) -> RawLayer:
    """Read one layer; spots on tissue and counts are intersected, in the order of the positions.

    Raises as read_positions.
    """
    section = _section(raw, config, sample, layer)
    if section is None:
        return RawLayer(None, None, chosen_image(raw, config, sample, layer))
    files = _required(section, raw_files(raw, config, sample, layer))
    location, off_tissue = _spots(files, config)
    counts, notes = read_matrix(files["counts"]), []
    left_out, genomes = counts.uns.pop(LEFT_OUT), counts.uns.pop(GENOMES, {})
    notes += _with_names_of(counts, location)
    if section.is_raw(files["counts"]):
        counts = counts[~counts.obs_names.isin(off_tissue)]
        notes.append(f"the spots on tissue of {files['counts'].name}, no filtered matrix")
    elif off_tissue:
        _require_rows(counts, {*location["barcode"], *off_tissue}, files)
    location, counts, dropped = matched(location, counts, files["counts"], files["location"])
    if genomes:
        notes.append("genes of " + ", ".join(f"{genome} ({number})" for genome, number in genomes.items()))
    notes += [*_empty_spots(counts), *_picture_notes(location, files)]
    if files.get("image") in section.of("picture") and chosen_image(raw, config, sample, layer) is None:
        notes.append("full resolution by its size" if section.of("hires", "lowres")
                     else "taken as the full-resolution image: the only picture here")
    dropped = {"off tissue": len(off_tissue), **dropped,
               **{f"features of type {kind}": number for kind, number in left_out.items()}}
    return RawLayer(location, counts, files.get("image"), dropped, ", ".join(notes))


def platform_sources(files: dict[str, Path]) -> list[Source]:
    """Scale (um per px) of the image that is used, by scalefactors_json.json; empty if the file does not state it.

    microns_per_pixel (Visium HD) is exact. spot_diameter_fullres belongs to spots of 55, 65 or 70 um, by the version of
    Space Ranger: it only excludes a scale that is wrong by a factor of about two or more, as that of positions of
    another image. Raises LayerError as px_per_fullres_px.
    """
    if "scalefactors" not in files:
        return []
    factors = read_scale_factors(files["scalefactors"])
    name = "microns_per_pixel" if "microns_per_pixel" in factors else "spot_diameter_fullres"
    value = factors.get(name, 0.0)
    factor, source = px_per_fullres_px(files), f"{name} of {files['scalefactors'].name}"
    if not (np.isfinite(value) and value > 0):
        return []
    if name == "microns_per_pixel":
        return [Source.of(source, value / factor)]
    likely, smallest, largest = (size / (value * factor) for size in SPOT_DIAMETER_UM)
    return [Source(source, likely, smallest, largest)]


def _section(raw: Path, config: Config, sample: str, layer: int) -> Section | None:
    """The files of a layer; None if the config gives it an image only."""
    entry = config.samples[sample].raw.get(layer)
    return None if entry is None else section_of(raw, entry)


def _required(section: Section, files: dict[str, Path]) -> dict[str, Path]:
    """The files of a layer that has spots. Raises LayerError if counts or positions are missing."""
    if is_hd(section.folder):
        raise LayerError(section.folder, "a folder of Visium HD (binned_outputs)", "a section of Visium",
                         "convert it with --format visium_hd, or leave it out: samples.<name>.skip")
    if "counts" not in files:
        raise no_counts(section)
    if "location" not in files:
        raise no_positions(section)
    return files


# spots -----------------------------------------------------------------------------------------------
def _spots(files: dict[str, Path], config: Config) -> tuple[pd.DataFrame, set[str]]:
    """(location table of the spots on tissue in px of the image, barcodes of the spots off it)."""
    path = files["location"]
    table = read_positions_table(path)
    on_tissue = table["in_tissue"] == 1
    if not on_tissue.any():
        raise LayerError(path, "no spot with in_tissue 1", "spots on tissue", "copy the file again")
    factor = px_per_fullres_px(files)
    location = checked_spots(table[on_tissue].rename(columns=CONTRACT_NAMES), path)
    location[["pixel_x", "pixel_y"]] *= factor
    all_even = ((location["i"] + location["j"]) % 2 == 0).all()
    is_visium = len(location) > 1 and all_even  # a hexagonal array; Visium HD is square
    if is_visium and (config.array, config.pitch_um) != ("hex", VISIUM_PITCH_UM):
        raise DataError(path,
                        f"a Visium array, and a config with array: {config.array}, pitch_um: {config.pitch_um:g}",
                        f"array: hex, pitch_um: {VISIUM_PITCH_UM:g}", "set both in the config")
    return location, set(table["barcode"][~on_tissue])


def _require_rows(counts: "anndata.AnnData", listed: set[str], files: dict[str, Path]) -> None:
    """Raise LayerError if many barcodes of the filtered matrix are not in the list of all spots, on and off the tissue.

    A list of the spots on tissue alone may be a choice; none at all: `matched` reports it.
    """
    n_absent = int((~counts.obs_names.isin(listed)).sum())
    if MAX_ABSENT * counts.n_obs < n_absent < counts.n_obs:
        raise LayerError(files["location"], f"{n_absent} of the {counts.n_obs} barcodes of {files['counts'].name} are "
                         "not in it", "a row for every spot, on and off the tissue", "copy it again; if you removed "
                         "spots, remove those with in_tissue 0 too")


def _with_names_of(counts: "anndata.AnnData", location: pd.DataFrame) -> list[str]:
    """Give the counts the barcodes of the spots where only what surrounds the letters differs; a note if so."""
    if counts.obs_names.isin(location["barcode"]).any():
        return []
    of_counts, of_spots = (_letters(names) for names in (counts.obs_names, location["barcode"]))
    if of_counts is None or of_spots is None or not set(of_counts) & set(of_spots):
        return []
    full = dict(zip(of_spots, location["barcode"], strict=True))
    old = list(counts.obs_names)
    counts.obs_names = [full.get(letters, name) for letters, name in zip(of_counts, old, strict=True)]
    return [f"barcodes joined by their letters ({old[0]}, {location['barcode'][0]})"]


def _letters(names) -> list[str] | None:
    """The run of A, C, G, T in each barcode; None if one has not exactly one, or two are the same."""
    found = [LETTERS.findall(name) for name in names]
    letters = [one[0] for one in found if len(one) == 1]
    return letters if len(set(letters)) == len(found) else None


def _empty_spots(counts: "anndata.AnnData") -> list[str]:
    """A note on the spots without a single count: they are spots, and are kept."""
    n_empty = int((np.asarray(counts.X.sum(axis=1)).ravel() == 0).sum())
    return [f"{n_empty} spots with no count at all (kept)"] if n_empty else []


def _picture_notes(location: pd.DataFrame, files: dict[str, Path]) -> list[str]:
    """Notes on the resolution of the image and on the spots outside it. Raises LayerError if most are outside."""
    image, notes = files.get("image"), []
    if image is None:
        return notes
    size = picture_size(image)
    if scaled_kind(image) == "lowres":
        notes.append("low resolution: no tissue_hires_image.png")
    beyond = location["barcode"][outside(location, size)] if size else location["barcode"][:0]
    if len(beyond) > len(location) / 2:
        raise LayerError(image, f"{len(beyond)} of {len(location)} spots outside its {size[0]} x {size[1]} px",
                         f"the image that the positions of {files['location'].name} are of",
                         "name the full-resolution image in samples.<name>.images, or remove the wrong one")
    if len(beyond):
        names = ", ".join(beyond[:N_NAMED]) + (", …" if len(beyond) > N_NAMED else "")
        notes.append(f"{len(beyond)} spots outside the picture ({names})")
    return notes
