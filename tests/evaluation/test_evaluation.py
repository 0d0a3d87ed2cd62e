"""Judging victims and measuring alignment on networks whose answers are known."""

import pytest
import torch
from torch import nn

from mithridate.core.units import Pixels
from mithridate.data.examples import Examples
from mithridate.data.scenarios import Scenario
from mithridate.data.stores import ResidentStore
from mithridate.evaluation.alignment import Probe, alignment, alignment_probe
from mithridate.evaluation.outcome import judge, logits_of


class Mean(nn.Module):
    """Predicts class 1 for bright images and class 0 for dark ones."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[-10.0], [10.0]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.mean((1, 2, 3), keepdim=False)[:, None] - 0.5) @ self.weight.T


def examples(levels: list[int], labels: list[int]) -> Examples:
    pixels = torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8).contiguous()
    return Examples(name="grey", images=ResidentStore(pixels), labels=torch.tensor(labels), classes=("dark", "bright"))


def scenario(target: int, wanted: int) -> Scenario:
    return Scenario(
        name=f"s/{target}",
        targets=(target,),
        target_class=1 - wanted,
        adversarial_class=wanted,
        poison_ids=(0, 1),
        epsilon=Pixels(0.1),
    )


def test_a_hit_is_the_wanted_class_and_not_merely_a_wrong_one() -> None:
    test = examples([0, 255, 250], [0, 1, 0])
    found = judge(Mean(), test, [scenario(2, 1), scenario(0, 1)])
    assert [(t.predicted, t.hit) for t in found.targets] == [(1, True), (0, False)]
    assert (found.correct, found.tested) == (2, 3)
    assert found.targets[0].adversarial_probability > 0.99


def test_judging_restores_the_mode_and_runs_in_evaluation_mode() -> None:
    net = nn.Sequential(nn.Dropout(0.9), Mean()).train()
    data = examples([0, 255] * 40, [0, 1] * 40)
    assert torch.equal(logits_of(net, data), logits_of(net, data))
    assert net.training


def test_alignment_is_one_for_equal_batches_and_minus_one_for_opposed_ones() -> None:
    net = Mean()
    x = torch.full((3, 1, 8, 8), 0.6)
    ones, zeros = torch.ones(3, dtype=torch.long), torch.zeros(3, dtype=torch.long)
    same = Probe(poisons=x, poison_labels=ones, targets=x, adversarial_labels=ones)
    opposed = Probe(poisons=x, poison_labels=ones, targets=x, adversarial_labels=zeros)
    assert alignment(net, same) == pytest.approx(1)
    assert alignment(net, opposed) == pytest.approx(-1)
    assert net.weight.grad is None


def test_poisons_that_are_fitted_exactly_pull_nowhere() -> None:
    net = Mean()
    with torch.no_grad():
        net.weight.mul_(1e6)
    x = torch.ones(2, 1, 8, 8)
    ones, zeros = torch.ones(2, dtype=torch.long), torch.zeros(2, dtype=torch.long)
    assert alignment(net, Probe(poisons=x, poison_labels=ones, targets=x, adversarial_labels=zeros)) == 0.0


def test_the_probe_holds_the_poisoned_pixels() -> None:
    train, test = examples([0, 10, 20], [1, 1, 0]), examples([255], [1])
    poisoned = train.overlay(torch.tensor([0]), torch.full((1, 1, 8, 8), 51, dtype=torch.uint8))
    probe = alignment_probe(poisoned, test, scenario(0, 1))
    assert probe.poisons[:, 0, 0, 0].tolist() == pytest.approx([0.2, 10 / 255])
    assert probe.poison_labels.tolist() == [1, 1]
    assert probe.adversarial_labels.tolist() == [1]
