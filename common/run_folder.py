"""Run folders: the path of a run, the choice among several, and what happens to another result in the same folder.

`<run>/run.json`, written first, identifies the result in the folder: script, method, data set, root, folds with their
known sections.
"""
import itertools
import json
import os
import re
import sys
from pathlib import Path

from common.config import load_config
from common.errors import DataError, LayerError
from common.gene_ids import read_ids, set_ids
from common.io import read_json, write_h5ad, write_json
from common.layout import Layout, RunLayout
from common.recipe import file_digest
from common.written import Written

BEFORE = re.compile(r".*_before_\d+")


def choose(layout: Layout, save_path: str | None, name: str) -> RunLayout:
    """The folder of a new run: --save_path, else <root>/runs/<name>."""
    return RunLayout(Path(save_path)) if save_path else layout.run(name)


def is_3d(splits: dict) -> bool:
    """True for a run of main_3d.py, False for one of main.py."""
    return "kernels" in splits


def find(layout: Layout, save_path: str | None, only_3d: bool = False) -> RunLayout:
    """The run to read: --save_path, else the one under <root>/runs whose splits.json was written last.

    Other runs are named on stderr. Runs that were set aside do not count. Raises DataError if there is none.
    """
    if save_path:
        return RunLayout(Path(save_path))
    found = []
    for path in sorted(layout.runs.glob("*/splits.json")):
        try:
            suitable = not BEFORE.fullmatch(path.parent.name) and (is_3d(read_json(path)) or not only_3d)
        except LayerError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        if suitable:
            found.append((path.stat().st_mtime_ns, path.parent))
    made_by = "main_3d.py" if only_3d else "main_3d.py or main.py"
    if not found:
        raise DataError(layout.runs, "no finished run", f"the run folder of {made_by}",
                        f"run {made_by} first, or give --save_path")
    taken = max(found)[1]
    if len(found) > 1:
        others = ", ".join(str(path) for _, path in sorted(found) if path != taken)
        print(f"{taken}: taken, the run that was written last; there are also {others}: choose with --save_path",
              file=sys.stderr)
    return RunLayout(taken)


def read_splits(run: RunLayout) -> dict:
    """splits.json. Raises LayerError for one that cannot be read, or that metrics.json beside it does not belong to."""
    splits = read_json(run.splits, "main_3d.py")
    noted, made_by = splits_digest(run), "main_3d.py" if is_3d(splits) else "main.py"
    if noted not in (None, file_digest(run.splits)):
        raise LayerError(run.splits, "other bytes than were written", f"the splits.json of {run.metrics_json.name}",
                         f"run {made_by} again, with --overwrite")
    return splits


def splits_digest(run: RunLayout) -> str | None:
    """The digest of splits.json that metrics.json notes; None without one that can be read (an earlier version)."""
    try:
        recipe = read_json(run.metrics_json).get("recipe")
    except LayerError:
        return None
    return recipe.get("splits_sha256") if isinstance(recipe, dict) else None


def take(run: RunLayout, layout: Layout, overwrite: bool, **identity: object) -> None:
    """Take the folder for a run of this identity (script, method, dataset, folds, …), which is written to run.json.

    Another result there is kept: the folder is renamed to `<save_path>_before_<n>`; with `overwrite` its predictions
    and folds are deleted. Scores and splits of an earlier run are deleted: nothing old stays beside new checkpoints.
    Raises DataError for a folder that cannot be renamed, or that holds files of these names
    without being that of a run.
    """
    root = os.path.relpath(layout.root.resolve(), run.root.resolve())  # stays the same if a root is moved with its runs
    mine = json.loads(json.dumps(identity | {"root": root}))
    there = identity_of(run)
    differing = [key for key in mine if key in there and there[key] != mine[key]]
    if differing and overwrite:
        for sample in run.imputed_samples():
            clear_predictions(run, sample)
        clear_folds(run)
    elif differing:
        aside = rename_aside(run, layout)
        reasons = "; ".join(difference(key, there, mine) for key in differing)
        print(f"{run.root}: it held another result ({reasons}), which is kept as {aside}; --overwrite would replace it")
    elif not there and not overwrite:
        strangers = [path.name for path in run.files() if os.path.lexists(path)]
        if strangers:
            raise DataError(run.root, f"{', '.join(strangers)}, and neither run.json nor splits.json",
                            "a new folder, or that of a run",
                            "give another --save_path, or --overwrite to replace them")
    for path in (run.metrics_json, run.metrics_csv, run.splits, run.runtime):
        path.unlink(missing_ok=True)
    write_json(run.identity, mine)


