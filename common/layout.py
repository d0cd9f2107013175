"""The path of every file of a dataset root and of a run. No other module does path arithmetic."""
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from common.image_names import IMAGE_SUFFIXES, image_stem, is_image_name
from common.names import is_name, visible

REPOSITORY = Path(__file__).resolve().parents[1]
SIZES = SPOT, REGION, GLOBAL = 224, 512, 1024  # nominal side of spot, region and global patches, px
LEVELS = {REGION: "region", GLOBAL: "global"}
SCRIPTS = {  # folder: its steps in their order, once the raw data are converted
    "data_preprocessing": (
        "0_2_tissue_mask", "0_3_spot_grid", "1_cropped_multi_level_patch", "2_find_512_pair", "3_find_1024_pair",
        "4_feature_extraction", "5_1_find_high_expression", "5_2_get_label_of_other_resolution", "5_3_normalization",
        "6_pt_construction", "7_make_dataset"),
    "registration": (
        "Step0_original_contour_generation", "Step1_affine_registration_2d_PAS_2048_xfeat", "Step2_registration_ANTs",
        "Step3_registertoMiddle_ANTs", "Step3.5_registertoMiddle_ANTs_points_contour_fast"),
    "data_preprocessing_3d": (
        "1_get_iou", "2_get_similarity", "3_build_3d_information", "4_build_3d_graph", "5_build_3d_final_format")}
PIPELINE = tuple(chain.from_iterable(SCRIPTS.values()))
OUTPUTS = ("imgs", "location", "counts", "not_taken.csv", "truth", "tissue", "patches_csv", "cropped_imgs", "runs",
           "extracted_feature", "gene_expression", "graph_data", "npy_information", "registration", "spot_regist",
           "spot_iou", "similarity", "spatialdata")  # under the root, beside 3D_<…>
STEPS = ("0_1_convert_raw", *PIPELINE, "main_3d", "predict_3d")


def script_of(step: str) -> Path:
    """The numbered script of a step of the pipeline."""
    return next(REPOSITORY / folder / f"{step}.py" for folder, steps in SCRIPTS.items() if step in steps)


def background_beside(genes: Path) -> Path:
    """The background of a gene list, of a dataset root or of a run: the file beside it."""
    return genes.with_name("background.csv")


