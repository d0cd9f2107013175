"""Which known spots are used, when there are more than one exact Gaussian process takes."""
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from toys import toy_graph

from models import gp, known_spots
from training import three_d
from training.episodes import Known, prepare
from training.folds import make_folds
from training.process import fit_process, gaussian_process, left_out_lines
from training.settings import Settings

CPU = torch.device("cpu")
KERNEL = gp.Kernel(rank=4)


def lattice(side: int, generator: np.random.Generator) -> np.ndarray:
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)
    return grid + generator.normal(0, 0.05, grid.shape)


def test_every_part_of_every_layer_gives_up_the_same_share():
    generator = np.random.default_rng(0)
    position = np.concatenate([lattice(60, generator), lattice(60, generator) + [30, 0], lattice(9, generator)])
    layer = np.repeat([1, 2, 3], [3600, 3600, 81])
    kept = np.zeros(len(layer), bool)
    kept[known_spots.thinned(position, layer, 6000)] = True
    assert kept.sum() == 6000
    for one in (1, 2, 3):
        own = layer == one
        tile = (position[own].round() // 10) @ [1, 100]
        shares = [kept[own][tile == place].mean() for place in np.unique(tile) if (tile == place).sum() > 50]
        assert shares and all(abs(share - 6000 / 7281) < 0.06 for share in shares)
        lost = position[own & ~kept]
        distance = np.linalg.norm(lost[:, None] - position[own & kept][None], axis=2).min(axis=1)
        assert distance.max() < 1.3  # beside every spot left out one is used


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 200), st.integers(1, 200))
def test_the_order_of_the_spots_decides_nothing(seed, n, most):
    generator = np.random.default_rng(seed)
    position, layer, order = generator.uniform(0, 9, (n, 2)), generator.integers(0, 3, n), generator.permutation(n)
    kept = known_spots.thinned(position, layer, most)
    assert len(kept) == min(n, most) and (np.diff(kept) > 0).all()
    assert set(order[known_spots.thinned(position[order], layer[order], most)]) == set(kept)


@pytest.fixture
def thinned(monkeypatch):
    """A graph of which 40 of 64 known spots are used; the spots left out, (n,) bool."""
    monkeypatch.setattr(known_spots, "MAX_KNOWN", 40)
    graph = toy_graph()
    pool = graph.in_layers([1]).numpy()
    left_out = pool & ~known_spots.used(graph, pool)
    assert left_out.sum() == 24
    return graph, left_out


def test_a_spot_left_out_is_neither_context_nor_query_and_its_label_enters_nothing(thinned):
    graph, left_out = thinned
    model = three_d.build_model([graph], {"T": graph.in_layers([1])}, Settings(members=2)).eval()
    for member in model.members:
        torch.nn.init.normal_(member.asked.weight)
    rows = torch.from_numpy(left_out)
    spoiled = dataclasses.replace(graph, label=torch.where(rows.unsqueeze(1), graph.label + 7, graph.label))
    answers = []
    for one in (graph, spoiled):
        process = fit_process(one, [1], KERNEL)
        episode = Known(one, one.in_layers([1]).numpy(), process, model).whole_sample()
        assert not set(episode.rows.tolist()) & set(np.flatnonzero(left_out))
        assert len(episode.rows) == graph.n_spots - 24
        assert (~episode.query).sum() == 40 == len(process.views["position"])
        assert model(prepare(one, model.projection), episode).shape[0] == graph.n_spots - 24
        answers.append((three_d.predict(model, one, process, [1], CPU, with_sd=True),
                        gaussian_process(one, process)["expression"]))
    (answer, of_process), (again, _) = answers
    assert all(np.array_equal(answer[name], again[name]) for name in answer)
    assert np.array_equal(answer["expression"][left_out], of_process[left_out])
    target = (graph.layer != 1).numpy()
    assert np.abs(answer["expression"] - of_process)[target].max() > 1e-6  # the network adds to the others
    assert np.isfinite(answer["expression"]).all()


def test_what_is_left_out_is_said_once_for_known_and_for_training(thinned):
    graph, _ = thinned
    other = dataclasses.replace(toy_graph(1), sample="A")
    folds = make_folds({"A": [1, 2, 3], "T": [1, 2, 3]}, {"A": [1], "T": [1]}, [["A"], ["T"]])
    lines = left_out_lines([graph, other], {"A": [1], "T": [1]}, folds)
    counts = ["40 of 64 known", "40 of 192 training"] * 2
    for line, sample, count in zip(lines, ["T:", "T:", "A:", "A:"], counts, strict=True):
        assert sample in line and count in line


def test_nothing_is_said_or_left_out_below_the_limit():
    graph = toy_graph()
    pool = graph.in_layers([1, 2]).numpy()
    assert np.array_equal(known_spots.used(graph, pool), pool)
    assert known_spots.left_out_line(graph, [1, 2], "known") is None
