"""The config of a dataset: keys, values, samples and sections."""
from pathlib import Path

import pytest
import yaml
from folders import touch

from common.config import Config, SampleConfig, load_config, resolve, save_config, validate
from common.errors import DataError
from common.layout import Layout


# the file --------------------------------------------------------------------------------------------
def config_file(folder: Path, **values) -> Path:
    path = folder / "c.yaml"
    path.write_text(yaml.safe_dump({"dataset": "d", "pitch_px": 272, **values}))
    return path


@pytest.mark.parametrize("values, expected", [
    ({"pitch_pxx": 3}, r"unknown key 'pitch_pxx'.*fix: .*'pitch_px'"),
    ({"gene": "hvg"}, r"unknown key 'gene'.*fix: .*'genes'"),
    ({"zebra": 3}, r"unknown key 'zebra'.*fix: remove it"),
    ({"samples": {"A": {"layer": [1]}}}, r"unknown key 'samples.A.layer'.*known_layers, layers, .*fix: .*'layers'"),
    ({"pitch_px": "wide"}, r"'pitch_px: 'wide''.*number.*correct 'pitch_px'"),
    ({"pitch_px": 0}, r"'pitch_px: 0.0'.*greater than 0"),
    ({"pitch_um": True}, r"'pitch_um: True'"),
    ({"n_genes": 2.5}, r"'n_genes: 2.5'.*integer"),
    ({"n_genes": "250"}, r"'n_genes: '250''"),
    ({"array": "round"}, r"'array: 'round''.*'square' or 'hex'"),
    ({"samples": {"A": {"layers": ["1"]}}}, r"'samples.A.layers.0: '1''"),
    ({"exclude_prefixes": "MT-"}, r"'exclude_prefixes: 'MT-''.*list"),
])
def test_a_wrong_key_or_value_is_one_clear_line(tmp_path, values, expected):
    path = config_file(tmp_path, **values)
    with pytest.raises(DataError, match=expected) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: found ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("text, expected", [
    ("pitch_px: 3\n", "no key 'dataset'"),
    ("- a\n- b\n", "found list; expected a YAML mapping"),
    ("", "found NoneType"),
    ("a: [1,\nb: }", "invalid YAML"),
])
def test_a_file_that_is_no_config_is_refused(tmp_path, text, expected):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(DataError, match=expected) as caught:
        load_config(tmp_path / "c.yaml")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="no_such.yaml: found no file"):
        load_config(tmp_path / "no_such.yaml")


def test_int_is_accepted_where_a_float_is_meant_and_a_number_as_sample_name(tmp_path):
    config = load_config(config_file(tmp_path, pitch_px=68, pixel_size_um=3, section_thickness_um=16,
                                     samples={7: {"layers": [1]}, "B": None}))
    assert (config.pitch_px, config.pixel_size_um, config.section_thickness_um) == (68.0, 3.0, 16.0)
    assert all(type(value) is float for value in (config.pitch_px, config.pixel_size_um, config.section_thickness_um))
    assert list(config.samples) == ["7", "B"] and config.samples["B"] == SampleConfig()


@pytest.mark.parametrize("pair", [{}, {"landmarks": "a.csv", "transform": "b.json"}])
def test_a_pair_is_given_in_one_way(pair):
    with pytest.raises(DataError, match="either landmarks or transform.*correct 'samples.A.pairs.1_to_2'"):
        stack_config(A={"layers": [1, 2], "pairs": {"1_to_2": pair}})


def stack_config(**samples) -> Config:
    return validate({"dataset": "d", "pitch_px": 272, "samples": samples}, "c.yaml")


def test_restricted_keeps_what_is_asked_for():
    config = stack_config(A={"layers": [1, 2, 3]}, B={"layers": [2]}, C={"layers": [9]})

    def listed(one: Config) -> dict[str, list[int]]:
        return {name: sample.layers for name, sample in one.samples.items()}

    assert listed(config.restricted(None, None, "c")) == {"A": [1, 2, 3], "B": [2], "C": [9]}
    assert listed(config.restricted(["B", "A"], None, "c")) == {"A": [1, 2, 3], "B": [2]}
    assert listed(config.restricted(None, [3, 2], "c")) == {"A": [2, 3], "B": [2]}
    assert listed(config.restricted(["A"], [3], "c")) == {"A": [3]}
    assert listed(config) == {"A": [1, 2, 3], "B": [2], "C": [9]}  # the original is untouched
    with pytest.raises(DataError, match="X, Z; expected .*A, B, C; fix: .*--sample"):
        config.restricted(["Z", "A", "X"], None, "c")
    with pytest.raises(DataError, match=r"\[9\]; expected .*\[1, 2, 3\]; fix: .*--layer"):
        config.restricted(["A"], [1, 9], "c")


def test_skipped_layers_are_listed_but_not_worked_on(tmp_path):
    config = resolve(stack_config(A={"layers": [3, 1, 2], "skip": [2]}), Layout(tmp_path), "c")
    assert config.samples["A"].layers == [1, 2, 3] and config.layers_of("A") == [1, 3]


def test_resolve_finds_samples_and_layers_on_disk(tmp_path):
    names = ("imgs/A/10.jpg", "imgs/A/2.SVS", "imgs/A/notes.jpg", "imgs/A/5.txt", "imgs/A/.4.k3.jpg",
             "location/B/7.csv", "counts/A/3.h5ad", "counts/B/7.h5ad", "truth/C/1.npz")
    touch(*(tmp_path / name for name in names))
    config = resolve(validate({"dataset": "d", "pitch_px": 272}, "c"), Layout(tmp_path), "c")
    assert {name: one.layers for name, one in config.samples.items()} == {"A": [2, 3, 10], "B": [7]}
    only_a = resolve(stack_config(A={"skip": [3], "known_layers": [10]}), Layout(tmp_path), "c")
    assert list(only_a.samples) == ["A"] and only_a.layers_of("A") == [2, 10]
    save_config(config, tmp_path / "dataset.yaml")
    assert load_config(tmp_path / "dataset.yaml") == config


@pytest.mark.parametrize("values, expected", [
    ({}, "imgs/<sample>/<layer>"),
    ({"samples": {"Q": {}}}, "'Q'.*imgs/Q/<layer>"),
    ({"samples": {"A": {"layers": [1], "known_layers": [4]}}}, r"samples.A.known_layers \[4\]; expected .*\[1\]"),
    ({"samples": {"A": {"layers": [1]}}, "folds": [["A", "X"]]}, "folds .*X; expected .*A; fix: .*folds"),
])
def test_resolve_refuses_what_is_not_there(tmp_path, values, expected):
    with pytest.raises(DataError, match=expected):
        resolve(validate({"dataset": "d", "pitch_px": 272, **values}, "c"), Layout(tmp_path), "c")
