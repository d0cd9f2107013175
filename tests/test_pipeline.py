"""The whole pipeline on a tiny demo stack: contract, truth, no leak, determinism, bad layers."""
import dataclasses
import json
import shutil
from functools import partial

import numpy as np
import pytest
import timm
import torch
from conftest import load_script
from pipeline import FROM_COUNTS, STEPS, as_archive, copy_of, run, take_as_made, train_and_predict, with_threads
from scipy.spatial import cKDTree

from common import cli
from common.config import Config, load_config, save_config
from common.errors import DataError, LayerError
from common.io import (
    read_csr,
    read_h5ad,
    read_json,
    read_location,
    read_npy,
    read_npz,
    read_pt,
    read_table,
    write_h5ad,
    write_json,
    write_pt,
    write_table,
)
from common.layout import SIZES, Layout, RunLayout
from dataloader import load_layer
from dataloader_3d import load_sample
from evaluation.metrics import layer_metrics
from evaluation.outputs import background_of
from models import known_spots

LAYERS = (1, 2, 3)
QUICK = ("--max_iterations", "30")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Layout:
    """One sample, three layers, from pictures to the 3D graph."""
    root = tmp_path_factory.mktemp("tiny")
    assert load_script("0_make_demo").main(["--root_path", str(root), "--n_samples", "1", "--n_layers", "3", "--size_px", "768"]) == 0
    run(root, STEPS)
    return Layout(root)


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory) -> RunLayout:
    run_layout = RunLayout(tmp_path_factory.mktemp("run"))
    train_and_predict(tiny.root, run_layout.root, *QUICK)
    return run_layout


# the data contract -----------------------------------------------------------------------------------
def test_rows_agree_from_location_to_graph(tiny):
    registered = read_table(tiny.spot_regist("A"), ("sample", "layer", "barcode", "registered_x", "registered_y"), text=("sample", "barcode"))
    spots, graph = read_npy(tiny.npy_3d("A")), read_pt(tiny.graph_3d("A"))
    assert registered["barcode"].tolist() == spots["barcode"].tolist() and registered["layer"].tolist() == spots["layer"].tolist()
    assert np.allclose(spots["registered"], registered[["registered_x", "registered_y"]])
    assert graph["spot"]["layer"].tolist() == spots["layer"].tolist()
    first = 0
    for layer in LAYERS:
        location, record = read_location(tiny.location("A", layer)), read_npy(tiny.npy("A", layer), mmap=True)
        rows = spots[first:first + len(location)]
        assert location["barcode"].tolist() == record["barcode"].tolist() == rows["barcode"].tolist()
        assert np.array_equal(record["label"], rows["label"]) and np.array_equal(record["pixel"], location[["pixel_x", "pixel_y"]])
        expression = read_h5ad(tiny.expression(224, "A", layer))
        assert np.allclose(expression[record["barcode"]].X, record["label"]) and expression.var_names.tolist() == read_table(tiny.genes)["gene"].tolist()
        first += len(location)
    for path in (tiny.spot_iou("A"), tiny.similarity("A"), tiny.combined("A")):
        assert read_csr(path).shape == (len(spots), len(spots))


def test_a_spot_belongs_to_patches_of_its_own_layer_that_cover_it(tiny):
    """The region and global of a spot lie on its own layer, and are the grid cell its pixel is in."""
    graph = load_sample(tiny, "A")
    assert (graph.region_layer[graph.region_of_spot] == graph.layer).all() and (graph.global_layer[graph.global_of_spot] == graph.layer).all()
    assert (graph.global_layer[graph.global_of_region] == graph.region_layer).all()
    for layer in LAYERS:
        rows = (graph.layer == layer).numpy()
        table = read_table(tiny.patches_csv(512, "A", layer), text=("patch_name",))
        own = table.iloc[graph.region_of_spot.numpy()[rows] - int((graph.region_layer < layer).sum())]
        inside = (own[["x", "y"]].to_numpy() <= graph.pixel[rows]) & (graph.pixel[rows] < own[["x", "y"]].to_numpy() + own[["width", "height"]].to_numpy())
        assert inside.all()


def test_region_labels_are_sums_over_their_own_spots(tiny):
    record, regions = read_npy(tiny.npy("A", 2)), read_h5ad(tiny.member_counts(512, "A", 2))
    spots = read_h5ad(tiny.member_counts(224, "A", 2))[record["barcode"]]
    dense = lambda adata: np.asarray(adata.X.todense() if hasattr(adata.X, "todense") else adata.X)
    for index in np.unique(record["region_index"]):
        assert np.allclose(dense(regions)[index], dense(spots)[record["region_index"] == index].sum(axis=0))


