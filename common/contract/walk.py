"""The walk over all files of a root, and over those that a step reads.

    python -m common.cli check --root_path ROOT

One line a step; under it one line a faulty file: found, expected, fix. Only the first fault of a file is reported.
"""
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from pathlib import Path

from common import io
from common.config import Config
from common.contract.expression import background, expression, genes, member_counts
from common.contract.fault import Fault, demand, demand_keys, demand_names
from common.contract.features import demand_recipe, features
from common.contract.graphs import graph, graph_3d, records, records_3d
from common.contract.inputs import counts, image, location, mask, thumbnail, thumbnail_info
from common.contract.pairs import combined, sparse
from common.contract.patches import cropped, pairs_csv, patches_csv
from common.contract.registration import (
    contours,
    displacement,
    quality,
    registered_contours,
    spot_regist,
    transform,
)
from common.contract.root import Root
from common.errors import DataError, LayerError
from common.feature_recipe import PITCH_TOLERANCE
from common.layout import GLOBAL, REGION, SIZES, SPOT, Layout
from common.recipe import file_digest, stored_recipe


@dataclass(frozen=True)
class Kind:
    """One kind of file: the step that makes it, its path for (sample, layer, …), and its check."""
    step: str
    unit: str               # layer, pair, sample, dataset, run_2d or run_3d
    path: Callable          # (layout, *unit) -> Path
    check: Callable         # (root, path, sample, layer, …), raises Fault
    by_hand: bool = False   # a person may correct it


def kinds() -> list[Kind]:
    """All kinds, in the order of the steps: the files that a file is compared with come before it."""
    def sizes(step: str, path: Callable, check: Callable) -> list[Kind]:
        return [Kind(step, "layer", partial(path_of_size, path, size), check(size)) for size in SIZES]

    crop, register = "1_cropped_multi_level_patch", "Step3.5_registertoMiddle_ANTs_points_contour_fast"
    pair, chain = "Step2_registration_ANTs", "Step3_registertoMiddle_ANTs"
    return [
        Kind("0_1_convert_raw", "layer", image_path, image, by_hand=True),
        Kind("0_1_convert_raw", "layer", Layout.location, location, by_hand=True),
        Kind("0_1_convert_raw", "layer", Layout.counts, counts, by_hand=True),
        Kind("0_2_tissue_mask", "layer", Layout.thumbnail_info, thumbnail_info),
        Kind("0_2_tissue_mask", "layer", Layout.thumbnail, thumbnail),
        Kind("0_2_tissue_mask", "layer", Layout.mask, mask, by_hand=True),
        *sizes(crop, Layout.patches_csv, patches_csv),
        *sizes(crop, Layout.patches, cropped),
        Kind("2_find_512_pair", "layer", Layout.region_pairs_csv, pairs_csv(REGION, SPOT, "spots")),
        Kind("3_find_1024_pair", "layer", Layout.global_pairs_csv, pairs_csv(GLOBAL, REGION, "regions")),
        *sizes("4_feature_extraction", Layout.features, features),
        Kind("5_1_find_high_expression", "dataset", lambda layout: layout.genes, genes),
        Kind("5_1_find_high_expression", "dataset", lambda layout: layout.background, background),
        *sizes("5_2_get_label_of_other_resolution", Layout.member_counts, member_counts),
        *sizes("5_3_normalization", Layout.expression, expression),
        Kind("6_pt_construction", "layer", Layout.graph, graph),
        Kind("7_make_dataset", "layer", Layout.npy, records),
        Kind("Step0_original_contour_generation", "layer", Layout.contours, contours),
        Kind("Step1_affine_registration_2d_PAS_2048_xfeat", "pair", Layout.pair_coarse, transform),
        Kind(pair, "pair", Layout.pair, transform),
        Kind(pair, "pair", Layout.pair_warp, displacement),
        Kind(chain, "layer", Layout.to_middle, transform),
        Kind(chain, "layer", Layout.to_middle_warp, displacement),
        Kind(chain, "sample", Layout.quality, quality),
        Kind(register, "sample", Layout.spot_regist, spot_regist),
        Kind(register, "sample", Layout.spot_regist_contours, registered_contours),
        Kind("1_get_iou", "sample", Layout.spot_iou, sparse(0, 1)),
        Kind("2_get_similarity", "sample", Layout.similarity, sparse(-1.0001, 1)),
        Kind("3_build_3d_information", "sample", Layout.combined, combined),
        Kind("4_build_3d_graph", "sample", Layout.graph_3d, graph_3d),
        Kind("5_build_3d_final_format", "sample", Layout.npy_3d, records_3d),
        Kind("main", "run_2d", lambda layout, path: path, checkpoint),
        Kind("main_3d", "run_3d", lambda layout, path: path, checkpoint)]


def image_path(layout: Layout, sample: str, layer: int) -> Path:
    """The section's image, or the path where one belongs."""
    return layout.image(sample, layer) or layout.new_image(sample, layer, ".jpg")


def path_of_size(path: Callable, size: int, layout: Layout, *unit) -> Path:
    """The path of a file that exists for every patch size."""
    return path(layout, size, *unit)


