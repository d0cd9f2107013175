"""Pictures to look at: a pair before and after registration, and the whole stack in the middle layer's frame."""
import cv2
import numpy as np

from registration.sections import Section
from registration.transforms import apply_to_points, compose, invert, scaling

PAIR_SIDE_PX = 900      # longer side of one panel of a pair
STACK_SIDE_PX = 360     # longer side of one tile of the stack
MAX_LINES = 120         # matches drawn
MOVING_COLOUR, FIXED_COLOUR, LINE_COLOUR, TEXT_COLOUR = (200, 30, 30), (0, 130, 140), (40, 120, 40), (20, 20, 20)
WHITE = 255


def pair_overlay(moving: Section, fixed: Section, matrix: np.ndarray, moving_points: np.ndarray, fixed_points: np.ndarray,
                 title: str) -> np.ndarray:
    """Before | after, in the fixed layer's frame: fixed tissue in cyan, moving in red, where both are the same: grey.

    matrix (2, 3) and points (n, 2) in level-0 px; left: the matches as lines from the moving to the fixed point. -> (h, w, 3) uint8.
    """
    to_canvas, shape = _canvas(fixed, PAIR_SIDE_PX)
    fixed_tissue = _tissue(fixed, to_canvas, shape)
    panels = []
    for step in (np.eye(2, 3), matrix):
        moving_tissue = _tissue(moving, compose(to_canvas, step), shape)
        panel = np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (fixed_tissue, moving_tissue, moving_tissue)], axis=2)
        _draw_outline(panel, fixed, to_canvas, FIXED_COLOUR)
        _draw_outline(panel, moving, compose(to_canvas, step), MOVING_COLOUR)
        panels.append(panel)
    chosen = np.linspace(0, len(moving_points) - 1, min(MAX_LINES, len(moving_points))).astype(int)
    for start, end in zip(apply_to_points(to_canvas, moving_points[chosen]), apply_to_points(to_canvas, fixed_points[chosen])):
        cv2.line(panels[0], *(tuple(int(v) for v in np.rint(point)) for point in (start, end)), LINE_COLOUR, 1, cv2.LINE_AA)
    picture = np.hstack(panels)
    cv2.putText(picture, title, (12, 28), cv2.FONT_HERSHEY_SIMPLEX, 0.6, TEXT_COLOUR, 1, cv2.LINE_AA)
    return picture


def stack_view(sections: dict[int, Section], to_middle: dict[int, np.ndarray], middle: int) -> np.ndarray:
    """A tile per layer, warped to the middle layer's frame, all with the middle's outline: (h, w, 3) uint8."""
    to_canvas, shape = _canvas(sections[middle], STACK_SIDE_PX)
    tiles = []
    for layer, section in sections.items():
        tile = _warp(section.rgb, compose(to_canvas, to_middle[layer], section.to_level0), shape)
        _draw_outline(tile, sections[middle], to_canvas, FIXED_COLOUR)
        label = f"{layer} (middle)" if layer == middle else f"{layer}"
        cv2.putText(tile, label, (8, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.6, TEXT_COLOUR, 1, cv2.LINE_AA)
        tiles.append(tile)
    columns = int(np.ceil(np.sqrt(len(tiles))))
    blank = np.full((*shape, 3), WHITE, np.uint8)
    tiles += [blank] * (-len(tiles) % columns)
    return np.vstack([np.hstack(tiles[k:k + columns]) for k in range(0, len(tiles), columns)])


def _canvas(section: Section, side_px: int) -> tuple[np.ndarray, tuple[int, int]]:
    """(level-0 px -> canvas px (2, 3), (rows, columns)) of a canvas that holds the section."""
    height, width = section.mask.shape
    factor = side_px / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return compose(scaling(size[0] / width, size[1] / height), invert(section.to_level0)), size[::-1]


def _warp(pixels: np.ndarray, matrix: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """An overview drawn on the canvas, smoothed first where it shrinks; white outside."""
    shrink = 1 / np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    if shrink > 1:
        pixels = cv2.GaussianBlur(pixels, (0, 0), shrink / 2)
    return cv2.warpAffine(pixels, matrix, shape[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(WHITE,) * 3)


def _tissue(section: Section, matrix: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The section's tissue alone, on white."""
    return _warp(np.where(section.mask[..., None], section.rgb, WHITE).astype(np.uint8), compose(matrix, section.to_level0), shape)


def _draw_outline(canvas: np.ndarray, section: Section, matrix: np.ndarray, colour: tuple[int, int, int]) -> None:
    outlines, _ = cv2.findContours(section.mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    moved = [np.rint(apply_to_points(compose(matrix, section.to_level0), outline[:, 0])).astype(np.int32) for outline in outlines]
    cv2.polylines(canvas, moved, True, colour, 1, cv2.LINE_AA)