def test_every_size_has_patches_and_features(tiny):
    import h5py
    for size in SIZES:
        with h5py.File(tiny.patches(size, "A", 1)) as patches, h5py.File(tiny.features(size, "A", 1)) as features:
            assert patches["img"].shape[1:] == (size, size, 3) and patches["img"].dtype == np.uint8
            assert features["backbone"].shape == (len(patches["img"]), 1280)
            assert list(features["barcode"]) == list(patches["barcode"]) and features["backbone"].attrs["window_px"].tolist() == [size // 4]


def test_registration_recovers_the_truth(tiny):
    """Registered spots agree with the true common frame up to the one affine between the two frames."""
    registered = read_table(tiny.spot_regist("A"), text=("sample", "barcode"))
    truth = {layer: read_npz(tiny.truth("A", layer, ".npz")) for layer in LAYERS}
    middle = truth[2]["matrix"][:, :2]
    pitch = load_config(tiny.config).pitch_px
    to_middle = np.linalg.inv(np.vstack([truth[2]["matrix"], [0, 0, 1]]))
    for layer in (1, 3):
        got = registered.loc[registered["layer"] == layer, ["registered_x", "registered_y"]].to_numpy()
        common = truth[layer]["spot_common_xy"]
        expected = common @ to_middle[:2, :2].T + to_middle[:2, 2]
        error = np.linalg.norm(got - expected, axis=1) / pitch
        assert np.median(error) < 0.25, f"layer {layer}: median error {np.median(error):.2f} pitches"
    assert abs(np.linalg.det(middle)) > 0.5


def test_a_second_run_skips_and_changed_content_does_not(tiny, capsys):
    run(tiny.root, ["2_find_512_pair"])
    assert capsys.readouterr().out.count("up to date") == len(LAYERS)
    patches = tiny.patches_csv(512, "A", 2)
    text = patches.read_text()
    try:
        patches.write_text(text + "\n")
        run(tiny.root, ["2_find_512_pair"])
        assert capsys.readouterr().out.count("up to date") == len(LAYERS) - 1
    finally:
        patches.write_text(text)
        run(tiny.root, ["2_find_512_pair"])


# the result ------------------------------------------------------------------------------------------
def test_metrics_hold_every_method_on_the_same_layers(trained):
    result = json.loads(trained.metrics_json.read_text())
    assert list(result["methods"]) == ["mean", "nearest", "overlap", "similarity", "kernel", "gp", "msagnet"]
    for one in result["methods"].values():
        assert set(one["layers"]) == {"A/2", "A/3"} and set(one["pooled"]) == {"mse", "mae", "pcc_spot", "pcc_gene", "scc_gene"}
    assert result["methods"]["mean"]["pooled"]["pcc_gene"] == 0
    assert result["recipe"]["known_layers"] == {"A": [1]} and result["recipe"]["target_layers"] == {"A": [2, 3]}
    assert 0.5 < result["ceiling"]["pooled"]["pcc_gene"] < 1
    for path in (trained.metrics_csv, trained.splits, trained.config, trained.genes, trained.runtime, trained.checkpoint(0)):
        assert path.is_file()
    assert list(trained.tensorboard(0).glob("events*"))


def test_the_report_shows_every_part_of_a_run(tiny, trained):
    assert load_script("report").main(["--root_path", str(tiny.root), "--save_path", str(trained.root)]) == 0
    page = trained.report.read_text()
    for missing in ("Not shown", "No maps", "No 3D view", "No registration", "No overlay", "No training curves", "no file"):
        assert missing not in page
    assert page.count('class="row"') == page.count('class="gene"') * len(LAYERS) > 0 and page.count("<polyline") == 2


def test_two_runs_give_the_same_metrics_and_predictions(tiny, trained, tmp_path):
    train_and_predict(tiny.root, tmp_path, *QUICK)
    again = RunLayout(tmp_path)
    assert again.metrics_json.read_bytes() == trained.metrics_json.read_bytes()
    assert np.array_equal(read_h5ad(again.imputed("A", 3)).X, read_h5ad(trained.imputed("A", 3)).X)


def test_prediction_is_what_was_scored_and_opens_in_scanpy(tiny, trained):
    import matplotlib
    matplotlib.use("Agg")
    import scanpy
    result = json.loads(trained.metrics_json.read_text())
    for layer in (2, 3):
        adata = read_h5ad(trained.imputed("A", layer))
        assert layer_metrics(adata.X, adata.layers["measured"])["mse"] == pytest.approx(result["methods"]["msagnet"]["layers"][f"A/{layer}"]["mse"])
        assert not adata.obs["known"].any() and adata.var_names.tolist() == read_table(trained.genes)["gene"].tolist()
        assert np.allclose(adata.obsm["spatial"], read_location(tiny.location("A", layer))[["pixel_x", "pixel_y"]])
        assert np.unique(adata.obsm["spatial_3d"][:, 2]).tolist() == [(layer - 1) * 48.0]
        axes = scanpy.pl.embedding(adata, basis="spatial", color=adata.var_names[0], show=False)
        assert len(axes.collections[0].get_offsets()) == adata.n_obs
    assert read_h5ad(trained.imputed("A", 1)).obs["known"].all()


def test_the_whole_sample_comes_in_one_file_too(tiny, trained):
    whole, parts = read_h5ad(trained.imputed_sample("A")), [read_h5ad(trained.imputed("A", layer)) for layer in LAYERS]
    assert whole.obs_names.is_unique and whole.obs_names.tolist() == [f"{layer}_{name}" for layer, one in zip(LAYERS, parts) for name in one.obs_names]
    for name in ("log1p", "sd", "measured"):
        np.testing.assert_array_equal(whole.layers[name], np.concatenate([one.layers[name] for one in parts]))
    np.testing.assert_array_equal(whole.obsm["spatial_3d"], np.concatenate([one.obsm["spatial_3d"] for one in parts]))
    known, others = whole.obs[whole.obs["known"]], whole.obs[~whole.obs["known"]]
    assert (known["distance_to_known"] == 0).all() and others["distance_to_known"].median() < 200  # um: a pitch
    gap = others.groupby("layer")["distance_to_known"].min()
    assert gap[2] >= 48 and gap[3] >= 96  # in space: one and two sections of 48 um away
    assert whole.obs["confidence"].between(0, 1).all() and known["confidence"].mean() > others["confidence"].mean()


def test_scanpy_goes_its_usual_way_with_a_prediction(trained):
    import matplotlib
    matplotlib.use("Agg")
    import scanpy
    for path, layers in ((trained.imputed_sample("A"), list(LAYERS)), (trained.imputed("A", 2), [2])):
        adata = read_h5ad(path)
        adata.X = adata.layers["log1p"]
        scanpy.pp.pca(adata, n_comps=5)
        scanpy.pp.neighbors(adata)
        scanpy.tl.umap(adata)
        scanpy.tl.leiden(adata, flavor="igraph", n_iterations=2)
        assert np.isfinite(adata.obsm["X_pca"]).all() and np.isfinite(adata.obsm["X_umap"]).all() and adata.obs["leiden"].nunique() > 1
        axes = scanpy.pl.embedding(adata, basis="spatial", color="leiden", show=False)
        assert sum(len(one.get_offsets()) for one in axes.collections) == adata.n_obs and sorted(adata.obs["layer"].unique()) == layers


@pytest.mark.parametrize("method", ["gp", "kernel", "reference"])
def test_another_method_is_scored_and_given_back(tiny, trained, tmp_path, method):
    train_and_predict(tiny.root, tmp_path, "--method", method)
    result, run_layout = json.loads(RunLayout(tmp_path).metrics_json.read_text()), RunLayout(tmp_path)
    assert run_layout.checkpoint(0).exists() == (method == "reference")
    assert ({name: one for name, one in result["methods"].items() if name != "reference"}
            == {name: one for name, one in json.loads(trained.metrics_json.read_text())["methods"].items() if name != "msagnet"})
    adata = read_h5ad(run_layout.imputed("A", 3))
    error = adata.X - adata.layers["measured"]
    assert (error ** 2).mean() == pytest.approx(result["methods"][method]["layers"]["A/3"]["mse"], rel=1e-5)
    assert adata.uns["asign"]["method"] == method and ("sd" in adata.layers) == (method == "gp")
    if method == "gp":
        assert 0.8 < (np.abs(error) < 1.96 * adata.layers["sd"]).mean() < 1


# no leak ---------------------------------------------------------------------------------------------
def with_noise_for_targets(layout: Layout, seed: int) -> None:
    """Replace the counts of layers 2 and 3 by noise of the same genes."""
    for layer in (2, 3):
        adata = read_h5ad(layout.counts("A", layer))
        adata.X = np.random.default_rng(seed).poisson(3, adata.shape).astype(np.float32)
        write_h5ad(layout.counts("A", layer), adata)


def predictions(layout: Layout, save_path) -> list[np.ndarray]:
    train_and_predict(layout.root, save_path, *QUICK)
    return [read_h5ad(RunLayout(save_path).imputed("A", layer)).X for layer in LAYERS]


def test_noise_for_target_counts_changes_no_prediction_with_the_gene_list_fixed(tiny, trained, tmp_path):
    spoiled = Layout(copy_of(tiny.root, tmp_path / "root"))
    with_noise_for_targets(spoiled, 1)
    take_as_made(spoiled, "5_1_find_high_expression")
    run(spoiled.root, FROM_COUNTS)
    assert not np.array_equal(read_npy(spoiled.npy("A", 2))["label"], read_npy(tiny.npy("A", 2))["label"])
    expected = [read_h5ad(trained.imputed("A", layer)).X for layer in LAYERS]
    assert all(np.array_equal(a, b) for a, b in zip(predictions(spoiled, tmp_path / "run"), expected))


def test_genes_from_known_shuts_the_door_from_the_raw_counts_on(tiny, tmp_path):
    results = []
    for noise in (False, True):
        layout = Layout(copy_of(tiny.root, tmp_path / f"root{noise}"))
        save_config(load_config(layout.config).model_copy(update={"genes_from": "known", "n_genes": 60}), layout.config)
        if noise:
            with_noise_for_targets(layout, 2)
        run(layout.root, ["5_1_find_high_expression", *FROM_COUNTS])
        results.append((layout.genes.read_bytes(), predictions(layout, tmp_path / f"run{noise}")))
    assert results[0][0] == results[1][0]
    assert all(np.array_equal(a, b) for a, b in zip(results[0][1], results[1][1]))


@pytest.mark.parametrize("script", ["main", "main_3d"])
def test_a_short_list_is_predicted_on_the_scale_of_the_published_one(tiny, trained, tmp_path, script):
    """Before: the sum was over the list, so that ten genes moved every label, and log1p with them."""
    layout, run_layout = Layout(copy_of(tiny.root, tmp_path / "root")), RunLayout(tmp_path / "run")
    genes = read_table(tiny.genes)["gene"].tolist()[3:15]
    (tmp_path / "mine.txt").write_text("\n".join(genes))
    save_config(load_config(layout.config).model_copy(update={"genes": str(tmp_path / "mine.txt")}), layout.config)
    run(layout.root, ["5_1_find_high_expression", *FROM_COUNTS])
    if script == "main":
        assert main_2d(layout.root, run_layout.root, "--training_layers", "1", "--method", "ridge") == 0
    else:
        train_and_predict(layout.root, run_layout.root, "--method", "gp")
    few, all_ = read_h5ad(run_layout.imputed("A", 2)), read_h5ad(trained.imputed("A", 2))
    assert few.var_names.tolist() == genes
    assert background_of(run_layout) == background_of(layout) == background_of(tiny)
    np.testing.assert_array_equal(few.layers["measured"], all_[:, genes].layers["measured"])
    assert np.abs(few.layers["log1p"].mean(axis=0) - all_[:, genes].layers["log1p"].mean(axis=0)).max() < 0.5
    assert cli.main(["check", "--root_path", str(layout.root)]) == 0


def test_a_network_of_another_background_is_refused(tiny, trained, tmp_path, capsys):
    spoilt = RunLayout(tmp_path / "run")
    shutil.copytree(trained.root, spoilt.root)
    write_table(spoilt.background, read_table(spoilt.background).iloc[1:])
    assert load_script("predict_3d").main(["--root_path", str(tiny.root), "--save_path", str(spoilt.root), "--gpu", "cpu"]) == 2
    error = capsys.readouterr().err
    assert f"{tiny.background}: found another background" in error and str(spoilt.background) in error and error.count("\n") == 1


def test_a_layer_given_as_known_must_be_one_the_genes_were_chosen_on(tiny, tmp_path, capsys):
    layout = Layout(copy_of(tiny.root, tmp_path / "root"))
    save_config(load_config(layout.config).model_copy(update={"genes_from": "known"}), layout.config)
    run(layout.root, ["5_1_find_high_expression", *FROM_COUNTS])
    assert load_script("main_3d").main(["--root_path", str(layout.root), "--save_path", str(tmp_path / "run"), "--known_layers", "2"]) == 2
    error = capsys.readouterr().err
    assert "genes.csv" in error and "genes_from: known" in error and "[1] of A; expected" in error and "[2]" in error


def test_2d_genes_chosen_on_a_layer_that_is_tested_are_refused(tiny, tmp_path, capsys):
    layout = Layout(copy_of(tiny.root, tmp_path / "root"))
    save_config(load_config(layout.config).model_copy(update={"genes_from": "known"}), layout.config)
    run(layout.root, ["5_1_find_high_expression", *FROM_COUNTS])
    assert main_2d(layout.root, tmp_path / "run", "--training_layers", "2") == 2
    error = capsys.readouterr().err
    assert "genes.csv" in error and "genes_from: known" in error and "[1] of A; expected" in error and "[2]" in error


# what a run is made of -------------------------------------------------------------------------------
def test_labels_of_another_gene_list_are_refused(tiny, tmp_path, capsys):
    """genes.csv chosen anew, and the steps after it not run again: names and columns would not go together."""
    layout = Layout(copy_of(tiny.root, tmp_path / "root"))
    genes = read_table(layout.genes)
    write_table(layout.genes, genes.iloc[::-1].assign(rank=range(1, len(genes) + 1)))
    assert load_script("7_make_dataset").main(["--root_path", str(layout.root), "--layer", "2"]) == 2
    assert "genes.csv: found other bytes than were written" in capsys.readouterr().err
    take_as_made(layout, "5_1_find_high_expression")
    for main in ("main", "main_3d"):
        assert load_script(main).main(["--root_path", str(layout.root), "--save_path", str(tmp_path / "run"), "--gpu", "cpu"]) == 2
        assert "5_2_get_label_of_other_resolution of A/1, A/2, A/3 out of date (gene_expression/genes.csv has changed)" in capsys.readouterr().err
    for load in (partial(load_sample, layout, "A"), partial(load_layer, layout, "A", 2)):
        with pytest.raises(LayerError, match="found labels of another gene list"):
            load()
    assert load_script("7_make_dataset").main(["--root_path", str(layout.root), "--layer", "2"]) == 2  # its labels are of the old list, too
    assert "A/2: left out" in capsys.readouterr().err


def test_a_fold_is_trained_again_if_a_training_sample_has_another_known_layer(tiny, tmp_path, capsys):
    """Its kernel is chosen on its known layers; and what an interrupted run leaves is not taken for a finished one."""
    layout, run_layout = Layout(tmp_path / "root"), RunLayout(tmp_path / "run")
    for path in (tiny.graph_3d, tiny.npy_3d, tiny.spot_iou, tiny.quality):
        for name in "AB":
            path_of = getattr(layout, path.__name__)(name)
            path_of.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path("A"), path_of)
    shutil.copytree(tiny.root / "gene_expression", layout.root / "gene_expression")
    for name in "AB":
        shutil.copytree(tiny.root / "gene_expression/counts_224/A", layout.root / f"gene_expression/counts_224/{name}", dirs_exist_ok=True)
    config = load_config(tiny.config)
    def with_known(layer: int) -> None:
        samples = {"A": config.samples["A"], "B": config.samples["A"].model_copy(update={"known_layers": [layer]})}
        save_config(config.model_copy(update={"samples": samples, "folds": "leave_one_out"}), layout.config)
        as_archive(layout)
    options = ["--root_path", str(layout.root), "--save_path", str(run_layout.root), "--gpu", "cpu", "--max_iterations", "2", "--members", "1"]
    with_known(1)
    assert load_script("main_3d").main(options) == 0
    (run_layout.imputed_folder("A")).mkdir(parents=True)
    capsys.readouterr()
    with_known(2)
    assert load_script("main_3d").main(options) == 0
    assert "fold 0: tested A" in capsys.readouterr().out and not run_layout.imputed_folder("A").exists()  # older predictions are gone
    (run_layout.fold_recipe(0)).unlink()
    assert load_script("main_3d").main([*options, "--base_lr", "1e30"]) == 2
    assert "a finite loss" in capsys.readouterr().err and not run_layout.splits.exists() and not run_layout.metrics_json.exists()


