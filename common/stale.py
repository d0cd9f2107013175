"""Checks that the files that a main script loads fit the current config, inputs and code.

Each step left a recipe of every unit it worked on. We build the same job again with the step's own function and
compare. A difference in settings or inputs, an output that is missing, or a file without recipe stops the run before
any training; a difference in code alone is a warning.
"""
import importlib.util
import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from types import ModuleType

from common.config import Config
from common.errors import DataError, LayerError
from common.jobs import Context, Job
from common.layout import PIPELINE, REPOSITORY, SCRIPTS, Layout, RunLayout, script_of
from common.recipe import code_digest, file_digest, make_recipe, stored_recipe
from common.run_folder import identity_of
from common.status import first_failure

CONVERT = "0_1_convert_raw"
NO_RECIPE = "no recipe of the files that are there"
SHOWN_UNITS = 3
SHOWN_CHANGES = 3
SHOWN_CHARACTERS = 60
Unit = tuple[str | None, int | None]  # (sample, layer)
StepJobs = list[tuple[str, Job | None]]  # (step, its job), None where it cannot be built


@dataclass(frozen=True)
class Verdict:
    """The differences between the stored recipe of one unit of a step and its current recipe."""
    step: str
    unit: str
    changes: tuple[str, ...] = ()  # of settings and inputs, in words; a missing recipe or output
    other_code: bool = False


# the root --------------------------------------------------------------------------------------------
def require_current(context: Context, steps: tuple[str, ...]) -> None:
    """Compare the recipes of the loaded files with the config, for these steps (2D: data_preprocessing; 3D: PIPELINE).

    Raises DataError naming the first step that is out of date, the differences, and the steps to run. Warns on stderr
    if only code differs.
    """
    root = context.layout.root
    verdicts, jobs = verdicts_of(context, steps)
    stale = [one for one in verdicts if one.changes]
    if stale:
        again = [CONVERT] if stale[0].step == CONVERT else []
        again += steps_to_run(jobs, {(one.step, one.unit) for one in stale}, bool(again))
        config = ["--config", context.args.config] if context.args.config else []
        options = shlex.join(["--root_path", str(root), *config])
        raise DataError(root, summary(stale), "files made with the current settings and inputs",
                        f"run, with {options}, in this order: {', '.join(map(command, again))}")
    changed = sorted({one.step for one in verdicts if one.other_code}, key=(CONVERT, *PIPELINE).index)
    if changed:
        print(f"warning: {root}: other code made the files of {shortened(changed, SHOWN_UNITS)}, with the current "
              "settings and inputs; they are used; to make them with the current code, run these steps again",
              file=sys.stderr)


def verdicts_of(context: Context, steps: tuple[str, ...]) -> tuple[list[Verdict], StepJobs]:
    """Compare every unit of the conversion and of these steps with its recipe; the jobs of the steps.

    Raises DataError as the steps do.
    """
    digest = lru_cache(maxsize=None)(file_digest)  # of this check: an output of one step is an input of several
    layers = loaded_layers(context, steps)
    as_steps_see_it = Context(context.all_samples, context.layout, context.args, context.all_samples)
    from_archive = context.all_samples.raw_format == "asign"
    jobs, verdicts = ([], []) if from_archive or not layers else jobs_of(as_steps_see_it, steps, layers)
    verdicts += [judge(step, job, context.layout, digest) for step, job in jobs if job is not None]
    verdicts = converted(as_steps_see_it, layers, digest) + verdicts
    return sorted(verdicts, key=lambda one: (CONVERT, *PIPELINE).index(one.step)), jobs


def loaded_layers(context: Context, steps: tuple[str, ...]) -> dict[str, list[int]]:
    """{sample: layers} of the chosen samples that are loaded and that no step left out.

    3D: every section of a sample that has a graph; 2D: the sections that have one.
    """
    layout, in_3d = context.layout, steps == PIPELINE
    last = "main_3d" if in_3d else SCRIPTS["registration"][0]
    loaded = {}
    for sample in sorted(context.config.listed_samples):
        layers = [layer for layer in context.all_samples.layers_of(sample)
                  if first_failure(layout, f"{sample}/{layer}", last) is None]
        if not in_3d:
            layers = [layer for layer in layers if are_there(layout.graph(sample, layer), layout.npy(sample, layer))]
        elif not are_there(layout.graph_3d(sample), layout.npy_3d(sample)) or first_failure(layout, sample, last):
            layers = []
        if layers:
            loaded[sample] = layers
    return loaded


def are_there(*files: Path) -> bool:
    return all(file.is_file() for file in files)


