"""Step 0_1 on SpatialData stores: what the library places on an image lies there in px, and nothing is guessed."""
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ROOT, load_script

pytest.importorskip("spatialdata", reason="optional: pip install -r requirements-spatialdata.txt")
import zarr_stores as stores

from common.config import load_config
from common.io import read_h5ad, read_location
from common.layout import Layout
from common.slide import PyramidSlide, open_slide
from data_preprocessing.readers import spatialdata_zarr

convert = load_script("0_1_convert_raw")
pytestmark = pytest.mark.filterwarnings("ignore")


def run(raw: Path, root: Path, *options: str, **changes) -> int:
    config = root.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(yaml.safe_load((ROOT / "configs/spatialdata.yaml").read_text()) | changes))
    return convert.main(["--config", str(config), "--raw_path", str(raw), "--root_path", str(root), *options])


def pixels_of(layout: Layout, sample: str, layer: int) -> np.ndarray:
    slide = open_slide(layout.image(sample, layer))
    assert isinstance(slide, PyramidSlide)  # by region, through OpenSlide
    return slide.read(0, 0, *slide.size_px)


@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_visium_of_both_versions_of_zarr(tmp_path, capsys, version):
    raw, root = tmp_path / "block", tmp_path / "root"
    raw.mkdir()
    xy = stores.visium(raw / "S10.zarr", "S10", version, in_tissue=[0, *[1] * 29])
    stores.visium(raw / "S2.zarr", "S2", version)
    (raw / "._S1.zarr").write_bytes(b"\0\5")
    assert run(raw, root) == 0
    lines, layout = capsys.readouterr().out, Layout(root)
    assert "S10_hires_image by the system global" in lines and "not taken: images S10_lowres_image" in lines
    assert "1 off tissue" in lines and "1 features of type Antibody Capture" in lines
    config = load_config(layout.config)
    assert config.samples["block"].raw == {1: "S2.zarr", 2: "S10.zarr"}  # natural order
    assert config.samples["block"].pixel_size_um[2] == pytest.approx(100 / (stores.PITCH_PX * stores.HIRES), rel=1e-4)
    location, counts = read_location(layout.location("block", 2)), read_h5ad(layout.counts("block", 2))
    assert np.allclose(location[["pixel_x", "pixel_y"]], xy[1:] * stores.HIRES - 0.5)  # from the corner to the centre
    table = stores.table_of("S10", stores.hex_centres()[1], 30)[1:]
    assert location["barcode"].tolist() == table.obs_names.tolist() == counts.obs_names.tolist()
    assert location[["i", "j"]].to_numpy().tolist() == table.obs[["array_col", "array_row"]].to_numpy().tolist()
    assert counts.var_names.tolist() == ["GA", "GB", "GC", "GD"] and counts.X.dtype == np.float32
    assert counts.var["gene_ids"].tolist() == ["ENSG0", "ENSG1", "ENSG2", "ENSG3"]
    assert (counts.X.toarray() == table.X.toarray()[:, :4]).all()
    assert (pixels_of(layout, "block", 2) == np.moveaxis(stores.picture(), 0, -1)).all()
    assert run(raw, root) == 0 and capsys.readouterr().out.count("up to date") == 2


def test_several_sections_of_one_store_by_systems_of_their_own(tmp_path, capsys):
    raw, root = tmp_path / "raw", tmp_path / "root"
    raw.mkdir()
    stores.two_sections(raw / "block.zarr")
    assert run(raw, root) == 0
    layout, xy = Layout(root), stores.hex_centres()[0]
    assert load_config(layout.config).samples["raw"].raw == {1: "block.zarr#A", 2: "block.zarr#B"}
    first, second = (read_location(layout.location("raw", layer)) for layer in (1, 2))
    assert np.allclose(first[["pixel_x", "pixel_y"]], xy - 0.5)
    assert np.allclose(second[["pixel_x", "pixel_y"]], xy + [7 - 0.5, -3 - 0.5])
    assert all(first["barcode"].str.startswith("A-")) and all(second["barcode"].str.startswith("B-"))
    said = capsys.readouterr().out
    assert "A_he by the system of_A" in said and "not taken" not in said
    assert run(raw / "block.zarr", tmp_path / "again") == 0  # the store itself as --raw_path
    assert load_config(tmp_path / "again/dataset.yaml").samples["block"].raw == {1: ".#A", 2: ".#B"}


