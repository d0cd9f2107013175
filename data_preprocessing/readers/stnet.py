"""Raw data of ST-Net (legacy ST; He et al., Nat Biomed Eng 2020): three sections of each of 23 breast tumours.

    **/<patient>_<section>.tsv[.gz], or …_stdata.tsv[.gz]                  rows `XxY` (array position), columns genes
    beside it: <patient>_<section>.spots.txt, or …_Coords.tsv              x, y, pixel_x, pixel_y, tab-separated
               or spots_<patient>_<section>.csv[.gz]                       name `XxY`, X, Y (px), comma-separated
               <patient>_<section>.jpg, or HE_<patient>_<section>.jpg      H&E, a picture or a slide
A sample is a patient; its layers 1, 2, 3 are its sections sorted by name (C1, C2, D1), or as in
`samples.<patient>.raw`. A section may be only an image; so may a layer that only `samples.<patient>.images` names.
Upper and lower case are alike. The table of a section lacks genes that no spot of it has. A `_Coords.tsv` without
pixels (array positions and tumour labels) is not read.
"""
import re
from pathlib import Path

import pandas as pd

from common.config import Config, SampleConfig
from common.errors import DataError, LayerError
from common.io import require_columns
from common.layout import IMAGE_SUFFIXES
from data_preprocessing.readers import (
    RawLayer,
    checked_spots,
    chosen_image,
    in_reading_order,
    legacy_layer,
    read_spots,
    reading_table,
    visible,
)

FORMS = ("<patient>_<section>.tsv.gz or …_stdata.tsv.gz",
         "<patient>_<section>.spots.txt, …_Coords.tsv or spots_<patient>_<section>.csv",
         "<patient>_<section>.jpg or HE_<patient>_<section>.jpg")
IMAGE_ENDS = "|".join(map(re.escape, IMAGE_SUFFIXES))
SECTION = re.compile(rf"(?:HE_)?([^_]+)_([^_.]+)(?:(?:_stdata)?\.tsv(?:\.gz)?|{IMAGE_ENDS})", re.IGNORECASE)


def list_layers(raw: Path, config: Config) -> dict[str, SampleConfig]:
    """Samples with `layers` and `raw` (the counts, or the image of a section without) written out.

    A layer that only `images` of the config names is in `layers` alone. Raises DataError if there is no section.
    """
    sections: dict[str, dict[str, str]] = {}
    spelling: dict[str, str] = {}
    for path in sorted(visible(raw, "**/*")):
        match = SECTION.fullmatch(path.name)
        if match and path.is_file():
            patient, section = spelling.setdefault(match[1].lower(), match[1]), match[2].lower()
            there = sections.setdefault(patient, {})
            if section not in there or ".tsv" in path.name.lower():
                there[section] = path.relative_to(raw).as_posix()
    samples = {}
    for name, there in sorted(sections.items()):
        entries = [there[section] for section in in_reading_order(list(there))]
        samples[name] = dict(enumerate(entries, 1))
    for name, one in (config.samples or {}).items():
        missing = [entry for entry in one.raw.values()
                   if not (SECTION.fullmatch(Path(entry).name) and (raw / entry).is_file())]
        if missing:
            raise DataError(raw, f"no section {missing[0]} (samples.{name}.raw)", "<patient>_<section>.tsv.gz",
                            "correct the name in the config")
        if one.raw or one.images:
            samples[name] = one.raw or samples.get(name, {})
    if not samples:
        raise DataError(raw, "no section", "<patient>_<section>.tsv.gz or .jpg", "correct --raw_path")
    images = {name: one.images for name, one in (config.samples or {}).items()}
    return {name: SampleConfig(layers=sorted({*entries, *images.get(name, ())}), raw=entries)
            for name, entries in samples.items()}


def raw_files(raw: Path, config: Config, sample: str, layer: int) -> dict[str, Path]:
    """The existing files of a layer by kind (counts, location, image)."""
    entry, chosen = config.samples[sample].raw.get(layer), chosen_image(raw, config, sample, layer)
    if entry is None:
        return {"image": chosen}
    siblings = sorted(visible((raw / entry).parent), reverse=True)
    beside = {path.name.lower(): path for path in siblings if path.is_file()}
    name = "_".join(SECTION.fullmatch(Path(entry).name).groups())
    images = [f"{name}{suffix}" for suffix in IMAGE_SUFFIXES]
    candidates = {  # kind: file names, the preferred one first
        "counts": [f"{name}{end}" for end in (".tsv", ".tsv.gz", "_stdata.tsv", "_stdata.tsv.gz")],
        "location": [f"{name}.spots.txt", f"spots_{name}.csv", f"spots_{name}.csv.gz", f"{name}_Coords.tsv"],
        "image": images + [f"HE_{image}" for image in images]}
    files = {}
    for kind, names in candidates.items():
        present = [beside[one.lower()] for one in names if one.lower() in beside]
        if present:
            files[kind] = present[0]
    return files | ({"image": chosen} if chosen else {})


def read_positions(raw: Path, config: Config, sample: str, layer: int) -> pd.DataFrame | None:
    """The selected spots, or None. Raises as read_layer."""
    file = raw_files(raw, config, sample, layer).get("location")
    return _read_location(file)[0] if file else None


def read_layer(raw: Path, config: Config, sample: str, layer: int) -> RawLayer:
    """Read one layer; spots and counts are intersected, in the order of the spot file, and the rest counted as dropped.

    Raises LayerError if a file cannot be read, the spot file lacks a column, spots are missing or nothing is common.
    """
    files = raw_files(raw, config, sample, layer)
    if "counts" in files and "location" not in files:
        raise LayerError(files["counts"], "no spots beside it", "<patient>_<section>.spots.txt", "add it")
    return legacy_layer(files, _read_location)


def _read_location(path: Path) -> tuple[pd.DataFrame, int]:
    """(location table of the selected spots, number of unselected ones). Raises as read_spots."""
    if not path.name.lower().endswith((".csv", ".csv.gz")):
        return read_spots(path)
    with reading_table(path, "spots, comma-separated"):
        table = pd.read_csv(path, dtype={0: str})
    require_columns(table, ("X", "Y"), path)
    name = table.iloc[:, 0].astype(str)
    array = name.str.extract(r"^(\d+)x(\d+)$")
    location = pd.DataFrame({"barcode": name, "i": array[0], "j": array[1],
                             "pixel_x": table["X"], "pixel_y": table["Y"]})
    return checked_spots(location, path), 0
