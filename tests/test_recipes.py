"""Recipes: the same step, code, settings and inputs. The code is that of the script and of every module it imports."""
import hashlib
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import script_path

from common import io, recipe
from common.imports import files_of
from common.layout import PIPELINE, REPOSITORY, script_of
from common.recipe import code_digest

SCRIPTS = ["0_1_convert_raw", "0_make_demo", *PIPELINE, "main", "main_3d", "predict_3d", "report"]


# code ------------------------------------------------------------------------------------------------

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


# recipes ---------------------------------------------------------------------------------------------
@pytest.fixture
def made(tmp_path):
    """(make a recipe, recipe file, outputs) of a finished step."""
    source, output = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_text("aaaa")
    output.write_text("made")

    def make(step="s", inputs=(source, tmp_path / "absent.txt"), code="c", **settings_):
        return recipe.make_recipe(step, list(inputs), {"n": 1, "window": {224: 20}, **settings_}, tmp_path, code)

    io.write_json(tmp_path / "recipe.json", make())
    return make, tmp_path / "recipe.json", [output]


def test_the_same_recipe_is_current(made):
    make, file, outputs = made
    assert recipe.is_current(make(), file, outputs)
    digest = hashlib.sha256(b"aaaa").hexdigest()
    assert make()["inputs"] == {"in.txt": digest, "absent.txt": None}  # names relative to the root


@pytest.mark.parametrize("change", [
    {"step": "t"}, {"code": "d"}, {"n": 2}, {"extra": None}, {"window": {224: 21}}, {"inputs": ()}])
def test_another_step_code_setting_or_input_is_not_current(made, change):
    make, file, outputs = made
    assert not recipe.is_current(make(**change), file, outputs)


@pytest.mark.parametrize("settled_after_s", [2, -1])
def test_changed_content_of_the_same_size_and_time_is_not_current(made, tmp_path, monkeypatch, settled_after_s):
    make, file, outputs = made
    monkeypatch.setattr(recipe, "SETTLED_AFTER_NS", settled_after_s * 10**9)
    make()  # -1: its digests are kept
    time.sleep(0.05)
    source = tmp_path / "in.txt"
    before = source.stat()
    source.write_text("aaab")
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (source.stat().st_size, source.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert not recipe.is_current(make(), file, outputs)
    source.write_text("aaaa")  # and a new time alone changes nothing
    os.utime(source, (1, 1))
    assert recipe.is_current(make(), file, outputs)


def test_an_input_that_appears_or_an_output_that_goes_is_not_current(made, tmp_path):
    make, file, outputs = made
    (tmp_path / "absent.txt").write_text("")
    assert not recipe.is_current(make(), file, outputs)
    (tmp_path / "absent.txt").unlink()
    assert recipe.is_current(make(), file, outputs)
    outputs[0].unlink()
    assert not recipe.is_current(make(), file, outputs)


def test_a_lost_or_broken_recipe_file_is_not_current(made):
    make, file, outputs = made
    file.write_text(file.read_text()[:-9])
    assert not recipe.is_current(make(), file, outputs)
    file.unlink()
    assert not recipe.is_current(make(), file, outputs)


def test_large_files_are_sampled(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "SAMPLED_ABOVE_BYTES", 5000)
    monkeypatch.setattr(recipe, "BLOCK_BYTES", 64)
    path = tmp_path / "big"
    content = bytes(np.random.default_rng(0).integers(0, 256, 6064, np.uint8))  # blocks start every 400 bytes

    def digest(data: bytes) -> str:
        path.write_bytes(data)
        return recipe.file_digest(path)

    def changed(at: int) -> bytes:
        return content[:at] + bytes([content[at] ^ 1]) + content[at + 1:]

    blocks = b"".join(content[start:start + 64] for start in range(0, 6001, 400))
    assert len(blocks) == 16 * 64
    assert digest(content) == hashlib.sha256(b"6064" + blocks).hexdigest()
    assert all(digest(changed(at)) != digest(content) for at in (0, 63, 400, 3263, 6000, 6063))
    assert digest(changed(200)) == digest(content)  # between two blocks: not seen
    assert digest(content + b"x") != digest(content)
    assert digest(content[:5000]) == hashlib.sha256(content[:5000]).hexdigest()  # up to the limit: all of it
