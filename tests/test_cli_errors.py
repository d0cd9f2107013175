"""Every script as a user starts it: --help, and one clear line on bad input."""
import ast
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT, load_script, script_path
from pipeline import as_archive

from common import io
from common.errors import DataError
from common.layout import Layout, RunLayout
from common.recipe import code_digest
from common.status import read_status

predict = load_script("predict_3d")
SCRIPTS = sorted([
    *ROOT.glob("data_preprocessing/[0-9]*.py"), *ROOT.glob("registration/Step*.py"),
    *ROOT.glob("data_preprocessing_3d/[0-9]*.py"),
    *ROOT.glob("main*.py"), *ROOT.glob("predict_3d.py"), *ROOT.glob("report.py")])
IDS = [str(path.relative_to(ROOT)) for path in SCRIPTS]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def start(script: Path | str, *options, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    path = script if isinstance(script, Path) else script_path(script)
    command = [sys.executable, os.path.relpath(path, cwd), *map(str, options)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, env=ENVIRONMENT,
                          stdin=subprocess.DEVNULL)


def failed_with_one_line(answer: subprocess.CompletedProcess) -> str:
    """The line of a run that ended with exit code 2."""
    assert answer.returncode == 2, answer
    line, end, rest = answer.stderr.partition("\n")
    assert line.startswith("error: ") and end == "\n" and rest == "", answer.stderr
    return line.removeprefix("error: ")


# every script ----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> dict[str, tuple]:
    """{script: (answer to --help at the repository root, answer to a missing root in the script's own folder)}."""
    nowhere = tmp_path_factory.mktemp("answers") / "nowhere"

    def ask(script: Path) -> tuple:
        options = {  # of the two scripts that make the root
            "0_make_demo": ["--config", nowhere / "demo.yaml"],
            "0_1_convert_raw": ["--format", "her2st", "--raw_path", nowhere / "raw"]}.get(script.stem, [])
        return start(script, "--help"), start(script, "--root_path", nowhere, *options, cwd=script.parent)

    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(IDS, pool.map(ask, SCRIPTS), strict=True))
    assert not nowhere.exists()
    return found


def test_no_script_is_forgotten():
    some = {"main_3d", "predict_3d", "0_make_demo", "Step3.5_registertoMiddle_ANTs_points_contour_fast"}
    assert len(SCRIPTS) >= 24 and some <= {path.stem for path in SCRIPTS}


@pytest.mark.parametrize("name", IDS)
def test_help_names_the_inputs_and_outputs(answers, name):
    answer, _ = answers[name]
    docstring = ast.get_docstring(ast.parse((ROOT / name).read_text()), clean=False)
    assert answer.returncode == 0 and answer.stderr == "", answer.stderr
    assert docstring.strip() in answer.stdout
    assert "\nINPUT " in docstring and "\nOUTPUT " in docstring
    assert f"\n    python {name} " in docstring.replace("CUDA_VISIBLE_DEVICES=0 ", "")  # one working command
    assert "--root_path" in answer.stdout and "--config" in answer.stdout
    always_writes = name in ("predict_3d.py", "report.py")
    assert ("--overwrite" in answer.stdout) == (not always_writes)
    assert ("--done" in answer.stdout) == ("/" in name)  # only the steps run jobs


@pytest.mark.parametrize("name", IDS)
def test_a_missing_root_is_one_line(answers, name):
    _, answer = answers[name]
    line = failed_with_one_line(answer)
    assert "nowhere" in line and line.split("; ")[-1].startswith("fix: ") and answer.stdout == ""


# bad input -------------------------------------------------------------------------------------------
def make_root(folder: Path, layers: list[int], **config) -> Layout:
    """A root with one sample A: a blob of tissue on white, four spots and counts of two genes a section."""
    import anndata
    layout = Layout(folder)
    rng = np.random.default_rng(0)
    picture = np.full((300, 300, 3), 245, np.uint8)
    picture[60:240, 60:240] = rng.integers(90, 190, (180, 180, 3))
    folder.mkdir(exist_ok=True)
    barcode = ["1x1", "2x1", "1x2", "2x2"]
    spots = pd.DataFrame({"barcode": barcode, "pixel_x": [110, 178, 110, 178], "pixel_y": [110, 110, 178, 178],
                          "i": [1, 2, 1, 2], "j": [1, 1, 2, 2]})
    counts = anndata.AnnData(np.ones((4, 2), np.float32), obs=pd.DataFrame(index=barcode),
                             var=pd.DataFrame(index=["ERBB2", "KRT8"]))
    for layer in layers:
        io.write_picture(layout.new_image("A", layer, ".jpg"), picture)
        io.write_table(layout.location("A", layer), spots)
        io.write_h5ad(layout.counts("A", layer), counts)
    write_config(folder, samples={"A": {"layers": layers}}, **config)
    return layout


