"""A piece of breast tissue as a function of space, and its sections drawn in H&E: the images of the demo data.

Every length is in px of the sample's common frame (x, y, z; the origin is the middle of the first layer). A tissue is a
set of smooth random fields, duct tubes and cutting planes. The image of a section and the expression of its spots come
from the same `mix` of cell types.
Stains are drawn as optical density (Ruifrok & Johnston 2001: rgb = white · exp(−c_H·H − c_E·E)).
"""
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

TYPES = ("tumour", "stroma", "immune", "fat", "duct")
STEP_PX = 8               # the fields are evaluated every 8 px and interpolated
ADIPOCYTE_PX = 26.0
HAEMATOXYLIN = np.array([0.65, 0.70, 0.29], np.float32)
EOSIN = np.array([0.10, 0.94, 0.32], np.float32)
# per type: lattice spacing (px), share of sites taken, long and short half axis (px), spread of size,
# optical density, pale centre
NUCLEI = {"tumour": (4.8, 0.92, 2.2, 1.65, 0.25, 1.25, 0.45), "stroma": (8.2, 0.55, 2.7, 0.75, 0.20, 1.15, 0.0),
          "immune": (3.0, 0.88, 1.30, 1.20, 0.10, 1.75, 0.0), "fat": (15.0, 0.10, 1.9, 0.7, 0.15, 1.2, 0.0),
          "duct": (3.9, 0.95, 1.75, 1.25, 0.12, 1.30, 0.15)}
# per type: eosin, haematoxylin
CYTOPLASM = {"tumour": (0.34, 0.16), "stroma": (0.34, 0.03), "immune": (0.20, 0.14), "fat": (0.0, 0.0),
             "duct": (0.36, 0.12)}

Field = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Tissue:
    """One block, cut from the tissue by six planes (normal, offset) and rounded off at reach_px from the z axis.

    tubes (n, 6): x, y at z = 0, slope x, slope y, outer radius, lumen's share of it; adipocytes (n, 3): centres of fat
    cells; bias (4,): how much of tumour, stroma, immune and fat; bundles: texture of the coarse fibres.
    """
    fields: dict[str, Field]
    tubes: np.ndarray
    planes: np.ndarray
    reach_px: float
    adipocytes: np.ndarray
    bias: np.ndarray
    bundles: np.ndarray


@dataclass(frozen=True)
class Slide:
    """How one section was stained and mounted; torn: (normal x, normal y, offset) of a missing corner, or None."""
    haematoxylin: float
    eosin: float
    white: tuple[float, float, float]
    torn: tuple[float, float, float] | None


def smooth_field(rng: np.random.Generator, length_px: float, n_waves: int = 64) -> Field:
    """A Gaussian random field with covariance exp(−d²/2·length²): plane waves, exact at any point. (…, 3) → (…)"""
    wave = (rng.normal(size=(3, n_waves)) / length_px).astype(np.float32)
    phase = rng.uniform(0, 2 * np.pi, n_waves).astype(np.float32)

    def field(points: np.ndarray) -> np.ndarray:
        return np.sqrt(2 / n_waves, dtype=np.float32) * np.cos(points.astype(np.float32) @ wave + phase).sum(-1)
    return field


def make_tissue(rng: np.random.Generator, radius_px: float, height_px: float) -> Tissue:
    """Draw one block of about `radius_px` around the z axis that reaches from z = 0 to `height_px`."""
    lengths = {"nest": 95, "lobe": 30, "septum": 46, "immune": 75, "follicle": 26, "fat": 120,
               "swirl": 150, "drift": 110, "edge": 34, "thick": 160, "wobble": 16}  # px
    fields = {name: smooth_field(rng, length) for name, length in lengths.items()}
    angle = np.sort(rng.uniform(0, 2 * np.pi) + (np.arange(6) + rng.uniform(-0.3, 0.3, 6)) * np.pi / 3)
    tilt = rng.uniform(-0.25, 0.25, 6)
    offset = radius_px * rng.uniform(0.84, 1.10, 6)
    planes = np.column_stack([np.cos(angle), np.sin(angle), tilt, offset])
    tubes = _draw_tubes(rng, radius_px)
    n_cells = int((2.4 * radius_px) ** 2 * (height_px + 4 * ADIPOCYTE_PX) / ADIPOCYTE_PX ** 3)
    half = np.array([1.2 * radius_px, 1.2 * radius_px, height_px / 2 + 2 * ADIPOCYTE_PX])
    adipocytes = rng.uniform(-half, half, (n_cells, 3)) + [0, 0, height_px / 2]
    bias = np.array([-0.20, 0.0, -1.20, -1.05]) + rng.normal(0, 0.22, 4)
    return Tissue(fields, tubes, planes, 1.18 * radius_px, adipocytes, bias, streaks(rng, 60, 3.0))


