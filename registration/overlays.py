"""Pictures for visual inspection: a pair before and after registration, and the stack in the middle layer's frame."""
import textwrap
from dataclasses import replace

import cv2
import numpy as np

from registration.sections import Section
from registration.transforms import Transform, affine, apply_to_points, identity, in_frames, invert, move, warp_image

PAIR_SIDE_PX = 760      # side of one panel of a pair
STACK_SIDE_PX = 360     # side of one tile of the stack
BAR_PX = 72             # height of the title above a pair, more for more than two lines
LINE_PX = 30            # of the title
TITLE_LETTERS = 165     # of one title line
MARGIN_SHARE = 0.05     # of the tissue's longer side, left free around it
CHECKS = 12             # fields of the checkerboard a side
GRID_LINES = 20         # lines of the drawn grid a side
FRAME_PX = 6
MAX_LINES = 120         # matches drawn
MOVING_COLOUR, FIXED_COLOUR = (200, 30, 30), (0, 130, 140)
ALONE_COLOUR = (240, 140, 0)
LINE_COLOUR, GRID_COLOUR, TEXT_COLOUR = (40, 120, 40), (185,) * 3, (20,) * 3
GOOD_COLOUR, BAD_COLOUR = (20, 130, 40), (215, 20, 20)
WHITE = 255


def pair_overlay(moving: Section, fixed: Section, transform: Transform, moving_points: np.ndarray,
                 fixed_points: np.ndarray, title: str, accepted: bool = True,
                 alone: tuple[np.ndarray | None, np.ndarray | None] = (None, None)) -> np.ndarray:
    """Before | after | checkerboard of both, in the fixed layer's frame: (h, w, 3) uint8.

    transform and points (n, 2): in level-0 px. Before and after: fixed tissue in cyan, moving in red, grey where both
    agree. Before: the matches as lines from the moving to the fixed point. After: a faint grid if the tissue is bent.
    alone: masks (h, w) bool of the tissue of the moving and of the fixed layer without counterpart, outlined orange.
    The title is green; for a refused pair the title and a frame are red.
    """
    start = Transform(identity())
    before, after = _red_cyan(moving, fixed, start), _red_cyan(moving, fixed, transform)
    for section, own, mask in ((moving, transform, alone[0]), (fixed, start, alone[1])):
        if mask is not None:
            marked = replace(section, mask=mask)
            _draw_outline(after, marked, own, _canvas(moving, fixed, transform), ALONE_COLOUR, thickness=3)
    to_canvas = _canvas(moving, fixed, start)
    chosen = np.linspace(0, len(moving_points) - 1, min(MAX_LINES, len(moving_points))).astype(int)
    for ends in zip(apply_to_points(to_canvas, moving_points[chosen]),
                    apply_to_points(to_canvas, fixed_points[chosen]), strict=True):
        cv2.line(before, *(tuple(int(v) for v in np.rint(point)) for point in ends), LINE_COLOUR, 1, cv2.LINE_AA)
    picture = np.hstack([before, after, _checkerboard(moving, fixed, transform)])
    lines = textwrap.wrap(title, TITLE_LETTERS)
    bar = np.full((max(BAR_PX, 12 + LINE_PX * len(lines)), picture.shape[1], 3), WHITE, np.uint8)
    for number, line in enumerate(lines, 1):
        _write(bar, line, (14, number * LINE_PX), GOOD_COLOUR if accepted else BAD_COLOUR)
    picture = np.vstack([bar, picture])
    return picture if accepted else _framed(picture)


def stack_view(sections: dict[int, Section], to_middle: dict[int, Transform], middle: int,
               accepted: dict[int, bool]) -> np.ndarray:
    """A tile per layer, warped to the middle layer's frame, all with the middle's outline: (h, w, 3) uint8.

    Red frame: a pair on the layer's way to the middle is refused. Red frame, empty tile: the layer has no way to the
    middle and is not in `to_middle`.
    """
    still = Transform(identity())
    to_canvas = _fitted(_box(sections[middle], still), STACK_SIDE_PX)
    tiles = []
    for layer, section in sections.items():
        tile = np.full((STACK_SIDE_PX, STACK_SIDE_PX, 3), WHITE, np.uint8)
        label = "left out"
        if layer in to_middle:
            tile = _drawn(section.rgb, section, to_middle[layer], to_canvas, STACK_SIDE_PX)
            _draw_outline(tile, sections[middle], still, to_canvas, FIXED_COLOUR)
            label = "middle" if layer == middle else "" if accepted[layer] else "refused"
        good = layer in to_middle and accepted[layer]
        _write(tile, f"{layer} {label}", (10, 26), TEXT_COLOUR if good else BAD_COLOUR)
        tiles.append(tile if good else _framed(tile))
    columns = int(np.ceil(np.sqrt(len(tiles))))
    tiles += [np.full_like(tiles[0], WHITE)] * (-len(tiles) % columns)
    return np.vstack([np.hstack(tiles[k:k + columns]) for k in range(0, len(tiles), columns)])


