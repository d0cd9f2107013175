"""What every numbered script shares: its options, the walk over layers or samples, skipping, status and exit codes.

    python -m common.cli status --root_path ROOT      which layer stands at which step, and why
    python -m common.cli check --root_path ROOT       whether every file is what the data contract says; exit code 2 if one is not
    python -m common.cli adopt --root_path ROOT --checkpoint FILE    write what a network was trained with into dataset.yaml
    python -m common.cli steps                        the numbered scripts from the raw images to the 3D graph, in their order
"""
import argparse
import fcntl
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tqdm import tqdm

from common.check import drawn_by_hand, hold_to_contract
from common.config import Config, load_config, resolve, save_config, validate
from common.errors import DataError, LayerError
from common.geometry import Geometry, check_scale, section_geometry
from common.io import unwritable, write_json
from common.layout import PIPELINE, REPOSITORY, STEPS, Layout, script_of
from common.options import OneLineParser, positive_int
from common.recipe import code_digest, is_current, make_recipe, with_outputs
from common.selection import check_layer_files
from common.threads import limit_process_to_one_thread, one_thread


@dataclass(frozen=True)
class Context:
    """What a step knows: the validated config (restricted to --sample/--layer), the paths and the parsed options."""
    config: Config
    layout: Layout
    args: argparse.Namespace
    all_samples: Config  # the config before --sample/--layer

    def geometry(self, sample: str, layer: int) -> Geometry:
        """Scale of a section. Raises LayerError (common/geometry.py)."""
        return section_geometry(self.all_samples, self.layout, sample, layer)


@dataclass(frozen=True)
class Job:
    """One unit of a step: the work on one layer, one sample or the dataset. `work` does it and returns one line on what it wrote."""
    sample: str | None
    layer: int | None
    inputs: list[Path]
    outputs: list[Path]
    work: Callable[[], str]
    settings: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        return "/".join(str(part) for part in (self.sample, self.layer) if part is not None) or "dataset"


# options ---------------------------------------------------------------------------------------------
def make_parser(docstring: str, sample: bool = True, layer: bool = True, workers: bool = False, overwrite: bool = True,
                done: bool = True) -> argparse.ArgumentParser:
    """A parser with the options that every script takes, and those asked for; its --help shows the script's docstring.

    overwrite: for a script that skips what is up to date; done: for one that runs jobs (run_jobs).
    """
    parser = OneLineParser(description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root_path", default="", help="dataset root (default: the current directory)")
    parser.add_argument("--config", default=None, help="YAML of the dataset (default: <root>/dataset.yaml)")
    if overwrite:
        parser.add_argument("--overwrite", action="store_true", help="make the output again even if it is up to date")
    if done:
        parser.add_argument("--done", default=None, metavar="FILE",
                            help="for the workflow: write this marker at the end and exit 0 although a layer was left out")
    if sample:
        parser.add_argument("--sample", action="append", default=None, metavar="NAME", help="only this sample (repeatable)")
    if layer:
        parser.add_argument("--layer", action="append", type=int, default=None, metavar="N", help="only this layer (repeatable)")
    if workers:
        parser.add_argument("--num_workers", type=positive_int, default=1, help="processes working side by side (default 1)")
    return parser


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


def n_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def guarded(work: Callable[[], int]) -> int:
    """Run a main function; a DataError, or a disk that cannot be written, becomes one line on stderr and exit code 2."""
    try:
        return work()
    except (DataError, LayerError) as error:
        line = error
    except OSError as error:
        line = unwritable(error)
        if line is None:
            raise
    finally:
        while _HELD:
            _HELD.pop().close()
    print(f"error: {line}", file=sys.stderr)
    return 2


_HELD: list[IO] = []  # locks of this process, until the end of `guarded`


def hold(folder: Path) -> None:
    """Keep other processes out of a run folder until `guarded` ends. Raises DataError if one is at work in it."""
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    stream = open(folder.with_name(f".{folder.name}.lock"), "w")  # beside it: the folder itself may be set aside
    _HELD.append(stream)
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DataError(folder, "another process at work in it", "one at a time", "wait for its end, or give another folder") from None


def guarded_training(work: Callable[[], int]) -> int:
    """guarded, for a training: a loss that is not finite is one line, too."""
    def one_line() -> int:
        try:
            return work()
        except FloatingPointError as error:
            raise DataError("training", str(error), "a finite loss", "check the input with common.cli check") from None
    return guarded(one_line)


def parse_layers(text: str | None, option: str = "--known_layers") -> list[int] | None:
    """'1,4' -> [1, 4]. Raises DataError naming the option."""
    if text is None:
        return None
    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise DataError(option, repr(text), "layer numbers separated by commas", f"e.g. {option} 1,4") from None


# seeds and device ------------------------------------------------------------------------------------
def start_torch(seed: int, gpu: str | None):
    """What training and prediction begin with: memory, seeds, one thread; returns the device. Raises DataError."""
    keep_freed_memory()
    limit_process_to_one_thread()
    seed_everything(seed)
    return choose_device(gpu)


def seed_everything(seed: int) -> None:
    """Seed every generator and ask for deterministic kernels."""
    import random
    import numpy as np
    import torch
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)


