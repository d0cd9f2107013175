"""Choose the genes that the model predicts: one list for the dataset.

INPUT   counts/<sample>/<layer>.h5ad     raw counts (n_spots, n_genes), of every layer of the config that has them
        config: genes (top_mean | hvg | a file with one gene symbol a line), n_genes, exclude_prefixes, genes_from (all | known)
OUTPUT  gene_expression/genes.csv        gene, rank (1 = highest mean), mean (raw counts; mean over layers of the mean over spots),
                                         chosen_by, genes_from, n_layers; this order is the gene order everywhere

Only genes that every layer read has are eligible. `genes_from: known` reads the known layers and no other. A list is taken whole,
but for genes that are not eligible. hvg is scanpy's flavor 'seurat' on log1p counts per 10,000, layer by layer.
Source: Zhu et al., CVPR 2025 (250 genes of highest mean).

    python data_preprocessing/5_1_find_high_expression.py --root_path ROOT
"""
import sys; from pathlib import Path
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd

from common import cli, io
from common.errors import DataError, LayerError
from data_preprocessing import expression

STEP = "5_1_find_high_expression"


def layers_to_read(context: cli.Context) -> list[tuple[str, int]]:
    """(sample, layer) of every layer whose counts take part in the choice. Raises DataError if there is none."""
    config, layout = context.config, context.layout
    if config.genes_from == "known":
        units = [(sample, layer) for sample in sorted(config.samples) for layer in expression.known_layers(config, layout, sample)]
    else:
        units = [(sample, layer) for sample in sorted(config.samples) for layer in config.layers_of(sample)]
    units = [unit for unit in units if layout.counts(*unit).is_file()]
    if not units and config.genes in ("top_mean", "hvg"):
        raise DataError(layout.root, f"no counts in any layer ({config.genes_from})", "counts/<sample>/<layer>.h5ad",
                        "run 0_1_convert_raw.py, set known_layers to layers with counts, or set genes to a list")
    return units


def read_layers(context: cli.Context, units: list[tuple[str, int]]) -> dict[tuple[str, int], object]:
    """Counts of the layers; one that cannot be read is reported and left out. Raises DataError if none is left."""
    layers = {}
    for sample, layer in units:
        path = context.layout.counts(sample, layer)
        try:
            adata = io.read_h5ad(path, "0_1_convert_raw.py")
            expression.check_counts(adata, path)
        except LayerError as error:
            cli.set_status(context.layout, STEP, f"{sample}/{layer}", f"left out: {error}")
            print(f"{STEP}  {sample}/{layer}: left out: {error}", file=sys.stderr)
            continue
        cli.set_status(context.layout, STEP, f"{sample}/{layer}", "ok")
        layers[sample, layer] = adata
    if not layers:
        raise DataError(context.layout.root, "counts that cannot be read", "counts/<sample>/<layer>.h5ad", "run 0_1_convert_raw.py again")
    return layers


def choose_genes(layers: dict, config) -> tuple[pd.DataFrame, int]:
    """The table genes.csv and the number of genes that every layer shares. Raises DataError if nothing is eligible."""
    shared = expression.shared_genes([adata.var_names.tolist() for adata in layers.values()])
    eligible = expression.shared_genes([shared], config.exclude_prefixes)
    if not eligible:
        raise DataError("counts/", f"no eligible gene in all {len(layers)} layers", "gene names that the layers share",
                        "use one naming (symbols or Ensembl), or fewer exclude_prefixes")
    if config.genes == "top_mean":
        chosen_by, chosen = "top_mean", eligible
    elif config.genes == "hvg":
        chosen_by, chosen = "hvg_seurat", expression.variable_genes(list(layers.values()), eligible, config.n_genes)
    else:
        file = Path(config.genes)
        listed = set(expression.read_gene_list(file))
        chosen_by, chosen = f"file:{file.name}", [gene for gene in eligible if gene in listed]
        if not chosen:
            raise DataError(file, f"none of its {len(listed)} genes in all {len(layers)} layers", "gene names as in the counts",
                            f"write names like {eligible[0]}")
    mean = np.mean([expression.layer_mean(adata, chosen) for adata in layers.values()], axis=0)  # (n_chosen,)
    table = expression.ranked(chosen, mean)
    if config.genes == "top_mean":
        table = table.head(config.n_genes)
    table.insert(1, "rank", np.arange(1, len(table) + 1))
    return table.assign(chosen_by=chosen_by, genes_from=config.genes_from, n_layers=len(layers)), len(shared)


def listed_genes(genes: list[str], file: Path) -> pd.DataFrame:
    """The table genes.csv where nothing was measured: the list as it is. Raises DataError if a gene is there twice."""
    if len(set(genes)) < len(genes):
        raise DataError(file, "a gene that is there twice", "every gene once", "remove the doubles")
    return pd.DataFrame({"gene": genes, "rank": np.arange(1, len(genes) + 1), "mean": 0.0, "chosen_by": f"file:{file.name}", "genes_from": "list", "n_layers": 0})


def dataset_job(context: cli.Context) -> cli.Job:
    config, layout = context.config, context.layout
    units = layers_to_read(context)
    inputs = [layout.counts(*unit) for unit in units]
    if config.genes not in ("top_mean", "hvg"):
        inputs.append(Path(config.genes))

    def work() -> str:
        if not units:
            genes = expression.read_gene_list(Path(config.genes))
            io.write_table(layout.genes, listed_genes(genes, Path(config.genes)))
            return f"{layout.genes}: the {len(genes)} genes of {config.genes}; no layer has counts"
        layers = read_layers(context, units)
        table, n_shared = choose_genes(layers, config)
        io.write_table(layout.genes, table)
        names = ", ".join(f"{sample}/{layer}" for sample, layer in layers)
        return (f"{layout.genes}: {len(table)} genes ({table['chosen_by'][0]}, from {config.genes_from} layers) "
                f"of the {n_shared} that all {len(layers)} layers share ({names})")

    settings = config.model_dump(include={"genes", "n_genes", "exclude_prefixes", "genes_from"})
    return cli.Job(None, None, inputs, [layout.genes], work, settings)


def build_parser():
    return cli.make_parser(__doc__, sample=False, layer=False)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return cli.run_dataset(STEP, __file__, args, dataset_job)


if __name__ == "__main__":
    sys.exit(main())
