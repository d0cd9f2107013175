"""The Gaussian process: against hand, against scikit-learn, and against leaks."""
import dataclasses

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel

from models import gp
from models.discs import discs

PLAIN = gp.Kernel(position=0.8, position_length=1.7, image_length=1.5, stain_length=1.5, noise=0.3, rank=3)


def toy(n_side: int = 10, n_genes: int = 20, noise: float = 0.3, seed: int = 0):
    """A layer of n_side² spots whose expression follows three programmes, two of them visible in the image features.

    Returns label and views.
    """
    generator = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(n_side), np.arange(n_side)), axis=-1).reshape(-1, 2)
    position = grid + generator.normal(0, 0.05, (n_side ** 2, 2))
    blocks = generator.normal(0, 1, (n_side ** 2, 2))  # the two programmes of the image features
    programme = np.column_stack([np.sin(position[:, 0] / 2), blocks])
    label = -5 + np.linspace(-1, 1, n_genes) + programme @ np.random.default_rng(9).normal(0, 0.6, (3, n_genes))
    label = (label + generator.normal(0, noise, label.shape)).astype(np.float32)
    features = blocks @ np.random.default_rng(8).normal(0, 1, (2, 6)) + generator.normal(0, 0.1, (n_side ** 2, 6))
    return label, {"position": position, "image": features[:, :3], "stain": features[:, 3:]}


def rows_of(views: dict, rows) -> dict:
    return {name: view[rows] for name, view in views.items()}


@pytest.fixture(scope="module")
def fitted():
    label, views = toy()
    return label, views, gp.fit(label, views)


# exactness -------------------------------------------------------------------------------------------
def test_two_spots_by_hand():
    """Covariance, mean and variance of a process that knows two spots."""
    kernel = gp.Kernel(position=2.0, position_length=1.0, noise=0.5, rank=1)
    known, target = {"position": np.array([[0.0, 0.0], [1.0, 0.0]])}, {"position": np.array([[0.0, 0.0]])}
    k = 2 * np.exp(-0.5)
    matrix = np.array([[2.5, k], [k, 2.5]])
    process = gp.GaussianProcess(kernel, known, np.array([10.0]), np.ones((1, 1)), np.linalg.cholesky(matrix),
                                 np.ones(1), np.linalg.solve(matrix, [[1.0], [-1.0]]), np.ones(1), np.array([0.25]))
    answer = gp.predict(process, target)
    a = (2 - k) / (2.5 - k)  # the weights are antisymmetric
    assert answer["expression"][0, 0] == pytest.approx(10 + a)
    variance = 2 - np.array([2, k]) @ np.linalg.solve(matrix, [2, k])
    assert answer["variance"][0] == pytest.approx(variance)
    assert answer["sd"][0, 0] == pytest.approx(np.sqrt(variance + 0.25))


def test_every_part_of_the_kernel_by_hand():
    kernel = gp.Kernel(position=1.0, position_length=2.0, image=0.3, image_length=1.5, stain=0.4, stain_length=0.5,
                       near_image=0.6, near_stain=0.7, near_length=5.0)
    square = {"position": np.array([[4.0]]), "image": np.array([[2.0]]), "stain": np.array([[0.5]])}
    image, stain, wide = np.exp(-2 / 4.5), np.exp(-0.5 / 0.5), np.exp(-4 / 50)
    expected = np.exp(-4 / 8) + 0.3 * image + 0.4 * stain + wide * (0.6 * image + 0.7 * stain)
    assert gp.covariance(kernel, square)[0, 0] == pytest.approx(expected)
    zero = {name: np.zeros((1, 1)) for name in square}
    assert gp.covariance(kernel, zero)[0, 0] == pytest.approx(gp.at_zero(kernel, zero)) == pytest.approx(3.0)


