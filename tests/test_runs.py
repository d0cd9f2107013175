"""Names never leave their folder; run folders keep what others put there; a run deletes only what it wrote."""
import json
import os
import shutil
from pathlib import Path

import anndata
import numpy as np
import pytest
from archives import write_archive
from conftest import load_script
from folders import touch
from hypothesis import given, strategies as st

from common import run_folder
from common.config import Config, resolve, validate
from common.errors import DataError
from common.io import read_h5ad, write_json
from common.layout import Layout, RunLayout
from common.names import is_name
from common.written import Written
from evaluation.runs import run_folds
from training.folds import Fold

convert = load_script("0_1_convert_raw")
ESCAPING = ["../..", "..", ".", "", "/etc", "a/b", ".hidden", "C ", "C.", " C", "C\n", "C\\D", "-C"]
FOLDS = [{"index": 0, "test_samples": ["C"], "training_layers": {"C": [1]}, "known_layers": {"C": [1]},
          "target_layers": {"C": [2]}}]
IDENTITY = {"script": "main_3d", "dataset": "visium", "method": "gp", "folds": FOLDS}
SOME_ROOT = Layout(Path("root"))


# names -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ESCAPING)
def test_a_name_that_leaves_its_folder_is_one_line(name):
    of_sample = {"dataset": "d", "pitch_px": 272, "samples": {name: {"layers": [1]}}}
    for values, key in ((of_sample, "samples"), ({"dataset": name, "pitch_px": 272}, "dataset")):
        with pytest.raises(DataError) as error:
            validate(values, "c.yaml")
        said = str(error.value)
        assert "c.yaml" in said and key in said and "a name of letters" in said and "\n" not in said


@pytest.mark.parametrize("name", ["C", "C2", "_x", "block 7", "HER2-C.v2", "Gewebe_ü", "1"])
def test_usual_names_are_names(name):
    assert is_name(name) and validate({"dataset": name, "samples": {name: {}}}, "c.yaml").dataset == name


@given(st.text(max_size=8))
def test_a_name_is_one_folder_below(name):
    if is_name(name):
        assert os.path.normpath(f"/root/{name}/x") == f"/root/{name}/x"
        assert Path(f"/root/{name}").parent == Path("/root")


def test_an_archive_whose_sample_would_leave_the_root_is_no_input(tmp_path, capsys):
    """3D_npy_information/...npy is a sample '..': its files went to <root>/location/../<layer>.csv."""
    raw, root = tmp_path / "raw", tmp_path / "root"
    write_archive(raw, ("C",))
    shutil.copy(raw / "3D_npy_information/C.npy", raw / "3D_npy_information/...npy")
    shutil.copy(raw / "3D_graph_data/C.pt", raw / "3D_graph_data/...pt")
    assert convert.main(["--format", "asign", "--raw_path", str(raw), "--root_path", str(root)]) == 0
    assert not capsys.readouterr().err, "a hidden file, such as '...npy', is no input"
    assert [path.name for path in root.glob("*.csv")] == ["not_taken.csv"] and Layout(root).location("C", 2).is_file()


def test_raw_files_and_folders_with_other_names_are_named(tmp_path, capsys):
    """What macOS leaves beside a file (._C2.tsv) is ignored; a sample that cannot name a folder is named."""
    from test_convert_her2st import COUNTS, SPOTS, add_layer
    from test_convert_visium import add_folder
    add_folder(tmp_path / "lung (2)" / "section1")
    for sample in ("C", "._C", "(C)"):
        add_layer(tmp_path / "raw", sample, 2, COUNTS, SPOTS)
    options = ["--raw_path", str(tmp_path / "raw"), "--root_path", str(tmp_path / "root")]
    assert convert.main(["--format", "her2st", *options]) == 0
    error = capsys.readouterr().err
    assert "'(C)'" in error and "._C" not in error and [*(tmp_path / "root/location").iterdir()][1:] == []
    options = ["--raw_path", str(tmp_path / "lung (2)"), "--root_path", str(tmp_path / "lung")]
    assert convert.main(["--format", "visium", *options]) == 0
    assert Layout(tmp_path / "lung").location("lung _2", 1).is_file()


