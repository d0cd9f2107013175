"""main.py on a tiny demo stack: folds, named layers, a trained network on another slide, an encoder."""
import json
import shutil

import numpy as np
import pytest
import timm
import torch
from conftest import load_script
from pipeline import FROM_COUNTS, LAYERS, STEPS, as_archive, copy_of, main_2d, run
from scipy.spatial import cKDTree

from common import cli
from common.config import Config, load_config, save_config
from common.io import read_h5ad, read_json, read_pt, read_table, write_pt
from common.layout import Layout, RunLayout
from evaluation.metrics import layer_metrics
from evaluation.outputs import background_of


def two_samples(tiny, root) -> Layout:
    """A and a copy of it as B, up to what main.py reads, one held out after the other."""
    layout = Layout(root)
    for folder in ("npy_information", "graph_data", "gene_expression/counts_224"):
        for name in "AB":
            shutil.copytree(tiny.root / folder / "A", root / folder / name)
    shutil.copy(tiny.genes, layout.genes)
    shutil.copy(tiny.background, layout.background)
    config = load_config(tiny.config)
    samples = {name: config.samples["A"] for name in "AB"}
    save_config(config.model_copy(update={"samples": samples, "folds": "leave_one_out"}), layout.config)
    as_archive(layout)
    return layout


def test_2d_scores_every_method_by_fold_sample_and_layer_and_goes_on_where_it_stood(tiny, tmp_path, capsys):
    layout, run_layout = two_samples(tiny, tmp_path / "root"), RunLayout(tmp_path / "run")
    assert main_2d(layout.root, run_layout.root) == 0
    first, saved = run_layout.metrics_json.read_bytes(), run_layout.checkpoint(1).read_bytes()
    result, splits = json.loads(first), json.loads(run_layout.splits.read_text())
    assert list(result["methods"]) == ["mean", "ridge", "stnet", "msagnet"]
    for one in result["methods"].values():
        assert set(one["layers"]) == {"A/1", "A/2", "A/3", "B/1", "B/2", "B/3"}
        assert set(one["samples"]) == {"A", "B"} and set(one["folds"]) == {"0", "1"}
    assert splits["folds"][0]["training_layers"] == {"A": [], "B": [1, 2, 3]}
    assert splits["folds"][0]["known_layers"] == {"A": []}
    assert result["methods"]["msagnet"]["samples"]["A"] == result["methods"]["msagnet"]["folds"]["0"]
    for layer in LAYERS:
        adata = read_h5ad(run_layout.imputed("B", layer))
        mse = layer_metrics(adata.X, adata.layers["measured"])["mse"]
        assert mse == pytest.approx(result["methods"]["msagnet"]["layers"][f"B/{layer}"]["mse"])

    run_layout.fold_recipe(0).unlink()  # as if it had been killed there
    capsys.readouterr()
    assert main_2d(layout.root, run_layout.root) == 0
    said = capsys.readouterr().out
    assert "fold 0: tested A" in said and "fold 1: tests B: up to date" in said
    assert run_layout.metrics_json.read_bytes() == first and run_layout.checkpoint(1).read_bytes() == saved
    assert main_2d(layout.root, run_layout.root, "--seed", "1") == 0
    assert "up to date" not in capsys.readouterr().out and run_layout.metrics_json.read_bytes() != first


def test_2d_without_folds_trains_on_the_layers_that_are_named(tiny, tmp_path, capsys):
    run_layout = RunLayout(tmp_path / "run")
    assert main_2d(tiny.root, run_layout.root, "--training_layers", "1,3", "--method", "ridge") == 0
    result = json.loads(run_layout.metrics_json.read_text())
    assert list(result["methods"]) == ["mean", "ridge", "stnet"]
    assert set(result["methods"]["ridge"]["layers"]) == {"A/2"}
    adata = read_h5ad(run_layout.imputed("A", 2))
    assert adata.uns["asign"]["method"] == "ridge"
    assert not run_layout.tensorboard(0).exists()  # nothing was trained step by step
    assert not run_layout.imputed("A", 1).exists() and not run_layout.checkpoint(0).exists()
    assert main_2d(tiny.root, run_layout.root, "--training_layers", "1,3", "--method", "reference") == 0
    assert np.isfinite(read_h5ad(run_layout.imputed("A", 2)).X).all()
    assert "reference" in json.loads(run_layout.metrics_json.read_text())["methods"]
    # nothing is left to score: a network for other slides
    assert main_2d(tiny.root, tmp_path / "all", "--training_layers", "1,2,3") == 0
    assert RunLayout(tmp_path / "all").checkpoint(0).is_file() and "nothing to score" in capsys.readouterr().out
    assert main_2d(tiny.root, run_layout.root, "--training_layers", "1,7") == 2
    error = capsys.readouterr().err
    assert "sample A: found " in error and "[1, 7]; expected " in error and "[1, 2, 3]; fix: " in error
    assert "--training_layers" in error


