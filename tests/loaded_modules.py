"""Run the numbered scripts and the mains on a new demo root and record which files of ours each has loaded.

Every script runs in a process of its own.

    python tests/loaded_modules.py ROOT RUN REPORT.json
"""
import importlib
import json
import os
import sys
from pathlib import Path

from conftest import ROOT, load_script, script_path

from common.io import write_json
from common.layout import PIPELINE

BIG = ("torch", "torch.utils.tensorboard", "torch_geometric", "timm", "cv2", "ants", "anndata", "scipy.stats",
       "sklearn", "shapely", "h5py")
MAINS = ("main", "main_3d", "predict_3d")


def ours() -> dict[str, str]:
    """{loaded module of ours: its file, relative to the repository}."""
    files = {name: getattr(module, "__file__", None) or "" for name, module in list(sys.modules.items())}
    names = {name: file.removeprefix(f"{ROOT}/") for name, file in files.items() if file.startswith(f"{ROOT}/")}
    return {name: file for name, file in names.items() if not file.startswith((".venv", "tests"))}


def run_alone(name: str, options: list[str]) -> list[str]:
    """Run a script in a process without modules of ours; returns the files of ours that it loaded, relative paths."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        for module in ours():
            del sys.modules[module]
        if name in MAINS:  # the comparison of recipes loads the steps' code, which is not part of the main's
            importlib.import_module("common.stale").jobs_of = no_jobs
        code = load_script(name).main(options)
        with os.fdopen(writing, "w") as stream:
            json.dump(sorted({*ours().values(), str(script_path(name).relative_to(ROOT))}), stream)
        os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as stream:
        text = stream.read()
    _, status = os.wait()
    assert status == 0, f"{name} ended with {os.waitstatus_to_exitcode(status)}"
    return json.loads(text)


def no_jobs(*_) -> tuple[list, list]:
    return [], []


def main(root: str, run: str, report: str) -> None:
    for name in BIG:  # once, not in every process
        importlib.import_module(name)
    quick, options = ["--gpu", "cpu", "--max_iterations", "2", "--members", "1"], ["--root_path", root]
    scripts = {
        "0_make_demo": [*options, "--n_samples", "1", "--n_layers", "3", "--size_px", "768"],
        **dict.fromkeys(PIPELINE, options),
        "main": [*options, "--save_path", f"{run}_2d", *quick, "--training_layers", "1"],
        "main_3d": [*options, "--save_path", run, *quick],
        "predict_3d": [*options, "--save_path", run, "--gpu", "cpu"]}
    write_json(Path(report), {name: run_alone(name, given) for name, given in scripts.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
