"""The attack really works on digits and its controls do not; augmentation that the brewer ignores breaks it.

Operating points were measured beforehand with another implementation (success .75-.85 in the first setting, .81 against
.06 in the second); the bounds leave room for the spread over targets.
"""

from pathlib import Path
from typing import Any

import pytest

from mithridate.audit.config import AuditConfig
from mithridate.audit.run import run_audit
from mithridate.papers.witches_brew import DIGITS_OPTIONS

pytestmark = pytest.mark.slow


def cells(folder: Path, count: int, *, brew: dict[str, Any] | None = None, **changes: Any) -> dict[str, dict[str, Any]]:
    options = {**DIGITS_OPTIONS, **(brew or {})}
    document = run_audit(
        AuditConfig.model_validate(
            {
                "data": {"source": "digits"},
                "scenarios": {"count": count},
                "attacks": [{"name": "witches-brew", "options": options}],
                **changes,
            }
        ),
        folder,
    ).document
    return {cell["attack"]: cell for cell in document["cells"]}


def test_witches_brew_hits_half_of_twenty_targets_and_its_controls_hit_none(tmp_path: Path) -> None:
    found = cells(tmp_path, 20)
    brew, noise, clean = found["witches-brew"], found["noise"], found["none"]
    assert brew["trials"] == 20
    assert brew["attack_success_rate"] >= 0.5
    assert noise["attack_success_rate"] <= 0.05
    assert clean["attack_success_rate"] <= 0.05
    assert clean["clean_accuracy"] - brew["clean_accuracy"] <= 0.015


def test_poisons_brewed_without_the_victims_augmentation_lose_their_effect(tmp_path: Path) -> None:
    plain = cells(tmp_path / "plain", 12, alignment=False)["witches-brew"]
    unaware = cells(
        tmp_path / "unaware", 12, brew={"augment": False}, recipe_options={"augment": True}, alignment=False
    )["witches-brew"]
    assert plain["attack_success_rate"] - unaware["attack_success_rate"] >= 0.4
