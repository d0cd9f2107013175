"""Work side by side: results of forked workers, in order."""
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from common.errors import DataError
from common.locks import release

_FORKED: Callable | None = None  # the function that forked workers call; set just before they are made


def n_cores() -> int:
    """CPU cores that this process may use; all cores where the system does not say which (macOS)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _call_forked(unit: tuple):
    assert _FORKED is not None
    return _FORKED(unit)


def _end_with_the_parent() -> None:
    """A worker holds no lock of its parent, and ends with it (Linux) even where that was killed."""
    import ctypes
    release()
    if sys.platform == "linux":
        set_signal_of_parents_end = 1  # PR_SET_PDEATHSIG of prctl.h
        ctypes.CDLL(None).prctl(set_signal_of_parents_end, signal.SIGKILL)


def map_workers(function: Callable, units: list, workers: int):
    """Results in order; on several processes if workers > 1 (forked: jobs are closures)."""
    global _FORKED
    if workers <= 1:
        yield from map(function, units)
        return
    _FORKED = function
    with ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _end_with_the_parent) as pool:
        try:
            yield from pool.map(_call_forked, units)
        except BrokenProcessPool:
            raise DataError("--num_workers", f"one of {workers} processes that was ended from outside",
                            "memory for all of them", "set fewer --num_workers") from None
    _FORKED = None
