"""Readers of raw data, one format a file. A reader is a module with three functions:

    list_layers(raw) -> {sample: [layer, ...]}           DataError if the folder holds none
    raw_files(raw, sample, layer) -> {kind: path}        the files a layer is read from, as far as they exist: counts, location, image
    read_layer(raw, sample, layer) -> RawLayer           DataError for a wrong form, LayerError for a bad layer
"""
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import anndata
    import pandas as pd


@dataclass(frozen=True)
class RawLayer:
    """One layer as it was delivered, in the terms of the data contract.

    location: barcode, pixel_x, pixel_y (level-0 px of the spot centre), i, j (array column, row), or None.
    counts: raw counts, CSR float32, rows as in `location`, or None. image: the H&E file, or None.
    dropped: how many entries were left out, by the reason.
    """
    location: "pd.DataFrame | None"
    counts: "anndata.AnnData | None"
    image: Path | None
    dropped: dict[str, int] = field(default_factory=dict)
