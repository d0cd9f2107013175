"""Every script on a disk that runs full, and on one that may only be read: one line, old files whole, nothing half-written."""
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.fault_parts.server import Outcome, run
from benchmarks.fault_parts.stack import LIMIT_S, ORDER, options_of, prepare, snapshot, tree

SIZE_BYTES = 2**30
FREE_SHARES = (0.0, 0.2, 0.6, 0.9)      # of what a script writes: so much room is left
NO_OVERWRITE = ("predict_3d", "report")


@contextmanager
def small_disk(folder: Path):
    """A tmpfs at the folder, empty. Raises PermissionError where nobody may mount."""
    folder.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs", folder], capture_output=True, text=True, check=False)
    if made.returncode:
        raise PermissionError(made.stderr.strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def fill(disk: Path, free_bytes: int) -> None:
    """Leave so much room."""
    with open(disk / "filler", "wb") as stream:
        for _ in range(max(0, shutil.disk_usage(disk).free - free_bytes) // 4096):
            stream.write(bytes(4096))


def written_bytes(before: Path, after: Path) -> int:
    """What a script adds to its root."""
    size = lambda root: {path.relative_to(root): path.stat().st_size for path in root.rglob("*") if path.is_file()}
    old, new = size(before), size(after)
    return sum(n for path, n in new.items() if path not in old)


def tries(work: Path, n: int, seed: int, only: list[str]) -> Iterator[dict]:
    """A row a try."""
    prepare(work)
    disk = work / "disk"
    for script in [name for name in ORDER if not only or name in only]:
        following = ORDER[ORDER.index(script) + 1] if script != ORDER[-1] else "end"
        before, after = snapshot(work, script), snapshot(work, following)
        for again in (False, True):
            if again and script in NO_OVERWRITE:
                continue
            source, options = (snapshot(work, "end"), ["--overwrite"]) if again else (before, [])
            for case in (*FREE_SHARES, "read-only"):
                name = f"{'again, ' if again else ''}{case if case == 'read-only' else f'room for {case:.0%}'}"
                try:
                    with small_disk(disk):
                        yield {"step": script, "case": name, **one_try(script, work, disk, source, options, case, written_bytes(before, after))}
                except PermissionError as error:
                    print(f"not tried: nobody may mount here ({error})")
                    return


def one_try(script: str, work: Path, disk: Path, source: Path, options: list[str], case: float | str, n_bytes: int) -> dict:
    """Outcome and detail of a run of the script on a full disk."""
    root = disk / "root"
    shutil.copytree(source, root, symlinks=True)
    old = tree(root)
    if case == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    else:
        fill(disk, int(n_bytes * case))
    outcome = run(script, [*options_of(script, root), *options], work / "log", LIMIT_S)
    if case == "read-only":
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    (disk / "filler").unlink(missing_ok=True)
    return judged(outcome, root, old)


def judged(outcome: Outcome, root: Path, old: dict[str, str]) -> dict:
    """One line and exit 2, or a run that had room enough; and no file is gone, half a file or a temporary one."""
    if outcome.code is None:
        return {"outcome": "hang", "detail": ""}
    if outcome.code not in (0, 2) or "Traceback" in outcome.err:
        return {"outcome": "traceback", "detail": (outcome.err.strip().splitlines() or [f"exit {outcome.code}"])[-1]}
    gone = [name for name in old if not (root / name).is_file() and not name.startswith((".recipes", "runs/"))]
    files = [path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock" and "tensorboard" not in path.parts]
    halves = [path.name for path in files if path.name.startswith(".") and path.name != ".files.json" or not path.stat().st_size]
    if gone or halves:
        return {"outcome": "lost file", "detail": f"gone {gone[:2]}, half-written {halves[:2]}"}
    if outcome.code == 2:
        return {"outcome": "one clear line" if len(outcome.error_lines) == 1 else "traceback", "detail": "; ".join(outcome.err.splitlines())}
    return {"outcome": "left out" if "left out" in outcome.err else "ok", "detail": outcome.err.strip()}
