"""The whole pipeline on a tiny demo stack: contract, truth, results, bad layers."""
import json

import numpy as np
import pytest
from conftest import load_script
from pipeline import LAYERS, QUICK, STEPS, copy_of, run, train_and_predict

from common.config import load_config
from common.io import read_csr, read_h5ad, read_location, read_npy, read_npz, read_pt, read_table
from common.layout import SIZES, Layout, RunLayout
from dataloader_3d import load_sample
from evaluation.metrics import layer_metrics


# the data contract -----------------------------------------------------------------------------------
def test_rows_agree_from_location_to_graph(tiny):
    columns = ("sample", "layer", "barcode", "registered_x", "registered_y")
    registered = read_table(tiny.spot_regist("A"), columns, text=("sample", "barcode"))
    spots, graph = read_npy(tiny.npy_3d("A")), read_pt(tiny.graph_3d("A"))
    for name in ("barcode", "layer"):
        assert registered[name].tolist() == spots[name].tolist()
    assert np.allclose(spots["registered"], registered[["registered_x", "registered_y"]])
    assert graph["spot"]["layer"].tolist() == spots["layer"].tolist()
    first = 0
    for layer in LAYERS:
        location, record = read_location(tiny.location("A", layer)), read_npy(tiny.npy("A", layer), mmap=True)
        rows = spots[first:first + len(location)]
        assert location["barcode"].tolist() == record["barcode"].tolist() == rows["barcode"].tolist()
        assert np.array_equal(record["label"], rows["label"])
        assert np.array_equal(record["pixel"], location[["pixel_x", "pixel_y"]])
        expression = read_h5ad(tiny.expression(224, "A", layer))
        assert np.allclose(expression[record["barcode"]].X, record["label"])
        assert expression.var_names.tolist() == read_table(tiny.genes)["gene"].tolist()
        first += len(location)
    for path in (tiny.spot_iou("A"), tiny.similarity("A"), tiny.combined("A")):
        assert read_csr(path).shape == (len(spots), len(spots))


def test_a_spot_belongs_to_patches_of_its_own_layer_that_cover_it(tiny):
    """The region and global of a spot lie on its own layer, and are the grid cell its pixel is in."""
    graph = load_sample(tiny, "A")
    assert (graph.region_layer[graph.region_of_spot] == graph.layer).all()
    assert (graph.global_layer[graph.global_of_spot] == graph.layer).all()
    assert (graph.global_layer[graph.global_of_region] == graph.region_layer).all()
    for layer in LAYERS:
        rows = (graph.layer == layer).numpy()
        table = read_table(tiny.patches_csv(512, "A", layer), text=("patch_name",))
        own = table.iloc[graph.region_of_spot.numpy()[rows] - int((graph.region_layer < layer).sum())]
        corner, size = own[["x", "y"]].to_numpy(), own[["width", "height"]].to_numpy()
        assert ((corner <= graph.pixel[rows]) & (graph.pixel[rows] < corner + size)).all()


def test_region_labels_are_sums_over_their_own_spots(tiny):
    record, regions = read_npy(tiny.npy("A", 2)), read_h5ad(tiny.member_counts(512, "A", 2))
    spots = read_h5ad(tiny.member_counts(224, "A", 2))[record["barcode"]]

    def dense(adata) -> np.ndarray:
        return np.asarray(adata.X.todense() if hasattr(adata.X, "todense") else adata.X)

    for index in np.unique(record["region_index"]):
        assert np.allclose(dense(regions)[index], dense(spots)[record["region_index"] == index].sum(axis=0))


