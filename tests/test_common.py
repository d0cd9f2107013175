"""What every step stands on: config, atomic files, recipes, the walk over layers, paths."""
import hashlib
import json
import multiprocessing
import os
import pickle
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from common import cli, io, jobs, recipe
from common.config import Config, SampleConfig, load_config, resolve, save_config, validate
from common.errors import DataError, LayerError
from common.layout import Layout
from common.status import first_failure, read_status, set_status

FORK = multiprocessing.get_context("fork")


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# config ----------------------------------------------------------------------------------------------
def config_file(folder: Path, **values) -> Path:
    path = folder / "c.yaml"
    path.write_text(yaml.safe_dump({"dataset": "d", "pitch_px": 272, **values}))
    return path


@pytest.mark.parametrize("values, expected", [
    ({"pitch_pxx": 3}, r"unknown key 'pitch_pxx'.*fix: did you mean 'pitch_px'\?"),
    ({"gene": "hvg"}, r"unknown key 'gene'.*did you mean 'genes'\?"),
    ({"zebra": 3}, r"unknown key 'zebra'.*fix: remove it"),
    ({"samples": {"A": {"layer": [1]}}}, r"unknown key 'samples.A.layer'.*known_layers, layers, .*skip.*did you mean 'layers'\?"),
    ({"pitch_px": "wide"}, r"'pitch_px: 'wide''.*number.*correct 'pitch_px'"),
    ({"pitch_px": 0}, r"'pitch_px: 0.0'.*greater than 0"),
    ({"pitch_um": True}, r"'pitch_um: True'"),
    ({"n_genes": 2.5}, r"'n_genes: 2.5'.*integer"),
    ({"n_genes": "250"}, r"'n_genes: '250''"),
    ({"array": "round"}, r"'array: 'round''.*'square' or 'hex'"),
    ({"samples": {"A": {"layers": ["1"]}}}, r"'samples.A.layers.0: '1''"),
    ({"exclude_prefixes": "MT-"}, r"'exclude_prefixes: 'MT-''.*list"),
])
def test_a_wrong_key_or_value_is_one_clear_line(tmp_path, values, expected):
    path = config_file(tmp_path, **values)
    with pytest.raises(DataError, match=expected) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: found ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("text, expected", [
    ("pitch_px: 3\n", "no key 'dataset'"),
    ("- a\n- b\n", "found list; expected a YAML mapping"),
    ("", "found NoneType"),
    ("a: [1,\nb: }", "invalid YAML"),
])
def test_a_file_that_is_no_config_is_refused(tmp_path, text, expected):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(DataError, match=expected) as caught:
        load_config(tmp_path / "c.yaml")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="no_such.yaml: found no file"):
        load_config(tmp_path / "no_such.yaml")


def test_int_is_accepted_where_a_float_is_meant_and_a_number_as_sample_name(tmp_path):
    config = load_config(config_file(tmp_path, pitch_px=68, pixel_size_um=3, section_thickness_um=16,
                                     samples={7: {"layers": [1]}, "B": None}))
    assert (config.pitch_px, config.pixel_size_um, config.section_thickness_um) == (68.0, 3.0, 16.0)
    assert all(type(value) is float for value in (config.pitch_px, config.pixel_size_um, config.section_thickness_um))
    assert list(config.samples) == ["7", "B"] and config.samples["B"] == SampleConfig()


@pytest.mark.parametrize("pair", [{}, {"landmarks": "a.csv", "transform": "b.json"}])
def test_a_pair_is_given_in_one_way(pair):
    with pytest.raises(DataError, match="either landmarks or transform.*correct 'samples.A.pairs.1_to_2'"):
        stack_config(A={"layers": [1, 2], "pairs": {"1_to_2": pair}})


def stack_config(**samples) -> Config:
    return validate({"dataset": "d", "pitch_px": 272, "samples": samples}, "c.yaml")


