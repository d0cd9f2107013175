"""The demo data: same seed, same bytes; images and counts follow the stored truth."""
import filecmp
import shutil

import numpy as np
import pytest
from conftest import load_script
from hypothesis import given, settings, strategies as st
from scipy.spatial import cKDTree

from common.config import load_config
from common.geometry import dataset_geometry
from common.io import read_h5ad, read_location, read_npz
from common.layout import Layout
from common.slide import open_slide
from data_preprocessing import demo_tissue

demo = load_script("0_make_demo")
PITCH_PX = 68
TINY = ["--n_samples", "1", "--n_layers", "2", "--size_px", "768"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Layout:
    root = tmp_path_factory.mktemp("demo")
    assert demo.main(["--root_path", str(root), "--seed", "3", *TINY]) == 0
    return Layout(root)


def data_files(layout: Layout) -> list[str]:
    files = []
    for folder in ("imgs", "location", "counts", "truth"):
        files += [str(path.relative_to(layout.root)) for path in (layout.root / folder).rglob("*") if path.is_file()]
    return [*sorted(files), "dataset.yaml"]


# reproducible ----------------------------------------------------------------------------------------
def test_same_seed_gives_same_bytes_however_many_workers(made, tmp_path):
    assert demo.main(["--root_path", str(tmp_path), "--seed", "3", "--num_workers", "2", *TINY]) == 0
    files = data_files(made)
    assert len(files) == 2 * 5 + 1 and data_files(Layout(tmp_path)) == files
    assert filecmp.cmpfiles(made.root, tmp_path, files, shallow=False) == (files, [], [])


def test_another_seed_gives_other_programs_and_other_counts():
    expected, cellularity = np.full((5, 400), 1 / 400), np.ones(5)
    first, again, other = (demo.draw_counts(np.random.default_rng(seed), expected, cellularity) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_second_run_does_nothing(made, capsys):
    before = made.image("A", 1).stat().st_mtime_ns
    assert demo.main(["--root_path", str(made.root), "--seed", "3", *TINY]) == 0
    assert capsys.readouterr().out.count("up to date") == 2 and made.image("A", 1).stat().st_mtime_ns == before


def test_root_of_another_dataset_is_refused(tmp_path, capsys):
    (tmp_path / "dataset.yaml").write_text("dataset: her2st\npitch_px: 272\n")
    assert demo.main(["--root_path", str(tmp_path), *TINY]) == 2
    assert "her2st" in capsys.readouterr().err and not (tmp_path / "imgs").exists()


@pytest.mark.parametrize("option", [["--n_samples", "27"], ["--n_layers", "0"], ["--size_px", "100"]])
def test_senseless_options_are_refused(tmp_path, option):
    assert demo.main(["--root_path", str(tmp_path), *option]) == 2


@pytest.mark.parametrize("folds", [4, "leave_one_out"])
def test_folds_by_number_or_rule_stay(tmp_path, folds):
    file = tmp_path / "own.yaml"
    file.write_text(f"dataset: demo\npitch_px: 68\npitch_um: 200\npixel_size_um: 2.941176\nfolds: {folds}\n")
    assert demo.main(["--config", str(file), "--root_path", str(tmp_path / "root"), *TINY]) == 0
    assert load_config(tmp_path / "root/dataset.yaml").folds == folds


# data contract ---------------------------------------------------------------------------------------
def test_config_lists_what_was_made(made):
    config = load_config(made.config)
    assert config.dataset == "demo" and config.layers_of("A") == [1, 2] and config.folds is None
    geometry = dataset_geometry(config)
    assert geometry.scale == pytest.approx(0.25)
    assert geometry.um_per_px == pytest.approx(200 / PITCH_PX, abs=1e-4)


def test_the_last_but_one_of_four_layers_is_only_photographed(tmp_path, monkeypatch):
    """In the last sample; all other files have the same bytes as if every layer were measured."""
    layouts = [Layout(tmp_path / name) for name in ("measured", "made")]
    options = ["--n_samples", "2", "--n_layers", "4", "--size_px", "544"]
    with monkeypatch.context() as patch:
        patch.setattr(demo, "is_image_only", lambda *unit: False)
        assert demo.main(["--root_path", str(layouts[0].root), "--num_workers", "2", *options]) == 0
    for path in (layouts[0].counts("B", 3), layouts[0].written("0_make_demo", "B", 3)):  # of an earlier run
        copy = layouts[1].root / path.relative_to(layouts[0].root)
        copy.parent.mkdir(parents=True)
        shutil.copy(path, copy)
    assert demo.main(["--root_path", str(layouts[1].root), "--num_workers", "2", *options]) == 0
    everything, made = (data_files(layout) for layout in layouts)
    assert set(everything) - set(made) == {"location/B/3.csv", "counts/B/3.h5ad"} and set(made) < set(everything)
    assert filecmp.cmpfiles(*(layout.root for layout in layouts), made, shallow=False) == (made, [], [])


def test_slide_is_a_pyramid_with_its_pixel_size(made):
    import openslide
    slide = openslide.OpenSlide(str(made.image("A", 1)))
    assert slide.level_count > 1 and slide.dimensions == (768, 768)
    assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(200 / PITCH_PX, abs=1e-3)
    top, low = (np.asarray(slide.read_region((0, 0), level, (side, side)).convert("RGB"), np.float32).mean((0, 1))
                for level, side in ((0, 768), (1, 384)))
    assert np.allclose(top, low, atol=2)


@pytest.mark.parametrize("layer", [1, 2])
def test_counts_and_location_agree(made, layer):
    location, counts = read_location(made.location("A", layer)), read_h5ad(made.counts("A", layer))
    truth, barcode = read_h5ad(made.truth("A", layer, ".h5ad")), read_npz(made.truth("A", layer, ".npz"))["barcode"]
    assert list(location["barcode"]) == list(counts.obs_names) == list(truth.obs_names) == list(barcode)
    assert list(counts.var_names) == list(truth.var_names) and counts.var_names.is_unique and counts.n_vars == 400
    assert counts.X.format == "csr" and counts.X.min() >= 0 and np.array_equal(counts.X.data, np.rint(counts.X.data))
    steps = location[["pixel_x", "pixel_y"]].to_numpy()
    neighbour = cKDTree(steps).query(steps, k=2)[0][:, 1]
    assert np.median(neighbour) == pytest.approx(PITCH_PX, abs=0.05) and len(location) > 15
    right = location.merge(location.assign(i=location["i"] - 1), on=["i", "j"])  # the next column: one pitch further
    assert (right["pixel_x_y"] - right["pixel_x_x"]).median() == pytest.approx(PITCH_PX, abs=0.1)


def test_every_spot_lies_on_tissue(made):
    for layer in (1, 2):
        slide = open_slide(made.image("A", layer))
        pixels = slide.read(0, 0, *slide.size_px).astype(np.float32)
        corners = np.concatenate([pixels[:60, :60], pixels[-60:, -60:]]).reshape(-1, 3)
        glass = np.median(corners, 0)
        centres = read_location(made.location("A", layer))[["pixel_x", "pixel_y"]].round().astype(int).to_numpy()
        discs = [pixels[y - 12:y + 13, x - 12:x + 13] for x, y in centres]
        assert min(stained(disc, glass) for disc in discs) > 0.15 > 3 * stained(corners, glass)


def stained(pixels: np.ndarray, glass: np.ndarray) -> float:
    """Share of the pixels (..., 3) that differ from the colour of the glass (3,)."""
    return np.mean(np.abs(pixels.reshape(-1, 3) - glass).max(1) > 12)


# geometry --------------------------------------------------------------------------------------------
def test_stored_map_reproduces_the_common_positions(made):
    truth = read_npz(made.truth("A", 2, ".npz"))
    xy = truth["spot_xy"]
    bend = np.cos(xy @ truth["warp_frequency"].T + truth["warp_phase"]) @ truth["warp_amplitude"]
    assert np.allclose(xy @ truth["matrix"][:, :2].T + truth["matrix"][:, 2] + bend, truth["spot_common_xy"], atol=1e-9)
    assert np.allclose(xy, read_location(made.location("A", 2))[["pixel_x", "pixel_y"]])
    row, column = 7, 20
    at = truth["grid_xy"][row, column]
    bend = np.cos(at @ truth["warp_frequency"].T + truth["warp_phase"]) @ truth["warp_amplitude"]
    assert np.allclose(truth["grid_displacement"][row, column], bend)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2 ** 32 - 1))
