"""Minimum vertex covers of small graphs, and the largest sets of points without a far pair.

Two points conflict if they are further apart than t. The set of n - f points of smallest diameter is what remains when
a vertex cover of the conflict graph of size at most f is taken away, for the least t that has one: a binary search over
the distances, each a bounded search tree (fixed-parameter tractable in f), instead of n! / (f! (n - f)!) sets.

Graphs are lists of neighbour masks: bit j of `graph[i]` says that i and j conflict. Sets are masks, too.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

Graph = Sequence[int]


def cover(graph: Graph, alive: int, budget: int) -> int | None:
    """Return a vertex cover of the graph on the vertices `alive` with at most `budget` vertices, or None.

    Vertices of degree one are settled at once, graphs of cycles are solved directly; otherwise a vertex of the highest
    degree is taken, or else all of its neighbours are.
    """
    alive, taken = _without_leaves(graph, alive)
    budget -= taken.bit_count()
    if budget < 0:
        return None
    rest = _branch(graph, alive, budget) if alive else 0
    return None if rest is None else taken | rest


def _without_leaves(graph: Graph, alive: int) -> tuple[int, int]:
    """Take the neighbours of leaves until every vertex has at least two; return what is left, and what was taken."""
    taken = 0
    while True:
        leaf = 0
        for vertex in _bits(alive):
            degree = (graph[vertex] & alive).bit_count()
            if degree == 0:
                alive &= ~(1 << vertex)
            elif degree == 1:
                leaf = 1 << vertex
                break
        if not leaf:
            return alive, taken
        neighbour = graph[leaf.bit_length() - 1] & alive
        taken |= neighbour
        alive &= ~(neighbour | leaf)


def _branch(graph: Graph, alive: int, budget: int) -> int | None:
    degrees = {vertex: (graph[vertex] & alive).bit_count() for vertex in _bits(alive)}
    vertex = max(degrees, key=lambda each: degrees[each])
    most = degrees[vertex]
    if sum(degrees.values()) > 2 * budget * most:  # so many vertices cover at most budget * most edges
        return None
    if most == 2:
        return _cycles(graph, alive, budget)
    rest = cover(graph, alive & ~(1 << vertex), budget - 1)
    if rest is not None:
        return 1 << vertex | rest
    neighbours = graph[vertex] & alive
    rest = cover(graph, alive & ~(neighbours | 1 << vertex), budget - most)
    return None if rest is None else neighbours | rest


def tightest(square_distances: Float64[Tensor, "m m"], alive: Bool[Tensor, " m"], num_kept: int) -> list[int]:
    """Return the `num_kept` live points of smallest diameter; of several such sets, the first in lexicographic order.

    Needs at least `num_kept` live points.
    """
    live = torch.nonzero(alive)[:, 0].tolist()
    if num_kept == 1:
        return live[:1]
    among = square_distances[live][:, live]
    table = among.tolist()
    values = sorted({value for row in table for value in row})  # zero is one of them: the diagonal
    budget = len(live) - num_kept
    everyone = (1 << len(live)) - 1
    low, high = 0, len(values) - 1  # the largest distance conflicts with nothing
    graph = _conflicts(table, values[high])
    witness = 0
    while low < high:
        middle = (low + high) // 2
        tried = _conflicts(table, values[middle])
        found = cover(tried, everyone, budget)
        if found is None:
            low = middle + 1
        else:
            high, graph, witness = middle, tried, found
    if high == len(values) - 1:
        graph, witness = _conflicts(table, values[high]), 0
    return [live[i] for i in _first_kept(graph, everyone, witness, num_kept)]


def _first_kept(graph: Graph, everyone: int, witness: int, num_kept: int) -> list[int]:
    """Return the lexicographically first independent set of `num_kept` vertices, given the complement of some one."""
    budget = everyone.bit_count() - num_kept
    kept, gone = 0, 0
    for vertex in _bits(everyone):
        if kept.bit_count() == num_kept:
            break
        bit = 1 << vertex
        if gone & bit:
            continue
        if not witness & bit:  # a known solution keeps all of `kept` and this vertex
            kept, gone = kept | bit, gone | graph[vertex]
            continue
        must_go = gone | graph[vertex]
        rest = cover(graph, everyone & ~(must_go | kept | bit), budget - must_go.bit_count())
        if rest is None:
            gone |= bit
        else:
            kept, gone, witness = kept | bit, must_go, must_go | rest
    return list(_bits(kept))


def _conflicts(square_distances: list[list[float]], limit: float) -> Graph:
    return [sum(1 << j for j, value in enumerate(row) if value > limit) for row in square_distances]


def _cycles(graph: Graph, alive: int, budget: int) -> int | None:
    """Cover a graph in which every vertex has degree two: of a cycle of c vertices, (c + 1) // 2."""
    taken = 0
    while alive:
        start = (alive & -alive).bit_length() - 1
        path, previous, here = [start], 0, start
        while True:
            onward = graph[here] & alive & ~previous
            step = onward & -onward  # the lower of the two neighbours, then the one that we did not come from
            if step.bit_length() - 1 == start:
                break
            previous, here = 1 << here, step.bit_length() - 1
            path.append(here)
        for vertex in path:
            alive &= ~(1 << vertex)
        taken |= sum(1 << vertex for vertex in path[::2])
    return taken if taken.bit_count() <= budget else None


def _bits(mask: int) -> Iterator[int]:
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest
