"""What `check` says that an audit costs: cells, operations, minutes and memory, each against a count of its own."""

from pathlib import Path
from typing import Any

import pytest

import mithridate.audit.estimate as module
from mithridate.audit.assembly import Assembly, assemble
from mithridate.audit.config import AuditConfig
from mithridate.audit.estimate import estimate
from mithridate.models.flops import forward_flops
from mithridate.training.plan import Plan

BREW: dict[str, Any] = {"name": "witches-brew", "options": {"restarts": 2, "steps": 5}}
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


@pytest.mark.parametrize(
    "surrogates", [("mlp",), ("mlp-w128",), ("convnet3",), ("mlp", "mlp-w128", "mlp", "mlp-w128", "convnet3", "mlp")]
)
def test_every_network_counts_with_its_own_operations(tmp_path: Path, surrogates: tuple[str, ...]) -> None:
    """An oracle by hand: operations of the surrogates' training, of two craftings and of all victims."""
    many = {"name": "witches-brew", "options": {**BREW["options"], "num_surrogates": len(surrogates)}}
    assembly = assembled(tmp_path, attacks=[many], surrogate={"models": list(surrogates)})
    rows, poisons = len(assembly.data.train), len(assembly.scenarios[0].poison_ids)
    own = [forward_flops(plan.model) for plan in assembly.surrogates]
    trained = sum(3 * rows * plan.epochs * flops for plan, flops in zip(assembly.surrogates, own, strict=True))
    crafted = 2 * (2 * 5) * 9 * poisons * sum(own)
    victims = (3 + 2 * 2) * 3 * rows * assembly.plan.epochs * forward_flops(assembly.plan.model)
    found = estimate(assembly, calibrate=False)
    assert found.petaflops == pytest.approx((trained + crafted + victims) / 1e15, rel=5e-3)
    left = estimate(assembly, calibrate=False, done={f"surrogate/{k}" for k in range(len(surrogates))})
    assert left.petaflops == pytest.approx((crafted + victims) / 1e15, rel=5e-3)


def test_every_network_takes_the_time_of_its_own_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is timed once; an epoch of a surrogate ten times slower than the victim takes ten times as long."""
    timed: list[str] = []

    def speed(plan: Plan) -> float:
        timed.append(plan.model.name)
        return {"mlp": 1000.0, "mlp-w128": 100.0}[plan.model.name]

    monkeypatch.setattr(module, "_images_per_second", speed)
    three = {"name": "witches-brew", "options": {**BREW["options"], "num_surrogates": 3}}
    models = ["mlp-w128", "mlp", "mlp-w128"]
    assembly = assembled(tmp_path, attacks=[three], surrogate={"models": models}, jobs=1)
    jobs = {job.name for job in assembly.jobs()}
    seconds = len(assembly.data.train) * assembly.plan.epochs / 1000
    for number, times in enumerate((10, 1, 10)):
        found = estimate(assembly, calibrate=True, done=jobs - {f"surrogate/{number}"})
        assert found.minutes == pytest.approx(times * seconds / 60, rel=0.05)
        assert found.images_per_second == 1000
    assert timed == ["mlp", "mlp-w128", "mlp", "mlp", "mlp-w128"]
