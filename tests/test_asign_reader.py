"""Reading the paper's processed archives: no code in them is run, and a broken file leaves its sample out."""
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from archives import N_SPOTS, convert_archive, save_data, save_objects, spot_dicts, write_archive
from torch_geometric.data import HeteroData

from common.layout import Layout
from data_preprocessing import archive as written
from data_preprocessing.readers import asign


# malice ----------------------------------------------------------------------------------------------
class Malice:
    """Makes a folder when its pickle is run."""

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
    """An array whose eight bytes claim to be a pointer to an object."""

    def __reduce__(self):
        lie = (1, (1,), Flagless(), False, b"\x08" * 8)
        return np.zeros(1).__reduce__()[0], (np.ndarray, (0,), b"b"), lie


class Flagless:
    def __reduce__(self):
        return np.dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 0)


@pytest.mark.parametrize("where, kind", [
    ("npy", Malice), ("npy", Hidden), ("3d npy", Malice), ("pt", Malice), ("3d pt", Malice)])
def test_nothing_in_an_archive_is_run(tmp_path, capsys, where, kind):
    raw, mark = tmp_path / "raw", tmp_path / "mark"
    truth = write_archive(raw, ("C",), "3d csv" if "3d" in where else "2d")["C"]
    if where == "npy":
        spots = [{**spot, "label": kind(mark)} for spot in spot_dicts(truth, "C")[:5]]
        save_objects(raw / "npy_information/C/C3.npy", spots)
    elif where == "3d npy":
        save_objects(raw / "3D_npy_information/C.npy", [kind(mark)])
    else:
        path = raw / ("3D_graph_data/C.pt" if "3d" in where else "graph_data/C/C3.pt")
        data = torch.load(path, weights_only=False)
        data.extra = kind(mark)
        save_data(path, data)
    assert convert_archive(raw, tmp_path / "root") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert str(raw) in error and "posix.mkdir" in error
    assert not mark.exists()


def test_an_array_of_pointers_is_no_array(tmp_path):
    save_objects(tmp_path / "C2.npy", [{"label": Pointer()}])
    with pytest.raises(asign.LayerError, match="cannot be read"):
        asign.read_spot_dicts(tmp_path / "C2.npy")


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_arrays_tensors_and_scalars_are_read_as_they_were(tmp_path, protocol):
    spot = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "f": np.asfortranarray(np.arange(6.0).reshape(3, 2)),
        "b": np.array([1, 2], ">i4"),
        "s": np.float64(2.5),
        "t": torch.arange(6).reshape(2, 3).T,
        "x": [1.5, "text", (2, None)]}
    values = np.empty(1, object)
    values[0] = spot
    with open(tmp_path / "one.npy", "wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": (1,)})
        pickle.dump(values, stream, protocol=protocol)
    found, = asign.read_spot_dicts(tmp_path / "one.npy")
    assert found["x"] == spot["x"]
    for name in "afbst":
        assert np.array_equal(np.asarray(found[name]), np.asarray(spot[name])), name


# broken files ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("spoil, file, message", [
    ("cut", "D2.npy", "cannot be read"), ("key", "D2.npy", "feature_512"), ("nan", "D2.npy", "not finite"),
    ("x", "D2.pt", "layer_224.x"), ("twice", "D2.npy", "twice"),
    ("text", "D.csv", "'one"), ("names", "D.csv", "<layer>_<spot>")])
def test_a_broken_sample_is_left_out_and_the_other_goes_on(tmp_path, capsys, spoil, file, message):
    raw = tmp_path / "raw"
    truths = write_archive(raw, parts="2d 3d csv" if spoil in ("text", "names") else "2d")
    table = raw / "3D_combined_information/D.csv"
    path, spots = raw / "npy_information/D/D2.npy", spot_dicts(truths["D"], "D")[:N_SPOTS]
    if spoil == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif spoil == "text":
        table.write_text(table.read_text().replace(",1.0", ",one"))
    elif spoil == "names":
        table.write_text(table.read_text().replace("D", "X"))
    elif spoil == "x":
        save_data(raw / "graph_data/D/D2.pt", HeteroData())
    else:
        spot = spots[7]
        if spoil == "key":
            del spot["feature_512"]
        elif spoil == "nan":
            spot["label"] = spot["label"] * np.nan
        else:
            spot["img_path"] = spots[0]["img_path"]
        save_objects(path, spots)
    assert convert_archive(raw, tmp_path / "root") == 0
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    where, found = error.split(": found ")
    assert "D: left out: " in where and where.endswith(file) and message in found
    assert Layout(tmp_path / "root").npy("C", 2).exists()


