"""Ways to break a file: its bytes, or the rows and values in it.

A way that does not apply to a file returns None; `mutate` then returns False.
"""
import io
import json
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

LARGE = 1e12
BYTES = ("truncated", "flipped", "emptied", "other section", "other kind")
ROWS = ("shuffled", "dropped", "nan", "dtype", "scaled")


# bytes -----------------------------------------------------------------------------------------------
def mutate(path: Path, how: str, rng: np.random.Generator, others: dict[str, Path | None]) -> bool:
    """Break a file in place, as a new file: the old one may be linked elsewhere. Returns False if nothing changed.

    others: the files whose content 'other section' and 'other kind' take.
    """
    content = path.read_bytes()
    if how in others:
        if others[how] is None or not others[how].is_file() or others[how].read_bytes() == content:
            return False
        changed = others[how].read_bytes()
    elif how == "truncated":
        changed = content[:rng.integers(1, len(content))] if len(content) > 1 else b""
    elif how == "flipped":
        array = np.frombuffer(content, np.uint8).copy()
        at = rng.integers(0, len(array), rng.integers(1, 9))
        array[at] ^= (1 << rng.integers(0, 8, len(at))).astype(np.uint8)
        changed = array.tobytes()
    elif how == "emptied":
        changed = b""
    else:
        changed = of_rows(path, how, rng)
    if changed is None or changed == content:
        return False
    path.unlink()
    path.write_bytes(changed)
    return True


def of_rows(path: Path, how: str, rng: np.random.Generator) -> bytes | None:
    """The file with other rows or values, or None."""
    kinds = {".csv": csv, ".tsv": csv, ".npy": npy, ".npz": npz, ".h5": hdf5, ".h5ad": hdf5, ".pt": torch_file,
             ".json": json_file}
    kind = kinds.get(path.suffix)
    return kind and kind(path, how, rng)


# values ----------------------------------------------------------------------------------------------
def array(values: np.ndarray, how: str, rng: np.random.Generator) -> np.ndarray | None:
    """Break one array; None if this way does not apply."""
    if values.ndim == 0 or not values.size:
        return None
    if how == "shuffled":
        return values[rng.permutation(len(values))]
    if values.dtype.names:
        return fields(values, how, rng)
    if how == "dropped":
        axis = int(rng.integers(0, values.ndim))
        return np.delete(values, rng.integers(0, values.shape[axis]), axis=axis)
    if values.dtype.kind not in "iufb":
        return None
    if how == "nan":
        broken = values.astype(np.result_type(values.dtype, np.float32))
        broken.ravel()[rng.integers(0, values.size)] = np.nan
        return broken
    if how == "dtype":
        return values.astype({"f": "i4", "b": "f4"}.get(values.dtype.kind, "f8"))
    if values.dtype.kind in "iu":
        return values * values.dtype.type(100)
    return values * np.asarray(LARGE, values.dtype) if values.dtype.kind == "f" else None


def fields(values: np.ndarray, how: str, rng: np.random.Generator) -> np.ndarray | None:
    """Break one field of a structured array."""
    names = list(values.dtype.names)
    name = names[rng.integers(0, len(names))]
    if how == "dropped":
        return values[[other for other in names if other != name]].copy()
    broken = array(np.ascontiguousarray(values[name]), how, rng)
    if broken is None:
        return None
    kinds = []
    for other in names:
        kind = values.dtype[other]
        kinds.append((other, broken.dtype if other == name else kind.base, kind.shape))
    out = np.zeros(len(values), kinds)
    for other in names:
        out[other] = broken if other == name else values[other]
    return out


def csv(path: Path, how: str, rng: np.random.Generator) -> bytes | None:
    separator = "\t" if path.suffix == ".tsv" else ","
    table = pd.read_csv(path, dtype=str, keep_default_na=False, sep=separator)
    if not len(table):
        return None
    name = table.columns[rng.integers(0, table.shape[1])]
    if how == "shuffled":
        table = table.iloc[rng.permutation(len(table))]
    elif how == "dropped":
        table = table.drop(columns=name)
    elif how in ("nan", "dtype"):
        table.loc[rng.integers(0, len(table)), name] = "" if how == "nan" else "up"
    else:
        numbers = pd.to_numeric(table[name], errors="coerce")
        if numbers.isna().any():
            return None
        table[name] = (numbers * LARGE).astype(str)
    return table.to_csv(index=False, sep=separator).encode()


