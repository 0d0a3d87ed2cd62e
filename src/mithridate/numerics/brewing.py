"""The descent that brews poisons: restarts of projected signed Adam, as a sequence of explicit states.

    delta ~ N(0, 1) epsilon, clamped          draw of restart r, addressed by (seed, r)
    repeat M times:
        x = clean + delta, every x_i under a fresh augmentation
        delta <- project(delta - step * update(sign dB/dx))
    B_r = mean of B over a few fixed augmentation draws, at the 8-bit images
    keep the restart with the smallest B_r

"Signed Adam" signs the gradient and then runs Adam (betas 0.9, 0.999; epsilon 1e-8); the step size falls tenfold after
floor(M / 2.667), floor(M / 1.6) and floor(M / 1.142) steps, unless the descent has another schedule. With several views
the gradient is the mean over as many draws of the augmentation.

Paper    Geiping et al., Witches' Brew (ICLR 2021), algorithm 1.
Departs  restarts are compared by their re-evaluated B at the images that would be published (the reference compares
         the value before the last update, under the last random augmentation); the first point lies in the pixel range.
Promise  restart r depends only on (seed, r): best-of-8 contains best-of-2. A state continues to the same end, bit for
         bit, as the run that it was taken from.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mithridate.numerics.ball import project, quantise
from mithridate.numerics.matching_problem import MatchingProblem
from mithridate.numerics.rng import generator

OPTIMIZERS = ("signed-adam", "adam", "pgd")
_BETAS = (0.9, 0.999)
_TINY = 1e-8
_DROPS = (2.667, 1.6, 1.142)
STARTS = ("normal", "uniform")


@dataclass(frozen=True, kw_only=True, eq=False)
class Descent:
    """How the problem is minimised.

    Args:
        restarts: R, independent starts.
        steps: M, steps of each.
        step_px: Step size of each channel in [0, 1] units.
        optimizer: `signed-adam`, `adam` (unsigned) or `pgd` (the sign itself).
        clean_gradient: Evaluate every gradient at the clean images: the first-order variant.
        score_draws: Augmentation draws behind the value that compares restarts.
        views: Augmentation draws behind every gradient; without an augmentation one evaluation serves.
        drops: The step size falls after floor(M / d) steps for every d here.
        decay: What it is multiplied with then.
        start: `normal` (deviation epsilon, clamped) or `uniform` in the ball.
    """

    restarts: int
    steps: int
    step_px: Float[Tensor, " c"]
    optimizer: str = "signed-adam"
    clean_gradient: bool = False
    score_draws: int = 4
    views: int = 1
    drops: tuple[float, ...] = _DROPS
    decay: float = 0.1
    start: str = "normal"

    @property
    def milestones(self) -> tuple[int, ...]:
        """Steps after which the step size falls."""
        return milestones(self.steps, self.drops)


def milestones(count: int, drops: tuple[float, ...] = _DROPS) -> tuple[int, ...]:
    """Where a schedule drops; that of Witches' Brew: floor(count / 2.667), floor(count / 1.6), floor(count / 1.142)."""
    return tuple(int(count // part) for part in drops)


@dataclass(frozen=True, kw_only=True, eq=False)
class BrewState:
    """Everything that a brew needs to go on, between two steps.

    Args:
        restart: The restart under way; the number of restarts when all are done.
        step: Steps of it that are done.
        delta: Its change so far.
        first: Adam's mean of gradients.
        second: Adam's mean of squares.
        best: The best 8-bit images of the finished restarts; the clean ones before.
        scores: B of every finished restart at its 8-bit images; NaN before.
        trace: B before every step that was done; NaN before.
    """

    restart: int
    step: int
    delta: Float[Tensor, "p c h w"]
    first: Float[Tensor, "p c h w"]
    second: Float[Tensor, "p c h w"]
    best: UInt8[Tensor, "p c h w"]
    scores: Float[Tensor, " r"]
    trace: Float[Tensor, "r m"]

    def bundle(self) -> dict[str, Tensor]:
        """The state as named tensors."""
        names = ("delta", "first", "second", "best", "scores", "trace")
        return {"position": torch.tensor([self.restart, self.step]), **{name: getattr(self, name) for name in names}}

    @classmethod
    def unbundle(cls, bundle: Mapping[str, Tensor], device: torch.device) -> "BrewState":
        """The state that `bundle` came from, on a device."""
        rest = {name: tensor.to(device) for name, tensor in bundle.items() if name != "position"}
        restart, step = bundle["position"].tolist()
        return cls(restart=restart, step=step, **rest)

    @property
    def best_restart(self) -> int:
        """The finished restart with the smallest score."""
        return int(self.scores.nan_to_num(nan=math.inf).argmin())


def begin(problem: MatchingProblem, descent: Descent, seed: int) -> BrewState:
    """The state before the first step of the first restart."""
    none = torch.zeros_like(problem.clean)
    nan = _no_value(problem)
    state = BrewState(
        restart=0,
        step=0,
        delta=none,
        first=none,
        second=none,
        best=problem.base,
        scores=nan.expand(descent.restarts).clone(),
        trace=nan.expand(descent.restarts, descent.steps).clone(),
    )
    return _restarted(problem, descent, state, 0, seed)


def _no_value(problem: MatchingProblem) -> Tensor:
    return torch.full((), math.nan, dtype=problem.dtype, device=problem.base.device)


def brew(
    problem: MatchingProblem, descent: Descent, *, seed: int, state: BrewState | None = None
) -> Iterator[BrewState]:
    """Yield the state after every step; the last one has all restarts behind it.

    Args:
        problem: What to minimise.
        descent: How.
        seed: All draws derive from it.
        state: Where to go on; None to begin.
    """
    state = begin(problem, descent, seed) if state is None else state
    while state.restart < descent.restarts:
        state = _stepped(problem, descent, state, seed)
        if state.step == descent.steps:
            state = _finished(problem, descent, state, seed)
        yield state


def _restarted(problem: MatchingProblem, descent: Descent, state: BrewState, restart: int, seed: int) -> BrewState:
    gen = generator(seed, "brew", restart, "start", device=problem.base.device)
    draw = torch.empty(problem.base.shape, dtype=problem.dtype, device=problem.base.device)
    draw = draw.normal_(generator=gen) if descent.start == "normal" else draw.uniform_(-1, 1, generator=gen)
    delta = project(draw * problem.epsilon, problem.clean, problem.epsilon)
    none = torch.zeros_like(delta)
    return replace(state, restart=restart, step=0, delta=delta, first=none, second=none)


def _stepped(problem: MatchingProblem, descent: Descent, state: BrewState, seed: int) -> BrewState:
    gen = generator(seed, "brew", state.restart, "augment", state.step)
    clean = problem.clean
    x = clean if descent.clean_gradient else clean + state.delta
    value, gradient = _mean_gradient(problem, descent, x, gen)
    rate = descent.decay ** sum(0 < m <= state.step for m in descent.milestones)
    update, first, second = direction(descent.optimizer, gradient, state.first, state.second, state.step)
    delta = project(state.delta - rate * descent.step_px[:, None, None] * update, clean, problem.epsilon)
    trace = state.trace.clone()
    trace[state.restart, state.step] = value
    return replace(state, step=state.step + 1, delta=delta, first=first, second=second, trace=trace)


def _mean_gradient(
    problem: MatchingProblem, descent: Descent, x: Tensor, gen: torch.Generator
) -> tuple[Tensor, Tensor]:
    """B and its gradient, the mean over the views of one step."""
    value, gradient = problem.gradient(x, problem.draw(gen))
    if problem.augment is None or descent.views == 1:
        return value, gradient
    for _ in range(descent.views - 1):
        another, more = problem.gradient(x, problem.draw(gen))
        value, gradient = value + another, gradient + more
    return value / descent.views, gradient / descent.views


def direction(
    optimizer: str,
    gradient: Float[Tensor, "*shape"],
    first: Float[Tensor, "*shape"],
    second: Float[Tensor, "*shape"],
    step: int,
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """What to subtract, times the step size, and the new moments; `step` counts from zero."""
    if optimizer != "adam":
        gradient = gradient.sign()  # zero stays zero: pixels that no network saw move by momentum only
    if optimizer == "pgd":
        return gradient, first, second
    a, b = _BETAS
    first = a * first + (1 - a) * gradient
    second = b * second + (1 - b) * gradient.square()
    update = first / (1 - a ** (step + 1)) / ((second / (1 - b ** (step + 1))).sqrt() + _TINY)
    return update, first, second


def _finished(problem: MatchingProblem, descent: Descent, state: BrewState, seed: int) -> BrewState:
    """Score the restart at the images it would publish, keep them if they are the best, and begin the next."""
    images = quantise(problem.base, state.delta, problem.epsilon)
    scores = state.scores.clone()
    scores[state.restart] = score(problem, images, seed, draws=descent.score_draws)
    state = replace(state, scores=scores)
    if state.best_restart == state.restart:
        state = replace(state, best=images)
    if state.restart + 1 < descent.restarts:
        return _restarted(problem, descent, state, state.restart + 1, seed)
    return replace(state, restart=descent.restarts, step=0)


def score(problem: MatchingProblem, images: UInt8[Tensor, "p c h w"], seed: int, *, draws: int) -> Float[Tensor, ""]:
    """Mean of B at 8-bit images over augmentation draws that are the same for every restart."""
    x = images.to(problem.dtype) / 255
    count = 1 if problem.augment is None else draws
    values = [problem.value(x, problem.draw(generator(seed, "brew", "score", k))) for k in range(count)]
    return torch.stack(values).mean()
