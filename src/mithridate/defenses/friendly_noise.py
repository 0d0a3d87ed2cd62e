"""Friendly Noise: train on the largest noise that leaves predictions alone, plus fresh random noise.

    eps_i = argmin KL( f(x_i) || f(x_i + e) ) - lambda mean(e^2)   over |e|_inf <= zeta, once, from U(-init, init)
    x_i(t) = clamp(x_i + eps_i, 0, 1) + mu_i(t),   mu_i(t) fresh in every step, then the augmentation

Paper    Liu, Yang, Mirzasoleiman, Friendly Noise against Adversarial Noise (NeurIPS 2022), arXiv 2208.10224, eq. 3.
Promise  |eps_i|_inf <= zeta exactly; the noise of an image depends on the network, its row and the seed, not on the
         batch that it was generated in; weights, buffers and flags of the network are left as they were.
Cost     `steps` forward and backward-to-input passes over the data, once: 2/3 of `steps` epochs of training. The noise
         is kept in 8 bits, c h w bytes per image.
Departs  Default objective and order of the noises are those of the authors' code, which differ from the equation: the
         KL divergence runs from the clean to the noisy prediction, and the reward is the mean square, not the norm
         (`divergence` and `penalty` select the equation). The code's step depends on its batch, whose last one is
         smaller; here every image moves as in a batch of 128. The default lambda is 10, of the paper's search grid:
         with the code's 1 the noise hardly grows in 20 or 30 steps. The code lists a step-size schedule that it never
         advances; there is none here. Noise is rounded to 1/127 of zeta when it is stored.

Shapes   n images of c channels, h rows, w columns; b images of a batch; d = c h w.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int8, Int64
from torch import Tensor
from torch.nn import functional

from mithridate.aggregation._base import State
from mithridate.core.errors import Misuse
from mithridate.core.params import In, OneOf, check_fields, param
from mithridate.core.pool import Tell, silent
from mithridate.core.units import Pixels, parse_epsilon
from mithridate.defenses._base import AbstractDefense, Diagnostics
from mithridate.training._base import AbstractView, Context, Forward, to_unit
from mithridate.training.plan import Plan

FROM_SCRATCH = 5
"""The epoch at which the paper generates the noise when it trains from scratch; from pretrained weights it is 0."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {"penalty": "l2", "divergence": "paper", "lr": 10.0, "penalty_weight": 1.0},
    "reference": {"mu": "8/255", "steps": 30, "penalty_weight": 1.0, "scale_lambda": False, "begin_epoch": 0},
}
"""The published settings, by what differs from the defaults; `paper()` and `reference()` say where they come from."""

_IN_PIXELS = ("zeta", "mu", "start")
_REFERENCE_BATCH = 128
_REFERENCE_PIXELS = 3 * 32 * 32
_MOMENTUM = 0.9
_BLOCK = 64
_LEVELS = 127
_FIGURES = ("mean_abs", "mean_abs_start", "share_at_bound", "divergence", "agreement")


@dataclass(frozen=True, kw_only=True)
class RandomNoise(AbstractView):
    """Add noise drawn anew for every pixel and step. The result is not clamped, as in the authors' code."""

    name: ClassVar[str] = "random-noise"
    law: str
    strength: Pixels

    def view(
        self, x: Float[Tensor, "b c h w"], index: Int64[Tensor, " b"], state: State, gen: torch.Generator
    ) -> tuple[Float[Tensor, "b c h w"], State]:
        """Return the noisy images."""
        del index
        if self.law == "gaussian":
            noise = torch.randn(x.shape, generator=gen, device=x.device)
        elif self.law == "uniform":
            noise = torch.rand(x.shape, generator=gen, device=x.device).mul_(2).sub_(1)
        else:
            bits = torch.randint(2, x.shape, generator=gen, device=x.device, dtype=torch.int8)
            noise = bits.to(torch.float32).mul_(2).sub_(1)
        return torch.add(x, noise, alpha=self.strength), state