def test_restricted_keeps_what_is_asked_for():
    config = stack_config(A={"layers": [1, 2, 3]}, B={"layers": [2]}, C={"layers": [9]})
    listed = lambda one: {name: sample.layers for name, sample in one.samples.items()}
    assert listed(config.restricted(None, None, "c")) == {"A": [1, 2, 3], "B": [2], "C": [9]}
    assert listed(config.restricted(["B", "A"], None, "c")) == {"A": [1, 2, 3], "B": [2]}
    assert listed(config.restricted(None, [3, 2], "c")) == {"A": [2, 3], "B": [2]}
    assert listed(config.restricted(["A"], [3], "c")) == {"A": [3]}
    assert listed(config) == {"A": [1, 2, 3], "B": [2], "C": [9]}  # the original is untouched
    with pytest.raises(DataError, match="no sample X, Z; expected one of A, B, C; fix: correct --sample"):
        config.restricted(["Z", "A", "X"], None, "c")
    with pytest.raises(DataError, match=r"no layer \[9\]; expected one of \[1, 2, 3\]; fix: correct --layer"):
        config.restricted(["A"], [1, 9], "c")


def test_skipped_layers_are_listed_but_not_worked_on(tmp_path):
    config = resolve(stack_config(A={"layers": [3, 1, 2], "skip": [2]}), Layout(tmp_path), "c")
    assert config.samples["A"].layers == [1, 2, 3] and config.layers_of("A") == [1, 3]


def test_resolve_finds_samples_and_layers_on_disk(tmp_path):
    touch(*(tmp_path / name for name in ("imgs/A/10.jpg", "imgs/A/2.SVS", "imgs/A/notes.jpg", "imgs/A/5.txt", "location/B/7.csv",
                                         "counts/A/3.h5ad", "counts/B/7.h5ad", "imgs/A/.4.k3.jpg", "truth/C/1.npz")))
    config = resolve(validate({"dataset": "d", "pitch_px": 272}, "c"), Layout(tmp_path), "c")
    assert {name: one.layers for name, one in config.samples.items()} == {"A": [2, 3, 10], "B": [7]}
    only_a = resolve(stack_config(A={"skip": [3], "known_layers": [10]}), Layout(tmp_path), "c")
    assert list(only_a.samples) == ["A"] and only_a.layers_of("A") == [2, 10]
    save_config(config, tmp_path / "dataset.yaml")
    assert load_config(tmp_path / "dataset.yaml") == config


@pytest.mark.parametrize("values, expected", [
    ({}, "no layer"),
    ({"samples": {"Q": {}}}, "sample 'Q' without layers"),
    ({"samples": {"A": {"layers": [1], "known_layers": [4]}}}, r"samples.A.known_layers \[4\]; expected layers among \[1\]"),
    ({"samples": {"A": {"layers": [1]}}, "folds": [["A", "X"]]}, "folds name X; expected samples among A"),
])
def test_resolve_refuses_what_is_not_there(tmp_path, values, expected):
    with pytest.raises(DataError, match=expected):
        resolve(validate({"dataset": "d", "pitch_px": 272, **values}, "c"), Layout(tmp_path), "c")


# files -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_writer_leaves_the_old_file_and_nothing_else(tmp_path, interruption):
    path = tmp_path / "new_folder" / "1.csv"
    for old in (None, "old"):
        if old:
            path.write_text(old)
        with pytest.raises(interruption), io.atomic_path(path) as temporary:
            temporary.write_text("half of the n")
            assert temporary.suffix == ".csv" and temporary.parent == path.parent
            raise interruption
        assert files_in(path.parent) == (["1.csv"] if old else [])
    assert path.read_text() == "old"


def test_a_killed_writer_leaves_the_old_file_and_no_layer_that_is_none(tmp_path):
    layout = Layout(tmp_path)
    path = layout.new_image("A", 1, ".jpg")
    touch(path)

    def half_write():
        with io.atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)

    writer = FORK.Process(target=half_write)
    writer.start()
    writer.join(30)
    assert writer.exitcode == -signal.SIGKILL
    assert path.read_bytes() == b"x" and layout.image("A", 1) == path
    assert layout.layers_on_disk() == {"A": [1]}


