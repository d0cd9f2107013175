"""Step 0 for the demo: make a stack of serial sections with known truth, in the form of the data contract.

INPUT   --config: pitch (px, um), pixel size, distance of the sections (default configs/demo.yaml); --seed
OUTPUT  <root>/dataset.yaml                     the config with samples and layers listed; a person's edits stay
                                                (common/merge.py)
        <root>/imgs/<sample>/<layer>.tiff       H&E: tiled pyramid, JPEG inside, resolution in px/cm; opens in OpenSlide
        <root>/location/<sample>/<layer>.csv    barcode, pixel_x, pixel_y (level-0 px, spot centres),
                                                i, j (array column, row)
        <root>/counts/<sample>/<layer>.h5ad     raw counts (n_spots, 400) CSR float32
        <root>/truth/<sample>/<layer>.npz       the exact map: matrix (2, 3), warp_amplitude a, warp_frequency f (5, 2),
                                                warp_phase p (5,): common px
                                                = matrix · (x, y, 1) + sum_k a_k · cos(f_k · (x, y) + p_k); z_px;
                                                barcode (n,), spot_xy, spot_common_xy (n, 2) px; torn (bool);
                                                the warp on a grid: grid_xy, grid_displacement (33, 33, 2) px
        <root>/truth/<sample>/<layer>.h5ad      noise-free expression X (n_spots, 400) float32, rows sum to 1;
                                                obs: share of each cell type in the spot's disc

Each sample is one 3D tissue (demo_tissue.py). A section is cut at z = (layer − first) · section_thickness_um, moved
(±15°, 2–10 % of the side, scale 0.97–1.03) and warped (≤ 0.2 pitch). Expression is the product of the cell types in the
disc (visible in the image), smooth programs (not visible) and offsets per patient and section; counts are negative
binomial. One slide of each sample is stained darker or pinker; one later section lost a corner. With four sections or
more a sample, the last but one of the last sample is image-only: image and truth, no location and no counts.
The same seed gives the same bytes, whatever --num_workers. Source: synthetic; sizes follow HER2 (README).

    python data_preprocessing/0_make_demo.py --root_path demo_data --seed 0
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import argparse
from dataclasses import dataclass

import numpy as np

from common import cli, jobs, locks
from common.config import Config, SampleConfig, load_config, resolve
from common.errors import DataError
from common.exit_codes import guarded
from common.geometry import check_scale, dataset_geometry
from common.io import atomic_path, write_h5ad, write_npz, write_table
from common.layout import REPOSITORY, Layout
from common.merge import write_merged
from common.written import Written
from common.z import z_um_of
from data_preprocessing.demo_genes import HIDDEN_GENES, HOUSEKEEPING, MITOCHONDRIA, RIBOSOME, TYPE_GENES
from data_preprocessing.listing import folds_among, units_of

STEP = "0_make_demo"
FORMAT = 2                       # raised when the same options give other data
TISSUE_RADIUS_SHARE = 0.31       # of the picture's side
SPOT_RADIUS_PITCHES = 0.25
MIN_TISSUE_SHARE = 0.7           # of a spot's disc
PHOTOGRAPHED_FROM = 4            # a data set whose samples have this many layers gets one layer without spots
N_GENES = 400
RNA_PER_AREA = np.array([1.0, 0.40, 0.80, 0.15, 0.85])  # tumour, stroma, immune, fat, duct
MEDIAN_DEPTH_UMI = 6000
DISPERSION = 0.04                # variance = mean + dispersion · mean²


# geometry --------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class LayerMap:
    """Layer px → common px, exact: matrix (2, 3), amplitude (5, 2) px, frequency (5, 2) rad/px, phase (5,)."""
    matrix: np.ndarray
    amplitude: np.ndarray
    frequency: np.ndarray
    phase: np.ndarray


def draw_map(rng: np.random.Generator, size_px: int, pitch_px: float) -> LayerMap:
    """A random similarity about the picture's middle and a smooth warp of at most 0.2 pitches."""
    angle, scale = np.deg2rad(rng.uniform(-15, 15)), rng.uniform(0.97, 1.03)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    direction, length = rng.uniform(0, 2 * np.pi), size_px * rng.uniform(0.02, 0.10)
    middle = (size_px - 1) / 2 + length * np.array([np.cos(direction), np.sin(direction)])  # of the tissue, layer px
    matrix = np.column_stack([linear, -linear @ middle])
    heading = rng.uniform(0, 2 * np.pi, (2, 5))
    of_waves, of_shifts = (np.stack([np.cos(angles), np.sin(angles)], axis=1) for angles in heading)  # (5, 2) each
    frequency = (2 * np.pi / rng.uniform(6, 16, 5) / pitch_px)[:, None] * of_waves
    share = rng.uniform(0.5, 1, 5)
    amplitude = (0.2 * pitch_px * share / share.sum())[:, None] * of_shifts
    return LayerMap(matrix, amplitude, frequency, rng.uniform(0, 2 * np.pi, 5))