@dataclass(frozen=True, kw_only=True)
class FriendlyView(AbstractView):
    """Add to every image the noise that was generated for it when the phase began, and clamp to [0, 1]."""

    name: ClassVar[str] = "friendly-noise"
    config: "FriendlyNoise"
    tell: Tell = field(default=silent, compare=False, repr=False)
    """Told of the generation; no part of what the view is."""

    def init(self, context: Context) -> State:
        """Generate the noise of the whole training set and return it with what was measured on the way."""
        return generate(self.config, context, self.tell)

    def view(
        self, x: Float[Tensor, "b c h w"], index: Int64[Tensor, " b"], state: State, gen: torch.Generator
    ) -> tuple[Float[Tensor, "b c h w"], State]:
        """Return the images with their noise."""
        del gen
        noise = dequantise(state["noise"].index_select(0, index), self.config.zeta)
        return noise.view_as(x).add_(x).clamp_(0, 1), state


@dataclass(frozen=True, kw_only=True)
class FriendlyNoise(AbstractDefense):
    """Both noises of the defense, or one of them.

    The defaults are the specification's recommendation; `paper()` and `reference()` are the two published settings,
    which configurations write as `friendly-noise:preset=paper` and `friendly-noise:preset=reference`.
    Alone, a component needs twice the strength (32/255 in the paper's table 4).
    """

    components: str = param(
        "both", within=OneOf("both", "friendly", "random"), doc="which noises are added: both, friendly or random"
    )
    zeta: Pixels = param(  # noqa: RUF009 - declares a field, as for the other types
        Pixels(16 / 255), within=In(0.0, 1.0, open_lo=True), doc="bound of the friendly noise, in [0, 1] pixel units"
    )
    mu: Pixels = param(  # noqa: RUF009
        Pixels(16 / 255), within=In(0.0, 1.0), doc="strength of the random noise, in [0, 1] pixel units"
    )
    law: str = param(
        "bernoulli",
        within=OneOf("bernoulli", "gaussian", "uniform"),
        doc="law of the random noise: +-mu, deviation mu, or uniform in [-mu, mu]",
    )
    begin_epoch: int | None = param(
        None,
        within=In(0, 1_000_000),
        doc="epochs before the friendly noise is generated; by default 5, or 0 from pretrained weights",
    )
    steps: int = param(20, within=In(0, 100_000), doc="steps T of the generation")
    lr: float = param(100.0, within=In(0.0, 1e9), doc="step size of the generation, for a mean over 128 images")
    penalty_weight: float = param(10.0, within=In(0.0, 1e9), doc="lambda, the weight of the noise's size")
    scale_lambda: bool = param(
        True, doc="multiply lambda by d / 3072, so that the mean square pulls images of all sizes alike"
    )
    start: Pixels = param(  # noqa: RUF009
        Pixels(8 / 255), within=In(0.0, 1.0, open_lo=True), doc="the generation begins uniformly in [-start, start]"
    )
    penalty: str = param(
        "mean_sq",
        within=OneOf("mean_sq", "l2", "l1", "linf"),
        doc="size of the noise of one image: mean square (the authors' code) or a norm (l2 is the paper's equation)",
    )
    divergence: str = param(
        "code",
        within=OneOf("code", "paper", "logits"),
        doc="what ties predictions: KL(clean || noisy), KL(noisy || clean), or the mean squared difference of logits",
    )
    batch: int = param(256, within=In(1, 1 << 20), doc="images generated at once; changes speed and memory alone")

    def __post_init__(self) -> None:
        for name in _IN_PIXELS:
            if isinstance(text := vars(self)[name], str):
                object.__setattr__(self, name, parse_epsilon(text))  # `16/255`, as configurations write it
        check_fields(self)

    @classmethod
    def paper(cls) -> "FriendlyNoise":
        """Return the paper's setting: its equation, 16/255 twice, T = 20.

        The paper searched lr in {10, 20, 50, 100} and lambda in {1, 10}, and gives neither its choice nor init. With
        the equation's norm and no prediction in the way, the smallest pair, taken here, brings 88 % of the pixels to
        the bound in 20 steps; the largest brings 87 % there in the first.
        """
        return cls(**_preset("paper"))

    @classmethod
    def reference(cls) -> "FriendlyNoise":
        """Return the defaults of the authors' code: mu 8/255, T = 30, lr 100, lambda 1, generated in epoch 0."""
        return cls(**_preset("reference"))

    def extra_passes(self, plan: Plan) -> float:
        """Return the passes of the generation."""
        del plan
        return float(self.steps if self.components != "random" else 0)

    def defend(self, plan: Plan, *, seed: int, tell: Tell = silent) -> Plan:
        """Return the plan with the noise views before its own: friendly, then random.

        All randomness is that of the training run, so `seed` is not used.

        Raises:
            Misuse: The plan ends before the friendly noise would begin.
        """
        del seed
        if self.components in ("both", "random"):
            plan = plan.with_view(RandomNoise(law=self.law, strength=self.mu))
        if self.components in ("both", "friendly"):
            begin = self._begin(plan)
            if begin >= plan.epochs:
                raise Misuse(
                    "MTH-0650",
                    f"friendly noise begins after {begin} epochs, and the plan has {plan.epochs}",
                    hint="lower begin_epoch, train longer, or set components to random",
                )
            plan = plan.with_view(FriendlyView(config=self, tell=tell), begin=begin)
        return plan

    def diagnostics(self, states: Mapping[str, State]) -> Diagnostics:
        """Return what the generation led to; nothing where there is no friendly noise (yet).

        `mean_abs` and `mean_abs_start` are the mean absolute noise after and before the descent, in [0, 1] pixel units,
        `share_at_bound` the share of pixels at the bound zeta, `divergence` the mean KL divergence from the clean to
        the noisy prediction, `agreement` the share of images whose most probable class the noise leaves alone.
        """
        state = states.get(f"view/{FriendlyView.name}")
        if state is None:
            return Diagnostics()
        warning = state["warning"]
        return Diagnostics(figures={name: state[name] for name in _FIGURES}, warnings=(warning,) if warning else ())

    def _begin(self, plan: Plan) -> int:
        if self.begin_epoch is not None:
            return self.begin_epoch
        return FROM_SCRATCH if plan.pretrained is None else 0


