"""Resilience coefficients: hand values, preconditions, and a search for rows that break them, which finds none."""

import itertools
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

from mithridate.aggregation import resilience
from mithridate.aggregation.aggregate import aggregate, named_rule
from mithridate.aggregation.krum import Krum
from mithridate.aggregation.multi_krum import MultiKrum
from mithridate.core.errors import Misuse
from mithridate.numerics.rng import generator

SIZES = [(5, 1), (7, 2), (9, 3)]
Rule = Callable[[torch.Tensor], torch.Tensor]


def loss(measure: str, rows: np.ndarray, result: np.ndarray, f: int) -> float:
    """Return the least coefficient that the result needs, over all sets of n - f rows."""
    subsets = np.array(list(itertools.combinations(range(len(rows)), len(rows) - f)))
    sets = rows[subsets]
    centred = sets - sets.mean(1, keepdims=True)
    off = ((result - sets.mean(1)) ** 2).sum(1)
    if measure == "lambda":
        pairs = ((sets[:, :, None] - sets[:, None]) ** 2).sum(3)
        return float(np.sqrt(off / pairs.max((1, 2))).max())
    covariances = np.einsum("bic,bid->bcd", centred, centred) / sets.shape[1]
    spread = np.linalg.eigvalsh(covariances)[:, -1] if measure == "spectral" else covariances.trace(axis1=1, axis2=2)
    return float((off / spread).max())


def worst(measure: str, rule: Rule, n: int, f: int, d: int = 2) -> float:
    """Climb towards rows that need a high coefficient: liars near and far, then small and large changes of one row."""
    gen, found = generator(n, "test", "climb", measure), 0.0
    for start in range(3):
        rows = torch.randn(n, d, generator=gen, dtype=torch.float64)
        rows[: start * f] = rows[:1] + (1, 0.01, 3)[start] * rows[: start * f]
        best = 0.0
        for _ in range(45):
            tried = rows.clone()
            row = int(torch.randint(n, (1,), generator=gen))
            tried[row] += torch.randn(d, generator=gen, dtype=torch.float64) * 10 ** float(
                torch.rand(1, generator=gen) * 4 - 2
            )
            value = loss(measure, tried.numpy(), rule(tried).numpy(), f)
            if value > best:
                rows, best = tried, value
        found = max(found, best)
    return found


BOUNDED = [
    ("median", {}, ("kappa", "lambda")),
    ("trimmed-mean", {}, ("kappa", "lambda")),
    ("geometric-median", {}, ("kappa", "lambda")),
    ("krum-hetero", {"neighbours": "hetero"}, ("kappa", "lambda")),
    ("mda", {}, ("lambda",)),
    ("smea", {}, ("spectral",)),
]
CASES = [(name, options, measure) for name, options, measures in BOUNDED for measure in measures]


@pytest.mark.parametrize(("name", "options", "measure"), CASES)
@pytest.mark.parametrize(("n", "f"), SIZES)
def test_no_rows_need_more_than_the_coefficient(name: str, options: dict, measure: str, n: int, f: int) -> None:
    rule = partial(aggregate, rule=name.removesuffix("-hetero"), f=f, **options)
    known = {each.measure: each for each in resilience.coefficients(name, num_rows=n, f=f, dim=2)}
    needed = worst(measure, rule, n, f)
    assert 0.05 < needed <= known[measure].value * (1 + 1e-9)
    if measure != "spectral":
        assert known[measure].value >= resilience.floor(measure, num_rows=n, f=f).value
    assert known[measure].standing == "recalled and checked"


@pytest.mark.parametrize(("n", "f"), SIZES)
def test_no_rows_need_more_than_the_coefficient_behind_mixing(n: int, f: int) -> None:
    kappa = resilience.coefficients("trimmed-mean", num_rows=n, f=f, dim=2)[0].value
    bound = resilience.with_nnm(kappa, num_rows=n, f=f)
    assert 0.05 < worst("kappa", partial(aggregate, rule="trimmed-mean", f=f, pre=["nnm"]), n, f) <= bound.value


def test_the_search_finds_what_breaks_the_mean() -> None:
    """The instrument works: for a rule without a bound it goes past the bounds of those that have one."""
    assert worst("kappa", lambda rows: rows.mean(0), 9, 3) > resilience.floor("kappa", num_rows=9, f=3).value
    assert worst("lambda", lambda rows: rows[0], 9, 3) > resilience.coefficients("mda", num_rows=9, f=3, dim=2)[0].value


@pytest.mark.parametrize(("n", "f", "expected"), [(11, 2, 6.0332), (25, 5, 11.266), (51, 12, 23.479)])
def test_eta(n: int, f: int, expected: float) -> None:
    assert resilience.eta(n, f) == pytest.approx(expected, rel=1e-4)
    threshold = resilience.of_rule(MultiKrum(f=f), num_rows=n, dim=7)[0]
    assert threshold.measure == "threshold" and threshold.value == pytest.approx(1 / expected, rel=1e-4)


def test_coefficients_by_hand() -> None:
    """n = 9, f = 3: f / (n - 2f) = 1."""
    value = {
        (name, each.measure): each.value
        for name in ("median", "trimmed-mean", "geometric-median", "krum-hetero", "mda", "smea")
        for each in resilience.coefficients(name, num_rows=9, f=3, dim=4)
    }
    assert value["median", "kappa"] == 16
    assert value["trimmed-mean", "kappa"] == value["krum-hetero", "kappa"] == 12
    assert value["geometric-median", "lambda"] == pytest.approx(1 + (36 / 27) ** 0.5)
    assert value["krum-hetero", "lambda"] == pytest.approx(1 + 2**0.5)
    assert value["median", "lambda"] == 9 / 12 * 2 and value["trimmed-mean", "lambda"] == 0.5 * 2
    assert value["mda", "lambda"] == value["mda", "threshold"] == 1
    assert value["smea", "spectral"] == 8
    assert resilience.with_nnm(12, num_rows=9, f=3).value == 4 * 13
    assert resilience.coefficients("mda", num_rows=9, f=0, dim=4)[1].value == float("inf")


def test_a_rule_object_knows_its_own() -> None:
    assert [each.measure for each in resilience.of_rule(Krum(f=3, neighbours="hetero"), num_rows=9, dim=2)] == [
        "kappa",
        "lambda",
    ]
    assert [each.measure for each in resilience.of_rule(Krum(f=3), num_rows=9, dim=2)] == ["threshold"]
    assert resilience.of_rule(named_rule("cge", f=2), num_rows=9, dim=2) == ()  # type: ignore[arg-type]
    with pytest.raises(Misuse, match="MTH-0501"):
        resilience.of_rule(Krum(f=4), num_rows=9, dim=2)
    covered, beyond = (resilience.of_rule(MultiKrum(f=3, m=m), num_rows=11, dim=2) for m in (6, 7))
    assert [each.measure for each in covered] == ["threshold"]
    assert beyond == (), "m > n - f - 2 is accepted, and no paper covers it"


@pytest.mark.parametrize(
    ("rule", "f", "least"), [("krum", 3, 9), ("krum-hetero", 3, 7), ("bulyan", 2, 11), ("mda", 2, 5)]
)
def test_preconditions(rule: str, f: int, least: int) -> None:
    assert resilience.least_rows(rule, f) == least
    resilience.require(rule, least, f)
    with pytest.raises(Misuse, match=rf"MTH-0501.*f={f} needs at least {least} rows .*got {least - 1}"):
        resilience.coefficients(rule, num_rows=least - 1, f=f, dim=1)