def test_a_folder_on_disk_without_a_name_of_a_sample_is_named(tmp_path, capsys):
    touch(tmp_path / "imgs/A/1.png", tmp_path / "imgs/+thumbs/1.png")
    assert list(resolve(Config(dataset="d", pitch_px=272), Layout(tmp_path), "c.yaml").samples) == ["A"]
    error = capsys.readouterr().err
    assert str(tmp_path / "imgs/+thumbs") in error and error.count("\n") == 1


# what a run deletes ----------------------------------------------------------------------------------
def predictions(run: RunLayout, sample: str, *layers: int) -> None:
    for layer in layers:
        adata = anndata.AnnData(np.full((3, 2), float(layer), np.float32))
        run_folder.write_prediction(run, sample, run.imputed(sample, layer), adata)


def run_again(run: RunLayout, sample: str) -> None:
    fold = Fold(0, [sample], {}, {}, {})
    run_folds("main_3d", run, [fold], [{}], [fold], lambda fold: {}, 1)


def test_a_fold_that_is_run_again_deletes_its_own_predictions_alone(tmp_path, capsys):
    run = RunLayout(tmp_path / "run")
    predictions(run, "C", 1, 2, 3)
    (run.imputed_folder("C") / "notes.txt").write_text("look at 2")
    (run.imputed_folder("C") / "figures").mkdir()
    changed = read_h5ad(run.imputed("C", 3))
    changed.obs["pathologist"] = "tumour"
    changed.write_h5ad(run.imputed("C", 3))
    theirs = run.imputed("C", 3).read_bytes()
    run_again(run, "C")
    assert sorted(path.name for path in run.imputed_folder("C").iterdir()) == ["3.h5ad.bak", "figures", "notes.txt"]
    assert (run.imputed_folder("C") / "3.h5ad.bak").read_bytes() == theirs and "3.h5ad" in capsys.readouterr().err
    predictions(run, "D", 1)
    run_again(run, "D")
    assert not run.imputed_folder("D").exists()


def test_a_sample_that_leaves_the_run_deletes_no_sibling(tmp_path):
    """The issue's case: imputed/../.. is the folder of all runs. Such a name is refused; even so nothing is deleted."""
    run, sibling = RunLayout(tmp_path / "runs/mine"), tmp_path / "runs/theirs/metrics.json"
    sibling.parent.mkdir(parents=True)
    sibling.write_text("{}")
    run.imputed_folder("x").mkdir(parents=True)
    run_again(run, "../../..")
    assert sibling.read_text() == "{}"


def test_a_prediction_in_place_of_a_persons_file_sets_it_aside(tmp_path, capsys):
    run = RunLayout(tmp_path / "run")
    run.imputed_folder("C").mkdir(parents=True)
    run.imputed("C", 2).write_bytes(b"mine")
    predictions(run, "C", 2)
    predictions(run, "C", 2)  # ours is replaced without a word
    assert sorted(path.name for path in run.imputed_folder("C").glob("[!.]*")) == ["2.h5ad", "2.h5ad.bak"]
    assert (run.imputed_folder("C") / "2.h5ad.bak").read_bytes() == b"mine" and capsys.readouterr().err.count("\n") == 1


def test_a_kill_between_note_and_rename_leaves_a_file_of_ours(tmp_path, monkeypatch):
    ours, path = Written(tmp_path / ".files.json", tmp_path), tmp_path / "a.txt"
    def write(text: str) -> None:
        with ours.writing(path) as temporary:
            temporary.write_text(text)
    write("one")
    replace = os.replace
    with monkeypatch.context() as patch:
        def killed(source, target):
            if Path(target) == path:
                raise KeyboardInterrupt
            replace(source, target)
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write("two")
    assert path.read_text() == "one"
    write("three")
    assert path.read_text() == "three" and sorted(one.name for one in tmp_path.iterdir()) == [".files.json", "a.txt"]


