"""Training curves as inline SVG, from the run's TensorBoard logs."""
import html

import numpy as np

from common.layout import RunLayout

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 520, 240, 58, 40, 10, 12
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito: colour-blind safe
CURVES = {"train/loss": "Loss on hidden training spots", "train/spot": "Spot term of this loss"}


def read_curves(run_layout: RunLayout, folds: list[int]) -> dict[str, dict[str, np.ndarray]]:
    """{tag: {'fold k': (n, 2) step, value}} of every fold that has a log; if a fold has several, of the last."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    curves: dict[str, dict[str, np.ndarray]] = {}
    for fold in folds:
        logs = sorted(run_layout.tensorboard(fold).glob("events.*"))
        if not logs:
            continue
        log = EventAccumulator(str(logs[-1])).Reload()
        for tag in CURVES:
            if tag in log.Tags()["scalars"]:
                points = np.array([(event.step, event.value) for event in log.Scalars(tag)])
                curves.setdefault(tag, {})[f"fold {fold}"] = points
    return curves


def line_chart(series: dict[str, np.ndarray], title: str) -> str:
    """Lines over training steps. series: {name: (n, 2) step, value}."""
    points = np.concatenate(list(series.values()))
    x_ticks, y_ticks = nice_ticks(0, points[:, 0].max()), nice_ticks(points[:, 1].min(), points[:, 1].max())
    low, high = min(y_ticks[0], points[:, 1].min()), max(y_ticks[-1], points[:, 1].max())

    def across(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * x / max(x_ticks[-1], points[:, 0].max(), 1)

    def up(y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (y - low) / (high - low)

    parts, legend = [], []
    for y in y_ticks:
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(y):.1f}" y2="{up(y):.1f}"/>'
                     f'<text x="{LEFT - 6}" y="{up(y) + 4:.1f}" text-anchor="end">{y:.4g}</text>')
    for x in x_ticks:
        parts.append(f'<text x="{across(x):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{x:.4g}</text>')
    parts.append(f'<text x="{(WIDTH + LEFT) / 2}" y="{HEIGHT - 5}" text-anchor="middle">training step</text>')
    for number, (name, line) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line)
        parts.append(f'<polyline points="{path}" stroke="{colour}"/>')
        legend.append(f'<span style="color:{colour}">{html.escape(name)}</span>')
    return (f'<figure class="chart"><figcaption>{html.escape(title)}</figcaption>'
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">{"".join(parts)}</svg>'
            f'<p class="legend">{"".join(legend) if len(legend) > 1 else ""}</p></figure>')


def nice_ticks(low: float, high: float) -> np.ndarray:
    """Round numbers within [low, high], about five."""
    span = (high - low) or abs(high) or 1.0
    step = 10 ** np.floor(np.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 5)
    first, last = np.floor(low / step), np.ceil(high / step)
    return np.arange(first, max(last, first + 1) + 1) * step
