"""The contract of the graphs and records, of a section and of a sample (steps 6 and 7, 3D steps 4 and 5)."""
from pathlib import Path

import numpy as np

from common import io
from common.contract.fault import (
    demand,
    demand_array,
    demand_edges,
    demand_keys,
    demand_names,
    demand_parents,
    demand_symmetric,
)
from common.contract.features import demand_recipe
from common.contract.root import Root, read_mapped
from common.layout import LEVELS

MEMBERSHIPS = (("spot", "region"), ("spot", "global"), ("region", "global"))


def graph(root: Root, path: Path, sample: str, layer: int) -> None:
    stored, barcodes, widths = io.read_pt(path), root.barcodes(sample, layer), root.widths(sample, layer)
    sizes = graph_nodes(root, stored, None if barcodes is None else len(barcodes))
    for size, level in LEVELS.items():
        table = root.patches(size, sample, layer)
        demand(table is None or sizes[level] == len(table), f"{sizes[level]} {level}s",
               f"the patches of patches_csv/patches_{size}")
    sets = stored["spot"]["feature_sets"]
    demand(widths is None or sets == widths, f"feature_sets {sets}", f"{widths} as extracted")
    demand_recipe(stored["spot"]["feature_recipe"], root.feature_recipe(sample, layer),
                  f"extracted_feature/224/{sample}/{layer}.h5")
    for level, n in sizes.items():
        near_edges(stored, level, n)


def graph_nodes(root: Root, stored: dict, n_spots: int | None) -> dict[str, int]:
    """Check the nodes of a graph and their memberships; {level: number of nodes}."""
    near = [(level, "near", level) for level in LEVELS.values()]
    memberships = [(member, "in", owner) for member, owner in MEMBERSHIPS]
    demand_keys(stored, ("spot", *LEVELS.values(), *memberships, *near))
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
        demand(index.min() >= 0 and index.max() < n, f"a {level}_index out of range",
               f"rows of patches_csv/patches_{size}, 0 to {n - 1}")


def demand_fields(table: np.ndarray, n_genes: int | None, width: int | None, more: tuple[str, ...] = ()) -> None:
    """Dtype and shape of the fields of records; more: names of further fields."""
    fields: dict[str, tuple[str, tuple[int | None, ...]]] = {
        "pixel": ("f8", (2,)), "array": ("i4", (2,)), "label": ("f4", (n_genes,)), "feature": ("f4", (width,)),
        "region_index": ("i4", ()), "global_index": ("i4", ()), "has_label": ("?", ())}
    demand_keys(table.dtype.names or (), ("barcode", *fields, *more))
    for name, (kind, shape) in fields.items():
        demand_array(table[name], name, kind, len(table), *shape)


def graph_3d(root: Root, path: Path, sample: str, layer: None) -> None:
    stored, stack = io.read_pt(path), root.stack(sample)
    sizes = graph_nodes(root, stored, None if stack is None else len(stack))
    layers = {level: stored[level]["layer"].numpy() for level in ("spot", *LEVELS.values())}
    for level, one in layers.items():
        demand_array(one, f"{level} layer", "i8", sizes[level])
    for number in np.unique(layers["spot"]).tolist():
        demand_recipe(stored["spot"]["feature_recipe"], root.feature_recipe(sample, number),
                      f"extracted_feature/224/{sample}/{number}.h5")
    same = stack is None or np.array_equal(layers["spot"], stack["layer"])
    demand(same, "spots of other sections", f"the rows of spot_regist/{sample}.csv")
    for member, owner in MEMBERSHIPS:
        source, target = stored[member, "in", owner]["edge_index"].numpy()
        inside = (layers[member][source] == layers[owner][target]).all()
        demand(inside, f"a {member} in a {owner} of another section", "its own section's")
    for level in LEVELS.values():
        near_edges(stored, level, sizes[level])
    spot_edges(stored, "cross", True, layers["spot"])
    spot_edges(stored, "within", False, layers["spot"])


def spot_edges(stored: dict, relation: str, across: bool, layer: np.ndarray) -> None:
    """The edges of one relation of spots, all between sections or all inside one. layer (n_spots,): of each spot."""
    name = f"(spot, {relation}, spot)"
    demand_keys(stored, (("spot", relation, "spot"),))
    edges = stored["spot", relation, "spot"]
    edge_index, attribute = edges["edge_index"].numpy(), edges["edge_attr"].numpy()
    demand_edges(edge_index, name, len(layer), len(layer))
    demand_symmetric(edge_index, name, len(layer))
    demand_array(attribute, f"{name} edge_attr", "f4", edge_index.shape[1], 5)
    step = np.abs(np.subtract(*layer[edge_index]))
    demand(((step > 0) == across).all(), f"{name}: edges of another kind",
           "cross: between sections, within: inside one")
    demand(np.array_equal(attribute[:, 4], step), f"{name}: a wrong section difference",
           "column 4 as the sections of the two spots")
    right = np.allclose(attribute[:, 0], attribute[:, 1] + attribute[:, 2], atol=1e-4)
    demand(right, f"{name}: a wrong weight", "IoU + cosine")


def records_3d(root: Root, path: Path, sample: str, layer: None) -> None:
    table, stack = io.read_npy(path, mmap=True), root.stack(sample)
    demand_fields(table, None, None, ("layer", "registered"))
    demand_array(table["registered"], "registered", "f8", len(table), 2)
    if stack is not None:
        demand_names(table["barcode"].tolist(), stack["barcode"].tolist(), "spots", f"spot_regist/{sample}.csv")
        demand(np.array_equal(table["layer"], stack["layer"]), "spots of other sections",
               f"those of spot_regist/{sample}.csv")
        same = np.allclose(table["registered"], stack[["registered_x", "registered_y"]])
        demand(same, "other registered positions", f"those of spot_regist/{sample}.csv")
    for one in np.unique(table["layer"]):
        part, own = table[table["layer"] == one], root.records(sample, int(one))
        if own is not None:
            names = own.dtype.names or ()
            same = len(part) == len(own) and all(np.array_equal(part[name], own[name]) for name in names)
            demand(same, f"records of section {one} that differ", f"those of npy_information/{sample}/{one}.npy")
