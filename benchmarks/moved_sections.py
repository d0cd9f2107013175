"""The cases of `benchmarks/registration.py`: real sections moved by known transforms, with their spots."""
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from common.config import load_config
from common.errors import DataError
from common.geometry import section_geometry
from common.io import read_json, read_picture
from common.layout import Layout
from common.slide import open_slide
from data_preprocessing.stain import colours
from data_preprocessing.tissue import background_colour, tissue_mask
from registration.sections import Section
from registration.transforms import affine, apply_to_points, identity, invert, rotation

OVERVIEW_SIDE_PX = 2048         # as in step 0_2
HER2_PITCH_PX = 272             # level-0 px
VISIUM_SPOT_UM, VISIUM_PITCH_UM, ST_PITCH_UM = 65, 100, 200
SCALES = (0.85, 1.15)
ANISOTROPY = 0.03               # both axes differ by up to twice this
SHEAR = 0.03
MIN_TISSUE_LEFT = 0.5           # of the tissue stays on the canvas, before a third is torn off
TORN_SHARE = 1 / 3
STAIN_STRENGTH = (0.6, 1.6)     # of haematoxylin and of eosin, each
BLUR_PX = (0.0, 2.5)            # sigma, overview px
NOISE = 4.0                     # grey levels
WARP_PITCHES = (0.3, 1.0)       # largest displacement of the smooth warp
WARP_LENGTH = 0.12              # its length scale, share of the image's longer side


@dataclass(frozen=True)
class Source:
    """A section to move: overview, pitch and pixel size in overview px."""
    name: str
    rgb: np.ndarray         # (h, w, 3) uint8
    mask: np.ndarray        # (h, w) bool
    pitch_px: float
    um_per_px: float


@dataclass(frozen=True)
class Case:
    """Two sections and where every spot of the moving one belongs."""
    moving: Section
    fixed: Section
    moving_spots: np.ndarray  # (n, 2) px
    fixed_spots: np.ndarray   # (n, 2) px
    drawn: dict


# sections --------------------------------------------------------------------------------------------
def real_sources(folder: Path) -> list[Source]:
    """HER2-C 2, 3, 4 and the two mouse brain sections, as far as they exist. Raises DataError if there is none."""
    found = []
    for picture in sorted(folder.glob("her2st/ST-imgs/C/C[234]/*.jpg")):
        slide = open_slide(picture)
        rgb = slide.thumbnail(OVERVIEW_SIDE_PX)
        pitch_px = HER2_PITCH_PX * rgb.shape[1] / slide.size_px[0]
        found.append(Source(f"HER2-{picture.parent.name}", rgb, tissue_mask(rgb), pitch_px, ST_PITCH_UM / pitch_px))
    open_slide.cache_clear()
    for picture in sorted(folder.glob("visium/mousebrain/*/spatial/tissue_hires_image.png")):
        rgb = open_slide(picture).thumbnail(OVERVIEW_SIDE_PX)
        factors = read_json(picture.parent / "scalefactors_json.json")
        pitch_px = factors["spot_diameter_fullres"] * factors["tissue_hires_scalef"] * VISIUM_PITCH_UM / VISIUM_SPOT_UM
        name = f"brain-{picture.parents[1].name[-2:]}"
        found.append(Source(name, rgb, tissue_mask(rgb), pitch_px, VISIUM_PITCH_UM / pitch_px))
    if not found:
        expected = "her2st/ST-imgs/C/C2/*.jpg or visium/mousebrain/*/spatial/"
        raise DataError(folder, "no section", expected, "correct --raw_path")
    return found


