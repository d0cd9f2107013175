"""Overlap of the registered spot contours of different sections: intersection over union.

INPUT   spot_regist/<sample>.csv, .npy (n, 100, 2)      registered contours, px of the middle section
OUTPUT  spot_iou/<sample>.npz       SciPy CSR float32 (n, n), symmetric, rows in spot_regist order; IoU > 0,
                                    spots of different sections only
Source: Zhu et al., CVPR 2025.

    python data_preprocessing_3d/1_get_iou.py --root_path ROOT
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from common import cli, io, jobs
from common.errors import LayerError
from data_preprocessing_3d import neighbours

STEP = "1_get_iou"
BLOCK_PAIRS = 50_000  # pairs whose intersection polygons are held at a time


def overlapping_pairs(polygons: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """Pairs of polygons (n,) of different layers that touch: (P, 2) int64, found with an R-tree."""
    import shapely
    source, target = shapely.STRtree(polygons).query(polygons, predicate="intersects")
    other = layer[source] != layer[target]
    return neighbours.unite(source[other], target[other], len(polygons))


def iou(contours: np.ndarray, layer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping pairs of different layers and their IoU: pairs (P, 2), iou (P,) in (0, 1].

    contours (n, n_points, 2), layer (n,).
    """
    import shapely
    polygons = shapely.polygons(contours)
    polygons = np.where(shapely.is_valid(polygons), polygons, shapely.make_valid(polygons))
    area = shapely.area(polygons)
    pairs = overlapping_pairs(polygons, layer)
    blocks = np.split(pairs, range(BLOCK_PAIRS, len(pairs), BLOCK_PAIRS))
    common = np.concatenate([shapely.area(shapely.intersection(*polygons[block.T])) for block in blocks])  # (P,) px²
    overlaps = common > 0
    pairs, common = pairs[overlaps], common[overlaps]
    return pairs, common / (area[pairs].sum(axis=1) - common)


def sample_job(context: jobs.Context, sample: str) -> jobs.Job:
    layout = context.layout
    source, target = layout.spot_regist_contours(sample), layout.spot_iou(sample)

    def work() -> str:
        stack = neighbours.read_stack(layout, sample)
        contours = io.read_npy(source, "Step3.5_registertoMiddle_ANTs_points_contour_fast.py")
        if len(contours) != len(stack):
            raise LayerError(source, f"{len(contours)} contours", f"one for each of the {len(stack)} spots",
                             "run Step3.5 again")
        pairs, value = iou(contours, stack["layer"].to_numpy())
        io.write_csr(target, neighbours.symmetric(pairs, value, len(stack)))
        covered = len(np.unique(pairs)) / len(stack)
        mean = f", mean IoU {value.mean():.3f}" if len(value) else ""
        n_layers = len(neighbours.layers_of(stack))
        return (f"{len(stack)} spots of {n_layers} sections, {len(pairs)} overlapping pairs{mean}, "
                f"{covered:.0%} of spots overlap")

    return jobs.Job(sample, None, [layout.spot_regist(sample), source], [target], work)


def build_parser():
    return cli.make_parser(__doc__, layer=False)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return jobs.run_samples(STEP, __file__, args, sample_job)


if __name__ == "__main__":
    sys.exit(main())
