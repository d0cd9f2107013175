"""A fault of a file, and the demands that all kinds of files share."""
import numpy as np

BLOCK_ROWS = 4096


class Fault(Exception):
    """A fault of a file: (found, expected)."""


def demand(right: bool, found: str, expected: str) -> None:
    """Raise Fault unless `right`."""
    if not right:
        raise Fault(found, expected)


def demand_array(array, name: str, kind: str, *shape: int | None) -> None:
    """A dtype and a shape (None: any length), and nothing but finite numbers."""
    expected = f"{name} {np.dtype(kind)} ({', '.join('·' if n is None else str(n) for n in shape)})"
    right = (array.dtype == np.dtype(kind) and len(array.shape) == len(shape)
             and all(n in (None, m) for n, m in zip(shape, array.shape, strict=True)))
    demand(right, f"{name} {array.dtype} {tuple(array.shape)}", expected)
    if np.dtype(kind).kind == "f":
        for start in range(0, array.shape[0], BLOCK_ROWS):
            finite = np.isfinite(array[start:start + BLOCK_ROWS]).all()
            demand(bool(finite), f"a {name} that is not finite", "finite numbers")


def demand_names(found: list[str], expected: list[str] | None, what: str, source: str) -> None:
    """The same names in the same order."""
    if expected is not None and found != expected:
        both = zip(found, expected, strict=False)  # a list that stops early differs in its length alone
        first = next((f"{a} where {b} belongs" for a, b in both if a != b), f"{len(found)} {what}")
        raise Fault(first, f"the {len(expected)} {what} of {source} in their order")


def demand_keys(found, expected: tuple) -> None:
    """Every expected key. found: a container of keys."""
    missing = [str(name) for name in expected if name not in found]
    demand(not missing, f"no {', '.join(missing)}", ", ".join(map(str, expected)))


def demand_edges(edge_index: np.ndarray, name: str, n_source: int, n_target: int) -> None:
    """Edges [source; target] int64, in range, sorted by (target, source), none twice."""
    demand_array(edge_index, f"{name} edge_index", "i8", 2, None)
    source, target = edge_index
    inside = edge_index.size == 0 or (edge_index.min() >= 0 and source.max() < n_source and target.max() < n_target)
    demand(inside, f"{name}: an edge to a node that does not exist",
           f"sources below {n_source}, targets below {n_target}")
    rising = np.diff(target * n_source + source) > 0
    demand(bool(rising.all()), f"{name}: edges out of order or twice", "edges sorted by (target, source)")


def demand_symmetric(edge_index: np.ndarray, name: str, n: int) -> None:
    """Every edge in both directions, none to itself."""
    source, target = edge_index
    demand(bool((source != target).all()), f"{name}: an edge of a node to itself", "none")
    both_ways = np.array_equal(np.sort(source * n + target), target * n + source)
    demand(both_ways, f"{name}: an edge in one direction only", "both directions")


def demand_parents(edge_index: np.ndarray, name: str, n_members: int) -> None:
    """Every member in exactly one owner."""
    one_each = np.array_equal(np.sort(edge_index[0]), np.arange(n_members))
    demand(one_each, f"{name}: members with no owner or with two", "one owner each")


def demand_raw(matrix) -> None:
    """Raw counts, dense or sparse."""
    values = matrix.data if hasattr(matrix, "indptr") else np.asarray(matrix)
    whole = bool(np.all(values >= 0)) and np.array_equal(values, np.rint(values))
    demand(whole, "values that are no counts", "whole numbers >= 0")