def warp(layer_map: LayerMap, xy: np.ndarray) -> np.ndarray:
    """The warp alone at layer px. (…, 2) → (…, 2) px"""
    return np.cos(xy @ layer_map.frequency.T + layer_map.phase) @ layer_map.amplitude


def to_common(layer_map: LayerMap, xy: np.ndarray) -> np.ndarray:
    """Layer px → the sample's common frame, whose origin is the tissue's middle. (…, 2) → (…, 2) px"""
    return xy @ layer_map.matrix[:, :2].T + layer_map.matrix[:, 2] + warp(layer_map, xy)


def place_spots(rng: np.random.Generator, mask: np.ndarray, pitch_px: float):
    """A square array, laid nearly straight: the spots whose disc lies on tissue, as a location table."""
    import cv2
    import pandas as pd
    height, width = mask.shape
    turn, start = np.deg2rad(rng.uniform(-1, 1)), rng.uniform(0.5, 1.5, 2) * pitch_px
    j, i = (axis.ravel() for axis in np.mgrid[:int(height / pitch_px) + 1, :int(width / pitch_px) + 1])
    x = start[0] + pitch_px * (i * np.cos(turn) - j * np.sin(turn))
    y = start[1] + pitch_px * (i * np.sin(turn) + j * np.cos(turn))
    radius = SPOT_RADIUS_PITCHES * pitch_px
    side = np.arange(-int(radius), int(radius) + 1)
    disc = (side[:, None] ** 2 + side ** 2 <= radius ** 2).astype(np.float32)
    covered = cv2.filter2D(mask.astype(np.float32), -1, disc / disc.sum(), borderType=cv2.BORDER_CONSTANT)
    on_slide = (x >= radius) & (y >= radius) & (x < width - radius) & (y < height - radius)
    i, j, x, y = i[on_slide], j[on_slide], x[on_slide].round(2), y[on_slide].round(2)
    kept = covered[np.rint(y).astype(int), np.rint(x).astype(int)] >= MIN_TISSUE_SHARE
    barcode = [f"{column}x{row}" for column, row in zip(i[kept], j[kept], strict=True)]
    return pd.DataFrame({"barcode": barcode, "pixel_x": x[kept], "pixel_y": y[kept], "i": i[kept], "j": j[kept]})


def disc_points(radius_px: float, n_points: int = 48) -> np.ndarray:
    """Points spread evenly over a disc (sunflower). (n_points, 2)"""
    k = np.arange(n_points) + 0.5
    distance, angle = radius_px * np.sqrt(k / n_points), k * np.pi * (3 - np.sqrt(5))
    return np.column_stack([distance * np.cos(angle), distance * np.sin(angle)])


# expression ------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Programs:
    """What is common to all samples. base (400,), types (5, 400), hidden (4, 400): natural logarithms."""
    genes: list[str]
    base: np.ndarray
    types: np.ndarray
    hidden: np.ndarray


def gene_names() -> list[str]:
    """The 400 genes: markers, hidden programs, housekeeping, then made-up names."""
    markers = " ".join([*TYPE_GENES.values(), *HIDDEN_GENES.values(), HOUSEKEEPING]).split()
    named = markers + RIBOSOME + MITOCHONDRIA
    return named + [f"DEMO{k:04d}" for k in range(1, N_GENES - len(named) + 1)]


