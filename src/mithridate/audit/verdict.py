"""The verdict of an audit: one sentence with its interval, and one of three values.

An attack that does not beat both controls without a defense says nothing about any defense: the verdict is then
inconclusive, whatever the gate. A gate compares the bound of the interval, not the point.
"""

from collections.abc import Mapping
from typing import Any

from mithridate.audit.tally import Tally
from mithridate.core.intervals import Rate, difference
from mithridate.core.verdicts import Gate, Status, Verdict

Grid = Mapping[tuple[str, str], Tally]
SIGNIFICANCE = 0.05
"""An attack counts as working if it beats both controls at this level."""


def verdict(grid: Grid, comparisons: list[dict[str, Any]], gate: str | None, budget: str) -> dict[str, Any]:
    """Return the verdict of the report document.

    Args:
        grid: The tallies by attack and defense.
        comparisons: The tests of the attacks against their controls.
        gate: The gate as the user wrote it, or None.
        budget: The attacker's budget in words, such as "6 % of digits".
    """
    attacks = [attack for attack, defense in grid if defense == "none" and attack not in ("none", "noise")]
    if not attacks:
        return _document(Status.INCONCLUSIVE, "No attack was asked for, so nothing was tested.", [], gate)
    failed = [attack for attack in attacks if not _works(attack, comparisons)]
    strongest = max(attacks, key=lambda attack: grid[attack, "none"].success().point)
    sentence = _sentence(grid, strongest, budget, comparisons)
    if len(failed) == len(attacks):
        reasons = [
            f"{name(attack)} without a defense did not beat both controls at the {SIGNIFICANCE:.0%} level, "
            "so nothing can be said about defenses; use more targets, a larger budget or a larger epsilon"
            for attack in failed
        ]
        return _document(Status.INCONCLUSIVE, "The attack did not beat its controls. " + sentence, reasons, gate)
    reasons = [f"{name(attack)} did not beat both controls and is left out of the verdict" for attack in failed]
    if gate is None:
        return _document(Status.PASS, sentence, reasons, gate)
    status, judged = _judge(grid, [attack for attack in attacks if attack not in failed], Gate.parse(gate))
    return _document(status, sentence, reasons + judged, gate)


def name(method: str) -> str:
    """Return a method's name for a sentence."""
    return {"witches-brew": "Witches' Brew", "badnets": "BadNets", "noise": "random noise", "none": "no attack"}.get(
        method, method.replace("-", " ").title()
    )


def percent(rate: Rate) -> str:
    """Return a rate with its interval, such as `88 % (95 % interval 53-98 %)`."""
    return f"{100 * rate.point:.0f} % (95 % interval {100 * rate.low:.0f}-{100 * rate.high:.0f} %)"


def _works(attack: str, comparisons: list[dict[str, Any]]) -> bool:
    tests = [
        c["p_value"] for c in comparisons if c["what"].startswith(f"{attack} hits ") and c["test"].startswith("Fisher")
    ]
    return bool(tests) and all(p < SIGNIFICANCE for p in tests)


def _sentence(grid: Grid, attack: str, budget: str, comparisons: list[dict[str, Any]]) -> str:
    undefended = grid[attack, "none"]
    control = grid.get(("noise", "none"))
    control = None if control is None else control.against(attack)
    noise = "the same labels without it" if undefended.triggered else "noise of the same size"
    against = f"; {noise} turned {control.successes} of {control.trials}" if control else ""
    text = (
        f"Poisoning {budget} with {name(attack)} turned {undefended.successes} of {undefended.trials} "
        f"{undefended.asked}, {percent(undefended.success())}{against}."
    )
    for (other, defense), tally in grid.items():
        if other == attack and defense != "none":
            helps = _p_value(comparisons, f"{defense} saves {tally.unit} from {attack} ") < SIGNIFICANCE
            claim = "lowers this to" if helps else "is not shown to help:"
            text += f" {name(defense)} {claim} {tally.successes} of {tally.trials}, {percent(tally.success())}"
            text += _cost(grid, defense) + "."
    return text


def _p_value(comparisons: list[dict[str, Any]], what: str) -> float:
    """Return the p-value of the Fisher test whose description begins with `what`."""
    found = [c["p_value"] for c in comparisons if c["what"].startswith(what) and c["test"].startswith("Fisher")]
    return float(found[0]) if found else 1.0


def _cost(grid: Grid, defense: str) -> str:
    """Return what the defense costs in clean accuracy without any attack."""
    with_it, without = grid.get(("none", defense)), grid.get(("none", "none"))
    if with_it is None or without is None:
        return ""
    points = 100 * (without.accuracy().point - with_it.accuracy().point)
    return f", at a cost of {points:.1f} points of clean accuracy"


def _judge(grid: Grid, attacks: list[str], gate: Gate) -> tuple[Status, list[str]]:
    """Judge the defended cells of the attacks that work, or the undefended ones if no defense was asked for."""
    chosen = [cell for cell in grid if cell[0] in attacks and cell[1] != "none"]
    chosen = chosen or [cell for cell in grid if cell[0] in attacks]
    worst, reasons = Status.PASS, []
    for attack, defense in chosen:
        status, reason = _measure(grid, attack, defense, gate)
        under = "without a defense" if defense == "none" else f"under {name(defense)}"
        reasons.append(f"{name(attack)} {under}: {reason}")
        worst = max(worst, status, key=[Status.PASS, Status.INCONCLUSIVE, Status.FAIL].index)
    return worst, reasons


def _measure(grid: Grid, attack: str, defense: str, gate: Gate) -> tuple[Status, str]:
    tally = grid[attack, defense]
    rate = tally.success() if gate.metric == "asr" else tally.accuracy()
    found = difference(grid["none", "none"].accuracy(), rate) if gate.metric == "accuracy_drop" else rate
    status = gate.judge(found)
    word = {Status.PASS: "holds", Status.FAIL: "is violated", Status.INCONCLUSIVE: "is undecided"}[status]
    reason = f"{gate} {word}, interval {found.low:.3f} to {found.high:.3f}"
    if status is Status.INCONCLUSIVE and isinstance(found, Rate):
        needed = gate.trials_needed(found)
        reason += f"; about {needed} trials would decide it" if needed else "; the rate is too near the bound"
    return status, reason


def _document(status: Status, sentence: str, reasons: list[str], gate: str | None) -> dict[str, Any]:
    verdict = Verdict(status, sentence, tuple(reasons))
    return {
        "status": status.value,
        "exit_code": int(verdict.exit_code),
        "sentence": sentence,
        "reasons": reasons,
        "gate": gate,
    }
