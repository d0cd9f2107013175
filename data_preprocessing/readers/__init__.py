"""Readers of raw data, one format a file. A reader is a module with four functions:

    list_layers(raw, config) -> {sample: SampleConfig}            layers, and where they are read from; DataError if there is none
    raw_files(raw, config, sample, layer) -> {kind: path}         its files, as far as they exist: counts, location, image
    read_positions(raw, config, sample, layer) -> table | None    where its spots are, before counts are looked at: quick
    read_layer(raw, config, sample, layer) -> RawLayer            DataError for a wrong form, LayerError for a bad layer

`config.samples[…].raw` and `.images` say which folder or file is which layer. What two readers share stands here.
"""
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.config import Config, SampleConfig
from common.errors import DataError, LayerError

if TYPE_CHECKING:
    import anndata
    import pandas as pd


@dataclass(frozen=True)
class RawLayer:
    """One layer as it was delivered, in the terms of the data contract.

    location: barcode, pixel_x, pixel_y (level-0 px of the spot centre), i, j (array column, row), or None.
    counts: raw counts, CSR float32, rows as in `location`, or None. image: the H&E file, or its pixels (h, w, 3) uint8 where it is stored
    inside another file, or None. dropped: how many entries were left out, by the reason. note: what else a person should know.
    """
    location: "pd.DataFrame | None"
    counts: "anndata.AnnData | None"
    image: "Path | np.ndarray | None"
    dropped: dict[str, int] = field(default_factory=dict)
    note: str = ""


def in_reading_order(names: list[str]) -> list[str]:
    """Sorted as a person would: 'section2' before 'section10'."""
    return sorted(names, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])


def listed_samples(raw: Path, config: Config, found: list[str], what: str) -> dict[str, SampleConfig]:
    """Samples with `layers` and `raw` written out: what the config maps, else all found, in that order, as one sample's layers.

    found: names under `raw` ('.' is `raw` itself). Raises DataError if nothing is there or the config names something that is not.
    """
    everything = dict(enumerate(found, 1))
    if config.samples is None:
        if not found:
            raise DataError(raw, f"no {what}", f"one {what} a layer", "correct --raw_path")
        folder = raw.parent if raw.name == "outs" else raw
        return {folder.name: SampleConfig(layers=list(everything), raw=everything)}
    samples = {}
    for name, one in config.samples.items():
        named = one.raw or ({} if len(config.samples) > 1 else everything)
        for layer, entry in named.items():
            if not (raw / entry).exists():
                raise DataError(raw, f"no {entry} (samples.{name}.raw.{layer})", f"one of {', '.join(found) or 'none'}",
                                "correct the name in the config, or --raw_path")
        layers = sorted({*named, *one.images})
        if not layers:
            raise DataError(raw, f"nothing that says where sample {name} is", f"samples.{name}.raw: {{<layer>: <{what}>}}",
                            f"add it; there are {', '.join(found) or 'none'}")
        samples[name] = one.model_copy(update={"layers": layers, "raw": named})
    return samples


def chosen_image(raw: Path, config: Config, sample: str, layer: int) -> Path | None:
    """The image that the config names for this layer, or None."""
    name = config.samples[sample].images.get(layer)
    return raw / name if name else None


def matched(location: "pd.DataFrame", counts: "anndata.AnnData", file: Path,
            positions: Path) -> tuple["pd.DataFrame", "anndata.AnnData", dict[str, int]]:
    """Spots and counts that both have, in the order of the spots, and how many only one had. Raises LayerError if none is common."""
    common = location["barcode"].isin(counts.obs_names)
    if not common.any():
        raise LayerError(file, f"no barcode of {positions.name} (there {_first(location['barcode'])}, here {_first(counts.obs_names)})",
                         "counts and spots of one section", "correct one of them")
    dropped = {"spots without counts": int((~common).sum()), "counts without a spot": counts.n_obs - int(common.sum())}
    location = location[common].reset_index(drop=True)
    return location, counts[location["barcode"]].copy(), dropped


def _first(names) -> str:
    return str(names[0]) if len(names) else "none"


def checked_spots(location: "pd.DataFrame", file: Path) -> "pd.DataFrame":
    """The location table in the contract's types. Raises LayerError for a position that is no finite number, or a barcode given twice."""
    import pandas as pd
    numbers = location[["pixel_x", "pixel_y", "i", "j"]].apply(pd.to_numeric, errors="coerce")
    if not np.isfinite(numbers).all(axis=None):
        raise LayerError(file, "a position that is not a number", "finite positions", "correct the row")
    barcode = location["barcode"].astype(str)
    if barcode.duplicated().any():
        raise LayerError(file, f"spot {barcode[barcode.duplicated()].iloc[0]} twice", "one row a spot", "remove one")
    out = pd.DataFrame({"barcode": barcode, "pixel_x": numbers["pixel_x"].astype(float), "pixel_y": numbers["pixel_y"].astype(float),
                        "i": numbers["i"].astype(np.int64), "j": numbers["j"].astype(np.int64)})
    return out.reset_index(drop=True)


def spot_pitch_px(location: "pd.DataFrame", file: Path | str) -> float:
    """Distance of neighbouring spots: the median distance to the nearest one, px. Raises LayerError if it cannot be measured."""
    from scipy.spatial import cKDTree
    xy = location[["pixel_x", "pixel_y"]].to_numpy()  # (n_spots, 2)
    pitch = float(np.median(cKDTree(xy).query(xy, k=2)[0][:, 1])) if len(xy) > 1 else 0.0
    if pitch <= 0:
        raise LayerError(file, f"{len(xy)} spots whose distance cannot be measured", "two spots or more, at different places",
                         "correct the positions")
    return pitch