def _draw_tubes(rng: np.random.Generator, radius_px: float) -> np.ndarray:
    """Lobules of small acini around one larger duct each. (n, 6)"""
    n_lobules = max(1, round((radius_px / 200) ** 2 * 1.1))
    around = np.sqrt(rng.uniform(0.02, 0.75, n_lobules)) * radius_px
    angle = rng.uniform(0, 2 * np.pi) + np.arange(n_lobules) * 2.4  # golden angle: well apart
    tubes = []
    for x, y in np.column_stack([around * np.cos(angle), around * np.sin(angle)]):
        slope = rng.normal(0, 0.25, 2)
        n_acini = rng.integers(4, 9)
        spread, turn = rng.uniform(30, 48, n_acini), rng.uniform(0, 6.28) + np.arange(n_acini) * 6.28 / n_acini
        tubes.append([[x, y, *slope, rng.uniform(18, 25), rng.uniform(0.5, 0.68)]])
        tubes.append(np.column_stack([x + spread * np.cos(turn), y + spread * np.sin(turn),
                                      slope + rng.normal(0, 0.15, (n_acini, 2)),
                                      rng.uniform(8, 13, n_acini), rng.uniform(0.3, 0.55, n_acini)]))
    return np.concatenate(tubes)


def streaks(rng: np.random.Generator, length_px: float, width_px: float, side_px: int = 1024) -> np.ndarray:
    """Horizontal fibres: white noise blurred along x, mean 0, sd 1. (side, side) float32"""
    noise = rng.standard_normal((side_px, side_px), np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), sigmaX=length_px, sigmaY=width_px, borderType=cv2.BORDER_REFLECT)
    return (blurred - blurred.mean()) / blurred.std()


# cell types at a point -------------------------------------------------------------------------------
def depth_inside(tissue: Tissue, points: np.ndarray, torn: tuple[float, float, float] | None = None) -> np.ndarray:
    """How deep a point lies inside the section, px (negative: outside). (…, 3) → (…)"""
    planes = tissue.planes
    behind_planes = (planes[:, 3] - points @ planes[:, :3].T).min(-1)
    depth = np.minimum(behind_planes, tissue.reach_px - np.hypot(points[..., 0], points[..., 1]))
    depth = depth + 9 * tissue.fields["edge"](points) + 16 * tissue.fields["nest"](points)
    if torn is not None:
        tear = torn[2] - points[..., :2] @ np.array(torn[:2])
        tear = tear + 14 * tissue.fields["lobe"](points) + 5 * tissue.fields["wobble"](points)
        depth = np.minimum(depth, tear)
    return depth.astype(np.float32)


def type_logits(tissue: Tissue, points: np.ndarray) -> np.ndarray:
    """Propensity of tumour, stroma, immune and fat before ducts are put in. (…, 3) → (…, 4)"""
    names = ("nest", "lobe", "septum", "immune", "follicle", "fat", "drift")
    value = {name: tissue.fields[name](points) for name in names}
    nest = 0.85 * value["nest"] + 0.60 * value["lobe"]
    septum = np.exp(-(value["septum"] / 0.11) ** 2)  # thin bands of stroma between tumour nests
    margin = np.exp(-((nest - 0.1) / 0.35) ** 2)  # lymphocytes gather at the tumour's edge
    logits = np.stack([nest,
                       0.35 * value["drift"] + 1.3 * septum,
                       0.75 * value["immune"] + 0.75 * value["follicle"] + 0.45 * margin,
                       1.15 * value["fat"] + 0.2 * value["drift"] - 0.25 * value["nest"]], axis=-1)
    return (logits + tissue.bias).astype(np.float32)


