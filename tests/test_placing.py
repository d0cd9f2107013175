"""An image with all that belongs to it comes to the root, linked or copied, and opens there."""
import json
import shutil
import unicodedata

import numpy as np
import pytest
import tifffile
from PIL import Image
from scans import UM_PER_PX, polygons, section, write_mrxs, write_svs, write_vms_parts
from visium_folders import add_folder, own_config, run, status_of

from common.config import load_config
from common.errors import LayerError
from common.layout import Layout
from common.slide import open_slide
from common.written import Written
from data_preprocessing.placing import companions, goes_with, name_under_root, outline_of, place_image

LINKED_OR_COPIED = pytest.mark.parametrize("copy", [False, True])


@pytest.fixture
def written(tmp_path) -> Written:
    return Written(tmp_path / "written.json", tmp_path / "root")


@LINKED_OR_COPIED
def test_a_mrxs_opens_under_the_root(tmp_path, written, copy):
    source, target = tmp_path / "raw/s02.mrxs", tmp_path / "root/imgs/b/2.mrxs"
    write_mrxs(source)
    for _ in range(2):
        place_image(source, target, copy, written)
    if copy:
        shutil.rmtree(tmp_path / "raw")
    slide = open_slide(target)
    assert slide.size_px == (512, 512) and slide.pixel_size_um == UM_PER_PX
    assert np.abs(slide.read(0, 0, 512, 512).astype(int) - section()).mean() < 3
    assert Layout(tmp_path / "root").images("b", 2) == [target]


@LINKED_OR_COPIED
def test_the_files_that_a_vms_names_stay_with_it(tmp_path, written, copy):
    source, target = write_vms_parts(tmp_path / "raw"), tmp_path / "root/imgs/b/2.vms"
    assert [path.name for path in companions(source)] == ["a(1,0).jpg", "a.jpg", "a_map2.jpg"]
    place_image(source, target, copy, written)
    if copy:
        shutil.move(tmp_path / "raw", tmp_path / "away")
        shutil.move(tmp_path / "root", tmp_path / "moved")  # a copy may move
        target = tmp_path / "moved/imgs/b/2.vms"
    assert target.read_text().startswith("[Virtual")
    assert all((target.resolve().parent / name).is_file() for name in ("a.jpg", "a(1,0).jpg", "a_map2.jpg"))
    (source if not copy else tmp_path / "away/a.vms").with_name("a.jpg").unlink()
    with pytest.raises(LayerError, match="a slide without a.jpg"):
        place_image(source if not copy else tmp_path / "away/a.vms", tmp_path / "root/imgs/b/3.vms", copy, written)


@LINKED_OR_COPIED
def test_the_files_of_a_dicom_slide_stay_together(tmp_path, written, copy):
    (tmp_path / "raw").mkdir()
    for name in ("DCM_0.dcm", "DCM_1.dcm", "._DCM_0.dcm"):
        (tmp_path / "raw" / name).write_bytes(bytes(128) + b"DICM" + name.encode())
    target = tmp_path / "root/imgs/b/2.dcm"
    place_image(tmp_path / "raw/DCM_0.dcm", target, copy, written)
    names = sorted(path.name for path in target.resolve().parent.glob("[!.]*"))
    assert names == ["DCM_0.dcm", "DCM_1.dcm"] and target.read_bytes().endswith(b"DCM_0.dcm")
    assert target.is_symlink() and Layout(tmp_path / "root").images("b", 2) == [target]


def test_names_under_the_root():
    names = {"a.ome.tif": ".tif", "a.OME.TIFF": ".tiff", "a.JPG": ".jpg", "a.svs": ".svs", "a.h5ad": ".png"}
    assert {name: name_under_root(name, ".png") for name in names} == names


