"""Step 0_1 on the paper's processed archives: it writes the files that both mains read."""
import re
import shutil

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from archives import GENES, LAYERS, N_SPOTS, PITCH_PX, WIDTH, convert_archive, write_archive
from conftest import load_script

from common import cli
from common.config import load_config
from common.io import read_csr, read_json, read_location, read_npy, read_pt, read_table, write_json, write_pt
from common.layout import Layout, RunLayout
from data_preprocessing_3d.graph import cross_pairs
from dataloader_3d import load_sample, refused_layers


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """(raw folder, truths, layout) of a full archive, converted once."""
    raw, root = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("root")
    truths = write_archive(raw)
    assert convert_archive(raw, root) == 0
    return raw, truths, Layout(root)


def same_content(one: Layout, other: Layout, sample: str) -> None:
    """Assert that both roots have the same records and graphs of the layers."""
    for layer in LAYERS:
        assert np.array_equal(read_npy(one.npy(sample, layer)), read_npy(other.npy(sample, layer)))
        first, second = read_pt(one.graph(sample, layer)), read_pt(other.graph(sample, layer))
        for kind, entries in first.items():
            for name, value in entries.items():
                found = second[kind][name]
                assert torch.equal(value, found) if torch.is_tensor(value) else value == found, (kind, name)


# what is written -------------------------------------------------------------------------------------
def test_a_converted_archive_holds_to_the_contract(archive, capsys):
    _, _, layout = archive
    assert cli.main(["check", "--root_path", str(layout.root)]) == 0
    assert "wrong" not in capsys.readouterr().out
    config = load_config(layout.config)
    assert config.samples["C"].raw == {2: "C2", 3: "C3", 4: "C4"} and config.n_genes == GENES
    assert read_table(layout.genes)["gene"].tolist()[:2] == ["gene_1", "gene_2"]


def test_spots_keep_features_labels_and_places(archive):
    _, truths, layout = archive
    truth, rows = truths["C"], truths["C"].layer == 4
    record, location = read_npy(layout.npy("C", 4)), read_location(layout.location("C", 4))
    assert record["barcode"].tolist() == [truth.name[row].split("_")[1] for row in np.flatnonzero(rows)]
    assert np.array_equal(record["label"], truth.label[rows]) and record["has_label"].all()
    assert np.array_equal(record["feature"], truth.feature[rows])
    assert np.allclose(record["pixel"], truth.array[rows] * PITCH_PX)
    assert np.array_equal(location[["i", "j"]], truth.array[rows])


def test_patches_own_the_spots_they_show_and_lie_as_they_did(archive):
    _, truths, layout = archive
    truth, rows = truths["C"], np.flatnonzero(truths["C"].layer == 2)
    record, graph = read_npy(layout.npy("C", 2)), read_pt(layout.graph("C", 2))
    for level, cell in (("region", truth.region[rows]), ("global", truth.global_[rows])):
        owner = record[f"{level}_index"]
        assert np.array_equal(owner[:, None] == owner, (cell[:, None] == cell).all(axis=2))
        found = graph[level]["pos"].numpy()[owner]
        assert len(np.unique(found - cell, axis=0)) == 1  # the same grid up to its origin
        label = truth.label[rows][owner == owner[5]].mean(axis=0)
        assert torch.allclose(graph[level]["y"][owner[5]], torch.from_numpy(label), atol=1e-5)
        assert graph[level]["x"].shape == (len(np.unique(cell, axis=0)), WIDTH)


def test_layers_are_registered_by_their_heavy_pairs(archive):
    _, truths, layout = archive
    for sample, truth in truths.items():
        registered = read_npy(layout.npy_3d(sample))["registered"] / PITCH_PX
        assert np.linalg.norm(registered - truth.common, axis=1).max() < 0.3
        quality = read_json(layout.quality(sample))
        assert quality["middle"] == 3 and refused_layers(layout, sample) == []


def test_the_archive_chooses_the_neighbours(archive):
    _, truths, layout = archive
    truth, combined = truths["D"], read_csr(layout.combined("D")).toarray()
    heaviest = set()
    for row, weights in enumerate(truth.weight):
        heaviest |= {tuple(sorted((row, column))) for column in np.argsort(-weights, kind="stable")[:12]}
    assert set(map(tuple, cross_pairs(read_csr(layout.combined("D"))).tolist())) <= heaviest
    assert np.allclose(combined[combined > 0], truth.weight[combined > 0], atol=1e-5)
    overlap = read_csr(layout.spot_iou("D"))
    assert 0 < overlap.nnz < np.count_nonzero(combined) and len(np.unique(overlap.nonzero()[0])) > 0.8 * 3 * N_SPOTS


def test_the_sample_loads_for_training(archive):
    _, truths, layout = archive
    graph = load_sample(layout, "C")
    assert graph.n_spots == 3 * N_SPOTS and graph.labelled_layers() == list(LAYERS)
    assert graph.feature_sets == {"backbone": WIDTH}
    assert torch.equal(graph.region_layer[graph.region_of_spot], graph.layer)
    assert torch.equal(graph.global_layer[graph.global_of_spot], graph.layer)
    n_regions = len(graph.region_layer)
    assert graph.region_keys.shape == (n_regions, 9) and (graph.region_keys >= 0).sum() > 4 * n_regions


