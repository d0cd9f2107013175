"""Choose the genes that the model predicts: one list for the dataset.

INPUT   counts/<sample>/<layer>.h5ad     raw counts (n_spots, n_genes), of every section of the config that has them
        config: genes (top_mean | hvg | a file with one gene symbol a line), n_genes, exclude_prefixes,
                genes_from (all | known)
OUTPUT  gene_expression/genes.csv        gene, rank (1 = highest mean), mean (raw counts; mean over sections of the mean
                                         over spots), chosen_by, genes_from, n_layers; gene_id, if an id is known
                                         (var['gene_ids'] of the counts); this is the gene order everywhere
        gene_expression/background.csv   gene, rank, mean: the genes whose sum every label is relative to

The background is the published list, the 250 eligible genes of highest mean, whatever genes are chosen; that of a
run's genes.csv is the background.csv beside it. A gene is eligible if every section that is read has it. `genes_from:
known` reads only the known sections. A list is used without its genes that are not eligible; these are named. Fewer
than 10 genes are refused. hvg is scanpy's flavor 'seurat' on log1p counts per 10,000, section by section.
Source: Zhu et al., CVPR 2025 (250 genes of highest mean).

    python data_preprocessing/5_1_find_high_expression.py --root_path ROOT
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dataclasses import dataclass

import numpy as np
import pandas as pd

from common import cli, gene_ids, io, jobs
from common.errors import DataError, LayerError
from common.gene_list import read_background, read_gene_list
from common.known_layers import known_layers
from common.layout import background_beside
from common.status import set_status
from data_preprocessing import expression
from data_preprocessing.readers.gene_names import demand_one_naming

STEP = "5_1_find_high_expression"
N_NAMED = 5  # genes left out that are named


def layers_to_read(context: jobs.Context) -> list[tuple[str, int]]:
    """(sample, layer) of every layer whose counts take part in the choice. Raises DataError if there is none."""
    config, layout = context.config, context.layout
    units = []
    for sample in sorted(config.samples):
        known = config.genes_from == "known"
        layers = known_layers(config, layout, sample) if known else config.layers_of(sample)
        units += [(sample, layer) for layer in layers if layout.counts(sample, layer).is_file()]
    if not units and config.genes in ("top_mean", "hvg"):
        raise DataError(layout.root, f"no counts in any section ({config.genes_from})", "counts/<sample>/<layer>.h5ad",
                        "run 0_1_convert_raw.py, set known_layers to sections with counts, or set genes to a list")
    return units


def read_layers(context: jobs.Context, units: list[tuple[str, int]]) -> dict[tuple[str, int], object]:
    """Counts of the layers; one that cannot be read is reported and left out. Raises DataError if none is left."""
    layers = {}
    for sample, layer in units:
        path = context.layout.counts(sample, layer)
        try:
            adata = io.read_h5ad(path, "0_1_convert_raw.py")
            expression.check_counts(adata, path)
        except LayerError as error:
            set_status(context.layout, STEP, f"{sample}/{layer}", f"left out: {error}")
            print(f"{STEP}  {sample}/{layer}: left out: {error}", file=sys.stderr)
            continue
        set_status(context.layout, STEP, f"{sample}/{layer}", "ok")
        layers[sample, layer] = adata
    if not layers:
        raise DataError(context.layout.root, "counts that cannot be read", "counts/<sample>/<layer>.h5ad",
                        "run 0_1_convert_raw.py again")
    return layers


@dataclass(frozen=True)
class Choice:
    """The output of step 5_1, and numbers for its line on screen."""
    genes: pd.DataFrame          # gene, rank, mean, chosen_by, genes_from, n_layers, gene_id if known
    background: pd.DataFrame     # gene, rank, mean
    n_shared: int                # genes that every layer has
    left_out: list[str]          # genes of a list that are not eligible
    mixed: dict[str, str]        # gene: its ids, where sections differ


def choose_genes(layers: dict, config) -> Choice:
    """The gene list and its background, from {(sample, layer): counts}. Raises DataError if nothing is eligible."""
    demand_one_naming({f"{sample}/{layer}": adata.var_names.tolist() for (sample, layer), adata in layers.items()})
    shared = expression.shared_genes([adata.var_names.tolist() for adata in layers.values()])
    eligible = expression.shared_genes([shared], config.exclude_prefixes)
    if not eligible:
        raise DataError("counts/", f"no eligible gene in all {len(layers)} sections",
                        "gene names that the sections share",
                        "use one naming (symbols or Ensembl), or fewer exclude_prefixes")
    mean = np.mean([expression.layer_mean(adata, eligible) for adata in layers.values()], axis=0)  # (n_eligible,)
    ranking, left_out = expression.ranked(eligible, mean), []
    background = ranking.head(expression.BACKGROUND_GENES)
    if config.genes == "top_mean":
        chosen_by, table = "top_mean", ranking.head(config.n_genes)
    elif config.genes == "hvg":
        variable = expression.variable_genes(list(layers.values()), eligible, config.n_genes)
        chosen_by, table = "hvg_seurat", ranking[ranking["gene"].isin(variable)]
    else:
        file = Path(config.genes)
        listed = read_gene_list(file)
        chosen_by, table = f"file:{file.name}", ranking[ranking["gene"].isin(listed)]
        left_out = [gene for gene in listed if gene not in set(eligible)]
        if table.empty:
            raise DataError(file, f"none of its {len(listed)} genes in all {len(layers)} sections",
                            "gene names as in the counts", f"write names like {eligible[0]}")
        if background_beside(file).is_file():
            background = read_background(background_beside(file))
    table = with_rank(table).assign(chosen_by=chosen_by, genes_from=config.genes_from, n_layers=len(layers))
    stated = {f"{sample}/{layer}": gene_ids.ids_by_name(adata.var) for (sample, layer), adata in layers.items()}
    ids, mixed = gene_ids.agreed_ids(stated, table["gene"])
    return Choice(gene_ids.with_ids(table, ids), with_rank(background), len(shared), left_out, mixed)


def with_rank(genes: pd.DataFrame) -> pd.DataFrame:
    """Table gene, rank, mean; rank 1, 2, … in row order."""
    rank = np.arange(1, len(genes) + 1)
    return pd.DataFrame({"gene": genes["gene"].tolist(), "rank": rank, "mean": genes["mean"].tolist()})


def demand_enough(table: pd.DataFrame, config) -> None:
    """Raise DataError for a list of fewer than MIN_GENES genes."""
    if len(table) < expression.MIN_GENES:
        where = f"genes: {config.genes}" if config.genes in ("top_mean", "hvg") else config.genes
        fix = "give a longer list, or a larger n_genes; report.py --genes shows single genes"
        raise DataError(where, f"{len(table)} genes that every section has", f"{expression.MIN_GENES} or more", fix)


def unmeasured_genes(file: Path) -> Choice:
    """The list unchanged, where no layer has counts; its background is the one beside it, else the list itself."""
    genes = read_gene_list(file)
    table, beside = with_rank(pd.DataFrame({"gene": genes, "mean": 0.0})), background_beside(file)
    background = read_background(beside) if beside.is_file() else table
    table = table.assign(chosen_by=f"file:{file.name}", genes_from="list", n_layers=0)
    return Choice(gene_ids.with_ids(table, gene_ids.read_ids(file)), with_rank(background), 0, [], {})


def write_choice(layout, choice: Choice) -> None:
    io.write_table(layout.background, choice.background)
    io.write_table(layout.genes, choice.genes)


def left_out_line(names: list[str]) -> str:
    """The part of the step's line on genes of the list that are not predicted; '' if there are none."""
    shown = ", ".join(names[:N_NAMED]) + (", …" if len(names) > N_NAMED else "")
    return f"; {len(names)} of the list left out, not in every section or excluded: {shown}" if names else ""