def units(kind: str, config: Config, layout: Layout) -> Iterator[tuple]:
    """The units that a kind of file exists for."""
    if kind == "dataset":
        yield ()
    if kind in ("run_2d", "run_3d"):
        yield from ((path,) for path in layout.checkpoints(flat=kind == "run_2d"))
    for sample in sorted(config.listed_samples) if kind in ("sample", "layer", "pair") else ():
        layers = config.layers_of(sample)
        if kind == "sample":
            yield (sample,)
        elif kind == "layer":
            yield from ((sample, layer) for layer in layers)
        else:
            yield from ((sample, moving, fixed) for moving, fixed in permutations(layers, 2))


def fault_of(root: Root, kind: Kind, path: Path, unit: tuple) -> str | None:
    """One line on the fault of this file, or None."""
    error = error_of(root, kind, path, unit)
    return None if error is None else str(error)


def error_of(root: Root, kind: Kind, path: Path, unit: tuple) -> LayerError | None:
    """The error of a file with a fault, or None."""
    try:
        kind.check(root, path, *unit, *[None] * (2 - len(unit)))
    except Fault as fault:
        found, expected = fault.args
    except (DataError, LayerError) as error:
        if str(error.args[0]) != str(path):  # of another file, with which it is compared
            return LayerError(*error.args)
        found, expected = error.args[1], error.args[2]
    except Exception as error:  # bad bytes and other forms: decoders differ in what they raise
        found, expected = f"a file of another form ({type(error).__name__}: {error})", f"what {kind.step}.py writes"
    else:
        return not_as_written(root.layout, kind, path, unit)
    by_person = kind.step == "0_1_convert_raw"
    script = "correct it, or run the script that made it" if by_person else f"run {kind.step}.py"
    return LayerError(path, found, expected, f"{script} with --overwrite")


def not_as_written(layout: Layout, kind: Kind, path: Path, unit: tuple) -> LayerError | None:
    """The error of a file that keeps the contract but is not as its step wrote it: rows may be missing, for example."""
    if kind.by_hand or kind.unit.startswith("run") or not path.is_file():
        return None
    sample, layer = (*unit[:2], None, None)[:2]
    # of a layer; of a step that works on samples; of an archive, which step 0_1 converts whole
    places = ((kind.step, sample, layer), (kind.step, sample, None), ("0_1_convert_raw", sample, None))
    recipe = next((one for place in places if (one := stored_recipe(layout.recipe(*place)))), {})
    if recipe.get("outputs", {}).get(path.relative_to(layout.root).as_posix()) in (None, file_digest(path)):
        return None
    script = f"{recipe.get('step', kind.step)}.py"
    own = "; a list of yours: genes: FILE in dataset.yaml" if kind.unit == "dataset" else ""
    return LayerError(path, "other bytes than were written", f"the output of {script}",
                      f"run {script} with --overwrite{own}")


def hold_to_contract(layout: Layout, config: Config, sample: str | None, layer: int | None, paths: list[Path]) -> None:
    """Raise for the first of these files that exists and breaks the contract.

    LayerError for a file of this sample, DataError for one of the dataset. Files of other samples and of no kind are
    not checked; without `layer`, files of single sections are not.
    """
    wanted, root = {path for path in paths if path.is_file()}, Root(layout, config)
    samples = {name: one for name, one in (config.samples or {}).items() if name == sample}
    own = config.model_copy(update={"samples": samples})
    for kind in kinds() if wanted else ():
        for unit in units(kind.unit, own, layout):
            path = kind.path(layout, *unit)
            if path in wanted and (layer is not None or len(unit) < 2) and (error := error_of(root, kind, path, unit)):
                raise error if unit else DataError(*error.args)


def check_root(layout: Layout, config: Config) -> int:
    """Check every file; print a line a step and a line a fault. The exit code is 2 if there is a fault, else 0."""
    root = Root(layout, config)
    steps: dict[str, tuple[list[Path], list[str]]] = {}  # {step: (files without fault, faults)}
    for kind in kinds():
        right, faults = steps.setdefault(kind.step, ([], []))
        for unit in units(kind.unit, config, layout):
            path = kind.path(layout, *unit)
            if not (path.is_file() or path.is_symlink()):
                continue
            fault = fault_of(root, kind, path, unit)
            if fault:
                root.wrong.add(path)
                faults.append(fault)
            else:
                right.append(path)
    for step, (right, faults) in steps.items():
        parts = [f"{len(right)} file{'s' * (len(right) > 1)} right"] if right else []
        parts += [f"{len(faults)} wrong"] if faults else []
        print(f"{step:50s} {', '.join(parts) or 'not made yet'}", *faults, sep="\n  ")
    return 2 if any(faults for _, faults in steps.values()) else 0


def checkpoint(root: Root, path: Path, *_) -> None:
    """The gene list, the features and the array of this root."""
    saved = io.read_pt(path)
    demand_keys(saved, ("genes", "trained_with"))
    demand_names(saved["genes"], root.genes(), "genes", "genes.csv")
    was, config = saved["trained_with"], root.config
    near = abs(config.pitch_um - was["pitch_um"]) <= PITCH_TOLERANCE * was["pitch_um"]
    demand(was["array"] == config.array and near, f"a network of an array {was['array']}, {was['pitch_um']:g} um",
           f"{config.array}, {config.pitch_um:g} um by dataset.yaml")
    for sample, layer in units("layer", config, root.layout):
        demand_recipe(was["feature_recipe"], root.feature_recipe(sample, layer),
                      f"extracted_feature/224/{sample}/{layer}.h5")