def draw_programs(rng: np.random.Generator) -> Programs:
    """Mean level of every gene, and what each cell type and hidden program does to it."""
    genes = gene_names()
    at = {name: k for k, name in enumerate(genes)}
    base = rng.normal(0, 0.85, N_GENES)
    base[[at[name] for name in HOUSEKEEPING.split() + RIBOSOME + MITOCHONDRIA]] += 0.5
    base[[name.startswith("DEMO") for name in genes]] -= 0.3
    types = rng.normal(0, 0.22, (len(TYPE_GENES), N_GENES))
    for k, names in enumerate(TYPE_GENES.values()):
        own = [at[name] for name in names.split()]
        types[:, own] -= 0.35
        types[k, own] += rng.uniform(1.1, 1.8, len(own))
    hidden = rng.normal(0, 0.20, (len(HIDDEN_GENES), N_GENES)) * (rng.random((len(HIDDEN_GENES), N_GENES)) < 0.4)
    for k, names in enumerate(HIDDEN_GENES.values()):
        hidden[k, [at[name] for name in names.split()]] = rng.uniform(0.40, 0.65, len(names.split()))
    return Programs(genes, base, types, hidden)


def expected_expression(programs: Programs, composition: np.ndarray, hidden: np.ndarray,
                        offset: np.ndarray) -> np.ndarray:
    """Noise-free share of every gene: (n, 400), rows sum to 1.

    composition (n, 5), hidden (n, 4) values of the fields, offset (400,).
    """
    rna = composition * RNA_PER_AREA + 1e-6
    level = (rna / rna.sum(1, keepdims=True)) @ np.exp(programs.types)  # (n, 400)
    level *= np.exp(programs.base + offset + hidden @ programs.hidden)
    return level / level.sum(1, keepdims=True)


def draw_counts(rng: np.random.Generator, expected: np.ndarray, cellularity: np.ndarray) -> np.ndarray:
    """Negative binomial UMI counts: log-normal depth, deeper where there is more RNA. (n, 400) float32"""
    relative_depth = np.exp(rng.normal(0, 0.25, len(expected)))  # (n,)
    depth = MEDIAN_DEPTH_UMI * relative_depth * (cellularity / np.median(cellularity)) ** 0.4
    mean = depth[:, None] * expected
    return rng.poisson(mean * rng.gamma(1 / DISPERSION, DISPERSION, mean.shape)).astype(np.float32)


# one layer -------------------------------------------------------------------------------------------
def is_image_only(config: Config, sample: str, layer: int) -> bool:
    """Is this layer the one without spots and counts?"""
    layers = config.layers_of(sample)
    return len(layers) >= PHOTOGRAPHED_FROM and (sample, layer) == (max(config.samples), layers[-2])


def make_layer(config: Config, layout: Layout, seed: int, size_px: int, sample: str, layer: int) -> str:
    """Draw one section, lay spots, count, write everything. Every draw depends on (seed, sample, layer) alone."""
    from data_preprocessing import demo_tissue
    layers = config.layers_of(sample)
    number, geometry = ord(sample) - ord("A"), dataset_geometry(config)
    pitch_px, radius_px = geometry.pitch_px, TISSUE_RADIUS_SHARE * size_px
    gap_px = config.section_thickness_um / geometry.um_per_px
    of_sample = np.random.default_rng([seed, 1, number])
    of_layer = np.random.default_rng([seed, 2, number, layer])

    tissue = demo_tissue.make_tissue(of_sample, radius_px, gap_px * (len(layers) - 1))
    lengths = of_sample.uniform(2.2, 3.6, len(HIDDEN_GENES))  # pitches
    hidden_fields = [demo_tissue.smooth_field(of_sample, pitch_px * length) for length in lengths]
    patient = of_sample.normal(0, 0.25, N_GENES)
    odd, torn = draw_accidents(of_sample, layers, radius_px)
    slide = stain_slide(of_layer, demo_tissue.Slide, odd.get(layer), torn.get(layer))
    layer_map = draw_map(of_layer, size_px, pitch_px)
    z_px = gap_px * (z_um_of(config, sample, layer) / config.section_thickness_um)

    image, mask = demo_tissue.draw_section(tissue, lambda xy: to_common(layer_map, xy), z_px, slide, size_px, of_layer)
    location = place_spots(of_layer, mask, pitch_px)
    xy = location[["pixel_x", "pixel_y"]].to_numpy()
    points = to_common(layer_map, xy[:, None] + disc_points(SPOT_RADIUS_PITCHES * pitch_px))  # (n, 48, 2)
    points = np.concatenate([points, np.full((*points.shape[:2], 1), z_px)], axis=-1)  # (n, 48, 3)
    composition = demo_tissue.fractions(tissue, points).mean(1)  # (n, 5)
    centre = np.column_stack([to_common(layer_map, xy), np.full(len(xy), z_px)])  # (n, 3)
    hidden = np.stack([field(centre) for field in hidden_fields], axis=1)  # (n, 4)
    programs = draw_programs(np.random.default_rng([seed, 0]))
    expected = expected_expression(programs, composition, hidden, patient + of_layer.normal(0, 0.12, N_GENES))
    counts = draw_counts(of_layer, expected, composition @ RNA_PER_AREA + 0.05)

    written = Written(layout.written(STEP, sample, layer), layout.root)
    with written.writing(layout.new_image(sample, layer, ".tiff")) as temporary:
        write_pyramid(temporary, image, geometry.um_per_px)
    write_truth(layout, sample, layer, location["barcode"], programs.genes, expected, composition, demo_tissue.TYPES)
    write_map(layout.truth(sample, layer, ".npz"), layer_map, location["barcode"], xy, size_px, z_px, layer in torn)
    if is_image_only(config, sample, layer):
        written.remove([layout.location(sample, layer), layout.counts(sample, layer)])
        return f"image {size_px} px, image-only"
    with written.writing(layout.location(sample, layer)) as temporary:
        write_table(temporary, location)
    with written.writing(layout.counts(sample, layer)) as temporary:
        write_counts(temporary, location["barcode"], programs.genes, counts)
    return f"{len(location)} spots, {np.median(counts.sum(1)):.0f} UMI a spot, image {size_px} px"


