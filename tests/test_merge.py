"""A person's edits of dataset.yaml survive a second conversion."""
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ROOT, load_script
from hypothesis import given, settings, strategies as st
from PIL import Image
from test_convert_her2st import COUNTS, SPOTS, add_layer

from common.config import load_config
from common.layout import Layout
from common.merge import merged

convert, demo = load_script("0_1_convert_raw"), load_script("0_make_demo")
TINY = ["--n_samples", "1", "--n_layers", "2", "--size_px", "544"]


def config(n_genes: int = 250, refinement: str = "affine", **samples: dict) -> dict:
    empty = {"layers": [], "known_layers": None, "skip": [], "raw": {}, "images": {}, "pixel_size_um": {}, "pairs": {}}
    return {"dataset": "d", "n_genes": n_genes, "refinement": refinement, "raw_path": "/raw", "raw_format": "visium",
            "samples": {name: empty | one for name, one in samples.items()}}


PAIR = {"2_to_1": {"landmarks": "a.csv", "transform": None}}
BASE = config(C={"layers": [1, 2], "pixel_size_um": {1: 0.7, 2: 0.73}})


# the merge -------------------------------------------------------------------------------------------
def test_a_persons_value_stays_and_what_nobody_touched_is_updated():
    new = config(C={"layers": [1, 2, 4], "pixel_size_um": {1: 0.7, 2: 0.74, 4: 0.7}})
    one = {"layers": [1, 2], "known_layers": [2], "pixel_size_um": {1: 0.7, 2: 0.73}, "pairs": PAIR}
    there = config(refinement="syn", C=one)
    values, changes = merged(BASE, new, there)
    one = values["samples"]["C"]
    assert values["refinement"] == "syn" and one["known_layers"] == [2] and one["pairs"] == PAIR
    assert one["layers"] == [1, 2, 4] and one["pixel_size_um"] == {1: 0.7, 2: 0.74, 4: 0.7}
    assert changes.lines() == ["kept refinement: syn, samples.C.known_layers: [2], "
                               "samples.C.pairs.2_to_1: {landmarks: a.csv, transform: null}",
                               "added C/4", "updated samples.C.pixel_size_um.2 0.73 -> 0.74"]


def test_a_key_that_both_changed_stays_and_both_values_are_named():
    values, changes = merged(BASE, BASE | {"n_genes": 300}, BASE | {"n_genes": 2000})
    assert values["n_genes"] == 2000 and all(text in changes.conflicts[0] for text in ("n_genes", "2000", "300"))
    values, changes = merged(BASE, BASE | {"n_genes": 2000}, BASE | {"n_genes": 2000})
    assert values["n_genes"] == 2000 and changes.lines() == []


def test_a_pixel_size_that_a_person_wrote_stays_and_a_measurement_of_another_one_is_named():
    there = config(C={"layers": [1, 2], "pixel_size_um": {1: 0.72, 2: 0.5}})
    values, changes = merged(BASE, BASE, there)
    assert values["samples"]["C"]["pixel_size_um"] == {1: 0.72, 2: 0.5}
    said, = changes.conflicts
    assert all(text in said for text in ("samples.C.pixel_size_um.2", "0.5", "0.73"))


def test_a_layer_that_the_raw_data_lost_goes_unless_a_person_names_it():
    new = config(C={"layers": [1], "pixel_size_um": {1: 0.7}})
    values, changes = merged(BASE, new, BASE)
    assert values["samples"]["C"]["layers"] == [1] and values["samples"]["C"]["pixel_size_um"] == {1: 0.7}
    assert changes.lines() == ["removed C/2"]
    there = config(C={"layers": [1, 2], "pixel_size_um": {1: 0.7, 2: 0.73}, "pairs": PAIR})
    values, changes = merged(BASE, new, there)
    assert values["samples"]["C"] == there["samples"]["C"] and not changes.removed
    assert len(changes.conflicts) == 1 and "C/2" in changes.conflicts[0] and "pairs.2_to_1" in changes.conflicts[0]


