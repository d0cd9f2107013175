"""Outputs of main.py, main_3d.py and predict_3d.py: gene list and background, depths, and THE imputed AnnData."""
import numpy as np

from common.errors import DataError
from common.gene_ids import OF_TABLE
from common.gene_list import read_background
from common.io import read_h5ad, read_table, write_table
from common.layout import Layout, RunLayout
from common.normalisation import depth_of, to_log1p
from models.sample import SampleGraph


def keep_genes(layout: Layout, run_layout: RunLayout) -> list[str]:
    """Copy the gene list (with its ids) and its background from the root to the run; returns the genes."""
    genes = read_table(layout.genes, ("gene",), "5_1_find_high_expression.py", text=("gene", OF_TABLE))
    write_table(run_layout.background, read_background(layout.background))
    write_table(run_layout.genes, genes)
    return genes["gene"].tolist()


def background_of(place: Layout | RunLayout) -> list[str]:
    """The background genes of a root or run: labels are relative to their sum."""
    made_by = "5_1_find_high_expression.py" if isinstance(place, Layout) else "main.py or main_3d.py"
    return read_background(place.background, made_by)["gene"].tolist()


def check_background(layout: Layout, expected: list[str], source) -> None:
    """Raise DataError if the background of the root is not `expected`, the genes of `source`."""
    if set(background_of(layout)) != set(expected):
        fix = ("set genes: to the genes.csv of that run (with its background.csv in the same folder), run 5_1 and all"
               " that follows again")
        found, wanted = "another background than the run's", f"the {len(expected)} genes of {source}"
        raise DataError(layout.background, found, wanted, fix)


def depths(layout: Layout, graph: SampleGraph, rows: np.ndarray, own_background: bool) -> np.ndarray:
    """Depths of labelled spots, the sum over the background of (count + 1): (m,). rows: (n_spots,) bool, m True.

    own_background: the gene list is its own background; then the labels give the depths.
    """
    if own_background:
        return depth_of(graph.label.numpy()[rows])
    layer, out = graph.layer.numpy(), np.full(graph.n_spots, np.nan)
    for one in np.unique(layer[rows]):
        path = layout.member_counts(224, graph.sample, int(one))
        of_layer = rows & (layer == one)
        out[of_layer] = read_h5ad(path, "5_2_get_label_of_other_resolution.py").obs["depth"][graph.barcode[of_layer]]
    return out[rows]


def layer_anndata(graph: SampleGraph, layer: int, predicted: dict[str, np.ndarray], genes: list[str], uns: dict, *,
                  depth: float, n_background: int | None, known: np.ndarray | None = None,
                  place_um: np.ndarray | None = None, genes_of_labels: list[str] | None = None,
                  foreign: np.ndarray | None = None):
    """One layer as AnnData. n: spots of the graph, G: genes.

    predicted: expression (n, G), and sd (n, G) and confidence (n,) if there are; known: (n,) bool, spots whose
    expression was given (2D: none); place_um: (n, 3) in the stack (3D); depth: median of the known or training spots;
    foreign: (n,) bool, spots on tissue without counterpart in the stack (3D); their confidence is 0 unless known;
    n_background: as in to_log1p; genes_of_labels: genes of the graph's labels, if they may differ from `genes`.
    Raises DataError if a number is not finite.
    """
    import anndata
    import pandas as pd
    from scipy.spatial import cKDTree
    rows = graph.layer.numpy() == layer
    known = np.zeros(graph.n_spots, bool) if known is None else known
    obs = pd.DataFrame({"sample": graph.sample, "layer": layer, "known": known[rows]},
                       index=graph.barcode[rows].astype(str))
    expression = predicted["expression"][rows].astype(np.float32)
    adata = anndata.AnnData(expression, obs=obs, var=pd.DataFrame(index=genes), uns={"asign": uns})
    adata.obsm["spatial"] = graph.pixel[rows].astype(np.float64)
    if place_um is not None:
        adata.obsm["spatial_3d"] = place_um[rows]
        adata.obs["distance_to_known"] = cKDTree(place_um[known]).query(place_um[rows])[0]
    adata.layers["log1p"] = to_log1p(adata.X, depth, n_background)
    if "sd" in predicted:
        adata.layers["sd"] = predicted["sd"][rows]
        adata.obs["confidence"] = predicted["confidence"][rows]
    if foreign is not None:
        adata.obs["foreign_tissue"] = foreign[rows]
        if "confidence" in adata.obs:
            adata.obs.loc[foreign[rows] & ~known[rows], "confidence"] = 0
    labelled, own = graph.has_label.numpy()[rows], genes_of_labels or genes
    if labelled.any() and set(own) == set(genes):
        measured = np.where(labelled[:, None], graph.label.numpy()[rows], np.float32(np.nan))
        adata.layers["measured"] = measured if own == genes else measured[:, pd.Index(own).get_indexer(genes)]
    return finite(adata, f"{graph.sample}/{layer}")


def finite(adata, name: str):
    """The AnnData itself. Raises DataError if a predicted number is not finite; measured values may be NaN."""
    values = {"X": adata.X}
    values |= {f"layers['{one}']": adata.layers[one] for one in adata.layers if one != "measured"}
    values |= {f"obsm['{one}']": adata.obsm[one] for one in adata.obsm}
    values |= {f"obs['{one}']": adata.obs[one].to_numpy() for one in adata.obs if adata.obs[one].dtype.kind == "f"}
    for where, value in values.items():
        wrong = int((~np.isfinite(value)).sum())
        if wrong:
            found = f"{wrong} of {value.size} values of {where} that are not finite"
            fix = "check the input with common.cli check, and train again with a lower --base_lr"
            raise DataError(f"prediction of {name}", found, "finite numbers", fix)
    return adata