def write_config(folder: Path, **values) -> None:
    (folder / "dataset.yaml").write_text(yaml.safe_dump({"dataset": "toy", "pitch_px": 68, **values}))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


@pytest.mark.parametrize("step, workers", [("0_2_tissue_mask", 1), ("1_cropped_multi_level_patch", 2)])
def test_a_truncated_picture_leaves_its_layer_out(tmp_path, step, workers):
    layout = make_root(tmp_path, [1, 2, 3])
    truncate(layout.image("A", 2))
    answer = start(step, "--root_path", tmp_path, "--num_workers", workers)
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr.startswith(f"{step}  A/2: left out: {layout.image('A', 2)}: found ")
    assert answer.stderr.count("\n") == 1 and "Traceback" not in answer.stderr
    status = {name: steps[step].split(":")[0] for name, steps in read_status(layout).items()}
    assert status == {"A/1": "ok", "A/2": "left out", "A/3": "ok"}
    written = {"0_2_tissue_mask": layout.mask}.get(step, lambda *unit: layout.patches(224, *unit))
    assert [written("A", layer).is_file() for layer in (1, 2, 3)] == [True, False, True]


@pytest.mark.parametrize("step", ["0_2_tissue_mask", "1_cropped_multi_level_patch"])
def test_a_truncated_picture_alone_ends_the_run(tmp_path, step):
    layout = make_root(tmp_path, [2])
    truncate(layout.image("A", 2))
    answer = start(step, "--root_path", ".", cwd=tmp_path)
    assert answer.returncode == 2 and answer.stdout == ""
    first, last = answer.stderr.splitlines()
    assert first.startswith(f"{step}  A/2: left out: imgs/A/2.jpg: found ")
    assert last.startswith(f"error: {step}: ") and "status.json" in last


@pytest.mark.parametrize("step, workers", [
    ("Step0_original_contour_generation", 1), ("Step0_original_contour_generation", 2),
    ("1_cropped_multi_level_patch", 2)])
def test_spots_without_pixel_x_leave_their_layer_out(tmp_path, step, workers):
    layout = make_root(tmp_path, [1, 2])
    path = layout.location("A", 1)
    path.write_text(path.read_text().replace("pixel_x", "x"))
    answer = start(step, "--root_path", tmp_path, "--num_workers", workers)
    assert answer.returncode == 0 and answer.stderr.count("\n") == 1, answer.stderr
    assert answer.stderr.startswith(f"{step}  A/1: left out: {path}: found columns barcode, x, pixel_y, i, j; ")
    assert "expected a column pixel_x; fix: " in answer.stderr
    assert read_status(layout)["A/2"][step] == "ok"


@pytest.mark.parametrize("columns, code", [
    ("x\ty\tnew_x\tpixel_y\tselected", 2), ("x\ty\tpixel_x\tpixel_y\tselected", 0)])
def test_raw_spots_without_pixel_x_in_the_only_layer_end_the_run(tmp_path, columns, code):
    raw, root = tmp_path / "raw", tmp_path / "root"
    counts, spots = "\tERBB2\n1x1\t3\n", f"{columns}\n1\t1\t110\t110\t1\n"
    for name, text in (("ST-cnts/A1.tsv", counts), ("ST-spotfiles/A1_selection.tsv", spots)):
        (raw / name).parent.mkdir(parents=True)
        (raw / name).write_text(text)
    answer = start("0_1_convert_raw", "--format", "her2st", "--raw_path", raw, "--root_path", root)
    if code == 0:
        assert answer.returncode == 0 and Layout(root).location("A", 1).is_file(), answer.stderr
    else:
        left_out, end = answer.stderr.splitlines()
        assert answer.returncode == 2 and end.startswith("error: 0_1_convert_raw: ") and "status.json" in end
        assert f"A/1: left out: {raw / 'ST-spotfiles/A1_selection.tsv'}: " in left_out
        assert "expected a column pixel_x" in left_out
        assert not Layout(root).location("A", 1).exists()


@pytest.mark.parametrize("step", ["0_2_tissue_mask", "0_make_demo", "5_1_find_high_expression", "1_get_iou", "main_3d"])
def test_an_unknown_config_key_ends_the_run(tmp_path, step):
    write_config(tmp_path, picth_um=100)
    line = failed_with_one_line(start(step, "--root_path", tmp_path, "--config", tmp_path / "dataset.yaml"))
    assert line.startswith(f"{tmp_path / 'dataset.yaml'}: found unknown key 'picth_um'")
    assert "'pitch_um'" in line.partition("fix: ")[2]
    assert [path.name for path in tmp_path.iterdir()] == ["dataset.yaml"]


