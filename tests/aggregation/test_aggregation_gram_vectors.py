"""Hand vectors of the specification (section 13) for every rule and pre-aggregator that works on inner products."""

import pytest
import torch

from mithridate.aggregation._bulyan import winners
from mithridate.aggregation._select import krum_scores
from mithridate.aggregation.aggregate import aggregate
from mithridate.aggregation.pre.arc import AdaptiveClipping
from mithridate.aggregation.pre.clipping import Clipping
from mithridate.aggregation.pre.nnm import NearestNeighborMixing
from mithridate.numerics.geometry import geometry, weighted
from mithridate.numerics.rng import generator
from mithridate.numerics.row_view import RowView

SIX = [(1, 0.2), (2.1, 1.3), (0.4, 2.2), (3.5, 2.9), (1.2, 1.1), (2, 2.4)]
X7 = torch.tensor([*SIX, (100, -100)], dtype=torch.float64)
X11 = torch.tensor([*SIX, (1.15, 0.23), (2.36, 1.22), (0.49, 2.03), (60, -60), (50, 50)], dtype=torch.float64)

HONEST = (1.7, 1.683333)
TIGHT = (1.34, 1.44)
VECTORS = [
    ("geometric-median", 1, {}, (1.918820, 1.363189)),
    ("geometric-median", 2, {}, (1.918820, 1.363189)),
    ("rfa", 1, {}, (1.721150, 1.316586)),
    ("rfa", 2, {}, (1.721150, 1.316586)),
    ("krum", 1, {}, (1.2, 1.1)),
    ("krum", 2, {}, (1.2, 1.1)),
    ("krum", 1, {"neighbours": "hetero"}, (2.1, 1.3)),
    ("krum", 2, {"neighbours": "hetero"}, (1.2, 1.1)),
    ("multi-krum", 1, {}, (1.425, 1.75)),
    ("multi-krum", 2, {}, (1.766667, 1.6)),
    ("multi-krum", 1, {"m": 6}, HONEST),
    ("multi-krum", 2, {"m": 5}, TIGHT),
    ("mda", 1, {}, HONEST),
    ("mda", 2, {}, TIGHT),
    ("smea", 1, {}, HONEST),
    ("smea", 2, {}, TIGHT),
    ("cge", 1, {}, HONEST),
    ("cge", 2, {}, TIGHT),
    ("cge", 2, {"reduce": "sum"}, (6.7, 7.2)),
    ("aksel", 1, {}, (1.575, 1.25)),
    ("aksel", 2, {}, (1.575, 1.25)),
    ("aksel", 1, {"keep": "n-f"}, HONEST),
    ("aksel", 2, {"keep": "n-f"}, TIGHT),
    ("centered-clipping", 1, {"tau": 2.0}, (1.213275, 0.816959)),
    ("centered-clipping", 2, {"tau": 2.0}, (1.213275, 0.816959)),
    ("centered-clipping", 1, {"tau": 2.0, "iterations": 3}, (1.855971, 1.374714)),
    ("bulyan", 1, {}, (0.866667, 1.533333)),
    ("multi-bulyan", 1, {}, (1.5, 1.75)),
]


@pytest.mark.parametrize(("rule", "f", "options", "expected"), VECTORS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_seven_rows(rule: str, f: int, options: dict, expected: tuple[float, float], dtype: torch.dtype) -> None:
    if rule == "bulyan" and dtype == torch.float32:
        pytest.skip("two windows are equally near the median (1.2 - 0.4 = 2 - 1.2), which rounding decides in float32")
    found = aggregate(X7.to(dtype), rule, f=f, **options)
    torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.float64), atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("rule", "expected"), [("multi-bulyan", (1.471429, 1.211429)), ("bulyan", (1.116667, 1.206667))]
)
def test_eleven_rows(rule: str, expected: tuple[float, float]) -> None:
    found = aggregate(X11, rule, f=2)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("rows", "f", "theta", "average", "expected"),
    [
        (X7, 1, 5, False, [4, 5, 1, 0, 2]),
        (X7, 1, 3, True, [4, 5, 1]),
        (X11, 2, 5, True, [4, 1, 8, 7, 6]),
        (X11, 2, 7, False, [4, 1, 8, 7, 6, 5, 0]),
    ],
)
def test_winners(rows: torch.Tensor, f: int, theta: int, average: bool, expected: list[int]) -> None:
    points = geometry(RowView.of(rows))
    rounds = winners(points.square_distances, points.alive, f=f, theta=theta, average=average)
    found, left = [], points.alive.clone()
    for done, weights in enumerate(rounds):
        scores = krum_scores(points.square_distances, left, max(1, len(rows) - done - f - 2))
        assert bool(weights[scores.argmin()] > 0) and int((weights > 0).sum()) == (
            max(1, len(rows) - done - f - 2) if average else 1
        )
        found.append(int(scores.argmin()))
        left[found[-1]] = False
    assert found == expected


SCORES = {
    (1, 4): [13.47, 8.19, 12.51, 25.65, 5.88, 8.65, 79570.45],
    (2, 3): [7.63, 4.49, 8.15, 15.55, 3.55, 6.05, 59587.8],
    (1, 5): [27.01, 12.71, 22.61, 39.19, 14.41, 14.49, 99660.21],
}


@pytest.mark.parametrize(("f", "k"), SCORES)
def test_krum_scores(f: int, k: int) -> None:
    points = geometry(RowView.of(X7))
    expected = torch.tensor(SCORES[f, k], dtype=torch.float64)
    torch.testing.assert_close(krum_scores(points.square_distances, points.alive, k), expected, atol=1e-8, rtol=0)


def mixed(stage, rows: torch.Tensor) -> torch.Tensor:
    view = RowView.of(rows)
    return weighted(view, stage.mix(geometry(view), generator(0, "test")))


def test_nnm_rows() -> None:
    one = torch.tensor([HONEST] * 6 + [(18.3, -15.35)], dtype=torch.float64)
    torch.testing.assert_close(mixed(NearestNeighborMixing(f=1), X7), one, atol=1e-6, rtol=0)
    near, far = TIGHT, (1.84, 1.98)
    two = torch.tensor([near, near, near, far, near, far, (21.56, -18.9)], dtype=torch.float64)
    torch.testing.assert_close(mixed(NearestNeighborMixing(f=2), X7), two, atol=1e-6, rtol=0)


def test_arc_rows() -> None:
    one = X7.clone()
    one[6] = torch.tensor([3.214032, -3.214032])
    torch.testing.assert_close(mixed(AdaptiveClipping(f=1), X7), one, atol=1e-6, rtol=0)
    two = X7.clone()
    two[6] = torch.tensor([2.209072, -2.209072])
    two[3] *= 3.124100 / two[3].norm()
    torch.testing.assert_close(mixed(AdaptiveClipping(f=2), X7), two, atol=1e-6, rtol=0)


def test_clipping_rows() -> None:
    expected = X7 * (2 / X7.norm(dim=1)).clamp(max=1)[:, None]
    torch.testing.assert_close(mixed(Clipping(), X7), expected)
    assert torch.equal(mixed(Clipping(bound=1e6), X7), X7)


def test_centered_clipping_goes_on_from_the_previous_result() -> None:
    """Three steps of one iteration, the result being the state, are one step of three iterations."""
    state = None
    for _ in range(3):
        state = aggregate(X7, "centered-clipping", f=1, tau=2.0, state=state)
    torch.testing.assert_close(state, aggregate(X7, "centered-clipping", f=1, tau=2.0, iterations=3))
