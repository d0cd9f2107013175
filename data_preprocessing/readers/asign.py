"""The processed archives of the paper's authors (Zhu et al., CVPR 2025): labels, features and graphs.

An archive holds no counts and no slides:

    npy_information/<sample>/<layer>.npy    object array, a dict a spot: img_path (…/<layer>/<spot>.png), label (G,),
                                            position (2,), feature_512, feature_1024 (D,), label_512, label_1024 (G,)
    3D_npy_information/<sample>.npy         the same, all layers of a sample
    graph_data/<sample>/<layer>.pt, 3D_graph_data/<sample>.pt      HeteroData; layer_224.x (n, D): the spots' features
    3D_combined_information/<sample>.csv    dense weights of pairs of spots, first column and header `<layer>_<spot>`;
                                            without it the edges of layer_224 in 3D_graph_data are used
    cropped_imgs/patch_224/<layer>/<spot>.png   used if all of a layer are there

A layer's number is that at the end of its name, else its rank among the sorted names. All but the tables are pickles,
read by safe_pickle.py. data_preprocessing/archive.py converts them.
"""
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from common.config import Config, SampleConfig
from common.errors import DataError, LayerError
from common.layout import GLOBAL, REGION
from data_preprocessing.readers import in_reading_order, visible
from data_preprocessing.readers.safe_pickle import read_hetero_data, read_spot_dicts

if TYPE_CHECKING:
    from scipy import sparse

FORMS = ("npy_information/<sample>/<layer>.npy", "3D_npy_information/<sample>.npy", "graph_data/<sample>/<layer>.pt",
         "3D_graph_data/<sample>.pt", "3D_combined_information/<sample>.csv")
N_HEAVIEST = 12          # pairs of a spot that are kept of the dense weights
BLOCK_ROWS = 256         # rows of the dense weights read at a time

Triple = tuple[np.ndarray, np.ndarray, np.ndarray]


# what there is ---------------------------------------------------------------------------------------
def list_layers(raw: Path, config: Config) -> dict[str, SampleConfig]:
    """Samples with `layers` and `raw` (number: name) written out: as in the config, else as numbered.

    A sample whose 3D file cannot be read has the layers of its 2D files. Without any it is listed with those of the
    config or a layer 1, and its conversion reports the error. Raises DataError if there is no sample, for a name of the
    config that is not there, or for a pickle that asks for anything to be run.
    """
    names, unreadable, given = {}, set(), config.samples or {}
    for path in visible(raw, "npy_information/*/*.npy"):
        names.setdefault(path.parent.name, set()).add(path.stem)
    for path in visible(raw, "3D_npy_information/*.npy"):
        there = names.setdefault(path.stem, set())
        try:
            there.update(layer for layer, _ in Stack(path).names)
        except LayerError as error:
            unreadable.add(path.stem)
            if there:
                print(f"{path.stem}: only its 2D files are listed: {error}", file=sys.stderr)
    if not names:
        raise DataError(raw, "no sample", "npy_information/<sample>/<layer>.npy or 3D_npy_information/<sample>.npy",
                        "correct --raw_path")
    for sample, one in given.items():
        there = names.get(sample, [])
        missing = [name for name in one.raw.values() if name not in there]
        if missing and sample not in unreadable:
            raise DataError(raw, f"no {missing[0]} (samples.{sample}.raw)",
                            f"one of {', '.join(in_reading_order(there)) or 'none'}",
                            "correct the name in the config, or --raw_path")
    samples = {}
    for sample, found in sorted(names.items()):
        one = given.get(sample, SampleConfig())
        unread = dict.fromkeys(one.layers or one.known_layers or [1], stack_file(raw, sample).name)
        samples[sample] = one.raw or numbered(list(found)) or unread
    return {sample: SampleConfig(layers=sorted(layers), raw=layers) for sample, layers in samples.items()}


def numbered(names: list[str]) -> dict[int, str]:
    """{layer: name}: the number at the end of each name if all differ, else 1, 2, … in reading order."""
    ends = [re.search(r"(\d+)$", name) for name in names]
    numbers = [int(end[1]) for end in ends if end]
    if len(set(numbers)) < len(names):
        return dict(enumerate(in_reading_order(names), 1))
    return dict(sorted(zip(numbers, names, strict=True)))


def stack_file(raw: Path, sample: str) -> Path:
    """The file of the spots of all layers of a sample; it may be absent."""
    return raw / "3D_npy_information" / f"{sample}.npy"


def picture_folder(raw: Path, name: str) -> Path:
    """The folder of the spots' pictures of a layer; it may be absent."""
    return raw / "cropped_imgs" / "patch_224" / name