@dataclass(frozen=True)
class Layout:
    """Paths under one dataset root (data contract of the README)."""
    root: Path

    @property
    def config(self) -> Path:
        return self.root / "dataset.yaml"

    @property
    def status(self) -> Path:
        return self.root / "status.json"

    @property
    def not_taken(self) -> Path:
        """What the last conversion did not take of its raw data: path, reason."""
        return self.root / "not_taken.csv"

    def recipe(self, step: str, sample: str | None, layer: int | None) -> Path:
        name = "_".join(str(part) for part in (sample, layer) if part is not None) or "dataset"
        return self.root / ".recipes" / step / f"{name}.json"

    def recipes(self) -> list[Path]:
        """Every recipe that is there, sorted."""
        found = (self.root / ".recipes").glob("*/*.json")
        return sorted(path for path in found if not path.name.endswith(".files.json"))

    def written(self, step: str, sample: str | None, layer: int | None) -> Path:
        """The manifest of the files that this step wrote for this section (common/written.py)."""
        return self.recipe(step, sample, layer).with_suffix(".files.json")

    def converted_config(self, step: str) -> Path:
        """dataset.yaml as the last conversion made it, without a person's edits (common/merge.py)."""
        return self.root / ".recipes" / step / "dataset.yaml"

    def done(self, step: str, sample: str | None = None, layer: int | None = None) -> Path:
        """Marker of the workflow: this step has run for this section (also if the section was left out)."""
        name = "_".join(str(part) for part in (sample, layer) if part is not None) or "dataset"
        return self.root / ".done" / step / name

    @property
    def runs(self) -> Path:
        """The runs that were not given another --save_path."""
        return self.root / "runs"

    def run(self, name: str) -> "RunLayout":
        return RunLayout(self.runs / name)

    # inputs ------------------------------------------------------------------------------------------
    def image(self, sample: str, layer: int) -> Path | None:
        """The section's H&E image, or None."""
        found = self.images(sample, layer)
        return found[0] if found else None

    def images(self, sample: str, layer: int) -> list[Path]:
        """Every `imgs/<sample>/<layer>.<known suffix>`, sorted; the first is the section's image, more are a fault."""
        named = visible(self.root / "imgs" / sample, f"{layer}.*")
        return sorted(path for path in named if is_image_name(path) and image_stem(path) == str(layer))

    def outline(self, sample: str, layer: int) -> Path:
        """The tissue of this section as GeoJSON, if somebody drew or computed it (data_preprocessing/outline.py)."""
        return self.root / "imgs" / sample / f"{layer}.geojson"

    def new_image(self, sample: str, layer: int, suffix: str) -> Path:
        return self.root / "imgs" / sample / f"{layer}{suffix}"

    def location(self, sample: str, layer: int) -> Path:
        return self.root / "location" / sample / f"{layer}.csv"

    def counts(self, sample: str, layer: int) -> Path:
        return self.root / "counts" / sample / f"{layer}.h5ad"

    def truth(self, sample: str, layer: int, suffix: str) -> Path:
        """Known truth of the demo data: suffix '.npz' (geometry) or '.h5ad' (noise-free expression)."""
        return self.root / "truth" / sample / f"{layer}{suffix}"

    def layer_files(self) -> Iterator[tuple[str, str, int, Path]]:
        """(folder, sample, layer, path) of every image, location file and counts file; sorted within a folder."""
        for folder, suffixes in (("imgs", IMAGE_SUFFIXES), ("location", (".csv",)), ("counts", (".h5ad",))):
            for path in sorted(visible(self.root / folder, "*/*")):
                stem = image_stem(path) if folder == "imgs" else path.stem
                if path.suffix.lower() in suffixes and re.fullmatch(r"\d+", stem):
                    yield folder, path.parent.name, int(stem), path

    def layers_on_disk(self) -> dict[str, list[int]]:
        """{sample: [layer, ...]} of every section that has an image, a location file or counts; sorted.

        `unnamed_on_disk` lists the folders whose names are no names of samples.
        """
        found: dict[str, set[int]] = {}
        for _, sample, layer, _ in self.layer_files():
            if is_name(sample):
                found.setdefault(sample, set()).add(layer)
        return {sample: sorted(layers) for sample, layers in sorted(found.items())}

    def unnamed_on_disk(self) -> list[Path]:
        """Folders that hold sections, but whose names are no names of samples; sorted."""
        return sorted({path.parent for _, sample, _, path in self.layer_files() if not is_name(sample)})

    # 2D steps ----------------------------------------------------------------------------------------
    def thumbnail(self, sample: str, layer: int) -> Path:
        return self.root / "tissue" / sample / f"{layer}.jpg"

    def mask(self, sample: str, layer: int) -> Path:
        return self.root / "tissue" / sample / f"{layer}.png"

    def mask_picture(self, sample: str, layer: int) -> Path:
        return self.root / "tissue" / sample / f"{layer}_mask.jpg"

    def grid_picture(self, sample: str, layer: int) -> Path:
        return self.root / "tissue" / sample / f"{layer}_grid.jpg"

    def thumbnail_info(self, sample: str, layer: int) -> Path:
        return self.root / "tissue" / sample / f"{layer}.json"

    def patches_csv(self, size: int, sample: str, layer: int) -> Path:
        return self.root / "patches_csv" / f"patches_{size}" / sample / f"{layer}.csv"

    def region_pairs_csv(self, sample: str, layer: int) -> Path:
        return self.root / "patches_csv" / "patches_512" / sample / f"{layer}_spots.csv"

    def global_pairs_csv(self, sample: str, layer: int) -> Path:
        return self.root / "patches_csv" / "patches_1024" / sample / f"{layer}_regions.csv"

    def patches(self, size: int, sample: str, layer: int) -> Path:
        return self.root / "cropped_imgs" / f"patches_{size}" / sample / f"{layer}.h5"

    def features(self, size: int, sample: str, layer: int) -> Path:
        return self.root / "extracted_feature" / str(size) / sample / f"{layer}.h5"

    @property
    def genes(self) -> Path:
        return self.root / "gene_expression" / "genes.csv"

    @property
    def background(self) -> Path:
        """The genes over which the sum in every label's denominator runs."""
        return background_beside(self.genes)

    def member_counts(self, size: int, sample: str, layer: int) -> Path:
        """Raw counts of the chosen genes per spot (224), region (512) or global patch (1024), and the depth of each."""
        return self.root / "gene_expression" / f"counts_{size}" / sample / f"{layer}.h5ad"

    def expression(self, size: int, sample: str, layer: int) -> Path:
        return self.root / "gene_expression" / str(size) / sample / f"{layer}.h5ad"

    def graph(self, sample: str, layer: int) -> Path:
        return self.root / "graph_data" / sample / f"{layer}.pt"

    def npy(self, sample: str, layer: int) -> Path:
        return self.root / "npy_information" / sample / f"{layer}.npy"

    # registration ------------------------------------------------------------------------------------
    def contours(self, sample: str, layer: int) -> Path:
        return self.root / "registration" / sample / "contours" / f"{layer}.npy"

    def pair_coarse(self, sample: str, moving: int, fixed: int) -> Path:
        return self.root / "registration" / sample / "xfeat" / f"{moving}_to_{fixed}.json"

    def pair(self, sample: str, moving: int, fixed: int) -> Path:
        return self.root / "registration" / sample / "pairs" / f"{moving}_to_{fixed}.json"

    def pair_itk(self, sample: str, moving: int, fixed: int) -> Path:
        return self.root / "registration" / sample / "pairs" / f"{moving}_to_{fixed}.mat"

    def pair_warp(self, sample: str, moving: int, fixed: int) -> Path:
        """The displacement field of a pair with a SyN warp."""
        return self.root / "registration" / sample / "pairs" / f"{moving}_to_{fixed}.npz"

    def pair_itk_warps(self, sample: str, moving: int, fixed: int) -> tuple[Path, Path]:
        """`pair_warp` as ITK displacement fields: (for points, for images)."""
        folder = self.root / "registration" / sample / "pairs"
        return folder / f"{moving}_to_{fixed}_points.nii.gz", folder / f"{moving}_to_{fixed}_images.nii.gz"

    def overlay(self, sample: str, moving: int, fixed: int) -> Path:
        return self.root / "registration" / sample / "overlays" / f"{moving}_to_{fixed}.jpg"

    def to_middle(self, sample: str, layer: int) -> Path:
        return self.root / "registration" / sample / "to_middle" / f"{layer}.json"

    def to_middle_itk(self, sample: str, layer: int) -> Path:
        return self.root / "registration" / sample / "to_middle" / f"{layer}.mat"

    def to_middle_warp(self, sample: str, layer: int) -> Path:
        """The displacement field of a section with a SyN warp in its chain to the middle."""
        return self.root / "registration" / sample / "to_middle" / f"{layer}.npz"

    def to_middle_itk_warps(self, sample: str, layer: int) -> tuple[Path, Path]:
        """`to_middle_warp` as ITK displacement fields: (for points, for images)."""
        folder = self.root / "registration" / sample / "to_middle"
        return folder / f"{layer}_points.nii.gz", folder / f"{layer}_images.nii.gz"

    def stack_view(self, sample: str) -> Path:
        return self.root / "registration" / sample / "stack.jpg"

    def quality(self, sample: str) -> Path:
        return self.root / "registration" / sample / "quality.json"

    def spot_regist(self, sample: str) -> Path:
        return self.root / "spot_regist" / f"{sample}.csv"

    def spot_regist_contours(self, sample: str) -> Path:
        return self.root / "spot_regist" / f"{sample}.npy"

    # 3D steps ----------------------------------------------------------------------------------------
    def spot_iou(self, sample: str) -> Path:
        return self.root / "spot_iou" / f"{sample}.npz"

    def similarity(self, sample: str) -> Path:
        return self.root / "similarity" / f"{sample}.npz"

    def combined(self, sample: str) -> Path:
        return self.root / "3D_combined_information" / f"{sample}.npz"

    def graph_3d(self, sample: str) -> Path:
        return self.root / "3D_graph_data" / f"{sample}.pt"

    def npy_3d(self, sample: str) -> Path:
        return self.root / "3D_npy_information" / f"{sample}.npy"

    # runs --------------------------------------------------------------------------------------------
    def checkpoints(self, flat: bool) -> list[Path]:
        """The checkpoints of all runs in the root's own run folder, of main.py (flat) or of main_3d.py; sorted."""
        return sorted(path for path in (self.root / "runs").glob("*/fold_*/checkpoint.pt")
                      if "_before_" not in path.parents[1].name and ("_2d" in path.parents[1].name) == flat)


