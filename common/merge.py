"""dataset.yaml when step 0 runs again: a person's edits stay, the values of the conversion are updated.

A three-way merge, key by key (of a sample: `raw`, `images`, `pixel_size_um`, `pairs` by entry, `layers` by layer):
    base    the result of the last conversion, kept in <root>/.recipes/<step>/dataset.yaml
    new     the result of this conversion: the config file and the raw data
    there   dataset.yaml as it is now
Where `there` equals `base`, nobody edited the key, and it follows `new`. Where they differ, a person edited it, and
that value stays; if `new` differs from `base` too, both are named. Without a base (a root of an earlier version) every
value of `there` that differs from `new` is a person's.
"""
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from common.config import Config, SampleConfig, load_config, resolve, save_config
from common.errors import DataError
from common.geometry import TOLERANCE
from common.layout import Layout
from common.written import free_name

BY_ENTRY = ("raw", "images", "pixel_size_um", "pairs")  # keys of a sample that are mappings
OF_THE_CALL = ("raw_format", "raw_path")  # state what was converted last; no edit of a person overrides them
ABSENT = object()


@dataclass
class Changes:
    """The changes of a merge: a list of short texts a kind."""
    kept: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """One line a kind, one a conflict."""
        kinds = [(name, getattr(self, name)) for name in ("kept", "added", "updated", "removed")]
        lines = [f"{name} {', '.join(texts)}" for name, texts in kinds if texts]
        return lines + [f"conflict: {text}" for text in self.conflicts]


# configs as paths ------------------------------------------------------------------------------------
def leaves(values: dict) -> dict[tuple, Any]:
    """{path: value} of a config as a dict. A section of a sample is a path of its own, with the value True."""
    out: dict[tuple, Any] = {(name,): value for name, value in values.items() if name != "samples"}
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


def of_leaves(flat: dict[tuple, Any]) -> dict:
    """The inverse of leaves(); a sample without sections is left out."""
    values: dict[str, Any] = {}
    samples: dict[str, dict[str, Any]] = {}
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


def _samples_of(flat: dict[tuple, Any]) -> set[str]:
    return {path[1] for path in flat if path[0] == "samples"}


def _layer_of(path: tuple) -> tuple[str, int] | None:
    """(sample, layer) of a path that lists a section; None for any other path."""
    return (path[1], path[3]) if path[0] == "samples" and path[2] == "layers" else None


def _text(value: object) -> str:
    if value is ABSENT:
        return "nothing"
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("\n...\n").strip()


# the merge -------------------------------------------------------------------------------------------
def merged(base: dict | None, new: dict, there: dict,
           asked: Iterable[tuple[str, int]] = ()) -> tuple[dict, Changes]:
    """The merged config and the changes. All are configs as dicts (Config.model_dump), samples and sections listed.

    asked: (sample, layer) that this call names by option; they are listed even if a person removed them.
    """
    old: dict[tuple, Any] = leaves(base) if base else {}
    fresh, own = leaves(new), leaves(there)
    changes, asked = Changes(), set(asked)
    removed = _samples_of(old) - _samples_of(own)  # by a person
    again = {sample for sample, _ in asked}
    changes.kept += [f"samples without {sample}" for sample in sorted(removed & _samples_of(fresh) - again)]
    out: dict[tuple, Any] = {}
    touched: dict[tuple, Any] = {}
    for path in {**own, **fresh}:
        is_removed = path[0] == "samples" and path[1] in removed
        if is_removed and (path[1] not in again or _layer_of(path) and _layer_of(path) not in asked):
            continue
        before, now, theirs = (one.get(path, ABSENT) for one in (old, fresh, own))
        is_theirs = theirs is not now and theirs != now and (theirs != before if base else theirs is not ABSENT)
        if is_removed or path[0] in OF_THE_CALL or theirs is ABSENT and path[1::2] in asked:
            is_theirs = False
        if is_theirs:
            touched[path] = theirs
            _note_kept(changes, path, before, now, theirs)
        else:
            _note_followed(changes, path, now, theirs, own)
        out[path] = theirs if is_theirs else now
    for path in own:
        if _layer_of(path) and out.get(path) is ABSENT and path not in touched:
            _keep_if_named(path, out, fresh, own, touched, changes)
    return of_leaves({path: value for path, value in out.items() if value is not ABSENT}), changes


