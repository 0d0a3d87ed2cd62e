"""`aggregate` and the engine behind it: hand vectors of the median family, laws of every rule, dead rows, buffers."""

import re
import subprocess
import sys
from collections.abc import Mapping
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import mithridate
from mithridate.aggregation._base import AbstractCombiner
from mithridate.aggregation.aggregate import aggregate, named_rule
from mithridate.aggregation.clip_noise import ClipNoise
from mithridate.aggregation.combine import combine
from mithridate.aggregation.mean import Mean
from mithridate.aggregation.median import Median
from mithridate.aggregation.names import PRE_AGGREGATORS, RULES
from mithridate.aggregation.pipeline import Pipeline
from mithridate.aggregation.pre.nnm import NearestNeighborMixing
from mithridate.aggregation.resilience import coefficients, least_rows
from mithridate.aggregation.trimmed_mean import TrimmedMean
from mithridate.core.codes import CODES
from mithridate.core.errors import Misuse
from mithridate.numerics.rng import generator
from mithridate.numerics.row_view import RowView

NAN, INF = float("nan"), float("inf")
F64 = torch.float64
SIX = [(1, 0.2), (2.1, 1.3), (0.4, 2.2), (3.5, 2.9), (1.2, 1.1), (2, 2.4)]
X7 = torch.tensor([*SIX, (100, -100)], dtype=F64)

ROBUST = tuple(name for name in RULES.names() if name not in ("mean", "clip-noise"))
FAMILY = ("median", "trimmed-mean", "meamed", "phocas")
NO_SHIFT = {"cge", "centered-clipping", "rfa"}
NO_SCALE = {"centered-clipping", "rfa"}
DRAWS = {"dnc"}


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def vector(rows: object, rule: str | AbstractCombiner, f: int | None, **options: object) -> Tensor:
    found = aggregate(rows, rule, f=f, **options)  # type: ignore[arg-type]
    assert isinstance(found, Tensor)
    return found


def room(rule: str, f: int, spare: int = 2) -> int:
    return least_rows(rule, f) + spare


VECTORS = [
    ("median", 1, (2, 1.3)),
    ("median", 2, (2, 1.3)),
    ("trimmed-mean", 1, (1.96, 1.44)),
    ("trimmed-mean", 2, (1.766667, 1.533333)),
    ("meamed", 1, (1.7, 1.683333)),
    ("meamed", 2, (1.96, 1.44)),
    ("phocas", 1, (1.7, 1.683333)),
    ("phocas", 2, (1.34, 1.44)),
]


@pytest.mark.parametrize(("rule", "f", "expected"), VECTORS)
@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16, torch.float16], ids=str)
def test_seven_rows(rule: str, f: int, expected: tuple[float, float], dtype: torch.dtype) -> None:
    found = vector(X7.to(dtype), rule, f)
    assert found.dtype == dtype
    atol = 2e-6 if dtype in (torch.float32, F64) else 1e-2
    torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=F64), atol=atol, rtol=0)


def test_trimmed_mean_of_nearest_neighbour_mixtures() -> None:
    for f, expected in ((1, (1.7, 1.683333)), (2, (1.506667, 1.44))):
        found = vector(X7, "trimmed-mean", f, pre=["nnm"])
        torch.testing.assert_close(found, torch.tensor(expected, dtype=F64), atol=1e-6, rtol=0)


def test_the_middle_of_an_even_number() -> None:
    rows = torch.tensor([[1.0], [2.0], [4.0], [100.0]])
    assert [vector(rows, "median", None, even=even).tolist() for even in ("lower", "mean", "upper")] == [[2], [3], [4]]


def test_there_are_the_rules_of_the_literature() -> None:
    assert len(ROBUST) >= 18 and set(FAMILY) < set(ROBUST)
    assert set(PRE_AGGREGATORS.names()) >= {"nnm", "bucketing", "clipping", "arc"}


# Laws of every robust rule


@pytest.mark.parametrize("rule", ROBUST)
def test_laws(rule: str) -> None:
    f = 2
    rows = randn(room(rule, f), 6, seed=3)
    rows[:f] += 20
    found = vector(rows, rule, f)
    assert found.shape == (6,) and bool(found.isfinite().all())

    def law(name: str, other: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(other, expected, rtol=1e-6, atol=1e-6, msg=lambda text: f"{name}: {text}")

    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))
    columns = torch.randperm(6, generator=torch.Generator().manual_seed(2))
    if rule != "monna":  # its pivot is a row by its number
        law("rows in any order", vector(rows[order], rule, f), found)
    if rule not in DRAWS:
        law("columns in any order", vector(rows[:, columns], rule, f), found[columns])
    if rule not in NO_SHIFT:
        law("shift", vector(rows + 3, rule, f), found + 3)
    if rule not in NO_SCALE:
        law("scale", vector(5 * rows, rule, f), 5 * found)
    same = randn(6, seed=9)
    if rule not in ("centered-clipping", "rfa"):
        law("identical rows", vector(same.repeat(len(rows), 1), rule, f), same)
    law("again", vector(rows, rule, f), found)


