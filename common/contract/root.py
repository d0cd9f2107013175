"""The dataset root for the checks of the contract: every file is read once."""
from collections.abc import Callable
from pathlib import Path

import numpy as np

from common import io
from common.config import Config
from common.feature_recipe import FeatureRecipe, read_feature_recipe
from common.layout import Layout

PATCH_COLUMNS = ("patch_name", "x", "y", "i", "j", "width", "height")


class Root:
    """The dataset root and the files already read: each once, and only if it exists and has no known fault."""

    def __init__(self, layout: Layout, config: Config):
        self.layout, self.config = layout, config
        self.wrong: set[Path] = set()
        self._read: dict[tuple[Path, Callable], object] = {}

    def read(self, path: Path, reader: Callable):
        """reader(path), or None for a missing or faulty file."""
        return None if path in self.wrong or not path.is_file() else self.own(path, reader)

    def own(self, path: Path, reader: Callable):
        """reader(path), kept for the checks of other files. Raises what the reader raises."""
        if (path, reader) not in self._read:
            self._read[path, reader] = reader(path)
        return self._read[path, reader]

    def barcodes(self, sample: str, layer: int) -> list[str] | None:
        location = self.read(self.layout.location(sample, layer), io.read_location)
        return None if location is None else location["barcode"].tolist()

    def patches(self, size: int, sample: str, layer: int):
        return self.read(self.layout.patches_csv(size, sample, layer), read_patches)

    def genes(self) -> list[str] | None:
        table = self.read(self.layout.genes, read_genes)
        return None if table is None else table["gene"].tolist()

    def background(self) -> list[str] | None:
        table = self.read(self.layout.background, read_genes)
        return None if table is None else table["gene"].tolist()

    def widths(self, sample: str, layer: int) -> dict[str, int] | None:
        """{feature set: width} of the section's spots."""
        return self.read(self.layout.features(224, sample, layer), feature_widths)

    def feature_recipe(self, sample: str, layer: int) -> FeatureRecipe | None:
        """The recipe of the features of the section's spots."""
        return self.read(self.layout.features(224, sample, layer), read_feature_recipe)

    def stack(self, sample: str):
        return self.read(self.layout.spot_regist(sample), read_stack)

    def records(self, sample: str, layer: int) -> np.ndarray | None:
        return self.read(self.layout.npy(sample, layer), read_mapped)


def read_patches(path: Path):
    return io.read_table(path, PATCH_COLUMNS, text=("patch_name",))


def read_stack(path: Path):
    columns = ("sample", "layer", "barcode", "registered_x", "registered_y")
    return io.read_table(path, columns, text=("sample", "barcode"))


def read_genes(path: Path):
    return io.read_table(path, ("gene", "rank"), text=("gene",))


def read_cut_names(path: Path) -> list[str]:
    """The names of the patches in a file of step 1."""
    import h5py
    with io.reading(path, io.PATCH_STEP), h5py.File(path, "r") as file:
        return [name.decode() for name in file["barcode"][:]]


def read_mapped(path: Path) -> np.ndarray:
    return io.read_npy(path, mmap=True)


def picture_shape(path: Path) -> tuple[int, int]:
    from PIL import Image
    with Image.open(path) as picture:
        return picture.size[::-1]


def feature_widths(path: Path) -> dict[str, int]:
    import h5py
    with h5py.File(path, "r") as file:
        return {name: file[name].shape[1] for name in sorted(file) if name != "barcode"}