def test_maps_stay_in_the_stated_ranges(seed):
    layer_map = demo.draw_map(np.random.default_rng(seed), 1792, PITCH_PX)
    linear = layer_map.matrix[:, :2]
    scale = np.sqrt(np.linalg.det(linear))
    assert 0.97 <= scale <= 1.03 and np.allclose(linear @ linear.T, scale ** 2 * np.eye(2))
    assert abs(np.degrees(np.arctan2(linear[1, 0], linear[0, 0]))) <= 15
    middle = -np.linalg.solve(linear, layer_map.matrix[:, 2])
    assert np.linalg.norm(middle - 895.5) <= 179.2 + 1e-6
    points = np.random.default_rng(0).uniform(0, 1792, (500, 2))
    assert np.linalg.norm(demo.warp(layer_map, points), axis=1).max() <= 0.2 * PITCH_PX + 1e-9


def test_the_picture_shows_the_truth(made):
    """Haematoxylin in a disc follows the crowded types; the map layer → tissue is the drawn one."""
    slide = open_slide(made.image("A", 1))
    red = slide.read(0, 0, *slide.size_px)[..., 0].astype(np.float32)  # eosin hardly absorbs red
    truth, location = read_h5ad(made.truth("A", 1, ".h5ad")), read_location(made.location("A", 1))
    centres = location[["pixel_x", "pixel_y"]].round().astype(int).to_numpy()
    dark = np.array([-red[y - 15:y + 16, x - 15:x + 16].mean() for x, y in centres])
    crowded = truth.obs[["tumour", "immune", "duct"]].sum(axis=1)
    assert np.corrcoef(dark, crowded)[0, 1] > 0.85


