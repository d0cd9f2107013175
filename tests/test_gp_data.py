"""The Gaussian process on small and odd data: it never fails, and every number is finite."""
import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from test_gp import PLAIN, rows_of, toy

from common.errors import DataError
from models import gp


@st.composite
def stacks(draw):
    """1 to 3 known layers of at least 20 spots together, as in real data.

    Few genes, constant genes, a constant feature, spots in one line.
    """
    generator = np.random.default_rng(draw(st.integers(0, 10_000)))
    sizes = draw(st.lists(st.integers(1, 30), min_size=1, max_size=3).filter(lambda sizes: sum(sizes) >= 20))
    n, n_genes = sum(sizes), draw(st.integers(1, 6))
    layer, position = np.repeat(np.arange(len(sizes)), sizes), generator.uniform(0, 6, (n, 2))
    shape = draw(st.sampled_from(["plane", "line", "apart"]))
    if shape == "line":
        position[:, 1] = 3.0
    if shape == "apart":
        position[:, 0] += 50 * layer
    names = draw(st.sampled_from([(), ("image",), ("image", "stain")]))
    features = {name: generator.normal(0, 1, (n, 3)) for name in names}
    if features and draw(st.booleans()):
        features["image"][:] = 0
    label = -4 + generator.normal(0, 1, (n, n_genes)) + np.sin(position[:, :1])
    label[:, :draw(st.integers(0, n_genes))] = -5  # of a gene without a count
    return label.astype(np.float32), {"position": position, **features}, layer


@settings(max_examples=40, deadline=None)
@given(stacks(), st.integers(1, 12))
def test_every_small_stack_gets_a_finite_answer_whatever_the_order_of_its_spots(stack, rank):
    label, views, layer = stack
    kernel = dataclasses.replace(PLAIN, rank=rank)
    answer = gp.predict(gp.fit(label, views, layer, kernel), views)
    assert all(np.isfinite(values).all() for values in answer.values())
    order = np.random.default_rng(0).permutation(len(label))
    again = gp.predict(gp.fit(label[order], rows_of(views, order), layer[order], kernel), views)
    np.testing.assert_allclose(again["expression"], answer["expression"], atol=1e-3)
    np.testing.assert_allclose(again["sd"], answer["sd"], atol=1e-3)


@settings(max_examples=8, deadline=None)
@given(stacks())
def test_the_choice_of_a_kernel_never_fails(stack):
    label, views, layer = stack
    answer = gp.predict(gp.fit(label, views, layer), views)
    assert all(np.isfinite(values).all() for values in answer.values())


def two_spots_in_each_place(label: np.ndarray, views: dict[str, np.ndarray]) -> None:
    views["position"][50:] = views["position"][:50]


@pytest.mark.parametrize("spoil", [
    pytest.param(lambda label, views: label.fill(-5), id="no gene varies"),
    pytest.param(lambda label, views: views["position"].fill(0), id="all spots in one place"),
    pytest.param(lambda label, views: views["position"].__setitem__((slice(None), 0), 0), id="one column of spots"),
    pytest.param(two_spots_in_each_place, id="two spots in each place"),
    pytest.param(lambda label, views: (views["image"].fill(0), views["stain"].fill(0)), id="all spots look alike")])
def test_data_without_variation_get_a_finite_answer(spoil):
    label, views = toy()
    spoil(label, views)
    answer = gp.predict(gp.fit(label, views, kernel=PLAIN), views)
    assert all(np.isfinite(values).all() for values in answer.values())


def test_one_gene_and_the_fewest_spots():
    label, views = toy()
    for n_spots, n_genes in ((100, 1), (20, 20), (10, 3)):
        known = rows_of(views, slice(0, n_spots))
        answer = gp.predict(gp.fit(label[:n_spots, :n_genes], known), views)
        assert answer["expression"].shape == (100, n_genes) and np.isfinite(answer["sd"]).all()
    for n_spots in (1, 2, 9):
        with pytest.raises(DataError, match=f"{n_spots} known spots.*at least 10"):
            gp.fit(label[:n_spots], rows_of(views, slice(0, n_spots)))