def identity_of(run: RunLayout) -> dict:
    """The content of run.json; in a run of an earlier version from splits.json and config.yaml; empty without these."""
    for path in (run.identity, run.splits):
        try:
            values = read_json(path)
        except LayerError:
            continue
        if path == run.identity:
            return values
        script = "main_3d" if is_3d(values) else "main" if values["folds"] else "main --checkpoint"
        return {"script": script, "method": values["method"], "folds": values["folds"]} | _dataset_of(run)
    return {}


def _dataset_of(run: RunLayout) -> dict:
    try:
        return {"dataset": load_config(run.config).dataset}
    except DataError:  # main.py --checkpoint writes none, or it is that of an earlier version
        return {}


def difference(key: str, there: dict, mine: dict) -> str:
    """The difference in one key of two identities, in words."""
    if key != "folds":
        return f"{key} {there[key]}, here {mine[key]}"
    known_there = [fold.get("known_layers") for fold in there["folds"]]
    known_here = [fold.get("known_layers") for fold in mine["folds"]]
    return "other folds" if known_there == known_here else f"known sections {known_there}, here {known_here}"


def rename_aside(run: RunLayout, layout: Layout) -> Path:
    """Rename the folder to the first of <name>_before_1, … that is free.

    Raises DataError if it holds the root or the current directory, or cannot be renamed.
    """
    fix = "give another --save_path, or --overwrite"
    root = run.root.resolve()
    if any(place.resolve().is_relative_to(root) for place in (layout.root, Path.cwd())):
        raise DataError(run.root, "another result, beside the dataset root or the current directory",
                        "a folder of its own for every run", fix)
    names = (root.with_name(f"{root.name}_before_{k}") for k in itertools.count(1))
    free = next(path for path in names if not os.path.lexists(path))
    try:
        os.replace(root, free)
    except OSError as error:  # a mount point, or a folder without the right to write
        raise DataError(run.root, f"another result, not to be renamed ({error})", "a folder that can be", fix) from None
    root.mkdir()  # --save_path may be a link to it
    return free


def clear_folds(run: RunLayout) -> None:
    """Delete the files of the folds of another result; a person's file stays, and its folder."""
    for fold in run.folds():
        for path in (run.fold_recipe(fold), run.fold_result(fold), run.checkpoint(fold)):
            path.unlink(missing_ok=True)
        if not any(path.parent.iterdir()):
            path.parent.rmdir()


def written(run: RunLayout, sample: str) -> Written:
    """The predictions of a sample that we wrote."""
    folder = run.imputed_folder(sample)
    return Written(folder / ".files.json", folder)


def write_prediction(run: RunLayout, sample: str, path: Path, adata) -> None:
    """Write a prediction of this sample, with the gene ids of the run's genes.csv (var['gene_ids']).

    A file in its place that a person made or changed is set aside.
    """
    set_ids(adata, read_ids(run.genes))
    with written(run, sample).writing(path) as temporary:
        write_h5ad(temporary, adata)


def clear_predictions(run: RunLayout, sample: str) -> None:
    """Delete the predictions of a sample that we wrote. A person's files stay; one in their place is set aside."""
    folder, ours = run.imputed_folder(sample), written(run, sample)
    ours.remove(path for path in sorted(folder.glob("*.h5ad")) if path.stem == "sample" or path.stem.isdecimal())
    ours.manifest.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
