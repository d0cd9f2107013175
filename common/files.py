"""How any file is written and read: whole or not at all, and a failure is one line.

A writer makes a file of a unique temporary name in the target's folder and renames it (`os.replace`): a killed run
leaves the old file or the new one.
"""
import errno
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import DataError, LayerError

HDF5_BYTES = 2**20  # what an HDF5 file needs beside its arrays, at most
FULL_BYTES = 2**16  # a disk with less free space is full, whatever the error of the library


# writing ---------------------------------------------------------------------------------------------
@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path of the same suffix beside `path`; rename it onto `path` if the block succeeds.

    Temporary files of the same target that a killed process left are removed. Raises DataError if the disk is full or
    the file may not be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path)
        prefix = f"{_own_prefix(path)}{os.getpid()}."
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # HDF5 and PyTorch raise RuntimeError where a write fails
        raise unwritable(error, path) or error from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _own_prefix(path: Path) -> str:
    """The start of the names of this machine's temporary files of `path`; the process number follows."""
    return f".{path.stem}.{platform.node()}."


def remove_abandoned(path: Path) -> None:
    """Remove the temporary files of `path` whose process, of this machine, no longer runs."""
    prefix = _own_prefix(path).lstrip(".")
    for name in os.listdir(path.parent):
        bare = name.lstrip(".")  # a writer inside a writer makes a temporary file of the temporary file: one dot more
        if bare != name and bare.startswith(prefix) and name.endswith(path.suffix):
            process = bare[len(prefix):].partition(".")[0]
            if process.isdecimal() and not _runs(int(process)):
                (path.parent / name).unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def unwritable(error: Exception, path: Path | None = None) -> DataError | None:
    """The DataError for an error that means that `path` cannot be written; None for any other error.

    path: default is the file that the error names.
    """
    file = path or getattr(error, "filename", None) or "the disk"
    number = getattr(error, "errno", None)
    is_full = (number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)
               or path is not None and _is_full(path.parent))
    if is_full:
        return DataError(file, "no space left on the disk", "room for the output", "free some space and run it again")
    if number in (errno.EROFS, errno.EACCES, errno.EPERM):
        return DataError(file, f"no permission ({os.strerror(number)})", "a file that may be read and written",
                         "change the permission, or use another folder")
    if number in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY):
        return DataError(file, f"something else in its place ({os.strerror(number)})", "a file in a folder",
                         "move it away")
    return None


def _is_full(folder: Path) -> bool:
    return folder.is_dir() and shutil.disk_usage(folder).free < FULL_BYTES


def require_room(path: Path, n_bytes: int) -> None:
    """Raise DataError unless the disk has room for n_bytes more.

    It is asked before an HDF5 file is written: the HDF5 library ends the process if the disk runs full meanwhile.
    """
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    free, needed = shutil.disk_usage(folder).free, n_bytes + HDF5_BYTES
    if free < needed:
        raise DataError(path, f"no space left on the disk ({free / 2**20:.1f} MiB)",
                        f"room for {needed / 2**20:.1f} MiB", "free some space and run it again")


# reading ---------------------------------------------------------------------------------------------
@contextmanager
def reading(path: Path, made_by: str) -> Iterator[None]:
    """Turn a missing file, and any error of a decoder, into one LayerError. The block holds nothing but decoding."""
    if not path.is_file():
        raise LayerError(path, "no file", f"the output of {made_by}", f"run {made_by} first")
    try:
        yield
    except (LayerError, DataError):
        raise
    except Exception as error:  # decoders differ in what they raise, up to MemoryError for a header of wrong sizes
        raise LayerError(path, f"a file that cannot be read ({type(error).__name__}: {error})",
                         f"the output of {made_by}", f"run {made_by} again") from None


def files_in(path: Path) -> list[Path]:
    """The file itself; of a folder, such as a part of a .zarr, all its files but those that macOS hides there."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith(("._", ".DS_Store")))


def newest_ns(folder: Path) -> int:
    """The time of the last change of a folder or of what is directly in it, ns."""
    return max((path.stat().st_mtime_ns for path in (folder, *folder.glob("*"))), default=0)
