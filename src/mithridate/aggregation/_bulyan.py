"""The first phase of Bulyan and Multi-Bulyan: winners taken out one by one, the rest scored anew each time."""

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from mithridate.aggregation._select import krum_scores, lowest, uniform


def winners(
    square_distances: Float64[Tensor, "m m"], alive: Bool[Tensor, " m"], *, f: int, theta: int, average: bool
) -> Float64[Tensor, "theta m"]:
    """Return one row of weights per round.

    In round i, r = m - i points remain. Each is scored by its max(1, r - f - 2) nearest among those that remain, the
    best one wins and is taken out. Scores are those of the remaining set: reference codes that keep the scores of the
    full set choose other winners (spec section 9.1).

    Args:
        square_distances: Of all points; infinite for dead ones.
        alive: Which points are finite.
        f: The number of liars.
        theta: The number of rounds.
        average: Whether a round gives the mean of its max(1, r - f - 2) best points, or its winner alone.
    """
    left, rounds = alive.clone(), []
    num_points = len(alive)
    for done in range(theta):
        remain = num_points - done
        k = max(1, remain - f - 2)
        order = lowest(krum_scores(square_distances, left, k), k if average else 1)
        rounds.append(uniform(order, num_points))
        left[order[0]] = False
    return torch.stack(rounds)
