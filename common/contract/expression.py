"""The contract of gene lists, counts and normalised expression (steps 5_1 to 5_3)."""
from pathlib import Path

import numpy as np

from common import io
from common.contract.fault import demand, demand_array, demand_keys, demand_names, demand_raw
from common.contract.root import Root, read_genes
from common.layout import LEVELS


def genes(root: Root, path: Path, sample: None, layer: None) -> None:
    table = root.own(path, read_genes)
    if root.config.genes in ("top_mean", "hvg"):  # a list of genes is taken whole
        demand(len(table) <= root.config.n_genes, f"{len(table)} genes", f"up to {root.config.n_genes} by dataset.yaml")
    demand_ranked_genes(table)


def background(root: Root, path: Path, sample: None, layer: None) -> None:
    table = root.own(path, read_genes)
    demand_ranked_genes(table)
    own = root.config.genes == "top_mean" and root.config.n_genes <= len(table)
    chosen = root.genes() if own else None
    whole = chosen is None or set(chosen) <= set(table["gene"])
    demand(whole, "a background without some of the chosen genes", "the genes of highest mean")


def demand_ranked_genes(table) -> None:
    demand(len(table) > 0, "no gene", "a row a gene")
    demand(table["gene"].is_unique and table["gene"].notna().all(), "a gene twice or without name", "unique names")
    numeric = all(table[name].dtype.kind in "if" for name in ("rank", "mean") if name in table)
    demand(numeric, "a rank or mean that is no number", "numbers")
    demand(table["rank"].tolist() == list(range(1, len(table) + 1)), "ranks out of order", "1, 2, 3, …")


def member_counts(size: int):
    def check(root: Root, path: Path, sample: str, layer: int) -> None:
        adata = root.own(path, io.read_h5ad)
        demand_raw(adata.X)
        demand(adata.X.dtype == np.float32, f"X {adata.X.dtype}", "X float32")
        demand_keys(adata.obs, ("n_spots",))
        members = adata.obs["n_spots"]
        whole = members.dtype.kind in "iu" and bool((members >= 0).all())
        demand(whole, f"n_spots {members.dtype}", "whole numbers >= 0")
        demand_rows_and_genes(root, adata, size, sample, layer)
        spots = root.read(root.layout.member_counts(224, sample, layer), io.read_h5ad)
        if size != 224 and spots is not None:
            same = np.array_equal(adata.X.sum(axis=0, dtype="f8"), spots.X.sum(axis=0, dtype="f8"))
            demand(same, "sums that differ from those over the spots",
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
            counted, labelled = source.X, adata.layers["counts"]
            same = counted.shape == adata.shape and not (counted != labelled).sum()
            demand(same, "other counts", f"those of counts_{size}/{sample}/{layer}.h5ad")
    return check


def demand_depth(adata, background: list[str] | None) -> None:
    """Check obs depth: sum over the background of (count + 1). Background genes outside the list only add to it."""
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
        if size == 224:  # a spot without counts has no row
            names = [name for name in names if name in present]
        demand_names(adata.obs_names.tolist(), names, "rows", f"patches_csv/patches_{size}/{sample}/{layer}.csv")