def sample_files(raw: Path, sample: str) -> list[Path]:
    """Every file of a sample's labels, features and graphs."""
    files = []
    for folder in ("npy_information", "graph_data"):
        files += sorted(visible(raw / folder / sample))
    whole = [stack_file(raw, sample), raw / "3D_graph_data" / f"{sample}.pt",
             raw / "3D_combined_information" / f"{sample}.csv"]
    return files + [path for path in whole if path.is_file()]


def read_n_genes(raw: Path, samples: list[str]) -> int:
    """Number of genes of a label: that of the first spot that can be read. Raises DataError, LayerError."""
    files = []
    for sample in samples:
        files += [path for path in sample_files(raw, sample) if path.suffix == ".npy"]
    for path in files:
        try:
            return len(np.asarray(read_spot_dicts(path)[0]["label"]).ravel())
        except (LayerError, KeyError):
            continue
    raise LayerError(files[0], "no label in any file", "an archive as released", "copy it again")


def _layer_and_spot(path: Path, spot: dict) -> tuple[str, str]:
    """Names of the layer and of the spot, from its picture's path. Raises LayerError."""
    image = Path(str(spot.get("img_path", "")).replace("\\", "/"))
    if len(image.parts) < 2:
        raise LayerError(path, f"img_path {str(image)!r}", "…/<layer>/<spot>.png", "copy it again")
    return image.parent.name, image.stem


class Stack:
    """The spots of all layers of a sample, read at their first use, which may raise DataError or LayerError."""

    def __init__(self, path: Path):
        self.path = path

    @cached_property
    def spots(self) -> list[dict]:
        return read_spot_dicts(self.path)

    @cached_property
    def names(self) -> list[tuple[str, str]]:
        """Layer and spot of each."""
        return [_layer_and_spot(self.path, spot) for spot in self.spots]


# one layer -------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Level:
    """The region or global patches of a layer."""
    owner: np.ndarray     # (n_spots,) int64: the patch of each spot
    x: np.ndarray         # (R, D) float32
    y: np.ndarray         # (R, G) float32


@dataclass(frozen=True)
class ArchiveLayer:
    """One layer of an archive."""
    path: Path             # the file of its spots
    barcode: list[str]
    position: np.ndarray   # (n, 2), any unit
    feature: np.ndarray    # (n, D) float32
    label: np.ndarray      # (n, G) float32
    region: Level
    global_: Level


def read_layers(raw: Path, sample: str, names: dict[int, str], stack: Stack) -> dict[int, ArchiveLayer]:
    """The layers of a sample in z order, from their own files, else from the sample's 3D files.

    Raises DataError, LayerError.
    """
    own = {path.stem: path for path in visible(raw / "npy_information" / sample, "*.npy")}
    layers = {}
    if not set(names.values()) <= set(own):
        stack_feature = spot_features(raw / "3D_graph_data" / f"{sample}.pt", len(stack.spots))
    for layer, name in sorted(names.items()):
        if name in own:
            path, spots = own[name], read_spot_dicts(own[name])
            feature = spot_features(raw / "graph_data" / sample / f"{name}.pt", len(spots))
        else:
            rows = [row for row, (one, _) in enumerate(stack.names) if one == name]
            path, spots, feature = stack.path, [stack.spots[row] for row in rows], stack_feature[rows]
        layers[layer] = archive_layer(path, spots, feature)
    widths = {(one.feature.shape[1], one.region.x.shape[1], one.global_.x.shape[1], one.label.shape[1])
              for one in layers.values()}
    if len(widths) > 1 or len(set(next(iter(widths))[:3])) > 1:
        raise LayerError(raw / "npy_information" / sample if own else stack.path,
                         f"widths of spot, region, global feature and label {sorted(widths)}",
                         "one feature width, one number of genes", "copy the sample again")
    return layers


def spot_features(path: Path, n_spots: int) -> np.ndarray:
    """layer_224.x of a graph: (n_spots, D) float32. Raises LayerError if it is not there."""
    if not path.is_file():
        raise LayerError(path, "no file", "the graph with the spots' features (layer_224.x)",
                         "copy it from the archive")
    x = getattr(read_hetero_data(path)["layer_224"], "x", None)
    if x is None or x.ndim != 2 or len(x) != n_spots:
        found = "no layer_224.x" if x is None else f"layer_224.x {tuple(x.shape)}"
        raise LayerError(path, found, f"({n_spots}, D), a row a spot", "copy it again")
    return x.numpy().astype(np.float32)


