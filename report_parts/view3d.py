"""Data of the 3D view: every section of a sample as a plane with its spots, in µm. It is drawn by view3d.js."""
import base64
import json

import numpy as np

from report_parts.colours import Scale, lut
from report_parts.pictures import Picture

POSITION_STEPS = 16   # positions are stored in 1/16 px of the section's picture


def plane_of(adata, picture: Picture, diameter_px: float, values: list[np.ndarray], scales: list[Scale], name: str,
             style: str) -> dict | None:
    """One section: its picture's place in space, its spots and their colours; None where the spots do not span a plane.

    values: per gene (n_spots,); diameter_px: of a spot, level-0 px; style: the CSS class that holds the picture.
    """
    space = adata.obsm["spatial_3d"]
    here = np.column_stack([picture.place(adata.obsm["spatial"]), np.ones(len(space))])  # (n, 3)
    if len(space) < 3 or np.linalg.matrix_rank(here) < 3:
        return None
    to_um = np.linalg.lstsq(here, space[:, :2], rcond=None)[0].T  # (2, 3) picture px -> um; if bent, the nearest affine
    spots = (space[:, :2] - to_um[:, 2]) @ np.linalg.inv(to_um[:, :2]).T  # (n, 2) picture px
    steps = np.rint(spots * POSITION_STEPS).clip(-2**15, 2**15 - 1).astype("<i2")
    return {"name": name, "style": style, "size": picture.size_px, "z": round(float(space[0, 2]), 3),
            "matrix": np.round(to_um, 4).T.ravel().tolist(), "diameter": round(diameter_px * picture.factor, 3),
            "x": _packed(steps[:, 0]), "y": _packed(steps[:, 1]),
            "levels": [_packed(scale.levels(one)) for one, scale in zip(values, scales, strict=True)]}


def scene(planes: list[dict], scale: Scale) -> str:
    """The planes as JSON for a <script> element. It contains no text from data."""
    colours = ["#" + bytes(colour).hex() for colour in lut(scale.colours)]
    return json.dumps({"steps": POSITION_STEPS, "colours": colours, "planes": planes})


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode()
