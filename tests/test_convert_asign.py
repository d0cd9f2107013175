"""Step 0_1 on the paper's processed archives: nothing in them is run, and what is written is what both mains read."""
import io
import pickle
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from archives import COLUMNS, GENES, LAYERS, PITCH_PX, ROWS, WIDTH, save_data, save_objects, spot_dicts, write_archive
from conftest import load_script

from common import cli
from common.config import load_config
from common.io import read_csr, read_json, read_location, read_npy, read_pt, read_table, write_json
from common.layout import Layout, RunLayout
from data_preprocessing import archive as written
from data_preprocessing.readers import asign
from data_preprocessing_3d.graph import cross_pairs
from dataloader_3d import load_sample, refused_layers

convert = load_script("0_1_convert_raw")
N = COLUMNS * ROWS


def run(raw: Path, root: Path, *options: str) -> int:
    return convert.main(["--format", "asign", "--raw_path", str(raw), "--root_path", str(root), *options])


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """(raw folder, truths, layout) of a full archive, converted once."""
    raw, root = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("root")
    truths = write_archive(raw)
    assert run(raw, root) == 0
    return raw, truths, Layout(root)


def same_content(one: Layout, other: Layout, sample: str) -> None:
    """The same records and graphs of the layers."""
    for layer in LAYERS:
        assert np.array_equal(read_npy(one.npy(sample, layer)), read_npy(other.npy(sample, layer)))
        first, second = read_pt(one.graph(sample, layer)), read_pt(other.graph(sample, layer))
        assert all(torch.equal(value, second[kind][name]) if torch.is_tensor(value) else value == second[kind][name]
                   for kind in first for name, value in first[kind].items())


# what is written -------------------------------------------------------------------------------------
def test_a_converted_archive_holds_to_the_contract(archive, capsys):
    _, _, layout = archive
    assert cli.main(["check", "--root_path", str(layout.root)]) == 0
    assert "wrong" not in capsys.readouterr().out
    assert load_config(layout.config).samples["C"].raw == {2: "C2", 3: "C3", 4: "C4"} and load_config(layout.config).n_genes == GENES
    assert read_table(layout.genes)["gene"].tolist()[:2] == ["gene_1", "gene_2"]


def test_spots_keep_features_labels_and_places(archive):
    _, truths, layout = archive
    truth, rows = truths["C"], truths["C"].layer == 4
    record, location = read_npy(layout.npy("C", 4)), read_location(layout.location("C", 4))
    assert record["barcode"].tolist() == [name.split("_")[1] for name, one in zip(truth.name, rows) if one]
    assert np.array_equal(record["label"], truth.label[rows]) and np.array_equal(record["feature"], truth.feature[rows]) and record["has_label"].all()
    assert np.allclose(record["pixel"], truth.array[rows] * PITCH_PX) and np.array_equal(location[["i", "j"]], truth.array[rows])


def test_patches_own_the_spots_they_show_and_lie_as_they_did(archive):
    _, truths, layout = archive
    truth, rows = truths["C"], np.flatnonzero(truths["C"].layer == 2)
    record, graph = read_npy(layout.npy("C", 2)), read_pt(layout.graph("C", 2))
    for level, cell in (("region", truth.region[rows]), ("global", truth.global_[rows])):
        owner = record[f"{level}_index"]
        assert np.array_equal(owner[:, None] == owner, (cell[:, None] == cell).all(axis=2))
        found = graph[level]["pos"].numpy()[owner]
        assert len(np.unique(found - cell, axis=0)) == 1  # the grid as it was, but for where it starts
        assert torch.allclose(graph[level]["y"][owner[5]], torch.from_numpy(truth.label[rows][owner == owner[5]].mean(axis=0)), atol=1e-5)
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
    heaviest = {tuple(sorted((row, column))) for row in range(3 * N) for column in np.argsort(-truth.weight[row], kind="stable")[:12]}
    assert set(map(tuple, cross_pairs(read_csr(layout.combined("D"))).tolist())) <= heaviest
    assert np.allclose(combined[combined > 0], truth.weight[combined > 0], atol=1e-5)
    overlap = read_csr(layout.spot_iou("D"))
    assert 0 < overlap.nnz < np.count_nonzero(combined) and len(np.unique(overlap.nonzero()[0])) > 0.8 * 3 * N


