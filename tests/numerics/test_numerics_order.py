"""Order statistics: networks by the 0-1 principle, statistics against sorting, machine code against torch by bits."""

from collections.abc import Iterator
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mithridate.numerics import _kernels, _llvm, _passes
from mithridate.numerics import order as order_module
from mithridate.numerics.order import Closest, Median, Statistic, Trimmed, order_pass, order_statistic
from mithridate.numerics.ranks import batcher, needed_ranks, network
from mithridate.numerics.row_view import RowView

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def statistics_of(n: int) -> list[Statistic]:
    f = (n - 1) // 2
    found: list[Statistic] = [Median(), Median("lower"), Median("upper"), Trimmed(0), Trimmed(f), Trimmed(f // 2)]
    for k in {1, n // 2 + 1, n - f, n}:
        found += [Closest(k), Closest(k, "trimmed", f // 2)]
    return found


def obvious(column: list[float], statistic: Statistic) -> float:
    s = sorted(column)
    n = len(s)
    if isinstance(statistic, Median):
        low, high = s[(n - 1) // 2], s[n // 2]
        return {"lower": low, "upper": high, "mean": low / 2 + high / 2}[statistic.even]
    if isinstance(statistic, Trimmed):
        kept = s[statistic.f : n - statistic.f]
        return sum(kept) / len(kept)
    centre = obvious(s, Median() if statistic.centre == "median" else Trimmed(statistic.f))
    nearest = sorted(s, key=lambda value: (abs(value - centre), value))[: statistic.k]
    return sum(nearest) / statistic.k


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if not _llvm.available():
        pytest.skip("llvmlite is not installed")
    monkeypatch.setattr(_passes, "_WORTH", 1)
    return


def in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_passes, "available", lambda: False)


@pytest.mark.parametrize("n", range(1, 12))
def test_networks_sort_every_sequence_of_zeros_and_ones(n: int) -> None:
    bits = torch.tensor(list(product((0, 1), repeat=n))).T.contiguous()
    wires = list(bits)
    pairs, order = batcher(tuple(range(n)))
    for low, high in pairs:
        wires[low], wires[high] = torch.minimum(wires[low], wires[high]), torch.maximum(wires[low], wires[high])
    assert torch.equal(torch.stack([wires[wire] for wire in order]), bits.sort(0).values)


def test_networks_have_the_known_sizes_and_the_median_needs_fewer() -> None:
    assert [len(batcher(tuple(range(n)))[0]) for n in (11, 25, 51)] == [37, 138, 408]
    sizes = [len(network(n, needed_ranks(n, Median()))[0]) for n in (11, 25, 51)]
    assert sizes == [31, 113, 334]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 20), st.integers(0, 1 << 30), st.booleans())
def test_statistics_are_what_sorting_says(n: int, seed: int, grid: bool) -> None:
    rows = randn(n, 3, seed=seed, dtype=torch.float64)
    rows = (2 * rows).round() if grid else rows  # a grid has equal values and equal distances
    for statistic in statistics_of(n):
        found = order_statistic(RowView.of(rows), statistic)
        expected = torch.tensor([obvious(column, statistic) for column in rows.T.tolist()], dtype=torch.float64)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [1, 2, 9, 24])
def test_machine_code_gives_the_bits_of_torch(
    n: int, dtype: torch.dtype, native: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lengths that are no multiple of a register, and values that are not finite."""
    rows = randn(n, 3001, dtype=dtype)
    if n > 4:
        rows[1, 7], rows[2, 2999], rows[3, 3000] = float("nan"), float("inf"), -float("inf")
    view = RowView.of(rows)
    for statistic in statistics_of(n)[::2] if n > 9 else statistics_of(n):
        found, alive = order_pass(view, statistic)
        with monkeypatch.context() as patch:
            in_torch(patch)
            expected, alive_expected = order_pass(view, statistic)
        assert found.dtype == dtype
        assert torch.equal(found, expected), statistic
        assert alive.tolist() == alive_expected.tolist() == [not (n > 4 and 1 <= row <= 3) for row in range(n)]


def test_machine_code_is_used(native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch is not even asked for columns that a register can hold."""

    def never(*_: object) -> None:
        raise AssertionError

    rows = RowView.of(randn(5, 2000))
    expected = order_statistic(rows, Trimmed(1))
    monkeypatch.setattr(order_module, "_of_block", never)
    assert torch.equal(order_statistic(rows, Trimmed(1)), expected)


def test_long_networks_are_left_to_sorting() -> None:
    rows = randn(70, 300, seed=1)
    torch.testing.assert_close(order_statistic(RowView.of(rows), Median()), rows.quantile(0.5, dim=0))


def test_few_columns_are_not_worth_machine_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_passes, "_seen", {})
    view = RowView.of(randn(3, 1 << 15))
    asked = [_passes.worthwhile(view, 0, "here") for _ in range(5)]
    assert asked == [False, False, False, _llvm.available(), _llvm.available()]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_f_values_of_a_column_may_be_anything(bad: float) -> None:
    honest = randn(7, 40, dtype=torch.float64)
    rows = torch.cat([honest, torch.full((3, 40), bad, dtype=torch.float64)])[torch.randperm(10)]
    for statistic in (Median(), Trimmed(3), Closest(7), Closest(7, "trimmed", 3)):
        found = order_statistic(RowView.of(rows), statistic)
        inside = (found >= honest.min(0).values) & (found <= honest.max(0).values)
        if isinstance(statistic, Closest):  # bounds hold for the window's values, of which f may be near lies
            assert bool(found.isfinite().all()) and float(found.abs().max()) < 10
        else:
            assert bool(inside.all()), statistic


def test_nan_counts_as_the_greatest_value() -> None:
    rows = torch.tensor([[1.0, 1.0], [2.0, float("nan")], [3.0, 3.0]])
    assert order_statistic(RowView.of(rows), Median()).tolist() == [2.0, 3.0]


def test_a_window_is_never_corrected_by_subtraction() -> None:
    rows = torch.tensor([[1e8], [1.0], [1.5], [2.0], [-1e8], [2.5], [float("inf")]])
    assert order_statistic(RowView.of(rows), Closest(4)).tolist() == [1.75]
    assert order_statistic(RowView.of(rows), Trimmed(2)).tolist() == [(1.5 + 2 + 2.5) / 3]


@pytest.mark.parametrize("code", [True, False])
def test_mixtures_are_those_of_the_matrix(code: bool, native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    if not code:
        in_torch(monkeypatch)
    rows = randn(9, 2050)
    rows[4] = float("nan")
    mixing = torch.rand(7, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mixing[:, 4] = 0
    mixing[5] = 0  # a dead mixture: +infinity
    for statistic in (Median(), Trimmed(1), Closest(3)):
        mixed = mixing[:, [0, 1, 2, 3, 5, 6, 7, 8]] @ rows[[0, 1, 2, 3, 5, 6, 7, 8]].double()
        mixed[5] = float("inf")
        expected = order_statistic(RowView.of(mixed), statistic)
        found = order_statistic(RowView.of(rows), statistic, mixing=mixing)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_bits_depend_on_neither_jobs_nor_blocks_nor_threads(native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = RowView.of(randn(9, 5000))
    mixing = torch.rand(6, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected, mixed = order_statistic(rows, Trimmed(2)), order_statistic(rows, Trimmed(2), mixing=mixing)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        for width in (160, 1024):
            monkeypatch.setattr(_passes, "_JOB", width)
            monkeypatch.setattr(_passes, "_MIXED_JOB", width)
            assert torch.equal(order_statistic(rows, Trimmed(2)), expected)
            assert torch.equal(order_statistic(rows, Trimmed(2), mixing=mixing), mixed)
    finally:
        torch.set_num_threads(threads)
    in_torch(monkeypatch)
    monkeypatch.setattr(order_module, "_WIDTH", 333)
    assert torch.equal(order_statistic(rows, Trimmed(2)), expected)


def test_every_form_of_the_rows_gives_the_same_bits(native: None) -> None:
    rows = randn(6, 4003)
    shapes = {"conv": (20, 10, 3, 3), "bias": (3,), "head": (2000,), "scale": (200,)}
    dicts = []
    for row in rows:
        parts = row.split([torch.Size(shape).numel() for shape in shapes.values()])
        dicts.append({name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)})
    expected = order_statistic(RowView.of(rows), Closest(4))
    forms = (list(rows), dicts, rows.T.contiguous().T, torch.cat([rows, rows], 1)[:, :4003])
    for form in forms:
        assert torch.equal(order_statistic(RowView.of(form), Closest(4)), expected)


def test_half_types_are_computed_in_float32(native: None) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        rows = randn(7, 2000, dtype=dtype)
        found = order_statistic(RowView.of(rows), Trimmed(1))
        assert torch.equal(found, order_statistic(RowView.of(rows.float()), Trimmed(1)).to(dtype))


def test_a_thread_that_fails_is_heard() -> None:
    threads = torch.get_num_threads()

    def work(index: int) -> None:
        if index == 2:
            raise ValueError(index)

    try:
        torch.set_num_threads(3)
        with pytest.raises(ValueError, match="2"):
            _llvm.in_threads(work, 5)
    finally:
        torch.set_num_threads(threads)


def test_without_the_processor_s_features_code_is_made_all_the_same(
    native: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_kernels, "target", lambda: _llvm.Target("", "", 16, half=False))
    _kernels.statistic_kernel.cache_clear()
    rows = RowView.of(randn(8, 1500, seed=5))
    found = order_statistic(rows, Median())
    _kernels.statistic_kernel.cache_clear()
    in_torch(monkeypatch)
    assert torch.equal(found, order_statistic(rows, Median()))
