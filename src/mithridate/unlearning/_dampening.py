"""Selective synaptic dampening, and the nested family of dampened models that a falling threshold runs through.

    selected  I_F > alpha I_D,      theta <- theta min((lambda I_D / I_F), 1)

    ratio r = I_F / I_D,  alpha_t = percentile of the finite ratios at  b_t = 100 - ln(1 + 100 q_t),  q_t = q_0 s^t

With lambda = 1 the shrunken value of an entry does not depend on the threshold, and the selected sets grow with t. So
one sort of the ratios holds every candidate: candidate t has the first K_t entries shrunken, and to go from one to
another only the entries between are written.

Paper    Foster et al., Selective Synaptic Dampening (AAAI 2024); Schoepf et al., Adaptive SSD (2024), for the
         percentile; Schoepf et al., Potion (2024), for the search.
Promise  the selected sets of the search that starts anew at every step; ratios are single precision, thresholds double.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray
from torch import Tensor, nn

from mithridate.numerics.importance import Importance

_CHUNK = 1 << 22
_SAMPLE = 1 << 13


@dataclass(frozen=True)
class Threshold:
    """One step of the search: the percentile b, its value alpha among the ratios, and how many entries lie above it."""

    percentile: float
    alpha: float
    count: int


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The percentiles b_t = 100 - ln(1 + 100 q_0 s^t), never below 0."""

    start: float
    factor: float

    def percentile(self, step: int) -> float:
        """Return b at a step, from 0."""
        grown = math.log(self.factor) * step + math.log(self.start)
        q = math.exp(min(grown, 600.0))
        return max(0.0, 100.0 - math.log1p(100.0 * q))


def dampen(
    model: nn.Module, suspects: Importance, reference: Importance, *, alpha: float, lam: float, exponent: float = 1.0
) -> int:
    """Dampen a model in place, some of a layer at a time, and return how many entries were selected.

    Args:
        model: The network.
        suspects: Importance for what is to be forgotten.
        reference: Importance for what is to be kept.
        alpha: The least ratio above which an entry is selected.
        lam: The strength: a selected entry is multiplied by lam / ratio, or 1 if that is more.
        exponent: A power of the factor; 1 in all published code.
    """
    selected = 0
    named = dict(model.named_parameters())
    for name in suspects:
        p = named[name].data
        forget, keep = suspects[name].reshape(-1), reference[name].reshape(-1)
        for start in range(0, len(forget), _CHUNK):
            f = forget[start : start + _CHUNK].double()
            d = keep[start : start + _CHUNK].double()
            index = (f > alpha * d).nonzero().flatten()
            if len(index):
                beta = (lam * d[index] / f[index]).pow(exponent).clamp(max=1.0)
                place = index + start
                p.put_(place, (p.take(place).double() * beta).to(p.dtype))
            selected += len(index)
    return selected


def ratios(suspects: Importance, reference: Importance) -> Float[Tensor, " p"]:
    """Return I_F / I_D of all parameters, in order; 0 / 0 is NaN, and x / 0 infinity."""
    first = next(iter(suspects.values()))
    found = torch.empty(sum(value.numel() for value in suspects.values()), device=first.device)
    start = 0
    for name, value in suspects.items():  # one parameter at a time: never two copies of all
        found[start : start + value.numel()] = (value / reference[name]).reshape(-1)
        start += value.numel()
    return found


@dataclass
class _Entries:
    """The entries of one parameter that some candidate selects, by rank in the order of ratios."""

    parameter: Tensor
    rank: NDArray[np.int64]  # a search in a NumPy array costs a microsecond
    index: Int64[Tensor, " k"]
    old: Tensor
    new: Tensor
    done: int = 0