def test_the_sample_loads_for_training(archive):
    _, truths, layout = archive
    graph = load_sample(layout, "C")
    assert graph.n_spots == 3 * N and graph.feature_sets == {"backbone": WIDTH} and graph.labelled_layers() == list(LAYERS)
    assert torch.equal(graph.region_layer[graph.region_of_spot], graph.layer) and torch.equal(graph.global_layer[graph.global_of_spot], graph.layer)
    assert graph.region_keys.shape == (len(graph.region_layer), 9) and (graph.region_keys >= 0).sum() > 4 * len(graph.region_layer)


def test_an_archive_trains_with_both_mains_without_hand_work(archive, tmp_path):
    _, _, layout = archive
    of_2d, of_3d = ("--training_layers", "2", "--max_iterations", "30", "--members", "2"), ("--max_iterations", "10", "--members", "1")
    for name, options, targets in (("main", of_2d, ["C/3", "C/4", "D/3", "D/4"]), ("main_3d", of_3d, ["C/3", "C/4", "D/3", "D/4"])):
        run_layout = RunLayout(tmp_path / name)
        assert load_script(name).main(["--root_path", str(layout.root), "--save_path", str(run_layout.root), "--gpu", "cpu", *options]) == 0
        result = read_json(run_layout.metrics_json)
        assert list(result["methods"]["msagnet"]["layers"]) == targets and result["ceiling"]["layers"] == {}
        assert result["methods"]["msagnet"]["pooled"]["mse"] < result["methods"]["mean"]["pooled"]["mse"]
    assert load_script("predict_3d").main(["--root_path", str(layout.root), "--save_path", str(run_layout.root), "--gpu", "cpu"]) == 0
    assert run_layout.imputed("C", 3).is_file() and run_layout.imputed("D", 4).is_file()


def test_a_main_holds_an_archive_against_its_conversion(archive, tmp_path, capsys):
    """Its own recipes and no others; the raw files may be gone."""
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
        assert "0_1_convert_raw of C, D" in err and "genes.csv has changed" in err and "fix: run" in err and err.count("\n") == 1


def test_a_second_run_is_skipped(archive, capsys):
    raw, _, layout = archive
    assert run(raw, layout.root) == 0
    assert capsys.readouterr().out.count("up to date") == 2


# other archives --------------------------------------------------------------------------------------
def test_an_archive_of_2d_files_alone(archive, tmp_path):
    _, _, whole = archive
    write_archive(tmp_path / "raw", ("C",), "2d")
    assert run(tmp_path / "raw", tmp_path / "root") == 0
    layout = Layout(tmp_path / "root")
    same_content(layout, whole, "C")
    assert not layout.npy_3d("C").exists() and cli.main(["check", "--root_path", str(layout.root)]) == 0


def test_an_archive_of_3d_files_alone_gives_the_layers_too(archive, tmp_path):
    """Without the dense table the edges of the graph count."""
    _, _, whole = archive
    write_archive(tmp_path / "raw", ("C",), "3d")
    assert run(tmp_path / "raw", tmp_path / "root") == 0
    layout = Layout(tmp_path / "root")
    same_content(layout, whole, "C")
    assert np.array_equal(read_npy(layout.npy_3d("C")), read_npy(whole.npy_3d("C")))
    assert np.allclose(read_csr(layout.combined("C")).toarray(), read_csr(whole.combined("C")).toarray(), atol=1e-5)


def test_pictures_become_patches_and_some_layers_can_be_chosen(tmp_path):
    write_archive(tmp_path / "raw", ("C",), "2d 3d csv pictures")
    (tmp_path / "raw/cropped_imgs/patch_224/C3/0x0.png").unlink()  # then the layer has none
    assert run(tmp_path / "raw", tmp_path / "root", "--layer", "2", "--layer", "3") == 0
    layout = Layout(tmp_path / "root")
    with h5py.File(layout.patches(224, "C", 2)) as file:
        assert file["img"].shape == (N, 224, 224, 3) and file["img"][5, 0, 0].tolist() == [5, 90, 140]
        assert [name.decode() for name in file["barcode"]] == read_location(layout.location("C", 2))["barcode"].tolist()
    assert not layout.patches(224, "C", 3).exists() and not layout.npy("C", 4).exists()
    assert cli.main(["check", "--root_path", str(layout.root)]) == 0
    for options in ([], ["--layer", "2", "--layer", "3"]):  # layers are added to a sample; none that is there gets lost
        assert run(tmp_path / "raw", tmp_path / "root", *options) == 0
        assert np.unique(read_npy(layout.npy_3d("C"))["layer"]).tolist() == [2, 3, 4]
        assert load_config(layout.config).samples["C"].layers == [2, 3, 4]