def test_registered_spots_look_alike_and_unregistered_less(made):
    first, second = (read_npz(made.truth("A", layer, ".npz")) for layer in (1, 2))
    mine, other = (read_h5ad(made.truth("A", layer, ".h5ad")).obs.to_numpy() for layer in (2, 1))

    def agreement(here: np.ndarray, there: np.ndarray) -> float:
        distance, nearest = cKDTree(there).query(here)
        close = distance < 0.6 * PITCH_PX
        return np.corrcoef(mine[close].ravel(), other[nearest[close]].ravel())[0, 1]
    registered = agreement(second["spot_common_xy"], first["spot_common_xy"])
    shifted = agreement(second["spot_common_xy"] + [2.5 * PITCH_PX, 0], first["spot_common_xy"])
    assert registered > 0.7 and registered > shifted + 0.15


def test_tissue_changes_slowly_through_z():
    tissue = demo_tissue.make_tissue(np.random.default_rng(5), 400, 100)
    xy = np.random.default_rng(6).uniform(-300, 300, (2000, 2))

    def cut(z: float) -> np.ndarray:
        return demo_tissue.fractions(tissue, np.column_stack([xy, np.full(2000, z)]))
    near, far = (np.corrcoef(cut(0.0).ravel(), cut(z).ravel())[0, 1] for z in (8.0, 400.0))
    assert 0.75 < near < 0.999 and far < near - 0.2
    assert np.all(cut(0.0) >= 0) and cut(0.0).sum(1).max() <= 1 + 1e-5


def test_a_torn_corner_is_missing_tissue():
    tissue = demo_tissue.make_tissue(np.random.default_rng(5), 400, 100)
    points = np.column_stack([np.random.default_rng(6).uniform(-420, 420, (4000, 2)), np.zeros(4000)])
    whole = demo_tissue.depth_inside(tissue, points) > 0
    torn = demo_tissue.depth_inside(tissue, points, (1.0, 0.0, 250.0)) > 0
    lost = whole & ~torn
    assert not (torn & ~whole).any() and 0.02 < lost.sum() / whole.sum() < 0.25 and points[lost, 0].min() > 190


def test_one_layer_is_odd_and_a_later_one_torn():
    odd, torn = demo.draw_accidents(np.random.default_rng(0), [1, 2, 3, 4], 500.0)
    assert len(odd) == 1 and set(odd) <= {1, 2, 3, 4} and len(torn) == 1 and set(torn) <= {2, 3, 4}
    assert demo.draw_accidents(np.random.default_rng(0), [1], 500.0)[1] == {}


# expression ------------------------------------------------------------------------------------------
def test_genes_are_400_unique_names():
    names = demo.gene_names()
    assert len(names) == len(set(names)) == 400
    assert {"ERBB2", "COL1A1", "CD3D", "ADIPOQ", "SCGB2A2", "MT-CO1", "RPL3"} <= set(names)


def test_a_type_raises_its_own_markers():
    programs = demo.draw_programs(np.random.default_rng(0))
    pure = demo.expected_expression(programs, np.eye(5), np.zeros((5, 4)), np.zeros(400))
    assert np.allclose(pure.sum(1), 1)
    for k, names in enumerate(demo.TYPE_GENES.values()):
        assert all(pure[:, programs.genes.index(name)].argmax() == k for name in names.split())


def test_hidden_programs_change_expression_at_equal_composition():
    programs = demo.draw_programs(np.random.default_rng(0))
    hypoxia = np.array([[-1.0, 0, 0, 0], [1.0, 0, 0, 0]])
    low, high = demo.expected_expression(programs, np.full((2, 5), 0.2), hypoxia, np.zeros(400))
    own = [programs.genes.index(name) for name in demo.HIDDEN_GENES["hypoxia"].split()]
    assert np.all(np.log(high / low)[own] > 0.5)


def test_counts_follow_the_truth(made):
    for layer in (1, 2):
        counts, truth = read_h5ad(made.counts("A", layer)).X.toarray(), read_h5ad(made.truth("A", layer, ".h5ad")).X
        depth = counts.sum(1, keepdims=True)
        assert 3500 < np.median(depth) < 9000
        assert (counts / (depth * truth)).mean() == pytest.approx(1, abs=0.03)  # unbiased
        mean = depth * truth
        assert ((counts - mean) ** 2 / (mean + demo.DISPERSION * mean ** 2)).mean() == pytest.approx(1, abs=0.1)
        shuffled = depth * np.roll(truth, 7, axis=0)
        assert ((counts - shuffled) ** 2 / (shuffled + demo.DISPERSION * shuffled ** 2)).mean() > 1.5


def test_counts_are_overdispersed_by_the_stated_amount():
    expected, cellularity = np.full((3000, 400), 1 / 400), np.ones(3000)
    counts = demo.draw_counts(np.random.default_rng(0), expected, cellularity)
    mean = counts.sum(1, keepdims=True) / 400
    assert (((counts - mean) ** 2 - mean) / mean ** 2).mean() == pytest.approx(demo.DISPERSION, rel=0.1)
