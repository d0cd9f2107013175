"""HEST-1k as it is downloaded (Jaume et al., NeurIPS 2024): one id a section.

    st/<id>.h5ad               counts and positions (full-resolution px of the slide)     readers/h5ad.py
    wsis/<id>.tif              the H&E slide: the image of the section; without it, the small one in the table
    metadata/<id>.json         pixel_size_um_estimated, inter_spot_dist, st_technology; or the row of HEST_v*.csv

pixel_size_um_estimated is the um per px of the slide; HEST measured it on the spots. pixel_size_um_embedded is what the
file of the authors stated: it is often that of a screen (0.2646) or of another level, and is not used. The estimate is
compared with the distance of the spots and with the tags of the slide. inter_spot_dist is held against pitch_um of the
config, but for Visium HD and Xenium, whose spots in HEST are bins that were pooled.

samples.<name>.raw assigns ids to layers; data_preprocessing/propose_hest_stacks.py proposes them. An id without
st/<id>.h5ad is a section with an image only.
"""
import csv
import json
import math
from pathlib import Path

import pandas as pd

from common.config import Config, SampleConfig
from common.errors import DataError, LayerError
from common.geometry import BELIEVED_UM, TOLERANCE, Source, median_spacing_px
from data_preprocessing.readers import RawLayer, chosen_image, in_reading_order, visible
from data_preprocessing.readers.h5ad import spots, stored, table_layer

FORMS = ("st/<id>.h5ad", "wsis/<id>.tif", "metadata/<id>.json")
SLIDE_SUFFIXES = (".tif", ".tiff", ".ome.tif", ".svs")
POOLED = ("visium hd", "xenium")
ESTIMATED, EMBEDDED = "pixel_size_um_estimated", "pixel_size_um_embedded"
NOT_READ = {  # folder of HEST: why it is not taken
    "patches": "patches of HEST's own size: steps 1 and 4 cut theirs from the slide",
    "patches_vis": "pictures of HEST's patches", "spatial_plots": "pictures of the spots",
    "thumbnails": "small copies of the slides", "pixel_size_vis": "pictures of the pixel size",
    "tissue_seg": "tissue contours of another id: <id>_contours.geojson beside its slide's folder is used",
    "cellvit_seg": "outlines of nuclei", "xenium_seg": "outlines of cells", "transcripts": "single transcripts: "
    "st/<id>.h5ad has the counts of the spots"}


def list_layers(raw: Path, config: Config) -> dict[str, SampleConfig]:
    """The samples with every section's file. Raises DataError if there is none, or several and no table of samples."""
    ids = _ids(raw)
    if not ids:
        raise DataError(raw, "no st/<id>.h5ad and no wsis/<id>.tif",
                        "the folders st, wsis and metadata of HEST-1k", "correct --raw_path")
    if config.samples is None:
        if len(ids) > 1:
            raise DataError(raw, f"{len(ids)} ids ({', '.join(ids[:8])}{', …' if len(ids) > 8 else ''}) and no samples",
                            "which ids are sections of one block, and in which order",
                            f"add samples: {{<name>: {{raw: {{1: {ids[0]}, 2: {ids[1]}}}}}}} to a copy of "
                            "configs/hest.yaml; propose_hest_stacks.py --metadata HEST_v….csv proposes them")
        return {ids[0]: SampleConfig(layers=[1], raw={1: _entry(raw, ids[0])})}
    samples = {}
    for name, one in config.samples.items():
        entries = {}
        for layer, given in one.raw.items():
            found = _entry(raw, given)
            if found is None:
                raise DataError(raw, f"no {given} (samples.{name}.raw.{layer})",
                                f"an id among {', '.join(ids[:20])}{', …' if len(ids) > 20 else ''}",
                                "download its st, wsis and metadata, or correct the id")
            entries[layer] = found
        layers = sorted({*entries, *one.images})
        if not layers:
            raise DataError(raw, f"no id for sample {name}", f"samples.{name}.raw: {{<layer>: <id>}}",
                            f"add it; there are {', '.join(ids[:20])}")
        samples[name] = one.model_copy(update={"layers": layers, "raw": entries})
    return samples


