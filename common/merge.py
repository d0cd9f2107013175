"""dataset.yaml when step 0 runs again: what a person wrote there stays, what the conversion says is updated.

A three-way merge, key by key (per sample; `raw`, `images`, `pixel_size_um` and `pairs` by entry, `layers` by layer):
    base    what the last conversion said, kept in <root>/.recipes/<step>/dataset.yaml
    new     what this conversion says: the config file and the raw data
    there   dataset.yaml as it is now
Where `there` equals `base`, nobody touched the key, and it follows `new`. Where it differs, a person did, and that value stays; if `new` differs
from `base` too, both are named. Without a base (a root of an earlier version) every value of `there` that `new` does not say is a person's.
"""
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import yaml

from common.config import Config, SampleConfig, load_config, resolve, save_config
from common.layout import Layout
from common.written import set_aside

BY_ENTRY = ("raw", "images", "pixel_size_um", "pairs")  # keys of a sample that are mappings
OF_THE_CALL = ("raw_format", "raw_path")                # what was converted last is a fact, whoever wrote it
PIXEL_SIZE_TOLERANCE = 0.05
ABSENT = object()


@dataclass
class Changes:
    """What a merge did, a list of short texts a kind."""
    kept: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """One line a kind, one a conflict."""
        kinds = [(name, getattr(self, name)) for name in ("kept", "added", "updated", "removed")]
        return [f"{name} {', '.join(texts)}" for name, texts in kinds if texts] + [f"conflict: {text}" for text in self.conflicts]


# the merge -------------------------------------------------------------------------------------------
def leaves(values: dict) -> dict[tuple, object]:
    """{path: value} of a config as a dict. A layer of a sample is a path of its own, with the value True."""
    out = {(name,): value for name, value in values.items() if name != "samples"}
    for sample, one in (values["samples"] or {}).items():
        for name, value in one.items():
            path = ("samples", sample, name)
            if name == "layers":
                out |= {(*path, layer): True for layer in value or []}
            elif name in BY_ENTRY:
                out |= {(*path, entry): inner for entry, inner in value.items()}
            else:
                out[path] = value
    return out


def of_leaves(flat: dict[tuple, object]) -> dict:
    """The dict behind leaves(); a sample without layers is none."""
    values, samples = {}, {}
    for path, value in flat.items():
        if path[0] != "samples":
            values[path[0]] = value
            continue
        _, sample, name, *entry = path
        one = samples.setdefault(sample, {"layers": [], **{key: {} for key in BY_ENTRY}})
        if name == "layers":
            one["layers"] = sorted([*one["layers"], entry[0]])
        elif entry:
            one[name][entry[0]] = value
        else:
            one[name] = value
    return values | {"samples": {sample: one for sample, one in sorted(samples.items()) if one["layers"]}}


def merged(base: dict | None, new: dict, there: dict, asked: Iterable[tuple[str, int]] = ()) -> tuple[dict, Changes]:
    """The merged config and what was done. asked: (sample, layer) that this call names by option; they are listed whatever a person removed.

    All are configs as dicts (Config.model_dump), with samples and layers listed.
    """
    old, fresh, own = None if base is None else leaves(base), leaves(new), leaves(there)
    changes, asked = Changes(), set(asked)
    gone = _removed_samples(own, old or {}) - {sample for sample, _ in asked}  # a person removed these
    out, touched = {}, {}
    for path in {**own, **fresh}:
        before, now, theirs = (ABSENT if one is None else one.get(path, ABSENT) for one in (old, fresh, own))
        is_theirs = theirs != before if old is not None else theirs is not ABSENT and theirs != now
        if path[0] == "samples" and path[1] in gone:
            is_theirs, theirs = True, ABSENT
        elif path[0] in OF_THE_CALL or _layer_of(path) in asked:
            is_theirs = False
        if is_theirs and theirs != now:
            touched[path] = theirs
        out[path] = theirs if is_theirs else now
        _note(changes, path, before, now, theirs, is_theirs and theirs != now, own)
    changes.removed += [f"samples.{sample}, as you did" for sample in sorted(gone & {path[1] for path in fresh if path[0] == "samples"})]
    for path, value in out.items():
        if value is ABSENT and path[0] == "samples" and own.get(path) is not None and path[1] not in gone:
            _keep_what_a_person_names(path, out, fresh, own, touched, changes)
    return of_leaves({path: value for path, value in out.items() if value is not ABSENT}), changes


def _removed_samples(own: dict, old: dict) -> set[str]:
    listed = [{path[1] for path in one if path[0] == "samples"} for one in (old, own)]
    return listed[0] - listed[1]


def _layer_of(path: tuple) -> tuple[str, int] | None:
    return (path[1], path[3]) if path[0] == "samples" and path[2] == "layers" else None


