"""Files of a folder in tests."""
from pathlib import Path


def touch(*paths: Path) -> None:
    """Write one byte to each of these files, in folders of their own if need be."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
