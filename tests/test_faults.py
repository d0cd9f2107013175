"""Faults before and during a step: bad bytes, full disks, killed processes. Each is one line; other files stay."""
import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, load_script

from common import io, jobs, locks
from common.errors import DataError, LayerError, of_dataset
from common.exit_codes import guarded
from common.status import print_status

report = load_script("report")


# bad bytes -------------------------------------------------------------------------------------------

BROKEN = {
    "a.json": io.read_json, "b.npy": io.read_npy, "c.npz": io.read_npz, "d.csr.npz": io.read_csr, "e.pt": io.read_pt,
    "f.h5ad": io.read_h5ad, "g.h5": io.read_features, "h.jpg": io.read_picture, "i.csv": io.read_location}
BAD_BYTES = [
    b"", b"\x00" * 64, b"\xff\xfe\xfa\x80" * 99, b"PK\x03\x04" + b"\x01" * 40, b"\x89HDF\r\n\x1a\n" + b"\xff" * 90,
    b"[1, 2]", b"{}"]


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("content", BAD_BYTES)
def test_whatever_a_decoder_raises_is_the_file_s_own_line(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    if name == "a.json" and content == b"{}":
        return
    with pytest.raises(LayerError, match="found ") as caught:
        BROKEN[name](path)
    assert caught.value.args[0] == path


def test_a_json_without_a_key_names_its_file_and_nan_is_refused(tmp_path):
    io.write_json(tmp_path / "a.json", {"inner": {"x": 1}})
    entry = io.read_json(tmp_path / "a.json", "step.py")
    assert entry["inner"]["x"] == 1 and entry.get("y") is None and "y" not in entry
    with pytest.raises(LayerError, match="a.json: found no key 'y'.*fix: .*step.py"):
        entry["inner"]["y"]
    (tmp_path / "a.json").write_text('{"x": NaN}')
    with pytest.raises(LayerError, match="NaN"):
        io.read_json(tmp_path / "a.json")


def test_a_missing_key_of_our_own_is_no_other_version():
    def bug():
        return {}["ours"]
    with pytest.raises(KeyError):
        report.part(bug)
    with pytest.raises(KeyError), of_dataset():
        bug()


def test_a_file_of_the_dataset_stops_the_run_and_one_of_a_layer_does_not(tmp_path):
    with pytest.raises(DataError), of_dataset():
        io.read_table(tmp_path / "genes.csv", ("gene",))
    with pytest.raises(LayerError):
        io.read_table(tmp_path / "1.csv", ("barcode",))


# disks -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_cannot_be_written_is_one_line(tmp_path, capsys, number):
    target = tmp_path / "a.json"
    io.write_json(target, {"old": 1})
    with pytest.raises(DataError) as caught, io.atomic_path(target) as temporary:
        temporary.write_text("half")
        raise OSError(number, os.strerror(number))
    assert caught.value.args[0] == target
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"] and io.read_json(target) == {"old": 1}

    def outside_a_writer() -> int:
        raise OSError(number, os.strerror(number), str(target))
    assert guarded(outside_a_writer) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {target}: ") and err.count("\n") == 1


def test_hdf5_is_not_begun_where_the_disk_has_no_room(tmp_path, monkeypatch):
    """HDF5 ends the process with SIGSEGV when the disk runs full during a write."""
    import shutil
    from collections import namedtuple

    import anndata
    import numpy as np
    usage = namedtuple("Usage", "total used free")(2**30, 2**30 - 2**20, 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    values = np.zeros((9, 72), np.float32)
    writers = {
        "a.h5": lambda path: io.write_features(path, {"stain": values}, list("abcdefghi"), {"stain": {}}),
        "b.h5": lambda path: io.write_patches(path, [], 224, np.zeros((1, 2)), ["a"]),
        "c.h5ad": lambda path: io.write_h5ad(path, anndata.AnnData(values))}
    for name, write in writers.items():
        with pytest.raises(DataError, match=f"{name}: found no space"):
            write(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_bug_is_no_full_disk(tmp_path):
    with pytest.raises(RuntimeError, match="a bug"), io.atomic_path(tmp_path / "a.json"):
        raise RuntimeError("a bug")
    with pytest.raises(FileNotFoundError):
        guarded((tmp_path / "no_such").read_bytes)


# killed processes ------------------------------------------------------------------------------------
@pytest.mark.parametrize("inner", ["os._exit(9)", "with atomic_path(one): os._exit(9)"])  # also a writer in a writer
def test_the_half_written_file_of_a_killed_process_is_deleted_at_the_next_write(tmp_path, inner):
    write = f"""import os, sys
from pathlib import Path
from common.io import atomic_path
with atomic_path(Path(sys.argv[1])) as one:
    {inner}"""
    target = tmp_path / "a.json"
    subprocess.run([sys.executable, "-c", write, target], cwd=ROOT, check=False)
    assert len(list(tmp_path.iterdir())) == 1 + ("with" in inner) and not target.exists()
    with io.atomic_path(target) as mine:  # the file of a running process is kept
        mine.write_text("{}")
        io.write_json(target, {"a": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_status_file_of_bad_bytes_is_one_line(tmp_path, capsys):
    from common.layout import Layout
    (tmp_path / "status.json").write_bytes(b"\xff{")
    assert guarded(lambda: print_status(Layout(tmp_path))) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'status.json'}: ")


# two processes ---------------------------------------------------------------------------------------
HOLD = """import sys
from pathlib import Path
from common import locks
locks.hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()"""
MAP_WORKERS = """import os, sys, time
from pathlib import Path
from common import locks, workers
locks.hold(Path(sys.argv[1]))
def wait(_):
    os.write(1, f"{os.getpid()}\\n".encode())  # one call: two workers write at once
    time.sleep(60)
list(workers.map_workers(wait, [1, 2], 2))"""


def test_a_second_process_in_a_run_folder_ends_with_one_line(tmp_path, capsys):
    command = [sys.executable, "-c", HOLD, tmp_path / "run"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout.readline() == b"held\n"
        assert guarded(lambda: locks.hold(tmp_path / "run")) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"error: {tmp_path / 'run'}: found another process") and err.count("\n") == 1
        assert "fix: " in err
        first.stdin.close()
    assert guarded(lambda: locks.hold(tmp_path / "run") or 0) == 0  # twice: a held folder is free after `guarded`
    assert guarded(lambda: locks.hold(tmp_path / "run") or 0) == 0


def test_a_run_is_held_from_within_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert guarded(lambda: locks.hold(Path(".")) or 0) == 0
    assert (tmp_path.parent / f".{tmp_path.name}.lock").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a worker outlives a killed parent")
def test_the_workers_of_a_killed_process_end_and_leave_its_run_folder_free(tmp_path):
    """The out-of-memory killer ends only the parent."""
    command = [sys.executable, "-c", MAP_WORKERS, tmp_path / "run"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as parent:
        workers = [int(parent.stdout.readline()) for _ in range(2)]
        parent.kill()
        parent.wait()
    ended = time.monotonic() + 20
    while time.monotonic() < ended and any(is_at_work(worker) for worker in workers):
        time.sleep(0.05)
    assert not any(is_at_work(worker) for worker in workers)
    assert guarded(lambda: locks.hold(tmp_path / "run") or 0) == 0


def is_at_work(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def test_an_input_that_cannot_be_read_is_of_its_section_alone(tmp_path, monkeypatch):
    def denied(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "imgs/A/1.tif")
    monkeypatch.setattr(jobs, "make_recipe", denied)
    with pytest.raises(LayerError, match="imgs/A/1.tif: found .*Permission denied"):
        jobs.recipe_of("step", jobs.Job("A", 1, [], [], str), tmp_path, "")


# what a decoder accepts ------------------------------------------------------------------------------
def test_a_sparse_matrix_that_points_beyond_its_bounds_is_refused(tmp_path):
    """SciPy does not check the indices: a wrong one ends the process (SIGSEGV)."""
    import anndata
    import h5py
    import numpy as np
    from scipy import sparse
    io.write_h5ad(tmp_path / "1.h5ad", anndata.AnnData(sparse.csr_matrix(np.eye(4, dtype=np.float32))))
    with h5py.File(tmp_path / "1.h5ad", "r+") as file:
        file["X/indices"][1] = 10**6
    with pytest.raises(LayerError, match="1.h5ad: found "):
        io.read_h5ad(tmp_path / "1.h5ad")
    io.write_csr(tmp_path / "A.npz", sparse.csr_array(np.eye(4, dtype=np.float32)))
    arrays = io.read_npz(tmp_path / "A.npz")
    io.write_npz(tmp_path / "A.npz", **arrays | {"indices": arrays["indices"] + 9})
    with pytest.raises(LayerError, match="A.npz"):
        io.read_csr(tmp_path / "A.npz")


def test_the_same_tensors_are_the_same_bytes(tmp_path):
    import torch
    for name in ("1.pt", "2.pt"):
        io.write_pt(tmp_path / name, {"x": torch.zeros(3)})
    assert (tmp_path / "1.pt").read_bytes() == (tmp_path / "2.pt").read_bytes()


def test_patches_and_features_of_another_section_are_refused(tmp_path):
    """The patches of a grid have the same names in all sections."""
    import numpy as np
    io.write_features(tmp_path / "A/1.h5", {"stain": np.zeros((1, 2), np.float32)}, ["512_0_0"], {"stain": {}})
    io.write_patches(tmp_path / "A/p/1.h5", [np.zeros((4, 4, 3), np.uint8)], 4, np.zeros((1, 2), int), ["512_0_0"])
    for source, target in (("A/1.h5", "A/2.h5"), ("A/p/1.h5", "A/p/2.h5")):
        (tmp_path / target).write_bytes((tmp_path / source).read_bytes())
    assert io.read_features(tmp_path / "A/1.h5")[1] == ["512_0_0"]
    with pytest.raises(LayerError, match="A/2.h5: found .*A/1"):
        io.read_features(tmp_path / "A/2.h5")
    with pytest.raises(LayerError, match="p/2.h5: found .*p/1"), io.open_patches(tmp_path / "A/p/2.h5"):
        pass
