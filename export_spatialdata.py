"""Write the predictions of a run as SpatialData, for napari-spatialdata and spatialdata-plot.

INPUT   <save_path>/imputed/<sample>/<layer>.h5ad         predict_3d.py or main.py
        <root>/imgs/, location/, counts/                  images, spots, raw counts of measured sections
        <root>/registration/<sample>/to_middle/           Step3, if the sample is registered
OUTPUT  <save_path>/spatialdata/<sample>.zarr, one store a sample, with these parts for every section <n>:
            images   section_<n>_image      the H&E, its longer side at most --max_side_px; several scales
            shapes   section_<n>_spots      circles, level-0 px; radius: that of a spot's contour
            tables   section_<n>            imputed/<sample>/<n>.h5ad as it is: X, layers, obs, var, uns
                     section_<n>_counts     raw counts, where measured
            systems  section_<n>            level-0 px of the section's own image; the image lies there at its full size
                     section_<n>_um         the same in um
                     aligned                um: all registered sections on the middle one
        attrs["asign"] of the store: z, um per px and largest bend of every section, and the unit of every system

SpatialData has the centre of the first pixel at 0.5: shapes lie 0.5 px right of and below obsm['spatial'], and on the
same tissue. A system has affine transformations only. Where a section is bent (SyN), `aligned` leaves the bend out; a
line says how large it is, and obsm['spatial_3d'] has the exact positions.

    python export_spatialdata.py --root_path demo_data
"""
import argparse
import math
import os
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np

from common import cli, jobs, locks, run_folder
from common.errors import DataError, LayerError
from common.exit_codes import guarded
from common.io import read_h5ad, read_json, read_location
from common.layout import RunLayout
from common.slide import fitted_size, open_pyramid, open_slide
from common.z import z_um_of
from registration.transforms import Transform, compose, displacement, read_bending

STEP = "export_spatialdata"
HALF_PX = 0.5        # the centre of the first pixel, as SpatialData counts
SMALLEST_PX = 1024   # the coarsest scale of an image has at most this side
TILE_PX = 2048       # a level-0 image is read by windows of this side
UM = "micrometer"
FROM_CORNER = np.array([[1, 0, HALF_PX], [0, 1, HALF_PX]])
FROM_CENTRE = np.array([[1, 0, -HALF_PX], [0, 1, -HALF_PX]])


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, sample=True, layer=True, done=False)
    add = parser.add_argument
    add("--save_path", default=None, help="run folder (default: the last one under <root>/runs)")
    add("--max_side_px", type=int, default=4096,
        help="longer side of the images in the store; 0: level 0 as it is (default 4096)")
    return parser


# parts of a store ------------------------------------------------------------------------------------
def axes_affine(matrix: np.ndarray):
    """The transformation of SpatialData for a (2, 3) matrix on x and y."""
    from spatialdata.transformations import Affine
    return Affine(np.vstack([matrix, [0, 0, 1]]), input_axes=("x", "y"), output_axes=("x", "y"))


def systems_of(context: jobs.Context, sample: str, layer: int) -> tuple[dict[str, np.ndarray], float]:
    """({system: (2, 3), level-0 px from the corner -> the system}, largest bend that `aligned` leaves out, um)."""
    layout, um = context.layout, context.geometry(sample, layer).um_per_px
    name = f"section_{layer}"
    systems = {name: np.eye(2, 3), f"{name}_um": np.eye(2, 3) * um}
    path = layout.to_middle(sample, layer)
    if not path.is_file():
        return systems, 0.0
    made_by = "Step3_registertoMiddle_ANTs.py"
    transform, _ = read_bending(path, layout.to_middle_warp(sample, layer), made_by)
    middle_um = context.geometry(sample, read_json(layout.quality(sample), made_by)["middle"]).um_per_px
    systems["aligned"] = compose(np.eye(2, 3) * middle_um, FROM_CORNER, transform.matrix, FROM_CENTRE)
    return systems, largest_bend_px(transform) * middle_um


def largest_bend_px(transform: Transform) -> float:
    """The longest displacement on the nodes of the field, px; 0 without a field."""
    if transform.warp is None:
        return 0.0
    height, width = transform.warp.field.shape[:2]
    nodes = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)  # (h, w, 2)
    at = nodes @ transform.warp.to_fixed[:, :2].T + transform.warp.to_fixed[:, 2]
    return float(np.linalg.norm(displacement(transform.warp, at), axis=-1).max())


