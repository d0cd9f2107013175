"""common/geometry.py: one scale a section, from sources that agree, believed or refused."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
from conftest import load_script
from hypothesis import given, strategies as st
from PIL import Image

from common import geometry
from common.config import Config, load_config, save_config, validate
from common.errors import DataError, LayerError
from common.feature_recipe import adopted
from common.geometry import (
    check_scale,
    dataset_geometry,
    dataset_um_per_px,
    pitches_of,
    section_geometry,
    stated_geometry,
)
from common.io import write_table
from common.layout import Layout
from common.slide import open_slide, stated_pixel_size_um
from common.status import read_status


def stack(**values) -> Config:
    return validate({"dataset": "d", "samples": {"A": {"layers": [1, 2]}}, **values}, "c.yaml")


def spots(pitch_px: float, array: str = "square", n: int = 6, jitter_px: float = 0.0) -> pd.DataFrame:
    """A location table of an array."""
    j, i = (axis.ravel() for axis in np.mgrid[:n, :n])
    i = 2 * i + j % 2 if array == "hex" else i
    step = (pitch_px / 2, pitch_px * 0.75**0.5) if array == "hex" else (pitch_px, pitch_px)
    noise = np.random.default_rng(0).normal(0, jitter_px, (len(i), 2))
    return pd.DataFrame(
        {
            "barcode": [f"{a}x{b}" for a, b in zip(i, j, strict=True)],
            "pixel_x": 50 + i * step[0] + noise[:, 0],
            "pixel_y": 50 + j * step[1] + noise[:, 1],
            "i": i,
            "j": j,
        }
    )


def put_spots(layout: Layout, layer: int, table: pd.DataFrame, counts: bool = True) -> None:
    write_table(layout.location("A", layer), table)
    if counts:
        layout.counts("A", layer).parent.mkdir(parents=True, exist_ok=True)
        layout.counts("A", layer).write_bytes(b"is not read")


def put_tiff(
    layout: Layout, layer: int, um_per_px: float, shape: tuple[int, int] = (300, 320), tiled: bool = False
) -> None:
    """A section on glass, saved with its resolution; tiled: opens in OpenSlide."""
    path, options = layout.new_image("A", layer, ".tif"), {"tile": (64, 64)} if tiled else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        path, blob(shape), photometric="rgb", resolution=(1e4 / um_per_px,) * 2, resolutionunit="CENTIMETER", **options
    )


def blob(shape: tuple[int, int]) -> np.ndarray:
    picture = np.full((*shape, 3), 245, np.uint8)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    tissue = ((rows / shape[0] - 0.5) ** 2 + (columns / shape[1] - 0.5) ** 2) < 0.3**2
    noise = cv2.resize(np.random.default_rng(0).integers(-40, 40, (30, 32, 3)).astype(np.float32), shape[::-1])
    picture[tissue] = (np.array([160, 90, 150]) + noise[tissue]).astype(np.uint8)
    return picture


# what dataset.yaml states ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "pitch_px, windows, radius_px",
    [(272, (224, 512, 1024), 112.0), (24, (20, 45, 90), 112 * 24 / 272), (68, (56, 128, 256), 28.0)],
)
def test_windows_follow_the_pitch(pitch_px, windows, radius_px):
    found = dataset_geometry(stack(pitch_px=pitch_px))
    assert found.pitch_px == pitch_px and found.um_per_px == 200 / pitch_px and found.scale == pitch_px / 272
    assert tuple(
        found.window_px(size) for size in (224, 512, 1024)
    ) == windows and found.contour_radius_px == pytest.approx(radius_px)
    assert found.window_um(224) == pytest.approx(200 * 224 / 272, rel=1e-5)


def test_windows_in_um_are_the_same_at_every_pixel_size():
    config = stack(pitch_um=100, window_um=165, samples={"A": {"layers": [1, 2], "pixel_size_um": {1: 0.5, 2: 2}}})
    fine, coarse = (stated_geometry(config, "A", layer) for layer in (1, 2))
    assert (fine.window_px(224), coarse.window_px(224)) == (330, 83) and fine.window_um(1024) == coarse.window_um(
        1024
    ) == pytest.approx(165 * 1024 / 224, rel=1e-5)


def test_patch_scale_is_that_of_the_datasets_own_scale():
    config = stack(pitch_px=272, patch_scale=0.5, samples={"A": {"layers": [1, 2], "pixel_size_um": {2: 200 / 136}}})
    own, coarse = (stated_geometry(config, "A", layer) for layer in (1, 2))
    assert (own.window_px(512), own.window_px(225), coarse.window_px(512)) == (256, 113, 128)  # a half is rounded up
    assert coarse.pitch_px == pytest.approx(136) and coarse.window_um(224) == own.window_um(224)


@pytest.mark.parametrize(
    "values, found",
    [
        ({"pitch_px": 272, "pixel_size_um": 1.0}, "pixel_size_um 1, but 0.7353 um/px by pitch_um / pitch_px"),
        ({"pixel_size_um": 250.0}, "250 um per px"),
        ({"pitch_px": 5}, "40 um per px"),
        ({"pixel_size_um": 0.01}, "0.01 um per px"),
        ({"pitch_px": 272, "patch_scale": 1.0, "window_um": 100}, "patch_scale and window_um"),
        ({"patch_scale": 1.0}, "without a scale of the dataset"),
    ],
)
def test_config_that_contradicts_itself_is_refused(values, found):
    with pytest.raises(DataError) as error:
        check_scale(stack(**values), "c.yaml")
    assert found in str(error.value)


# sources that agree or do not --------------------------------------------------------------------------
@pytest.mark.parametrize("tiled", [True, False])
def test_same_glass_scanned_at_two_pixel_sizes_gets_the_same_lattice(tmp_path, tiled):
    """Before, 1 and 2 um per px gave 199 and 55 spots, both called 100 um apart."""
    layout = Layout(tmp_path)
    put_tiff(layout, 1, 4.0, (600, 640), tiled)
    put_tiff(layout, 2, 8.0, (300, 320), tiled)
    save_config(stack(pitch_um=100), layout.config)
    for step in ("0_2_tissue_mask", "0_3_spot_grid"):
        assert load_script(step).main(["--root_path", str(tmp_path)]) == 0
    first, second = (pd.read_csv(layout.location("A", layer)) for layer in (1, 2))
    assert abs(len(first) - len(second)) <= 0.05 * len(first) and len(first) > 100
    assert [
        section_geometry(load_config(layout.config), layout, "A", layer).pitch_px for layer in (1, 2)
    ] == pytest.approx([25, 12.5], rel=1e-4)


@pytest.mark.parametrize("stated, ok", [(3.85, True), (4.15, True), (3.7, False), (8.0, False)])
def test_image_is_compared_with_dataset_yaml(tmp_path, stated, ok):
    layout = Layout(tmp_path)
    put_tiff(layout, 1, stated)
    config = stack(pitch_um=100, pixel_size_um=4.0)
    if ok:
        assert section_geometry(config, layout, "A", 1).um_per_px == 4.0
        return
    with pytest.raises(LayerError) as error:
        section_geometry(config, layout, "A", 1)
    assert "4 um/px by pixel_size_um" in str(error.value) and f"{stated:.4g} um/px by the metadata of 1.tif" in str(
        error.value
    )
    assert (
        section_geometry(
            stack(pitch_um=100, pixel_size_um=4.0, samples={"A": {"layers": [1], "pixel_size_um": {1: stated}}}),
            layout,
            "A",
            1,
        ).um_per_px
        == stated
    )


def test_contradiction_leaves_out_the_section_alone(tmp_path, capsys):
    layout = Layout(tmp_path)
    put_tiff(layout, 1, 4.0)
    put_tiff(layout, 2, 8.0)
    save_config(stack(pitch_um=100, pixel_size_um=4.0), layout.config)
    for step in ("0_2_tissue_mask", "0_3_spot_grid"):
        assert load_script(step).main(["--root_path", str(tmp_path)]) == 0
    assert layout.location("A", 1).is_file() and not layout.location("A", 2).exists()
    status = read_status(layout)
    assert (
        "8 um/px by the metadata of 2.tif" in status["A/2"]["0_2_tissue_mask"]
        and status["A/1"]["0_2_tissue_mask"] == "ok"
    )


@pytest.mark.parametrize("array", ["square", "hex"])
def test_spots_are_compared_with_dataset_yaml_and_image(tmp_path, array):
    layout = Layout(tmp_path)
    put_spots(layout, 1, spots(50, array))
    assert section_geometry(stack(pitch_um=100, array=array), layout, "A", 1).um_per_px == 2.0
    assert section_geometry(stack(pitch_um=100, pitch_px=51, array=array), layout, "A", 1).pitch_px == 51
    with pytest.raises(
        LayerError,
        match="pixel_size_um or pitch_px of dataset.yaml, but 2 um/px by the spots of 1.csv, 50 px apart",
    ):
        section_geometry(stack(pitch_um=100, pitch_px=60, array=array), layout, "A", 1)
    put_tiff(layout, 1, 1.0)
    with pytest.raises(LayerError, match="by the spots of 1.csv.*but 1 um/px by the metadata of 1.tif"):
        section_geometry(stack(pitch_um=100, array=array), layout, "A", 1)


def test_spots_without_counts_are_no_evidence(tmp_path):
    """A pathologist's spots, or a lattice, may lie anywhere."""
    layout = Layout(tmp_path)
    put_spots(layout, 1, spots(10), counts=False)
    assert section_geometry(stack(pitch_px=60), layout, "A", 1).pitch_px == 60


