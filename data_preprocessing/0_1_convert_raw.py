r"""Step 0_1: bring raw data into the form of the data contract; create the dataset root.

INPUT   --raw_path: a folder in the form --format: her2st, stnet, cscc or stahl (legacy ST), visium (Space Ranger
                folders), visium_hd (its binned_outputs, pooled to spots), h5ad (AnnData with positions, an image),
                hest (HEST-1k), spatialdata (.zarr stores) or asign (the paper's processed archives);
                data_preprocessing/readers/<format>.py lists the files that are read
        --config: YAML of the dataset (default configs/<format>.yaml); samples.<name>.raw assigns folders or files to
                sections
OUTPUT  <root>/dataset.yaml                     the config with samples and layers listed; the source of each section
                                                (her2st: none), and its um per px where the dataset's keys do not state
                                                it (by its spots, else by its image; common/geometry.py). A person's
                                                edits stay (common/merge.py). With --sample or --layer, or with another
                                                --raw_path, earlier conversions stay listed too
        <root>/imgs/<sample>/<layer>.<ext>      H&E, linked (--copy: copied; .gz: unpacked), never re-encoded; PNG from
                                                an h5ad, tiled TIFF from a .zarr
        <root>/imgs/<sample>/<layer>.geojson    its tissue, if a GeoJSON lies beside the image (names: placing.py)
        <root>/location/<sample>/<layer>.csv    barcode, pixel_x, pixel_y (level-0 px, spot centres),
                                                i, j (array column, row)
        <root>/counts/<sample>/<layer>.h5ad     raw counts (n_spots, n_genes) CSR float32, rows as in location
        <root>/not_taken.csv                    path, reason: what looks like input and is not taken
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
from itertools import chain

from common import cli, jobs
from common.errors import LayerError
from common.exit_codes import guarded
from common.files import files_in
from common.io import write_h5ad, write_table
from common.names import visible
from common.status import read_status, set_status
from common.written import Written
from data_preprocessing import archive
from data_preprocessing.listing import units_of
from data_preprocessing.packed import plain_name
from data_preprocessing.placing import bring_image, make_the_only_image, name_under_root, outline_of, place_outline
from data_preprocessing.raw_sources import STEP, open_raw
from data_preprocessing.readers import (
    RawLayer,
    asign,
    cscc,
    h5ad,
    her2st,
    hest,
    spatialdata_zarr,
    stahl,
    stnet,
    visium,
    visium_hd,
)

READERS = {"asign": asign, "cscc": cscc, "h5ad": h5ad, "her2st": her2st, "hest": hest, "spatialdata": spatialdata_zarr,
           "stahl": stahl, "stnet": stnet, "visium": visium, "visium_hd": visium_hd}


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
    context, raw, bad = open_raw(args, READERS)
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


def layer_job(context: jobs.Context, raw: Path, sample: str, layer: int, wrong: LayerError | None = None) -> jobs.Job:
    """The conversion of one layer. Raises `wrong`, the error already found in it."""
    if wrong is not None:
        raise wrong
    layout, config, reader = context.layout, context.config, READERS[context.config.raw_format]
    written = Written(layout.written(STEP, sample, layer), layout.root)
    files = reader.raw_files(raw, config, sample, layer)
    outputs = {"location": layout.location(sample, layer), "counts": layout.counts(sample, layer)}
    if "image" in files:
        stored = getattr(reader, "STORED_IMAGE_SUFFIX", ".png")
        outputs["image"] = layout.new_image(sample, layer, name_under_root(plain_name(files["image"]), stored))
    outline = outline_of(files["image"]) if "image" in files else None

    def work() -> str:
        found = reader.read_layer(raw, config, sample, layer)
        if found.location is not None:
            with written.writing(outputs["location"]) as temporary:
                write_table(temporary, found.location)
        if found.counts is not None:
            with written.writing(outputs["counts"]) as temporary:
                write_h5ad(temporary, found.counts)
        if found.image is not None:
            bring_image(found.image, outputs["image"], context.args.copy, written)
            make_the_only_image(layout, sample, layer, outputs["image"], written)
        place_outline(outline, layout.outline(sample, layer), context.args.copy, written)
        return summary(found) + (f", tissue by {outline.name}" if outline else "")

    inputs = [*chain.from_iterable(map(files_in, files.values())), *([outline] if outline else [])]
    return jobs.Job(sample, layer, inputs,
                   outputs=[outputs[kind] for kind in files if kind in outputs], work=work,
                   settings={"format": config.raw_format, "copy": context.args.copy,
                             **(reader.settings(config) if hasattr(reader, "settings") else {})})


def convert_archive(context: jobs.Context, raw: Path) -> int:
    """Convert processed archives, a sample at a time. Raises DataError; returns the exit code."""
    layout, config, samples = context.layout, context.config, sorted(context.config.samples)
    archive.write_genes(layout, config, config.n_genes)

    def sample_job(sample: str) -> jobs.Job:
        names = {layer: config.samples[sample].raw[layer] for layer in config.layers_of(sample)}
        folders = [asign.picture_folder(raw, name) for name in names.values()]
        n_pictures = [len(visible(folder, "*.png")) for folder in folders]  # too many to digest
        return jobs.Job(sample, None, [layout.genes, *asign.sample_files(raw, sample)],
                       archive.outputs(layout, config, raw, sample),
                       lambda: archive.write_sample(raw, layout, config, sample),
                       {"format": "asign", "pitch_px": config.pitch_px, "layers": names, "pictures": n_pictures})
    units = [(sample, None) for sample in samples]
    return jobs.run_jobs(STEP, __file__, context, units, lambda unit: sample_job(unit[0]))


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
