"""The tissue of a section as polygons in a GeoJSON file: QuPath export, TRIDENT contours, HEST tissue_seg, or by hand.

The file is a FeatureCollection, a Feature, a list of these, or a geometry. Every Polygon and MultiPolygon is tissue,
its inner rings are holes. Coordinates are level-0 px of the section's image, x = column, y = row, (0, 0) the corner of
the first px. Left out, and said: detections, cells and tiles of QuPath, classes whose name ends in * (QuPath's
"Ignore*"; "Region*" is taken), points and lines.
"""
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from common.errors import LayerError

MIN_INSIDE = 0.9            # a smaller share of the outline inside the picture: another picture, or another scale
MIN_SHARED = 0.3            # less of it on what looks like tissue is worth a warning
DETECTIONS = ("detection", "cell", "tile", "tma_core", "PathDetectionObject", "PathCellObject", "PathTileObject")
REGION = "Region*"          # QuPath's class for a part of the tissue
AREAS = ("Polygon", "MultiPolygon")
SHIFT = 6                   # bits of a px that cv2 draws with
FIX = "export it again from this image, in its level-0 px, or remove it for the automatic mask"


@dataclass(frozen=True)
class Outline:
    """The tissue, level-0 px. left_out: {what: number} of the features that are not tissue."""
    area: Any  # a shapely geometry
    n_polygons: int
    left_out: dict[str, int]

    def __str__(self) -> str:
        parts = [f"{number} {what}" for what, number in self.left_out.items()]
        plural = "" if self.n_polygons == 1 else "s"
        return f"{self.n_polygons} polygon{plural}" + (f" (not taken: {', '.join(parts)})" if parts else "")


def read_outline(path: Path) -> Outline:
    """The union of the polygons. Raises LayerError for a file that is no GeoJSON or has no area."""
    from shapely import make_valid, union_all
    from shapely.geometry import shape
    left_out: Counter[str] = Counter()
    try:
        features = _features(json.loads(path.read_bytes()))
        polygons = []
        for geometry, properties in features:
            reason = _why_not(geometry, properties)
            if reason:
                left_out[reason] += 1
            else:
                polygons.append(make_valid(shape(geometry)))
        area = union_all(polygons)
        bounds = np.array(area.bounds)
    except FileNotFoundError:
        raise LayerError(path, "a link to nothing", "the outline of the tissue (GeoJSON)", FIX) from None
    except Exception as error:  # json and shapely each raise their own
        raise LayerError(path, f"no GeoJSON ({type(error).__name__}: {error})",
                         "a FeatureCollection of polygons", FIX) from None
    if not polygons or not area.area > 0 or not np.isfinite(bounds).all():
        parts = ", ".join(f"{number} {what}" for what, number in left_out.items()) or "nothing"
        raise LayerError(path, f"no polygon with an area (there is: {parts if not polygons else 'no area'})",
                         "polygons of the tissue", FIX)
    return Outline(area, len(polygons), dict(sorted(left_out.items())))


def _features(value) -> list[tuple[dict, dict]]:
    """(geometry, properties) of every feature. Raises ValueError for what is no GeoJSON."""
    if isinstance(value, list):
        found = []
        for one in value:
            found += _features(one)
        return found
    if not isinstance(value, dict) or "type" not in value:
        raise ValueError("no object with a 'type'")
    kind = value["type"]
    if kind == "FeatureCollection":
        return _features(value["features"])
    if kind == "Feature":
        properties = value.get("properties") or {}
        return [(geometry, properties) for geometry, _ in _features(value["geometry"] or [])]
    if kind == "GeometryCollection":
        return _features(value["geometries"])
    if kind not in (*AREAS, "Point", "MultiPoint", "LineString", "MultiLineString"):
        raise ValueError(f"a 'type' {kind!r}")
    return [(value, {})]


def _why_not(geometry: dict, properties: dict) -> str:
    """Why a feature is no tissue; '' if it is."""
    if geometry["type"] not in AREAS:
        return "points or lines"
    if properties.get("objectType", properties.get("object_type")) in DETECTIONS:
        return "detections"
    named = properties.get("classification")
    name = str(named.get("name", "") if isinstance(named, dict) else named or "")
    return f"of class {name}" if name.endswith("*") and name != REGION else ""


def outline_mask(path: Path, size_px: tuple[int, int], shape: tuple[int, int]) -> tuple[np.ndarray, Outline]:
    """(tissue (h, w) bool of a thumbnail of this shape, the outline). size_px: (width, height) of level 0.

    Raises LayerError as read_outline, and if less than MIN_INSIDE of the outline lies inside the picture, or if no px
    of the thumbnail lies in it.
    """
    from shapely.geometry import box
    outline = read_outline(path)
    within = outline.area.intersection(box(0, 0, *size_px))
    inside = within.area / outline.area.area
    left, top, right, bottom = outline.area.bounds
    if inside < MIN_INSIDE:
        raise LayerError(path, f"an outline of x {left:.0f} to {right:.0f}, y {top:.0f} to {bottom:.0f}, of which "
                         f"{inside:.0%} is inside the picture", f"level-0 px of {size_px[0]} x {size_px[1]}", FIX)
    mask = _filled(within, np.array(size_px) / np.array(shape[::-1]), shape)
    if not mask.any():
        raise LayerError(path, f"an outline of {right - left:.3g} x {bottom - top:.3g} px, smaller than a px of the "
                         "thumbnail", f"the tissue in level-0 px of {size_px[0]} x {size_px[1]}", FIX)
    return mask, outline


def _filled(area, scale: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The px whose centre lies in the area, (h, w) bool. scale (2,): level-0 px per px, x and y."""
    from shapely import contains_xy, prepare
    rings, drawn = [], np.zeros(shape, np.uint8)
    for part in getattr(area, "geoms", [area]):
        if part.geom_type == "Polygon":
            rings += [part.exterior, *part.interiors]
    fixed = [np.rint((np.asarray(ring.coords)[:, :2] / scale - 0.5) * 2**SHIFT).astype(np.int32) for ring in rings]
    cv2.fillPoly(drawn, fixed, 1, lineType=cv2.LINE_8, shift=SHIFT)
    edge = np.zeros(shape, np.uint8)
    cv2.polylines(edge, fixed, True, 1, thickness=3, lineType=cv2.LINE_8, shift=SHIFT)
    row, column = np.nonzero(edge)  # cv2 fills its border too: these px are decided by their centre
    prepare(area)
    drawn[row, column] = contains_xy(area, (column + 0.5) * scale[0], (row + 0.5) * scale[1])
    return drawn > 0


def doubt(mask: np.ndarray, automatic: np.ndarray) -> list[str]:
    """[a warning] if little of the outline's mask (h, w) bool looks like tissue in the picture (h, w) bool; else []."""
    shared = float((mask & automatic).sum() / mask.sum())
    if not automatic.any() or shared >= MIN_SHARED:
        return []
    return [f"warning: only {shared:.0%} of the outline looks like tissue: is it in level-0 px of this image?"]