def test_an_archive_trains_with_both_mains_without_hand_work(archive, tmp_path):
    _, _, layout = archive
    of_2d = ["--training_layers", "2", "--max_iterations", "30", "--members", "2"]
    of_3d = ["--max_iterations", "10", "--members", "1"]
    for name, options in (("main", of_2d), ("main_3d", of_3d)):
        run_layout = RunLayout(tmp_path / name)
        shared = ["--root_path", str(layout.root), "--save_path", str(run_layout.root), "--gpu", "cpu"]
        assert load_script(name).main([*shared, *options]) == 0
        result = read_json(run_layout.metrics_json)
        assert list(result["methods"]["msagnet"]["layers"]) == ["C/3", "C/4", "D/3", "D/4"]
        assert result["ceiling"]["layers"] == {}
        assert result["methods"]["msagnet"]["pooled"]["mse"] < result["methods"]["mean"]["pooled"]["mse"]
    assert load_script("predict_3d").main(shared) == 0
    assert run_layout.imputed("C", 3).is_file() and run_layout.imputed("D", 4).is_file()


def test_a_main_holds_an_archive_against_its_conversion(archive, tmp_path, capsys):
    """A main compares the conversion's recipes, without the raw files."""
    root, options = tmp_path / "root", ("--method", "mean", "--gpu", "cpu", "--save_path", str(tmp_path / "run"))
    shutil.copytree(archive[2].root, root)
    layout = Layout(root)
    capsys.readouterr()
    for sample in "CD":
        stored = read_json(layout.recipe("0_1_convert_raw", sample, None))
        moved = {name.replace(str(archive[0]), "/no/longer/there"): value for name, value in stored["inputs"].items()}
        write_json(layout.recipe("0_1_convert_raw", sample, None), stored | {"inputs": moved})
    assert load_script("main_3d").main(["--root_path", str(root), *options]) == 0 and capsys.readouterr().err == ""
    layout.genes.write_text(layout.genes.read_text().replace("gene_1,", "ERBB2,"))
    for main in ("main_3d", "main"):
        assert load_script(main).main(["--root_path", str(root), *options]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "fix: " in err
        assert "0_1_convert_raw of C, D" in err and "genes.csv" in err


def test_a_file_that_was_changed_after_the_conversion_is_named(archive, tmp_path, capsys):
    layout = Layout(shutil.copytree(archive[2].root, tmp_path / "root"))
    graph = read_pt(layout.graph_3d("C"))
    graph["region"]["y"] = graph["region"]["y"] * 2
    write_pt(layout.graph_3d("C"), graph)
    assert cli.main(["check", "--root_path", str(layout.root)]) == 2
    said = capsys.readouterr().out
    assert f"{layout.graph_3d('C')}: found other bytes than were written" in said and "0_1_convert_raw.py" in said


def test_a_second_run_is_skipped(archive, capsys):
    raw, _, layout = archive
    assert convert_archive(raw, layout.root) == 0
    assert capsys.readouterr().out.count("up to date") == 2


# other archives --------------------------------------------------------------------------------------
def test_an_archive_of_2d_files_alone(archive, tmp_path):
    _, _, whole = archive
    write_archive(tmp_path / "raw", ("C",), "2d")
    assert convert_archive(tmp_path / "raw", tmp_path / "root") == 0
    layout = Layout(tmp_path / "root")
    same_content(layout, whole, "C")
    assert not layout.npy_3d("C").exists() and cli.main(["check", "--root_path", str(layout.root)]) == 0


def test_an_archive_of_3d_files_alone_gives_the_layers_too(archive, tmp_path):
    """Without the dense table, weights are those of the graph's edges."""
    _, _, whole = archive
    write_archive(tmp_path / "raw", ("C",), "3d")
    assert convert_archive(tmp_path / "raw", tmp_path / "root") == 0
    layout = Layout(tmp_path / "root")
    same_content(layout, whole, "C")
    assert np.array_equal(read_npy(layout.npy_3d("C")), read_npy(whole.npy_3d("C")))
    assert np.allclose(read_csr(layout.combined("C")).toarray(), read_csr(whole.combined("C")).toarray(), atol=1e-5)


def test_pictures_become_patches_and_some_layers_can_be_chosen(tmp_path):
    write_archive(tmp_path / "raw", ("C",), "2d 3d csv pictures")
    (tmp_path / "raw/cropped_imgs/patch_224/C3/0x0.png").unlink()  # then the layer has none
    assert convert_archive(tmp_path / "raw", tmp_path / "root", "--layer", "2", "--layer", "3") == 0
    layout = Layout(tmp_path / "root")
    with h5py.File(layout.patches(224, "C", 2)) as file:
        assert file["img"].shape == (N_SPOTS, 224, 224, 3) and file["img"][5, 0, 0].tolist() == [5, 90, 140]
        assert [name.decode() for name in file["barcode"]] == read_location(layout.location("C", 2))["barcode"].tolist()
    assert not layout.patches(224, "C", 3).exists() and not layout.npy("C", 4).exists()
    assert cli.main(["check", "--root_path", str(layout.root)]) == 0
    for options in ([], ["--layer", "2", "--layer", "3"]):  # layers are added to a sample and never removed
        assert convert_archive(tmp_path / "raw", tmp_path / "root", *options) == 0
        assert np.unique(read_npy(layout.npy_3d("C"))["layer"]).tolist() == [2, 3, 4]
        assert load_config(layout.config).samples["C"].layers == [2, 3, 4]


def test_pictures_that_come_later_are_taken_and_a_broken_one_leaves_its_sample_out(tmp_path, capsys):
    raw, layout = tmp_path / "raw", Layout(tmp_path / "root")
    write_archive(raw, parts="2d")
    assert convert_archive(raw, layout.root) == 0 and not layout.patches(224, "C", 2).exists()
    write_archive(raw, parts="2d pictures")
    cut = raw / "cropped_imgs/patch_224/D3/0x0.png"
    cut.write_bytes(cut.read_bytes()[:100])
    capsys.readouterr()
    assert convert_archive(raw, layout.root) == 0
    error = capsys.readouterr().err
    assert f"D: left out: {cut}: found " in error and error.count("\n") == 1
    assert layout.patches(224, "C", 2).is_file() and not layout.patches(224, "D", 3).exists()


def test_the_config_orders_the_layers(tmp_path, capsys):
    truth = write_archive(tmp_path / "raw", ("C",))["C"]
    config, layout = tmp_path / "c.yaml", Layout(tmp_path / "root")
    head = "dataset: mine\nraw_format: asign\npitch_px: 272\n"
    mapped = head + "samples: {C: {raw: {1: C4, 2: C2, 5: C3}}}\n"
    for text, code in ((head + "samples: {C: {}}\n", 0), (mapped, 0), (mapped.replace("C3", "C9"), 2)):
        config.write_text(text)
        assert convert_archive(tmp_path / "raw", layout.root, "--config", str(config)) == code
    captured = capsys.readouterr()
    assert load_config(layout.config).samples["C"].raw == {1: "C4", 2: "C2", 5: "C3"}
    assert "up to date" not in captured.out
    assert np.array_equal(read_npy(layout.npy("C", 1))["label"], truth.label[truth.layer == 4])
    assert captured.err.count("\n") == 1 and "samples.C.raw" in captured.err
    assert re.search("found .*C9.* expected .*C2, C3, C4", captured.err)


def test_genes_get_the_names_of_a_list(tmp_path, capsys):
    write_archive(tmp_path / "raw", ("C",), "2d")
    names = [f"G{k}" for k in range(GENES)]
    (tmp_path / "list.txt").write_text("\n".join(names))
    head = "dataset: mine\nraw_format: asign\npitch_px: 272\n"
    (tmp_path / "c.yaml").write_text(f"{head}genes: {tmp_path / 'list.txt'}\n")
    assert convert_archive(tmp_path / "raw", tmp_path / "root", "--config", str(tmp_path / "c.yaml")) == 0
    assert read_table(Layout(tmp_path / "root").genes)["gene"].tolist() == names
    rows = "".join(f"{name},{rank}\n" for rank, name in enumerate(names[::-1], 1))
    (tmp_path / "genes.csv").write_text("gene,rank\n" + rows)  # the form of a run's genes.csv
    (tmp_path / "of_run.yaml").write_text(f"{head}genes: {tmp_path / 'genes.csv'}\n")
    options = ["--config", str(tmp_path / "of_run.yaml")]
    assert convert_archive(tmp_path / "raw", tmp_path / "root", *options) == 0
    assert read_table(Layout(tmp_path / "root").genes)["gene"].tolist() == names[::-1]
    assert "up to date" not in capsys.readouterr().out  # the graphs name the genes
    (tmp_path / "list.txt").write_text("\n".join(names[1:]))
    assert convert_archive(tmp_path / "raw", tmp_path / "root", "--config", str(tmp_path / "c.yaml")) == 2
    assert re.search(rf"list.txt: found {GENES - 1}\b.* expected .*\b{GENES}\b", capsys.readouterr().err)


def test_a_layer_that_nothing_agrees_on_is_refused(tmp_path):
    truth = write_archive(tmp_path / "raw", ("C",))["C"]
    table = tmp_path / "raw/3D_combined_information/C.csv"
    weight, lost = np.array(truth.weight), truth.layer == 4
    noise = np.random.default_rng(0).random((3 * N_SPOTS, 3 * N_SPOTS))
    for across in (np.ix_(lost, ~lost), np.ix_(~lost, lost)):
        weight[across] = noise[across]
    pd.DataFrame(weight, truth.name, truth.name).to_csv(table)
    assert convert_archive(tmp_path / "raw", tmp_path / "root") == 0
    layout = Layout(tmp_path / "root")
    assert refused_layers(layout, "C") == [4]
    spots = read_npy(layout.npy_3d("C"))
    assert np.allclose(*(spots["registered"][spots["layer"] == layer].mean(axis=0) for layer in (3, 4)))