def draw_accidents(rng: np.random.Generator, layers: list[int],
                   radius_px: float) -> tuple[dict[int, str], dict[int, tuple]]:
    """({oddly stained layer: 'dark' or 'pink'}, {later layer: (normal x, normal y, offset) of its torn corner})."""
    odd = {int(rng.choice(layers)): str(rng.choice(["dark", "pink"]))}
    angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(0.60, 0.70) * radius_px
    where = (float(np.cos(angle)), float(np.sin(angle)), float(offset))
    return odd, {int(layer): where for layer in rng.permutation(layers[1:])[:1]}


def stain_slide(rng: np.random.Generator, slide: type, odd: str | None, torn: tuple | None):
    """Stain strengths and shade of the glass of one slide."""
    strength = {"dark": (1.35, 1.25), "pink": (0.85, 1.45), None: (1.0, 1.0)}[odd]
    haematoxylin, eosin = strength * np.exp(rng.normal(0, 0.06, 2))
    white = np.array((239.0, 226.0, 238.0) if odd == "pink" else (243.0, 240.0, 244.0)) + rng.uniform(-2, 2, 3)
    return slide(float(haematoxylin), float(eosin), tuple(white.tolist()), torn)


# files -----------------------------------------------------------------------------------------------
def write_pyramid(path: Path, image: np.ndarray, um_per_px: float) -> None:
    """Tiled pyramidal TIFF: every level half of the one before, JPEG tiles of 256 px, resolution in px/cm."""
    import cv2
    import tifffile
    with atomic_path(path) as temporary, tifffile.TiffWriter(temporary) as tiff:
        for level in range(8):
            tiff.write(image, tile=(256, 256), photometric="rgb", compression="jpeg", compressionargs={"level": 92},
                       resolution=(1e4 / um_per_px / 2 ** level,) * 2, resolutionunit="CENTIMETER",
                       subfiletype=1 if level else 0, metadata=None, software=STEP)
            if max(image.shape) < 512:
                return
            image = cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)


def write_counts(path: Path, barcode, genes: list[str], counts: np.ndarray) -> None:
    """Raw counts: (n, 400)."""
    import anndata
    import pandas as pd
    from scipy import sparse
    obs, var = pd.DataFrame(index=pd.Index(np.array(barcode, dtype=object))), pd.DataFrame(index=pd.Index(genes))
    write_h5ad(path, anndata.AnnData(sparse.csr_matrix(counts), obs=obs, var=var))


