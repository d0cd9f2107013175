"""The contract of image features and their recipe (step 4)."""
from pathlib import Path

from common import io
from common.contract.fault import Fault, demand_array, demand_keys, demand_names
from common.contract.root import Root, feature_widths
from common.feature_recipe import FeatureRecipe, difference, read_feature_recipe
from common.geometry import SPOT_WINDOW_PX, section_geometry
from common.layout import SIZES


def demand_recipe(found: FeatureRecipe, expected: FeatureRecipe | None, source: str) -> None:
    """Features of the same recipe."""
    differs = None if expected is None else difference(found, expected)
    if differs:
        raise Fault(differs[0], f"{differs[1]}, as in {source}")


def demand_recipe_of_config(recipe: FeatureRecipe, root: Root, sample: str, layer: int) -> None:
    """The encoder and the windows of dataset.yaml."""
    window_um = section_geometry(root.config, root.layout, sample, layer).window_um(SPOT_WINDOW_PX)
    stated = {name: {**one, "spot_window_um": window_um} for name, one in recipe.items()}
    for name in set(stated) - {"stain"}:  # stain statistics have no encoder
        stated[name]["model"] = root.config.backbone
    demand_recipe(recipe, stated, "dataset.yaml")


def features(size: int):
    def check(root: Root, path: Path, sample: str, layer: int) -> None:
        import h5py
        table = root.patches(size, sample, layer)
        others = [root.read(root.layout.features(one, sample, layer), feature_widths) for one in SIZES if one != size]
        # expected: the widths of the spots; for the spots those of the two others, where these agree
        widths = others[0] if size != 224 or others[0] == others[1] else None
        with h5py.File(path, "r") as file:
            io.require_section(file, path)
            demand_keys(file, ("barcode", *sorted(root.config.features)))
            names = [name.decode() for name in file["barcode"][:]]
            for name in sorted(set(file) - {"barcode"}):
                demand_array(file[name], name, "f4", len(names), widths.get(name) if widths else None)
        if table is not None:
            demand_names(names, table["patch_name"].tolist(), "patches",
                         f"patches_csv/patches_{size}/{sample}/{layer}.csv")
        recipe = read_feature_recipe(path)
        demand_recipe_of_config(recipe, root, sample, layer)
        if size != 224:
            demand_recipe(recipe, root.feature_recipe(sample, layer), f"extracted_feature/224/{sample}/{layer}.h5")
    return check
