"""The two kinds of failure; the text of both is one line: file, found, expected, fix.

DataError   the config, the root or a file of the whole dataset is wrong: exit code 2, before any work is done.
LayerError  one section (or sample) cannot be processed, or one of its files is wrong: an entry in status.json, and the
            others go on.

A reader raises LayerError; `of_dataset` turns it into a DataError where the file belongs to the whole dataset.
"""
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class _FoundExpectedFix(Exception):
    def __init__(self, file: Path | str, found: str, expected: str, fix: str):
        super().__init__(file, found, expected, fix)  # all four, so that a worker process can pickle it

    def __str__(self) -> str:
        file, found, expected, fix = self.args
        return " ".join(f"{file}: found {found}; expected {expected}; fix: {fix}".split())


class DataError(_FoundExpectedFix):
    """A wrong config, root or schema."""


class LayerError(_FoundExpectedFix):
    """A section or sample that cannot be processed."""


@contextmanager
def of_dataset() -> Iterator[None]:
    """Turn a LayerError into a DataError: the file belongs to the whole dataset or run, not to one section."""
    try:
        yield
    except LayerError as error:
        raise DataError(*error.args) from None
