"""One thread for linear algebra.

The last bits of a product depend on how threads split its sums, and a later choice can depend on these bits. Threads of
two busy processes also wait for each other: work is shared between processes, not within a product. A library can be
limited only once it is loaded, and NumPy and SciPy each bring an OpenBLAS of their own. So the limit is set where the
work is done.
"""
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache


@lru_cache(maxsize=1)
def _thread_pools(n_modules: int):
    """The thread pools of all loaded libraries. The search takes milliseconds and is repeated after an import."""
    from threadpoolctl import ThreadpoolController
    return ThreadpoolController()


@contextmanager
def one_thread() -> Iterator[None]:
    """As a decorator or in a `with`: the loaded ones of NumPy, SciPy, scikit-learn and torch use one thread."""
    import scipy.linalg  # noqa: F401  SciPy's OpenBLAS is loaded by this module only
    torch = sys.modules.get("torch")
    n_torch = torch.get_num_threads() if torch else 1
    with _thread_pools(len(sys.modules)).limit(limits=1):
        if torch and n_torch > 1:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            if torch and n_torch > 1:
                torch.set_num_threads(n_torch)


def limit_process_to_one_thread() -> None:
    """The same for the rest of this process and the processes forked from it."""
    import scipy.linalg  # noqa: F401
    import torch
    from threadpoolctl import threadpool_limits
    threadpool_limits(1)
    torch.set_num_threads(1)
