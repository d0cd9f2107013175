"""Option types of the command line: an invalid value is one line and exit code 2, before any work."""
import argparse
import math
from collections.abc import Callable
from typing import NoReturn


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message.removeprefix('argument ')}; --help lists the options\n")


def whole_number(lowest: int, highest: int | None = None) -> Callable[[str], int]:
    """A type for argparse: a whole number within these bounds, both included."""
    expected = f"a whole number, {lowest} or more" if highest is None else f"a whole number, {lowest} to {highest}"

    def parse(text: str) -> int:
        value: int | None
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < lowest or (highest is not None and value > highest):
            raise _refused(text, expected)
        return value
    return parse


def finite_number(expected: str, accepted: Callable[[float], bool]) -> Callable[[str], float]:
    """A type for argparse: a finite number that is `accepted`; the error of any other names `expected`."""
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not accepted(value):
            raise _refused(text, expected)
        return value
    return parse


def _refused(text: str, expected: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"found {text!r}; expected {expected}; fix: give one")


positive_int = whole_number(1)                # workers, members, batch size, steps
count = whole_number(0)                       # a rank, a fold, a layer
seed = whole_number(0, 2 ** 32 - 1)           # what NumPy takes
positive_float = finite_number("a finite number above 0", lambda value: value > 0)
not_negative_float = finite_number("a finite number, 0 or more", lambda value: value >= 0)
