"""Report documents for the tests of the command line."""

import json
from pathlib import Path
from typing import Any


def a_document(status: str = "fail", exit_code: int = 1, *, word: str = "witches-brew") -> dict[str, Any]:
    """A report of one cell; `word` stands where an attack is named."""
    cell = {
        "scenario": "random",
        "attack": word,
        "defense": "none",
        "targets": 8,
        "trials": 8,
        "successes": 6,
        "attack_success_rate": 0.75,
        "interval": [0.41, 0.93],
        "interval_method": "wilson",
        "clean_accuracy": 0.98,
        "clean_accuracy_interval": [0.97, 0.99],
        "victims": 8,
        "seconds": 1.5,
    }
    return {
        "schema": "mithridate.report/1",
        "kind": "audit",
        "title": "Audit of mlp on digits",
        "created": "2026-11-14T10:22:00+00:00",
        "verdict": {
            "status": status,
            "exit_code": exit_code,
            "sentence": f"6 of 8 targets fell to {word}",
            "reasons": [],
            "gate": None,
        },
        "cells": [cell],
    }


def finished(folder: Path, document: dict[str, Any]) -> Path:
    """Write a report document into a run folder."""
    folder.mkdir(exist_ok=True)
    (folder / "report.json").write_text(json.dumps(document), encoding="utf-8")
    return folder