def test_a_written_file_has_the_rights_of_a_plain_one(tmp_path):
    io.write_json(tmp_path / "a.json", {"b": 1})
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "plain").stat().st_mode
    with pytest.raises(ValueError):
        io.write_json(tmp_path / "a.json", {"b": float("nan")})
    assert io.read_json(tmp_path / "a.json") == {"b": 1} and files_in(tmp_path) == ["a.json", "plain"]


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_nothing_is_read_with_pickle(tmp_path):
    import torch
    trap = tmp_path / "sprung"
    np.save(tmp_path / "a.npy", np.array([Trap(trap), 1], object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=np.array([Trap(trap)], object))
    torch.save({"x": Trap(trap)}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps({"x": Trap(trap)}))
    for read, name in ((io.read_npy, "a.npy"), (io.read_npz, "a.npz"), (io.read_pt, "a.pt"), (io.read_pt, "b.pt")):
        with pytest.raises((ValueError, pickle.UnpicklingError, DataError, LayerError)):
            read(tmp_path / name)
        assert not trap.exists(), name
    with pytest.raises(ValueError):
        io.write_npy(tmp_path / "c.npy", np.array([Trap(trap)], object))
    assert files_in(tmp_path) == ["a.npy", "a.npz", "a.pt", "b.pt"]


def test_arrays_and_tensors_come_back_as_written(tmp_path):
    import torch
    records = np.array([("a", (1.5, 2), True), ("bc", (3, 4), False)], [("barcode", "U2"), ("pixel", "f8", 2), ("has_label", "?")])
    io.write_npy(tmp_path / "a.npy", records)
    for mmap in (False, True):
        back = io.read_npy(tmp_path / "a.npy", mmap=mmap)
        assert back.dtype == records.dtype and (back == records).all() and isinstance(back, np.memmap) == mmap
    io.write_pt(tmp_path / "a.pt", {("spot", "in", "region"): {"edge_index": torch.arange(4).reshape(2, 2)}})
    assert io.read_pt(tmp_path / "a.pt")["spot", "in", "region"]["edge_index"].tolist() == [[0, 1], [2, 3]]
    io.write_features(tmp_path / "a.h5", {"stain": np.eye(2)}, ["ä", "b"], {"stain": {"model": "m", "window_px": 3}})
    sets, names = io.read_features(tmp_path / "a.h5")
    assert names == ["ä", "b"] and list(sets) == ["stain"] and sets["stain"].dtype == np.float32
    for read in (io.read_npy, io.read_npz, io.read_csr, io.read_pt, io.read_h5ad, io.read_json, io.read_table):
        with pytest.raises(LayerError, match="none.x: found no file; expected the output of step_9.py; fix: run step_9.py first"):
            read(tmp_path / "none.x", made_by="step_9.py")


@settings(max_examples=20, deadline=None)
@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.sampled_from([0, 0, 1, -2.5])))
def test_csr_comes_back_as_written(tmp_path_factory, dense):
    path = tmp_path_factory.mktemp("csr") / "m.npz"
    io.write_csr(path, sparse.coo_matrix(dense))
    back = io.read_csr(path)
    assert back.format == "csr" and back.dtype == np.float32 and back.shape == dense.shape
    np.testing.assert_array_equal(back.toarray(), dense)


def test_csr_keeps_stored_zeros_and_sorts_columns(tmp_path):
    matrix = sparse.csr_array((np.array([5, 0, 1], np.float32), np.array([2, 0, 1]), np.array([0, 2, 3])), shape=(2, 3))
    io.write_csr(tmp_path / "m.npz", matrix)
    back = io.read_csr(tmp_path / "m.npz")
    assert back.indices.tolist() == [0, 2, 1] and back.data.tolist() == [0, 5, 1] and back.indptr.tolist() == [0, 2, 3]


