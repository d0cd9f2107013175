"""Stacks for the tests of foreign tissue and of wrong pixel sizes: pictures on disk, one mask pixel a picture pixel."""
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from synthetic_sections import SHAPE, known_warp, section, warped

from common.layout import Layout

UM = 4.0                     # um per px of every picture
PITCH_PX = 25
CONTROL = (760, 150, 200, 160)  # x, y, width, height of the control tissue's box
WARPS = {1: known_warp(4, 1, (12, -8)), 2: known_warp(0, 1, (0, 0)), 3: known_warp(-5, 1, (-10, 6))}


def control(seed: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """(h, w, 3) uint8, a piece of another tissue on white, and its mask (h, w) bool."""
    x, y, width, height = CONTROL
    mask = cv2.ellipse(np.zeros((height, width), np.uint8), (width // 2, height // 2), (90, 70), 0, 0, 360, 1, -1) > 0
    noise = cv2.GaussianBlur(np.random.default_rng(seed).normal(0, 60, (height, width)), (0, 0), 1.5)
    rgb = np.clip(np.array([150, 70, 140]) + noise[..., None], 20, 225)
    return np.where(mask[..., None], rgb, 240).astype(np.uint8), mask


def on_wide_glass(rgb: np.ndarray, with_control: bool = True) -> np.ndarray:
    """The picture at the left of a wide slide, the control tissue at its right."""
    glass = np.full((SHAPE[0], 1000, 3), 240, np.uint8)
    glass[:, :SHAPE[1]] = rgb
    if with_control:
        x, y, width, height = CONTROL
        glass[y:y + height, x:x + width] = control()[0]
    return glass


def write_stack(root: Path, pictures: dict[int, np.ndarray], more: str = "") -> Layout:
    """A root of sample S with these pictures, UM um per px. more: further keys of the sample, YAML flow."""
    layout = Layout(root)
    for layer, rgb in pictures.items():
        path = layout.new_image("S", layer, ".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rgb).save(path)
    say(layout, list(pictures), more)
    return layout


def say(layout: Layout, layers: list[int], more: str = "") -> None:
    """Write dataset.yaml."""
    layout.config.write_text(f"dataset: toy\npitch_px: {PITCH_PX}\npitch_um: {PITCH_PX * UM}\n"
                             f"samples: {{S: {{layers: {layers}, {more}}}}}\n")


def block(layer: int) -> np.ndarray:
    """One of three neighbouring sections of a block, (h, w, 3) uint8."""
    return warped(section(), WARPS[layer], stain=(1, 1.1, 1) if layer == 2 else (1, 1, 1))


def shrunk(rgb: np.ndarray, factor: float) -> np.ndarray:
    return cv2.resize(rgb, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
