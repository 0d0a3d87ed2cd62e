"""Same seed, same numbers: in one process, in two, with stages added, in phases, and without the global generator."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import training_kit as kit

from mithridate.core.seeds import address
from mithridate.models.spec import ModelSpec
from mithridate.numerics.warp import Shift
from mithridate.training.loop import begin, steps, train
from mithridate.training.plan import Phase, Plan
from mithridate.training.rows import Rows
from mithridate.training.update import SGD, Milestones
from mithridate.training.view import Warp

WARP = Warp(law=Shift(law="bilinear", max_px=1.0))


def rich_plan(model: str = "mlp-w16", **changes: object) -> Plan:
    """A plan in which every kind of stage has a state or draws numbers."""
    stages = {
        "views": (kit.Jitter(), WARP),
        "weigh": kit.Hardest(),
        "rows": Rows(of="worker", count=3, maps=(kit.WorkerMomentum(),)),
        "combine": kit.PlainGram(),
        "update": SGD(lr=0.05, schedule=Milestones(at=(2,))),
    }
    return kit.plan_of(kit.toy(70), model, epochs=4, **(stages | changes))


@pytest.mark.parametrize(
    "plan", [rich_plan(), kit.plan_of(kit.toy(70), "resnet18-w4", views=(WARP,))], ids=["rich", "resnet"]
)
def test_twice_in_one_process(plan: Plan) -> None:
    assert kit.trained(plan, 1) == kit.trained(plan, 1)
    assert kit.trained(plan, 1) != kit.trained(plan, 2)


def test_in_another_process() -> None:
    code = (
        "import test_training_determinism as t, training_kit as kit; print(kit.trained(t.rich_plan('resnet18-w4'), 7))"
    )
    here = str(Path(__file__).parent)
    environment = os.environ | {"PYTHONPATH": here, "PYTHONHASHSEED": "5", "PYTHONDONTWRITEBYTECODE": "1"}
    child = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert child.stdout.strip() == kit.trained(rich_plan("resnet18-w4"), 7)


def taps(plan: Plan, *, first: bool = True) -> tuple[list[list[int]], list[int]]:
    """The rows and generator seeds that an inert view sees."""
    tap = kit.Tap()
    step = plan.phases[0].step
    views = (tap, *step.views) if first else (*step.views, tap)
    train(replace(plan, phases=(replace(plan.phases[0], step=replace(step, views=views)),)), 0)
    return tap.rows, tap.seeds


def test_another_stage_changes_no_other_draw() -> None:
    base = kit.plan_of(kit.toy(70), "mlp-w16")
    alone = taps(base)
    assert len(alone[0]) == 10 and len(set(alone[1])) == 10
    assert taps(kit.plan_of(kit.toy(70), "mlp-w16", views=(kit.Jitter(), WARP))) == alone
    assert taps(kit.plan_of(kit.toy(70), "mlp-w16", views=(kit.Jitter(), WARP)), first=False) == alone
    assert taps(rich_plan().mapped(lambda step: replace(step, views=())))[0][:10] == alone[0]
    assert taps(replace(base, data=kit.toy(70, seed=4))) == alone
    assert taps(kit.plan_of(kit.toy(70), "mlp-w16", update=SGD(lr=0.01))) == alone


def test_an_inert_stage_changes_no_result() -> None:
    """A view that draws numbers and throws them away, a row map that is the identity: the very same weights."""
    for model in ("mlp-w16", "resnet18-w4"):
        plan = kit.plan_of(kit.toy(70), model, views=(WARP,))
        assert kit.trained(plan.with_view(kit.Tap())) == kit.trained(plan)
        assert kit.trained(plan.with_view(kit.Jitter())) != kit.trained(plan)
    plan = rich_plan()
    maps = (kit.Same(), *plan.phases[0].step.rows.maps)
    assert kit.trained(rich_plan(rows=Rows(of="worker", count=3, maps=maps))) == kit.trained(plan)


def test_every_epoch_sees_every_example_once_in_a_new_order() -> None:
    rows, _ = taps(kit.plan_of(kit.toy(70), "mlp-w16", epochs=3))
    epochs = [[row for batch in rows[start : start + 5] for row in batch] for start in (0, 5, 10)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(70))] * 3
    assert epochs[0] != epochs[1] != epochs[2] != list(range(70))
    assert [len(batch) for batch in rows[:5]] == [16, 16, 16, 16, 6]


@pytest.mark.parametrize(
    ("model", "cuts"), [("mlp-w16", (2,)), ("mlp-w16", (1, 2, 3)), ("resnet18-w4", (1, 3))], ids=str
)
def test_phases_with_equal_steps_are_the_unsplit_plan(model: str, cuts: tuple[int, ...]) -> None:
    """Momentum, data order, schedule and every state go on across the seam, for one step object and for equal ones."""
    whole = rich_plan(model)
    step = whole.phases[0].step
    lengths = [b - a for a, b in zip((0, *cuts), (*cuts, 4), strict=True)]
    for steps_ in ([step] * len(lengths), [replace(step) for _ in lengths]):
        phases = tuple(Phase(step=s, epochs=n) for s, n in zip(steps_, lengths, strict=True))
        assert kit.trained(replace(whole, phases=phases)) == kit.trained(whole)


def test_a_changed_stage_alone_begins_anew() -> None:
    plan = kit.plan_of(kit.toy(70), "mlp-w16", epochs=3)
    changed = plan.with_view(kit.Jitter(), begin=1).mapped(lambda step: replace(step, weigh=kit.Hardest()), begin=2)
    assert [phase.epochs for phase in changed.phases] == [1, 1, 1]
    run, seen = begin(changed, 0), []
    for event in steps(changed, 0, run):
        seen.append((sorted(run.states), run.states["draw"]["epoch"], event.epoch, event.step))
    assert [s[1:] for s in seen] == [(0, 1, 5), (1, 2, 10), (2, 3, 15)]
    assert [("view/jitter" in s[0]) for s in seen] == [False, True, True]
    assert run.states["view/jitter"]["count"] == 10, "the view's state survives a phase that changes another stage"
    reset = changed.mapped(lambda step: replace(step, update=SGD(lr=0.01), views=()), begin=2)
    run = begin(reset, 0)
    for _event in steps(reset, 0, run):
        pass
    assert "view/jitter" not in run.states, "what a phase dropped is forgotten"


def test_begin_epoch_zero_and_beyond_the_end() -> None:
    plan = kit.plan_of(kit.toy(70), "mlp-w16", epochs=3)
    assert len(plan.with_view(kit.Jitter(), begin=0).phases) == 1
    assert kit.trained(plan.with_view(kit.Jitter(), begin=3)) == kit.trained(plan)


@pytest.mark.parametrize("model", ["mlp-w16", "resnet18-w4", "dropout"])
def test_the_global_generator_is_neither_read_nor_moved(model: str, tmp_path: Path) -> None:
    if model == "dropout":
        model = f"{dropout_file(tmp_path)}:make"
    plan = kit.plan_of(kit.toy(40), model, views=(kit.Jitter(), WARP), epochs=1)
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.random.get_rng_state()
        results.append(kit.trained(plan))
        assert torch.equal(before, torch.random.get_rng_state())
    assert results[0] == results[1]


def dropout_file(folder: Path) -> Path:
    """A network of somebody else's that calls the functional form of dropout, which no inspection of layers finds."""
    path = folder / "drop.py"
    path.write_text(
        "from torch import nn\n"
        "from torch.nn import functional\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.fc = nn.Linear(192, 4)\n"
        "    def forward(self, x):\n"
        "        return functional.dropout(self.fc(x.flatten(1)), 0.5, self.training)\n"
        "def make(num_classes, channels, size):\n"
        "    return Net()\n"
    )
    return path


