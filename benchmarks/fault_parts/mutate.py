"""Every input file of every step broken: what does the step say, and do the other sections go on?"""
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks.fault_parts.mutations import BYTES, ROWS, mutate
from benchmarks.fault_parts.server import Outcome, linked_copy, run
from benchmarks.fault_parts.stack import PHOTOGRAPHED, TRAINING, differing, options_of, prepare, snapshot, tree
from common.layout import PIPELINE, Layout, RunLayout

STEPS = (*PIPELINE, *TRAINING)
LIMIT_S = 60.0
MEASURED = ("imgs", "location", "counts")       # what a person brings: nothing that is made before says what must be in it
OF_DATASET = ("genes.csv", "background.csv")
UNNOTICED = ("flipped", "scaled")               # of a value that is as good as another


def inputs_of(root: Path, step: str) -> list[Path]:
    """The files that a step reads for one section, pair or block: those of its recipe; of a training and what follows, by hand."""
    layout, deep = Layout(root), RunLayout(root / "runs/3d")
    graphs = [layout.npy_3d("A"), layout.graph_3d("A"), layout.quality("A"), layout.spot_iou("A"), layout.genes]
    by_hand = {"main": [layout.npy("A", 1), layout.graph("A", 1), layout.genes, layout.member_counts(224, "A", 2)],
               "main_3d": [*graphs, layout.member_counts(224, "A", 2)],
               "predict_3d": [*graphs, layout.thumbnail_info("A", 2), deep.splits, deep.genes, deep.checkpoint(0)],
               "report": [deep.metrics_json, deep.splits, deep.runtime, deep.config, deep.genes, deep.imputed("A", 1), layout.quality("A"),
                          layout.thumbnail("A", 1), layout.mask("A", 1), layout.thumbnail_info("A", 1), layout.overlay("A", 1, 2)]}
    if step in by_hand:
        return by_hand[step]
    unit = "_".join(map(str, PHOTOGRAPHED)) if step == "0_3_spot_grid" else "A_1"
    names = [f"{name}.json" for name in (unit, "A", "dataset")]
    recipe = next(path for name in names if (path := root / ".recipes" / step / name).is_file())
    files = [root / name for name in json.loads(recipe.read_text())["inputs"]]
    return [path for path in files if path.is_file()]


def others_of(root: Path, path: Path) -> dict[str, Path | None]:
    """A file of the same kind of another section or block, and one of another kind."""
    names = {"1": "2", "2": "1", "3": "2", "A": "B", "B": "A", "1_to_2": "3_to_2", "3_to_2": "1_to_2", "1_spots": "2_spots", "1_regions": "2_regions",
             "1_mask": "2_mask"}
    same = path.with_name(names[path.stem] + path.suffix) if path.stem in names else None
    return {"other section": same, "other kind": root / "gene_expression/genes.csv" if path.suffix != ".csv" else root / "dataset.yaml"}


def tries(work: Path, n: int, seed: int, only: list[str]) -> Iterator[dict]:
    """A row a try."""
    prepare(work)
    root = work / "try"
    for step in [name for name in STEPS if not only or name in only]:
        first = linked_copy(snapshot(work, "end"), root)
        expected, files = tree(first), [path.relative_to(first) for path in inputs_of(first, step)]
        for number, name in enumerate(files):
            rng = np.random.default_rng([seed, STEPS.index(step), number])
            kinds = [kind for _ in range(5 * n) for kind in rng.permutation([*BYTES, *ROWS])]
            yield from islice((row for kind in kinds for row in one_try(work, step, name, str(kind), rng, expected)), n)


def one_try(work: Path, step: str, name: Path, how: str, rng: np.random.Generator, expected: dict[str, str]) -> Iterator[dict]:
    """The row of a try, or none if the file cannot be broken in this way."""
    root = linked_copy(snapshot(work, "end"), work / "try")
    path = root / name
    try:
        if not mutate(path, how, rng, others_of(root, path)):
            return
    except Exception:  # a mutation that this file's form does not take
        return
    options = [*options_of(step, root), *(["--overwrite"] if step in ("main", "main_3d") else [])]
    outcome = run(step, options, work / "log", LIMIT_S if step not in ("main", "main_3d", "predict_3d") else 5 * LIMIT_S)
    changed = [other for other in differing(tree(root), expected) if other != str(name) and not uncompared(other, step)]
    yield {"step": step, "case": f"{name} {how}", **judged(root, step, name, how, outcome, changed)}


def uncompared(other: str, step: str) -> bool:
    """What says of which bytes an output was made; and predictions, which a training removes."""
    made_of = other.startswith((".recipes", "status.json")) or other.endswith(("recipe.json", "metrics.json"))
    return made_of or step == "main_3d" and "imputed" in other


def judged(root: Path, step: str, name: Path, how: str, outcome: Outcome, changed: list[str]) -> dict:
    """How a try ended."""
    say = lambda kind, detail="": {"outcome": kind, "detail": detail}
    if outcome.code is None:
        return say("hang")
    if outcome.code not in (0, 2) or "Traceback" in outcome.err:
        return say("traceback", (outcome.err.strip().splitlines() or [f"exit {outcome.code}"])[-1])
    notes = json.loads((root / "status.json").read_text())
    own = {"A", "B", "dataset"} if name.name in OF_DATASET else {"A", "dataset"} if not {"B", "B.csv"} & set(name.parts) else {"B", "dataset"}
    stopped = [unit for unit, steps in notes.items() if unit.partition("/")[0] not in own and steps.get(step, "ok") not in ("ok", "no image")]
    if outcome.code == 2:
        if len(outcome.error_lines) != 1:
            return say("traceback", f"exit 2 with {len(outcome.error_lines)} lines")
        of_all = name.name in OF_DATASET or name.parts[0] == "runs" or step == "0_3_spot_grid" or step in TRAINING and "out of date" in outcome.err
        return say("one clear line" if of_all else "lost file", outcome.error_lines[0])
    lost = [other for other in changed if not (root / other).exists() and not of_section(other, name)]
    if stopped or lost:
        return say("lost file", f"others stopped: {stopped} {lost[:3]}")
    left_out = [f"{unit}: {steps[step]}" for unit, steps in notes.items() if steps.get(step, "ok").startswith("left out")]
    if left_out or "left out" in outcome.err or "left out" in outcome.out:
        return say("left out", (left_out or outcome.err.splitlines() or [""])[0])
    if not changed:
        return say("ok")
    if how in UNNOTICED or name.parts[0] in MEASURED or "used as it is" in outcome.err:
        return say("valid", " ".join(changed[:3]))
    return say("silently wrong", " ".join(changed[:3]))


def of_section(other: str, name: Path) -> bool:
    """An output of the block whose file was broken may go."""
    return "/A" in other or "A." in other or "/B/3" in other or other.startswith("runs") or name.name in OF_DATASET