def test_a_layer_that_a_person_removed_stays_away_unless_it_is_asked_for():
    there = config(C={"layers": [1], "pixel_size_um": {1: 0.7}})
    assert merged(BASE, BASE, there)[0]["samples"]["C"]["layers"] == [1]
    assert merged(BASE, BASE, there, [("C", 2)])[0]["samples"]["C"] == BASE["samples"]["C"]
    two = config(C=BASE["samples"]["C"], D={"layers": [1], "raw": {1: "d1"}, "known_layers": [1]})
    values, changes = merged(two, two, BASE)
    assert set(values["samples"]) == {"C"} and changes.kept == ["samples without D"]
    assert merged(two, two, BASE, [("D", 1)])[0] == two


def test_without_a_base_every_value_that_differs_is_a_persons():
    there = config(n_genes=2000, C={"layers": [1, 2, 3], "pixel_size_um": {1: 0.7, 2: 0.73}})
    values, changes = merged(None, BASE, there)
    assert values == there and changes.kept == ["n_genes: 2000", "C/3"]


sample_of = st.fixed_dictionaries({"layers": st.lists(st.integers(1, 4), min_size=1, unique=True).map(sorted),
                                   "skip": st.sampled_from([[], [1]])})
values_of = st.fixed_dictionaries({"n_genes": st.sampled_from([250, 300, 2000]),
                                   "refinement": st.sampled_from(["affine", "syn", "none"]), "C": sample_of})


@given(values_of, values_of, values_of)
@settings(deadline=None)
def test_no_edit_is_lost_and_a_merge_is_stable(base, new, there):
    base, new, there = config(**base), config(**new), config(**there)
    values, _ = merged(base, new, there)
    for key in ("n_genes", "refinement"):
        assert values[key] == (there[key] if there[key] != base[key] else new[key])
    added = set(there["samples"]["C"]["layers"]) - set(base["samples"]["C"]["layers"])
    assert added <= set(values["samples"].get("C", {"layers": []})["layers"])
    assert merged(new, new, values)[0] == values  # a third conversion of the same raw data changes nothing
    assert merged(base, base, there)[0] == there


# step 0_1 --------------------------------------------------------------------------------------------
@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for layer in (1, 2):
        add_layer(tmp_path / "raw", "C", layer, COUNTS, SPOTS)
    return tmp_path / "raw"


def run(raw: Path, root: Path, *options: str) -> int:
    return convert.main(["--format", "her2st", "--raw_path", str(raw), "--root_path", str(root), *options])


def edit(layout: Layout, change) -> None:
    values = yaml.safe_load(layout.config.read_text())
    change(values)
    layout.config.write_text(yaml.safe_dump(values, sort_keys=False))


def test_a_second_conversion_keeps_what_a_person_wrote(raw, tmp_path, capsys):
    """The issue's case. A new layer is added, and a third conversion says the same again."""
    layout = Layout(tmp_path / "root")
    assert run(raw, layout.root) == 0

    def change(values: dict) -> None:
        values.update(refinement="syn", n_genes=2000)
        values["samples"]["C"].update(known_layers=[2], pairs={"2_to_1": {"landmarks": "marks.csv"}}, skip=[1])
    edit(layout, change)
    add_layer(raw, "C", 3, COUNTS, SPOTS)
    for _ in range(2):
        capsys.readouterr()
        assert run(raw, layout.root, "--overwrite") == 0
        config, said = load_config(layout.config), capsys.readouterr().out
        one = config.samples["C"]
        assert config.refinement == "syn" and config.n_genes == 2000 and one.known_layers == [2]
        assert one.skip == [1] and one.pairs["2_to_1"].landmarks == "marks.csv" and one.layers == [1, 2, 3]
        assert "kept refinement: syn" in said and "samples.C.known_layers: [2]" in said
    written = layout.config.stat().st_mtime_ns
    assert run(raw, layout.root) == 0 and layout.config.stat().st_mtime_ns == written  # nothing to say, nothing written


