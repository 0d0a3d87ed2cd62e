"""Transplant: does what a part of a class has in common turn images of other classes into it?

    w(x)     = S^(-1/2) (r(x) - mean of its class)         S the covariance inside classes, shared by all of them
    group    = the smaller of two clusters of the w(x) of a class, the best separated of several starts
    d(c)     = reach |typical|  u / |u|,   u = mean image of the group - mean image of the other classes
    moved(c) = share of images of other classes, x + d(c), clipped, that the network sees as c
    class c is convicted        if moved(c) >= least and moved(c) >= ratio times that of any other class

|typical| is the median over classes of |mean image of the class - mean image of the others|. Most classes have several
kinds of images, so that two clusters prove nothing, and the votes of `votes` look at tails, which a sixth of a class is
not. But the images of a poisoned group are of many classes: what they have in common is the trigger, and a little of it
moves the network, where as much of what a kind of nines has in common does not.

Paper    clusters under a shared covariance as in SCAn: Tang, Wang, Tang, Zhang (USENIX Security 2021), arXiv
         1908.00686; the transplant is our own.
Promise  sees triggers that are added to images everywhere (Blended). One that replaces a few pixels is drowned by what
         else is in the mean; the votes see it. Neither sees a trigger that is another one for each image.
Needs    the network, for some hundred images a class.
Shapes   m rows of a class, e features, c channels, h rows, w columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from mithridate.core.params import Checked, In, param
from mithridate.core.seeds import address
from mithridate.detection._base import LEAST, ScanInput
from mithridate.detection.extract import frozen, unit_batches
from mithridate.numerics.rng import generator

_RIDGE = 1e-3
_STEPS = 50
_DIRECTIONS = 3
_START = 0.2
_FLOOR = 0.04


@dataclass(frozen=True, kw_only=True)
class Transplant(Checked):
    """How a class is tried."""

    reach: float = param(0.6, within=In(0, 100, open_lo=True), doc="length of what is added, in typical lengths")
    images: int = param(200, within=In(1, 1_000_000), doc="images of other classes that it is added to")
    least: float = param(0.15, within=In(0, 1), doc="share of them that must be moved")
    ratio: float = param(2.5, within=In(1, 1000), doc="how many times more than for any other class")
    few: int = param(3, within=In(1, 1000), doc="rows of the smallest group")
    most: int = param(20, within=In(1, 1_000_000), doc="rows that are suspected at most")


@dataclass(frozen=True, kw_only=True, eq=False)
class Trials:
    """What came of it.

    Args:
        moved: For each class that was tried, the share of images of other classes that was moved there.
        groups: The rows of its smaller cluster.
        convicted: The class that stands out by it, if one does.
        most: How many rows of its group are suspected at most.
    """

    moved: Mapping[int, float]
    groups: Mapping[int, Int64[Tensor, " g"]]
    convicted: int | None
    most: int = 20

    def suspects(self, scores: Mapping[str, Float64[Tensor, " n"]]) -> Int64[Tensor, " s"]:
        """Return rows of the convicted class's group, those first that the detectors rank highest inside it."""
        if self.convicted is None:
            return torch.empty(0, dtype=torch.int64)
        rows = self.groups[self.convicted]
        places = torch.zeros(len(rows), dtype=torch.int64)
        for values in scores.values():
            places += values[rows].argsort(stable=True).argsort()
        return rows[places.argsort(descending=True, stable=True)[: self.most]]


