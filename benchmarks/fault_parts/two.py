"""Two processes on one root at once: the same step, a step and the next, a training twice."""
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.fault_parts.server import Outcome, begin, end, linked_copy
from benchmarks.fault_parts.stack import LIMIT_S, ORDER, differing, options_of, prepare, snapshot, tree


def pairs(only: list[str]) -> list[tuple[str, str]]:
    """(first, second): every script with itself, and with the one before it."""
    scripts = [name for name in ORDER if not only or name in only]
    return [(name, name) for name in scripts] + [(ORDER[ORDER.index(name) - 1], name) for name in scripts if name != ORDER[0]]


def tries(work: Path, n: int, seed: int, only: list[str]) -> Iterator[dict]:
    """A row a try; the second starts up to half a run after the first."""
    seconds = prepare(work)
    for first, second in pairs(only):
        rng = np.random.default_rng([seed, ORDER.index(first), ORDER.index(second)])
        for delay in rng.uniform(0, seconds[first] / 2, n):
            root = linked_copy(snapshot(work, first), work / "try")
            running = begin(first, options_of(first, root), work / "log1")
            paused = end_after(delay)
            later = begin(second, options_of(second, root), work / "log2")
            outcomes = [end(later, work / "log2", LIMIT_S), end(running, work / "log1", LIMIT_S)]
            yield {"step": second, "case": f"beside {first}, {paused:.2f} s later", **judged(outcomes, root, work, first, second)}


def end_after(seconds: float) -> float:
    import time
    time.sleep(seconds)
    return seconds


def judged(outcomes: list[Outcome], root: Path, work: Path, first: str, second: str) -> dict:
    """Both well and the outputs of one process; or one line of the one that found the other at work."""
    if any(one.code is None for one in outcomes):
        return {"outcome": "hang", "detail": ""}
    for one in outcomes:
        if one.code not in (0, 2) or "Traceback" in one.err:
            return {"outcome": "traceback", "detail": (one.err.strip().splitlines() or [f"exit {one.code}"])[-1]}
    following = ORDER[ORDER.index(second) + 1] if second != ORDER[-1] else "end"
    said = [line for one in outcomes for line in one.err.splitlines() if "left out" in line or line.startswith("error: ")]
    after = snapshot(work, following if not said else ORDER[ORDER.index(first) + 1] if first != ORDER[-1] else "end")
    found, expected = tree(root), tree(after)
    # a recipe of an input that was replaced while it was read is that of before: the step is made again at its next start
    changed = [name for name in differing(found, expected) if not name.startswith(".recipes")]
    changed = [name for name in changed if name != "dataset.yaml" or first != "0_make_demo"]  # edited once the demo is made
    changed = [name for name in changed if not said or name in expected and not name.startswith("status")]
    if changed:
        return {"outcome": "lost file" if any(name not in found for name in changed) else "silently wrong", "detail": f"{changed[:3]} {said[:1]}"}
    return {"outcome": "one clear line" if any(one.code == 2 for one in outcomes) else "left out" if said else "ok", "detail": said[0] if said else ""}
