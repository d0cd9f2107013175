"""A config, a root and a command line are unambiguous, or are refused with one line."""
import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import load_script
from toys import toy_graph

from common import cli, io, jobs
from common.config import Config, load_config, resolve, validate
from common.errors import DataError, LayerError
from common.layout import Layout
from common.z import z_um_of

HEAD = "dataset: d\npitch_px: 272\n"
TWO_SAMPLES = "samples: {A: {layers: [1]}, B: {layers: [1]}}"


def resolved(folder, text: str) -> Config:
    """The config of this YAML, as a step of the root gets it."""
    path = folder / "dataset.yaml"
    path.write_text(HEAD + text)
    return resolve(load_config(path), Layout(folder), path)


def sample(**values) -> str:
    return f"samples: {{A: {{{', '.join(f'{key}: {value}' for key, value in values.items())}}}}}"


# the config ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text, found, expected, fix", [
    (sample(layers="[1, 1, 2]"), "samples.A.layers: [1, 1, 2]", "once; 1 is there twice", "correct 'samples.A.layers'"),
    (sample(layers="[-1, 2]"), "samples.A.layers.0: -1", "greater than or equal to 0", "correct 'samples.A.layers.0'"),
    (sample(layers="[1, 2]", skip="[2, 2]"), "samples.A.skip: [2, 2]", "2 is there twice", "correct 'samples.A.skip'"),
    (sample(layers="[1, 2]", known_layers="[1, 1]"), "samples.A.known_layers: [1, 1]", "1 is there twice",
     "correct 'samples.A.known_layers'"),
    (sample(layers="[1, 2]", known_layers="[]"), "samples.A.known_layers: []", "default", "correct"),
    (sample(layers="[1, 2]", known_layers="[2]", skip="[2]"), "samples.A", "known_layers and in skip", "correct one"),
    (sample(layers="[1, 2]", known_layers="[3]"), "samples.A.known_layers [3]", "[1, 2]", "correct known_layers"),
    (sample(layers="[1, 2]", skip="[1, 2]"), "samples.A.skip [1, 2]", "one of [1, 2]", "skip fewer"),
    (sample(layers="[1, 2]", z_um="{1: 0}"), "samples.A.z_um", "[2]", "remove z_um"),
    (sample(layers="[1, 2]", z_um="{1: 5, 2: 5}"), "samples.A.z_um {1: 5.0, 2: 5.0}", "ascends", "correct z_um"),
    (sample(layers="[1, 2]", z_um="{1: 0, 2: .inf}"), "samples.A.z_um.2: inf", "finite", "correct 'samples.A.z_um.2'"),
    (sample(layers="[1, 2]", images="{-1: a.jpg}"), "-1", "greater than or equal to 0", "correct"),
    (sample(layers="[01, 2]"), "01 with a leading zero", "", "write 1, or '01' in quotes if it is a name"),
    (sample(layers="[010]"), "010 with a leading zero", "", "write 10"),
    (sample(images="{1: a.jpg, 01: b.jpg}"), "01 with a leading zero", "", "write 1"),
    (sample(images="{1: a.jpg, 1: b.jpg}"), "key 1 twice", "", "keep one of them"),
    (sample(layers="[1]") + "\npitch_px: 3", "key pitch_px twice", "", "keep one of them"),
    (sample(layers="[1]") + "\npitch_um: .inf", "pitch_um: inf", "finite", "correct 'pitch_um'"),
    (f"{TWO_SAMPLES}\nfolds: [[A], [A, B]]", "folds", "A is there twice", "correct 'folds"),
    (f"{TWO_SAMPLES}\nfolds: [[A, A], [B]]", "folds", "A is there twice", "correct 'folds"),
    (f"{TWO_SAMPLES}\nfolds: [[A], []]", "folds", "every fold", "correct 'folds"),
    (f"{TWO_SAMPLES}\nfolds: []", "folds", "leave the key out", "correct 'folds"),
])
def test_a_config_without_one_meaning_is_one_line(tmp_path, text, found, expected, fix):
    with pytest.raises(DataError) as caught:
        resolved(tmp_path, text)
    line = str(caught.value)
    assert line.startswith(f"{tmp_path / 'dataset.yaml'}: found ") and "\n" not in line
    assert all(part in line for part in (found, expected, fix)), line


def test_yaml_of_one_meaning_is_read_as_before(tmp_path):
    samples = "samples:\n  '007': &one {layers: [0, 10]}\n  B: {<<: *one, layers: [3]}\n"
    config = resolved(tmp_path, f"{samples}folds: [['007'], [B]]\n")
    assert {name: one.layers for name, one in config.samples.items()} == {"007": [0, 10], "B": [3]}


# the files of a root ---------------------------------------------------------------------------------
def root_of(folder, *names: str) -> Layout:
    (folder / "dataset.yaml").write_text(HEAD)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return Layout(folder)