def transplant(
    given: ScanInput,
    scores: Mapping[str, Float64[Tensor, " n"]],
    how: Transplant | None = None,
    *,
    seed: int = 0,
) -> Trials:
    """Try every class that is large enough.

    Args:
        given: What the network makes of the examples.
        scores: What detectors gave each row: where clusters are looked for first.
        how: How it is done.
        seed: Which images of other classes are taken.
    """
    how = how or Transplant()
    judged = [label for label in given.present if len(given.rows_of(label)) >= max(LEAST, 2 * how.few)]
    groups: dict[int, Int64[Tensor, " g"]] = {}
    whitened = _whitened(given, judged)
    for label in judged:
        rows = given.rows_of(label)
        small = _smaller(whitened[rows], [values[rows] for values in scores.values()], how.few)
        if small is not None:
            groups[label] = rows[small]
    sums, counts = _sums(given)
    total, number = sum(sums.values()), len(given)
    away = {k: sums[k] / counts[k] - (total - sums[k]) / max(1, number - counts[k]) for k in judged}
    lengths = sorted(float(part.norm()) for part in away.values())
    typical = lengths[len(lengths) // 2] if lengths else 0.0
    moved = {}
    for done, (label, rows) in enumerate(groups.items(), start=1):
        others = (total - sums[label]) / max(1, number - counts[label])
        common = _mean(given, rows) - others
        added = common / common.norm().clamp(min=1e-12) * (how.reach * typical)
        moved[label] = _moved(given, label, added.float(), how.images, seed)
        given.progress({"done": done / len(groups)})
    return Trials(moved=moved, groups=groups, convicted=_convicted(moved, how), most=how.most)


def _convicted(moved: Mapping[int, float], how: Transplant) -> int | None:
    ordered = sorted(moved, key=lambda label: -moved[label])
    if len(ordered) < 2 or moved[ordered[0]] < how.least:
        return None
    return ordered[0] if moved[ordered[0]] >= how.ratio * max(moved[ordered[1]], _FLOOR) else None


def _whitened(given: ScanInput, judged: list[int]) -> Float64[Tensor, "n e"]:
    """Return the features about the means of their classes, in coordinates in which classes are as wide everywhere."""
    centred = given.features.double().clone()
    for label in judged:
        rows = given.rows_of(label)
        centred[rows] -= centred[rows].mean(0)
    used = torch.cat([given.rows_of(label) for label in judged]) if judged else torch.empty(0, dtype=torch.int64)
    spread = centred[used].T @ centred[used] / max(1, len(used))
    values, vectors = torch.linalg.eigh(spread)
    ridge = _RIDGE * float(values.clamp(min=0).mean()) + 1e-300
    mapped: Tensor = (centred @ vectors) / (values.clamp(min=0) + ridge).sqrt()
    return mapped


def _smaller(
    points: Float64[Tensor, "m e"], scores: list[Float64[Tensor, " m"]], few: int
) -> Bool[Tensor, " m"] | None:
    """Return the smaller of two clusters, None if there are no two of at least `few` rows."""
    vectors = torch.linalg.eigh(points.T @ points).eigenvectors.flip(1)[:, :_DIRECTIONS]
    along = points @ vectors
    best, found = -1.0, None
    for start in (*scores, *along.T, *(-along.T)):
        here = torch.zeros(len(points), dtype=torch.bool)
        here[start.argsort(descending=True, stable=True)[: max(few, round(_START * len(points)))]] = True
        for _ in range(_STEPS):
            if not bool(here.any()) or bool(here.all()):
                break
            one, two = points[here].mean(0), points[~here].mean(0)
            now = (points - one).square().sum(1) < (points - two).square().sum(1)
            if torch.equal(now, here):
                break
            here = now
        count = int(here.sum())
        if min(count, len(points) - count) < few:
            continue
        apart = points[here].mean(0) - points[~here].mean(0)
        between = count * (len(points) - count) / len(points) * float(apart.square().sum())
        if between > best:
            best, found = between, here if 2 * count <= len(points) else ~here
    return found


def _sums(given: ScanInput) -> tuple[dict[int, Float64[Tensor, "c h w"]], dict[int, int]]:
    """Return the sum of the images of each class, and how many there are."""
    shape = given.examples.images.shape
    sums = {label: torch.zeros(shape, dtype=torch.float64) for label in given.present}
    for start, x in unit_batches(given.examples, given.batch, torch.device("cpu")):
        labels = given.labels[start : start + len(x)]
        for label in set(labels.tolist()):
            sums[label] += x[labels == label].double().sum(0)
    return sums, {label: len(given.rows_of(label)) for label in given.present}


def _mean(given: ScanInput, rows: Int64[Tensor, " g"]) -> Float64[Tensor, "c h w"]:
    total = torch.zeros(given.examples.images.shape, dtype=torch.float64)
    for _, x in unit_batches(given.examples, given.batch, torch.device("cpu"), rows):
        total += x.double().sum(0)
    return total / len(rows)


def _moved(given: ScanInput, label: int, added: Float32[Tensor, "c h w"], images: int, seed: int) -> float:
    """Return the share of images of other classes, not seen as this one, that are seen as it with the addition."""
    rows = ((given.labels != label) & (given.logits.argmax(1) != label)).nonzero().squeeze(1)
    if not len(rows):
        return 0.0
    order = torch.randperm(len(rows), generator=generator(address(seed, "transplant"), label))
    rows, hits = rows[order[:images]], 0
    with frozen(given.model) as place:
        for _, x in unit_batches(given.examples, given.batch, place, rows):
            hits += int((given.model((x + added.to(place)).clamp(0, 1)).argmax(1) == label).sum())
    return hits / len(rows)
