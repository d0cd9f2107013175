"""The HDF5 files of a section's patches: their images (step 1) and their features (step 4)."""
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from common.files import atomic_path, reading, require_room

PATCH_STEP = "1_cropped_multi_level_patch.py"
FEATURE_STEP = "4_feature_extraction.py"


def section_of(path: Path) -> str:
    """<sample>/<layer> of a file of a section."""
    return f"{path.parent.name}/{path.stem}"


def require_section(file, path: Path) -> None:
    """Raise ValueError if an open HDF5 file states that it is of another section than its path.

    The names of its patches cannot show this: patches of a grid have the same names in all sections.
    """
    section = file.attrs.get("section", section_of(path))
    if section != section_of(path):
        raise ValueError(f"content of section {section}")


def names_of(file) -> list[str]:
    """The names of the patches of an open HDF5 file."""
    return [name.decode() for name in file["barcode"][:]]


# images ----------------------------------------------------------------------------------------------
def write_patches(path: Path, images: Iterable[np.ndarray], size: int, coords: np.ndarray, barcode: list[str]) -> None:
    """HEST-1k patch file: img (N,S,S,3) uint8; coords (N,2) int64, level-0 px of the patch centre; barcode (N,) utf-8.

    images: N arrays (S,S,3), taken one at a time. barcode: of a spot, or the name of a patch of the grid. Compressed by
    gzip: the bytes of lzf differ between two runs.
    """
    import h5py
    n = len(barcode)
    require_room(path, 3 * size * size * n)
    storage = {"chunks": (1, size, size, 3), "compression": "gzip", "compression_opts": 1} if n else {"chunks": None}
    with atomic_path(path) as temporary, h5py.File(temporary, "w", track_order=False) as file:
        img = file.create_dataset("img", (n, size, size, 3), np.uint8, **storage)
        for k, image in enumerate(images):
            img[k] = image
        file.attrs["section"] = section_of(path)
        file.create_dataset("coords", data=np.asarray(coords, np.int64))
        file.create_dataset("barcode", data=np.asarray(barcode, dtype=h5py.string_dtype()))


class StoredImages:
    """The images of an open patch file: len(), and [start:stop] (n,S,S,3) uint8, read from disk when it is taken."""

    def __init__(self, path: Path, dataset):
        self._path, self._dataset = path, dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, rows: slice) -> np.ndarray:
        with reading(self._path, PATCH_STEP):
            return self._dataset[rows]


@contextmanager
def open_patches(path: Path) -> Iterator[tuple[StoredImages, np.ndarray, list[str]]]:
    """Yield (StoredImages, coords (N,2) int64, barcode list) of a patch file; its images stay on the disk."""
    import h5py
    with reading(path, PATCH_STEP):
        file = h5py.File(path, "r")
    with file:
        with reading(path, PATCH_STEP):
            require_section(file, path)
            img, coords, names = file["img"], file["coords"][:], names_of(file)
            n = len(names)
            if img.shape[:1] + img.shape[3:] != (n, 3) or img.dtype != np.uint8 or coords.shape != (n, 2):
                raise ValueError(f"img {img.shape} {img.dtype}, coords {coords.shape}, {n} barcodes")
        yield StoredImages(path, img), coords, names


# features --------------------------------------------------------------------------------------------
def write_features(path: Path, sets: dict[str, np.ndarray], barcode: list[str], attributes: dict[str, dict]) -> None:
    """One float32 dataset (N,D) a feature set, `barcode` (N,), and each set's attributes (common/feature_recipe.py)."""
    import h5py
    require_room(path, sum(np.asarray(values).nbytes for values in sets.values()))
    with atomic_path(path) as temporary, h5py.File(temporary, "w", track_order=False) as file:
        file.attrs["section"] = section_of(path)
        file.create_dataset("barcode", data=np.asarray(barcode, dtype=h5py.string_dtype()))
        for name in sorted(sets):
            dataset = file.create_dataset(name, data=np.asarray(sets[name], np.float32))
            for key, value in sorted(attributes[name].items()):
                dataset.attrs[key] = value


def read_features(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """({set name: (N,D) float32}, barcode list)."""
    import h5py
    with reading(path, FEATURE_STEP), h5py.File(path, "r") as file:
        require_section(file, path)
        names = names_of(file)
        sets = {name: file[name][:] for name in sorted(file) if name != "barcode"}
        for name, values in sets.items():
            right_form = values.ndim == 2 and len(values) == len(names) and values.dtype == np.float32
            if not right_form or not np.isfinite(values).all():
                found = f"{name} {values.dtype} {values.shape} for {len(names)} patches"
                raise ValueError(f"{found}, or a value that is not finite")
        return sets, names


def read_feature_attributes(path: Path) -> dict[str, dict]:
    """{set name: its attributes}."""
    import h5py
    with reading(path, FEATURE_STEP), h5py.File(path, "r") as file:
        return {name: dict(file[name].attrs) for name in sorted(file) if name != "barcode"}
