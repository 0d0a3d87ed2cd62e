"""The search for the first candidate under which the suspects are forgotten, and no further.

    stop at the first t with  acc(suspects) <= rho a_0

A step is passed as soon as more suspects than rho a_0 n are seen to be predicted as before, so most steps look at a
fifth of the suspects and at no other; the step that is found has looked at all of them. Where the guard says no, the
model goes back to the last candidate within budget.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mithridate.core.pool import Tell
from mithridate.data.examples import Examples
from mithridate.unlearning._dampening import DampeningPath
from mithridate.unlearning._frame import Watch

_AT_ONCE = 256
_RESIDENT = 1 << 24
_GUARD_EVERY = 10


class SuspectView:
    """The suspects before a model: how many are still predicted as they were found.

    Args:
        model: The network, in evaluation mode; looked at as it is when asked.
        suspects: The samples.
    """

    def __init__(self, model: nn.Module, suspects: Examples) -> None:
        self._model = model
        self._suspects = suspects
        self._labels = suspects.labels
        self._pixels: Tensor | None = None
        channels, height, width = suspects.images.shape
        if len(suspects) * channels * height * width <= _RESIDENT:
            self._pixels = self._gather(torch.arange(len(suspects)))
        self._order = list(range(len(suspects)))

    def _gather(self, ids: Tensor) -> Float[Tensor, "b c h w"]:
        x = self._suspects.images.gather(ids).to(torch.float32).div_(255)
        return x.contiguous(memory_format=torch.channels_last)

    def _hits(self, ids: list[int]) -> list[bool]:
        found: list[bool] = []
        with torch.no_grad():
            for start in range(0, len(ids), _AT_ONCE):
                rows = torch.tensor(ids[start : start + _AT_ONCE])
                x = self._gather(rows) if self._pixels is None else self._pixels[rows.to(self._pixels.device)]
                logits = self._model(x)
                hit: Bool[Tensor, " b"] = logits.argmax(1) == self._labels[rows.to(self._labels.device)]
                found += (hit & ~logits.isnan().any(1)).tolist()
        return found

    def hits(self) -> list[bool]:
        """Return for each suspect whether it is predicted as it was found."""
        return self._hits(list(range(len(self._suspects))))

    def at_most(self, count: float) -> bool:
        """Tell whether no more than so many suspects are predicted as found, looking at no more than that takes."""
        hits: list[int] = []
        misses: list[int] = []
        queue = self._order
        while queue and len(hits) <= count:
            wanted = int(count) + 1 - len(hits)
            part, queue = queue[:wanted], queue[wanted:]
            for row, hit in zip(part, self._hits(part), strict=True):
                (hits if hit else misses).append(row)
        self._order = hits + queue + misses
        return len(hits) <= count


@dataclass(frozen=True, kw_only=True)
class Rule:
    """When and how to stop."""

    rho: float
    max_tries: int
    walk: bool


@dataclass(kw_only=True)
class Trail:
    """Where a search is; all that it needs to go on.

    Args:
        step: The steps before this one do not meet the rule, as far as was looked.
        within: A step within the guard's budget, -1 for the given model.
        found: The step that meets the rule.
        violated: A step that is not within budget.
        reach: Where bisection looks next, and once `bracketed`, a step that meets the rule.
        evaluated: How many candidates were looked at.
    """

    step: int = 0
    within: int = -1
    found: int | None = None
    violated: int | None = None
    reach: int = 15
    bracketed: bool = False
    evaluated: int = 0

    def numbers(self) -> list[int]:
        """Return what a resumed search begins with."""
        return [self.step, self.within, self.reach, int(self.bracketed), self.evaluated]

    @classmethod
    def of(cls, numbers: list[int]) -> "Trail":
        """Return the trail that `numbers` describes."""
        step, within, reach, bracketed, evaluated = numbers
        return cls(step=step, within=within, reach=reach, bracketed=bool(bracketed), evaluated=evaluated)


def search(
    path: DampeningPath,
    view: SuspectView,
    rule: Rule,
    allows: Callable[[], bool],
    *,
    trail: Trail,
    tell: Tell,
    keep: Callable[[Trail], None],
) -> Trail:
    """Find the step to stop at; the model is left at some candidate.

    Args:
        path: The candidates.
        view: The suspects before the path's model.
        rule: When to stop.
        allows: Tells whether the model is within the guard's budget as it is now.
        trail: Where to begin.
        tell: Told the step, and the share of the steps that may be taken.
        keep: Given the trail after every step.

    Returns:
        `found`, the step that meets the rule, if one does within the tries and the budget was not seen to be exceeded
        before; `violated`, the step at which it was.
    """
    path.go(None)
    limit = rule.rho * sum(view.hits())
    if rule.walk:
        _walk(path, view, rule, allows, limit, trail, tell, keep)
    else:
        _bisect(path, view, rule, limit, trail, tell, keep)
    if trail.found is not None:
        path.go(trail.found)
        if allows():
            trail.within = trail.found
        else:
            trail.violated = trail.found
    return trail


def _walk(
    path: DampeningPath,
    view: SuspectView,
    rule: Rule,
    allows: Callable[[], bool],
    limit: float,
    trail: Trail,
    tell: Tell,
    keep: Callable[[Trail], None],
) -> None:
    seen = 0  # the size of the candidate that was looked at last
    guarded = 0
    while trail.step < rule.max_tries:
        step = trail.step
        threshold = path.threshold(step)
        if threshold.count != seen:
            path.go(step)
            seen = threshold.count
            trail.evaluated += 1
            if view.at_most(limit):
                trail.found = step
                return
        if step % _GUARD_EVERY == _GUARD_EVERY - 1 and threshold.count != guarded:
            guarded = threshold.count
            if not allows():
                trail.violated = step
                return
            trail.within = step
        trail.step += 1
        tell({"what": "search", "done": trail.step / rule.max_tries, "step": trail.step})
        keep(trail)


def _bisect(
    path: DampeningPath,
    view: SuspectView,
    rule: Rule,
    limit: float,
    trail: Trail,
    tell: Tell,
    keep: Callable[[Trail], None],
) -> None:
    """Find a step that meets the rule after one that does not: the first one, if accuracy never rises on the path."""

    def met(step: int) -> bool:
        path.go(step)
        trail.evaluated += 1
        tell({"what": "search", "step": step})
        return view.at_most(limit)

    last = rule.max_tries - 1
    trail.reach = min(trail.reach, last)
    while not trail.bracketed:
        if met(trail.reach):
            trail.bracketed = True
        else:
            trail.step = trail.reach + 1
            if trail.reach == last:
                return
            trail.reach = min(2 * trail.reach + 1, last)
        keep(trail)
    while trail.reach > trail.step:
        middle = (trail.step - 1 + trail.reach) // 2
        if met(middle):
            trail.reach = middle
        else:
            trail.step = middle + 1
        keep(trail)
    trail.found = trail.reach


def retreat(path: DampeningPath, watch: Watch, model: nn.Module, trail: Trail) -> int | None:
    """Go back to a step within the guard's budget whose successor is not; None is the model that was given."""
    assert trail.violated is not None
    low, high = trail.within, trail.violated
    while high - low > 1:
        middle = (low + high) // 2
        path.go(middle)
        low, high = (middle, high) if watch.allows(model) else (low, middle)
    path.go(low if low >= 0 else None)
    return low if low >= 0 else None
