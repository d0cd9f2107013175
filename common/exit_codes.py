"""How a main function ends: a known error is one line on stderr and exit code 2."""
import sys
from collections.abc import Callable

from common.errors import DataError, LayerError
from common.files import unwritable
from common.locks import release


def guarded(work: Callable[[], int]) -> int:
    """Run a main function; a known error, or a disk that cannot be written, is one line on stderr and exit code 2."""
    line: DataError | LayerError | None
    try:
        return work()
    except (DataError, LayerError) as error:
        line = error
    except OSError as error:
        line = unwritable(error)
        if line is None:
            raise
    finally:
        release()
    print(f"error: {line}", file=sys.stderr)
    return 2


def guarded_training(work: Callable[[], int]) -> int:
    """As guarded, for a training: a loss that is not finite is one line, too."""
    def one_line() -> int:
        try:
            return work()
        except FloatingPointError as error:
            raise DataError("training", str(error), "a finite loss", "check the input with common.cli check") from None
    return guarded(one_line)