@pytest.mark.parametrize("rule", ROBUST)
def test_far_rows_do_not_move_a_rule_far(rule: str) -> None:
    f = 2
    rows = randn(room(rule, f), 6, seed=5)
    rows[-f:] = 1e6 * randn(f, 6, seed=6)
    assert float(vector(rows, rule, f).norm()) < 20, "the honest rows have norms around 2.4"


@pytest.mark.parametrize("rule", ["trimmed-mean", "meamed", "phocas", "mda", "smea", "cge", "caf"])
def test_without_liars_it_is_the_mean(rule: str) -> None:
    rows = randn(5, 4)
    torch.testing.assert_close(vector(rows, rule, 0), rows.mean(0))


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("rule", ROBUST)
def test_dead_rows_are_liars_that_are_infinitely_far(rule: str, bad: float) -> None:
    f = 2
    rows = randn(room(rule, f), 6, seed=7)
    rows[1, 2], rows[3] = bad, bad
    found = vector(rows, rule, f)
    assert bool(found.isfinite().all())
    rows[2, 0] = bad
    with pytest.raises(Misuse, match=r"MTH-0524.*3 of \d+ rows hold NaN or infinity \(rows 1, 2, 3\)"):
        vector(rows, rule, f)


@pytest.mark.parametrize("rule", ["krum", "multi-krum", "mda", "smea", "bulyan", "multi-bulyan", "cge"])
def test_selection_does_the_same_with_rows_that_are_far_but_finite(rule: str) -> None:
    rows = randn(room(rule, 2), 6, seed=8)
    far = rows.clone()
    rows[[0, 4]], far[0], far[4] = NAN, 1e30, -2e30
    torch.testing.assert_close(vector(rows, rule, 2), vector(far, rule, 2), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", ROBUST)
@pytest.mark.parametrize("pre", PRE_AGGREGATORS.names())
def test_every_rule_stands_behind_every_pre_aggregator(rule: str, pre: str) -> None:
    f = 1
    rows = randn(2 * room(rule, f), 5, seed=11)
    rows[3] = NAN
    found = vector(rows, rule, f, pre=[pre])
    assert bool(found.isfinite().all()) and float(found.norm()) < 10


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(FAMILY), st.integers(1, 3), st.integers(0, 4), st.integers(0, 1 << 30))
def test_median_family_stays_near_the_honest_values(rule: str, f: int, spare: int, seed: int) -> None:
    """Promise: median and trimmed mean lie within the honest values, whatever f rows are."""
    honest = randn(f + 1 + spare, 4, seed=seed)
    lies = torch.stack([torch.full((4,), value, dtype=F64) for value in (1e8, -1e30, NAN, INF, -INF, 0.0)])
    rows = torch.cat([honest, lies[torch.arange(f) * (seed % 5 + 1) % 6]])
    found = vector(rows, rule, f)
    assert bool(found.isfinite().all())
    if rule in ("median", "trimmed-mean"):
        assert bool(((found >= honest.min(0).values) & (found <= honest.max(0).values)).all())


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(("median", "trimmed-mean")), st.sampled_from(((5, 1), (7, 2), (9, 3))), st.integers(0, 1 << 30))
def test_kappa_and_lambda_bound_what_liars_do(rule: str, sizes: tuple[int, int], seed: int) -> None:
    (n, f), d = sizes, 2
    rows = randn(n, d, seed=seed)
    rows[:f] *= 10.0 ** (seed % 3)
    found = vector(rows, rule, f)
    bound = {item.measure: item.value for item in coefficients(rule, num_rows=n, f=f, dim=d)}
    for chosen in combinations(range(n), n - f):
        part = rows[list(chosen)]
        off = float((found - part.mean(0)).norm())
        variance = float((part - part.mean(0)).square().sum(1).mean())
        assert off**2 <= bound["kappa"] * variance * (1 + 1e-9)
        assert off <= bound["lambda"] * float(torch.cdist(part, part).max()) * (1 + 1e-9)


