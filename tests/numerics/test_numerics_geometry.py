"""Row views and geometry: every form of the rows, exact distances where float32 inner products fail, dead rows."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mithridate.core.errors import Misuse
from mithridate.numerics import _llvm, _passes
from mithridate.numerics.geometry import alive_rows, exact_products, geometry, refuse_dead, weighted
from mithridate.numerics.row_view import RowView

NAN, INF = float("nan"), float("inf")


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture(params=["code", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Both ways of every pass."""
    if request.param == "torch":
        monkeypatch.setattr(_passes, "available", lambda: False)
    elif not _llvm.available():
        pytest.skip("llvmlite is not installed")
    monkeypatch.setattr(_passes, "_WORTH", 1)
    return request.param


def exact_distances(rows: Tensor) -> Tensor:
    rows = rows.double()
    return torch.stack([(rows - row).square().sum(1) for row in rows])


def worst(found: Tensor, expected: Tensor) -> float:
    """The greatest relative error off the diagonal."""
    off = ~torch.eye(len(found), dtype=torch.bool)
    return float(((found - expected).abs() / expected)[off].max())


def weights_like(n: int = 12, d: int = 40_003) -> Tensor:
    """Rows of norm 1000 that are 0.06 apart, as weights of one model after a step at n workers."""
    centre = randn(d, seed=1)
    return (1e3 * centre / centre.norm())[None] + 0.0447 / d**0.5 * randn(n, d, seed=2)


def test_distances_of_weights_survive_float32(way: str) -> None:
    rows = weights_like()
    expected = exact_distances(rows)
    assert 0.055 < float(expected.max().sqrt()) < 0.07
    found = geometry(RowView.of(rows))
    assert worst(found.square_distances, expected) < 1e-4
    naive = rows @ rows.T  # the promise is not empty: plain products lose the distances altogether
    square = naive.diagonal()
    assert worst((square[:, None] + square - 2 * naive).clamp_min(0).double(), expected) > 0.5


@pytest.mark.parametrize("place", [0, 5, 11])
def test_distances_survive_an_outlier(place: int, way: str) -> None:
    rows = weights_like()
    rows[place] = 1e8 * randn(rows.shape[1], seed=3)
    honest = [row for row in range(12) if row != place]
    found = geometry(RowView.of(rows)).square_distances
    assert worst(found[honest][:, honest], exact_distances(rows[honest])) < 1e-4


