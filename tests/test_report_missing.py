"""report.py on runs that lack files, on 2D runs and on processed archives: the page names what is missing."""
import html
import re
import shutil

import anndata
import pytest
from report_pages import SAMPLE, build, make_flat, maps, page_of, report, words

from common.config import SampleConfig, load_config, save_config
from common.contract.registration import EVIDENCE
from common.io import read_json, write_h5ad, write_json
from common.layout import Layout, RunLayout
from report_parts.gather import NOTHING_TRAINED
from report_parts.numbers import ROLES, UNTESTED


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Layout, RunLayout]:
    layout, run = Layout(tmp_path_factory.mktemp("root")), RunLayout(tmp_path_factory.mktemp("run"))
    build(layout, run)
    return layout, run


@pytest.fixture
def own(made, tmp_path) -> tuple[Layout, RunLayout]:
    """A copy of root and run that a test may change."""
    layout, run = made
    shutil.copytree(layout.root, tmp_path / "root")
    shutil.copytree(run.root, tmp_path / "run")
    return Layout(tmp_path / "root"), RunLayout(tmp_path / "run")


@pytest.mark.parametrize("what, named", [
    ("metrics_json", "metrics.json: found no file"),
    ("splits", "splits.json: found no file"),
    ("runtime", "runtime.json: found no file"),
    ("genes", "genes.csv: found no file"),
    ("config", "config.yaml: found no file"),
    ("tensorboard", "No training curves"),
    ("imputed", "1.h5ad: found no file"),
    ("quality", "quality.json: found no file"),
    ("overlay", "1_to_3.jpg: found no file"),
    ("thumbnail", ""),
    ("confidence", "No confidence maps"),
    ("keys", "another version")])
def test_what_is_missing_is_named_in_its_place(own, what, named):
    layout, run = own
    if what == "overlay":
        layout.overlay(SAMPLE, 1, 3).unlink()
    elif what == "thumbnail":
        layout.thumbnail(SAMPLE, 1).unlink()
    elif what == "quality":
        layout.quality(SAMPLE).unlink()
    elif what == "tensorboard":
        shutil.rmtree(run.tensorboard(0))
    elif what == "imputed":
        for layer in (1, 2, 3):
            run.imputed(SAMPLE, layer).unlink()
    elif what == "confidence":
        for layer in (1, 2, 3):
            adata = anndata.read_h5ad(run.imputed(SAMPLE, layer))
            del adata.obs["confidence"]
            write_h5ad(run.imputed(SAMPLE, layer), adata)
    elif what == "keys":
        write_json(layout.quality(SAMPLE), {"pairs": [{"moving": 1}], "to_middle": {}, "left_out": []})
    else:
        getattr(run, what).unlink()
    text = html.unescape(page_of(layout, run))
    assert named in text and "How this was made" in text and "Traceback" not in text
    assert ("<canvas" in text) == (what not in ("imputed", "genes"))


def test_a_pair_by_hand_that_was_not_measured_is_shown_without_these_numbers(own):
    """A transform that folds the section is refused before the gate measures anything."""
    layout, run = own
    quality = read_json(layout.quality(SAMPLE))
    for pair in quality["pairs"]:
        pair |= {"accepted": False, "reasons": ["it folds the section"]}
        for name in EVIDENCE:
            pair.pop(name, None)
    write_json(layout.quality(SAMPLE), quality)
    text = page_of(layout, run)
    assert text.count("REFUSED: it folds the section") == len(quality["pairs"]) and "matches that agree" not in text


@pytest.mark.parametrize("file, key, value",
                         [("metrics_json", "mse", "0.2"), ("runtime", "command", ["main_3d.py", 3])])
def test_a_value_of_another_type_is_named_and_the_rest_is_shown(own, file, key, value):
    layout, run = own
    path = getattr(run, file)
    values = read_json(path)
    place = values["methods"]["msagnet"]["pooled"] if file == "metrics_json" else values
    place[key] = value
    write_json(path, values)
    text = html.unescape(page_of(layout, run))
    assert str(path) in text and repr(value) in text and "<canvas" in text


