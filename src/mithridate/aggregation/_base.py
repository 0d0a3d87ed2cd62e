"""What a combiner needs to see of the rows, and the four kinds of combiner.

A row is a sample, a worker or a client's delta. A combiner states the evidence it needs; the training step takes the
cheapest legal path to it: one backward pass for the mean, norms in chunks, a Gram matrix, or the rows themselves.
"""

import enum
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

State = Any
"""A stage's state: None, a tensor, an int, a float, a string, or a dict or list of such. It can be saved."""


class Evidence(enum.IntEnum):
    """What a combiner needs of the rows, cheapest first."""

    MEAN = 0
    NORMS = 1
    GRAM = 2
    ROWS = 3


class AbstractCombiner(ABC):
    """Turns n rows of length d into one vector."""

    evidence: ClassVar[Evidence]

    def check(self, num_rows: int) -> None:  # noqa: B027 - most rules are defined for any number
        """Raise `Misuse` if the rule is not defined for so many rows."""

    def init(self) -> State:
        """Return the state before the first step."""
        return None


class AbstractWeightCombiner(AbstractCombiner):
    """A combiner whose result is a weighted sum of the rows, plus noise perhaps; weights follow from the evidence."""

    @abstractmethod
    def weights(
        self, evidence: Float[Tensor, "..."], prior: Float[Tensor, " n"], state: State
    ) -> tuple[Float[Tensor, " n"], State]:
        """Return one weight per row.

        Args:
            evidence: Row norms of shape (n,) or the Gram matrix of shape (n, n), as `evidence` of the class says.
            prior: The weight that each row has in the plain mean; sums to one.
            state: The state of the previous step.
        """

    def finish(self, vector: Float[Tensor, " d"], num_rows: int, gen: torch.Generator) -> Float[Tensor, " d"]:
        """Return the step's vector from the weighted sum; the identity unless a rule adds noise."""
        del num_rows, gen
        return vector


class AbstractRowCombiner(AbstractCombiner):
    """A combiner that must see the rows coordinate by coordinate."""

    evidence: ClassVar[Evidence] = Evidence.ROWS

    @abstractmethod
    def combine(
        self, rows: Float[Tensor, "n d"], prior: Float[Tensor, " n"], state: State
    ) -> tuple[Float[Tensor, " d"], State]:
        """Return the combined vector and the next state."""
