"""Spots for layers that were only photographed: the lattice, step 0_3, and such layers in the whole pipeline."""
import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT, load_script
from hypothesis import given, settings, strategies as st
from PIL import Image
from pipeline import STEPS, copy_of, run, train_and_predict
from scipy.spatial import cKDTree

from common import jobs
from common.cli import make_parser
from common.config import Config, SampleConfig, load_config, save_config
from common.io import read_h5ad, read_json, read_location, read_npy, read_picture, read_pt, write_picture, write_table
from common.layout import Layout, RunLayout
from common.normalisation import normalise
from common.status import read_status
from data_preprocessing.grid import GENERATED, measured_location, spot_grid
from evaluation.metrics import layer_metrics

ARRAYS = pytest.mark.parametrize("array", ["square", "hex"])
NEIGHBOURS = {"square": 4, "hex": 6}
AREA = {"square": 1, "hex": np.sqrt(0.75)}  # of the tissue a spot stands for, in pitches²


def disc(radius: float, shape: tuple[int, int] = (400, 500), centre: tuple[float, float] = (240, 190)) -> np.ndarray:
    """(h, w) bool: the pixels whose middle lies within `radius` of `centre` (x, y)."""
    y, x = np.mgrid[:shape[0], :shape[1]]
    return (x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= radius ** 2


def xy_of(spots: pd.DataFrame) -> np.ndarray:
    return spots[["pixel_x", "pixel_y"]].to_numpy()


# the lattice -----------------------------------------------------------------------------------------
def test_small_lattices_by_hand():
    square = spot_grid(np.ones((3, 3), bool), (1, 1), 1, "square")
    assert square["barcode"].tolist() == [f"grid_{n % 3}x{n // 3}" for n in range(9)]
    assert np.array_equal(xy_of(square), square[["i", "j"]])
    hexagon = spot_grid(np.ones((5, 5), bool), (1, 1), 2, "hex")
    i_j = ["1x1", "3x1", "0x2", "2x2", "4x2", "1x3", "3x3"]
    assert hexagon["barcode"].tolist() == [f"grid_{place}" for place in i_j]
    assert np.allclose(xy_of(hexagon)[[0, 2, 3, 6]], [[1, 2 - 3 ** 0.5], [0, 2], [2, 2], [3, 2 + 3 ** 0.5]])


@ARRAYS
@settings(max_examples=15, deadline=None)
@given(st.floats(80, 150), st.floats(1, 9), st.floats(0.8, 1.25), st.floats(0.6, 1.4))
def test_neighbours_lie_one_pitch_apart_and_cover_the_tissue(array, radius, scale, ratio, factor):
    """An inner spot has 4 or 6 neighbours at exactly one pitch; the number of spots fits the area, and all lie on it.

    No overview is a strip: on one, the number of spots would depend on the position of the rows.
    """
    scale = scale * np.array([1, ratio])
    mask, pitch = disc(radius), factor * 8 * scale.max()
    spots = spot_grid(mask, scale, pitch, array)
    xy = xy_of(spots)
    distance, _ = cKDTree(xy).query(xy, k=NEIGHBOURS[array] + 2)  # (n, itself + neighbours + the next one)
    inner = np.linalg.norm((xy + 0.5) / scale - 0.5 - [240, 190], axis=1) < radius - 2 * pitch / scale.min()
    assert np.allclose(distance[:, 1], pitch, rtol=1e-9) and np.allclose(distance[inner, 1:-1], pitch, rtol=1e-9)
    assert (distance[inner, -1] > 1.4 * pitch).all()
    area = mask.sum() * scale.prod() / pitch ** 2 / AREA[array]
    assert abs(len(spots) - area) < 0.03 * area + 3 * np.sqrt(area) ** 0.5
    assert (np.linalg.norm((xy + 0.5) / scale - 0.5 - [240, 190], axis=1) < radius + 0.75).all()


@ARRAYS
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), pitch=st.floats(3, 18))
def test_indices_and_barcodes_are_the_positions(array, seed, pitch):
    mask = np.kron(np.random.default_rng(seed).random((6, 8)) < 0.4, np.ones((20, 20))) > 0
    mask[60:80, 60:80] = True
    spots = spot_grid(mask, (2, 2), 2 * pitch, array)
    step = 2 * pitch * np.array([0.5, 0.75 ** 0.5] if array == "hex" else [1, 1])
    origin = xy_of(spots) - spots[["i", "j"]].to_numpy() * step
    assert np.allclose(origin, origin[0])
    barcodes = [f"{GENERATED}{i}x{j}" for i, j in spots[["i", "j"]].to_numpy().tolist()]
    assert spots["barcode"].is_unique and spots["barcode"].tolist() == barcodes
    assert spots[["i", "j"]].min().min() >= 0 and (array == "square" or ((spots["i"] + spots["j"]) % 2 == 0).all())
    assert mask[tuple(np.floor((xy_of(spots)[:, ::-1] + 0.5) / 2).astype(int).T)].all()


