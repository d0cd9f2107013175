"""The contract of contours, transforms and registered spots (registration/)."""
from pathlib import Path

import numpy as np

from common import io
from common.contract.fault import demand, demand_array, demand_keys, demand_names
from common.contract.root import Root, read_stack

N_CONTOUR_POINTS = 100
EVIDENCE = (  # of registration/gate.py
    "inliers", "matches", "mirrored", "scale_um_x", "scale_um_y", "shear", "rotation_deg", "determinant", "on_canvas",
    "tissue_dice", "containment", "image_correlation", "overlap_correlation", "spread", "disagreement")
METHODS = ("xfeat", "landmarks", "transform", "outline", "centroid")  # of the transform of a pair


def contours(root: Root, path: Path, sample: str, layer: int) -> None:
    points = io.read_npy(path, mmap=True)
    location = root.read(root.layout.location(sample, layer), io.read_location)
    demand_array(points, "contours", "f4", None if location is None else len(location), N_CONTOUR_POINTS, 2)
    if location is not None:
        off = np.abs(points.mean(axis=1) - location[["pixel_x", "pixel_y"]].to_numpy()).max()
        demand(off < 1, f"contours {off:.0f} px off their spots",
               f"circles about the spots of location/{sample}/{layer}.csv")


def transform(root: Root, path: Path, sample: str, *layers: int | None) -> None:
    stored = io.read_json(path)
    demand_keys(stored, ("matrix",))
    matrix = np.array(stored["matrix"], np.float64)
    demand_array(matrix, "matrix", "f8", 2, 3)
    by_hand = stored.get("method") in METHODS[1:3]  # the gate refuses one that folds the plane
    demand(by_hand or abs(np.linalg.det(matrix[:, :2])) > 1e-6, "a matrix without inverse", "an affine transform")
    found = [stored["moving"], stored["fixed"]][:len(layers)]  # to_middle: of one section
    same = found == [layer for layer in layers if layer is not None]
    demand(same, f"a transform of section {' to '.join(map(str, found))}", "that of its file name")
    if path.parent.name == "pairs":
        demand_verdict(stored)
    for name in EVIDENCE:
        number = stored.get(name, 0)
        number = int(number) if isinstance(number, bool) else number
        right = type(number) in (int, float) and abs(number) < io.MAX_POSITION
        demand(right, f"{name} {number!r}", "a number")
    known = stored.get("method", METHODS[0]) in METHODS
    demand(known, f"method {stored.get('method')!r}", f"one of {', '.join(METHODS)}")


def demand_verdict(stored: dict) -> None:
    """The gate's verdict on a refined pair, and the numbers that it is based on."""
    verdict = ("accepted", "reasons", "warnings", "method", "refinement", "before", "after", "pieces")
    demand_keys(stored, verdict)
    judged = [name for name in EVIDENCE if name in stored]  # none for a transform by hand that folds the plane
    demand(not judged or len(judged) == len(EVIDENCE),
           f"{len(judged)} of the {len(EVIDENCE)} numbers that the gate judged", "all of them")
    lists = all(isinstance(stored[name], list) for name in ("reasons", "warnings"))
    demand(type(stored["accepted"]) is bool and lists,
           f"accepted {stored['accepted']}, reasons {stored['reasons']}", "true or false, and lists of text")


def displacement(root: Root, path: Path, sample: str, *layers: int) -> None:
    stored = io.read_npz(path)
    demand_keys(stored, ("field", "to_level0"))
    demand_array(stored["field"], "field", "f4", None, None, 2)
    demand_array(stored["to_level0"], "to_level0", "f8", 2, 3)


def quality(root: Root, path: Path, sample: str, layer: None) -> None:
    stored = io.read_json(path)
    demand_keys(stored, ("layers", "middle", "pairs", "to_middle"))
    demand(stored["middle"] in stored["layers"], f"middle section {stored['middle']}", f"one of {stored['layers']}")
    listed = set(root.config.listed_samples[sample].listed_layers)
    demand(set(stored["layers"]) <= listed, f"sections {stored['layers']}", "sections of dataset.yaml")
    missing = [number for number, one in stored["to_middle"].items() if "accepted" not in one]
    demand(not missing, f"no verdict on sections {', '.join(missing)}", "to_middle.<layer>.accepted")


def spot_regist(root: Root, path: Path, sample: str, layer: None) -> None:
    stack = root.own(path, read_stack)
    demand((stack["sample"] == sample).all(), "rows of another sample", f"sample {sample}")
    finite = np.isfinite(stack[["registered_x", "registered_y"]].to_numpy(float)).all()
    demand(finite, "a position that is not finite", "registered px")
    demand(stack["layer"].is_monotonic_increasing, "sections out of order", "rows in z order, section by section")
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
        near = bool((off <= np.maximum(radius, 1)).all())
        demand(near, f"contours {off.max():.0f} px off their spots",
               f"those about the spots of spot_regist/{sample}.csv")
