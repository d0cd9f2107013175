"""Readers of raw data, one format a file. A reader is a module with four functions, and a fifth that is optional:

    list_layers(raw, config) -> {sample: SampleConfig}            layers and their sources; DataError if there is none
    raw_files(raw, config, sample, layer) -> {kind: path}         the files that exist: counts, location, image
    read_positions(raw, config, sample, layer) -> table | None    positions of its spots, without the counts: quick
    read_layer(raw, config, sample, layer) -> RawLayer            LayerError for a bad layer, DataError for a config
                                                                  that does not fit the data
    platform_sources(files) -> [Source]                           optional: um per px by the platform's own files
                                                                  (common/geometry.py)

`config.samples[…].raw` and `.images` assign folders and files to layers. An entry of `raw` is a path relative to `raw`,
or `<path>#<part>` for one of several sections in one file. Code that two readers share is in this file.
A reader is registered in READERS of 0_1_convert_raw.py and in raw_format of common/config.py; configs/<format>.yaml
has its defaults. asign is no such reader: it reads processed data for data_preprocessing/archive.py.
"""
import gzip
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.config import Config, SampleConfig
from common.errors import DataError, LayerError
from common.geometry import median_spacing_px
from common.io import MAX_POSITION, require_columns
from common.names import natural_key

if TYPE_CHECKING:
    import anndata
    import pandas as pd


SPOT_COLUMNS = ("x", "y", "pixel_x", "pixel_y")


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


def path_and_part(raw: Path, entry: str) -> tuple[Path, str | None]:
    """The path of an entry of `raw` and the section in it: 'block.h5ad#C2' is (raw / 'block.h5ad', 'C2')."""
    if (raw / entry).exists() or "#" not in entry:
        return raw / entry, None
    name, part = entry.rsplit("#", 1)
    return raw / name, part


def listed_samples(raw: Path, config: Config, found: list[str], what: str) -> dict[str, SampleConfig]:
    """Samples with `layers` and `raw` written out: as the config maps them, else all found, as one sample's layers.

    found: names under `raw` ('.' is `raw` itself), in z order. Raises DataError if nothing is there or the config names
    something that is not.
    """
    everything = dict(enumerate(found, 1))
    if config.samples is None:
        if not found:
            raise DataError(raw, f"no {what}", f"one {what} a section", "correct --raw_path")
        folder = raw.parent if raw.name == "outs" else raw
        return {folder.name: SampleConfig(layers=list(everything), raw=everything)}
    samples = {}
    for name, one in config.samples.items():
        named = one.raw or ({} if len(config.samples) > 1 else everything)
        for layer, entry in named.items():
            if not path_and_part(raw, entry)[0].exists():
                raise DataError(raw, f"no {entry} (samples.{name}.raw.{layer})",
                                f"one of {', '.join(found) or 'none'}",
                                "correct the name in the config, or --raw_path")
        layers = sorted({*named, *one.images})
        if not layers:
            raise DataError(raw, f"no entry that states where sample {name} is",
                            f"samples.{name}.raw: {{<layer>: <{what}>}}",
                            f"add it; there are {', '.join(found) or 'none'}")
        samples[name] = one.model_copy(update={"layers": layers, "raw": named})
    return samples


def files_in(path: Path) -> list[Path]:
    """The file itself; of a folder, such as a part of a .zarr, all its files but those that macOS hides there."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith(("._", ".DS_Store")))


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


# legacy ST -------------------------------------------------------------------------------------------
def read_spots(path: Path) -> tuple["pd.DataFrame", int]:
    """(location table of the selected spots, number of unselected ones).

    Tab-separated: x, y (array column, row), pixel_x, pixel_y, selected (absent: all are). Raises LayerError for a
    broken file, a missing column, and as checked_spots.
    """
    import pandas as pd
    with reading_table(path, "spots, tab-separated"):
        spots = pd.read_csv(path, sep="\t")
    require_columns(spots, SPOT_COLUMNS, path)
    selected = spots["selected"] == 1 if "selected" in spots else np.ones(len(spots), bool)
    numbers = spots.loc[selected, list(SPOT_COLUMNS)].apply(pd.to_numeric, errors="coerce")
    column, row = (numbers[name].map("{:.0f}".format).astype(str) for name in ("x", "y"))
    barcode = column + "x" + row
    location = numbers.rename(columns={"x": "i", "y": "j"}).assign(barcode=barcode)
    return checked_spots(location, path), int(len(spots) - len(location))


def read_counts(path: Path) -> "anndata.AnnData":
    """AnnData (spots, genes) of a tab-separated table of raw counts, rows `XxY`: X CSR float32, unique gene names.

    Raises LayerError.
    """
    import anndata
    import pandas as pd
    from scipy import sparse
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    with reading_table(path, "rows of counts, tab-separated"):
        with opener(path, "rt") as stream:
            genes = stream.readline().rstrip("\r\n").split("\t")[1:]
            table = pd.read_csv(stream, sep="\t", header=None, index_col=0, dtype={0: str})
        values = table.to_numpy(np.float32)  # (n_spots, n_genes)
    if not values.size or values.shape[1] != len(genes) or not np.isfinite(values).all() or values.min() < 0:
        raise LayerError(path, f"{len(genes)} genes, rows of {values.shape[1]} values, or a value that is no count",
                         "a count >= 0 for every gene, tab-separated", "copy it again")
    if table.index.has_duplicates:
        raise LayerError(path, f"spot {table.index[table.index.duplicated()][0]} twice", "one row a spot", "remove one")
    barcodes, names = table.index.astype(str).rename(None), pd.Index(genes, dtype=str)
    return anndata.AnnData(sparse.csr_matrix(values), obs=pd.DataFrame(index=barcodes),
                           var=pd.DataFrame(index=anndata.utils.make_index_unique(names)))


def legacy_layer(files: dict[str, Path], read_location: Callable[[Path], tuple["pd.DataFrame", int]]) -> RawLayer:
    """A layer of spots and counts in separate files, or of only spots, or of neither.

    read_location: as read_spots. Raises as it, read_counts and matched.
    """
    image = files.get("image")
    if "location" not in files:
        return RawLayer(None, None, image)
    location, n_unselected = read_location(files["location"])
    if "counts" not in files:
        return RawLayer(location, None, image, {"not selected": n_unselected})
    location, counts, dropped = matched(location, read_counts(files["counts"]), files["counts"], files["location"])
    return RawLayer(location, counts, image, {"not selected": n_unselected, **dropped})