def image_element(path: Path, max_side_px: int, systems: dict[str, np.ndarray]):
    """The H&E of a section, (c, y, x) uint8 in several scales, and its level-0 size. Raises LayerError."""
    from spatialdata.models import Image2DModel
    slide = open_slide(path)
    size = fitted_size(slide.size_px, max_side_px) if max_side_px else slide.size_px
    pixels = tiles_of(path, size) if max_side_px == 0 and open_pyramid(path) else np.moveaxis(
        slide.read(0, 0, *slide.size_px, out_px=size), -1, 0)  # (3, h, w)
    shrunk = np.diag([slide.size_px[0] / size[0], slide.size_px[1] / size[1], 1])[:2]  # px of the store -> level-0 px
    placed = {name: axes_affine(compose(matrix, shrunk)) for name, matrix in systems.items()}
    n_halves = max(0, math.ceil(math.log2(max(size) / SMALLEST_PX)))
    return Image2DModel.parse(pixels, dims=("c", "y", "x"), c_coords=["r", "g", "b"], transformations=placed,
                              scale_factors=[2] * n_halves or None, chunks=(3, 512, 512)), slide.size_px


def tiles_of(path: Path, size_px: tuple[int, int]):
    """A level-0 image as a dask array (3, h, w) that reads a window when it is needed."""
    import dask
    import dask.array
    width, height = size_px

    def window(left: int, top: int, right: int, bottom: int) -> np.ndarray:
        return np.moveaxis(open_slide(path).read(left, top, right - left, bottom - top), -1, 0)
    rows = []
    for top in range(0, height, TILE_PX):
        bottom, row = min(top + TILE_PX, height), []
        for left in range(0, width, TILE_PX):
            right = min(left + TILE_PX, width)
            tile = dask.delayed(window)(left, top, right, bottom)
            row.append(dask.array.from_delayed(tile, (3, bottom - top, right - left), np.uint8))
        rows.append(dask.array.concatenate(row, axis=2))
    return dask.array.concatenate(rows, axis=1)


def spots_element(barcodes: list[str], xy: np.ndarray, radius_px: float, systems: dict[str, np.ndarray]):
    """Circles, an entry a barcode. xy (n, 2): level-0 px counted from the centre of the first pixel."""
    from spatialdata.models import ShapesModel
    placed = {name: axes_affine(matrix) for name, matrix in systems.items()}
    return ShapesModel.parse(xy + HALF_PX, geometry=0, radius=radius_px, index=barcodes, transformations=placed)


def table_element(adata, region: str):
    """A table whose rows annotate the spots of `region` by their barcodes; everything else as it is."""
    import pandas as pd
    from spatialdata.models import TableModel
    adata.obs["region"] = pd.Categorical([region] * adata.n_obs)
    adata.obs["barcode"] = adata.obs_names.to_numpy()
    return TableModel.parse(adata, region=region, region_key="region", instance_key="barcode")


# a section and a sample ------------------------------------------------------------------------------
def section_parts(context: jobs.Context, run: RunLayout, sample: str, layer: int,
                  max_side_px: int) -> tuple[dict, dict]:
    """({kind: {name: element}}, what attrs say of the section). Raises LayerError."""
    layout, name = context.layout, f"section_{layer}"
    imputed = read_h5ad(run.imputed(sample, layer), "predict_3d.py or main.py")
    geometry, (systems, bend_um) = context.geometry(sample, layer), systems_of(context, sample, layer)
    barcodes, xy = imputed.obs_names.tolist(), np.asarray(imputed.obsm["spatial"], np.float64)
    if layout.location(sample, layer).is_file():
        location = read_location(layout.location(sample, layer)).set_index("barcode")
        there = location.reindex(barcodes)[["pixel_x", "pixel_y"]].to_numpy()
        if not (np.abs(there - xy) < HALF_PX).all():
            raise LayerError(run.imputed(sample, layer), "spots that are not those of the section",
                             str(layout.location(sample, layer)), "run predict_3d.py (2D: main.py) again")
        barcodes, xy = location.index.tolist(), location[["pixel_x", "pixel_y"]].to_numpy()
    parts = {"images": {}, "tables": {name: table_element(imputed, f"{name}_spots")},
             "shapes": {f"{name}_spots": spots_element(barcodes, xy, geometry.contour_radius_px, systems)}}
    said = {"z_um": float(z_um_of(context.all_samples, sample, layer)), "um_per_px": geometry.um_per_px,
            "systems": sorted(systems), "largest_bend_um": bend_um}
    image = layout.image(sample, layer)
    if image is not None:
        parts["images"][f"{name}_image"], said["size_px"] = image_element(image, max_side_px, systems)
    if layout.counts(sample, layer).is_file():
        counts = read_h5ad(layout.counts(sample, layer), "0_1_convert_raw.py")
        parts["tables"][f"{name}_counts"] = table_element(counts, f"{name}_spots")
    return parts, said


