"""export_spatialdata.py: what SpatialData reads of the store is what the run predicted, at the same place."""
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import load_script
from hypothesis import given, settings, strategies as st
from PIL import Image
from scipy import sparse

from common.config import load_config
from common.io import read_h5ad, read_location, write_h5ad, write_json, write_table
from common.jobs import open_context
from common.layout import Layout, RunLayout
from common.slide import open_slide
from registration.transforms import Transform, Warp, move, write_transform

spatialdata = pytest.importorskip("spatialdata", reason="optional: pip install -r requirements-spatialdata.txt")
export, convert = load_script("export_spatialdata"), load_script("0_1_convert_raw")
pytestmark = pytest.mark.filterwarnings("ignore")
PITCH_PX, UM_PER_PX, SIZE = 20.0, 5.0, (400, 300)  # width, height
TURN = np.array([[0.8, -0.6, 30.0], [0.6, 0.8, -12.0]])


def spots(n_side: int = 4) -> pd.DataFrame:
    row, column = np.divmod(np.arange(n_side**2), n_side)
    return pd.DataFrame({"barcode": [f"{i}x{j}" for i, j in zip(column, row, strict=True)],
                         "pixel_x": 40 + PITCH_PX * column, "pixel_y": 60.25 + PITCH_PX * row, "i": column, "j": row})


def make_run(root: Path, matrix: np.ndarray = TURN, warp: Warp | None = None) -> tuple[Layout, RunLayout]:
    """Sections 1 (moved onto 2 by `matrix`) and 2, both measured, and 4, an image without registration."""
    layout, run = Layout(root), RunLayout(root / "runs/3d")
    root.mkdir()
    layout.config.write_text(yaml.safe_dump({
        "dataset": "toy", "pitch_px": PITCH_PX, "pitch_um": PITCH_PX * UM_PER_PX, "section_thickness_um": 10,
        "samples": {"A": {"layers": [1, 2, 4]}}}))
    rng, table = np.random.default_rng(0), spots()
    for layer in (1, 2, 4):
        pixels = np.full((SIZE[1], SIZE[0], 3), 230, np.uint8)
        pixels[60:140, 40:120] = (180, 60 + layer, 140)
        layout.new_image("A", layer, ".png").parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(layout.new_image("A", layer, ".png"))
        write_table(layout.location("A", layer), table)
        names, genes = pd.DataFrame(index=table["barcode"].to_list()), pd.DataFrame(index=["G1", "G2", "G3"])
        genes["gene_ids"] = ["E1", "E2", "E3"]
        if layer != 4:
            counts = sparse.csr_matrix(rng.poisson(3, (len(table), 3)).astype(np.float32))
            write_h5ad(layout.counts("A", layer), anndata.AnnData(counts, obs=names.copy(), var=genes.copy()))
        imputed = anndata.AnnData(rng.normal(size=(15, 3)).astype(np.float32), obs=names[1:].copy(), var=genes.copy())
        imputed.obs["confidence"], imputed.obs["known"] = rng.random(15), layer == 1
        imputed.layers["sd"] = rng.random((15, 3)).astype(np.float32)
        imputed.obsm["spatial"] = table[["pixel_x", "pixel_y"]].to_numpy()[1:]
        imputed.uns["asign"] = {"method": "msagnet", "known_layers": [1], "registration_accepted": True}
        write_h5ad(run.imputed("A", layer), imputed)
    write_transform(layout.to_middle("A", 1), Transform(matrix, warp), 1, 2, layout.to_middle_warp("A", 1))
    write_transform(layout.to_middle("A", 2), np.eye(2, 3), 2, 2)
    write_json(layout.quality("A"), {"middle": 2, "layers": [1, 2]})
    return layout, run


