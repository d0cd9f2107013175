"""Reader of other people's pickles: it builds arrays, tensors and graphs, and refuses everything else before it is run.

Arrays are built by the stand-ins of this module. NumPy's own constructors do not check their arguments, not even the
bytes of a pointer.
"""
import io
import pickle
import re
from collections import OrderedDict
from pathlib import Path

import numpy as np

from common.errors import DataError, LayerError

BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, EOFError, RuntimeError,
          pickle.UnpicklingError)
NUMBERS_OR_TEXT = re.compile(r"[?biufU]\d*")


class _Dtype:
    """numpy.dtype: a kind and its byte order."""

    def __init__(self, code: str, align: bool = False, copy: bool = False):
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    def numbers(self) -> np.dtype:
        if not NUMBERS_OR_TEXT.fullmatch(self.code):
            raise pickle.UnpicklingError(f"an array of {self.code}")
        return np.dtype(self.code).newbyteorder(self.order)


class _Array:
    """numpy.ndarray: a list where it holds objects, else the bytes of numbers."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, content = state
        if dtype.code[0] == "O":
            self.array = np.empty(len(content), object)
            self.array[:] = content
        else:
            self.array = np.frombuffer(content, dtype.numbers())
        self.array = self.array.reshape(shape, order="F" if fortran else "C")

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self.array if dtype is None else self.array.astype(dtype)


def _tensor(storage, offset: int, size: tuple, stride: tuple, *_):
    from torch._utils import _rebuild_tensor  # checks that size and stride lie within the storage
    return _rebuild_tensor(storage, offset, size, stride)


def _storage(content: bytes):
    import torch
    return torch.load(io.BytesIO(content), weights_only=True)


def _scalar(dtype: _Dtype, content: bytes):
    return np.frombuffer(content, dtype.numbers())[0]


def _from_buffer(content: bytes, dtype: _Dtype, shape: tuple, order: str) -> np.ndarray:
    return np.frombuffer(content, dtype.numbers()).reshape(shape, order=order)


ALLOWED = {  # (module, name): its stand-in
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): lambda *code: _Dtype(*code),
    ("collections", "OrderedDict"): lambda: OrderedDict(),
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage}
for _core in ("numpy.core", "numpy._core"):  # the names of old and new NumPy
    ALLOWED |= {(f"{_core}.multiarray", "_reconstruct"): lambda *_: _Array(),
                (f"{_core}.multiarray", "scalar"): _scalar,
                (f"{_core}.numeric", "_frombuffer"): _from_buffer}


class _Refusing(pickle.Unpickler):
    """Accepts the names of ALLOWED; any other is neither imported nor run."""

    def find_class(self, module: str, name: str):
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")
        return ALLOWED[module, name]


def _refused(path: Path, error: Exception) -> DataError | LayerError:
    """The error of a pickle that asks for something to be run, or is broken."""
    asked = re.search(r"GLOBAL ([\w.]+)", str(error))
    if asked:
        return DataError(path, f"a pickle that asks for {asked[1].rstrip('.')}; it was not run",
                         "arrays, tensors and graphs only", "do not open this file; get it from its authors again")
    return LayerError(path, f"a file that cannot be read ({error})", "an archive as released", "copy it again")


def read_spot_dicts(path: Path) -> list[dict]:
    """The dicts of an object array.

    Raises DataError for a pickle that asks for anything to be run, LayerError for a broken file.
    """
    try:
        with open(path, "rb") as stream:
            read_header = {(1, 0): np.lib.format.read_array_header_1_0,
                           (2, 0): np.lib.format.read_array_header_2_0}
            read_header[np.lib.format.read_magic(stream)](stream)
            spots = np.asarray(_Refusing(stream).load()).tolist()
    except BROKEN as error:
        raise _refused(path, error) from None
    if not spots or not isinstance(spots, list) or not all(isinstance(spot, dict) for spot in spots):
        raise LayerError(path, "no spots", "an object array of dicts, one a spot", "copy it again")
    return spots


def read_hetero_data(path: Path):
    """A pickled HeteroData. Raises as read_spot_dicts."""
    import torch
    from torch_geometric.data import HeteroData, storage
    allowed = [HeteroData, storage.BaseStorage, storage.NodeStorage, storage.EdgeStorage]
    try:
        with torch.serialization.safe_globals(allowed):
            found = torch.load(path, weights_only=True, map_location="cpu")
    except BROKEN as error:
        raise _refused(path, error) from None
    if not isinstance(found, HeteroData):
        raise LayerError(path, type(found).__name__, "HeteroData", "copy it again")
    return found