def raw_files(raw: Path, config: Config, sample: str, layer: int) -> dict[str, Path]:
    """The existing files of a layer by kind (counts, location, image, metadata)."""
    image, entry = chosen_image(raw, config, sample, layer), config.samples[sample].raw.get(layer)
    files = {"image": image}
    if entry is not None:
        table, name = raw / entry, _id_of(entry)
        metadata = raw / "metadata" / f"{name}.json"
        tables = [one for one in visible(raw, "HEST_v*.csv") if not metadata.is_file()]
        files = {"counts": table, "location": table} if table.suffix == ".h5ad" else {}
        image = image or _slide(raw, name)
        if image is None and "counts" in files and stored(table, None) is not None:
            image = table
        files |= {"image": image, "metadata": tables[-1] if tables else metadata}
    return {kind: path for kind, path in files.items() if path is not None and path.is_file()}


def read_positions(raw: Path, config: Config, sample: str, layer: int) -> pd.DataFrame | None:
    """The spots on tissue in px of the slide; None for an image-only section.

    Raises LayerError, and DataError for a config whose array or pitch is not that of the spots.
    """
    files = raw_files(raw, config, sample, layer)
    if "counts" not in files:
        return None
    platform = next(iter(platform_sources(files)), None)
    location = spots(files["counts"], None, files.get("image"), config, platform)[0]
    _check_pitch(config, location, files, _id_of(config.samples[sample].raw[layer]))
    return location


def read_layer(raw: Path, config: Config, sample: str, layer: int) -> RawLayer:
    """The spots on tissue of one section, its counts and its slide. Raises as read_positions."""
    files = raw_files(raw, config, sample, layer)
    if "counts" not in files:
        return RawLayer(None, None, files.get("image"))
    found = table_layer(files["counts"], None, files.get("image"), config, next(iter(platform_sources(files)), None))
    notes = [found.note, *_notes(files, _id_of(config.samples[sample].raw[layer]))]
    return RawLayer(found.location, found.counts, found.image, found.dropped, ", ".join(filter(None, notes)))


def platform_sources(files: dict[str, Path]) -> list[Source]:
    """Scale (um per px of the slide) by HEST's metadata; empty if they do not state it."""
    if "metadata" not in files:
        return []
    name = _id_of(files["counts"].name if "counts" in files else files["image"].name)
    value = _number(_metadata(files["metadata"], name).get(ESTIMATED))
    if value is None or not BELIEVED_UM[0] <= value <= BELIEVED_UM[1]:
        return []
    factor = stored(files["counts"], None).factor if files.get("image", Path()) == files.get("counts") else 1.0
    return [Source.of(f"{ESTIMATED} of {files['metadata'].name}", value / factor)]


def why_not(raw: Path, path: Path) -> str | None:
    """Why a file or folder of HEST-1k is not taken."""
    parts = path.relative_to(raw).parts
    if path.name.startswith("HEST_v") and path.suffix.lower() == ".csv":
        return "the table of all ids, for propose_hest_stacks.py: metadata/<id>.json is read"
    if parts[0] in NOT_READ:
        return NOT_READ[parts[0]]
    if parts[0] in ("st", "wsis", "metadata"):
        return "no sample of the config names this id"
    return None


# ids and metadata ----------------------------------------------------------------------------------------
def _ids(raw: Path) -> list[str]:
    """The ids in natural order: those with a table or a slide."""
    found = {path.stem for path in visible(raw, "st/*.h5ad")}
    slides = [path for path in visible(raw, "wsis/*") if path.name.lower().endswith(SLIDE_SUFFIXES)]
    return in_reading_order(list(found | {_id_of(one.name) for one in slides}))


