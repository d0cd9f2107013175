"""The records of all layers of a sample in one array. Arrays in, a structured array out."""
import numpy as np

from common.errors import LayerError


def stack_records(layers: dict[int, np.ndarray], registered: np.ndarray) -> np.ndarray:
    """Records of the layers in turn, with layer and registered (n, 2).

    Raises LayerError if label or feature widths differ.
    """
    widths = {(one["label"].shape[1], one["feature"].shape[1]) for one in layers.values()}
    if len(widths) > 1:
        raise LayerError("npy_information", f"sections of (genes, features) {sorted(widths)}",
                         "the same in all sections", "run steps 4 to 7 again")
    first = next(iter(layers.values())).dtype
    barcode = max((one.dtype["barcode"] for one in layers.values()), key=lambda kind: kind.itemsize)
    fields = [(name, barcode if name == "barcode" else first[name]) for name in first.names]
    records = np.zeros(len(registered), fields + [("layer", "i4"), ("registered", "f8", (2,))])
    start = 0
    for layer, one in layers.items():
        part = records[start:start + len(one)]
        for name in first.names:
            part[name] = one[name]
        part["layer"] = layer
        start += len(one)
    records["registered"] = registered
    return records