def _preset(name: str) -> dict[str, Any]:
    return {key: parse_epsilon(value) if key in _IN_PIXELS else value for key, value in PRESETS[name].items()}


def generate(config: FriendlyNoise, context: Context, tell: Tell = silent) -> dict[str, Any]:
    """Return the noise of every training image in 8 bits under `noise`, and the figures of `diagnostics`.

    Paper: equation 3; the objective of the authors' code unless configured otherwise.
    """
    n = len(context.data)
    noise = torch.empty(n, *context.data.images.shape, dtype=torch.int8, device=context.data.labels.device)
    totals = torch.zeros(4, dtype=torch.float64, device=noise.device)
    for start, initial in _initial(config, context):
        tell({"what": "friendly noise", "done": start / n})
        index = torch.arange(start, start + len(initial), device=noise.device)
        x = to_unit(context.data.images.gather(index))
        with torch.no_grad():
            clean = context.probe(x)
        found = _optimise(config, context.probe, x, clean, initial.clone())
        stored = quantise(found, config.zeta)
        noise[index] = stored
        totals += _measure(context.probe, x, clean, dequantise(stored, config.zeta), initial)
    tell({"what": "friendly noise", "done": 1.0})
    size, size_before, divergence, agreement = (totals / n).tolist()
    at_bound = float((noise.abs() == _LEVELS).double().mean())
    return {
        "noise": noise.flatten(1),
        "mean_abs": size,
        "mean_abs_start": size_before,
        "share_at_bound": at_bound,
        "divergence": divergence,
        "agreement": agreement,
        "warning": _warning(size, size_before),
    }


def quantise(noise: Float[Tensor, "b c h w"], zeta: Pixels) -> Int8[Tensor, "b c h w"]:
    """Return noise within [-zeta, zeta] as whole multiples of zeta / 127."""
    return noise.clamp(-zeta, zeta).mul_(_LEVELS / zeta).round_().clamp_(-_LEVELS, _LEVELS).to(torch.int8)


def dequantise(noise: Int8[Tensor, "..."], zeta: Pixels) -> Float[Tensor, "..."]:
    """Return the noise that is stored; never beyond zeta."""
    return noise.float().div_(_LEVELS).mul_(zeta)


