"""Image access: every way to open a slide gives the same pixels."""
import numpy as np
import pytest
import tifffile
from PIL import Image

from common.errors import LayerError
from common.slide import WHITE, ArraySlide, PyramidSlide, TiffSlide, open_slide

HEIGHT, WIDTH = 600, 900


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Smooth colours: JPEG keeps them within a few grey values."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    blue = 120 + 60 * np.sin(x / 60) * np.cos(y / 50)
    return np.stack([x * 200 / WIDTH + 20, y * 200 / HEIGHT + 20, blue], axis=-1).astype(np.uint8)


@pytest.fixture(scope="module")
def files(picture, tmp_path_factory):
    """The picture as JPEG, PNG, plain TIFF, RGBA PNG and as a tiled pyramid that OpenSlide reads."""
    folder = tmp_path_factory.mktemp("slides")
    Image.fromarray(picture).save(folder / "a.jpg", quality=97, subsampling=0)
    Image.fromarray(picture).save(folder / "a.png")
    tifffile.imwrite(folder / "plain.tif", picture, photometric="rgb", metadata=None)
    with tifffile.TiffWriter(folder / "pyramid.tif") as writer:
        options = {"tile": (128, 128), "photometric": "rgb", "compression": "deflate", "metadata": None}
        writer.write(picture, resolution=(20000, 20000), resolutionunit="CENTIMETER", **options)
        writer.write(picture[::2, ::2], subfiletype=1, **options)
    return {path.name: path for path in sorted(folder.iterdir())}


def test_kinds_of_slide(files):
    assert isinstance(open_slide(files["pyramid.tif"]), PyramidSlide)
    assert isinstance(open_slide(files["plain.tif"]), TiffSlide)
    assert all(isinstance(open_slide(files[name]), ArraySlide) for name in ("a.jpg", "a.png"))
    assert all(open_slide(path).size_px == (WIDTH, HEIGHT) for path in files.values())


@pytest.mark.parametrize("name, tolerance", [("a.png", 0), ("plain.tif", 0), ("pyramid.tif", 0), ("a.jpg", 8)])
@pytest.mark.parametrize("window", [
    (100, 50, 224, 224), (-30, -40, 128, 100), (800, 500, 224, 224), (2000, 100, 32, 32)])
def test_same_region_and_white_beyond(files, picture, name, tolerance, window):
    x, y, width, height = window
    padded = np.pad(picture, ((300, 300), (300, 2000), (0, 0)), constant_values=WHITE)
    expected = padded[y + 300:y + 300 + height, x + 300:x + 300 + width]
    found = open_slide(files[name]).read(x, y, width, height)
    assert found.shape == (height, width, 3) and found.dtype == np.uint8
    assert np.abs(found.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("name", ["a.jpg", "plain.tif", "pyramid.tif"])
def test_resized_reads_and_thumbnails_agree(files, picture, name):
    slide, reference = open_slide(files[name]), ArraySlide(None, picture)
    regions = [one.read(100, 60, 400, 400, out_px=(100, 100)) for one in (slide, reference)]
    thumbnails = [one.thumbnail(300) for one in (slide, reference)]
    for found, expected in (regions, thumbnails):
        assert found.shape == expected.shape
        assert np.abs(found.astype(float) - expected).mean() < 2.5
    assert slide.thumbnail(300).shape == (200, 300, 3)
    assert slide.thumbnail(5000).shape == (HEIGHT, WIDTH, 3)  # never enlarged


def test_transparent_is_white(picture, tmp_path):
    rgba = np.dstack([picture, np.full((HEIGHT, WIDTH), 255, np.uint8)])
    rgba[:100, :, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    found = open_slide(tmp_path / "alpha.png").read(0, 0, WIDTH, HEIGHT)
    assert (found[:100] == WHITE).all()
    np.testing.assert_array_equal(found[100:], picture[100:])


def test_grey_and_palette_pictures_become_rgb(picture, tmp_path):
    Image.fromarray(picture).convert("L").save(tmp_path / "grey.png")
    Image.fromarray(picture).convert("P").save(tmp_path / "palette.png")
    for name in ("grey.png", "palette.png"):
        assert open_slide(tmp_path / name).read(0, 0, 10, 10).shape == (10, 10, 3)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "plain.tif"])
def test_truncated_or_foreign_file_is_a_layer_error(files, tmp_path, name):
    content = files[name].read_bytes()
    for k, broken in enumerate((content[:len(content) // 2], b"", b"no picture at all")):
        path = tmp_path / f"{k}_{name}"
        path.write_bytes(broken)
        with pytest.raises(LayerError, match=f"{k}_{name}.*fix:"):
            open_slide(path)


def test_missing_file_is_a_layer_error(tmp_path):
    with pytest.raises(LayerError, match="no image"):
        open_slide(tmp_path / "1.jpg")
