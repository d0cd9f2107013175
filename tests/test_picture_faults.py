"""A file that is no picture, or not a whole one, is named as what it is."""
import gzip

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings, strategies as st
from PIL import Image
from scans import section, write_mrxs, write_svs

from common.errors import LayerError
from common.image_names import IMAGE_SUFFIXES, image_stem, image_suffix, is_image_name, why_no_image
from common.image_scale import stated_pixel_size_um
from common.picture_faults import ends_early, require_image_file
from common.slide import open_slide


def refusal(path) -> tuple[str, str]:
    """(found, fix) of the error of opening this file."""
    with pytest.raises(LayerError) as error:
        open_slide(path)
    file, found, _, fix = error.value.args
    assert file == path
    return found, fix


# names -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name, stem, suffix", [
    ("s1.ome.tif", "s1", ".ome.tif"), ("s1.OME.TIFF", "s1", ".OME.TIFF"), ("s1.TIF", "s1", ".TIF"),
    ("s.1.JPG", "s.1", ".JPG"), ("s1.ome.png", "s1.ome", ".png"), ("s1.czi", "s1.czi", ""),
    ("._s1.tif", "._s1.tif", ""),
    ("s1.btf", "s1", ".btf"), ("s1.ome.btf", "s1", ".ome.btf"), (".tif", ".tif", ""), ("s1", "s1", "")])
def test_stem_and_suffix(name, stem, suffix):
    assert (image_stem(name), image_suffix(name), is_image_name(name)) == (stem, suffix, bool(suffix))


@given(st.sampled_from(IMAGE_SUFFIXES), st.booleans())
def test_what_is_read_is_not_refused(suffix, capital):
    name = f"s1{suffix.upper() if capital else suffix}"
    assert image_stem(name) == "s1" and why_no_image(name) is None and why_no_image(name + ".gz")


@pytest.mark.parametrize("name, words", [
    ("s.czi", "Zeiss CZI"), ("s.VSI", "Olympus VSI"), ("s.lif", "Leica LIF"), ("s.nd2", "Nikon ND2"),
    ("s.oir", "Olympus OIR"), ("s.zvi", "Zeiss ZVI"), ("s.isyntax", "iSyntax"), ("s.kfb", "KFBio"), ("s.heic", "HEIC")])
def test_forms_that_are_not_read_are_refused_by_name(tmp_path, name, words):
    (tmp_path / name).write_bytes(b"\x01\x02 some bytes")
    found, fix = refusal(tmp_path / name)
    assert words in found and "export it" in fix
    by_bioformats = name.lower() in ("s.czi", "s.vsi", "s.lif", "s.nd2", "s.oir", "s.zvi")
    assert ("bfconvert" in fix and "QuPath" in fix) == by_bioformats


# content -----------------------------------------------------------------------------------------------
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1234567\n"


@pytest.mark.parametrize("suffix", [".svs", ".tif", ".jpg", ".png", ".dcm", ".vms"])
@pytest.mark.parametrize("content, found, fix", [
    (b"", "an empty file", "again"), (LFS, "a git-lfs pointer", "git lfs pull"),
    (b"\n <!DOCTYPE html><html>log in</html>", "a web page", "link"), (b"<HTML>", "a web page", "link"),
    (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "error message of a server", "again"),
    (gzip.compress(b"II*\0", mtime=0), "a packed file (gzip)", "gunzip"),
    (b"PK\x03\x04 zip", "a packed file (zip)", "unzip"),
    (bytes(500), "a file of zeros", "again")])
