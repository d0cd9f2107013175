"""How features were made: per set the model, the hash of its weights, the preprocessing and the spot's window in µm.

The recipe travels with the features: extracted_feature/ (attributes) -> graph_data/ -> 3D_graph_data/ -> checkpoint.
Features that were made in another way are refused even where they have the same width.
"""

from pathlib import Path

from common.config import Config
from common.errors import DataError, LayerError
from common.patch_files import read_feature_attributes

KEYS = ("model", "weights_sha256", "preprocessing", "spot_window_um")
WINDOW_TOLERANCE = 0.01
PITCH_TOLERANCE = 0.05
FeatureRecipe = dict[str, dict]  # {feature set: {key of KEYS: value}}


def read_feature_recipe(path: Path) -> FeatureRecipe:
    """The recipe of the features in a file of step 4. Raises LayerError if it holds none."""
    found = read_feature_attributes(path)
    for name, attributes in found.items():
        missing = [key for key in KEYS if key not in attributes]
        if missing:
            raise LayerError(
                path,
                f"feature set {name} without {', '.join(missing)}",
                "features of this version",
                "run 4_feature_extraction.py on again",
            )
    return {
        name: {
            "model": str(one["model"]),
            "weights_sha256": str(one["weights_sha256"]),
            "preprocessing": str(one["preprocessing"]),
            "spot_window_um": float(one["spot_window_um"]),
        }
        for name, one in found.items()
    }


def difference(found: FeatureRecipe, expected: FeatureRecipe) -> tuple[str, str] | None:
    """(found, expected) of the first thing in which two recipes differ, in words; None if they are the same."""
    if set(found) != set(expected):
        return f"feature sets {', '.join(sorted(found)) or 'none'}", ", ".join(sorted(expected)) or "none"
    for name in sorted(expected):
        for key in KEYS:
            one, other = found[name][key], expected[name][key]
            if key == "spot_window_um":
                if abs(one - other) > WINDOW_TOLERANCE * max(one, other):
                    return f"{name} features of windows of {one:.4g} um a spot", f"windows of {other:.4g} um"
            elif one != other:
                short = 12 if key == "weights_sha256" else None
                return f"{name} features by {key} {one[:short] or 'none'}", f"{other[:short] or 'none'}"
    return None


# what a network was trained with -----------------------------------------------------------------------
def trained_with(config: Config, feature_recipe: FeatureRecipe, feature_sets: dict[str, int]) -> dict:
    """What a checkpoint keeps of the data: the recipe and widths of the features, the array, and their config keys."""
    windows = [one["spot_window_um"] for one in feature_recipe.values()]
    return {
        "feature_recipe": feature_recipe,
        "feature_sets": feature_sets,
        "array": config.array,
        "pitch_um": config.pitch_um,
        "window_um": windows[0] if windows else None,
        "config": config.model_dump(include={"features", "backbone", "backbone_weights"}),
    }


def check_trained_with(
    saved: dict, path: Path, feature_recipe: FeatureRecipe, feature_sets: dict[str, int], config: Config, sample: str
) -> None:
    """Raises DataError unless a checkpoint was trained on features and an array like those of a sample."""
    fix = (
        "make the root as the training set was: python -m common.cli adopt --checkpoint FILE --root_path ROOT, "
        "then the numbered steps"
    )
    if "trained_with" not in saved:
        raise DataError(path, "a checkpoint without trained_with", "one of this version", "train again")
    was = saved["trained_with"]
    differs = difference(feature_recipe, was["feature_recipe"])
    if differs is None and feature_sets != was["feature_sets"]:
        differs = f"features {feature_sets}", str(was["feature_sets"])
    if differs is None and config.array != was["array"]:
        differs = f"array {config.array}", was["array"]
    if differs is None and abs(config.pitch_um - was["pitch_um"]) > PITCH_TOLERANCE * was["pitch_um"]:
        differs = f"pitch_um {config.pitch_um:g}", f"{was['pitch_um']:g}"
    if differs is not None:
        raise DataError(f"sample {sample}", differs[0], f"{differs[1]}, as in the training of {path}", fix)


def adopted(config: Config, saved: dict, genes: Path) -> Config:
    """The config of a root that a network is to predict: array, pitch, windows, features and genes of its training.

    The um per px stay: where pitch_um / pitch_px state them, pitch_px follows pitch_um.
    """
    was = saved["trained_with"]
    return config.model_copy(
        update={
            "array": was["array"],
            "pitch_um": was["pitch_um"],
            "pitch_px": config.pitch_px and config.pitch_px * (was["pitch_um"] / config.pitch_um),
            "window_um": was["window_um"],
            "patch_scale": None,
            "genes": str(genes),
            **was["config"],
        }
    )
