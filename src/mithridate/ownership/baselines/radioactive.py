"""Radioactive data: features pushed along one secret random direction a class, found again in the weights.

    mark     maximise <phi(x') - phi(x), u_y> - a |phi(x') - phi(x)| - b |x' - x|^2   within epsilon
    detect   X = argmin |phi_A X - phi_B|_F on test images;  W' = W_B X^T, rows of unit length;  c_k = <W'_k, u_k>
             p_k = P( a random direction has a cosine >= c_k ),  all classes by Fisher's method

Directions are independent and uniform, so p-values of an innocent model are uniform: valid, but the whole model is
needed, its weights and its features (a white box), where keys need labels only.

Paper    Sablayrolles, Douze, Schmid, Jegou, Radioactive data: tracing through training (ICML 2020), arXiv 2002.00937.
Departs  signed Adam inside the ball, in place of gradient steps that are rounded now and then; images end rounded and
         exactly inside. Logarithms of p-values never underflow.
Shapes   n images, e features, k classes.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from mithridate.core.errors import Misuse
from mithridate.core.params import Checked, In, param
from mithridate.data.examples import Examples
from mithridate.models._base import AbstractNet
from mithridate.models.spec import Classifier
from mithridate.numerics.ball import project, quantise
from mithridate.numerics.brewing import direction
from mithridate.numerics.rng import generator
from mithridate.ownership.choosing import count_of

_AT_ONCE = 512
_GRID = 20_001


@dataclass(frozen=True, kw_only=True)
class Radioactive(Checked):
    """How data are made radioactive."""

    budget: float | int = param(0.01, within=In(0.0, 1e9, open_lo=True), doc="images in all: a share, or a number")
    epsilon: float = param(10 / 255, within=In(0.0, 1.0, open_lo=True), doc="largest change of a pixel in [0, 1]")
    steps: int = param(90, within=In(1, 100_000), doc="steps")
    step: float = param(0.01, within=In(0.0, 1.0, open_lo=True), doc="step size in [0, 1] pixels")
    feature_weight: float = param(0.01, within=In(0.0, 1e3), doc="a, on the length of the push")
    image_weight: float = param(5e-4, within=In(0.0, 1e3), doc="b, on the change of the image")


def carriers(classes: int, features: int, *, seed: int) -> Float[Tensor, "k e"]:
    """Return one random unit direction for each class: the secret."""
    draw = torch.randn(classes, features, generator=generator(seed, "carriers"), dtype=torch.float64)
    return normalize(draw).float()


def make_radioactive(
    data: Examples, net: Classifier, directions: Float[Tensor, "k e"], config: Radioactive, *, seed: int = 0
) -> Examples:
    """Return the data with some images pushed along the directions of their classes.

    Args:
        data: The clean training images.
        net: A network trained on them.
        directions: From `carriers`.
        config: How.
        seed: Draws the images.
    """
    order = torch.randperm(len(data), generator=generator(seed, "radioactive"))
    rows = order[: count_of(config.budget, len(data))]
    images = []
    for part in torch.split(rows, _AT_ONCE):
        base = data.images.gather(part.to(data.device))
        push = directions.to(base.device)[data.labels[part.to(data.labels.device)].to(base.device)]
        images.append(quantise(base, _pushed(net, base, push, config), config.epsilon).cpu())
    return data.overlay(rows, torch.cat(images))


def _pushed(net: Classifier, base: Tensor, push: Tensor, config: Radioactive) -> Tensor:
    clean = base.float() / 255
    with torch.no_grad():
        start = net.eval().features(clean)
    delta = torch.zeros_like(clean)
    first = second = torch.zeros_like(clean)
    for step in range(config.steps):
        x = (clean + delta).requires_grad_()
        moved = net.features(x) - start
        loss = config.image_weight * (x - clean).square().sum() - (moved * push).sum()
        loss = loss + config.feature_weight * (moved.square().sum(1) + 1e-12).sqrt().sum()
        gradient = torch.autograd.grad(loss, x)[0]
        update, first, second = direction("signed-adam", gradient, first, second, step)
        delta = project(delta - config.step * update, clean, config.epsilon)
    return delta


def cosines(
    suspect: Classifier, surrogate: Classifier, test: Examples, directions: Float[Tensor, "k e"]
) -> Float[Tensor, " k"]:
    """Return the cosine of each class's weights in the suspect, seen in the surrogate's features, with its carrier.

    Raises:
        Misuse: MTH-1046, there are too few test images to align the features, or a network has no linear head.
    """
    ours, theirs = (_features(net, test) for net in (surrogate, suspect))
    if not isinstance(suspect.net, AbstractNet) or len(ours) < ours.shape[1]:
        raise Misuse(
            "MTH-1046",
            f"{len(ours)} test images cannot align {ours.shape[1]} features, or the suspect has no linear head",
            hint="give more test images, and a built-in network",
        )
    aligned = torch.linalg.lstsq(ours, theirs, driver="gelsd").solution
    seen = normalize(suspect.net.head.weight.detach().double().cpu() @ aligned.T)
    return (seen * directions.double().cpu()).sum(1)


def _features(net: Classifier, test: Examples) -> Tensor:
    rows = torch.split(torch.arange(len(test)), _AT_ONCE)
    with torch.no_grad():
        parts = [net.eval().features(test.images.gather(part.to(test.device)).float() / 255) for part in rows]
    return torch.cat(parts).double().cpu()


def log_chance(cosine: float, features: int) -> float:
    """Return the natural logarithm of the chance that a random direction has at least this cosine."""
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    if angle == 0:
        return -math.inf

    def log_area(top: float) -> float:
        t = torch.linspace(0, top, _GRID, dtype=torch.float64)[1:]
        heights = (features - 2) * t.sin().clamp_min(1e-300).log()
        heights[-1] += math.log(0.5)
        return float(heights.logsumexp(0)) + math.log(top / (_GRID - 1))

    return min(0.0, log_area(angle) - log_area(math.pi))


def fisher(logs: Float[Tensor, " k"]) -> float:
    """Return the natural logarithm of Fisher's p-value of independent p-values, given theirs."""
    half = -float(logs.double().sum())  # half of the statistic, chi-squared with 2 k degrees of freedom
    if half == 0:
        return 0.0
    terms = torch.tensor([j * math.log(half) - math.lgamma(j + 1) for j in range(len(logs))], dtype=torch.float64)
    return min(0.0, float(terms.logsumexp(0)) - half)
