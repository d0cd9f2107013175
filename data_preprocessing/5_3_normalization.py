"""Normalise the counts of spots, regions and globals.

INPUT   gene_expression/counts_{224,512,1024}/<sample>/<layer>.h5ad     raw counts (n, n_genes), obs depth
OUTPUT  gene_expression/{224,512,1024}/<sample>/<layer>.h5ad            X float32 (n, n_genes),
                                                                        y_g = ln((c_g + 1) / depth); layers['counts']:
                                                                        the raw counts; obs and var as in the input
A section without counts gets no file. A patch whose obs n_spots is 0 has no label: its row is uniform.
Source: ST-Net (He et al. 2020), as in Zhu et al., CVPR 2025.

    python data_preprocessing/5_3_normalization.py --root_path ROOT
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import cli, io, jobs
from common.errors import LayerError
from common.layout import SIZES
from common.normalisation import normalise

STEP = "5_3_normalization"
MADE_BY = "5_2_get_label_of_other_resolution.py"


def layer_job(context: jobs.Context, sample: str, layer: int) -> jobs.Job:
    layout = context.layout
    if not layout.counts(sample, layer).is_file():
        return jobs.Job(sample, layer, [layout.counts(sample, layer)], [], lambda: "no counts, so no labels")
    inputs = [layout.member_counts(size, sample, layer) for size in SIZES]
    outputs = [layout.expression(size, sample, layer) for size in SIZES]

    def work() -> str:
        rows = []
        for source, target in zip(inputs, outputs, strict=True):
            adata = io.read_h5ad(source, MADE_BY)
            adata.layers["counts"] = adata.X
            if "depth" not in adata.obs:
                raise LayerError(source, "counts without their depth", "obs depth", f"run {MADE_BY} again")
            adata.X = normalise(adata.X, adata.obs["depth"].to_numpy())
            io.write_h5ad(target, adata)
            rows.append(adata.n_obs)
        return f"{rows[0]} spots, {rows[1]} regions, {rows[2]} globals x {adata.n_vars} genes"

    return jobs.Job(sample, layer, inputs, outputs, work)


def build_parser():
    return cli.make_parser(__doc__)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return jobs.run_layers(STEP, __file__, args, layer_job)


if __name__ == "__main__":
    sys.exit(main())
