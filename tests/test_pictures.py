"""The same picture in every form decodes to the same colours."""
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings, strategies as st
from PIL import Image, ImageOps
from stored_pictures import (
    HEIGHT,
    TILES,
    WIDTH,
    colour_tiffs,
    grey,
    grey_tiffs,
    picture,
    write_lab,
    write_palette,
    write_png16,
    write_subsampled_ycbcr,
    write_tiff,
)

from common import tiff
from common.colours import full_scale, picture_rgb
from common.errors import LayerError
from common.slide import ArraySlide, PyramidSlide, TiffSlide, open_slide

LOSS = {"jpeg": 8, "of_12_bit_in_16": 1, "of_10_bit_in_16": 1, "grey_of_12_bit": 1}  # grey values


def pixels_of(path) -> np.ndarray:
    slide = open_slide(path)
    assert slide.thumbnail(50).shape[1] == round(50 * min(1, slide.size_px[0] / max(slide.size_px)))
    return slide.read(0, 0, *slide.size_px)


def difference(found: np.ndarray, expected: np.ndarray) -> int:
    assert found.shape == expected.shape and found.dtype == np.uint8
    return int(np.abs(found.astype(int) - expected).max())


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("name", colour_tiffs())
def test_every_form_of_tiff_has_the_same_colours(tmp_path, name, tiled):
    found = pixels_of(write_tiff(tmp_path / f"{name}.tif", *colour_tiffs()[name], tiled))
    whole = np.s_[:128, :192] if name == "jpeg" else np.s_[:, :]  # JPEG blurs the edge of the picture in a tile
    assert difference(found[whole], picture()[whole]) <= LOSS.get(name, 0)
    assert found.shape == picture().shape


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("name", grey_tiffs())
def test_grey_is_grey_and_white_is_white(tmp_path, name, tiled):
    found = pixels_of(write_tiff(tmp_path / f"{name}.tif", *grey_tiffs()[name], tiled))
    assert difference(found, np.repeat(grey()[..., None], 3, axis=2)) <= LOSS.get(name, 0)


@pytest.mark.parametrize("tiled, eight_bit", [(False, False), (True, False), (False, True)])
def test_a_palette_gives_its_colours(tmp_path, tiled, eight_bit):
    expected = write_palette(tmp_path / "a.tif", tiled, eight_bit)
    assert difference(pixels_of(tmp_path / "a.tif"), expected) == 0
    assert np.abs(expected.astype(int) - picture()).mean() < 8, "the picture itself"


