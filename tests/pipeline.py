"""Run the numbered scripts in their order, in this process."""
import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import ROOT, load_script, script_path

from common import stale
from common.cli import make_parser
from common.config import load_config, save_config
from common.io import write_json
from common.jobs import open_context
from common.layout import PIPELINE, Layout, RunLayout, script_of
from common.recipe import code_digest, make_recipe

STEPS = list(PIPELINE)
LAYERS = (1, 2, 3)
QUICK = ("--max_iterations", "30")
FROM_COUNTS = ["5_2_get_label_of_other_resolution", "5_3_normalization", "6_pt_construction", "7_make_dataset",
               "2_get_similarity", "3_build_3d_information", "4_build_3d_graph", "5_build_3d_final_format"]


def run(root: Path, steps: list[str], *options: str) -> None:
    """Run these steps; each must end well."""
    for step in steps:
        assert load_script(step).main(["--root_path", str(root), *options]) == 0, step


def train_and_predict(root: Path, save_path: Path, *options: str) -> None:
    """main_3d.py and predict_3d.py on the CPU."""
    here = ["--root_path", str(root), "--save_path", str(save_path), "--gpu", "cpu"]
    assert load_script("main_3d").main([*here, *options]) == 0
    assert load_script("predict_3d").main(here) == 0


@functools.cache
def tiny_root(base: Path) -> Layout:
    """One sample A, three layers, from images to the 3D graph, below pytest's base folder: one for all test files."""
    root = base / "tiny_root"
    options = ["--root_path", str(root), "--n_samples", "1", "--n_layers", "3", "--size_px", "768"]
    assert load_script("0_make_demo").main(options) == 0
    run(root, STEPS)
    return Layout(root)


@functools.cache
def trained_run(base: Path) -> RunLayout:
    """A run of main_3d.py and predict_3d.py on tiny_root."""
    run_layout = RunLayout(base / "tiny_run")
    train_and_predict(tiny_root(base).root, run_layout.root, *QUICK)
    return run_layout


def main_2d(root: Path, save_path: Path, *options: str) -> int:
    """main.py on the CPU; its exit code."""
    here = ["--root_path", str(root), "--save_path", str(save_path), "--gpu", "cpu"]
    return load_script("main").main([*here, "--members", "2", "--max_iterations", "20", *options])


def copy_of(root: Path, target: Path) -> Path:
    """A root to spoil; the images are copied too."""
    shutil.copytree(root, target)
    return target


def with_threads(n_threads: int, code: str, *arguments: str) -> str:
    """Output of a new Python process that may use n_threads."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, str(n_threads)) | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, env=environment, capture_output=True,
                           text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def as_archive(layout: Layout) -> None:
    """Mark a root that has only the inputs of a main as converted from an archive: no recipes of other steps."""
    config, code = load_config(layout.config), code_digest(script_path("0_1_convert_raw"))
    save_config(config.model_copy(update={"raw_format": "asign"}), layout.config)
    recipe = {"step": "0_1_convert_raw", "settings": {}, "inputs": {}, "code": code}
    for sample in config.samples:
        write_json(layout.recipe("0_1_convert_raw", sample, None), recipe)


def take_as_made(layout: Layout, step: str) -> None:
    """Write the recipes that a step would leave now, without running it: its files stay as they are."""
    context = open_context(make_parser("", done=False).parse_args(["--root_path", str(layout.root)]))
    layers = {sample: context.config.layers_of(sample) for sample in context.config.samples}
    for _, job in stale.jobs_of(context, (step,), layers)[0]:
        recipe = make_recipe(step, job.inputs, job.settings, layout.root, code_digest(script_of(step)))
        write_json(layout.recipe(step, job.sample, job.layer), recipe)