@pytest.mark.parametrize("parts, config", [
    ("3d csv", ""),
    ("3d csv", "samples: {C: {}, D: {layers: [3, 4], known_layers: [3]}}\nfolds: [[C], [D]]\n"),
    ("2d 3d csv", "")])
def test_a_broken_3d_file_is_that_of_its_sample_alone(tmp_path, capsys, parts, config):
    """A sample with 2D files is converted without the broken 3D file."""
    raw, layout = tmp_path / "raw", Layout(tmp_path / "root")
    write_archive(raw, parts=parts)
    cut = raw / "3D_npy_information/D.npy"
    cut.write_bytes(cut.read_bytes()[:1000])
    (tmp_path / "c.yaml").write_text(f"dataset: mine\nraw_format: asign\npitch_px: 272\n{config}")
    assert convert_archive(raw, layout.root, "--config", str(tmp_path / "c.yaml")) == 0
    error, whole = capsys.readouterr().err, "2d" in parts
    assert error.count("\n") == 1 and f"{cut}: found " in error
    assert ("2D" in error and "left out" not in error) if whole else "D: left out: " in error
    assert layout.npy_3d("C").is_file() and layout.npy_3d("D").exists() == whole


def test_a_3d_file_is_read_once_to_list_and_once_to_convert(tmp_path, monkeypatch):
    write_archive(tmp_path / "raw", parts="3d")  # without a table of weights, the edges need the names of the spots
    read, taken = asign.read_spot_dicts, []

    def read_and_note(path: Path) -> list[dict]:
        taken.append(path.name)
        return read(path)
    monkeypatch.setattr(asign, "read_spot_dicts", read_and_note)
    assert convert_archive(tmp_path / "raw", tmp_path / "root") == 0
    assert taken == ["C.npy", "D.npy", "C.npy", "C.npy", "D.npy"]  # to list, to count genes, to convert


def test_spots_in_one_place_name_the_file_they_are_in(tmp_path, capsys):
    truth = write_archive(tmp_path / "raw", parts="2d")["C"]
    path = tmp_path / "raw/npy_information/C/C2.npy"
    save_objects(path, [{**spot, "position": np.zeros(2)} for spot in spot_dicts(truth, "C")[:N_SPOTS]])
    assert convert_archive(tmp_path / "raw", tmp_path / "root") == 0
    assert f"C: left out: {path}: found {N_SPOTS} spots" in capsys.readouterr().err


def test_an_empty_folder_is_one_line(tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    assert convert_archive(tmp_path / "raw", tmp_path / "root") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{tmp_path / 'raw'}: found " in error and "3D_npy_information" in error


# names, grids and weights ----------------------------------------------------------------------------
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


def test_patches_whose_cells_are_unknown_have_no_neighbour():
    position = np.array([[0, 0], [0.2, 0], [0.4, 0]])
    found = written.grid_cells(position, np.array([0, 1, 2]), 1.88)
    assert np.diff(np.sort(found[:, 0])).min() >= 3


def test_parts_add_up_to_the_weight():
    weight, overlap = np.array([1.7, 1.7, 0.4, 0.9, 2.0]), np.array([0.9, 0.2, 0.6, 0.0, 0.1])
    iou, cosine = written.parts_of(weight, overlap)
    assert np.allclose(iou, [0.9, 0.7, 0.6, 0.0, 1.0])
    assert np.allclose(iou + cosine, weight) and (np.abs(cosine) <= 1).all()


def test_iou_of_circles():
    assert np.allclose(written.circle_iou(np.array([0.0, 2.0, 5.0]), 1.0), [1, 0, 0])
    through_centres = written.circle_iou(np.array([1.0]), 1.0)  # each circle passes through the other's centre
    assert through_centres == pytest.approx(0.2430, abs=1e-4)
