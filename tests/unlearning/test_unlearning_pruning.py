"""Peers that prune or differentiate, by hand: dormant channels, masks, the hypergradient, isolation."""

import pytest
import torch
from peers_kit import kit_of, plan_of, poisoned, toy
from torch import nn

from mithridate.core.errors import Misuse
from mithridate.training._base import Batch
from mithridate.unlearning._layers import norms
from mithridate.unlearning.abl import LocalAscent, isolate
from mithridate.unlearning.anp import prune
from mithridate.unlearning.fine_pruning import last_convolution, mean_activations
from mithridate.unlearning.heal import named_healer
from mithridate.unlearning.i_bau import hypergradient


@pytest.fixture(scope="module")
def case():
    return poisoned()


def test_activations_are_means_of_positive_parts():
    conv = nn.Conv2d(1, 2, 1)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
        conv.bias.copy_(torch.tensor([0.0, 0.25]))
    net, data = nn.Sequential(conv, nn.Flatten(), nn.Linear(128, 4)), toy(9)
    x = data.images.gather(torch.arange(9)).double() / 255
    expected = [x.mean().item(), (0.25 - x).clamp(min=0).mean().item()]
    assert mean_activations(net, conv, data).tolist() == pytest.approx(expected, rel=1e-5)


def test_pruned_channels_are_zero_for_every_image_after_the_tuning(case):
    net, plan = case
    found = named_healer("fine-pruning", epochs=2, tau=0.5).heal(kit_of(net, plan), seed=0)
    pruned = found.report["pruned"]
    assert 0 < len(pruned) < found.report["channels"] == 16
    layer = last_convolution(found.model, plan.data)[-1]
    outputs = []
    with layer.register_forward_hook(lambda m, a, out: outputs.append(out)):
        found.model(torch.rand(5, 1, 8, 8))
    assert not outputs[0][:, pruned].any()
    others = [channel for channel in range(16) if channel not in pruned]
    assert bool((found.model.net.norms[2].weight[others] != 0).all())


def test_fine_pruning_of_a_network_without_convolutions_is_refused():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with pytest.raises(Misuse) as caught:
        named_healer("fine-pruning").heal(kit_of(net, plan_of(toy()), training=None), seed=0)
    assert caught.value.code == "MTH-0842"


def test_only_weights_under_the_threshold_become_zero(case):
    net, _ = case
    found = norms(net)
    given = {name: norm.weight.detach().clone() for name, norm in found.items()}
    masks = {name: torch.ones_like(weight) for name, weight in given.items()}
    masks["net.norms.1"][3] = 0.2
    masks["net.norms.1"][4] = 0.21
    assert prune(net, given, masks, 0.2) == 1
    changed = [(name, k) for name, n in found.items() for k in (n.weight != given[name]).nonzero().flatten().tolist()]
    dead = found["net.norms.1"].weight[3].item()
    assert prune(net, given, masks, 0.0) == 0
    assert changed == [("net.norms.1", 3)]
    assert dead == 0.0


def test_anp_changes_weights_of_norms_to_zero_and_nothing_else(case):
    net, plan = case
    healer = named_healer("anp", steps=5, batch=32, lr=2.0, threshold=0.9)
    found = healer.heal(kit_of(net, plan), seed=0)
    assert found.report["pruned"] > 0
    for name, change in found.undo.changes.items():
        assert name in {f"{norm}.weight" for norm in norms(net)}
        assert bool((found.model.get_parameter(name)[change.index] == 0).all())


def test_anp_without_batch_normalisation_is_refused_by_name():
    net = nn.Sequential(nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, 4))
    with pytest.raises(Misuse, match="Sequential has no batch normalisation, and anp") as caught:
        named_healer("anp").heal(kit_of(net, plan_of(toy()), training=None), seed=0)
    assert caught.value.code == "MTH-0841"


@pytest.mark.parametrize(("scale", "terms", "share"), [(0.5, 1, 1.0), (0.25, 1, 0.5), (0.25, 3, 0.875)])
def test_the_hypergradient_of_a_parabola(scale, terms, share):
    # G = (d - 3 w)^2 has its minimum at 3 w; F = (d - 1)^2 / 2 + w; dF/dw = 1 + (3 w - 1) 3, the series a share of it
    w = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    d = torch.tensor([6.0], dtype=torch.float64, requires_grad=True)
    found = hypergradient((0.5 * (d - 1).square() + w).sum(), (d - 3 * w).square().sum(), d, [w], scale, terms)
    assert found[0].item() == pytest.approx(1 + share * 15.0)


def test_local_ascent_turns_at_gamma():
    logits = torch.tensor([[0.0, 0.0], [5.0, 0.0]])
    batch = Batch(torch.arange(2), torch.zeros(2, 1, 1, 1), torch.tensor([0, 0]), {})
    plain = nn.functional.cross_entropy(logits, batch.labels, reduction="none")
    found = LocalAscent(gamma=0.5).losses(lambda x: logits, batch)
    assert found.tolist() == pytest.approx([plain[0].item(), -plain[1].item()])


def test_what_is_isolated_has_the_lowest_losses(case):
    net, plan = case
    with torch.no_grad():
        x = plan.data.images.gather(torch.arange(96)).float() / 255
        losses = nn.functional.cross_entropy(net(x), plan.data.labels, reduction="none")
    apart = isolate(net, plan.data, 0.1)
    assert len(apart) == 10
    assert float(losses[apart].max()) <= float(losses.sort().values[10])
    assert apart.tolist() == sorted(apart.tolist())
    with pytest.raises(Misuse) as caught:
        isolate(net, plan.data.select([0]), 0.5)
    assert caught.value.code == "MTH-0844"