def test_a_gene_list_that_shares_nothing_ends_the_run(tmp_path):
    genes = tmp_path / "genes.txt"
    genes.write_text("ENSG01\nENSG02\n")
    layout = make_root(tmp_path, [1], genes=str(genes))
    line = failed_with_one_line(start("5_1_find_high_expression", "--root_path", tmp_path))
    found, expected, fix = line.split("; ")
    assert found.startswith(f"{genes}: found none of its 2 genes in all 1 ")
    assert "gene names" in expected and "ERBB2" in fix
    assert not layout.genes.exists()


def write_3d_graph(layout: Layout) -> None:
    """The smallest sample that predict_3d.py loads: two spots, one region, one global."""
    import torch
    records = np.zeros(2, [
        ("barcode", "U3"), ("pixel", "f8", 2), ("array", "i4", 2), ("label", "f4", 3), ("feature", "f4", 4),
        ("region_index", "i4"), ("global_index", "i4"), ("has_label", "?"), ("layer", "i4"), ("registered", "f8", 2)])
    records["layer"] = records["has_label"] = 1
    records["barcode"] = "1x1", "2x1"
    io.write_npy(layout.npy_3d("A"), records)
    spot = {"pos": torch.zeros(2, 2), "layer": torch.ones(2, dtype=torch.long), "feature_sets": {"backbone": 4},
            "feature_recipe": {}, "genes": ["G1", "G2", "G3"]}
    patch = {"x": torch.zeros(1, 4), "y": torch.zeros(1, 3), "has_label": torch.ones(1, dtype=torch.bool),
             "pos": torch.zeros(1, 2), "layer": torch.ones(1, dtype=torch.long)}

    def no_edges(columns: int) -> dict:
        return {"edge_index": torch.zeros(2, 0, dtype=torch.long), "edge_attr": torch.zeros(0, columns)}

    def all_in_one(n: int) -> dict:
        return {"edge_index": torch.stack([torch.arange(n), torch.zeros(n, dtype=torch.long)])}

    io.write_pt(layout.graph_3d("A"), {
        "spot": spot, "region": patch, "global": patch,
        ("spot", "cross", "spot"): no_edges(5), ("spot", "within", "spot"): no_edges(5),
        ("region", "near", "region"): no_edges(1), ("global", "near", "global"): no_edges(1),
        ("spot", "in", "region"): all_in_one(2), ("spot", "in", "global"): all_in_one(2),
        ("region", "in", "global"): all_in_one(1)})


def test_a_missing_checkpoint_ends_the_run(tmp_path, capsys):  # in this process, which has imported PyTorch
    write_config(tmp_path, samples={"A": {"layers": [1]}})
    layout, run = Layout(tmp_path), RunLayout(tmp_path / "run")
    write_3d_graph(layout)
    as_archive(layout)
    recipe = {"settings": {"known_layers": {"A": [1]}}, "inputs": {}, "code": code_digest(ROOT / "main_3d.py")}
    io.write_json(run.fold_recipe(0), recipe)
    ranked = pd.DataFrame({"gene": ["G1", "G2", "G3"], "rank": [1, 2, 3]})
    io.write_table(layout.genes, ranked)
    io.write_table(run.genes, ranked[["gene"]])
    for one in (layout, run):
        io.write_table(one.background, ranked.assign(mean=0.0))
    quality = {"layers": [1], "middle": 1, "pairs": [], "to_middle": {"1": {"accepted": True}}}
    io.write_json(layout.quality("A"), quality)
    fold = {"index": 0, "test_samples": ["A"], "known_layers": {"A": [1]}, "training_layers": {"A": [1]}}
    io.write_json(run.splits, {"method": "msagnet", "folds": [fold], "kernels": {}})
    assert predict.main(["--root_path", str(tmp_path), "--save_path", str(run.root), "--gpu", "cpu"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {run.checkpoint(0)}: found no file; expected ") and err.count("\n") == 1
    assert "main_3d.py" in err
    assert not (run.root / "imputed").exists()


def test_a_run_folder_without_a_run_ends_the_run(tmp_path, capsys):
    write_config(tmp_path, samples={"A": {"layers": [1]}})
    run = RunLayout(tmp_path / "run")
    assert predict.main(["--root_path", str(tmp_path), "--save_path", str(run.root), "--gpu", "cpu"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {run.splits}: found no file; expected ") and err.count("\n") == 1
    assert "main_3d.py" in err.partition("fix: ")[2]


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    io.write_pt(tmp_path / "checkpoint.pt", {"state": {}})
    with pytest.raises(DataError, match=r"checkpoint.pt: found .*\['state'\]; expected .*main_3d.py"):
        predict.read_checkpoint(tmp_path / "checkpoint.pt", ["G1"], None, None)
