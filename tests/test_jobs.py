"""The walk over sections and samples: left out or done, up to date or not, and what status.json keeps of it."""
import itertools
import json
import multiprocessing
import os
import pickle
from pathlib import Path

import pytest
from folders import files_in, touch

from common import cli, io, jobs
from common.config import save_config, validate
from common.errors import DataError, LayerError
from common.layout import Layout
from common.status import first_failure, read_status, set_status

FORK = multiprocessing.get_context("fork")


# the walk --------------------------------------------------------------------------------------------
STEP, EARLIER, LATER = "3_find_1024_pair", "0_2_tissue_mask", "6_pt_construction"


@pytest.fixture
def root(tmp_path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    samples = {"A": {"layers": [1, 2, 3]}, "B": {"layers": [1]}}
    save_config(validate({"dataset": "d", "pitch_px": 272, "samples": samples}, "c.yaml"), folder / "dataset.yaml")
    touch(tmp_path / "code/step.py")
    return folder


def run(root: Path, *options: str, step: str = STEP, bad: dict | None = None, kind=jobs.run_layers) -> int:
    """A step that writes 'done' to one file a unit, and a line to calls.txt. bad: {unit name: exception}."""
    args = cli.make_parser("doc", workers=True).parse_args(["--root_path", str(root), *options])

    def make_job(context: jobs.Context, sample: str | None = None, layer: int | None = None) -> jobs.Job:
        target = root / "out" / f"{sample}_{layer}.txt"

        def work() -> str:
            with open(root / "calls.txt", "a") as stream:
                stream.write(job.name + "\n")
            if job.name in (bad or {}):
                raise bad[job.name]
            with io.atomic_path(target) as temporary:
                temporary.write_text("done")
            return "wrote it"

        job = jobs.Job(sample, layer, [root / "in" / f"{sample}_{layer}.txt"], [target], work)
        return job

    return kind(step, str(root.parent / "code/step.py"), args, make_job)


def calls(root: Path) -> list[str]:
    """The work done since the last call."""
    path = root / "calls.txt"
    lines = sorted(path.read_text().split()) if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


BAD_LAYER = LayerError("imgs/A/2.jpg", "half a\nfile", "a whole one", "copy it again")
BAD_FORM = DataError("location/A/2.csv", "no column x", "a column x", "add it")
EVERY = ["A/1", "A/2", "A/3", "B/1"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_bad_layer_is_left_out_and_the_others_go_on(root, capsys, workers):
    assert run(root, "--num_workers", workers, bad={"A/2": BAD_LAYER}) == 0
    assert calls(root) == EVERY
    reason = "left out: imgs/A/2.jpg: found half a file; expected a whole one; fix: copy it again"
    assert read_status(Layout(root)) == {name: {STEP: reason if name == "A/2" else "ok"} for name in EVERY}
    assert files_in(root / "out") == ["A_1.txt", "A_3.txt", "B_1.txt"]
    out, err = capsys.readouterr()
    assert err == f"{STEP}  A/2: {reason}\n"
    assert [line.split(":")[0] for line in out.splitlines()] == [f"{STEP}  {name}" for name in ("A/1", "A/3", "B/1")]


def test_nothing_left_is_exit_code_2(root, capsys):
    assert run(root, bad=dict.fromkeys(EVERY, BAD_LAYER)) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: {STEP}: ") and last.endswith(str(root / "status.json"))
    assert set(json.loads((root / "status.json").read_text())) == set(EVERY)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_wrong_form_ends_the_run_with_one_line(root, capsys, workers):
    assert run(root, "--num_workers", workers, bad={"A/2": BAD_FORM}) == 2
    assert capsys.readouterr().err == "error: location/A/2.csv: found no column x; expected a column x; fix: add it\n"
    assert multiprocessing.active_children() == []
    if workers == "1":
        assert calls(root) == ["A/1", "A/2"]


@pytest.mark.timeout(60)
def test_a_killed_worker_ends_the_run_with_one_line(root, capsys):
    """Killed for lack of memory, for example: nothing waits for its result."""
    def killed(step, script, args, make_job) -> int:
        return jobs.run_layers(step, script, args, lambda *unit: os._exit(9))

    assert run(root, "--num_workers", "2", kind=killed) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: --num_workers: ") and err.count("\n") == 1
    assert "--num_workers" in err.partition("fix: ")[2]
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("options, expected", [
    (("--sample", "Z"), "no sample Z"), (("--layer", "9"), "[9]; "),
    (("--config", "no.yaml"), "no.yaml: found no file")])
def test_a_wrong_option_ends_the_run_before_any_work(root, capsys, options, expected):
    assert run(root, *options) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and expected in err
    assert calls(root) == [] and not (root / "status.json").exists()


def test_a_missing_root_ends_the_run(tmp_path, capsys):
    assert run(tmp_path / "nowhere") == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {tmp_path / 'nowhere'}: found no folder; expected ") and err.count("\n") == 1
    assert "--root_path" in err.partition("fix: ")[2]
    assert not (tmp_path / "nowhere").exists()


def test_chosen_layers_only(root):
    assert run(root, "--sample", "A", "--layer", "3", "--layer", "1") == 0
    assert calls(root) == ["A/1", "A/3"]


@pytest.mark.parametrize("kind, names", [(jobs.run_samples, ["A", "B"]), (jobs.run_dataset, ["dataset"])])
def test_steps_on_samples_and_on_the_dataset(root, kind, names):
    assert run(root, kind=kind) == 0
    assert calls(root) == names and list(read_status(Layout(root))) == names


def test_an_up_to_date_unit_is_skipped(root, capsys):
    assert run(root) == 0 and calls(root) == EVERY
    capsys.readouterr()
    assert run(root) == 0 and calls(root) == []
    assert capsys.readouterr().out.splitlines() == [f"{STEP}  {name}: up to date" for name in EVERY]
    touch(root / "in/A_3.txt")
    assert run(root) == 0 and calls(root) == ["A/3"]
    (root / "out/B_1.txt").unlink()
    assert run(root) == 0 and calls(root) == ["B/1"]
    assert run(root, "--overwrite") == 0 and calls(root) == EVERY
    (root.parent / "code/step.py").write_text("A = 'another way'")
    assert run(root, "--num_workers", "2") == 0 and calls(root) == EVERY


def test_a_step_that_was_broken_off_or_failed_is_done_again(root):
    assert run(root) == 0 and calls(root) == EVERY
    with pytest.raises(KeyboardInterrupt):
        run(root, "--overwrite", bad={"A/2": KeyboardInterrupt()})
    assert calls(root) == ["A/1", "A/2"]
    assert run(root) == 0 and calls(root) == ["A/2"]
    assert run(root, "--overwrite", "--sample", "B", "--sample", "A", bad={"B/1": BAD_LAYER}) == 0
    assert calls(root) == EVERY
    assert run(root) == 0 and calls(root) == ["B/1"]
    assert read_status(Layout(root))["B/1"] == {STEP: "ok"}


def test_the_workflow_gets_its_marker_although_a_layer_was_left_out(root, capsys):
    layout = Layout(root)
    marker = layout.done(STEP, "A", 2)
    assert run(root, "--sample", "A", "--layer", "2", "--done", str(marker), bad={"A/2": BAD_LAYER}) == 0
    assert json.loads(marker.read_text()) == {"succeeded": 0, "of": 1}
    assert capsys.readouterr().err.count("\n") == 1
    assert read_status(layout)["A/2"][STEP].startswith("left out: imgs/A/2.jpg")
    other = layout.done(STEP)
    assert run(root, "--done", str(other), bad={"A/2": BAD_FORM}) == 2
    assert not other.exists()  # a wrong form stops the workflow


def test_a_later_step_names_the_step_that_left_the_layer_out(root, capsys):
    layout = Layout(root)
    for step in (EARLIER, STEP, LATER):
        assert run(root, step=step, bad={"A/2": BAD_LAYER}) == 0
    status = read_status(layout)["A/2"]
    assert list(status) == [EARLIER, STEP, LATER]  # in the order of the run
    assert status[EARLIER].startswith("left out: imgs/A/2.jpg")
    assert status[STEP] == status[LATER] == f"left out since {EARLIER}"
    assert f"{LATER}  A/2: left out since {EARLIER}\n" in capsys.readouterr().err
    assert first_failure(layout, "A/2", EARLIER) is None  # not before itself
    assert first_failure(layout, "A/1", LATER) is None
    assert run(root, step=EARLIER) == 0  # repaired: from now on the next one fails for its own reason
    assert run(root, step=STEP, bad={"A/2": BAD_LAYER}) == 0
    assert read_status(layout)["A/2"][STEP].startswith("left out: imgs/A/2.jpg")
    assert first_failure(layout, "A/2", LATER) == STEP


# status.json -----------------------------------------------------------------------------------------
def test_status_is_written_by_many_processes_and_loses_nothing(tmp_path):
    layout = Layout(tmp_path)

    def note(writer: int) -> None:
        for k in range(10):
            set_status(layout, STEP if k % 2 else EARLIER, f"{writer}/{k // 2}", "ok")

    writers = [FORK.Process(target=note, args=(writer,)) for writer in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0] * 4
    names = [f"{writer}/{k}" for writer, k in itertools.product(range(4), range(5))]
    assert read_status(layout) == dict.fromkeys(names, {EARLIER: "ok", STEP: "ok"})
    assert files_in(tmp_path) == ["status.json", "status.lock"]


def test_status_command(root, capsys):
    assert cli.main(["status", "--root_path", str(root)]) == 0
    assert "no step has run yet" in capsys.readouterr().out
    run(root, bad={"A/2": BAD_LAYER})
    capsys.readouterr()
    assert cli.main(["status", "--root_path", str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and "1 steps ok" in lines[0] and f"{STEP}: left out: imgs/A/2.jpg" in lines[1]
    assert cli.main(["status", "--root_path", str(root / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {root / 'nowhere'}: found no folder")


def test_status_has_layer_2_before_layer_10(tmp_path):
    layout = Layout(tmp_path)
    for name in ("block/10", "block/2", "dataset", "block", "block/1", "b10/1", "b9/1"):
        set_status(layout, STEP, name, "ok")
    assert list(read_status(layout)) == ["b9/1", "b10/1", "block", "block/1", "block/2", "block/10", "dataset"]


# errors and options ----------------------------------------------------------------------------------
def test_errors_survive_the_way_between_processes():
    for error in (BAD_LAYER, BAD_FORM):
        back = pickle.loads(pickle.dumps(error))
        assert type(back) is type(error) and str(back) == str(error)
    assert "\n" not in str(BAD_LAYER)


def test_parse_layers():
    assert cli.parse_layers(None) is None
    assert cli.parse_layers("2") == [2]
    assert cli.parse_layers("4, 1,4") == [1, 4]
    for text in ("", "1,", "one", "1;2", "1.5"):
        with pytest.raises(DataError, match="--known_layers: found .* numbers separated by commas"):
            cli.parse_layers(text)
    with pytest.raises(DataError, match="^--training_layers: found 'one'; .*fix: e.g. --training_layers 1,4$"):
        cli.parse_layers("one", "--training_layers")