@pytest.mark.parametrize("names, named, fix", [
    (["imgs/A/01.jpg", "imgs/A/1.jpg"], ["01.jpg", "1.jpg"], "remove"),
    (["imgs/A/1.svs", "imgs/A/1.jpg"], ["1.svs", "1.jpg"], "remove"),
    (["counts/A/1.h5ad", "counts/A/001.h5ad"], ["001.h5ad", "1.h5ad"], "remove"),
    (["imgs/A/01.jpg"], ["01.jpg"], "rename it to 1.jpg"),
    (["imgs/A/1.jpg", "location/A/01.csv"], ["01.csv"], "rename it to 1.csv"),
    (["imgs/A/1.jpg", "location/A/1.CSV"], ["1.CSV"], "rename it to 1.csv"),
])
def test_layer_files_without_one_meaning_are_one_line(tmp_path, capsys, names, named, fix):
    root_of(tmp_path, *names)
    assert load_script("0_2_tissue_mask").main(["--root_path", str(tmp_path)]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and line.startswith("error: ")
    assert all(name in line for name in named) and f"fix: {fix}" in line


def test_every_layer_that_is_found_has_its_files(tmp_path):
    names = ("imgs/A/0.SVS", "imgs/A/10.jpg", "location/A/10.csv", "counts/A/0.h5ad", "imgs/A/notes.jpg")
    layout = root_of(tmp_path, *names)
    args = cli.make_parser("").parse_args(["--root_path", str(tmp_path)])
    config = jobs.open_context(args).config
    assert config.layers_of("A") == [0, 10] and all(layout.image("A", layer) for layer in (0, 10))


def test_a_barcode_that_would_be_cut_is_refused(tmp_path):
    table = pd.DataFrame({"barcode": ["a;b", "c"], "pixel_x": 1.0, "pixel_y": 1.0, "i": 1, "j": 1})
    io.write_table(tmp_path / "1.csv", table)
    with pytest.raises(LayerError, match=r"1.csv: found .*a;b.*; expected .*';'; fix: .*counts/"):
        io.read_location(tmp_path / "1.csv")


# the command line ------------------------------------------------------------------------------------
OF_MAINS = [
    "--num_workers=0", "--num_workers=-2", "--num_workers=two", "--batch_size=0", "--batch_size=-1",
    "--max_iterations=0", "--max_iterations=-5", "--members=0", "--rank=-1", "--seed=-1", f"--seed={2 ** 32}",
    "--base_lr=0", "--base_lr=nan", "--base_lr=inf", "--base_lr=-1", "--lr_decay=-1", "--lr_decay=nan",
    "--width=0", "--reference_width=0"]
WITH_WORKERS = [
    "0_1_convert_raw", "0_make_demo", "0_2_tissue_mask", "1_cropped_multi_level_patch", "4_feature_extraction",
    "Step2_registration_ANTs"]
WRONG = [(script, option) for script, option in itertools.product(("main", "main_3d"), OF_MAINS)]
WRONG += [(script, "--num_workers=0") for script in WITH_WORKERS] + [("predict_3d", "--fold=-1")]


@pytest.mark.parametrize("script, option", WRONG)
def test_an_option_that_makes_no_sense_is_one_line(tmp_path, capsys, script, option):
    with pytest.raises(SystemExit) as ended:
        load_script(script).main(["--root_path", str(tmp_path), option])
    line = capsys.readouterr().err
    name, _, value = option.partition("=")
    assert ended.value.code == 2 and line.count("\n") == 1
    assert line.startswith(f"error: {name}: found '{value}'; expected ") and "fix: " in line
    assert not list(tmp_path.iterdir())


# z ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("values, z_um", [
    ({"layers": "[1, 4, 9]"}, [0, 30, 80]), ({"layers": "[1, 4, 9]", "skip": "[1]"}, [0, 30, 80]),
    ({"layers": "[4, 9]"}, [0, 50]), ({"layers": "[1, 4, 9]", "z_um": "{1: 7, 4: 9.5, 9: 100}"}, [7, 9.5, 100])])
def test_z_comes_from_the_number_or_is_given(tmp_path, values, z_um):
    config = resolved(tmp_path, f"section_thickness_um: 10\n{sample(**values)}")
    assert [z_um_of(config, "A", layer) for layer in config.samples["A"].layers] == z_um


@pytest.mark.parametrize("z_um", [{}, {1: 0, 4: 55, 9: 1000}])
def test_distance_to_known_is_in_space(z_um):
    graph = toy_graph()  # layers 1, 2, 3 in register, 10 px a pitch
    graph.layer[graph.layer == 3] = 9
    graph.layer[graph.layer == 2] = 4
    samples = {"T": {"layers": [1, 4, 9], "z_um": z_um}}
    values = {"dataset": "d", "pitch_px": 10, "section_thickness_um": 20, "samples": samples}
    config, pixel_um = validate(values, "c"), 3.0
    predicted = {"expression": torch.zeros_like(graph.label).numpy()}
    predict = load_script("predict_3d").section_in_stack
    genes = [f"G{k}" for k in range(graph.n_genes)]
    known = graph.in_layers([1]).numpy()
    parts = {layer: predict(graph, layer, predicted, genes, known, config, pixel_um, 500.0, None, {})
             for layer in (1, 4, 9)}
    space = {layer: one.obsm["spatial_3d"] for layer, one in parts.items()}
    assert {layer: one[0, 2] for layer, one in space.items()} == (z_um or {1: 0, 4: 60, 9: 160})
    for layer, one in parts.items():
        brute = np.linalg.norm(space[layer][:, None] - space[1], axis=2).min(axis=1)
        np.testing.assert_allclose(one.obs["distance_to_known"], brute)
    assert (parts[1].obs["distance_to_known"] == 0).all() and parts[4].obs["distance_to_known"].min() >= space[4][0, 2]
