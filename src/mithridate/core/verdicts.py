"""Gates and verdicts with three values: an interval may clear a threshold, miss it, or say nothing yet."""

import enum
import math
import re
from dataclasses import dataclass

from mithridate.core.errors import ExitCode, Misuse
from mithridate.core.intervals import Interval, Rate, wilson_bounds
from mithridate.core.registry import closest

METRICS = ("asr", "clean_accuracy", "accuracy_drop")
"""What a gate may compare: attack success rate, clean accuracy, and the accuracy that the attack or defense costs."""

_GATE = re.compile(r"\s*(?P<metric>\w+)\s*(?P<relation><=|>=|<|>)\s*(?P<threshold>[0-9.eE+-]+)\s*(?P<percent>%?)\s*")
_MOST_TRIALS = 10_000_000


class Status(enum.StrEnum):
    """The three outcomes of a gate or a verdict."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


_EXIT = {Status.PASS: ExitCode.PASS, Status.FAIL: ExitCode.GATE_FAILED, Status.INCONCLUSIVE: ExitCode.INCONCLUSIVE}


@dataclass(frozen=True)
class Verdict:
    """What a verb found.

    Args:
        status: One of three.
        sentence: The verdict in one sentence, with its interval.
        reasons: What led to it, or what is missing for a decision.
    """

    status: Status
    sentence: str
    reasons: tuple[str, ...] = ()

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of the process."""
        return _EXIT[self.status]


@dataclass(frozen=True)
class Gate:
    """A condition on a metric, judged by the bound of its interval and not by its point.

    Args:
        metric: One of `METRICS`.
        relation: One of `<`, `<=`, `>`, `>=`.
        threshold: In [0, 1] for rates, in [-1, 1] for differences.
    """

    metric: str
    relation: str
    threshold: float

    @classmethod
    def parse(cls, text: str) -> "Gate":
        """Read a gate such as `asr<0.1`, `clean_accuracy>=93%` or `accuracy_drop <= 0.02`.

        Raises:
            Misuse: MTH-0733 when it is no gate, names an unknown metric, or its threshold is no rate.
        """
        match = _GATE.fullmatch(text)
        example = "write for example asr<0.1"
        if match is None:
            raise Misuse("MTH-0733", f"gate {text!r} is not METRIC, one of < <= > >=, and a number", hint=example)
        metric = match["metric"]
        if metric not in METRICS:
            near = closest(metric, METRICS)
            hint = f"did you mean {near!r}?" if near else f"metrics: {', '.join(METRICS)}"
            raise Misuse("MTH-0733", f"gate {text!r}: there is no metric {metric!r}", hint=hint)
        try:
            threshold = float(match["threshold"]) / (100 if match["percent"] else 1)
        except ValueError:
            raise Misuse("MTH-0733", f"gate {text!r}: {match['threshold']!r} is no number", hint=example) from None
        least = -1 if metric == "accuracy_drop" else 0
        if not least <= threshold <= 1:
            raise Misuse("MTH-0733", f"gate {text!r}: the threshold must be in [{least}, 1], got {threshold:g}")
        return cls(metric, match["relation"], threshold)

    def __str__(self) -> str:
        return f"{self.metric}{self.relation}{self.threshold:g}"

    def judge(self, value: Interval) -> Status:
        """Return pass if the whole interval satisfies the condition, fail if none of it does, else inconclusive."""
        ends = {self._holds(value.low), self._holds(value.high)}
        return Status.INCONCLUSIVE if len(ends) == 2 else Status.PASS if True in ends else Status.FAIL

    def trials_needed(self, rate: Rate, confidence: float = 0.95) -> int | None:
        """Return about how many trials in all would decide the gate if the rate stayed as it is.

        None when the rate lies so close to the threshold that no reasonable number would. Trials in clusters keep
        the worth that they had: new ones must be as independent as the old ones.
        """

        def decided(trials: float) -> bool:
            low, high = wilson_bounds(rate.point, trials, confidence)
            return self._holds(low) == self._holds(high)

        if not decided(_MOST_TRIALS):
            return None
        low, high = 0.0, float(_MOST_TRIALS)
        while high - low > 0.5:
            middle = (low + high) / 2
            low, high = (low, middle) if decided(middle) else (middle, high)
        return max(1, math.ceil(math.ceil(high) * rate.trials / rate.effective))

    def _holds(self, value: float) -> bool:
        match self.relation:
            case "<":
                return value < self.threshold
            case "<=":
                return value <= self.threshold
            case ">":
                return value > self.threshold
            case _:
                return value >= self.threshold