def test_the_network_begins_where_the_seed_says() -> None:
    plan = kit.plan_of(kit.toy(40), "mlp-w16")
    spec: ModelSpec = plan.model
    assert kit.digest(begin(plan, 9).net.module) == kit.digest(spec.build(address(9, "init")))


def test_events_report_the_mean_loss_of_each_epoch() -> None:
    plan = kit.plan_of(kit.toy(96), "mlp-w16", epochs=6, batch=32, update=SGD(lr=0.05))
    events = list(steps(plan, 0, begin(plan, 0)))
    assert [(e.epoch, e.step) for e in events] == [(k, 3 * k) for k in range(1, 7)]
    losses = [float(e.loss) for e in events]
    assert 0.7 < losses[0] < 4 and losses[-1] < 0.7 * losses[0]


def test_the_loss_of_a_still_network_is_its_loss() -> None:
    plan = kit.plan_of(kit.toy(96), "mlp-w16", epochs=1, batch=32, update=SGD(lr=0.0))
    (event,) = steps(plan, 0, run := begin(plan, 0))
    data = plan.data
    with torch.no_grad():
        logits = run.net.module(data.images.gather(torch.arange(96)).float() / 255)
    assert float(event.loss) == pytest.approx(float(torch.nn.functional.cross_entropy(logits, data.labels)), rel=1e-5)
