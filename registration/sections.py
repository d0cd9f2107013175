"""The overview of a layer as registration sees it: stain density and tissue mask at a chosen size, and the way back to level-0 px.

Registration never opens a slide; it reads what step 0_2 made (thumbnail, mask, scale).
"""
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from common.contract.walk import hold_to_contract
from common.errors import LayerError
from common.io import read_json, read_picture
from common.jobs import Context
from common.layout import Layout
from common.slide import fitted_size
from common.status import read_status
from registration.transforms import compose, pair_partner, scaling

MADE_BY_STEP = "0_2_tissue_mask"
MADE_BY = f"{MADE_BY_STEP}.py"
PERCENTILES = (1, 99)   # of the density inside the tissue: become 0 and 1
MIN_RANGE = 1e-3        # of the density inside the tissue; less is flat


@dataclass(frozen=True)
class Section:
    """A layer's overview at the size step 0_2 wrote it."""
    rgb: np.ndarray         # (h, w, 3) uint8
    mask: np.ndarray        # (h, w) bool, tissue
    to_level0: np.ndarray   # (2, 3), thumbnail px -> level-0 px


@dataclass(frozen=True)
class View:
    """A section reduced to what is compared between stains."""
    density: np.ndarray     # (h, w) float32, 0..1; 0 outside the tissue
    mask: np.ndarray        # (h, w) bool
    to_level0: np.ndarray   # (2, 3), view px -> level-0 px


def overview_files(layout: Layout, sample: str, layer: int) -> list[Path]:
    return [layout.thumbnail(sample, layer), layout.mask(sample, layer), layout.thumbnail_info(sample, layer)]


def read_section(layout: Layout, sample: str, layer: int) -> Section:
    """Raises LayerError if step 0_2 left the layer out."""
    rgb, mask, info = overview_files(layout, sample, layer)
    return Section(read_picture(rgb, MADE_BY), read_picture(mask, MADE_BY) > 0, scaling(*read_json(info, MADE_BY)["scale"]))


def make_views(moving: Section, fixed: Section, um_per_px: tuple[float, float], tissue_px: int) -> tuple[View, View]:
    """Both sections at the same um per view px, so that the larger tissue is at most `tissue_px` long.

    um_per_px: of level 0, of the moving and of the fixed layer.
    """
    um = [size * np.sqrt(abs(np.linalg.det(section.to_level0[:, :2]))) for section, size in zip((moving, fixed), um_per_px)]  # per overview px
    longest_um = max(tissue_length_px(section.mask) * size for section, size in zip((moving, fixed), um))
    um_per_view_px = max(longest_um / tissue_px, *um)  # never enlarged
    return tuple(make_view(section, max(1, round(max(section.mask.shape) * size / um_per_view_px))) for section, size in zip((moving, fixed), um))


def tissue_length_px(mask: np.ndarray) -> int:
    """The longer side of the box around the tissue of (h, w) bool; of the whole picture if it is empty."""
    return max(cv2.boundingRect(mask.astype(np.uint8))[2:]) or max(mask.shape)


def make_view(section: Section, side_px: int) -> View:
    """The section with its longer side at most `side_px`: stain density inside the tissue, 0 outside.

    The density is that of the red channel, which haematoxylin absorbs and eosin hardly does, brought to 0..1 by percentiles inside the
    tissue: the shade of the slide and the strength of the stain cancel.
    """
    height, width = section.mask.shape
    size = fitted_size((width, height), side_px)
    red = cv2.resize(section.rgb[..., 0], size, interpolation=cv2.INTER_AREA)
    mask = cv2.resize(section.mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) >= 0.5
    density = -np.log(red.astype(np.float32) + 1)
    low, high = np.percentile(density[mask], PERCENTILES) if mask.any() else (0.0, 1.0)
    density = np.clip((density - low) / max(high - low, MIN_RANGE), 0, 1) * mask
    return View(density.astype(np.float32), mask, compose(section.to_level0, scaling(width / size[0], height / size[1])))


def usable_layers(context: Context, sample: str) -> list[int]:
    """The sample's layers (z order, whatever --layer chose) that step 0_2 found tissue on. The chain bridges the others."""
    status = read_status(context.layout)
    return [layer for layer in context.all_samples.layers_of(sample)
            if all(path.is_file() for path in overview_files(context.layout, sample, layer))
            and status.get(f"{sample}/{layer}", {}).get(MADE_BY_STEP, "ok") == "ok"
            and _shows_tissue(context, sample, layer)]


_SHOWS_TISSUE: dict[tuple, bool] = {}


def _shows_tissue(context: Context, sample: str, layer: int) -> bool:
    """The overview keeps the contract and has tissue; looked at once, and again only if a file of it has changed."""
    files = overview_files(context.layout, sample, layer)
    key = (*files, *(path.stat().st_mtime_ns for path in files))
    if key not in _SHOWS_TISSUE:
        try:
            hold_to_contract(context.layout, context.all_samples, sample, layer, files)
            _SHOWS_TISSUE[key] = bool(read_picture(context.layout.mask(sample, layer), MADE_BY).any())
        except LayerError:
            _SHOWS_TISSUE[key] = False
    return _SHOWS_TISSUE[key]


def partner_of(context: Context, sample: str, layer: int) -> int | None:
    """The layer that `layer` is registered to, None for the middle. Raises LayerError if step 0_2 left `layer` out."""
    layers = usable_layers(context, sample)
    if layer not in layers:
        hold_to_contract(context.layout, context.all_samples, sample, layer, overview_files(context.layout, sample, layer))
        raise LayerError(context.layout.mask(sample, layer), "no tissue mask", "the overview of a readable image with tissue",
                         f"see status.json, or run {MADE_BY}")
    return pair_partner(layers, layer)


def pair_names(context: Context, sample: str) -> list[str]:
    """'<moving>_to_<fixed>' of the chain, as it is and as it would be if no layer had been left out; sorted."""
    chains = usable_layers(context, sample), context.all_samples.layers_of(sample)
    return sorted({pair_name(layer, partner) for layers in chains for layer in layers if (partner := pair_partner(layers, layer)) is not None})


def pair_name(moving: int, fixed: int) -> str:
    return f"{moving}_to_{fixed}"


def um_per_px(context: Context, sample: str, *layers: int) -> tuple[float, ...]:
    """um per level-0 px of every layer. Raises LayerError."""
    return tuple(context.geometry(sample, layer).um_per_px for layer in layers)
