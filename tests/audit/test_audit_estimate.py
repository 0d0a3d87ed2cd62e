"""What `check` says that an audit costs: cells, operations, minutes and memory, each against a count of its own."""

from pathlib import Path
from typing import Any

import pytest

from mithridate.audit.assembly import Assembly, assemble
from mithridate.audit.config import AuditConfig
from mithridate.audit.estimate import estimate

BREW = {"name": "witches-brew", "options": {"restarts": 2, "steps": 5}}
NOISE = {"name": "friendly-noise", "options": {"components": "random"}}


def assembled(folder: Path, **changes: Any) -> Assembly:
    """Return a small audit of digits."""
    values = {"scenarios": {"count": 2}, "attacks": [BREW], **changes}
    return assemble(AuditConfig.model_validate(values), folder)


@pytest.mark.parametrize(
    ("changes", "cells"),
    [
        ({}, 2 * 3),
        ({"defenses": [NOISE]}, 2 * 3 * 2),
        ({"defenses": [NOISE], "controls": "undefended"}, 2 * (3 * 2 - 1)),
        ({"defenses": [NOISE, "robust-aggregation"], "controls": "undefended", "victims": 3}, 2 * (3 * 3 - 2)),
        ({"attacks": ["none"], "defenses": [NOISE], "controls": "undefended"}, 2 * (2 * 2 - 1)),
        ({"attacks": ["badnets", "blended"], "scenarios": {"count": 3}, "defenses": [NOISE]}, 3 * 4 * 2),
        ({"attacks": ["badnets"], "scenarios": {}, "defenses": [NOISE], "controls": "undefended"}, 3 * 2 - 1),
        ({"scenarios": {"source": "random:3"}}, 3),
    ],
)
def test_cells_are_those_in_which_victims_train(tmp_path: Path, changes: dict[str, Any], cells: int) -> None:
    assembly = assembled(tmp_path, **changes)
    assert estimate(assembly, calibrate=False).cells == assembly.config.num_cells == cells