@ARRAYS
def test_the_grid_goes_where_the_tissue_goes_whatever_a_pixel_is(array):
    here = spot_grid(disc(100), (3, 3), 30, array)
    there = spot_grid(disc(100, centre=(265, 171)), (3, 3), 30, array)
    assert there["barcode"].equals(here["barcode"]) and np.allclose(xy_of(there) - xy_of(here), [75, -57])
    finer = spot_grid(disc(100), (12, 12), 120, array)  # the same tissue scanned four times as fine
    assert finer["barcode"].equals(here["barcode"]) and np.allclose((xy_of(finer) + 0.5) / 4, xy_of(here) + 0.5)
    half = disc(50, (200, 250), (119.75, 94.75))  # the same slide, its overview half as large
    smaller = spot_grid(half, (6, 6), 30, array)
    assert abs(len(smaller) - len(here)) < 0.02 * len(here)


# step 0_3 --------------------------------------------------------------------------------------------
def blob(width_px: int = 600) -> np.ndarray:
    """A piece of tissue on a white slide."""
    picture = np.full((500, width_px, 3), 245, np.uint8)
    rng = np.random.default_rng(0)
    tissue = disc(150, picture.shape[:2], (width_px / 2, 250))
    picture[tissue] = np.array([160, 90, 150]) + rng.integers(-40, 40, (tissue.sum(), 3))
    return picture


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Layout:
    """Layers: 1 spots and counts, 2 spots alone, 3 and 4 only an image (4 of its own pixel size), 5 nothing."""
    layout = Layout(tmp_path_factory.mktemp("made"))
    for layer in (1, 2, 3, 4):
        write_picture(layout.new_image("A", layer, ".png"), blob())
    spots = pd.DataFrame({"barcode": ["1x1", "2x1"], "pixel_x": [280, 320], "pixel_y": 250, "i": [1, 2], "j": 1})
    write_table(layout.location("A", 1), spots)
    write_table(layout.location("A", 2), spots)
    layout.counts("A", 1).parent.mkdir(parents=True)
    layout.counts("A", 1).write_bytes(b"is not read")
    sample = SampleConfig(layers=[1, 2, 3, 4, 5], pixel_size_um={4: 2.5})
    save_config(Config(dataset="toy", pitch_px=40, samples={"A": sample}), layout.config)
    run(layout.root, ["0_2_tissue_mask", "0_3_spot_grid"])
    return layout


@pytest.fixture
def root(made, tmp_path) -> Layout:
    return Layout(copy_of(made.root, tmp_path / "root"))