def jobs_of(context: Context, steps: tuple[str, ...],
            layers: dict[str, list[int]]) -> tuple[StepJobs, list[Verdict]]:
    """(step, its job) of every unit, in the order of the steps; None where the step would leave the unit out.

    The verdicts are those of the units that a step would now leave out, but did not when it ran. Raises DataError as
    the steps do.
    """
    jobs: StepJobs = []
    now_left_out = []
    for step in steps:
        for unit, build in builders(load_script(script_of(step)), context, layers):
            try:
                jobs.append((step, build()))
            except LayerError as error:
                jobs.append((step, None))
                if context.layout.recipe(step, *unit).is_file():
                    name = "/".join(map(str, filter(None, unit))) or "dataset"
                    now_left_out.append(Verdict(step, name, (f"it would be left out: {error}",)))
    return jobs, now_left_out


def builders(script: ModuleType, context: Context,
             layers: dict[str, list[int]]) -> list[tuple[Unit, Callable[[], Job]]]:
    """Every unit of a numbered script, with the function that makes its job."""
    if hasattr(script, "dataset_job"):
        return [((None, None), partial(script.dataset_job, context))]
    if hasattr(script, "sample_job"):
        return [((sample, None), partial(script.sample_job, context, sample)) for sample in layers]
    found: list[tuple[Unit, Callable[[], Job]]] = []
    for sample, own in layers.items():
        found += [((sample, layer), partial(script.layer_job, context, sample, layer)) for layer in own]
    return found


@lru_cache(maxsize=None)
def load_script(path: Path) -> ModuleType:
    """A numbered script as a module: its name is no identifier, so `import` cannot load it."""
    spec = importlib.util.spec_from_file_location(f"step_{path.stem.replace('.', '_')}", path)
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def judge(step: str, job: Job, layout: Layout, digest: Callable[[Path], str]) -> Verdict:
    """Compare one job with its stored recipe. A job without outputs and without recipe cannot be out of date."""
    stored = stored_recipe(layout.recipe(step, job.sample, job.layer))
    missing = [f"no {relative(path, layout.root)}" for path in job.outputs if not path.exists()]
    if stored is None:
        changes = missing or [NO_RECIPE] if job.outputs else []
        return Verdict(step, job.name, tuple(changes))
    now = make_recipe(step, job.inputs, job.settings, layout.root, code_digest(script_of(step)), digest)
    of_settings = settings_changes(stored["settings"], now["settings"])
    changes = [*of_settings, *inputs_changes(stored["inputs"], now["inputs"]), *missing]
    return Verdict(step, job.name, tuple(changes), stored["code"] != now["code"])


def converted(context: Context, layers: dict[str, list[int]], digest: Callable[[Path], str]) -> list[Verdict]:
    """Compare the outputs of step 0_1 with its recorded inputs.

    A root placed by hand has no such recipes; a root converted from an archive has no others, one a sample.
    """
    layout, archive = context.layout, context.all_samples.raw_format == "asign"
    units: list[tuple[str, int | None]] = []
    for sample, own in layers.items():
        units += [(sample, None)] if archive else [(sample, layer) for layer in own]
    code, verdicts = code_digest(REPOSITORY / "data_preprocessing" / f"{CONVERT}.py"), []
    for sample, layer in units:
        name = sample if layer is None else f"{sample}/{layer}"
        stored = stored_recipe(layout.recipe(CONVERT, sample, layer))
        if stored is not None:
            of_config = {key: value for key, value in stored["settings"].items() if key in Config.model_fields}
            now = {key: getattr(context.all_samples, key) for key in of_config}
            changes = settings_changes(of_config, now) + recorded_changes(stored["inputs"], layout.root, digest)
            verdicts.append(Verdict(CONVERT, name, tuple(changes), stored["code"] != code))
        elif archive:
            verdicts.append(Verdict(CONVERT, name, (NO_RECIPE,)))
    return verdicts


# the run ---------------------------------------------------------------------------------------------
def require_current_run(run: RunLayout, n_folds: int, context: Context) -> None:
    """Compare the files of this root that the folds of a run of main_3d.py read with the current files.

    The folds of another root read nothing here; where the root of the run is gone, the dataset's name decides. Raises
    DataError if a file has changed since. Warns on stderr if only code differs.
    """
    here, elsewhere = context.all_samples, trained_elsewhere(run, context.layout)
    written = noted_outputs(context.layout)

    def digest_of_step(path: Path) -> str:
        """Of a file that a step wrote, what it wrote: if it was damaged since, the loaders leave out its sample."""
        return written.get(path) or file_digest(path)

    for fold in range(n_folds):
        stored = stored_recipe(run.fold_recipe(fold))
        if stored is None:
            raise DataError(run.fold_recipe(fold), "no recipe", "the recipe of a finished fold", "run main_3d.py again")
        damaged = altered(stored, run.root)
        if damaged:
            raise DataError(run.root, shortened(damaged, SHOWN_CHANGES), "what main_3d.py wrote",
                            "run main_3d.py again, with --overwrite")
        if elsewhere or stored["settings"].get("dataset", here.dataset) != here.dataset:
            continue
        others = set(stored["settings"]["known_layers"]) - set(here.listed_samples)
        read_here = {name: value for name, value in stored["inputs"].items() if Path(name).stem not in others}
        changes = recorded_changes(read_here, context.layout.root, digest_of_step)
        if changes:
            raise DataError(run.fold_recipe(fold), f"a run older than a change: {shortened(changes, SHOWN_CHANGES)}",
                            f"the files under {context.layout.root} that the run read", "run main_3d.py again")
        if stored["code"] != code_digest(REPOSITORY / "main_3d.py"):
            print(f"warning: {run.root}: other code trained fold {fold}; to train it with the current code, "
                  "run main_3d.py again", file=sys.stderr)


