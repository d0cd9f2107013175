"""The start of a training or prediction: seeds, memory, threads and the torch device."""
import os
import sys

from common.errors import DataError
from common.threads import limit_process_to_one_thread


def start_torch(seed: int, gpu: str | None):
    """Set memory, seeds and one thread, and choose the device, which is returned. Raises DataError."""
    keep_freed_memory()
    limit_process_to_one_thread()
    seed_everything(seed)
    return choose_device(gpu)


def seed_everything(seed: int) -> None:
    """Seed every generator and ask for deterministic kernels."""
    import random

    import numpy as np
    import torch
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)


def choose_device(gpu: str | None):
    """The torch device: --gpu, else GPU 0 if there is one, else the CPU.

    Raises DataError for a number that does not exist.
    """
    import torch
    if gpu in ("cpu", "-1"):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        if gpu is not None:
            print(f"--gpu {gpu}: no CUDA device is visible; running on the CPU", file=sys.stderr)
        return torch.device("cpu")
    number = gpu or "0"
    if not number.isdigit() or int(number) >= torch.cuda.device_count():
        raise DataError("--gpu", number, f"a number below {torch.cuda.device_count()} or 'cpu'", "correct --gpu")
    return torch.device("cuda", int(number))


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks for the next pass: fresh pages cost up to half of the CPU time. Elsewhere a no-op."""
    import ctypes
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
        mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of malloc.h
        ctypes.CDLL(None).mallopt(mmap_threshold, 2**30)
        ctypes.CDLL(None).mallopt(trim_threshold, 2**31 - 1)
