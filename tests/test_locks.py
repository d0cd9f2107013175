"""Locks and forked workers: a worker neither frees nor keeps the lock of its parent."""
import os
import subprocess
import sys
from pathlib import Path

from common import locks, workers
from common.errors import DataError

ROOT = Path(locks.__file__).parents[1]
TRY = """import sys; from pathlib import Path; from common import locks; from common.errors import DataError
try:
    locks.hold(Path(sys.argv[1]))
    print("free")
except DataError:
    print("held")"""
HOLD_AND_DIE = """import os, sys, time; from pathlib import Path; from common import locks
locks.hold(Path(sys.argv[1]))
if (worker := os.fork()) == 0:
    time.sleep(60)
print(worker, flush=True)
os.kill(os.getpid(), 9)"""
WRITE = """import sys; from pathlib import Path; from common.locks import locked
path = Path(sys.argv[1])
for _ in range(50):
    with locked(path):
        path.write_text(str(int(path.read_text()) + 1))"""


def state_of(folder: Path) -> str:
    """'held' or 'free', as another process finds it."""
    answer = subprocess.run([sys.executable, "-c", TRY, folder], cwd=ROOT, capture_output=True, text=True, check=True)
    return answer.stdout.strip()


def test_a_worker_that_releases_leaves_the_lock_to_its_parent(tmp_path):
    locks.hold(tmp_path / "run")
    try:
        assert list(workers.map_workers(lambda _: locks.release(), [1, 2], 2)) == [None, None]
        assert state_of(tmp_path / "run") == "held"
    finally:
        locks.release()
    assert state_of(tmp_path / "run") == "free"


def test_a_process_does_not_hold_a_folder_twice(tmp_path):
    locks.hold(tmp_path / "run")
    try:
        locks.hold(tmp_path / "run")
    except DataError:
        assert state_of(tmp_path / "run") == "held"
    else:
        raise AssertionError("the second lock of one folder was given")
    finally:
        locks.release()


def test_a_worker_does_not_keep_the_lock_of_a_killed_parent(tmp_path):
    """A worker that never called `release`."""
    command = [sys.executable, "-c", HOLD_AND_DIE, tmp_path / "run"]
    parent = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    worker = int(parent.stdout.split()[0])
    try:
        os.kill(worker, 0)  # still there
        assert state_of(tmp_path / "run") == "free"
    finally:
        os.kill(worker, 9)


def test_writers_of_one_file_wait_for_each_other(tmp_path):
    (tmp_path / "count.txt").write_text("0")
    writers = [subprocess.Popen([sys.executable, "-c", WRITE, tmp_path / "count.txt"], cwd=ROOT) for _ in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert (tmp_path / "count.txt").read_text() == "150"


def test_the_cores_are_counted_where_the_system_has_no_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert workers.n_cores() == 8
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert workers.n_cores() == 1
