"""Raw data in the form of the public her2st repository (legacy ST; Andersson et al., Nat Commun 2021).

    ST-cnts/C2.tsv[.gz]                rows `XxY` (array position), columns genes
    ST-spotfiles/C2_selection.tsv      x, y, new_x, new_y, pixel_x, pixel_y, selected (absent: all are)
    ST-imgs/C/C2/<any name>.jpg        H&E
A name is the sample's letters and the layer's number. x is the array column, y the row; a spot's barcode is `XxY`.
"""
import re
from pathlib import Path

import pandas as pd

from common.config import Config, SampleConfig
from common.errors import DataError, LayerError
from common.layout import IMAGE_SUFFIXES
from data_preprocessing.readers import RawLayer, chosen_image, legacy_layer, read_spots, visible

FORMS = ("ST-cnts/<sample><number>.tsv.gz", "ST-spotfiles/<sample><number>_selection.tsv",
         "ST-imgs/<sample>/<sample><number>/<any name>.jpg")


def list_layers(raw: Path, config: Config) -> dict[str, SampleConfig]:
    """The samples of every layer with counts or an image, also one that the config names, sorted.

    Raises DataError if there is none.
    """
    names = [path.name.split(".")[0] for path in visible(raw, "ST-cnts/*.tsv*")]
    names += [path.parent.name for path in visible(raw, "ST-imgs/*/*/*")]
    found: dict[str, set[int]] = {}
    for match in filter(None, (re.fullmatch(r"(\D+)(\d+)", name) for name in names)):
        found.setdefault(match[1], set()).add(int(match[2]))
    for sample, one in (config.samples or {}).items():
        if one.images:  # a layer may have nothing but the image that the config names
            found.setdefault(sample, set()).update(one.images)
    if not found:
        raise DataError(raw, "no section", "ST-cnts/<sample><layer>.tsv.gz or ST-imgs/<sample>/<sample><layer>/*.jpg",
                        "correct --raw_path")
    return {sample: SampleConfig(layers=sorted(layers)) for sample, layers in sorted(found.items())}


def raw_files(raw: Path, config: Config, sample: str, layer: int) -> dict[str, Path]:
    """The existing files of a layer by kind (counts, location, image). Raises LayerError for several images."""
    name, chosen = f"{sample}{layer}", chosen_image(raw, config, sample, layer)
    folder = raw / "ST-imgs" / sample / name
    beside = (path for path in visible(folder) if path.suffix.lower() in IMAGE_SUFFIXES)
    images = [chosen] if chosen else sorted(beside)
    if len(images) > 1:
        raise LayerError(images[0].parent, f"{len(images)} images", "one", "move the others away")
    candidates = [("counts", raw / "ST-cnts" / f"{name}.tsv"), ("counts", raw / "ST-cnts" / f"{name}.tsv.gz"),
                  ("location", raw / "ST-spotfiles" / f"{name}_selection.tsv"), *(("image", path) for path in images)]
    return {kind: path for kind, path in candidates if path.is_file()}


def read_positions(raw: Path, config: Config, sample: str, layer: int) -> pd.DataFrame | None:
    """The selected spots, or None. Raises as read_layer."""
    file = raw_files(raw, config, sample, layer).get("location")
    return read_spots(file)[0] if file else None


def read_layer(raw: Path, config: Config, sample: str, layer: int) -> RawLayer:
    """Read one layer; spots and counts are intersected, in the order of the spot file, and the rest counted as dropped.

    Raises LayerError if a file cannot be read, the spot file lacks a column, spots are missing or nothing is common.
    """
    files = raw_files(raw, config, sample, layer)
    if "counts" in files and "location" not in files:
        raise LayerError(raw / "ST-spotfiles" / f"{sample}{layer}_selection.tsv", "no file", "the spots of the counts",
                         "add it")
    return legacy_layer(files, read_spots)
