"""How methods without a search end: forgotten and within the guard's budget, or with a word on what is missing.

A method has healed when the suspects are predicted as they were found a fifth as often as before, or less, and the
guard holds. Where the guard does not hold, or the network no longer computes, what is returned is the last state at
hand that was within budget, or what was given. Nothing else is chosen by anything, and never by test data: the public
code of several of the papers keeps the epoch that is best on the test set.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mithridate.unlearning._base import Healed
from mithridate.unlearning._frame import Session, accuracy, finish, predictions
from mithridate.unlearning._layers import overwrite, tensors

FORGOTTEN = 0.2
"""The share of its former accuracy on the suspects at which a network is said to have forgotten them."""


def settle(
    session: Session,
    model: nn.Module,
    *,
    method: str,
    within: Mapping[str, Tensor] | None = None,
    details: Mapping[str, Any] | None = None,
    steps: int = 1,
) -> Healed:
    """Judge a model, take it back where the guard says so, and report.

    Args:
        session: As begun.
        model: What the method made; it may be changed.
        method: Its name.
        within: Values of the last state that the guard allowed, if one was kept.
        details: For the report.
        steps: How many steps it took.
    """
    watch, before, outcome = session.watch, session.suspects_before, ""
    found = dict(details or {})
    whole = sound(model) and bool((predictions(model, session.kit.suspects) >= 0).all())
    if not whole or not watch.allows(model):
        outcome = "rolled back"
        found["lost_before_roll_back"] = lost = watch.loss(model)
        why = f"it lost {lost:.1%} on the guard's data, over the budget of {watch.budget:.1%}"
        back = "the given model" if within is None else "the last state within budget"
        session.warn(
            f"{method} went too far: {why if whole else 'its weights or outputs diverged'}; what is returned is {back}"
        )
        model = session.fresh()
        if within is not None:
            overwrite(model, within)
    after = accuracy(model, session.kit.suspects)
    forgotten = after <= FORGOTTEN * before
    if before <= FORGOTTEN:
        session.warn(f"the model predicts only {before:.0%} of the suspects as labelled: they show little to remove")
    if not forgotten:
        session.warn(
            f"the suspects were not forgotten: {after:.0%} of them are still predicted as they were found, of "
            f"{before:.0%} before"
        )
        outcome = outcome or "not forgotten"
    found["outcome"] = outcome or ("healed" if before > FORGOTTEN else "nothing to heal")
    return finish(session, model, method=method, converged=not outcome, details=found, steps=steps)


def sound(model: nn.Module) -> bool:
    """Tell whether every number of a model is finite."""
    return all(bool(tensor.isfinite().all()) for _, tensor in tensors(model) if tensor.is_floating_point())


def keep(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a model's values."""
    return {name: tensor.detach().clone() for name, tensor in tensors(model)}