def test_pictures_that_come_later_are_taken_and_a_broken_one_leaves_its_sample_out(tmp_path, capsys):
    raw, layout = tmp_path / "raw", Layout(tmp_path / "root")
    write_archive(raw, parts="2d")
    assert run(raw, layout.root) == 0 and not layout.patches(224, "C", 2).exists()
    write_archive(raw, parts="2d pictures")
    cut = raw / "cropped_imgs/patch_224/D3/0x0.png"
    cut.write_bytes(cut.read_bytes()[:100])
    capsys.readouterr()
    assert run(raw, layout.root) == 0
    error = capsys.readouterr().err
    assert f"D: left out: {cut}: found a picture that cannot be read" in error and error.count("\n") == 1
    assert layout.patches(224, "C", 2).is_file() and not layout.patches(224, "D", 3).exists()


def test_the_config_orders_the_layers(tmp_path, capsys):
    truth = write_archive(tmp_path / "raw", ("C",))["C"]
    config, layout = tmp_path / "c.yaml", Layout(tmp_path / "root")
    text = "dataset: mine\nraw_format: asign\npitch_px: 272\nsamples: {C: {raw: {1: C4, 2: C2, 5: C3}}}\n"
    for samples, code in ((text.replace("raw: {1: C4, 2: C2, 5: C3}", ""), 0), (text, 0), (text.replace("C3", "C9"), 2)):
        config.write_text(samples)
        assert run(tmp_path / "raw", layout.root, "--config", str(config)) == code
    captured = capsys.readouterr()
    assert load_config(layout.config).samples["C"].raw == {1: "C4", 2: "C2", 5: "C3"} and "up to date" not in captured.out
    assert np.array_equal(read_npy(layout.npy("C", 1))["label"], truth.label[truth.layer == 4])
    assert "found no C9 (samples.C.raw); expected one of C2, C3, C4" in captured.err and captured.err.count("\n") == 1


def test_genes_get_the_names_of_a_list(tmp_path, capsys):
    write_archive(tmp_path / "raw", ("C",), "2d")
    names = [f"G{k}" for k in range(GENES)]
    (tmp_path / "list.txt").write_text("\n".join(names))
    (tmp_path / "c.yaml").write_text(f"dataset: mine\nraw_format: asign\npitch_px: 272\ngenes: {tmp_path / 'list.txt'}\n")
    assert run(tmp_path / "raw", tmp_path / "root", "--config", str(tmp_path / "c.yaml")) == 0
    assert read_table(Layout(tmp_path / "root").genes)["gene"].tolist() == names
    (tmp_path / "genes.csv").write_text("gene,rank\n" + "".join(f"{name},{rank}\n" for rank, name in enumerate(names[::-1], 1)))
    (tmp_path / "of_run.yaml").write_text((tmp_path / "c.yaml").read_text().replace("list.txt", "genes.csv"))  # the genes.csv of a run
    assert run(tmp_path / "raw", tmp_path / "root", "--config", str(tmp_path / "of_run.yaml")) == 0
    assert read_table(Layout(tmp_path / "root").genes)["gene"].tolist() == names[::-1]
    assert "up to date" not in capsys.readouterr().out  # the graphs name the genes
    (tmp_path / "list.txt").write_text("\n".join(names[1:]))
    assert run(tmp_path / "raw", tmp_path / "root", "--config", str(tmp_path / "c.yaml")) == 2
    assert f"found {GENES - 1} gene names; expected the {GENES} of" in capsys.readouterr().err


def test_a_layer_that_nothing_agrees_on_is_refused(tmp_path):
    truth = write_archive(tmp_path / "raw", ("C",))["C"]
    table = tmp_path / "raw/3D_combined_information/C.csv"
    weight, lost = np.array(truth.weight), truth.layer == 4
    noise = np.random.default_rng(0).random((3 * N, 3 * N))
    weight[np.ix_(lost, ~lost)], weight[np.ix_(~lost, lost)] = noise[np.ix_(lost, ~lost)], noise[np.ix_(~lost, lost)]
    pd.DataFrame(weight, truth.name, truth.name).to_csv(table)
    assert run(tmp_path / "raw", tmp_path / "root") == 0
    layout = Layout(tmp_path / "root")
    assert refused_layers(layout, "C") == [4]
    spots = read_npy(layout.npy_3d("C"))
    assert np.allclose(*(spots["registered"][spots["layer"] == layer].mean(axis=0) for layer in (3, 4)))