def test_only_layers_without_spots_and_counts_get_a_grid(root, capsys):
    measured = {layer: root.location("A", layer).stat().st_mtime_ns for layer in (1, 2)}
    before = {path: path.read_bytes() for path in root.root.rglob("*") if path.is_file() and path.stem != "status"}
    run(root.root, ["0_2_tissue_mask", "0_3_spot_grid"])
    answer = capsys.readouterr()
    for layer in (1, 2, 3, 4):
        assert f"0_2_tissue_mask  A/{layer}: up to date" in answer.out, "a grid does not make step 0_2 stale"
    assert answer.out.count("up to date") == 8
    assert "A/5: left out since 0_2_tissue_mask" in answer.err and not root.location("A", 5).exists()
    assert all(path.read_bytes() == content for path, content in before.items())
    assert measured == {layer: root.location("A", layer).stat().st_mtime_ns for layer in (1, 2)}
    for layer, pitch_px in ((3, 40), (4, 80)):  # 5 um and 2.5 um a px
        spots = read_location(root.location("A", layer))
        assert list(spots) == ["barcode", "pixel_x", "pixel_y", "i", "j"]
        assert measured_location(root, "A", layer) is None
        assert np.allclose(cKDTree(xy_of(spots)).query(xy_of(spots), k=2)[0][:, 1], pitch_px)
        assert abs(len(spots) - np.pi * 150 ** 2 / pitch_px ** 2) < 6
        with Image.open(root.grid_picture("A", layer)) as picture:
            drawn = np.asarray(picture)[tuple(np.rint(xy_of(spots)).astype(int)[:, ::-1].T)]
        assert np.median(abs(drawn - np.array([255, 200, 0])).max(axis=1)) < 60, "the spots are drawn"
    run(root.root, ["0_2_tissue_mask"], "--overwrite")
    assert [read_json(root.thumbnail_info("A", layer))["spots_on_tissue"] for layer in (2, 3)] == [1, None]