@dataclass(frozen=True)
class RunLayout:
    """Paths under one run folder (`--save_path`)."""
    root: Path

    @property
    def identity(self) -> Path:
        """The identity of the result in the folder (common/run_folder.py)."""
        return self.root / "run.json"

    def files(self) -> tuple[Path, ...]:
        """The files of a run that lie in the folder itself."""
        return (self.identity, self.config, self.splits, self.genes, self.metrics_json, self.metrics_csv, self.runtime,
                self.report)

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def splits(self) -> Path:
        return self.root / "splits.json"

    @property
    def genes(self) -> Path:
        return self.root / "genes.csv"

    @property
    def background(self) -> Path:
        return background_beside(self.genes)

    def folds(self) -> list[int]:
        """Folds that have a folder."""
        names = (path.name.removeprefix("fold_") for path in self.root.glob("fold_*") if path.is_dir())
        return sorted(int(name) for name in names if name.isdecimal() and str(int(name)) == name)

    def checkpoint(self, fold: int) -> Path:
        return self.root / f"fold_{fold}" / "checkpoint.pt"

    def fold_result(self, fold: int) -> Path:
        return self.root / f"fold_{fold}" / "result.json"

    def fold_recipe(self, fold: int) -> Path:
        return self.root / f"fold_{fold}" / "recipe.json"

    def tensorboard(self, fold: int) -> Path:
        return self.root / "tensorboard" / f"fold_{fold}"

    def imputed_samples(self) -> list[str]:
        """Samples that have a folder of predictions."""
        return sorted(path.name for path in (self.root / "imputed").glob("*") if path.is_dir())

    def imputed_folder(self, sample: str) -> Path:
        return self.root / "imputed" / sample

    def imputed(self, sample: str, layer: int) -> Path:
        return self.imputed_folder(sample) / f"{layer}.h5ad"

    def imputed_sample(self, sample: str) -> Path:
        """All sections of a sample in one."""
        return self.imputed_folder(sample) / "sample.h5ad"

    def spatialdata(self, sample: str) -> Path:
        """The export of a sample (export_spatialdata.py)."""
        return self.root / "spatialdata" / f"{sample}.zarr"

    @property
    def metrics_json(self) -> Path:
        return self.root / "metrics.json"

    @property
    def metrics_csv(self) -> Path:
        return self.root / "metrics.csv"

    @property
    def runtime(self) -> Path:
        return self.root / "runtime.json"

    @property
    def report(self) -> Path:
        return self.root / "report.html"
