"""Registration step 0: the contour of every spot on its own section.

INPUT   location/<sample>/<layer>.csv                 barcode, pixel_x, pixel_y (level-0 px, spot centres)
OUTPUT  registration/<sample>/contours/<layer>.npy    (n_spots, 100, 2) float32, x, y in level-0 px; rows as in location

A contour is a circle of radius 112 reference px (common/geometry.py) about the spot centre.
Source: Zhu et al., CVPR 2025.

    python registration/Step0_original_contour_generation.py --root_path data/her2st
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import argparse

import numpy as np

from common import cli, jobs
from common.io import read_location, write_npy
from common.layout import Layout

STEP = "Step0_original_contour_generation"
N_POINTS = 100


def layer_job(context: jobs.Context, sample: str, layer: int) -> jobs.Job:
    """Contours of one layer."""
    layout, radius_px = context.layout, context.geometry(sample, layer).contour_radius_px
    return jobs.Job(sample, layer, [layout.location(sample, layer)], [layout.contours(sample, layer)],
                   lambda: write_contours(layout, sample, layer, radius_px), settings={"radius_px": radius_px})


def write_contours(layout: Layout, sample: str, layer: int, radius_px: float) -> str:
    centres = read_location(layout.location(sample, layer))[["pixel_x", "pixel_y"]].to_numpy()
    contours = circles(centres, radius_px)
    write_npy(layout.contours(sample, layer), contours)
    return f"{layout.contours(sample, layer)}: {len(contours)} contours of radius {radius_px:.1f} px"


def circles(centres: np.ndarray, radius_px: float) -> np.ndarray:
    """Contours (n, 100, 2) float32 about centres (n, 2).

    Points at equal angles, the first to the right of the centre; not closed.
    """
    angle = np.linspace(0, 2 * np.pi, N_POINTS, endpoint=False)
    circle = radius_px * np.column_stack([np.cos(angle), np.sin(angle)])  # (100, 2)
    return (centres[:, None] + circle).astype(np.float32)


def build_parser() -> argparse.ArgumentParser:
    return cli.make_parser(__doc__, workers=True)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return jobs.run_layers(STEP, __file__, args, layer_job)


if __name__ == "__main__":
    sys.exit(main())