def _entry(raw: Path, given: str) -> str | None:
    """The path, relative to raw, of the table of an id, else of its slide; None if there is neither."""
    if (raw / given).is_file():
        return given
    table = raw / "st" / f"{given}.h5ad"
    path = table if table.is_file() else _slide(raw, given)
    return None if path is None else str(path.relative_to(raw))


def _slide(raw: Path, name: str) -> Path | None:
    paths = (raw / "wsis" / f"{name}{suffix}" for suffix in SLIDE_SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def _id_of(entry: str) -> str:
    """'st/TENX95.h5ad' and 'wsis/TENX95.ome.tif' are TENX95."""
    return Path(entry).name.removesuffix(Path(entry).suffix).removesuffix(".ome")


def _metadata(path: Path, name: str) -> dict:
    """The metadata of an id, of its JSON or its row of the CSV. Raises LayerError."""
    try:
        if path.suffix.lower() == ".csv":
            with open(path, newline="", encoding="utf-8-sig") as stream:
                return next((row for row in csv.DictReader(stream) if row.get("id") == name), {})
        value = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict):
            if value.get("id") not in (None, "", name):
                raise LayerError(path, f"the metadata of {value['id']}", f"those of {name}", "download them again")
            return value
        raise ValueError(f"a {type(value).__name__}")
    except (OSError, ValueError, csv.Error) as error:
        raise LayerError(path, f"metadata that cannot be read ({error})", "an object of HEST's metadata",
                         "download it again") from None


def _number(value) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def _check_pitch(config: Config, location: pd.DataFrame, files: dict[str, Path], name: str) -> None:
    """Hold the distance of the spots against pitch_um. Raises DataError.

    Of Visium HD and Xenium it is the measured distance of the pooled bins.
    """
    metadata = _metadata(files["metadata"], name) if "metadata" in files else {}
    technology, stated = str(metadata.get("st_technology") or ""), _number(metadata.get("inter_spot_dist"))
    what = f"inter_spot_dist of {files['metadata'].name}" if "metadata" in files else ""
    scale = next((one.um_per_px for one in platform_sources(files)), None)
    pitch_px = median_spacing_px(location[["pixel_x", "pixel_y"]].to_numpy())
    measured = None if scale is None else float(f"{pitch_px * scale:.4g}")
    if technology.lower() in POOLED:
        stated = measured
        what = f"the distance of the pooled bins at {ESTIMATED}"
    elif stated and measured and abs(measured / config.pitch_um - 1) <= TOLERANCE < abs(stated / measured - 1):
        raise LayerError(files["metadata"],
                         f"inter_spot_dist {stated:g}, but spots {measured:g} um apart by its {ESTIMATED}",
                         "two that differ by 5% at most", "download it again, or correct inter_spot_dist")
    if stated is not None and abs(stated / config.pitch_um - 1) > TOLERANCE:
        raise DataError(files["counts"], f"{technology or 'spots'} {stated:g} um apart by {what}, and a config with "
                                         f"pitch_um: {config.pitch_um:g}", f"pitch_um: {stated:g}",
                        "set it in the config; sections of another technology need a config of their own")


def _notes(files: dict[str, Path], name: str) -> list[str]:
    """Remarks on the metadata for the step's line."""
    if "metadata" not in files:
        return [f"no metadata/{name}.json"]
    metadata = _metadata(files["metadata"], name)
    technology = str(metadata.get("st_technology") or "")
    notes = [f"{technology}: spots pooled by HEST"] if technology.lower() in POOLED else []
    embedded, estimated = _number(metadata.get(EMBEDDED)), _number(metadata.get(ESTIMATED))
    if embedded and estimated and abs(embedded / estimated - 1) > TOLERANCE:
        notes.append(f"{EMBEDDED} {embedded:.4g} is not used, {ESTIMATED} is {estimated:.4g}")
    return notes