def choose_device(gpu: str | None):
    """The torch device, chosen once: --gpu, else GPU 0 if there is one, else the CPU. Raises DataError for a number that does not exist."""
    import torch
    if gpu in ("cpu", "-1"):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        if gpu is not None:
            print(f"--gpu {gpu}: no CUDA device is visible; running on the CPU", file=sys.stderr)
        return torch.device("cpu")
    number = gpu or "0"
    if not number.isdigit() or int(number) >= torch.cuda.device_count():
        raise DataError("--gpu", number, f"a number below {torch.cuda.device_count()} or 'cpu'", "correct --gpu")
    return torch.device("cuda", int(number))


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks for the next pass: fresh pages cost up to half of the CPU time. Elsewhere a no-op."""
    import ctypes
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
        mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of malloc.h
        ctypes.CDLL(None).mallopt(mmap_threshold, 2**30)
        ctypes.CDLL(None).mallopt(trim_threshold, 2**31 - 1)


# running ---------------------------------------------------------------------------------------------
def run_layers(step: str, script: str, args: argparse.Namespace, make_job: Callable[[Context, str, int], Job]) -> int:
    """Run a step on every chosen layer. Returns the exit code."""
    def run() -> int:
        context = open_context(args)
        units = [(sample, layer) for sample in sorted(context.config.samples) for layer in context.config.layers_of(sample)]
        return run_jobs(step, script, context, units, lambda unit: make_job(context, *unit))
    return guarded(run)


def run_samples(step: str, script: str, args: argparse.Namespace, make_job: Callable[[Context, str], Job]) -> int:
    """Run a step on every chosen sample. Returns the exit code."""
    def run() -> int:
        context = open_context(args)
        units = [(sample, None) for sample in sorted(context.config.samples)]
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
    with bar, closing(map_workers(run_one, units, workers)) as results:  # closed at once: after a DataError no further unit is begun
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
    """The recipe of a job. Raises LayerError for an input that may not or cannot be read."""
    try:
        return make_recipe(step, job.inputs, job.settings, root, code)
    except OSError as error:
        raise LayerError(error.filename or job.name, f"an input that cannot be read ({error.strerror})", "a file that can be",
                         "change its permission, or look after the disk") from None


def _run_one(step: str, code: str, context: Context, unit: tuple, make_job: Callable[[tuple], Job]) -> tuple[bool, str | DataError]:
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
        for one in context.all_samples.layers_of(sample) if sample is not None else ():  # a pair reads the masks of two layers
            if context.layout.mask(sample, one) in job.inputs and (note := drawn_by_hand(context.layout, sample, one)):
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


_FORKED = None  # the function that forked workers call; set just before they are made


def _call_forked(unit: tuple):
    return _FORKED(unit)


def _end_with_the_parent() -> None:
    """A worker holds no lock of its parent, and ends with it (Linux) even where that was killed."""
    import ctypes
    for stream in _HELD:
        stream.close()  # the lock itself stays the parent's
    if sys.platform == "linux":
        set_signal_of_parents_end = 1  # PR_SET_PDEATHSIG of prctl.h
        ctypes.CDLL(None).prctl(set_signal_of_parents_end, signal.SIGKILL)


def map_workers(function: Callable, units: list, workers: int):
    """Results in order; on several processes if workers > 1 (forked: jobs are closures)."""
    global _FORKED
    if workers <= 1:
        yield from map(function, units)
        return
    _FORKED = function
    with ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _end_with_the_parent) as pool:
        try:
            yield from pool.map(_call_forked, units)
        except BrokenProcessPool:
            raise DataError("--num_workers", f"one of {workers} processes that was ended from outside", "memory for all of them",
                            "set fewer --num_workers") from None
    _FORKED = None


# status ----------------------------------------------------------------------------------------------
@contextmanager
def _locked(path: Path):
    """Hold an exclusive lock: steps of Snakemake write the same status file."""
    with open(path.with_suffix(".lock"), "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def set_status(layout: Layout, step: str, name: str, text: str) -> None:
    """Note in status.json how a step ended for one layer, sample or the dataset: {name: {step: text}}, names in natural order."""
    with _locked(layout.status):
        status = read_status(layout)
        status.setdefault(name, {})[step] = text
        write_json(layout.status, {key: dict(sorted(status[key].items(), key=lambda one: in_order(one[0]))) for key in sorted(status, key=natural)})


def natural(name: str) -> list[str | int]:
    """Sorts 'block/2' before 'block/10'."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def read_status(layout: Layout) -> dict[str, dict[str, str]]:
    """{name: {step: 'ok' | 'left out: …'}}; empty if no step has run."""
    try:
        return json.loads(layout.status.read_text()) if layout.status.is_file() else {}
    except ValueError as error:
        raise DataError(layout.status, f"a file that cannot be read ({error})", "what the steps noted", "remove it; each step notes its own again") from None


