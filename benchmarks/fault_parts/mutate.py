"""Break every input file of every step: does the step report it, and do the other sections go on?"""
import json
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np

from benchmarks.fault_parts.mutations import BYTES, ROWS, mutate
from benchmarks.fault_parts.server import Outcome, linked_copy, run
from benchmarks.fault_parts.stack import PHOTOGRAPHED, TRAINING, differing, options_of, prepare, snapshot, tree
from common.layout import PIPELINE, Layout, RunLayout

STEPS = (*PIPELINE, *TRAINING)
LIMIT_S = 60.0
MEASURED = ("imgs", "location", "counts")       # the user's own files: no earlier step determines their content
OF_DATASET = ("genes.csv", "background.csv")
UNNOTICED = ("flipped", "scaled")               # may turn a value into another plausible one

OTHER_SECTION = {                               # stem of a file: that of another section, pair or block
    "1": "2", "2": "1", "3": "2", "A": "B", "B": "A", "1_to_2": "3_to_2", "3_to_2": "1_to_2",
    "1_spots": "2_spots", "1_regions": "2_regions", "1_mask": "2_mask"}


def inputs_of(root: Path, step: str) -> list[Path]:
    """The files that a step reads for one section, pair or block: from its recipe; from `training_inputs` for mains."""
    if step in TRAINING:
        return training_inputs(root, step)
    unit = "_".join(map(str, PHOTOGRAPHED)) if step == "0_3_spot_grid" else "A_1"
    names = [f"{name}.json" for name in (unit, "A", "dataset")]
    recipe = next(path for name in names if (path := root / ".recipes" / step / name).is_file())
    files = [root / name for name in json.loads(recipe.read_text())["inputs"]]
    return [path for path in files if path.is_file()]


def training_inputs(root: Path, step: str) -> list[Path]:
    """Input files of a main, of predict_3d and of the report, listed by hand."""
    layout, run_3d = Layout(root), RunLayout(root / "runs/3d")
    graphs = [layout.npy_3d("A"), layout.graph_3d("A"), layout.quality("A"), layout.spot_iou("A"), layout.genes]
    if step == "main":
        return [layout.npy("A", 1), layout.graph("A", 1), layout.genes, layout.member_counts(224, "A", 2)]
    if step == "main_3d":
        return [*graphs, layout.member_counts(224, "A", 2)]
    if step == "predict_3d":
        return [*graphs, layout.thumbnail_info("A", 2), run_3d.splits, run_3d.genes, run_3d.checkpoint(0)]
    return [
        run_3d.metrics_json, run_3d.splits, run_3d.runtime, run_3d.config, run_3d.genes, run_3d.imputed("A", 1),
        layout.quality("A"), layout.thumbnail("A", 1), layout.mask("A", 1), layout.thumbnail_info("A", 1),
        layout.overlay("A", 1, 2)]


def others_of(root: Path, path: Path) -> dict[str, Path | None]:
    """A file of the same kind of another section or block, and one of another kind."""
    same = path.with_name(OTHER_SECTION[path.stem] + path.suffix) if path.stem in OTHER_SECTION else None
    other_kind = "gene_expression/genes.csv" if path.suffix != ".csv" else "dataset.yaml"
    return {"other section": same, "other kind": root / other_kind}


def tries(work: Path, n: int, seed: int, only: list[str]) -> Iterator[dict]:
    """One row per try, `n` per file."""
    prepare(work)
    root = work / "try"
    for step in [name for name in STEPS if not only or name in only]:
        first = linked_copy(snapshot(work, "end"), root)
        expected, files = tree(first), [path.relative_to(first) for path in inputs_of(first, step)]
        for number, name in enumerate(files):
            rng = np.random.default_rng([seed, STEPS.index(step), number])
            kinds = np.concatenate([rng.permutation([*BYTES, *ROWS]) for _ in range(5 * n)])
            rows = chain.from_iterable(one_try(work, step, name, str(kind), rng, expected) for kind in kinds)
            yield from islice(rows, n)


def one_try(work: Path, step: str, name: Path, how: str, rng: np.random.Generator,
            expected: dict[str, str]) -> Iterator[dict]:
    """The row of a try, or none if the file cannot be broken in this way."""
    root = linked_copy(snapshot(work, "end"), work / "try")
    path = root / name
    try:
        if not mutate(path, how, rng, others_of(root, path)):
            return
    except Exception:  # this mutation does not apply to the file's form
        return
    options = [*options_of(step, root), *(["--overwrite"] if step in ("main", "main_3d") else [])]
    limit_s = 5 * LIMIT_S if step in ("main", "main_3d", "predict_3d") else LIMIT_S
    outcome = run(step, options, work / "log", limit_s)
    differs = differing(tree(root), expected)
    changed = [other for other in differs if other != str(name) and not uncompared(other, step)]
    yield {"step": step, "case": f"{name} {how}", **judged(root, step, name, how, outcome, changed)}


def uncompared(other: str, step: str) -> bool:
    """True for files that record the bytes of an output's inputs, and for predictions, which a training removes."""
    made_of = other.startswith((".recipes", "status.json")) or other.endswith(("recipe.json", "metrics.json"))
    return made_of or step == "main_3d" and "imputed" in other


def judged(root: Path, step: str, name: Path, how: str, outcome: Outcome, changed: list[str]) -> dict:
    """Outcome and detail of a try."""
    if outcome.code is None:
        return ended("hang")
    if outcome.code not in (0, 2) or "Traceback" in outcome.err:
        return ended("traceback", outcome.last_line)
    statuses = {unit: steps.get(step, "ok") for unit, steps in json.loads((root / "status.json").read_text()).items()}
    if outcome.code == 2:
        if len(outcome.error_lines) != 1:
            return ended("traceback", f"exit 2 with {len(outcome.error_lines)} lines")
        return ended("one clear line" if stops_all(step, name, outcome) else "lost file", outcome.error_lines[0])
    own = units_of(name)
    stopped = [unit for unit, status in statuses.items()
               if unit.partition("/")[0] not in own and status not in ("ok", "no image")]
    lost = [other for other in changed if not (root / other).exists() and not of_section(other, name)]
    if stopped or lost:
        return ended("lost file", f"others stopped: {stopped} {lost[:3]}")
    left_out = [f"{unit}: {status}" for unit, status in statuses.items() if status.startswith("left out")]
    if left_out or "left out" in outcome.err or "left out" in outcome.out:
        return ended("left out", (left_out or outcome.err.splitlines() or [""])[0])
    if not changed:
        return ended("ok")
    if how in UNNOTICED or name.parts[0] in MEASURED or "used as it is" in outcome.err:
        return ended("valid", " ".join(changed[:3]))
    return ended("silently wrong", " ".join(changed[:3]))


def ended(kind: str, detail: str = "") -> dict:
    return {"outcome": kind, "detail": detail}


def units_of(name: Path) -> set[str]:
    """Blocks, and the dataset, that a file belongs to."""
    if name.name in OF_DATASET:
        return {"A", "B", "dataset"}
    return {"A", "dataset"} if not {"B", "B.csv"} & set(name.parts) else {"B", "dataset"}


def stops_all(step: str, name: Path, outcome: Outcome) -> bool:
    """True if a broken file rightly stops the whole command."""
    stale = step in TRAINING and "out of date" in outcome.err
    return name.name in OF_DATASET or name.parts[0] == "runs" or step == "0_3_spot_grid" or stale


def of_section(other: str, name: Path) -> bool:
    """True for an output of the block whose file was broken: it may go."""
    return "/A" in other or "A." in other or "/B/3" in other or other.startswith("runs") or name.name in OF_DATASET
