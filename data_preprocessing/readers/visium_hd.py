"""Raw data of Visium HD (Space Ranger 3 and 4), pooled to spots: one folder a section.

    <section>/outs/binned_outputs/square_008um/      with or without outs/ and binned_outputs/; or such a folder alone
        filtered_feature_bc_matrix.h5                counts of the bins on tissue; else raw_feature_bc_matrix.h5, else
                                                     either as a folder of matrix.mtx, features.tsv, barcodes.tsv
        spatial/tissue_positions.parquet             (or .csv, .txt) barcode, in_tissue, array_row, array_col,
                                                     pxl_row_in_fullres, pxl_col_in_fullres of every bin
        spatial/scalefactors_json.json               bin_size_um; microns_per_pixel of the full-resolution image;
                                                     tissue_hires_scalef, tissue_lowres_scalef
        spatial/tissue_hires_image.png, tissue_lowres_image.png: here or in a `spatial` above

A spot is a square of pitch_um on the chip's own grid (data_preprocessing/bins.py): the sum of the counts of its bins on
tissue, at the centre of the whole square. pitch_um is a multiple of the bins' side. Bins that are read: bin_um of the
config; without it 8 um, else the next larger ones of which pitch_um is a multiple, else the next smaller ones.
A spot is named by size, row and column of its square: s_128um_00012_00034. i = column, j = row.
The image is the full-resolution one that the config names, else hires, else lowres; positions are in px of that image.
"""
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from common.config import Config, SampleConfig
from common.errors import DataError, LayerError
from common.geometry import Source
from common.names import as_name
from data_preprocessing.bins import MIN_ON_TISSUE, Pooled, pool, sums
from data_preprocessing.packed import unpack_command
from data_preprocessing.readers import RawLayer, checked_spots, chosen_image, in_reading_order, listed_samples
from data_preprocessing.readers.space_ranger import read_matrix, read_positions_table, read_scale_factors
from data_preprocessing.readers.visium_files import visible
from data_preprocessing.readers.visium_hd_folders import (
    SQUARE,
    WRAPPERS,
    BinFolder,
    files_of,
    section_bins,
    sections_in,
    why_without_bins,
)
from data_preprocessing.readers.visium_images import scaled_kind, stated_scale

if TYPE_CHECKING:
    import anndata

FORMS = ("<section>/outs/binned_outputs/square_<um>um/", "<section>/outs/spatial/")
DEFAULT_BIN_UM = 8.0
CONTRACT_NAMES = {"pxl_col_in_fullres": "pixel_x", "pxl_row_in_fullres": "pixel_y",
                  "array_col": "i", "array_row": "j"}
ARCHIVE = re.compile(r"(?P<name>.*?)[_. -]?(?P<what>binned_outputs|spatial|square_\d{3,}um).*"
                     r"\.(tar|tar\.gz|tgz|zip)", re.I)
MAX_OFF_TISSUE = 0.05  # share of the filtered matrix that in_tissue may exclude
NOT_READ = (
    (r"segmented_outputs", "cells of Space Ranger 4; the bins are read"),
    (r"feature_slice\.h5", "an image of each gene; the counts are read from binned_outputs"),
    (r"raw_probe_bc_matrix\.h5", "counts of probes; those of genes are read"),
    (r"molecule_info\.h5", "molecules; the counts of the bins are read"),
    (r"(tissue_image|image)\.(btf|tiff?)", "to use it, name it in samples.<name>.images"),
    (r"(cytassist_image\.tiff?|(aligned|detected)_.*\.jpg)", "a picture of Space Ranger's own"))


def list_layers(raw: Path, config: Config) -> dict[str, SampleConfig]:
    """The samples with every section's folder. Raises DataError if there is none, or one of the config is absent.

    A Space Ranger folder without bins keeps its number among the others; read_positions reports it.
    """
    if config.array != "square":
        raise DataError(f"dataset {config.dataset}", f"array: {config.array}", "array: square, for Visium HD",
                        "set it in the config")
    found, without = sections_in(raw)
    if not found and config.samples is None:
        where = raw / without[0] if without else raw
        raise DataError(where, *why_without_bins(where))
    listed = listed_samples(raw, config, in_reading_order([*found, *without]), "folder with binned_outputs")
    if config.samples is not None:
        return listed
    return {_name_of(raw): one for one in listed.values()}


