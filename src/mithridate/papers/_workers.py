"""One run of simulated workers for the papers on robust aggregation: a small network, an adversary, a rule."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mithridate.core.pool import Tell
from mithridate.core.seeds import address
from mithridate.data.sources import DataSet
from mithridate.defenses.robust_aggregation import RobustAggregation
from mithridate.evaluation.outcome import judge
from mithridate.numerics.warp import Shift
from mithridate.training._base import Batch, Rng, to_unit
from mithridate.training.contracts import model_spec
from mithridate.training.draw import PerWorker
from mithridate.training.loop import begin, steps
from mithridate.training.plan import Phase, Plan
from mithridate.training.ratio import SampledRatio, SubmittedRatio, recorded
from mithridate.training.rows import Rows
from mithridate.training.run import Run
from mithridate.training.step import Step
from mithridate.training.update import SGD
from mithridate.training.view import Warp
from mithridate.training.workers import worker_rows


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What all runs of a block share.

    Attributes:
        source: The data set.
        model: The network.
        workers: Their number n.
        batch: Examples per worker and step, drawn with replacement from the whole training set.
        lr: The step size.
        beta: The momentum coefficient, wherever momentum is kept.
        clip: Norm to which workers clip their gradient; None for none.
        decay: Weight decay, after the rule.
        steps: Updates in all.
        every: Updates between evaluations on the test set.
        flip: Mirror training images at random.
    """

    source: str = "digits"
    model: str = "mlp-w48"
    workers: int = 25
    batch: int = 16
    lr: float = 0.02
    beta: float = 0.9
    clip: float | None = 2.0
    decay: float = 0.0
    steps: int = 300
    every: int = 10
    flip: bool = False


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What is compared within a block: liars, rule, adversary and the place of momentum."""

    f: int
    rule: str
    adversary: str = "none"
    strength: float | None = None
    momentum: str = "worker"


def plan_of(data: DataSet, recipe: Recipe, arm: Arm, device: str) -> Plan:
    """Return the training plan of an arm."""
    step = Step(
        draw=PerWorker(workers=recipe.workers, batch=recipe.batch, steps=recipe.every),
        views=(Warp(law=Shift(law="integer", max_px=0, flip=True, fill="black")),) if recipe.flip else (),
        update=SGD(lr=recipe.lr, momentum=recipe.beta, nesterov=False, weight_decay=recipe.decay),
    )
    plan = Plan(
        data=data.train.to(device),
        model=model_spec(data, recipe.model),
        phases=(Phase(step=step, epochs=recipe.steps // recipe.every),),
        device=device,
    )
    defense = RobustAggregation(
        workers=recipe.workers,
        f=arm.f,
        rule=arm.rule,
        adversary=arm.adversary,
        strength=arm.strength,
        momentum=arm.momentum,
        clip=recipe.clip,
    )
    return defense.defend(plan, seed=0)


def run_arm(
    data: DataSet, recipe: Recipe, arm: Arm, *, seed: int, number: int, device: str, tell: Tell
) -> dict[str, Any]:
    """Train one network and return its record: accuracies, and the variance-norm ratios of every step.

    The seed depends on the run's number alone, so that arms with equal numbers begin with the same network and draw the
    same batches, and differ in nothing but what is compared.
    """
    begun = time.monotonic()
    plan = plan_of(data, recipe, arm, device)
    own = address(seed, "run", number)
    run = begin(plan, own)
    test = data.test.to(device)
    curve: list[float] = []
    for event in steps(plan, own, run):
        outcome = judge(run.net.module, test, ())
        curve.append(outcome.correct / outcome.tested)
        tell({"done": event.epoch / plan.epochs})
    return {
        "best": max(curve),
        "final": curve[-1],
        "curve": [round(value, 5) for value in curve],
        "tested": len(test),
        "dim": len(run.net.values),
        **ratios(run),
        "seconds": round(time.monotonic() - begun, 3),
    }


def ratios(run: Run) -> dict[str, list[float | None]]:
    """Return the recorded variance-norm ratios by step to five digits; None where a ratio is no finite number."""
    found: dict[str, list[float | None]] = {}
    for name, kind in (("sampled", SampledRatio), ("submitted", SubmittedRatio)):
        values = recorded(run.states, kind).double().cpu().tolist()
        found[name] = [float(f"{value:.5g}") if abs(value) < 1e30 else None for value in values]
    return found


def gradients_at(
    plan: Plan, run: Run, *, seed: int, draws: int
) -> tuple[Float[Tensor, " d"], Iterator[Float[Tensor, "n d"]]]:
    """Return the gradient of all training data at the run's parameters, and rows of honest workers, drawn afresh."""
    step, data, net = plan.phases[0].step, plan.data, run.net
    workers = step.rows.count

    def batch(index: Tensor) -> Batch:
        columns = {name: column[index] for name, column in data.columns.items()}
        return Batch(index, to_unit(data.images.gather(index)), data.labels[index], columns)

    def rows_of(index: Tensor, count: int) -> Tensor:
        one = Step(loss=step.loss, rows=Rows(of="worker", count=count))
        weights = torch.full((len(index),), 1 / len(index), device=index.device)
        return worker_rows(one, net, lambda forward: forward, batch(index), weights, {"weigh": None})[0]

    rng, state = Rng(seed, torch.device(plan.device)), run.states["draw"]
    exact = rows_of(torch.arange(len(data), device=data.labels.device), 1)[0]

    def drawn() -> Iterator[Float[Tensor, "n d"]]:
        for number in range(draws):
            index, _, _ = step.draw.draw({**state, "step": number}, rng.child("fresh"))
            yield rows_of(index, workers)

    return exact, drawn()
