"""Is every file of a dataset root what the data contract of the README says? Form, order and values, and that files agree with each other.

    python -m common.cli check --root_path ROOT

One line a step; under it one line a faulty file: what was found, what is expected, what to do. Only the first fault of a file is told.
A file is held against those it was made from as far as these are there and faultless; large ones are mapped or read in blocks.
"""
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import io
from common.config import Config
from common.errors import DataError, LayerError
from common.feature_recipe import PITCH_TOLERANCE, FeatureRecipe, difference, read_feature_recipe
from common.geometry import SPOT_WINDOW_PX, section_geometry
from common.layout import SIZES, Layout
from common.recipe import file_digest, stored_recipe
from common.written import Written

LEVELS = {512: "region", 1024: "global"}
MEMBERSHIPS = (("spot", "region"), ("spot", "global"), ("region", "global"))
PATCH_COLUMNS = ("patch_name", "x", "y", "i", "j", "width", "height")
N_CONTOUR_POINTS = 100
BLOCK_ROWS = 4096
MAX_SIDE_PX = 2048
EVIDENCE = ("inliers", "matches", "mirrored", "scale_um_x", "scale_um_y", "shear", "rotation_deg", "determinant", "on_canvas", "tissue_dice",
            "containment", "image_correlation", "overlap_correlation", "spread", "disagreement")  # of registration/gate.py
METHODS = ("xfeat", "landmarks", "transform", "outline", "centroid")  # by which a pair is laid


class Fault(Exception):
    """What is wrong with a file: (found, expected)."""


def demand(right: bool, found: str, expected: str) -> None:
    """Raise Fault unless `right`."""
    if not right:
        raise Fault(found, expected)


class Root:
    """The dataset root, and what was already read of it: a file once, and only if it is there and faultless."""

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
        """{feature set: width} of the layer's spots."""
        return self.read(self.layout.features(224, sample, layer), feature_widths)

    def feature_recipe(self, sample: str, layer: int) -> FeatureRecipe | None:
        """How the features of the layer's spots were made."""
        return self.read(self.layout.features(224, sample, layer), read_feature_recipe)

    def stack(self, sample: str):
        return self.read(self.layout.spot_regist(sample), read_stack)

    def records(self, sample: str, layer: int) -> np.ndarray | None:
        return self.read(self.layout.npy(sample, layer), read_mapped)


def read_patches(path: Path):
    return io.read_table(path, PATCH_COLUMNS, text=("patch_name",))


def read_stack(path: Path):
    return io.read_table(path, ("sample", "layer", "barcode", "registered_x", "registered_y"), text=("sample", "barcode"))


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


# what every kind of file shares ----------------------------------------------------------------------
def demand_array(array, name: str, kind: str, *shape: int | None) -> None:
    """A dtype and a shape (None: any length), and nothing but finite numbers."""
    expected = f"{name} {np.dtype(kind)} ({', '.join('·' if n is None else str(n) for n in shape)})"
    right = array.dtype == np.dtype(kind) and len(array.shape) == len(shape) and all(n in (None, m) for n, m in zip(shape, array.shape))
    demand(right, f"{name} {array.dtype} {tuple(array.shape)}", expected)
    if np.dtype(kind).kind == "f":
        for start in range(0, array.shape[0], BLOCK_ROWS):
            demand(bool(np.isfinite(array[start:start + BLOCK_ROWS]).all()), f"a {name} that is not finite", "finite numbers")


def demand_names(found: list[str], expected: list[str] | None, what: str, source: str) -> None:
    """The same names in the same order."""
    if expected is not None and found != expected:
        first = next((f"{a} where {b} belongs" for a, b in zip(found, expected) if a != b), f"{len(found)} {what}")
        raise Fault(first, f"the {len(expected)} {what} of {source} in their order")


def demand_keys(found, expected: tuple[str, ...]) -> None:
    missing = [str(name) for name in expected if name not in found]
    demand(not missing, f"no {', '.join(missing)}", ", ".join(map(str, expected)))


def demand_edges(edge_index: np.ndarray, name: str, n_source: int, n_target: int) -> None:
    """[source; target] int64, in range, sorted by (target, source), none twice."""
    demand_array(edge_index, f"{name} edge_index", "i8", 2, None)
    source, target = edge_index
    inside = edge_index.size == 0 or (edge_index.min() >= 0 and source.max() < n_source and target.max() < n_target)
    demand(inside, f"{name}: an edge to a node that is not there", f"sources below {n_source}, targets below {n_target}")
    rising = np.diff(target * n_source + source) > 0
    demand(bool(rising.all()), f"{name}: edges out of order or twice", "edges sorted by (target, source)")


