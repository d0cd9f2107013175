"""All that is known of each spot in one record: of a layer, and of the layers of a sample. Arrays in, a structured array out."""
import numpy as np

from common.errors import LayerError


def spot_records(location, feature: np.ndarray, label: np.ndarray, has_label: np.ndarray, region_of_spot: np.ndarray,
                 global_of_spot: np.ndarray) -> np.ndarray:
    """Structured array (n_spots,) of a layer: location table, feature (n_spots, D), label (n_spots, n_genes) and indices (n_spots,)."""
    barcode = location["barcode"].to_numpy(str)
    kind = np.dtype([("barcode", barcode.dtype), ("pixel", "f8", (2,)), ("array", "i4", (2,)), ("label", "f4", (label.shape[1],)),
                     ("feature", "f4", (feature.shape[1],)), ("region_index", "i4"), ("global_index", "i4"), ("has_label", "?")])
    records = np.zeros(len(location), kind)
    records["barcode"] = barcode
    records["pixel"] = location[["pixel_x", "pixel_y"]].to_numpy()
    records["array"] = location[["i", "j"]].to_numpy()
    records["label"], records["has_label"] = label, has_label
    records["feature"] = feature
    records["region_index"], records["global_index"] = region_of_spot, global_of_spot
    return records


def stack_records(layers: dict[int, np.ndarray], registered: np.ndarray) -> np.ndarray:
    """Records of the layers in turn, with layer and registered (n, 2). Raises LayerError if label or feature widths differ."""
    widths = {(one["label"].shape[1], one["feature"].shape[1]) for one in layers.values()}
    if len(widths) > 1:
        raise LayerError("npy_information", f"layers of (genes, features) {sorted(widths)}", "the same in all layers",
                         "run steps 4 to 7 again")
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
