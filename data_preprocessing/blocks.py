"""Which sections of the raw data are one block, where the config does not state it; a line states what was assumed.

The names of the sections group them (families.py). Sections of one group whose genes are those of two species, or share
less than half, are refused: no name resolves that.
"""
import math
import sys
from filecmp import cmp
from pathlib import Path
from types import ModuleType

import yaml

from common.config import Config, SampleConfig
from common.errors import DataError, LayerError
from common.names import is_name
from data_preprocessing.families import bare_name, doubt_of_order, families, family_name, numbers_of
from data_preprocessing.gene_panels import Genes, read_genes
from data_preprocessing.readers import asign, folder_name, shown

LEAST_OVERLAP = 0.5      # of the genes of two sections of one block
UNLIKE_AREA = 3.0        # times the area of another section of the block
MOST_STACKS = 3          # with a line each

Groups = dict[str, dict[int, str]]  # {sample: {layer: entry of raw}}


def grouped(found: dict[str, SampleConfig], reader: ModuleType, raw: Path, config: Config, step: str,
            file: Path) -> dict[str, SampleConfig]:
    """The samples with their sections: as the config states them, else as the names and genes of the sections do.

    file: the config. Prints how they were grouped. Raises DataError for sections of one sample whose genes exclude
    that they are of one block.
    """
    if reader is asign:  # an archive states its samples and their sections
        return found
    given = config.samples or {}
    if given:
        found = {name: one for name, one in found.items() if name in given}
    assumed = [name for name, one in found.items() if one.raw and not (name in given and given[name].raw)]
    split = False
    if config.samples is None and assumed == [folder_name(raw)]:
        found = divided(found)
        split, assumed = len(found) > 1, list(found)
    groups = {name: found[name].raw for name in assumed if len(found[name].raw) > 1}
    twins: list[tuple[str, str]] = []
    for name, entries in groups.items():
        require_one_block(name, entries, reader, raw, config.model_copy(update={"samples": found}), file)
        twins += same_counts(name, entries, reader, raw, config.model_copy(update={"samples": found}))
    doubts = reader.doubts(raw, found) if config.samples is None and hasattr(reader, "doubts") else []
    copies = [f"{one} and {other} have the same counts, byte for byte: is one a copy?" for one, other in twins
              if not any(one in line and other in line for line in doubts)]
    for line in [*statement(found, assumed, raw, file, split), *copies, *doubts]:
        print(f"{step}  {line}")
    return found


def divided(found: dict[str, SampleConfig]) -> dict[str, SampleConfig]:
    """One sample for each family of names."""
    (whole, one), = found.items()
    entry_of: dict[str, list[str]] = {}
    for entry in one.raw.values():
        entry_of.setdefault(bare_name(entry), []).append(entry)
    if len(entry_of) < len(one.raw):  # names that differ in the folder alone
        entry_of = {entry: [entry] for entry in one.raw.values()}
    kin = families(list(entry_of))
    if len(kin) == 1:
        return found
    samples: dict[str, SampleConfig] = {}
    for number, names in enumerate(kin, 1):
        name = family_name(names)
        if not is_name(name) or name in samples:
            name = f"{name}_{number}" if is_name(f"{name}_{number}") else f"{whole}_{number}"
        raws = dict(enumerate((entry_of[key][0] for key in names), 1))
        samples[name] = SampleConfig(layers=list(raws), raw=raws)
    return samples


def require_one_block(sample: str, entries: dict[int, str], reader: ModuleType, raw: Path, config: Config,
                      file: Path) -> None:
    """Raise DataError if the genes of these sections exclude that they are of one block."""
    kinds: list[tuple[Genes, list[str]]] = []
    unknown: list[str] = []
    for layer, entry in entries.items():
        try:
            genes = read_genes(reader.raw_files(raw, config, sample, layer))
        except (LayerError, OSError):  # its conversion reports it
            genes = None
        alike = [names for other, names in kinds if genes and not difference(genes, other)]
        if genes is None:
            unknown.append(entry)
        elif alike:
            alike[0].append(entry)
        else:
            kinds.append((genes, [entry]))
    if len(kinds) < 2:
        return
    kinds[0][1].extend(unknown)
    proposed = {f"{sample}_{k}": dict(enumerate(names, 1)) for k, (_, names) in enumerate(kinds, 1)}
    told = "; ".join(f"{shown(names)}: {_said(genes)}" for genes, names in kinds)
    why, fix = difference(kinds[0][0], kinds[1][0]), _how(file, proposed)
    if "in common" in why:
        fix += "; or, where genes were selected section by section, give the tables of all genes"
    raise DataError(raw, f"sections that cannot be of one block: {told} ({why})", "sections of one block in a sample",
                    fix)


