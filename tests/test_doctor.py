"""`common.cli doctor`: whatever is missing or too old is named with its fix, and exit code 2 says so."""
import subprocess
import sys
from importlib import metadata

import pytest
from conftest import ROOT

from common import cli, doctor

WITHOUT_SITE = [sys.executable, "-I", "-S", "-c"]  # the standard library alone
RUN = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from common import cli; sys.exit(cli.main(['doctor']))"


@pytest.fixture
def installed(monkeypatch) -> dict[str, str | None]:
    """{package: version, None if it is missing}: changes what importlib.metadata says of these."""
    said, real = {}, metadata.version

    def version(name: str) -> str:
        found = said.get(name, "real")
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return real(name) if found == "real" else found
    monkeypatch.setattr(metadata, "version", version)
    return said


def line_of(name: str, text: str) -> str:
    """The one line of the answer on this part."""
    (line,) = [line for line in text.splitlines() if line[2:36].strip() == name]
    return line


def test_a_complete_installation_is_exit_code_0(capsys):
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    for name, bound in doctor.requirements(doctor.REQUIREMENTS).items():
        line = line_of(name, out)
        assert metadata.version(name) in line and f">= {bound}" * bool(bound) in line and "fix" not in line
    assert " cores" in out and "GiB" in out and "cpu" in line_of("torch devices", out)
    assert line_of("OpenSlide library", out).split()[2][0].isdigit()


@pytest.mark.parametrize(("name", "version"), [("shapely", None), ("torchvision", None), ("shapely", "1.8.5"),
                                               ("scanpy", "1.9.8"), ("antspyx", "0.6.2")])
def test_a_missing_or_old_package_is_named_with_its_fix(installed, capsys, name, version):
    installed[name] = version
    assert cli.main(["doctor"]) == 2
    out = capsys.readouterr().out
    line = line_of(name, out)
    assert (version or "missing") in line and "fix: pip install" in line and name in line.partition("fix:")[2]
    assert out.splitlines()[-1].startswith(f"to be fixed: {name};")


def test_every_line_of_the_requirements_is_looked_up(installed, capsys):
    names = doctor.requirements(doctor.REQUIREMENTS)
    assert {"torch", "torchvision", "numpy", "filelock"} <= set(names) and names["torchvision"] == ""
    installed |= dict.fromkeys(names)
    assert cli.main(["doctor"]) == 2
    out = capsys.readouterr().out
    assert all("missing" in line_of(name, out) for name in names)


def test_an_optional_part_is_named_and_no_fault(installed, capsys, monkeypatch, tmp_path):
    installed["spatialdata"] = None
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    for name in ("spatialdata", "chromium", "hub weights"):
        assert "missing" in line_of(name, out) and "fix: " in line_of(name, out)
    (tmp_path / "models--timm--resnet50.a1_in1k").mkdir()
    cli.main(["doctor"])
    assert "timm/resnet50.a1_in1k" in line_of("hub weights", capsys.readouterr().out)


@pytest.mark.parametrize(("module", "name"), [("openslide", "OpenSlide library"), ("torch", "torch devices")])
def test_a_package_that_cannot_be_imported_is_named(monkeypatch, capsys, module, name):
    monkeypatch.setitem(sys.modules, module, None)
    assert cli.main(["doctor"]) == 2
    line = line_of(name, capsys.readouterr().out)
    assert "ModuleNotFoundError" in line and "fix: " in line


def test_doctor_runs_where_no_package_is_installed():
    """In a process that cannot import any: not even what the other commands of common.cli need."""
    ended = subprocess.run([*WITHOUT_SITE, RUN], capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and not ended.stderr, ended.stderr
    assert all("missing" in line_of(name, ended.stdout) for name in doctor.requirements(doctor.REQUIREMENTS))


@pytest.mark.parametrize(("older", "newer"), [("1.9.9", "1.10"), ("2.11.0", "2.11.1"), ("2.9.1+cu130", "2.10.0+cpu"),
                                              ("2024.8", "2024.12.1"), ("3", "3.0.1"), ("", "0.1")])
def test_versions_are_compared_by_their_numbers(older, newer):
    assert doctor.release(older) < doctor.release(newer)


def test_trailing_zeros_do_not_make_a_version_newer():
    assert doctor.release("6.0") == doctor.release("6.0.0") == doctor.release("6.0.0rc1")
