"""The accuracy benchmark: what its table says is what was measured."""
import argparse
import functools
import gzip
import importlib.util
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from benchmarks import hidden_layers
from common.config import load_config
from common.gene_list import read_gene_list
from common.io import write_h5ad, write_picture, write_table
from common.layout import Layout, RunLayout, background_beside
from common.normalisation import normalise
from training import settings


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
    rows = []
    for seed in (0, 1, 2):
        rows.append({"stack": "X", "seed": seed, "without": "", "method": "msagnet", "mse": 0.2 + 0.1 * seed,
                     "seconds": 10.0})
    rows.append({"stack": "X", "seed": 0, "without": "levels", "method": "msagnet", "mse": 0.5})
    lines = real_stacks.table(pd.DataFrame(rows)).splitlines()
    assert lines[2] == "| X | msagnet | 0.3000 ± 0.1000 | 10.0 | 3 |"
    assert lines[3] == "| X | msagnet without levels | 0.5000 |  | 1 |"


def test_a_sample_without_images_is_imputed_from_its_array_positions(tmp_path, monkeypatch):
    """Two layers of one smooth pattern whose arrays start at different places: the network finds the pattern again."""
    monkeypatch.setattr(settings, "Settings", functools.partial(settings.Settings, max_iterations=20, members=1))
    folder = tmp_path / "her2st"
    for name in ("ST-cnts", "ST-spotfiles"):
        (folder / name).mkdir(parents=True)
    generator = np.random.default_rng(0)
    for layer, shift in ((1, 0), (2, 7)):
        x, y = (one.ravel() for one in np.meshgrid(np.arange(10), np.arange(10)))
        rate = np.exp(2 + np.outer(np.sin(x / 2), np.linspace(-1, 1, 30)) + np.linspace(0, 2, 30))
        barcodes = [f"{a + shift}x{b + shift}" for a, b in zip(x, y, strict=True)]
        counts = pd.DataFrame(generator.poisson(rate), index=barcodes, columns=[f"G{k}" for k in range(30)])
        with gzip.open(folder / "ST-cnts" / f"S{layer}.tsv.gz", "wt") as file:
            counts.to_csv(file, sep="\t")
        spots = pd.DataFrame({"x": x + shift, "y": y + shift, "new_x": x, "new_y": y, "pixel_x": x * 272.0,
                              "pixel_y": y * 272.0, "selected": 1})
        spots.to_csv(folder / "ST-spotfiles" / f"S{layer}_selection.tsv", sep="\t", index=False)
    rows = {row["method"]: row for row in real_stacks.run_counts(argparse.Namespace(raw_path=tmp_path), "S", 0)}
    assert set(rows) == {"mean", "nearest", "kernel", "gp", "msagnet"} and rows["mean"]["pcc_gene"] == 0
    assert rows["msagnet"]["mse"] < min(rows["mean"]["mse"], rows["nearest"]["mse"])
    assert rows["msagnet"]["pcc_gene"] > 0.5


# hidden layers ---------------------------------------------------------------------------------------
def test_of_a_hidden_layer_the_image_alone_is_left(tmp_path):
    there, new = Layout(tmp_path / "root"), Layout(tmp_path / "hidden")
    for layer in (1, 2):
        write_picture(there.new_image("S", layer, ".png"), np.full((4, 4, 3), layer, np.uint8))
        write_table(there.location("S", layer), pd.DataFrame({"barcode": ["a"], "pixel_x": [1.0], "pixel_y": [2.0]}))
        write_h5ad(there.counts("S", layer), anndata.AnnData(np.ones((1, 3), np.float32)))
    write_table(there.genes, pd.DataFrame({"gene": ["G2", "G1"]}))
    write_table(there.background, pd.DataFrame({"gene": ["G3", "G1"], "rank": [1, 2], "mean": 0.0}))
    there.config.write_text("dataset: d\npitch_px: 10\ngenes_from: all\nsamples: {S: {layers: [1, 2]}}\n")
    hidden_layers.hide_layers(there.root, new.root, "S", 1, 50.0)  # its layer 1 must be gone when layer 2 is known
    hidden_layers.hide_layers(there.root, new.root, "S", 2, 50.0)
    files = {str(path.relative_to(new.root)) for path in new.root.rglob("*") if not path.is_dir()}
    assert files == {"dataset.yaml", "genes.csv", "background.csv", "imgs/S/1.png", "imgs/S/2.png",
                     "location/S/2.csv", "counts/S/2.h5ad", hidden_layers.MADE_HERE}
    config = load_config(new.config)
    assert config.samples["S"].known_layers == [2] and config.grid_pitch_um == 50 and config.layers_of("S") == [1, 2]
    assert read_gene_list(Path(config.genes)) == ["G2", "G1"]
    assert background_beside(Path(config.genes)).read_bytes() == there.background.read_bytes()
    assert new.image("S", 1).read_bytes() == there.image("S", 1).read_bytes()


