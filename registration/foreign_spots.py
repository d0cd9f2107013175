"""Which spots lie on tissue without counterpart, as step 3 noted it in quality.json."""
import numpy as np

from common.io import read_json, read_picture
from common.layout import Layout
from common.pieces import label_pieces, nearest_piece, piece_at

MADE_BY = "Step3_registertoMiddle_ANTs.py"


def on_foreign_tissue(layout: Layout, sample: str, layer: int, xy: np.ndarray) -> np.ndarray:
    """True for a spot whose nearest piece of tissue has no counterpart: (n,) bool. xy (n, 2) level-0 px.

    All False for a root whose step 3 ran before it noted such tissue. Raises LayerError for a broken file.
    """
    quality = layout.quality(sample)
    noted = read_json(quality, MADE_BY).get("foreign_tissue", []) if quality.is_file() else []
    points = [one["point"] for one in noted if one["layer"] == layer]
    if not points:
        return np.zeros(len(xy), bool)
    labels = label_pieces(read_picture(layout.mask(sample, layer), "0_2_tissue_mask.py") > 0)
    scale = read_json(layout.thumbnail_info(sample, layer), "0_2_tissue_mask.py")["scale"]
    foreign = piece_at(labels, scale, np.array(points))
    return np.isin(piece_at(nearest_piece(labels), scale, xy), foreign[foreign > 0])
