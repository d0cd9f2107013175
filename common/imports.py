"""The files of the repository that a script runs: itself and every module that it imports, directly or not.

The imports are read from the source, those inside functions too; nothing is run.
"""
import ast
from functools import lru_cache
from pathlib import Path

from common.layout import REPOSITORY


def files_of(script: Path, repository: Path = REPOSITORY) -> list[Path]:
    """The script and the files of every module under `repository` that it imports, sorted."""
    found, todo = set(), [script.resolve()]
    while todo:
        path = todo.pop()
        if path not in found:
            found.add(path)
            for module in imported_names(path.read_text(), package_of(path, repository)):
                todo += module_files(module, repository.resolve())
    return sorted(found)


def package_of(path: Path, repository: Path) -> tuple[str, ...]:
    """The package of a file, from which its relative imports start."""
    return path.parent.relative_to(repository.resolve()).parts if path.is_relative_to(repository.resolve()) else ()


@lru_cache(maxsize=None)
def imported_names(source: str, package: tuple[str, ...]) -> tuple[str, ...]:
    """Dotted names that may be modules: for `from a import b` both a and a.b. The cache's key is the source."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[:len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            names += [module, *(f"{module}.{alias.name}" for alias in node.names)]
    return tuple(names)


def module_files(name: str, repository: Path) -> list[Path]:
    """The files that an import of a dotted name runs: the module and the __init__.py of its packages."""
    parts = name.split(".")
    if not all(parts):
        return []
    packages = [repository.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)]
    return [path for path in [*packages, repository.joinpath(*parts).with_suffix(".py")] if path.is_file()]