def test_jittered_legacy_array_agrees_with_its_nominal_pitch():
    """HER2+ C2: nearest neighbours 271 px, array step 291 px, nominal pitch 272 px."""
    found = pitches_of(
        *(spots(291, jitter_px=20)[names].to_numpy() for names in (["pixel_x", "pixel_y"], ["i", "j"])), "square"
    )
    assert found[0] < 275 and found[1] == pytest.approx(291, rel=0.02)
    source = geometry.spot_sources(found, 200, Path("1.csv"))[0]
    assert not source.contradicts(geometry.Source.of("x", 200 / 272)) and source.contradicts(
        geometry.Source.of("x", 200 / 218)
    )


@given(
    pitch=st.floats(5, 500), array=st.sampled_from(["square", "hex"]), angle=st.floats(0, 6.3), mirrored=st.booleans()
)
def test_pitch_is_measured_however_the_array_lies(pitch, array, angle, mirrored):
    table = spots(pitch, array)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag(
        [-1 if mirrored else 1, 1]
    )
    assert pitches_of(
        table[["pixel_x", "pixel_y"]].to_numpy() @ turn.T, table[["i", "j"]].to_numpy(), array
    ) == pytest.approx((pitch, pitch), rel=1e-6)


@pytest.mark.parametrize("um_per_px", [352.8, 1e4, 0.01])
def test_image_that_states_nonsense_is_not_believed(tmp_path, um_per_px):
    """72 dpi, and 1 px per cm: before, 1.7 million spots on 600 x 520 px, and 30 GiB."""
    layout = Layout(tmp_path)
    put_tiff(layout, 1, um_per_px, tiled=True)
    put_tiff(layout, 2, 4.0, tiled=True)
    assert stated_pixel_size_um(layout.image("A", 1)) == pytest.approx(um_per_px, rel=1e-3)
    save_config(stack(pitch_um=100), layout.config)
    assert load_script("0_2_tissue_mask").main(["--root_path", str(tmp_path)]) == 0
    wrong = read_status(layout)["A/1"]["0_2_tissue_mask"]
    assert f"{um_per_px:.4g} um/px, which is not believed" in wrong and "samples.A.pixel_size_um: {1: …}" in wrong
    assert section_geometry(stack(pitch_um=100, pixel_size_um=4.0), layout, "A", 1).um_per_px == 4.0


