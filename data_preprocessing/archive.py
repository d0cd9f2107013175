"""Convert a processed archive (readers/asign.py) to the files of steps 5_1 to 7 and of all 3D steps.

An archive holds no counts, no slide and no registration, so:
    pixels      the positions, scaled so that neighbouring spots lie `pitch_px` apart
    patches     one for each different feature of a layer's 512 (1024) level; its grid position is fitted to its spots
    registered  each layer onto the middle one by the rotation, scale and shift that most of the heaviest pairs agree on
    IoU, cosine the archive's weight in two parts: the IoU of the registered circles, as far as the weight allows,
                and the rest
"""
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from common.config import Config
from common.errors import DataError, LayerError
from common.gene_list import read_gene_list, read_genes
from common.geometry import REFERENCE_PITCH_PX, dataset_geometry
from common.io import write_csr, write_json, write_npy, write_patches, write_pt, write_table
from common.layout import LEVELS, Layout
from data_preprocessing.graph import build_graph
from data_preprocessing.readers import spot_pitch_px
from data_preprocessing.readers.asign import ArchiveLayer, Stack, picture_folder, read_layers, read_weights, stack_file
from data_preprocessing.records import spot_records
from data_preprocessing_3d.records import stack_records

if TYPE_CHECKING:
    from scipy import sparse

SIDES_PITCHES = {level: size / REFERENCE_PITCH_PX for size, level in LEVELS.items()}
MAX_GRIDS = 40           # grids along an axis that are tried with those along the other
AGREE_PITCHES = 1.0      # two spots closer than this agree with a transform
MIN_AGREEING = 0.5       # share of a layer's spots that must agree with its transform
FEATURE_SET = "backbone"


# one layer -------------------------------------------------------------------------------------------
def location_of(layer: ArchiveLayer, pitch_px: float) -> pd.DataFrame:
    """The location table; neighbours lie pitch_px apart. i, j: of the barcode `IxJ`, else the nearest grid position."""
    pitches = layer.position / spot_pitch_px(pd.DataFrame(layer.position, columns=["pixel_x", "pixel_y"]), layer.path)
    named = [re.fullmatch(r"(\d+)x(\d+)", barcode) for barcode in layer.barcode]
    array = np.rint(pitches).astype(np.int64)  # (n, 2)
    if all(named):
        array = np.array([[int(one[1]), int(one[2])] for one in named])
    pixel = pitches * pitch_px  # (n, 2)
    return pd.DataFrame({"barcode": layer.barcode, "pixel_x": pixel[:, 0], "pixel_y": pixel[:, 1],
                         "i": array[:, 0], "j": array[:, 1]})


def layer_graph(layer: ArchiveLayer, location: pd.DataFrame, pitch_px: float) -> dict:
    """The layer's graph, as step 6 writes it."""
    position = location[["pixel_x", "pixel_y"]].to_numpy() / pitch_px
    levels = {}
    for name, level in (("region", layer.region), ("global", layer.global_)):
        cells = grid_cells(position, level.owner, SIDES_PITCHES[name])  # (R, 2)
        levels[name] = {"x": level.x, "y": level.y, "has_label": level.y.any(axis=1), "pos": cells.astype(np.float32)}
    of_members = pd.Series(layer.global_.owner).groupby(layer.region.owner)
    global_of_region = of_members.agg(lambda owners: owners.mode()[0]).to_numpy()
    graph = build_graph(position, levels, layer.region.owner, layer.global_.owner, global_of_region)
    graph["spot"]["feature_sets"] = {FEATURE_SET: layer.feature.shape[1]}
    graph["spot"]["feature_recipe"] = {FEATURE_SET: {"model": "processed archive", "weights_sha256": "",
                                                     "preprocessing": "", "spot_window_um": 0.0}}
    return graph


