"""The contract of contours, transforms and registered spots (registration/)."""
from pathlib import Path

import numpy as np

from common import io
from common.contract.fault import demand, demand_array, demand_keys, demand_names
from common.contract.root import Root, read_stack

N_CONTOUR_POINTS = 100
EVIDENCE = ("inliers", "matches", "mirrored", "scale_um_x", "scale_um_y", "shear", "rotation_deg", "determinant", "on_canvas", "tissue_dice",
            "containment", "image_correlation", "overlap_correlation", "spread", "disagreement")  # of registration/gate.py
METHODS = ("xfeat", "landmarks", "transform", "outline", "centroid")  # by which a pair is laid


def contours(root: Root, path: Path, sample: str, layer: int) -> None:
    points, location = io.read_npy(path, mmap=True), root.read(root.layout.location(sample, layer), io.read_location)
    demand_array(points, "contours", "f4", None if location is None else len(location), N_CONTOUR_POINTS, 2)
    if location is not None:
        off = np.abs(points.mean(axis=1) - location[["pixel_x", "pixel_y"]].to_numpy()).max()
        demand(off < 1, f"contours {off:.0f} px off their spots", f"circles about the spots of location/{sample}/{layer}.csv")


def transform(root: Root, path: Path, sample: str, *layers: int) -> None:
    stored = io.read_json(path)
    demand_keys(stored, ("matrix",))
    matrix = np.array(stored["matrix"], np.float64)
    demand_array(matrix, "matrix", "f8", 2, 3)
    by_hand = stored.get("method") in METHODS[1:3]  # one that folds the plane is refused by the gate
    demand(by_hand or abs(np.linalg.det(matrix[:, :2])) > 1e-6, "a matrix without inverse", "an affine transform")
    found = [stored["moving"], stored["fixed"]][:len(layers)]  # to_middle: of one layer
    demand(found == [layer for layer in layers if layer is not None], f"a transform of layer {' to '.join(map(str, found))}", "that of its file name")
    if path.parent.name == "pairs":
        demand_keys(stored, ("accepted", "reasons", "warnings", "method", "refinement", "before", "after", "pieces"))
        judged = [name for name in EVIDENCE if name in stored]  # none of a transform by hand that folds the plane
        demand(not judged or len(judged) == len(EVIDENCE), f"{len(judged)} of the {len(EVIDENCE)} numbers that the gate judged", "all of them")
        right = type(stored["accepted"]) is bool and all(isinstance(stored[name], list) for name in ("reasons", "warnings"))
        demand(right, f"accepted {stored['accepted']}, reasons {stored['reasons']}", "true or false, and lists of text")
    for name in EVIDENCE:
        number = stored.get(name, 0)
        number = int(number) if isinstance(number, bool) else number
        demand(type(number) in (int, float) and abs(number) < io.MAX_POSITION, f"{name} {number!r}", "a number")
    demand(stored.get("method", METHODS[0]) in METHODS, f"method {stored.get('method')!r}", f"one of {', '.join(METHODS)}")


def displacement(root: Root, path: Path, sample: str, *layers: int) -> None:
    stored = io.read_npz(path)
    demand_keys(stored, ("field", "to_level0"))
    demand_array(stored["field"], "field", "f4", None, None, 2)
    demand_array(stored["to_level0"], "to_level0", "f8", 2, 3)


def quality(root: Root, path: Path, sample: str, layer: None) -> None:
    stored = io.read_json(path)
    demand_keys(stored, ("layers", "middle", "pairs", "to_middle"))
    demand(stored["middle"] in stored["layers"], f"middle layer {stored['middle']}", f"one of {stored['layers']}")
    demand(set(stored["layers"]) <= set(root.config.samples[sample].layers), f"layers {stored['layers']}", "layers of dataset.yaml")
    silent = [layer for layer, one in stored["to_middle"].items() if "accepted" not in one]
    demand(not silent, f"no verdict on layers {', '.join(silent)}", "to_middle.<layer>.accepted")


def spot_regist(root: Root, path: Path, sample: str, layer: None) -> None:
    stack = root.own(path, read_stack)
    demand((stack["sample"] == sample).all(), "rows of another sample", f"sample {sample}")
    demand(np.isfinite(stack[["registered_x", "registered_y"]].to_numpy(float)).all(), "a position that is not finite", "registered px")
    demand(stack["layer"].is_monotonic_increasing, "layers out of order", "rows in z order, layer by layer")
    for one, rows in stack.groupby("layer"):
        demand_names(rows["barcode"].tolist(), root.barcodes(sample, int(one)), "spots", f"location/{sample}/{one}.csv")


def registered_contours(root: Root, path: Path, sample: str, layer: None) -> None:
    stack = root.stack(sample)
    points = io.read_npy(path, mmap=True)
    demand_array(points, "contours", "f4", None if stack is None else len(stack), N_CONTOUR_POINTS, 2)
    if stack is not None and len(points):
        centre = points.mean(axis=1)  # (n_spots, 2)
        radius = np.linalg.norm(points - centre[:, None], axis=2).max(axis=1)
        off = np.linalg.norm(centre - stack[["registered_x", "registered_y"]].to_numpy(float), axis=1)
        demand(bool((off <= np.maximum(radius, 1)).all()), f"contours {off.max():.0f} px off their spots", f"those about the spots of spot_regist/{sample}.csv")
