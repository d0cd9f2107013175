"""Stain features on painted patches, and the windows around a spot that step 4 reads."""
import h5py
import numpy as np
import pytest
import timm
import torch
import yaml
from conftest import load_script
from PIL import Image

from common.io import open_patches, read_features, write_patches
from common.layout import SIZES, Layout
from common.slide import ArraySlide
from data_preprocessing import backbone, stain

NAMES = list(stain.STATISTICS)
TINY = "resnet10t"


def paint(haematoxylin, eosin, residual=0.0) -> np.ndarray:
    """The picture of given amounts of stain, (h, w) each: (h, w, 3) uint8."""
    amount = np.stack(np.broadcast_arrays(haematoxylin, eosin, residual), axis=-1)  # (h, w, 3)
    return np.clip(np.rint(256 * 10 ** -(amount @ stain.colours()) - 1), 0, 255).astype(np.uint8)


def of(image: np.ndarray) -> dict[str, float]:
    return dict(zip(NAMES, stain.statistics(image).tolist(), strict=True))


def test_pure_stains_go_to_their_own_channel():
    flat = np.full((30, 30), 0.6)
    only_h, only_e = of(paint(flat, 0)), of(paint(0, flat))
    assert only_h["haematoxylin_mean"] == pytest.approx(0.6, abs=0.01) and abs(only_h["eosin_mean"]) < 0.01
    assert only_e["eosin_mean"] == pytest.approx(0.6, abs=0.02) and abs(only_e["haematoxylin_mean"]) < 0.02
    assert abs(only_h["residual_mean"]) < 0.01 and abs(only_e["residual_mean"]) < 0.02


def test_a_mix_is_taken_apart():
    amount = np.random.default_rng(0).uniform(0.1, 0.6, (2, 40, 40))
    haematoxylin, eosin, _ = stain.amounts(stain.DENSITY[paint(amount[0], amount[1])].reshape(-1, 3))
    np.testing.assert_allclose(haematoxylin, amount[0].ravel(), atol=0.02)
    np.testing.assert_allclose(eosin, amount[1].ravel(), atol=0.03)


def test_a_bluish_tint_shows_in_the_residual():
    assert of(paint(np.full((9, 9), 0.3), 0.3, 0.2))["residual_mean"] == pytest.approx(0.2, abs=0.02)


def test_spread_and_points():
    """Half the window without, a fifth with much haematoxylin."""
    amount = np.full((10, 10), 0.2)
    amount[:5], amount[8:] = 0.0, 0.7
    found = of(paint(amount, 0.1))
    assert [found[f"haematoxylin_{p}"] for p in ("p10", "p50", "p90")] == pytest.approx([0, 0.2, 0.7], abs=0.02)
    assert found["haematoxylin_sd"] == pytest.approx(amount.std(), abs=0.01)
    assert found["eosin_sd"] < 0.02


def test_share_of_white():
    image = paint(np.full((20, 20), 0.5), 0.2)
    image[:5] = 250
    assert of(image)["white"] == pytest.approx(0.25)


