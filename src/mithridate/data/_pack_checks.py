"""Recomputing every claim of a poison pack.

Without a data set, what compares with base images is left open, by name. The attack, its configuration, its seed and
its record say where the poisons come from; only crafting them again could check these.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mithridate.core.errors import BadArtefact, Misuse
from mithridate.core.units import Pixels, format_epsilon
from mithridate.data._pack import PoisonPack
from mithridate.data._pack_claims import (
    Claims,
    changed_labels,
    class_shares,
    is_stamped,
    largest_change,
    levels_allowed,
    read_claims,
)
from mithridate.data.scenarios import Scenario, check_scenario
from mithridate.data.sources import DataSet


@dataclass(frozen=True, kw_only=True)
class Check:
    """One recomputed claim.

    Args:
        name: What was claimed.
        passed: Whether it is true; None when it could not be checked.
        detail: The numbers, or why it could not be checked.
    """

    name: str
    passed: bool | None
    detail: str


def verify_pack(path: str | Path, data: DataSet | None = None) -> list[Check]:
    """Recompute every claim that a saved poison pack makes.

    Args:
        path: The pack's folder.
        data: The data set it was made for; without it the comparisons with base images are left open.

    Returns:
        One check for each claim. A folder that is damaged or altered is one failed check named `files`.
    """
    try:
        pack = PoisonPack.load(path)
    except BadArtefact as error:
        return [Check(name="files", passed=False, detail=str(error))]
    claims, scenario = read_claims(pack.manifest, str(path))
    found = [
        Check(name="files", passed=True, detail="every sha256, the digest of the claims and the poisons agree"),
        *_alone(pack, claims),
    ]
    checks = {name: check for name, check in _COMPARISONS.items() if check is not _trigger or pack.trigger is not None}
    return found + [_against(name, check, pack, (claims, scenario), data) for name, check in checks.items()]


def _alone(pack: PoisonPack, claims: Claims) -> list[Check]:
    """Check what the pack shows by itself."""
    rows, shape = claims.dataset.rows, claims.dataset.shape
    last = int(pack.ids.max()) if len(pack) else -1
    budget = len(pack) / rows if rows > 0 else -1.0
    return [
        Check(name="count", passed=len(pack) == claims.count, detail=f"{len(pack)} poisons, claimed {claims.count}"),
        Check(name="ids", passed=last < rows, detail=f"distinct, the last is row {last} of {rows}"),
        Check(
            name="shape",
            passed=list(pack.images.shape[1:]) == shape,
            detail=f"{tuple(pack.images.shape[1:])}, claimed {tuple(shape)}",
        ),
        Check(
            name="budget of the set",
            passed=budget == claims.budget.of_set,
            detail=f"{len(pack)} of {rows} rows = {budget:.4%}, claimed {claims.budget.of_set:.4%}",
        ),
    ]


_Answer = tuple[bool, str]
_Both = tuple[Claims, Scenario]


def _fingerprint(pack: PoisonPack, both: _Both, data: DataSet) -> _Answer:
    claimed = both[0].dataset
    found = (data.train.fingerprint, len(data.train), list(data.train.classes), list(data.train.images.shape))
    same = found == (claimed.fingerprint, claimed.rows, claimed.classes, claimed.shape)
    return same, f"{found[0][:16]}... of {data.train.name!r}, claimed {claimed.fingerprint[:16]}... of {claimed.name!r}"


def _base_pixels(pack: PoisonPack, both: _Both, data: DataSet) -> _Answer:
    found, claimed = data.train.pixel_hash(pack.ids), both[0].dataset.base_pixels
    return found == claimed, f"{found[:16]}..., claimed {claimed[:16]}..."


def _epsilon(pack: PoisonPack, both: _Both, data: DataSet) -> _Answer:
    claims, scenario = both
    levels, claimed = largest_change(data.train, pack.ids, pack.images), claims.epsilon
    measured = format_epsilon(Pixels(levels / 255))
    agree = (levels, levels / 255, measured) == (claimed.levels, claimed.measured, claimed.measured_text)
    allowed = (scenario.epsilon, format_epsilon(scenario.epsilon)) == (claimed.allowed, claimed.allowed_text)
    within = levels <= levels_allowed(scenario.epsilon)
    return (
        agree and allowed and within,
        f"measured {measured}, claimed {claimed.measured_text}, allowed {format_epsilon(scenario.epsilon)}",
    )


def _labels(pack: PoisonPack, both: _Both, data: DataSet) -> _Answer:
    changed = changed_labels(data.train, pack.ids, pack.labels)
    within = not len(pack) or 0 <= int(pack.labels.min()) <= int(pack.labels.max()) < len(data.train.classes)
    return (
        changed == both[0].labels_changed and within,
        f"{changed} labels differ from the base, claimed {both[0].labels_changed}",
    )


def _budget_of_class(pack: PoisonPack, both: _Both, data: DataSet) -> _Answer:
    found = class_shares(data.train, pack.ids)
    said = ", ".join(f"{share.poisons} of {share.rows} of {share.name!r} = {share.fraction:.4%}" for share in found)
    return found == both[0].budget.of_class, said or "no poisons"


def _scenario(pack: PoisonPack, both: _Both, data: DataSet) -> _Answer:
    scenario = both[1]
    check_scenario(scenario, data)
    what = "a trigger" if scenario.triggered else f"test row {', '.join(map(str, scenario.targets))}"
    return True, f"{scenario.name}: {what}, threat model {scenario.threat}"


def _trigger(pack: PoisonPack, both: _Both, data: DataSet) -> _Answer:
    claimed, trigger = both[0].trigger, pack.trigger
    if claimed is None or trigger is None:
        return True, "none"
    found = is_stamped(data.train, pack.ids, pack.images, trigger)
    words = {True: "are their base images with exactly this trigger", False: "are not merely stamped with it"}
    return found == claimed.stamped, f"{trigger.name}; the poisons {words[found]}"


_COMPARISONS: dict[str, Callable[[PoisonPack, _Both, DataSet], _Answer]] = {
    "dataset fingerprint": _fingerprint,
    "base pixels": _base_pixels,
    "epsilon": _epsilon,
    "labels": _labels,
    "budget of the class": _budget_of_class,
    "scenario": _scenario,
    "trigger": _trigger,
}


def _against(
    name: str,
    check: Callable[[PoisonPack, _Both, DataSet], _Answer],
    pack: PoisonPack,
    both: _Both,
    data: DataSet | None,
) -> Check:
    """Run one comparison with the data set, where there is one in which the poisons have a base."""
    if data is None:
        return Check(name=name, passed=None, detail="not checked: needs the data set")
    fits = list(pack.images.shape[1:]) == list(data.train.images.shape) and (
        not len(pack) or int(pack.ids.max()) < len(data.train)
    )
    if not fits and check is not _fingerprint:
        return Check(
            name=name,
            passed=None,
            detail=f"not checked: {data.name!r} has no rows that the poisons could replace",
        )
    try:
        passed, detail = check(pack, both, data)
    except Misuse as error:
        passed, detail = False, str(error)
    return Check(name=name, passed=passed, detail=detail)