STEPS = ["we write 1", "we write 2", "they write 1", "they write 3", "they delete", "we remove"]


@given(st.lists(st.sampled_from(STEPS), max_size=6))
def test_what_a_person_wrote_is_always_there(steps):
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        ours, path, theirs = Written(Path(folder) / ".files.json", Path(folder)), Path(folder) / "a.txt", None
        for step in steps:
            who, verb, *text = step.split()
            if verb == "delete":
                path.unlink(missing_ok=True)
                theirs = None
            elif verb == "remove":
                ours.remove([path])
                assert not path.exists()
            elif who == "we":
                with ours.writing(path) as temporary:
                    temporary.write_text(text[0])
            else:
                path.write_text("theirs " + text[0])
                theirs = path.read_text()
            assert theirs is None or theirs in [one.read_text() for one in Path(folder).glob("a.txt*")]


def test_images_of_a_person_are_set_aside_and_ours_are_replaced(tmp_path, capsys):
    from test_convert_her2st import COUNTS, SPOTS, add_layer
    raw, layout = tmp_path / "raw", Layout(tmp_path / "root")
    add_layer(raw, "C", 2, COUNTS, SPOTS)
    options = ["--format", "her2st", "--raw_path", str(raw), "--root_path", str(layout.root), "--overwrite"]
    assert convert.main([*options, "--copy"]) == 0
    (raw / "ST-imgs/C/C2/HE_BT.jpg").write_bytes(b"scanned again")
    for more in ([], ["--copy"]):  # our copy is replaced by a link, our link by a copy
        assert convert.main([*options, *more]) == 0 and layout.image("C", 2).read_bytes() == b"scanned again"
    assert [path.name for path in layout.image("C", 2).parent.iterdir()] == ["2.jpg"]
    layout.image("C", 2).write_bytes(b"retouched")
    layout.location("C", 2).write_text(layout.location("C", 2).read_text().replace("544.5", "540.0"))
    moved = layout.location("C", 2).read_text()
    capsys.readouterr()
    assert convert.main(options) == 0
    assert layout.image("C", 2).is_symlink() and (layout.root / "imgs/C/2.jpg.bak").read_bytes() == b"retouched"
    assert (layout.root / "location/C/2.csv.bak").read_text() == moved and capsys.readouterr().err.count("kept as") == 2


def test_the_demo_deletes_no_spots_of_a_person(tmp_path, monkeypatch, capsys):
    demo, layout = load_script("0_make_demo"), Layout(tmp_path)
    options = ["--root_path", str(tmp_path), "--n_samples", "1", "--n_layers", "2", "--size_px", "544", "--overwrite"]
    assert demo.main(options) == 0
    layout.location("A", 1).write_text("barcode,pixel_x,pixel_y,i,j\nmine,1,1,0,0\n")
    monkeypatch.setattr(demo, "is_image_only", lambda config, sample, layer: layer == 1)
    assert demo.main(options) == 0
    assert not layout.location("A", 1).exists() and not layout.counts("A", 1).exists()
    assert "mine" in (tmp_path / "location/A/1.csv.bak").read_text()


# run folders -----------------------------------------------------------------------------------------
def finished(run: RunLayout, identity: dict = IDENTITY, three_d: bool = True, layout: Layout = SOME_ROOT) -> RunLayout:
    run_folder.take(run, layout, False, **identity)
    kernels = {"kernels": {}} if three_d else {}
    write_json(run.splits, {"method": identity["method"], "folds": identity["folds"], **kernels})
    run.metrics_json.write_text(json.dumps(identity["method"]))
    return run


def test_a_run_lies_in_its_root(tmp_path):
    kidney, lung = Layout(tmp_path / "kidney"), Layout(tmp_path / "lung")
    assert run_folder.choose(kidney, None, "gp").root == kidney.root / "runs/gp"
    assert run_folder.choose(lung, None, "gp").root != kidney.root / "runs/gp"
    assert run_folder.choose(kidney, "elsewhere", "gp").root == Path("elsewhere")


