"""The real stack end to end: HER2+ breast cancer, sample C, layers 2, 3 and 4, layer 2 known (Andersson et al. 2021).

The data are not part of this repository. They are read from ASIGN_DATA (a copy of the public her2st repository's
folders), else from shared/data/her2st beside the checkout; without them these tests are skipped.
"""
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from common.io import read_h5ad, read_json
from common.layout import Layout, RunLayout

RAW = Path(os.environ.get("ASIGN_DATA", ROOT.parent / "shared" / "data" / "her2st"))
pytestmark = pytest.mark.skipif(not RAW.is_dir(), reason=f"no real sections at {RAW}: set ASIGN_DATA")
MAX_RSS_KIB = 3 * 2**20
AS_A_USER = {name: value for name, value in os.environ.items() if "THREADS" not in name}  # not as the tests


def snakemake(root: Path) -> list[str]:
    return [sys.executable, "-m", "snakemake", "--profile", str(ROOT / "workflow" / "profiles" / "default"), "--config",
            f"root_path={root}", f"raw_path={RAW}", "samples=C", "layers=2,3,4"]


@pytest.fixture(scope="module")
def stack(tmp_path_factory) -> tuple[Layout, RunLayout]:
    """Raw files to h5ad. The workflow is killed once on the way and started again."""
    root, run = tmp_path_factory.mktemp("her2c"), RunLayout(tmp_path_factory.mktemp("run"))
    layout = Layout(root)
    first = subprocess.Popen(snakemake(root), cwd=ROOT, start_new_session=True, env=AS_A_USER,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline, half_way = time.monotonic() + 200, layout.done("1_cropped_multi_level_patch", "C", 2)
    while not half_way.exists() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    finished = {path: path.stat().st_mtime_ns for path in (root / ".done").rglob("*") if path.is_file()}
    assert finished and not layout.npy_3d("C").exists()
    again = subprocess.run(snakemake(root), cwd=ROOT, env=AS_A_USER, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-3000:]
    unchanged = [path.stat().st_mtime_ns == made for path, made in finished.items()]
    assert all(unchanged), "finished files are not written again"
    main_3d(root, run)
    start("predict_3d.py", root, run)
    return layout, run


def start(script: str, root: Path, run: RunLayout, *options: str) -> None:
    command = [sys.executable, script, "--root_path", str(root), "--save_path", str(run.root), "--gpu", "cpu"]
    subprocess.run([*command, *options], cwd=ROOT, env=AS_A_USER, check=True)


def main_3d(root: Path, run: RunLayout, *options: str) -> None:
    start("main_3d.py", root, run, "--known_layers", "2", *options)


@pytest.fixture(scope="module")
def methods(stack) -> dict:
    return {name: one["pooled"] for name, one in read_json(stack[1].metrics_json)["methods"].items()}


def test_registration_lays_tissue_on_tissue(stack):
    quality = read_json(stack[0].quality("C"))
    assert quality["middle"] == 3 and quality["left_out"] == []
    for pair in quality["pairs"]:
        assert pair["after"]["tissue_dice"] >= 0.96 > pair["before"]["tissue_dice"]
        assert pair["accepted"] and pair["inliers"] > 100
        assert stack[0].overlay("C", pair["moving"], pair["fixed"]).is_file()


def test_baselines_are_those_of_the_study(methods):
    assert methods["mean"]["mse"] == pytest.approx(0.302, abs=0.003)
    assert methods["mean"]["pcc_spot"] == pytest.approx(0.734, abs=0.003)
    assert methods["kernel"]["mse"] == pytest.approx(0.260, abs=0.003)
    assert methods["kernel"]["pcc_gene"] == pytest.approx(0.325, abs=0.01)


def test_noise_ceiling_is_that_of_the_study(stack):
    pooled = read_json(stack[1].metrics_json)["ceiling"]["pooled"]
    assert pooled["pcc_spot"] == pytest.approx(0.90, abs=0.015) and pooled["pcc_gene"] == pytest.approx(0.73, abs=0.015)


def test_msagnet_is_ahead_of_every_baseline(methods):
    for baseline in ("mean", "nearest", "overlap", "similarity", "kernel"):
        assert methods["msagnet"]["mse"] < methods[baseline]["mse"], baseline
        assert methods["msagnet"]["pcc_spot"] > methods[baseline]["pcc_spot"], baseline
    assert methods["msagnet"]["pcc_gene"] >= 0.39 and methods["msagnet"]["mse"] <= 0.242


def test_one_seed_gives_one_result(stack, tmp_path):
    """Two short runs of one recipe: the same metrics.json, to the byte."""
    runs = [RunLayout(tmp_path / name) for name in ("one", "two")]
    for run in runs:
        main_3d(stack[0].root, run, "--max_iterations", "20")
    assert runs[0].metrics_json.read_bytes() == runs[1].metrics_json.read_bytes()


def test_every_layer_is_given_back(stack):
    for layer in (2, 3, 4):
        adata = read_h5ad(stack[1].imputed("C", layer))
        assert adata.n_vars == 250 and adata.obs["known"].all() == (layer == 2)
        assert adata.obsm["spatial_3d"][0, 2] == (layer - 2) * 16.0


def test_no_step_needs_more_than_3_gb(stack):
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < MAX_RSS_KIB
    assert json.loads(stack[1].runtime.read_text())["peak_memory_mib"] < 3 * 1024
