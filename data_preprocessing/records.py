"""One record for each spot of a layer: position, feature, label, patches. Arrays in, a structured array out."""
import numpy as np


def spot_records(location, feature: np.ndarray, label: np.ndarray, has_label: np.ndarray,
                 region_of_spot: np.ndarray, global_of_spot: np.ndarray) -> np.ndarray:
    """Structured array (n_spots,) of a layer.

    From the location table, feature (n_spots, D), label (n_spots, n_genes), has_label and patch indices (n_spots,).
    """
    barcode = location["barcode"].to_numpy(str)
    kind = np.dtype([("barcode", barcode.dtype), ("pixel", "f8", (2,)), ("array", "i4", (2,)),
                     ("label", "f4", (label.shape[1],)), ("feature", "f4", (feature.shape[1],)),
                     ("region_index", "i4"), ("global_index", "i4"), ("has_label", "?")])
    records = np.zeros(len(location), kind)
    records["barcode"] = barcode
    records["pixel"] = location[["pixel_x", "pixel_y"]].to_numpy()
    records["array"] = location[["i", "j"]].to_numpy()
    records["label"], records["has_label"] = label, has_label
    records["feature"] = feature
    records["region_index"], records["global_index"] = region_of_spot, global_of_spot
    return records
