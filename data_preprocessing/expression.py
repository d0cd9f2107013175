"""Counts of spots, regions and globals: the choice of genes, and what steps 5 to 7 share."""
from pathlib import Path

import numpy as np
import pandas as pd
import scipy  # scipy.sparse is loaded when it is first used: --help stays quick

from common.errors import LayerError
from common.io import read_features, read_table
from common.layout import Layout
from data_preprocessing.patches import parent_rows

BACKGROUND_GENES = 250  # the published list: the genes of highest mean
MIN_GENES = 10          # a shorter list is refused
HVG_TARGET_SUM = 1e4   # counts a spot is scaled to before log1p, for the choice of variable genes only


# genes -----------------------------------------------------------------------------------------------
def check_counts(adata, file: Path) -> None:
    """Raise LayerError unless X is raw counts (whole, not negative) and barcodes and gene names are unique."""
    values = adata.X.data if scipy.sparse.issparse(adata.X) else np.asarray(adata.X)
    numbers = values.dtype.kind in "iufb"
    if not numbers or values.size and not (values.min() >= 0 and np.array_equal(values, np.rint(values))):
        raise LayerError(file, "values that are no counts", "raw counts (whole numbers >= 0) in X",
                        "store the raw counts, not normalised values")
    for what, names in (("barcode", adata.obs_names), ("gene", adata.var_names)):
        if not names.is_unique:
            repeated = names[names.duplicated()][0]
            raise LayerError(file, f"{what} {repeated} twice", f"unique {what}s", "sum or rename them")


def shared_genes(gene_lists: list[list[str]], exclude_prefixes: list[str] = ()) -> list[str]:
    """Genes of every list, sorted by name, without those that start with an excluded prefix."""
    shared = set.intersection(*map(set, gene_lists)) if gene_lists else set()
    return sorted(gene for gene in shared if not gene.startswith(tuple(exclude_prefixes)))


def layer_mean(adata, genes: list[str]) -> np.ndarray:
    """Mean raw count over the spots of a layer: (n_genes,) float64."""
    return np.asarray(adata[:, genes].X.mean(axis=0), np.float64).ravel()


def ranked(genes: list[str], mean: np.ndarray) -> pd.DataFrame:
    """Table gene, mean in rank order: highest mean first, equal means by name."""
    table = pd.DataFrame({"gene": genes, "mean": mean})
    return table.sort_values(["mean", "gene"], ascending=[False, True], ignore_index=True)


def variable_genes(layers: list, genes: list[str], n_genes: int) -> list[str]:
    """The most variable genes over all layers: ranked per layer and merged.

    scanpy, flavor 'seurat' on log1p counts per 10,000. Not 'seurat_v3': it fits a loess with scikit-misc, which is no
    dependency here.
    """
    import anndata
    import scanpy
    tables = {str(number): adata[:, genes] for number, adata in enumerate(layers)}
    merged = anndata.concat(tables, label="slide", index_unique="-")
    merged.X = scipy.sparse.csr_matrix(merged.X, dtype=np.float32)
    scanpy.pp.normalize_total(merged, target_sum=HVG_TARGET_SUM)
    scanpy.pp.log1p(merged)
    n_top_genes = min(n_genes, len(genes))
    scanpy.pp.highly_variable_genes(merged, n_top_genes=n_top_genes, flavor="seurat", batch_key="slide")
    return merged.var_names[merged.var["highly_variable"]].tolist()


# members ---------------------------------------------------------------------------------------------
def owner_index(cells: pd.Series, members: list[str]) -> np.ndarray:
    """Row of the table whose cell ('a;b;c') names the member; -1 where none does: (n_members,) int64."""
    owner = {}
    for row, cell in enumerate(cells.fillna("")):
        owner.update(dict.fromkeys(cell.split(";"), row))
    return np.array([owner.get(name, -1) for name in members], np.int64)


def read_memberships(layout: Layout, sample: str, layer: int,
                     location: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """region_of_spot, global_of_spot (n_spots,) and global_of_region (n_regions,): int64 rows of patches_csv.

    location: spots (barcode, pixel_x, pixel_y). Regions of spots and globals of regions are the pairs of steps 2 and 3;
    a spot's global is the grid cell of its centre. Raises LayerError if a spot or region belongs to no patch.
    """
    region_file, global_file = layout.region_pairs_csv(sample, layer), layout.global_pairs_csv(sample, layer)
    regions = read_table(region_file, ("patch_name", "spots"), "2_find_512_pair.py", text=("patch_name", "spots"))
    globals_ = read_table(global_file, ("i", "j", "width", "regions"), "3_find_1024_pair.py",
                          text=("patch_name", "regions"))
    region_of_spot = owner_index(regions["spots"], location["barcode"].tolist())
    global_of_spot = parent_rows(globals_, location[["pixel_x", "pixel_y"]].to_numpy())
    global_of_region = owner_index(globals_["regions"], regions["patch_name"].tolist())
    for file, row in ((region_file, region_of_spot), (global_file, global_of_spot), (global_file, global_of_region)):
        if (row < 0).any():
            raise LayerError(file, f"{(row < 0).sum()} of {len(row)} members in no patch", "each in one patch",
                             "run steps 1 to 3 again")
    return region_of_spot, global_of_spot, global_of_region


def sum_members(counts, owner: np.ndarray, n_owners: int) -> "scipy.sparse.csr_matrix":
    """Sum of the members' rows: counts (n_members, n_genes), owner (n_members,) -> CSR (n_owners, n_genes) float32."""
    entries = (np.ones(len(owner)), (owner, np.arange(len(owner))))
    members = scipy.sparse.csr_matrix(entries, shape=(n_owners, len(owner)))
    return (members @ scipy.sparse.csr_matrix(counts)).astype(np.float32)


def columns_of(adata, genes: list[str]) -> "scipy.sparse.csr_matrix":
    """Counts of these genes in this order, 0 for a gene absent from the layer: CSR (n_spots, n_genes) float32."""
    at = adata.var_names.get_indexer(genes)  # (n_genes,)
    listed = np.flatnonzero(at >= 0)
    entries = (np.ones(len(listed), np.float32), (at[listed], listed))
    place = scipy.sparse.csr_matrix(entries, shape=(adata.n_vars, len(genes)))
    return scipy.sparse.csr_matrix(scipy.sparse.csr_matrix(adata.X, dtype=np.float32) @ place)


# features --------------------------------------------------------------------------------------------
def read_feature(file: Path, names: list[str]) -> np.ndarray:
    """Feature sets of a layer side by side in name order, rows as `names`: (n, D) float32.

    Raises LayerError if a name has no row.
    """
    sets, stored = read_features(file)
    row = pd.Index(stored).get_indexer(names)  # (n,)
    if (row < 0).any():
        raise LayerError(file, f"no feature for {(row < 0).sum()} of {len(names)} patches", "a row for each",
                         "run 4_feature_extraction.py again")
    return np.concatenate([sets[name] for name in sorted(sets)], axis=1)[row]


def feature_widths(file: Path) -> dict[str, int]:
    """{feature set: number of features}, in the column order of read_feature."""
    sets, _ = read_features(file)
    return {name: sets[name].shape[1] for name in sorted(sets)}
