"""Kill every script at a random moment and start it again: are the bytes those of an undisturbed run?"""
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.fault_parts.server import Outcome, linked_copy, run
from benchmarks.fault_parts.stack import LIMIT_S, ORDER, differing, options_of, prepare, snapshot, tree


def tries(work: Path, n: int, seed: int, only: list[str]) -> Iterator[dict]:
    """One row per try. The moments are uniform over the seconds of an undisturbed run."""
    prepare(work)
    for script in [name for name in ORDER if name != "report" and (not only or name in only)]:
        rng, root = np.random.default_rng([seed, ORDER.index(script)]), work / "try"
        undisturbed, seconds = [], []
        for _ in range(2):
            linked_copy(snapshot(work, script), root)
            seconds.append(run(script, options_of(script, root), work / "log", LIMIT_S).seconds)
            undisturbed.append(tree(root))
        changing = differing(*undisturbed)
        yield {"step": script, "case": "undisturbed, twice", "outcome": "silently wrong" if changing else "ok",
               "detail": " ".join(changing[:3])}
        for moment in rng.uniform(0, min(seconds), n):
            linked_copy(snapshot(work, script), root)
            run(script, options_of(script, root), work / "log", LIMIT_S, kill_at_s=moment)
            again = run(script, options_of(script, root), work / "log", LIMIT_S)
            found = tree(root)
            ended = judged(again, differing(found, undisturbed[0]), found)
            yield {"step": script, "case": f"killed after {moment:.2f} s", **ended}


def judged(again: Outcome, changed: list[str], found: dict[str, str]) -> dict:
    """Outcome and detail of the second start."""
    if again.code is None:
        return {"outcome": "hang", "detail": ""}
    if again.code == 2 and len(again.error_lines) == 1:
        return {"outcome": "one clear line", "detail": again.error_lines[0]}
    if again.code != 0 or "Traceback" in again.err:
        return {"outcome": "traceback", "detail": again.last_line}
    if any(name not in found for name in changed):
        return {"outcome": "lost file", "detail": " ".join(changed[:3])}
    return {"outcome": "silently wrong" if changed else "ok", "detail": " ".join(changed[:3])}