def test_a_sample_with_a_known_layer_of_few_spots_is_left_out_and_the_run_goes_on(tiny, tmp_path, capsys):
    main_3d = load_script("main_3d")
    few, many = load_sample(tiny, "A"), load_sample(tiny, "A")
    few = dataclasses.replace(few, sample="B", has_label=few.has_label & (torch.arange(few.n_spots) < 15))
    assert main_3d.enough_known([many, few], {"A": [1], "B": [1]}, Layout(tmp_path)) == [many]
    error = capsys.readouterr().err
    assert "main_3d  B: left out: " in error and "found 15 labelled spots" in error and "[1]; expected at least 20" in error
    with pytest.raises(DataError, match="15 labelled spots"):
        main_3d.enough_known([few], {"B": [1]}, Layout(tmp_path))


# bad layers ------------------------------------------------------------------------------------------
def test_a_truncated_image_in_the_middle_is_left_out_and_the_chain_bridges_it(tiny, tmp_path, capsys):
    layout = Layout(copy_of(tiny.root, tmp_path / "root"))
    image = layout.image("A", 2)
    image.write_bytes(image.read_bytes()[:20_000])
    run(layout.root, STEPS)
    err = capsys.readouterr().err
    assert "Traceback" not in err and "A/2: left out" in err
    assert sorted(set(read_npy(layout.npy_3d("A"))["layer"])) == [1, 3]
    assert "left out" in json.loads(layout.status.read_text())["A/2"]["0_2_tissue_mask"]
    train_and_predict(layout.root, tmp_path / "run", "--max_iterations", "5")
    assert set(json.loads(RunLayout(tmp_path / "run").metrics_json.read_text())["methods"]["mean"]["layers"]) == {"A/3"}


