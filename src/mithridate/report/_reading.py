"""The small print of a report: what its numbers mean and what they do not, in words for a reader in a hurry."""

from mithridate.report._view import CONTROLS, confidence
from mithridate.report.schema import Report

_HEALING = (
    (
        "Healed, not healed, inconclusive",
        "Healed: the whole interval of the attack success rate is on the right side of the gate, clean accuracy fell "
        "by no more than the budget, and the accuracy of no class by more than 20 points. Not healed: one of these "
        "fails. "
        "Inconclusive: the interval lies across the gate, or the trigger did not work before either, or it was "
        "reconstructed and may be a natural one, or none is known.",
    ),
    (
        "What this does not say",
        "It is about this trigger. Another one may be in the model, and poison that works without a trigger is not "
        "looked for. Where there were no suspects, nothing was found by these detectors; that is no proof that there "
        "is nothing.",
    ),
)


def _interval(report: Report) -> str:
    level = confidence(report)
    text = f"Few runs say little. The {level} interval is computed so that, over many audits, about {level} of such "
    text += "intervals contain the true rate; it says nothing about attacks or settings that were not run."
    methods = {cell.interval_method for cell in report.cells}
    if "wilson" in methods:
        text += " Wilson intervals count every trial as independent."
    if "clustered" in methods:
        text += " Clustered intervals count targets, not victims: victims of the same target tend to agree."
    if "repeated" in methods:
        text += " Repeated intervals take images and victims for samples: the spread between victims widens them."
    return text


def _triggered(report: Report) -> bool:
    return any(cell.scenario.partition(":")[0] == "trigger" for cell in report.cells)


def _controls(report: Report) -> dict[str, str]:
    """What each control of this report is."""
    noise = {"noise": "the same images under the same wrong labels, without the trigger"} if _triggered(report) else {}
    return CONTROLS | noise


def _success(report: Report) -> str:
    triggered = _triggered(report)
    what = "a test image that carries the trigger" if triggered else "the target"
    unit = "image, those of the wanted class left out" if triggered else "target"
    return (
        f"The share of trials in which a victim, trained from scratch on the poisoned data, took {what} for the "
        f"class that the attacker wanted. One trial is one victim and one {unit}. n/a is 0 of 0: nothing to count."
    )


def reading(report: Report) -> list[tuple[str, str]]:
    """Terms and their meanings, only those that this report uses."""
    attacks = {cell.attack for cell in report.cells}
    entries = [("Interval", _interval(report))]
    if report.kind == "healing":
        return [*_HEALING, *(entries if report.tables else [])]
    if not report.cells and report.tables:
        return entries
    entries.insert(
        0,
        (
            "Success rate",
            _success(report),
        ),
    )
    controls = [f"“{attack}” is {meaning}" for attack, meaning in _controls(report).items() if attack in attacks]
    if controls:
        entries.append(("Controls", f"{'; '.join(controls)}. An attack counts as far as it exceeds its controls."))
    entries.append(
        (
            "Pass and fail",
            "A gate holds the bound of the interval against the limit, never the point: pass means the whole interval "
            "is on the right side, fail the whole interval on the wrong side. A pass is about this attack at this "
            "budget and size of change; it is no proof against a stronger or a different one.",
        )
    )
    entries.append(
        (
            "Inconclusive",
            "The run could not decide: either the attack did not work even undefended, so that no defense deserves "
            "praise, or the interval still lies across the limit. It is neither a pass nor a fail; more targets or "
            "more victims narrow the interval.",
        )
    )
    entries.append(
        (
            "Clean accuracy",
            "Accuracy of the victims on the untouched test images: what the attack or the defense costs.",
        )
    )
    if report.comparisons:
        entries.append(
            (
                "p-value",
                "How often chance alone would give a difference at least this large. Small is strong evidence of a "
                "difference; large is not evidence that there is none.",
            )
        )
    if any("stratified" in comparison.test for comparison in report.comparisons):
        entries.append(
            (
                "These targets, and others",
                "Fisher's test counts targets and speaks of others of their kind. The test stratified by target counts "
                "victims and speaks of these targets and poisons only; verdicts do not go by it.",
            )
        )
    return entries
