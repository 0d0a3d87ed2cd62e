"""From scores to a few suspects: what stands out in its class, which class stands out among all, and who agrees.

    z(x)  = (s(x) - median) / (1.4826 MAD)          of each detector, inside each class
    T(c)  = the `few`-th largest z of the class, at least 1: its tail; a group of poisons moves it, one odd image not
    A(c)  = (log T(c) - median) / max(1.4826 MAD, floor)    over the classes
    class c stands out          if the mean of A(c) over the detectors is above `gate`
    a detector votes for x      if log z(x) > median + `reach` max(1.4826 MAD, floor)    of the log T(c)
    x is suspected              if its class stands out and at least `quorum` of the detectors vote for it; the `most`
                                rows of the class that stands out most

The classes are each other's yardstick, so that neither the law of the scores nor the share of poisons need be known.
What it takes for granted: most classes are clean, and most rows of each class are. Healing wants precision more than
recall, so one class is taken and a few rows of it.

Paper    medians and MADs over classes as in Neural Cleanse: Wang, Yao, Shan, Li, Viswanath, Zheng, Zhao (IEEE S&P
         2019), section IV. The rest is our own.
Shapes   n examples, k classes that are large enough to be judged, j detectors.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from mithridate.core.errors import Misuse
from mithridate.core.params import Checked, In, param
from mithridate.detection._base import LEAST, finite_or_refuse

_TO_SIGMA = 1.4826
_LEAST_TAIL = 1.0
FLOOR = 0.15
"""Tails of classes that differ by less than this, as logarithms, count as equal."""

LEAST_CLASSES = 4
"""With fewer classes than this there is no telling which of them stands out."""


@dataclass(frozen=True, kw_only=True)
class Jury(Checked):
    """How scores become suspects."""

    gate: float = param(2.5, within=In(0, 1000), doc="mean anomaly above which a class stands out")
    reach: float = param(2.0, within=In(0, 1000), doc="anomaly above which a row gets a detector's vote")
    quorum: float = param(0.5, within=In(0, 1, open_lo=True), doc="share of the detectors that must vote for a row")
    few: int = param(3, within=In(1, 1000), doc="rows that a group of poisons has at least")
    most: int = param(10, within=In(1, 1_000_000), doc="rows that are suspected at most")


@dataclass(frozen=True, kw_only=True, eq=False)
class Ballot:
    """What the jury saw and decided.

    Args:
        deviations: For each detector, how far above the median of its class each row is, in robust standard deviations.
        thresholds: For each detector, the deviation above which it votes for a row.
        anomalies: For each class that was judged, the anomaly that each detector saw in it.
        votes: How many detectors vote for each row.
        rank: The place of each row, 1 for the most suspicious: by votes, then by deviations in units of the thresholds.
        suspect: Which rows are suspected.
        skipped: Classes with too few rows to be judged.
    """

    deviations: Mapping[str, Float64[Tensor, " n"]]
    thresholds: Mapping[str, float]
    anomalies: Mapping[int, Mapping[str, float]]
    votes: Int64[Tensor, " n"]
    rank: Int64[Tensor, " n"]
    suspect: Bool[Tensor, " n"]
    skipped: tuple[int, ...]

    @property
    def decided(self) -> bool:
        """Whether there were enough classes to compare."""
        return len(self.anomalies) >= LEAST_CLASSES

    def mean_anomaly(self, label: int) -> float:
        """Return the mean over the detectors of the anomaly of a class."""
        return math.fsum(self.anomalies[label].values()) / len(self.anomalies[label])

    @property
    def leading(self) -> int | None:
        """The class that stands out most, None if no class could be judged."""
        return max(self.anomalies, key=self.mean_anomaly, default=None)


def vote(scores: Mapping[str, Float64[Tensor, " n"]], labels: Int64[Tensor, " n"], jury: Jury | None = None) -> Ballot:
    """Let the detectors vote.

    Args:
        scores: What each detector gave each row.
        labels: The classes of the rows.
        jury: How they vote.

    Raises:
        Misuse: MTH-0864 without detectors, MTH-0866 for a score that is no number.
    """
    jury = jury or Jury()
    if not scores:
        raise Misuse("MTH-0864", f"{len(labels)} rows and no detector: there is nothing to vote with")
    checked = {name: finite_or_refuse(name, values) for name, values in scores.items()}
    counts = {label: int((labels == label).sum()) for label in sorted(set(labels.tolist()))}
    judged = [label for label, count in counts.items() if count >= max(LEAST, jury.few)]
    deviations = {name: _deviations(values, labels, judged) for name, values in checked.items()}
    thresholds, anomalies = {}, {label: dict[str, float]() for label in judged}
    votes, strength = torch.zeros(len(labels), dtype=torch.int64), torch.zeros(len(labels), dtype=torch.float64)
    for name, z in deviations.items():
        tails = [max(float(z[labels == label].topk(jury.few).values[-1]), _LEAST_TAIL) for label in judged]
        middle, spread = yardstick([math.log(tail) for tail in tails])
        thresholds[name] = math.exp(middle + jury.reach * spread)
        for label, tail in zip(judged, tails, strict=True):
            anomalies[label][name] = (math.log(tail) - middle) / spread
        votes += z > thresholds[name]
        strength += (z / thresholds[name]).clamp(0, 3)
    order = _order(votes, strength)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(1, len(order) + 1)
    ballot = Ballot(
        deviations=deviations,
        thresholds=thresholds,
        anomalies=anomalies,
        votes=votes,
        rank=rank,
        suspect=torch.zeros(len(labels), dtype=torch.bool),
        skipped=tuple(label for label in counts if label not in anomalies),
    )
    leading = ballot.leading
    if ballot.decided and leading is not None and ballot.mean_anomaly(leading) > jury.gate:
        enough = math.ceil(jury.quorum * len(scores) - 1e-9)
        chosen = order[((votes >= enough) & (labels == leading))[order]][: jury.most]
        ballot.suspect[chosen] = True
    return ballot


def yardstick(logs: list[float]) -> tuple[float, float]:
    """Return the median and the robust standard deviation, not below `FLOOR`, of the log tails of the classes."""
    if not logs:
        return 0.0, FLOOR
    values = torch.tensor(logs, dtype=torch.float64)
    middle = float(values.quantile(0.5))
    return middle, max(_TO_SIGMA * float((values - middle).abs().quantile(0.5)), FLOOR)


def robust(values: Float64[Tensor, " m"]) -> Float64[Tensor, " m"]:
    """Return the deviations from the median in robust standard deviations.

    Where more than half of the values are equal, the standard deviation stands in for the MAD; where all are, the deviations
    are zero.
    """
    centred = values - _median(values)
    spread = _TO_SIGMA * _median(centred.abs())
    if float(spread) <= 1e-9 * float(centred.abs().max()):
        spread = values.std()
    return centred / spread if float(spread) > 0 else torch.zeros_like(values)


def _median(values: Float64[Tensor, " m"]) -> Float64[Tensor, ""]:
    """Return the median, the mean of the two middle values for an even number; `quantile` has a limit on its input."""
    ordered = values.sort().values
    return (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) / 2


def _deviations(values: Float64[Tensor, " n"], labels: Int64[Tensor, " n"], judged: list[int]) -> Float64[Tensor, " n"]:
    found = torch.zeros_like(values)
    for label in judged:
        rows = labels == label
        found[rows] = robust(values[rows])
    return found


def _order(votes: Int64[Tensor, " n"], strength: Float64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """Return the rows from the most suspicious on: by votes, then by strength, then by their place."""
    by_strength = strength.argsort(descending=True, stable=True)
    return by_strength[votes[by_strength].argsort(descending=True, stable=True)]