def test_unreadable_counts_leave_the_layer_out_and_not_the_sample(tiny, tmp_path, capsys):
    layout = Layout(copy_of(tiny.root, tmp_path / "root"))
    layout.counts("A", 3).write_bytes(b"no h5ad")
    run(layout.root, STEPS[STEPS.index("5_1_find_high_expression"):])
    assert "Traceback" not in capsys.readouterr().err
    assert sorted(set(read_npy(layout.npy_3d("A"))["layer"])) == [1, 2]


# 2D --------------------------------------------------------------------------------------------------
def two_samples(tiny, root) -> Layout:
    """A and a copy of it as B, up to what main.py reads, one held out after the other."""
    layout = Layout(root)
    for folder in ("npy_information", "graph_data", "gene_expression/counts_224"):
        for name in "AB":
            shutil.copytree(tiny.root / folder / "A", root / folder / name)
    shutil.copy(tiny.genes, layout.genes)
    shutil.copy(tiny.background, layout.background)
    config = load_config(tiny.config)
    save_config(config.model_copy(update={"samples": {name: config.samples["A"] for name in "AB"}, "folds": "leave_one_out"}), layout.config)
    as_archive(layout)
    return layout


def main_2d(root, save_path, *options: str) -> int:
    return load_script("main").main(["--root_path", str(root), "--save_path", str(save_path), "--gpu", "cpu", "--members", "2", "--max_iterations", "20", *options])