def demand_symmetric(edge_index: np.ndarray, name: str, n: int) -> None:
    """Every edge in both directions, none to itself."""
    source, target = edge_index
    demand(bool((source != target).all()), f"{name}: an edge of a node to itself", "none")
    demand(np.array_equal(np.sort(source * n + target), target * n + source), f"{name}: an edge in one direction only", "both directions")


def demand_parents(edge_index: np.ndarray, name: str, n_members: int) -> None:
    """Every member in exactly one owner."""
    demand(np.array_equal(np.sort(edge_index[0]), np.arange(n_members)), f"{name}: members with no owner or with two", "one owner each")


# inputs and 2D steps ---------------------------------------------------------------------------------
def image(root: Root, path: Path, sample: str, layer: int) -> None:
    demand(path.is_file(), "a link to nothing", "the layer's H&E")


def location(root: Root, path: Path, sample: str, layer: int) -> None:
    demand(len(root.own(path, io.read_location)) > 0, "no spot", "a row a spot")


def counts(root: Root, path: Path, sample: str, layer: int) -> None:
    adata, barcodes = io.read_h5ad(path), root.barcodes(sample, layer)
    demand_raw(adata.X)
    for what, names in (("barcode", adata.obs_names), ("gene", adata.var_names)):
        demand(names.is_unique, f"a {what} twice", f"unique {what}s")
    unknown = [] if barcodes is None else adata.obs_names.difference(barcodes)
    demand(len(unknown) == 0, f"{len(unknown)} barcodes without a spot", f"barcodes of location/{sample}/{layer}.csv")


def demand_raw(matrix) -> None:
    values = matrix.data if hasattr(matrix, "indptr") else np.asarray(matrix)
    demand(bool(np.all(values >= 0)) and np.array_equal(values, np.rint(values)), "values that are no counts", "whole numbers >= 0")


def thumbnail_info(root: Root, path: Path, sample: str, layer: int) -> None:
    info = root.own(path, io.read_json)
    demand_keys(info, ("width_px", "height_px", "scale", "tissue_share"))
    sizes = (info["width_px"], info["height_px"], *info["scale"], info["tissue_share"])
    demand(all(type(one) in (int, float) and 0 < one < io.MAX_POSITION for one in sizes), f"sizes {sizes}", "numbers above 0")
    demand(len(info["scale"]) == 2 and min(info["scale"]) >= 1, f"scale {info['scale']}", "level-0 px per thumbnail px, x and y, 1 or more")


def thumbnail(root: Root, path: Path, sample: str, layer: int) -> None:
    pixels, info = io.read_picture(path), root.read(root.layout.thumbnail_info(sample, layer), io.read_json)
    demand(pixels.ndim == 3 and max(pixels.shape) <= MAX_SIDE_PX, f"pixels {pixels.shape}", f"RGB, longer side at most {MAX_SIDE_PX} px")
    if info:
        size = np.array([info["width_px"], info["height_px"]]) / info["scale"]
        fits = np.abs(size - pixels.shape[1::-1]).max() < 1
        demand(fits, f"{pixels.shape[1]} x {pixels.shape[0]} px", "the size that the JSON beside it tells")
        same = "thumbnail_sha256" not in info or info["thumbnail_sha256"] == file_digest(path)
        demand(same, "another picture", "the one of the JSON beside it")


def mask(root: Root, path: Path, sample: str, layer: int) -> None:
    pixels, beside = io.read_picture(path), root.read(root.layout.thumbnail(sample, layer), picture_shape)
    demand_array(pixels, "mask", "u1", *(beside or (None, None)))
    demand(np.isin(pixels, (0, 255)).all(), "other values than 0 and 255", "255 tissue, 0 empty slide")


def drawn_by_hand(layout: Layout, sample: str, layer: int) -> str | None:
    """One line on a tissue mask that is not as step 0_2 drew it: a person may correct it. None for any other."""
    path, written = layout.mask(sample, layer), Written(layout.written("0_2_tissue_mask", sample, layer), layout.root)
    if not path.is_file() or not written.manifest.is_file() or written.is_ours(path):
        return None
    return f"{path}: not as step 0_2 drew it; used as it is, a person's"


