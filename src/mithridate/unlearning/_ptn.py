"""Poison trigger neutralisation: the least dampening under which the suspects are no longer predicted as found.

    b_t = 100 - ln(1 + 100 q_t),   q_0 = |S_f| / (|D| b_start),   q_t = q_0 s^t;   lambda = 1
    the first t with  acc_t(S_f) <= rho acc_0(S_f),  accuracies with respect to the labels under which they were found

Paper    Schoepf, Foster, Brintrup: Potion (2024), Algorithm 1 and the code of its authors.
Departs  one sort in place of a percentile at every step (`_dampening`), and bisection between steps, at most of which a
         look at a fifth of the suspects is enough (`_search`): the same step and entries, if accuracy on the suspects
         never rises along the path, as on all paths that we measured; `search=walk` needs no such condition.
         Importances are means over samples (`importance_batch` takes the published gradients of batches), on at most
         `reference_samples` of the reference. The accuracies are measured without augmentation. A guard stops the
         search, and one that fails returns no damaged model.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mithridate.core.params import In, OneOf, param
from mithridate.numerics.importance import Importance, Kind
from mithridate.unlearning._base import AbstractHealer, Healed, HealKit
from mithridate.unlearning._dampening import DampeningPath, Schedule, widened
from mithridate.unlearning._frame import Session, begin, finish
from mithridate.unlearning._measuring import Desk, Measure, desk, measured
from mithridate.unlearning._search import Rule, SuspectView, Trail, retreat, search


@dataclass(frozen=True, kw_only=True)
class AbstractImportanceHealer(AbstractHealer, ABC):
    """A healer that compares what matters to the suspects with what matters to the reference."""

    importance_batch: int | None = param(
        None,
        within=In(1, 1 << 20),
        doc="samples whose gradients are averaged before the power is taken, 512 as published; none for each sample",
    )
    reference_samples: int | None = param(
        1000, within=In(1, 1 << 31), doc="examples of the reference that are used, drawn once; none for all"
    )

    @property
    @abstractmethod
    def kind(self) -> Kind:
        """The importance."""

    @property
    def measure(self) -> Measure:
        """What is measured."""
        return Measure(kind=self.kind, batch=self.importance_batch, samples=self.reference_samples)

    def begin(self, kit: HealKit, *, seed: int) -> Session:
        """Check the kit and return a copy to work on."""
        return begin(kit, seed=seed, labels=self.kind == "ssd")


@dataclass(frozen=True, kw_only=True)
class AbstractDampener(AbstractImportanceHealer, ABC):
    """A healer that dampens without the search, by the squared gradient of the loss."""

    @property
    def kind(self) -> Kind:
        """The squared gradient of the loss."""
        return "ssd"

    def importances(self, session: Session, *, seed: int) -> tuple[Importance, Importance]:
        """Measure what matters to the suspects and what to the reference."""
        return measured(session, self.measure, work_of(self, session, seed), seed=seed)


def work_of(healer: AbstractImportanceHealer, session: Session, seed: int) -> Desk:
    """Return the desk of a healer's work."""
    return desk(session, healer.label(), asdict(healer), seed)


@dataclass(frozen=True, kw_only=True)
class AbstractTriggerNeutraliser(AbstractImportanceHealer, ABC):
    """The search, with one of the importances."""

    rho: float = param(0.2, within=In(0.0, 1.0, open_hi=True), doc="share of the accuracy on suspects at which to stop")
    b_start: float = param(25.0, within=In(0.0, 1e9, open_lo=True), doc="divisor of the first step")
    s_step: float = param(1.1, within=In(1.0, 100.0, open_lo=True), doc="factor from step to step")
    max_tries: int = param(500, within=In(1, 100_000), doc="most steps")
    search: str = param(
        "bisect",
        within=OneOf("bisect", "walk"),
        doc="walk looks at every step, and finds the first one even if accuracy on suspects rises on the way",
    )

    def heal(self, kit: HealKit, *, seed: int) -> Healed:
        """Search, and stop where the guard says; see `AbstractHealer.heal`."""
        session = self.begin(kit, seed=seed)
        if session.suspects_before <= self.rho:
            return _nothing_to_heal(session, self)
        work = work_of(self, session, seed)
        path = self.path(session, work, seed=seed)
        trail = self._search(session, path, work)
        watch = session.watch
        step: int | None = trail.found
        if trail.found is None and trail.violated is None and watch.enabled:
            last = self.max_tries - 1
            path.go(last)
            if watch.allows(session.model):
                step = last
            else:
                trail.violated = last
        if trail.violated is not None:
            step = retreat(path, watch, session.model, trail)
        path.go(step)
        return _finished(session, self, path, trail, step)

    def path(self, session: Session, work: Desk, *, seed: int) -> DampeningPath:
        """Measure importances and return the candidates, which change the session's model."""
        forget, keep = measured(session, self.measure, work, seed=seed)
        start = len(session.kit.suspects) / session.kit.training_size / self.b_start
        schedule = Schedule(start=start, factor=self.s_step)
        return DampeningPath(session.model, widened(forget), widened(keep), schedule, tries=self.max_tries)

    def _search(self, session: Session, path: DampeningPath, work: Desk) -> Trail:
        kept = work.load().get("trail")
        trail = Trail() if kept is None else Trail.of(kept.tolist())

        def keep(now: Trail) -> None:
            work.keep({"trail": torch.tensor(now.numbers())})

        return search(
            path,
            SuspectView(session.model, session.kit.suspects),
            Rule(rho=self.rho, max_tries=self.max_tries, walk=self.search == "walk"),
            lambda: session.watch.allows(session.model),
            trail=trail,
            tell=session.kit.progress,
            keep=keep,
        )


def _nothing_to_heal(session: Session, healer: AbstractTriggerNeutraliser) -> Healed:
    session.warn(
        f"the model predicts {session.suspects_before:.0%} of the suspects as labelled, which is not above "
        f"rho = {healer.rho:g}: the suspects show no behaviour to remove, and the model was left alone"
    )
    return finish(session, session.model, method=healer.label(), converged=True, details={"outcome": "nothing to heal"})


def _finished(
    session: Session, healer: AbstractTriggerNeutraliser, path: DampeningPath, trail: Trail, step: int | None
) -> Healed:
    converged = trail.found is not None and step == trail.found
    threshold = None if step is None else path.threshold(step)
    if converged:
        outcome = "healed"
    elif trail.violated is not None:
        outcome = "rolled back"
        session.warn(
            f"the suspects were not forgotten within the guard's budget of {session.watch.budget:.1%}: the model is "
            "the last one within it. Suspects that are clean are the usual cause; clean them, or keep the surest"
        )
    else:
        outcome = "not converged"
        returned = "the given model" if step is None else "the last candidate, which is within the guard's budget"
        session.warn(f"the suspects were not forgotten in {healer.max_tries} steps; what is returned is {returned}")
    details: Mapping[str, Any] = {
        "outcome": outcome,
        "alpha": None if threshold is None else threshold.alpha,
        "percentile": None if threshold is None else threshold.percentile,
        "frac_dampened": 0.0 if threshold is None else threshold.count / path.size,
        "dampened": 0 if threshold is None else threshold.count,
        "evaluated": trail.evaluated,
        "importance": healer.kind,
    }
    tries = trail.found if trail.found is not None else (trail.violated or trail.step)
    return finish(
        session, session.model, method=healer.label(), converged=converged, details=details, steps=int(tries) + 1
    )