def test_an_outlier_where_the_pivot_s_sample_does_not_look(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The full pass shows that the pivot was bad, and is repeated once."""
    rows = weights_like()
    rows[0] = rows[1:].mean(0)  # central in every sampled column
    rows[0, 1000:2000] += 1e6
    monkeypatch.setattr("mithridate.numerics.geometry._sampled", lambda view: rows[:, :900].double())
    found = geometry(RowView.of(rows)).square_distances[1:, 1:]
    assert worst(found, exact_distances(rows[1:])) < 1e-4


def test_rows_too_large_for_float32_products_are_alive(way: str) -> None:
    rows = randn(7, 5000)
    rows[2] *= 1e25
    found = geometry(RowView.of(rows))
    assert bool(found.alive.all())
    assert worst(found.square_distances, exact_distances(rows)) < 1e-4
    assert float(found.square_norms[2]) == pytest.approx(float(rows[2].double().square().sum()), rel=1e-9)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("column", [0, 2500, 4999])
def test_dead_rows_are_infinitely_far(bad: float, column: int, way: str) -> None:
    rows = randn(8, 5000)
    for dead in (0, 3):
        rows[dead, column] = bad
    view = RowView.of(rows)
    found, living = geometry(view), [1, 2, 4, 5, 6, 7]
    expected_alive = [False, True, True, False, True, True, True, True]
    assert found.alive.tolist() == alive_rows(view).tolist() == expected_alive
    assert worst(found.square_distances[living][:, living], exact_distances(rows[living])) < 1e-4
    assert found.square_distances[0].tolist() == [0.0] + [INF] * 7
    assert found.square_norms[[0, 3]].tolist() == [INF, INF]
    assert float(found.centred[3].abs().max()) == 0


def test_all_rows_may_be_dead(way: str) -> None:
    found = geometry(RowView.of(torch.full((3, 2000), NAN)))
    assert not found.alive.any() and bool(found.basis.isfinite().all())


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 9), st.integers(1, 50), st.integers(0, 1 << 30))
def test_inner_products_are_those_of_the_rows(n: int, d: int, seed: int) -> None:
    rows = randn(n, d, seed=seed, dtype=torch.float64) + 3
    extra = randn(2, d, seed=seed + 1, dtype=torch.float64)
    points = geometry(RowView.of(rows), extra=extra)
    everything = torch.cat([rows, extra])
    torch.testing.assert_close(points.square_distances, exact_distances(everything), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(points.square_norms, everything.square().sum(1), rtol=1e-9, atol=1e-9)
    a = randn(4, n + 2, seed=seed + 2, dtype=torch.float64)
    a[2] = 0
    mixed = points.mixed(a)
    direct = (a @ everything)[[0, 1, 3]]
    torch.testing.assert_close(mixed.square_distances[[0, 1, 3]][:, [0, 1, 3]], exact_distances(direct))
    torch.testing.assert_close(mixed.square_norms[[0, 1, 3]], direct.square().sum(1))
    assert mixed.alive.tolist() == [True, True, False, True] and mixed.m == 4
    again = mixed.mixed(torch.tensor([[0.5, 0.5, 0, 0]], dtype=torch.float64))
    torch.testing.assert_close(again.square_norms, direct[:2].mean(0).square().sum()[None])


def test_points_about_the_pivot_take_weights_that_sum_to_one(way: str) -> None:
    rows = randn(6, 3000, dtype=torch.float64)
    points = geometry(RowView.of(rows))
    w = torch.tensor([0.5, 0.25, 0.25, 0, 0, 0], dtype=torch.float64)
    square = points.centred.diagonal() - 2 * points.centred @ w + w @ points.centred @ w
    torch.testing.assert_close(square, (rows - w @ rows).square().sum(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_both_ways_and_every_type_agree(dtype: torch.dtype, way: str) -> None:
    rows = randn(7, 2005, dtype=dtype)
    extra = randn(1, 2005, seed=4, dtype=dtype)
    points = geometry(RowView.of(rows), extra=extra)
    everything = torch.cat([rows, extra]).double()
    torch.testing.assert_close(points.square_distances, exact_distances(everything), rtol=1e-5, atol=1e-3)
    w = randn(8, 7, seed=5, dtype=torch.float64)
    found = weighted(RowView.of(rows), w)
    assert found.dtype == dtype
    torch.testing.assert_close(found, (w @ rows.double()).to(dtype), rtol=2e-2, atol=1e-4)
    into = torch.empty(8, 2005, dtype=dtype)
    assert weighted(RowView.of(rows), w, into) is into and torch.equal(into, found)


def test_weights_of_zero_leave_dead_rows_unread(way: str) -> None:
    rows = randn(5, 2000)
    rows[1] = NAN
    w = torch.tensor([[0.5, 0, 0.5, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.float64)
    found = weighted(RowView.of(rows), w)
    torch.testing.assert_close(found, torch.stack([(rows[0] + rows[2]) / 2, torch.zeros(2000)]))
    assert torch.equal(weighted(RowView.of(rows), torch.eye(5, dtype=torch.float64)[3:4])[0], rows[3])


def test_bits_depend_on_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_passes, "_WORTH", 1)
    monkeypatch.setattr(_passes, "_JOB", 1024)
    rows, threads = RowView.of(randn(9, 10_000)), torch.get_num_threads()
    w = torch.rand(9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected, mixed = geometry(rows).basis, weighted(rows, w)
    try:
        torch.set_num_threads(3)
        assert torch.equal(geometry(rows).basis, expected)
        assert torch.equal(weighted(rows, w), mixed)
    finally:
        torch.set_num_threads(threads)


def test_products_are_exact_whatever_the_caller_allows() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with exact_products():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_dead_rows_beyond_f_are_named() -> None:
    dead = torch.tensor([False, True, False, True])
    refuse_dead(dead, 2, "median")
    with pytest.raises(Misuse, match=r"MTH-0524.*2 of 4 rows hold NaN or infinity \(rows 1, 3\), median bears 1"):
        refuse_dead(dead, 1, "median")


# Row views


def parameters(seed: int) -> dict[str, Tensor]:
    conv = randn(6, 4, 3, 3, seed=seed).contiguous(memory_format=torch.channels_last)
    return {"conv": conv, "bias": randn(6, seed=seed + 100), "scale": randn(1, seed=seed + 200).squeeze()}


def test_parameter_dicts_come_back_as_they_were(way: str) -> None:
    rows = [parameters(seed) for seed in range(5)]
    view = RowView.of(rows)
    assert (view.n, view.d, view.dense) == (5, 6 * 36 + 6 + 1, None)
    w = torch.full((1, 5), 0.2, dtype=torch.float64)
    found = view.like(weighted(view, w)[0])
    assert isinstance(found, dict)
    for name in rows[0]:
        torch.testing.assert_close(found[name], torch.stack([row[name] for row in rows]).mean(0))
    one = view.like(view.row(2))
    assert isinstance(one, dict) and all(torch.equal(one[name], rows[2][name]) for name in one)


def test_channels_last_weights_are_not_copied() -> None:
    rows = [parameters(seed) for seed in range(3)]
    view = RowView.of(rows)
    pieces = [panel.rows for panel in view.panels(200)]
    assert [len(piece) for piece in pieces] == [3, 0]
    assert [piece.data_ptr() for piece in pieces[0]] == [row["conv"].data_ptr() for row in rows]


def test_mixed_layouts_are_read_in_the_right_order() -> None:
    first, second = parameters(0), {**parameters(1), "conv": parameters(1)["conv"].contiguous()}
    view = RowView.of([first, second])
    found = view.like(view.row(1))
    assert isinstance(found, dict) and torch.equal(found["conv"], second["conv"])


def test_blocks_are_the_columns_of_every_form() -> None:
    rows = randn(4, 300)
    dicts = [{"a": row[:7].view(7, 1), "b": row[7:200].view(193), "c": row[200:]} for row in rows]
    for form in (rows, list(rows), dicts, rows.T.contiguous().T):
        view = RowView.of(form)
        found = torch.cat([view.block(*ends).clone() for ends in view.segments(64)], dim=1)
        assert torch.equal(found, rows)
        assert torch.equal(view.block(5, 9, torch.float64), rows[:, 5:9].double())
        assert torch.equal(view.only([2, 0]).block(0, 300), rows[[2, 0]])
        assert torch.equal(view.row(3), rows[3])
    dense = RowView.of(rows)
    assert dense.block(1, 3).data_ptr() == rows[:, 1:].data_ptr()
    assert dense.shares_memory(rows[2]) and not dense.shares_memory(rows.clone())


def test_panels_cover_the_columns_once() -> None:
    rows = [{"a": randn(3), "b": randn(50), "c": randn(2), "d": randn(4), "e": randn(60)} for _ in range(2)]
    panels = list(RowView.of(rows).panels(10))
    assert [(panel.start, panel.stop, len(panel.rows)) for panel in panels] == [
        (0, 3, 0),
        (3, 53, 2),
        (53, 59, 0),
        (59, 119, 2),
    ]


ONE = torch.ones(3)
REFUSED = [
    ([], "MTH-0520.*0 rows"),
    (torch.ones(0, 3), "MTH-0520.*0 rows"),
    (torch.ones(3, 0), "MTH-0521.*the 3 rows have dimension 0"),
    ([{}, {}], "MTH-0521.*the 2 rows have dimension 0"),
    (torch.ones(3), r"MTH-0522.*two dimensions \(n, d\), got shape \(3,\)"),
    ([ONE, torch.ones(4)], r"MTH-0522.*row 1 has the shape \(4,\), row 0 \(3,\)"),
    ([ONE, ONE.double()], r"MTH-0522.*row 1 has the type torch.float64, row 0 torch.float32"),
    ([ONE, torch.ones(3, device="meta")], "MTH-0522.*row 1 is on the device meta, row 0 cpu"),
    ([ONE, [1.0]], "MTH-0522.*row 1 is a list, row 0 Tensor"),
    ([{"w": ONE}, {"v": ONE}], r"MTH-0522.*row 1 has the names 1 \(v, w differ\), row 0 1"),
    ([{"w": ONE}, ONE], "MTH-0522.*row 1 is a Tensor, row 0 a mapping"),
    ([{"w": ONE}, {"w": 1.0}], "MTH-0522.*row 1 has under 'w' a float, row 0 a Tensor"),
    ([{"w": ONE, "v": ONE.double()}] * 2, "MTH-0522.*row 0 has the type of 'v' torch.float64, row 0 torch.float32"),
    ([{"w": ONE}, {"w": torch.ones(1)}], "MTH-0522.*row 1 has the shape of 'w'"),
    (torch.ones(2, 3, dtype=torch.int64), "MTH-0523.*got torch.int64"),
]


@pytest.mark.parametrize(("rows", "message"), REFUSED)
def test_rows_that_do_not_fit_together_are_named(rows: object, message: str) -> None:
    with pytest.raises(Misuse, match=message):
        RowView.of(rows)  # type: ignore[arg-type]


def test_gradients_are_not_followed() -> None:
    rows = [randn(30, seed=seed).requires_grad_() for seed in range(3)]
    found = weighted(RowView.of(rows), torch.ones(1, 3, dtype=torch.float64))
    assert not found.requires_grad