def patches_csv(size: int):
    def check(root: Root, path: Path, sample: str, layer: int) -> None:
        table, window = root.own(path, read_patches), section_geometry(root.config, root.layout, sample, layer).window_px(size)
        demand(table["patch_name"].is_unique, "a patch_name twice", "unique names")
        demand(table[list(PATCH_COLUMNS[1:])].dtypes.eq("int64").all(), "positions that are no whole numbers", "whole level-0 px")
        right = (table[["width", "height"]] == window).all(axis=None)
        demand(right, f"width {table['width'].iloc[0]}", f"windows of {window} px by dataset.yaml")
        if size == 224:
            demand_names(table["patch_name"].tolist(), root.barcodes(sample, layer), "spots", f"location/{sample}/{layer}.csv")
        else:
            cells = table[["j", "i"]].to_numpy()
            demand(np.array_equal(cells, np.unique(cells, axis=0)), "grid cells out of order or twice", "cells row by row, each once")
            names = [f"{size}_{column}_{row}" for row, column in cells]
            demand_names(table["patch_name"].tolist(), names, "patches", "their columns i and j")
        cut = root.read(root.layout.patches(size, sample, layer), read_cut_names)
        demand_names(table["patch_name"].tolist(), cut, "patches", f"cropped_imgs/patches_{size}/{sample}/{layer}.h5")
    return check


def pairs_csv(size: int, member_size: int, column: str):
    def check(root: Root, path: Path, sample: str, layer: int) -> None:
        table = io.read_table(path, (*PATCH_COLUMNS, column), text=("patch_name", column))
        owners, members = (root.patches(one, sample, layer) for one in (size, member_size))
        if owners is not None:
            demand_names(table["patch_name"].tolist(), owners["patch_name"].tolist(), "patches", f"patches_{size}/{sample}/{layer}.csv")
            same = table[list(PATCH_COLUMNS)].equals(owners[list(PATCH_COLUMNS)])
            demand(same, "another place of a patch", f"the columns of patches_{size}/{sample}/{layer}.csv")
        if members is not None:
            listed = sorted(name for cell in table[column].dropna() for name in cell.split(";"))
            demand(listed == sorted(members["patch_name"]), f"{len(listed)} {column}", f"each of the {len(members)} {column} in one patch")
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
            demand_names(names, table["patch_name"].tolist(), "patches", f"patches_csv/patches_{size}/{sample}/{layer}.csv")
            centre = table[["x", "y"]].to_numpy() + table[["width", "height"]].to_numpy() // 2
            right = np.array_equal(coords, centre)
            demand(right, "coords that are not the patches' centres", f"x + width // 2 of patches_csv/patches_{size}")
    return check


def demand_recipe(found: FeatureRecipe, expected: FeatureRecipe | None, source: str) -> None:
    """Features that were made in the same way."""
    differs = None if expected is None else difference(found, expected)
    if differs:
        raise Fault(differs[0], f"{differs[1]}, as in {source}")


def demand_recipe_of_config(recipe: FeatureRecipe, root: Root, sample: str, layer: int) -> None:
    """The encoder and the windows of dataset.yaml."""
    window_um = section_geometry(root.config, root.layout, sample, layer).window_um(SPOT_WINDOW_PX)
    stated = {name: {**one, "spot_window_um": window_um, **({} if name == "stain" else {"model": root.config.backbone})} for name, one in recipe.items()}
    demand_recipe(recipe, stated, "dataset.yaml")


def features(size: int):
    def check(root: Root, path: Path, sample: str, layer: int) -> None:
        import h5py
        table = root.patches(size, sample, layer)
        others = [root.read(root.layout.features(one, sample, layer), feature_widths) for one in SIZES if one != size]
        widths = others[0] if size != 224 or others[0] == others[1] else None  # the spots' own are wrong if both others differ from them
        with h5py.File(path, "r") as file:
            io.require_section(file, path)
            demand_keys(file, ("barcode", *sorted(root.config.features)))
            names = [name.decode() for name in file["barcode"][:]]
            for name in sorted(set(file) - {"barcode"}):
                demand_array(file[name], name, "f4", len(names), widths.get(name) if widths else None)
        if table is not None:
            demand_names(names, table["patch_name"].tolist(), "patches", f"patches_csv/patches_{size}/{sample}/{layer}.csv")
        recipe = read_feature_recipe(path)
        demand_recipe_of_config(recipe, root, sample, layer)
        if size != 224:
            demand_recipe(recipe, root.feature_recipe(sample, layer), f"extracted_feature/224/{sample}/{layer}.h5")
    return check


def genes(root: Root, path: Path, sample: None, layer: None) -> None:
    table = root.own(path, read_genes)
    if root.config.genes in ("top_mean", "hvg"):  # a list of genes is taken whole
        demand(len(table) <= root.config.n_genes, f"{len(table)} genes", f"up to {root.config.n_genes} by dataset.yaml")
    demand_ranked_genes(table)


