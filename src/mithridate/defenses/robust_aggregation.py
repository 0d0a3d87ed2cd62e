"""Robust aggregation: n simulated workers share every step, some of them hostile, and a rule combines their gradients.

    g_i = gradient of worker i's part of the batch, clipped, with momentum
    x <- x - lr F( pre( g_1, ..., g_h, f forged rows ) )

Paper    El Mhamdi, Guerraoui, Rouault, Distributed Momentum (ICLR 2021), arXiv 2003.00010, for the three placements of
         momentum; the rules and adversaries cite theirs.
Promise  what the rule promises against `f` hostile workers. Poisoned examples are spread over all workers by the draw,
         so against poisoned data the rule promises nothing; that is what the audit measures.
Cost     no more passes over the data; the rule's own cost in every step.
Departs  the plan's batch is split among the workers, unless `batch` lets each draw its own; a last batch that is too
         small for all workers is left out. Weight decay stays with the update, after the rule.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from mithridate.aggregation._base import AbstractCombiner, State
from mithridate.aggregation.adversaries._base import AbstractAdversary
from mithridate.aggregation.names import ADVERSARIES, PRE_AGGREGATORS, RULES
from mithridate.aggregation.pipeline import Pipeline
from mithridate.core.errors import Misuse
from mithridate.core.methods import instantiate
from mithridate.core.params import In, OneOf, check_fields, param
from mithridate.core.pool import Tell, silent
from mithridate.core.registry import Registry, unknown_name
from mithridate.defenses._base import AbstractDefense, Diagnostics
from mithridate.training._base import AbstractDraw, AbstractRowMap
from mithridate.training.draw import PerWorker, Shuffle
from mithridate.training.plan import Plan
from mithridate.training.ratio import SampledRatio, SubmittedRatio, recorded
from mithridate.training.rows import Hostile, RowClipping, Rows, WorkerMomentum
from mithridate.training.server_momentum import ServerMomentum
from mithridate.training.shards import SHARDS
from mithridate.training.step import Step
from mithridate.training.update import SGD

PLACES = ("worker", "server", "update", "none")


@dataclass(frozen=True, kw_only=True)
class RobustAggregation(AbstractDefense):
    """Training with n workers of which f may be anything."""

    workers: int = param(10, within=In(1, 1 << 16), doc="number n of simulated workers")
    f: int = param(2, within=In(0, 1 << 16), doc="how many of them the rule is to withstand")
    rule: str = param("multi-krum", doc="aggregation rule by name")
    pre: str | tuple[str, ...] = param("", doc="pre-aggregators in order, joined by +, such as clipping+nnm")
    adversary: str = param("none", doc="what the last f workers do, by name; none leaves them honest")
    strength: float | None = param(
        None, within=In(-1e30, 1e30), doc="the adversary's strength; its own default if none"
    )
    momentum: str = param(
        "worker",
        within=OneOf(*PLACES),
        doc="where momentum is kept: worker (before the rule), server (added to what arrives), update (after), none",
    )
    beta: float | None = param(
        None, within=In(0.0, 1.0, open_hi=True), doc="momentum coefficient; that of the plan if none"
    )
    dampening: float = param(0.0, within=In(0.0, 1.0), doc="share of each gradient that worker momentum leaves out")
    clip: float | None = param(
        None, within=In(0.0, 1e9, open_lo=True), doc="norm that each worker clips its gradient to"
    )
    batch: int | None = param(
        None, within=In(1, 1 << 20), doc="examples that each worker draws for itself; the plan's batch is split if none"
    )
    shards: str = param("all", within=OneOf(*SHARDS), doc="with batch: what a worker draws from, see the draw")
    alpha: float = param(1.0, within=In(0.0, 1e6, open_lo=True), doc="with shards=dirichlet: its concentration")

    def __post_init__(self) -> None:
        check_fields(self)
        for registry, names in (
            (RULES, (self.rule,)),
            (PRE_AGGREGATORS, self._stages),
            (ADVERSARIES, (self.adversary,)),
        ):
            for name in names:
                if name not in registry.names():
                    raise unknown_name(registry.kind, name, registry.names())
        self.combiner().check(self.workers)  # now, not after the attacks of an audit were crafted
        if self.hostile:
            self._adversary()

    @property
    def _stages(self) -> tuple[str, ...]:
        return tuple(part for part in self.pre.split("+") if part) if isinstance(self.pre, str) else self.pre

    @property
    def hostile(self) -> int:
        """How many workers are hostile in fact."""
        return 0 if self.adversary == "none" else self.f

    def combiner(self) -> AbstractCombiner:
        """Return the rule behind its pre-aggregators."""
        stages = tuple(with_f(PRE_AGGREGATORS, name, self.f) for name in self._stages)
        rule: AbstractCombiner = with_f(RULES, self.rule, self.f)
        return Pipeline(pre=stages, rule=rule) if stages else rule

    def defend(self, plan: Plan, *, seed: int, tell: Tell = silent) -> Plan:
        """Return the plan with workers, adversary, rule and momentum in the step of every phase.

        All randomness is that of the training run, so `seed` is not used.

        Raises:
            Misuse: MTH-0557 if the plan has rows or a rule of its own; the rule's for too few workers.
        """
        del seed, tell
        self.combiner().check(self.workers)
        return plan.mapped(partial(self._step, num_examples=len(plan.data)))

    def diagnostics(self, states: Mapping[str, State]) -> Diagnostics:
        """Return the median over the steps of the variance-norm ratio, of sampled and of submitted honest rows."""
        series = {
            "sampled_ratio": recorded(states, SampledRatio),
            "submitted_ratio": recorded(states, SubmittedRatio),
        }
        return Diagnostics(figures={name: float(values.median()) for name, values in series.items() if len(values)})

    def _step(self, step: Step, *, num_examples: int) -> Step:
        rule = self.combiner()
        if step.needs_rows:
            raise Misuse(
                "MTH-0557",
                f"robust-aggregation brings workers and a rule of its own, and the plan's step has {step.rows} and "
                f"{type(step.combine).__name__}",
                hint="defend a plan that combines by the plain mean",
            )
        momentum = self._momentum(step)
        update = step.update
        if self.momentum != "update" and isinstance(update, SGD):
            update = replace(update, momentum=0.0, nesterov=False)
        elif isinstance(update, SGD) and self.beta is not None:
            update = replace(update, momentum=self.beta)
        rows = Rows(
            of="worker",
            count=self.workers,
            maps=self._maps(momentum),
            hostile=Hostile(f=self.f, adversary=self._adversary()) if self.hostile else None,
        )
        combine = ServerMomentum(rule=rule, beta=momentum) if self.momentum == "server" else rule
        return replace(step, draw=self._draw(step, num_examples), rows=rows, combine=combine, update=update)

    def _momentum(self, step: Step) -> float:
        """Return the coefficient: the option, or the plan's."""
        if self.beta is not None:
            return self.beta
        return step.update.momentum if isinstance(step.update, SGD) else 0.0

    def _maps(self, momentum: float) -> tuple[AbstractRowMap, ...]:
        honest = self.workers - self.hostile
        ratios = honest >= 2
        maps: list[AbstractRowMap] = [RowClipping(bound=self.clip)] if self.clip is not None else []
        maps += [SampledRatio(honest=honest)] if ratios else []
        if self.momentum == "worker" and momentum:
            maps += [WorkerMomentum(beta=momentum, dampening=self.dampening)]
        return (*maps, SubmittedRatio(honest=honest)) if ratios else tuple(maps)

    def _adversary(self) -> AbstractAdversary:
        method = ADVERSARIES.load(self.adversary)
        if self.strength is None:
            made: AbstractAdversary = instantiate(method, self.adversary, {})
            return made
        name = vars(method).get("strength", "")
        if not name:
            raise Misuse(
                "MTH-0558",
                f"adversary {self.adversary!r} has no strength to set, got strength={self.strength:g}",
                hint="leave strength out",
            )
        made = instantiate(method, self.adversary, {name: self.strength})
        return made

    def _draw(self, step: Step, num_examples: int) -> AbstractDraw:
        if self.batch is not None:
            return PerWorker(workers=self.workers, batch=self.batch, shards=self.shards, alpha=self.alpha)
        if isinstance(step.draw, Shuffle) and step.draw.smallest_batch(num_examples) < self.workers:
            return replace(step.draw, drop_last=True)
        return step.draw


def with_f(registry: Registry, name: str, f: int) -> Any:
    """Return the method of a name with its defaults, and with f if it has such a field."""
    method = registry.load(name)
    return instantiate(method, name, {"f": f} if any(item.name == "f" for item in fields(method)) else {})


METHOD = RobustAggregation