def test_what_is_not_the_image_is_named(tmp_path, suffix, content, found, fix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    for text in (refusal(path), _refused_unopened(path)):
        assert found in text[0] and fix in text[1]
    assert stated_pixel_size_um(path) is None


def _refused_unopened(path) -> tuple[str, str]:
    with pytest.raises(LayerError) as error:
        require_image_file(path)
    return error.value.args[1], error.value.args[3]


def test_a_text_a_folder_a_packed_name_and_a_link_to_nothing(tmp_path):
    (tmp_path / "a.png").write_text("404 not found")
    (tmp_path / "b.tif").mkdir()
    (tmp_path / "c.tif.gz").write_bytes(gzip.compress(b"II*\0", mtime=0))
    (tmp_path / "d.tif").symlink_to(tmp_path / "moved.tif")
    assert "a text file" in refusal(tmp_path / "a.png")[0] and "404 not found" in refusal(tmp_path / "a.png")[0]
    assert "a folder" in refusal(tmp_path / "b.tif")[0] and "link to nothing" in refusal(tmp_path / "d.tif")[0]
    assert "gunzip c.tif.gz" in refusal(tmp_path / "c.tif.gz")[1]


# cut off -----------------------------------------------------------------------------------------------
class Files(dict):
    """{name: bytes}, shown by hypothesis as its names."""

    def __repr__(self) -> str:
        return str(sorted(self))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """The bytes of one section in several forms."""
    folder, rgb = tmp_path_factory.mktemp("whole"), section()
    write_svs(folder / "a.svs")
    tifffile.imwrite(folder / "strips.tif", rgb, photometric="rgb")
    tifffile.imwrite(folder / "lzw.tif", rgb, photometric="rgb", compression="lzw", rowsperstrip=50)
    tifffile.imwrite(folder / "sixteen.tif", rgb.astype(np.uint16) * 257, photometric="rgb", tile=(128, 128))
    tifffile.imwrite(folder / "big.btf", rgb, photometric="rgb", bigtiff=True, compression="deflate", tile=(128, 128))
    with tifffile.TiffWriter(folder / "pyramid.ome.tif") as writer:
        writer.write(rgb, subifds=1, photometric="rgb", tile=(128, 128), compression="jpeg")
        writer.write(rgb[::2, ::2].copy(), subfiletype=1, photometric="rgb", tile=(128, 128), compression="jpeg")
    for name in ("a.jpg", "a.png", "a.jp2"):
        Image.fromarray(rgb).save(folder / name)
    return Files({path.name: path.read_bytes() for path in sorted(folder.iterdir())})


@settings(max_examples=25, deadline=None)
@given(share=st.floats(0.02, 0.999))
def test_a_file_that_was_cut_off_anywhere_is_one_error(whole, tmp_path_factory, share):
    folder = tmp_path_factory.mktemp("cut")
    for name, content in whole.items():
        path = folder / name
        path.write_bytes(content[:max(16, int(len(content) * share))])
        open_slide.cache_clear()
        found, _ = refusal(path)
        assert "ends early" in found, (name, share, found)
        assert stated_pixel_size_um(path) in (None, 4.0)


def test_whole_files_do_not_end_early(whole, tmp_path):
    for name, content in whole.items():
        (tmp_path / name).write_bytes(content)
        open_slide.cache_clear()
        assert not ends_early(tmp_path / name) and open_slide(tmp_path / name).size_px == (512, 512)
        (tmp_path / name).write_bytes(content + b"appended by a scanner")
        assert not ends_early(tmp_path / name)


def test_a_broken_tile_is_one_error_when_it_is_read(whole, tmp_path):
    content = bytearray(whole["lzw.tif"])
    middle = len(content) // 2
    content[middle:middle + 4000] = b"\xff" * 4000
    (tmp_path / "a.tif").write_bytes(content)
    slide = open_slide(tmp_path / "a.tif")
    with pytest.raises(LayerError, match="a.tif: found an image that cannot be read"):
        slide.read(0, 0, 512, 512)


def test_a_mrxs_without_its_folder_or_a_part_of_it(tmp_path):
    write_mrxs(tmp_path / "s.mrxs")
    np.testing.assert_array_equal(open_slide(tmp_path / "s.mrxs").size_px, (512, 512))
    (tmp_path / "s/Data0000.dat").unlink()
    open_slide.cache_clear()
    assert "one of which is missing" in refusal(tmp_path / "s.mrxs")[0]
    (tmp_path / "s/Slidedat.ini").unlink()
    assert "without Slidedat.ini" in refusal(tmp_path / "s.mrxs")[0]
    (tmp_path / "t.mrxs").write_bytes(b"")
    assert "t/ is missing" in refusal(tmp_path / "t.mrxs")[0]
    (tmp_path / "s/Slidedat.ini").write_text("")
    (tmp_path / "s.mrxs").rename(tmp_path / "s.MRXS")
    assert "rename it to s.mrxs" in refusal(tmp_path / "s.MRXS")[1]
