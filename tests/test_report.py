"""report.py: one page that stands alone, escapes what it shows, keeps one colour scale a gene, says what is missing, works in a browser."""
import base64
import html
import io
import json
import re
import shutil
import subprocess

import anndata
import numpy as np
import pandas as pd
import pytest
from conftest import load_script
from PIL import Image

from common.config import Config, SampleConfig, load_config, save_config
from common.io import read_json, write_h5ad, write_json, write_picture, write_table
from common.layout import Layout, RunLayout
from report_parts import gather
from report_parts.charts import nice_ticks
from report_parts.colours import error_scale, expression_scale, lut
from report_parts.view3d import POSITION_STEPS

report = load_script("report")
SAMPLE, GENE = "block 7-ü.b", "<script>alert(2)<b>"  # odd, as a sample may be named; as wicked as a gene can be named
GENES = [GENE, "ERBB2", "flat", "worse"]
PITCH_PX, THUMBNAIL_SCALE = 40.0, 2.0   # level-0 px; level-0 px per thumbnail px
UM_PER_PX = 5.0
SIDE_SPOTS = 9
QUALITY = {"accepted": True, "reasons": [], "warnings": ["one <piece> moved"], "method": "xfeat", "refinement": "affine", "inliers": 50,
           "matches": 80, "rotation_deg": 1.0, "scale_um_x": 1.0, "scale_um_y": 1.0, "shear": 0.0,
           "before": {"tissue_dice": 0.5, "image_correlation": 0.1}, "after": {"tissue_dice": 0.9, "image_correlation": 0.6}}
CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


def spots(step_px: float) -> np.ndarray:
    """(n, 2) level-0 px: a square grid about the middle of a 600 x 500 slide."""
    ticks = np.arange(0, (SIDE_SPOTS - 1) * PITCH_PX + 1, step_px)
    return np.stack(np.meshgrid(120 + ticks, 90 + ticks), axis=-1).reshape(-1, 2)


