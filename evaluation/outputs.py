"""What main.py, main_3d.py and predict_3d.py share of what they write: gene list and background, depths, finite numbers."""
import numpy as np

from common.errors import DataError
from common.gene_list import read_background
from common.io import read_h5ad, read_table, write_table
from common.layout import Layout, RunLayout
from common.normalisation import depth_of


def keep_genes(layout: Layout, run_layout: RunLayout) -> list[str]:
    """Copy the gene list and its background from the root to the run; returns the genes."""
    genes = read_table(layout.genes, ("gene",), "5_1_find_high_expression.py", text=("gene",))
    write_table(run_layout.background, read_background(layout.background))
    write_table(run_layout.genes, genes)
    return genes["gene"].tolist()


def background_of(place: Layout | RunLayout) -> list[str]:
    """The genes whose sum the labels of a root or run are relative to."""
    made_by = "5_1_find_high_expression.py" if isinstance(place, Layout) else "main.py or main_3d.py"
    return read_background(place.background, made_by)["gene"].tolist()


def check_background(layout: Layout, expected: list[str], source) -> None:
    """Raise DataError if the labels of the root are relative to other genes than `expected`, those of `source`."""
    if set(background_of(layout)) != set(expected):
        fix = "set genes: to the genes.csv of that run (its background.csv lies beside it) and run 5_1 and what follows again"
        raise DataError(layout.background, "another background than the run's", f"the {len(expected)} genes of {source}", fix)


def depths(layout: Layout, graph, rows: np.ndarray, own_background: bool) -> np.ndarray:
    """sum over the background of (count + 1) of labelled spots: (m,). rows: (n_spots,) bool, m True.

    own_background: the list is its own background; then the labels give it.
    """
    if own_background:
        return depth_of(graph.label.numpy()[rows])
    layer, out = graph.layer.numpy(), np.full(graph.n_spots, np.nan)
    for one in np.unique(layer[rows]):
        path = layout.member_counts(224, graph.sample, int(one))
        of_layer = rows & (layer == one)
        out[of_layer] = read_h5ad(path, "5_2_get_label_of_other_resolution.py").obs["depth"][graph.barcode[of_layer]]
    return out[rows]


def finite(adata, name: str):
    """The AnnData itself. Raises DataError if a predicted number is not finite; what was not measured may be NaN."""
    values = {"X": adata.X, **{f"layers['{one}']": adata.layers[one] for one in adata.layers if one != "measured"},
              **{f"obsm['{one}']": adata.obsm[one] for one in adata.obsm},
              **{f"obs['{one}']": adata.obs[one].to_numpy() for one in adata.obs if adata.obs[one].dtype.kind == "f"}}
    for where, value in values.items():
        wrong = int((~np.isfinite(value)).sum())
        if wrong:
            found = f"{wrong} of {value.size} values of {where} that are not finite"
            fix = "check the input with common.cli check, and train again with a lower --base_lr"
            raise DataError(f"prediction of {name}", found, "finite numbers", fix)
    return adata
