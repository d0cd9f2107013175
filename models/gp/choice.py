"""The choice of the kernel, on the known spots alone: discs of them, or a layer in turn, are hidden and predicted.

Hidden spots are predicted in closed form from one inverse: -inverse(P_hh) (P z)_h with P = inverse(K + noise) and z
zero where hidden. A value of the grid is accepted only if it lowers the error by two standard errors: 200 spots cannot
resolve less.
"""
import itertools
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from models.discs import discs
from models.gp.kernel import Kernel, at_zero, covariance, inverse, squared_distances
from models.gp.labels import centred, leading_directions, spot_weights
from models.halving import halves

DISC_RADII_PITCHES = (2.0, 2.5)
HIDDEN_SHARE = 0.2
N_DRAWS = 40            # of discs: almost every spot is hidden several times
MAX_CHUNK = 1000        # spots in a contiguous part of the known layers; the choice is made within such parts
MAX_RANK = 16
N_STANDARD_ERRORS = 2.0
MAX_PASSES = 3
WEIGHTS = (0.0, 0.25, 0.5, 1.0)
IMAGE_LENGTHS = (1.25, 1.75, 2.5, 3.5, 5.0)
GRID: dict[str, tuple] = {  # searched in this order
    "noise": (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0),
    "position_length": (1.0, 1.5, 2.0, 3.0, 4.0),
    "position": WEIGHTS, "image": WEIGHTS, "stain": WEIGHTS,
    "image_length": IMAGE_LENGTHS, "stain_length": IMAGE_LENGTHS,
    "near_image": WEIGHTS, "near_stain": WEIGHTS,
    "near_length": (3.0, 4.0, 6.0, 10.0, 15.0),
    "rank": (6, 8, 10, 12)}


@dataclass(frozen=True)
class Draw:
    """One hiding: mean and basis are those of the other spots."""
    hidden: np.ndarray   # (n,) bool
    mean: np.ndarray     # (G,)
    basis: np.ndarray    # (MAX_RANK, G)
    score: np.ndarray    # (n, MAX_RANK), 0 where hidden


def is_like_a_target(hidden: np.ndarray, position: np.ndarray) -> bool:
    """Whether hiding this layer, (n,) bool, resembles a target layer: the rest is enough for a basis, and some is near.

    position: (n, 2) pitches.
    """
    if (~hidden).sum() < MAX_RANK:
        return False
    return bool(cKDTree(position[~hidden]).query(position[hidden])[0].min() <= max(DISC_RADII_PITCHES))


def draw_hidings(label: np.ndarray, position: np.ndarray, layer: np.ndarray, parts: list[np.ndarray], seed: int,
                 n_draws: int = N_DRAWS) -> list[Draw]:
    """Each layer in turn that another layer overlaps, and discs of the spots that those hidings do not judge.

    parts: row indices of the parts in which a kernel is judged. In a part that lies on one layer, hiding a layer hides
    all or nothing. So discs hide the spots of a single known layer, of a layer that no other one overlaps, and of one
    that is alone in a part.
    """
    generator = np.random.default_rng(seed)
    hidings = [layer == one for one in np.unique(layer) if is_like_a_target(layer == one, position)]
    judged = np.zeros(len(label), bool)
    for part in parts:
        for hidden in hidings:
            judged[part] |= hidden[part] & ~hidden[part].all()
    if not judged.all():
        order = np.lexsort((layer, position[:, 1], position[:, 0]))  # the given order of the spots must not matter
        rest, place = ~judged[order], np.argsort(order)
        for _ in range(n_draws):
            hidings.append(discs(position[order], rest, HIDDEN_SHARE, DISC_RADII_PITCHES, generator)[place])
    weight, draws = spot_weights(label), []
    for hidden in hidings:
        residual, mean = centred(label, layer, ~hidden)
        basis = leading_directions(residual[~hidden], weight[~hidden], MAX_RANK)
        draws.append(Draw(hidden, mean, basis, residual @ basis.T))
    return draws