def test_small_nuclei_are_grainier_than_large_ones_and_blur_has_none():
    """The same amount of haematoxylin, in ever larger checks."""
    y, x = np.mgrid[:64, :64]
    checks = [of(paint(0.5 * ((x // side + y // side) % 2), 0.2)) for side in (2, 8, 32)]
    assert checks[0]["nuclear_gradient"] > checks[1]["nuclear_gradient"] > checks[2]["nuclear_gradient"]
    assert checks[0]["nuclear_grain"] > checks[1]["nuclear_grain"] > checks[2]["nuclear_grain"]
    flat = of(paint(np.full((64, 64), 0.25), 0.2))
    assert flat["nuclear_gradient"] < 1e-4 and flat["nuclear_grain"] < 1e-4


def test_turning_and_mirroring_change_nothing():
    image = np.random.default_rng(0).integers(0, 256, (50, 50, 3)).astype(np.uint8)
    for other in (image[::-1], image[:, ::-1], np.rot90(image)):
        found = stain.statistics(np.ascontiguousarray(other))
        np.testing.assert_allclose(found, stain.statistics(image), rtol=1e-3, atol=1e-4)


# windows ---------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def dotted() -> ArraySlide:
    """1600 px of eosin with a disc of haematoxylin in the middle, radius 150."""
    y, x = np.mgrid[:1600, :1600] - 800
    pixels = paint(np.array([[0.05, 0.6]]), 0.2)[0]  # outside, inside
    return ArraySlide(None, pixels[(x * x + y * y <= 150 ** 2).astype(int)])


def test_every_width_sees_its_own_surroundings(dotted):
    window_px = {width: width for width in stain.WIDTHS}
    mean, sd = NAMES.index("haematoxylin_mean"), NAMES.index("haematoxylin_sd")
    centre = np.array([[800.0, 800.0], [1200.0, 800.0]])
    found = stain.stain_features(dotted, centre, window_px).reshape(2, len(stain.WIDTHS), -1)
    assert found.dtype == np.float32 and found.shape == (2, 4, 18)
    share = [1.0, 1.0 - 0.001, np.pi * 150 ** 2 / 512 ** 2, np.pi * 150 ** 2 / 1024 ** 2]
    np.testing.assert_allclose(found[0, :, mean], 0.05 + 0.55 * np.array(share), atol=0.03)
    assert found[0, 0, sd] < 0.01 < found[0, 2, sd]
    assert np.abs(found[1, :3, mean] - 0.05).max() < 0.02  # the dot is 250 px away: only the widest window reaches it
    assert found[1, 3, mean] > found[1, 2, mean] + 0.02


def test_the_scale_of_the_slide_is_respected(dotted):
    """Half the resolution and half the windows: the same features, but for the grain of pixels."""
    half = ArraySlide(None, dotted.read(0, 0, 1600, 1600, out_px=(800, 800)))
    full = stain.stain_features(dotted, np.array([[800.0, 800.0]]), {width: width for width in stain.WIDTHS})
    small = stain.stain_features(half, np.array([[400.0, 400.0]]), {width: width // 2 for width in stain.WIDTHS})
    keep = np.tile([not name.startswith("nuclear") for name in NAMES], 4)
    np.testing.assert_allclose(full[:, keep], small[:, keep], atol=0.03)


def test_beyond_the_slide_is_white():
    slide = ArraySlide(None, paint(np.full((300, 300), 0.5), 0.3))
    window_px = {112: 112, 224: 224, 512: 512, 1024: 1024}
    found = stain.stain_features(slide, np.array([[0.0, 150.0]]), window_px).reshape(4, -1)
    white = found[:, NAMES.index("white")]
    assert white[0] == pytest.approx(0.5, abs=0.01) and (np.diff(white[1:]) > 0).all()


def test_windows_are_the_slides(dotted):
    """Input of the encoder for the context: the window around each centre, read batch by batch."""
    centre = np.array([[800, 800], [30, 800], [1100, 900]])
    windows = backbone.Windows(dotted, centre, 512)
    assert len(windows) == 3 and windows[0:2].shape == (2, 224, 224, 3)
    np.testing.assert_array_equal(windows[2:3][0], dotted.read(844, 644, 512, 512, out_px=(224, 224)))
    assert (windows[1:2][0, :, :90] == 255).all()  # left of the slide


# step 4 ----------------------------------------------------------------------------------------------
@pytest.fixture
def toy_root(tmp_path):
    """One layer of 3 spots on a picture, with the weights of a small encoder."""
    layout = Layout(tmp_path)
    torch.manual_seed(3)
    torch.save(timm.create_model(TINY, pretrained=False).state_dict(), tmp_path / "w.pt")
    picture = np.random.default_rng(0).integers(0, 256, (60, 60, 3)).astype(np.uint8)
    picture = picture.repeat(10, axis=0).repeat(10, axis=1)
    file = layout.new_image("A", 1, ".png")
    file.parent.mkdir(parents=True)
    Image.fromarray(picture).save(file)
    centre = np.array([[200, 300], [310, 300], [20, 580]])
    for size in SIZES:
        patches = np.full((3, size, size, 3), 128, np.uint8)
        write_patches(layout.patches(size, "A", 1), patches, size, centre, ["a", "b", "c"])
    return layout, picture, centre


def run_step(layout: Layout, features: list[str]) -> dict[str, np.ndarray]:
    step = load_script("4_feature_extraction")
    config = {"dataset": "toy", "pitch_px": 136.0, "backbone": TINY, "features": features,
              "backbone_weights": str(layout.root / "w.pt"), "samples": {"A": {"layers": [1]}}}
    layout.config.write_text(yaml.safe_dump(config))
    assert step.main(["--root_path", str(layout.root), "--gpu", "cpu"]) == 0
    return read_features(layout.features(224, "A", 1))[0]


def test_step_writes_the_sets_of_the_config(toy_root):
    layout, picture, centre = toy_root
    sets = run_step(layout, ["stain", "backbone", "context"])
    shapes = {name: values.shape for name, values in sets.items()}
    assert shapes == {"backbone": (3, 512), "context": (3, 1024), "stain": (3, 72)}
    expected = stain.stain_features(ArraySlide(None, picture), centre, {112: 56, 224: 112, 512: 256, 1024: 512})
    np.testing.assert_array_equal(sets["stain"], expected)
    assert not np.allclose(sets["context"][0], sets["context"][1])
    assert np.allclose(sets["backbone"][0], sets["backbone"][1])
    with h5py.File(layout.features(512, "A", 1)) as file:
        assert list(file["stain"].attrs["window_px"]) == [56, 112, 256, 512]
        assert list(file["context"].attrs["window_px"]) == [256, 512]
        assert file["context"].attrs["model"] == TINY and file["stain"].attrs["model"] == stain.MODEL
    with_all = sets["stain"]
    sets = run_step(layout, ["stain"])  # another choice of sets is another recipe
    assert list(sets) == ["stain"]
    np.testing.assert_array_equal(sets["stain"], with_all)


def test_a_changed_image_makes_the_stain_again(toy_root):
    layout, picture, _ = toy_root
    before = run_step(layout, ["stain"])["stain"]
    Image.fromarray(picture // 2).save(layout.image("A", 1))
    load_script("4_feature_extraction").open_slide.cache_clear()
    assert not np.allclose(run_step(layout, ["stain"])["stain"], before)


def test_patches_are_read_slice_by_slice(toy_root):
    layout, _, _ = toy_root
    with open_patches(layout.patches(1024, "A", 1)) as (img, centre, names):
        assert len(img) == 3 and names == ["a", "b", "c"] and centre.shape == (3, 2)
        assert img[1:3].shape == (2, 1024, 1024, 3) and img[1:3].dtype == np.uint8


def test_the_gradient_does_not_depend_on_where_the_image_lies_in_memory():
    rng = np.random.default_rng(0)
    nuclei = rng.normal(size=(56, 56)).astype(np.float32)
    found = set()
    for _ in range(300):
        kept = np.empty(int(rng.integers(1, 5000)), np.uint8)  # the next arrays lie elsewhere
        found.add(stain.gradient(nuclei).tobytes())
    assert len(found) == 1 and kept.size