def root_sources(layout: Layout) -> list[Source]:
    """The overviews of a dataset root. Raises DataError if there is none."""
    config = load_config(layout.config)
    found = []
    for sample, layers in layout.layers_on_disk().items():
        for layer in layers:
            if not layout.thumbnail(sample, layer).is_file():
                continue
            geometry = section_geometry(config, layout, sample, layer)
            scale = read_json(layout.thumbnail_info(sample, layer))["scale"][0]  # level-0 px per overview px
            rgb, mask = read_picture(layout.thumbnail(sample, layer)), read_picture(layout.mask(sample, layer)) > 0
            found.append(Source(f"{sample}/{layer}", rgb, mask, geometry.pitch_px / scale, geometry.um_per_px * scale))
    if not found:
        raise DataError(layout.root, "no overview", "tissue/<sample>/<layer>.jpg", "run 0_2_tissue_mask.py")
    return found


# cases -----------------------------------------------------------------------------------------------
def make_case(source: Source, seed: int, smooth: bool) -> Case:
    """A section and its moved copy, deterministic by seed. smooth: warped as well.

    Spots are a grid on the moved section, whose inverse transform is known exactly.
    """
    rng = np.random.default_rng(seed)
    shape = source.mask.shape
    mirrored, torn, swapped = (bool(rng.integers(2)) for _ in range(3))
    matrix, drawn = draw_affine(rng, source.mask, mirrored)
    limit_px = source.pitch_px * rng.uniform(*WARP_PITCHES) if smooth else 0.0
    moved_mask = cv2.warpAffine(source.mask.astype(np.uint8), matrix, shape[::-1]) > 0
    field = smooth_field(rng, moved_mask, limit_px)  # (h, w, 2)
    background = emptied(source.rgb, source.mask)
    y, x = np.mgrid[:shape[0], :shape[1]].astype(np.float32)
    back = invert(matrix).astype(np.float32)
    read_from = (np.stack([x, y], 2) + field) @ back[:, :2].T + back[:, 2]  # (h, w, 2) float32
    rgb = cv2.remap(source.rgb, read_from[..., 0], read_from[..., 1], cv2.INTER_CUBIC,
                    borderMode=cv2.BORDER_CONSTANT, borderValue=(0, 0, 0))
    soft_mask = cv2.GaussianBlur(source.mask.astype(np.float32), (0, 0), 1)
    soft = cv2.remap(soft_mask, read_from[..., 0], read_from[..., 1], cv2.INTER_LINEAR)
    if torn:
        soft = soft * (1 - tear(rng, soft > 0.5))
    moved = soft > 0.5
    rgb = restain(rng, background + soft[..., None] * (rgb - background))
    spots = spot_grid(moved, source.pitch_px)
    row, column = np.rint(spots).astype(int).T[::-1]
    origin = read_from[row, column].astype(np.float64)
    inside = on_mask(origin, source.mask)
    spots, origin = spots[inside], origin[inside]
    drawn = {"mirrored": mirrored, "torn": torn, "swapped": swapped, **drawn,
             "warp_pitches": limit_px / source.pitch_px, "spots": len(spots)}
    original, copy = Section(source.rgb, source.mask, identity()), Section(rgb, tissue_mask(rgb), identity())
    return Case(original, copy, origin, spots, drawn) if swapped else Case(copy, original, spots, origin, drawn)


def draw_affine(rng: np.random.Generator, mask: np.ndarray, mirrored: bool) -> tuple[np.ndarray, dict]:
    """Draw a (2, 3) matrix source -> moved px about the tissue's centroid; repeat until enough tissue stays in view.

    Returns the matrix and the values drawn.
    """
    height, width = mask.shape
    points = np.argwhere(mask)[::37, ::-1].astype(np.float64)  # (n, 2) x, y
    centre = points.mean(axis=0)
    while True:
        degrees, scale = rng.uniform(0, 360), rng.uniform(*SCALES)
        uneven, shear = np.exp(rng.uniform(-ANISOTROPY, ANISOTROPY)), rng.uniform(-SHEAR, SHEAR)
        scales = np.clip([scale * uneven, scale / uneven], *SCALES)
        stretch = np.diag(scales * [1, -1 if mirrored else 1])
        linear = rotation(degrees)[:, :2] @ np.array([[1, shear], [0, 1]]) @ stretch
        shift = rng.uniform(-0.5, 0.5, 2) * [width, height]
        matrix = affine(linear, centre + shift - linear @ centre)
        moved = apply_to_points(matrix, points)
        if ((moved >= 0) & (moved < [width, height])).all(axis=1).mean() >= MIN_TISSUE_LEFT:
            return matrix, {"rotation_deg": degrees, "scale_x": scales[0], "scale_y": scales[1], "shear": shear,
                            "shift_x_px": shift[0], "shift_y_px": shift[1]}


