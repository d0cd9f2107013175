"""What step 0_1 converts: the command line, the config and the raw data become samples and sections."""
import argparse
from collections.abc import Container
from pathlib import Path
from types import ModuleType

from common import jobs, locks
from common.config import Config, SampleConfig, absent_of_folds, load_config, resolve
from common.errors import DataError, LayerError
from common.geometry import check_scale, stated_geometry
from common.layout import REPOSITORY, Layout
from common.merge import earlier_config, write_merged
from data_preprocessing.blocks import grouped, unlike_areas
from data_preprocessing.listing import (
    folds_among,
    listed_units,
    well_named,
    with_earlier,
    with_layers_of_both,
    with_sources_of,
    with_sources_of_a_person,
)
from data_preprocessing.names_on_disk import near_names, with_names_on_disk
from data_preprocessing.not_taken import report_not_taken
from data_preprocessing.other_form import list_sections
from data_preprocessing.raw_scale import with_pixel_sizes
from data_preprocessing.readers import asign

STEP = "0_1_convert_raw"


Readers = dict[str, ModuleType]  # {format: reader}


def open_raw(args: argparse.Namespace,
             readers: Readers) -> tuple[jobs.Context, Path, dict[tuple[str, int], LayerError]]:
    """Check config and raw folder, create the root and its dataset.yaml: (context, raw folder, bad layers).

    Raises DataError.
    """
    file, config, form, raw = chosen_raw(args, readers)
    layout = Layout(Path(args.root_path or "."))
    earlier = earlier_config(layout, STEP)
    found = list_sections(readers, form, raw, config)
    of_raw = with_layers(config, grouped(found, readers[form], raw, config, STEP, file), raw, file)
    listed = with_sources_of_a_person(of_raw, *earlier, raw, layout.config)
    check_scale(listed, file)
    shipped = file.resolve().parent == REPOSITORY / "configs"
    listed, bad, n_spots = with_pixel_sizes(listed, readers[form], raw, shipped, STEP)
    resolve(listed if config.samples is not None else listed.model_copy(update={"folds": None}), layout, file)
    restricted = listed.restricted(args.sample, args.layer, file)
    if not restricted.samples:
        raise DataError(file, f"no section {args.layer} in the chosen samples", "a section of the raw data",
                        "correct --layer")
    if form == "asign":
        n_genes = asign.read_n_genes(raw, sorted(restricted.samples))
        restricted = restricted.model_copy(update={"n_genes": n_genes})
    whole = restricted
    if args.sample or args.layer or any(one is not None and one.raw_path != str(raw) for one in earlier):
        whole = with_earlier(restricted, listed, earlier[0] or earlier[1])
    for line in absent_of_folds(list(whole.samples), whole.folds):
        print(f"{STEP}  {line}")
    new = resolve(without_the_unlisted(whole), layout, file)
    new = with_sources_of(new, of_raw, *earlier).model_copy(update={"raw_format": form, "raw_path": str(raw)})
    locks.hold(layout.root / "imgs")
    now = write_merged(layout, STEP, new, file, listed_units(restricted) if args.sample or args.layer else [])
    converted = with_layers_of_both(now, listed if form == "asign" else restricted, restricted)  # whole archive samples
    converted = converted.model_copy(update={"n_genes": new.n_genes})  # an archive: those of its labels
    print_sources(converted, bad, raw)
    unlike_areas(n_spots, listed, STEP)
    report_not_taken(raw, listed, readers[form], form, layout, STEP, stated=config.samples is not None)
    return jobs.Context(converted, layout, args, now), raw, bad


def chosen_raw(args: argparse.Namespace, readers: Readers) -> tuple[Path, Config, str, Path]:
    """(config file, config, format, raw folder) of the command line. Raises DataError."""
    if not (args.format or args.config):
        raise DataError("command line", "neither --format nor --config", "one of them",
                        f"add --format {'|'.join(sorted(readers))}")
    file = Path(args.config) if args.config else REPOSITORY / "configs" / f"{args.format}.yaml"
    config = load_config(file)
    form, raw_path = args.format or config.raw_format, args.raw_path or config.raw_path
    if form is None or raw_path is None:
        missing = "raw_format" if form is None else "raw_path"
        raise DataError(file, f"no {missing}", "folder and form of the raw data", "give --format and --raw_path")
    raw = Path(raw_path).resolve()
    if not raw.is_dir():
        raise DataError(raw, "no folder", "the raw data", "correct --raw_path")
    config = with_names_on_disk(config, raw)
    if form != "asign":  # one file of an archive has all sections of a sample
        require_entries_once(config, file)
    return file, config, form, raw


def require_entries_once(config: Config, file: Path) -> None:
    """Raise DataError if `raw` of a sample gives one entry to two sections."""
    for name, one in (config.samples or {}).items():
        entries = list(one.raw.values())
        twice = [entry for entry in entries if entries.count(entry) > 1]
        if twice:
            raise DataError(file, f"samples.{name}.raw: {one.raw}", f"every entry once; {twice[0]} is there twice",
                            f"correct samples.{name}.raw")


def with_layers(config: Config, found: dict[str, SampleConfig], raw: Path, file: Path) -> Config:
    """The config with samples and layers listed: its own, else those found in the raw data.

    Raises DataError for one that is not there.
    """
    if config.samples is None:
        found = well_named(found, raw, STEP)
    there = {name: one.layers for name, one in found.items()}
    samples = {}
    for name, one in (found if config.samples is None else config.samples).items():
        missing = sorted(set(one.layers or []) - set(there.get(name, [])))
        if name not in there or missing:
            raise DataError(file, f"sample {name} {missing or ''}", f"samples and sections among {there}",
                            "correct samples or --raw_path")
        if one.raw and not found[name].raw:
            raise DataError(file, f"samples.{name}.raw",
                            "no such key for this format: its file names give sample and section", "remove it")
        for layer, image in one.images.items():
            if not (raw / image).is_file():
                there = "a folder" if (raw / image).is_dir() else "which is not there"
                near = ", ".join(near_names(raw, image))
                raise DataError(file, f"samples.{name}.images.{layer}: {image}, {there}",
                                f"an image file under {raw}", f"correct the name{near and f'; there is {near}'}")
        layers = there[name] if one.layers is None else one.layers
        samples[name] = one.model_copy(update={"layers": layers, "raw": found[name].raw})
    return config.model_copy(update={"samples": samples})


def print_sources(config: Config, bad: Container[tuple[str, int]], raw: Path) -> None:
    """Print one line a layer: its folder or file, and its pixel size. The order of the layers is the z order."""
    for name, one in config.samples.items():
        for layer in config.layers_of(name):
            source = one.raw.get(layer) or one.images.get(layer)
            if source:
                geometry = None if (name, layer) in bad else stated_geometry(config, name, layer)
                size = "no pixel size"
                if geometry:
                    size = f"{geometry.um_per_px:.4g} um/px, pitch {geometry.pitch_px:.4g} px"
                print(f"{STEP}  {name}/{layer} is {raw.name if source == '.' else source}: {size}")


def without_the_unlisted(config: Config) -> Config:
    """The config with folds and known layers of listed samples and layers only; fewer than two folds left are none."""
    folds = folds_among(config.folds, config.samples)
    samples = {}
    for name, one in config.samples.items():
        known = [layer for layer in one.known_layers or [] if layer in one.layers]
        samples[name] = one.model_copy(update={"known_layers": known or None})
    return config.model_copy(update={"samples": samples, "folds": folds})
