"""Files are written whole or not at all, read without pickle, and come back as they were written."""
import multiprocessing
import os
import pickle
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from folders import files_in, touch
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from common import io
from common.errors import DataError, LayerError
from common.layout import Layout

FORK = multiprocessing.get_context("fork")


# files -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_writer_leaves_the_old_file_and_nothing_else(tmp_path, interruption):
    path = tmp_path / "new_folder" / "1.csv"
    for old in (None, "old"):
        if old:
            path.write_text(old)
        with pytest.raises(interruption), io.atomic_path(path) as temporary:
            temporary.write_text("half of the n")
            assert temporary.suffix == ".csv" and temporary.parent == path.parent
            raise interruption
        assert files_in(path.parent) == (["1.csv"] if old else [])
    assert path.read_text() == "old"


def test_a_killed_writer_leaves_the_old_file_and_no_layer_that_is_none(tmp_path):
    layout = Layout(tmp_path)
    path = layout.new_image("A", 1, ".jpg")
    touch(path)

    def half_write():
        with io.atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)

    writer = FORK.Process(target=half_write)
    writer.start()
    writer.join(30)
    assert writer.exitcode == -signal.SIGKILL
    assert path.read_bytes() == b"x" and layout.image("A", 1) == path
    assert layout.layers_on_disk() == {"A": [1]}


def test_a_written_file_has_the_rights_of_a_plain_one(tmp_path):
    io.write_json(tmp_path / "a.json", {"b": 1})
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "plain").stat().st_mode
    with pytest.raises(ValueError):
        io.write_json(tmp_path / "a.json", {"b": float("nan")})
    assert io.read_json(tmp_path / "a.json") == {"b": 1} and files_in(tmp_path) == ["a.json", "plain"]


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_nothing_is_read_with_pickle(tmp_path):
    import torch
    trap = tmp_path / "sprung"
    np.save(tmp_path / "a.npy", np.array([Trap(trap), 1], object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=np.array([Trap(trap)], object))
    torch.save({"x": Trap(trap)}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps({"x": Trap(trap)}))
    for read, name in ((io.read_npy, "a.npy"), (io.read_npz, "a.npz"), (io.read_pt, "a.pt"), (io.read_pt, "b.pt")):
        with pytest.raises((ValueError, pickle.UnpicklingError, DataError, LayerError)):
            read(tmp_path / name)
        assert not trap.exists(), name
    with pytest.raises(ValueError):
        io.write_npy(tmp_path / "c.npy", np.array([Trap(trap)], object))
    assert files_in(tmp_path) == ["a.npy", "a.npz", "a.pt", "b.pt"]


def test_arrays_and_tensors_come_back_as_written(tmp_path):
    import torch
    fields = [("barcode", "U2"), ("pixel", "f8", 2), ("has_label", "?")]
    records = np.array([("a", (1.5, 2), True), ("bc", (3, 4), False)], fields)
    io.write_npy(tmp_path / "a.npy", records)
    for mmap in (False, True):
        back = io.read_npy(tmp_path / "a.npy", mmap=mmap)
        assert back.dtype == records.dtype and (back == records).all() and isinstance(back, np.memmap) == mmap
    io.write_pt(tmp_path / "a.pt", {("spot", "in", "region"): {"edge_index": torch.arange(4).reshape(2, 2)}})
    assert io.read_pt(tmp_path / "a.pt")["spot", "in", "region"]["edge_index"].tolist() == [[0, 1], [2, 3]]
    io.write_features(tmp_path / "a.h5", {"stain": np.eye(2)}, ["ä", "b"], {"stain": {"model": "m", "window_px": 3}})
    sets, names = io.read_features(tmp_path / "a.h5")
    assert names == ["ä", "b"] and list(sets) == ["stain"] and sets["stain"].dtype == np.float32
    for read in (io.read_npy, io.read_npz, io.read_csr, io.read_pt, io.read_h5ad, io.read_json, io.read_table):
        with pytest.raises(LayerError, match="none.x: found no file; expected .*step_9.py; fix: .*step_9.py"):
            read(tmp_path / "none.x", made_by="step_9.py")


@settings(max_examples=20, deadline=None)
@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
                  elements=st.sampled_from([0, 0, 1, -2.5])))
def test_csr_comes_back_as_written(tmp_path_factory, dense):
    path = tmp_path_factory.mktemp("csr") / "m.npz"
    io.write_csr(path, sparse.coo_matrix(dense))
    back = io.read_csr(path)
    assert back.format == "csr" and back.dtype == np.float32 and back.shape == dense.shape
    np.testing.assert_array_equal(back.toarray(), dense)


def test_csr_keeps_stored_zeros_and_sorts_columns(tmp_path):
    matrix = sparse.csr_array((np.array([5, 0, 1], np.float32), np.array([2, 0, 1]), np.array([0, 2, 3])), shape=(2, 3))
    io.write_csr(tmp_path / "m.npz", matrix)
    back = io.read_csr(tmp_path / "m.npz")
    assert back.indices.tolist() == [0, 2, 1] and back.data.tolist() == [0, 5, 1] and back.indptr.tolist() == [0, 2, 3]


LOCATION = {"barcode": ["007", "NA"], "pixel_x": [1.5, 2], "pixel_y": [3, -4.25], "i": [1, 2], "j": [5, 6]}


def write_location(path: Path, **changes) -> Path:
    table = pd.DataFrame({**LOCATION, **changes})
    table.drop(columns=[name for name, value in changes.items() if value is None]).to_csv(path, index=False)
    return path


def test_location_is_read_with_its_types(tmp_path):
    table = io.read_location(write_location(tmp_path / "1.csv", extra=["p", "q"]))
    assert table["barcode"].tolist() == ["007", "NA"]  # text, and NA is a name
    assert table["pixel_y"].tolist() == [3, -4.25]
    types = [str(table[name].dtype) for name in ("pixel_x", "pixel_y", "i", "j")]
    assert types == ["float64", "float64", "int64", "int64"]


@pytest.mark.parametrize("changes, expected", [
    ({"pixel_x": None}, "a column pixel_x"), ({"barcode": None, "j": None}, "a column barcode, j"),
    ({"barcode": ["a", "a"]}, "barcode a twice"),
    ({"pixel_y": ["1", "up"]}, "pixel_y"), ({"pixel_x": [1, np.inf]}, "pixel_x"), ({"pixel_x": [1, np.nan]}, "pixel_x"),
    ({"i": [1, 1e300]}, "found an? i .*number"),
])
def test_a_wrong_location_is_refused(tmp_path, changes, expected):
    path = write_location(tmp_path / "1.csv", **changes)
    with pytest.raises(LayerError, match=expected) as caught:
        io.read_location(path)
    assert str(path) in str(caught.value)


# paths -----------------------------------------------------------------------------------------------
def test_image_is_the_one_of_this_layer(tmp_path):
    layout = Layout(tmp_path)
    there = ("10.jpg", "1.json", "1.b.jpg", "1.tiff", "11.png", "2.JPG", "3.png", "3.jpg", "12.svs")
    touch(*(tmp_path / "imgs/A" / name for name in there))
    images = {layer: layout.image("A", layer) for layer in (1, 2, 3, 4, 10, 12)}
    names = {layer: path and path.name for layer, path in images.items()}
    assert names == {1: "1.tiff", 2: "2.JPG", 3: "3.jpg", 4: None, 10: "10.jpg", 12: "12.svs"}
    assert layout.image("B", 1) is None
