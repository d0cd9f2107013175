"""The order of the packages: no import runs upward, and no two packages import each other.

The imports are read from the source; nothing is run.
"""
import ast
from pathlib import Path

from conftest import ROOT

FLOORS = (  # a file may import from its own room and from any room on a lower floor
    ("common",),
    ("registration", "data_preprocessing_3d", "models"),
    ("data_preprocessing",),  # above 3D for the authors' archives, which bring both halves
    ("dataloader",),
    ("dataloader_3d",),
    ("training",),
    ("evaluation",),
    ("report_parts",),
    ("main", "main_3d", "predict_3d", "report", "export_spatialdata"),
    ("benchmarks",))
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
STEPS = ("data_preprocessing", "registration", "data_preprocessing_3d")
LEARNING = {"common", "models", "dataloader", "dataloader_3d", "training", "evaluation"}
ALONE = {  # all that these packages may import
    "models": {"common", "models"},  # arrays and tensors: no file of a dataset is read
    "training": LEARNING,
    "evaluation": LEARNING}


def room_of(path: Path) -> str:
    """The package of a file, or its own name at the top level."""
    parts = path.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else path.stem


def imports() -> list[tuple[str, str, str]]:
    """(file, its room, a room that it imports), imports inside functions included; sorted."""
    found = set()
    for path in ROOT.rglob("*.py"):
        room = room_of(path)
        if room not in FLOOR:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {(str(path.relative_to(ROOT)), room, name.partition(".")[0]) for name in names}
    return sorted(one for one in found if one[2] in FLOOR and one[1] != one[2])


def test_every_room_has_a_floor():
    files = [path for path in ROOT.rglob("*.py") if "/." not in f"/{path.relative_to(ROOT).as_posix()}"]
    rooms = {room_of(path) for path in files}
    assert rooms - {"tests"} == set(FLOOR)


def test_no_import_runs_upward_or_sideways():
    assert [(file, used) for file, room, used in imports() if FLOOR[used] >= FLOOR[room]] == []


def test_networks_training_and_scores_use_no_numbered_step():
    assert [(file, used) for file, room, used in imports() if used not in ALONE.get(room, FLOOR)] == []


def test_no_script_imports_a_script():
    scripts = {"main", "main_3d", "predict_3d", "report", "export_spatialdata"}
    for folder in STEPS:
        stems = [path.stem for path in (ROOT / folder).glob("*.py")]
        scripts |= {stem for stem in stems if stem[0].isdecimal() or stem.startswith("Step")}
    assert [(file, used) for file, room, used in imports() if used in scripts and room != "benchmarks"] == []


def test_the_networks_read_no_file():
    readers = {"common.io", "common.files", "common.patch_files", "common.layout", "common.config", "common.gene_list"}
    for path in sorted((ROOT / "models").rglob("*.py")):
        modules = {node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
        assert not modules & readers, path
