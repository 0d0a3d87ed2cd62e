"""How far the gradient of the poisons is from the gradient the attacker wants.

    similarity         1 - <t, g> / (|t| |g|)                            in [0, 2]
    topK-similarity    the same over the K tensors with the largest |t_i|, K = 5, 10, 20
    similarity-narrow  similarity + 1/2 (|g_n-1|^2 + |g_n|^2) / |t|      the last two tensors: the head
    scalar-product     - <t, g> / |t|
    cosine1            - sum_i cos(t_i, g_i) / |t|
    se                 1/2 |t - g|^2 / |t|
    mse                sum_i mean (t_i - g_i)^2 / |t|

with g the mean gradient of the poisons' loss, t the target's gradient, and i running over the parameter tensors. Every
one is a small function of the whole flat g, so that all of them share one path: differentiate it in g, and take the
mixed product along that direction.

Paper    Geiping et al., Witches' Brew (ICLR 2021), section 3 and the objectives of its code.
Departs  topK takes the norms of both sides over the same K tensors. The `repel` term of the code is left out: it uses
         the target's gradient where it means that of the clean label.
Shapes   p parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.functional import cosine_similarity, cross_entropy, one_hot

from mithridate.numerics.directional import Network, loss_gradient, prepare

Objective = Callable[[Tensor, Tensor, tuple[int, ...]], Tensor]
CRITERIA = ("cross-entropy", "cw", "untargeted")
_CW_FLOOR = -100.0


def _norm(a: Tensor) -> Tensor:
    norm: Tensor = vector_norm(a)
    return norm


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a, b) / (_norm(a) * _norm(b))


def _pairs(t: Tensor, g: Tensor, sizes: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(torch.split(t, list(sizes)), torch.split(g, list(sizes)), strict=True))


def _similarity(t: Tensor, g: Tensor, sizes: tuple[int, ...]) -> Tensor:
    del sizes
    return 1 - _cosine(t, g)


def _narrow(t: Tensor, g: Tensor, sizes: tuple[int, ...]) -> Tensor:
    head = g[-sum(sizes[-2:]) :]
    return 1 - _cosine(t, g) + 0.5 * head.square().sum() / _norm(t)


def _top(k: int) -> Objective:
    def top(t: Tensor, g: Tensor, sizes: tuple[int, ...]) -> Tensor:
        pairs = _pairs(t, g, sizes)
        norms = torch.stack([_norm(a) for a, _ in pairs])
        # a mask and not a selection: no number travels from the device to choose the tensors
        chosen = norms >= norms.topk(min(k, len(pairs))).values[-1]
        inner = torch.stack([torch.dot(a, b) for a, b in pairs])
        squares = torch.stack([b.square().sum() for _, b in pairs])
        return 1 - (inner * chosen).sum() / ((norms.square() * chosen).sum() * (squares * chosen).sum()).sqrt()

    return top


def _scalar_product(t: Tensor, g: Tensor, sizes: tuple[int, ...]) -> Tensor:
    del sizes
    return -torch.dot(t, g) / _norm(t)


def _cosine1(t: Tensor, g: Tensor, sizes: tuple[int, ...]) -> Tensor:
    cosines = [cosine_similarity(a, b, dim=0) for a, b in _pairs(t, g, sizes)]
    return -torch.stack(cosines).sum() / _norm(t)


def _squared(t: Tensor, g: Tensor, sizes: tuple[int, ...]) -> Tensor:
    del sizes
    return 0.5 * (t - g).square().sum() / _norm(t)


def _mean_squared(t: Tensor, g: Tensor, sizes: tuple[int, ...]) -> Tensor:
    return torch.stack([(a - b).square().mean() for a, b in _pairs(t, g, sizes)]).sum() / _norm(t)


OBJECTIVES: dict[str, Objective] = {
    "similarity": _similarity,
    "similarity-narrow": _narrow,
    "top5-similarity": _top(5),
    "top10-similarity": _top(10),
    "top20-similarity": _top(20),
    "scalar-product": _scalar_product,
    "cosine1": _cosine1,
    "se": _squared,
    "mse": _mean_squared,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Matcher:
    """The distance of a gradient to one target gradient.

    Args:
        objective: A name in `OBJECTIVES`.
        target: The gradient that the attacker wants.
        sizes: Entries of each parameter tensor.
        norm_weight: Adds this multiple of |g|.
    """

    objective: str
    target: Float[Tensor, " p"]
    sizes: tuple[int, ...]
    norm_weight: float = 0.0

    def __call__(self, g: Float[Tensor, " p"]) -> Float[Tensor, ""]:
        """The distance, differentiable in `g`."""
        value = OBJECTIVES[self.objective](self.target, g, self.sizes)
        return value + self.norm_weight * _norm(g) if self.norm_weight else value


def matching_loss(matchers: tuple[Matcher, ...], g: Float[Tensor, " p"]) -> tuple[Tensor, Float[Tensor, " p"]]:
    """The mean distance to all targets and its gradient in `g`, the direction of the mixed products."""
    g = g.detach().requires_grad_()
    value = torch.stack([matcher(g) for matcher in matchers]).mean()
    return value.detach(), torch.autograd.grad(value, g)[0]


def criterion_loss(
    name: str, *, adversarial: Int64[Tensor, " b"], true: Int64[Tensor, " b"]
) -> Callable[[Float[Tensor, "b k"]], Float[Tensor, ""]]:
    """What the attacker wants to be small at the targets, as a mean over them.

    Args:
        name: `cross-entropy` to the adversarial label; `cw`, the margin max(max_j z_j - z_adv, -100) over the other
            classes j; or `untargeted`, minus the cross-entropy to the true label.
        adversarial: The wanted labels.
        true: The true labels.
    """

    def margin(z: Tensor) -> Tensor:
        wanted = one_hot(adversarial, z.shape[1]).bool()
        rival = z.masked_fill(wanted, -torch.inf).amax(1)
        return (rival - z.masked_fill(~wanted, 0).sum(1)).clamp_min(_CW_FLOOR).mean()

    match name:
        case "cw":
            return margin
        case "untargeted":
            return lambda z: -cross_entropy(z, true)
        case _:
            return lambda z: cross_entropy(z, adversarial)


def mean_gradient(
    network: Network, x: Float[Tensor, "b c h w"], labels: Int64[Tensor, " b"], *, chunk: int = 128
) -> Float[Tensor, " p"]:
    """Flat gradient of the mean cross-entropy, in constant memory."""
    total = {name: torch.zeros_like(value) for name, value in network.live.items()}
    for x_part, y_part in zip(torch.split(x, chunk), torch.split(labels, chunk), strict=True):
        _, part = loss_gradient(network, x_part, partial(cross_entropy, target=y_part, reduction="sum"))
        for name, gradient in part.items():
            total[name] += gradient
    return network.pull(total) / len(x)


def gradient_cosine(
    model: nn.Module,
    ours: tuple[Float[Tensor, "b c h w"], Int64[Tensor, " b"]],
    theirs: tuple[Float[Tensor, "t c h w"], Int64[Tensor, " t"]],
    *,
    chunk: int = 128,
) -> float:
    """Cosine between the mean loss gradients of two batches, all of it and in constant memory.

    With the poisons as `ours` and the targets under their adversarial labels as `theirs`, this is the alignment that
    proposition 1 of Witches' Brew asks for along the victim's training. The model is not changed; it counts in eval
    mode, and in double precision where its parameters are.
    """
    network = prepare(model, ours[0][:2], fold=False)
    a, b = (mean_gradient(network, x.to(network.dtype), y, chunk=chunk) for x, y in (ours, theirs))
    return float(_cosine(a.double(), b.double()))
