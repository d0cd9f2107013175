"""When is a step up to date? When the recipe it was made by is the recipe it would be made by now.

A recipe is: the step, its settings, the content of its inputs, and the code of the step's folder and of common/. It is kept in a small JSON beside
the outputs' root (`<root>/.recipes/<step>/…`), written last: a killed step has none and is made again.
"""
import hashlib
import json
from pathlib import Path

SAMPLED_ABOVE_BYTES = 256 * 2**20
BLOCK_BYTES = 2**20


def file_digest(path: Path) -> str:
    """SHA-256 of a file; of its size and 16 evenly spread 1-MiB blocks if it is larger than 256 MiB (whole-slide images)."""
    size = path.stat().st_size
    with open(path, "rb") as stream:
        if size <= SAMPLED_ABOVE_BYTES:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        digest = hashlib.sha256(str(size).encode())
        for k in range(16):
            stream.seek(k * (size - BLOCK_BYTES) // 15)
            digest.update(stream.read(BLOCK_BYTES))
        return digest.hexdigest()


def code_digest(script: Path) -> str:
    """SHA-256 over the Python files of the script's folder and of common/."""
    return files_digest(sorted([*script.parent.rglob("*.py"), *Path(__file__).parent.rglob("*.py")]))


def files_digest(paths: list[Path]) -> str:
    """SHA-256 over the content of files, in this order."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def make_recipe(step: str, inputs: list[Path], settings: dict, root: Path, code: str) -> dict:
    """The recipe as a JSON-able dict. An absent input is part of it (None)."""
    digests = {str(path.relative_to(root) if path.is_relative_to(root) else path): file_digest(path) if path.is_file() else None
               for path in inputs}
    return {"step": step, "settings": json.loads(json.dumps(settings, sort_keys=True)), "inputs": digests, "code": code}


def is_current(recipe: dict, recipe_path: Path, outputs: list[Path]) -> bool:
    """True if the same recipe was written down and every output is there."""
    if not recipe_path.is_file() or not all(path.exists() for path in outputs):
        return False
    try:
        return json.loads(recipe_path.read_text()) == recipe
    except ValueError:  # no JSON, or no text
        return False