# panels ----------------------------------------------------------------------------------------------
def _red_cyan(moving: Section, fixed: Section, transform: Transform) -> np.ndarray:
    """Both tissues in the fixed layer's frame: the fixed one as red channel, the moving one as green and blue."""
    to_canvas, still = _canvas(moving, fixed, transform), Transform(identity())
    fixed_rgb = _drawn(_tissue(fixed), fixed, still, to_canvas, PAIR_SIDE_PX)
    moving_rgb = _drawn(_tissue(moving), moving, transform, to_canvas, PAIR_SIDE_PX)
    fixed_grey, moving_grey = (cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY) for rgb in (fixed_rgb, moving_rgb))
    panel = np.stack([fixed_grey, moving_grey, moving_grey], axis=2)
    _draw_outline(panel, fixed, still, to_canvas, FIXED_COLOUR)
    _draw_outline(panel, moving, transform, to_canvas, MOVING_COLOUR)
    if transform.warp is not None:
        _draw_grid(panel, transform, to_canvas)
    return panel


def _checkerboard(moving: Section, fixed: Section, transform: Transform) -> np.ndarray:
    to_canvas = _canvas(moving, fixed, transform)
    a = _drawn(fixed.rgb, fixed, Transform(identity()), to_canvas, PAIR_SIDE_PX)
    b = _drawn(moving.rgb, moving, transform, to_canvas, PAIR_SIDE_PX)
    number = np.arange(PAIR_SIDE_PX) * CHECKS // PAIR_SIDE_PX
    return np.where(((number[:, None] + number[None]) % 2 == 0)[..., None], a, b)


def _draw_grid(canvas: np.ndarray, transform: Transform, to_canvas: np.ndarray) -> None:
    """Lines that were straight before the field bent them."""
    ticks, fine = np.linspace(0, len(canvas) - 1, GRID_LINES), np.arange(len(canvas), step=4)
    bend = Transform(identity(), in_frames(transform, identity(), to_canvas).warp)
    for tick in ticks:
        constant = np.full(len(fine), tick)
        for line in (np.column_stack([constant, fine]), np.column_stack([fine, constant])):
            cv2.polylines(canvas, [np.rint(move(bend, line)).astype(np.int32)], False, GRID_COLOUR, 1, cv2.LINE_AA)


# drawing ---------------------------------------------------------------------------------------------
def _box(section: Section, transform: Transform) -> np.ndarray:
    """(2, 2): low and high x, y of the moved tissue, level-0 px; of the whole picture if there is no tissue."""
    rows, columns = np.nonzero(section.mask if section.mask.any() else np.ones_like(section.mask))
    x, y = (np.array([values.min(), values.max()]) for values in (columns, rows))
    corners = np.array([[x[0], y[0]], [x[0], y[1]], [x[1], y[0]], [x[1], y[1]]], np.float64)
    moved = move(transform, apply_to_points(section.to_level0, corners))
    return np.stack([moved.min(axis=0), moved.max(axis=0)])


def _canvas(moving: Section, fixed: Section, transform: Transform) -> np.ndarray:
    """Level-0 px -> px (2, 3) of a square panel that holds the tissue of both."""
    boxes = np.concatenate([_box(moving, transform), _box(fixed, Transform(identity()))])
    return _fitted(np.stack([boxes.min(axis=0), boxes.max(axis=0)]), PAIR_SIDE_PX)


def _fitted(box: np.ndarray, side_px: int) -> np.ndarray:
    """(2, 3): the box, with a margin, in the middle of a square of side_px."""
    longest = max(float((box[1] - box[0]).max()), 1.0)
    factor = side_px / (longest * (1 + 2 * MARGIN_SHARE))
    return affine(factor * np.eye(2), (side_px - 1) / 2 - factor * box.mean(axis=0))


def _drawn(pixels: np.ndarray, section: Section, transform: Transform, to_canvas: np.ndarray,
           side_px: int) -> np.ndarray:
    """An overview (h, w, 3) moved and drawn on the canvas, smoothed first where it shrinks; white outside."""
    to_px = in_frames(transform, invert(section.to_level0), to_canvas)
    shrink = 1 / np.sqrt(abs(np.linalg.det(to_px.matrix[:, :2])))
    if shrink > 1:
        pixels = cv2.GaussianBlur(pixels, (0, 0), shrink / 2)
    return warp_image(pixels, to_px, (side_px, side_px), outside=WHITE)


def _tissue(section: Section) -> np.ndarray:
    """The section's tissue alone, on white."""
    return np.where(section.mask[..., None], section.rgb, WHITE).astype(np.uint8)


def _draw_outline(canvas: np.ndarray, section: Section, transform: Transform, to_canvas: np.ndarray,
                  colour: tuple[int, int, int], thickness: int = 1) -> None:
    outlines, _ = cv2.findContours(section.mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    drawn = []
    for outline in outlines:
        moved = move(transform, apply_to_points(section.to_level0, outline[:, 0]))
        drawn.append(np.rint(apply_to_points(to_canvas, moved)).astype(np.int32))
    cv2.polylines(canvas, drawn, True, colour, thickness, cv2.LINE_AA)


def _write(canvas: np.ndarray, text: str, place: tuple[int, int], colour: tuple[int, int, int]) -> None:
    plain = text.replace("µ", "u").replace("²", "2").encode("ascii", "replace").decode()  # OpenCV's letters
    cv2.putText(canvas, plain, place, cv2.FONT_HERSHEY_SIMPLEX, 0.7, colour, 1, cv2.LINE_AA)


def _framed(picture: np.ndarray) -> np.ndarray:
    """The picture with a red frame."""
    return cv2.rectangle(picture.copy(), (0, 0), (picture.shape[1] - 1, picture.shape[0] - 1), BAD_COLOUR, FRAME_PX)