def test_agrees_with_scikit_learn():
    """Fixed kernel on position: mean and variance of the scores, each spot with its own noise."""
    label, views = toy()
    known, target = rows_of(views, slice(0, 60)), rows_of(views, slice(60, 100))
    known, target = {"position": known["position"]}, {"position": target["position"]}
    process = gp.fit(label[:60], known, kernel=PLAIN)
    answer = gp.predict(process, target)
    score = (label[:60] - process.mean) @ process.basis.T
    noise = PLAIN.noise / gp.spot_weights(label[:60])
    theirs = GaussianProcessRegressor(ConstantKernel(0.8) * RBF(1.7), alpha=noise, optimizer=None)
    theirs.fit(known["position"], score)
    mean, sd = theirs.predict(target["position"], return_std=True)
    shrunk = np.array([np.linalg.lstsq(mean[:, [c]], answer["score"][:, c], rcond=None)[0][0] for c in range(3)])
    assert ((shrunk > -1e-9) & (shrunk < 1 + 1e-9)).all()  # one factor a component, no more
    np.testing.assert_allclose(answer["score"], mean * shrunk, atol=1e-8)
    np.testing.assert_allclose(answer["variance"], sd[:, 0] ** 2, atol=1e-8)


def test_hidden_in_closed_form_is_fitting_without():
    label, views = toy()
    square = gp.squared_distances(views, views)
    noise = PLAIN.noise / gp.spot_weights(label)
    hidden = np.arange(100) % 7 == 0
    score = np.random.default_rng(0).normal(0, 1, (100, 3)) * ~hidden[:, None]
    (mean, variance), = gp.choice.predict_hidden(PLAIN, square, noise, [np.flatnonzero(hidden)], [score])
    k = gp.covariance(PLAIN, square)
    matrix = k[np.ix_(~hidden, ~hidden)] + np.diag(noise[~hidden])
    cross = k[np.ix_(hidden, ~hidden)]
    np.testing.assert_allclose(mean, cross @ np.linalg.solve(matrix, score[~hidden]), atol=1e-9)
    explained = (cross * np.linalg.solve(matrix, cross.T).T).sum(axis=1)
    np.testing.assert_allclose(variance, k[hidden, hidden] - explained, atol=1e-9)


# no leak ---------------------------------------------------------------------------------------------
def test_labels_of_hidden_spots_do_not_reach_a_draw():
    """The choice must not see what it is judged on: neither in the mean nor in the basis nor in the scores."""
    label, views = toy()
    layer = np.zeros(100, np.int64)
    draw = gp.draw_hidings(label, views["position"], layer, [np.arange(100)], seed=3, n_draws=1)[0]
    spoilt = label.copy()
    spoilt[draw.hidden] += np.random.default_rng(0).normal(0, 5, (draw.hidden.sum(), 20)).astype(np.float32)
    residual, mean = gp.centred(spoilt, layer, ~draw.hidden)
    np.testing.assert_array_equal(mean, draw.mean)
    assert (draw.score[draw.hidden] == 0).all() and 0.15 < draw.hidden.mean() < 0.25
    np.testing.assert_array_equal(residual[~draw.hidden] @ draw.basis.T, draw.score[~draw.hidden])


def test_several_known_layers_are_left_out_in_turn():
    label, views = toy()
    layer = np.arange(100) % 2
    draws = gp.draw_hidings(label, views["position"], layer, [np.arange(100)], seed=0)
    assert [set(layer[draw.hidden]) for draw in draws] == [{0}, {1}]
    assert all(draw.hidden.sum() == 50 for draw in draws)


def test_an_offset_of_one_known_layer_does_not_disturb_the_pattern():
    label, views = toy(noise=0.05)
    views = {name: np.concatenate([view, view]) for name, view in views.items()}
    layer = np.repeat([1, 2], 100)
    both = np.concatenate([label, label])
    shifted = both + np.where(layer == 2, 1.0, 0.0).astype(np.float32)[:, None]
    kernel = dataclasses.replace(PLAIN, image=0.0, stain=0.0, near_image=0.0, near_stain=0.0)
    one, other = (gp.predict(gp.fit(y, views, layer, kernel), views, False)["score"] for y in (both, shifted))
    # depth weights change slightly, the sign of a direction is free
    np.testing.assert_allclose(np.abs(one), np.abs(other), rtol=0.02, atol=0.02)