def _initial(config: FriendlyNoise, context: Context) -> Iterator[tuple[int, Float[Tensor, "b c h w"]]]:
    """Yield the first row of each batch and its uniform noise, which depends on the row and not on the batch."""
    n, device = len(context.data), context.data.labels.device

    def block(number: int) -> Tensor:
        shape = (min(_BLOCK, n - number * _BLOCK), *context.data.images.shape)
        return torch.rand(shape, generator=context.rng("start", number), device=device)

    for start in range(0, n, config.batch):
        stop = min(start + config.batch, n)
        first = start // _BLOCK
        unit = torch.cat([block(number) for number in range(first, ceil(stop / _BLOCK))])
        yield start, unit[start - first * _BLOCK : stop - first * _BLOCK].mul_(2).sub_(1).mul_(config.start)


def _optimise(
    config: FriendlyNoise,
    probe: Forward,
    x: Float[Tensor, "b c h w"],
    clean: Float[Tensor, "b k"],
    noise: Float[Tensor, "b c h w"],
) -> Float[Tensor, "b c h w"]:
    """Return the noise after the descent, clamped to zeta; `noise` is overwritten.

    Nesterov descent with constant step. The gradient is that of the sum over images, and the step is divided by the
    batch of the authors' code, so that no image knows how many others it is generated with.
    """
    lr = config.lr / _REFERENCE_BATCH
    velocity = torch.zeros_like(noise)
    for _ in range(config.steps):
        with torch.enable_grad():
            free = noise.detach().requires_grad_()
            inside = free.clamp(-config.zeta, config.zeta)
            noisy = probe((x + inside).clamp(0, 1))
            per_image = _difference(config.divergence, clean, noisy) - _reward(config, inside)
            (gradient,) = torch.autograd.grad(per_image.sum(), free)
        velocity.mul_(_MOMENTUM).add_(gradient)
        noise.sub_(gradient.add_(velocity, alpha=_MOMENTUM), alpha=lr)
    return noise.clamp_(-config.zeta, config.zeta)


def _difference(kind: str, clean: Float[Tensor, "b k"], noisy: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
    """Return how far the prediction of each image moved."""
    if kind == "logits":
        return (clean - noisy).square().mean(1)
    before, after = functional.log_softmax(clean, 1), functional.log_softmax(noisy, 1)
    if kind == "paper":
        before, after = after, before
    return (before.exp() * (before - after)).sum(1)


def _reward(config: FriendlyNoise, noise: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Return lambda times the size of each image's noise."""
    flat = noise.flatten(1)
    if config.penalty == "mean_sq":
        scale = flat.shape[1] / _REFERENCE_PIXELS if config.scale_lambda else 1.0
        return flat.square().mean(1) * (config.penalty_weight * scale)
    order = {"l2": 2.0, "l1": 1.0, "linf": float("inf")}[config.penalty]
    size: Tensor = torch.linalg.vector_norm(flat, order, dim=1)
    return config.penalty_weight * size


@torch.no_grad()
def _measure(
    probe: Forward,
    x: Float[Tensor, "b c h w"],
    clean: Float[Tensor, "b k"],
    noise: Float[Tensor, "b c h w"],
    initial: Float[Tensor, "b c h w"],
) -> Float[Tensor, "4"]:
    """Return sums over the batch: mean |noise|, the same at the start, divergence, and agreement."""
    noisy = probe((x + noise).clamp(0, 1))
    sums = (
        noise.abs().flatten(1).mean(1),
        initial.abs().flatten(1).mean(1),
        _difference("code", clean, noisy),
        (noisy.argmax(1) == clean.argmax(1)).float(),
    )
    return torch.stack([value.double().sum() for value in sums])


def _warning(size: float, size_before: float) -> str:
    """Say when the descent did little more than keep the noise that it began with."""
    if size >= 1.3 * size_before:
        return ""
    return (
        f"friendly noise hardly grew: mean size {255 * size:.2f}/255 after the descent, {255 * size_before:.2f}/255 "
        "before; raise penalty_weight, lr or steps"
    )


METHOD = FriendlyNoise
