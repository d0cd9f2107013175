"""Bins pooled to squares of the chip: by hand, and against a loop over the bins."""
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import sparse

from common.errors import LayerError
from data_preprocessing.bins import grid_of, pool, sums

FILE = Path("tissue_positions.parquet")


def chip(rows: int, columns: int, first: tuple[int, int] = (0, 0)) -> np.ndarray:
    """(n, 2) column and row of every bin."""
    row, column = (axis.ravel() for axis in np.mgrid[:rows, :columns])
    return np.column_stack([column + first[0], row + first[1]])


def turned(place: np.ndarray, angle: float, px: float = 16.0) -> np.ndarray:
    """(n, 2) px of bins of `px` on a chip turned by an angle."""
    cos, sin = np.cos(angle), np.sin(angle)
    return place * px @ np.array([[cos, sin], [-sin, cos]]) + [1000, 2000]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), factor=st.integers(1, 6), rows=st.integers(2, 19), columns=st.integers(2, 19),
       seed=st.integers(0, 9999), angle=st.floats(-3.2, 3.2))
def test_squares_and_sums_are_those_of_a_loop(data, factor, rows, columns, seed, angle):
    rng = np.random.default_rng(seed)
    place = chip(rows, columns, (data.draw(st.integers(0, 40)), data.draw(st.integers(0, 40))))
    place = rng.permutation(place)
    on_tissue = rng.random(len(place)) < 0.8
    counts = rng.poisson(1.0, (len(place), 3))
    expected: dict[tuple[int, int], list[int]] = {}
    for k in np.flatnonzero(on_tissue):
        expected.setdefault((place[k, 1] // factor, place[k, 0] // factor), []).append(k)
    kept = {key: bins for key, bins in sorted(expected.items()) if len(bins) >= factor**2 / 2}
    if not kept:
        with pytest.raises(LayerError):
            pool(place, turned(place, angle), on_tissue, factor, FILE)
        return
    found = pool(place, turned(place, angle), on_tissue, factor, FILE)
    assert [tuple(one) for one in found.square[:, ::-1]] == list(kept)  # in the order of rows, then columns
    assert found.n_too_few == len(expected) - len(kept) and found.bin_px == pytest.approx(16)
    pooled = sums(sparse.csr_matrix(counts.astype(np.float32)), found.spot_of_bin, len(kept))
    assert pooled.format == "csr" and pooled.dtype == np.float32
    np.testing.assert_array_equal(pooled.toarray(), [counts[bins].sum(axis=0) for bins in kept.values()])
    centre = np.array([[j, i] for i, j in kept]) * factor + (factor - 1) / 2
    np.testing.assert_allclose(found.xy, turned(centre, angle), atol=1e-6)


def test_a_square_at_the_edge_of_the_tissue_keeps_its_place():
    """The centre is that of the whole square, also if the bins off tissue are not listed."""
    place = chip(8, 8)
    on_tissue = place[:, 0] < 6  # the right squares: half of their bins
    for listed in (np.ones(64, bool), on_tissue):
        found = pool(place[listed], turned(place[listed], 0.3), on_tissue[listed], 4, FILE)
        np.testing.assert_allclose(found.xy, turned(np.array([[1.5, 1.5], [5.5, 1.5], [1.5, 5.5], [5.5, 5.5]]), 0.3))
    found = pool(place, turned(place, 0.3), place[:, 0] < 5, 4, FILE)  # a quarter of their bins
    assert found.n_too_few == 2 and found.square.tolist() == [[0, 0], [0, 1]]


def test_a_bent_chip_is_followed():
    """The perspective of the CytAssist: a square lies where its bins lie, not on the mean grid."""
    place = chip(64, 64)

    def bent(where: np.ndarray) -> np.ndarray:
        return turned(where, 0.1) / (1 + 2e-3 * where[:, :1])

    found = pool(place, bent(place), np.ones(len(place), bool), 8, FILE)
    truth = bent(found.square * 8 + 3.5)
    step, origin = grid_of(place, bent(place), FILE)
    assert np.abs((found.square * 8 + 3.5) @ step + origin - truth).max() > 20
    assert np.abs(found.xy - truth).max() < 1


@pytest.mark.parametrize("positions, fact", [
    (np.random.default_rng(0).permutation(turned(chip(8, 8), 0)), "grid of the chip"),
    (turned(chip(8, 8), 0) * np.nan, "grid of the chip")])
def test_positions_of_another_table_are_refused(positions, fact):
    with pytest.raises(LayerError, match=fact):
        pool(chip(8, 8), positions, np.ones(64, bool), 4, FILE)


def test_bins_on_one_line_are_refused():
    with pytest.raises(LayerError, match="one line"):
        pool(chip(1, 8), turned(chip(1, 8), 0), np.ones(8, bool), 1, FILE)
