"""Readers of raw data, one format a file. A reader is a module with four functions, and more that are optional:

    list_layers(raw, config) -> {sample: SampleConfig}            layers and their sources; DataError if there is none
    raw_files(raw, config, sample, layer) -> {kind: path}         every file and folder that is read and exists: counts,
                                                                  location, image, …
    read_positions(raw, config, sample, layer) -> table | None    positions of its spots, without the counts: quick
    read_layer(raw, config, sample, layer) -> RawLayer            LayerError for a bad layer, DataError for a config
                                                                  that does not fit the data
    platform_sources(files) -> [Source]                           optional: um per px by the platform's own files
                                                                  (common/geometry.py)
    settings(config) -> dict                                      optional: keys of the config that its output depends
                                                                  on; a change converts again
    why_not(raw, path) -> str | None                              optional: why a file or folder that looks like input
                                                                  is not taken (data_preprocessing/not_taken.py);
                                                                  '' where the section's own line names it
    doubts(raw, samples) -> [line]                                optional: why sections of these samples may not be of
                                                                  one block
    FORMS                                                         optional: its file names, as a person is shown them

A section that is there and cannot be read is listed, so that it keeps its place in z: reading it raises LayerError.
Hidden files are no input: folders are listed by visible(), never by glob.
`config.samples[…].raw` and `.images` assign folders and files to layers. An entry of `raw` is a path relative to `raw`,
or `<path>#<part>` for one of several sections in one file. Code that two readers share is in this file.
A reader is registered in READERS of 0_1_convert_raw.py and in raw_format of common/config.py; configs/<format>.yaml
has its defaults. asign is no such reader: it reads processed data for data_preprocessing/archive.py.
"""
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.config import Config, SampleConfig
from common.errors import DataError, LayerError
from common.geometry import median_spacing_px
from common.io import MAX_POSITION
from common.names import as_name, natural_key, visible

if TYPE_CHECKING:
    import anndata
    import pandas as pd

__all__ = ["RawLayer", "checked_spots", "chosen_image", "folder_name", "in_reading_order",
           "listed_samples", "matched", "path_and_part", "reading_table", "shown",
           "spot_pitch_px", "visible", "without_aliases"]


@dataclass(frozen=True)
class RawLayer:
    """One layer of raw data, in the terms of the data contract.

    location: barcode, pixel_x, pixel_y (level-0 px of the spot centre), i, j (array column, row), or None.
    counts: raw counts, CSR float32, rows as in `location`, or None. image: the H&E file, or its pixels (h, w, 3) uint8
    where it is stored inside another file, or a function that writes it to a path, or None. dropped: {reason: number
    of entries left out}. note: a further remark for the step's line.
    """
    location: "pd.DataFrame | None"
    counts: "anndata.AnnData | None"
    image: "Path | np.ndarray | Callable[[Path], None] | None"
    dropped: dict[str, int] = field(default_factory=dict)
    note: str = ""


def in_reading_order(names: list[str]) -> list[str]:
    """In natural order: 'section2' before 'section10'."""
    return sorted(names, key=natural_key)


def shown(names: Iterable[str], most: int = 10) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "nothing") + more


def path_and_part(raw: Path, entry: str) -> tuple[Path, str | None]:
    """The path of an entry of `raw` and the section in it: 'block.h5ad#C2' is (raw / 'block.h5ad', 'C2')."""
    if (raw / entry).exists() or "#" not in entry:
        return raw / entry, None
    name, part = entry.rsplit("#", 1)
    return raw / name, part


def folder_name(raw: Path) -> str:
    """The sample of all sections of a folder whose names state none: the folder, or the one above a bare 'outs'."""
    return as_name((raw.parent if raw.name == "outs" else raw).name) or "sample"


def without_aliases(raw: Path, entries: list[str]) -> list[str]:
    """The entries of `raw` without those that a link leads to a second time.

    data_preprocessing/not_taken.py names them.
    """
    first: dict[tuple[str, str | None], str] = {}
    for entry in sorted(entries, key=lambda one: (_links_of(raw, one), one.count("/"))):
        path, part = path_and_part(raw, entry)
        first.setdefault((os.path.realpath(path), part), entry)
    return [entry for entry in entries if entry in first.values()]


def _links_of(raw: Path, entry: str) -> int:
    """0 for an entry that lies there, 1 for a link, or what lies in one, 2 for a link to something else under `raw`."""
    path = path_and_part(raw, entry)[0]
    if os.path.realpath(path) == os.path.normpath(path):
        return 0
    return 2 if path.is_symlink() and Path(os.path.normpath(path.parent / os.readlink(path))).is_relative_to(raw) else 1