def test_more_tissue_than_a_slide_or_more_spots_than_px_is_refused(tmp_path):
    layout = Layout(tmp_path)
    put_tiff(layout, 1, 4.0)
    save_config(stack(pitch_um=100, grid_pitch_um=6, samples={"A": {"layers": [1]}}), layout.config)
    assert load_script("0_2_tissue_mask").main(["--root_path", str(tmp_path)]) == 0
    assert load_script("0_3_spot_grid").main(["--root_path", str(tmp_path)]) == 2
    assert (
        "spots 1.5 px apart" in read_status(layout)["A/1"]["0_3_spot_grid"] and not layout.location("A", 1).exists()
    )
    with pytest.raises(LayerError, match="mm² of tissue at 4 um/px"):
        geometry.check_lattice(section_geometry(stack(pitch_um=100), layout, "A", 1), 1e9, 25, layout.mask("A", 1))


# what images state -------------------------------------------------------------------------------------
@pytest.mark.parametrize("name, options", [("a.tif", {}), ("a.tif", {"tile": (64, 64)})])
def test_tiff_states_its_resolution(tmp_path, name, options):
    for unit, per_unit in (("CENTIMETER", 1e4 / 3.2), ("INCH", 25400 / 3.2)):
        tifffile.imwrite(
            tmp_path / name,
            blob((64, 64)),
            photometric="rgb",
            resolution=(per_unit,) * 2,
            resolutionunit=unit,
            **options,
        )
        assert stated_pixel_size_um(tmp_path / name) == pytest.approx(3.2, rel=1e-4)
        open_slide.cache_clear()
        assert open_slide(tmp_path / name).pixel_size_um == pytest.approx(3.2, rel=1e-4)
    tifffile.imwrite(
        tmp_path / name,
        blob((64, 64)),
        photometric="rgb",
        resolution=(3000, 1500),
        resolutionunit="CENTIMETER",
        **options,
    )
    assert stated_pixel_size_um(tmp_path / name) is None  # pixels that are no squares
    tifffile.imwrite(tmp_path / name, blob((64, 64)), photometric="rgb", **options)
    assert stated_pixel_size_um(tmp_path / name) is None