def test_a_file_without_a_base_is_that_of_a_person(raw, tmp_path, capsys):
    """A root of an earlier version."""
    layout = Layout(tmp_path / "root")
    assert run(raw, layout.root) == 0
    shutil.rmtree(layout.root / ".recipes")
    edit(layout, lambda values: values.update(section_thickness_um=10.0))
    assert run(raw, layout.root) == 0 and load_config(layout.config).section_thickness_um == 10
    assert "kept section_thickness_um: 10.0" in capsys.readouterr().out
    assert run(raw, layout.root) == 0 and load_config(layout.config).section_thickness_um == 10


def test_comments_are_kept_in_a_file_beside(raw, tmp_path, capsys):
    layout = Layout(tmp_path / "root")
    assert run(raw, layout.root) == 0
    layout.config.write_text("# look at 2 again\n" + layout.config.read_text())
    text = layout.config.read_text()
    assert run(raw, layout.root) == 0 and layout.config.read_text() == text  # nothing new: the file stays
    add_layer(raw, "C", 3, COUNTS, SPOTS)
    assert run(raw, layout.root) == 0
    assert (layout.root / "dataset.yaml.bak").read_text() == text and "dataset.yaml.bak" in capsys.readouterr().out


def test_a_broken_file_of_a_person_is_one_line_and_stays(raw, tmp_path, capsys):
    layout = Layout(tmp_path / "root")
    assert run(raw, layout.root) == 0
    layout.config.write_text("dataset: mine\nrefinment: syn\n")
    assert run(raw, layout.root) == 2
    error = capsys.readouterr().err
    assert "dataset.yaml" in error and "refinment" in error and error.count("\n") == 1
    assert layout.config.read_text() == "dataset: mine\nrefinment: syn\n"


def test_an_image_that_a_person_named_is_converted(raw, tmp_path, capsys):
    layout = Layout(tmp_path / "root")
    assert run(raw, layout.root) == 0
    (raw / "sharper.jpg").write_bytes(b"a sharper scan")
    edit(layout, lambda values: values["samples"]["C"].update(images={2: "sharper.jpg"}))
    assert run(raw, layout.root) == 0 and layout.image("C", 2).read_bytes() == b"a sharper scan"
    edit(layout, lambda values: values["samples"]["C"].update(images={2: "sharpr.jpg"}))
    assert run(raw, layout.root) == 2 and "samples.C.images.2: sharpr.jpg" in capsys.readouterr().err


def test_a_config_that_names_the_sample_otherwise_replaces_the_listing(raw, tmp_path):
    """Without --sample and --layer the listing is that of the config and the raw data; an untouched one is not kept."""
    from test_convert_visium import add_folder
    add_folder(tmp_path / "block7/section1")
    layout = Layout(tmp_path / "root")
    options = ["--raw_path", str(tmp_path / "block7"), "--root_path", str(layout.root)]
    assert convert.main(["--format", "visium", *options]) == 0 and set(load_config(layout.config).samples) == {"block7"}
    own = yaml.safe_load((ROOT / "configs/visium.yaml").read_text()) | {"samples": {"m": {"raw": {1: "section1"}}}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(own))
    assert convert.main(["--config", str(tmp_path / "mine.yaml"), *options]) == 0
    assert set(load_config(layout.config).samples) == {"m"}


def test_another_raw_folder_adds_its_samples(tmp_path):
    from test_convert_visium import add_folder
    layout = Layout(tmp_path / "root")
    for block in ("block7", "block8"):
        add_folder(tmp_path / block / "section1")
        options = ["--raw_path", str(tmp_path / block), "--root_path", str(layout.root)]
        assert convert.main(["--format", "visium", *options]) == 0
    config = load_config(layout.config)
    assert set(config.samples) == {"block7", "block8"} and config.raw_path == str(tmp_path / "block8")


