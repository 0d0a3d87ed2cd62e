"""Which images carry which key: disjoint sets, all of one class, and never another label than the one that was drawn.

    n        = the budget of one key, at most the budget of all divided by the number of keys
    class    = the key's label (attractors); the surrogate's own answer to the key (betrayal)
    images   = the next n of a permutation of the class that (seed, class) determines, keys in the order of their index

Where keys share a class that is too small for all of them, it is divided evenly and their notes say so. A class without
any image ends the work: another label in place of one that was drawn would no longer be uniform, and the test of
ownership rests on nothing but that.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from mithridate.core.errors import Misuse
from mithridate.data.examples import Examples
from mithridate.numerics.rng import generator

Rank = Callable[[Int64[Tensor, " m"]], Int64[Tensor, " m"]]
"""Orders candidate rows, the best first."""

CANDIDATES = 8
"""A selective mode ranks so many times the images that it needs."""


def count_of(budget: float, total: int) -> int:
    """Return a budget as a number of images: a share below one, or the number itself."""
    return max(1, int(budget * total)) if budget < 1 else int(budget)


def per_key(budget: float, total_budget: float | None, *, keys: int, images: int) -> int:
    """Return how many images each key may have.

    Raises:
        Misuse: MTH-1036, the budget of all keys is not an image for each.
    """
    one = count_of(budget, images)
    if total_budget is None:
        return one
    every = count_of(total_budget, images)
    if every < keys:
        raise Misuse(
            "MTH-1036",
            f"{every} images in all cannot carry {keys} keys: each needs at least one",
            hint="raise total_budget or mark fewer keys",
        )
    return min(one, every // keys)


def check_counts(data: Examples, wanted: Mapping[int, int]) -> None:
    """Make sure that every class has an image for each of its keys.

    Args:
        data: The images.
        wanted: How many keys take images of a class.

    Raises:
        Misuse: MTH-1030.
    """
    for label, keys in sorted(wanted.items()):
        images = len(data.rows_of_class(label))
        if images < keys:
            raise Misuse(
                "MTH-1030",
                f"{keys} keys have the label {data.classes[label]!r}, of which {data.name} has {images} images: each "
                "key needs one of its own",
                hint="a label is never drawn anew, which would spoil the test: add images of the class, or make new "
                "keys for a data set without it",
            )


def choose_rows(
    data: Examples, classes: Mapping[int, int], count: int, *, seed: int, rank: Rank | None = None
) -> dict[int, Int64[Tensor, " n"]]:
    """Return the rows of every key, disjoint and ascending.

    Args:
        data: The images.
        classes: The class whose images each key takes, by the key's index.
        count: How many images each wants.
        seed: The draw.
        rank: Takes the first of an order among `CANDIDATES` times as many images; None takes them as drawn.

    Raises:
        Misuse: MTH-1030, a class has no image for some key.
    """
    found: dict[int, Tensor] = {}
    check_counts(data, Counter(classes.values()))
    for label in sorted(set(classes.values())):
        indices = sorted(index for index, wanted in classes.items() if wanted == label)
        rows = data.rows_of_class(label).cpu()
        drawn = rows[torch.randperm(len(rows), generator=generator(seed, "rows", label))]
        if rank is not None:
            drawn = rank(drawn[: CANDIDATES * count * len(indices)])
        each = [min(count, part) for part in _shares(len(drawn), len(indices))]
        start = 0
        for index, size in zip(indices, each, strict=True):
            found[index] = drawn[start : start + size].sort().values
            start += size
    return found


def _shares(total: int, parts: int) -> Sequence[int]:
    return [total // parts + (place < total % parts) for place in range(parts)]