def test_ome_tiff_states_its_pixel_size(tmp_path):
    for unit, size in (("µm", 0.5), ("nm", 500.0)):
        metadata = {
            "axes": "YXS",
            "PhysicalSizeX": size,
            "PhysicalSizeXUnit": unit,
            "PhysicalSizeY": size,
            "PhysicalSizeYUnit": unit,
        }
        tifffile.imwrite(tmp_path / "a.ome.tif", blob((64, 64)), photometric="rgb", metadata=metadata)
        assert stated_pixel_size_um(tmp_path / "a.ome.tif") == pytest.approx(0.5)


def test_picture_states_its_dots_per_inch(tmp_path):
    for name in ("a.png", "a.jpg"):
        Image.fromarray(blob((64, 64))).save(tmp_path / name, dpi=(5080, 5080))
        assert stated_pixel_size_um(tmp_path / name) == pytest.approx(5.0, rel=1e-3)
        Image.fromarray(blob((64, 64))).save(tmp_path / name)
        assert stated_pixel_size_um(tmp_path / name) is None


def test_file_that_is_no_image_states_nothing(tmp_path):
    (tmp_path / "a.svs").write_bytes(b"II*\0" + bytes(20))
    assert stated_pixel_size_um(tmp_path / "a.svs") is None and stated_pixel_size_um(tmp_path / "none.tif") is None


# the network of another lab ----------------------------------------------------------------------------
@pytest.mark.parametrize("scale", [
    {"pitch_px": 272.0}, {"pixel_size_um": 200 / 272}, {"pitch_px": 272.0, "pixel_size_um": 200 / 272}, {}])
def test_a_root_that_adopts_another_pitch_keeps_its_pixel_size(scale):
    was = {"array": "hex", "pitch_um": 100.0, "window_um": 82.0, "config": {"features": ["stain"]}}
    config = Config(dataset="own", pitch_um=200.0, **scale)
    new = adopted(config, {"trained_with": was}, Path("genes.csv"))
    assert new.pitch_um == 100 and dataset_um_per_px(new) == pytest.approx(dataset_um_per_px(config))
    check_scale(new, "dataset.yaml")
