"""The whole pipeline on a tiny demo stack: no leak of target counts, gene lists, backgrounds."""
import shutil
from functools import partial

import numpy as np
import pytest
from conftest import load_script
from pipeline import (
    FROM_COUNTS,
    LAYERS,
    QUICK,
    copy_of,
    main_2d,
    run,
    take_as_made,
    train_and_predict,
)

from common import cli
from common.config import load_config, save_config
from common.errors import LayerError
from common.io import read_h5ad, read_npy, read_table, write_h5ad, write_table
from common.layout import Layout, RunLayout
from dataloader import load_layer
from dataloader_3d import load_sample
from evaluation.outputs import background_of


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
    found = predictions(spoiled, tmp_path / "run")
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


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
    assert all(np.array_equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))


# gene lists and backgrounds --------------------------------------------------------------------------
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
    options = ["--root_path", str(tiny.root), "--save_path", str(spoilt.root), "--gpu", "cpu"]
    assert load_script("predict_3d").main(options) == 2
    error = capsys.readouterr().err
    assert f"{tiny.background}: found another background" in error and str(spoilt.background) in error
    assert error.count("\n") == 1


def test_a_layer_given_as_known_must_be_one_the_genes_were_chosen_on(tiny, tmp_path, capsys):
    layout = Layout(copy_of(tiny.root, tmp_path / "root"))
    save_config(load_config(layout.config).model_copy(update={"genes_from": "known"}), layout.config)
    run(layout.root, ["5_1_find_high_expression", *FROM_COUNTS])
    options = ["--root_path", str(layout.root), "--save_path", str(tmp_path / "run"), "--known_layers", "2"]
    assert load_script("main_3d").main(options) == 2
    error = capsys.readouterr().err
    assert "genes.csv" in error and "genes_from: known" in error and "[1] of A; expected" in error and "[2]" in error


def test_labels_of_another_gene_list_are_refused(tiny, tmp_path, capsys):
    """genes.csv chosen anew, and the steps after it not run again: names and columns would not go together."""
    layout = Layout(copy_of(tiny.root, tmp_path / "root"))
    genes = read_table(layout.genes)
    write_table(layout.genes, genes.iloc[::-1].assign(rank=range(1, len(genes) + 1)))
    assert load_script("7_make_dataset").main(["--root_path", str(layout.root), "--layer", "2"]) == 2
    assert "genes.csv: found other bytes than were written" in capsys.readouterr().err
    take_as_made(layout, "5_1_find_high_expression")
    for main in ("main", "main_3d"):
        options = ["--root_path", str(layout.root), "--save_path", str(tmp_path / "run"), "--gpu", "cpu"]
        assert load_script(main).main(options) == 2
        error = capsys.readouterr().err
        assert "5_2_get_label_of_other_resolution" in error and "A/1, A/2, A/3" in error
        assert "gene_expression/genes.csv has changed" in error
    for load in (partial(load_sample, layout, "A"), partial(load_layer, layout, "A", 2)):
        with pytest.raises(LayerError, match="found labels of another gene list"):
            load()
    # its labels are of the old list, too
    assert load_script("7_make_dataset").main(["--root_path", str(layout.root), "--layer", "2"]) == 2
    assert "A/2: left out" in capsys.readouterr().err
