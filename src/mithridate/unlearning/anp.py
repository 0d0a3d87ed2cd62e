"""Adversarial neuron pruning: silence the channels that a small push of the norms' weights turns against the labels.

    min over m in [0, 1] of  a CE(m) + (1 - a) CE(m + d, 1 + e),   d, e: one signed step up the loss from random noise
    channel c of a norm is pruned (weight 0, bias as it is) where m_c <= threshold

Paper    Wu, Wang, Adversarial Neuron Pruning (NeurIPS 2021), arXiv 2110.14430: a = 0.2, eps = 0.4, 2000 steps.
Needs    layers of batch normalisation; labels of the reference, 500 in the paper.
Promise  nothing but weights of norms changes, and those to zero.
Departs  the public code and BackdoorBench choose the threshold on the test set, the latter by the attack's success;
         here it is the largest of `threshold`, `threshold` - 0.05, ... that the guard allows.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from mithridate.core.errors import Misuse
from mithridate.core.params import In, param
from mithridate.core.seeds import address
from mithridate.numerics.rng import generator
from mithridate.training._base import Rng, to_unit
from mithridate.training.network import lent_generator, may_draw
from mithridate.unlearning._base import AbstractHealer, Healed, HealKit
from mithridate.unlearning._frame import Session, begin
from mithridate.unlearning._layers import norms
from mithridate.unlearning._training import Course, conclude

_STEP = 0.05


@dataclass(frozen=True, kw_only=True)
class Anp(AbstractHealer):
    """Masks of norms against a perturbation of theirs."""

    steps: int = param(2000, within=In(1, 10_000_000), doc="updates of the masks")
    batch: int = param(128, within=In(1, 1 << 20), doc="examples per step")
    lr: float = param(0.2, within=In(0.0, 1e3, open_lo=True), doc="step size of the masks")
    momentum: float = param(0.9, within=In(0.0, 1.0, open_hi=True), doc="momentum of SGD")
    eps: float = param(0.4, within=In(0.0, 10.0), doc="noise, and length of the step up, relative to the weights")
    alpha: float = param(0.2, within=In(0.0, 1.0), doc="weight of the loss without noise")
    threshold: float = param(0.2, within=In(0.0, 1.0), doc="largest mask that is pruned")

    def heal(self, kit: HealKit, *, seed: int) -> Healed:
        """Fit masks and prune; see `AbstractHealer.heal`.

        Raises:
            Misuse: MTH-0841, the model has no batch normalisation.
        """
        found = norms(kit.model)
        if not found:
            raise Misuse(
                "MTH-0841",
                f"{type(kit.model).__name__} has no batch normalisation, and anp prunes by its weights",
                hint="choose fine-pruning, nad, i-bau or xlf",
            )
        session = begin(kit, seed=seed, labels=True)
        masks = fit_masks(self, session, seed)
        course = Course(session=session, method=self.label(), seed=seed, steps=self.steps)
        net, threshold = session.model, self.threshold
        given = {name: norm.weight.detach().clone() for name, norm in norms(net).items()}
        while True:
            pruned = prune(net, given, masks, threshold)
            if session.watch.allows(net) or threshold <= 0:
                break
            threshold = max(0.0, threshold - _STEP)
        details = {
            "threshold": threshold,
            "pruned": pruned,
            "channels": sum(len(mask) for mask in masks.values()),
            "least_mask": min(float(mask.min()) for mask in masks.values()),
        }
        return conclude(course, net, details=details)


def prune(net: nn.Module, given: Mapping[str, Tensor], masks: Mapping[str, Tensor], threshold: float) -> int:
    """Set the weights whose mask is at most the threshold to zero, the others as given; returns how many are zero."""
    count = 0
    with torch.no_grad():
        for name, norm in norms(net).items():
            low = masks[name].to(norm.weight.device) <= threshold
            norm.weight.copy_(given[name].masked_fill(low, 0.0))
            count += int(low.sum())
    return count


def fit_masks(healer: Anp, session: Session, seed: int) -> dict[str, Float[Tensor, " c"]]:
    """Return the mask of each norm; the session's model stays as it is."""
    net = copy.deepcopy(session.model).requires_grad_(False).train()
    layers = norms(net)
    device = next(net.parameters()).device
    masks = {name: torch.ones_like(norm.weight).requires_grad_() for name, norm in layers.items()}
    speed = {name: torch.zeros_like(mask) for name, mask in masks.items()}
    rng = Rng(address(seed, "unlearning", "anp"), device)
    lend = rng.child("dropout") if may_draw(net) else None
    data = session.kit.reference

    def loss(x: Tensor, labels: Tensor, push: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
        changed = {}
        for name, norm in layers.items():
            d, e = push.get(name, (0.0, 0.0))
            changed[f"{name}.weight"] = norm.weight * (masks[name] + d)
            changed[f"{name}.bias"] = norm.bias * (1 + e)
        return functional.cross_entropy(functional_call(net, changed, (x,)).float(), labels)

    for step in range(healer.steps):
        rows = _batch(len(data), healer.batch, step, seed)
        x = to_unit(data.images.gather(rows.to(data.device))).to(device)
        labels = data.labels[rows.to(data.labels.device)].to(device)
        with lent_generator(lend, step):
            push = {name: _noise(norm.weight, healer.eps, rng.child(name)(step)) for name, norm in layers.items()}
            flat = [part for pair in push.values() for part in pair]
            up = torch.autograd.grad(loss(x, labels, push), flat)
            far = [(part + healer.eps * g.sign()).detach() for part, g in zip(flat, up, strict=True)]
            push = {name: (far[2 * k], far[2 * k + 1]) for k, name in enumerate(push)}
            total = healer.alpha * loss(x, labels, {}) + (1 - healer.alpha) * loss(x, labels, push)
            down = torch.autograd.grad(total, list(masks.values()))
        with torch.no_grad():
            for name, g in zip(masks, down, strict=True):
                speed[name].mul_(healer.momentum).add_(g)
                masks[name].sub_(healer.lr * speed[name]).clamp_(0.0, 1.0)
        session.kit.progress({"what": "masks", "done": (step + 1) / healer.steps})
    return {name: mask.detach() for name, mask in masks.items()}


def _noise(like: Tensor, eps: float, gen: torch.Generator) -> tuple[Tensor, Tensor]:
    drawn = torch.rand((2, len(like)), generator=gen, device=like.device) * (2 * eps) - eps
    return drawn[0].clone().requires_grad_(), drawn[1].clone().requires_grad_()


def _batch(count: int, size: int, step: int, seed: int) -> Int64[Tensor, " b"]:
    """Return a step's rows: the epochs' permutations one after another, each batch from one of them."""
    per = max(1, count // size)
    epoch, place = divmod(step, per)
    order = torch.randperm(count, generator=generator(seed, "unlearning", "anp", "epoch", epoch))
    return order[place * size : (place + 1) * size]


METHOD = Anp