def smooth_field(rng: np.random.Generator, mask: np.ndarray, limit_px: float) -> np.ndarray:
    """Offset (h, w, 2) float32 of the position that a moved pixel is read from.

    A Gaussian random field without its affine part on the tissue; its longest vector there is `limit_px`.
    mask: (h, w) bool, the tissue.
    """
    noise = rng.normal(size=(64, 64, 2)).astype(np.float32)
    field = np.dstack([cv2.GaussianBlur(noise[..., k], (0, 0), WARP_LENGTH * 64) for k in range(2)])
    field = cv2.resize(field, mask.shape[::-1], interpolation=cv2.INTER_CUBIC)
    y, x = np.mgrid[:mask.shape[0], :mask.shape[1]].astype(np.float32)
    terms = np.dstack([x, y, np.ones_like(x)])  # (h, w, 3)
    field -= terms @ np.linalg.lstsq(terms[mask][::41], field[mask][::41], rcond=None)[0]
    length = np.linalg.norm(field, axis=2)
    longest = length[mask].max()
    damping = np.minimum(1, 2 * longest / np.maximum(length, 1e-9))[..., None]  # far from the tissue
    return field * (limit_px / longest) * damping


def emptied(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The slide without the tissue: (h, w, 3) float32."""
    wide = cv2.dilate(mask.astype(np.float32), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (41, 41)))
    return rgb + cv2.GaussianBlur(wide, (0, 0), 6)[..., None] * (background_colour(rgb) - rgb)


def tear(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """(h, w) bool: the part that is torn off, a third of the tissue beyond a wavy line."""
    height, width = mask.shape
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    waves = np.sin(across / 60 + rng.uniform(0, 6)) + np.sin(across / 23 + rng.uniform(0, 6))
    wavy = along + 0.01 * max(height, width) * waves
    return wavy > np.quantile(wavy[mask], 1 - TORN_SHARE)


def restain(rng: np.random.Generator, rgb: np.ndarray) -> np.ndarray:
    """Change stain, slide shade, focus and noise. (h, w, 3) float 0..255 -> uint8."""
    density = -np.log((np.clip(rgb, 0, 255).astype(np.float32).reshape(-1, 3) + 1) / 256)
    stains = colours().astype(np.float32)
    strength = np.append(np.exp(rng.uniform(*np.log(STAIN_STRENGTH), 2)), 1).astype(np.float32)
    density = density @ (np.linalg.inv(stains) * strength @ stains) + rng.uniform(-0.03, 0.12, 3).astype(np.float32)
    out = (256 * np.exp(-density) - 1).reshape(rgb.shape)
    sigma = rng.uniform(*BLUR_PX)
    out = cv2.GaussianBlur(out, (0, 0), sigma) if sigma > 0.3 else out
    return np.clip(out + NOISE * rng.standard_normal(out.shape, np.float32), 0, 255).astype(np.uint8)


def spot_grid(mask: np.ndarray, pitch_px: float) -> np.ndarray:
    """(n, 2) x, y (px) of a grid at the pitch, on the tissue."""
    y, x = np.meshgrid(*(np.arange(pitch_px / 2, side, pitch_px) for side in mask.shape), indexing="ij")
    points = np.stack([x.ravel(), y.ravel()], 1)
    return points[on_mask(points, mask)]


def on_mask(points: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(n,) bool: is the point (x, y, px) on the mask?"""
    column, row = np.rint(points).astype(int).T
    inside = (column >= 0) & (column < mask.shape[1]) & (row >= 0) & (row < mask.shape[0])
    inside[inside] = mask[row[inside], column[inside]]
    return inside