def test_an_entry_of_several_sections_without_a_part_lists_them(tmp_path, capsys):
    raw = tmp_path / "raw"
    raw.mkdir()
    stores.two_sections(raw / "block.zarr")
    for entry, fact in (("block.zarr", "block.zarr#A"), ("block.zarr#C", "regions A, B")):
        assert run(raw, tmp_path / "root", samples={"M": {"raw": {3: entry, 4: "block.zarr#B"}}}) == 0
        assert fact in capsys.readouterr().err
        assert Layout(tmp_path / "root").layers_on_disk()["M"] == [4]  # the other keeps its number


def test_visium_hd_takes_the_bins_of_the_pitch_and_refuses_another_array(tmp_path, capsys):
    raw = tmp_path / "raw"
    raw.mkdir()
    stores.visium_hd(raw / "H.zarr")
    assert run(raw, tmp_path / "refused") == 2
    error = capsys.readouterr().err
    assert "array: square, pitch_um: 16" in error and "pitch_um: 100" in error
    for size, n in ((16, 36), (8, 144)):
        layout = Layout(tmp_path / f"root{size}")
        assert run(raw, layout.root, array="square", pitch_um=size) == 0
        location = read_location(layout.location("raw", 1))
        assert len(location) == n and location.loc[0, "pixel_x"] == 10 + size - 0.5
        config = load_config(layout.config)
        assert config.samples["raw"].raw == {1: f"H.zarr#H_square_{size:03d}um"} or config.samples["raw"].raw == {
            1: "H.zarr"}
        assert config.samples["raw"].pixel_size_um == {1: pytest.approx(0.5)}


def test_the_stated_scale_is_held_against_the_spots(tmp_path, capsys):
    raw = tmp_path / "raw"
    raw.mkdir()
    stores.visium_hd(raw / "H.zarr")
    named = {"raw": {1: "H.zarr#H_square_016um"}}
    assert run(raw, tmp_path / "root", array="square", pitch_um=16, samples={"M": named}) == 0
    files = spatialdata_zarr.raw_files(raw, load_config(tmp_path / "root/dataset.yaml"), "M", 1)
    (source,) = spatialdata_zarr.platform_sources(files)
    assert source.um_per_px == 0.5 and "microns" in source.name
    assert run(raw, tmp_path / "two", array="square", pitch_um=16, samples={"M": {**named, "pixel_size_um": {1: 1.0}}})
    assert "0.5 um/px" in capsys.readouterr().err


@pytest.mark.parametrize(("dtype", "top"), [(np.uint16, 65535), (np.uint16, 255), (np.float32, 1.0), (np.int64, 255)])
def test_other_types_of_pixels_keep_their_colours(tmp_path, dtype, top):
    raw = tmp_path / "raw"
    raw.mkdir()
    stores.visium(raw / "S.zarr", "S", pixels=stores.picture(dtype=dtype, top=top))
    assert run(raw, tmp_path / "root") == 0
    found = pixels_of(Layout(tmp_path / "root"), "raw", 1).astype(int)
    assert np.abs(found - np.moveaxis(stores.picture(), 0, -1)).max() <= 1