def test_a_mask_that_a_person_corrected_is_used_and_named(root, capsys):
    mask = read_picture(root.mask("A", 3)).copy()
    mask[:, mask.shape[1] // 2:] = 0
    write_picture(root.mask("A", 3), mask)
    n_before = len(read_location(root.location("A", 3)))
    run(root.root, ["0_3_spot_grid"])
    err = capsys.readouterr().err
    assert f"A/3: {root.mask('A', 3)}: " in err and err.count("\n") == 2  # the other line: A/5, which has no image
    assert len(read_location(root.location("A", 3))) < 0.7 * n_before


def test_a_corrected_mask_of_another_section_of_a_pair_is_named_too(root, capsys):
    write_picture(root.mask("A", 3), np.zeros_like(read_picture(root.mask("A", 3))))
    args = make_parser("").parse_args(["--root_path", str(root.root), "--sample", "A", "--layer", "2"])

    def make_job(unit: tuple) -> jobs.Job:
        return jobs.Job(*unit, [root.mask("A", 3)], [], str)

    assert jobs.run_jobs("step", __file__, jobs.open_context(args), [("A", 2)], make_job) == 0
    assert f"A/2: {root.mask('A', 3)}: " in capsys.readouterr().err


def change(layout: Layout, **values) -> None:
    layout.config.write_text(yaml.safe_dump(yaml.safe_load(layout.config.read_text()) | values))


def test_another_pitch_makes_the_spots_and_what_follows_anew(root, capsys):
    run(root.root, ["Step0_original_contour_generation"], "--layer", "3")
    numbers = [len(read_location(root.location("A", 3)))]
    for changed in ({"array": "hex"}, {"grid_pitch_um": 100}):
        change(root, **changed)
        run(root.root, ["0_3_spot_grid"], "--layer", "3")
        numbers.append(len(read_location(root.location("A", 3))))
    assert np.divide(numbers[1:], numbers[:-1]) == pytest.approx([1 / AREA["hex"], 4], rel=0.1)
    capsys.readouterr()
    run(root.root, ["0_2_tissue_mask", "0_3_spot_grid", "Step0_original_contour_generation"], "--layer", "3")
    contours = read_npy(root.contours("A", 3))  # (n, 100, 2)
    assert len(contours) == numbers[-1]
    assert np.allclose(np.ptp(contours, axis=1), 2 * 112 * 40 / 272, rtol=1e-3), "as wide as on a measured layer"
    lines = [line for line in capsys.readouterr().out.splitlines() if "mm2" not in line]  # step 0_2 states the scale
    assert [line.endswith("up to date") for line in lines] == [True, True, False]


def test_no_spots_stay_where_no_tissue_is_left(root, capsys):
    write_picture(root.new_image("A", 3, ".png"), np.full((500, 600, 3), 245, np.uint8))
    change(root, grid_pitch_um=9000)
    assert load_script("0_2_tissue_mask").main(["--root_path", str(root.root)]) == 0
    run(root.root, ["0_3_spot_grid"])
    assert not root.location("A", 3).exists()
    assert read_status(root)["A/3"]["0_3_spot_grid"] == "left out since 0_2_tissue_mask"
    assert len(read_location(root.location("A", 4))) == 1  # one spot fits, on the centroid
    assert root.location("A", 2).exists()


def test_counts_without_spots_get_no_grid(root):
    """The barcodes of counts are not those of a grid: their spots must be given."""
    root.location("A", 1).unlink()
    run(root.root, ["0_3_spot_grid"])
    assert not root.location("A", 1).exists()


def test_spots_of_a_person_are_never_written_over(root):
    spots = read_location(root.location("A", 3)).iloc[:5]
    write_table(root.location("A", 3), spots.assign(barcode=spots["barcode"].str.replace(GENERATED, "mine")))
    mine = root.location("A", 3).read_bytes()
    run(root.root, ["0_3_spot_grid"], "--overwrite")
    assert root.location("A", 3).read_bytes() == mine and measured_location(root, "A", 3) is not None


def test_the_workflow_has_nothing_to_do_twice(root):
    """The grid is newer than the output of step 0_2, and must not make step 0_2 run again."""
    save_config(load_config(root.config).model_copy(update={"samples": {"A": SampleConfig(layers=[3])}}), root.config)
    root.location("A", 3).unlink()
    command = [sys.executable, "-m", "snakemake", "--profile", "workflow/profiles/default", "--cores", "1",
               "--until", "0_3_spot_grid", "--config", f"root_path={root.root}"]
    files = root.done("0_2_tissue_mask", "A", 3), root.location("A", 3), root.done("0_3_spot_grid", "A", 3)
    written = []
    for _ in range(2):
        answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr
        written.append([path.stat().st_mtime_ns for path in files])
    assert written[0] == written[1] == sorted(written[0])


def test_a_layer_with_nothing_but_an_image_in_raw_data(tmp_path):
    """Form her2st: the config names the image; the layer has no counts, spots or folder.

    The tests of the readers visium and h5ad cover these forms.
    """
    convert = load_script("0_1_convert_raw")
    for name in ("ST-cnts/A1.tsv", "ST-spotfiles/A1_selection.tsv"):
        (tmp_path / "raw" / name).parent.mkdir(parents=True)
    (tmp_path / "raw/ST-cnts/A1.tsv").write_text("\tG1\n2x5\t3\n")
    (tmp_path / "raw/ST-spotfiles/A1_selection.tsv").write_text("x\ty\tpixel_x\tpixel_y\n2\t5\t280\t250\n")
    for name in ("one.png", "two.png"):
        write_picture(tmp_path / "raw" / name, blob())
    mine = {"dataset": "mine", "raw_format": "her2st", "raw_path": str(tmp_path / "raw"), "pitch_px": 40,
            "samples": {"A": {"images": {1: "one.png", 2: "two.png"}}}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(mine))
    layout = Layout(tmp_path / "root")
    assert convert.main(["--config", str(tmp_path / "mine.yaml"), "--root_path", str(layout.root)]) == 0
    run(layout.root, ["0_2_tissue_mask", "0_3_spot_grid"])
    assert load_config(layout.config).layers_of("A") == [1, 2]
    assert len(read_location(layout.location("A", 1))) == 1 and len(read_location(layout.location("A", 2))) > 30


# the whole way ---------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def block(tmp_path_factory) -> Layout:
    """Three layers: 1 and 3 measured, 2 (the middle, denser) only photographed; its spots and counts are hidden."""
    layout = Layout(tmp_path_factory.mktemp("block"))
    options = ["--n_samples", "1", "--n_layers", "3", "--size_px", "768"]
    assert load_script("0_make_demo").main(["--root_path", str(layout.root), *options]) == 0
    change(layout, features=["stain"], grid_pitch_um=125)
    layout.location("A", 2).rename(layout.root / "hidden.csv")
    layout.counts("A", 2).rename(layout.root / "hidden.h5ad")
    run(layout.root, STEPS)
    return layout


def test_a_dense_image_only_middle_layer_is_one_like_the_others(block):
    assert read_json(block.quality("A"))["middle"] == 2
    records, graph = read_npy(block.npy_3d("A")), read_pt(block.graph_3d("A"))
    between = records["layer"] == 2
    assert between.sum() > 2 * max((records["layer"] == layer).sum() for layer in (1, 3))
    assert np.array_equal(records["has_label"], ~between) and not records["label"][between].any()
    assert records["barcode"][between].tolist() == read_location(block.location("A", 2))["barcode"].tolist()
    assert np.allclose(records["registered"][between], records["pixel"][between])
    layer, edges = graph["spot"]["layer"].numpy(), graph["spot", "within", "spot"]
    source, target = edges["edge_index"].numpy()
    assert (layer[source] == layer[target]).all() and np.bincount(target).max() <= 8, "as sparse as any layer"
    length = np.median(edges["edge_attr"][layer[source] == 2, 3])
    assert length == pytest.approx(125 / 200, rel=1e-3), "in pitches of the measured layers"
    source, target = graph["spot", "cross", "spot"]["edge_index"].numpy()
    assert (layer[source] != layer[target]).all() and np.bincount(target, minlength=len(layer)).min() >= 12


def against_measured(block: Layout, run_layout: RunLayout) -> dict[str, float]:
    """Metrics of the image-only layer: the prediction at the nearest grid spot against every hidden spot."""
    adata, location = read_h5ad(run_layout.imputed("A", 2)), read_location(block.root / "hidden.csv")
    assert "measured" not in adata.layers and not adata.obs["known"].any() and np.isfinite(adata.X).all()
    counts = read_h5ad(block.root / "hidden.h5ad")[location["barcode"], adata.var_names].X
    nearest = cKDTree(adata.obsm["spatial"]).query(xy_of(location))[1]
    return layer_metrics(adata.X[nearest], normalise(counts))


def test_known_layers_on_both_sides_fill_the_one_between(block, tmp_path, capsys):
    found = {}
    for known in ("1,3", "1"):
        train_and_predict(block.root, tmp_path / known, "--method", "gp", "--known_layers", known)
        found[known] = against_measured(block, RunLayout(tmp_path / known))
    assert len(re.findall("no target (?:layer|section) has counts", capsys.readouterr().out)) == 1
    result = json.loads(RunLayout(tmp_path / "1,3").metrics_json.read_text())
    assert result["methods"] == {} and result["recipe"]["known_layers"] == {"A": [1, 3]}
    assert found["1,3"]["pcc_gene"] > found["1"]["pcc_gene"] > 0.3 and found["1,3"]["mse"] < found["1"]["mse"]


def test_the_network_learns_beside_a_layer_without_spots(block, tmp_path):
    train_and_predict(block.root, tmp_path, "--max_iterations", "10")
    result = json.loads(RunLayout(tmp_path).metrics_json.read_text())
    assert result["recipe"]["known_layers"] == {"A": [1]} and set(result["methods"]["msagnet"]["layers"]) == {"A/3"}
    against_measured(block, RunLayout(tmp_path))


def test_a_lattice_that_a_person_edited_is_kept_beside_the_new_one(root, capsys):
    """Its barcodes are those of a grid, but it was changed."""
    run(root.root, ["0_3_spot_grid"])
    edited = "".join(root.location("A", 3).read_text().splitlines(keepends=True)[:5])
    root.location("A", 3).write_text(edited)
    run(root.root, ["0_3_spot_grid"], "--overwrite")
    kept = root.location("A", 3).with_name("3.csv.bak")
    assert kept.read_text() == edited and len(read_location(root.location("A", 3))) > 4
    assert str(root.location("A", 3)) in capsys.readouterr().err
    run(root.root, ["0_3_spot_grid"], "--overwrite")
    assert len(list(kept.parent.glob("3.csv*"))) == 2  # ours is replaced
