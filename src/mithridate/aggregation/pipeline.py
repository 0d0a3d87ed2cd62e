"""Pre-aggregators before a rule, as one combiner.

    rule(pre_k(... pre_1(rows)))

The mixtures are matrices and are multiplied; rows are only mixed for rules that look at columns, chunk by chunk.
"""

from dataclasses import dataclass

from mithridate.aggregation._base import AbstractCombiner, AbstractPreAggregator, Evidence, State


@dataclass(frozen=True, kw_only=True)
class Pipeline(AbstractCombiner):
    """A rule behind pre-aggregators, the first of which sees the rows.

    Attributes:
        pre: The pre-aggregators.
        rule: Any kind of rule; it keeps its own f.
    """

    pre: tuple[AbstractPreAggregator, ...]
    rule: AbstractCombiner

    @property
    def evidence(self) -> Evidence:  # type: ignore[override]
        """The Gram matrix at least."""
        return max(self.rule.evidence, Evidence.GRAM) if self.pre else self.rule.evidence

    def check(self, num_rows: int) -> None:
        """Raise `Misuse` unless every stage is defined for the number of rows that reaches it."""
        for stage in self.pre:
            stage.check(num_rows)
            num_rows = stage.output_rows(num_rows)
        self.rule.check(num_rows)

    def tolerated(self, num_rows: int) -> int:
        """Return what every stage bears and the rule: no pre-aggregator makes two dead rows of one."""
        allowed = num_rows
        for stage in self.pre:
            allowed = min(allowed, stage.tolerated(num_rows))
            num_rows = stage.output_rows(num_rows)
        return min(allowed, self.rule.tolerated(num_rows))

    def init(self) -> State:
        """Return the rule's state."""
        return self.rule.init()
