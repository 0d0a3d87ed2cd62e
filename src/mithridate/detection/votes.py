"""From scores to a few suspects: what stands out in its class, which class stands out among all, and who agrees.

    z(x)  = (s(x) - median) / (1.4826 MAD)          of each detector, inside each class
    T(c)  = the `few`-th largest z of the class, at least 1: its tail; a group of poisons moves it, one odd image not
            (`few` in the class of middle size, and the same share, but no fewer, in others)
    A(c)  = (log T(c) - median) / max(1.4826 MAD, floor)    over the classes, and the mean of it over the detectors
    class c stands out          if A(c) is above `gate` max(1, sqrt(4 / j))
    a detector votes for x      if log z(x) > median + `reach` max(1.4826 MAD, floor)    of the log T(c)
    x is suspected              if its class stands out most, and at least `quorum` of the detectors, and two of them,
                                vote for it; at most `most` rows

With `largest` tails are also taken further in, at shares of the class that grow by sqrt(2) up to it, and A(c) is the
largest mean of two neighbours. That sees groups whose strength is their number; but what is large in a class is often
natural: a perceptron on digits has two kinds of nines. On digits it found few more poisons and accused clean models.

The classes are each other's yardstick, so that neither the law of the scores nor the share of poisons need be known.
What it takes for granted: most classes are clean, and most rows of each class are. Healing wants precision more than
recall, so one class is taken and a few rows of it.

False alarms with four detectors of pure noise: 0 of 200, for 4, 6, 10 and 20 classes. Detectors that look at the same
features are not independent, and real classes have populations of their own: benchmarks/detection.py measures what
becomes of that on digits.

Paper    medians and MADs over classes as in Neural Cleanse: Wang, Yao, Shan, Li, Viswanath, Zheng, Zhao (IEEE S&P
         2019), section IV. The rest is our own.
Shapes   n examples, k classes that are large enough to be judged, j detectors.
"""

import itertools
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
_PANEL = 4
FLOOR = 0.15
"""Tails of classes that differ by less than this, as logarithms, count as equal."""

LEAST_CLASSES = 4
"""With fewer classes than this there is no telling which of them stands out."""


@dataclass(frozen=True, kw_only=True)
class Jury(Checked):
    """How scores become suspects."""

    gate: float = param(2.25, within=In(0, 1000), doc="mean anomaly of four detectors above which a class stands out")
    reach: float = param(2.0, within=In(0, 1000), doc="anomaly above which a row gets a detector's vote")
    quorum: float = param(0.5, within=In(0, 1, open_lo=True), doc="share of the detectors that must vote for a row")
    few: int = param(3, within=In(1, 1000), doc="rows that the smallest group of poisons has")
    largest: float = param(0.0, within=In(0, 0.5), doc="largest share of a class at which its tail is taken as well")
    most: int = param(20, within=In(1, 1_000_000), doc="rows that are suspected at most")

    def gate_for(self, detectors: int) -> float:
        """Return the gate for the mean of so many detectors: the fewer there are, the more that mean scatters."""
        return self.gate * max(1.0, math.sqrt(_PANEL / detectors))


@dataclass(frozen=True, kw_only=True, eq=False)
class Ballot:
    """What the jury saw and decided.

    Args:
        deviations: For each detector, how far above the median of its class each row is, in robust standard deviations.
        thresholds: For each detector, the deviation above which it votes for a row.
        anomalies: For each class that was judged, how far it stands out.
        votes: How many detectors vote for each row.
        rank: The place of each row, 1 for the most suspicious: by votes, then by deviations in units of the thresholds.
        suspect: Which rows are suspected.
        skipped: Classes with too few rows to be judged.
    """

    deviations: Mapping[str, Float64[Tensor, " n"]]
    thresholds: Mapping[str, float]
    anomalies: Mapping[int, float]
    votes: Int64[Tensor, " n"]
    rank: Int64[Tensor, " n"]
    suspect: Bool[Tensor, " n"]
    skipped: tuple[int, ...]

    @property
    def decided(self) -> bool:
        """Whether there were enough classes to compare."""
        return len(self.anomalies) >= LEAST_CLASSES

    @property
    def leading(self) -> int | None:
        """The class that stands out most, None if no class could be judged."""
        return max(self.anomalies, key=self.anomalies.__getitem__, default=None)


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
    panel = _Panel(deviations, labels, judged, jury)
    leading, share = panel.leading()
    thresholds = panel.thresholds(share)
    votes, strength = torch.zeros(len(labels), dtype=torch.int64), torch.zeros(len(labels), dtype=torch.float64)
    for name, z in deviations.items():
        votes += z > thresholds[name]
        strength += (z / thresholds[name]).clamp(0, 3)
    order = _order(votes, strength)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(1, len(order) + 1)
    ballot = Ballot(
        deviations=deviations,
        thresholds=thresholds,
        anomalies=panel.anomalies(),
        votes=votes,
        rank=rank,
        suspect=torch.zeros(len(labels), dtype=torch.bool),
        skipped=tuple(label for label in counts if label not in judged),
    )
    if ballot.decided and leading is not None and ballot.anomalies[leading] > jury.gate_for(len(scores)):
        enough = max(min(2, len(scores)), math.ceil(jury.quorum * len(scores) - 1e-9))
        chosen = order[((votes >= enough) & (labels == leading))[order]][: jury.most]
        ballot.suspect[chosen] = True
    return ballot