class DampeningPath:
    """A model on its way through the candidates; it is changed in place.

    Args:
        model: Where to write; it holds the given values when the path begins.
        suspects: Importance for what is to be forgotten.
        reference: Importance for what is to be kept.
        schedule: The percentiles.
        tries: How many steps may be asked for, None if that is not known; later ones are not prepared.

    Attributes:
        size: Number of entries of all parameters that take part.
        position: How many entries are shrunken now.
    """

    def __init__(
        self,
        model: nn.Module,
        suspects: Importance,
        reference: Importance,
        schedule: Schedule,
        *,
        tries: int | None = None,
    ) -> None:
        self.schedule = schedule
        self._tries = tries
        self.position = 0
        self._importances = (suspects, reference)
        named = dict(model.named_parameters())
        self._parameters = [(name, named[name].data) for name in suspects]
        ratio = ratios(suspects, reference).nan_to_num_(nan=-1.0, posinf=math.inf)
        self.size = len(ratio)
        self._ratio = ratio
        self._infinite = int((ratio == math.inf).sum())
        self._finite = int((ratio >= 0).sum()) - self._infinite
        self._top = ratio[:0]
        self._entries: list[_Entries] = []
        self._horizon = -1
        self._thresholds: dict[int, Threshold] = {}

    def threshold(self, step: int) -> Threshold:
        """Return a step of the search, from 0."""
        if step not in self._thresholds:
            self._extend(step)
            self._thresholds[step] = self._find(self.schedule.percentile(step))
        return self._thresholds[step]

    def go(self, step: int | None) -> Threshold | None:
        """Turn the model into the candidate of a step, or for None into what it was."""
        threshold = None if step is None else self.threshold(step)
        count = 0 if threshold is None else threshold.count
        if count != self.position:
            self._write(count)
        return threshold

    def _place(self, percentile: float) -> tuple[int, float]:
        """Return the rank from below and the share of the way to the next, as NumPy's linear percentile has them."""
        virtual = (self._finite - 1) * (percentile / 100.0)
        below = min(math.floor(virtual), self._finite - 1)
        return below, virtual - below

    def _find(self, percentile: float) -> Threshold:
        if not self._finite:
            return Threshold(percentile, math.inf, self._infinite)
        below, share = self._place(percentile)
        place = self._finite - 1 - below  # from above, among the finite ones
        low = float(self._top[self._infinite + place])
        if not place:
            return Threshold(percentile, low, self._infinite)
        high = float(self._top[self._infinite + place - 1])
        gap = high - low
        alpha = low + gap * share if share < 0.5 else high - gap * (1 - share)
        ties = self._top[self._infinite : self._infinite + place]
        count = place if high > alpha else int((ties > alpha).sum())  # those that equal the threshold stay
        return Threshold(percentile, alpha, self._infinite + count)

    def _extend(self, step: int) -> None:
        """Sort as many of the largest ratios as the steps up to this one, and some more, need."""
        if step <= self._horizon:
            return
        ahead = max(step + 16, 2 * self._horizon, 96)
        self._horizon = ahead if self._tries is None else max(step, min(ahead, self._tries - 1))
        needed = self._infinite
        if self._finite:
            needed += self._finite - self._place(self.schedule.percentile(self._horizon))[0]
        position = self.position
        self._write(0)  # what is read below are the values that were given
        values, order = _largest(self._ratio, needed)
        self._top = values.cpu()
        self._entries = self._grouped(order)
        self._write(position)

    def _grouped(self, order: Int64[Tensor, " k"]) -> list[_Entries]:
        suspects, reference = self._importances
        sizes = [p.numel() for _, p in self._parameters]
        ends = torch.tensor(sizes, device=order.device).cumsum(0)
        owner = torch.searchsorted(ends, order, right=True)
        by_owner = owner.argsort(stable=True)
        cuts = torch.bincount(owner, minlength=len(sizes)).cpu().tolist()
        entries = []
        start = 0
        for (name, p), size, end, cut in zip(self._parameters, sizes, ends.tolist(), cuts, strict=True):
            rank = by_owner[start : start + cut]
            start += cut
            if not cut:
                continue
            index = order[rank] - (end - size)
            forget, keep = suspects[name].take(index), reference[name].take(index)
            old = p.take(index)
            wide = torch.promote_types(p.dtype, torch.float32)
            new = (old.to(wide) * (keep / forget).to(wide).clamp(max=1.0)).to(p.dtype)
            entries.append(_Entries(parameter=p, rank=rank.cpu().numpy(), index=index, old=old, new=new))
        return entries

    def _write(self, count: int) -> None:
        for one in self._entries:
            done = int(np.searchsorted(one.rank, count))
            if done > one.done:
                one.parameter.put_(one.index[one.done : done], one.new[one.done : done])
            elif done < one.done:
                one.parameter.put_(one.index[done : one.done], one.old[done : one.done])
            one.done = done
        self.position = count


def _largest(ratio: Float[Tensor, " p"], count: int) -> tuple[Float[Tensor, " k"], Int64[Tensor, " k"]]:
    """Return at least the `count` largest numbers, descending, and where they are; only these are sorted."""
    length = len(ratio)
    if not 0 < count < length:
        places = torch.arange(length if count else 0, device=ratio.device)
    else:
        sample = ratio[:: max(1, length // _SAMPLE)].sort().values  # a cut that leaves little more than is asked for
        rank = int(len(sample) * (1 - count / length) - 4 * math.sqrt(len(sample) * count / length) - 4)
        places = _places(ratio >= sample[max(rank, 0)])
        if len(places) < count:
            places = torch.arange(length, device=ratio.device)
    values = ratio[places]
    order = _descending(values)
    return values[order], places[order]


def _places(mask: Bool[Tensor, " p"]) -> Int64[Tensor, " k"]:
    """Return where a mask is true; on the processor NumPy is faster at this than torch, and at sorting."""
    return torch.from_numpy(np.flatnonzero(mask.numpy())) if mask.device.type == "cpu" else mask.nonzero().flatten()


def _descending(values: Float[Tensor, " k"]) -> Int64[Tensor, " k"]:
    """Return an order from the largest on; equal numbers stay in theirs."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.argsort(-values.numpy(), kind="stable"))
    return values.argsort(descending=True, stable=True)


def widened(importance: Mapping[str, Tensor]) -> Importance:
    """Return importances as single precision, on which thresholds are defined."""
    return {name: value.float() for name, value in importance.items()}
