"""A run killed anywhere and resumed from its last checkpoint ends with the very same bits."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import training_kit as kit
from test_training_determinism import WARP, rich_plan
from torch import Tensor

from mithridate.core.errors import BadArtefact, Misuse
from mithridate.training.checkpoint import load, save
from mithridate.training.loop import begin, steps
from mithridate.training.plan import Phase, Plan
from mithridate.training.run import Run
from mithridate.training.update import SGD


def armed(plan: Plan, bomb: kit.Bomb) -> Plan:
    return plan.mapped(lambda step: replace(step, views=(*step.views, bomb)))


def saving(plan: Plan, seed: int, run: Run, path: Path) -> Iterator[int]:
    for event in steps(plan, seed, run):
        save(run, plan, seed, path)
        yield event.epoch


def killed_and_resumed(plan: Plan, after: int, path: Path, seed: int = 3) -> tuple[str, int]:
    """Train with a checkpoint per epoch, die in step `after`, resume; return the digest and the epochs done again."""
    bomb = kit.Bomb()
    plan = armed(plan, bomb)
    bomb.left[0] = after
    with pytest.raises(kit.Stopped):
        list(saving(plan, seed, begin(plan, seed), path))
    bomb.left[0] = -1
    run = load(plan, seed, path) if path.exists() else begin(plan, seed)
    resumed_at = run.epoch
    list(saving(plan, seed, run, path))
    return kit.digest(run.net.module), resumed_at


def uninterrupted(plan: Plan, seed: int = 3) -> str:
    return kit.trained(armed(plan, kit.Bomb()), seed)


def phased_plan() -> Plan:
    """Three phases: a view joins, then the update changes; four epochs of five steps."""
    plan = kit.plan_of(kit.toy(70), "resnet18-w4", epochs=4, views=(WARP,))
    plan = plan.with_view(kit.Jitter(), begin=1)
    return plan.mapped(lambda step: replace(step, update=SGD(lr=0.01), weigh=kit.Hardest()), begin=3)


PLANS = {"rich": rich_plan, "phases": phased_plan, "bf16": lambda: replace(phased_plan(), precision="bf16")}


# Steps 0..19; checkpoints after 5, 10, 15 and 20. Step 3: before the first; 5, 10, 15: the first of an epoch (and of a
# phase); 7, 12 and 19: in the middle of an epoch, so that finished steps are repeated.
@pytest.mark.parametrize("after", [3, 5, 7, 10, 12, 15, 19])
def test_killed_in_any_step(after: int, tmp_path: Path) -> None:
    plan = phased_plan()
    found, resumed_at = killed_and_resumed(plan, after, tmp_path / "run")
    assert resumed_at == after // 5
    assert found == uninterrupted(plan)


@pytest.mark.parametrize("name", PLANS)
def test_every_kind_of_stage_survives(name: str, tmp_path: Path) -> None:
    plan = PLANS[name]()
    found, resumed_at = killed_and_resumed(plan, 12, tmp_path / "run")
    assert resumed_at == 2
    assert found == uninterrupted(plan)


def test_killed_twice(tmp_path: Path) -> None:
    plan, path, bomb = rich_plan(), tmp_path / "run", kit.Bomb()
    armed_plan = armed(plan, bomb)
    run = begin(armed_plan, 3)
    for left in (7, 8, -1):
        bomb.left[0] = left
        try:
            list(saving(armed_plan, 3, run, path))
        except kit.Stopped:
            run = load(armed_plan, 3, path)
    assert run.epoch == 4 and kit.digest(run.net.module) == uninterrupted(plan)


@dataclass(frozen=True, kw_only=True)
class Suicide(kit.Bomb):
    """A real kill, when the environment says so."""

    name: ClassVar[str] = "bomb"

    def view(self, x: Tensor, index: Tensor, state: object, gen: torch.Generator) -> tuple[Tensor, object]:
        if os.environ.get("MITHRIDATE_TEST_KILL") and self.left[0] == 12:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left[0] += 1
        return x, state


def test_a_killed_process_resumes_in_another(tmp_path: Path) -> None:
    path = tmp_path / "run"
    code = (
        "import pathlib, sys, test_training_resume as t\n"
        "plan = t.armed(t.phased_plan(), t.Suicide())\n"
        "list(t.saving(plan, 3, t.begin(plan, 3), pathlib.Path(sys.argv[1])))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "MITHRIDATE_TEST_KILL": "1"}
    child = subprocess.run([sys.executable, "-c", code, path], env=environment, capture_output=True, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    plan = armed(phased_plan(), Suicide())
    run = load(plan, 3, path)
    assert (run.epoch, run.step, run.phase) == (2, 10, 1)
    list(steps(plan, 3, run))
    assert kit.digest(run.net.module) == uninterrupted(phased_plan())


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    plan = rich_plan()
    run = begin(plan, 0)
    list(saving(plan, 0, run, tmp_path / "run"))
    again = load(plan, 0, tmp_path / "run")
    assert list(steps(plan, 0, again)) == []
    assert kit.digest(again.net.module) == kit.digest(run.net.module)


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    plan = rich_plan("resnet18-w4")
    run = begin(plan, 0)
    for _event in steps(plan, 0, run):
        break
    save(run, plan, 0, tmp_path / "run")
    again = load(plan, 0, tmp_path / "run")
    assert (again.phase, again.step_in_phase, again.step, again.epoch) == (0, 5, 5, 1)
    assert torch.equal(again.net.values, run.net.values)
    assert again.states.keys() == run.states.keys()
    assert torch.equal(again.states["update"], run.states["update"])
    assert torch.equal(again.states["draw"]["order"], run.states["draw"]["order"])
    assert again.states["weigh"][1] == "mean" and torch.equal(again.states["weigh"][0], run.states["weigh"][0])
    assert again.states["view/jitter"]["count"] == 5
    again.states["update"].add_(1)
    assert torch.equal(load(plan, 0, tmp_path / "run").states["update"], run.states["update"])


def test_a_checkpoint_belongs_to_one_plan_and_seed(tmp_path: Path) -> None:
    plan = kit.plan_of(kit.toy(40), "mlp-w16", epochs=1)
    run = begin(plan, 0)
    list(saving(plan, 0, run, tmp_path / "run"))
    others = {
        "seed": (plan, 1),
        "data": (replace(plan, data=kit.toy(40, seed=1)), 0),
        "model": (replace(plan, model=kit.spec(plan.data, "mlp-w17")), 0),
        "recipe": (plan.mapped(lambda step: replace(step, update=SGD(lr=0.2))), 0),
    }
    for name, (other, seed) in others.items():
        with pytest.raises(Misuse, match=f"MTH-0509.*{name}"):
            load(other, seed, tmp_path / "run")
    longer = replace(plan, phases=(Phase(step=plan.phases[0].step, epochs=2),))
    with pytest.raises(Misuse, match="MTH-0509"):
        load(longer, 0, tmp_path / "run")


@pytest.mark.parametrize("name", ["tensors.safetensors", "run.json"])
def test_a_damaged_checkpoint_is_refused(name: str, tmp_path: Path) -> None:
    plan = kit.plan_of(kit.toy(40), "mlp-w16", epochs=1)
    list(saving(plan, 0, begin(plan, 0), tmp_path / "run"))
    file = tmp_path / "run" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(BadArtefact, match=name):
        load(plan, 0, tmp_path / "run")
