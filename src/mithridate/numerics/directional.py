"""Mixed derivatives of a network's loss: first in all parameters along one direction, then in the input.

    product(x; v) = grad_x < grad_theta l(x; theta), v > = d/ds grad_x l(x; theta + s v) at s = 0

which needs no graph over a backward pass. Three forms, equal up to rounding:

    reverse-over-forward   d/dx of the directional derivative  <softmax(z) - y, z'>,  z' = dz/dtheta v
    forward-over-reverse   the tangent of grad_x l when theta carries the tangent v
    double-backward        d/dx of < grad_theta l, v > through a graph of the backward pass

Paper    the identity behind gradient matching (Geiping et al., ICLR 2021); forward and reverse modes as in Pearlmutter,
         Fast exact multiplication by the Hessian (1994).
Promise  exact. Finite differences are no substitute in ReLU networks: kinks spoil the signs.
Needs    a network whose examples do not couple: it runs in eval mode, with frozen running statistics and no dropout.
Cost     about six forward passes (the last form: seven and a second-order graph), in memory of one chunk.
Shapes   b images, c channels, h rows, w columns, p parameters.
"""

import copy
import importlib
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import torch
import torch.autograd.forward_ad as fwd
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy, one_hot

from mithridate.core.errors import Misuse
from mithridate.numerics.folding import Fold, effective_parameters, fold_norms
from mithridate.numerics.rng import generator

Form = Literal["reverse-over-forward", "forward-over-reverse", "double-backward"]
FORMS: tuple[Form, ...] = ("reverse-over-forward", "forward-over-reverse", "double-backward")
"""In the order in which they are tried: measured on one CPU core, the first two are within a few percent of each other
and need half the time and a third of the memory of the last."""