def test_every_size_has_patches_and_features(tiny):
    import h5py
    for size in SIZES:
        with h5py.File(tiny.patches(size, "A", 1)) as patches, h5py.File(tiny.features(size, "A", 1)) as features:
            assert patches["img"].shape[1:] == (size, size, 3) and patches["img"].dtype == np.uint8
            assert features["backbone"].shape == (len(patches["img"]), 1280)
            assert list(features["barcode"]) == list(patches["barcode"])
            assert features["backbone"].attrs["window_px"].tolist() == [size // 4]


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
        assert set(one["layers"]) == {"A/2", "A/3"}
        assert set(one["pooled"]) == {"mse", "mae", "pcc_spot", "pcc_gene", "scc_gene"}
    assert result["methods"]["mean"]["pooled"]["pcc_gene"] == 0
    assert result["recipe"]["known_layers"] == {"A": [1]} and result["recipe"]["target_layers"] == {"A": [2, 3]}
    assert 0.5 < result["ceiling"]["pooled"]["pcc_gene"] < 1
    for path in (trained.metrics_csv, trained.splits, trained.config, trained.genes, trained.runtime,
                 trained.checkpoint(0)):
        assert path.is_file()
    assert list(trained.tensorboard(0).glob("events*"))


def test_the_report_shows_every_part_of_a_run(tiny, trained):
    assert load_script("report").main(["--root_path", str(tiny.root), "--save_path", str(trained.root)]) == 0
    page = trained.report.read_text()
    for missing in ("Not shown", "No maps", "No 3D view", "No registration", "No overlay", "No training curves",
                    "no file"):
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
    scored = json.loads(trained.metrics_json.read_text())["methods"]["msagnet"]["layers"]
    for layer in (2, 3):
        adata = read_h5ad(trained.imputed("A", layer))
        mse = layer_metrics(adata.X, adata.layers["measured"])["mse"]
        assert mse == pytest.approx(scored[f"A/{layer}"]["mse"])
        assert not adata.obs["known"].any() and adata.var_names.tolist() == read_table(trained.genes)["gene"].tolist()
        assert np.allclose(adata.obsm["spatial"], read_location(tiny.location("A", layer))[["pixel_x", "pixel_y"]])
        assert np.unique(adata.obsm["spatial_3d"][:, 2]).tolist() == [(layer - 1) * 48.0]
        axes = scanpy.pl.embedding(adata, basis="spatial", color=adata.var_names[0], show=False)
        assert len(axes.collections[0].get_offsets()) == adata.n_obs
    assert read_h5ad(trained.imputed("A", 1)).obs["known"].all()


def test_the_whole_sample_comes_in_one_file_too(tiny, trained):
    whole, parts = read_h5ad(trained.imputed_sample("A")), [read_h5ad(trained.imputed("A", layer)) for layer in LAYERS]
    names = []
    for layer, one in zip(LAYERS, parts, strict=True):
        names += [f"{layer}_{name}" for name in one.obs_names]
    assert whole.obs_names.is_unique and whole.obs_names.tolist() == names
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
        assert np.isfinite(adata.obsm["X_pca"]).all() and np.isfinite(adata.obsm["X_umap"]).all()
        assert adata.obs["leiden"].nunique() > 1
        axes = scanpy.pl.embedding(adata, basis="spatial", color="leiden", show=False)
        assert sum(len(one.get_offsets()) for one in axes.collections) == adata.n_obs
        assert sorted(adata.obs["layer"].unique()) == layers


@pytest.mark.parametrize("method", ["gp", "kernel", "reference"])
def test_another_method_is_scored_and_given_back(tiny, trained, tmp_path, method):
    train_and_predict(tiny.root, tmp_path, "--method", method)
    result, run_layout = json.loads(RunLayout(tmp_path).metrics_json.read_text()), RunLayout(tmp_path)
    assert run_layout.checkpoint(0).exists() == (method == "reference")
    of_msagnet = json.loads(trained.metrics_json.read_text())["methods"]
    assert ({name: one for name, one in result["methods"].items() if name != "reference"}
            == {name: one for name, one in of_msagnet.items() if name != "msagnet"})
    adata = read_h5ad(run_layout.imputed("A", 3))
    error = adata.X - adata.layers["measured"]
    assert (error ** 2).mean() == pytest.approx(result["methods"][method]["layers"]["A/3"]["mse"], rel=1e-5)
    assert adata.uns["asign"]["method"] == method and ("sd" in adata.layers) == (method == "gp")
    if method == "gp":
        assert 0.8 < (np.abs(error) < 1.96 * adata.layers["sd"]).mean() < 1


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
