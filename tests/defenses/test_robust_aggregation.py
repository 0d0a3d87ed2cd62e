"""Robust aggregation as a defense: what it makes of a plan, what it refuses, and where it stands and the mean falls."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from mithridate.aggregation._base import AbstractCombiner
from mithridate.aggregation.krum import Krum
from mithridate.aggregation.mean import Mean
from mithridate.aggregation.names import ADVERSARIES
from mithridate.aggregation.pipeline import Pipeline
from mithridate.audit.config import AuditConfig
from mithridate.audit.run import run_audit
from mithridate.core.codes import CODES
from mithridate.core.errors import Misuse
from mithridate.data.sources import load
from mithridate.defenses.robust_aggregation import RobustAggregation
from mithridate.evaluation.outcome import judge
from mithridate.report.schema import validate
from mithridate.training.contracts import Options, contract
from mithridate.training.draw import PerWorker, Shuffle
from mithridate.training.loop import begin, steps
from mithridate.training.plan import Plan
from mithridate.training.rows import RowClipping, WorkerMomentum
from mithridate.training.server_momentum import ServerMomentum
from mithridate.training.step import Step
from mithridate.training.update import SGD


def digits(epochs: int = 5, batch: int = 64) -> Plan:
    return contract("digits-mlp40", load("digits"), "mlp-w32", Options(epochs=epochs, lr=0.1, batch=batch))


def step_of(plan: Plan | None = None, **options: object) -> Step:
    return RobustAggregation(**options).defend(plan or digits(), seed=0).phases[0].step  # type: ignore[arg-type]


def update_of(step: Step) -> SGD:
    assert isinstance(step.update, SGD)
    return step.update


def test_momentum_is_where_it_is_asked_for_and_nowhere_else() -> None:
    worker, server = step_of(momentum="worker"), step_of(momentum="server")
    update, none = step_of(momentum="update"), step_of(momentum="none", beta=0.5)
    memory = [[m for m in step.rows.maps if isinstance(m, WorkerMomentum)] for step in (worker, server, update, none)]
    assert [[m.beta for m in found] for found in memory] == [[0.9], [], [], []]
    assert [update_of(step).momentum for step in (worker, server, update, none)] == [0.0, 0.0, 0.9, 0.0]
    assert [isinstance(step.combine, ServerMomentum) for step in (worker, server, update, none)] == [0, 1, 0, 0]
    assert update_of(update).nesterov and not update_of(worker).nesterov
    assert update_of(step_of(momentum="update", beta=0.5)).momentum == 0.5


def test_the_rule_the_stages_and_the_adversary_get_their_options() -> None:
    step = step_of(workers=13, f=3, rule="krum", pre="clipping+nnm", adversary="alie", strength=1.5, clip=2.0)
    assert isinstance(step.combine, Pipeline)
    assert step.combine.rule == Krum(f=3)
    assert "clip" in type(step.combine.pre[0]).__name__.lower()
    assert vars(step.combine.pre[1])["f"] == 3
    assert step.rows.hostile is not None
    assert step.rows.hostile.f == 3
    assert vars(step.rows.hostile.adversary)["z"] == 1.5
    assert isinstance(step.rows.maps[0], RowClipping)
    assert step_of(workers=13, f=3, rule="krum", pre=("clipping", "nnm")).combine == step.combine
    assert step_of(rule="mean").rows.hostile is None
    assert step_of(rule="mean").combine == Mean()


def test_the_plan_s_batch_is_split_unless_workers_draw_for_themselves() -> None:
    assert step_of(digits(batch=64)).draw == Shuffle(batch=64)  # 1437 = 22 * 64 + 29: enough for 10 workers
    assert step_of(digits(batch=64), workers=31, rule="mean").draw == Shuffle(batch=64, drop_last=True)
    own = step_of(batch=8, shards="label")
    assert own.draw == PerWorker(workers=10, batch=8, shards="label")


@pytest.mark.parametrize("name", ADVERSARIES.names())
def test_every_adversary_trains_against_every_kind_of_rule(name: str) -> None:
    for rule in ("mean", "krum", "median"):
        plan = RobustAggregation(workers=9, f=2, rule=rule, adversary=name).defend(digits(epochs=1), seed=0)
        short = replace(plan, data=plan.data.select(torch.arange(64)))
        run = begin(short, 0)
        (event,) = steps(short, 0, run)
        assert event.step == 1
        if rule != "mean":
            assert bool(run.net.values.isfinite().all())


REFUSED: dict[str, dict[str, object]] = {
    "MTH-0101": {"rule": "crum"},
    "MTH-0501": {"workers": 4, "f": 1, "rule": "krum"},
    "MTH-0558": {"adversary": "nan", "strength": 2.0},
    "MTH-0110": {"momentum": "everywhere"},
}


@pytest.mark.parametrize("code", REFUSED)
def test_what_does_not_fit_is_refused(code: str) -> None:
    with pytest.raises(Misuse, match=code):
        step_of(**REFUSED[code])


@pytest.mark.parametrize(
    ("code", "options"),
    [
        ("MTH-0501", {"f": 99}),
        ("MTH-0501", {"rule": "bulyan", "workers": 5, "f": 1}),
        ("MTH-0558", {"adversary": "nan", "strength": 2.0}),
    ],
)
def test_too_few_workers_are_refused_before_an_audit_begins(code: str, options: dict[str, object]) -> None:
    with pytest.raises(Misuse, match=code):
        RobustAggregation(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["rule", "pre", "adversary"])
def test_a_misspelt_name_is_answered_with_the_closest(option: str) -> None:
    wrong = {"rule": "multi-crum", "pre": "clippin", "adversary": "ali"}[option]
    right = {"rule": "multi-krum", "pre": "clipping", "adversary": "alie"}[option]
    with pytest.raises(Misuse, match=f"MTH-0101.*{wrong}.*{right}"):
        RobustAggregation(**{option: wrong})  # type: ignore[arg-type]


def test_two_of_them_cannot_be_stacked() -> None:
    defense = RobustAggregation()
    with pytest.raises(Misuse, match="MTH-0557"):
        defense.defend(defense.defend(digits(), seed=0), seed=0)
    assert "MTH-0557" in CODES


def trained(**options: object) -> tuple[float, dict[str, float]]:
    data = load("digits")
    defense = RobustAggregation(**options)  # type: ignore[arg-type]
    plan = defense.defend(digits(), seed=0)
    run = begin(plan, 1)
    for _ in steps(plan, 1, run):
        pass
    outcome = judge(run.net.module.eval(), data.test, ())
    return outcome.correct / outcome.tested, dict(defense.diagnostics(run.states).figures)


@cache
def undisturbed() -> float:
    return trained(workers=9, f=2, rule="mean")[0]


@pytest.mark.slow
@pytest.mark.parametrize(("adversary", "strength"), [("sign-flip-own", 10.0), ("ipm", 10.0), ("nan", None)])
def test_a_rule_stands_where_the_mean_falls(adversary: str, strength: float | None) -> None:
    hostile = {"workers": 9, "f": 2, "adversary": adversary, "strength": strength}
    honest = undisturbed()
    assert honest > 0.93
    for rule in ("multi-krum", "median") if adversary == "nan" else ("multi-krum",):
        assert trained(**hostile, rule=rule)[0] > honest - 0.05
    assert trained(**hostile, rule="mean")[0] < 0.3


@pytest.mark.slow
def test_worker_momentum_lowers_the_ratio_that_is_submitted() -> None:
    _, worker = trained(workers=8, f=2, momentum="worker")
    _, server = trained(workers=8, f=2, momentum="server")
    assert worker["submitted_ratio"] < 0.8 * worker["sampled_ratio"]
    assert server["submitted_ratio"] == server["sampled_ratio"]


@pytest.mark.slow
def test_an_audit_takes_it_as_a_defense(tmp_path: Path) -> None:
    """`mithridate audit --defense robust-aggregation:...`: in the grid, in the report, with its own figures."""
    config = AuditConfig.model_validate(
        {
            "data": {"source": "digits", "per_class": 40},
            "model": "mlp-w16",
            "recipe_options": {"epochs": 2},
            "scenarios": {"count": 2},
            "attacks": ["none"],
            "defenses": [{"name": "robust-aggregation", "options": {"workers": 9, "f": 2, "rule": "krum"}}],
            "jobs": 1,
        }
    )
    report = validate(run_audit(config, tmp_path / "run").document)
    cell = next(c for c in report.cells if (c.attack, c.defense) == ("none", "robust-aggregation"))
    assert cell.victims >= 2
    assert {figure.name for figure in cell.diagnostics} == {"sampled_ratio", "submitted_ratio"}


def test_with_f_gives_f_to_rules_that_have_it() -> None:
    rule: AbstractCombiner = RobustAggregation(workers=11, f=4, rule="krum").combiner()
    assert rule == Krum(f=4)
