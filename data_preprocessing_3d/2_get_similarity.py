"""Similarity of the spots of different sections: cosine of their features on every candidate pair.

INPUT   spot_regist/<sample>.csv, spot_iou/<sample>.npz, npy_information/<sample>/<layer>.npy (feature)
OUTPUT  similarity/<sample>.npz     SciPy CSR float32 (n, n), symmetric, rows in spot_regist order. Stored: each spot's
                                    12 most similar spots over all other sections, made symmetric, and every
                                    overlapping pair of step 1; value: cosine of the spot features standardised per
                                    section. Stored zeros are candidates.
The cosine is computed 512 spots at a time against the other sections; no (n, n) array is ever in memory.
Source: Zhu et al., CVPR 2025.

    python data_preprocessing_3d/2_get_similarity.py --root_path ROOT
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from common import cli, io, jobs
from data_preprocessing_3d import neighbours

STEP = "2_get_similarity"


def candidate_pairs(direction: np.ndarray, layer: np.ndarray, overlapping: np.ndarray) -> np.ndarray:
    """Overlapping pairs and each spot's 12 most similar spots of other layers: (P, 2).

    direction (n, D), layer (n,), overlapping (P', 2).
    """
    source, target = neighbours.most_similar(direction, layer)
    source = np.concatenate([source, overlapping[:, 0]])
    target = np.concatenate([target, overlapping[:, 1]])
    return neighbours.unite(source, target, len(layer))


def sample_job(context: jobs.Context, sample: str) -> jobs.Job:
    layout = context.layout
    stack = neighbours.read_stack(layout, sample)
    target = layout.similarity(sample)
    inputs = [layout.spot_regist(sample), layout.spot_iou(sample)]
    inputs += [layout.npy(sample, layer) for layer in neighbours.layers_of(stack)]

    def work() -> str:
        overlapping = neighbours.pairs_of(io.read_csr(layout.spot_iou(sample), "1_get_iou.py"))
        direction = neighbours.read_directions(context, sample, stack)  # (n, D)
        pairs = candidate_pairs(direction, stack["layer"].to_numpy(), overlapping)
        value = neighbours.cosine(direction, pairs)
        io.write_csr(target, neighbours.symmetric(pairs, value, len(stack)))
        mean = f", mean cosine {value.mean():.3f}" if len(value) else ""
        return f"{len(stack)} spots, {len(pairs)} candidate pairs ({len(overlapping)} overlapping){mean}"

    return jobs.Job(sample, None, inputs, [target], work)


def build_parser():
    return cli.make_parser(__doc__, layer=False)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return jobs.run_samples(STEP, __file__, args, sample_job)


if __name__ == "__main__":
    sys.exit(main())