def write_layer(layout: Layout, run: RunLayout, layer: int, step_px: float, known: bool, measured: bool) -> None:
    generator = np.random.default_rng(layer)
    pixel = spots(step_px)
    wave = np.sin(pixel[:, 0] / 90)
    true = -1.4 + np.stack([wave, np.cos(pixel[:, 1] / 60), 0.5 * wave, 0.5 * wave], axis=1)  # (n, G)
    noise = generator.normal(0, 1, true.shape) * [0.05, 0.4, 0.8, 1.6]
    obs = pd.DataFrame({"sample": SAMPLE, "layer": layer, "known": known, "confidence": np.linspace(0.2, 0.9, len(pixel)),
                        "distance_to_known": 30.0}, index=[f"{layer}_{k}" for k in range(len(pixel))])
    adata = anndata.AnnData(true.astype(np.float32), obs=obs, var=pd.DataFrame(index=GENES))
    adata.obsm["spatial"] = pixel
    turned = pixel @ np.array([[0.8, 0.6], [-0.6, 0.8]]) * UM_PER_PX + [700, -50]
    adata.obsm["spatial_3d"] = np.column_stack([turned, np.full(len(pixel), 16.0 * layer)])
    if measured:
        adata.layers["measured"] = (true + noise).astype(np.float32)
        adata.layers["measured"][0] = np.nan  # a spot without counts
    write_h5ad(run.imputed(SAMPLE, layer), adata)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Layout, RunLayout]:
    """A root and a run as the pipeline writes them: 1 known, 2 target (registration refused), 3 image-only on a dense grid, 4 left out."""
    from torch.utils.tensorboard import SummaryWriter
    layout, run = Layout(tmp_path_factory.mktemp("root")), RunLayout(tmp_path_factory.mktemp("run"))
    config = Config(dataset="toy", samples={SAMPLE: SampleConfig(layers=[1, 2, 3, 4])}, pitch_px=PITCH_PX)
    save_config(config, layout.config)
    save_config(config, run.config)
    generator = np.random.default_rng(0)
    for layer in (1, 2, 3):
        rgb = blotches(generator)
        mask = np.zeros((250, 300), np.uint8)
        mask[35:225, 50:240] = 255
        write_picture(layout.thumbnail(SAMPLE, layer), rgb)
        write_picture(layout.mask(SAMPLE, layer), mask)
        write_json(layout.thumbnail_info(SAMPLE, layer), {"scale": [THUMBNAIL_SCALE] * 2})
    for moving, fixed in ((1, 3), (2, 3)):
        write_picture(layout.overlay(SAMPLE, moving, fixed), np.tile(blotches(generator)[:80, :80], (1, 3, 1)))
    write_picture(layout.stack_view(SAMPLE), blotches(generator))
    refused = {**QUALITY, "accepted": False, "reasons": ["tissue Dice 0.3 < 0.7"]}
    write_json(layout.quality(SAMPLE), {"sample": SAMPLE, "layers": [1, 2, 3], "middle": 3, "left_out": [4],
                                        "pairs": [{"moving": 1, "fixed": 3, **QUALITY}, {"moving": 2, "fixed": 3, **refused}],
                                        "to_middle": {str(layer): {"accepted": layer != 2} for layer in (1, 2, 3)}})
    write_json(layout.status, {f"{SAMPLE}/4": {"0_2_tissue_mask": "left out: no <tissue>"}})
    write_layer(layout, run, 1, PITCH_PX, True, True)
    write_layer(layout, run, 2, PITCH_PX, False, True)
    write_layer(layout, run, 3, PITCH_PX / 4, False, False)
    write_table(run.genes, pd.DataFrame({"gene": GENES}))
    fold = {"index": 0, "test_samples": [SAMPLE], "training_layers": {SAMPLE: [1]}, "known_layers": {SAMPLE: [1]},
            "target_layers": {SAMPLE: [2]}}
    write_json(run.splits, {"method": "msagnet", "folds": [fold], "kernels": {}})
    score = lambda value: {"mse": 1 - value, "mae": 0.5 - value / 10, "pcc_spot": 0.7 + value / 10, "pcc_gene": value, "scc_gene": value}
    both = lambda value: {"pooled": score(value), "layers": {f"{SAMPLE}/2": score(value)}}
    top = {"pcc_spot": 0.9, "pcc_gene": 0.71}
    write_json(run.metrics_json, {"methods": {"mean": both(0.0), "kernel": both(0.31), "gp": both(0.42), "msagnet": both(0.37)},
                                  "ceiling": {"pooled": top, "layers": {f"{SAMPLE}/2": top}},
                                  "recipe": {"method": "msagnet", "seed": 7, "config_sha256": "c0ffee"}})
    write_json(run.runtime, {"seconds": 12.5, "command": ["main_3d.py", "--root_path", "a b"], "versions": {"torch": "9.9"}})
    with SummaryWriter(str(run.tensorboard(0))) as writer:
        for step in range(0, 100, 10):
            writer.add_scalar("train/loss", 1 / (step + 1), step)
            writer.add_scalar("train/spot", 0.5 / (step + 1), step)
    return layout, run


@pytest.fixture
def own(made, tmp_path) -> tuple[Layout, RunLayout]:
    """A copy of root and run that a test may change."""
    return tuple(type(one)(shutil.copytree(one.root, tmp_path / name)) for one, name in zip(made, ("root", "run")))