def noted_outputs(layout: Layout) -> dict[Path, str]:
    """{file: digest} of every output that a step wrote down in its recipe."""
    noted: dict[Path, str] = {}
    for path in layout.recipes():
        outputs = (stored_recipe(path) or {}).get("outputs", {})
        noted |= {layout.root / name: value for name, value in outputs.items()}
    return noted


def trained_elsewhere(run: RunLayout, layout: Layout) -> bool:
    """True if the run was trained on another root that still exists."""
    root = identity_of(run).get("root")
    if not root:
        return False
    trained_on = (run.root.resolve() / root).resolve()
    return trained_on.is_dir() and trained_on != layout.root.resolve()


# differences -----------------------------------------------------------------------------------------
def settings_changes(old: dict, new: dict, prefix: str = "") -> list[str]:
    """'n_genes 250 -> 2000' for every setting that differs; for nested settings the inner ones."""
    changes = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            changes += settings_changes(before, after, f"{prefix}{key}.")
        elif before != after:
            changes.append(f"{prefix}{key} {value_text(before)} -> {value_text(after)}")
    return changes


def value_text(value) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def inputs_changes(old: dict[str, str | None], new: dict[str, str | None]) -> list[str]:
    """The change of each input. old, new: {name: digest, None where there was no file}."""
    changes = [f"{name} is no longer an input" for name, value in old.items() if name not in new and value is not None]
    for name, value in new.items():
        before = old.get(name)
        if before != value:
            what = "is missing" if value is None else "is new" if before is None else "has changed"
            changes.append(f"{name} {what}")
    return changes


def recorded_changes(inputs: dict[str, str | None], root: Path, digest: Callable[[Path], str]) -> list[str]:
    """The same for recorded inputs. Raw files outside the root may be gone: only those that exist are compared."""
    now = {}
    for name, value in inputs.items():
        path = root / name
        gone = value if Path(name).is_absolute() else None
        now[name] = digest(path) if path.is_file() else gone
    return inputs_changes(inputs, now)


def altered(stored: dict, root: Path) -> list[str]:
    """The outputs that are not as they were written."""
    noted = stored.get("outputs", {}).items()
    return [f"{name} is not as it was written" for name, value in noted
            if (root / name).is_file() and file_digest(root / name) != value]


def steps_to_run(jobs: StepJobs, stale: set[tuple[str, str]], all_of_them: bool) -> list[str]:
    """The steps that are out of date and those that read their outputs, in order.

    A step whose job cannot be built yet is one of them.
    """
    made: set[Path] = set()
    steps = []
    for step, job in jobs:
        if all_of_them or job is None or (step, job.name) in stale or made & set(job.inputs):
            made |= set(job.outputs) if job else set()
            steps.append(step)
    return list(dict.fromkeys(steps))


# words -----------------------------------------------------------------------------------------------
def summary(stale: list[Verdict]) -> str:
    """The first step that is out of date, its units, the differences, and the number of further steps."""
    first = stale[0]
    units = shortened([one.unit for one in stale if one.step == first.step], SHOWN_UNITS)
    others = len({one.step for one in stale}) - 1
    more = f"; and {others} more steps out of date" if others else ""
    return f"{first.step} of {units} out of date ({shortened(list(first.changes), SHOWN_CHANGES)}){more}"


def shortened(parts: list[str], shown: int) -> str:
    more = len(parts) - shown
    return ", ".join(parts[:shown]) + (f" and {more} more" if more > 0 else "")


def command(step: str) -> str:
    """A step's script, as it is called from the repository."""
    return f"data_preprocessing/{CONVERT}.py" if step == CONVERT else script_of(step).relative_to(REPOSITORY).as_posix()


def relative(path: Path, root: Path) -> str:
    return str(path.relative_to(root) if path.is_relative_to(root) else path)
