"""Pictures packed by gzip, such as `P2_ST_rep1.jpg.gz` of GEO: what step 0_1 does with them instead of linking them.

And the command that unpacks an archive.
"""
import gzip
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

from common import geometry, image_scale
from common.errors import LayerError
from common.image_names import is_image_name

UNPACK = {".bz2": "bunzip2", ".xz": "unxz", ".zst": "unzstd"}


def unpack_command(archive: Path | str, folder: Path | None = None) -> str:
    """The command that unpacks an archive, by its suffix; into `folder`, else into the working directory."""
    name = str(archive).lower()
    if name.endswith(".zip"):
        return f"unzip {quote(str(archive))}" + (f" -d {quote(str(folder))}" if folder else "")
    if name.endswith((".7z", ".rar")):
        tool = "7z x" if name.endswith(".7z") else "unrar x"
        return f"{tool} {quote(str(archive))}"
    if not re.search(r"\.(tar(\.\w+)?|tgz)$", name):
        tool = next((tool for suffix, tool in UNPACK.items() if name.endswith(suffix)), "gunzip")
        return f"{tool} {quote(str(archive))}"
    return f"tar xf {quote(str(archive))}" + (f" -C {quote(str(folder))}" if folder else "")


def is_packed_picture(path: Path) -> bool:
    """True for `<name>.<suffix of an image>.gz`."""
    return path.suffix.lower() == ".gz" and is_image_name(path.stem)


def plain_name(path: Path) -> Path:
    """The path of a picture; of a packed one without .gz."""
    return path.with_suffix("") if is_packed_picture(path) else path


def stated_pixel_size_um(path: Path) -> float | None:
    """As common/image_scale.py, of the picture inside if it is packed. Raises as unpacked."""
    with unpacked(path) as plain:
        return image_scale.stated_pixel_size_um(plain)


def no_source(path: Path, sample: str, layer: int) -> LayerError:
    """As common/geometry.py, of the picture inside if it is packed. Raises as unpacked."""
    with unpacked(path) as plain:
        _, *rest = geometry.no_source(plain, sample, layer).args
    return LayerError(path, *rest)


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """Yield the picture itself, or an unpacked temporary copy of it.

    Raises LayerError if it is cut off or was not packed by gzip.
    """
    if not is_packed_picture(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / plain_name(path).name
        unpack(path, plain)
        yield plain


def unpack(source: Path, target: Path) -> None:
    """Write the picture inside a packed one to `target`. Raises LayerError if it is cut off or was not packed."""
    try:
        with gzip.open(source, "rb") as packed, open(target, "wb") as plain:
            shutil.copyfileobj(packed, plain, 2**20)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise LayerError(source, f"a packed picture that cannot be unpacked ({error})", "a whole gzip file",
                         "copy it again; if it is not packed, remove .gz from its name") from None
