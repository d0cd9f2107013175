"""Run a script's main in a process forked from one that has imported everything: a try spends no seconds on imports."""
import contextlib
import importlib.util
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from common.layout import REPOSITORY, SCRIPTS

FOLDERS = (*SCRIPTS, ".")
HEAVY = (
    "anndata", "scanpy", "torch", "ants", "cv2", "h5py", "openslide", "tifffile", "sklearn.linear_model", "shapely",
    "timm", "torch.utils.tensorboard", "tensorboard.backend.event_processing.event_accumulator",
    "evaluation.runs", "training.three_d", "training.two_d", "training.reference_recipe",
    "dataloader", "dataloader_3d", "predict_3d", "report_parts.gather")
POLL_SECONDS = 0.005


@dataclass(frozen=True)
class Outcome:
    """How a try ended. code: exit status, -9 if killed, None if it was still running at the limit and was ended."""
    code: int | None
    out: str
    err: str
    seconds: float

    @property
    def error_lines(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error: ")]

    @property
    def last_line(self) -> str:
        """Last line of stderr, or the exit status if stderr is empty."""
        return (self.err.strip().splitlines() or [f"exit {self.code}"])[-1]


def warm_up() -> None:
    """Import once what the scripts import."""
    for name in HEAVY:
        importlib.import_module(name)


def load(script: str):
    """Load a script as a module, by its name without suffix."""
    path = next(path for folder in FOLDERS if (path := REPOSITORY / folder / f"{script}.py").is_file())
    spec = importlib.util.spec_from_file_location(f"script_{script.replace('.', '_')}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def begin(script: str, options: list[str], folder: Path) -> int:
    """Start the script in its own process group; its output goes to <folder>/out and <folder>/err. Returns the PID."""
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    os.setsid()
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    code = 1
    try:
        code = load(script).main([str(option) for option in options])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback
        traceback.print_exc()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def end(process: int, folder: Path, limit_s: float, kill_at_s: float | None = None) -> Outcome:
    """Wait for a process that `begin` started; kill its whole group at `kill_at_s`, or at the limit."""
    started = time.perf_counter()
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        seconds = time.perf_counter() - started
        if done:
            code = os.waitstatus_to_exitcode(status)
            break
        if seconds > (kill_at_s if kill_at_s is not None else limit_s):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            code = -9 if kill_at_s is not None else None
            break
        time.sleep(POLL_SECONDS)
    return Outcome(code, printed(folder / "out"), printed(folder / "err"), seconds)


def printed(file: Path) -> str:
    return file.read_text(errors="replace") if file.is_file() else ""


def run(script: str, options: list[str], folder: Path, limit_s: float = 60.0,
        kill_at_s: float | None = None) -> Outcome:
    """Run the script to its end, or until it is killed."""
    return end(begin(script, options, folder), folder, limit_s, kill_at_s)


def linked_copy(source: Path, target: Path) -> Path:
    """Copy a folder with hard links for files: our writers replace files and never write into one."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=os.link, symlinks=True)
    return target
