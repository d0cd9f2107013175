"""A Gaussian process from the known spots to all others, on position, looks and their product.

    kernel   position · e(position) + image · e(image) + stain · e(stain) + e(wide position) · (near_image · e(image) + near_stain · e(stain))
             with e(view) = exp(-|difference|² / (2 length²)): near spots, look-alikes, and look-alikes among the spots that are not far
    labels   known expression minus the mean of its layer, as scores on its leading directions (250 noisy genes from 200 spots have few
             degrees of freedom); a deep spot counts more than a shallow one
    answer   exact posterior (Rasmussen & Williams 2006, algorithm 2.1): mean and variance per spot, turned back into genes

Everything is chosen on the known spots by hiding discs of them (of several known layers that overlap: one layer after the other). What was hidden is
predicted in closed form from one inverse, -inverse(P_hh) (P z)_h with P = inverse(K + noise) and z zero where hidden. A value of the grid is taken
only if it is better than the present one by two standard errors: a known layer of 200 spots does not tell more.
"""
from dataclasses import dataclass, replace

import numpy as np
from scipy import linalg
from scipy.spatial import cKDTree

from common.errors import DataError
from common.threads import one_thread
from data_preprocessing.expression import depth_of
from models.discs import discs

DISC_RADII_PITCHES = (2.0, 2.5)
HIDDEN_SHARE = 0.2
N_DRAWS = 40            # of discs; with these about every spot is hidden some times
MAX_CHUNK = 1000        # the choice is made within contiguous parts of the known layers, not much larger; no spot is left out
MAX_RANK = 16
MIN_SPOTS = 10
BLOCK = 2048
N_STANDARD_ERRORS = 2.0
MAX_PASSES = 3


@dataclass(frozen=True)
class Kernel:
    """Weights and lengths (position in pitches; looks in sd of the first principal component), noise variance, rank of the labels."""
    position: float = 0.5
    position_length: float = 2.0
    image: float = 0.5
    image_length: float = 2.5
    stain: float = 0.5
    stain_length: float = 2.5
    near_image: float = 0.5
    near_stain: float = 0.5
    near_length: float = 10.0
    noise: float = 1.0
    rank: int = 8


GRID = {"noise": (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0), "position_length": (1.0, 1.5, 2.0, 3.0, 4.0), "position": (0.0, 0.25, 0.5, 1.0),
        "image": (0.0, 0.25, 0.5, 1.0), "stain": (0.0, 0.25, 0.5, 1.0), "image_length": (1.25, 1.75, 2.5, 3.5, 5.0),
        "stain_length": (1.25, 1.75, 2.5, 3.5, 5.0), "near_image": (0.0, 0.25, 0.5, 1.0), "near_stain": (0.0, 0.25, 0.5, 1.0),
        "near_length": (3.0, 4.0, 6.0, 10.0, 15.0), "rank": (6, 8, 10, 12)}


@dataclass(frozen=True)
class GaussianProcess:
    """A fitted process: m known spots, r components, G genes."""
    kernel: Kernel
    views: dict[str, np.ndarray]   # of the known spots
    mean: np.ndarray               # (G,)
    basis: np.ndarray              # (r, G), orthonormal rows
    cholesky: np.ndarray           # (m, m), lower: of K + noise
    shrinkage: np.ndarray          # (r,) on every predicted score
    coefficient: np.ndarray        # (m, r), shrinkage included
    amplitude: np.ndarray          # (r,) signal variance of a component per unit of the kernel
    noise: np.ndarray              # (G,) variance of what the process does not explain: rank, counting, the section's own offset


