"""Processed archives in the form that the paper's authors released: two samples of three rotated and shifted layers.

The archives are generated; `convert_archive` runs step 0_1 on them.
"""
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from conftest import load_script
from PIL import Image
from torch_geometric.data import HeteroData

GENES, WIDTH, PITCH_PX = 12, 16, 272.0
COLUMNS, ROWS = 9, 8
N_SPOTS = COLUMNS * ROWS        # of a layer
TURN_DEG = {2: 6.0, 3: 0.0, 4: -9.0}
SHIFT_PITCHES = {2: (0.3, -0.2), 3: (0.0, 0.0), 4: (-0.25, 0.35)}
LAYERS = tuple(TURN_DEG)


@dataclass(frozen=True)
class Truth:
    """The content of a sample, rows layer by layer."""
    name: list[str]           # <layer>_<spot>
    layer: np.ndarray         # (N,)
    array: np.ndarray         # (N, 2) position in the archive
    common: np.ndarray        # (N, 2) pitches in the middle layer's frame
    weight: np.ndarray        # (N, N) IoU + cosine, 0 within a layer
    region: np.ndarray        # (N, 2) grid column, row
    global_: np.ndarray       # (N, 2)
    label: np.ndarray         # (N, G)
    feature: np.ndarray       # (N, D)


def convert_archive(raw: Path, root: Path, *options: str) -> int:
    """Run step 0_1 on an archive; its exit status."""
    script = load_script("0_1_convert_raw")
    return script.main(["--format", "asign", "--raw_path", str(raw), "--root_path", str(root), *options])


def make_truth(sample: str, seed: int) -> Truth:
    generator = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(COLUMNS), np.arange(ROWS)), axis=-1).reshape(-1, 2).astype(float)
    centre, names, commons = grid.mean(axis=0), [], []
    for layer in LAYERS:
        turn = np.deg2rad(TURN_DEG[layer])
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        commons.append((grid - centre) @ rotation.T + centre + SHIFT_PITCHES[layer])
        names += [f"{sample}{layer}_{int(i)}x{int(j)}" for i, j in grid]
    common, layer, array = np.concatenate(commons), np.repeat(LAYERS, len(grid)), np.tile(grid, (len(LAYERS), 1))
    programme = np.stack([np.sin(common[:, 0] / 2), np.cos(common[:, 1] / 2), np.sin(common.sum(axis=1) / 3)], axis=1)
    counts = generator.poisson(np.exp(1.5 + programme @ np.random.default_rng(7).normal(0, 0.5, (3, GENES)))) + 1
    noise = 0.3 * generator.normal(size=(len(layer), WIDTH))
    feature = programme @ np.random.default_rng(8).normal(size=(3, WIDTH)) + noise
    distance = np.linalg.norm(common[:, None] - common, axis=2)
    unit = feature / np.linalg.norm(feature, axis=1, keepdims=True)
    weight = np.maximum(1 - distance / (2 * 112 / 272), 0) + np.clip(unit @ unit.T, 0, None)
    weight[layer[:, None] == layer] = 0
    label = np.log(counts / counts.sum(axis=1, keepdims=True))
    region, global_ = (cells(array, side_px / PITCH_PX) for side_px in (512, 1024))
    return Truth(names, layer, array, common, weight.astype(np.float32), region, global_,
                 label.astype(np.float32), feature.astype(np.float32))


def cells(array: np.ndarray, pitches: float) -> np.ndarray:
    """(N, 2) column and row of the grid cell that each position (N, 2) lies in; pitches: side of a cell."""
    return np.floor((array + 0.6) / pitches).astype(int)


def spot_dicts(truth: Truth, sample: str) -> list[dict]:
    """The dicts of all layers; a patch's feature and label are the means over its spots."""
    spots = []
    keys = {"512": truth.region, "1024": truth.global_}
    for row, name in enumerate(truth.name):
        layer_name, spot = name.split("_")
        one = {"img_path": f"cropped_imgs/patch_224/{layer_name}/{spot}.png", "label": truth.label[row],
               "position": truth.array[row], "level": LAYERS.index(int(truth.layer[row])) + 1}
        for size, cell in keys.items():
            members = (truth.layer == truth.layer[row]) & (cell == cell[row]).all(axis=1)
            one[f"feature_{size}"] = truth.feature[members].mean(axis=0)
            one[f"label_{size}"] = truth.label[members].mean(axis=0)
        spots.append(one)
    return spots


def hetero_data(truth: Truth, rows: np.ndarray) -> HeteroData:
    """layer_224 with features and edges between the 12 heaviest pairs; the other levels hold zeros."""
    data = HeteroData()
    weight = truth.weight[np.ix_(rows, rows)]
    top = np.argsort(-weight, axis=1, kind="stable")[:, :12]
    source, target = top.ravel(), np.repeat(np.arange(len(rows)), top.shape[1])
    data["layer_224"].x = torch.from_numpy(truth.feature[rows])
    data["layer_224"].y = torch.from_numpy(truth.label[rows])
    data["layer_224", "to", "layer_224"].edge_index = torch.from_numpy(np.stack([source, target]))
    data["layer_224", "to", "layer_224"].edge_attr = torch.from_numpy(weight[target, source])
    for level in ("layer_512", "layer_1024"):
        data[level].x, data[level].y = torch.zeros(4, WIDTH), torch.zeros(4, GENES)
    return data


def save_objects(path: Path, spots: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.empty(len(spots), object)
    values[:] = spots
    np.save(path, values, allow_pickle=True)


def save_data(path: Path, data) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(data, path)


def write_archive(raw: Path, samples: tuple[str, ...] = ("C", "D"), parts: str = "2d 3d csv") -> dict[str, Truth]:
    """The files of these samples. parts: 2d, 3d, csv (the dense weights), pictures."""
    truths = {sample: make_truth(sample, seed) for seed, sample in enumerate(samples)}
    for sample, truth in truths.items():
        spots = spot_dicts(truth, sample)
        if "2d" in parts:
            for layer in LAYERS:
                rows = np.flatnonzero(truth.layer == layer)
                save_objects(raw / "npy_information" / sample / f"{sample}{layer}.npy", [spots[row] for row in rows])
                save_data(raw / "graph_data" / sample / f"{sample}{layer}.pt", hetero_data(truth, rows))
        if "3d" in parts:
            save_objects(raw / "3D_npy_information" / f"{sample}.npy", spots)
            save_data(raw / "3D_graph_data" / f"{sample}.pt", hetero_data(truth, np.arange(len(spots))))
        if "csv" in parts:
            (raw / "3D_combined_information").mkdir(parents=True, exist_ok=True)
            table = np.where(truth.layer[:, None] == truth.layer, 1.9, truth.weight)  # within a layer: ignored
            pd.DataFrame(table, truth.name, truth.name).to_csv(raw / "3D_combined_information" / f"{sample}.csv")
        if "pictures" in parts:
            for row, spot in enumerate(spots):
                path = raw / spot["img_path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (224, 224), (row % 256, 90, 140)).save(path)
    return truths