def test_a_large_image_becomes_a_pyramid(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    pixels = stores.picture(5000, 1100)
    stores.visium(raw / "S.zarr", "S", pixels=pixels)
    assert run(raw, tmp_path / "root") == 0
    path = Layout(tmp_path / "root").image("raw", 1)
    import openslide
    with openslide.OpenSlide(str(path)) as slide:
        assert slide.level_dimensions == ((5000, 1100), (1250, 275))
        region = np.asarray(slide.read_region((4000, 700), 0, (64, 32)))[..., :3]
    assert (region == np.moveaxis(pixels, 0, -1)[700:732, 4000:4064]).all()


def test_images_that_could_be_the_sections_are_named(tmp_path, capsys):
    from spatialdata.transformations import Identity
    raw = tmp_path / "raw"
    raw.mkdir()
    more = {"ihc_image": stores.parsed_image(stores.picture(), {"downscaled_hires": Identity()}),
            "dapi": stores.parsed_image(np.zeros((5, 30, 30), np.uint16), {"downscaled_hires": Identity()})}
    stores.visium(raw / "S.zarr", "S", more_images=more)
    assert run(raw, tmp_path / "root") == 0 and "S_hires_image" in capsys.readouterr().out
    assert run(raw, tmp_path / "named", samples={"M": {"raw": {1: "S.zarr#S@ihc_image"}}}) == 0
    assert "image ihc_image by the system downscaled_hires" in capsys.readouterr().out


def test_images_of_other_names_in_one_system_are_not_guessed(tmp_path, capsys):
    import spatialdata
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Identity
    raw, (xy, col_row) = tmp_path / "raw", stores.hex_centres()
    raw.mkdir()
    images = {name: stores.parsed_image(stores.picture(640, 480), {"global": Identity()}) for name in ("x_he", "y_he")}
    shapes = {"S": ShapesModel.parse(xy, geometry=0, radius=stores.RADIUS)}
    table = stores.parsed_table(stores.table_of("S", col_row, len(xy)), "S")
    stores.write(spatialdata.SpatialData(images=images, shapes=shapes, tables={"t": table}), raw / "S.zarr")
    assert run(raw, tmp_path / "root") == 2
    assert "x_he, y_he" in (said := capsys.readouterr().err) and "S.zarr#S@x_he" in said
    assert run(raw, tmp_path / "root", samples={"M": {"raw": {1: "S.zarr#S@y_he"}}}) == 0
    assert "image y_he" in capsys.readouterr().out


def test_two_tables_of_counts_of_one_region_are_not_guessed(tmp_path, capsys):
    import spatialdata
    raw = tmp_path / "raw"
    raw.mkdir()
    stores.visium(raw / "S.zarr", "S")
    data = spatialdata.read_zarr(raw / "S.zarr")
    logged = data.tables["table"].copy()
    logged.X = np.log1p(logged.X)
    data.tables["logged"] = logged
    stores.write(data, raw / "T.zarr")
    data.tables["again"] = data.tables["table"].copy()
    stores.write(data, raw / "U.zarr")
    assert run(raw, tmp_path / "root") == 0
    said = capsys.readouterr()
    assert said.out.count("table table") == 2 and "raw/3: left out" in said.err and "U.zarr#again/S" in said.err
    assert Layout(tmp_path / "root").layers_on_disk() == {"raw": [1, 2]}


def test_an_image_alone_points_and_positions_in_obsm(tmp_path):
    import spatialdata
    from spatialdata.models import PointsModel, TableModel
    from spatialdata.transformations import Identity, Scale
    raw, (xy, col_row) = tmp_path / "raw", stores.hex_centres()
    raw.mkdir()
    twice = Scale([2, 2], ("x", "y"))
    image = {"he": stores.parsed_image(stores.picture(640, 480), {"global": Identity(), "um": twice})}
    stores.write(spatialdata.SpatialData(images=image), raw / "1_image.zarr")
    points = PointsModel.parse(xy / 2, transformations={"global": twice})
    table = stores.parsed_table(stores.table_of("P", None, len(xy)), "P")
    whole = spatialdata.SpatialData(images=image, points={"P": points}, tables={"t": table})
    stores.write(whole, raw / "2_points.zarr")
    bare = stores.table_of("P", None, len(xy))
    bare.obsm["spatial"] = xy
    stores.write(spatialdata.SpatialData(images=image, tables={"t": TableModel.parse(bare)}), raw / "3_obsm.zarr")
    Path(raw / "full.png").write_bytes(b"")
    root = tmp_path / "root"
    assert run(raw, root, pitch_um=160) == 0
    layout, sizes = Layout(root), load_config(root / "dataset.yaml").samples["raw"].pixel_size_um
    assert layout.image("raw", 1) and not layout.location("raw", 1).exists()
    assert sizes == {1: 2.0, 2: pytest.approx(2.0), 3: pytest.approx(2.0)}
    by_points, by_obsm = (read_location(layout.location("raw", layer)) for layer in (2, 3))
    assert np.allclose(by_points[["pixel_x", "pixel_y"]], xy - 0.5)
    assert np.allclose(by_obsm[["pixel_x", "pixel_y"]], xy)  # scanpy counts from the centre of the first pixel
    i, j = by_points[["i", "j"]].to_numpy().T - col_row.T
    assert len(set(i)) == len(set(j)) == 1


def test_an_image_of_the_config_has_the_px_of_the_spots(tmp_path):
    from PIL import Image
    raw = tmp_path / "raw"
    raw.mkdir()
    xy = stores.visium(raw / "S.zarr", "S")
    Image.fromarray(np.full((480, 640, 3), 200, np.uint8)).save(raw / "full.png")
    assert run(raw, tmp_path / "root", samples={"M": {"raw": {1: "S.zarr"}, "images": {1: "full.png"}}}) == 0
    layout = Layout(tmp_path / "root")
    assert layout.image("M", 1).suffix == ".png"
    assert np.allclose(read_location(layout.location("M", 1))[["pixel_x", "pixel_y"]], xy - 0.5)


def test_what_cannot_be_read_keeps_its_number_and_says_why(tmp_path, capsys):
    raw, root = tmp_path / "raw", tmp_path / "root"
    raw.mkdir()
    for name in "ABCD":
        stores.visium(raw / f"{name}.zarr", name)
    shutil.rmtree(raw / "A.zarr/tables/table/X")
    (raw / "B.zarr/shapes/B/shapes.parquet").write_bytes(b"cut off")
    shutil.rmtree(raw / "C.zarr/tables")
    shutil.rmtree(raw / "C.zarr/images")
    assert run(raw, root) == 0
    said = capsys.readouterr().err
    assert all(f"raw/{layer}" in said for layer in (1, 2, 3)), said
    assert "no raw counts" in said and "shapes/B" in said and "neither tables/ nor images/" in said
    assert Layout(root).layers_on_disk() == {"raw": [4]}


def test_an_anndata_store_and_a_packed_store_are_named(tmp_path, capsys):
    raw = tmp_path / "raw"
    raw.mkdir()
    stores.table_of("S", None, 12).write_zarr(raw / "a.zarr")
    assert run(raw, tmp_path / "root") == 2
    assert "--format h5ad" in capsys.readouterr().err
    assert "unpack" in spatialdata_zarr.why_not(raw, raw / "b.zarr.zip")


def test_without_the_library_one_line_says_how_to_get_it(tmp_path, capsys, monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, "spatialdata", None)
    assert run(tmp_path, tmp_path / "root") == 2
    assert "pip install -r requirements-spatialdata.txt" in capsys.readouterr().err


def test_genes_and_words_are_read_as_of_anndata_files(tmp_path, capsys):
    import anndata
    import spatialdata
    raw, ids = tmp_path / "block", [f"ENSG{k:011d}" for k in range(5)]
    raw.mkdir()
    for name, kind in (("S1", "ids"), ("S2", "numbers"), ("S3", "selected"), ("S4", "log")):
        stores.visium(raw / f"{name}.zarr", name, in_tissue=["in tissue"] * 29 + ["off tissue"])
        data = spatialdata.read_zarr(raw / f"{name}.zarr")
        table = data.tables["table"]
        table.var["symbol"] = [*"ABCDE"]
        table.var_names = ids if kind == "ids" else [str(k) for k in range(5)] if kind == "numbers" else table.var_names
        if kind == "selected":
            part = table[:, :2].copy()
            part.layers["counts"], part.raw = part.X.copy(), table
            table = part
        if kind in ("selected", "log"):
            table.X = table.X.log1p()
        del data.tables["table"]
        data.tables["table"] = anndata.AnnData(table)
        stores.write(data, raw / f"{name}b.zarr")
        shutil.rmtree(raw / f"{name}.zarr")
    assert run(raw, tmp_path / "root") == 0
    said, layout = capsys.readouterr(), Layout(tmp_path / "root")
    assert read_h5ad(layout.counts("block", 1)).var_names.tolist() == [*"ABCD"]
    assert read_h5ad(layout.counts("block", 1)).var["gene_ids"].tolist() == ids[:4]
    assert read_h5ad(layout.counts("block", 2)).var_names.tolist() == [*"ABCD"]
    assert read_h5ad(layout.counts("block", 3)).shape == (29, 4), "raw has more genes than layers['counts']"
    assert "X (values such as" in said.err and "log-normalised" in said.err
    assert len(read_location(layout.location("block", 1))) == 29