def write_map(path: Path, layer_map: LayerMap, barcode, xy: np.ndarray, size_px: int, z_px: float, torn: bool) -> None:
    """The exact map of a layer, and its values at the spots xy (n, 2) px and on a coarse grid."""
    axis = np.linspace(0, size_px - 1, 33)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)  # (33, 33, 2)
    write_npz(path, matrix=layer_map.matrix, warp_amplitude=layer_map.amplitude, warp_frequency=layer_map.frequency,
              warp_phase=layer_map.phase, barcode=np.array(barcode, dtype=np.str_),
              spot_xy=xy, spot_common_xy=to_common(layer_map, xy),
              grid_xy=grid, grid_displacement=warp(layer_map, grid), z_px=np.float64(z_px), torn=np.bool_(torn))


def write_truth(layout: Layout, sample: str, layer: int, barcode, genes: list[str], expected: np.ndarray,
                composition: np.ndarray, types: tuple[str, ...]) -> None:
    """Noise-free expression (n, 400) and shares of the cell types (n, 5)."""
    import anndata
    import pandas as pd
    index = pd.Index(np.array(barcode, dtype=object))
    obs = pd.DataFrame(composition.astype(np.float32), index=index, columns=list(types))
    var = pd.DataFrame(index=pd.Index(genes))
    write_h5ad(layout.truth(sample, layer, ".h5ad"), anndata.AnnData(expected.astype(np.float32), obs=obs, var=var))


# running ---------------------------------------------------------------------------------------------
def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, sample=False, layer=False, workers=True)
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes (default 0)")
    parser.add_argument("--n_samples", type=int, default=4, help="samples A, B, … (default 4, at most 26)")
    parser.add_argument("--n_layers", type=int, default=4, help="sections of each sample (default 4)")
    parser.add_argument("--size_px", type=int, default=1792, help="side of a picture, level-0 px (default 1792)")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return guarded(lambda: make_demo(args))


def make_demo(args: argparse.Namespace) -> int:
    """Write the config, make every layer. Raises DataError; returns the exit code."""
    layout = Layout(Path(args.root_path or "."))
    file = Path(args.config) if args.config else REPOSITORY / "configs" / "demo.yaml"
    config = load_config(file)
    there = load_config(layout.config).dataset if layout.config.is_file() else config.dataset
    if there != config.dataset:
        raise DataError(layout.config, f"dataset '{there}'", f"an empty folder or '{config.dataset}'",
                        "give another --root_path")
    check_scale(config, file)
    smallest_px = int(8 * dataset_geometry(config).pitch_px)
    ranges = {"n_samples": (1, 26), "n_layers": (1, 99), "size_px": (smallest_px, 16384), "seed": (0, 2 ** 32)}
    for option, (lowest, highest) in ranges.items():
        if not lowest <= getattr(args, option) <= highest:
            raise DataError(f"--{option}", str(getattr(args, option)), f"{lowest} to {highest}", f"correct --{option}")
    names = [chr(ord("A") + k) for k in range(args.n_samples)]
    samples = {name: SampleConfig(layers=list(range(1, args.n_layers + 1))) for name in names}
    locks.hold(layout.root / "imgs")
    update = {"samples": samples, "folds": folds_among(config.folds, names)}
    config = resolve(config.model_copy(update=update), layout, file)
    write_merged(layout, STEP, config, file)  # the drawing depends on the options and --config alone
    context = jobs.Context(config, layout, args, config)
    return jobs.run_jobs(STEP, __file__, context, units_of(config), lambda unit: layer_job(context, *unit))


def layer_job(context: jobs.Context, sample: str, layer: int) -> jobs.Job:
    """The making of one layer."""
    config, layout, args = context.config, context.layout, context.args
    geometry = dataset_geometry(config)
    outputs = [layout.new_image(sample, layer, ".tiff"), layout.truth(sample, layer, ".npz"),
               layout.truth(sample, layer, ".h5ad")]
    if not is_image_only(config, sample, layer):
        outputs += [layout.location(sample, layer), layout.counts(sample, layer)]
    settings = {"format": FORMAT, "seed": args.seed, "size_px": args.size_px, "layers": config.layers_of(sample),
                "pitch_px": geometry.pitch_px, "um_per_px": geometry.um_per_px,
                "section_thickness_um": config.section_thickness_um}
    return jobs.Job(sample, layer, inputs=[], outputs=outputs, settings=settings,
                   work=lambda: make_layer(config, layout, args.seed, args.size_px, sample, layer))


if __name__ == "__main__":
    sys.exit(main())
