"""What a combiner needs to see of the rows, and the kinds of combiner.

A row is a sample, a worker or a client's delta. A combiner states the evidence it needs; the training step takes the
cheapest legal path to it: one backward pass for the mean, norms in chunks, a Gram pass, or the rows themselves.

    kind                    sees                          decides                       evidence
    (Mean)                  nothing                       nothing                       MEAN
    AbstractNormCombiner    the rows' norms               one weight a row              NORMS
    AbstractGramCombiner    points (inner products)       one weight a point            GRAM
    AbstractMixedCombiner   points                        mixtures, then a statistic    GRAM
    AbstractOrderCombiner   nothing                       a statistic of every column   ROWS
    AbstractRowCombiner     the rows                      the vector                    ROWS

`combine.combine` runs any of them, `pipeline.Pipeline` puts pre-aggregators before one. A row with an entry that is
not finite is dead: rules treat at most f of them as infinitely far, and give them weight zero.

Shapes   n rows, d coordinates, m points, l mixtures.
"""

import enum
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from mithridate.core.params import Checked
from mithridate.numerics.geometry import Geometry
from mithridate.numerics.order import Statistic
from mithridate.numerics.row_view import RowView

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

    def tolerated(self, num_rows: int) -> int:
        """Return how many of so many rows may be dead."""
        del num_rows
        return 0

    def init(self) -> State:
        """Return the state before the first step."""
        return None


class AbstractNormCombiner(AbstractCombiner):
    """A combiner whose result is a weighted sum of the rows, plus noise perhaps; weights follow from the norms."""

    evidence: ClassVar[Evidence] = Evidence.NORMS

    @abstractmethod
    def weights(
        self, norms: Float[Tensor, " n"], prior: Float[Tensor, " n"], state: State
    ) -> tuple[Float[Tensor, " n"], State]:
        """Return one weight per row.

        Args:
            norms: The Euclidean norm of every row.
            prior: The weight that each row has in the plain mean; sums to one.
            state: The state of the previous step.
        """

    def finish(self, vector: Float[Tensor, " d"], num_rows: int, gen: torch.Generator) -> Float[Tensor, " d"]:
        """Return the step's vector from the weighted sum; the identity unless a rule adds noise."""
        del num_rows, gen
        return vector


class AbstractRobustCombiner(AbstractCombiner):
    """A combiner that gives every row one vote and bears some that lie.

    Attributes:
        f: How many rows may lie; None if the rule takes as many as so many rows allow.
    """

    f: int | None

    def tolerated(self, num_rows: int) -> int:
        """Return how many of so many rows may be dead: f, or a minority."""
        return (num_rows - 1) // 2 if self.f is None else self.f


class AbstractGramCombiner(AbstractRobustCombiner):
    """A combiner whose result is a weighted sum of the rows; the weights follow from inner products."""

    evidence: ClassVar[Evidence] = Evidence.GRAM

    def reference(self, state: State) -> Float[Tensor, " d"] | None:
        """Return a vector that takes part as the last point without being a row, such as the previous result."""
        del state
        return None

    @abstractmethod
    def weights(self, points: Geometry, state: State) -> tuple[Float64[Tensor, " m"], State]:
        """Return one weight per point; dead points get zero.

        Args:
            points: The rows as they come out of the pre-aggregators, then the reference if there is one.
            state: The state of the previous step.
        """

    def learn(self, vector: Float[Tensor, " d"], state: State) -> State:
        """Return the state for the next step, given the combined vector; a rule that keeps the vector clones it."""
        del vector
        return state


class AbstractMixedCombiner(AbstractRobustCombiner):
    """A combiner that chooses mixtures of the rows by inner products and takes a statistic of their columns."""

    evidence: ClassVar[Evidence] = Evidence.GRAM

    @abstractmethod
    def mixing(self, points: Geometry) -> Float64[Tensor, "l m"]:
        """Return the mixtures; dead points get zero."""

    @abstractmethod
    def statistic(self, num_rows: int) -> Statistic:
        """Return the statistic that is taken of every column of the mixtures of so many rows."""


class AbstractOrderCombiner(AbstractRobustCombiner):
    """A combiner whose result is a statistic of every column."""

    evidence: ClassVar[Evidence] = Evidence.ROWS

    @abstractmethod
    def statistic(self, num_rows: int) -> Statistic:
        """Return the statistic that is taken of every column of so many rows."""


class AbstractRowCombiner(AbstractRobustCombiner):
    """A combiner that must see the rows in another way."""

    evidence: ClassVar[Evidence] = Evidence.ROWS

    @abstractmethod
    def combine(
        self, rows: RowView, alive: Bool[Tensor, " n"], gen: torch.Generator, state: State
    ) -> tuple[Float[Tensor, " d"], State]:
        """Return the combined vector and the next state; dead rows take no part."""


class AbstractPreAggregator(Checked, ABC):
    """Replaces rows by mixtures of them before a rule sees them."""

    def check(self, num_rows: int) -> None:
        """Raise `Misuse` if the pre-aggregator is not defined for so many rows."""

    def output_rows(self, num_rows: int) -> int:
        """Return how many rows come out of so many; as many unless a class says otherwise."""
        return num_rows

    def tolerated(self, num_rows: int) -> int:
        """Return how many of so many rows may be dead; any number unless a class says otherwise."""
        return num_rows

    @abstractmethod
    def mix(self, points: Geometry, gen: torch.Generator) -> Float64[Tensor, "l m"]:
        """Return the mixtures that replace the points; dead points get zero, a row of zeros is a dead mixture."""
