"""The um per px that an image file states, and the line where it is not believed."""
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings, strategies as st
from PIL import Image
from scans import section, write_svs

from common.geometry import image_sources
from common.image_scale import UM_OF_UNIT, stated_pixel_size_um


def ome(size: float, unit: str | None, axes: str = "YXS") -> dict:
    metadata = {"axes": axes, "PhysicalSizeX": size, "PhysicalSizeY": size}
    return metadata | ({"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit} if unit else {})


@settings(deadline=None, max_examples=30)
@given(um=st.floats(0.06, 19), unit=st.sampled_from(sorted(UM_OF_UNIT)), tiled=st.booleans())
def test_ome_in_every_unit(tmp_path_factory, um, unit, tiled):
    """OME-XML is believed before the resolution tags, in tiles (which OpenSlide opens too) and in strips."""
    path = tmp_path_factory.mktemp("ome") / "a.ome.tif"
    tifffile.imwrite(path, section()[:64, :64], photometric="rgb", metadata=ome(um / UM_OF_UNIT[unit], unit),
                     resolution=(72, 72), resolutionunit="INCH", **({"tile": (64, 64)} if tiled else {}))
    assert stated_pixel_size_um(path) == pytest.approx(um, rel=1e-4)


def test_ome_without_unit_is_in_um_and_of_the_largest_image(tmp_path):
    tifffile.imwrite(tmp_path / "a.ome.tif", section(), photometric="rgb", metadata=ome(0.5, None))
    assert stated_pixel_size_um(tmp_path / "a.ome.tif") == pytest.approx(0.5)
    with tifffile.TiffWriter(tmp_path / "b.ome.tif", ome=True) as writer:
        writer.write(section()[:64, :64], photometric="rgb", metadata=ome(8.0, "µm"))
        writer.write(section(), photometric="rgb", metadata=ome(1.0, "µm"))
    assert stated_pixel_size_um(tmp_path / "b.ome.tif") == pytest.approx(1.0)
    tifffile.imwrite(tmp_path / "c.ome.tif", section(), photometric="rgb", metadata=ome(0.5, "pixel"))
    assert stated_pixel_size_um(tmp_path / "c.ome.tif") is None


@pytest.mark.parametrize("unit, per_px", [("micron", 2.0), ("um", 2.0), ("\\u00B5m", 2.0), ("mm", 2000.0)])
def test_imagej_states_px_per_unit(tmp_path, unit, per_px):
    tifffile.imwrite(tmp_path / "a.tif", section(), imagej=True, resolution=(per_px, per_px), metadata={"unit": unit})
    assert stated_pixel_size_um(tmp_path / "a.tif") == pytest.approx(1e3 / per_px if unit == "mm" else 0.5)


def test_the_scale_is_that_of_the_picture_that_is_read(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for pixels, um in ((section()[:64, :64], 16.0), (section(), 2.0)):
            writer.write(pixels, photometric="rgb", resolution=(1e4 / um,) * 2, resolutionunit="CENTIMETER",
                         tile=(64, 64), metadata=None)
    assert stated_pixel_size_um(tmp_path / "a.tif") == pytest.approx(2.0)


@pytest.mark.parametrize("unit, per_unit, um", [
    ("INCH", 72, 25400 / 72), ("INCH", 96, 25400 / 96), ("INCH", 300, 25400 / 300), ("INCH", 1, 25400),
    ("CENTIMETER", 1, 1e4), ("CENTIMETER", 28.35, 1e4 / 28.35)])
@pytest.mark.parametrize("tiled", [False, True])
def test_defaults_of_programs_are_read_and_not_believed(tmp_path, unit, per_unit, um, tiled):
    tifffile.imwrite(tmp_path / "a.tif", section(), photometric="rgb", resolution=(per_unit,) * 2, resolutionunit=unit,
                     metadata=None, **({"tile": (256, 256)} if tiled else {}))
    stated = stated_pixel_size_um(tmp_path / "a.tif")
    assert stated == pytest.approx(um, rel=1e-3) and image_sources(stated, tmp_path / "a.tif") == []


def test_pictures_and_scanners(tmp_path):
    for suffix in (".jpg", ".png"):
        Image.fromarray(section()).save(tmp_path / f"a{suffix}", dpi=(12700, 12700))
        assert stated_pixel_size_um(tmp_path / f"a{suffix}") == pytest.approx(2.0, rel=1e-2)
    write_svs(tmp_path / "a.svs")
    assert stated_pixel_size_um(tmp_path / "a.svs") == 4.0
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "a.jp2")
    assert stated_pixel_size_um(tmp_path / "a.jp2") is None
