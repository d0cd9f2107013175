r"""Step 0_1: bring raw data into the form of the data contract; create the dataset root.

INPUT   --raw_path: a folder in the form --format: her2st or stnet (legacy ST), visium (Space Ranger folders), h5ad
                (AnnData with obsm['spatial'], an image), spatialdata (.zarr stores) or asign (the paper's
                processed archives);
                data_preprocessing/readers/<format>.py lists the files that are read
        --config: YAML of the dataset (default configs/<format>.yaml); samples.<name>.raw assigns folders or files to
                sections
OUTPUT  <root>/dataset.yaml                     the config with samples and layers listed; stnet, visium, h5ad: the
                                                source of each section, and its um per px where the dataset's keys do
                                                not state it (measured on its spots, else by its image;
                                                common/geometry.py). A person's edits stay (common/merge.py).
                                                With --sample or --layer, or with another --raw_path, earlier
                                                conversions stay listed too
        <root>/imgs/<sample>/<layer>.<ext>      H&E, linked (--copy: copied), never re-encoded; PNG from an h5ad,
                                                tiled TIFF from a .zarr
        <root>/location/<sample>/<layer>.csv    barcode, pixel_x, pixel_y (level-0 px, spot centres),
                                                i, j (array column, row)
        <root>/counts/<sample>/<layer>.h5ad     raw counts (n_spots, n_genes) CSR float32, rows as in location
        asign: instead of imgs/ and counts/, the output of steps 5_1 to 7 and of all 3D steps (a 2D archive: up to
        step 7), ready for training

Spots and counts are intersected; the line of a section gives the number dropped of each. A section without an image is
kept (status: no image), and so is one that is only an image.

    python data_preprocessing/0_1_convert_raw.py --format her2st --raw_path her2st --root_path data/her2st \
        --sample C --layer 2 --layer 3
    python data_preprocessing/0_1_convert_raw.py --format visium --raw_path DIR --root_path data/mine
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import argparse
import os
import shutil
from collections.abc import Container
from itertools import chain
from types import ModuleType

from common import cli, jobs, locks
from common.config import Config, SampleConfig, absent_of_folds, load_config, resolve
from common.errors import DataError, LayerError
from common.exit_codes import guarded
from common.geometry import (
    agreed,
    check_scale,
    config_sources,
    image_sources,
    no_source,
    pitches_of,
    spot_sources,
    stated_geometry,
)
from common.io import write_h5ad, write_picture, write_table
from common.layout import IMAGE_SUFFIXES, REPOSITORY, Layout
from common.merge import earlier_config, write_merged
from common.slide import stated_pixel_size_um
from common.status import read_status, set_status
from common.written import Written, content
from data_preprocessing import archive
from data_preprocessing.listing import (
    folds_among,
    listed_units,
    units_of,
    well_named,
    with_earlier,
    with_layers_of_both,
    with_sources_of,
    with_sources_of_a_person,
)
from data_preprocessing.readers import (
    RawLayer,
    asign,
    files_in,
    h5ad,
    her2st,
    spatialdata_zarr,
    spot_pitch_px,
    stnet,
    visium,
)

STEP = "0_1_convert_raw"
READERS = {"asign": asign, "her2st": her2st, "stnet": stnet, "visium": visium, "h5ad": h5ad,
           "spatialdata": spatialdata_zarr}


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, sample=True, layer=True, workers=True)
    parser.add_argument("--format", choices=sorted(READERS), default=None,
                        help="form of the raw data (default: raw_format of --config)")
    parser.add_argument("--raw_path", default=None, help="folder of the raw data (default: raw_path of --config)")
    parser.add_argument("--copy", action="store_true", help="copy the images instead of linking them")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return guarded(lambda: convert(args))


def convert(args: argparse.Namespace) -> int:
    """Resolve the config, write it, convert the layers. Raises DataError; returns the exit code."""
    context, raw, bad = open_raw(args)
    config, layout = context.config, context.layout
    if config.raw_format == "asign":
        return convert_archive(context, raw)
    units = units_of(config)
    code = jobs.run_jobs(STEP, __file__, context, units, lambda unit: layer_job(context, raw, *unit, bad.get(unit)))
    for sample, layer in units:
        name = f"{sample}/{layer}"
        if layout.image(sample, layer) is None and read_status(layout)[name][STEP] == "ok":
            set_status(layout, STEP, name, "no image")
    return code


def open_raw(args: argparse.Namespace) -> tuple[jobs.Context, Path, dict[tuple[str, int], LayerError]]:
    """Check config and raw folder, create the root and its dataset.yaml: (context, raw folder, bad layers).

    Raises DataError.
    """
    file, config, form, raw = chosen_raw(args)
    layout = Layout(Path(args.root_path or "."))
    earlier = earlier_config(layout, STEP)
    of_raw = with_layers(config, READERS[form].list_layers(raw, config), raw, file)
    listed = with_sources_of_a_person(of_raw, *earlier, raw, layout.config)
    check_scale(listed, file)
    listed, bad = with_pixel_sizes(listed, READERS[form], raw, shipped=file.resolve().parent == REPOSITORY / "configs")
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
    print_sources(converted, bad)
    return jobs.Context(converted, layout, args, now), raw, bad


def chosen_raw(args: argparse.Namespace) -> tuple[Path, Config, str, Path]:
    """(config file, config, format, raw folder) of the command line. Raises DataError."""
    if not (args.format or args.config):
        raise DataError("command line", "neither --format nor --config", "one of them",
                        f"add --format {'|'.join(sorted(READERS))}")
    file = Path(args.config) if args.config else REPOSITORY / "configs" / f"{args.format}.yaml"
    config = load_config(file)
    form, raw_path = args.format or config.raw_format, args.raw_path or config.raw_path
    if form is None or raw_path is None:
        missing = "raw_format" if form is None else "raw_path"
        raise DataError(file, f"no {missing}", "folder and form of the raw data", "give --format and --raw_path")
    raw = Path(raw_path).resolve()
    if not raw.is_dir():
        raise DataError(raw, "no folder", "the raw data", "correct --raw_path")
    return file, config, form, raw


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
                raise DataError(file, f"samples.{name}.images.{layer}: {image}, which is not there",
                                f"an image file under {raw}", "correct the name")
        layers = there[name] if one.layers is None else one.layers
        samples[name] = one.model_copy(update={"layers": layers, "raw": found[name].raw})
    return config.model_copy(update={"samples": samples})


def with_pixel_sizes(config: Config, reader: ModuleType, raw: Path,
                     shipped: bool) -> tuple[Config, dict[tuple[str, int], LayerError]]:
    """The config with pixel_size_um of every section whose um per px the dataset's own keys do not state.

    Also returns the sections whose scale is unknown or contradictory: they are left out. shipped: the config is one of
    this repository; where a section's spots contradict its pitch_px for all, the spots are right; a line reports it.
    """
    if reader is asign:
        return config, {}
    samples, bad = {}, {}
    for name, one in config.samples.items():
        sizes = dict(one.pixel_size_um)
        for layer in sorted(set(one.layers) - set(one.skip)):
            try:
                size = um_per_px_of_raw(config, reader, raw, name, layer, shipped)
            except LayerError as error:
                bad[name, layer] = error
                continue
            if size is not None:
                sizes[layer] = size
        samples[name] = one.model_copy(update={"pixel_size_um": dict(sorted(sizes.items()))})
    return config.model_copy(update={"samples": samples}), bad


def um_per_px_of_raw(config: Config, reader: ModuleType, raw: Path, sample: str, layer: int,
                     shipped: bool) -> float | None:
    """Scale of a section in um per level-0 px, six digits; None if dataset.yaml states it for all.

    Raises LayerError if no source states it, or two sources differ.
    """
    stated = config_sources(config, sample, layer)
    location = reader.read_positions(raw, config, sample, layer)
    files = reader.raw_files(raw, config, sample, layer)
    measured, image = [], files.get("image")
    if location is not None:
        xy, ij = location[["pixel_x", "pixel_y"]].to_numpy(), location[["i", "j"]].to_numpy()
        pitches = pitches_of(xy, ij, config.array) or (() if stated else (spot_pitch_px(location, files["location"]),))
        measured = spot_sources(pitches, config.pitch_um, files["location"])
    platform = reader.platform_sources(files) if hasattr(reader, "platform_sources") else []
    images = image_sources(stated_pixel_size_um(image), image) if image else []
    sources = [*stated, *measured, *platform, *images]
    if not sources:
        if image is None:
            raise LayerError(raw, f"neither spots nor an image of section {sample}/{layer}", "one of them",
                             "add it, or leave the section out")
        raise no_source(image, sample, layer)
    only_for_all = shipped and layer not in config.samples[sample].pixel_size_um
    if only_for_all and measured and stated and stated[0].contradicts(measured[0]):
        agreed([*measured, *platform, *images], f"{sample}/{layer}")
        print(f"{STEP}  {sample}/{layer}: not {stated[0]}, but {measured[0]}")
        return measured[0].um_per_px
    chosen = agreed(sources, f"{sample}/{layer}")
    return None if stated else float(f"{chosen.um_per_px:.6g}")


def print_sources(config: Config, bad: Container[tuple[str, int]]) -> None:
    """Print one line a layer: its folder or file, and its pixel size. The order of the layers is the z order."""
    for name, one in config.samples.items():
        for layer in config.layers_of(name):
            source = one.raw.get(layer) or one.images.get(layer)
            if source:
                geometry = None if (name, layer) in bad else stated_geometry(config, name, layer)
                size = "no pixel size"
                if geometry:
                    size = f"{geometry.um_per_px:.4g} um/px, pitch {geometry.pitch_px:.4g} px"
                print(f"{STEP}  {name}/{layer} is {source}: {size}")


def without_the_unlisted(config: Config) -> Config:
    """The config with folds and known layers of listed samples and layers only; fewer than two folds left are none."""
    folds = folds_among(config.folds, config.samples) if isinstance(config.folds, list) else config.folds
    samples = {}
    for name, one in config.samples.items():
        known = [layer for layer in one.known_layers or [] if layer in one.layers]
        samples[name] = one.model_copy(update={"known_layers": known or None})
    return config.model_copy(update={"samples": samples, "folds": folds})


def layer_job(context: jobs.Context, raw: Path, sample: str, layer: int, wrong: LayerError | None = None) -> jobs.Job:
    """The conversion of one layer. Raises `wrong`, the error already found in it."""
    if wrong is not None:
        raise wrong
    layout, config, reader = context.layout, context.config, READERS[context.config.raw_format]
    written = Written(layout.written(STEP, sample, layer), layout.root)
    files = reader.raw_files(raw, config, sample, layer)
    outputs = {"location": layout.location(sample, layer), "counts": layout.counts(sample, layer)}
    if "image" in files:
        suffix = files["image"].suffix.lower()
        stored = getattr(reader, "STORED_IMAGE_SUFFIX", ".png")
        outputs["image"] = layout.new_image(sample, layer, suffix if suffix in IMAGE_SUFFIXES else stored)

    def work() -> str:
        found = reader.read_layer(raw, config, sample, layer)
        if found.location is not None:
            with written.writing(outputs["location"]) as temporary:
                write_table(temporary, found.location)
        if found.counts is not None:
            with written.writing(outputs["counts"]) as temporary:
                write_h5ad(temporary, found.counts)
        if isinstance(found.image, Path):
            place_image(found.image, outputs["image"], context.args.copy, written)
        elif found.image is not None:
            with written.writing(outputs["image"]) as temporary:
                found.image(temporary) if callable(found.image) else write_picture(temporary, found.image)
        if found.image is not None:
            make_the_only_image(layout, sample, layer, outputs["image"], written)
        return summary(found)

    return jobs.Job(sample, layer, inputs=list(chain.from_iterable(map(files_in, files.values()))),
                   outputs=[outputs[kind] for kind in files if kind in outputs], work=work,
                   settings={"format": config.raw_format, "copy": context.args.copy})


def convert_archive(context: jobs.Context, raw: Path) -> int:
    """Convert processed archives, a sample at a time. Raises DataError; returns the exit code."""
    layout, config, samples = context.layout, context.config, sorted(context.config.samples)
    archive.write_genes(layout, config, config.n_genes)

    def sample_job(sample: str) -> jobs.Job:
        names = {layer: config.samples[sample].raw[layer] for layer in config.layers_of(sample)}
        folders = [asign.picture_folder(raw, name) for name in names.values()]
        n_pictures = [len(list(folder.glob("*.png"))) for folder in folders]  # too many to digest
        return jobs.Job(sample, None, [layout.genes, *asign.sample_files(raw, sample)],
                       archive.outputs(layout, config, raw, sample),
                       lambda: archive.write_sample(raw, layout, config, sample),
                       {"format": "asign", "pitch_px": config.pitch_px, "layers": names, "pictures": n_pictures})
    units = [(sample, None) for sample in samples]
    return jobs.run_jobs(STEP, __file__, context, units, lambda unit: sample_job(unit[0]))


def place_image(source: Path, target: Path, copy: bool, written: Written) -> None:
    """Copy or link the image unchanged; our older file or link of that name is replaced, a person's is set aside.

    A .mrxs is copied with the folder of its pixels.
    """
    if copy and source.suffix.lower() == ".mrxs" and source.with_suffix("").is_dir():
        shutil.copytree(source.with_suffix(""), target.with_suffix(""), dirs_exist_ok=True)
    if copy:
        with written.writing(target) as temporary:
            shutil.copyfile(source, temporary)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    link = target.with_name(f".{target.name}.{os.getpid()}")
    link.symlink_to(source.resolve())
    written.take_place(target, content(link))
    os.replace(link, target)


def make_the_only_image(layout: Layout, sample: str, layer: int, image: Path, written: Written) -> None:
    """Remove earlier images of this layer; a person's link is set aside. Raises LayerError for a person's file."""
    for other in layout.images(sample, layer):
        if other != image:
            if not other.is_symlink() and not written.is_ours(other):
                raise LayerError(other, f"another image than {image.name}", "one image a section",
                                 "remove the one that is not this section's")
            written.remove([other])


def summary(found: RawLayer) -> str:
    """One line on the content of a layer and the dropped entries."""
    image = f"image {found.image.name}" if isinstance(found.image, Path) else "image"
    parts = ["no spots" if found.location is None else f"{len(found.location)} spots",
             "no counts" if found.counts is None else f"{found.counts.n_vars} genes",
             "no image" if found.image is None else image,
             found.note, *(f"dropped {number} {reason}" for reason, number in found.dropped.items() if number)]
    return ", ".join(filter(None, parts))


if __name__ == "__main__":
    sys.exit(main())
