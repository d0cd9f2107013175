"""report.py: one page that stands alone, escapes its text, keeps one colour scale a gene, and works in a browser."""
import base64
import html
import json
import re
import shutil
import subprocess

import anndata
import numpy as np
import pytest
from report_pages import (
    GENE,
    GENES,
    PITCH_PX,
    SAMPLE,
    SIDE_SPOTS,
    THUMBNAIL_SCALE,
    UM_PER_PX,
    build,
    maps,
    page_of,
    report,
    spots,
    words,
)

from common.layout import Layout, RunLayout
from report_parts import gather
from report_parts.charts import nice_ticks
from report_parts.colours import error_scale, expression_scale, lut
from report_parts.view3d import POSITION_STEPS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Layout, RunLayout]:
    layout, run = Layout(tmp_path_factory.mktemp("root")), RunLayout(tmp_path_factory.mktemp("run"))
    build(layout, run)
    return layout, run


@pytest.fixture(scope="module")
def page(made) -> str:
    return page_of(*made)


# the page --------------------------------------------------------------------------------------------
def test_the_page_stands_alone(page):
    sources = re.findall(r"""(?:src|href)=["']?([^"'>]{0,30})|url\(["']?([^"')]{0,30})""", page)
    used = {one or other for one, other in sources if one or other}
    assert used and all(source.startswith(("data:image/", "#")) for source in used), used
    assert not re.search(r"@import|<link|<iframe|fetch\(|XMLHttp", page)
    assert "http:" not in page and "https:" not in page and page.startswith("<!DOCTYPE html>")
    assert len(page) < 2_000_000


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


def test_the_headline_shows_what_was_known_and_how_good_it_is(page):
    text = words(page)
    for fact in ("1 known", "2 target registration refused", "3 image-only", "r = 0.37", "reaches 0.31", "reach 0.71",
                 "ahead of every simple baseline; behind gp"):
        assert fact in text, fact
    assert "REFUSED: tissue Dice 0.3 &lt; 0.7" in page and "0.50 → 0.90" in page
    for fact in ("python main_3d.py --root_path &#x27;a b&#x27;", "12.5", "c0ffee", "9.9"):
        assert fact in page, fact
    best = re.findall(r'<td class="best">([^<]+)</td>', page.split("PCC_gene, section by section")[0])
    assert best[0] == "0.580" and best.count("0.420") == 2  # lowest error, highest correlations; not the ceiling
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
    assert high - low > 3  # doublings: of the measured (noise 0.8 / ln 2); the predicted alone span 1.4


def test_a_value_has_its_colour_wherever_it_is(page):
    """Sections 1 and 3 (dense) have the same predictions: at one place the same colour, as the scale maps the value."""
    found = {name: rest for name, *rest in maps(page)}
    (low, high, one), (_, _, dense) = found["ERBB2, predicted, section 1"], found["ERBB2, predicted, section 3"]
    pixel = spots(PITCH_PX)
    value = (np.cos(pixel[:, 1] / 60) - known_mean()) / np.log(2)
    for (x, y), doublings in zip(pixel, value, strict=True):
        column, row = place_on_picture(x, y)
        level = round(float(np.clip((doublings - low) / (high - low), 0, 1)) * 254) + 1
        assert one[row, column, 3] == 255 and np.array_equal(one[row, column], dense[row, column])
        colour, expected = one[row, column, :3].astype(int), lut("viridis")[level]
        assert np.abs(colour - expected).max() <= 6, (doublings, level)  # the limits have 6 digits


def known_mean() -> float:
    """Mean measured ERBB2 of section 1, over -1.4."""
    generator = np.random.default_rng(1)
    noise = generator.normal(0, 1, (SIDE_SPOTS**2, 4))[:, 1] * 0.4
    return float((np.cos(spots(PITCH_PX)[:, 1] / 60) + noise)[1:].mean())


