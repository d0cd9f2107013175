"""Shared by the parts of the page: sections with their pictures (embedded once each) and notes. Data are escaped."""
from dataclasses import dataclass
from html import escape
from itertools import count

import cv2
import numpy as np

from common.slide import fitted_size
from report_parts.gather import LayerOfRun, Run
from report_parts.pictures import Picture, photo, section_picture


@dataclass(frozen=True)
class Shown:
    """A layer with its picture and the CSS class that holds it."""
    of: LayerOfRun
    picture: Picture | None
    style: str

    @property
    def name(self) -> str:
        return f"Section {self.of.layer}"

    @property
    def dot(self) -> str:
        """Its role with the role's colour."""
        return f'<i class="dot {self.of.role}"></i>{self.of.role}'


def note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def prepare(run: Run, side_px: int) -> dict[str, list[Shown]]:
    """{sample: its layers with their pictures}, longer side at most side_px."""
    number = count()

    def show(one: LayerOfRun) -> Shown:
        spots = np.zeros((0, 2)) if one.adata is None else one.adata.obsm["spatial"]
        picture = section_picture(run.layout, one.sample, one.layer, spots, side_px)
        return Shown(one, picture, f"he-{next(number)}")

    return {sample: [show(one) for one in layers] for sample, layers in run.samples.items()}


def styles(shown: dict[str, list[Shown]]) -> str:
    """CSS that holds every section's picture once."""
    rules = []
    for layers in shown.values():
        rules += [f'.{one.style}{{--he:url("{photo(one.picture.rgba)}")}}' for one in layers if one.picture]
    return "\n".join(rules)


def tissue(one: Shown, inside: str = "", kind: str = "") -> str:
    """A section's picture as the background of the HTML `inside`."""
    if one.picture is None:
        return '<div class="none">no picture</div>'
    width, height = one.picture.size_px
    label = "" if inside else f'role="img" aria-label="H&amp;E of {one.name.lower()}"'
    return f'<div class="he {kind} {one.style}" style="aspect-ratio:{width}/{height}" {label}>{inside}</div>'


def image(pixels: np.ndarray, side_px: int, alternative: str) -> str:
    size = fitted_size(pixels.shape[1::-1], side_px)
    source = photo(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
    return f'<img src="{source}" width="{size[0]}" height="{size[1]}" alt="{escape(alternative)}">'