def test_2d_scores_every_method_by_fold_sample_and_layer_and_goes_on_where_it_stood(tiny, tmp_path, capsys):
    layout, run_layout = two_samples(tiny, tmp_path / "root"), RunLayout(tmp_path / "run")
    assert main_2d(layout.root, run_layout.root) == 0
    first, saved = run_layout.metrics_json.read_bytes(), run_layout.checkpoint(1).read_bytes()
    result, splits = json.loads(first), json.loads(run_layout.splits.read_text())
    assert list(result["methods"]) == ["mean", "ridge", "stnet", "msagnet"]
    for one in result["methods"].values():
        assert set(one["layers"]) == {f"{name}/{layer}" for name in "AB" for layer in LAYERS} and set(one["samples"]) == {"A", "B"} and set(one["folds"]) == {"0", "1"}
    assert splits["folds"][0]["training_layers"] == {"A": [], "B": [1, 2, 3]} and splits["folds"][0]["known_layers"] == {"A": []}
    assert result["methods"]["msagnet"]["samples"]["A"] == result["methods"]["msagnet"]["folds"]["0"]
    for layer in LAYERS:
        adata = read_h5ad(run_layout.imputed("B", layer))
        assert layer_metrics(adata.X, adata.layers["measured"])["mse"] == pytest.approx(result["methods"]["msagnet"]["layers"][f"B/{layer}"]["mse"])

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
    assert list(result["methods"]) == ["mean", "ridge", "stnet"] and set(result["methods"]["ridge"]["layers"]) == {"A/2"}
    adata = read_h5ad(run_layout.imputed("A", 2))
    assert adata.uns["asign"]["method"] == "ridge" and not run_layout.imputed("A", 1).exists() and not run_layout.checkpoint(0).exists()
    assert main_2d(tiny.root, run_layout.root, "--training_layers", "1,3", "--method", "reference") == 0
    assert np.isfinite(read_h5ad(run_layout.imputed("A", 2)).X).all() and "reference" in json.loads(run_layout.metrics_json.read_text())["methods"]
    assert main_2d(tiny.root, tmp_path / "all", "--training_layers", "1,2,3") == 0  # nothing is left to score: a network for other slides
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
    assert np.corrcoef(here.X.ravel() - there.X.mean(axis=0)[None].repeat(len(here), 0).ravel(),
                       (there.X[nearest] - there.X.mean(axis=0)).ravel())[0, 1] > 0.5  # the same picture, spots a little off
    assert background_of(own) == background_of(trained) == background_of(out) == background_of(tiny)
    assert read_table(out.genes)["gene"].tolist() == list(here.var_names) and read_json(out.splits) == {"method": "msagnet", "folds": []}
    assert load_script("main").main(["--root_path", str(own.root), "--gpu", "cpu"]) == 2 and "0 labelled spots" in capsys.readouterr().err
    saved = read_pt(trained.checkpoint(0))
    was = saved["trained_with"]
    other_weights = {name: one | {"weights_sha256": "0" * 64} for name, one in was["feature_recipe"].items()}
    twice_the_window = {name: one | {"spot_window_um": 2 * one["spot_window_um"]} for name, one in was["feature_recipe"].items()}
    for changed, found in (({"feature_recipe": other_weights}, "weights_sha256"), ({"feature_recipe": twice_the_window}, "windows of"),
                           ({"feature_sets": {"backbone": 7}}, "features {"), ({"array": "hex"}, "array square; expected hex"), ({"pitch_um": 100.0}, "pitch_um 200; expected 100")):
        write_pt(tmp_path / "other.pt", saved | {"trained_with": was | changed})
        assert main_2d(own.root, out.root, "--checkpoint", str(tmp_path / "other.pt")) == 2
        error = capsys.readouterr().err
        assert found in error and "other.pt" in error and error.count("\n") == 1
    renamed = {name.replace("transformer", "mixer"): value for name, value in saved["state"].items()}
    write_pt(tmp_path / "older.pt", saved | {"state": renamed})
    assert main_2d(own.root, out.root, "--checkpoint", str(tmp_path / "older.pt")) == 2
    error = capsys.readouterr().err
    assert "older.pt: found weights of a network with other parts; expected those of this version" in error and error.count("\n") == 1