def first_failure(layout: Layout, name: str, step: str) -> str | None:
    """The earlier step that left this layer or sample out for a reason of its own, or None."""
    failed = [other for other, text in read_status(layout).get(name, {}).items() if text.startswith("left out:") and in_order(other) < in_order(step)]
    return min(failed, key=in_order, default=None)


def in_order(step: str) -> int:
    """Where a step stands in the run."""
    return STEPS.index(step) if step in STEPS else len(STEPS)


def print_status(layout: Layout) -> int:
    """Print one line a layer: steps done, and what went wrong."""
    status = read_status(layout)
    if not status:
        print(f"{layout.root}: no step has run yet")
    for name, steps in status.items():
        done = sum(text == "ok" for text in steps.values())
        wrong = [f"{step}: {text}" for step, text in steps.items() if text != "ok"]
        print(f"{name:12s} {done:3d} steps ok" + ("" if not wrong else "; " + "; ".join(wrong)))
    return 0


def run_check(args: argparse.Namespace) -> int:
    """Hold every file of the root against the data contract (common/check.py). Raises DataError for a bad root or config."""
    from common.check import check_root
    context = open_context(args)
    return check_root(context.layout, context.config)


def run_adopt(layout: Layout, checkpoint: Path) -> int:
    """Set array, pitch, windows, features and genes of dataset.yaml to those of a network's training; say what changed. Raises DataError."""
    from common.feature_recipe import adopted
    from common.io import read_pt
    from common.written import free_name
    if not checkpoint.is_file():
        raise DataError(checkpoint, "no file", "a checkpoint of main.py", "correct --checkpoint")
    saved, genes = read_pt(checkpoint, "main.py"), (checkpoint.parents[1] / "genes.csv").resolve()
    if "trained_with" not in saved or not genes.is_file():
        raise DataError(checkpoint, "no trained_with" if "trained_with" not in saved else f"no {genes}", "a checkpoint of main.py in its run folder",
                        "give <run>/fold_<k>/checkpoint.pt")
    config = load_config(layout.config) if layout.config.is_file() else validate({"dataset": layout.root.resolve().name}, layout.config)
    new = adopted(config, saved, genes)
    for name, value in new.model_dump().items():
        if name not in ("samples", "dataset") and value != (before := getattr(config, name)):
            print(f"adopt  {layout.config}: {name}: {before} -> {value}")
    if layout.config.is_file() and new != config:
        shutil.copyfile(layout.config, copy := free_name(layout.config))
        print(f"adopt  {layout.config}: the file of before is {copy.name}")
    save_config(new, layout.config)
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["status", "check", "steps", "adopt"])
    parser.add_argument("--root_path", default="", help="dataset root (default: the current directory)")
    parser.add_argument("--config", default=None, help="of check: YAML of the dataset (default: <root>/dataset.yaml)")
    parser.add_argument("--checkpoint", default=None, help="of adopt: a network of main.py, <run>/fold_<k>/checkpoint.pt")
    args = parser.parse_args(argv)
    if args.command == "steps":
        print(*(script_of(step).relative_to(REPOSITORY) for step in PIPELINE), sep="\n")
        return 0
    if args.command == "check":
        return guarded(lambda: run_check(args))
    layout = Layout(Path(args.root_path or "."))
    if not layout.root.is_dir():
        return guarded(lambda: (_ for _ in ()).throw(DataError(layout.root, "no folder", "a dataset root", "correct --root_path")))
    if args.command == "adopt":
        return guarded(lambda: run_adopt(layout, Path(args.checkpoint or "")))
    return print_status(layout)


if __name__ == "__main__":
    sys.exit(main())
