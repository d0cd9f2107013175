"""Which samples, layers and folds step 0_1 lists: those of the raw data, of earlier calls, of a person's edits."""
import sys
from collections.abc import Container
from pathlib import Path

from common.config import Config, Folds, SampleConfig
from common.errors import DataError
from common.names import NAME_FORM, is_name
from data_preprocessing.readers import path_and_part


def units_of(config: Config) -> list[tuple[str, int]]:
    """(sample, layer) of every layer that is not skipped, sorted by sample."""
    units = []
    for sample in sorted(config.samples):
        units += [(sample, layer) for layer in config.layers_of(sample)]
    return units


def listed_units(config: Config) -> list[tuple[str, int]]:
    """(sample, layer) of every listed layer, skipped ones too."""
    units = []
    for sample, one in config.samples.items():
        units += [(sample, layer) for layer in one.layers]
    return units


def well_named(found: dict[str, SampleConfig], raw: Path, step: str) -> dict[str, SampleConfig]:
    """The samples whose names can name folders; the others are reported. Raises DataError if none is left."""
    fix = "rename its files, or name it in the config: samples: {<name>: {…}}"
    wrong = [name for name in found if not is_name(name)]
    if len(wrong) == len(found):
        raise DataError(raw, f"sample {wrong[0]!r}", NAME_FORM, fix)
    for name in wrong:
        print(f"{step}  {raw}: sample {name!r} is left out; expected {NAME_FORM}; fix: {fix}", file=sys.stderr)
    return {name: one for name, one in found.items() if name not in wrong}


def with_sources_of_a_person(listed: Config, base: Config | None, there: Config | None, raw: Path,
                             file: Path) -> Config:
    """The listed config with a person's edits of dataset.yaml (`file`).

    The edits are `raw` and `images` of its samples, the pixel sizes of these layers and of those without one after the
    last conversion, and pitch_um. Raises DataError for a name that is not there.
    """
    samples = dict(listed.samples)
    for name in set(samples) & set(there.samples if there else ()):
        one, theirs = samples[name], there.samples[name]
        last = (base.samples.get(name) if base else None) or SampleConfig(layers=[])
        for key in ("raw", "images"):
            own = {layer: entry for layer, entry in getattr(theirs, key).items()
                   if layer in theirs.layers and base is not None and entry != getattr(last, key).get(layer)}
            for layer, entry in own.items():
                if not path_and_part(raw, entry)[0].exists():
                    raise DataError(file, f"samples.{name}.{key}.{layer}: {entry}, which is not there",
                                    f"a file or folder under {raw}", "correct the name, or --raw_path")
            sizes = {layer: theirs.pixel_size_um[layer] for layer in own if layer in theirs.pixel_size_um
                     and (layer not in last.layers or theirs.pixel_size_um[layer] != last.pixel_size_um.get(layer))}
            one = one.model_copy(update={key: getattr(one, key) | own, "layers": sorted({*one.layers, *own}),
                                         "pixel_size_um": one.pixel_size_um | sizes})
        sizes = one.pixel_size_um | sizes_of_a_person(base, there, name, one.layers)
        samples[name] = one.model_copy(update={"pixel_size_um": sizes})
    return listed.model_copy(update={"samples": samples} | pitch_of_a_person(base, there))


def sizes_of_a_person(base: Config | None, there: Config | None, name: str, layers: list[int]) -> dict[int, float]:
    """{layer: um per px} that a person added in dataset.yaml: the last conversion listed the layer without one."""
    last = base.samples.get(name) if base else None
    theirs = there.samples[name].pixel_size_um if there and name in there.samples else {}
    return {layer: size for layer, size in theirs.items()
            if last and layer in layers and layer in last.layers and layer not in last.pixel_size_um}


def pitch_of_a_person(base: Config | None, there: Config | None) -> dict[str, float]:
    """pitch_um, if a person changed it in dataset.yaml."""
    changed = base is not None and there is not None and there.pitch_um != base.pitch_um
    return {"pitch_um": there.pitch_um} if changed else {}


def with_sources_of(config: Config, of_raw: Config, base: Config | None, there: Config | None) -> Config:
    """The config with layers, `raw`, `images` and pitch_um of the raw data and the config file, without a person's."""
    samples = dict(config.samples)
    for name in set(samples) & set(of_raw.samples):
        given = of_raw.samples[name]
        layers = [layer for layer in samples[name].layers if layer in given.layers]
        theirs = sizes_of_a_person(base, there, name, layers)
        sizes = {layer: size for layer, size in samples[name].pixel_size_um.items()
                 if layer not in theirs or layer in given.pixel_size_um}
        samples[name] = samples[name].model_copy(update={"layers": layers, "raw": given.raw, "images": given.images,
                                                         "pixel_size_um": sizes})
    return config.model_copy(update={"samples": samples, "pitch_um": of_raw.pitch_um})


def with_earlier(restricted: Config, listed: Config, earlier: Config | None) -> Config:
    """The chosen samples and layers, the earlier ones that the raw data still have, and samples of other raw data."""
    samples = dict(restricted.samples)
    for name, before in (earlier.samples if earlier else {}).items():
        if name not in listed.samples:
            samples[name] = before
            continue
        chosen = samples[name].layers if name in samples else []
        layers = sorted({*chosen, *(set(before.layers) & set(listed.samples[name].layers))})
        if layers:
            samples[name] = listed.samples[name].model_copy(update={"layers": layers})
    return restricted.model_copy(update={"samples": samples})


def with_layers_of_both(config: Config, one: Config, other: Config) -> Config:
    """The config with the samples that it shares with `other`, and of these the layers that it shares with `one`."""
    samples = {}
    for name in other.samples:
        if name in config.samples:
            layers = [layer for layer in config.samples[name].layers if layer in one.samples[name].layers]
            if layers:
                samples[name] = config.samples[name].model_copy(update={"layers": layers})
    return config.model_copy(update={"samples": samples})


def folds_among(folds: Folds, samples: Container[str]) -> Folds:
    """The folds without samples that are not among these and without empty folds; None if fewer than two are left.

    A number of folds, or a rule, names no sample and stays.
    """
    if not isinstance(folds, list):
        return folds
    left = []
    for fold in folds:
        present = [name for name in fold if name in samples]
        if present:
            left.append(present)
    return left if len(left) > 1 else None