def mixed_line(mixed: dict[str, str]) -> str:
    """The part of the step's line on genes whose id differs between sections; '' if there are none."""
    shown = "; ".join(f"{gene}: {ids}" for gene, ids in list(mixed.items())[:N_NAMED])
    more = "; …" if len(mixed) > N_NAMED else ""
    return f"; mixed gene ids, left empty for {len(mixed)} genes ({shown}{more})" if mixed else ""


def dataset_job(context: jobs.Context) -> jobs.Job:
    config, layout = context.config, context.layout
    units = layers_to_read(context)
    inputs = [layout.counts(*unit) for unit in units]
    if config.genes not in ("top_mean", "hvg"):
        inputs += [Path(config.genes), background_beside(Path(config.genes))]

    def work() -> str:
        if not units:
            choice = unmeasured_genes(Path(config.genes))
            write_choice(layout, choice)
            return f"{layout.genes}: the {len(choice.genes)} genes of {config.genes}; no section has counts"
        layers = read_layers(context, units)
        choice = choose_genes(layers, config)
        demand_enough(choice.genes, config)
        write_choice(layout, choice)
        names = ", ".join(f"{sample}/{layer}" for sample, layer in layers)
        chosen_by = choice.genes["chosen_by"][0]
        remarks = left_out_line(choice.left_out) + mixed_line(choice.mixed)
        return (f"{layout.genes}: {len(choice.genes)} genes ({chosen_by}, from {config.genes_from} sections) "
                f"of the {choice.n_shared} that all {len(layers)} sections share ({names}); "
                f"background of {len(choice.background)} genes{remarks}")

    settings = config.model_dump(include={"genes", "n_genes", "exclude_prefixes", "genes_from"})
    return jobs.Job(None, None, inputs, [layout.genes, layout.background], work, settings)


def build_parser():
    return cli.make_parser(__doc__, sample=False, layer=False)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return jobs.run_dataset(STEP, __file__, args, dataset_job)


if __name__ == "__main__":
    sys.exit(main())