def make_flat(run: RunLayout, folds: bool) -> None:
    """The run as main.py makes it, of a training on layer 1, or with --checkpoint: no kernels, no place in a stack, nothing of the training layer."""
    splits = read_json(run.splits)
    write_json(run.splits, {"method": "msagnet", "folds": splits["folds"] if folds else []})
    for layer in (1, 2, 3):
        adata = anndata.read_h5ad(run.imputed(SAMPLE, layer))
        del adata.obsm["spatial_3d"], adata.obs["confidence"], adata.obs["distance_to_known"]
        adata.obs["known"] = False
        write_h5ad(run.imputed(SAMPLE, layer), adata)
    if folds:
        run.imputed(SAMPLE, 1).unlink()
    else:
        for path in (run.metrics_json, run.runtime, run.config):
            path.unlink()
        shutil.rmtree(run.tensorboard(0))


def words(page: str) -> str:
    """The page's text without tags."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", re.sub(r"<(script|style)[^>]*>.*?</\1>", "", page, flags=re.S))).split())


def blotches(generator) -> np.ndarray:
    """(250, 300, 3) uint8: blotches."""
    return np.kron(generator.integers(60, 230, (25, 30, 3)), np.ones((10, 10, 1))).astype(np.uint8)


def page_of(layout: Layout, run: RunLayout, *options: str) -> str:
    assert report.main(["--root_path", str(layout.root), "--save_path", str(run.root), *options]) == 0
    return run.report.read_text()


@pytest.fixture(scope="module")
def page(made) -> str:
    return page_of(*made)


def maps(page: str) -> list[tuple[str, float, float, np.ndarray]]:
    """Every map of spots: (alternative text, low, high, picture as RGBA)."""
    found = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]+)" data-low="([^"]+)" data-high="([^"]+)">', page)
    return [(html.unescape(name), float(low), float(high), np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA")))
            for data, name, low, high in found]


# the page --------------------------------------------------------------------------------------------
def test_the_page_stands_alone(page):
    sources = re.findall(r"""(?:src|href)=["']?([^"'>]{0,30})|url\(["']?([^"')]{0,30})|@import|<link|<iframe|fetch\(|XMLHttp""", page)
    used = {one or other for one, other in sources if one or other}
    assert used and all(source.startswith(("data:image/", "#")) for source in used), used
    assert "http:" not in page and "https:" not in page and page.startswith("<!DOCTYPE html>") and len(page) < 2_000_000


def test_names_are_escaped(page):
    scripts = re.findall(r"<script[^>]*>", page)
    assert scripts == ["<script>", '<script type="application/json">', "<script>"]
    assert "<b>alert" not in page and "alert(2)<b>" not in page and SAMPLE in page
    for text in (GENE, "no <tissue>", "one <piece> moved"):
        assert html.escape(text) in page and text not in page


def test_the_same_inputs_give_the_same_bytes(made, page):
    first = made[1].report.read_bytes()
    page_of(*made)
    assert made[1].report.read_bytes() == first


def test_the_headline_says_what_was_known_and_how_good_it_is(page):
    text = re.sub(r"<[^>]+>", " ", page)
    for phrase in ("1 known", "2 target registration refused", "3 image-only", "r = 0.37", "reaches 0.31", "would reach 0.71",
                   "ahead of every simple rule; behind gp"):
        assert phrase in " ".join(text.split()), phrase
    assert "REFUSED: tissue Dice 0.3 &lt; 0.7" in page and "0.50 → 0.90" in page
    assert "python main_3d.py --root_path &#x27;a b&#x27;" in page and "12.5" in page and "c0ffee" in page and "9.9" in page
    best = re.findall(r'<td class="best">([^<]+)</td>', page.split("PCC_gene, section by section")[0])
    assert best[0] == "0.580" and best.count("0.420") == 2  # lowest error, highest correlations; the ceiling is no method
    assert page.count("<polyline") == 2


def test_default_genes_and_chosen_ones(made, page, capsys):
    layout, run = made
    shown = re.findall(r'<div class="gene"><h4>(.*?) <small>(.*?)</small>', page)
    assert [html.unescape(name) for name, _ in shown] == [GENE, "flat", "ERBB2"]
    assert "best predicted" in shown[0][1] and "median" in shown[1][1]
    chosen = page_of(*made, "--genes", "worse,ERBB2")
    assert re.findall(r'<div class="gene"><h4>(.*?) <small>', chosen) == ["worse", "ERBB2"]
    capsys.readouterr()
    assert report.main(["--root_path", str(layout.root), "--save_path", str(run.root), "--genes", "ERBB"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "found ERBB;" in error and "ERBB2" in error


# maps ------------------------------------------------------------------------------------------------
def test_one_colour_scale_a_gene(page):
    found = maps(page)
    for gene in (GENE, "flat", "ERBB2"):
        for kinds, n_maps in ((("measured", "predicted"), 5), (("predicted ÷ measured",), 2)):
            names = tuple(f"{gene}, {kind}, section" for kind in kinds)
            scales = [(low, high) for name, low, high, _ in found if name.startswith(names)]
            assert len(scales) == n_maps and len(set(scales)) == 1
    limits = {name: (low, high) for name, low, high, _ in found}
    low, high = limits["ERBB2, predicted ÷ measured, section 2"]
    assert low == -high < 0
    low, high = limits["flat, predicted, section 1"]
    assert high - low > 3  # doublings: of the measured (noise 0.8 / ln 2), not of the predicted (1.4 from end to end) alone


def test_a_value_has_its_colour_wherever_it_is(page):
    """Section 1 and the dense section 3 have the same predictions: at the same place the same colour, that of the value on the scale."""
    found = {name: rest for name, *rest in maps(page)}
    (low, high, one), (_, _, dense) = found["ERBB2, predicted, section 1"], found["ERBB2, predicted, section 3"]
    pixel = spots(PITCH_PX)
    value = (np.cos(pixel[:, 1] / 60) - known_mean()) / np.log(2)
    for (x, y), doublings in zip(pixel, value):
        column, row = place_on_picture(x, y)
        level = round(float(np.clip((doublings - low) / (high - low), 0, 1)) * 254) + 1
        assert one[row, column, 3] == 255 and np.array_equal(one[row, column], dense[row, column])
        assert np.abs(one[row, column, :3].astype(int) - lut("viridis")[level]).max() <= 6, (doublings, level)  # limits have 6 digits


def known_mean() -> float:
    """Mean measured ERBB2 of section 1, over -1.4."""
    generator = np.random.default_rng(1)
    noise = generator.normal(0, 1, (SIDE_SPOTS**2, 4))[:, 1] * 0.4
    return float((np.cos(spots(PITCH_PX)[:, 1] / 60) + noise)[1:].mean())


def place_on_picture(x: float, y: float) -> tuple[int, int]:
    """Level-0 px as column, row of the picture: a crop of the thumbnail that begins a margin (0.03 x 189 px + 4) before the tissue."""
    return round((x + 0.5) / THUMBNAIL_SCALE - 0.5) - 40, round((y + 0.5) / THUMBNAIL_SCALE - 0.5) - 25


def test_spots_are_as_large_as_on_the_slide(page):
    """100 um on a pitch of 200 um: half a pitch; on the dense grid they just touch. A spot without counts is not drawn as measured."""
    area = lambda name: float((next(image for title, _, _, image in maps(page) if title == name)[..., 3] == 255).sum())
    disc = np.pi * (PITCH_PX / 2 / THUMBNAIL_SCALE / 2) ** 2
    assert area("ERBB2, predicted, section 1") / SIDE_SPOTS**2 == pytest.approx(disc, rel=0.25)
    assert area("ERBB2, measured, section 1") / area("ERBB2, predicted, section 1") == pytest.approx(1 - 1 / SIDE_SPOTS**2, abs=0.002)
    assert area("ERBB2, predicted, section 3") > 2.5 * area("ERBB2, predicted, section 1")


def test_scales_are_folds_of_the_known_mean():
    scale = expression_scale(np.linspace(-2, 2, 1001))
    assert [label for _, label in scale.ticks] == ["0.5×", "1×", "2×"] or {"0.5×", "1×", "2×"} <= {label for _, label in scale.ticks}
    assert scale.levels(np.array([-9, 9, np.nan, scale.low, scale.high])).tolist() == [1, 255, 0, 1, 255]
    error = error_scale(np.array([0.1, -3.0, np.nan] * 40))
    assert error.low == -error.high and error.levels(np.zeros(1))[0] == 128
    assert expression_scale(np.zeros(5)).high > expression_scale(np.zeros(5)).low


def test_ticks_of_curves_are_round():
    assert nice_ticks(0, 190).tolist() == [0, 50, 100, 150, 200]
    assert np.allclose(nice_ticks(0.2041, 0.2188), [0.2, 0.205, 0.21, 0.215, 0.22])
    assert len(nice_ticks(0.5, 0.5)) >= 2


def test_the_planes_of_the_3d_view_lie_where_spatial_3d_says(made, page):
    scene = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page, re.S)[1])
    assert [plane["z"] for plane in scene["planes"]] == [16.0, 32.0, 48.0] and len(scene["colours"]) == 256
    for layer, plane in zip((1, 2, 3), scene["planes"]):
        x, y = (np.frombuffer(base64.b64decode(plane[axis]), "<i2") / POSITION_STEPS for axis in "xy")
        a, b, c, d, e, f = plane["matrix"]
        expected = anndata.read_h5ad(made[1].imputed(SAMPLE, layer)).obsm["spatial_3d"]
        assert np.allclose(np.column_stack([a * x + c * y + e, b * x + d * y + f]), expected[:, :2], atol=UM_PER_PX)
        assert plane["diameter"] == pytest.approx((PITCH_PX / 2 if layer < 3 else PITCH_PX / 4) / THUMBNAIL_SCALE, rel=1e-3)
        assert [len(base64.b64decode(levels)) for levels in plane["levels"]] == [len(expected)] * 3


# what is missing -------------------------------------------------------------------------------------
@pytest.mark.parametrize("what, says", [
    ("metrics_json", "metrics.json: found no file"), ("splits", "splits.json: found no file"), ("runtime", "runtime.json: found no file"),
    ("genes", "genes.csv: found no file"), ("config", "config.yaml: found no file"), ("tensorboard", "No training curves"),
    ("imputed", "1.h5ad: found no file"), ("quality", "quality.json: found no file"), ("overlay", "1_to_3.jpg: found no file"),
    ("thumbnail", ""), ("confidence", "hold no confidence"), ("keys", "another version")])
def test_what_is_missing_is_said_in_its_place(own, what, says):
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
    assert says in text and "How this was made" in text and "Traceback" not in text
    assert ("<canvas" in text) == (what not in ("imputed", "genes"))


def test_an_empty_run_folder_is_a_page_and_none_an_error(made, tmp_path, capsys):
    text = page_of(made[0], RunLayout(tmp_path))
    assert "splits.json: found no file" in text and "No maps" in text and "No 3D view" in text
    assert report.main(["--root_path", str(made[0].root), "--save_path", str(tmp_path / "none")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "found no folder" in error and "main_3d.py" in error


def test_a_skipped_layer_is_not_of_the_run(own):
    layout, run = own
    config = load_config(layout.config)
    save_config(config.model_copy(update={"samples": {SAMPLE: SampleConfig(layers=[1, 2, 3, 4], skip=[2])}}), layout.config)
    text = words(page_of(layout, run))
    assert "3 sections 1 known 3 image-only 4 image-only" in text and "target: measured" not in text


def test_a_2d_run_has_training_layers_and_no_stack(own):
    layout, run = own
    make_flat(run, folds=True)
    page = page_of(layout, run)
    text = words(page)
    assert "4 sections 1 training 2 target 3 image-only 4 image-only" in text
    assert "training : measured; the network learned from it" in text and "1.h5ad" not in text and "predict_3d.py first" not in text
    assert "another version" not in text and "no stack to turn" in text and "<canvas" not in page and "refused" not in text
    assert "1× = mean of the predictions" in text and any(name == "ERBB2, predicted, section 2" for name, *_ in maps(page))
    run.imputed(SAMPLE, 2).unlink()
    assert "2.h5ad: found no file; expected the output of main.py; fix: run main.py first" in words(page_of(layout, run))


def test_a_run_with_a_given_checkpoint_shows_its_maps_and_no_scores(own):
    layout, run = own
    make_flat(run, folds=False)
    page = page_of(layout, run)
    text = words(page)
    assert {name for name, *_ in maps(page)} >= {f"ERBB2, predicted, section {layer}" for layer in (1, 2, 3)} and "<canvas" not in page
    assert text.count("This run applied a network that was there (main.py --checkpoint)") == 3 and "main_3d.py" not in text
    assert "the test" not in text and "another version" not in text
    adata = anndata.read_h5ad(run.imputed(SAMPLE, 2))
    del adata.layers["measured"]  # of a network for other genes than the root's
    write_h5ad(run.imputed(SAMPLE, 2), adata)
    counts = layout.counts(SAMPLE, 2)
    counts.parent.mkdir(parents=True)
    counts.touch()
    text = words(page_of(layout, run))
    assert "Section 2 target no measurement of these genes" in text and "Section 3 image-only not measured" in text


def test_the_layers_of_an_archive_tell_what_share_of_their_spots_agrees(own):
    layout, run = own
    verdict = lambda accepted, agreeing: {"accepted": accepted, "method": "weights" if accepted else "centroid", "agreeing": agreeing}
    quality = {"sample": SAMPLE, "layers": [1, 2, 3], "middle": 2, "left_out": [], "pairs": [],
               "to_middle": {"1": verdict(True, 0.874), "2": verdict(True, 1.0), "3": verdict(False, 0.31)}}
    write_json(layout.quality(SAMPLE), quality)
    layout.stack_view(SAMPLE).unlink()
    text = words(page_of(layout, run))
    assert "Section 1 : 87% of its spots agree with their heaviest partners; accepted" in text and "Section 2 : the middle one" in text
    assert "Section 3 : 31% of its spots agree with their heaviest partners; REFUSED" in text and "nothing to register" not in text
    assert "stack.jpg: found no file; expected the output of registration/Step3_registertoMiddle_ANTs.py" in text
    write_json(layout.quality(SAMPLE), quality | {"layers": [2], "to_middle": {"2": verdict(True, 1.0)}})
    assert "One section: nothing to register." in words(page_of(layout, run))


def test_what_does_not_depend_on_the_gene_is_computed_once_a_layer(made, monkeypatch):
    import scipy.spatial
    calls = {"trees": 0, "correlations": 0}

    def counted(name, function):
        def call(*arguments, **options):
            calls[name] += 1
            return function(*arguments, **options)
        return call

    monkeypatch.setattr("report_parts.gather.pearson", counted("correlations", gather.pearson))
    monkeypatch.setattr("scipy.spatial.cKDTree", counted("trees", scipy.spatial.cKDTree))
    page_of(*made, "--genes", ",".join(GENES))
    assert calls == {"trees": 3, "correlations": 1}  # three layers with spots, one of them a target that was measured


# in a browser ----------------------------------------------------------------------------------------
PROBE = """
const pages = {phone: 390, desktop: 1440}, found = {};
const ink = canvas => {  // a fingerprint of what is drawn, and how much
  const bytes = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let sum = 0, drawn = 0;
  for (let i = 0; i < bytes.length; i += 4) {
    if (bytes[i + 3]) { drawn++; sum = (sum * 31 + bytes[i] + 7 * bytes[i + 1] + 13 * bytes[i + 2] + i) % 1000003; }
  }
  return [sum, drawn / (bytes.length / 4)];
};
async function look(name, width) {
  const frame = document.createElement("iframe");
  frame.width = width; frame.height = 900; frame.srcdoc = PAGE;
  await new Promise(done => { frame.onload = done; document.body.append(frame); });
  const page = frame.contentDocument, root = page.documentElement;
  const box = page.querySelector(".view3d"), canvas = box.querySelector("canvas");
  const wait = milliseconds => new Promise(done => setTimeout(done, milliseconds));
  await wait(300);
  const seen = [ink(canvas)];
  const rectangle = canvas.getBoundingClientRect();
  const touch = (kind, x, y) => canvas.dispatchEvent(new frame.contentWindow.PointerEvent(kind, {
    clientX: rectangle.left + x, clientY: rectangle.top + y, pointerId: 3, pointerType: "touch", bubbles: true}));
  touch("pointerdown", 50, 50); touch("pointermove", 110, 70); touch("pointerup", 110, 70);
  await wait(50);
  seen.push(ink(canvas));
  touch("pointermove", 10, 10);
  await wait(50);
  const still = ink(canvas)[0] === seen[1][0];  // no button down: nothing turns
  for (const [control, set] of [["gene", {value: "2"}], ["stretch", {value: "2"}], ["tissue", {checked: false}]]) {
    const input = Object.assign(box.querySelector(`[name=${control}]`), set);
    for (const kind of ["input", "change"]) input.dispatchEvent(new Event(kind));
    await wait(50);
    seen.push(ink(canvas));
  }
  const images = [...page.images];
  const backs = [...page.querySelectorAll(".he")].map(one => frame.contentWindow.getComputedStyle(one).backgroundImage.slice(0, 20));
  found[name] = {errors: root.dataset.errors || "", ready: root.dataset.ready, images: images.length,
    empty: images.filter(one => !one.naturalWidth).length, backs: [...new Set(backs)], bars: box.querySelectorAll(".bar:not([hidden])").length,
    hashes: new Set(seen.map(one => one[0])).size, drawn: Math.min(...seen.map(one => one[1])), still,
    overflow: root.scrollWidth - root.clientWidth,
    beyond: [...page.querySelectorAll("body *")].filter(one => one.getBoundingClientRect().right > root.clientWidth)
      .filter(one => !one.closest(".wide")).map(one => one.outerHTML.slice(0, 90))};
}
(async () => {
  for (const [name, width] of Object.entries(pages)) await look(name, width);
  document.body.replaceChildren(JSON.stringify(found));
})();
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium found (Debian: apt-get install chromium)")
def test_the_page_works_in_a_browser_on_phone_and_desktop(page, tmp_path):
    """Real Chromium, 390 and 1440 px wide: no script error, every picture has content, nothing sticks out, the 3D view turns by touch."""
    as_text = json.dumps(page).replace("<", "\\u003c")
    (tmp_path / "probe.html").write_text(f"<!DOCTYPE html><body><script>const PAGE = {as_text};{PROBE}</script></body>")
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
               "--disable-background-networking", "--disable-component-update", "--disable-sync",
               f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1600,1000", "--virtual-time-budget=20000", "--dump-dom", (tmp_path / "probe.html").as_uri()]
    dumped = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    body = re.search(r"<body>(\{.*\})\s*</body>", dumped, re.S)
    assert body, dumped[-2000:]
    for name, seen in json.loads(html.unescape(body[1])).items():
        assert seen["errors"] == "" and seen["ready"] == "yes", (name, seen)
        assert seen["images"] > 15 and seen["empty"] == 0 and seen["backs"] == ['url("data:image/webp'], (name, seen)
        assert seen["hashes"] == 5 and seen["drawn"] > 0.02 and seen["still"] and seen["bars"] == 1, (name, seen)
        assert seen["overflow"] == 0 and not seen["beyond"], (name, seen["overflow"], seen["beyond"])
