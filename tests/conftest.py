"""Shared by all tests: the repository root on sys.path, numbered scripts as modules, and the tiny root."""
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"  # read once, when the first test imports ANTs
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read at import: no gain on small arrays
SCRIPT_FOLDERS = ("data_preprocessing", "registration", "data_preprocessing_3d", ".")


def script_path(name: str) -> Path:
    """The path of a numbered script by its name without suffix."""
    for folder in SCRIPT_FOLDERS:
        path = ROOT / folder / f"{name}.py"
        if path.is_file():
            return path
    raise FileNotFoundError(name)


def load_script(name: str) -> ModuleType:
    """A numbered script as a module: its name is no identifier, so `import` cannot load it."""
    path = script_path(name)
    spec = importlib.util.spec_from_file_location("script_" + name.replace(".", "_"), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pytest_collection_modifyitems(items: list) -> None:
    """Run the slowest file first; the other process runs the rest (with --no-loadscope-reorder, see the Makefile)."""
    items.sort(key=lambda item: item.path.name != "test_real_stack.py")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Layout of a tiny root on which every step ran. Read only."""
    from pipeline import tiny_root
    return tiny_root(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """RunLayout of a short training on that root. Read only."""
    from pipeline import trained_run
    return trained_run(tmp_path_factory.getbasetemp())