LOCATION = {"barcode": ["007", "NA"], "pixel_x": [1.5, 2], "pixel_y": [3, -4.25], "i": [1, 2], "j": [5, 6]}


def write_location(path: Path, **changes) -> Path:
    table = pd.DataFrame({**LOCATION, **changes})
    table.drop(columns=[name for name, value in changes.items() if value is None]).to_csv(path, index=False)
    return path


def test_location_is_read_with_its_types(tmp_path):
    table = io.read_location(write_location(tmp_path / "1.csv", extra=["p", "q"]))
    assert table["barcode"].tolist() == ["007", "NA"]  # text, and NA is a name
    assert table["pixel_y"].tolist() == [3, -4.25]
    assert [str(table[name].dtype) for name in ("pixel_x", "pixel_y", "i", "j")] == ["float64", "float64", "int64", "int64"]


@pytest.mark.parametrize("changes, expected", [
    ({"pixel_x": None}, "a column pixel_x"), ({"barcode": None, "j": None}, "a column barcode, j"),
    ({"barcode": ["a", "a"]}, "barcode a twice"),
    ({"pixel_y": ["1", "up"]}, "a pixel_y that is not a number"), ({"pixel_x": [1, np.inf]}, "a pixel_x that is not a number"),
    ({"i": [1, 1e300]}, "an? i that is not a number"),
    ({"pixel_x": [1, np.nan]}, "a pixel_x that is not a number"),
])
def test_a_wrong_location_is_refused(tmp_path, changes, expected):
    path = write_location(tmp_path / "1.csv", **changes)
    with pytest.raises(LayerError, match=expected) as caught:
        io.read_location(path)
    assert str(path) in str(caught.value)


# recipes ---------------------------------------------------------------------------------------------
@pytest.fixture
def made(tmp_path):
    """(make a recipe, recipe file, outputs) of a step that has been done."""
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
    assert make()["inputs"] == {"in.txt": hashlib.sha256(b"aaaa").hexdigest(), "absent.txt": None}  # names relative to the root


@pytest.mark.parametrize("change", [{"step": "t"}, {"code": "d"}, {"n": 2}, {"extra": None}, {"window": {224: 21}}, {"inputs": ()}])
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

    changed = lambda at: content[:at] + bytes([content[at] ^ 1]) + content[at + 1:]
    blocks = b"".join(content[start:start + 64] for start in range(0, 6001, 400))
    assert len(blocks) == 16 * 64
    assert digest(content) == hashlib.sha256(b"6064" + blocks).hexdigest()
    assert all(digest(changed(at)) != digest(content) for at in (0, 63, 400, 3263, 6000, 6063))
    assert digest(changed(200)) == digest(content)  # between two blocks: the price of not reading a whole slide
    assert digest(content + b"x") != digest(content)
    assert digest(content[:5000]) == hashlib.sha256(content[:5000]).hexdigest()  # up to the limit: all of it


# the walk over layers --------------------------------------------------------------------------------
STEP, EARLIER, LATER = "3_find_1024_pair", "0_2_tissue_mask", "6_pt_construction"