class _Panel:
    """The log tails of the judged classes by share and detector, and what they amount to."""

    def __init__(
        self,
        deviations: Mapping[str, Float64[Tensor, " n"]],
        labels: Int64[Tensor, " n"],
        judged: list[int],
        jury: Jury,
    ) -> None:
        ordered = {
            (name, label): z[labels == label].sort(descending=True).values
            for name, z in deviations.items()
            for label in judged
        }
        sizes = [int((labels == label).sum()) for label in judged]
        self.judged, self.names, self.reach = judged, tuple(deviations), jury.reach
        self.shares = shares(sizes, jury.few, jury.largest)
        self.middles: dict[tuple[int, str], tuple[float, float]] = {}
        self.means: list[dict[int, float]] = []
        for step, share in enumerate(self.shares):
            found = dict.fromkeys(judged, 0.0)
            for name in self.names:
                logs = [
                    math.log(max(float(ordered[name, label][max(jury.few, round(share * size)) - 1]), _LEAST_TAIL))
                    for label, size in zip(judged, sizes, strict=True)
                ]
                middle, spread = self.middles[step, name] = yardstick(logs)
                for label, log in zip(judged, logs, strict=True):
                    found[label] += (log - middle) / spread / len(self.names)
            self.means.append(found)

    def _pairs(self, label: int) -> list[float]:
        """Return the anomalies of a class, averaged over neighbouring shares; a lone share stands for itself."""
        found = [step[label] for step in self.means]
        return [(a + b) / 2 for a, b in itertools.pairwise(found)] or found

    def anomalies(self) -> dict[int, float]:
        """Return how far each class stands out."""
        return {label: max(self._pairs(label)) for label in self.judged}

    def leading(self) -> tuple[int | None, int]:
        """Return the class that stands out most, and the step of the shares at which it does."""
        found = self.anomalies()
        label = max(found, key=found.__getitem__, default=None)
        if label is None:
            return None, 0
        pairs = self._pairs(label)
        return label, pairs.index(max(pairs))

    def thresholds(self, step: int) -> dict[str, float]:
        """Return the deviation above which each detector votes for a row."""
        if not self.judged:
            return dict.fromkeys(self.names, math.inf)
        return {
            name: math.exp(middle + self.reach * spread)
            for name in self.names
            for middle, spread in [self.middles[step, name]]
        }


def shares(sizes: list[int], few: int, largest: float) -> list[float]:
    """Return the shares at which tails are taken: `few` rows of the middle class, then sqrt(2) times more each."""
    if not sizes:
        return []
    share = few / sorted(sizes)[len(sizes) // 2]
    found = [share]
    while (share := math.sqrt(2) * share) <= largest:
        found.append(share)
    return found


def yardstick(logs: list[float]) -> tuple[float, float]:
    """Return the median and the robust standard deviation, not below `FLOOR`, of the log tails of the classes."""
    if not logs:
        return 0.0, FLOOR
    values = torch.tensor(logs, dtype=torch.float64)
    middle = float(values.quantile(0.5))
    return middle, max(_TO_SIGMA * float((values - middle).abs().quantile(0.5)), FLOOR)


def robust(values: Float64[Tensor, " m"]) -> Float64[Tensor, " m"]:
    """Return the deviations from the median in robust standard deviations.

    Where more than half of the values are equal, the standard deviation stands in for the MAD; where all are, the
    deviations are zero.
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
