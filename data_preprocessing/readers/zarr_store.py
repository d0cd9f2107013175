"""What a SpatialData store (.zarr) holds, as far as its sections go: tables with their regions, spots, images, systems.

A section is a region that a table annotates, or the image of a store without tables. SpatialData counts px from the
corner of an image: the centre of its first pixel is at 0.5. The contract counts from the centre of the first pixel.
The names of a store's parts are those of SpatialData: element, table, region, coordinate system.
"""
import re
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from common.errors import DataError, LayerError
from common.files import newest_ns
from data_preprocessing.readers import in_reading_order, shown, visible

HALF_PX = 0.5  # the centre of the first pixel, as SpatialData counts
METADATA = (".zgroup", "zarr.json")
KINDS = ("images", "labels", "points", "shapes", "tables", "table")  # table: before SpatialData 0.1
BINS = re.compile(r"(?:(?P<name>.+)_)?square_(?P<um>\d{3})um")  # a bin size of Visium HD
INSTALL = "pip install -r requirements-spatialdata.txt -c constraints.txt"
UM_OF_UNIT = {"nanometer": 1e-3, "nm": 1e-3, "micrometer": 1.0, "micron": 1.0, "microns": 1.0, "um": 1.0, "µm": 1.0,
              "μm": 1.0, "millimeter": 1e3, "mm": 1e3, "centimeter": 1e4, "cm": 1e4, "meter": 1e6, "m": 1e6}
UM_NAME = re.compile(r"(?:.*[_\W])?(?:um|µm|μm|microns?|micromet(?:er|re)s?)", re.IGNORECASE)
EQUAL_AXES = 1e-3  # a transformation that turns, shears or stretches by more states no um per px


@dataclass(frozen=True)
class Annotation:
    """A table of a store. regions: the elements whose instances are its rows; empty if it names none."""
    table: str
    regions: tuple[str, ...]
    region_key: str | None
    instance_key: str | None


def require_library() -> None:
    """Raises DataError if SpatialData is not installed."""
    try:
        import spatialdata  # noqa: F401
    except ImportError as error:
        raise DataError("spatialdata", f"not installed ({error})", "the library that reads these stores",
                        INSTALL) from None


def is_store(path: Path) -> bool:
    """A folder of Zarr: named .zarr, or with its metadata and a folder of elements."""
    if not path.is_dir() or path.name.startswith("."):
        return False
    has_metadata = any((path / name).is_file() for name in METADATA)
    return path.suffix == ".zarr" or has_metadata and any((path / kind).is_dir() for kind in KINDS)


def names_of(store: Path, kind: str) -> list[str]:
    """The elements of a kind, in natural order; those that cannot be read included. Hidden ones are none."""
    return in_reading_order([path.name for path in visible(store / kind) if path.is_dir()])


def folder_of(store: Path, kind: str, name: str) -> Path:
    return store / kind / name


def table_folder(store: Path, table: str) -> Path:
    kind = "tables" if table in names_of(store, "tables") else "table"
    return folder_of(store, kind, table)


def attributes(path: Path) -> dict:
    """The attributes of a group, of either version of Zarr; nothing consolidated is trusted. Raises LayerError."""
    import zarr
    with reading_store(path):
        return dict(zarr.open_group(path, mode="r", use_consolidated=False).attrs)


def annotations(store: Path) -> list[Annotation]:
    """The tables of a store, in natural order. Raises LayerError for a store that is broken or is no SpatialData."""
    tables = names_of(store, "tables") or names_of(store, "table")
    if not tables and not names_of(store, "images"):
        there = shown(path.name for path in visible(store))
        is_anndata = (store / "obs").is_dir() and (store / "var").is_dir()
        raise LayerError(store, f"neither tables/ nor images/ (there: {there})", "a store that SpatialData wrote",
                         "an AnnData store: save it as .h5ad and take --format h5ad" if is_anndata
                         else "copy the whole store again")
    found = []
    for table in tables:
        attrs = attributes(table_folder(store, table))
        region = attrs.get("region")
        regions = () if region is None else (region,) if isinstance(region, str) else tuple(map(str, region))
        found.append(Annotation(table, tuple(in_reading_order(list(regions))), attrs.get("region_key"),
                                attrs.get("instance_key")))
    return found


class reading_store:  # noqa: N801
    """Context: every error of zarr, anndata and SpatialData on a broken store becomes one LayerError."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, trace) -> bool:
        if isinstance(error, Exception) and not isinstance(error, LayerError | DataError):
            raise LayerError(self.path, f"a part of a store that cannot be read ({type(error).__name__}: {error})",
                             "a complete SpatialData store", "copy the whole store again") from None
        return False


def elements(store: Path):
    """The SpatialData object without tables and labels; images are not loaded. Raises LayerError, DataError."""
    require_library()
    return _elements(store, newest_ns(store))


@lru_cache(maxsize=2)
def _elements(store: Path, _changed: int):
    import spatialdata
    with reading_store(store), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an element that cannot be read is named by its user below
        return spatialdata.read_zarr(store, selection=("images", "shapes", "points"), on_bad_files="warn")


def systems(element) -> dict[str, np.ndarray]:
    """{coordinate system: (3, 3) float64, x and y of the element -> x and y of the system}; sorted by name."""
    from spatialdata.transformations import get_transformation
    found = get_transformation(element, get_all=True)
    axes = ("x", "y")
    return {name: np.asarray(found[name].to_affine_matrix(axes, axes), np.float64) for name in sorted(found)}


def physical_um(store: Path, kind: str, name: str, element) -> dict[str, float]:
    """{coordinate system: um per unit of the element}, for the systems in a unit of length.

    The unit is that of the system's axes, else the system's name says um. A transformation that turns, shears or
    stretches states no scale: that is a registration.
    """
    stated, found = _units(attributes(folder_of(store, kind, name))), {}
    for system, matrix in systems(element).items():
        um = stated.get(system) or (1.0 if UM_NAME.fullmatch(system) else None)
        scale = float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))
        straight = np.abs(np.abs(matrix[:2, :2]) - scale * np.eye(2)).max() <= EQUAL_AXES * scale
        if um is not None and scale > 0 and straight:
            found[system] = um * scale
    return found


def _units(attrs: dict) -> dict[str, float]:
    """{coordinate system: um per unit} of the output axes of the transformations in the metadata of an element."""
    multiscales = attrs.get("ome", attrs).get("multiscales") or [attrs]
    found = {}
    for transformation in multiscales[0].get("coordinateTransformations", []):
        output = transformation.get("output", {})
        if isinstance(output, dict):
            units = {str(axis.get("unit")).lower() for axis in output.get("axes", []) if axis.get("name") in ("x", "y")}
            if len(units) == 1 and (unit := units.pop()) in UM_OF_UNIT:
                found[output.get("name")] = UM_OF_UNIT[unit]
    return found
