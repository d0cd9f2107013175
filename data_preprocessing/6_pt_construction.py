"""Build the graph of one section: spots, regions and globals, edges within and between the levels.

INPUT   location/<sample>/<layer>.csv, patches_csv/patches_{512,1024}/…csv and their pairs,
        extracted_feature/{512,1024}/…h5 (and the feature recipe of 224),
        gene_expression/genes.csv, gene_expression/{512,1024}/…h5ad (sections with counts)
OUTPUT  graph_data/<sample>/<layer>.pt      the dict of torch_geometric's HeteroData.to_dict():
                                            HeteroData.from_dict(torch.load(path, weights_only=True))
        spot            pos (n, 2) float32, pitches (pixel / pitch_px); rows of the location file;
                        feature_sets {name: width}: the columns of every level's features;
                        feature_recipe {name: how they were computed} (common/feature_recipe.py)
        region, global  x (R, D) float32 feature sets side by side in name order; y (R, n_genes) float32 normalised
                        label (0 without counts); has_label (R,) bool: at least one member spot has counts;
                        pos (R, 2) float32 grid column, row; rows of patches_csv
        (level, near, level)    edge_index (2, E) int64 without self loops, both directions; edge_attr (E, 1) float32
                                = 2.1 - d for d < 2.1, d in pitches (spots) or grid steps (patches)
        (spot, in, region), (spot, in, global), (region, in, global)    edge_index (2, E) int64
        edge_index is [source; target], sorted by (target, source).
Source: Zhu et al., CVPR 2025.

    python data_preprocessing/6_pt_construction.py --root_path ROOT
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from common import cli, io, jobs
from common.errors import LayerError
from common.feature_recipe import FeatureRecipe, difference, read_feature_recipe
from common.gene_list import read_genes
from common.layout import GLOBAL, LEVELS, SPOT
from data_preprocessing import expression
from data_preprocessing.graph import build_graph
from data_preprocessing.patches import read_patch_table

STEP = "6_pt_construction"


def read_level(layout, size: int, sample: str, layer: int, genes: list[str]) -> dict[str, np.ndarray]:
    """Feature x, label y, has_label and grid position pos of the region (512) or global (1024) patches of a layer."""
    table = read_patch_table(layout, size, sample, layer)
    names = table["patch_name"].tolist()
    feature = expression.read_feature(layout.features(size, sample, layer), names)  # (R, D)
    y, has_label = np.zeros((len(names), len(genes)), np.float32), np.zeros(len(names), bool)
    if layout.counts(sample, layer).is_file():
        label_file = layout.expression(size, sample, layer)
        labels = io.read_h5ad(label_file, "5_3_normalization.py")
        if labels.obs_names.tolist() != names or labels.var_names.tolist() != genes:
            raise LayerError(label_file, "patches or genes of another run", "those of patches_csv and genes.csv",
                             "run steps 5_2 and 5_3 again")
        y, has_label = np.asarray(labels.X, np.float32), labels.obs["n_spots"].to_numpy() > 0
    return {"x": feature, "y": y, "has_label": has_label, "pos": table[["i", "j"]].to_numpy(np.float32)}


def recipe_of_levels(layout, sample: str, layer: int) -> FeatureRecipe:
    """The recipe of a layer's features. Raises LayerError if those of its three levels differ."""
    of_spots = read_feature_recipe(layout.features(SPOT, sample, layer))
    for size in LEVELS:
        differs = difference(read_feature_recipe(layout.features(size, sample, layer)), of_spots)
        if differs:
            raise LayerError(layout.features(size, sample, layer), differs[0], f"{differs[1]}, as for 224",
                             "run 4_feature_extraction.py again")
    return of_spots


def layer_job(context: jobs.Context, sample: str, layer: int) -> jobs.Job:
    layout, pitch_px = context.layout, context.geometry(sample, layer).pitch_px
    target = layout.graph(sample, layer)
    inputs = [layout.genes, layout.location(sample, layer),
              layout.region_pairs_csv(sample, layer), layout.global_pairs_csv(sample, layer)]
    for size in LEVELS:
        inputs += [path(size, sample, layer) for path in (layout.patches_csv, layout.features, layout.expression)]
    inputs.append(layout.features(SPOT, sample, layer))

    def work() -> str:
        genes = read_genes(layout)
        location = io.read_location(layout.location(sample, layer))
        levels = {level: read_level(layout, size, sample, layer, genes) for size, level in LEVELS.items()}
        owners = expression.read_memberships(layout, sample, layer, location)
        graph = build_graph(location[["pixel_x", "pixel_y"]].to_numpy() / pitch_px, levels, *owners)
        graph["spot"] |= {"feature_sets": expression.feature_widths(layout.features(GLOBAL, sample, layer)),
                          "feature_recipe": recipe_of_levels(layout, sample, layer), "genes": genes}
        io.write_pt(target, graph)
        sizes = []
        for level in ("spot", *levels):
            n_edges = graph[level, "near", level]["edge_index"].shape[1]
            sizes.append(f"{len(graph[level]['pos'])} {level}s with {n_edges} edges")
        return f"{', '.join(sizes)}; {int(graph['region']['has_label'].sum())} regions labelled"

    return jobs.Job(sample, layer, inputs, [target], work,
                   {"pitch_px": pitch_px, "has_counts": layout.counts(sample, layer).is_file()})


def build_parser():
    return cli.make_parser(__doc__)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return jobs.run_layers(STEP, __file__, args, layer_job)


if __name__ == "__main__":
    sys.exit(main())