def listed_samples(raw: Path, config: Config, found: list[str], what: str) -> dict[str, SampleConfig]:
    """Samples with `layers` and `raw` written out: as the config maps them, else all found, as one sample's layers.

    found: names under `raw` ('.' is `raw` itself), in z order. Raises DataError if nothing is there or the config names
    something that is not.
    """
    everything = dict(enumerate(found if config.samples else without_aliases(raw, found), 1))
    if config.samples is None:
        if not found:
            raise DataError(raw, f"no {what}", f"one {what} a section", "correct --raw_path")
        return {folder_name(raw): SampleConfig(layers=list(everything), raw=everything)}
    samples = {}
    for name, one in config.samples.items():
        named = one.raw or ({} if len(config.samples) > 1 else everything)
        named = {layer: _as_written(entry, found) for layer, entry in named.items()}
        for layer, entry in named.items():
            if not path_and_part(raw, entry)[0].exists():
                raise DataError(raw, f"no {entry} (samples.{name}.raw.{layer})",
                                f"one of {shown(found)}",
                                "correct the name in the config, or --raw_path")
        layers = sorted({*named, *one.images})
        if not layers:
            raise DataError(raw, f"no entry that states where sample {name} is",
                            f"samples.{name}.raw: {{<layer>: <{what}>}}",
                            f"add it; there are {shown(found)}")
        samples[name] = one.model_copy(update={"layers": layers, "raw": named})
    return samples


def _as_written(entry: str, found: list[str]) -> str:
    """The entry as the disk has it: macOS writes 'ö' as two characters, a config has one."""
    alike = [one for one in found if unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", entry)]
    return alike[0] if alike and entry not in found else entry


def chosen_image(raw: Path, config: Config, sample: str, layer: int) -> Path | None:
    """The image that the config names for this layer, or None."""
    name = config.samples[sample].images.get(layer)
    return raw / name if name else None


def matched(location: "pd.DataFrame", counts: "anndata.AnnData", file: Path,
            positions: Path) -> tuple["pd.DataFrame", "anndata.AnnData", dict[str, int]]:
    """Spots and counts of the barcodes that both have, in the order of the spots, and {reason: number dropped}.

    Raises LayerError if none is common.
    """
    common = location["barcode"].isin(counts.obs_names)
    if not common.any():
        examples = f"there {_first(location['barcode'])}, here {_first(counts.obs_names)}"
        raise LayerError(file, f"no barcode of {positions.name} ({examples})", "counts and spots of one section",
                         "correct one of them")
    dropped = {"spots without counts": int((~common).sum()), "counts without a spot": counts.n_obs - int(common.sum())}
    location = location[common].reset_index(drop=True)
    return location, counts[location["barcode"]].copy(), dropped


def _first(names) -> str:
    return str(names[0]) if len(names) else "none"


@contextmanager
def reading_table(path: Path, expected: str) -> Iterator[None]:
    """Turn every error of a broken text table, packed or not, into one LayerError."""
    try:
        yield
    except (LayerError, ImportError):
        raise
    except Exception as error:  # pandas, pyarrow, gzip and zlib each raise their own
        raise LayerError(path, f"a table that cannot be read ({error})", expected, "copy it again") from None


def checked_spots(location: "pd.DataFrame", file: Path) -> "pd.DataFrame":
    """The location table in the contract's types.

    Raises LayerError for no spot, a position that is not a finite number, or a barcode given twice.
    """
    import pandas as pd
    if location.empty:
        raise LayerError(file, "no spot", "a row a spot", "copy it again, or remove it")
    numbers = location[["pixel_x", "pixel_y", "i", "j"]].apply(pd.to_numeric, errors="coerce")
    if not (numbers.abs() < MAX_POSITION).all(axis=None):
        raise LayerError(file, f"a position that is not a number, or beyond {MAX_POSITION:g}", "finite positions",
                         "correct the row")
    barcode = location["barcode"].astype(str)
    if barcode.duplicated().any():
        raise LayerError(file, f"spot {barcode[barcode.duplicated()].iloc[0]} twice", "one row a spot", "remove one")
    out = pd.DataFrame({"barcode": barcode,
                        "pixel_x": numbers["pixel_x"].astype(float), "pixel_y": numbers["pixel_y"].astype(float),
                        "i": numbers["i"].astype(np.int64), "j": numbers["j"].astype(np.int64)})
    return out.reset_index(drop=True)


def spot_pitch_px(location: "pd.DataFrame", file: Path | str) -> float:
    """Distance of neighbouring spots: the median distance to the nearest one, px.

    Raises LayerError if it cannot be measured.
    """
    pitch = median_spacing_px(location[["pixel_x", "pixel_y"]].to_numpy())
    if pitch <= 0:
        raise LayerError(file, f"{len(location)} spots whose distance cannot be measured",
                         "two spots or more, at different places", "correct the positions")
    return pitch