def raw_files(raw: Path, config: Config, sample: str, layer: int) -> dict[str, Path]:
    """The existing files of a section by kind: counts, location, scalefactors, image."""
    entry, files = config.samples[sample].raw.get(layer), {}
    if entry is not None:
        try:
            files = files_of(_chosen(raw, entry, config))
        except (LayerError, DataError):
            files = {}  # read_positions reports it
    image = chosen_image(raw, config, sample, layer)
    return files if image is None or not image.is_file() else files | {"image": image}


def read_positions(raw: Path, config: Config, sample: str, layer: int) -> pd.DataFrame | None:
    """The pooled spots, in px of the image that is used; None for an image-only section.

    Raises LayerError for a missing or broken file, for sources that contradict each other and for a bin size that is
    not there, DataError for a pitch_um that the bins cannot be pooled to.
    """
    if config.samples[sample].raw.get(layer) is None:
        return None
    return _Section(raw, config, sample, layer).location


def read_layer(raw: Path, config: Config, sample: str, layer: int) -> RawLayer:
    """Read one section: its pooled spots and their counts. Raises as read_positions."""
    if config.samples[sample].raw.get(layer) is None:
        return RawLayer(None, None, chosen_image(raw, config, sample, layer))
    section = _Section(raw, config, sample, layer)
    counts, dropped = _pooled_counts(section)
    side = round(config.pitch_um / section.bins.um)
    note = f"{side} x {side} bins of {section.bins.um:g} um a spot ({section.bins.path.name})"
    image = section.files.get("image")
    if image is not None and scaled_kind(image) == "lowres":
        note += ", low resolution: no tissue_hires_image.png"
    return RawLayer(section.location, counts, image, dropped, note)


def platform_sources(files: dict[str, Path]) -> list[Source]:
    """Scale (um per px) of the image that is used, exact, by microns_per_pixel; empty if the file does not state it.

    Raises LayerError as px_per_fullres_px.
    """
    stated = _um_per_fullres_px(files)
    return [] if stated is None else [Source.of(stated.name, stated.um_per_px / px_per_fullres_px(files))]


def settings(config: Config) -> dict:
    """The keys of the config that the output depends on, beside the files that are read."""
    return {"pitch_um": config.pitch_um, "bin_um": config.bin_um}


def why_not(raw: Path, path: Path) -> str | None:
    """Why a file or folder that looks like input is not read; None: no special reason."""
    if SQUARE.fullmatch(path.name):
        return "bins of another size; bin_um chooses them"
    for name, reason in NOT_READ:
        if re.fullmatch(f"(?:.+[_.-])?{name}", path.name, re.I):
            return reason
    packed = ARCHIVE.fullmatch(path.name)
    if packed:
        places = (path.parent, path.parent / packed["name"])
        if any((place / inside / packed["what"]).is_dir() for place in places for inside in ("", "outs")):
            return f"packed, and {packed['what']}/ of this section is there"
        return f"packed: {unpack_command(path.name)}"
    if re.search(r"(filtered|raw)_feature_bc_matrix", path.name, re.I):
        return "one matrix of a bin size is read: filtered before raw, HDF5 before matrix.mtx"
    return None


class _Section:
    """The bins of a section and the spots that they are pooled to."""

    def __init__(self, raw: Path, config: Config, sample: str, layer: int):
        self.bins = _chosen(raw, config.samples[sample].raw[layer], config)
        self.files = raw_files(raw, config, sample, layer)
        _require(self.bins, self.files)
        self.table, self.on_tissue = _checked_bins(self.files["location"], self.bins)
        place = self.table[["i", "j"]].to_numpy()  # (n_bins, 2)
        xy = self.table[["pixel_x", "pixel_y"]].to_numpy()
        factor = round(config.pitch_um / self.bins.um)
        self.pooled = pool(place, xy, self.on_tissue, factor, self.files["location"])
        _check_scale(self.pooled, self.bins, self.files)
        self.location = _location(self.pooled, config.pitch_um, px_per_fullres_px(self.files))


