"""What is known about rules: how many rows they need, and how far their result may be from the honest mean.

Three measures, with S any n - f of the rows, m_S their mean, and Cov_S their covariance (division by |S|):

    kappa      |F(X) - m_S|^2 <= kappa * trace Cov_S               (robustness; at least f / (n - 2f) for every rule)
    spectral   |F(X) - m_S|^2 <= kappa * largest eigenvalue of Cov_S
    lambda     |F(X) - m_S|   <= lambda * diameter of S            (at least f / (n - f) for every rule)
    threshold  the ratio of the gradients' standard deviation to the norm of their mean below which the rule is
               resilient in the sense of the paper

Every value carries its source and its standing. `recalled` means that the constant was written down from memory of the
paper that is named and not read again; `checked` that a search for a violation over random and optimised rows found
none (tests/aggregation/test_aggregation_resilience.py). `code` means that it was read in the reference code alone.

Papers   Blanchard et al. (NeurIPS 2017), arXiv 1703.02757; El Mhamdi et al. (ICML 2018), arXiv 1802.07927; Farhadkhani
         et al. (ICML 2022); Allouah et al. (AISTATS 2023), arXiv 2302.01772; El-Mhamdi et al. (ICLR 2021).
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, sqrt
from typing import Literal

from mithridate.aggregation._base import AbstractRobustCombiner
from mithridate.core.errors import Misuse

Measure = Literal["kappa", "spectral", "lambda", "threshold"]
Standing = Literal["derived", "recalled", "recalled and checked", "code"]
Formula = Callable[[int, int, int], float]
"""From the number of rows n, of liars f < n / 2 and of coordinates d to a value."""


@dataclass(frozen=True)
class Coefficient:
    """One known bound of one rule, for given n, f and d.

    Attributes:
        measure: What it bounds; the module says how.
        value: The bound.
        source: The paper that states it.
        standing: How sure we are of it.
    """

    measure: Measure
    value: float
    source: str
    standing: Standing


@dataclass(frozen=True)
class _Bound:
    measure: Measure
    formula: Formula
    source: str
    standing: Standing


@dataclass(frozen=True)
class _Least:
    """A rule is defined for n >= slope * f + offset."""

    slope: int
    offset: int

    def rows(self, f: int) -> int:
        return self.slope * f + self.offset

    def __str__(self) -> str:
        return f"{self.slope}f + {self.offset}"


_MAJORITY = _Least(2, 1)
_LEAST: dict[str, _Least] = {
    "krum": _Least(2, 3),
    "krum-hetero": _MAJORITY,
    "multi-krum": _Least(2, 3),
    "bulyan": _Least(4, 3),
    "multi-bulyan": _Least(4, 3),
    "multi-bulyan-ext": _Least(4, 3),
}

_ROBUST = "Allouah et al. (AISTATS 2023)"
_RESAM = "Farhadkhani et al. (ICML 2022)"
_KRUM = "Blanchard et al. (NeurIPS 2017)"
_GRID = "El-Mhamdi et al. (ICLR 2021), reference code"


def eta(num_rows: int, f: int) -> float:
    """Return the factor of Krum's and Multi-Krum's condition eta * sqrt(d) * sigma < |g| (Blanchard et al., section 4).

    Raises:
        Misuse: MTH-0501 for fewer than 2f + 3 rows.
    """
    require("krum", num_rows, f)
    n = num_rows
    return sqrt(2 * (n - f + (f * (n - f - 2) + f * f * (n - f - 1)) / (n - 2 * f - 2)))


def least_rows(rule: str, f: int) -> int:
    """Return the number of rows that a rule needs to withstand f liars; `krum-hetero` is Krum with that convention."""
    return _LEAST.get(rule, _MAJORITY).rows(f)


def require(rule: str, num_rows: int, f: int) -> None:
    """Refuse a rule for which there are too few rows.

    Raises:
        Misuse: MTH-0501, with the numbers.
    """
    least = _LEAST.get(rule, _MAJORITY)
    if num_rows < least.rows(f):
        raise Misuse(
            "MTH-0501",
            f"{rule} with f={f} needs at least {least.rows(f)} rows (n >= {least}), got {num_rows}",
            hint="lower f or add workers",
        )


def _ratio(n: int, f: int) -> float:
    return f / (n - 2 * f)


def _delta(n: int, f: int, d: int) -> float:
    """Return the price of working coordinate by coordinate, at most sqrt(d) (Farhadkhani et al.)."""
    return min(sqrt(d), 2 * sqrt(n - f))


_KRUM_THRESHOLD = _Bound("threshold", lambda n, f, d: 1 / eta(n, f) if n >= 2 * f + 3 else 0.0, _KRUM, "recalled")
_BOUNDS: dict[str, tuple[_Bound, ...]] = {
    "median": (
        _Bound("kappa", lambda n, f, d: 4 * (1 + _ratio(n, f)) ** 2, _ROBUST, "recalled and checked"),
        _Bound("lambda", lambda n, f, d: n / (2 * (n - f)) * _delta(n, f, d), _RESAM, "recalled and checked"),
        _Bound("threshold", lambda n, f, d: 1 / sqrt(n - f), _GRID, "code"),
    ),
    "trimmed-mean": (
        _Bound("kappa", lambda n, f, d: 6 * _ratio(n, f) * (1 + _ratio(n, f)), _ROBUST, "recalled and checked"),
        _Bound("lambda", lambda n, f, d: f / (n - f) * _delta(n, f, d), _RESAM, "recalled and checked"),
    ),
    "geometric-median": (
        _Bound("kappa", lambda n, f, d: 4 * (1 + _ratio(n, f)) ** 2, _ROBUST, "recalled and checked"),
        _Bound("lambda", lambda n, f, d: 1 + sqrt((n - f) ** 2 / (n * (n - 2 * f))), _RESAM, "recalled and checked"),
    ),
    "krum-hetero": (
        _Bound("kappa", lambda n, f, d: 6 * (1 + _ratio(n, f)), _ROBUST, "recalled and checked"),
        _Bound("lambda", lambda n, f, d: 1 + sqrt((n - f) / (n - 2 * f)), _RESAM, "recalled and checked"),
    ),
    "krum": (_KRUM_THRESHOLD,),
    "multi-krum": (_KRUM_THRESHOLD,),
    "mda": (
        _Bound("lambda", lambda n, f, d: 2 * f / (n - f), _RESAM, "recalled and checked"),
        _Bound("threshold", lambda n, f, d: (n - f) / (2 * f) if f else inf, _GRID, "code"),
    ),
    "smea": (
        _Bound("spectral", lambda n, f, d: 4 * f / (n - f) * (1 + _ratio(n, f)) ** 2, _ROBUST, "recalled and checked"),
    ),
    "meamed": (_Bound("lambda", lambda n, f, d: 2 * f / (n - f) * _delta(n, f, d), _RESAM, "recalled"),),
}


def coefficients(rule: str, *, num_rows: int, f: int, dim: int) -> tuple[Coefficient, ...]:
    """Return what is known about a rule; nothing for a rule about which we know nothing.

    Args:
        rule: Its name; `krum-hetero` is Krum with neighbours="hetero", for which alone kappa and lambda are known.
        num_rows: n.
        f: The number of liars.
        dim: d.

    Raises:
        Misuse: MTH-0501 if the rule is not defined for (n, f).
    """
    require(rule, num_rows, f)
    return tuple(
        Coefficient(bound.measure, bound.formula(num_rows, f, dim), bound.source, bound.standing)
        for bound in _BOUNDS.get(rule, ())
    )


def of_rule(rule: AbstractRobustCombiner, *, num_rows: int, dim: int) -> tuple[Coefficient, ...]:
    """Return what is known about a rule object, with its own f.

    Args:
        rule: Any rule of this package; about a rule from elsewhere nothing is known.
        num_rows: n.
        dim: d.

    Raises:
        Misuse: MTH-0501 and others, if the rule is not defined for so many rows.
    """
    rule.check(num_rows)
    package, _, module = type(rule).__module__.rpartition(".")
    if package != __package__:
        return ()
    name = module.replace("_", "-")
    hetero = vars(rule).get("neighbours") == "hetero"
    if name != "krum" and hetero:
        return ()
    f = rule.tolerated(num_rows)
    averaged = vars(rule).get("m")
    if averaged is not None and averaged > num_rows - f - 2:  # accepted, but beyond what the paper covers
        return ()
    return coefficients("krum-hetero" if hetero else name, num_rows=num_rows, f=f, dim=dim)


def with_nnm(kappa: float, *, num_rows: int, f: int) -> Coefficient:
    """Return the kappa of a rule after nearest-neighbour mixing, from the rule's own."""
    require("nnm", num_rows, f)
    return Coefficient("kappa", 8 * f / (num_rows - f) * (1 + kappa), _ROBUST, "recalled and checked")


def floor(measure: Literal["kappa", "lambda"], *, num_rows: int, f: int) -> Coefficient:
    """Return the value below which no rule can be."""
    require("any rule", num_rows, f)
    if measure == "kappa":
        return Coefficient("kappa", _ratio(num_rows, f), _ROBUST, "recalled")
    return Coefficient("lambda", f / (num_rows - f), _RESAM, "recalled")