def test_the_workflow_keeps_what_a_person_wrote_and_converts_what_is_asked_for_next(raw, tmp_path):
    """Snakemake deletes the outputs of a rule before it runs it: dataset.yaml must be none. The first steps, really."""
    layout = Layout(tmp_path / "root")
    for layer in (1, 2):
        Image.fromarray(np.full((2000, 2000, 3), 200, np.uint8)).save(raw / f"ST-imgs/C/C{layer}/HE_BT.jpg")
    command = [sys.executable, "-m", "snakemake", "--profile", str(ROOT / "workflow/profiles/default"),
               "-s", str(ROOT / "workflow/Snakefile"), "--cores", "1"]

    def workflow(*layers: int) -> None:
        targets = [str(layout.done("0_2_tissue_mask", "C", layer)) for layer in layers]
        settings = [f"root_path={layout.root}", f"raw_path={raw}", "samples=C", f"layers={','.join(map(str, layers))}"]
        answer = subprocess.run([*command, *targets, "--config", *settings], cwd=tmp_path, capture_output=True,
                                text=True)
        assert answer.returncode == 0, answer.stderr
    for expected in ([1], [1, 2]):
        workflow(*expected)
        assert load_config(layout.config).samples["C"].layers == expected
        edit(layout, lambda values: values.update(refinement="syn"))
    assert load_config(layout.config).refinement == "syn"
    assert all(layout.done("0_2_tissue_mask", "C", layer).is_file() for layer in (1, 2))
    written = layout.config.stat().st_mtime_ns, layout.location("C", 1).stat().st_mtime_ns
    shutil.rmtree(layout.root / ".done")  # as the README advises after an input was exchanged
    workflow(1, 2)
    assert load_config(layout.config).refinement == "syn" and layout.config.stat().st_mtime_ns == written[0]
    assert layout.location("C", 1).stat().st_mtime_ns > written[1]


# the demo --------------------------------------------------------------------------------------------
def test_the_demo_made_again_keeps_what_a_person_wrote(tmp_path, capsys):
    layout = Layout(tmp_path)
    assert demo.main(["--root_path", str(tmp_path), *TINY]) == 0
    edit(layout, lambda values: (values.update(refinement="none"), values["samples"]["A"].update(known_layers=[2])))
    capsys.readouterr()
    assert demo.main(["--root_path", str(tmp_path), *TINY]) == 0
    said = capsys.readouterr().out
    config = load_config(layout.config)
    assert config.refinement == "none" and config.samples["A"].known_layers == [2]
    assert "kept refinement: none, samples.A.known_layers: [2]" in said and said.count("up to date") == 2


def test_dataset_yaml_given_as_the_config_makes_no_base_of_a_persons_edits(raw, tmp_path):
    layout = Layout(tmp_path / "root")
    assert run(raw, layout.root) == 0
    edit(layout, lambda values: values.update(n_genes=2000))
    assert convert.main(["--config", str(layout.config), "--root_path", str(layout.root)]) == 0
    assert run(raw, layout.root) == 0 and load_config(layout.config).n_genes == 2000


def test_a_section_that_a_person_added_with_its_pixel_size_is_converted(tmp_path, capsys):
    """A photograph without metadata: its pixel size is in dataset.yaml, so nothing is asked for."""
    from test_convert_visium import add_folder
    layout, raw = Layout(tmp_path / "root"), tmp_path / "block"
    add_folder(raw / "section1")
    Image.new("RGB", (300, 200)).save(raw / "next.png")
    options = ["--format", "visium", "--raw_path", str(raw), "--root_path", str(layout.root)]
    assert convert.main(options) == 0

    def change(values: dict) -> None:
        one = values["samples"]["block"]
        one.update(layers=[1, 2], images={2: "next.png"}, pixel_size_um=one["pixel_size_um"] | {2: 3.5})
    edit(layout, change)
    capsys.readouterr()
    for _ in range(2):
        assert convert.main(options) == 0, capsys.readouterr().err
        one = load_config(layout.config).samples["block"]
        assert layout.image("block", 2) is not None and one.layers == [1, 2] and one.pixel_size_um[2] == 3.5
