"""The accuracy benchmark: what its table says is what was measured."""
import argparse
import functools
import gzip
import importlib.util

import anndata
import numpy as np
import pandas as pd
import pytest

import training
from common.io import write_h5ad
from common.layout import RunLayout
from conftest import ROOT


def load():
    spec = importlib.util.spec_from_file_location("real_stacks", ROOT / "benchmarks" / "real_stacks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


real_stacks = load()


def test_coverage_of_normal_errors_is_what_the_intervals_say(tmp_path):
    generator, run = np.random.default_rng(0), RunLayout(tmp_path)
    for layer in (2, 3):
        sd = generator.uniform(0.5, 2, (400, 50)).astype(np.float32)
        adata = anndata.AnnData(np.zeros((400, 50), np.float32))
        adata.layers.update(measured=(sd * generator.normal(size=sd.shape)).astype(np.float32), sd=sd)
        write_h5ad(run.imputed("S", layer), adata)
    covered = real_stacks.coverage(run, "S", (2, 3))
    assert covered == pytest.approx({"covered_50": 50, "covered_80": 80, "covered_95": 95}, abs=0.7)


def test_table_gives_mean_and_sd_over_seeds():
    rows = pd.DataFrame([{"stack": "X", "seed": seed, "without": "", "method": "msagnet", "mse": 0.2 + 0.1 * seed, "seconds": 10.0} for seed in (0, 1, 2)]
                        + [{"stack": "X", "seed": 0, "without": "levels", "method": "msagnet", "mse": 0.5}])
    lines = real_stacks.table(rows).splitlines()
    assert lines[2] == "| X | msagnet | 0.3000 ± 0.1000 | 10.0 | 3 |" and lines[3] == "| X | msagnet without levels | 0.5000 |  | 1 |"


def test_a_sample_without_images_is_imputed_from_its_array_positions(tmp_path, monkeypatch):
    """Two layers of one smooth pattern whose arrays do not start at the same place: the network finds the pattern again."""
    import argparse
    import gzip
    monkeypatch.setattr(training, "Settings", functools.partial(training.Settings, max_iterations=20, members=1))
    folder = tmp_path / "her2st"
    for name in ("ST-cnts", "ST-spotfiles"):
        (folder / name).mkdir(parents=True)
    generator = np.random.default_rng(0)
    for layer, shift in ((1, 0), (2, 7)):
        x, y = (one.ravel() for one in np.meshgrid(np.arange(10), np.arange(10)))
        rate = np.exp(2 + np.outer(np.sin(x / 2), np.linspace(-1, 1, 30)) + np.linspace(0, 2, 30))
        counts = pd.DataFrame(generator.poisson(rate), index=[f"{a + shift}x{b + shift}" for a, b in zip(x, y)], columns=[f"G{k}" for k in range(30)])
        with gzip.open(folder / "ST-cnts" / f"S{layer}.tsv.gz", "wt") as file:
            counts.to_csv(file, sep="\t")
        spots = pd.DataFrame({"x": x + shift, "y": y + shift, "new_x": x, "new_y": y, "pixel_x": x * 272.0, "pixel_y": y * 272.0, "selected": 1})
        spots.to_csv(folder / "ST-spotfiles" / f"S{layer}_selection.tsv", sep="\t", index=False)
    rows = {row["method"]: row for row in real_stacks.run_counts(argparse.Namespace(raw_path=tmp_path), "S", 0)}
    assert set(rows) == {"mean", "nearest", "kernel", "gp", "msagnet"} and rows["mean"]["pcc_gene"] == 0
    assert rows["msagnet"]["mse"] < min(rows["mean"]["mse"], rows["nearest"]["mse"]) and rows["msagnet"]["pcc_gene"] > 0.5