# Forms, buffers, types


def dicts_of(rows: Tensor) -> list[dict[str, Tensor]]:
    return [{"w": row[:4].view(2, 2), "b": row[4:]} for row in rows]


@pytest.mark.parametrize("rule", RULES.names())
def test_forms_of_rows_are_one_and_never_written_to(rule: str) -> None:
    rows = randn(room(rule, 1, 4), 6, dtype=torch.float32)
    before, listed, named = rows.clone(), [row.clone() for row in rows], dicts_of(rows.clone())
    options = {} if rule in ("mean", "clip-noise") else {"f": 1}
    found = aggregate(rows, rule, **options)
    assert isinstance(found, Tensor) and found.shape == (6,)
    torch.testing.assert_close(aggregate(listed, rule, **options), found)
    parts = aggregate(named, rule, **options)
    assert isinstance(parts, Mapping)
    torch.testing.assert_close(torch.cat([parts["w"].flatten(), parts["b"]]), found)
    assert torch.equal(rows, before) and all(torch.equal(a, b) for a, b in zip(listed, before, strict=True))
    found.fill_(7)
    parts["b"].fill_(7)
    listed_result = aggregate(listed, rule, **options)
    assert isinstance(listed_result, Tensor)
    listed_result.fill_(7)
    assert torch.equal(rows, before), "the result shares no memory with the rows"
    assert all(torch.equal(a, b) for a, b in zip(listed, before, strict=True))


@pytest.mark.parametrize("rule", ["mean", "median", "multi-krum", "multi-bulyan", "aksel", "centered-clipping"])
def test_a_buffer_takes_the_result(rule: str) -> None:
    rows = randn(9, 6)
    options = {} if rule == "mean" else {"f": 1}
    expected, out = aggregate(rows, rule, **options), torch.empty(6, dtype=F64)
    assert aggregate(rows, rule, out=out, **options) is out and torch.equal(out, expected)
    shaped = torch.empty(2, 3, dtype=F64)
    assert aggregate([row.view(2, 3) for row in rows], rule, out=shaped, **options) is shaped
    torch.testing.assert_close(shaped.flatten(), expected)
    named = {"w": torch.empty(2, 2, dtype=F64), "b": torch.empty(2, dtype=F64)}
    found = aggregate(dicts_of(rows), rule, out=named, **options)
    assert isinstance(found, dict) and found["w"] is named["w"]
    torch.testing.assert_close(torch.cat([named["w"].flatten(), named["b"]]), expected)


def test_buffers_that_do_not_fit_are_refused() -> None:
    rows = randn(5, 6)
    cases: list[tuple[object, str]] = [
        (torch.empty(7, dtype=F64), r"shape \(7,\), the result has 6 coordinates"),
        (torch.empty(6), r"shape \(6,\), type torch.float32 on cpu; the result has \(6,\), torch.float64"),
        (rows[0], "lies in the memory of the rows"),
        ({"w": torch.empty(6, dtype=F64)}, "the result has one tensor"),
    ]
    for out, message in cases:
        with pytest.raises(Misuse, match=f"MTH-0525.*{message}"):
            aggregate(rows, "median", out=out)
    assert torch.equal(rows, randn(5, 6))


def test_dead_rows_may_be_left_out_first() -> None:
    rows = randn(6, 3)
    rows[[1, 4, 5]] = NAN
    found = vector(rows, "median", None, on_nonfinite="exclude")
    torch.testing.assert_close(found, rows[[0, 2, 3]].median(0).values)
    with pytest.raises(Misuse, match=r"MTH-0524.*3 of 6 rows.*rows 1, 4, 5.*bears 2"):
        vector(rows, "median", None)
    with pytest.raises(Misuse, match=r"MTH-0524.*all 2 rows"):
        vector(rows[[1, 4]], "median", None, on_nonfinite="exclude")
    with pytest.raises(Misuse, match=r"MTH-0110.*on_nonfinite must be one of count, exclude, got 'drop'"):
        vector(rows, "median", None, on_nonfinite="drop")


def test_the_mean_and_clipping_bear_no_dead_row() -> None:
    rows = randn(4, 3)
    rows[2, 1] = NAN
    for rule in ("mean", "clip-noise"):
        with pytest.raises(Misuse, match=r"MTH-0524.*1 of 4 rows hold NaN or infinity \(rows 2\), \w+ bears 0"):
            vector(rows, rule, None)


