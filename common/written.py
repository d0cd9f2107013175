"""Which files of a folder are ours? Those that are noted in a manifest and have not changed since. Only these are deleted or replaced.

Any other file is a person's: where its place is needed it is renamed to `<name>.bak` (`.bak2`, …), and that is said on screen.
"""
import itertools
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from common.io import write_json
from common.recipe import file_digest


def set_aside(path: Path) -> Path:
    """Rename a file or folder to the first of <name>.bak, <name>.bak2, … that is free; returns the new path."""
    names = itertools.chain([".bak"], (f".bak{k}" for k in itertools.count(2)))
    free = next(other for end in names if not os.path.lexists(other := path.with_name(path.name + end)))
    os.replace(path, free)
    return free


@dataclass(frozen=True)
class Written:
    """The files below `folder` that one unit of work wrote: {path relative to folder: SHA-256}, kept as JSON in `manifest`."""
    manifest: Path
    folder: Path

    def is_ours(self, path: Path) -> bool:
        """The file was written by us, and nobody changed it since. A link to an image is always ours: the image itself lies elsewhere."""
        return path.is_symlink() or self._noted().get(self._name(path)) == file_digest(path)

    def note(self, paths: Iterable[Path]) -> None:
        """Write down what was just written; links and absent files are not noted."""
        now = {self._name(path): file_digest(path) for path in paths if path.is_file() and not path.is_symlink()}
        write_json(self.manifest, dict(sorted((self._noted() | now).items())))

    def make_way(self, paths: Iterable[Path]) -> list[str]:
        """Delete these files as far as they are ours, set the others aside; returns a sentence for each that was set aside."""
        said = []
        for path in paths:
            if not os.path.lexists(path):
                continue
            if self.is_ours(path):
                path.unlink()
            else:
                said.append(f"{path} is not as this software wrote it: kept as {set_aside(path).name}")
        return said

    def _noted(self) -> dict[str, str]:
        try:
            return json.loads(self.manifest.read_text())
        except (OSError, ValueError):
            return {}

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()
