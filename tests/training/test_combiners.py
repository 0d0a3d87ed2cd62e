"""Aggregation rules by themselves: hand vectors, slow obvious twins, laws, and the promise of Krum on digits."""

from dataclasses import replace

import pytest
import torch
import training_kit as kit
from torch import Tensor

from mithridate.aggregation.adversaries.sign_flip_own import SignFlipOwn
from mithridate.aggregation.clip_noise import ClipNoise
from mithridate.aggregation.krum import Krum
from mithridate.core.errors import Misuse
from mithridate.data.sources import load
from mithridate.numerics.geometry import geometry
from mithridate.numerics.row_view import RowView
from mithridate.training.contracts import contract
from mithridate.training.loop import train
from mithridate.training.rows import Hostile, Rows
from mithridate.training.update import SGD


def chosen(rows: Tensor, f: int) -> int:
    weights, _ = Krum(f=f).weights(geometry(RowView.of(rows)), None)
    assert sorted(set(weights.tolist())) == [0.0, 1.0] and float(weights.sum()) == 1
    return int(weights.argmax())


def obvious_krum(rows: list[list[float]], f: int) -> int:
    def score(i: int) -> float:
        distances = sorted(
            sum((a - b) ** 2 for a, b in zip(rows[i], row, strict=True)) for j, row in enumerate(rows) if j != i
        )
        return sum(distances[: len(rows) - f - 2])

    return min(range(len(rows)), key=score)


@pytest.mark.parametrize("f", [0, 1, 3])
def test_krum_agrees_with_its_obvious_twin(f: int) -> None:
    for seed in range(60):
        gen = torch.Generator().manual_seed(seed)
        rows = torch.randn(2 * f + 3 + seed % 4, 5, generator=gen)
        assert chosen(rows, f) == obvious_krum(rows.double().tolist(), f), seed


@pytest.mark.parametrize(
    ("rows", "f", "winner"),
    [
        # n=5, f=1: two nearest neighbours. Scores 1+4, 1+1, 1+1, 1+4, huge: rows 1 and 2 tie, the lower index wins.
        ([[0.0], [1.0], [2.0], [3.0], [100.0]], 1, 1),
        # Scores 1.44+4, 0.64+1.44, 0.64+1.21, 1.21+3.61: row 2.
        ([[0.0], [1.2], [2.0], [3.1], [-50.0]], 1, 2),
        # f=0, n=3: one nearest neighbour each.
        ([[0.0, 0.0], [3.0, 4.0], [3.0, 5.0]], 0, 1),
    ],
)
def test_krum_by_hand(rows: list[list[float]], f: int, winner: int) -> None:
    assert chosen(torch.tensor(rows), f) == winner


def test_krum_follows_permutations_and_ignores_shift_and_scale() -> None:
    gen = torch.Generator().manual_seed(1)
    rows = torch.randn(9, 4, generator=gen, dtype=torch.float64)
    order = torch.randperm(9, generator=gen)
    assert order[chosen(rows[order], 2)] == chosen(rows, 2)
    assert chosen(3 * rows + 10, 2) == chosen(rows, 2) == chosen(-rows, 2)


def test_krum_never_takes_a_far_row() -> None:
    for seed in range(50):
        rows = torch.randn(11, 6, generator=torch.Generator().manual_seed(seed))
        rows[seed % 8 : seed % 8 + 4] += 1e6
        assert not seed % 8 <= chosen(rows, 4) < seed % 8 + 4


def test_krum_is_exact_for_long_rows_far_from_the_origin() -> None:
    """Distances of one part in a million of the norm: float32 inner products would lose them."""
    gen = torch.Generator().manual_seed(0)
    rows = torch.full((5, 200_000), 10.0) + torch.tensor([0.0, 1e-2, 2.1e-2, 3.3e-2, 5e-2])[:, None]
    rows += 1e-3 * torch.randn(rows.shape, generator=gen)
    assert chosen(rows, 1) == 1


@pytest.mark.parametrize(("n", "f"), [(4, 1), (2, 0), (10, 4)])
def test_krum_needs_enough_rows(n: int, f: int) -> None:
    with pytest.raises(Misuse, match=rf"MTH-0501.*f={f} needs at least {2 * f + 3} rows .*got {n}"):
        Krum(f=f).check(n)
    Krum(f=f).check(2 * f + 3)


def test_clip_weights_by_hand() -> None:
    prior = torch.tensor([0.5, 0.25, 0.25])
    weights, _ = ClipNoise(bound=2.0).weights(torch.tensor([1.0, 4.0, 0.0]), prior, None)
    assert weights.tolist() == [0.5, 0.125, 0.25]


def test_krum_stands_where_the_mean_falls() -> None:
    """Digits, seven workers, two of which send minus ten times their gradient."""
    data = load("digits")
    plan = contract("digits-mlp40", data, "mlp-w32")
    hostile = Rows(of="worker", count=7, hostile=Hostile(f=2, adversary=SignFlipOwn(scale=10.0)))

    def score(**stages: object) -> float:
        step = replace(plan.phases[0].step, update=SGD(lr=0.05), **stages)
        drop = replace(step.draw, batch=70, drop_last=True)
        phases = (replace(plan.phases[0], step=replace(step, draw=drop), epochs=6),)
        return kit.accuracy(train(replace(plan, phases=phases), 0), data.test)

    assert score() > 0.9
    assert score(rows=hostile, combine=Krum(f=2)) > 0.85
    assert not score(rows=hostile) > 0.3  # a network that overflowed to NaN has fallen too


def test_clipping_with_moderate_noise_learns_digits() -> None:
    data = load("digits")
    plan = contract("digits-mlp40", data, "mlp-w32")
    combine = ClipNoise(bound=1.0, noise_multiplier=0.5)
    step = replace(
        plan.phases[0].step, combine=combine, update=SGD(lr=0.5, momentum=0.0, nesterov=False, weight_decay=0.0)
    )
    model = train(replace(plan, phases=(replace(plan.phases[0], step=step, epochs=6),)), 0)
    assert kit.accuracy(model, data.test) > 0.85
