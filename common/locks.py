"""Locks between processes: a run folder has one writer, and status.json one at a time."""
import fcntl
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from common.errors import DataError

_HELD: list[IO] = []  # locks of this process, until the end of `guarded`


def hold(folder: Path) -> None:
    """Keep other processes out of a run folder until `guarded` ends. Raises DataError if one is at work in it."""
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    stream = open(folder.with_name(f".{folder.name}.lock"), "w")  # beside it: the folder itself may be set aside
    _HELD.append(stream)
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DataError(folder, "another process at work in it", "one at a time", "wait for its end, or give another folder") from None


def release() -> None:
    """Give up every lock of this process. A forked worker gives up its copies; the locks stay its parent's."""
    while _HELD:
        _HELD.pop().close()


@contextmanager
def locked(path: Path):
    """Hold an exclusive lock: steps of Snakemake write the same status file."""
    with open(path.with_suffix(".lock"), "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
