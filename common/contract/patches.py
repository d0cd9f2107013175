"""The contract of patch tables, patch files and pairs (steps 1 to 3)."""
from itertools import chain
from pathlib import Path

import numpy as np

from common import io
from common.contract.fault import demand, demand_array, demand_keys, demand_names
from common.contract.root import PATCH_COLUMNS, Root, read_cut_names, read_patches
from common.geometry import section_geometry


def patches_csv(size: int):
    def check(root: Root, path: Path, sample: str, layer: int) -> None:
        table = root.own(path, read_patches)
        window = section_geometry(root.config, root.layout, sample, layer).window_px(size)
        demand(table["patch_name"].is_unique, "a patch_name twice", "unique names")
        whole = table[list(PATCH_COLUMNS[1:])].dtypes.eq("int64").all()
        demand(whole, "positions that are no whole numbers", "whole level-0 px")
        right = (table[["width", "height"]] == window).all(axis=None)
        demand(right, f"width {table['width'].iloc[0]}", f"windows of {window} px by dataset.yaml")
        if size == 224:
            demand_names(table["patch_name"].tolist(), root.barcodes(sample, layer), "spots",
                         f"location/{sample}/{layer}.csv")
        else:
            cells = table[["j", "i"]].to_numpy()
            demand(np.array_equal(cells, np.unique(cells, axis=0)), "grid cells out of order or twice",
                   "cells row by row, each once")
            names = [f"{size}_{column}_{row}" for row, column in cells]
            demand_names(table["patch_name"].tolist(), names, "patches", "their columns i and j")
        cut = root.read(root.layout.patches(size, sample, layer), read_cut_names)
        demand_names(table["patch_name"].tolist(), cut, "patches", f"cropped_imgs/patches_{size}/{sample}/{layer}.h5")
    return check


def pairs_csv(size: int, member_size: int, column: str):
    def check(root: Root, path: Path, sample: str, layer: int) -> None:
        table = io.read_table(path, (*PATCH_COLUMNS, column), text=("patch_name", column))
        owners, members = root.patches(size, sample, layer), root.patches(member_size, sample, layer)
        if owners is not None:
            demand_names(table["patch_name"].tolist(), owners["patch_name"].tolist(), "patches",
                         f"patches_{size}/{sample}/{layer}.csv")
            same = table[list(PATCH_COLUMNS)].equals(owners[list(PATCH_COLUMNS)])
            demand(same, "another place of a patch", f"the columns of patches_{size}/{sample}/{layer}.csv")
        if members is not None:
            listed = sorted(chain.from_iterable(cell.split(";") for cell in table[column].dropna()))
            demand(listed == sorted(members["patch_name"]), f"{len(listed)} {column}",
                   f"each of the {len(members)} {column} in one patch")
    return check


def cropped(size: int):
    def check(root: Root, path: Path, sample: str, layer: int) -> None:
        import h5py
        table = root.patches(size, sample, layer)
        with h5py.File(path, "r") as file:
            io.require_section(file, path)
            demand_keys(file, ("img", "coords", "barcode"))
            names, coords = [name.decode() for name in file["barcode"][:]], file["coords"][:]
            demand_array(file["img"], "img", "u1", len(names), size, size, 3)
        demand_array(coords, "coords", "i8", len(names), 2)
        if table is not None:
            demand_names(names, table["patch_name"].tolist(), "patches",
                         f"patches_csv/patches_{size}/{sample}/{layer}.csv")
            centre = table[["x", "y"]].to_numpy() + table[["width", "height"]].to_numpy() // 2
            right = np.array_equal(coords, centre)
            demand(right, "coords that are not the patches' centres", f"x + width // 2 of patches_csv/patches_{size}")
    return check
