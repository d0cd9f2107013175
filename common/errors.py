"""The two kinds of failure.

DataError   the config, the root or a file's form is wrong: one line, exit code 2, before any work is done.
LayerError  one layer (or sample) cannot be processed: one line, an entry in status.json, the others go on.
"""
from pathlib import Path


class DataError(Exception):
    """A wrong config, root or schema. `str(error)` is one line: file, found, expected, fix."""

    def __init__(self, file: Path | str, found: str, expected: str, fix: str):
        super().__init__(_one_line(f"{file}: found {found}; expected {expected}; fix: {fix}"))


class LayerError(Exception):
    """A layer that cannot be processed. `str(error)` is one line: file, found, expected, fix."""

    def __init__(self, file: Path | str, found: str, expected: str, fix: str):
        super().__init__(_one_line(f"{file}: found {found}; expected {expected}; fix: {fix}"))


def _one_line(text: str) -> str:
    return " ".join(text.split())