def chunks(position: np.ndarray, size: int) -> list[np.ndarray]:
    """Contiguous parts of at most `size` spots, by halving along the longer side: list of row indices."""
    parts = [np.arange(len(position))]
    while len(parts[0]) > size:
        smaller = itertools.chain.from_iterable(halves(position, part) for part in parts)
        parts = [np.sort(part) for part in smaller]
    return parts


def predict_hidden(kernel: Kernel, square: dict[str, np.ndarray], noise: np.ndarray, hidden: list[np.ndarray],
                   score: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Posterior mean (n_hidden, rank) and variance (n_hidden,) of the hidden spots' scores per draw, from one inverse.

    square: squared distances per view, (n, n); noise: (n,); hidden: rows per draw; score: (n, MAX_RANK) per draw.
    """
    precision = inverse(covariance(kernel, square) + np.diag(noise))  # (n, n)
    out = []
    for rows, z in zip(hidden, score, strict=True):
        conditional = inverse(precision[np.ix_(rows, rows)])  # hidden scores given the others, noise included
        mean = -conditional @ (precision[rows] @ z[:, :kernel.rank])
        out.append((mean, np.maximum(conditional.diagonal() - noise[rows], 0)))
    return out


class Hidings:
    """The known spots in chunks, with their draws: the data that a kernel is judged on."""

    def __init__(self, label: np.ndarray, views: dict[str, np.ndarray], layer: np.ndarray, seed: int):
        self.label, self.chunks = label.astype(np.float64), chunks(views["position"], MAX_CHUNK)
        self.draws = draw_hidings(label, views["position"], layer, self.chunks, seed)
        self.noise_factor = 1 / spot_weights(label)
        self.squares = []
        for part in self.chunks:
            own = {name: view[part] for name, view in views.items()}
            self.squares.append(squared_distances(own, own))

    def predictions(self, kernel: Kernel):
        """Yield (draw, hidden rows, mean (n_hidden, rank), variance (n_hidden,)) for every chunk and draw."""
        for part, square in zip(self.chunks, self.squares, strict=True):
            draws = [draw for draw in self.draws if draw.hidden[part].any() and not draw.hidden[part].all()]
            hidden, score = [np.flatnonzero(draw.hidden[part]) for draw in draws], [draw.score[part] for draw in draws]
            found = predict_hidden(kernel, square, kernel.noise * self.noise_factor[part], hidden, score)
            for draw, (mean, variance) in zip(draws, found, strict=True):
                yield draw, part[draw.hidden[part]], mean, variance

    def errors(self, kernel: Kernel) -> np.ndarray:
        """Mean squared error of each spot over the draws that hid it: (n,), NaN where none did."""
        total, count = np.zeros(len(self.label)), np.zeros(len(self.label))
        for draw, rows, mean, _ in self.predictions(kernel):
            total[rows] += ((self.label[rows] - draw.mean - mean @ draw.basis[:kernel.rank]) ** 2).mean(axis=1)
            count[rows] += 1
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def choose_kernel(hidings: Hidings, start: Kernel, grid: dict[str, tuple] = GRID) -> Kernel:
    """Coordinate search from `start`; a step is accepted if the gain exceeds N_STANDARD_ERRORS of itself."""
    views = set(hidings.squares[0])
    absent = [name for name in ("image", "stain") if name not in views]
    for one in absent:
        grid = {name: values for name, values in grid.items() if one not in name}
    if absent == ["image", "stain"]:
        grid.pop("near_length", None)
    kernel, error = start, hidings.errors(start)
    for _ in range(MAX_PASSES):
        before = kernel
        for name, values in grid.items():
            best = 0.0
            for value in values:
                candidate = replace(kernel, **{name: value})
                if candidate == kernel or at_zero(candidate, views) == 0:
                    continue
                candidate_error = hidings.errors(candidate)
                gain = (error - candidate_error)[~np.isnan(error)]
                if gain.mean() > max(best, N_STANDARD_ERRORS * gain.std() / np.sqrt(len(gain))):
                    best, step = gain.mean(), (candidate, candidate_error)
            if best:
                kernel, error = step
        if kernel == before:
            break
    return kernel
