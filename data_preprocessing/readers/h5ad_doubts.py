"""Why sections of AnnData files may not be of one block: one section twice, or other patients in obs."""
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from common.config import SampleConfig
from common.errors import LayerError
from data_preprocessing.readers import path_and_part, shown
from data_preprocessing.readers.anndata_file import column_names, opened, read_frame
from data_preprocessing.readers.h5ad_counts import raw_counts
from data_preprocessing.readers.h5ad_positions import read_all_positions
from data_preprocessing.readers.h5ad_sections import sections_of

OWNERS = ("patient", "patient_id", "donor", "donor_id", "subject", "subject_id", "individual", "specimen",
          "mouse", "mouse_id", "animal", "animal_id")  # columns of obs: who the tissue is of


def doubts(raw: Path, samples: dict[str, SampleConfig]) -> list[str]:
    """A line for two sections that are the same one, and for sections of several patients."""
    lines = []
    for name, one in samples.items():
        entries = list(one.raw.values())
        spots, owners = {}, {}
        for entry in entries:
            try:
                spots[entry], owners[entry] = _spots(raw, entry), _owners(raw, entry)
            except LayerError:  # its conversion reports it
                continue
        for first, second in combinations(spots, 2):
            if spots[first].equals(spots[second]) and _same_counts(raw, first, second):
                lines.append(f"{first} and {second} have the same spots and counts: one section twice; move one away")
        for column in OWNERS:
            of_whom: dict[str, list[str]] = {}
            for entry, columns in owners.items():
                of_whom.setdefault(columns.get(column, ""), []).append(entry)
            if len(of_whom) > 1 and "" not in of_whom:
                told = "; ".join(f"{who}: {shown(of_it, 5)}" for who, of_it in of_whom.items())
                lines.append(f"sample {name} has sections of {len(of_whom)} values of obs['{column}'] ({told}): of one "
                             "block? If not, name those of each in samples.<name>.raw")
                break
    return lines


def _rows(raw: Path, entry: str) -> tuple[Path, np.ndarray]:
    path, part = path_and_part(raw, entry)
    return path, sections_of(path).rows(part, path)


def _spots(raw: Path, entry: str) -> pd.DataFrame:
    """x, y of the spots of a section, by barcode."""
    path, rows = _rows(raw, entry)
    return read_all_positions(path).table[rows].set_index("barcode")[["x", "y"]].sort_index()


def _owners(raw: Path, entry: str) -> dict[str, str]:
    """{column: value} of the columns that state whose tissue it is, where the section has one value."""
    path, rows = _rows(raw, entry)
    with opened(path) as file:
        given = {name.lower(): name for name in column_names(file, "obs") if name.lower() in OWNERS}
        obs = read_frame(file, "obs", tuple(given.values()))[rows]
    single = {column: obs[name].astype(str).unique() for column, name in given.items() if name in obs}
    return {column: values[0] for column, values in single.items() if len(values) == 1 and values[0] not in ("", "nan")}


def _same_counts(raw: Path, first: str, second: str) -> bool:
    """Whether the spots have the same sums of counts. Only asked of sections with the same spots."""
    sums = []
    for entry in (first, second):
        path, rows = _rows(raw, entry)
        try:
            counts = raw_counts(path).table[rows]
        except LayerError:
            return False
        sums.append(pd.Series(np.asarray(counts.X.sum(axis=1)).ravel(), index=counts.obs_names).sort_index())
    return sums[0].equals(sums[1])
