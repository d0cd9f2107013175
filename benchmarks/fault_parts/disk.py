"""Run every script on a full disk and on a read-only disk: one line, old files whole, nothing half-written."""
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.fault_parts.server import Outcome, run
from benchmarks.fault_parts.stack import LIMIT_S, ORDER, options_of, prepare, snapshot, tree

SIZE_BYTES = 2**30
FREE_SHARES = (0.0, 0.2, 0.6, 0.9)      # free space, as a share of what a script writes
NO_OVERWRITE = ("predict_3d", "report")


@contextmanager
def small_disk(folder: Path):
    """Mount an empty tmpfs at the folder. Raises PermissionError if mounting is not permitted."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs", folder]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        raise PermissionError(mounted.stderr.strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def fill(disk: Path, free_bytes: int) -> None:
    """Fill the disk up to `free_bytes` of free space."""
    with open(disk / "filler", "wb") as stream:
        for _ in range(max(0, shutil.disk_usage(disk).free - free_bytes) // 4096):
            stream.write(bytes(4096))


def written_bytes(before: Path, after: Path) -> int:
    """Size of the files that a script adds to its root."""
    old, new = sizes(before), sizes(after)
    return sum(n for path, n in new.items() if path not in old)


def sizes(root: Path) -> dict[Path, int]:
    """{file, relative to the root: bytes}."""
    return {path.relative_to(root): path.stat().st_size for path in root.rglob("*") if path.is_file()}


def tries(work: Path, n: int, seed: int, only: list[str]) -> Iterator[dict]:
    """One row per try, of a first run and of one with --overwrite."""
    prepare(work)
    disk = work / "disk"
    for script in [name for name in ORDER if not only or name in only]:
        following = ORDER[ORDER.index(script) + 1] if script != ORDER[-1] else "end"
        before, after = snapshot(work, script), snapshot(work, following)
        n_bytes = written_bytes(before, after)
        for again in (False, True):
            if again and script in NO_OVERWRITE:
                continue
            source, options = (snapshot(work, "end"), ["--overwrite"]) if again else (before, [])
            for case in (*FREE_SHARES, "read-only"):
                name = case if case == "read-only" else f"room for {case:.0%}"
                try:
                    with small_disk(disk):
                        ended = one_try(script, work, disk, source, options, case, n_bytes)
                        yield {"step": script, "case": f"again, {name}" if again else name, **ended}
                except PermissionError as error:
                    print(f"not tried: mounting is not permitted ({error})")
                    return


def one_try(script: str, work: Path, disk: Path, source: Path, options: list[str], case: float | str,
            n_bytes: int) -> dict:
    """Outcome and detail of a run of the script on a disk with room for a share of `n_bytes`, or a read-only one."""
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
    """Outcome and detail: exit 2 and one line, or a run with enough room; no file lost, half-written or temporary."""
    if outcome.code is None:
        return {"outcome": "hang", "detail": ""}
    if outcome.code not in (0, 2) or "Traceback" in outcome.err:
        return {"outcome": "traceback", "detail": outcome.last_line}
    gone = [name for name in old if not (root / name).is_file() and not name.startswith((".recipes", "runs/"))]
    halves = []
    for path in root.rglob("*"):
        if not path.is_file() or path.suffix == ".lock" or "tensorboard" in path.parts:
            continue
        temporary = path.name.startswith(".") and path.name != ".files.json"
        if temporary or not path.stat().st_size:
            halves.append(path.name)
    if gone or halves:
        return {"outcome": "lost file", "detail": f"gone {gone[:2]}, half-written {halves[:2]}"}
    if outcome.code == 2:
        kind = "one clear line" if len(outcome.error_lines) == 1 else "traceback"
        return {"outcome": kind, "detail": "; ".join(outcome.err.splitlines())}
    return {"outcome": "left out" if "left out" in outcome.err else "ok", "detail": outcome.err.strip()}