def test_luma_and_chroma_lab_and_one_bit(tmp_path):
    Image.fromarray(picture()).convert("YCbCr").save(tmp_path / "full.tif")
    write_subsampled_ycbcr(tmp_path / "half.tif")
    write_lab(tmp_path / "lab.tif")
    Image.fromarray(grey()).point(lambda value: 255 * (value > 128)).convert("1").save(tmp_path / "bit.tif")
    tifffile.imwrite(tmp_path / "jpeg.tif", picture(), photometric="ycbcr", compression="jpeg", subsampling=(2, 2),
                     compressionargs={"level": 97}, tile=(64, 64))
    stored = tifffile.imread(tmp_path / "jpeg.tif")  # tifffile's own decoder
    assert difference(pixels_of(tmp_path / "full.tif"), picture()) <= 4
    assert difference(pixels_of(tmp_path / "half.tif"), picture()[:, :WIDTH // 2 * 2]) <= 8
    assert np.abs(pixels_of(tmp_path / "lab.tif").astype(int) - picture()).mean() < 2
    assert difference(pixels_of(tmp_path / "bit.tif"), np.repeat(255 * (grey() > 128)[..., None], 3, axis=2)) == 0
    assert difference(pixels_of(tmp_path / "jpeg.tif"), stored) <= 8


def test_transparent_is_white_in_both_kinds_of_opacity(tmp_path):
    alpha = np.full_like(grey(), 255)
    alpha[:40], alpha[40:80] = 0, 102
    share = alpha[..., None] / 255
    expected = np.rint(picture() * share + 255 * (1 - share))
    premultiplied = np.rint(picture() * share).astype(np.uint8)
    for name, rgb in (("unassalpha", picture()), ("assocalpha", premultiplied)):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.dstack([rgb, alpha]), photometric="rgb", extrasamples=[name])
        assert difference(pixels_of(tmp_path / f"{name}.tif"), expected.astype(np.uint8)) <= 1


def test_the_largest_of_several_pictures_is_read_and_said(tmp_path):
    path, small = tmp_path / "a.tif", picture()[:90, :100]
    for tiled in ({}, TILES):
        with tifffile.TiffWriter(path) as writer:
            writer.write(small, photometric="rgb", **tiled)
            writer.write(picture(), photometric="rgb", **tiled)
            writer.write(small[:50], photometric="rgb", **tiled)
        open_slide.cache_clear()
        assert difference(pixels_of(path), picture()) == 0
        assert open_slide(path).remarks == ["picture 2 of 3 in the file, the largest"]
    tifffile.imwrite(path, np.stack([picture(), 255 - picture()]), photometric="rgb", metadata={"axes": "ZYXS"})
    open_slide.cache_clear()
    assert difference(pixels_of(path), picture()) == 0 and "the first of 2 (Z) planes" in open_slide(path).remarks


def test_channels_that_are_no_colours_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.ome.tif", np.stack([grey()] * 4), photometric="minisblack", metadata={"axes": "CYX"})
    with pytest.raises(LayerError, match=r"4 \(C\).*fluorescence"):
        open_slide(tmp_path / "a.ome.tif")


def test_an_array_written_as_planes_is_named(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", picture().astype(np.float32), photometric="minisblack")
    with pytest.raises(LayerError, match=r"planes of 3 x .*photometric='rgb'.*export it as RGB"):
        open_slide(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", [".jp2", ".j2k", ".bmp", ".png", ".jpg", ".webp"])
def test_pictures_without_regions(tmp_path, suffix):
    options = {".jpg": {"quality": 97, "subsampling": 0}, ".webp": {"lossless": True}}.get(suffix, {})
    Image.fromarray(picture()).save(tmp_path / f"a{suffix}", **options)
    assert difference(pixels_of(tmp_path / f"a{suffix}"), picture()) <= (8 if suffix == ".jpg" else 0)


def test_jpeg_of_inks(tmp_path):
    Image.fromarray(picture()).convert("CMYK").save(tmp_path / "a.jpg", quality=97, subsampling=0)
    assert difference(pixels_of(tmp_path / "a.jpg"), picture()) <= 12


@pytest.mark.parametrize("factor, remark", [(257, "16 bit"), (16, "16 bit, of which 12 are used")])
def test_png_of_16_bit(tmp_path, factor, remark):
    write_png16(tmp_path / "rgb.png", picture().astype(int) * factor)
    write_png16(tmp_path / "grey.png", grey().astype(int) * factor)
    assert difference(pixels_of(tmp_path / "rgb.png"), picture()) <= 1
    assert open_slide(tmp_path / "rgb.png").remarks == [remark]
    assert difference(pixels_of(tmp_path / "grey.png"), np.repeat(grey()[..., None], 3, axis=2)) <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".tiff"])
def test_the_orientation_tag_turns_the_picture(tmp_path, suffix, orientation):
    exif, path = Image.Exif(), tmp_path / f"a{suffix}"
    exif[274] = orientation
    if suffix in (".tif", ".tiff"):
        tifffile.imwrite(path, picture(), photometric="rgb", extratags=[(274, 3, 1, orientation, True)],
                         **(TILES if suffix == ".tiff" else {}))
    else:
        options = {"quality": 97, "subsampling": 0} if suffix == ".jpg" else {}
        Image.fromarray(picture()).save(path, exif=exif, **options)
    tagged = Image.fromarray(picture())
    tagged.getexif()[274] = orientation
    expected = np.asarray(ImageOps.exif_transpose(tagged))
    assert difference(pixels_of(path), expected) <= (8 if suffix == ".jpg" else 0)
    assert any("orientation" in remark for remark in open_slide(path).remarks) == (orientation > 1)


# regions -----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def regions(tmp_path_factory):
    """The picture as strips, one strip, plain rows and an OME pyramid of 16 bits, each opened."""
    folder, forms = tmp_path_factory.mktemp("regions"), colour_tiffs()
    slides = []
    for name in ("lzw", "one_strip", "rgb", "planar", "of_16_bit_planar"):
        open_slide.cache_clear()
        slides.append(open_slide(write_tiff(folder / f"{name}.tif", *forms[name], tiled=False)))
    with tifffile.TiffWriter(folder / "pyramid.ome.tif") as writer:
        wide, options = picture().astype(np.uint16) * 257, {"photometric": "rgb", "tile": (64, 64)}
        writer.write(wide, subifds=1, metadata={"axes": "YXS"}, **options)
        writer.write(wide[::2, ::2].copy(), subfiletype=1, **options)
    slides.append(open_slide(folder / "pyramid.ome.tif"))
    assert all(isinstance(one, TiffSlide) for one in slides)
    return slides


@settings(max_examples=40, deadline=None)
@given(st.integers(-50, WIDTH + 20), st.integers(-50, HEIGHT + 20), st.integers(1, 120), st.integers(1, 120))
def test_a_region_of_a_tiff_is_that_of_the_decoded_picture(regions, x, y, width, height):
    expected = ArraySlide(None, picture()).read(x, y, width, height)
    for slide in regions:
        np.testing.assert_array_equal(slide.read(x, y, width, height), expected)


def test_a_large_window_is_shrunk_in_bands_as_in_one_piece(regions, monkeypatch):
    expected = ArraySlide(None, picture()).thumbnail(61)
    assert len(regions[-1]._levels) == 2
    monkeypatch.setattr(tiff, "DIRECT_PX", 0)
    monkeypatch.setattr(tiff, "BAND_PX", 7 * WIDTH)
    for slide in regions[:-1]:
        assert difference(slide.thumbnail(61), expected) <= 1
    assert np.abs(regions[-1].thumbnail(61).astype(int) - expected).max() <= 4, "from its second level"


def test_memory_is_that_of_the_recent_tiles(tmp_path, monkeypatch):
    slide = open_slide(write_tiff(tmp_path / "a.tif", *colour_tiffs()["lzw"], tiled=False))
    monkeypatch.setattr(tiff, "CACHE_BYTES", 3 * 17 * WIDTH * 3)
    assert difference(slide.read(0, 0, WIDTH, HEIGHT), picture()) == 0
    assert len(slide._recent) == 3 and slide._kept_bytes <= tiff.CACHE_BYTES


def test_tiles_that_are_not_stored_are_glass(tmp_path):
    path, tiles = tmp_path / "a.tif", [picture()[:64, :64].copy(), None, None, picture()[64:128, 64:128].copy()]
    tifffile.imwrite(path, iter(tiles), shape=(128, 128, 3), dtype=np.uint8, photometric="rgb", tile=(64, 64),
                     extratags=[(274, 3, 1, 3, True)], compression="deflate")
    found = open_slide(path).read(0, 0, 128, 128)[::-1, ::-1]
    assert (found[:64, 64:] == 255).all() and difference(found[:64, :64], picture()[:64, :64]) == 0


def test_openslide_reads_plain_tiled_rgb_alone(tmp_path):
    for name, kind in (("rgb", PyramidSlide), ("jpeg", PyramidSlide), ("cmyk", TiffSlide), ("of_16_bit", TiffSlide)):
        open_slide.cache_clear()
        assert isinstance(open_slide(write_tiff(tmp_path / f"{name}.tif", *colour_tiffs()[name], tiled=True)), kind)


# depth -------------------------------------------------------------------------------------------------
@given(st.integers(8, 16), st.floats(0.6, 1))
def test_full_scale_holds_the_highest_sample_and_wastes_little(bits, share):
    highest = int((2**bits - 1) * share)
    top, _ = full_scale(np.dtype(np.uint16), 16, None, lambda: highest)
    assert highest <= top <= 4 * 2**bits and full_scale(np.dtype(np.uint16), 16, 4095, lambda: highest)[0] == 4095


def test_stored_arrays_of_any_type_are_the_same_picture():
    for pixels in (picture(), picture() / 255, picture().astype(float), picture().astype(np.uint16) * 257,
                   (picture() / 255).astype(np.float32), picture().astype(np.int64)):
        assert difference(picture_rgb(pixels)[0], picture()) == 0
    with pytest.raises(ValueError, match="shape"):
        picture_rgb(np.zeros((3, 4, 5, 6)))