# kernel ----------------------------------------------------------------------------------------------
def squared_distances(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Per view: (n, d), (m, d) -> (n, m)."""
    return {name: np.maximum((a[name] ** 2).sum(axis=1)[:, None] + (b[name] ** 2).sum(axis=1) - 2 * a[name] @ b[name].T, 0) for name in a}


def covariance(kernel: Kernel, square: dict[str, np.ndarray]) -> np.ndarray:
    """The kernel's value for every pair: (n, m). square: squared distances per view; a view that is absent has no part."""
    e = lambda name, length: np.exp(square[name] / (-2 * length ** 2))
    k = kernel.position * e("position", kernel.position_length)
    near = np.zeros(())
    for name in sorted(set(square) - {"position"}):
        own, with_position, length = (getattr(kernel, field) for field in (name, f"near_{name}", f"{name}_length"))
        if own or with_position:
            alike = e(name, length)
            k += own * alike
            near = near + with_position * alike
    return k + near * e("position", kernel.near_length) if near.any() else k


def at_zero(kernel: Kernel, views: dict[str, np.ndarray]) -> float:
    """A spot's prior variance: the kernel's value at distance 0."""
    return kernel.position + sum(getattr(kernel, name) + getattr(kernel, f"near_{name}") for name in views if name != "position")


# labels ----------------------------------------------------------------------------------------------
def spot_weights(label: np.ndarray) -> np.ndarray:
    """Square root of the spots' depths, median 1: (n,)."""
    depth = depth_of(label)
    return np.sqrt(depth / np.median(depth))


def centred(label: np.ndarray, layer: np.ndarray, shown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels minus the mean of the shown spots of their layer (n, G), 0 where not shown; and the mean of those means (G,)."""
    out, means = np.zeros(label.shape), []
    for one in np.unique(layer[shown]):
        rows = shown & (layer == one)
        means.append(label[rows].mean(axis=0, dtype=np.float64))
        out[rows] = label[rows] - means[-1]
    return out, np.mean(means, axis=0)


@one_thread()
def leading_directions(residual: np.ndarray, weight: np.ndarray, rank: int) -> np.ndarray:
    """Weighted principal directions of centred labels: (n, G), (n,) -> (rank, G), orthonormal rows."""
    _, axes = linalg.eigh((residual * weight[:, None]).T @ residual)
    return axes[:, ::-1].T[:min(rank, *residual.shape)]


# choice ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Draw:
    """One hiding: mean and basis come from what is shown."""
    hidden: np.ndarray   # (n,) bool
    mean: np.ndarray     # (G,)
    basis: np.ndarray    # (MAX_RANK, G)
    score: np.ndarray    # (n, MAX_RANK), 0 where hidden


def is_like_a_target(hidden: np.ndarray, position: np.ndarray) -> bool:
    """Hiding this layer, (n,) bool, shows what a target layer is like: the others are large enough for a basis, and one is near it."""
    if (~hidden).sum() < MAX_RANK:
        return False
    return bool(cKDTree(position[~hidden]).query(position[hidden])[0].min() <= max(DISC_RADII_PITCHES))


def draw_hidings(label: np.ndarray, position: np.ndarray, layer: np.ndarray, parts: list[np.ndarray], seed: int,
                 n_draws: int = N_DRAWS) -> list[Draw]:
    """Each of several layers in turn that another one overlaps, and discs of the spots that are not judged by that.

    parts: row indices of the parts in which a kernel is judged. In a part that lies on one layer, a layer in turn hides all or nothing.
    So discs hide the spots of a single known layer, of a layer that no other one overlaps, and of one that is alone in a part.
    """
    generator = np.random.default_rng(seed)
    hidings = [layer == one for one in np.unique(layer) if is_like_a_target(layer == one, position)]
    judged = np.zeros(len(label), bool)
    for part in parts:
        for hidden in hidings:
            judged[part] |= hidden[part] & ~hidden[part].all()
    if not judged.all():
        order = np.lexsort((layer, position[:, 1], position[:, 0]))  # the order in which the spots are given must not matter
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
        parts = [half for part in parts for half in _halves(position, part)]
    return parts


def _halves(position: np.ndarray, part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    axis = np.ptp(position[part], axis=0).argmax()
    order = part[np.lexsort((position[part, 1 - axis], position[part, axis]))]
    return np.sort(order[:len(order) // 2]), np.sort(order[len(order) // 2:])


def predict_hidden(kernel: Kernel, square: dict[str, np.ndarray], noise: np.ndarray, hidden: list[np.ndarray],
                   score: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per draw the posterior mean (n_hidden, rank) and variance (n_hidden,) of the hidden spots' scores, from one inverse."""
    precision = inverse(covariance(kernel, square) + np.diag(noise))  # (n, n)
    out = []
    for rows, z in zip(hidden, score, strict=True):
        conditional = inverse(precision[np.ix_(rows, rows)])  # of a hidden score given the shown ones, noise included
        out.append((-conditional @ (precision[rows] @ z[:, :kernel.rank]), np.maximum(conditional.diagonal() - noise[rows], 0)))
    return out


def inverse(matrix: np.ndarray) -> np.ndarray:
    """Inverse of a symmetric positive definite matrix."""
    factor, info = linalg.lapack.dpotrf(matrix, lower=True, overwrite_a=False)
    inverse, bad = linalg.lapack.dpotri(factor, lower=True, overwrite_c=True)
    if info or bad:
        raise linalg.LinAlgError("a kernel matrix that is not positive definite")
    return np.tril(inverse) + np.tril(inverse, -1).T


class Hidings:
    """The known spots cut in chunks, with their draws: what a kernel is judged on."""

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
            found = predict_hidden(kernel, square, kernel.noise * self.noise_factor[part], [np.flatnonzero(draw.hidden[part]) for draw in draws],
                                   [draw.score[part] for draw in draws])
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
    """Coordinate search from `start`; a step is taken where the gain exceeds N_STANDARD_ERRORS of itself."""
    views = set(hidings.squares[0])
    absent = [name for name in ("image", "stain") if name not in views]
    grid = {name: values for name, values in grid.items() if not any(one in name for one in absent)}
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


# fit and answer --------------------------------------------------------------------------------------
def calibration(hidings: Hidings, kernel: Kernel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """From the hidden spots: shrinkage (r,), amplitude (r,), noise (G,).

    Shrinkage is the slope of the true on the predicted scores, at most 1: what is noise in a component is not passed on.
    """
    parts = [(hidings.label[rows] - draw.mean, mean, variance, hidings.noise_factor[rows], draw.basis[:kernel.rank])
             for draw, rows, mean, variance in hidings.predictions(kernel)]
    truth = [residual @ basis.T for residual, _, _, _, basis in parts]  # (n_hidden, r) each
    power = sum((mean ** 2).sum(axis=0) for _, mean, *_ in parts)  # (r,): 0 where the known spots do not differ
    product = sum((true * mean).sum(axis=0) for true, (_, mean, *_) in zip(truth, parts))  # (r,)
    shrinkage = np.clip(np.divide(product, power, out=np.zeros_like(power), where=power > 0), 0, 1)
    error = np.concatenate([(true - shrinkage * mean) ** 2 for true, (_, mean, *_) in zip(truth, parts)])  # (N, r)
    spread = np.concatenate([variance + kernel.noise * factor for _, _, variance, factor, _ in parts])  # (N,)
    amplitude = error.mean(axis=0) / spread.mean()
    rest = np.concatenate([residual - shrinkage * mean @ basis for residual, mean, _, _, basis in parts])  # (N, G)
    explained = np.concatenate([variance[:, None] * (amplitude @ basis ** 2) for _, _, variance, _, basis in parts])  # (N, G)
    square = (rest ** 2).mean(axis=0)
    return shrinkage, amplitude, np.maximum(square - explained.mean(axis=0), 0.1 * square)


def offset_variance(label: np.ndarray, views: dict[str, np.ndarray], layer: np.ndarray, kernel: Kernel, shrinkage: np.ndarray) -> float:
    """How far the mean of one section may lie off where another puts it, over the genes: known layers from each other, or two halves of one.

    A section has an offset of its own in every gene; no hidden disc shows it, and intervals without it are too narrow on target layers.
    """
    layers = np.unique(layer)
    side = [views["position"][:, k] > np.median(views["position"][:, k]) for k in (0, 1)]
    hidings = [layer == one for one in layers] if len(layers) > 1 else [half for one in side for half in (one, ~one)]
    hidings = [hidden for hidden in hidings if hidden.any() and not hidden.all()]  # spots in one place have no halves
    noise, offsets = kernel.noise / spot_weights(label), []
    for hidden in hidings:
        residual, mean = centred(label, layer, ~hidden)
        basis = leading_directions(residual[~hidden], spot_weights(label[~hidden]), len(shrinkage))
        shown, target = ({name: view[rows] for name, view in views.items()} for rows in (~hidden, hidden))
        matrix = covariance(kernel, squared_distances(shown, shown)) + np.diag(noise[~hidden])
        weight = linalg.solve(matrix, residual[~hidden] @ basis.T, assume_a="pos") * shrinkage[:len(basis)]  # (n_shown, r)
        average = covariance(kernel, squared_distances(target, shown)).mean(axis=0)  # (n_shown,)
        offsets.append(((mean + average @ weight @ basis - label[hidden].mean(axis=0, dtype=np.float64)) ** 2).mean())
    return float(np.mean(offsets)) if offsets else 0.0


@one_thread()
def fit(label: np.ndarray, views: dict[str, np.ndarray], layer: np.ndarray | None = None, kernel: Kernel | None = None,
        seed: int = 0) -> GaussianProcess:
    """Fit to known spots. label: (m, G) normalised expression; views: {"position": (m, 2) pitches, "image": (m, d), ...}; layer: (m,).

    kernel: a fixed one; by default it is chosen. All spots are used: memory and time grow with m² and m³ (models/known_spots.py bounds m).
    Raises DataError for fewer than MIN_SPOTS: with fewer there is nothing to choose and to calibrate by.
    """
    if len(label) < MIN_SPOTS:
        raise DataError("Gaussian process", f"{len(label)} known spots", f"at least {MIN_SPOTS}", "give layers with more measured spots")
    layer = np.zeros(len(label), np.int64) if layer is None else layer
    hidings = Hidings(label, views, layer, seed)
    kernel = choose_kernel(hidings, Kernel()) if kernel is None else kernel
    shrinkage, amplitude, noise = calibration(hidings, kernel)
    noise = noise * (1 + offset_variance(label, views, layer, kernel, shrinkage) / max(noise.mean(), 1e-12))
    residual, mean = centred(label, layer, np.ones(len(label), bool))
    basis = leading_directions(residual, spot_weights(label), len(shrinkage))
    score, spot_noise = residual @ basis.T, kernel.noise * hidings.noise_factor
    cholesky = linalg.cholesky(covariance(kernel, squared_distances(views, views)) + np.diag(spot_noise), lower=True, overwrite_a=True)
    coefficient = linalg.cho_solve((cholesky, True), score) * shrinkage
    return GaussianProcess(kernel, views, mean, basis, cholesky, shrinkage, coefficient, amplitude, noise)


@one_thread()
def predict(process: GaussianProcess, views: dict[str, np.ndarray], with_variance: bool = True) -> dict[str, np.ndarray]:
    """Answer at n spots, in blocks: score (n, r), expression (n, G), variance (n,) of the kernel's own unit, sd (n, G) of a measured value."""
    n = len(views["position"])
    score, variance = np.empty((n, len(process.basis))), np.empty(n)
    for start in range(0, n, BLOCK):
        rows = slice(start, start + BLOCK)
        cross = covariance(process.kernel, squared_distances({name: view[rows] for name, view in views.items()}, process.views))  # (block, m)
        score[rows] = cross @ process.coefficient
        if with_variance:
            half = linalg.solve_triangular(process.cholesky, cross.T, lower=True, overwrite_b=True)  # (m, block)
            variance[rows] = at_zero(process.kernel, views) - (half ** 2).sum(axis=0)
    answer = {"score": score, "expression": (process.mean + score @ process.basis).astype(np.float32)}
    if with_variance:
        variance = np.maximum(variance, 0)
        answer["variance"] = variance
        answer["sd"] = np.sqrt(variance[:, None] * (process.amplitude @ process.basis ** 2) + process.noise).astype(np.float32)
    return answer
