"""The options that every numbered script takes, and the commands that look at a whole root or at the installation.

    python -m common.cli status --root_path ROOT      which section stands at which step, and why
    python -m common.cli check --root_path ROOT       whether every file is what the data contract says
    python -m common.cli adopt --root_path ROOT --checkpoint FILE
                                                      write what a network was trained with into dataset.yaml
    python -m common.cli steps                        the numbered scripts from the raw images to the 3D graph, in order
    python -m common.cli doctor                       what is installed; what is missing or too old, each with its fix

check and doctor end with exit code 2 if they find a fault. Nothing but the standard library is imported at the head of
this file: doctor also runs where a required package is missing.
"""
import argparse
import importlib
import shutil
import sys
from pathlib import Path

from common.errors import DataError
from common.layout import PIPELINE, REPOSITORY, Layout, script_of
from common.options import OneLineParser, positive_int


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
                            help="for the workflow: write this marker at the end and exit 0 although a section was "
                                 "left out")
    if sample:
        parser.add_argument("--sample", action="append", default=None, metavar="NAME",
                            help="only this sample (repeatable)")
    if layer:
        parser.add_argument("--layer", action="append", type=int, default=None, metavar="N",
                            help="only this section (repeatable)")
    if workers:
        parser.add_argument("--num_workers", type=positive_int, default=1,
                            help="processes working side by side (default 1)")
    return parser


def parse_layers(text: str | None, option: str = "--known_layers") -> list[int] | None:
    """'1,4' -> [1, 4]. Raises DataError naming the option."""
    if text is None:
        return None
    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise DataError(option, repr(text), "section numbers separated by commas", f"e.g. {option} 1,4") from None


# commands --------------------------------------------------------------------------------------------
def run_check(args: argparse.Namespace) -> int:
    """Compare every file of the root with the data contract (common/contract/).

    Raises DataError for a bad root or config.
    """
    from common.contract.walk import check_root
    from common.jobs import open_context
    context = open_context(args)
    return check_root(context.layout, context.config)


def run_adopt(layout: Layout, checkpoint: Path) -> int:
    """Set array, pitch, windows, features and genes of dataset.yaml to those of a network's training.

    Every change is printed. Raises DataError.
    """
    from common.config import load_config, save_config, validate
    from common.feature_recipe import adopted
    from common.io import read_pt
    from common.written import free_name
    if not checkpoint.is_file():
        raise DataError(checkpoint, "no file", "a checkpoint of main.py", "correct --checkpoint")
    saved, genes = read_pt(checkpoint, "main.py"), (checkpoint.parents[1] / "genes.csv").resolve()
    if "trained_with" not in saved or not genes.is_file():
        missing = "trained_with" if "trained_with" not in saved else genes
        raise DataError(checkpoint, f"no {missing}", "a checkpoint of main.py in its run folder",
                        "give <run>/fold_<k>/checkpoint.pt")
    if layout.config.is_file():
        config = load_config(layout.config)
    else:
        config = validate({"dataset": layout.root.resolve().name}, layout.config)
    new = adopted(config, saved, genes)
    for name, value in new.model_dump().items():
        if name not in ("samples", "dataset") and value != (before := getattr(config, name)):
            print(f"adopt  {layout.config}: {name}: {before} -> {value}")
    if layout.config.is_file() and new != config:
        shutil.copyfile(layout.config, copy := free_name(layout.config))
        print(f"adopt  {layout.config}: the earlier file is {copy.name}")
    save_config(new, layout.config)
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["status", "check", "steps", "adopt", "doctor"])
    parser.add_argument("--root_path", default="", help="dataset root (default: the current directory)")
    parser.add_argument("--config", default=None, help="of check: YAML of the dataset (default: <root>/dataset.yaml)")
    parser.add_argument("--checkpoint", default=None,
                        help="of adopt: a network of main.py, <run>/fold_<k>/checkpoint.pt")
    args = parser.parse_args(argv)
    if args.command == "steps":
        print(*(script_of(step).relative_to(REPOSITORY) for step in PIPELINE), sep="\n")
        return 0
    if args.command == "doctor":
        return importlib.import_module("common.doctor").main()  # by name: it is not part of a step's code digest
    from common.exit_codes import guarded
    from common.status import print_status
    if args.command == "check":
        return guarded(lambda: run_check(args))
    layout = Layout(Path(args.root_path or "."))

    def run() -> int:
        if not layout.root.is_dir():
            raise DataError(layout.root, "no folder", "a dataset root", "correct --root_path")
        return run_adopt(layout, Path(args.checkpoint or "")) if args.command == "adopt" else print_status(layout)
    return guarded(run)


if __name__ == "__main__":
    sys.exit(main())