def _name_of(raw: Path) -> str:
    """The name of the sample of a folder: that of the section, if it is one of Space Ranger's own names."""
    while (raw.name in WRAPPERS or SQUARE.fullmatch(raw.name)) and raw.parent.name:
        raw = raw.parent
    return as_name(raw.name) or "sample"


def _chosen(raw: Path, entry: str, config: Config) -> BinFolder:
    """The folder of bins that is read. Raises LayerError and DataError as read_positions."""
    there = section_bins(raw, entry)
    sizes = ", ".join(f"{one.um:g}" for one in there)
    wanted = config.bin_um or DEFAULT_BIN_UM
    exact = [one for one in there if one.um == wanted]
    if config.bin_um is not None and not exact:
        raise LayerError(raw / entry, f"bins of {sizes} um", f"bin_um: {wanted:g}",
                         "set bin_um to one that is there, or copy the folder of these bins")
    larger = [one for one in there if one.um > wanted]
    smaller = [one for one in reversed(there) if one.um < wanted]
    usable = [one for one in [*exact, *larger, *smaller] if _is_multiple(config.pitch_um, one.um)]
    if exact and exact[0] in usable:
        return exact[0]
    if exact or not usable:
        um = (exact or there)[0].um
        below = max(1, int(config.pitch_um / um)) * um
        error = DataError if exact else LayerError
        raise error(raw / entry, f"pitch_um: {config.pitch_um:g}, and bins of {sizes} um of which {um:g} are read",
                    f"a multiple of {um:g}",
                    f"set pitch_um to {below:g} or {below + um:g}, or choose other bins by bin_um")
    return usable[0]


def _is_multiple(pitch_um: float, bin_um: float) -> bool:
    side = round(pitch_um / bin_um)
    return side >= 1 and abs(side * bin_um - pitch_um) < 1e-6 * pitch_um


def _require(bins: BinFolder, files: dict[str, Path]) -> None:
    """Raises LayerError if counts or positions are missing, or if two sources state different sizes of the bins."""
    names = ", ".join(path.name for path in visible(bins.path)[:8]) or "an empty folder"
    if "counts" not in files:
        raise LayerError(bins.path, f"no counts ({names})", "filtered_feature_bc_matrix.h5, or its folder",
                         "copy it there, or give the section an image only")
    if "location" not in files:
        raise LayerError(bins.path / "spatial", f"no positions of the bins ({names})", "tissue_positions.parquet",
                         "copy it there")
    stated = read_scale_factors(files["scalefactors"]).get("bin_size_um") if "scalefactors" in files else None
    if stated is not None and abs(stated - bins.um) > 1e-6 * bins.um:
        raise LayerError(bins.path, f"bins of {bins.um:g} um by the folder's name, of {stated:g} um by"
                         f" {files['scalefactors'].name}", "the same size", "copy the files of one folder")


def _checked_bins(path: Path, bins: BinFolder) -> tuple[pd.DataFrame, np.ndarray]:
    """(table of all bins in the contract's types, px of the full-resolution image; on tissue (n_bins,) bool)."""
    table = read_positions_table(path)
    on_tissue = (table["in_tissue"] == 1).to_numpy()
    if not on_tissue.any():
        raise LayerError(path, "no bin with in_tissue 1", "bins on tissue", "copy the file again")
    named = re.match(r"s_(\d{3,})um_", str(table["barcode"].iloc[0]))
    if named and float(named[1]) != bins.um:
        raise LayerError(path, f"bins of {float(named[1]):g} um ({table['barcode'].iloc[0]})",
                         f"bins of {bins.um:g} um", "copy the file of this folder again")
    return checked_spots(table.rename(columns=CONTRACT_NAMES), path), on_tissue


