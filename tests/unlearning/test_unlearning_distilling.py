"""Distilling peers by hand: divergences, attention, teachers, the draw of a part, joined rows."""

import math
from dataclasses import replace

import pytest
import torch
from peers_kit import kit_of, poisoned, toy
from torch import nn

from mithridate.core.errors import Misuse
from mithridate.training._base import Batch, Clock, Context, Rng
from mithridate.unlearning._distillation import FORGET, Part, Scrubbed, TwoTeachers, attention, divergence
from mithridate.unlearning._layers import refresh
from mithridate.unlearning._training import joined
from mithridate.unlearning.heal import named_healer
from mithridate.unlearning.nad import places

HALF, SURE = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3.0), 0.0]])  # (1/2, 1/2) and (3/4, 1/4)


class Fixed(nn.Module):
    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(x), -1)


def batch_of(labels: list[int], **columns: torch.Tensor) -> Batch:
    n = len(labels)
    return Batch(torch.arange(n), torch.zeros(n, 1, 2, 2), torch.tensor(labels), columns)


def test_the_divergence_is_a_sum_over_classes():
    expected = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert divergence(HALF, SURE).item() == pytest.approx(expected, rel=1e-5)
    assert divergence(SURE, SURE).item() == pytest.approx(0.0, abs=1e-6)
    assert divergence(2 * HALF, 2 * SURE, 2.0).item() == pytest.approx(expected, rel=1e-5)


def test_suspects_follow_the_bad_teacher_and_others_the_good_one():
    loss = TwoTeachers(good=Fixed(SURE), bad=Fixed(HALF), temperature=1.0)
    found = loss.losses(Fixed(SURE), batch_of([0, 0], **{FORGET: torch.tensor([True, False])}))
    assert found.tolist() == pytest.approx([divergence(HALF, SURE).item(), 0.0], abs=1e-6)


def test_scrubbing_is_cross_entropy_and_divergence_with_a_sign():
    loss = Scrubbed(teacher=Fixed(HALF), alpha=0.5, temperature=2.0, sign=1.0)
    expected = -math.log(0.75) + 0.5 * 4 * divergence(HALF, SURE, 2.0).item()
    assert loss.losses(Fixed(SURE), batch_of([0])).item() == pytest.approx(expected, rel=1e-5)
    assert replace(loss, sign=-1.0).losses(Fixed(SURE), batch_of([0])).item() == pytest.approx(-expected, rel=1e-5)


def test_attention_sums_powers_over_channels_and_has_length_one():
    maps = torch.tensor([[[[1.0, 0.0]], [[-1.0, 2.0]]]])  # places: 1 + 1 = 2 and 0 + 4 = 4
    assert attention(maps, 2.0)[0].tolist() == pytest.approx([2 / math.sqrt(20), 4 / math.sqrt(20)])
    assert attention(torch.zeros(1, 3, 2, 2), 2.0).tolist() == [[0.0] * 4]


def test_maps_are_the_last_at_each_resolution():
    net, _ = poisoned(epochs=1)
    assert places(net, toy()) == ("net.norms.0", "net.norms.2")
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with pytest.raises(Misuse) as caught:
        places(flat, toy())
    assert caught.value.code == "MTH-0842"


def test_joined_rows_are_those_of_both_in_order():
    first, second = toy(5, seed=1), toy(7, seed=2)
    whole = joined(first, second, mark=torch.arange(12))
    every = torch.cat([first.images.gather(torch.arange(5)), second.images.gather(torch.arange(7))])
    assert torch.equal(whole.images.gather(torch.arange(12)), every)
    assert torch.equal(whole.labels, torch.cat([first.labels, second.labels]))
    assert list(whole.columns) == ["mark"]


def test_a_part_is_drawn_once_an_epoch_and_differently_in_each_phase():
    part, rng = Part(start=3, stop=10, batch=3), Rng(0, torch.device("cpu"))
    seen = []
    for clock in (Clock(0, 0.0), Clock(9, 1.0)):
        state = part.init(Context(toy(12), lambda x: x, torch.zeros(1), rng, clock))
        epoch = []
        for _ in range(part.steps_per_epoch(12)):
            index, weights, state = part.draw(state, rng)
            assert float(weights.sum()) == pytest.approx(1.0)
            epoch += index.tolist()
        assert sorted(epoch) == list(range(3, 10))
        seen.append(epoch)
    assert seen[0] != seen[1]
    assert part.smallest_batch(12) == 1


def test_a_refreshed_network_forgets_everything_and_names_what_it_cannot():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = nn.Parameter(torch.ones(2))
            self.linear = nn.Linear(2, 2)

    net = Odd()
    before = net.linear.weight.detach().clone()
    state = torch.random.get_rng_state()
    assert refresh(net, 1) == ("own",)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(net.linear.weight, before)


def test_bad_teaching_needs_no_labels_and_forgets():
    net, plan = poisoned()
    blank = replace(plan.data.select(range(12, 96)), labels=torch.zeros(84, dtype=torch.int64))
    kit = kit_of(net, plan, reference=blank, labelled=False)
    found = named_healer("bad-teacher", epochs=20, batch=32, lr=0.05).heal(kit, seed=0)
    accuracies = found.report["accuracies"]
    assert accuracies["suspects_after"] <= accuracies["suspects_before"] - 0.3