def place_on_picture(x: float, y: float) -> tuple[int, int]:
    """Level-0 px as column, row of the picture: a crop that begins a margin (0.03 x 189 px + 4) before the tissue."""
    return round((x + 0.5) / THUMBNAIL_SCALE - 0.5) - 40, round((y + 0.5) / THUMBNAIL_SCALE - 0.5) - 25


def test_spots_are_as_large_as_on_the_slide(page):
    """100 um on a pitch of 200 um: half a pitch; on the dense grid spots just touch.

    A spot without counts is not drawn as measured.
    """
    area = {name: float((image[..., 3] == 255).sum()) for name, _, _, image in maps(page)}
    predicted, measured = area["ERBB2, predicted, section 1"], area["ERBB2, measured, section 1"]
    disc = np.pi * (PITCH_PX / 2 / THUMBNAIL_SCALE / 2) ** 2
    assert predicted / SIDE_SPOTS**2 == pytest.approx(disc, rel=0.25)
    assert measured / predicted == pytest.approx(1 - 1 / SIDE_SPOTS**2, abs=0.002)
    assert area["ERBB2, predicted, section 3"] > 2.5 * predicted


def test_scales_are_folds_of_the_known_mean():
    scale = expression_scale(np.linspace(-2, 2, 1001))
    assert {"0.5×", "1×", "2×"} <= {label for _, label in scale.ticks}
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
    for layer, plane in zip((1, 2, 3), scene["planes"], strict=True):
        x, y = (np.frombuffer(base64.b64decode(plane[axis]), "<i2") / POSITION_STEPS for axis in "xy")
        a, b, c, d, e, f = plane["matrix"]
        expected = anndata.read_h5ad(made[1].imputed(SAMPLE, layer)).obsm["spatial_3d"]
        assert np.allclose(np.column_stack([a * x + c * y + e, b * x + d * y + f]), expected[:, :2], atol=UM_PER_PX)
        diameter_px = PITCH_PX / 2 if layer < 3 else PITCH_PX / 4  # level 0
        assert plane["diameter"] == pytest.approx(diameter_px / THUMBNAIL_SCALE, rel=1e-3)
        assert [len(base64.b64decode(levels)) for levels in plane["levels"]] == [len(expected)] * 3


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
  const styleOf = one => frame.contentWindow.getComputedStyle(one);
  const backs = [...page.querySelectorAll(".he")].map(one => styleOf(one).backgroundImage.slice(0, 20));
  found[name] = {errors: root.dataset.errors || "", ready: root.dataset.ready, images: images.length,
    empty: images.filter(one => !one.naturalWidth).length, backs: [...new Set(backs)],
    bars: box.querySelectorAll(".bar:not([hidden])").length,
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
    """Real Chromium, 390 and 1440 px wide.

    There is no script error, every picture has content, nothing overflows, and the 3D view turns by touch.
    """
    as_text = json.dumps(page).replace("<", "\\u003c")
    (tmp_path / "probe.html").write_text(f"<!DOCTYPE html><body><script>const PAGE = {as_text};{PROBE}</script></body>")
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
               "--disable-background-networking", "--disable-component-update", "--disable-sync",
               f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1600,1000",
               "--virtual-time-budget=20000", "--dump-dom", (tmp_path / "probe.html").as_uri()]
    dumped = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    body = re.search(r"<body>(\{.*\})\s*</body>", dumped, re.S)
    assert body, dumped[-2000:]
    for name, seen in json.loads(html.unescape(body[1])).items():
        assert seen["errors"] == "" and seen["ready"] == "yes", (name, seen)
        assert seen["images"] > 15 and seen["empty"] == 0 and seen["backs"] == ['url("data:image/webp'], (name, seen)
        assert seen["hashes"] == 5 and seen["drawn"] > 0.02 and seen["still"] and seen["bars"] == 1, (name, seen)
        assert seen["overflow"] == 0 and not seen["beyond"], (name, seen["overflow"], seen["beyond"])