Direction = Mapping[str, Tensor]
_AGREEMENT = {torch.float64: 1e-8, torch.float32: 1e-3}


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A frozen copy of a classifier, ready for derivatives in its parameters and its input.

    Made by `prepare`. The gradient lives in the original parameters `theta` (those that are trained); the copy runs on
    `live` parameters, which folded norms make different, and `pull` and `push` translate.
    """

    module: nn.Module
    theta: Mapping[str, Tensor]
    still: Mapping[str, Tensor]
    folds: tuple[Fold, ...]
    live: Mapping[str, Tensor]
    fixed: Mapping[str, Tensor]
    low_precision: bool

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of entries of each parameter tensor, in the order of a flat gradient."""
        return tuple(value.numel() for value in self.theta.values())

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of parameters, and of images that go in."""
        return next(iter(self.theta.values())).dtype

    def logits(self, x: Float[Tensor, "b c h w"], live: Mapping[str, Tensor] | None = None) -> Float[Tensor, "b k"]:
        """Run the network, on other live parameters if they are given."""
        with ExitStack() as stack:
            # fused attention has neither forward mode nor a second derivative
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            if self.low_precision:
                stack.enter_context(torch.autocast(x.device.type, dtype=torch.bfloat16))
            out: Tensor = functional_call(self.module, {**self.fixed, **(self.live if live is None else live)}, (x,))
        return out.to(self.dtype)

    def pull(self, gradient: Direction) -> Float[Tensor, " p"]:
        """Turn a gradient in the live parameters into one flat gradient in the original ones."""
        if self.folds:
            back: Any = vjp(self._live_of, dict(self.theta))[1]
            (gradient,) = back({name: gradient[name] for name in self.live})
        return torch.cat([gradient[name].flatten() for name in self.theta])

    def push(self, flat: Float[Tensor, " p"]) -> dict[str, Tensor]:
        """Turn a flat direction in the original parameters into one in the live parameters."""
        parts = torch.split(flat, list(self.sizes))
        named = {name: part.reshape(value.shape) for (name, value), part in zip(self.theta.items(), parts, strict=True)}
        if self.folds:
            _load_forward_rules()
            moved: Any = jvp(self._live_of, (dict(self.theta),), (named,))[1]
            named = moved
        return {name: _laid_out(value, self.live[name]) for name, value in named.items()}

    def _live_of(self, theta: Mapping[str, Tensor]) -> dict[str, Tensor]:
        every = effective_parameters({**self.still, **theta}, self.folds)
        return {name: every[name] for name in self.live}


def prepare(
    module: nn.Module, example: Float[Tensor, "b c h w"], *, precision: str = "fp32", fold: bool = True
) -> Network:
    """Copy a classifier into a `Network`.

    Args:
        module: Pixels in [0, 1] in, logits out; it is not changed. Its trainable parameters are matched, all of them
            if none is marked as trainable.
        example: A few images, to see which norms can be folded.
        precision: `fp32` runs in the parameters' own dtype, `bf16` under autocast; sums stay in the former.
        fold: Whether frozen BatchNorm may be folded into the layer before it.
    """
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    original = copy.deepcopy(module).eval().requires_grad_(False)
    original = original.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    values = {name: p.detach() for name, p in original.named_parameters()}
    theta = {name: value for name, value in values.items() if name in trained} or values
    still = {name: value for name, value in values.items() if name not in theta}
    dtype = next(iter(theta.values())).dtype
    net, folds = fold_norms(original, example[:4].to(dtype)) if fold else (original, ())
    every = effective_parameters(values, folds)
    moved = set(theta).union(*(f.made() for f in folds if not theta.keys().isdisjoint(f.consumed())))
    return Network(
        module=net,
        theta=theta,
        still=still,
        folds=folds,
        live={name: value for name, value in every.items() if name in moved},
        fixed={name: value for name, value in every.items() if name not in moved},
        low_precision=precision == "bf16",
    )


def loss_gradient(
    network: Network, x: Float[Tensor, "b c h w"], loss: Callable[[Float[Tensor, "b k"]], Float[Tensor, ""]]
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """The value of `loss(logits)` and its gradient in the live parameters."""
    live = {name: value.detach().requires_grad_() for name, value in network.live.items()}
    value = loss(network.logits(laid_out(x), live))
    gradients = torch.autograd.grad(value, list(live.values()), allow_unused=True)
    return value.detach(), {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(live.items(), gradients, strict=True)
    }


def mixed_product(
    network: Network,
    x: Float[Tensor, "b c h w"],
    labels: Int64[Tensor, " b"],
    direction: Direction,
    *,
    form: Form,
    loss_weight: float = 0.0,
) -> Float[Tensor, "b c h w"]:
    """The product for every image of a chunk, of the cross-entropy loss.

    Args:
        network: The network.
        x: Images in [0, 1], in the network's dtype.
        labels: Their labels.
        direction: Direction in the live parameters, from `Network.push`.
        form: Which of the three forms computes it.
        loss_weight: Adds this multiple of the plain gradient `grad_x l`.
    """
    x = laid_out(x).detach().requires_grad_()
    match form:
        case "reverse-over-forward":
            return _reverse_over_forward(network, x, labels, direction, loss_weight)
        case "forward-over-reverse":
            return _forward_over_reverse(network, x, labels, direction, loss_weight)
        case "double-backward":
            return _double_backward(network, x, labels, direction, loss_weight)


@cache
def _load_forward_rules() -> None:
    """Have torch load its forward-mode rules, whose import warns about a deprecation inside torch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        importlib.import_module("torch._decomp.decompositions_for_jvp")


def _duals(network: Network, direction: Direction) -> dict[str, Tensor]:
    _load_forward_rules()
    make: Any = fwd.make_dual
    return {name: make(value, direction[name]) for name, value in network.live.items()}


def _unpacked(dual: Tensor) -> tuple[Tensor, Tensor]:
    unpack: Any = fwd.unpack_dual
    primal, tangent = unpack(dual)
    return primal, tangent


def _reverse_over_forward(network: Network, x: Tensor, y: Tensor, v: Direction, loss_weight: float) -> Tensor:
    with fwd.dual_level():
        z, z_tangent = _unpacked(network.logits(x, _duals(network, v)))
        # the tangent of cross_entropy itself is computed in place, which the reverse pass refuses
        along = ((z.softmax(1) - one_hot(y, z.shape[1])) * z_tangent).sum()
    # outside the dual level, or the reverse pass would carry tangents again
    objective = along + loss_weight * cross_entropy(z, y, reduction="sum") if loss_weight else along
    return torch.autograd.grad(objective, x)[0]