def test_the_checkpoint_of_another_version_is_refused_in_one_line(tiny, trained, tmp_path, capsys):
    shutil.copytree(trained.root, tmp_path / "run")
    older = RunLayout(tmp_path / "run")
    saved = read_pt(trained.checkpoint(0))
    for spoilt in ({"state": {name: value for name, value in saved["state"].items() if "spot_gat" not in name}},
                   {"architecture": saved["architecture"] | {"n_rounds": 20}}):
        write_pt(older.checkpoint(0), saved | spoilt)
        predict = ["--root_path", str(tiny.root), "--save_path", str(older.root)]
        assert load_script("predict_3d").main(predict) == 2
        assert "fold_0/checkpoint.pt is not as it was written" in capsys.readouterr().err
        recipe = read_json(older.fold_recipe(0))
        write_json(older.fold_recipe(0), {key: value for key, value in recipe.items() if key != "outputs"})
        assert load_script("predict_3d").main(predict) == 2
        error = capsys.readouterr().err
        assert "found weights of a network with other parts" in error and error.count("\n") == 1
        write_json(older.fold_recipe(0), recipe)


def test_a_graph_that_was_changed_after_it_was_written_is_not_trained_on(tiny, tmp_path, capsys):
    layout = Layout(copy_of(tiny.root, tmp_path / "root"))
    graph = read_pt(layout.graph_3d("A"))
    graph["spot", "cross", "spot"]["edge_attr"][0, 3] *= 2  # of the right form
    write_pt(layout.graph_3d("A"), graph)
    assert load_script("main_3d").main(["--root_path", str(layout.root), "--save_path", str(tmp_path / "run"), "--gpu", "cpu"]) == 2
    assert "3D_graph_data/A.pt: found other bytes than were written" in capsys.readouterr().err


