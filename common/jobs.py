"""The walk over the sections or samples of a dataset: one job each, skipped if it is up to date, and one line each."""
import argparse
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from common.config import Config, load_config, resolve
from common.contract.inputs import drawn_by_hand
from common.contract.walk import hold_to_contract
from common.errors import DataError, LayerError
from common.exit_codes import guarded
from common.geometry import Geometry, check_scale, section_geometry
from common.io import write_json
from common.layout import Layout
from common.recipe import code_digest, is_current, make_recipe, with_outputs
from common.selection import check_layer_files
from common.status import first_failure, set_status
from common.threads import one_thread
from common.workers import map_workers


@dataclass(frozen=True)
class Context:
    """The validated config (restricted to --sample/--layer), the paths and the parsed options of a step."""
    config: Config
    layout: Layout
    args: argparse.Namespace
    all_samples: Config  # the config before --sample/--layer

    def geometry(self, sample: str, layer: int) -> Geometry:
        """Scale of a section. Raises LayerError (common/geometry.py)."""
        return section_geometry(self.all_samples, self.layout, sample, layer)


@dataclass(frozen=True)
class Job:
    """One unit of a step: one section, one sample or the dataset. `work` returns one line on what it wrote."""
    sample: str | None
    layer: int | None
    inputs: list[Path]
    outputs: list[Path]
    work: Callable[[], str]
    settings: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        return "/".join(str(part) for part in (self.sample, self.layer) if part is not None) or "dataset"


def open_context(args: argparse.Namespace) -> Context:
    """Check root and config. Raises DataError."""
    layout = Layout(Path(args.root_path or "."))
    if not layout.root.is_dir():
        raise DataError(layout.root, "no folder", "a dataset root", "correct --root_path")
    file = Path(args.config) if args.config else layout.config
    check_layer_files(layout)
    config = resolve(load_config(file), layout, file)
    check_scale(config, file)
    chosen = config.restricted(getattr(args, "sample", None), getattr(args, "layer", None), file)
    return Context(chosen, layout, args, config)


def run_layers(step: str, script: str, args: argparse.Namespace, make_job: Callable[[Context, str, int], Job]) -> int:
    """Run a step on every chosen section. Returns the exit code."""
    def run() -> int:
        context = open_context(args)
        units: list[tuple] = []
        for sample in sorted(context.config.listed_samples):
            units += [(sample, layer) for layer in context.config.layers_of(sample)]
        return run_jobs(step, script, context, units, lambda unit: make_job(context, *unit))
    return guarded(run)


def run_samples(step: str, script: str, args: argparse.Namespace, make_job: Callable[[Context, str], Job]) -> int:
    """Run a step on every chosen sample. Returns the exit code."""
    def run() -> int:
        context = open_context(args)
        units: list[tuple] = [(sample, None) for sample in sorted(context.config.listed_samples)]
        return run_jobs(step, script, context, units, lambda unit: make_job(context, unit[0]))
    return guarded(run)


def run_dataset(step: str, script: str, args: argparse.Namespace, make_job: Callable[[Context], Job]) -> int:
    """Run a step once for the dataset. Returns the exit code."""
    def run() -> int:
        context = open_context(args)
        return run_jobs(step, script, context, [(None, None)], lambda unit: make_job(context))
    return guarded(run)


def run_jobs(step: str, script: str, context: Context, units: list[tuple], make_job: Callable[[tuple], Job]) -> int:
    """Run one job a unit, in order or on --num_workers processes. A LayerError is reported and the others go on.

    Returns 0, or 2 if nothing is left. A DataError ends the run.
    """
    code = code_digest(Path(script))
    workers = min(getattr(context.args, "num_workers", 1), len(units))

    def run_one(unit: tuple) -> tuple[bool, str | DataError]:
        return _run_one(step, code, context, unit, make_job)

    good = 0
    bar = tqdm(total=len(units), desc=step, unit="job", disable=None, leave=False)
    with bar, closing(map_workers(run_one, units, workers)) as results:  # closed: no unit starts after a DataError
        for succeeded, line in results:
            if isinstance(line, DataError):
                raise line
            good += succeeded
            bar.update()
            tqdm.write(f"{step}  {line}", file=sys.stdout if succeeded else sys.stderr)
    if getattr(context.args, "done", None):
        write_json(Path(context.args.done), {"succeeded": good, "of": len(units)})
    elif good == 0:
        print(f"error: {step}: nothing is left to work on; see {context.layout.status}", file=sys.stderr)
        return 2
    return 0


def recipe_of(step: str, job: Job, root: Path, code: str) -> dict:
    """The recipe of a job. Raises LayerError for an input that cannot be read."""
    try:
        return make_recipe(step, job.inputs, job.settings, root, code)
    except OSError as error:
        raise LayerError(error.filename or job.name, f"an input that cannot be read ({error.strerror})",
                         "a readable file", "change its permission, or check the disk") from None


def corrected_masks(context: Context, job: Job) -> list[str]:
    """A line for each tissue mask that the job reads and a person corrected; a pair reads the masks of two sections."""
    if job.sample is None:
        return []
    layers = context.all_samples.layers_of(job.sample)
    read = [layer for layer in layers if context.layout.mask(job.sample, layer) in job.inputs]
    notes = [drawn_by_hand(context.layout, job.sample, layer) for layer in read]
    return [note for note in notes if note]


def _run_one(step: str, code: str, context: Context, unit: tuple,
             make_job: Callable[[tuple], Job]) -> tuple[bool, str | DataError]:
    """(whether the job succeeded, its line), or (False, the DataError that ends the run)."""
    sample, layer = unit
    name = "/".join(str(part) for part in unit if part is not None) or "dataset"
    started = time.perf_counter()
    try:
        job = make_job(unit)
        recipe = recipe_of(step, job, context.layout.root, code)
        recipe_path = context.layout.recipe(step, sample, layer)
        if not context.args.overwrite and is_current(recipe, recipe_path, job.outputs):
            set_status(context.layout, step, name, "ok")
            return True, f"{name}: up to date"
        recipe_path.unlink(missing_ok=True)
        hold_to_contract(context.layout, context.all_samples, sample, layer, job.inputs)
        for note in corrected_masks(context, job):
            tqdm.write(f"{step}  {name}: {note}", file=sys.stderr)
        with one_thread():
            line = job.work()
        write_json(recipe_path, with_outputs(recipe, job.outputs, context.layout.root))
    except LayerError as error:
        earlier = first_failure(context.layout, name, step)
        reason = f"left out since {earlier}" if earlier else f"left out: {error}"
        set_status(context.layout, step, name, reason)
        return False, f"{name}: {reason}"
    except DataError as error:
        return False, error
    set_status(context.layout, step, name, "ok")
    return True, f"{name}: {line} ({time.perf_counter() - started:.1f} s)"
