"""Locks between processes: a run folder has one writer, and status.json one at a time."""
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import DataError

if TYPE_CHECKING:
    from filelock import FileLock

_HELD: list["FileLock"] = []  # locks of this process, until the end of `guarded`


def _lock(path: Path) -> "FileLock":
    """The kernel's lock on a file. It ends with its process; a forked worker neither keeps nor frees it."""
    from filelock import FileLock
    return FileLock(path, thread_local=False, fallback_to_soft=False, poll_interval=0.01)


def hold(folder: Path) -> None:
    """Keep other processes out of a run folder until `guarded` ends. Raises DataError if one is at work in it."""
    from filelock import Timeout
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder.with_name(f".{folder.name}.lock"))  # beside it: the folder itself may be set aside
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise DataError(folder, "another process at work in it", "one at a time",
                        "wait for its end, or give another folder") from None
    _HELD.append(lock)


def release() -> None:
    """Give up every lock of this process. A forked worker gives up its copies; the locks stay its parent's."""
    while _HELD:
        _HELD.pop().release()


@contextmanager
def locked(path: Path):
    """Hold an exclusive lock: steps of Snakemake write the same status file."""
    with _lock(path.with_suffix(".lock")):
        yield
