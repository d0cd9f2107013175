"""The two kinds of failure; the text of both is one line: file, found, expected, fix.

DataError   the config, the root or a file of the whole dataset is wrong: exit code 2, before any work is done.
LayerError  one layer (or sample) cannot be processed, or one of its files is wrong: an entry in status.json, the others go on.

A reader raises LayerError; who reads a file of the whole dataset says so (`of_dataset`).
"""
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class _FoundExpectedFix(Exception):
    def __init__(self, file: Path | str, found: str, expected: str, fix: str):
        super().__init__(file, found, expected, fix)  # all four: it must survive the way back from a worker process

    def __str__(self) -> str:
        file, found, expected, fix = self.args
        return " ".join(f"{file}: found {found}; expected {expected}; fix: {fix}".split())


class DataError(_FoundExpectedFix):
    """A wrong config, root or schema."""


class LayerError(_FoundExpectedFix):
    """A layer or sample that cannot be processed."""


@contextmanager
def of_dataset() -> Iterator[None]:
    """The file that is read belongs to the whole dataset or run, not to one layer: its LayerError is a DataError."""
    try:
        yield
    except LayerError as error:
        raise DataError(*error.args) from None