# malice and breakage ---------------------------------------------------------------------------------
class Malice:
    """Leaves a mark where it is run."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        import os
        return os.mkdir, (str(self.mark),)


class Hidden:
    """Malice inside the bytes that a pickled tensor's storage would be loaded from."""

    def __init__(self, mark: Path):
        content = io.BytesIO()
        torch.save(Malice(mark), content)
        self.content = content.getvalue()

    def __reduce__(self):
        return torch.storage._load_from_bytes, (self.content,)


class Pointer:
    """An array that says its eight bytes are an object."""

    def __reduce__(self):
        lie = (1, (1,), Flagless(), False, b"\x08" * 8)
        return np.zeros(1).__reduce__()[0], (np.ndarray, (0,), b"b"), lie


class Flagless:
    def __reduce__(self):
        return np.dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 0)


@pytest.mark.parametrize("where, kind", [("npy", Malice), ("npy", Hidden), ("3d npy", Malice), ("pt", Malice), ("3d pt", Malice)])
def test_nothing_in_an_archive_is_run(tmp_path, capsys, where, kind):
    raw, mark = tmp_path / "raw", tmp_path / "mark"
    truth = write_archive(raw, ("C",), "3d csv" if "3d" in where else "2d")["C"]
    if where == "npy":
        save_objects(raw / "npy_information/C/C3.npy", [{**spot, "label": kind(mark)} for spot in spot_dicts(truth, "C")[:5]])
    elif where == "3d npy":
        save_objects(raw / "3D_npy_information/C.npy", [kind(mark)])
    else:
        data = torch.load(path := raw / ("3D_graph_data/C.pt" if "3d" in where else "graph_data/C/C3.pt"), weights_only=False)
        data.extra = kind(mark)
        save_data(path, data)
    assert run(raw, tmp_path / "root") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "posix.mkdir; it was not run" in error and str(raw) in error
    assert not mark.exists()


def test_an_array_of_pointers_is_no_array(tmp_path):
    save_objects(tmp_path / "C2.npy", [{"label": Pointer()}])
    with pytest.raises(asign.LayerError, match="cannot be read"):
        asign.read_spot_dicts(tmp_path / "C2.npy")


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_arrays_tensors_and_scalars_are_read_as_they_were(tmp_path, protocol):
    spot = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "f": np.asfortranarray(np.arange(6.0).reshape(3, 2)), "b": np.array([1, 2], ">i4"), "s": np.float64(2.5),
            "t": torch.arange(6).reshape(2, 3).T, "x": [1.5, "text", (2, None)]}
    values = np.empty(1, object)
    values[0] = spot
    with open(tmp_path / "one.npy", "wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": (1,)})
        pickle.dump(values, stream, protocol=protocol)
    found, = asign.read_spot_dicts(tmp_path / "one.npy")
    assert all(np.array_equal(np.asarray(found[name]), np.asarray(spot[name])) for name in "afbst") and found["x"] == spot["x"]


@pytest.mark.parametrize("spoil, message", [("cut", "cannot be read"), ("key", "a spot without a well-formed"), ("nan", "not finite"),
                                            ("x", "no layer_224.x"), ("twice", "a spot twice"), ("text", "a table that cannot"),
                                            ("names", "no weight between two layers")])
def test_a_broken_sample_is_left_out_and_the_other_goes_on(tmp_path, capsys, spoil, message):
    raw = tmp_path / "raw"
    truths = write_archive(raw, parts="2d 3d csv" if spoil in ("text", "names") else "2d")
    table = raw / "3D_combined_information/D.csv"
    path, spots = raw / "npy_information/D/D2.npy", spot_dicts(truths["D"], "D")[:N]
    if spoil == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif spoil in ("text", "names"):
        table.write_text(table.read_text().replace(",1.0", ",one") if spoil == "text" else table.read_text().replace("D", "X"))
    elif spoil == "x":
        save_data(raw / "graph_data/D/D2.pt", type(torch.load(raw / "graph_data/D/D2.pt", weights_only=False))())
    else:
        change = {"key": lambda spot: spot.pop("feature_512"), "nan": lambda spot: spot.update(label=spot["label"] * np.nan),
                  "twice": lambda spot: spot.update(img_path=spots[0]["img_path"])}[spoil]
        change(spots[7])
        save_objects(path, spots)
    assert run(raw, tmp_path / "root") == 0
    error = capsys.readouterr().err
    assert "D: left out: " in error and message in error and error.count("\n") == 1
    assert Layout(tmp_path / "root").npy("C", 2).exists()


@pytest.mark.parametrize("parts, config", [("3d csv", ""), ("3d csv", "samples: {C: {}, D: {layers: [3, 4], known_layers: [3]}}\nfolds: [[C], [D]]\n"),
                                           ("2d 3d csv", "")])
