"""main, main_3d and predict_3d refuse files that do not fit the config, and name the steps to run."""
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, load_script, script_path
from hypothesis import given, strategies as st
from pipeline import copy_of, run

from common import stale
from common.config import load_config, save_config
from common.imports import files_of
from common.io import read_json, write_json
from common.layout import PIPELINE, Layout, RunLayout

QUICK = ("--max_iterations", "2", "--members", "1")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Layout, RunLayout, dict[str, list[str]]]:
    """A demo root of three sections, a 3D run of it, and the files of ours that each script has loaded.

    The 2D run lies beside the 3D run: <run>_2d.
    """
    folder = tmp_path_factory.mktemp("made")
    (folder / "root").mkdir()
    paths = [folder / name for name in ("root", "run", "loaded.json")]
    subprocess.run([sys.executable, "tests/loaded_modules.py", *paths], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return Layout(folder / "root"), RunLayout(folder / "run"), read_json(folder / "loaded.json")


@pytest.fixture
def copy(made, tmp_path) -> Layout:
    """A copy of the root to spoil."""
    return Layout(copy_of(made[0].root, tmp_path / "root"))


def set_config(layout: Layout, **values) -> None:
    save_config(load_config(layout.config).model_copy(update=values), layout.config)


def start(script: str, layout: Layout, save_path: Path, *options: str) -> int:
    quick = QUICK if script != "predict_3d" else ()
    paths = ["--root_path", str(layout.root), "--save_path", str(save_path)]
    return load_script(script).main([*paths, "--gpu", "cpu", *quick, *options])


def refused(capsys, script: str, layout: Layout, save_path: Path, *options: str) -> str:
    """The one line with which it ends, exit code 2."""
    capsys.readouterr()
    assert start(script, layout, save_path, *options) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and err.startswith("error: ") and out == ""
    return err


def steps_named(line: str) -> list[str]:
    """The scripts that the fix lists, in its order."""
    return [Path(name).stem for name in line.rpartition("in this order: ")[2].strip().split(", ")]


# code ------------------------------------------------------------------------------------------------
def test_every_module_that_a_script_loads_is_in_its_code(made):
    """The imports read from the source miss nothing that runs."""
    loaded = made[2]
    assert set(PIPELINE) | {"0_make_demo", "main", "main_3d", "predict_3d"} == set(loaded)
    for name, files in loaded.items():
        code = {path.relative_to(ROOT).as_posix() for path in files_of(script_path(name))}
        assert set(files) <= code, name


def test_other_code_alone_is_one_warning(copy, tmp_path, capsys):
    for step in ("5_1_find_high_expression", "Step3_registertoMiddle_ANTs"):
        for path in (copy.root / ".recipes" / step).iterdir():
            write_json(path, read_json(path) | {"code": "of before"})
    assert start("main_3d", copy, tmp_path / "run", "--method", "mean") == 0
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("warning: ") and str(copy.root) in err
    assert "5_1_find_high_expression, Step3_registertoMiddle_ANTs" in err and "code" in err


# settings --------------------------------------------------------------------------------------------
def test_genes_of_before_are_not_trained_on(made, copy, tmp_path, capsys):
    set_config(copy, n_genes=2000)
    in_2d = [
        "5_1_find_high_expression", "5_2_get_label_of_other_resolution", "5_3_normalization", "6_pt_construction",
        "7_make_dataset"]
    in_3d = [*in_2d, "2_get_similarity", "3_build_3d_information", "4_build_3d_graph", "5_build_3d_final_format"]
    trained_in_2d = f"{made[1].root}_2d/fold_0/checkpoint.pt"
    for script, save_path, options, steps in (
            ("main_3d", tmp_path / "new", (), in_3d),
            ("predict_3d", made[1].root, (), in_3d),
            ("main", tmp_path / "new", (), in_2d),
            ("main", tmp_path / "new", ("--checkpoint", trained_in_2d), in_2d)):
        line = refused(capsys, script, copy, save_path, *options)
        assert "5_1_find_high_expression" in line.partition("expected")[0] and "n_genes 250 -> 2000" in line
        assert steps_named(line) == steps and f"--root_path {copy.root}" in line
    assert not (tmp_path / "new").exists(), "nothing is written before"


def test_after_the_named_steps_the_run_goes_on(copy, tmp_path, capsys):
    set_config(copy, n_genes=60)
    run(copy.root, steps_named(refused(capsys, "main_3d", copy, tmp_path / "run")))
    capsys.readouterr()
    assert start("main_3d", copy, tmp_path / "run", "--method", "mean") == 0
    out, err = capsys.readouterr()
    assert "60 genes" in out and err == ""


@pytest.mark.parametrize("values, step, change", [
    ({"refinement": "none"}, "Step2_registration_ANTs", "kind affine -> none"),
    ({"refuse_flipped_spots": False}, "0_2_tissue_mask", "refuse_flipped_spots true -> false"),
    ({"backbone": "resnet18"}, "4_feature_extraction", "backbone efficientnet_lite0 -> resnet18"),
])
def test_every_step_is_held_against_the_config(copy, tmp_path, capsys, values, step, change):
    set_config(copy, **values)
    line = refused(capsys, "main_3d", copy, tmp_path / "run")
    assert step in line.partition("expected")[0] and change in line and steps_named(line)[0] == step


def test_registration_does_not_stop_2d(copy, tmp_path, capsys):
    set_config(copy, refinement="none")
    assert start("main", copy, tmp_path / "run", "--training_layers", "1", "--method", "mean") == 0
    assert "error" not in capsys.readouterr().err


def set_sample(layout: Layout, **values) -> None:
    """Other settings of sample A."""
    sample = load_config(layout.config).samples["A"]
    set_config(layout, samples={"A": sample.model_copy(update=values)})


def test_a_layer_that_was_added_is_named(copy, tmp_path, capsys):
    set_sample(copy, layers=[1, 2, 3, 4])
    line = refused(capsys, "main_3d", copy, tmp_path / "run")
    assert "0_2_tissue_mask of A/4" in line and "no tissue/A/4.jpg" in line


def test_a_layer_that_is_skipped_now_is_still_in_the_stack(copy, tmp_path, capsys):
    set_sample(copy, skip=[3])
    line = refused(capsys, "main_3d", copy, tmp_path / "run")
    assert "counts/A/3.h5ad is no longer an input" in line and "Step3_registertoMiddle_ANTs" in steps_named(line)


def test_steps_run_layer_by_layer_leave_the_same_recipes(copy, tmp_path, capsys):
    """As Snakemake runs them."""
    in_3d = ("Step1_affine_registration_2d_PAS_2048_xfeat", "Step2_registration_ANTs")
    for step in ("3_find_1024_pair", "7_make_dataset", *in_3d):
        for layer in "123":
            run(copy.root, [step], "--overwrite", "--sample", "A", "--layer", layer, "--done", str(tmp_path / "done"))
    capsys.readouterr()
    assert start("main_3d", copy, tmp_path / "run", "--method", "mean") == 0 and capsys.readouterr().err == ""


# inputs and outputs ----------------------------------------------------------------------------------
def test_counts_that_were_exchanged_are_named(copy, tmp_path, capsys):
    shutil.copy(copy.counts("A", 1), copy.counts("A", 2))
    line = refused(capsys, "main_3d", copy, tmp_path / "run")
    assert "5_1_find_high_expression" in line and "counts/A/2.h5ad has changed" in line


@pytest.mark.parametrize("change, step, words", [
    (lambda layout: layout.recipe("6_pt_construction", "A", 2).unlink(), "6_pt_construction of A/2", "no recipe"),
    (lambda layout: layout.recipe("6_pt_construction", "A", 2).write_text("{"), "6_pt_construction of A/2",
     "no recipe"),
    (lambda layout: layout.features(512, "A", 3).unlink(), "4_feature_extraction of A/3",
     "no extracted_feature/512/A/3.h5"),
    (lambda layout: layout.spot_regist("A").unlink(), "Step3.5_registertoMiddle_ANTs_points_contour_fast of A",
     "no spot_regist/A.csv"),
    (lambda layout: shutil.rmtree(layout.root / ".recipes"), "0_2_tissue_mask of A/1, A/2, A/3", "no recipe"),
])
def test_a_step_that_was_broken_off_is_named(copy, tmp_path, capsys, change, step, words):
    change(copy)
    line = refused(capsys, "main_3d", copy, tmp_path / "run")
    assert step in line and words in line


def test_units_are_shortened_and_further_steps_are_counted():
    changes = tuple(f"{name} 1 -> 2" for name in "abcd")
    verdicts = [stale.Verdict("2_find_512_pair", f"A/{layer}", changes) for layer in range(5)]
    text = stale.summary([*verdicts, stale.Verdict("3_find_1024_pair", "A/0", ("x",))])
    assert "2_find_512_pair of A/0, A/1, A/2 and 2 more" in text and "1 more steps" in text
    assert "a 1 -> 2, b 1 -> 2, c 1 -> 2 and 1 more" in text


def test_a_layer_that_was_left_out_is_not_read_from_an_earlier_run(copy, tmp_path, capsys):
    """2D: the graph of an earlier run still exists; it is no longer the section's."""
    copy.counts("A", 3).write_bytes(b"no h5ad")
    run(copy.root, PIPELINE[PIPELINE.index("5_1_find_high_expression"):])
    assert copy.npy("A", 3).is_file()
    capsys.readouterr()
    for script, options in (("main", ("--training_layers", "1")), ("main_3d", ())):
        assert start(script, copy, tmp_path / script, "--method", "mean", *options) == 0
        assert set(read_json(RunLayout(tmp_path / script).metrics_json)["methods"]["mean"]["layers"]) == {"A/2"}
    err = capsys.readouterr().err
    assert "main  A/3: left out" in err and "5_1_find_high_expression" in err and "error: " not in err


def test_a_sample_without_graph_does_not_stop_the_others(copy, tmp_path, capsys):
    config = load_config(copy.config)
    samples = {"A": config.samples["A"], "B": config.samples["A"]}
    save_config(config.model_copy(update={"samples": samples, "genes_from": "all"}), copy.config)
    assert start("main_3d", copy, tmp_path / "run", "--method", "mean") == 0
    assert "B: left out" in capsys.readouterr().err


# raw data --------------------------------------------------------------------------------------------
def test_raw_files_that_changed_since_the_conversion_are_named(copy, tmp_path, capsys):
    """Raw data that no longer exist are no fault."""
    raw, gone = tmp_path / "raw.tsv", tmp_path / "gone.tsv"
    raw.write_text("counts")
    digests = {str(raw): stale.file_digest(raw), str(gone): "of before"}
    code = stale.code_digest(script_path("0_1_convert_raw"))
    conversion = {"step": "0_1_convert_raw", "settings": {"format": "her2st"}, "inputs": digests, "code": code}
    write_json(copy.recipe("0_1_convert_raw", "A", 1), conversion)
    assert start("main_3d", copy, tmp_path / "run", "--method", "mean") == 0 and capsys.readouterr().err == ""
    raw.write_text("others")
    line = refused(capsys, "main_3d", copy, tmp_path / "run")
    assert "0_1_convert_raw of A/1" in line and f"{raw} has changed" in line
    assert steps_named(line) == ["0_1_convert_raw", *PIPELINE]


def test_a_scale_that_contradicts_the_spots_after_a_run_is_named(copy, tmp_path, capsys):
    set_sample(copy, pixel_size_um={1: 7.0})
    for script in ("main_3d", "main"):
        line = refused(capsys, script, copy, tmp_path / "run")
        assert "0_2_tissue_mask of A/1" in line and "7 um/px by samples.A.pixel_size_um" in line


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[1]", b"{}"])
def test_a_damaged_recipe_is_none(copy, tmp_path, capsys, content):
    copy.recipe("6_pt_construction", "A", 1).write_bytes(content)
    assert stale.NO_RECIPE in refused(capsys, "main_3d", copy, tmp_path / "run")


# the run ---------------------------------------------------------------------------------------------
def test_a_network_of_before_a_new_registration_is_not_used(made, copy, tmp_path, capsys):
    set_config(copy, refinement="none")
    run(copy.root, PIPELINE[PIPELINE.index("Step2_registration_ANTs"):])
    trained = RunLayout(tmp_path / "run")
    shutil.copytree(made[1].root, trained.root)
    line = refused(capsys, "predict_3d", copy, trained.root)
    assert "3D_graph_data/A.pt has changed" in line and "main_3d.py again" in line
    assert "main_3d.py again" in refused(capsys, "predict_3d", copy, trained.root, "--fold", "0")
    assert start("main_3d", copy, trained.root) == 0 and start("predict_3d", copy, trained.root) == 0


def test_a_graph_that_was_damaged_after_the_training_leaves_out_its_sample(made, copy, capsys):
    """It is no reason to train again: the other samples of the run are predicted."""
    copy.graph_3d("A").write_bytes(copy.graph_3d("A").read_bytes()[:-7])
    assert start("predict_3d", copy, made[1].root) == 2
    left_out, end = capsys.readouterr().err.splitlines()
    assert left_out.startswith("predict_3d  A: left out: ") and str(copy.graph_3d("A")) in left_out
    assert end.startswith("error: ") and "main_3d.py" not in left_out + end


def test_splits_that_were_changed_by_hand_are_not_used(made, copy, tmp_path, capsys):
    trained = RunLayout(tmp_path / "run")
    shutil.copytree(made[1].root, trained.root)
    splits = read_json(trained.splits)
    splits["folds"][0]["known_layers"] = {}
    write_json(trained.splits, splits)
    line = refused(capsys, "predict_3d", copy, trained.root)
    assert f"{trained.splits}: found other bytes than were written" in line and "main_3d.py again" in line


@pytest.mark.parametrize("content", ["{", "[]", '{"recipe": null}'])
def test_a_damaged_metrics_file_is_no_reason_to_train_again(made, copy, tmp_path, content):
    trained = RunLayout(tmp_path / "run")
    shutil.copytree(made[1].root, trained.root)
    trained.metrics_json.write_text(content)
    assert start("predict_3d", copy, trained.root) == 0


def test_a_network_of_another_dataset_is_used(made, copy, tmp_path, capsys):
    set_config(copy, refinement="none", dataset="another")
    run(copy.root, PIPELINE[PIPELINE.index("Step2_registration_ANTs"):])
    trained = RunLayout(tmp_path / "run")
    shutil.copytree(made[1].root, trained.root)
    assert start("predict_3d", copy, trained.root, "--fold", "0") == 0


def test_a_network_of_another_root_is_used_whatever_its_dataset_is_called(made, copy, tmp_path, capsys):
    """All roots of configs/visium.yaml have the name visium."""
    trained = RunLayout(tmp_path / "lab1/runs/msagnet")
    shutil.copytree(made[1].root, trained.root)
    write_json(trained.identity, read_json(trained.identity) | {"root": "../.."})
    stored = read_json(trained.fold_recipe(0))
    inputs = stored["inputs"] | {"gene_expression/genes.csv": "of lab 1"}
    write_json(trained.fold_recipe(0), stored | {"inputs": inputs})
    assert start("predict_3d", copy, trained.root, "--fold", "0") == 0
    write_json(trained.identity, read_json(trained.identity) | {"root": "../../../root"})
    assert "genes.csv has changed" in refused(capsys, "predict_3d", copy, trained.root, "--fold", "0")


def test_of_a_run_only_the_samples_of_this_dataset_count(made, copy, tmp_path, capsys):
    """The fold had read a sample B that this root does not have."""
    trained = RunLayout(tmp_path / "run")
    shutil.copytree(made[1].root, trained.root)
    stored = read_json(trained.fold_recipe(0))
    stored["settings"]["known_layers"]["B"] = [1]
    stored["inputs"] |= {"3D_graph_data/B.pt": "of B", "spot_iou/B.npz": "of B"}
    write_json(trained.fold_recipe(0), stored)
    assert start("predict_3d", copy, trained.root) == 0 and "error" not in capsys.readouterr().err
    trained.fold_recipe(0).unlink()
    assert "no recipe" in refused(capsys, "predict_3d", copy, trained.root)


# differences -----------------------------------------------------------------------------------------
JSON = st.recursive(
    st.none() | st.integers(-2, 2) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=6)
SETTINGS = st.dictionaries(st.sampled_from("xyz"), JSON, max_size=3)


@given(old=SETTINGS, new=SETTINGS)
def test_settings_that_differ_are_named(old, new):
    """Whatever differs is named once, by a key of either; None is as good as no key."""
    assert stale.settings_changes(old, old) == []
    changes = stale.settings_changes(old, new)
    differing = {key for key in {*old, *new} if without_none(old.get(key)) != without_none(new.get(key))}
    assert {change[0] for change in changes} >= differing and len(set(changes)) == len(changes)


def without_none(value):
    """The value without the keys of nested dicts whose value is None."""
    if not isinstance(value, dict):
        return value
    return {key: without_none(one) for key, one in value.items() if one is not None}


@given(old=st.dictionaries(st.sampled_from("abc"), st.none() | st.sampled_from(["1", "2"])),
       new=st.dictionaries(st.sampled_from("abc"), st.none() | st.sampled_from(["1", "2"])))
def test_inputs_that_differ_are_named(old, new):
    named = {change.split()[0] for change in stale.inputs_changes(old, new)}
    assert named == {name for name in {*old, *new} if old.get(name) != new.get(name)}