# invariances -----------------------------------------------------------------------------------------
def test_moving_and_turning_the_slide_changes_nothing(fitted):
    label, views, _ = fitted
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = {**views, "position": views["position"] @ turn + [300.0, -40.0]}
    fixed = gp.fit(label, views, kernel=PLAIN)
    turned = gp.fit(label, moved, kernel=PLAIN)
    np.testing.assert_allclose(turned.shrinkage, fixed.shrinkage, atol=0.05)  # other discs
    answers = [gp.predict(dataclasses.replace(one, coefficient=one.coefficient / one.shrinkage), where, False)["score"]
               for one, where in ((turned, moved), (fixed, views))]
    np.testing.assert_allclose(*answers, atol=1e-6)
    shifted = {**views, "position": views["position"] + 8.0}
    np.testing.assert_allclose(gp.predict(gp.fit(label, shifted, kernel=PLAIN), shifted)["expression"],
                               gp.predict(fixed, views)["expression"], atol=1e-5)


def test_order_of_known_and_of_targets_does_not_matter(fitted):
    label, views, process = fitted
    order = np.random.default_rng(2).permutation(100)
    answer = gp.predict(process, views)
    np.testing.assert_allclose(gp.predict(process, rows_of(views, order))["sd"], answer["sd"][order], rtol=1e-6)
    again = gp.predict(gp.fit(label[order], rows_of(views, order)), views)
    for name in ("expression", "variance", "sd"):
        np.testing.assert_allclose(again[name], answer[name], atol=1e-5)


def test_blocks_are_the_whole(fitted, monkeypatch):
    _, views, process = fitted
    whole = gp.predict(process, views)
    monkeypatch.setattr(gp.process, "BLOCK", 7)
    for name, values in gp.predict(process, views).items():
        np.testing.assert_allclose(values, whole[name], atol=1e-6)


def test_same_seed_same_choice(fitted):
    label, views, process = fitted
    again = gp.fit(label, views)
    assert again.kernel == process.kernel
    np.testing.assert_array_equal(again.coefficient, process.coefficient)


# what it can do --------------------------------------------------------------------------------------
def test_it_finds_the_informative_views(fitted):
    """Two of three programmes are in the image features only: a process on position alone must be worse."""
    label, views, process = fitted
    fresh, fresh_views = toy(seed=1)

    def mse(one: gp.GaussianProcess, at: dict[str, np.ndarray]) -> float:
        return float(((gp.predict(one, at, False)["expression"] - fresh) ** 2).mean())

    only = {"position": fresh_views["position"]}
    alone = gp.fit(label, {"position": views["position"]})
    constant = float(((label.mean(axis=0) - fresh) ** 2).mean())
    assert mse(process, fresh_views) < 0.6 * mse(alone, only) < 0.6 * constant


def test_intervals_cover_what_they_say(fitted, monkeypatch):
    """On a layer without an offset of its own, when none is provided for."""
    label, views, process = fitted
    monkeypatch.setattr(gp.process, "offset_variance", lambda *_: 0.0)
    process = gp.fit(label, views, kernel=process.kernel)
    fresh, views = toy(seed=1)
    answer = gp.predict(process, views)
    for level in (0.5, 0.8, 0.95):
        covered = (np.abs(answer["expression"] - fresh) < norm.ppf(0.5 + level / 2) * answer["sd"]).mean()
        assert covered == pytest.approx(level, abs=0.06)


def test_a_second_known_layer_of_few_spots_does_no_harm():
    """Hiding the large layer would leave five spots: no basis of rank 8."""
    label, views = toy()
    layer = np.repeat([1, 2], [95, 5])
    process = gp.fit(label, views, layer)
    assert np.isfinite(gp.predict(process, views)["sd"]).all()
    small, parts = np.repeat([1, 2], [10, 12]), [np.arange(22)]
    draws = gp.draw_hidings(label[:22], views["position"][:22], small, parts, seed=0)  # both are too small: discs
    assert all(0 < draw.hidden.sum() < 22 for draw in draws)
    judged = gp.Hidings(label, views, layer, 0).errors(PLAIN)
    assert not np.isnan(judged).any()  # the large layer is judged too, by discs of it


def test_an_offset_between_halves_widens_the_intervals():
    label, views = toy()
    tilted = label + (views["position"][:, :1] > 4.5) * np.where(np.arange(20) % 2, 2.0, -2.0)
    layer, shrinkage = np.zeros(100, int), np.ones(3)
    one = gp.process.offset_variance(label, views, layer, PLAIN, shrinkage)
    other = gp.process.offset_variance(tilted.astype(np.float32), views, layer, PLAIN, shrinkage)
    assert other > 3 * one


