"""Which files are ours? Those that a manifest notes and that have not changed since. Only these are deleted or replaced.

Any other file is a person's: where its place is needed it is renamed to `<name>.bak` (`.bak2`, …), and that is said on screen.
"""
import itertools
import json
import os
import sys
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.io import atomic_path, write_json
from common.recipe import file_digest


def set_aside(path: Path) -> Path:
    """Rename a file to the first of <name>.bak, <name>.bak2, … that is free; returns the new path."""
    names = itertools.chain([".bak"], (f".bak{k}" for k in itertools.count(2)))
    free = next(other for end in names if not os.path.lexists(other := path.with_name(path.name + end)))
    os.replace(path, free)
    return free


def content(path: Path) -> str:
    """SHA-256 of a file; of a link where it leads to."""
    return f"link to {os.readlink(path)}" if path.is_symlink() else file_digest(path)


@dataclass(frozen=True)
class Written:
    """The files below `folder` that one unit of work wrote: {path relative to folder: its contents}, kept as JSON in `manifest`."""
    manifest: Path
    folder: Path

    @contextmanager
    def writing(self, path: Path):
        """As io.atomic_path: yield a temporary path, rename it onto `path` at the end. A person's file there is set aside first."""
        with atomic_path(path) as temporary:
            yield temporary
            self.take_place(path, content(temporary))

    def take_place(self, path: Path, new: str) -> None:
        """Before `path` is replaced by this content: set a person's file aside, note the content. Killed in between, both the old and the new are ours."""
        noted = self._noted()
        there = content(path) if os.path.lexists(path) else None
        if there is not None and there != new and there not in noted.get(self._name(path), []):
            self._keep(path)
            there = None
        write_json(self.manifest, noted | {self._name(path): sorted({new, there or new})})

    def remove(self, paths: Iterable[Path]) -> None:
        """Delete these files as far as they are ours; set the others aside."""
        noted = self._noted()
        for path in paths:
            if os.path.lexists(path) and content(path) in noted.get(self._name(path), []):
                path.unlink()
            elif os.path.lexists(path):
                self._keep(path)

    def _keep(self, path: Path) -> None:
        kept = set_aside(path)
        print(f"{path}: not as this software wrote it; kept as {kept.name}", file=sys.stderr)

    def _noted(self) -> dict[str, list[str]]:
        try:
            return json.loads(self.manifest.read_text())
        except (OSError, ValueError):
            return {}

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()
