"""Pictures of the page: each section's H&E cropped to its tissue, and the spots of a map as a transparent overlay."""
import base64
import io
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw

from common.errors import LayerError
from common.io import read_json, read_picture
from common.layout import Layout
from common.slide import fitted_size
from report_parts.colours import Scale, lut

MARGIN_SHARE = 0.03      # of the crop's longer side, left free around tissue and spots
MIN_MARGIN_PX = 4
TISSUE_RIM_PX = 9        # width of the brush that widens the tissue mask, so that the tissue edge is shown
PHOTO_QUALITY = 72
BLANK_PX = 600           # longer side of the spots' box on the white picture of a section without thumbnail
WHITE = 255


@dataclass(frozen=True)
class Picture:
    """The H&E of a section on the page: its tissue; the empty slide is transparent."""
    rgba: np.ndarray         # (h, w, 4) uint8
    from_level0: np.ndarray  # (2, 3): level-0 px -> px of this picture

    @property
    def size_px(self) -> tuple[int, int]:
        return self.rgba.shape[1], self.rgba.shape[0]

    @property
    def factor(self) -> float:
        """Picture px per level-0 px."""
        return float(np.sqrt(abs(np.linalg.det(self.from_level0[:, :2]))))

    def place(self, pixel: np.ndarray) -> np.ndarray:
        """Level-0 px (n, 2) -> picture px (n, 2)."""
        return pixel @ self.from_level0[:, :2].T + self.from_level0[:, 2]


def section_picture(layout: Layout, sample: str, layer: int, pixel: np.ndarray, side_px: int) -> Picture | None:
    """The section's overview, cropped to tissue and spots, longer side at most side_px.

    pixel: (n, 2) level-0 px of the spots. Without an overview the picture is white; without spots as well it is None.
    """
    try:
        rgb, mask = read_picture(layout.thumbnail(sample, layer)), read_picture(layout.mask(sample, layer))
        scale = np.array(read_json(layout.thumbnail_info(sample, layer))["scale"])  # level-0 px per thumbnail px
    except LayerError:
        if not len(pixel):
            return None
        scale = np.full(2, max(float(np.ptp(pixel, axis=0).max()), 1.0) / BLANK_PX)
        width, height = np.ceil(pixel.max(axis=0) / scale).astype(int) + 1
        rgb, mask = np.full((height, width, 3), WHITE, np.uint8), np.zeros((height, width), np.uint8)
    rows, columns = np.nonzero(mask)
    points = np.concatenate([(pixel + 0.5) / scale - 0.5, np.column_stack([columns, rows])])  # thumbnail px
    if not len(points):
        points = np.array([(0, 0), rgb.shape[1::-1]])
    low, high = points.min(axis=0), points.max(axis=0)
    margin = MARGIN_SHARE * float((high - low).max()) + MIN_MARGIN_PX
    left, top = np.floor(np.clip(low - margin, 0, None)).astype(int)
    right, bottom = np.ceil(np.minimum(high + margin, rgb.shape[1::-1])).astype(int)
    crop = np.dstack([rgb, _with_holes(mask)])[top:bottom, left:right]
    size = fitted_size(crop.shape[1::-1], side_px)
    shrink = np.array(size) / crop.shape[1::-1] / scale  # picture px per level-0 px
    offset = (0.5 - np.array([left, top]) * scale) * shrink - 0.5
    return Picture(cv2.resize(crop, size, interpolation=cv2.INTER_AREA), np.column_stack([np.diag(shrink), offset]))


def _with_holes(mask: np.ndarray) -> np.ndarray:
    """A tissue mask (h, w) uint8 with its holes (fat, vessels) filled and its rim a little wider."""
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(np.zeros_like(mask), outlines, -1, 255, cv2.FILLED)
    return cv2.dilate(filled, np.ones((TISSUE_RIM_PX, TISSUE_RIM_PX), np.uint8))


def photo(pixels: np.ndarray) -> str:
    """Encode RGB or RGBA (h, w, 3 or 4) as a data URI."""
    return _data_uri(Image.fromarray(pixels), "WEBP", quality=PHOTO_QUALITY)


def spot_map(picture: Picture, pixel: np.ndarray, diameter_px: float, values: np.ndarray, scale: Scale) -> str:
    """Draw discs in the colours of their values, transparent elsewhere, at the picture's size: a data URI.

    pixel (n, 2) and diameter_px in level-0 px; values (n,), NaN: no disc.
    """
    image = Image.new("P", picture.size_px)
    image.putpalette(lut(scale.colours).tobytes())
    pen, radius = ImageDraw.Draw(image), max(0.5, diameter_px * picture.factor / 2)
    for (x, y), level in zip(picture.place(pixel).tolist(), scale.levels(values).tolist(), strict=True):
        if level:
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=level)
    return _data_uri(image, "PNG", transparency=0, optimize=True)


def _data_uri(image: Image.Image, form: str, **options) -> str:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"