@pytest.fixture
def root(tmp_path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    save_config(stack_config(A={"layers": [1, 2, 3]}, B={"layers": [1]}), folder / "dataset.yaml")
    touch(tmp_path / "code/step.py")
    return folder


def run(root: Path, *options: str, step: str = STEP, bad: dict | None = None, kind=jobs.run_layers) -> int:
    """A step that writes 'done' to one file a unit; bad: {unit name: exception}. Each work adds a line to calls.txt."""
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
    assert json.loads((root / "status.json").read_text()) == {name: {STEP: reason if name == "A/2" else "ok"} for name in EVERY}
    assert files_in(root / "out") == ["A_1.txt", "A_3.txt", "B_1.txt"]
    out, err = capsys.readouterr()
    assert err == f"{STEP}  A/2: {reason}\n"
    assert [line.split(":")[0] for line in out.splitlines()] == [f"{STEP}  {name}" for name in ("A/1", "A/3", "B/1")]


def test_nothing_left_is_exit_code_2(root, capsys):
    assert run(root, bad=dict.fromkeys(EVERY, BAD_LAYER)) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {STEP}: nothing is left to work on; see {root / 'status.json'}"
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
    """Out of memory, say: no waiting for a result that never comes."""
    killed = lambda step, script, args, make_job: jobs.run_layers(step, script, args, lambda *unit: os._exit(9))
    assert run(root, "--num_workers", "2", kind=killed) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: --num_workers: ") and err.count("\n") == 1 and "fewer --num_workers" in err
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("options, expected", [
    (("--sample", "Z"), "no sample Z"), (("--layer", "9"), r"no layer \[9\]"), (("--config", "no.yaml"), "no.yaml: found no file"),
])
def test_a_wrong_option_ends_the_run_before_any_work(root, capsys, options, expected):
    assert run(root, *options) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and expected.replace("\\", "") in err
    assert calls(root) == [] and not (root / "status.json").exists()


def test_a_missing_root_ends_the_run(tmp_path, capsys):
    assert run(tmp_path / "nowhere") == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'nowhere'}: found no folder; expected a dataset root; fix: correct --root_path\n"
    assert not (tmp_path / "nowhere").exists()


def test_chosen_layers_only(root):
    assert run(root, "--sample", "A", "--layer", "3", "--layer", "1") == 0
    assert calls(root) == ["A/1", "A/3"]


@pytest.mark.parametrize("kind, names", [(jobs.run_samples, ["A", "B"]), (jobs.run_dataset, ["dataset"])])
def test_steps_on_samples_and_on_the_dataset(root, kind, names):
    assert run(root, kind=kind) == 0
    assert calls(root) == names and list(read_status(Layout(root))) == names


def test_what_is_up_to_date_is_skipped(root, capsys):
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
    assert run(root, "--overwrite", "--sample", "B", "--sample", "A", bad={"B/1": BAD_LAYER}) == 0 and calls(root) == EVERY
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
    assert status[EARLIER].startswith("left out: imgs/A/2.jpg") and status[STEP] == status[LATER] == f"left out since {EARLIER}"
    assert f"{LATER}  A/2: left out since {EARLIER}\n" in capsys.readouterr().err
    assert first_failure(layout, "A/2", EARLIER) is None  # not before itself
    assert first_failure(layout, "A/1", LATER) is None
    assert run(root, step=EARLIER) == 0  # repaired: from now on the next one fails for its own reason
    assert run(root, step=STEP, bad={"A/2": BAD_LAYER}) == 0
    assert read_status(layout)["A/2"][STEP].startswith("left out: imgs/A/2.jpg")
    assert first_failure(layout, "A/2", LATER) == STEP


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
    assert read_status(layout) == {f"{writer}/{k}": {EARLIER: "ok", STEP: "ok"} for writer in range(4) for k in range(5)}
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
        with pytest.raises(DataError, match="--known_layers: found .* layer numbers separated by commas"):
            cli.parse_layers(text)
    with pytest.raises(DataError, match="^--training_layers: found 'one'; .*fix: e.g. --training_layers 1,4$"):
        cli.parse_layers("one", "--training_layers")


# paths -----------------------------------------------------------------------------------------------
def test_image_is_the_one_of_this_layer(tmp_path):
    layout = Layout(tmp_path)
    there = ("10.jpg", "1.json", "1.b.jpg", "1.tiff", "11.png", "2.JPG", "3.png", "3.jpg", "12.svs")
    touch(*(tmp_path / "imgs/A" / name for name in there))
    names = {layer: path and path.name for layer in (1, 2, 3, 4, 10, 12) for path in [layout.image("A", layer)]}
    assert names == {1: "1.tiff", 2: "2.JPG", 3: "3.jpg", 4: None, 10: "10.jpg", 12: "12.svs"}
    assert layout.image("B", 1) is None