def test_two_roots_in_one_folder_keep_both_results(tmp_path, capsys):
    """The issue's case: both data sets are called visium, and --save_path is one folder."""
    run = RunLayout(tmp_path / "runs/visium")
    finished(run, layout=Layout(tmp_path / "kidney"))
    (run.root / "notes.txt").write_text("kidney")
    run_folder.take(run, Layout(tmp_path / "lung"), False, **IDENTITY)
    kept = tmp_path / "runs/visium_before_1"
    said = capsys.readouterr().out
    assert RunLayout(kept).metrics_json.is_file() and (kept / "notes.txt").read_text() == "kidney"
    assert not run.metrics_json.exists()
    assert str(kept) in said and "kidney" in said and "lung" in said and "--overwrite" in said


@pytest.mark.parametrize("change, word", [
    ({"method": "msagnet"}, "method gp, here msagnet"), ({"dataset": "other"}, "dataset visium, here other"),
    ({"folds": [FOLDS[0] | {"known_layers": {"C": [2]}}]}, "[{'C': [1]}], here [{'C': [2]}]"),
    ({"script": "main"}, "script main_3d, here main"),
    ({"folds": [FOLDS[0] | {"test_samples": ["D"]}]}, "other folds")])
def test_another_result_is_kept_aside_unless_overwritten(tmp_path, capsys, change, word):
    layout, run = Layout(tmp_path / "root"), RunLayout(tmp_path / "run")
    finished(run, layout=layout)
    predictions(run, "C", 1)
    run_folder.take(run, layout, False, **IDENTITY)  # the same again goes on, without the scores of before
    assert run.imputed("C", 1).is_file() and not capsys.readouterr().out
    assert not any(path.exists() for path in (run.metrics_json, run.splits, run.metrics_csv, run.runtime))
    finished(run, layout=layout)
    run_folder.take(run, layout, False, **(IDENTITY | change))
    assert (tmp_path / "run_before_1/metrics.json").is_file() and word in capsys.readouterr().out
    finished(run, IDENTITY | change, layout=layout)
    predictions(run, "C", 1)
    run_folder.take(run, layout, True, **IDENTITY)
    assert not (tmp_path / "run_before_2").exists() and not run.imputed("C", 1).exists() and not capsys.readouterr().out
    finished(run, layout=layout)
    run_folder.take(run, layout, False, **(IDENTITY | change))
    assert (tmp_path / "run_before_2").is_dir()


def test_overwriting_a_run_of_more_folds_leaves_no_checkpoint_of_it(tmp_path):
    layout, run = Layout(tmp_path / "root"), RunLayout(tmp_path / "run")
    finished(run, IDENTITY | {"folds": FOLDS * 3}, layout=layout)
    for fold in range(3):
        for path in (run.checkpoint(fold), run.fold_result(fold), run.fold_recipe(fold)):
            path.parent.mkdir(exist_ok=True)
            path.write_text("old")
    (run.checkpoint(2).parent / "notes.txt").write_text("a person's")
    run_folder.take(run, layout, True, **IDENTITY)
    assert run.folds() == [2] and [path.name for path in run.checkpoint(2).parent.iterdir()] == ["notes.txt"]


def test_a_run_of_an_earlier_version_is_known_by_its_splits(tmp_path):
    layout, run = Layout(tmp_path / "root"), RunLayout(tmp_path / "run")
    finished(run, layout=layout)
    run.identity.unlink()
    run_folder.take(run, layout, False, **IDENTITY)
    assert not (tmp_path / "run_before_1").exists()
    finished(run, layout=layout)
    run.identity.unlink()
    run_folder.take(run, layout, False, **(IDENTITY | {"method": "kernel"}))
    assert (tmp_path / "run_before_1/metrics.json").is_file()


