"""Checks that the sections and folds of a config, and the section files of a root, are unambiguous."""
from itertools import chain
from pathlib import Path

from common.errors import DataError
from common.image_names import image_suffix
from common.layout import Layout


def each_once(values: list) -> list:
    """The list itself. Raises ValueError for a value that occurs twice."""
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"every entry once; {', '.join(map(str, twice))} is there twice")
    return values


def named_or_default(layers: list[int]) -> list[int]:
    """The list itself. Raises ValueError for an empty one, which is not the default."""
    if not layers:
        raise ValueError("at least one section; leave the key out for the default")
    return layers


def disjoint_folds(folds):
    """The folds themselves: [[sample, ...], ...]; another value than a list is not checked.

    Raises ValueError for an empty fold and for a sample that is named twice.
    """
    if not isinstance(folds, list):
        return folds
    if not folds or not all(folds):
        raise ValueError("at least one sample in every fold; leave the key out for no folds")
    each_once(list(chain.from_iterable(folds)))
    return folds


def check_layers(sample: str, chosen, file: Path | str) -> None:
    """Raise DataError if known_layers, leave_out or z_um of a sample (SampleConfig, sections listed) contradict layers
    or skip.
    """
    layers, skipped, known = chosen.layers, sorted(chosen.skip), sorted(chosen.known_layers or [])
    where, both = f"samples.{sample}", sorted(set(known) & set(skipped))
    if not set(known) <= set(layers):
        raise DataError(file, f"{where}.known_layers {known}", f"sections among {layers}", "correct known_layers")
    if both:
        found = f"{where}: sections {both} in known_layers and in skip"
        raise DataError(file, found, "known sections that are not skipped", "correct one of the two")
    if set(layers) <= set(skipped):
        fix = "skip fewer, or remove the sample"
        raise DataError(file, f"{where}.skip {skipped}: every section", f"one of {layers} left", fix)
    absent = sorted(set(chosen.leave_out) - set(layers))
    if absent:
        found = f"{where}.leave_out of sections {absent}"
        raise DataError(file, found, f"sections among {layers}", "correct the number")
    check_z(where, chosen, file)


def check_z(where: str, chosen, file: Path | str) -> None:
    """Raise DataError unless z_um is empty, or names every section and ascends with its number."""
    z_um, missing = dict(sorted(chosen.z_um.items())), sorted(set(chosen.layers) - set(chosen.z_um))
    if z_um and missing:
        expected = f"the z of all sections, {chosen.layers}, or of none"
        raise DataError(file, f"{where}.z_um without sections {missing}", expected, "add them, or remove z_um")
    if list(z_um.values()) != sorted(set(z_um.values())):
        fix = "correct z_um, or number the sections in z order"
        raise DataError(file, f"{where}.z_um {z_um}", "z that ascends with the section's number", fix)


def check_layer_files(layout: Layout) -> None:
    """Raise DataError for two files of one section (1.jpg, 1.tif), or a name that later steps do not find (01.csv)."""
    first: dict[tuple, Path] = {}
    for folder, sample, layer, path in layout.layer_files():
        other = first.setdefault((folder, sample, layer), path)
        if other != path:
            fix = "remove the one that is not this section's, or give it another number"
            found = f"a second file of section {layer} beside {other.name}"
            raise DataError(path, found, f"one in {folder}/{sample}", fix)
    for (folder, _, layer), path in first.items():
        expected = f"{layer}{image_suffix(path) if folder == 'imgs' else path.suffix.lower()}"
        if path.name != expected:
            raise DataError(path, f"the name {path.name}", expected, f"rename it to {expected}")