def _check_scale(pooled: Pooled, bins: BinFolder, files: dict[str, Path]) -> None:
    """Raises LayerError if the bins in the image and microns_per_pixel state different scales."""
    stated = _um_per_fullres_px(files)
    measured = Source.of(f"the bins of {files['location'].name}", bins.um / pooled.bin_px)
    if stated is not None and stated.contradicts(measured):
        raise LayerError(files["scalefactors"], f"{stated}, but {measured} ({bins.um:g} um, {pooled.bin_px:.4g} px)",
                         "the same scale", "copy both files of one run")


def _um_per_fullres_px(files: dict[str, Path]) -> Source | None:
    factors = read_scale_factors(files["scalefactors"]) if "scalefactors" in files else {}
    um = factors.get("microns_per_pixel", 0.0)
    usable = np.isfinite(um) and um > 0
    return Source.of(f"microns_per_pixel of {files['scalefactors'].name}", um) if usable else None


def px_per_fullres_px(files: dict[str, Path]) -> float:
    """Scale of the image that is used, px full-resolution px: 1 for that image itself.

    Raises LayerError if the scale factors do not state it.
    """
    image = files.get("image")
    places = ("spatial", files["location"].parent.name)  # a full-resolution image may have any name elsewhere
    if image is None or image.parent.name not in places or scaled_kind(image) is None:
        return 1.0
    return stated_scale(image, files.get("scalefactors", image.parent / "scalefactors_json.json"))


def _location(pooled: Pooled, pitch_um: float, px_per_fullres: float) -> pd.DataFrame:
    """The location table of the spots, px of the image that is used."""
    column, row = pooled.square.T
    names = [f"s_{pitch_um:03g}um_{j:05d}_{i:05d}" for i, j in zip(column, row, strict=True)]
    x, y = (pooled.xy * px_per_fullres).T
    return pd.DataFrame({"barcode": names, "pixel_x": x, "pixel_y": y, "i": column, "j": row})


def _pooled_counts(section: _Section) -> tuple["anndata.AnnData", dict[str, int]]:
    """(counts of the spots, rows as in the location table; {reason: number left out}). Raises LayerError."""
    import anndata
    file, positions, pooled = section.files["counts"], section.files["location"], section.pooled
    counts = read_matrix(file)
    bin_of_row = pd.Index(section.table["barcode"]).get_indexer(counts.obs_names)  # (n_rows,)
    known = bin_of_row >= 0
    if not known.any():
        examples = f"there {section.table['barcode'].iloc[0]}, here {counts.obs_names[0] if counts.n_obs else 'none'}"
        raise LayerError(file, f"no barcode of {positions.name} ({examples})", "counts and bins of one section",
                         "correct one of them")
    off = int((~section.on_tissue[bin_of_row[known]]).sum())
    if not section.bins.section.is_raw(file) and off > MAX_OFF_TISSUE * counts.n_obs:
        raise LayerError(file, f"{off} of {counts.n_obs} bins that are off tissue by in_tissue of {positions.name}",
                         "counts and bins of one section",
                         "copy both files of one run, or remove this one to read raw_feature_bc_matrix")
    spot_of_row = np.where(known, pooled.spot_of_bin[bin_of_row], -1)
    matrix = sums(counts.X, spot_of_row, len(section.location))  # (n_spots, n_genes)
    covered = int(section.on_tissue.sum()) - int(section.on_tissue[bin_of_row[known]].sum())
    dropped = {"bins off tissue": int((~section.on_tissue).sum()),
               f"squares with less than {MIN_ON_TISSUE:.0%} of their bins on tissue": pooled.n_too_few,
               "bins on tissue in these": int((section.on_tissue & (pooled.spot_of_bin < 0)).sum()),
               "bins on tissue without counts": covered, "counts without a bin": int((~known).sum())}
    obs = pd.DataFrame(index=pd.Index(section.location["barcode"].to_numpy(str)))
    return anndata.AnnData(matrix, obs=obs, var=counts.var), dropped