def archive_layer(path: Path, spots: list[dict], feature: np.ndarray) -> ArchiveLayer:
    """One layer from its spots' dicts and features (n, D).

    Raises LayerError for a missing key, a wrong shape, a number that is not finite, or a spot that is there twice.
    """
    keys = ("position", "label", "feature_512", "label_512", "feature_1024", "label_1024")
    try:
        arrays = {}
        for key in keys:
            arrays[key] = np.stack([np.asarray(spot[key], np.float32).ravel() for spot in spots])  # (n, width)
    except (KeyError, ValueError, TypeError) as error:
        raise LayerError(path, f"a spot without a well-formed {error}", ", ".join(keys), "copy it again") from None
    barcode = [_layer_and_spot(path, spot)[1] for spot in spots]
    finite = all(np.isfinite(one).all() for one in (*arrays.values(), feature))
    if not finite or arrays["position"].shape[1] != 2 or len(set(barcode)) < len(barcode):
        raise LayerError(path, "a number that is not finite, a position that is no pair, or a spot twice",
                         "one well-formed dict a spot", "copy it again")
    region, global_ = (distinct(arrays[f"feature_{size}"], arrays[f"label_{size}"]) for size in (REGION, GLOBAL))
    position = arrays["position"].astype(np.float64)
    return ArchiveLayer(path, barcode, position, feature, arrays["label"], region, global_)


def distinct(feature: np.ndarray, label: np.ndarray) -> Level:
    """The distinct patches of the spots' rows, in the order of their first spot: feature (n, D), label (n, G)."""
    first: dict[bytes, int] = {}
    owner = np.array([first.setdefault(row.tobytes(), len(first)) for row in feature], np.int64)
    rows = np.unique(owner, return_index=True)[1]
    return Level(owner, feature[rows], label[rows])


# all layers ------------------------------------------------------------------------------------------
def read_weights(raw: Path, sample: str, names: list[str], layer: np.ndarray, stack: Stack) -> "sparse.csr_array":
    """Weights of the heaviest pairs of different layers: symmetric (N, N), all above 0.

    names: `<layer>_<spot>` of every row; layer (N,). Raises LayerError for names or weights that are missing or do not
    fit.
    """
    from scipy import sparse
    table, graph = raw / "3D_combined_information" / f"{sample}.csv", raw / "3D_graph_data" / f"{sample}.pt"
    row_of = {name: row for row, name in enumerate(names)}
    if table.is_file():
        path, triples = table, _heaviest(table, row_of, layer)
    else:
        path, triples = graph, _graph_edges(graph, stack, row_of)
    try:
        row, column, weight = (np.concatenate(part) for part in zip(*triples, strict=True))
    except ValueError as error:  # of text where a number belongs
        raise LayerError(path, f"a table that cannot be read ({error})",
                         "weights, first column and header <layer>_<spot>", "copy it again") from None
    kept = (row >= 0) & (column >= 0) & (weight > 0) & (layer[row] != layer[column])
    if not kept.any() or weight[kept].max() > 2.001:
        raise LayerError(path, "no weight between two sections, or one above 2",
                         "IoU + cosine of pairs named <layer>_<spot>", "copy it again")
    one_way = sparse.coo_array((weight[kept], (row[kept], column[kept])), shape=(len(names),) * 2).tocsr()
    return sparse.csr_array(one_way.maximum(one_way.T))


def _heaviest(path: Path, row_of: dict[str, int], layer: np.ndarray) -> Iterator[Triple]:
    """(rows, columns, weights) of the 12 heaviest pairs across layers of each row, block by block; -1: unknown name."""
    def at(names: pd.Index) -> np.ndarray:
        return np.array([row_of.get(str(name), -1) for name in names])

    for block in pd.read_csv(path, index_col=0, chunksize=BLOCK_ROWS):
        rows, columns, weight = at(block.index), at(block.columns), block.to_numpy(np.float32)
        weight[(layer[rows][:, None] == layer[columns]) | (columns < 0) | ~np.isfinite(weight)] = 0
        top = np.argsort(-weight, axis=1, kind="stable")[:, :N_HEAVIEST]
        yield np.repeat(rows, top.shape[1]), columns[top].ravel(), np.take_along_axis(weight, top, axis=1).ravel()


def _graph_edges(path: Path, stack: Stack, row_of: dict[str, int]) -> Iterator[Triple]:
    """(rows, columns, weights) of the edges of layer_224."""
    data = read_hetero_data(path)
    stores = [data["layer_224"]]
    stores += [store for (source, _, target), store in data.edge_items() if source == target == "layer_224"]
    edges = next((store for store in stores if "edge_index" in store), None)
    if edges is None:
        raise LayerError(path, "no layer_224.edge_index", "the edges between spots", "copy it again")
    of_node = np.array([row_of.get("_".join(names), -1) for names in stack.names])
    source, target = of_node[edges["edge_index"].numpy()]
    weight = np.ones(len(source))
    if "edge_attr" in edges:
        weight = edges["edge_attr"].numpy().reshape(len(source), -1)[:, 0]
    yield target, source, weight.astype(np.float32)
