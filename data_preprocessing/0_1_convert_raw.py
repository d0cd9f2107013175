"""Step 0_1: bring raw data into the form of the data contract; create the dataset root.

INPUT   --raw_path: a folder in the form --format (her2st: see data_preprocessing/readers/her2st.py)
        --config: what is known of the dataset (default configs/<format>.yaml)
OUTPUT  <root>/dataset.yaml                     the config with samples and layers listed: those of this call
        <root>/imgs/<sample>/<layer>.<ext>      H&E, linked (--copy: copied), never re-encoded
        <root>/location/<sample>/<layer>.csv    barcode, pixel_x, pixel_y (level-0 px, spot centres), i, j (array column, row)
        <root>/counts/<sample>/<layer>.h5ad     raw counts (n_spots, n_genes) CSR float32, rows as in location

Spots and counts are intersected; the line of a layer says how many of each were dropped. A layer without an image is kept
(status: no image). Source: the form of the public her2st repository.

    python data_preprocessing/0_1_convert_raw.py --format her2st --raw_path her2st --root_path data/her2st --sample C --layer 2 --layer 3
"""
import sys; from pathlib import Path
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import argparse
import os
import shutil

from common import cli
from common.config import Config, SampleConfig, load_config, resolve, save_config
from common.errors import DataError
from common.io import atomic_path, write_h5ad, write_table
from common.layout import REPOSITORY, Layout
from data_preprocessing.readers import RawLayer, her2st

STEP = "0_1_convert_raw"
READERS = {"her2st": her2st}


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, sample=True, layer=True, workers=True)
    parser.add_argument("--format", choices=sorted(READERS), default=None, help="form of the raw data (default: raw_format of --config)")
    parser.add_argument("--raw_path", default=None, help="folder of the raw data (default: raw_path of --config)")
    parser.add_argument("--copy", action="store_true", help="copy the images instead of linking them")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return cli.guarded(lambda: convert(args))


def convert(args: argparse.Namespace) -> int:
    """Resolve the config, write it, convert the layers. Raises DataError; returns the exit code."""
    context, raw = open_raw(args)
    units = [(sample, layer) for sample in sorted(context.config.samples) for layer in context.config.layers_of(sample)]
    code = cli.run_jobs(STEP, __file__, context, units, lambda unit: layer_job(context, raw, *unit))
    for sample, layer in units:
        name = f"{sample}/{layer}"
        if context.layout.image(sample, layer) is None and cli.read_status(context.layout)[name][STEP] == "ok":
            cli.set_status(context.layout, STEP, name, "no image")
    return code


def open_raw(args: argparse.Namespace) -> tuple[cli.Context, Path]:
    """Check config and raw folder, create the root and its dataset.yaml: (context, raw folder). Raises DataError."""
    if not (args.format or args.config):
        raise DataError("command line", "neither --format nor --config", "one of them", f"add --format {'|'.join(sorted(READERS))}")
    file = Path(args.config) if args.config else REPOSITORY / "configs" / f"{args.format}.yaml"
    config = load_config(file)
    form, raw_path = args.format or config.raw_format, args.raw_path or config.raw_path
    if form is None or raw_path is None:
        missing = "raw_format" if form is None else "raw_path"
        raise DataError(file, f"no {missing}", "where and in which form the raw data are", "give --format and --raw_path")
    raw = Path(raw_path).resolve()
    if not raw.is_dir():
        raise DataError(raw, "no folder", "the raw data", "correct --raw_path")
    layout = Layout(Path(args.root_path or "."))
    listed = with_layers(config, READERS[form].list_layers(raw), file)
    resolve(listed if config.samples is not None else listed.model_copy(update={"folds": None}), layout, file)
    restricted = listed.restricted(args.sample, args.layer, file)
    if not restricted.samples:
        raise DataError(file, f"no layer {args.layer} in the chosen samples", "a layer of the raw data", "correct --layer")
    chosen = resolve(without_the_unlisted(restricted), layout, file).model_copy(update={"raw_format": form, "raw_path": str(raw)})
    save_config(chosen, layout.config)
    return cli.Context(chosen, layout, args, chosen), raw


def with_layers(config: Config, found: dict[str, list[int]], file: Path) -> Config:
    """The config with samples and layers listed: its own, else those found in the raw data. Raises DataError for one that is not there."""
    samples = config.samples if config.samples is not None else {name: SampleConfig() for name in found}
    for name, one in samples.items():
        missing = sorted(set(one.layers or []) - set(found.get(name, [])))
        if name not in found or missing:
            raise DataError(file, f"sample {name} {missing or ''}", f"samples and layers among {found}", "correct samples or --raw_path")
    return config.model_copy(update={"samples": {name: one if one.layers is not None else one.model_copy(update={"layers": found[name]})
                                                 for name, one in samples.items()}})


def without_the_unlisted(config: Config) -> Config:
    """Folds and known layers without what the config no longer lists; fewer than two folds left are none."""
    folds = [[name for name in fold if name in config.samples] for fold in config.folds or []]
    folds = [fold for fold in folds if fold]
    samples = {name: one.model_copy(update={"known_layers": [layer for layer in one.known_layers or [] if layer in one.layers] or None})
               for name, one in config.samples.items()}
    return config.model_copy(update={"samples": samples, "folds": folds if len(folds) > 1 else None})


def layer_job(context: cli.Context, raw: Path, sample: str, layer: int) -> cli.Job:
    """The conversion of one layer."""
    layout, reader = context.layout, READERS[context.config.raw_format]
    files = reader.raw_files(raw, sample, layer)
    outputs = {"location": layout.location(sample, layer), "counts": layout.counts(sample, layer)}
    if "image" in files:
        outputs["image"] = layout.new_image(sample, layer, files["image"].suffix.lower())

    def work() -> str:
        found = reader.read_layer(raw, sample, layer)
        if found.location is not None:
            write_table(outputs["location"], found.location)
        if found.counts is not None:
            write_h5ad(outputs["counts"], found.counts)
        if found.image is not None:
            place_image(found.image, outputs["image"], context.args.copy)
        return summary(found)

    return cli.Job(sample, layer, inputs=list(files.values()), outputs=[outputs[kind] for kind in files], work=work,
                   settings={"format": context.config.raw_format, "copy": context.args.copy})


def place_image(source: Path, target: Path, copy: bool) -> None:
    """Copy or link the image, as it is; an older file or link of that name is replaced at once."""
    if copy:
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    link = target.with_name(f".{target.name}.{os.getpid()}")
    link.symlink_to(source)
    os.replace(link, target)


def summary(found: RawLayer) -> str:
    """One line on what a layer has and what was dropped."""
    parts = ["no spots" if found.location is None else f"{len(found.location)} spots",
             "no counts" if found.counts is None else f"{found.counts.n_vars} genes",
             "no image" if found.image is None else f"image {found.image.name}"]
    parts += [f"dropped {number} {reason}" for reason, number in found.dropped.items() if number]
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
