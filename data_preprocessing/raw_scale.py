"""The um per px of every section of the raw data, and the sections whose scale is unknown or contradictory."""
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from common.config import Config
from common.errors import LayerError
from common.geometry import agreed, config_sources, image_sources, pitches_of, spot_sources
from data_preprocessing.packed import no_source, stated_pixel_size_um
from data_preprocessing.readers import asign, spot_pitch_px

if TYPE_CHECKING:
    import pandas as pd

Scales = tuple[Config, dict[tuple[str, int], LayerError], dict[tuple[str, int], int]]


def with_pixel_sizes(config: Config, reader: ModuleType, raw: Path,
                     shipped: bool, step: str) -> Scales:
    """(config, bad sections, number of spots of the others).

    The config has pixel_size_um of every section whose um per px the dataset's own keys do not state. Bad are the
    sections whose scale is unknown or contradictory: they are left out. shipped: the config is one of this repository;
    where a section's spots contradict its pitch_px for all, the spots are right; a line reports it.
    """
    if reader is asign:
        return config, {}, {}
    samples, bad, n_spots = {}, {}, {}
    for name, one in config.samples.items():
        sizes = dict(one.pixel_size_um)
        for layer in sorted(set(one.layers) - set(one.skip)):
            try:
                location = reader.read_positions(raw, config, name, layer)
                size = um_per_px_of_raw(config, reader, raw, name, layer, location, shipped, step)
            except LayerError as error:
                bad[name, layer] = error
                continue
            except OSError as error:
                bad[name, layer] = LayerError(error.filename or raw, f"a file that cannot be read ({error.strerror})",
                                              "a readable file", "change its permission, or check the disk")
                continue
            if location is not None:
                n_spots[name, layer] = len(location)
            if size is not None:
                sizes[layer] = size
        samples[name] = one.model_copy(update={"pixel_size_um": dict(sorted(sizes.items()))})
    return config.model_copy(update={"samples": samples}), bad, n_spots


def um_per_px_of_raw(config: Config, reader: ModuleType, raw: Path, sample: str, layer: int,
                     location: "pd.DataFrame | None", shipped: bool, step: str) -> float | None:
    """Scale of a section in um per level-0 px, six digits; None if dataset.yaml states it for all.

    Raises LayerError if no source states it, or two sources differ.
    """
    stated = config_sources(config, sample, layer)
    files = reader.raw_files(raw, config, sample, layer)
    measured, image = [], files.get("image")
    if location is not None:
        xy, ij = location[["pixel_x", "pixel_y"]].to_numpy(), location[["i", "j"]].to_numpy()
        pitches = pitches_of(xy, ij, config.array) or (() if stated else (spot_pitch_px(location, files["location"]),))
        measured = spot_sources(pitches, config.pitch_um, files["location"])
    platform = reader.platform_sources(files) if hasattr(reader, "platform_sources") else []
    said = stated_pixel_size_um(image) if image else None
    images = image_sources(said, image) if image else []
    exact = [source for source in platform if source.low == source.high]  # a range only excludes wrong scales
    sources = [*stated, *exact, *measured, *platform, *images]
    if not sources:
        if image is None:
            raise LayerError(raw, f"neither spots nor an image of section {sample}/{layer}", "one of them",
                             "add it, or leave the section out")
        raise no_source(image, sample, layer)
    if said is not None and not images:
        print(f"{step}  {sample}/{layer}: {image.name} states {said:.4g} um/px, which is not believed")
    only_for_all = shipped and layer not in config.samples[sample].pixel_size_um
    if only_for_all and measured and stated and stated[0].contradicts(measured[0]):
        agreed([*measured, *platform, *images], f"{sample}/{layer}")
        print(f"{step}  {sample}/{layer}: not {stated[0]}, but {measured[0]}")
        return measured[0].um_per_px
    chosen = agreed(sources, f"{sample}/{layer}")
    return None if stated else float(f"{chosen.um_per_px:.6g}")