@pytest.mark.parametrize("rule", ROBUST)
def test_too_few_rows_are_refused_with_the_numbers(rule: str) -> None:
    least = least_rows(rule, 2)
    with pytest.raises(Misuse, match=rf"MTH-05\d\d.*f=2.*{least - 1}"):
        vector(randn(least - 1, 3), rule, 2)


def test_names_and_options_are_checked() -> None:
    rows = randn(7, 3)
    with pytest.raises(Misuse, match=r"MTH-0101.*no aggregation rule 'multi-krun'.*did you mean 'multi-krum'"):
        vector(rows, "multi-krun", 1)
    with pytest.raises(Misuse, match=r"MTH-0101.*no pre-aggregator 'nmn'"):
        vector(rows, "median", 1, pre=["nmn"])
    with pytest.raises(Misuse, match=r"MTH-0123.*median has no option 'evens'.*did you mean 'even'"):
        vector(rows, "median", 1, evens="lower")
    with pytest.raises(Misuse, match=r"MTH-0123.*mean has no option 'f'"):
        vector(rows, "mean", 1)
    with pytest.raises(Misuse, match=r"MTH-0526.*even, f given beside the object Median"):
        vector(rows, Median(), 1, even="lower")
    with pytest.raises(Misuse, match=r"MTH-0110.*f must be"):
        vector(rows, "trimmed-mean", -1)


def test_the_default_is_multi_krum_and_objects_are_as_good_as_names() -> None:
    rows = randn(9, 4)
    assert mithridate.aggregate is aggregate
    assert torch.equal(vector(rows, "multi-krum", 1), aggregate(rows, f=1))  # type: ignore[arg-type]
    assert torch.equal(vector(rows, TrimmedMean(f=2), None), vector(rows, "trimmed-mean", 2))
    rule = named_rule("median", f=1, pre=["nnm", "clipping"])
    assert isinstance(rule, Pipeline) and len(rule.pre) == 2
    assert rule.pre[0] == NearestNeighborMixing(f=1)


