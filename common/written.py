"""Our files are those that a manifest notes and that have not changed since. Only these are deleted or replaced.

Any other file is a person's: where its path is needed it is renamed to `<name>.bak` (`.bak2`, …), and stderr names it.
"""
import itertools
import json
import os
import sys
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.files import atomic_path
from common.io import write_json
from common.recipe import file_digest


def free_name(path: Path) -> Path:
    """The first of <name>.bak, <name>.bak2, … that is free."""
    ends = itertools.chain([".bak"], (f".bak{k}" for k in itertools.count(2)))
    return next(other for end in ends if not os.path.lexists(other := path.with_name(path.name + end)))


def content(path: Path) -> str:
    """SHA-256 of a file; the target of a link."""
    return f"link to {os.readlink(path)}" if path.is_symlink() else file_digest(path)


@dataclass(frozen=True)
class Written:
    """The files that one unit of work wrote: {path relative to `folder`: contents}, kept as JSON in `manifest`."""
    manifest: Path
    folder: Path

    @contextmanager
    def writing(self, path: Path):
        """As files.atomic_path: yield a temporary path, rename it onto `path` at the end; a person's is set aside."""
        with atomic_path(path) as temporary:
            yield temporary
            self.take_place(path, content(temporary))

    def take_place(self, path: Path, new: str) -> None:
        """Before `path` is replaced by this content: set a person's file aside, note the content.

        Both our old content and the new one are noted: a run that is killed in between leaves one of them.
        """
        noted = self._noted()
        there = content(path) if os.path.lexists(path) else None
        if there is not None and there != new and there not in noted.get(self._name(path), []):
            self._keep(path)
            there = None
        write_json(self.manifest, noted | {self._name(path): sorted({new, there or new})})

    def remove(self, paths: Iterable[Path]) -> None:
        """Delete those of these files that are ours; set the others aside."""
        for path in paths:
            if self.is_ours(path):
                path.unlink()
            elif os.path.lexists(path):
                self._keep(path)

    def is_ours(self, path: Path) -> bool:
        """True if the file exists and is as we wrote it."""
        return os.path.lexists(path) and content(path) in self._noted().get(self._name(path), [])

    def _keep(self, path: Path) -> None:
        os.replace(path, kept := free_name(path))
        print(f"{path}: not as this step wrote it; kept as {kept.name}", file=sys.stderr)

    def _noted(self) -> dict[str, list[str]]:
        try:
            return json.loads(self.manifest.read_text())
        except (OSError, ValueError):
            return {}

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()
