"""How methods without a search end: within the guard's budget, or back where they began."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from mithridate.unlearning._base import Healed
from mithridate.unlearning._frame import Session, accuracy, finish

RHO = 0.2


def settle(
    session: Session,
    model: nn.Module,
    *,
    method: str,
    details: Mapping[str, Any] | None = None,
    steps: int = 1,
    rho: float = RHO,
) -> Healed:
    """Return a model if the guard allows it, else the given one.

    Args:
        session: As begun.
        model: What the method made.
        method: Its name.
        details: For the report.
        steps: How many steps it took.
        rho: The method converged if the suspects are predicted as found at most this share as often as before.
    """
    before, after = session.suspects_before, accuracy(model, session.kit.suspects)
    if before <= rho:
        session.warn(f"the model predicts only {before:.0%} of the suspects as labelled: they show little to remove")
    if not session.watch.allows(model):
        lost = session.watch.loss(model)
        session.warn(
            f"{lost:.1%} of accuracy was lost, and the guard's budget is {session.watch.budget:.1%}: "
            "what is returned is the given model"
        )
        given = session.fresh()
        report = {**(details or {}), "outcome": "rolled back", "lost_before_roll_back": lost}
        return finish(session, given, method=method, converged=False, details=report, steps=steps)
    converged = after <= rho * before
    if not converged:
        session.warn(f"{after:.0%} of the suspects are still predicted as they were found, of {before:.0%} before")
    report = {**(details or {}), "outcome": "healed" if converged else "not converged"}
    return finish(session, model, method=method, converged=converged, details=report, steps=steps)