def test_a_broken_3d_file_is_that_of_its_sample_alone(tmp_path, capsys, parts, config):
    """A sample that has its 2D files is converted without it."""
    raw, layout = tmp_path / "raw", Layout(tmp_path / "root")
    write_archive(raw, parts=parts)
    cut = raw / "3D_npy_information/D.npy"
    cut.write_bytes(cut.read_bytes()[:1000])
    (tmp_path / "c.yaml").write_text(f"dataset: mine\nraw_format: asign\npitch_px: 272\n{config}")
    assert run(raw, layout.root, "--config", str(tmp_path / "c.yaml")) == 0
    error, whole = capsys.readouterr().err, "2d" in parts
    assert f"D: {'only its 2D files are listed' if whole else 'left out'}: {cut}: found a file that cannot be read" in error
    assert error.count("\n") == 1
    assert layout.npy_3d("C").is_file() and layout.npy_3d("D").exists() == whole


def test_a_3d_file_is_read_once_to_list_and_once_to_convert(tmp_path, monkeypatch):
    write_archive(tmp_path / "raw", parts="3d")  # no table of weights: the names of the spots are needed again for the edges
    read, taken = asign.read_spot_dicts, []
    monkeypatch.setattr(asign, "read_spot_dicts", lambda path: taken.append(path.name) or read(path))
    assert run(tmp_path / "raw", tmp_path / "root") == 0
    assert taken == ["C.npy", "D.npy", "C.npy", "C.npy", "D.npy"]  # listed, how many genes, converted


def test_spots_in_one_place_name_the_file_they_are_in(tmp_path, capsys):
    truth = write_archive(tmp_path / "raw", parts="2d")["C"]
    path = tmp_path / "raw/npy_information/C/C2.npy"
    save_objects(path, [{**spot, "position": np.zeros(2)} for spot in spot_dicts(truth, "C")[:N]])
    assert run(tmp_path / "raw", tmp_path / "root") == 0
    assert f"C: left out: {path}: found {N} spots whose distance cannot be measured" in capsys.readouterr().err


def test_an_empty_folder_is_one_line(tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    assert run(tmp_path / "raw", tmp_path / "root") == 2
    assert "found no sample" in capsys.readouterr().err


# parts -----------------------------------------------------------------------------------------------
def test_numbers_of_layers():
    assert asign.numbered(["C3", "C2", "C10"]) == {2: "C2", 3: "C3", 10: "C10"}
    assert asign.numbered(["151508", "151507"]) == {151507: "151507", 151508: "151508"}
    assert asign.numbered(["b", "a"]) == {1: "a", 2: "b"} == asign.numbered(["b", "a"][::-1])
    assert asign.numbered(["X2", "Y2"]) == {1: "X2", 2: "Y2"}


@pytest.mark.parametrize("offset, side", [(0.0, 1.88), (0.37, 1.88), (0.9, 1.75), (0.55, 3.76)])
def test_cells_of_a_grid_are_found_again(offset, side):
    position = np.stack(np.meshgrid(np.arange(14), np.arange(11)), axis=-1).reshape(-1, 2)[::-1].astype(float)
    cell = np.floor(position / side + offset).astype(int)
    owner = np.unique(cell, axis=0, return_inverse=True)[1]
    found = written.grid_cells(position + 5, owner, 3.76 if side > 3 else 1.88)[owner]
    assert len(np.unique(found - cell, axis=0)) == 1


def test_patches_whose_cells_cannot_be_told_have_no_neighbour():
    position = np.array([[0, 0], [0.2, 0], [0.4, 0]])
    found = written.grid_cells(position, np.array([0, 1, 2]), 1.88)
    assert np.diff(np.sort(found[:, 0])).min() >= 3


def test_parts_add_up_to_the_weight():
    weight, overlap = np.array([1.7, 1.7, 0.4, 0.9, 2.0]), np.array([0.9, 0.2, 0.6, 0.0, 0.1])
    iou, cosine = written.parts_of(weight, overlap)
    assert np.allclose(iou, [0.9, 0.7, 0.6, 0.0, 1.0]) and np.allclose(iou + cosine, weight) and (np.abs(cosine) <= 1).all()


def test_iou_of_circles():
    assert np.allclose(written.circle_iou(np.array([0.0, 2.0, 5.0]), 1.0), [1, 0, 0])
    assert written.circle_iou(np.array([1.0]), 1.0) == pytest.approx(0.2430, abs=1e-4)  # two circles through each other's centres