def _forward_over_reverse(network: Network, x: Tensor, y: Tensor, v: Direction, loss_weight: float) -> Tensor:
    with fwd.dual_level():
        z = network.logits(x, _duals(network, v))
        residual = z.softmax(1) - one_hot(y, z.shape[1])
        (dual,) = torch.autograd.grad(z, x, grad_outputs=residual)
        gradient, tangent = _unpacked(dual)
        # clone: what leaves the level must not hang on to it
        return (tangent + loss_weight * gradient if loss_weight else tangent).clone()


def _double_backward(network: Network, x: Tensor, y: Tensor, v: Direction, loss_weight: float) -> Tensor:
    live = {name: value.detach().requires_grad_() for name, value in network.live.items()}
    loss = cross_entropy(network.logits(x, live), y, reduction="sum")
    gradients = torch.autograd.grad(loss, list(live.values()), create_graph=True, allow_unused=True)
    used = [(g, v[name]) for name, g in zip(live, gradients, strict=True) if g is not None and g.requires_grad]
    outputs, weights = [g for g, _ in used], [w for _, w in used]
    if loss_weight:
        outputs, weights = [*outputs, loss], [*weights, torch.full_like(loss, loss_weight)]
    return torch.autograd.grad(outputs, x, grad_outputs=weights)[0]


def choose_form(network: Network, x: Float[Tensor, "b c h w"], *, wanted: str) -> Form:
    """Decide which form computes the products of a network.

    Args:
        network: The network.
        x: A chunk of images as they will come.
        wanted: A form; or `auto`, the first of `FORMS` that this network supports (the same on every machine, so that
            equal seeds give equal numbers); or `measure`, the fastest of them on this chunk.

    Raises:
        Misuse: The wanted form is not supported by an operation of this network.
    """
    direction = _some_direction(network)
    with torch.no_grad():
        labels = network.logits(laid_out(x)).argmin(1)  # a fitted label has a residual of mere rounding errors
    few = slice(0, 2)
    usable = [form for form in FORMS if _works(network, x[few], labels[few], direction, form=form)]
    if wanted == "auto":
        return usable[0]
    if wanted == "measure":
        return min(usable, key=lambda form: _seconds(network, x, labels, direction, form))
    for form in usable:
        if form == wanted:
            return form
    raise Misuse(
        "MTH-0602",
        f"the form {wanted!r} does not work for this network, which supports {', '.join(usable)}",
        hint="leave the form at auto",
    )


def _some_direction(network: Network) -> dict[str, Tensor]:
    gen = generator(0, "directional", "trial")
    flat = torch.randn(sum(network.sizes), generator=gen)
    like = next(iter(network.theta.values()))
    return network.push(flat.to(like))


def _works(network: Network, x: Tensor, y: Tensor, v: Direction, *, form: Form) -> bool:
    """Whether a form runs, and gives what double backward gives (compared in full precision)."""
    if form == "double-backward":
        return True
    exact = replace(network, low_precision=False)
    try:
        got = mixed_product(exact, x, y, v, form=form)
        if network.low_precision:
            mixed_product(network, x, y, v, form=form)
    except (NotImplementedError, RuntimeError, TypeError):
        return False  # an operation without a forward-mode rule
    want = mixed_product(exact, x, y, v, form="double-backward")
    return bool((got - want).norm() <= _AGREEMENT.get(network.dtype, 1e-3) * want.norm())


def _seconds(network: Network, x: Tensor, y: Tensor, v: Direction, form: Form) -> float:
    def once() -> float:
        begun = time.perf_counter()
        float(mixed_product(network, x, y, v, form=form)[0, 0, 0, 0])  # waits for the device
        return time.perf_counter() - begun

    once()
    return min(once(), once())


def laid_out(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Images in channels-last layout, in which convolutions are fastest here."""
    return x.contiguous(memory_format=torch.channels_last)


def _laid_out(value: Tensor, like: Tensor) -> Tensor:
    last = like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last)
    return value.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
