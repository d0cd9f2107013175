"""Two processes on one root at once: the same step, a step and the next, a training twice."""
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.fault_parts.server import Outcome, begin, end, linked_copy
from benchmarks.fault_parts.stack import LIMIT_S, ORDER, differing, options_of, prepare, snapshot, tree


def pairs(only: list[str]) -> list[tuple[str, str]]:
    """(first, second): every script with itself, and with the one before it."""
    scripts = [name for name in ORDER if not only or name in only]
    with_earlier = [(ORDER[ORDER.index(name) - 1], name) for name in scripts if name != ORDER[0]]
    return [(name, name) for name in scripts] + with_earlier


def tries(work: Path, n: int, seed: int, only: list[str]) -> Iterator[dict]:
    """One row per try; the second process starts up to half a run after the first."""
    seconds = prepare(work)
    for first, second in pairs(only):
        rng = np.random.default_rng([seed, ORDER.index(first), ORDER.index(second)])
        for delay in rng.uniform(0, seconds[first] / 2, n):
            root = linked_copy(snapshot(work, first), work / "try")
            running = begin(first, options_of(first, root), work / "log1")
            time.sleep(delay)
            later = begin(second, options_of(second, root), work / "log2")
            outcomes = [end(later, work / "log2", LIMIT_S), end(running, work / "log1", LIMIT_S)]
            ended = judged(outcomes, root, work, first, second)
            yield {"step": second, "case": f"beside {first}, {delay:.2f} s later", **ended}


def stack_after(work: Path, script: str) -> Path:
    """The snapshot after an undisturbed run of the script."""
    return snapshot(work, ORDER[ORDER.index(script) + 1] if script != ORDER[-1] else "end")


def judged(outcomes: list[Outcome], root: Path, work: Path, first: str, second: str) -> dict:
    """Both succeed with the outputs of one process; or the one that found the other at work ends with one line."""
    if any(one.code is None for one in outcomes):
        return {"outcome": "hang", "detail": ""}
    for one in outcomes:
        if one.code not in (0, 2) or "Traceback" in one.err:
            return {"outcome": "traceback", "detail": one.last_line}
    lines = outcomes[0].err.splitlines() + outcomes[1].err.splitlines()
    messages = [line for line in lines if "left out" in line or line.startswith("error: ")]
    found, expected = tree(root), tree(stack_after(work, first if messages else second))
    # if an input is replaced while it is read, the recipe names the old one: the next start runs the step again
    changed = [name for name in differing(found, expected) if not name.startswith(".recipes")]
    if first == "0_make_demo":  # `prepare` edits its dataset.yaml
        changed = [name for name in changed if name != "dataset.yaml"]
    if messages:
        changed = [name for name in changed if name in expected and not name.startswith("status")]
    if changed:
        lost = any(name not in found for name in changed)
        return {"outcome": "lost file" if lost else "silently wrong", "detail": f"{changed[:3]} {messages[:1]}"}
    if any(one.code == 2 for one in outcomes):
        return {"outcome": "one clear line", "detail": messages[0] if messages else ""}
    return {"outcome": "left out", "detail": messages[0]} if messages else {"outcome": "ok", "detail": ""}