def background(root: Root, path: Path, sample: None, layer: None) -> None:
    table = root.own(path, read_genes)
    demand_ranked_genes(table)
    own = root.config.genes == "top_mean" and root.config.n_genes <= len(table) and root.genes() is not None
    whole = not own or set(root.genes()) <= set(table["gene"])
    demand(whole, "a background without some of the chosen genes", "the genes of highest mean")


def demand_ranked_genes(table) -> None:
    demand(len(table) > 0, "no gene", "a row a gene")
    demand(table["gene"].is_unique and table["gene"].notna().all(), "a gene twice or without name", "unique names")
    demand(all(table[name].dtype.kind in "if" for name in ("rank", "mean") if name in table), "a rank or mean that is no number", "numbers")
    demand(table["rank"].tolist() == list(range(1, len(table) + 1)), "ranks out of order", "1, 2, 3, …")


def member_counts(size: int):
    def check(root: Root, path: Path, sample: str, layer: int) -> None:
        adata = root.own(path, io.read_h5ad)
        demand_raw(adata.X)
        demand(adata.X.dtype == np.float32, f"X {adata.X.dtype}", "X float32")
        demand_keys(adata.obs, ("n_spots",))
        members = adata.obs["n_spots"]
        demand(members.dtype.kind in "iu" and bool((members >= 0).all()), f"n_spots {members.dtype}", "whole numbers >= 0")
        demand_rows_and_genes(root, adata, size, sample, layer)
        spots = root.read(root.layout.member_counts(224, sample, layer), io.read_h5ad)
        if size != 224 and spots is not None:
            demand(np.array_equal(*(one.X.sum(axis=0, dtype="f8") for one in (adata, spots))), "sums that differ from those over the spots",
                   f"each spot of counts_224 in one of the {LEVELS[size]}s")
        demand_depth(adata, root.background())
    return check


def expression(size: int):
    def check(root: Root, path: Path, sample: str, layer: int) -> None:
        adata = io.read_h5ad(path)
        demand_rows_and_genes(root, adata, size, sample, layer)
        demand_array(adata.X, "X", "f4", *adata.shape)
        demand_keys(adata.layers, ("counts",))
        demand_keys(adata.obs, ("depth",))
        raw = adata.layers["counts"]
        raw = np.asarray(raw.toarray() if hasattr(raw, "toarray") else raw, np.float64) + 1
        right = np.allclose(adata.X, np.log(raw / adata.obs["depth"].to_numpy()[:, None]), atol=1e-4)
        demand(right, "an X that is not made of layers['counts'] and obs['depth']", "ln((c + 1) / depth)")
        source = root.read(root.layout.member_counts(size, sample, layer), io.read_h5ad)
        if source is not None:
            same = source.X.shape == adata.shape and not (source.X != adata.layers["counts"]).sum()
            demand(same, "other counts", f"those of counts_{size}/{sample}/{layer}.h5ad")
    return check


def demand_depth(adata, background: list[str] | None) -> None:
    """obs depth: sum over the background of (count + 1). Its genes that are not in the list can only add to it."""
    demand_keys(adata.obs, ("depth",))
    depth = adata.obs["depth"].to_numpy()
    demand_array(depth, "depth", "f8", adata.n_obs)
    if background is not None:
        listed = adata.var_names.isin(background)
        least = np.asarray(adata.X[:, listed].sum(axis=1, dtype="f8")).ravel() + len(background)
        right = (depth == least).all() if listed.sum() == len(background) else (depth >= least).all()
        demand(right, "a depth that is not that of the counts", "sum over background.csv of (count + 1)")


def demand_rows_and_genes(root: Root, adata, size: int, sample: str, layer: int) -> None:
    demand_names(adata.var_names.tolist(), root.genes(), "genes", "genes.csv")
    table = root.patches(size, sample, layer)
    if table is not None:
        names = table["patch_name"].tolist()
        present = set(adata.obs_names)
        expected = [name for name in names if name in present] if size == 224 else names  # a spot without counts has no row
        demand_names(adata.obs_names.tolist(), expected, "rows", f"patches_csv/patches_{size}/{sample}/{layer}.csv")


def graph(root: Root, path: Path, sample: str, layer: int) -> None:
    stored, barcodes, widths = io.read_pt(path), root.barcodes(sample, layer), root.widths(sample, layer)
    sizes = graph_nodes(root, stored, None if barcodes is None else len(barcodes))
    for size, level in LEVELS.items():
        table = root.patches(size, sample, layer)
        demand(table is None or sizes[level] == len(table), f"{sizes[level]} {level}s", f"the patches of patches_csv/patches_{size}")
    sets = stored["spot"]["feature_sets"]
    demand(widths is None or sets == widths, f"feature_sets {sets}", f"{widths} as extracted")
    demand_recipe(stored["spot"]["feature_recipe"], root.feature_recipe(sample, layer), f"extracted_feature/224/{sample}/{layer}.h5")
    for level, n in sizes.items():
        near_edges(stored, level, n)


