"""From a finished healing to the report document, and to the summary that `--json` prints."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mithridate.audit.healing import Case, Request
from mithridate.audit.verifying import class_changes, verdict
from mithridate.core.environment import environment
from mithridate.core.verdicts import Gate, Status, Verdict
from mithridate.report.schema import SCHEMA
from mithridate.unlearning._base import ASSUMED_RATE

Record = dict[str, Any]
_ROWS = (
    ("attack", "trigger works (attack success rate)"),
    ("heal_test", "triggered images seen as what they are"),
    ("heal_poisons", "poisons seen as what they are"),
    ("suspects", "suspects predicted as labelled"),
    ("clean", "clean accuracy"),
)


def budget_of(request: Request) -> float:
    """Return how much clean accuracy may be lost: the guard's budget, or what it allows by itself."""
    if request.guard is not None:
        return request.guard
    rate = ASSUMED_RATE if request.poison_rate is None else request.poison_rate
    return 0.01 + (0.0 if request.trusted else rate)


def document_of(
    case: Case, request: Request, records: Mapping[str, Mapping[str, Any]], *, command: str, folder: Path
) -> Record:
    """Return the report document."""
    found = records.get("verify")
    tables: list[Record] = []
    if found is None:
        said = case.suspects.statement
        status = Status.PASS if case.suspects.decided else Status.INCONCLUSIVE
        judged = Verdict(status, f"Left alone: there are no suspects. {said}", ("the model was not changed",))
        tables = [_scan_table(case)]
    else:
        report = records["heal"]["report"]
        judged = verdict(
            found, gate=Gate.parse(request.gate), budget=budget_of(request), converged=bool(report["converged"])
        )
        extra = [*records["clean"]["warnings"], *report["warnings"]]
        judged = Verdict(judged.status, judged.sentence, (*judged.reasons, *extra))
        tables = [outcome_table(found), class_table(found), _method_table(records)]
    spec = case.about.spec
    return {
        "schema": SCHEMA,
        "kind": "healing",
        "title": f"Healing of {spec.name} on {case.data.name}",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "verdict": plain_verdict(judged, None if found is None else request.gate),
        "setting": [
            ["model", spec.name],
            ["data", case.data.name],
            ["method", request.method],
            ["suspects", len(case.suspects.found)],
            ["scan", case.suspects.statement],
            ["guard", f"{budget_of(request):.1%} of accuracy" if request.guarded else "none"],
        ],
        "cells": [],
        "tables": tables,
        "config": {"method": request.method, "options": dict(request.options), "seed": request.seed},
        "environment": environment(),
        "reproduce": command or f"mithridate heal MODEL --method {request.method} -o {folder.name}",
    }


def summary(document: Record, case: Case, request: Request, records: Mapping[str, Mapping[str, Any]]) -> Record:
    """Return what `mithridate heal --json` prints."""
    found = records.get("verify")
    status = document["verdict"]["status"]
    left_alone = found is None
    return {
        "method": request.method,
        "suspects": len(case.suspects.found),
        **rates(found),
        "healed": status == "pass" and not left_alone,
        "left_alone": left_alone,
        "suspects_used": 0 if left_alone else len(records["clean"]["keep"]),
        "trigger": None if found is None else found["trigger"],
        "converged": None if left_alone else records["heal"]["report"]["converged"],
        "verdict": document["verdict"],
        "details": None if left_alone else records["heal"]["report"],
    }


def rates(found: Mapping[str, Any] | None) -> Record:
    """Return attack success and clean accuracy before and after; null where unknown."""
    names = {"attack_success_rate": "attack", "clean_accuracy": "clean"}
    plain: Record = {}
    for name, key in names.items():
        for when in ("before", "after"):
            count = None if found is None else found[when][key]
            plain[f"{name}_{when}"] = None if count is None else count["rate"]
    return plain


def plain_verdict(judged: Verdict, gate: str | None) -> Record:
    """Return a verdict as the report has it."""
    return {
        "status": judged.status.value,
        "exit_code": int(judged.exit_code),
        "sentence": judged.sentence,
        "reasons": list(judged.reasons),
        "gate": gate,
    }


def outcome_table(found: Mapping[str, Any]) -> Record:
    """Return the table of what was measured before and after."""
    rows = [
        [title, _shown(found["before"][key]), _shown(found["after"][key])]
        for key, title in _ROWS
        if found["before"][key] is not None and found["before"][key]["trials"]
    ]
    name = found["trigger_name"]
    note = "No trigger is known." if name is None else f"Trigger: {name}; images of its target class are left out."
    return {
        "title": "Before and after, with 95 % intervals",
        "columns": ["what", "before", "after"],
        "rows": rows,
        "note": f"{note} Held-out images: {found['tested']}.",
    }


def class_table(found: Mapping[str, Any]) -> Record:
    """Return the table of the accuracy of each class."""
    changes = class_changes(found)
    before = dict(zip(found["classes"], found["before"]["per_class"], strict=True))
    after = dict(zip(found["classes"], found["after"]["per_class"], strict=True))
    rows = [
        [name, f"{before[name]['rate']:.1%}", f"{after[name]['rate']:.1%}", f"{100 * change:+.1f}"]
        for name, change in changes.items()
    ]
    return {
        "title": "Clean accuracy of each class",
        "columns": ["class", "before", "after", "change, points"],
        "rows": rows,
        "note": "A class that falls has been forgotten together with the trigger.",
    }


def _shown(count: Mapping[str, Any]) -> str:
    low, high = count["interval"]
    return f"{count['rate']:.1%} ({low:.1%} to {high:.1%}; {count['successes']} of {count['trials']})"


def _scan_table(case: Case) -> Record:
    scan = case.suspects
    rows: list[list[str | int]] = [["rows scanned", len(scan)], ["classes that could be judged", len(scan.anomalies)]]
    if scan.leading is not None:
        rows += [
            ["class that stands out most", scan.classes[scan.leading]],
            ["its anomaly", f"{scan.anomalies[scan.leading]:.1f}"],
            ["a class is suspected above", f"{scan.gate:.1f}"],
        ]
    return {"title": "What the scan saw", "columns": ["what", "value"], "rows": rows, "note": ""}


def _method_table(records: Mapping[str, Mapping[str, Any]]) -> Record:
    report, cleaned = records["heal"]["report"], records["clean"]
    rows = [
        ["suspects used", len(cleaned["keep"])],
        ["suspects dropped as clean", cleaned["dropped"]],
        ["reached its aim", "yes" if report["converged"] else "no"],
        ["steps", report["steps"]],
        ["share of the weights changed", f"{report['frac_dampened']:.3%}"],
        ["accuracy lost on the guard's data", f"{report['guard']['lost']:.1%}"],
    ]
    return {"title": f"What {report['method']} did", "columns": ["what", "value"], "rows": rows, "note": ""}