def test_a_folder_that_is_no_run_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text("a person's")
    with pytest.raises(DataError, match="config.yaml"):
        run_folder.take(RunLayout(tmp_path), Layout(tmp_path / "root"), False, **IDENTITY)
    assert (tmp_path / "config.yaml").read_text() == "a person's" and not RunLayout(tmp_path).identity.exists()
    run = finished(RunLayout(tmp_path / "work"))
    monkeypatch.chdir(run.root)
    for layout in (Layout(Path("elsewhere")), Layout(run.root / "root")):
        with pytest.raises(DataError, match="another result"):
            run_folder.take(run, layout, False, **(IDENTITY | {"method": "kernel"}))
    assert run.metrics_json.is_file()


def test_predict_and_report_find_the_run(tmp_path, capsys):
    layout = Layout(tmp_path)
    with pytest.raises(DataError, match="no finished run.*main_3d.py"):
        run_folder.find(layout, None, only_3d=True)
    finished(layout.run("gp"))
    assert {run_folder.find(layout, None, only_3d).root for only_3d in (True, False)} == {tmp_path / "runs/gp"}
    assert not capsys.readouterr().err
    finished(layout.run("msagnet_2d"), IDENTITY | {"script": "main", "method": "msagnet"}, three_d=False)
    finished(layout.run("gp_before_1"))
    finished(layout.run("msagnet"))
    layout.run("broken").root.mkdir()
    layout.run("broken").splits.write_text("{")
    for k, name in enumerate(("gp", "msagnet", "msagnet_2d", "gp_before_1")):
        os.utime(layout.run(name).splits, (10**9 + k, 10**9 + k))
    assert run_folder.find(layout, None, only_3d=True).root.name == "msagnet"
    said = capsys.readouterr().err
    assert all(text in said for text in ("runs/gp", "--save_path", "broken"))
    assert "before" not in said and "2d" not in said
    assert run_folder.find(layout, None).root.name == "msagnet_2d" and run_folder.find(layout, "x").root == Path("x")


def test_the_mains_write_into_the_root_and_the_others_find_it(tmp_path, capsys):
    """A stack of an archive, end to end without --save_path."""
    write_archive(tmp_path / "raw", ("C",))
    root = str(tmp_path / "root")
    layout = Layout(tmp_path / "root")
    assert convert.main(["--format", "asign", "--raw_path", str(tmp_path / "raw"), "--root_path", root]) == 0
    assert load_script("predict_3d").main(["--root_path", root]) == 2 and "no finished run" in capsys.readouterr().err
    main_3d = ["--root_path", root, "--method", "gp", "--gpu", "cpu"]
    assert load_script("main_3d").main([*main_3d, "--known_layers", "2"]) == 0
    first = layout.run("gp").metrics_json.read_bytes()
    assert load_script("main_3d").main([*main_3d, "--known_layers", "3"]) == 0
    assert layout.run("gp_before_1").metrics_json.read_bytes() == first != layout.run("gp").metrics_json.read_bytes()
    main = ["--root_path", root, "--method", "ridge", "--gpu", "cpu", "--training_layers", "2"]
    assert load_script("main").main(main) == 0
    assert load_script("predict_3d").main(["--root_path", root, "--gpu", "cpu"]) == 0
    assert layout.run("gp").imputed("C", 2).is_file() and layout.run("ridge_2d").imputed("C", 3).is_file()
    assert load_script("report").main(["--root_path", root]) == 0 and layout.run("ridge_2d").report.is_file()


def test_the_benchmark_deletes_no_folder_of_a_person(tmp_path):
    from benchmarks.hidden_layers import hide_layers
    (tmp_path / "her2c_hidden").mkdir()
    (tmp_path / "her2c_hidden/notes.txt").write_text("mine")
    with pytest.raises(DataError, match="her2c_hidden"):
        hide_layers(tmp_path / "her2c", tmp_path / "her2c_hidden", "C", 2, None)
    assert (tmp_path / "her2c_hidden/notes.txt").read_text() == "mine"