def graph_nodes(root: Root, stored: dict, n_spots: int | None) -> dict[str, int]:
    """The nodes of a graph and who belongs to whom; {level: number of nodes}."""
    near = [(level, "near", level) for level in LEVELS.values()]
    demand_keys(stored, ("spot", *LEVELS.values(), *((member, "in", owner) for member, owner in MEMBERSHIPS), *near))
    demand_keys(stored["spot"], ("pos", "feature_sets", "feature_recipe", "genes"))
    demand(root.genes() in (None, stored["spot"]["genes"]), "labels of another gene list",
           "the genes of genes.csv, in order (run 5_2_get_label_of_other_resolution.py and all that follows)")
    demand_array(stored["spot"]["pos"].numpy(), "spot pos", "f4", n_spots, 2)
    sizes, known_genes = {"spot": len(stored["spot"]["pos"])}, root.genes()
    for level in LEVELS.values():
        node = stored[level]
        demand_keys(node, ("x", "y", "has_label", "pos"))
        n = sizes[level] = len(node["x"])
        demand_array(node["x"].numpy(), f"{level} x", "f4", n, sum(stored["spot"]["feature_sets"].values()))
        demand_array(node["y"].numpy(), f"{level} y", "f4", n, None if known_genes is None else len(known_genes))
        demand_array(node["has_label"].numpy(), f"{level} has_label", "?", n)
        demand_array(node["pos"].numpy(), f"{level} pos", "f4", n, 2)
    for member, owner in MEMBERSHIPS:
        name, edge_index = f"({member}, in, {owner})", stored[member, "in", owner]["edge_index"].numpy()
        demand_edges(edge_index, name, sizes[member], sizes[owner])
        demand_parents(edge_index, name, sizes[member])
    return sizes


def near_edges(stored: dict, level: str, n: int) -> None:
    name, edges = f"({level}, near, {level})", stored[level, "near", level]
    edge_index = edges["edge_index"].numpy()
    demand_edges(edge_index, name, n, n)
    demand_symmetric(edge_index, name, n)
    demand_array(edges["edge_attr"].numpy(), f"{name} edge_attr", "f4", edge_index.shape[1], 1)


def records(root: Root, path: Path, sample: str, layer: int) -> None:
    table, location = root.own(path, read_mapped), root.read(root.layout.location(sample, layer), io.read_location)
    known_genes, widths = root.genes(), root.widths(sample, layer)
    demand_fields(table, None if known_genes is None else len(known_genes), sum(widths.values()) if widths else None)
    demand(not table["label"][~table["has_label"]].any(), "a label where has_label is false", "0 there")
    if location is not None:
        demand_names(table["barcode"].tolist(), location["barcode"].tolist(), "spots", f"location/{sample}/{layer}.csv")
        same = np.array_equal(table["pixel"], location[["pixel_x", "pixel_y"]])
        demand(same, "other pixels than the location file's", "the same, row by row")
    for size, level in LEVELS.items():
        patches, index = root.patches(size, sample, layer), table[f"{level}_index"]
        n = len(patches) if patches is not None else np.inf
        demand(index.min() >= 0 and index.max() < n, f"a {level}_index out of range", f"rows of patches_csv/patches_{size}, 0 to {n - 1}")


def demand_fields(table: np.ndarray, n_genes: int | None, width: int | None, more: tuple[str, ...] = ()) -> None:
    fields = {"pixel": ("f8", 2), "array": ("i4", 2), "label": ("f4", n_genes), "feature": ("f4", width),
              "region_index": ("i4",), "global_index": ("i4",), "has_label": ("?",)}
    demand_keys(table.dtype.names or (), ("barcode", *fields, *more))
    for name, (kind, *shape) in fields.items():
        demand_array(table[name], name, kind, len(table), *shape)


# registration ----------------------------------------------------------------------------------------
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