def _note_kept(changes: Changes, path: tuple, before: Any, now: Any, theirs: Any) -> None:
    """Note a person's value that stays, and the conversion's where it changed too or is another pixel size."""
    name, layer = ".".join(map(str, path)), _layer_of(path)
    short = f"{layer[0]}/{layer[1]}" if layer else name
    if theirs is ABSENT:
        changes.kept.append(f"{short}: removed")
        return
    changes.kept.append(short if layer else f"{name}: {_text(theirs)}")
    both_changed = before is not ABSENT and now is not ABSENT and now != before
    is_pixel_size = path[2:3] == ("pixel_size_um",) and now is not ABSENT
    if both_changed or is_pixel_size and abs(theirs / now - 1) > TOLERANCE:
        changes.conflicts.append(f"{name}: dataset.yaml has {_text(theirs)}, which stays; "
                                 f"config and raw data have {_text(now)}")


def _note_followed(changes: Changes, path: tuple, now: Any, theirs: Any, own: dict) -> None:
    """Note what is new, gone or changed where the conversion's value is taken. A new or gone section is one word."""
    name, layer = ".".join(map(str, path)), _layer_of(path)
    if layer and now is not theirs:
        (changes.added if theirs is ABSENT else changes.removed).append(f"{layer[0]}/{layer[1]}")
    elif theirs is ABSENT and now is not ABSENT:
        if path[0] != "samples" or ("samples", path[1], "layers", path[-1]) in own:
            changes.added.append(f"{name}: {_text(now)}")
    elif now is not ABSENT and theirs != now:
        changes.updated.append(f"{name} {_text(theirs)} -> {_text(now)}")


def _keep_if_named(path: tuple, out: dict, fresh: dict, own: dict, touched: dict, changes: Changes) -> None:
    """A section that the conversion no longer has stays, with its entries, if a person's entry names it: a conflict.

    In a sample that the conversion no longer has, any entry of a person names all sections.
    """
    _, sample, _, layer = path
    whole = sample not in _samples_of(fresh)
    named = [".".join(map(str, one[2:])) for one, value in touched.items()
             if one[:2] == path[:2] and value is not ABSENT and (whole or _names(one, value, layer))]
    if not named:
        return
    changes.removed.remove(f"{sample}/{layer}")
    changes.conflicts.append(f"{sample}/{layer} is not in the raw data; dataset.yaml names it ({', '.join(named)}): "
                             "it stays listed; to remove it, delete these entries, or the section from `layers`")
    for other in [one for one in own if one[:2] == path[:2] and one not in touched]:
        about_it = other == path or len(other) == 3 or other[2] in BY_ENTRY and other[3] == layer
        if about_it and out.get(other, ABSENT) is ABSENT:
            out[other] = own[other]


def _names(path: tuple, value: Any, layer: int) -> bool:
    """A person's entry of a sample names this section: in a list, as a key, or as a section of a pair."""
    if path[2] in ("known_layers", "skip"):
        return layer in (value or [])
    if path[2] == "pairs":
        return str(layer) in re.findall(r"\d+", path[3])
    return path[2] in BY_ENTRY and path[3] == layer


# the file --------------------------------------------------------------------------------------------
def earlier_config(layout: Layout, step: str) -> tuple[Config | None, Config | None]:
    """(the result of the last conversion, dataset.yaml as it is now with samples and sections listed), or None each.

    Raises DataError for a dataset.yaml that is not valid.
    """
    if not layout.config.is_file():
        return None, None
    there, on_disk = load_config(layout.config), layout.layers_on_disk()
    samples = {name: SampleConfig() for name in on_disk} if there.samples is None else there.samples
    samples = {name: one if one.layers is not None else one.model_copy(update={"layers": on_disk.get(name, [])})
               for name, one in samples.items()}
    try:
        base = load_config(layout.converted_config(step))
    except DataError:  # there is none, or one of another version: every value that differs is a person's
        base = None
    return base, there.model_copy(update={"samples": samples})


def write_merged(layout: Layout, step: str, new: Config, file: Path,
                 asked: Iterable[tuple[str, int]] = ()) -> Config:
    """Merge `new`, made from the config `file`, into dataset.yaml; print the changes; return its new content.

    It is written only if its content changes. A file with comments is copied first: YAML is written without them.
    Raises DataError before anything is written.
    """
    base, there = earlier_config(layout, step)
    result = new
    if there is not None:
        values, changes = merged(base.model_dump() if base else None, new.model_dump(), there.model_dump(), asked)
        result = resolve(Config.model_validate(values), layout, layout.config)
        for line in changes.lines():
            print(f"{step}  {layout.config.name}: {line}")
    if there is None or load_config(layout.config) != result:
        if there is not None and re.search(r"(^|\s)#", layout.config.read_text()):
            shutil.copyfile(layout.config, copy := free_name(layout.config))
            print(f"{step}  {layout.config.name}: the earlier file, with its comments, is {copy.name}")
        save_config(result, layout.config)
    if file.resolve() != layout.config.resolve():  # else `new` holds a person's edits, and no base may hold these
        save_config(new, layout.converted_config(step))  # last: a killed run leaves the older base, and no edit is lost
    return result
