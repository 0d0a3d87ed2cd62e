"""Exact tests of whether a model knows the labels of the keys.

Under the null hypothesis the answers do not depend on the labels, which are independent and uniform on C classes. Then,
whatever the model does with noise, given its answers:

    test                      sees                null distribution
    binomial_tail             top-k answers       Bin(K, k / C)
    poisson_binomial_tail     sets of answers     sum of independent Bernoulli(|S_i| / C)
    min_over_k                top-k_max answers   ranks are 1..k_max with chance 1 / C each, or a miss
    rank_sum, log_rank_sum    full rankings       ranks are uniform on 1..C
    label_randomisation       any statistic       labels drawn anew, exchangeable with the true ones
    e_value                   one at a time       a product of fair bets (Ville): valid at any time of stopping

All p-values are fractions of integers: nothing underflows, and two machines agree to the last digit. A test is chosen
before the answers are seen; `min_over_k` is the way to choose k afterwards. Two models tested with the same keys are
dependent through the labels: combine by `holm`, `bonferroni`, or the mean of e-values, not by Fisher or Stouffer.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction

from mithridate.core.errors import Misuse
from mithridate.ownership.canonical import tagged
from mithridate.ownership.keys import key_label

_CONTEXT = Context(prec=40)
_GRID = 64
"""Log-ranks are rounded down to 64ths of a bit: ranks below 90 stay apart."""


def binomial_tail(hits: int, *, keys: int, topk: int, classes: int) -> Fraction:
    """Return the chance of at least `hits` hits among `keys`, each with chance topk / classes.

    Raises:
        Misuse: MTH-1010 for numbers that cannot be.
    """
    _within(1, topk, classes, "topk", "classes")
    return binomial_upper(hits, keys, Fraction(topk, classes))


def binomial_upper(hits: int, keys: int, chance: Fraction) -> Fraction:
    """Return P(Bin(keys, chance) >= hits).

    Raises:
        Misuse: MTH-1010 for numbers that cannot be.
    """
    _within(0, hits, keys, "hits", "keys")
    if not 0 <= chance <= 1:
        raise Misuse("MTH-1010", f"a chance lies between 0 and 1, got {chance}")
    # One fraction, made at the end: bringing each term to lowest terms would take most of the time.
    return Fraction(sum(itertools.islice(_ways(keys, chance), keys - hits + 1)), chance.denominator**keys)


def hits_at(keys: int, chance: Fraction, level: Fraction) -> int | None:
    """Return the least number of hits whose tail is at most a level, or None if that of `keys` hits is above it.

    Raises:
        Misuse: MTH-1010 for a chance that cannot be.
    """
    if keys < 0 or not 0 <= chance <= 1:
        raise Misuse("MTH-1010", f"a chance lies between 0 and 1, got {chance} for {keys} keys")
    limit = level.numerator * chance.denominator**keys
    tail, least = 0, None
    for hits, count in zip(range(keys, -1, -1), _ways(keys, chance), strict=True):
        tail += count
        if tail * level.denominator > limit:
            break
        least = hits
    return least


def binomial_tails(keys: int, chance: Fraction) -> tuple[Fraction, ...]:
    """Return P(Bin(keys, chance) >= h) for h = 0..keys.

    Raises:
        Misuse: MTH-1010 for a chance that cannot be.
    """
    if keys < 0 or not 0 <= chance <= 1:
        raise Misuse("MTH-1010", f"a chance lies between 0 and 1, got {chance} for {keys} keys")
    whole = chance.denominator**keys
    tails = list(itertools.accumulate(_ways(keys, chance)))
    return tuple(Fraction(count, whole) for count in reversed(tails))


def poisson_binomial_tail(hits: int, sizes: Sequence[int], *, classes: int) -> Fraction:
    """Return the chance of at least `hits` hits when answer i is a set of `sizes[i]` classes.

    Raises:
        Misuse: MTH-1010 for numbers that cannot be.
    """
    _within(0, hits, len(sizes), "hits", "answers")
    ways = [1]
    for size in sizes:
        _within(0, size, classes, "size of an answer", "classes")
        missed = [count * (classes - size) for count in ways] + [0]
        ways = [count + more * size for count, more in zip(missed, [0, *ways], strict=True)]
    return Fraction(sum(ways[hits:]), classes ** len(sizes))


def min_over_k(ranks: Sequence[int | None], k_max: int, *, classes: int) -> Fraction:
    """Return the exact p-value of the smallest binomial p-value over k = 1..k_max.

    Args:
        ranks: Where each key's label stands in its answer, from 1; None, or beyond k_max, for a miss.
        k_max: How many answers were asked for.
        classes: How many there are.

    Raises:
        Misuse: MTH-1010 for numbers that cannot be.
    """
    _within(1, k_max, classes, "k_max", "classes")
    keys = len(ranks)
    found = [_rank(rank, classes) for rank in ranks if rank is not None]
    tails = [binomial_tails(keys, Fraction(k, classes)) for k in range(1, k_max + 1)]
    least = min(tails[k - 1][sum(rank <= k for rank in found)] for k in range(1, k_max + 1))
    # Ways to stay above the least at every k: `ways[h]` counts them by the hits at k.
    ways = {0: 1}
    for tail in tails:
        most = sum(chance > least for chance in tail)
        grown = dict.fromkeys(range(most), 0)
        for before, count in ways.items():
            for h in range(before, most):
                grown[h] += count * math.comb(keys - before, h - before)
        ways = {h: count for h, count in grown.items() if count}
    above = sum(count * (classes - k_max) ** (keys - h) for h, count in ways.items())
    return 1 - Fraction(above, classes**keys)


def rank_sum(ranks: Sequence[int], *, classes: int) -> Fraction:
    """Return the chance of a sum of ranks as small as this.

    Args:
        ranks: The place of each key's label in the full ranking, from 1.
        classes: How many there are.

    Raises:
        Misuse: MTH-1010 for a rank that cannot be.
    """
    keys, total = len(ranks), sum(_rank(rank, classes) for rank in ranks)
    terms = range(max(0, total - keys) // classes + 1)
    ways = sum((-1) ** j * math.comb(keys, j) * math.comb(total - j * classes, keys) for j in terms if j <= keys)
    return Fraction(ways, classes**keys)


def log_rank_sum(ranks: Sequence[int], *, classes: int) -> Fraction:
    """Return the chance of a sum of log-ranks as small as this; small ranks weigh more than in `rank_sum`.

    Logarithms are to base two, rounded down to 64ths, in the observed sum and in the null distribution alike: so the
    test is exact.

    Raises:
        Misuse: MTH-1010 for a rank that cannot be.
    """
    keys, total = len(ranks), sum(_log_rank(_rank(rank, classes)) for rank in ranks)
    # The generating polynomial at a power of 256 so large that coefficients do not meet.
    width = (classes**keys).bit_length() // 8 + 1
    size = width * (total + 1)
    mask = (1 << 8 * size) - 1
    single = sum(1 << 8 * width * _log_rank(rank) for rank in range(1, classes + 1)) & mask
    product = 1
    for _ in ranks:
        product = product * single & mask
    coefficients = product.to_bytes(size, "little")
    ways = sum(int.from_bytes(coefficients[at : at + width], "little") for at in range(0, size, width))
    return Fraction(ways, classes**keys)


def label_randomisation(
    statistic: Callable[[Sequence[int]], float], labels: Sequence[int], *, classes: int, draws: int, seed: int
) -> Fraction:
    """Return the p-value of a statistic of the labels against labels drawn anew.

    p = (1 + #{T(y*) >= T(y)}) / (draws + 1), exact for any statistic: log-probabilities, margins, a mean over views,
    a sum over several models that are asked about the same keys.

    Args:
        statistic: Large if the models know the labels; it may hold all their answers, and must not change.
        labels: The true ones.
        classes: How many there are.
        draws: How many times to draw; no p-value below 1 / (draws + 1) can come out.
        seed: Of the draws.

    Raises:
        Misuse: MTH-1010 for no draws, or a statistic that is not a number.
    """
    if draws < 1:
        raise Misuse("MTH-1010", f"label randomisation needs at least one draw, got {draws}")
    observed = _number(statistic(labels))
    root = tagged("draws", str(seed).encode())
    reached = 0
    for draw in range(draws):
        source = tagged("draw", root, draw.to_bytes(8, "big"))
        fresh = [key_label(source, place.to_bytes(4, "big"), classes) for place in range(len(labels))]
        reached += _number(statistic(fresh)) >= observed
    return Fraction(1 + reached, draws + 1)


@dataclass(frozen=True)
class EValue:
    """What a bet of one against the null hypothesis has become.

    Args:
        final: After the last answer.
        peak: The most that it ever was.
    """

    final: Fraction
    peak: Fraction

    @property
    def p_value(self) -> Fraction:
        """A p-value that is valid whenever one stops (Ville's inequality)."""
        return min(Fraction(1), 1 / self.peak)


def e_value(outcomes: Sequence[bool], *, chance: Fraction, bet: Fraction = Fraction(1, 2)) -> EValue:
    """Return the e-value of hits and misses in the order of asking, for APIs that are paid by the query.

    Args:
        outcomes: Whether each answer was a hit.
        chance: Of a hit under the null hypothesis: topk / classes.
        bet: The hit rate that one bets on, fixed in advance.

    Raises:
        Misuse: MTH-1010 unless 0 < chance < bet < 1.
    """
    if not 0 < chance < bet < 1:
        raise Misuse("MTH-1010", f"a bet lies between the chance {chance} and 1, got {bet}")
    stake = peak = Fraction(1)
    for hit in outcomes:
        stake *= bet / chance if hit else (1 - bet) / (1 - chance)
        peak = max(peak, stake)
    return EValue(stake, peak)


def mean_e(values: Sequence[Fraction]) -> Fraction:
    """Return the mean of e-values: an e-value again, however these depend on one another.

    Raises:
        Misuse: MTH-1010 for no values.
    """
    if not values:
        raise Misuse("MTH-1010", f"a mean needs at least one e-value, got {len(values)}")
    return sum(values, Fraction(0)) / len(values)


def bonferroni(p_values: Sequence[Fraction]) -> tuple[Fraction, ...]:
    """Return p-values that are adjusted for their number."""
    return tuple(min(Fraction(1), p * len(p_values)) for p in p_values)


def holm(p_values: Sequence[Fraction]) -> tuple[Fraction, ...]:
    """Return p-values that are adjusted for their number, step by step: never above `bonferroni`."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted = [Fraction(1)] * len(p_values)
    floor = Fraction(0)
    for step, place in enumerate(order):
        floor = max(floor, min(Fraction(1), p_values[place] * (len(p_values) - step)))
        adjusted[place] = floor
    return tuple(adjusted)


def log10(value: Fraction) -> float:
    """Return the decimal logarithm of a positive fraction; it does not underflow."""
    return float(_log10(value))


def log10_text(value: Fraction) -> str:
    """Return the decimal logarithm with six digits after the point, the same on every machine."""
    text = f"{_log10(value):.6f}"
    return "0.000000" if text == "-0.000000" else text


def _ways(keys: int, chance: Fraction) -> Iterator[int]:
    """Yield for keys, keys - 1, ..., 0 hits how many of denominator^keys equally likely cases have exactly so many."""
    yes, no = chance.numerator, chance.denominator - chance.numerator
    if not yes:
        yield from (0 if j else no**keys for j in range(keys, -1, -1))
        return
    count = yes**keys
    for j in range(keys, -1, -1):
        yield count
        # comb(keys, j - 1) yes^(j - 1) no^(keys - j + 1) from the one for j, without remainder.
        count = count * (j * no) // ((keys - j + 1) * yes)


def _log10(value: Fraction) -> Decimal:
    if value <= 0:
        raise Misuse("MTH-1010", f"only positive numbers have a logarithm, got {value}")
    if value == 1:
        return Decimal(0)
    over, under = Decimal(value.numerator).log10(_CONTEXT), Decimal(value.denominator).log10(_CONTEXT)
    return _CONTEXT.subtract(over, under)


def _log_rank(rank: int) -> int:
    """Return 64 log2(rank), rounded down, from integers alone."""
    return int(rank**_GRID).bit_length() - 1


def _rank(rank: int, classes: int) -> int:
    _within(1, rank, classes, "rank", "classes")
    return rank


def _number(value: float) -> float:
    if math.isnan(value):
        raise Misuse("MTH-1010", f"the statistic is {value}, which cannot be compared")
    return value


def _within(least: int, value: int, most: int, what: str, whole: str) -> None:
    if not least <= value <= most:
        raise Misuse("MTH-1010", f"{what} must be between {least} and the number of {whole}, {most}; got {value}")