# 3D steps --------------------------------------------------------------------------------------------
def sparse(lowest: float, highest: float):
    """Square, symmetric, between layers; values in [lowest, highest]."""
    def check(root: Root, path: Path, sample: str, layer: None) -> None:
        matrix, stack = root.own(path, io.read_csr), root.stack(sample)
        n = matrix.shape[0] if stack is None else len(stack)
        demand(matrix.shape == (n, n), f"shape {matrix.shape}", f"({n}, {n}), the rows of spot_regist/{sample}.csv")
        matrix.check_format(full_check=True)
        demand(bool(matrix.has_canonical_format), "columns out of order or twice", "sorted CSR")
        demand_array(matrix.data, "values", "f4", None)
        transposed = matrix.T.tocsr()
        transposed.sort_indices()
        same = all(np.array_equal(getattr(matrix, part), getattr(transposed, part)) for part in ("indptr", "indices", "data"))
        demand(same, "a pair with two values", "a symmetric matrix")
        inside = not matrix.nnz or (matrix.data.min() >= lowest and matrix.data.max() <= highest + 1e-4)
        demand(inside, f"values {matrix.data.min(initial=0):.3g} to {matrix.data.max(initial=0):.3g}", f"{lowest:.3g} to {highest:.3g}")
        if stack is not None:
            layers, rows = stack["layer"].to_numpy(), np.repeat(np.arange(n), np.diff(matrix.indptr))
            demand((layers[rows] != layers[matrix.indices]).all(), "a pair within one layer", "spots of different layers")
    return check


def combined(root: Root, path: Path, sample: str, layer: None) -> None:
    sparse(-1.0001, 2)(root, path, sample, layer)
    matrix, parts = root.own(path, io.read_csr), [root.read(one(sample), io.read_csr) for one in (root.layout.spot_iou, root.layout.similarity)]
    if all(part is not None for part in parts):
        rest = matrix - parts[0] - parts[1]
        demand(matrix.nnz == parts[1].nnz and not (np.abs(rest.data) > 1e-4).any(), "weights that are not IoU + cosine",
               f"spot_iou/{sample}.npz + similarity/{sample}.npz on the pairs of the latter")


def graph_3d(root: Root, path: Path, sample: str, layer: None) -> None:
    stored, stack = io.read_pt(path), root.stack(sample)
    sizes = graph_nodes(root, stored, None if stack is None else len(stack))
    layers = {"spot": stored["spot"]["layer"].numpy(), **{level: stored[level]["layer"].numpy() for level in LEVELS.values()}}
    for level, one in layers.items():
        demand_array(one, f"{level} layer", "i8", sizes[level])
    for layer in np.unique(layers["spot"]).tolist():
        demand_recipe(stored["spot"]["feature_recipe"], root.feature_recipe(sample, layer), f"extracted_feature/224/{sample}/{layer}.h5")
    same = stack is None or np.array_equal(layers["spot"], stack["layer"])
    demand(same, "spots of other layers", f"the rows of spot_regist/{sample}.csv")
    for member, owner in MEMBERSHIPS:
        source, target = stored[member, "in", owner]["edge_index"].numpy()
        demand((layers[member][source] == layers[owner][target]).all(), f"a {member} in a {owner} of another layer", "its own layer's")
    for level in LEVELS.values():
        near_edges(stored, level, sizes[level])
    for relation, across in (("cross", True), ("within", False)):
        name = f"(spot, {relation}, spot)"
        demand_keys(stored, (("spot", relation, "spot"),))
        edges = stored["spot", relation, "spot"]
        edge_index, attribute = edges["edge_index"].numpy(), edges["edge_attr"].numpy()
        demand_edges(edge_index, name, sizes["spot"], sizes["spot"])
        demand_symmetric(edge_index, name, sizes["spot"])
        demand_array(attribute, f"{name} edge_attr", "f4", edge_index.shape[1], 5)
        step = np.abs(np.subtract(*layers["spot"][edge_index]))
        demand(((step > 0) == across).all(), f"{name}: edges of another kind", "cross: between layers, within: inside one")
        demand(np.array_equal(attribute[:, 4], step), f"{name}: a wrong layer difference", "column 4 as the layers of the two spots")
        demand(np.allclose(attribute[:, 0], attribute[:, 1] + attribute[:, 2], atol=1e-4), f"{name}: a wrong weight", "IoU + cosine")


def records_3d(root: Root, path: Path, sample: str, layer: None) -> None:
    table, stack = io.read_npy(path, mmap=True), root.stack(sample)
    demand_fields(table, None, None, ("layer", "registered"))
    demand_array(table["registered"], "registered", "f8", len(table), 2)
    if stack is not None:
        demand_names(table["barcode"].tolist(), stack["barcode"].tolist(), "spots", f"spot_regist/{sample}.csv")
        demand(np.array_equal(table["layer"], stack["layer"]), "spots of other layers", f"those of spot_regist/{sample}.csv")
        same = np.allclose(table["registered"], stack[["registered_x", "registered_y"]])
        demand(same, "other registered positions", f"those of spot_regist/{sample}.csv")
    for one in np.unique(table["layer"]):
        part, own = table[table["layer"] == one], root.records(sample, int(one))
        if own is not None:
            same = len(part) == len(own) and all(np.array_equal(part[name], own[name]) for name in own.dtype.names)
            demand(same, f"records of layer {one} that differ", f"those of npy_information/{sample}/{one}.npy")


