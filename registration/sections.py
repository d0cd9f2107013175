"""A layer as registration uses it: its overview, and a rendering as stain density and tissue mask at a chosen size.

Registration never opens a slide. It reads the thumbnail, the mask and the scale that step 0_2 wrote.
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
class Rendering:
    """A section reduced to what is compared between stains."""
    density: np.ndarray     # (h, w) float32, 0..1; 0 outside the tissue
    mask: np.ndarray        # (h, w) bool
    to_level0: np.ndarray   # (2, 3), px of the rendering -> level-0 px


def overview_files(layout: Layout, sample: str, layer: int) -> list[Path]:
    return [layout.thumbnail(sample, layer), layout.mask(sample, layer), layout.thumbnail_info(sample, layer)]


def read_section(layout: Layout, sample: str, layer: int) -> Section:
    """Read a layer's overview. Raises LayerError if step 0_2 left the layer out."""
    rgb, mask, info = overview_files(layout, sample, layer)
    to_level0 = scaling(*read_json(info, MADE_BY)["scale"])
    return Section(read_picture(rgb, MADE_BY), read_picture(mask, MADE_BY) > 0, to_level0)


def render_pair(moving: Section, fixed: Section, um_per_px: tuple[float, float],
                tissue_px: int) -> tuple[Rendering, Rendering]:
    """Render both sections at the same um per px, the larger tissue at most `tissue_px` long.

    um_per_px: of level 0, of the moving and of the fixed layer.
    """
    pair = (moving, fixed)
    um = [size * np.sqrt(abs(np.linalg.det(section.to_level0[:, :2])))  # per overview px
          for section, size in zip(pair, um_per_px, strict=True)]
    longest_um = max(tissue_length_px(section.mask) * size for section, size in zip(pair, um, strict=True))
    rendered_um = max(longest_um / tissue_px, *um)  # per px of the renderings; never enlarged
    sides_px = [max(1, round(max(section.mask.shape) * size / rendered_um))
                for section, size in zip(pair, um, strict=True)]
    return render(moving, sides_px[0]), render(fixed, sides_px[1])


def tissue_length_px(mask: np.ndarray) -> int:
    """The longer side of the box around the tissue of (h, w) bool; of the whole picture if it is empty."""
    return max(cv2.boundingRect(mask.astype(np.uint8))[2:]) or max(mask.shape)


def render(section: Section, side_px: int) -> Rendering:
    """Render the section with its longer side at most `side_px`: stain density inside the tissue, 0 outside.

    The density is that of the red channel, which haematoxylin absorbs strongly and eosin hardly at all. Percentiles
    inside the tissue become 0 and 1, which removes the shade of the slide and the strength of the stain.
    """
    height, width = section.mask.shape
    size = fitted_size((width, height), side_px)
    red = cv2.resize(section.rgb[..., 0], size, interpolation=cv2.INTER_AREA)
    mask = cv2.resize(section.mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) >= 0.5
    density = -np.log(red.astype(np.float32) + 1)
    low, high = np.percentile(density[mask], PERCENTILES) if mask.any() else (0.0, 1.0)
    density = np.clip((density - low) / max(high - low, MIN_RANGE), 0, 1) * mask
    to_level0 = compose(section.to_level0, scaling(width / size[0], height / size[1]))
    return Rendering(density.astype(np.float32), mask, to_level0)


def usable_layers(context: Context, sample: str) -> list[int]:
    """Layers of the sample on which step 0_2 found tissue, in z order, whatever --layer chose.

    The chain bridges the others.
    """
    status = read_status(context.layout)
    return [layer for layer in context.all_samples.layers_of(sample)
            if all(path.is_file() for path in overview_files(context.layout, sample, layer))
            and status.get(f"{sample}/{layer}", {}).get(MADE_BY_STEP, "ok") == "ok"
            and _shows_tissue(context, sample, layer)]


_SHOWS_TISSUE: dict[tuple, bool] = {}


def _shows_tissue(context: Context, sample: str, layer: int) -> bool:
    """True if the overview keeps the contract and has tissue. Checked once, and again if one of its files changed."""
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
    layout, layers = context.layout, usable_layers(context, sample)
    if layer not in layers:
        hold_to_contract(layout, context.all_samples, sample, layer, overview_files(layout, sample, layer))
        raise LayerError(layout.mask(sample, layer), "no tissue mask", "the overview of a readable image with tissue",
                         f"see status.json, or run {MADE_BY}")
    return pair_partner(layers, layer)


def pair_names(context: Context, sample: str) -> list[str]:
    """'<moving>_to_<fixed>' of the chain, as it is and as it would be if no layer had been left out; sorted."""
    names = set()
    for layers in (usable_layers(context, sample), context.all_samples.layers_of(sample)):
        for layer in layers:
            partner = pair_partner(layers, layer)
            if partner is not None:
                names.add(pair_name(layer, partner))
    return sorted(names)


def pair_name(moving: int, fixed: int) -> str:
    return f"{moving}_to_{fixed}"


def um_per_px(context: Context, sample: str, *layers: int) -> tuple[float, ...]:
    """Pixel size of every layer, um per level-0 px. Raises LayerError."""
    return tuple(context.geometry(sample, layer).um_per_px for layer in layers)