def export_run(layout: Layout, run: RunLayout, *options: str):
    assert export.main(["--root_path", str(layout.root), "--save_path", str(run.root), *options]) == 0
    return spatialdata.read_zarr(run.spatialdata("A"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(layout, run, the store as the library reads it); nobody changes them."""
    layout, run = make_run(tmp_path_factory.mktemp("exported") / "root")
    return layout, run, export_run(layout, run)


def centres_in(element, system: str) -> np.ndarray:
    """(n, 2): spots in a system, by the library's own transformation."""
    moved = spatialdata.transform(element, to_coordinate_system=system)
    return np.stack([moved.geometry.x, moved.geometry.y], axis=1)


def test_values_and_metadata_are_those_of_the_run(exported):
    layout, run, data = exported
    assert sorted(data.tables) == ["section_1", "section_1_counts", "section_2", "section_2_counts", "section_4"]
    for layer in (1, 2, 4):
        written, table = read_h5ad(run.imputed("A", layer)), data.tables[f"section_{layer}"]
        assert (table.X == written.X).all() and (table.layers["sd"] == written.layers["sd"]).all()
        assert table.obs_names.tolist() == written.obs_names.tolist()
        assert (table.obs["confidence"] == written.obs["confidence"]).all()
        assert table.var["gene_ids"].tolist() == ["E1", "E2", "E3"] and table.uns["asign"]["method"] == "msagnet"
        shapes, matched = spatialdata.join_spatialelement_table(
            sdata=data, spatial_element_names=f"section_{layer}_spots", table_name=f"section_{layer}", how="inner")
        assert len(matched) == len(shapes[f"section_{layer}_spots"]) == 15  # the library finds every spot
    counts = data.tables["section_2_counts"]
    assert (counts.X.toarray() == read_h5ad(layout.counts("A", 2)).X.toarray()).all()
    said = data.attrs["asign"]
    assert said["sections"]["4"] | {"systems": 0} == {
        "z_um": 30.0, "um_per_px": UM_PER_PX, "systems": 0, "largest_bend_um": 0.0, "size_px": list(SIZE)}
    assert "aligned" not in spatialdata.transformations.get_transformation(data["section_4_spots"], get_all=True)


def test_units_are_stated_in_the_axes(exported):
    import zarr
    group = zarr.open_group(exported[1].spatialdata("A"), mode="r")
    image, shapes = (group[name].attrs for name in ("images/section_1_image", "shapes/section_1_spots"))
    units = {}
    for entry in (image["ome"]["multiscales"][0], shapes):
        for one in entry["coordinateTransformations"]:
            found = {axis["unit"] for axis in one["output"]["axes"] if axis["type"] == "space"}
            units.setdefault(one["output"]["name"], set()).update(found)
    assert units == {"section_1": {"pixel"}, "section_1_um": {"micrometer"}, "aligned": {"micrometer"}}


def test_the_stored_spots_are_in_px_um_and_aligned(exported):
    spot, xy = exported[2]["section_1_spots"], spots()[["pixel_x", "pixel_y"]].to_numpy()
    assert np.allclose(centres_in(spot, "section_1"), xy + 0.5)
    assert np.allclose(centres_in(spot, "section_1_um"), UM_PER_PX * (xy + 0.5))
    assert np.allclose(centres_in(spot, "aligned"), UM_PER_PX * (move(Transform(TURN), xy) + 0.5))
    in_stack = exported[2]["section_2_spots"]
    assert np.allclose(centres_in(in_stack, "aligned"), centres_in(in_stack, "section_2_um"))


@settings(max_examples=10, deadline=None)
@given(angle=st.floats(-3, 3), scale=st.floats(0.6, 1.6), x=st.floats(-200, 200), y=st.floats(-200, 200))
def test_aligned_is_the_registration(tmp_path_factory, angle, scale, x, y):
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.column_stack([linear, [x, y]])
    layout, _ = make_run(tmp_path_factory.mktemp("run") / "root", matrix)
    args = export.build_parser().parse_args(["--root_path", str(layout.root)])
    systems, bend = export.systems_of(open_context(args), "A", 1)
    xy = spots()[["pixel_x", "pixel_y"]].to_numpy()
    element = export.spots_element(spots()["barcode"].tolist(), xy, 8.0, systems)
    assert np.allclose(centres_in(element, "aligned"), UM_PER_PX * (move(Transform(matrix), xy) + 0.5)) and bend == 0


@pytest.mark.parametrize("max_side", [100, 0])
def test_spots_lie_on_the_tissue_of_the_image(tmp_path, max_side):
    layout, run = make_run(tmp_path / "root")
    data = export_run(layout, run, "--max_side_px", str(max_side))
    image = data["section_1_image"]
    assert image.shape == ((3, 75, 100) if max_side else (3, 300, 400))
    extent = spatialdata.get_extent(image, coordinate_system="section_1")
    assert extent["x"] == pytest.approx((0, 400)) and extent["y"] == pytest.approx((0, 300))
    tissue = np.argwhere(image.values[1] < 150)  # row, column of the tissue: 40 to 120, 60 to 140 at level 0
    low, high = (tissue.min(axis=0) * 400 / image.shape[2], (tissue.max(axis=0) + 1) * 400 / image.shape[2])
    assert low.tolist() == [60, 40] and high.tolist() == [140, 120]
    xy = centres_in(data["section_1_spots"], "section_1")
    assert ((xy > low[::-1]) & (xy < high[::-1])).all()


def test_a_level_0_pyramid_is_copied_by_windows(tmp_path):
    import tifffile
    layout, run = make_run(tmp_path / "root")
    pixels = np.random.default_rng(0).integers(0, 255, (2100, 2500, 3), np.uint8)
    layout.image("A", 1).unlink()
    tifffile.imwrite(layout.new_image("A", 1, ".tif"), pixels, tile=(256, 256), photometric="rgb", compression="zlib")
    data = export_run(layout, run, "--max_side_px", "0")
    scales = [next(iter(one.values())) for one in data["section_1_image"].children.values()]
    assert (np.moveaxis(scales[0].values, 0, -1) == pixels).all() and scales[-1].shape[1] <= 1024


def test_a_bend_is_named_and_left_out(tmp_path, capsys):
    field = np.zeros((6, 8, 2), np.float32)
    field[2:4, 3:5] = (3, 4)  # 5 px
    warp = Warp(field, np.array([[60.0, 0, 0], [0, 60.0, 0]]))
    layout, run = make_run(tmp_path / "root", warp=warp)
    data = export_run(layout, run)
    said = capsys.readouterr().out
    assert "up to 25 um (SyN)" in said and "A/4: 16 spots, section_4, not registered" in said
    assert data.attrs["asign"]["sections"]["1"]["largest_bend_um"] == 25


def test_another_export_stays_unless_told_and_a_persons_folder_always(tmp_path, capsys):
    layout, run = make_run(tmp_path / "root")
    export_run(layout, run)
    again = ["--root_path", str(layout.root), "--save_path", str(run.root)]
    assert export.main(again) == 2 and "--overwrite" in capsys.readouterr().err
    assert export.main([*again, "--overwrite"]) == 0
    assert [path.name for path in run.spatialdata("A").parent.iterdir()] == ["A.zarr"]
    (run.spatialdata("A") / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    assert export.main([*again, "--overwrite"]) == 2 and "did not write" in capsys.readouterr().err


def test_predictions_of_other_spots_are_left_out(tmp_path, capsys):
    layout, run = make_run(tmp_path / "root")
    table = spots()
    write_table(layout.location("A", 2), table.assign(pixel_x=table["pixel_x"] + 7))
    data = export_run(layout, run)
    assert "A/2: left out" in capsys.readouterr().err and sorted(data.images) == ["section_1_image", "section_4_image"]


def test_the_reader_reads_what_the_export_wrote(exported, tmp_path, capsys):
    layout, run, _ = exported
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"dataset": "back", "array": "square", "pitch_um": PITCH_PX * UM_PER_PX}))
    back = Layout(tmp_path / "back")
    assert convert.main(["--config", str(config), "--format", "spatialdata", "--raw_path", str(run.spatialdata("A")),
                         "--root_path", str(back.root)]) == 0
    said = capsys.readouterr()
    assert "image section_2_image by the system section_2 " in said.out and "not taken" not in said.out
    assert "A/3: left out" in said.err and "no raw counts" in said.err  # section_4 is only predicted
    assert load_config(back.config).samples["A"].pixel_size_um == dict.fromkeys((1, 2, 3), UM_PER_PX)
    for layer in (1, 2):
        before, after = read_location(layout.location("A", layer)), read_location(back.location("A", layer))
        assert before["barcode"].tolist() == after["barcode"].tolist()
        assert np.allclose(before[["pixel_x", "pixel_y"]], after[["pixel_x", "pixel_y"]])
        counts, again = read_h5ad(layout.counts("A", layer)), read_h5ad(back.counts("A", layer))
        assert (counts.X.toarray() == again.X.toarray()).all()
        assert again.var["gene_ids"].tolist() == ["E1", "E2", "E3"]
        slides = [open_slide(one.image("A", layer)).read(0, 0, *SIZE) for one in (layout, back)]
        assert (slides[0] == slides[1]).all()