# runs in the root ------------------------------------------------------------------------------------
def checkpoint(root: Root, path: Path, *_) -> None:
    """Of the gene list, the features and the array of this root."""
    saved = io.read_pt(path)
    demand_keys(saved, ("genes", "trained_with"))
    demand_names(saved["genes"], root.genes(), "genes", "genes.csv")
    was, config = saved["trained_with"], root.config
    near = abs(config.pitch_um - was["pitch_um"]) <= PITCH_TOLERANCE * was["pitch_um"]
    demand(was["array"] == config.array and near, f"a network of an array {was['array']}, {was['pitch_um']:g} um",
           f"{config.array}, {config.pitch_um:g} um by dataset.yaml")
    for sample, layer in units("layer", config, root.layout):
        demand_recipe(was["feature_recipe"], root.feature_recipe(sample, layer), f"extracted_feature/224/{sample}/{layer}.h5")


# the walk --------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Kind:
    """One kind of file: who makes it, where it lies for (sample, layer, …), and its check."""
    step: str
    unit: str               # layer, pair, sample, dataset, run_2d or run_3d
    path: Callable          # (layout, *unit) -> Path
    check: Callable         # (root, path, sample, layer, …), raises Fault
    by_hand: bool = False   # a person may correct it


def kinds() -> list[Kind]:
    """In the order of the steps: what a file is held against comes before it."""
    def sizes(step: str, path: Callable, check: Callable) -> list[Kind]:
        return [Kind(step, "layer", lambda layout, *unit, size=size: path(layout, size, *unit), check(size)) for size in SIZES]

    crop, register = "1_cropped_multi_level_patch", "Step3.5_registertoMiddle_ANTs_points_contour_fast"
    pair, chain = "Step2_registration_ANTs", "Step3_registertoMiddle_ANTs"
    return [
        Kind("0_1_convert_raw", "layer", lambda layout, *unit: layout.image(*unit) or layout.new_image(*unit, ".jpg"), image, by_hand=True),
        Kind("0_1_convert_raw", "layer", Layout.location, location, by_hand=True),
        Kind("0_1_convert_raw", "layer", Layout.counts, counts, by_hand=True),
        Kind("0_2_tissue_mask", "layer", Layout.thumbnail_info, thumbnail_info),
        Kind("0_2_tissue_mask", "layer", Layout.thumbnail, thumbnail),
        Kind("0_2_tissue_mask", "layer", Layout.mask, mask, by_hand=True),
        *sizes(crop, Layout.patches_csv, patches_csv),
        *sizes(crop, Layout.patches, cropped),
        Kind("2_find_512_pair", "layer", Layout.region_pairs_csv, pairs_csv(512, 224, "spots")),
        Kind("3_find_1024_pair", "layer", Layout.global_pairs_csv, pairs_csv(1024, 512, "regions")),
        *sizes("4_feature_extraction", Layout.features, features),
        Kind("5_1_find_high_expression", "dataset", lambda layout: layout.genes, genes),
        Kind("5_1_find_high_expression", "dataset", lambda layout: layout.background, background),
        *sizes("5_2_get_label_of_other_resolution", Layout.member_counts, member_counts),
        *sizes("5_3_normalization", Layout.expression, expression),
        Kind("6_pt_construction", "layer", Layout.graph, graph),
        Kind("7_make_dataset", "layer", Layout.npy, records),
        Kind("Step0_original_contour_generation", "layer", Layout.contours, contours),
        Kind("Step1_affine_registration_2d_PAS_2048_xfeat", "pair", Layout.pair_coarse, transform),
        Kind(pair, "pair", Layout.pair, transform),
        Kind(pair, "pair", Layout.pair_warp, displacement),
        Kind(chain, "layer", Layout.to_middle, transform),
        Kind(chain, "layer", Layout.to_middle_warp, displacement),
        Kind(chain, "sample", Layout.quality, quality),
        Kind(register, "sample", Layout.spot_regist, spot_regist),
        Kind(register, "sample", Layout.spot_regist_contours, registered_contours),
        Kind("1_get_iou", "sample", Layout.spot_iou, sparse(0, 1)),
        Kind("2_get_similarity", "sample", Layout.similarity, sparse(-1.0001, 1)),
        Kind("3_build_3d_information", "sample", Layout.combined, combined),
        Kind("4_build_3d_graph", "sample", Layout.graph_3d, graph_3d),
        Kind("5_build_3d_final_format", "sample", Layout.npy_3d, records_3d),
        Kind("main", "run_2d", lambda layout, path: path, checkpoint),
        Kind("main_3d", "run_3d", lambda layout, path: path, checkpoint)]