def grid_cells(position: np.ndarray, owner: np.ndarray, side: float) -> np.ndarray:
    """Column and row of each patch: position (n, 2) and side in pitches, owner (n,) -> (R, 2) int64, no two alike.

    A patch's spots lie in one cell of a regular grid. The grid is the one of about that side for which this holds for
    most patches and which separates most of them. If two patches still share a cell, all are laid out without
    neighbours.
    """
    order = np.argsort(owner, kind="stable")
    start = np.searchsorted(owner[order], np.arange(owner.max() + 1))
    columns, rows = (cells_along(position[order, axis], start, side) for axis in (0, 1))  # (n_grids, R) each

    def n_apart(pair: tuple[int, int]) -> int:
        return len(np.unique(columns[pair[0]] * 10 ** 6 + rows[pair[1]]))

    column, row = max(np.ndindex(len(columns), len(rows)), key=n_apart)
    if n_apart((column, row)) < len(start):
        return np.stack([3 * np.arange(len(start)), np.zeros(len(start), np.int64)], axis=1)
    return np.stack([columns[column], rows[row]], axis=1)


def cells_along(x: np.ndarray, start: np.ndarray, side: float) -> np.ndarray:
    """The cells of patches on the best grids along one axis: (n_grids, R) int64.

    x (n,) patch by patch; start (R,): the first index of each patch.
    """
    sides = side * np.linspace(0.85, 1.15, 31)
    shifts = np.linspace(0, 1, 40, endpoint=False)[:, None]
    cells = [np.floor((x - x.min()) / one + shifts) for one in sides]
    low = np.concatenate([np.minimum.reduceat(cell, start, axis=1) for cell in cells])
    high = np.concatenate([np.maximum.reduceat(cell, start, axis=1) for cell in cells])
    whole = (low == high).sum(axis=1)
    best, first = np.unique(low[whole == whole.max()], axis=0, return_index=True)
    return best[np.argsort(first)][:MAX_GRIDS].astype(np.int64)


