"""Pictures packed by gzip, such as `P2_ST_rep1.jpg.gz` of GEO: what step 0_1 does with them instead of linking them."""
import gzip
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common import geometry, slide
from common.errors import LayerError
from common.layout import IMAGE_SUFFIXES
from common.written import Written


def is_packed_picture(path: Path) -> bool:
    """True for `<name>.<suffix of an image>.gz`."""
    return path.suffix.lower() == ".gz" and path.with_suffix("").suffix.lower() in IMAGE_SUFFIXES


def picture_suffix(path: Path) -> str:
    """The suffix of a picture, of the one inside if it is packed; lower case."""
    return (path.with_suffix("") if is_packed_picture(path) else path).suffix.lower()


def place_packed(source: Path, target: Path, written: Written) -> bool:
    """Unpack a packed picture to its place; False for another one, which is left alone. Raises as unpacked."""
    if is_packed_picture(source):
        with written.writing(target) as temporary:
            _unpack(source, temporary)
    return is_packed_picture(source)


def stated_pixel_size_um(path: Path) -> float | None:
    """As common/slide.py, of the picture inside if it is packed. Raises as unpacked."""
    with unpacked(path) as plain:
        return slide.stated_pixel_size_um(plain)


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
        plain = Path(folder) / path.with_suffix("").name
        _unpack(path, plain)
        yield plain


def _unpack(source: Path, target: Path) -> None:
    try:
        with gzip.open(source, "rb") as packed, open(target, "wb") as plain:
            shutil.copyfileobj(packed, plain, 2**20)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise LayerError(source, f"a packed picture that cannot be unpacked ({error})", "a whole gzip file",
                         "copy it again; if it is not packed, remove .gz from its name") from None
