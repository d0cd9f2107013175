"""The contract of images, locations, counts and tissue masks (steps 0_1 to 0_3)."""
from pathlib import Path

import numpy as np

from common import io
from common.contract.fault import demand, demand_array, demand_keys, demand_raw
from common.contract.root import Root, picture_shape
from common.layout import Layout
from common.recipe import file_digest
from common.written import Written

MAX_SIDE_PX = 2048


def image(root: Root, path: Path, sample: str, layer: int) -> None:
    demand(path.is_file(), "a link to nothing", "the section's H&E image")


def location(root: Root, path: Path, sample: str, layer: int) -> None:
    demand(len(root.own(path, io.read_location)) > 0, "no spot", "a row a spot")


def counts(root: Root, path: Path, sample: str, layer: int) -> None:
    adata, barcodes = io.read_h5ad(path), root.barcodes(sample, layer)
    demand_raw(adata.X)
    for what, names in (("barcode", adata.obs_names), ("gene", adata.var_names)):
        demand(names.is_unique, f"a {what} twice", f"unique {what}s")
    unknown = [] if barcodes is None else adata.obs_names.difference(barcodes)
    demand(len(unknown) == 0, f"{len(unknown)} barcodes without a spot", f"barcodes of location/{sample}/{layer}.csv")


def thumbnail_info(root: Root, path: Path, sample: str, layer: int) -> None:
    info = root.own(path, io.read_json)
    demand_keys(info, ("width_px", "height_px", "scale", "tissue_share"))
    sizes = (info["width_px"], info["height_px"], *info["scale"], info["tissue_share"])
    positive = all(type(one) in (int, float) and 0 < one < io.MAX_POSITION for one in sizes)
    demand(positive, f"sizes {sizes}", "numbers above 0")
    demand(len(info["scale"]) == 2 and min(info["scale"]) >= 1, f"scale {info['scale']}",
           "level-0 px per thumbnail px, x and y, 1 or more")


def thumbnail(root: Root, path: Path, sample: str, layer: int) -> None:
    pixels, info = io.read_picture(path), root.read(root.layout.thumbnail_info(sample, layer), io.read_json)
    demand(pixels.ndim == 3 and max(pixels.shape) <= MAX_SIDE_PX, f"pixels {pixels.shape}",
           f"RGB, longer side at most {MAX_SIDE_PX} px")
    if info:
        size = np.array([info["width_px"], info["height_px"]]) / info["scale"]
        fits = np.abs(size - pixels.shape[1::-1]).max() < 1
        demand(fits, f"{pixels.shape[1]} x {pixels.shape[0]} px", "the size in the JSON beside it")
        same = "thumbnail_sha256" not in info or info["thumbnail_sha256"] == file_digest(path)
        demand(same, "another picture", "the one of the JSON beside it")


def mask(root: Root, path: Path, sample: str, layer: int) -> None:
    pixels, beside = io.read_picture(path), root.read(root.layout.thumbnail(sample, layer), picture_shape)
    demand_array(pixels, "mask", "u1", *(beside or (None, None)))
    demand(bool(np.isin(pixels, (0, 255)).all()), "other values than 0 and 255", "255 tissue, 0 empty slide")


def drawn_by_hand(layout: Layout, sample: str, layer: int) -> str | None:
    """One line on a tissue mask that is not as step 0_2 drew it, as a person may correct it; else None."""
    path, written = layout.mask(sample, layer), Written(layout.written("0_2_tissue_mask", sample, layer), layout.root)
    if not path.is_file() or not written.manifest.is_file() or written.is_ours(path):
        return None
    return f"{path}: not as step 0_2 drew it; used as it is, as corrected by a person"
