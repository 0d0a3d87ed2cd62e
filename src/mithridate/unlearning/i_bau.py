"""I-BAU: unlearn the perturbation that fools the network everywhere, with the gradient through how it is found.

    d*(theta) = argmin_d G,   G = -CE( f(x + d), argmax f(x) ) + 0.001 |d|^2
    dF/dtheta + dPhi/dtheta' (I - dPhi/dd')^-1 dF/dd,   F = CE of a batch, a part of which bears d*,  Phi = d - s dG/dd

The inverse is K terms of its series. Statistics of norms stay as given.

Paper    Zeng et al., Adversarial Unlearning of Backdoors via Implicit Hypergradient (ICLR 2022), arXiv 2110.03735.
Needs    labels of the reference, 100 to 5,000 of them; a network that is differentiable twice.
Departs  one hundredth of a batch bears the perturbation, and at least one example: the public code rounds to none for
         batches below 100 and then only fine-tunes. Phi is taken on the first batch, as there; pixels lie in [0, 1], so
         that its perturbations, which it makes of normalised pixels, are of another scale, and none can exceed 1. A
         round takes 50 steps on the perturbation, as many as one pass over 5,000 examples: one pass over a few hundred
         hardly leaves zero, where a network is sure of its predictions.
"""

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from mithridate.core.params import In, param
from mithridate.data.examples import Examples
from mithridate.numerics.rng import generator
from mithridate.training._base import to_unit
from mithridate.unlearning._base import AbstractHealer, Healed, HealKit
from mithridate.unlearning._frame import begin
from mithridate.unlearning._settling import keep, sound
from mithridate.unlearning._training import Course, conclude

Pair = tuple[Float[Tensor, "b c h w"], Int64[Tensor, " b"]]


@dataclass(frozen=True, kw_only=True)
class IBau(AbstractHealer):
    """Minimax unlearning with the implicit hypergradient."""

    rounds: int = param(5, within=In(1, 100_000), doc="times that the perturbation is found and unlearned")
    batch: int = param(100, within=In(1, 1 << 20), doc="examples per step")
    lr: float = param(1e-3, within=In(0.0, 1e3, open_lo=True), doc="step size of Adam, on the network")
    inner_lr: float = param(10.0, within=In(0.0, 1e6, open_lo=True), doc="step size of SGD, on the perturbation")
    inner_steps: int = param(50, within=In(1, 1_000_000), doc="steps of the perturbation in a round")
    decay: float = param(0.001, within=In(0.0, 1e3), doc="weight of the perturbation's squared length")
    terms: int = param(5, within=In(1, 1000), doc="terms of the series")
    scale: float = param(0.1, within=In(0.0, 1e3, open_lo=True), doc="s, the step of Phi")
    share: float = param(0.01, within=In(0.0, 1.0, open_lo=True), doc="part of a batch that bears the perturbation")

    def heal(self, kit: HealKit, *, seed: int) -> Healed:
        """Unlearn; see `AbstractHealer.heal`."""
        session = begin(kit, seed=seed, labels=True)
        kit, data = session.kit, session.kit.reference
        course = Course(session=session, method=self.label(), seed=seed)
        if len(data) < self.batch:
            session.warn(f"{len(data)} examples make one batch; the paper has at least 100 and better 1,000")
        net = copy.deepcopy(session.model).eval().requires_grad_(True)
        weights = list(net.parameters())
        adam = torch.optim.Adam(weights, lr=self.lr)
        place = weights[0].device
        for number in range(self.rounds):
            order = torch.randperm(len(data), generator=generator(seed, "unlearning", "i-bau", number))
            delta = self._fooling(net, data, order, place)
            first = next(_batches(data, order, self.batch, place))
            total, steps = 0.0, 0
            for x, labels in _batches(data, order, self.batch, place):
                gen = generator(seed, "unlearning", "i-bau", "bearers", number, steps)
                count = max(1, int(self.share * len(x)))
                bears = torch.zeros(len(x), 1, 1, 1, device=place)
                bears[torch.randperm(len(x), generator=gen)[:count].to(place)] = 1.0
                outer = functional.cross_entropy(net(x + bears * delta).float(), labels)
                gradient = hypergradient(outer, self._inner(net, first, delta), delta, weights, self.scale, self.terms)
                for p, g in zip(weights, gradient, strict=True):
                    p.grad = g
                adam.step()
                total, steps = total + float(outer.detach()), steps + 1
            course.losses.append(total / steps)
            course.steps += steps
            if session.watch.enabled and session.watch.allows(net) and sound(net):
                course.within = keep(net)
            kit.progress({"what": "unlearning", "done": (number + 1) / self.rounds})
        length = float(delta.detach().norm())
        return conclude(course, net, details={"perturbation": length})

    def _fooling(self, net: nn.Module, data: Examples, order: Tensor, place: torch.device) -> Float[Tensor, "1 c h w"]:
        """Return the perturbation after some steps from zero, in passes over the data."""
        delta = torch.zeros((1, *data.images.shape), device=place, requires_grad=True)
        pairs = itertools.chain.from_iterable(_batches(data, order, self.batch, place) for _ in itertools.count())
        for pair in itertools.islice(pairs, self.inner_steps):
            (g,) = torch.autograd.grad(self._inner(net, pair, delta), [delta])
            with torch.no_grad():
                delta.sub_(g, alpha=self.inner_lr).clamp_(-1.0, 1.0)
        return delta

    def _inner(self, net: nn.Module, pair: Pair, delta: Float[Tensor, "1 c h w"]) -> Float[Tensor, ""]:
        x, _ = pair
        with torch.no_grad():
            own = net(x).argmax(1)
        return -functional.cross_entropy(net(x + delta).float(), own) + self.decay * delta.square().sum()


def hypergradient(
    outer: Float[Tensor, ""],
    inner: Float[Tensor, ""],
    delta: Tensor,
    weights: list[nn.Parameter],
    scale: float,
    terms: int,
) -> list[Tensor]:
    """Return the gradient of the outer loss where `delta` follows the weights to the minimum of the inner one.

    Args:
        outer: F, a function of the weights and perhaps of `delta`.
        inner: G, a function of both.
        delta: At the minimum of G, or near it.
        weights: The network's parameters.
        scale: s of Phi = delta - s dG/ddelta; the series converges where s times the curvature lies in (0, 2).
        terms: How many terms of the series.
    """
    direct = torch.autograd.grad(outer, [delta, *weights], allow_unused=True)
    pull = torch.zeros_like(delta) if direct[0] is None else direct[0]
    (slope,) = torch.autograd.grad(inner, [delta], create_graph=True)
    phi = delta - scale * slope
    v = torch.zeros_like(delta)
    for _ in range(terms):
        (back,) = torch.autograd.grad(phi, [delta], grad_outputs=v, retain_graph=True)
        v = back + pull
    through = torch.autograd.grad(phi, weights, grad_outputs=v, allow_unused=True)
    found = []
    for p, straight, round_about in zip(weights, direct[1:], through, strict=True):
        parts = [part for part in (straight, round_about) if part is not None]
        found.append(sum(parts, torch.zeros_like(p)))
    return found


def _batches(data: Examples, order: Tensor, size: int, place: torch.device) -> Iterator[Pair]:
    for rows in torch.split(order, size):
        x = to_unit(data.images.gather(rows.to(data.device))).to(place)
        yield x, data.labels[rows.to(data.labels.device)].to(place)


METHOD = IBau
