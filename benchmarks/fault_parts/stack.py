"""The small stack that faults are tried on: a demo of two blocks, one section of it only photographed, after every step, and after each."""
import hashlib
import json
import shutil
from pathlib import Path

import yaml

from benchmarks.fault_parts.server import linked_copy, run
from common.layout import PIPELINE, Layout

DEMO = ["--n_samples", "2", "--n_layers", "3", "--size_px", "640", "--seed", "0"]
PHOTOGRAPHED = ("B", 3)
CONFIG = {"features": ["backbone", "stain"], "n_genes": 40, "folds": None}
FAST = ["--gpu", "cpu", "--num_workers", "1"]
TRAINING = {"main_3d": ["--max_iterations", "3", "--members", "1", *FAST], "main": ["--max_iterations", "10", "--members", "1", *FAST],
            "predict_3d": ["--gpu", "cpu"], "report": []}
ORDER = ("0_make_demo", *PIPELINE, *TRAINING)
UNCOMPARED = ("runtime.json", "report.html", "status.lock")     # seconds and memory; empty
TIMES = ("seconds", "training_seconds")
LIMIT_S = 600.0


def options_of(script: str, root: Path) -> list[str]:
    """How a script is started on the stack."""
    if script == "0_make_demo":
        return ["--root_path", str(root), *DEMO]
    if script not in TRAINING:
        return ["--root_path", str(root)]
    return ["--root_path", str(root), "--save_path", str(root / "runs" / ("2d" if script == "main" else "3d")), *TRAINING[script]]


def snapshot(work: Path, script: str) -> Path:
    """The stack as it stands before this script (`end`: after all)."""
    return work / "before" / script


def prepare(work: Path) -> dict[str, float]:
    """Make the snapshots unless they are there: {script: seconds}. Raises RuntimeError if a script fails undisturbed."""
    durations = work / "seconds.json"
    if durations.is_file():
        return json.loads(durations.read_text())
    shutil.rmtree(work / "before", ignore_errors=True)
    root, seconds = work / "before" / "root", {}
    root.mkdir(parents=True)
    for script in ORDER:
        linked_copy(root, snapshot(work, script))
        outcome = run(script, options_of(script, root), work / "log", LIMIT_S)
        if outcome.code != 0 or "left out" in outcome.err:
            raise RuntimeError(f"{script} failed undisturbed: {outcome}")
        seconds[script] = outcome.seconds
        print(f"{script}: {outcome.seconds:.1f} s", flush=True)
        if script == "0_make_demo":
            own_config(root)
    linked_copy(root, snapshot(work, "end"))
    durations.write_text(json.dumps(seconds, indent=2))
    return seconds


def own_config(root: Path) -> None:
    """Few genes, and one section without spots or counts."""
    layout = Layout(root)
    for path in (layout.location(*PHOTOGRAPHED), layout.counts(*PHOTOGRAPHED)):
        path.unlink()
    values = yaml.safe_load(layout.config.read_text()) | CONFIG
    layout.config.unlink()
    layout.config.write_text(yaml.safe_dump(values, sort_keys=False))


def tree(root: Path) -> dict[str, str]:
    """{file below root: digest of what must not depend on when and where it was made}."""
    return {str(path.relative_to(root)): digest(path, root) for path in sorted(root.rglob("*"))
            if path.is_file() and path.name not in UNCOMPARED and "tensorboard" not in path.parts}


def digest(path: Path, root: Path) -> str:
    content = path.read_bytes()
    if path.suffix in (".json", ".yaml", ".csv") or path.name == "checkpoint.pt":
        content = content.replace(str(root).encode(), b"ROOT")
    if path.name == "result.json":
        content = json.dumps({key: value for key, value in json.loads(content).items() if key not in TIMES}).encode()
    return hashlib.sha256(content).hexdigest()


def differing(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Files that are missing, too many, or of other bytes."""
    return sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
