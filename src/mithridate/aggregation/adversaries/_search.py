"""The line search of the optimised adversaries: expand while it pays, then contract around the best point."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from mithridate.aggregation.adversaries._base import Rule, copies, mean_of

Ray = Callable[[float], Float[Tensor, " d"]]
"""The hostile vector at a strength x >= 0."""


def damage(rule: Rule, honest: Float[Tensor, "h d"], f: int, ray: Ray) -> Callable[[float], float]:
    """Return y(x) = |F(honest and f copies of ray(x)) - mean(honest)|^2, which waits for the device."""
    mean = mean_of(honest).double()
    rows = honest.new_empty((len(honest) + f, honest.shape[1]))
    rows[: len(honest)] = honest

    def at(x: float) -> float:
        rows[len(honest) :] = copies(ray(x), f)
        return float((rule(rows).double() - mean).square().sum())

    return at


def line_search(objective: Callable[[float], float], *, budget: int, step: float = 1.0, ratio: float = 0.8) -> float:
    """Return the best x >= 0 that so many evaluations find; the one at 0 counts.

    The step doubles as long as it improves; after the first failure it shrinks by `ratio`, and the next point lies on
    the other side of the best one, so that both sides are probed.

    Args:
        objective: What to maximise; a NaN never counts as better.
        budget: The number of evaluations.
        step: The first step from 0.
        ratio: What the step shrinks by once it has failed.
    """
    best, best_value = 0.0, objective(0.0)
    place, expanding = 0.0, True
    for _ in range(budget - 1):
        place = best + step if expanding else abs(place + (step if place < best else -step))
        value = objective(place)
        if value > best_value:
            best, best_value = place, value
        else:
            expanding = False
        step *= 2 if expanding else ratio
    return best