def test_a_slide_without_any_counts_is_predicted_with_a_trained_network(tiny, tmp_path, capsys):
    trained = RunLayout(tmp_path / "run")
    assert main_2d(tiny.root, trained.root, "--training_layers", "1") == 0
    own = Layout(tmp_path / "own")
    image = tiny.image("A", 2)
    (own.root / "imgs" / "X").mkdir(parents=True)
    shutil.copy(image, own.new_image("X", 1, image.suffix))
    save_config(Config(dataset="own", pixel_size_um=2.941176), own.config)  # all else is that of the training
    assert cli.main(["adopt", "--root_path", str(own.root), "--checkpoint", str(trained.checkpoint(0))]) == 0
    adopted = load_config(own.config)
    assert adopted.pixel_size_um == 2.941176 and adopted.pitch_px is None
    run(own.root, STEPS[:11])
    given, out = ("--checkpoint", str(trained.checkpoint(0))), RunLayout(tmp_path / "out")
    assert main_2d(own.root, out.root, *given) == 0
    there, here = read_h5ad(trained.imputed("A", 2)), read_h5ad(out.imputed("X", 1))
    assert list(here.var_names) == list(there.var_names) and "measured" not in here.layers and len(here) > 20
    nearest = cKDTree(there.obsm["spatial"]).query(here.obsm["spatial"])[1]
    mean = there.X.mean(axis=0)
    correlation = np.corrcoef((here.X - mean).ravel(), (there.X[nearest] - mean).ravel())[0, 1]
    assert correlation > 0.5  # the same image, spots slightly displaced
    assert background_of(own) == background_of(trained) == background_of(out) == background_of(tiny)
    assert read_table(out.genes)["gene"].tolist() == list(here.var_names)
    assert read_json(out.splits) == {"method": "msagnet", "folds": []}
    assert load_script("main").main(["--root_path", str(own.root), "--gpu", "cpu"]) == 2
    assert "0 labelled spots" in capsys.readouterr().err
    refuses_other_checkpoints(own, out, read_pt(trained.checkpoint(0)), tmp_path, capsys)


def refuses_other_checkpoints(own: Layout, out: RunLayout, saved: dict, tmp_path, capsys) -> None:
    """Networks of other features, arrays or versions: one line each."""
    was = saved["trained_with"]
    recipes = was["feature_recipe"].items()
    other_weights = {name: one | {"weights_sha256": "0" * 64} for name, one in recipes}
    twice_the_window = {name: one | {"spot_window_um": 2 * one["spot_window_um"]} for name, one in recipes}
    for changed, found in (
            ({"feature_recipe": other_weights}, "weights_sha256"), ({"feature_recipe": twice_the_window}, "windows of"),
            ({"feature_sets": {"backbone": 7}}, "features {"), ({"array": "hex"}, "array square; expected hex"),
            ({"pitch_um": 100.0}, "pitch_um 200; expected 100")):
        write_pt(tmp_path / "other.pt", saved | {"trained_with": was | changed})
        assert main_2d(own.root, out.root, "--checkpoint", str(tmp_path / "other.pt")) == 2
        error = capsys.readouterr().err
        assert found in error and "other.pt" in error and error.count("\n") == 1
    renamed = {name.replace("transformer", "mixer"): value for name, value in saved["state"].items()}
    write_pt(tmp_path / "older.pt", saved | {"state": renamed})
    assert main_2d(own.root, out.root, "--checkpoint", str(tmp_path / "older.pt")) == 2
    error = capsys.readouterr().err
    assert "older.pt: found weights of a network with other parts" in error and "expected" in error
    assert error.count("\n") == 1


def test_an_encoder_of_its_own_is_trained_and_kept(tiny, tmp_path, capsys):
    torch.manual_seed(0)
    weights = timm.create_model("resnet10t", pretrained=False, num_classes=0).state_dict()
    torch.save(weights, tmp_path / "weights.pt")
    trained, again = RunLayout(tmp_path / "run"), RunLayout(tmp_path / "again")
    assert main_2d(tiny.root, trained.root, "--training_layers", "1", "--max_iterations", "2", "--batch_size", "4",
                   "--encoder", "resnet10t", "--encoder_weights", str(tmp_path / "weights.pt")) == 0
    saved = read_pt(trained.checkpoint(0))["state"]
    assert not torch.equal(saved["members.0.encoder.model.conv1.0.weight"], weights["conv1.0.weight"])
    assert not any(name.startswith("members.1.") for name in saved)
    assert main_2d(tiny.root, again.root, "--checkpoint", str(trained.checkpoint(0))) == 0
    assert np.array_equal(read_h5ad(again.imputed("A", 3)).X, read_h5ad(trained.imputed("A", 3)).X)


def test_2d_genes_chosen_on_a_layer_that_is_tested_are_refused(tiny, tmp_path, capsys):
    layout = Layout(copy_of(tiny.root, tmp_path / "root"))
    save_config(load_config(layout.config).model_copy(update={"genes_from": "known"}), layout.config)
    run(layout.root, ["5_1_find_high_expression", *FROM_COUNTS])
    assert main_2d(layout.root, tmp_path / "run", "--training_layers", "2") == 2
    error = capsys.readouterr().err
    assert "genes.csv" in error and "genes_from: known" in error and "[1] of A; expected" in error and "[2]" in error