def test_a_lattice_is_brought_to_other_places():
    grid = np.stack(np.meshgrid(np.arange(5.0), np.arange(4.0)), axis=-1).reshape(-1, 2)
    slope = np.array([[1.0, -2.0], [3.0, 0.5]])
    inside, outside = np.array([[0.4, 2.9], [3.3, 1.2]]), np.array([[-0.4, 0.1], [9.0, 9.0]])
    brought = hidden_layers.brought_to(np.concatenate([inside, outside]), grid, grid @ slope)
    assert np.allclose(brought["linear"][:2], inside @ slope)
    assert np.allclose(brought["linear"][2:], np.array([[0, 0], [4, 3]]) @ slope)
    assert np.allclose(brought["nearest"], np.array([[0, 3], [3, 1], [0, 0], [4, 3]]) @ slope)


def test_counting_variance_is_that_of_poisson_counts():
    mean = np.array([20.0, 30.0, 100.0, 300.0])
    counts = np.random.default_rng(0).poisson(mean, (100_000, 4))
    found = hidden_layers.counting_variance(np.log(mean / mean.sum())[None], np.array([mean.sum() + 4]))
    assert found[0] == pytest.approx(normalise(counts).var(axis=0), rel=0.1)
    without_counts = hidden_layers.counting_variance(np.zeros((1, 4)), np.array([4.0]))
    assert without_counts.max() == 0, "a spot without counts has no noise"


def test_quarters_of_confidence():
    spots = pd.DataFrame({"confidence": [0.1, 0.9, 0.5, 0.6, 0.2, 0.8, 0.4, 0.3], "mse": [4.0, 1, 9, 9, 2, 2, 9, 9],
                          "noise": [1.0, 1, 9, 9, 0, 2, 9, 9]})
    most, least = hidden_layers.by_confidence(spots)
    assert most == {"quarter": "most confident quarter", "n_spots": 2, "mse": 1.5, "noise": 1.5, "mse_per_noise": 1,
                    "lower_percent": pytest.approx(100 * 5 / 6)}
    assert least == {"quarter": "least confident quarter", "n_spots": 2, "mse": 3, "noise": 0.5, "mse_per_noise": 6}


# what is kept ----------------------------------------------------------------------------------------
@pytest.fixture
def counted(monkeypatch) -> list[int]:
    """Seeds whose rows were made, of a benchmark of two seeds."""
    made = []

    def work(seed: int) -> list[dict]:
        made.append(seed)
        return [{"stack": "HER2-C", "seed": seed, "without": "", "method": "mean", "mse": 0.5}]

    cases = [("HER2-C", seed, "", functools.partial(work, seed)) for seed in (0, 1)]
    monkeypatch.setattr(real_stacks, "cases_of", lambda args: cases)
    return made


def test_rows_of_other_code_are_made_again(tmp_path, monkeypatch, capsys, counted):
    args = argparse.Namespace(part="stacks", save_path=tmp_path)
    without_code = {"stack": "HER2-C", "seed": [0, 1], "without": "", "method": "mean", "mse": 9.0}
    write_table(tmp_path / "stacks.csv", pd.DataFrame(without_code))
    assert real_stacks.run(args) == 0 and counted == [0, 1]
    assert "stacks.csv: 2 of 2 rows are of other code" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "stacks.csv")
    assert table["mse"].tolist() == [0.5, 0.5] and set(table["code"]) == {real_stacks.code_of_rows()}
    assert real_stacks.run(args) == 0 and counted == [0, 1] and "other code" not in capsys.readouterr().out
    monkeypatch.setattr(real_stacks, "code_of_rows", lambda: "c0de")
    assert real_stacks.run(args) == 0 and counted == [0, 1, 0, 1] and "2 of 2 rows" in capsys.readouterr().out


@pytest.mark.parametrize("script", [
    "main_3d.py", "predict_3d.py", "models/gp/process.py", "data_preprocessing/records.py",
    "benchmarks/hidden_layers.py", "registration/Step2_registration_ANTs.py", "data_preprocessing/readers/her2st.py"])
def test_a_row_depends_on_every_script_that_made_it(monkeypatch, script):
    before, read = real_stacks.code_of_rows(), Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + (b"# other" if path == ROOT / script else b""))
    assert real_stacks.code_of_rows() != before


def test_a_root_of_other_code_is_made_again(tmp_path, monkeypatch, capsys):
    calls, answers = [], iter([False, True])
    monkeypatch.setattr(real_stacks, "script", lambda *words: calls.append(words))
    monkeypatch.setattr(real_stacks, "is_current", lambda root: next(answers))
    args = argparse.Namespace(raw_path=tmp_path, work_path=tmp_path)
    root = real_stacks.make_root(args, "HER2-C")
    assert len(calls) == 1 and "--forceall" not in calls[0]
    for n_calls in (2, 2):  # of other code, then as it should be
        touched = Layout(root).graph_3d("C")
        touched.parent.mkdir(parents=True, exist_ok=True)
        touched.touch()
        real_stacks.root_of.cache_clear()
        assert real_stacks.make_root(args, "HER2-C") == root and len(calls) == n_calls
    assert "--forceall" in calls[1] and f"{root}: other code" in capsys.readouterr().out
