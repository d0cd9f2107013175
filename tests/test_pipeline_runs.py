"""Runs of main_3d.py and predict_3d.py on a tiny demo stack: what makes a run, known spots, threads."""
import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import load_script
from pipeline import as_archive, copy_of, train_and_predict, with_threads

from common.config import load_config, save_config
from common.errors import DataError
from common.io import read_h5ad, read_json, read_pt, write_json, write_pt
from common.layout import Layout, RunLayout
from dataloader_3d import load_sample
from models import known_spots


# what a run is made of -------------------------------------------------------------------------------
def test_a_fold_is_trained_again_if_a_training_sample_has_another_known_layer(tiny, tmp_path, capsys):
    """Its kernel is chosen on its known layers; files of an interrupted run are not taken for a finished one."""
    layout, run_layout = Layout(tmp_path / "root"), RunLayout(tmp_path / "run")
    for path in (tiny.graph_3d, tiny.npy_3d, tiny.spot_iou, tiny.quality):
        for name in "AB":
            path_of = getattr(layout, path.__name__)(name)
            path_of.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path("A"), path_of)
    shutil.copytree(tiny.root / "gene_expression", layout.root / "gene_expression")
    for name in "AB":
        counts = layout.root / "gene_expression/counts_224"
        shutil.copytree(tiny.root / "gene_expression/counts_224/A", counts / name, dirs_exist_ok=True)
    config = load_config(tiny.config)

    def with_known(layer: int) -> None:
        samples = {"A": config.samples["A"], "B": config.samples["A"].model_copy(update={"known_layers": [layer]})}
        save_config(config.model_copy(update={"samples": samples, "folds": "leave_one_out"}), layout.config)
        as_archive(layout)

    options = ["--root_path", str(layout.root), "--save_path", str(run_layout.root), "--gpu", "cpu",
               "--max_iterations", "2", "--members", "1"]
    with_known(1)
    assert load_script("main_3d").main(options) == 0
    (run_layout.imputed_folder("A")).mkdir(parents=True)
    capsys.readouterr()
    with_known(2)
    assert load_script("main_3d").main(options) == 0
    assert "fold 0: tested A" in capsys.readouterr().out
    assert not run_layout.imputed_folder("A").exists()  # older predictions are gone
    (run_layout.fold_recipe(0)).unlink()
    assert load_script("main_3d").main([*options, "--base_lr", "1e30"]) == 2
    assert "a finite loss" in capsys.readouterr().err
    assert not run_layout.splits.exists() and not run_layout.metrics_json.exists()


def test_a_sample_with_a_known_layer_of_few_spots_is_left_out_and_the_run_goes_on(tiny, tmp_path, capsys):
    main_3d = load_script("main_3d")
    few, many = load_sample(tiny, "A"), load_sample(tiny, "A")
    few = dataclasses.replace(few, sample="B", has_label=few.has_label & (torch.arange(few.n_spots) < 15))
    assert main_3d.enough_known([many, few], {"A": [1], "B": [1]}, Layout(tmp_path)) == [many]
    error = capsys.readouterr().err
    assert "main_3d  B: left out: " in error
    assert "found 15 labelled spots" in error and "[1]; expected at least 20" in error
    with pytest.raises(DataError, match="15 labelled spots"):
        main_3d.enough_known([few], {"B": [1]}, Layout(tmp_path))


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
    options = ["--root_path", str(layout.root), "--save_path", str(tmp_path / "run"), "--gpu", "cpu"]
    assert load_script("main_3d").main(options) == 2
    assert "3D_graph_data/A.pt: found other bytes than were written" in capsys.readouterr().err


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
        assert whole.obs["known"].sum() == n_used == whole.uns["asign"]["known_spots_used"]
        assert whole.uns["asign"]["known_spots"] == n
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
    found = [[pool["user_api"], pool["num_threads"]] for pool in threadpool_info()]
    json.dump(found + [["torch", torch.get_num_threads()]], open(pools, "w"))
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
        files = (run_layout.metrics_json, run_layout.splits, run_layout.imputed_sample("A"))
        written.append([path.read_bytes() for path in files])
    assert written[0] == written[1]