# all layers ------------------------------------------------------------------------------------------
def register(pixel: np.ndarray, layer: np.ndarray, weights: "sparse.csr_array",
             pitch_px: float) -> tuple[np.ndarray, dict]:
    """Spots in the middle layer's px, (N, 2), and the content of quality.json. pixel (N, 2) own px, layer (N,).

    The middle layer is that at index n // 2. A layer is accepted if half of its spots agree with its transform; else it
    is only shifted onto the middle one's centroid.
    """
    layers = np.unique(layer)
    middle = int(layers[len(layers) // 2])
    registered, verdicts, fixed = pixel.copy(), {}, layer == middle
    for one in layers:
        own = layer == one
        matrix, agreeing = np.eye(2, 3), 1.0
        if one != middle:
            matrix, agreeing = agreed(pixel[own], pixel[fixed], weights[own][:, fixed].toarray(), pitch_px)
        accepted = agreeing >= MIN_AGREEING
        if not accepted:
            matrix = np.column_stack([np.eye(2), pixel[fixed].mean(axis=0) - pixel[own].mean(axis=0)])
        registered[own] = pixel[own] @ matrix[:, :2].T + matrix[:, 2]
        verdicts[str(one)] = {"accepted": accepted, "method": "weights" if accepted else "centroid",
                              "agreeing": round(agreeing, 3), "matrix": matrix.tolist()}
    return registered, {"layers": layers.tolist(), "middle": middle, "left_out": [], "pairs": [], "to_middle": verdicts}


def agreed(moving: np.ndarray, fixed: np.ndarray, weight: np.ndarray, pitch_px: float) -> tuple[np.ndarray, float]:
    """The rotation, scale and shift on which most spots and their heaviest partners agree, (2, 3); their share.

    moving (n, 2), fixed (m, 2) px; weight (n, m), 0 where none.
    """
    import cv2
    paired = weight.any(axis=1)
    if paired.sum() < 3:
        return np.eye(2, 3), 0.0
    cv2.setRNGSeed(0)
    source, target = moving[paired], fixed[weight[paired].argmax(axis=1)]
    matrix, agree = cv2.estimateAffinePartial2D(source, target, method=cv2.RANSAC, maxIters=5000, confidence=0.9999,
                                                ransacReprojThreshold=AGREE_PITCHES * pitch_px)
    return (np.eye(2, 3), 0.0) if matrix is None else (matrix, float(agree.sum() / len(moving)))


def circle_iou(distance: np.ndarray, radius: float) -> np.ndarray:
    """Intersection over union of two circles of one radius."""
    half = np.minimum(distance / (2 * radius), 1)
    lens = 2 * radius ** 2 * (np.arccos(half) - half * np.sqrt(1 - half ** 2))
    return lens / (2 * np.pi * radius ** 2 - lens)


def parts_of(weight: np.ndarray, overlap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU and cosine (P,) that add up to the weight: the measured IoU, clipped so that the cosine lies in -1 to 1."""
    iou = np.clip(overlap, np.maximum(weight - 1, 0), 1)
    return iou, weight - iou


# writing ---------------------------------------------------------------------------------------------
def write_genes(layout: Layout, config: Config, n_genes: int) -> None:
    """Write genes.csv, and the same as background.csv. Raises DataError, and as read_gene_list.

    The names are those of `config.genes` if that is a file, else gene_1, gene_2, …: an archive does not contain them.
    """
    names = [f"gene_{rank}" for rank in range(1, n_genes + 1)]
    if config.genes not in ("top_mean", "hvg"):
        names = read_gene_list(Path(config.genes))
        if len(names) != n_genes or len(set(names)) != n_genes:
            raise DataError(config.genes, f"{len(set(names))} gene names",
                            f"the {n_genes} of the archive's labels, in their order", "correct the list")
    table = pd.DataFrame({"gene": names, "rank": range(1, n_genes + 1), "mean": np.nan})
    write_table(layout.background, table)
    write_table(layout.genes, table.assign(chosen_by="archive", genes_from="all", n_layers=0))


def outputs(layout: Layout, config: Config, raw: Path, sample: str) -> list[Path]:
    """The files whose presence shows that a sample is converted."""
    files, layers = [], config.layers_of(sample)
    for layer in layers:
        files += [path(sample, layer) for path in (layout.location, layout.npy, layout.graph)]
    if len(layers) > 1 and stack_file(raw, sample).is_file():
        files += [path(sample) for path in
                  (layout.quality, layout.spot_regist, layout.spot_iou, layout.graph_3d, layout.npy_3d)]
    return files


def write_sample(raw: Path, layout: Layout, config: Config, sample: str) -> str:
    """Convert one sample; returns a line on its content. Raises DataError, LayerError."""
    names = {layer: config.samples[sample].raw[layer] for layer in config.layers_of(sample)}
    stack = Stack(stack_file(raw, sample))
    layers = read_layers(raw, sample, names, stack)
    genes, pitch_px = read_genes(layout), dataset_geometry(config).pitch_px
    locations, records, graphs, n_pictures = {}, {}, {}, 0
    for layer, one in layers.items():
        location = locations[layer] = location_of(one, pitch_px)
        graphs[layer] = layer_graph(one, location, pitch_px)
        graphs[layer]["spot"]["genes"] = genes
        records[layer] = spot_records(location, one.feature, one.label, one.label.any(axis=1),
                                      one.region.owner, one.global_.owner)
        write_table(layout.location(sample, layer), location)
        write_pt(layout.graph(sample, layer), graphs[layer])
        write_npy(layout.npy(sample, layer), records[layer])
        n_pictures += write_pictures(raw, layout, sample, layer, names[layer], location)
    sizes = (f"{layer} ({names[layer]}): {len(one)} spots" for layer, one in locations.items())
    line = f"sections {', '.join(sizes)}, {n_pictures} pictures"
    if len(layers) < 2 or not stack.path.is_file():
        return line
    spot_names = []
    for layer, one in layers.items():
        spot_names += [f"{names[layer]}_{barcode}" for barcode in one.barcode]
    layer_of_spot = np.repeat(list(layers), [len(one) for one in locations.values()])  # (N,)
    weights = read_weights(raw, sample, spot_names, layer_of_spot, stack)
    return f"{line}; {write_stack(layout, config, sample, weights, locations, records, graphs)}"


def write_stack(layout: Layout, config: Config, sample: str, weights: "sparse.csr_array", locations: dict,
                records: dict, graphs: dict) -> str:
    """The 3D files of a sample; returns how its layers were registered."""
    from data_preprocessing_3d import neighbours
    from data_preprocessing_3d.graph import build_graph as build_graph_3d
    layer = np.repeat(list(locations), [len(one) for one in locations.values()])  # (N,)
    pixel = np.concatenate([one[["pixel_x", "pixel_y"]].to_numpy() for one in locations.values()])  # (N, 2)
    geometry = dataset_geometry(config)
    registered, quality = register(pixel, layer, weights, geometry.pitch_px)
    pairs = neighbours.pairs_of(weights)
    distance = np.linalg.norm(registered[pairs[:, 0]] - registered[pairs[:, 1]], axis=1)
    weight = neighbours.value_at(weights, pairs).astype(np.float64)
    iou, cosine = parts_of(weight, circle_iou(distance, geometry.contour_radius_px))
    overlapping = iou > 0
    overlap = neighbours.symmetric(pairs[overlapping], iou[overlapping], len(layer))
    similarity = neighbours.symmetric(pairs, cosine, len(layer))
    combined = neighbours.symmetric(pairs, weight, len(layer))
    barcode = pd.concat([one["barcode"] for one in locations.values()]).tolist()
    stack = pd.DataFrame({"sample": sample, "layer": layer, "barcode": barcode,
                          "registered_x": registered[:, 0], "registered_y": registered[:, 1]})
    direction = np.concatenate([neighbours.directions(one["feature"]) for one in records.values()])
    write_json(layout.quality(sample), {"sample": sample, **quality})
    write_table(layout.spot_regist(sample), stack)
    for path, matrix in ((layout.spot_iou, overlap), (layout.similarity, similarity), (layout.combined, combined)):
        write_csr(path(sample), matrix)
    graph = build_graph_3d(stack, pixel, geometry.pitch_px, combined, overlap, similarity, direction, graphs)
    write_pt(layout.graph_3d(sample), graph)
    write_npy(layout.npy_3d(sample), stack_records(records, registered))
    verdicts = (f"{one} {verdict['method']} ({verdict['agreeing']:.0%} agree)"
                for one, verdict in quality["to_middle"].items())
    return f"{len(pairs)} weighted pairs, registered by {', '.join(verdicts)}"


def write_pictures(raw: Path, layout: Layout, sample: str, layer: int, name: str, location: pd.DataFrame) -> int:
    """Write the spot patches as step 1 does, if the archive has all of this layer; returns their number.

    Raises LayerError.
    """
    paths = [picture_folder(raw, name) / f"{barcode}.png" for barcode in location["barcode"]]
    if not all(path.is_file() for path in paths):
        return 0
    centre = np.rint(location[["pixel_x", "pixel_y"]].to_numpy()).astype(np.int64)
    write_patches(layout.patches(224, sample, layer), map(read_picture, paths), 224, centre,
                  location["barcode"].tolist())
    return len(paths)


def read_picture(path: Path) -> np.ndarray:
    """A spot's picture: (224, 224, 3) uint8. Raises LayerError."""
    from PIL import Image
    try:
        return np.asarray(Image.open(path).convert("RGB").resize((224, 224)))
    except Exception as error:  # every decoder raises its own
        raise LayerError(path, f"a picture that cannot be read ({error})", "an RGB picture of a spot",
                         "copy it again, or remove it: the section is converted without pictures") from None