def test_a_seed_is_an_address_of_every_draw() -> None:
    rows = randn(12, 5)
    same = [vector(rows, "median", 1, pre=["bucketing"], seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(same[0], same[1]) and not torch.equal(same[0], same[2])


def test_the_mean_takes_the_shares_of_the_rows() -> None:
    rows, prior = randn(3, 4), torch.tensor([0.5, 0.5, 0.0])
    found, state = combine(RowView.of(rows), Mean(), state=None, gen=generator(0), prior=prior)
    torch.testing.assert_close(found, rows[:2].mean(0))
    assert state is None
    behind, _ = combine(
        RowView.of(rows), Pipeline(pre=(NearestNeighborMixing(f=1),), rule=Mean()), state=None, gen=generator(0)
    )
    assert bool(behind.isfinite().all()) and not torch.equal(behind, found)


def test_clipping_with_noise_in_the_engine() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    quiet = ClipNoise(bound=1.0, noise_multiplier=0.0)
    found, _ = combine(RowView.of(rows), quiet, state=None, gen=generator(0))
    torch.testing.assert_close(found, torch.tensor([0.3, 0.9]))
    out = torch.empty(2)
    loud = ClipNoise(bound=1.0, noise_multiplier=1.0)
    noisy, _ = combine(RowView.of(rows), loud, state=None, gen=generator(0), out=out)
    assert noisy is out and not torch.equal(noisy, found)


def test_a_previous_result_is_the_state() -> None:
    rows, previous = randn(7, 4), randn(4, seed=1)
    rule = named_rule("centered-clipping", f=1, tau=0.5)
    found, state = combine(RowView.of(rows), rule, state=previous, gen=generator(0))
    apart = rows - previous
    direct = previous + (apart * (0.5 / apart.norm(dim=1, keepdim=True)).clamp(max=1)).mean(0)
    torch.testing.assert_close(found, direct)
    assert torch.equal(state, found) and state.data_ptr() != found.data_ptr()
    behind = Pipeline(pre=(NearestNeighborMixing(f=1),), rule=rule)
    mixed, _ = combine(RowView.of(rows), behind, state=previous, gen=generator(0))
    assert bool(mixed.isfinite().all()) and not torch.equal(mixed, found)


def test_codes_of_the_room_are_in_the_catalogue() -> None:
    from pathlib import Path

    import mithridate.aggregation
    import mithridate.numerics

    used: set[str] = set()
    for package in (mithridate.aggregation, mithridate.numerics):
        for path in Path(str(package.__file__)).parent.rglob("*.py"):
            used |= set(re.findall(r'"(MTH-\d{4})"', path.read_text()))
    assert {f"MTH-05{number}" for number in range(20, 27)} <= used <= set(CODES)


def test_dead_rows_beyond_what_a_pre_aggregator_bears_are_an_error() -> None:
    """The median alone bears a minority of them; neighbourhoods of n - f rows would hold dead ones and spread them."""
    rows = randn(9, 5)
    rows[:2] = NAN
    assert vector(rows, "median", None).isfinite().all()
    with pytest.raises(Misuse, match="2 of 9 rows hold NaN or infinity") as found:
        aggregate(rows, "median", pre=["nnm"])
    assert found.value.code == "MTH-0524"
    assert vector(rows, "median", 2, pre=["nnm"]).isfinite().all()


def test_what_is_no_method_or_buffer_is_an_error_that_says_so() -> None:
    """In a process of its own: types are checked before our code sees them in this one."""
    code = """
import torch
from mithridate import aggregate
from mithridate.aggregation.median import Median
from mithridate.aggregation.pre.nnm import NearestNeighborMixing
from mithridate.core.errors import Misuse
rows = torch.ones(5, 3)
for given in (dict(rule=None), dict(rule=Median), dict(pre=[3]), dict(pre=[NearestNeighborMixing]), dict(out=[1]),
              dict(out=rows.numpy()[0]), dict(rows=[{"w": torch.ones(2)}] * 5, out={"w": [0.0]})):
    try:
        aggregate(**dict(rows=rows, rule="median") | given)
    except Misuse as error:
        print(error.code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.split() == 4 * ["MTH-0110"] + 3 * ["MTH-0525"]


def test_one_pre_aggregator_needs_no_list() -> None:
    rows = randn(9, 5)
    assert torch.equal(vector(rows, "median", 2, pre="nnm"), vector(rows, "median", 2, pre=["nnm"]))


BUFFERS = {
    "shape that broadcasts": {"w": torch.empty(4, 2, 3, dtype=F64), "b": torch.empty(3, dtype=F64)},
    "other shape": {"w": torch.empty(4, dtype=F64), "b": torch.empty(3, dtype=F64)},
    "other type": {"w": torch.empty(2, 3, dtype=F64), "b": torch.empty(3)},
}


@pytest.mark.parametrize("out", BUFFERS.values(), ids=BUFFERS)
def test_buffers_by_name_fit_or_nothing_is_written(out: dict[str, Tensor]) -> None:
    rows = [{"w": randn(2, 3, seed=i), "b": randn(3, seed=i + 9)} for i in range(5)]
    with pytest.raises(Misuse) as found:
        aggregate(rows, "median", out=out)
    assert found.value.code == "MTH-0525"


def test_a_row_is_no_buffer() -> None:
    rows = [{"w": randn(2, 3, seed=i), "b": randn(3, seed=i + 9)} for i in range(5)]
    before = rows[0]["w"].clone()
    with pytest.raises(Misuse, match="in the memory of the rows"):
        aggregate(rows, "median", out=rows[0])
    assert torch.equal(rows[0]["w"], before)


def test_a_state_has_the_form_of_a_row() -> None:
    """The previous result of centered clipping counts, whatever the form of the rows and the order of its names."""
    rows = [{"w": randn(2, 3, seed=i), "b": randn(3, seed=i + 9)} for i in range(5)]
    last = {"b": 5 * randn(3, seed=50), "w": 5 * randn(2, 3, seed=51)}
    found = aggregate(rows, "centered-clipping", tau=0.5, state=last)
    flat = torch.stack([torch.cat([row["w"].flatten(), row["b"]]) for row in rows])
    wanted = vector(flat, "centered-clipping", None, tau=0.5, state=torch.cat([last["w"].flatten(), last["b"]]))
    assert isinstance(found, dict)
    assert torch.equal(torch.cat([found["w"].flatten(), found["b"]]), wanted)
    for bad in (torch.zeros(4, dtype=F64), torch.full((9,), NAN, dtype=F64)):
        with pytest.raises(Misuse, match="the state") as error:
            aggregate(flat, "centered-clipping", state=bad)
        assert error.value.code == "MTH-0525"


@pytest.mark.parametrize("rows", [torch.ones(5, 4).to_sparse(), torch.ones(5, 4, device="meta")])
def test_rows_without_dense_data_are_an_error(rows: Tensor) -> None:
    with pytest.raises(Misuse, match="rows are dense tensors") as found:
        aggregate(rows, "median")
    assert found.value.code == "MTH-0523"
