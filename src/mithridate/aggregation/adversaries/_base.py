"""What a row adversary is: it sees rows and submits others in the place of the f hostile workers.

Shapes   h honest rows, f hostile ones, n = h + f, d coordinates.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mithridate.aggregation._base import State
from mithridate.core.errors import Misuse
from mithridate.core.params import Checked

Knowledge = Literal["honest rows", "own row", "data"]
Rule = Callable[[Float[Tensor, "n d"]], Float[Tensor, " d"]]
"""Aggregates rows as the server will, pre-aggregation included; the hostile rows come last."""


class AbstractAdversary(Checked, ABC):
    """Decides what the hostile workers submit. Configuration only: its state goes in and comes out.

    Attributes:
        knowledge: What `forge` is given. `honest rows`: what every honest worker submits in this step, after clipping
            and momentum. `own row`: what the f hostile workers themselves would have submitted. `data`: the same,
            computed on data that the adversary has tampered with beforehand.
        strength: The field that says how hard the adversary hits, if there is one.
    """

    knowledge: ClassVar[Knowledge]
    strength: ClassVar[str] = ""

    @abstractmethod
    def forge(
        self, honest: Float[Tensor, "h d"], f: int, *, rule: Rule | None, gen: torch.Generator, state: State
    ) -> tuple[Float[Tensor, "f d"], State]:
        """Return the f hostile rows, and the next state.

        Args:
            honest: The rows that `knowledge` names: h = n - f for an adversary that knows the honest rows, else h = f.
            f: How many rows to forge.
            rule: What the rows will be aggregated with; only optimised adversaries ask for it.
            gen: The adversary's generator for this step.
            state: None in the first step, then what the last step returned.

        Raises:
            Misuse: MTH-0550 if the adversary optimises against the rule and none is given.
        """

    def tamper(self, labels: Tensor, num_classes: int) -> Tensor:
        """Return the labels that a hostile worker computes on; the given ones unless it knows the `data`."""
        del num_classes
        return labels


def mean_of(honest: Float[Tensor, "h d"]) -> Float[Tensor, " d"]:
    """Return the mean row in the dtype of the rows, added up in float32 or wider."""
    return _wide(honest).mean(0).to(honest.dtype)


def moments(honest: Float[Tensor, "h d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
    """Return mean and standard deviation of every coordinate over the rows.

    The deviation divides by h - 1, as the reference codes do; that of a single row is zero, not NaN.
    """
    wide = _wide(honest)
    if len(honest) < 2:
        return wide[0].to(honest.dtype), torch.zeros_like(honest[0])
    deviation, mean = torch.std_mean(wide, 0)
    return mean.to(honest.dtype), deviation.to(honest.dtype)


def copies(vector: Float[Tensor, " d"], f: int) -> Float[Tensor, "f d"]:
    """Return f rows that equal the vector and share no memory with it."""
    return vector.repeat(f, 1)


def required(rule: Rule | None, name: str) -> Rule:
    """Return the rule. Raises `Misuse` if there is none, naming the adversary."""
    if rule is None:
        raise Misuse(
            "MTH-0550",
            f"{name} searches for the strength that hurts the aggregation rule most, and no rule was given",
            hint="pass rule=, or choose an adversary of fixed strength such as alie or ipm",
        )
    return rule


def _wide(rows: Tensor) -> Tensor:
    return rows if rows.dtype.itemsize >= 4 else rows.float()
