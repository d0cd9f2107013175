"""The small stack of the fault tests: a demo of two blocks, one section image-only, as it is before every step."""
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
TRAINING = {
    "main_3d": ["--max_iterations", "3", "--members", "1", *FAST],
    "main": ["--max_iterations", "10", "--members", "1", *FAST],
    "predict_3d": ["--gpu", "cpu"],
    "report": []}
ORDER = ("0_make_demo", *PIPELINE, *TRAINING)
UNCOMPARED = ("runtime.json", "report.html", "status.lock")     # seconds and memory; empty
TIMES = ("seconds", "training_seconds")
LIMIT_S = 600.0


def options_of(script: str, root: Path) -> list[str]:
    """Command-line options of a script on the stack."""
    if script == "0_make_demo":
        return ["--root_path", str(root), *DEMO]
    if script not in TRAINING:
        return ["--root_path", str(root)]
    run_path = root / "runs" / ("2d" if script == "main" else "3d")
    return ["--root_path", str(root), "--save_path", str(run_path), *TRAINING[script]]


def snapshot(work: Path, script: str) -> Path:
    """Folder of the stack as it is before this script (`end`: after all scripts)."""
    return work / "before" / script


def prepare(work: Path) -> dict[str, float]:
    """Write the snapshots unless they exist: {script: seconds}. Raises RuntimeError if a script fails undisturbed."""
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
    """Change the demo: few genes, and one section without spots and counts."""
    layout = Layout(root)
    for path in (layout.location(*PHOTOGRAPHED), layout.counts(*PHOTOGRAPHED)):
        path.unlink()
    values = yaml.safe_load(layout.config.read_text()) | CONFIG
    layout.config.unlink()
    layout.config.write_text(yaml.safe_dump(values, sort_keys=False))


def tree(root: Path) -> dict[str, str]:
    """{file below root: digest of the content that must not depend on the time and the place of the run}."""
    digests = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.name not in UNCOMPARED and "tensorboard" not in path.parts:
            digests[str(path.relative_to(root))] = digest(path, root)
    return digests


def digest(path: Path, root: Path) -> str:
    content = path.read_bytes()
    if path.suffix in (".json", ".yaml", ".csv") or path.name == "checkpoint.pt":
        content = content.replace(str(root).encode(), b"ROOT")
    if path.name == "result.json":
        content = json.dumps({key: value for key, value in json.loads(content).items() if key not in TIMES}).encode()
    return hashlib.sha256(content).hexdigest()


def differing(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Files that are missing, unexpected, or of other bytes."""
    return sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