def export_sample(context: jobs.Context, run: RunLayout, sample: str, args: argparse.Namespace) -> bool:
    """Write the store of one sample; False if no section of it can be written. Raises DataError."""
    import spatialdata
    kinds: dict[str, dict] = {"images": {}, "shapes": {}, "tables": {}}
    sections, target = {}, run.spatialdata(sample)
    require_free(target, args.overwrite)
    for layer in context.config.layers_of(sample):
        try:
            parts, said = section_parts(context, run, sample, layer, args.max_side_px)
        except LayerError as error:
            print(f"{STEP}  {sample}/{layer}: left out: {error}", file=sys.stderr)
            continue
        for kind, elements in parts.items():
            kinds[kind] |= elements
        sections[str(layer)] = said
        print(f"{STEP}  {sample}/{layer}: {section_line(parts, said, layer)}")
    if not sections:
        return False
    units = {}
    for said in sections.values():
        units |= {name: UM if name == "aligned" or name.endswith("_um") else "pixel" for name in said["systems"]}
    data = spatialdata.SpatialData(**kinds, attrs={"asign": {
        "dataset": context.config.dataset, "sample": sample, "sections": sections, "units": units}})
    write_store(data, target, units)
    print(f"{STEP}  {sample}: {len(sections)} sections -> {target}")
    return True


def section_line(parts: dict, said: dict, layer: int) -> str:
    """What a section has, and what is approximated."""
    found = [f"{len(parts['shapes'][f'section_{layer}_spots'])} spots", *parts["tables"]]
    found += [] if parts["images"] else ["no image"]
    found += [] if "aligned" in said["systems"] else ["not registered: not in the system aligned"]
    bend = said["largest_bend_um"]
    return ", ".join([*found, *([f"aligned without its bend of up to {bend:.3g} um (SyN)"] if bend else [])])


# the store on the disk -------------------------------------------------------------------------------
def require_free(target: Path, overwrite: bool) -> None:
    """Raises DataError for a store that is there and is not ours, or is ours and --overwrite is not given."""
    if not os.path.lexists(target):
        return
    import zarr
    try:
        is_ours = "asign" in zarr.open_group(target, mode="r").attrs
    except Exception:  # zarr raises its own, of several kinds
        is_ours = False
    if not is_ours:
        raise DataError(target, "something that this script did not write", "a free name, or an earlier export",
                        "move it away")
    if not overwrite:
        raise DataError(target, "an earlier export", "a free name", "--overwrite, or remove it")


def write_store(data, target: Path, units: dict[str, str]) -> None:
    """Write the store under another name and put it in place; an earlier export is replaced."""
    import dask
    target.parent.mkdir(parents=True, exist_ok=True)
    for abandoned in target.parent.glob(f".{target.name}.*"):
        shutil.rmtree(abandoned)
    temporary, old = (target.with_name(f".{target.name}.{os.getpid()}{word}") for word in ("", ".old"))
    with dask.config.set(scheduler="synchronous"), warnings.catch_warnings():  # one window at a time in memory
        warnings.simplefilter("ignore")  # of zarr: how it stores text in its version 3 is not standard yet
        data.write(temporary, consolidate_metadata=False)
    write_units(temporary, data, units)
    if target.exists():
        os.replace(target, old)
    os.replace(temporary, target)
    if old.exists():
        shutil.rmtree(old)


def write_units(store: Path, data, units: dict[str, str]) -> None:
    """State the unit of every system in the metadata of images and shapes: SpatialData itself writes `unit`."""
    import zarr
    root = zarr.open_group(store, mode="a", use_consolidated=False)
    for kind in ("images", "shapes"):
        for name in sorted(getattr(data, kind)):
            attrs = root[kind][name].attrs
            entry = attrs["ome"] if kind == "images" else dict(attrs)
            for one in (entry["multiscales"][0] if kind == "images" else entry)["coordinateTransformations"]:
                for axis in one["output"]["axes"]:
                    if axis["type"] == "space":
                        axis["unit"] = units[one["output"]["name"]]
            attrs.update({"ome": entry} if kind == "images" else entry)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zarr: consolidated metadata are not standard yet in its version 3
        zarr.consolidate_metadata(store)


def export(args: argparse.Namespace) -> int:
    """Every chosen sample of the run. Raises DataError; returns the exit code."""
    try:
        import spatialdata  # noqa: F401
    except ImportError as error:
        raise DataError("spatialdata", f"not installed ({error})", "the library that writes these stores",
                        "pip install -r requirements-spatialdata.txt -c constraints.txt") from None
    context = jobs.open_context(args)
    run = run_folder.find(context.layout, args.save_path)
    locks.hold(run.root)
    chosen = [sample for sample in sorted(context.config.listed_samples) if sample in run.imputed_samples()]
    without = sorted(set(context.config.listed_samples) - set(chosen))
    if chosen and without:
        print(f"{STEP}  without predictions: {', '.join(without)}", file=sys.stderr)
    if not chosen:
        raise DataError(run.root, "no predictions (imputed/)", "those of predict_3d.py or main.py",
                        "run predict_3d.py first, or give --save_path")
    written = [export_sample(context, run, sample, args) for sample in chosen]
    if not any(written):
        raise DataError(run.root, "no section that can be written", "predictions and spots", "see the lines above")
    return 0


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return guarded(lambda: export(args))


if __name__ == "__main__":
    sys.exit(main())