def test_variance_grows_away_from_the_known():
    label, views = toy()
    process = gp.fit(label, {"position": views["position"]}, kernel=PLAIN)
    far = gp.predict(process, {"position": np.array([[4.5, 4.5], [12.0, 4.5], [60.0, 4.5]])})
    assert np.all(np.diff(far["variance"]) > 0) and far["variance"][2] == pytest.approx(0.8)
    np.testing.assert_allclose(far["expression"][2], label.mean(axis=0), atol=1e-4)


def test_chunks_cover_every_spot_once():
    position = np.random.default_rng(0).uniform(0, 30, (1037, 2))
    parts = gp.chunks(position, 150)
    assert sorted(np.concatenate(parts)) == list(range(1037)) and max(map(len, parts)) <= 150
    assert all(np.ptp(position[part], axis=0).max() < 25 for part in parts)  # contiguous, not scattered


def test_discs_hide_their_share_and_only_candidates():
    position = np.stack(np.meshgrid(np.arange(20), np.arange(20)), axis=-1).reshape(-1, 2).astype(float)
    candidates = position[:, 0] < 10
    hidden = discs(position, candidates, 0.2, (2.0,), np.random.default_rng(0))
    assert hidden.sum() == 40 and not hidden[~candidates].any()


# what a kernel is judged on --------------------------------------------------------------------------
def sections(sizes: list[int], apart: float, n_genes: int = 20):
    """Square sections side by side: label, views, layer."""
    parts = [toy(side, n_genes, seed=k) for k, side in enumerate(sizes)]
    views = {}
    for name in ("position", "image", "stain"):
        views[name] = np.concatenate([one[name] for _, one in parts])
    layer = np.repeat(np.arange(len(sizes)), [side ** 2 for side in sizes])
    views["position"][:, 0] += apart * layer
    return np.concatenate([label for label, _ in parts]), views, layer


@pytest.mark.parametrize("sizes, apart, max_chunk", [
    ([25, 25], 100.0, 1000), ([12, 12], 50.0, 150), ([12, 12], 6.0, 80), ([20, 3], 60.0, 100),
    ([14, 14, 14], 30.0, 100), ([14, 14], 0.0, 100), ([20], 0.0, 50)])
def test_every_part_of_every_known_layer_is_judged(sizes, apart, max_chunk, monkeypatch):
    """Apart, half overlapping, one tiny, one above the other, alone: every spot is hidden, with context in its part."""
    monkeypatch.setattr(gp.choice, "MAX_CHUNK", max_chunk)
    label, views, layer = sections(sizes, apart)
    hidings = gp.Hidings(label, views, layer, seed=0)
    errors = hidings.errors(PLAIN)
    assert len(hidings.chunks) > 1
    for part in hidings.chunks:
        assert np.isfinite(errors[part]).mean() > 0.95  # discs are drawn: few spots of a layer are in none
    answer = gp.predict(gp.fit(label, views, layer, PLAIN), views)
    assert all(np.isfinite(values).all() for values in answer.values())


@pytest.mark.parametrize("apart, n_layer_draws", [(9.0, 2), (12.0, 2), (40.0, 0)])
def test_a_layer_that_no_other_overlaps_is_judged_by_discs_of_it(apart, n_layer_draws):
    """Far from all context, the choice would learn nothing about position."""
    label, views, layer = sections([10, 10], apart - 1)
    draws = gp.Hidings(label, views, layer, seed=0).draws
    whole = [draw for draw in draws if draw.hidden.sum() == 100 and len(set(layer[draw.hidden])) == 1]
    assert len(whole) == n_layer_draws and len(draws) == (n_layer_draws or gp.choice.N_DRAWS)


def test_layers_that_overlap_are_judged_by_each_other_alone(monkeypatch):
    """No disc is hidden where leaving out a layer shows what a target layer is like."""
    monkeypatch.setattr(gp.choice, "MAX_CHUNK", 100)
    label, views, layer = sections([14, 14], 0.3)
    draws = gp.Hidings(label, views, layer, seed=0).draws
    assert len(draws) == 2 and all((draw.hidden == (layer == one)).all() for one, draw in enumerate(draws))