def _note(changes: Changes, path: tuple, before: object, now: object, theirs: object, is_theirs: bool, own: dict) -> None:
    """Say what was done with one key."""
    name, layer = ".".join(map(str, path)), _layer_of(path)
    short = name if layer is None else f"{layer[0]}/{layer[1]}"
    if is_theirs:
        if theirs is ABSENT:
            if ("samples", path[1]) in {one[:2] for one in own}:
                changes.kept.append(f"{short}: removed")
        else:
            changes.kept.append(short if layer else f"{name}: {_text(theirs)}")
        facts_differ = path[2:3] == ("pixel_size_um",) and ABSENT not in (now, theirs) and abs(theirs / now - 1) > PIXEL_SIZE_TOLERANCE
        if before is not ABSENT and now not in (ABSENT, before) and theirs is not ABSENT or facts_differ:
            changes.conflicts.append(f"{name}: dataset.yaml says {_text(theirs)}, which stays; config and raw data say {_text(now)}")
    elif theirs is ABSENT and now is not ABSENT:
        if layer:
            changes.added.append(short)
        elif path[0] != "samples" or ("samples", path[1], "layers", path[-1]) in own:
            changes.added.append(f"{name}: {_text(now)}")
    elif now is ABSENT:
        if layer:
            changes.removed.append(short)
    elif theirs != now:
        changes.updated.append(f"{name} {_text(theirs)} -> {_text(now)}")


def _keep_what_a_person_names(path: tuple, out: dict, fresh: dict, own: dict, touched: dict, changes: Changes) -> None:
    """A layer that the conversion no longer has, but that a person's entry names, stays with all its entries: they are named."""
    sample, layer = path[1], _layer_of(path)
    if layer is None or path in touched:
        return
    whole = not any(one[:2] == path[:2] and value is not ABSENT and one[2] == "layers" for one, value in fresh.items())
    named = [".".join(map(str, one[2:])) for one, value in touched.items()
             if one[:2] == path[:2] and value is not ABSENT and (whole or _names(one, value, layer[1]))]
    if named:
        changes.removed.remove(f"{sample}/{layer[1]}")
        changes.conflicts.append(f"{sample}/{layer[1]} is not in the raw data; dataset.yaml names it ({', '.join(named)}): it stays listed; "
                                 "remove these entries, or the layer from `layers`, if it should go")
        for other, value in own.items():
            if other[:2] == path[:2] and (other == path or len(other) == 3 or other[3] == layer[1]) and out.get(other, ABSENT) is ABSENT:
                out[other] = value


def _names(path: tuple, value: object, layer: int) -> bool:
    """A person's entry that names this layer: in a list, as a key, or as a layer of a pair."""
    if path[2] in ("known_layers", "skip"):
        return layer in (value or [])
    if path[2] == "pairs":
        return str(layer) in re.findall(r"\d+", path[3])
    return len(path) == 4 and path[2] != "layers" and path[3] == layer


def _text(value: object) -> str:
    return "nothing" if value is ABSENT else yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6).removesuffix("\n...\n").strip()


# the file --------------------------------------------------------------------------------------------
def earlier_config(layout: Layout, step: str) -> tuple[Config | None, Config | None]:
    """(what the last conversion said, dataset.yaml as it is now, with samples and layers listed); None where there is none. Raises DataError."""
    if not layout.config.is_file():
        return None, None
    there, on_disk = load_config(layout.config), layout.layers_on_disk()
    listed = {name: SampleConfig() for name in on_disk} if there.samples is None else there.samples
    samples = {name: one if one.layers is not None else one.model_copy(update={"layers": on_disk.get(name, [])}) for name, one in listed.items()}
    base = load_config(layout.converted_config(step)) if layout.converted_config(step).is_file() else None
    return base, there.model_copy(update={"samples": samples})


def write_merged(layout: Layout, step: str, new: Config, asked: Iterable[tuple[str, int]] = ()) -> Config:
    """Merge `new` into dataset.yaml, print a line for each kind of change, return what the file holds now. Raises DataError before anything is written.

    The file is written only if its content changes; a file with comments is kept beside it, as YAML is written without them.
    """
    base, there = earlier_config(layout, step)
    result = new
    if there is not None:
        values, changes = merged(base and base.model_dump(), new.model_dump(), there.model_dump(), asked)
        result = resolve(Config.model_validate(values), layout, layout.config)
        for line in changes.lines():
            print(f"{step}  {layout.config.name}: {line}")
    if there is None or load_config(layout.config) != result:
        if there is not None and re.search(r"(^|\s)#", layout.config.read_text()):
            print(f"{step}  {layout.config.name}: the file of before, with its comments, is {set_aside(layout.config).name}")
        save_config(result, layout.config)
    save_config(new, layout.converted_config(step))  # last: killed before, the next run finds the older base, and no edit is lost
    return result
