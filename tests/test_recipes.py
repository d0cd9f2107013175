"""The code part of a recipe: the script and every module of ours that it imports."""
import shutil
from pathlib import Path

import pytest
from conftest import script_path

from common.imports import files_of
from common.layout import PIPELINE, REPOSITORY, script_of
from common.recipe import code_digest

SCRIPTS = ["0_1_convert_raw", "0_make_demo", *PIPELINE, "main", "main_3d", "predict_3d", "report"]


@pytest.fixture
def repository(tmp_path) -> Path:
    """A copy of our Python files."""
    copy = tmp_path / "repository"
    python_only = shutil.ignore_patterns(".*", "tests", "benchmarks", "*.csv", "*.md", "*.npz")
    shutil.copytree(REPOSITORY, copy, ignore=python_only)
    return copy


def digests(repository: Path) -> dict[str, str]:
    """{script: digest of its code}."""
    paths = {name: repository / script_path(name).relative_to(REPOSITORY) for name in SCRIPTS}
    return {name: code_digest(path, repository=repository) for name, path in paths.items()}


@pytest.mark.parametrize("module, runs_it, does_not", [
    ("data_preprocessing/records.py", ["7_make_dataset", "0_1_convert_raw"],
     ["6_pt_construction", "5_build_3d_final_format"]),
    ("data_preprocessing_3d/records.py", ["5_build_3d_final_format", "0_1_convert_raw"],
     ["7_make_dataset", "4_build_3d_graph"]),
    ("data_preprocessing_3d/graph.py", ["4_build_3d_graph", "0_1_convert_raw"],
     ["5_build_3d_final_format", "6_pt_construction"]),
    ("data_preprocessing/archive.py", ["0_1_convert_raw"], ["0_2_tissue_mask", "main_3d"]),
    ("data_preprocessing/demo_tissue.py", ["0_make_demo"],
     ["4_feature_extraction", "1_cropped_multi_level_patch", "main_3d", "main"]),
    ("data_preprocessing/readers/visium.py", ["0_1_convert_raw"], ["0_2_tissue_mask"]),
    ("registration/gate.py", ["Step2_registration_ANTs"], ["Step3_registertoMiddle_ANTs", "main_3d"]),
    ("common/io.py", SCRIPTS, []),
    ("models/gat.py", ["main", "main_3d", "predict_3d"], list(PIPELINE)),
    ("training/two_d.py", ["main"], ["main_3d"]),
    ("evaluation/runs.py", ["main", "main_3d"], [*PIPELINE, "predict_3d"]),
    ("evaluation/outputs.py", ["main", "main_3d", "predict_3d"], list(PIPELINE)),
    ("registration/__init__.py", ["Step2_registration_ANTs"], ["4_feature_extraction"]),
])
def test_a_change_touches_what_runs_the_module_and_nothing_else(repository, module, runs_it, does_not):
    before = digests(repository)
    file = repository / module
    file.write_text(file.read_text() + "\n# a comment\n")
    after = digests(repository)
    changed = {name for name in SCRIPTS if before[name] != after[name]}
    assert set(runs_it) <= changed and not set(does_not) & changed


def test_a_digest_does_not_depend_on_where_the_repository_lies(repository):
    assert digests(repository) == digests(REPOSITORY)


def test_a_module_under_another_name_is_other_code(tmp_path):
    (tmp_path / "step.py").write_text("import one, two\n")
    for name, text in (("one", "A = 1\n"), ("two", "A = 2\n")):
        (tmp_path / f"{name}.py").write_text(text)
    before = code_digest(tmp_path / "step.py", repository=tmp_path)
    (tmp_path / "one.py").write_text("A = 2\n")
    (tmp_path / "two.py").write_text("A = 1\n")
    assert code_digest(tmp_path / "step.py", repository=tmp_path) != before


def test_every_form_of_import_is_followed(tmp_path):
    texts = {
        "step.py": "import a.b\nfrom a import c, no_module\nimport numpy\n\ndef work():\n    from d import e as f\n",
        "a/__init__.py": "",
        "a/b.py": "from . import sibling\nfrom .deep.er import x\n",
        "a/c.py": "",
        "a/sibling.py": "import step\n",
        "a/deep/er.py": "from .. import up\n",
        "a/up.py": "",
        "d/e.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import h\n",
        "h.py": "",
        "not_imported.py": "",
        "a/not_imported.py": ""}
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = {path.relative_to(tmp_path.resolve()).as_posix() for path in files_of(tmp_path / "step.py", tmp_path)}
    assert found == {name for name in texts if "not_imported" not in name}


def test_no_step_runs_the_whole_repository():
    n_files = len([path for path in REPOSITORY.rglob("*.py") if ".venv" not in path.parts])
    assert all(len(files_of(script_of(step))) < n_files / 4 for step in PIPELINE)
