"""One colour scale a gene: limits over all sections, perceptual and colour-blind-safe colour maps, colour bars."""
import html
from dataclasses import dataclass

import numpy as np

EXPRESSION, ERROR, CONFIDENCE = "viridis", "RdBu_r", "cividis"  # matplotlib's names
PERCENTILES = (4, 96)   # of values: become the ends of a scale
MIN_RANGE = 0.5         # doublings: a scale is never narrower, so that noise is not magnified
BAR_STOPS = 17


@dataclass(frozen=True)
class Scale:
    """From values to the colours 1..255 of a map; 0 is no value."""
    low: float
    high: float
    colours: str                     # name of the colour map
    ticks: list[tuple[float, str]]   # value, label
    title: str

    def levels(self, values: np.ndarray) -> np.ndarray:
        """(n,) float -> (n,) uint8: 1..255 along the scale (beyond its ends: the end), 0 where there is no value."""
        share = np.clip((values - self.low) / (self.high - self.low), 0, 1)
        return np.where(np.isfinite(values), np.rint(np.nan_to_num(share) * 254) + 1, 0).astype(np.uint8)

    def bar(self) -> str:
        """The colour bar as HTML."""
        table = lut(self.colours)[np.linspace(1, 255, BAR_STOPS).round().astype(int)]
        stops = ",".join("#" + bytes(colour).hex() for colour in table)
        ticks = ""
        for value, label in self.ticks:
            left = 100 * (value - self.low) / (self.high - self.low)
            ticks += f'<span style="left:{left:.1f}%">{html.escape(label)}</span>'
        return (f'<div class="bar"><p>{html.escape(self.title)}</p>'
                f'<div style="background:linear-gradient(90deg,{stops})"></div>'
                f'<div class="ticks">{ticks}</div></div>')


def lut(name: str) -> np.ndarray:
    """(256, 3) uint8: row 1..255 from the low to the high end, row 0 not used."""
    import matplotlib
    share = np.linspace(-1 / 254, 1, 256).clip(0, 1)
    return np.rint(matplotlib.colormaps[name](share)[:, :3] * 255).astype(np.uint8)


def expression_scale(*values: np.ndarray, unit: str = "mean of the known sections") -> Scale:
    """The scale for all values of one gene in all sections.

    values: measured (n,) and predicted (m,), doublings over `unit`. Their percentiles are taken separately, because a
    dense grid of predictions has many more spots.
    """
    ends = np.array([np.percentile(one[np.isfinite(one)], PERCENTILES) for one in values])
    low, high = _widened(ends[:, 0].min(), ends[:, 1].max())
    return Scale(low, high, EXPRESSION, fold_ticks(low, high), f"expression; 1× = {unit} (log₂ scale)")


def error_scale(errors: np.ndarray) -> Scale:
    """The scale, symmetric about 0, of predicted − measured of one gene in all measured sections, doublings."""
    finite = np.abs(errors[np.isfinite(errors)])
    high = max(float(np.percentile(finite, PERCENTILES[1])) if len(finite) else 0.0, MIN_RANGE / 2)
    return Scale(-high, high, ERROR, fold_ticks(-high, high), "predicted ÷ measured; 1× = equal (log₂ scale)")


def _widened(low: float, high: float) -> tuple[float, float]:
    more = max(0.0, MIN_RANGE - (high - low)) / 2
    return float(low - more), float(high + more)


def fold_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Ticks of a log2 scale, at most seven, labelled as folds: 0.5×, 1×, 2×."""
    step = next(step for step in (0.25, 0.5, 1, 2, 4, 8, 16) if (high - low) / step <= 6)
    return [(float(value), f"{2 ** value:.2g}×" if value < 6 else f"{round(2 ** value)}×")
            for value in np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step]