def units(kind: str, config: Config, layout: Layout) -> Iterator[tuple]:
    """What a kind of file is made for."""
    if kind == "dataset":
        yield ()
    if kind in ("run_2d", "run_3d"):
        yield from ((path,) for path in layout.checkpoints(flat=kind == "run_2d"))
    for sample in sorted(config.samples) if kind in ("sample", "layer", "pair") else ():
        layers = config.layers_of(sample)
        yield from {"sample": [(sample,)], "layer": [(sample, layer) for layer in layers],
                    "pair": [(sample, moving, fixed) for moving in layers for fixed in layers if moving != fixed]}[kind]


def fault_of(root: Root, kind: Kind, path: Path, unit: tuple) -> str | None:
    """One line on what is wrong with this file, or None."""
    error = error_of(root, kind, path, unit)
    return error and str(error)


def error_of(root: Root, kind: Kind, path: Path, unit: tuple) -> LayerError | None:
    """What is wrong with this file, or None."""
    try:
        kind.check(root, path, *unit, *[None] * (2 - len(unit)))
    except Fault as fault:
        found, expected = fault.args
    except (DataError, LayerError) as error:
        if str(error.args[0]) != str(path):  # of what it is held against
            return LayerError(*error.args)
        found, expected = error.args[1], error.args[2]
    except Exception as error:  # bad bytes and other forms: every decoder raises its own
        found, expected = f"a file of another form ({type(error).__name__}: {error})", f"what {kind.step}.py writes"
    else:
        return altered(root.layout, kind, path, unit)
    script = "correct it, or run the script that made it" if kind.step == "0_1_convert_raw" else f"run {kind.step}.py"
    return LayerError(path, found, expected, f"{script} with --overwrite")


def altered(layout: Layout, kind: Kind, path: Path, unit: tuple) -> LayerError | None:
    """The error of a file that keeps the contract and is not as its step wrote it: of what it lacks nothing may tell."""
    if kind.by_hand or kind.unit.startswith("run") or not path.is_file():
        return None
    sample, layer = (*unit[:2], None, None)[:2]
    recipe = stored_recipe(layout.recipe(kind.step, sample, layer)) or stored_recipe(layout.recipe(kind.step, sample, None))  # a step of samples
    noted = (recipe or {}).get("outputs", {})
    if noted.get(path.relative_to(layout.root).as_posix()) in (None, file_digest(path)):
        return None
    own = "; a list of yours: genes: FILE in dataset.yaml" if kind.unit == "dataset" else ""
    return LayerError(path, "other bytes than were written", f"the output of {kind.step}.py", f"run {kind.step}.py with --overwrite{own}")


def hold_to_contract(layout: Layout, config: Config, sample: str | None, layer: int | None, paths: list[Path]) -> None:
    """Raise for the first of these files that is there and breaks the contract: LayerError for one of this sample, DataError for one of the dataset.

    layer None: files of single layers are passed over, as are those of other samples and those that the contract does not know.
    """
    wanted, root = {path for path in paths if path.is_file()}, Root(layout, config)
    samples = {name: one for name, one in (config.samples or {}).items() if name == sample}
    own = config.model_copy(update={"samples": samples})
    for kind in kinds() if wanted else ():
        for unit in units(kind.unit, own, layout):
            path = kind.path(layout, *unit)
            if path in wanted and (layer is not None or len(unit) < 2) and (error := error_of(root, kind, path, unit)):
                raise error if unit else DataError(*error.args)


def check_root(layout: Layout, config: Config) -> int:
    """Check every file; print a line a step and a line a fault. Returns the exit code: 2 if there is a fault, else 0."""
    root, steps = Root(layout, config), {}
    for kind in kinds():
        right, faults = steps.setdefault(kind.step, ([], []))
        for unit in units(kind.unit, config, layout):
            path = kind.path(layout, *unit)
            if not (path.is_file() or path.is_symlink()):
                continue
            fault = fault_of(root, kind, path, unit)
            if fault:
                root.wrong.add(path)
            (faults if fault else right).append(fault or path)
    for step, (right, faults) in steps.items():
        parts = [f"{len(right)} file{'s' * (len(right) > 1)} right"] if right else []
        parts += [f"{len(faults)} wrong"] if faults else []
        print(f"{step:50s} {', '.join(parts) or 'not made yet'}", *faults, sep="\n  ")
    return 2 if any(faults for _, faults in steps.values()) else 0