def test_the_outline_is_found_under_its_usual_names(tmp_path):
    image = tmp_path / "wsis/s1.ome.tif"
    for name in ("wsis/s1.geojson", "wsis/s1_contours.geojson", "wsis/s1.ome.tif.geojson", "wsis/s1.tissue.geojson",
                 "tissue_seg/s1_contours.geojson", "contours_geojson/s1.geojson", "wsis/tissue_seg/s1.geojson",
                 "wsis/s1.ome.geojson", "wsis/S1.GeoJSON"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
        assert outline_of(image) == tmp_path / name and goes_with(image) == [tmp_path / name]
        (tmp_path / name).unlink()
    for name in ("wsis/s2.geojson", "wsis/s1_cells.geojson", "wsis/._s1.geojson"):
        (tmp_path / name).write_text("{}")
    assert outline_of(image) is None
    for name in ("s1.geojson", "s1_contours.geojson"):
        (tmp_path / "wsis" / name).write_text("{}")
    with pytest.raises(LayerError, match=r"s1.geojson, .*s1_contours.geojson"):
        outline_of(image)


# through step 0_1 --------------------------------------------------------------------------------------
def block(tmp_path, image: str, **sample) -> list[str]:
    """A config of one Visium section and, as section 2, this image; the options for run()."""
    add_folder(tmp_path / "raw/visium")
    samples = {"b": {"raw": {1: "visium"}, "images": {2: image}, **sample}}
    return own_config(tmp_path / "c.yaml", samples=samples)


@pytest.mark.parametrize("name", ["s.czi", "s.vsi", "s.tif.gz", "s.svs"])
def test_a_file_that_is_no_image_leaves_its_section_out(tmp_path, capsys, name):
    options = block(tmp_path, name, pixel_size_um={2: 4.0})
    (tmp_path / "raw" / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert run(tmp_path / "raw", tmp_path / "root", *options) == 0
    status = status_of(tmp_path / "root")
    assert status["b/1"] == "ok" and status["b/2"].startswith("left out: ") and name in status["b/2"]
    assert Layout(tmp_path / "root").images("b", 2) == [] and "Traceback" not in capsys.readouterr().err


def test_a_scale_that_is_not_believed_is_said_and_the_next_source_is_used(tmp_path, capsys):
    options = block(tmp_path, "s.tif", pixel_size_um={2: 4.0})
    tifffile.imwrite(tmp_path / "raw/s.tif", section(), photometric="rgb", resolution=(72, 72), resolutionunit="INCH")
    assert run(tmp_path / "raw", tmp_path / "root", *options) == 0
    assert "b/2: s.tif states 352.8 um/px, which is not believed" in capsys.readouterr().out
    assert load_config(tmp_path / "root/dataset.yaml").samples["b"].pixel_size_um[2] == 4.0


def test_names_as_macos_and_windows_write_them(tmp_path, capsys):
    options = block(tmp_path, unicodedata.normalize("NFC", "Bl\u00f6cke/s\u00e9.tif"), pixel_size_um={2: 4.0})
    path = tmp_path / "raw" / unicodedata.normalize("NFD", "Bl\u00f6cke/s\u00e9.TIF")
    path.parent.mkdir()
    tifffile.imwrite(path, section(), photometric="rgb")
    assert run(tmp_path / "raw", tmp_path / "root", *options) == 2
    assert f"there is {path.name}" in capsys.readouterr().err
    path.rename(path.with_suffix(".tif"))
    assert run(tmp_path / "raw", tmp_path / "root", *options) == 0
    assert Layout(tmp_path / "root").image("b", 2) and "not taken" not in capsys.readouterr().out


def test_an_outline_without_its_picture_is_named(tmp_path, capsys):
    options = block(tmp_path, "s.tif", pixel_size_um={2: 4.0})
    tifffile.imwrite(tmp_path / "raw/s.tif", section(), photometric="rgb")
    for name in ("s.geojson.gz", "s annotations.geojson"):
        (tmp_path / "raw" / name).write_text("{}")
    assert run(tmp_path / "raw", tmp_path / "root", *options) == 0
    out = capsys.readouterr().out
    assert "s.geojson.gz: packed" in out and "s annotations.geojson: an outline of no listed picture" in out


def test_a_folder_as_image_is_named(tmp_path, capsys):
    options = block(tmp_path, "dicom")
    (tmp_path / "raw/dicom").mkdir()
    assert run(tmp_path / "raw", tmp_path / "root", *options) == 2
    assert "images.2: dicom, a folder" in capsys.readouterr().err


@LINKED_OR_COPIED
def test_the_outline_comes_along_and_leaves_with_its_source(tmp_path, capsys, copy):
    options = [*block(tmp_path, "s.ome.tif"), *(["--copy"] if copy else [])]
    metadata = {"axes": "YXS", "PhysicalSizeX": 4.0, "PhysicalSizeY": 4.0}
    tifffile.imwrite(tmp_path / "raw/s.ome.tif", section(), photometric="rgb", metadata=metadata)
    outline, layout = tmp_path / "raw/s.geojson", Layout(tmp_path / "root")
    outline.write_text(json.dumps(polygons([[[10, 10], [300, 10], [300, 300]]])))
    assert run(tmp_path / "raw", layout.root, *options) == 0
    assert "tissue by s.geojson" in capsys.readouterr().out
    assert layout.outline("b", 2).is_symlink() != copy and json.loads(layout.outline("b", 2).read_text())
    assert layout.image("b", 2).name == "2.tif"
    outline.unlink()
    assert run(tmp_path / "raw", layout.root, *options) == 0 and not layout.outline("b", 2).is_symlink()
    assert not layout.outline("b", 2).exists()
    layout.outline("b", 2).write_text("by hand")
    assert run(tmp_path / "raw", layout.root, *options, "--overwrite") == 0
    assert layout.outline("b", 2).read_text() == "by hand"


def test_an_image_put_there_by_hand_keeps_its_ome_name(tmp_path):
    layout = Layout(tmp_path)
    (tmp_path / "imgs/S").mkdir(parents=True)
    tifffile.imwrite(tmp_path / "imgs/S/3.ome.tif", section(), photometric="rgb")
    Image.fromarray(section()).save(tmp_path / "imgs/S/12.JPG")
    assert layout.image("S", 3).name == "3.ome.tif" and layout.layers_on_disk() == {"S": [3, 12]}


def test_a_scan_of_aperio_is_linked(tmp_path, written):
    write_svs(tmp_path / "a.svs")
    place_image(tmp_path / "a.svs", tmp_path / "root/imgs/b/1.svs", False, written)
    assert (tmp_path / "root/imgs/b/1.svs").readlink() == tmp_path / "a.svs"
    (tmp_path / "a.svs").write_bytes((tmp_path / "a.svs").read_bytes()[:-900])
    with pytest.raises(LayerError, match="ends early"):
        place_image(tmp_path / "a.svs", tmp_path / "root/imgs/b/1.svs", False, written)
