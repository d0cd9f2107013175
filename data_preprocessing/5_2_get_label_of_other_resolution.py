"""Sum the raw counts of the chosen genes over the spots of every region and global patch.

INPUT   gene_expression/genes.csv, background.csv, counts/<sample>/<layer>.h5ad, location/<sample>/<layer>.csv,
        patches_csv/patches_{512,1024}/…csv and their pairs (steps 1-3)
OUTPUT  gene_expression/counts_224/<sample>/<layer>.h5ad    X CSR float32 (n_spots, n_genes), raw counts; spots of the
                                                            location file that have counts, in its order; obs depth
                                                            float64: sum over the background of (count + 1)
        gene_expression/counts_{512,1024}/…h5ad             X CSR float32 (n_patches, n_genes), sums over the member
                                                            spots; rows of patches_csv; obs depth; obs n_spots: members
                                                            with counts
A section without counts gets no file. A gene that a section does not list counts 0 there (only with genes_from: known).
Source: Zhu et al., CVPR 2025 (multi-level labels).

    python data_preprocessing/5_2_get_label_of_other_resolution.py --root_path ROOT
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd

from common import cli, io, jobs
from common.errors import LayerError
from common.gene_list import read_background, read_genes
from common.layout import GLOBAL, REGION, SIZES, SPOT
from data_preprocessing import expression
from data_preprocessing.patches import read_patch_table

STEP = "5_2_get_label_of_other_resolution"


def count_members(counts, of_background: np.ndarray, n_background: int, owner: np.ndarray, patch_names: list[str],
                  genes: list[str]):
    """AnnData of the sums of counts (n_spots, n_genes) over the spots of each patch, and their depth.

    of_background: (n_spots,) sum of the counts of the n_background genes; owner: (n_spots,) row of a spot's patch.
    """
    import anndata
    n_patches = len(patch_names)
    obs = {"n_spots": np.bincount(owner, minlength=n_patches),
           "depth": np.bincount(owner, of_background, minlength=n_patches) + n_background}
    return anndata.AnnData(expression.sum_members(counts, owner, n_patches), obs=pd.DataFrame(obs, index=patch_names),
                           var=pd.DataFrame(index=genes))


def layer_job(context: jobs.Context, sample: str, layer: int) -> jobs.Job:
    layout, config = context.layout, context.config
    counts_file = layout.counts(sample, layer)
    if not counts_file.is_file():
        return jobs.Job(sample, layer, [counts_file], [], lambda: "no counts, so no labels")
    inputs = [layout.genes, layout.background, counts_file, layout.location(sample, layer),
              layout.region_pairs_csv(sample, layer), layout.global_pairs_csv(sample, layer)]
    outputs = [layout.member_counts(size, sample, layer) for size in SIZES]

    def work() -> str:
        genes = read_genes(layout)
        background = read_background(layout.background)["gene"].tolist()
        adata = io.read_h5ad(counts_file, "0_1_convert_raw.py")
        expression.check_counts(adata, counts_file)
        location = io.read_location(layout.location(sample, layer))
        counted = location[location["barcode"].isin(adata.obs_names)]
        barcodes = counted["barcode"].tolist()
        if not barcodes:
            raise LayerError(counts_file, "no spot of the location file",
                             "barcodes as in location/<sample>/<layer>.csv", "use one naming")
        lacking = sorted({*genes, *background} - set(adata.var_names))
        if lacking and config.genes_from == "all" and config.genes in ("top_mean", "hvg"):
            raise LayerError(counts_file, f"no gene {lacking[0]} ({len(lacking)} absent)",
                             "every gene that 5_1 chose, on all sections",
                             "run 5_1_find_high_expression.py with --overwrite")
        counts = expression.columns_of(adata[barcodes], genes)
        of_background = expression.columns_of(adata[barcodes], background).sum(axis=1, dtype=np.float64).A1  # (n,)
        region_of_spot, global_of_spot, _ = expression.read_memberships(layout, sample, layer, counted)
        owners = {SPOT: (np.arange(len(barcodes)), barcodes)}
        for size, owner in ((REGION, region_of_spot), (GLOBAL, global_of_spot)):
            owners[size] = owner, read_patch_table(layout, size, sample, layer)["patch_name"].tolist()
        for size, path in zip(SIZES, outputs, strict=True):
            io.write_h5ad(path, count_members(counts, of_background, len(background), *owners[size], genes))
        n_absent, n_of_background = (len(set(names) - set(adata.var_names)) for names in (genes, background))
        absent = f", {n_absent} genes not in this section counted 0" if n_absent else ""
        absent += f", {n_of_background} background genes not in this section counted 0" if n_of_background else ""
        patches = f"{len(owners[REGION][1])} regions, {len(owners[GLOBAL][1])} globals"
        return f"{len(barcodes)} of {len(location)} spots have counts, {patches}{absent}"

    return jobs.Job(sample, layer, inputs, outputs, work)


def build_parser():
    return cli.make_parser(__doc__)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return jobs.run_layers(STEP, __file__, args, layer_job)


if __name__ == "__main__":
    sys.exit(main())
