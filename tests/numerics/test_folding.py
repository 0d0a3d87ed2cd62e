"""Folding frozen norms changes nothing, and is not done where it would."""

import pytest
import torch
from small_nets import NETS, NORMS, batch, built
from torch import nn
from torch.func import functional_call

from mithridate.numerics.folding import effective_parameters, fold_norms


def logits(net, theta, x, folds=()):
    return functional_call(net, effective_parameters(theta, folds), (x,))


@pytest.mark.parametrize("name", NETS)
def test_the_folded_network_is_the_same_function_of_parameters_and_input(name):
    net, (x, _) = built(name), batch()
    folded, folds = fold_norms(net, x[:2])
    assert len(folds) == NORMS[name]
    assert (folded is net) == (NORMS[name] == 0)
    assert not any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in folded.modules())
    for seed in range(3):
        theta = dict(built(name, seed=seed).named_parameters())
        torch.testing.assert_close(logits(folded, theta, x, folds), logits(net, theta, x))


def test_the_given_network_keeps_its_norms():
    net, (x, _) = built("residual"), batch()
    names = list(net.state_dict())
    fold_norms(net, x)
    assert list(net.state_dict()) == names


class _Twice(nn.Module):
    """The layer's output is used by the norm and by a shortcut around it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(192, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        y = self.layer(x.flatten(1))
        return self.norm(y) + y


class _Shared(nn.Module):
    """One layer under two norms."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(192, 4)
        self.norms = nn.ModuleList(nn.BatchNorm1d(4) for _ in range(2))

    def forward(self, x):
        y = x.flatten(1)
        return self.norms[0](self.layer(y)) + self.norms[1](self.layer(2 * y))


class _Looks(nn.Module):
    """The network reads a parameter of its norm."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(192, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.norm(self.layer(x.flatten(1))) * self.norm.weight


class _Centred(nn.Linear):
    """A subclass with the same parameters and another function."""

    def forward(self, x):
        return nn.functional.linear(x, self.weight - self.weight.mean(), self.bias)


def _subclass():
    return nn.Sequential(nn.Flatten(), _Centred(192, 4), nn.BatchNorm1d(4))


def _in_place():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 4))


@pytest.mark.parametrize("make", [_Twice, _Shared, _Looks, _subclass, _in_place])
@pytest.mark.parametrize("fresh", [True, False], ids=["fresh norm", "trained norm"])
def test_what_cannot_be_folded_is_left(make, fresh):
    """Also where the norm is still the identity, so that the function at the given parameters would not tell."""
    net, (x, _) = (make().double().eval() if fresh else built(make)), batch()
    folded, folds = fold_norms(net, x)
    assert folds == ()
    assert folded is net


def test_in_place_activations_after_a_norm_fold():
    net = built(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten()))
    x, _ = batch()
    folded, folds = fold_norms(net, x)
    assert len(folds) == 1
    theta = {name: p.detach() for name, p in net.named_parameters()}
    torch.testing.assert_close(logits(folded, theta, x, folds), net(x).detach())
