"""Clean samples among the suspects, found by the order in which the search forgets them.

Along the path the poison is forgotten first: what is dampened early is what the suspects share and the reference lacks.
Suspects that are still predicted as found where the guard stops the search are dropped, and the search is run anew.
Measured on a small network, this separates clean samples of other classes, and clean ones of the target class while
they are no more than the poison.
"""

from dataclasses import dataclass, replace

from mithridate.unlearning._base import HealKit
from mithridate.unlearning._frame import Session
from mithridate.unlearning._ptn import AbstractTriggerNeutraliser, work_of
from mithridate.unlearning._search import SuspectView, Trail, retreat
from mithridate.unlearning.xlf import Xlf

_GUARD_EVERY = 5


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """Which suspects to believe.

    Args:
        keep: Rows of the suspects, those forgotten first in front.
        flips: For each suspect the step at which it was forgotten in the first round, None if it was not.
        stop: The step of the first round at which the guard, or the end of the path, stopped it.
        warnings: What a reader should know.
    """

    keep: tuple[int, ...]
    flips: tuple[int | None, ...]
    stop: int
    warnings: tuple[str, ...]


def clean(kit: HealKit, *, healer: AbstractTriggerNeutraliser | None = None, rounds: int = 2, seed: int = 0) -> Cleaned:
    """Sort the suspects by the step at which they are forgotten, and keep those forgotten within the guard's budget.

    Args:
        kit: What the defender has; a guard is needed, since without one everything is forgotten in the end.
        healer: The path; the default healer's if None.
        rounds: How often the path is run, each time with those kept before.
        seed: For the healer and the guard.

    Returns:
        All suspects are kept, with a warning, if none was forgotten.

    Raises:
        Misuse: The kit does not fit the model.
    """
    healer = healer or Xlf()
    rows = list(range(len(kit.suspects)))
    first: tuple[tuple[int | None, ...], int] | None = None
    warnings: list[str] = []
    for _ in range(rounds):
        part = replace(kit, suspects=kit.suspects.select(rows), shelf=None)
        flips, stop = flip_order(healer.begin(part, seed=seed), healer, seed=seed)
        first = first or (flips, stop)
        kept = sorted((step, place) for place, step in enumerate(flips) if step is not None)
        if not kept:
            warnings.append("no suspect was forgotten within the guard's budget: they may all be clean")
            break
        done = len(kept) == len(rows)
        rows = [rows[place] for _, place in kept]
        if done:
            break
    assert first is not None, "there is at least one round"
    return Cleaned(keep=tuple(rows), flips=first[0], stop=first[1], warnings=tuple(warnings))


def flip_order(
    session: Session, healer: AbstractTriggerNeutraliser, *, seed: int
) -> tuple[tuple[int | None, ...], int]:
    """Return the first step at which each suspect is not predicted as found, and the step at which the path ended.

    It ends where all are forgotten, after the healer's most tries, or at the last step within the guard's budget. What
    the given model does not predict as found is forgotten at step 0.
    """
    path = healer.path(session, work_of(healer, session, seed), seed=seed)
    view = SuspectView(session.model, session.kit.suspects)
    path.go(None)
    flips: list[int | None] = [None if hit else 0 for hit in view.hits()]
    trail = Trail()
    seen = 0
    for step in range(healer.max_tries):
        if all(flip is not None for flip in flips):
            break
        threshold = path.threshold(step)
        if threshold.count == seen:
            continue
        seen, trail.step = threshold.count, step
        path.go(step)
        for place, hit in enumerate(view.hits()):
            if not hit and flips[place] is None:
                flips[place] = step
        session.kit.progress({"what": "flip order", "step": step})
        if step % _GUARD_EVERY == 0:
            if not session.watch.allows(session.model):
                break
            trail.within = step
    stop = trail.step
    if not session.watch.allows(session.model):
        trail.violated = stop
        found = retreat(path, session.watch, session.model, trail)
        stop = -1 if found is None else found
    return tuple(flip if flip is not None and flip <= stop else None for flip in flips), stop
