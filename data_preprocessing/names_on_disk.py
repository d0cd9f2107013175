"""Names that a config states, as the disk spells them: macOS and Windows write the same letters in other ways."""
import unicodedata
from difflib import get_close_matches
from pathlib import Path

from common.config import Config
from common.names import visible
from data_preprocessing.readers import path_and_part

MOST_NEAR = 3


def with_names_on_disk(config: Config, raw: Path) -> Config:
    """The config with the entries of samples.<name>.raw and .images as the disk spells them."""
    samples = {}
    for name, one in (config.samples or {}).items():
        samples[name] = one.model_copy(update={
            "raw": {layer: as_on_disk(raw, entry) for layer, entry in one.raw.items()},
            "images": {layer: as_on_disk(raw, entry) for layer, entry in one.images.items()}})
    return config if config.samples is None else config.model_copy(update={"samples": samples})


def as_on_disk(raw: Path, entry: str) -> str:
    """The entry; where it does not exist, the one whose name differs in the Unicode form of its letters alone."""
    path, part = path_and_part(raw, entry)
    if path.exists():
        return entry
    found = raw
    for name in Path(entry if part is None else entry.rsplit("#", 1)[0]).parts:
        alike = [other for other in visible(found) if _composed(other.name) == _composed(name)]
        if len(alike) != 1:
            return entry
        found = alike[0]
    return found.relative_to(raw).as_posix() + ("" if part is None else f"#{part}")


def near_names(raw: Path, entry: str) -> list[str]:
    """Names beside a missing entry: those that differ in capital letters alone, else similar ones."""
    path = raw / entry
    there = [other.name for other in visible(raw / as_on_disk(raw, str(Path(entry).parent)))]
    alike = [name for name in there if _composed(name).casefold() == _composed(path.name).casefold()]
    return alike or get_close_matches(path.name, there, MOST_NEAR)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