def tube_level(tissue: Tissue, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(px outside the nearest duct's wall, px outside its lumen); negative inside. (…, 3) → (…), (…)"""
    x, y, slope_x, slope_y, radius, lumen = tissue.tubes.astype(np.float32).T
    z = points[..., 2:]
    distance = np.hypot(points[..., :1] - x - slope_x * z, points[..., 1:2] - y - slope_y * z)  # (…, n_tubes)
    wobble = 1.6 * tissue.fields["wobble"](points)
    return (distance - radius).min(-1) + wobble, (distance - radius * lumen).min(-1) + wobble


def mix(logits: np.ndarray, outside_wall: np.ndarray, outside_lumen: np.ndarray) -> np.ndarray:
    """Fractions of the five types; a lumen is empty (sum 0). (…, 4), (…), (…) → (…, 5)"""
    logits = logits.copy()
    logits[..., 1] += 2.0 * np.exp(-np.maximum(outside_wall, 0) / 9)  # a cuff of collagen around ducts
    logits *= 7
    weight = np.exp(logits - logits.max(-1, keepdims=True))
    weight /= weight.sum(-1, keepdims=True)
    in_wall, in_lumen = _soft(-outside_wall), _soft(-outside_lumen)
    return np.concatenate([weight * (1 - in_wall)[..., None], (in_wall * (1 - in_lumen))[..., None]], axis=-1)


def fractions(tissue: Tissue, points: np.ndarray) -> np.ndarray:
    """Share of each cell type (TYPES) at points of the common frame. (…, 3) → (…, 5) float32"""
    return mix(type_logits(tissue, points), *tube_level(tissue, points))


def _soft(depth_px: np.ndarray) -> np.ndarray:
    """0 to 1 over two pixels."""
    return np.clip(depth_px / 2 + 0.5, 0, 1).astype(np.float32)


# drawing ---------------------------------------------------------------------------------------------
def draw_section(tissue: Tissue, to_common: Callable[[np.ndarray], np.ndarray], z_px: float, slide: Slide,
                 size_px: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The H&E image of the section at z, mapped by `to_common` (layer px (…, 2) → common px (…, 2)).

    Returns (image (size, size, 3) uint8, tissue mask (size, size) bool: inside the outline, lumina and fat included).
    """
    axis = (np.arange(-(-size_px // STEP_PX)) + 0.5) * STEP_PX - 0.5
    common = to_common(np.stack(np.meshgrid(axis, axis), axis=-1))  # (n, n, 2)
    points = np.concatenate([common, np.full((*common.shape[:2], 1), z_px)], axis=-1).astype(np.float32)
    depth = depth_inside(tissue, points, slide.torn)
    reached = [np.flatnonzero((depth > -8).any(axis)) for axis in (1, 0)]
    window = tuple(slice(max(cells[0] - 1, 0), cells[-1] + 2) for cells in reached)
    eosin, haematoxylin, inside = _stains(tissue, points[window], depth[window], rng)
    pixels = tuple(slice(part.start * STEP_PX, part.start * STEP_PX + length)
                   for part, length in zip(window, inside.shape, strict=True))
    density = (slide.haematoxylin * haematoxylin)[..., None] * HAEMATOXYLIN + (slide.eosin * eosin)[..., None] * EOSIN
    picture, mask = _mount(rng, size_px, slide.white), np.zeros((size_px, size_px), bool)
    clipped = picture[pixels].shape[:2]
    picture[pixels] *= np.exp(-cv2.GaussianBlur(density, (0, 0), 0.6))[:clipped[0], :clipped[1]]
    mask[pixels] = (inside > 0.5)[:clipped[0], :clipped[1]]
    picture += 1.4 * rng.standard_normal(picture.shape, np.float32)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8), mask


def _stains(tissue: Tissue, points: np.ndarray, depth: np.ndarray,
            rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eosin, haematoxylin and share of tissue of every pixel, (h, w) each.

    points (n, m, 3) and depth (n, m) are given every STEP_PX.
    """
    def fine(coarse: np.ndarray) -> np.ndarray:
        return cv2.resize(coarse.astype(np.float32), None, fx=STEP_PX, fy=STEP_PX, interpolation=cv2.INTER_CUBIC)

    depth = fine(depth)
    shape = depth.shape
    inside = _soft(depth + 1.6 * _noise(rng, shape, 2.2))
    xyz = fine(points)  # (h, w, 3)
    outside_wall, outside_lumen = np.full(shape, 99, np.float32), np.full(shape, 99, np.float32)
    near = (fine(tube_level(tissue, points)[0]) < 40) & (inside > 0)
    outside_wall[near], outside_lumen[near] = tube_level(tissue, xyz[near])
    share, some = np.zeros((*shape, len(TYPES)), np.float32), inside > 0  # (h, w, 5), (h, w)
    logits = fine(type_logits(tissue, points))  # (h, w, 4)
    share[some] = mix(logits[some], outside_wall[some], outside_lumen[some]) * inside[some, None]

    along = 150 * tissue.fields["swirl"](points) + 45 * tissue.fields["nest"](points) + points[..., 1]
    across = points[..., 0] + 60 * tissue.fields["drift"](points)
    fibre = _fibres(fine(across), fine(along), tissue.bundles, streaks(rng, 22, 0.9))
    down, right = np.gradient(along)
    edge = 1 + 0.18 * np.exp(-np.maximum(depth, 0) / 7)  # dye gathers at the edge
    thick = (1 + 0.10 * fine(tissue.fields["thick"](points))) * edge
    eosin, haematoxylin = _ground(share, fibre, outside_lumen, rng)
    eosin += _membranes(tissue, share[..., 3], xyz)
    haematoxylin += _nuclei(share, fine(np.arctan2(-right, down)), rng)
    return eosin * thick, haematoxylin * thick, inside


def _noise(rng: np.random.Generator, shape: tuple[int, int], sigma_px: float) -> np.ndarray:
    """Blurred white noise, sd 1. (h, w) float32"""
    noise = cv2.GaussianBlur(rng.standard_normal(shape, np.float32), (0, 0), sigma_px)
    return noise / noise.std()


def _fibres(across: np.ndarray, along: np.ndarray, bundles: np.ndarray, threads: np.ndarray) -> np.ndarray:
    """Wavy fibres: horizontal streaks sampled at warped positions. (size, size)

    Coarse bundles persist through z, threads do not.
    """
    coarse, thin = (cv2.remap(texture, across, along, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
                    for texture in (bundles, threads))
    return 0.75 * coarse + 0.65 * thin


def _ground(share: np.ndarray, fibre: np.ndarray, outside_lumen: np.ndarray,
            rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Cytoplasm, fibres and the white gaps between them: (eosin, haematoxylin), (h, w) each."""
    tumour, stroma, immune, _, duct = np.moveaxis(share, -1, 0)
    grain, gaps = _noise(rng, fibre.shape, 1.0), _noise(rng, fibre.shape, 3.0)
    gaps += 0.35 * grain
    cleft = stroma * _soft(5 * (-fibre - 1.35 + 0.2 * gaps)) + (tumour + 0.5 * immune) * _soft(4 * (gaps - 1.6))
    solid = 1 - np.clip(cleft, 0, 0.92)
    eosin = sum(share[..., k] * CYTOPLASM[name][0] for k, name in enumerate(TYPES))
    eosin = eosin + 0.15 * stroma * np.clip(fibre, -1.6, 2.2)
    eosin += 0.24 * (1 - np.abs(2 * _soft(outside_lumen / 2) - 1)) * duct  # the cells' tops
    haematoxylin = sum(share[..., k] * CYTOPLASM[name][1] for k, name in enumerate(TYPES))
    return eosin * solid * (1 + 0.10 * grain), haematoxylin * solid * (1 + 0.15 * grain)


def _membranes(tissue: Tissue, fat: np.ndarray, xyz: np.ndarray) -> np.ndarray:
    """Thin pink walls between fat cells: the section through a 3D Voronoi mosaic. (size, size)"""
    from scipy.spatial import cKDTree
    wall = np.zeros_like(fat)
    here = fat > 0.05
    if here.any():
        nearest, _ = cKDTree(tissue.adipocytes).query(xyz[here], k=2)
        wall[here] = 0.50 * np.exp(-((nearest[:, 1] - nearest[:, 0]) / 1.3) ** 2) + 0.015
    return wall * np.minimum(1, 1.3 * fat)


def _nuclei(share: np.ndarray, fibre_angle: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Haematoxylin of all nuclei: soft ellipses on a jittered lattice per type, as many as the type's share. (h, w)"""
    height, width = fibre_angle.shape
    canvas = np.zeros(height * width, np.float32)
    for k, name in enumerate(TYPES):
        spacing, taken, long, short, spread, density, vesicular = NUCLEI[name]
        x, y = _jittered_lattice(rng, (height, width), spacing)
        column, row = x.astype(np.int64), y.astype(np.int64)
        keep = rng.random(len(x), np.float32) < taken * share[row, column, k]
        x, y, column, row = x[keep], y[keep], column[keep], row[keep]
        size = np.exp(spread * rng.standard_normal((len(x), 2), np.float32))
        angle = np.pi * rng.random(len(x), np.float32)
        if name == "stroma":
            angle = fibre_angle[row, column] + 0.16 * (angle - np.pi / 2)
        strength = density * np.exp(0.18 * rng.standard_normal(len(x), np.float32))
        reach = int(np.ceil(1.15 * long * np.exp(2 * spread))) + 1
        offset_y, offset_x = (axis.ravel() for axis in np.mgrid[-reach:reach + 1, -reach:reach + 1])
        dx, dy = ((whole - exact).astype(np.float32)[:, None] + offset.astype(np.float32)  # (n_nuclei, n_pixels)
                  for whole, exact, offset in ((column, x, offset_x), (row, y, offset_y)))
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        u, v = (dx * cos + dy * sin) / (long * size[:, :1]), (dy * cos - dx * sin) / (short * size[:, 1:])
        square = u * u + v * v
        ink = strength[:, None] * np.clip((1.15 - np.sqrt(square) * (1 + 0.25 * u * v / (1 + square))) * 2.2, 0, 1)
        if vesicular:
            ink *= 1 - vesicular * np.exp(-3 * square)
        at_x, at_y = column[:, None] + offset_x, row[:, None] + offset_y
        fits = (ink > 0) & (at_x >= 0) & (at_x < width) & (at_y >= 0) & (at_y < height)
        canvas += np.bincount((at_y * width + at_x)[fits], ink[fits], minlength=height * width).astype(np.float32)
    return 2.2 * np.tanh(canvas / 2.2).reshape(height, width)  # overlapping nuclei darken less than they add


def _jittered_lattice(rng: np.random.Generator, shape: tuple[int, int],
                      spacing_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Sites of a hexagonal lattice, each moved by up to 0.42 spacings, inside the image. (n,), (n,)"""
    height, width = shape
    rows, columns = np.arange(0, height, spacing_px * 0.87), np.arange(0, width, spacing_px)
    x = columns + spacing_px / 2 * (np.arange(len(rows)) % 2)[:, None]  # (n_rows, n_columns)
    y = np.repeat(rows[:, None], len(columns), axis=1)
    jitter = rng.uniform(-0.42, 0.42, (2, *x.shape)) * spacing_px
    return np.clip(x + jitter[0], 0, width - 1).ravel(), np.clip(y + jitter[1], 0, height - 1).ravel()


def _mount(rng: np.random.Generator, size_px: int, white: tuple[float, float, float]) -> np.ndarray:
    """The empty slide: off-white, uneven light, haze and dust. (size, size, 3) float32"""
    haze = cv2.resize(rng.standard_normal((6, 6), np.float32), (size_px, size_px), interpolation=cv2.INTER_CUBIC)
    dust = np.zeros((size_px, size_px), np.float32)
    for x, y, size, angle in rng.uniform([0, 0, 0.6, 0], [size_px, size_px, 2.6, 180], (max(4, size_px // 40), 4)):
        middle, half_axes, density = (int(x), int(y)), (round(size * 1.6), round(size)), float(0.08 + 0.12 * size)
        cv2.ellipse(dust, middle, half_axes, angle, 0, 360, density, -1, cv2.LINE_AA)
    light = np.array(white, np.float32) + 1.5 * haze[..., None] * np.array([0.5, 1.4, 0.8], np.float32)
    return light * np.exp(-cv2.GaussianBlur(dust, (0, 0), 0.8))[..., None]