def npy(path: Path, how: str, rng: np.random.Generator) -> bytes | None:
    broken = array(np.load(path), how, rng)
    if broken is None:
        return None
    stream = io.BytesIO()
    np.save(stream, broken)
    return stream.getvalue()


def npz(path: Path, how: str, rng: np.random.Generator) -> bytes | None:
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    named = [name for name in arrays if arrays[name].ndim]
    name = "data" if "data" in arrays and how in ("nan", "scaled") else named[rng.integers(0, len(named))]
    broken = array(arrays[name], how, rng)
    if broken is None:
        return None
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays | {name: broken})
    return stream.getvalue()


def hdf5(path: Path, how: str, rng: np.random.Generator) -> bytes | None:
    """Break an HDF5 file. Rows of patches and features are shuffled together; in an h5ad, those of one dataset."""
    import h5py
    stream = io.BytesIO(path.read_bytes())
    with h5py.File(stream, "r+") as file:
        found = []

        def collect(name: str, item) -> None:
            if isinstance(item, h5py.Dataset) and item.shape:
                found.append(name)

        file.visititems(collect)
        name = found[rng.integers(0, len(found))]
        if how == "shuffled" and path.suffix == ".h5":
            order = rng.permutation(len(file[name]))
            for one in found:
                file[one][...] = file[one][:][order]
        elif how == "dropped" and rng.integers(0, 2):
            del file[name]
        else:
            broken, attributes = array(file[name][:], how, rng), dict(file[name].attrs)
            if broken is None:
                return None
            kind = file[name].dtype if broken.dtype.kind == "O" else None
            del file[name]
            dataset = file.create_dataset(name, data=broken, dtype=kind)
            for key, value in attributes.items():
                dataset.attrs[key] = value
    return stream.getvalue()


def torch_file(path: Path, how: str, rng: np.random.Generator) -> bytes | None:
    import torch
    value = torch.load(path, weights_only=True)
    places = places_in(value)
    holder, key = places[rng.integers(0, len(places))]
    if how == "dropped" and (rng.integers(0, 2) or not isinstance(holder[key], torch.Tensor)):
        del holder[key]
    elif isinstance(holder[key], torch.Tensor):
        broken = array(holder[key].numpy(), how, rng)
        if broken is None:
            return None
        holder[key] = torch.from_numpy(np.ascontiguousarray(broken))
    elif how == "dtype":
        holder[key] = "up"
    else:
        return None
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def json_file(path: Path, how: str, rng: np.random.Generator) -> bytes | None:
    value = json.loads(path.read_text())
    places = places_in(value)
    if not places:
        return None
    holder, key = places[rng.integers(0, len(places))]
    number = isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool)
    if how == "dropped":
        del holder[key]
    elif how == "shuffled" and isinstance(holder[key], list) and len(holder[key]) > 1:
        holder[key] = [holder[key][k] for k in rng.permutation(len(holder[key]))]
    elif how == "nan":
        holder[key] = float("nan")
    elif how == "dtype":
        holder[key] = "up"
    elif how == "scaled" and number:
        holder[key] = holder[key] * LARGE
    else:
        return None
    return json.dumps(value).encode()


def nested(value) -> list[dict]:
    """Every dict in a value, the value itself included."""
    if isinstance(value, list):
        return list(chain.from_iterable(map(nested, value)))
    return [value, *chain.from_iterable(map(nested, value.values()))] if isinstance(value, dict) else []


def places_in(value) -> list[tuple[dict, object]]:
    """(dict, key) of every entry of every dict in a value."""
    places = []
    for holder in nested(value):
        places += [(holder, key) for key in holder]
    return places
