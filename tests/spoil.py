"""Ways to spoil a file of a dataset root: each function takes a change and gives a function of a path."""
import h5py
import numpy as np
import pandas as pd
import torch
from scipy import sparse

from common import io


def cut(path):
    """The first half of any file."""
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def table(change):
    """A CSV file; change takes the table and returns another."""
    return lambda path: io.write_table(path, change(pd.read_csv(path, dtype={"barcode": str, "patch_name": str})))


def cell(column, row, value):
    def change(one):
        one[column] = one[column].astype(object)
        one.loc[row, column] = value
        return one
    return table(change)


def array(change):
    """A .npy file; change alters the array in place or returns another."""
    def rewrite(path):
        values = np.load(path)
        out = change(values)
        io.write_npy(path, values if out is None else out)
    return rewrite


def field(name, row, value):
    return array(lambda records: records[name].__setitem__(row, value))


def tensors(change):
    def rewrite(path):
        value = torch.load(path, weights_only=True)
        change(value)
        io.write_pt(path, value)
    return rewrite


def stored(change):
    """A JSON or h5ad file; change alters the value in place or returns another."""
    def rewrite(path):
        read, write = (io.read_json, io.write_json) if path.suffix == ".json" else (io.read_h5ad, io.write_h5ad)
        value = read(path)
        out = change(value)
        write(path, out if isinstance(out, type(value)) else value)
    return rewrite


def hdf5(change):
    def rewrite(path):
        with h5py.File(path, "r+") as file:
            change(file)
    return rewrite


def attribute(name, **values):
    """Attributes of a data set of an HDF5 file."""
    return hdf5(lambda file: file[name].attrs.update(values))


def replaced(name, change):
    """A data set of an HDF5 file, written anew."""
    def of_file(file):
        value = change(file[name][:])
        del file[name]
        file[name] = value
    return hdf5(of_file)


def matrix(change):
    """A stored CSR matrix; change alters its arrays in place."""
    def rewrite(path):
        value = sparse.csr_array(sparse.load_npz(path))
        change(value)
        sparse.save_npz(path, value)
    return rewrite


def swap(values, a=0, b=1):
    values[[a, b]] = values[[b, a]]


def first_columns(edge_index):
    edge_index[:, [0, 1]] = edge_index[:, [1, 0]]
