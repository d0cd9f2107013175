"""Write one record for each spot of a section: position, feature, label, region and global.

INPUT   location/<sample>/<layer>.csv, extracted_feature/224/…h5, pairs of steps 2 and 3, gene_expression/genes.csv,
        gene_expression/224/…h5ad (sections with counts)
OUTPUT  npy_information/<sample>/<layer>.npy    structured array (n_spots,), rows of the location file; no pickle,
                                                opens with mmap
        barcode 'U'; pixel ('f8', 2) level-0 px x, y; array ('i4', 2) column, row;
        label ('f4', n_genes) normalised, 0 without counts; feature ('f4', D) feature sets side by side in name order;
        region_index, global_index 'i4' row in patches_csv(512 / 1024); has_label '?'
Source: Zhu et al., CVPR 2025.

    python data_preprocessing/7_make_dataset.py --root_path ROOT
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from common import cli, io, jobs
from common.errors import LayerError
from common.gene_list import read_genes
from data_preprocessing import expression
from data_preprocessing.records import spot_records

STEP = "7_make_dataset"


def read_labels(layout, sample: str, layer: int, barcodes: list[str],
                genes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Normalised label (n_spots, n_genes) float32, 0 where there is none, and has_label (n_spots,) bool."""
    label, has_label = np.zeros((len(barcodes), len(genes)), np.float32), np.zeros(len(barcodes), bool)
    if layout.counts(sample, layer).is_file():
        file = layout.expression(224, sample, layer)
        labels = io.read_h5ad(file, "5_3_normalization.py")
        if labels.var_names.tolist() != genes:
            raise LayerError(file, f"{labels.n_vars} genes of another run", f"the {len(genes)} of genes.csv",
                             "run steps 5_2 and 5_3 again")
        row = labels.obs_names.get_indexer(barcodes)  # (n_spots,)
        has_label = row >= 0
        label[has_label] = labels.X[row[has_label]]
    return label, has_label


def layer_job(context: jobs.Context, sample: str, layer: int) -> jobs.Job:
    layout = context.layout
    target = layout.npy(sample, layer)
    inputs = [layout.genes, layout.location(sample, layer), layout.features(224, sample, layer),
              layout.region_pairs_csv(sample, layer), layout.global_pairs_csv(sample, layer),
              layout.expression(224, sample, layer)]

    def work() -> str:
        genes = read_genes(layout)
        location = io.read_location(layout.location(sample, layer))
        barcodes = location["barcode"].tolist()
        feature = expression.read_feature(layout.features(224, sample, layer), barcodes)  # (n_spots, D)
        label, has_label = read_labels(layout, sample, layer, barcodes, genes)
        region_of_spot, global_of_spot, _ = expression.read_memberships(layout, sample, layer, location)
        records = spot_records(location, feature, label, has_label, region_of_spot, global_of_spot)
        io.write_npy(target, records)
        n_labelled, width = int(has_label.sum()), feature.shape[1]
        return f"{len(records)} spots, {n_labelled} with a label, feature width {width}, {len(genes)} genes"

    settings = {"has_counts": layout.counts(sample, layer).is_file()}
    return jobs.Job(sample, layer, inputs, [target], work, settings)


def build_parser():
    return cli.make_parser(__doc__)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return jobs.run_layers(STEP, __file__, args, layer_job)


if __name__ == "__main__":
    sys.exit(main())
