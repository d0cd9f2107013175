"""A step is up to date if its stored recipe equals its current recipe.

A recipe is: the step, its settings, the content of its inputs, and the code of the script and of every module of ours
that it imports. It is kept in a small JSON under the outputs' root (`<root>/.recipes/<step>/…`), written last: a killed
step has none and runs again. The same JSON holds the content of the outputs, which stale.py compares.
"""
import hashlib
import json
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from common.imports import files_of
from common.layout import REPOSITORY

SAMPLED_ABOVE_BYTES = 256 * 2**20
BLOCK_BYTES = 2**20
SETTLED_AFTER_NS = 2 * 10**9


def file_digest(path: Path) -> str:
    """SHA-256 of a file; above 256 MiB (whole-slide images) of its size and 16 evenly spaced 1-MiB blocks.

    A file is read once a process, and again only if it was replaced or written to: another size, inode or time of
    change. A file that changed within the last two seconds is always read: two changes may have the same time.
    """
    now = path.stat()
    settled = time.time_ns() - now.st_ctime_ns > SETTLED_AFTER_NS
    digest = _digest if settled else _digest.__wrapped__
    return digest(path, now.st_size, now.st_ino, now.st_ctime_ns)


@lru_cache(maxsize=65536)
def _digest(path: Path, size: int, _inode: int, _changed_ns: int) -> str:
    with open(path, "rb") as stream:
        if size <= SAMPLED_ABOVE_BYTES:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        digest = hashlib.sha256(str(size).encode())
        for k in range(16):
            stream.seek(k * (size - BLOCK_BYTES) // 15)
            digest.update(stream.read(BLOCK_BYTES))
        return digest.hexdigest()


def code_digest(*scripts: Path, repository: Path = REPOSITORY) -> str:
    """SHA-256 over the names and content of the scripts and of all modules under `repository` that they import."""
    digest = hashlib.sha256()
    root = repository.resolve()
    for path in sorted(set().union(*(files_of(script, repository) for script in scripts))):
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def make_recipe(step: str, inputs: list[Path], settings: dict, root: Path, code: str,
                digest: Callable[[Path], str] = file_digest) -> dict:
    """The recipe as a JSON-able dict. A missing input has the digest None; one outside the root an absolute path."""
    top, digests = root.absolute(), {}
    for path in inputs:
        absolute = path.absolute()
        name = str(absolute.relative_to(top) if absolute.is_relative_to(top) else absolute)
        digests[name] = digest(path) if path.is_file() else None
    return {"step": step, "settings": json.loads(json.dumps(settings, sort_keys=True)), "inputs": digests, "code": code}


def is_current(recipe: dict, recipe_path: Path, outputs: list[Path]) -> bool:
    """True if the same recipe is stored and every output exists."""
    stored = stored_recipe(recipe_path)
    if stored is None or not all(path.exists() for path in outputs):
        return False
    return {key: value for key, value in stored.items() if key != "outputs"} == recipe


def stored_recipe(path: Path) -> dict | None:
    """The stored recipe, or None if there is none that can be read."""
    try:
        value = json.loads(path.read_text()) if path.is_file() else None
    except ValueError:  # no JSON, or no text
        return None
    return value if isinstance(value, dict) and {"settings", "inputs", "code"} <= set(value) else None


def with_outputs(recipe: dict, outputs: list[Path], root: Path) -> dict:
    """The recipe with the content of the outputs that are files, by their path relative to `root`."""
    digests = {path.relative_to(root).as_posix(): file_digest(path) for path in outputs if path.is_file()}
    return recipe | {"outputs": digests}
