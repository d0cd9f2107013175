"""The folds: which samples are held out together, and which layers train, are given and are scored."""
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from models.sample import SampleGraph


@dataclass(frozen=True)
class Fold:
    """Training and test data of one fold.

    Of a test sample the known layers train, of every other sample all labelled layers.
    """
    index: int
    test_samples: list[str]
    training_layers: dict[str, list[int]]  # sample -> layers whose labels train
    known_layers: dict[str, list[int]]     # test sample -> layers whose labels the prediction sees
    target_layers: dict[str, list[int]]    # test sample -> layers that are scored

    def pools(self, graphs: list[SampleGraph]) -> dict[str, Tensor]:
        """{sample: (n,) bool} labels that training may use."""
        return {graph.sample: graph.in_layers(self.training_layers[graph.sample]) for graph in graphs}


def groups_of(samples: list[str], folds: list[list[str]] | int | str | None) -> list[list[str]]:
    """Which samples are held out together.

    folds: the config's groups (absent samples are dropped), a number of parts of the sorted samples, or
    'leave_one_out'. One group of all samples if there are no folds or fewer than two groups.
    """
    samples = sorted(samples)
    if folds == "leave_one_out":
        folds = len(samples)
    if isinstance(folds, int):
        folds = [part.tolist() for part in np.array_split(np.array(samples), min(folds, len(samples)))]
    groups = [sorted(set(group) & set(samples)) for group in folds or []]
    groups = [group for group in groups if group]
    return groups if len(groups) > 1 else [samples]


def make_folds(labelled: dict[str, list[int]], known: dict[str, list[int]], groups: list[list[str]]) -> list[Fold]:
    """One fold per group of groups_of().

    labelled: {sample: layers with counts}; known: {sample: known layers}.
    """
    folds = []
    for k, group in enumerate(groups):
        targets = {}
        for name in group:
            targets[name] = [layer for layer in labelled[name] if layer not in known[name]]
        training = {name: known[name] if name in group else labelled[name] for name in sorted(labelled)}
        folds.append(Fold(index=k, test_samples=group, training_layers=training,
                          known_layers={name: known[name] for name in group}, target_layers=targets))
    return folds