def test_an_empty_run_folder_is_a_page_and_none_an_error(made, tmp_path, capsys):
    text = page_of(made[0], RunLayout(tmp_path))
    assert "splits.json: found no file" in text and "No maps" in text and "No 3D view" in text
    assert report.main(["--root_path", str(made[0].root), "--save_path", str(tmp_path / "none")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "found no folder" in error and "main_3d.py" in error


def test_a_skipped_layer_is_not_of_the_run(own):
    layout, run = own
    config = load_config(layout.config)
    samples = {SAMPLE: SampleConfig(layers=[1, 2, 3, 4], skip=[2])}
    save_config(config.model_copy(update={"samples": samples}), layout.config)
    text = words(page_of(layout, run))
    assert "3 sections 1 known 3 image-only 4 image-only" in text and ROLES["target"] not in text


def test_a_2d_run_has_training_layers_and_no_stack(own):
    layout, run = own
    make_flat(run, folds=True)
    page = page_of(layout, run)
    text = words(page)
    assert "4 sections 1 training 2 target 3 image-only 4 image-only" in text
    assert "training : measured;" in text and "1.h5ad" not in text and "predict_3d.py" not in text
    assert "another version" not in text and "refused" not in text
    assert "No 3D view" in text and "No registration" in text and "<canvas" not in page
    assert "1× = mean of the predictions" in text
    assert any(name == "ERBB2, predicted, section 2" for name, *_ in maps(page))
    run.imputed(SAMPLE, 2).unlink()
    text = words(page_of(layout, run))
    assert "2.h5ad: found no file;" in text and "fix: run main.py first" in text


def test_a_run_with_a_given_checkpoint_shows_its_maps_and_no_scores(own):
    layout, run = own
    make_flat(run, folds=False)
    page = page_of(layout, run)
    text = words(page)
    assert {name for name, *_ in maps(page)} >= {f"ERBB2, predicted, section {layer}" for layer in (1, 2, 3)}
    assert "<canvas" not in page
    assert text.count(NOTHING_TRAINED) == 3 and "main.py --checkpoint" in NOTHING_TRAINED and "main_3d.py" not in text
    assert ROLES["target"] not in text and UNTESTED["target"] in text and "another version" not in text
    adata = anndata.read_h5ad(run.imputed(SAMPLE, 2))
    del adata.layers["measured"]  # of a network for other genes than the root's
    write_h5ad(run.imputed(SAMPLE, 2), adata)
    counts = layout.counts(SAMPLE, 2)
    counts.parent.mkdir(parents=True)
    counts.touch()
    text = words(page_of(layout, run))
    assert "Section 2 target no measurement of these genes" in text and "Section 3 image-only not measured" in text


def test_the_layers_of_an_archive_show_what_share_of_their_spots_agrees(own):
    layout, run = own

    def verdict(accepted: bool, agreeing: float) -> dict:
        return {"accepted": accepted, "method": "weights" if accepted else "centroid", "agreeing": agreeing}

    quality = {"sample": SAMPLE, "layers": [1, 2, 3], "middle": 2, "left_out": [], "pairs": [],
               "to_middle": {"1": verdict(True, 0.874), "2": verdict(True, 1.0), "3": verdict(False, 0.31)}}
    write_json(layout.quality(SAMPLE), quality)
    layout.stack_view(SAMPLE).unlink()
    text = words(page_of(layout, run))
    assert re.search(r"Section 1 : 87% of its spots [^;]*; accepted", text) and "Section 2 : the middle one" in text
    assert re.search(r"Section 3 : 31% of its spots [^;]*; REFUSED", text) and "nothing to register" not in text
    assert "stack.jpg: found no file;" in text and "registration/Step3_registertoMiddle_ANTs.py" in text
    write_json(layout.quality(SAMPLE), quality | {"layers": [2], "to_middle": {"2": verdict(True, 1.0)}})
    assert "One section: nothing to register" in words(page_of(layout, run))