def same_counts(sample: str, entries: dict[int, str], reader: ModuleType, raw: Path,
                config: Config) -> list[tuple[str, str]]:
    """Pairs of sections whose files of counts have the same content."""
    of_size: dict[int, list[tuple[str, Path]]] = {}
    pairs = []
    for layer, entry in entries.items():
        try:
            counts = reader.raw_files(raw, config, sample, layer).get("counts")
            alike = of_size.setdefault(counts.stat().st_size, []) if counts and counts.is_file() else []
            same = [name for name, path in alike if path != counts and cmp(path, counts, shallow=False)]
        except (LayerError, DataError, OSError):  # its conversion reports it
            continue
        pairs += [(name, entry) for name in same[:1]]
        alike.append((entry, counts))
    return pairs


def difference(one: Genes, other: Genes) -> str:
    """Why two sections are not of one block, by their genes; empty if nothing excludes it."""
    if one.species and other.species and not one.species & other.species:
        return "genes of two species"
    overlap = one.overlap(other)
    if overlap is not None and overlap < LEAST_OVERLAP:
        return f"{overlap:.0%} of the genes in common"
    return ""


def _said(genes: Genes) -> str:
    species = "/".join(sorted(genes.species)[:2]) if len(genes.species) < 3 else "human"
    names = sorted(genes.symbols or genes.ids)
    return f"{max(len(genes.symbols), len(genes.ids))} {species} genes".replace("  ", " ") + f" ({shown(names, 2)})"


# what is said ----------------------------------------------------------------------------------------
def statement(found: dict[str, SampleConfig], assumed: list[str], raw: Path, file: Path, split: bool) -> list[str]:
    """Lines on how the sections were grouped and ordered, and the config that states it otherwise.

    split: the names divided the sections of one folder into these samples.
    """
    groups = {name: found[name].raw for name in assumed}
    if [list(one.values()) for one in groups.values()] == [["."]]:
        name, layer = assumed[0], next(iter(groups[assumed[0]]))
        return [f"--raw_path is one section: it is section {layer} of sample '{name}'; for several sections give the "
                "folder that holds a folder for each"]
    lines = []
    if split:
        entries = [entry for one in groups.values() for entry in one.values()]
        lines.append(f"{len(groups)} blocks by the names of the sections: {shown(groups)}; if they are one: "
                     + _how(file, {raw.name: dict(enumerate(entries, 1))}))
    stacks = {name: entries for name, entries in groups.items() if len(entries) > 1}
    if len(stacks) > MOST_STACKS:
        name, entries = next(iter(stacks.items()))
        return [*lines, f"{len(stacks)} blocks, the sections of each in the order of their names; another order: "
                + _how(file, {name: entries, "…": {1: "…"}})]
    return lines + [_order_of(name, entries, file) for name, entries in stacks.items()]


def _order_of(name: str, entries: dict[int, str], file: Path) -> str:
    """The line on the sections of one block and their order."""
    names = list(map(bare_name, entries.values()))
    doubt, numbers = doubt_of_order(names), numbers_of(names)
    order, proposed = "in the order of the numbers in their names", entries
    if doubt:
        order = f"ordered by name, which is assumed to be the order in z ({doubt}: state samples.{name}.raw)"
    elif numbers and list(entries) != numbers and numbers[-1] - numbers[0] >= len(numbers):
        order += (f"; {shown(map(str, numbers))} have gaps, the sections are 1 to {len(numbers)} without a gap in z")
        proposed = dict(zip(numbers, entries.values(), strict=True))
    return f"one block '{name}': {', '.join(entries.values())}, {order}; otherwise: " + _how(file, {name: proposed})


def _how(file: Path, groups: Groups) -> str:
    """The lines of a config that state these groups."""
    values = {"samples": {name: {"raw": entries} for name, entries in groups.items()}}
    text = yaml.safe_dump(values, default_flow_style=True, allow_unicode=True, width=10**6, sort_keys=False)
    return f"--config with a copy of {file.name} and the line  {text.strip()[1:-1]}"


def unlike_areas(n_spots: dict[tuple[str, int], int], config: Config, step: str) -> None:
    """Print a line for each sample of which one section has many times the area of another under its spots."""
    cell_mm2 = config.pitch_um ** 2 / 1e6 * (math.sqrt(0.75) if config.array == "hex" else 1.0)
    for name in config.samples or {}:
        areas = {layer: number * cell_mm2 for (sample, layer), number in n_spots.items() if sample == name}
        small, large = min(areas, key=areas.get, default=None), max(areas, key=areas.get, default=None)
        if small is not None and areas[large] > UNLIKE_AREA * areas[small]:
            print(f"{step}  {name}: spots on {areas[small]:.1f} mm2 of section {small} and on {areas[large]:.1f} mm2 "
                  f"of section {large}: are they of one block?", file=sys.stderr)
