"""Laws that the rules on inner products obey: symmetries, special cases, and what non-finite rows may not do."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mithridate.aggregation.aggregate import aggregate, named_rule
from mithridate.core.codes import CODES
from mithridate.core.errors import Misuse
from mithridate.numerics.rng import generator

OPTIONS: dict[str, dict[str, object]] = {
    "krum": {},
    "multi-krum": {},
    "bulyan": {},
    "multi-bulyan": {},
    "multi-bulyan-ext": {},
    "geometric-median": {},
    "rfa": {},
    "mda": {},
    "smea": {},
    "caf": {},
    "cge": {},
    "centered-clipping": {"tau": 1.0},
    "monna": {},
    "aksel": {},
    "dnc": {},
}
RULES = tuple(OPTIONS)
ABOUT_THE_ORIGIN = ("rfa", "cge", "centered-clipping")  # these know where zero is
WITH_A_LENGTH = ("rfa", "centered-clipping")  # these know how long one is
TYING = ("bulyan", "mda")
"""The lowest index decides on any input: Bulyan's last rounds score by the nearest row alone, which is mutual, and the
subsets that share the pair which is their diameter are many."""
BY_COLUMNS = ("bulyan", "multi-bulyan", "multi-bulyan-ext", "aksel")
LEAST = {"krum": (2, 3), "multi-krum": (2, 3), "bulyan": (4, 3), "multi-bulyan": (4, 3), "multi-bulyan-ext": (4, 3)}

seeds = st.integers(0, 10**6)
quick = settings(max_examples=12, deadline=None)


def drawn(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=generator(seed, "test", "rows"), dtype=torch.float64)


def result(rule: str, rows: torch.Tensor, f: int = 2) -> torch.Tensor:
    found = aggregate(rows, rule, f=f, **OPTIONS[rule])
    assert isinstance(found, torch.Tensor)
    return found


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in TYING])
@quick
@given(seed=seeds)
def test_the_order_of_rows_does_not_matter(rule: str, seed: int) -> None:
    rows = drawn(11, 5, seed)
    order = torch.randperm(11, generator=generator(seed, "test", "order"))
    if rule == "monna":  # the pivot stays in its place
        order = torch.cat([torch.tensor([0]), order[order != 0]])
    close(result(rule, rows[order]), result(rule, rows))


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in ABOUT_THE_ORIGIN])
@quick
@given(seed=seeds)
def test_shifting_all_rows_shifts_the_result(rule: str, seed: int) -> None:
    rows, shift = drawn(11, 5, seed), 50 * drawn(1, 5, seed + 1)[0]
    close(result(rule, rows + shift), result(rule, rows) + shift)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in WITH_A_LENGTH])
@quick
@given(seed=seeds, scale=st.floats(1e-3, 1e3))
def test_scaling_all_rows_scales_the_result(rule: str, seed: int, scale: float) -> None:
    rows = drawn(11, 5, seed)
    torch.testing.assert_close(result(rule, scale * rows), scale * result(rule, rows), rtol=1e-6, atol=1e-7 * scale)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in BY_COLUMNS])
@quick
@given(seed=seeds)
def test_turning_all_rows_turns_the_result(rule: str, seed: int) -> None:
    rows = drawn(11, 5, seed)
    turn = torch.linalg.qr(drawn(5, 5, seed + 1))[0]
    close(result(rule, rows @ turn), result(rule, rows) @ turn)


@pytest.mark.parametrize("rule", RULES)
@quick
@given(seed=seeds)
def test_the_order_of_coordinates_does_not_matter(rule: str, seed: int) -> None:
    rows = drawn(11, 6, seed)
    order = torch.randperm(6, generator=generator(seed, "test", "order"))
    close(result(rule, rows[:, order]), result(rule, rows)[order])


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "centered-clipping"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_identical_rows_give_that_row(rule: str, dtype: torch.dtype) -> None:
    row = drawn(1, 6, 0)[0].to(dtype)
    torch.testing.assert_close(
        result(rule, row.repeat(11, 1)), row, rtol=2e-3 if dtype.itemsize == 2 else 1e-6, atol=1e-6
    )


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("other", ["float32", "list", "dict"])
def test_every_form_of_the_rows_gives_the_same_result(rule: str, other: str) -> None:
    rows = drawn(11, 12, 3)
    expected = result(rule, rows)
    if other == "float32":
        torch.testing.assert_close(result(rule, rows.float()).double(), expected, rtol=1e-4, atol=1e-5)
    elif other == "list":
        close(aggregate(list(rows.clone()), rule, f=2, **OPTIONS[rule]), expected)
    else:
        found = aggregate([{"a": row[:4].view(2, 2), "b": row[4:]} for row in rows], rule, f=2, **OPTIONS[rule])
        assert isinstance(found, dict)
        close(torch.cat([found["a"].reshape(-1), found["b"]]), expected)


@pytest.mark.parametrize("rule", RULES)
def test_rows_are_not_written_to_and_the_result_is_no_view_of_them(rule: str) -> None:
    rows = drawn(11, 5, 4)
    before = rows.clone()
    found = result(rule, rows)
    found.zero_()
    assert torch.equal(rows, before)


@pytest.mark.parametrize("rule", ["mda", "smea", "cge", "caf", "monna", "dnc", "geometric-median"])
@quick
@given(seed=seeds, n=st.integers(1, 8))
def test_without_liars_the_result_is_the_mean(rule: str, seed: int, n: int) -> None:
    rows = drawn(n, 4, seed)
    if rule == "geometric-median":  # but for this one, whose f only counts what is not finite
        rows = torch.cat([rows, -rows, 0 * rows[:1]]) + 7
    close(result(rule, rows, f=0), rows.mean(0))


@quick
@given(seed=seeds, n=st.integers(1, 8))
def test_mixing_without_liars_makes_every_row_the_mean(seed: int, n: int) -> None:
    rows = drawn(n, 4, seed)
    close(aggregate(rows, "cge", f=0, pre=["nnm"]), rows.mean(0))
    close(aggregate(rows, "cge", f=0, pre=["arc"]), rows.mean(0))


@quick
@given(seed=seeds)
def test_krum_gives_a_row_and_multi_krum_of_one_is_krum(seed: int) -> None:
    rows = drawn(9, 4, seed)
    for neighbours in ("2017", "hetero"):
        found = aggregate(rows, "krum", f=3, neighbours=neighbours)
        assert bool((rows == found).all(1).any())
        assert torch.equal(aggregate(rows, "multi-krum", f=3, m=1, neighbours=neighbours), found)


@pytest.mark.parametrize("rule", ["bulyan", "multi-bulyan", "multi-bulyan-ext"])
@settings(max_examples=30, deadline=None)
@given(seed=seeds, size=st.floats(-6, 12), same=st.booleans(), f=st.integers(1, 2))
def test_bulyan_leaves_the_honest_range_by_less_than_its_width(
    rule: str, seed: int, size: float, same: bool, f: int
) -> None:
    """Per coordinate: the median of the chosen is inside, and the values nearest to it are nearer than honest ones."""
    n = 4 * f + 3
    honest, liars = drawn(n - f, 5, seed), drawn(1 if same else f, 5, seed + 1).expand(f, 5)
    liars = honest.mean(0) + 10**size * liars
    found = result(rule, torch.cat([liars, honest]), f)
    low, high = honest.min(0).values, honest.max(0).values
    assert bool((found > 2 * low - high).all() and (found < 2 * high - low).all())


def test_bulyan_may_leave_the_honest_range() -> None:
    """By hand: the liar at 13 is nearer to the median of the chosen, 5, than the row at -9."""
    rows = torch.tensor([[13.0], [5], [-9], [-9], [-9], [5], [5]], dtype=torch.float64)
    close(result("bulyan", rows, 1), torch.tensor([23 / 3], dtype=torch.float64))


SELECTING = ("krum", "multi-krum", "bulyan", "multi-bulyan", "multi-bulyan-ext", "mda", "smea", "caf", "cge", "monna")
LARGE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "1e30": 1e30}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("value", LARGE)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("whole", [True, False])
def test_f_rows_of_anything_leave_the_result_finite(rule: str, value: str, dtype: torch.dtype, whole: bool) -> None:
    """Selection rules choose as if the rows were far away but finite."""
    for places in ([9, 10], [3, 8], [5]):
        rows = drawn(11, 6, 8).to(dtype)
        far = rows.clone()
        if whole:
            rows[places] = LARGE[value]
        else:
            rows[places, 2] = LARGE[value]
        far[places] = 1e6 * torch.arange(1, 7, dtype=dtype) * torch.tensor([[1], [-2]], dtype=dtype)[: len(places)]
        found = result(rule, rows)
        assert bool(found.isfinite().all())
        # liars that are copies win Bulyan's last rounds, in which the nearest row is all that counts
        if rule in SELECTING and (value != "1e30" or (whole and rule != "bulyan")):
            torch.testing.assert_close(found, result(rule, far), rtol=1e-5, atol=1e-5)
        honest = torch.cat([row[None] for place, row in enumerate(rows) if place not in places])
        assert float(found.abs().max()) <= 3 * float(honest.abs().max())


@pytest.mark.parametrize("rule", RULES)
def test_more_dead_rows_than_f_are_an_error_that_names_them(rule: str) -> None:
    rows = drawn(11, 6, 8)
    rows[[3, 5, 8]] = math.nan
    with pytest.raises(Misuse, match="rows 3, 5, 8"):
        result(rule, rows)


@pytest.mark.parametrize("stage", ["nnm", "bucketing", "clipping", "arc"])
@pytest.mark.parametrize("rule", ["krum", "geometric-median", "mda", "centered-clipping", "multi-krum", "aksel"])
@pytest.mark.parametrize("value", LARGE)
def test_dead_rows_stay_dead_behind_pre_aggregators(stage: str, rule: str, value: str) -> None:
    rows = drawn(23, 6, 8)
    rows[[3, 9]] = LARGE[value]
    found = aggregate(rows, rule, f=2, pre=[stage], **OPTIONS[rule])
    honest = torch.cat([rows[:3], rows[4:9], rows[10:]])
    assert float(found.abs().max()) <= 3 * float(honest.abs().max())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("f", [0, 1, 3])
def test_one_row_too_few_is_refused_with_the_numbers(rule: str, f: int) -> None:
    slope, offset = LEAST.get(rule, (2, 1))
    least = slope * f + offset
    assert bool(result(rule, drawn(least, 4, 0), f).isfinite().all())
    if least > 1:
        with pytest.raises(Misuse, match=rf"f={f} needs at least {least} rows .*got {least - 1}"):
            result(rule, drawn(least - 1, 4, 0), f)


@pytest.mark.parametrize(
    ("rule", "options", "code", "words"),
    [
        ("multi-krum", {"m": 9}, "MTH-0540", "at most n - f = 8 of n=10 rows with f=2, got m=9"),
        ("monna", {"pivot": 10}, "MTH-0542", "from 0 to 9, got 10"),
        ("dnc", {"factor": 5.0}, "MTH-0543", "c f = 10 rows per draw"),
    ],
)
def test_impossible_options_are_refused(rule: str, options: dict[str, object], code: str, words: str) -> None:
    with pytest.raises(Misuse) as caught:
        aggregate(drawn(10, 3, 0), rule, f=2, **options)
    assert caught.value.code == code and words in caught.value.message and code in CODES


def test_a_dead_pivot_is_refused() -> None:
    rows = drawn(7, 3, 0)
    rows[4, 1] = math.nan
    with pytest.raises(Misuse, match=r"MTH-0542.*row 4"):
        aggregate(rows, "monna", f=1, pivot=4)


@pytest.mark.parametrize("n", range(1, 14))
@pytest.mark.parametrize("f", [0, 1, 2])
def test_buckets_without_an_honest_majority_are_refused_with_the_size_that_works(n: int, f: int) -> None:
    stage = named_rule("krum", f=0, pre=["bucketing"]).pre[0]  # type: ignore[attr-defined]
    for s in range(1, 8):
        made = type(stage)(f=f, s=s)
        if f < math.ceil(n / s) / 2:
            made.check(n)
        else:
            with pytest.raises(Misuse, match="MTH-0544") as caught:
                made.check(n)
            if caught.value.hint.startswith("s="):
                type(stage)(f=f, s=int(caught.value.hint.split("=")[1].split()[0])).check(n)


def test_the_codes_of_these_rules_are_in_the_catalogue() -> None:
    assert {f"MTH-054{k}" for k in range(5)} <= CODES.keys()