def test_an_encoder_of_its_own_is_trained_and_kept(tiny, tmp_path, capsys):
    torch.manual_seed(0)
    weights = timm.create_model("resnet10t", pretrained=False, num_classes=0).state_dict()
    torch.save(weights, tmp_path / "weights.pt")
    trained, again = RunLayout(tmp_path / "run"), RunLayout(tmp_path / "again")
    assert main_2d(tiny.root, trained.root, "--training_layers", "1", "--max_iterations", "2", "--batch_size", "4", "--encoder", "resnet10t",
                   "--encoder_weights", str(tmp_path / "weights.pt")) == 0
    saved = read_pt(trained.checkpoint(0))["state"]
    assert not torch.equal(saved["members.0.encoder.model.conv1.0.weight"], weights["conv1.0.weight"]) and not any(name.startswith("members.1.") for name in saved)
    assert main_2d(tiny.root, again.root, "--checkpoint", str(trained.checkpoint(0))) == 0
    assert np.array_equal(read_h5ad(again.imputed("A", 3)).X, read_h5ad(trained.imputed("A", 3)).X)


# more known spots than one process takes --------------------------------------------------------------
def test_known_spots_left_out_are_said_and_not_called_known(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(known_spots, "MAX_KNOWN", 25)
    n = int(load_sample(tiny, "A").in_layers([1]).sum())
    assert n > 25
    for method, n_used in (("gp", 25), ("nearest", n)):
        run_layout = RunLayout(tmp_path / method)
        train_and_predict(tiny.root, run_layout.root, "--method", method)
        said = [line for line in capsys.readouterr().out.splitlines() if f"25 of {n} known spots" in line]
        scripts = ["main_3d", "predict_3d"] if method == "gp" else ["main_3d"]  # its row of the table is there always
        assert [line.split()[0] for line in said] == scripts
        assert all("A:" in line and "sections 1" in line for line in said)
        whole = read_h5ad(run_layout.imputed_sample("A"))
        assert whole.obs["known"].sum() == n_used == whole.uns["asign"]["known_spots_used"] and whole.uns["asign"]["known_spots"] == n
        assert (whole.obs.loc[whole.obs["known"], "layer"] == 1).all() and np.isfinite(whole.X).all()
        assert ((whole.obs["distance_to_known"] == 0) == whole.obs["known"]).all() or method == "nearest"
        scored = read_json(run_layout.metrics_json)["methods"]["gp"]["layers"]
        assert sorted(scored) == ["A/2", "A/3"]  # those left out lie on a known layer, which is not scored


# threads ---------------------------------------------------------------------------------------------
RUN_AND_LIST_POOLS = """
import json, runpy, sys
from threadpoolctl import threadpool_info
script, pools = sys.argv[1], sys.argv.pop()
sys.argv = sys.argv[1:]
try:
    runpy.run_path(script, run_name="__main__")
except SystemExit as end:
    import torch
    json.dump([[pool["user_api"], pool["num_threads"]] for pool in threadpool_info()] + [["torch", torch.get_num_threads()]], open(pools, "w"))
    sys.exit(end.code)
"""


def test_main_3d_gives_the_same_bytes_and_leaves_no_pool_of_threads(tiny, tmp_path):
    written = []
    for n_threads in (1, 2):
        save_path, pools = tmp_path / f"run_{n_threads}", tmp_path / f"pools_{n_threads}.json"
        options = ["--root_path", str(tiny.root), "--save_path", str(save_path), "--gpu", "cpu"]
        with_threads(n_threads, RUN_AND_LIST_POOLS, "main_3d.py", *options, "--method", "gp", str(pools))
        blas = [n for api, n in json.loads(pools.read_text()) if api in ("blas", "torch")]
        assert len(blas) >= 3 and set(blas) == {1}  # NumPy's and SciPy's OpenBLAS and torch
        with_threads(n_threads, RUN_AND_LIST_POOLS, "predict_3d.py", *options, str(pools))
        run_layout = RunLayout(save_path)
        written.append([run_layout.metrics_json.read_bytes(), run_layout.splits.read_bytes(), run_layout.imputed_sample("A").read_bytes()])
    assert written[0] == written[1]
