"""Weight of every candidate pair of spots: IoU + cosine.

INPUT   spot_iou/<sample>.npz, similarity/<sample>.npz      CSR (n, n)
OUTPUT  3D_combined_information/<sample>.npz                CSR float32 (n, n), symmetric, the candidates of
                                                            similarity/; value IoU + cosine in [-1, 2]
Source: Zhu et al., CVPR 2025.

    python data_preprocessing_3d/3_build_3d_information.py --root_path ROOT
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import cli, io, jobs
from common.errors import LayerError
from data_preprocessing_3d import neighbours

STEP = "3_build_3d_information"


def combine(overlap, similarity):
    """IoU + cosine on the stored pairs of the similarity: CSR (n, n) float32.

    A sparse sum would drop pairs whose weight is 0.
    """
    pairs = neighbours.pairs_of(similarity)
    weight = neighbours.value_at(overlap, pairs) + neighbours.value_at(similarity, pairs)  # (P,)
    return neighbours.symmetric(pairs, weight, similarity.shape[0])


def sample_job(context: jobs.Context, sample: str) -> jobs.Job:
    layout = context.layout
    inputs, target = [layout.spot_iou(sample), layout.similarity(sample)], layout.combined(sample)

    def work() -> str:
        overlap = io.read_csr(inputs[0], "1_get_iou.py")
        similarity = io.read_csr(inputs[1], "2_get_similarity.py")
        if overlap.shape != similarity.shape:
            raise LayerError(inputs[1], f"{similarity.shape[0]} spots", f"{overlap.shape[0]} as in {inputs[0]}",
                             "run steps 1 and 2 again")
        combined = combine(overlap, similarity)
        io.write_csr(target, combined)
        return f"{combined.nnz // 2} weighted pairs of {combined.shape[0]} spots"

    return jobs.Job(sample, None, inputs, [target], work)


def build_parser():
    return cli.make_parser(__doc__, layer=False)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return jobs.run_samples(STEP, __file__, args, sample_job)


if __name__ == "__main__":
    sys.exit(main())
