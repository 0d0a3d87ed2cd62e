"""The subset of points whose covariance has the smallest top eigenvalue, by branch and bound over Gram matrices.

Shapes: m points, s points of a subset, b subsets.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from mithridate.aggregation._cover import tightest

_EQUAL = 1e-12
"""Values whose relative difference is below are equal: they differ in the last bits of an eigenvalue solver."""

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


class _OutOfBudget(Exception):  # noqa: N818 - ends the search, never leaves this module
    pass


def flattest(
    centred: Float64[Tensor, "m m"],
    square_distances: Float64[Tensor, "m m"],
    alive: Bool[Tensor, " m"],
    num_kept: int,
    limit: int,
) -> Int64[Tensor, " s"] | None:
    """Return the `num_kept` live points with the smallest top eigenvalue of their scatter matrix.

    Args:
        centred: Inner products about any origin.
        square_distances: Between the points.
        alive: Which points are finite; at least `num_kept` are.
        num_kept: The size of the subset.
        limit: How many subsets to look at.

    Returns:
        The points in ascending order, or None if the limit was reached first.
    """
    live = torch.nonzero(alive)[:, 0]
    distances = square_distances[live][:, live]
    search = _Search(centred[live][:, live].numpy(), distances.numpy(), num_kept, limit)
    search.offer([tightest(distances, torch.ones(len(live), dtype=torch.bool), num_kept)])
    try:
        search.run((), tuple(range(len(live))), len(live) - num_kept)
    except _OutOfBudget:
        return None
    return live[torch.tensor(search.best)]


@dataclass
class _Search:
    """Where the search stands.

    A node has the points `kept` for good, the points `open` of which `spare` are still to be removed. Duplicates are
    removed from the highest index down, so that no two nodes differ in the names of equal points alone.
    """

    gram: Array
    distances: Array
    num_kept: int
    limit: int
    best: tuple[int, ...] = ()
    value: float = np.inf
    seen: int = 0
    twins: list[tuple[int, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        same = self.distances == 0
        self.twins = [tuple(np.flatnonzero(row).tolist()) for row in same]

    def run(self, kept: tuple[int, ...], open_: tuple[int, ...], spare: int) -> None:
        """Search below a node."""
        pruned = self._pruned(kept, open_, spare)
        if pruned is None:
            return
        kept, open_, spare = pruned
        if spare == 0:
            self.offer([sorted(kept + open_)])
            return
        if len(kept) > 1 and self._tops([kept])[0] > self.value * (1 + _EQUAL):
            return
        order = self._loads(kept + open_)
        if spare == 1:
            last = {max(set(self.twins[point]) & set(open_)) for point in open_}
            everyone = sorted(kept + open_)
            self.offer([[each for each in everyone if each != point] for point in sorted(last)])
            return
        point = max(open_, key=lambda each: (order[each], -each))
        group = tuple(each for each in open_ if each in self.twins[point])
        out = group[-1]
        self.run(kept, tuple(each for each in open_ if each != out), spare - 1)
        self.run(kept + group, tuple(each for each in open_ if each not in group), spare)

    def offer(self, subsets: list[list[int]]) -> None:
        """Compare complete subsets with the best one so far."""
        self.seen += len(subsets)
        if self.seen > self.limit:
            raise _OutOfBudget
        for subset, value in zip(subsets, self._tops(subsets).tolist(), strict=True):
            found = tuple(subset)
            if value < self.value * (1 - _EQUAL) or (value <= self.value * (1 + _EQUAL) and found < self.best):
                self.best, self.value = found, value

    def _pruned(
        self, kept: tuple[int, ...], open_: tuple[int, ...], spare: int
    ) -> tuple[tuple[int, ...], tuple[int, ...], int] | None:
        """Remove the open points that are too far from a kept one; None if that leaves too few or a kept pair is."""
        too_far = self.distances > 2 * self.value * (1 + 1e-9)  # a pair's scatter has the top eigenvalue distance^2 / 2
        if spare > len(open_):
            return None
        if not kept:
            return kept, open_, spare
        gone: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = np.logical_or.reduce(too_far[list(kept)], axis=0)
        if np.any(gone[list(kept)]):
            return None
        left = tuple(point for point in open_ if not gone[point])
        spare -= len(open_) - len(left)
        return None if not 0 <= spare <= len(left) else (kept, left, spare)

    def _tops(self, subsets: "list[list[int]] | list[tuple[int, ...]]") -> Array:
        """Return the largest eigenvalue of each subset's scatter matrix; the subsets are of one size."""
        index = np.array(subsets)
        blocks = self.gram[index[:, :, None], index[:, None, :]]
        blocks = blocks - blocks.mean(1, keepdims=True)
        blocks = blocks - blocks.mean(2, keepdims=True)
        top: Array = np.linalg.eigvalsh(blocks)[:, -1]
        return np.maximum(top, 0)

    def _loads(self, points: tuple[int, ...]) -> dict[int, float]:
        """Return how much each point adds to the worst direction of all points of a node."""
        index = np.array(points)
        block = self.gram[np.ix_(index, index)]
        block = block - block.mean(0)
        block = block - block.mean(1, keepdims=True)
        vector = np.linalg.eigh(block)[1][:, -1]
        return dict(zip(points, (vector**2).tolist(), strict=True))
