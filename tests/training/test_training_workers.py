"""Simulated workers: what they draw, how their rows are made, where momentum sits, and what hostile ones see."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import training_kit as kit
from test_training_gradient import batch_of, uneven
from test_training_house import Questions
from test_training_resume import killed_and_resumed, uninterrupted
from torch import Tensor
from torch.nn import functional

from mithridate.aggregation.adversaries._base import AbstractAdversary
from mithridate.aggregation.adversaries.alie import ALittleIsEnough
from mithridate.aggregation.adversaries.label_flip import LabelFlip
from mithridate.aggregation.adversaries.mimic import Mimic
from mithridate.aggregation.adversaries.opt_alie import OptimisedALittleIsEnough
from mithridate.aggregation.adversaries.sign_flip_own import SignFlipOwn
from mithridate.aggregation.krum import Krum
from mithridate.aggregation.mean import Mean
from mithridate.core.codes import CODES
from mithridate.core.errors import Misuse
from mithridate.numerics.flat import FlatModule
from mithridate.training import workers
from mithridate.training._base import Batch, Rng
from mithridate.training.draw import PerWorker, Shuffle
from mithridate.training.gradient import Gradient
from mithridate.training.loop import begin, steps, train
from mithridate.training.network import autocasting
from mithridate.training.plan import Phase, Plan
from mithridate.training.ratio import SampledRatio, SubmittedRatio, ratio, recorded
from mithridate.training.rows import Hostile, RowClipping, Rows, WorkerMomentum
from mithridate.training.server_momentum import ServerMomentum
from mithridate.training.shards import split
from mithridate.training.step import Step
from mithridate.training.update import SGD
from mithridate.training.workers import fits_at_once

CPU = torch.device("cpu")
LABELS = torch.arange(60) % 5


def plan_with(model: str = "mlp-w16", *, data: Any = None, epochs: int = 2, **stages: Any) -> Plan:
    data = data or kit.toy(60)
    stages = {"draw": PerWorker(workers=6, batch=4), **stages}
    return Plan(data=data, model=kit.spec(data, model), phases=(Phase(step=Step(**stages), epochs=epochs),))


def flat(model: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# what workers draw


@pytest.mark.parametrize("law", ["iid", "dirichlet", "label"])
def test_shards_are_a_partition(law: str) -> None:
    parts = split(law, LABELS, 7, alpha=0.3, seed=1)
    assert sorted(parts.order.tolist()) == list(range(60))
    assert int(parts.size.min()) >= 1
    assert parts.start.tolist() == [0, *parts.size.cumsum(0)[:-1].tolist()]


def test_each_law_of_shards_is_what_it_is_called() -> None:
    def classes(law: str, alpha: float = 1.0) -> list[int]:
        parts = split(law, torch.arange(1000) % 10, 10, alpha=alpha, seed=2)
        pieces = [parts.order[s : s + n] for s, n in zip(parts.start.tolist(), parts.size.tolist(), strict=True)]
        return [len(set((piece % 10).tolist())) for piece in pieces]

    assert classes("iid") == [10] * 10
    assert classes("label") == [1] * 10
    assert max(classes("dirichlet", 0.01)) < 10
    assert classes("dirichlet", 1e5) == [10] * 10
    everyone = split("all", LABELS, 3, alpha=1.0, seed=0)
    assert everyone.size.tolist() == [60] * 3
    assert torch.equal(
        split("iid", LABELS, 7, alpha=1.0, seed=1).order, split("iid", LABELS, 7, alpha=1.0, seed=1).order
    )
    assert not torch.equal(
        split("iid", LABELS, 7, alpha=1.0, seed=1).order, split("iid", LABELS, 7, alpha=1.0, seed=2).order
    )


def test_a_worker_draws_from_its_own_shard_only_and_again() -> None:
    draw, parts = PerWorker(workers=6, batch=50), split("label", LABELS, 6, alpha=1.0, seed=3)
    state = {"order": parts.order, "start": parts.start, "size": parts.size, "step": 0}
    index, weights, after = draw.draw(state, Rng(0, CPU))
    assert index.shape == weights.shape == (300,)
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-5)
    for worker, mine in enumerate(index.view(6, 50)):
        allowed = set(parts.order[10 * worker : 10 * worker + 10].tolist())
        assert set(mine.tolist()) == allowed  # 50 draws of 10 with replacement: all of them, and none of others
    assert torch.equal(draw.draw(state, Rng(0, CPU))[0], index)
    assert not torch.equal(draw.draw(after, Rng(0, CPU))[0], index)


def test_an_epoch_is_one_pass_in_expectation() -> None:
    assert PerWorker(workers=6, batch=4).steps_per_epoch(60) == 3
    assert PerWorker(workers=6, batch=4).smallest_batch(60) == 24
    assert PerWorker(workers=6, batch=4, steps=17).steps_per_epoch(60) == 17


# how rows are made


@pytest.mark.parametrize(("model", "fits"), [("mlp-w16", True), ("lenet", False), ("resnet18-w4", False)])
def test_only_linear_networks_go_at_once(model: str, fits: bool) -> None:
    assert fits_at_once(kit.spec(kit.toy(), model).build(0)) is fits


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("weights", [torch.full((12,), 1 / 12), torch.cat([torch.zeros(3), uneven()[:9]])])
def test_all_workers_at_once_give_the_rows_of_one_after_the_other(weights: Tensor, precision: Any) -> None:
    batch = batch_of(12)
    net = FlatModule(kit.spec(kit.toy(), "mlp-w16").build(1))
    step, found = Step(weigh=kit.Hardest(), rows=Rows(of="worker", count=4)), []
    for path in (workers._at_once, workers._in_turn):
        states = {"weigh": [torch.zeros(()), "mean"]}
        found.append(path(step, net, autocasting(precision, CPU), batch, weights, states, 4))
    for ours, theirs in zip(*found, strict=True):
        tolerance = {"rtol": 1e-5, "atol": 1e-6} if precision == "fp32" else {"rtol": 3e-2, "atol": 1e-2}
        torch.testing.assert_close(ours, theirs, **tolerance)
    assert float(found[0][0].norm()) > 0.01


def test_workers_of_unequal_parts_go_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """11 examples for 4 workers: parts of 3, 3, 3 and 2."""
    used: list[str] = []
    for name in ("_at_once", "_in_turn"):
        true = getattr(workers, name)
        monkeypatch.setattr(workers, name, lambda *a, true=true, name=name: used.append(name) or true(*a))
    net = FlatModule(kit.spec(kit.toy(), "mlp-w16").build(1))
    for size in (11, 12):
        step = Step(combine=Krum(f=0), rows=Rows(of="worker", count=4))
        gradient = Gradient(step, net, autocasting("fp32", CPU))
        gradient(batch_of(size), torch.full((size,), 1 / size), {"weigh": None, "combine": None}, Rng(0, CPU), 0)
    assert used == ["_in_turn", "_at_once"]


def submitted(step: Step, batch: Batch, model: str = "mlp-w16") -> tuple[Tensor, FlatModule, dict[str, Any]]:
    """The vector of one step, the network, and the states."""
    net = FlatModule(kit.spec(kit.toy(), model).build(1))
    states: dict[str, Any] = {"weigh": None, "combine": step.combine.init()}
    states |= {f"rows/{m.name}": None for m in step.rows.maps}
    states["rows/hostile"] = {"classes": 4, "adversary": None}
    gradient = Gradient(step, net, autocasting("fp32", CPU))
    n = len(batch.labels)
    return gradient(batch, torch.full((n,), 1 / n), states, Rng(0, CPU), 0)[0].clone(), net, states


def honest_rows(net: FlatModule, batch: Batch, n: int) -> Tensor:
    rows = []
    for part in torch.arange(len(batch.labels)).tensor_split(n):
        net.grads.zero_()
        functional.cross_entropy(net.module(batch.x[part]), batch.labels[part]).backward()
        rows.append(net.grads.clone())
    return torch.stack(rows)


@dataclass(frozen=True, kw_only=True)
class Spy(AbstractAdversary):
    """Writes down what it sees and sends zeros."""

    knowledge: ClassVar[Any] = "honest rows"
    seen: list[Tensor] = field(default_factory=list, compare=False, repr=False)

    def forge(self, honest: Tensor, f: int, *, rule: Any, gen: Any, state: Any) -> tuple[Tensor, Any]:
        self.seen.append(honest.clone())
        return torch.zeros(f, honest.shape[1]), state


def test_the_adversary_sees_what_honest_workers_submit() -> None:
    """After clipping, and after momentum: the second step shows both."""
    spy, clip = Spy(), 0.05
    rows = Rows(
        of="worker",
        count=6,
        maps=(RowClipping(bound=clip), WorkerMomentum(beta=0.5)),
        hostile=Hostile(f=2, adversary=spy),
    )
    vector, net, states = submitted(Step(rows=rows), batch_of(12))
    expected = honest_rows(net, batch_of(12), 6)[:4]
    assert float(expected.norm(dim=1).min()) > clip
    expected = expected / expected.norm(dim=1, keepdim=True) * clip
    torch.testing.assert_close(spy.seen[0], expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(vector, expected.sum(0) / 6, rtol=1e-4, atol=1e-6)
    gradient = Gradient(Step(rows=rows), net, autocasting("fp32", CPU))
    gradient(batch_of(12), torch.full((12,), 1 / 12), states, Rng(0, CPU), 1)
    torch.testing.assert_close(spy.seen[1], 1.5 * expected, rtol=1e-4, atol=1e-6)


def test_idle_hostile_workers_change_no_honest_row_and_no_weight() -> None:
    """An adversary that knows the honest rows has no use for its own: they are not computed."""
    assert Rows(of="worker", count=6, hostile=Hostile(f=2, adversary=Spy())).computed == 4
    assert Rows(of="worker", count=6, hostile=Hostile(f=2)).computed == 6
    hostile = Hostile(f=2, adversary=ALittleIsEnough(z=1.0))
    vector, net, _ = submitted(Step(rows=Rows(of="worker", count=6, hostile=hostile)), batch_of(12))
    honest = honest_rows(net, batch_of(12), 6)[:4]
    forged = honest.mean(0) - honest.std(0)
    torch.testing.assert_close(vector, (honest.sum(0) + 2 * forged) / 6, rtol=1e-4, atol=1e-6)


def test_label_flip_is_the_honest_gradient_of_mirrored_labels() -> None:
    batch = batch_of(12)
    hostile = Hostile(f=2, adversary=LabelFlip())
    vector, net, _ = submitted(Step(rows=Rows(of="worker", count=6, hostile=hostile)), batch)
    labels = torch.cat([batch.labels[:8], 3 - batch.labels[8:]])
    expected = honest_rows(net, replace(batch, labels=labels), 6).mean(0)
    torch.testing.assert_close(vector, expected, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(vector, honest_rows(net, batch, 6).mean(0), rtol=1e-2, atol=1e-3)


def test_label_flip_has_momentum_and_trains_in_training_mode() -> None:
    """Batch statistics move with the flipped batches, and the second step carries the momentum of the first."""
    rows = Rows(of="worker", count=3, maps=(WorkerMomentum(beta=0.9),), hostile=Hostile(f=1, adversary=LabelFlip()))
    _, net, states = submitted(Step(rows=rows), batch_of(12), "resnet18-w4")
    assert states["rows/momentum"].shape[0] == 3
    tracked = [v for k, v in net.buffers().items() if k.endswith("num_batches_tracked")]
    assert {int(v) for v in tracked} == {3}


# momentum


def placed(place: str, rule: Any = None, maps: tuple[Any, ...] = (), **stages: Any) -> Tensor:
    rule = rule or kit.PlainGram()
    momentum = (WorkerMomentum(beta=0.9),) if place == "worker" else ()
    combine = ServerMomentum(rule=rule, beta=0.9) if place == "server" else rule
    update = SGD(lr=0.05, momentum=0.9 if place == "update" else 0.0, nesterov=False, weight_decay=0.0)
    rows = Rows(of="worker", count=6, maps=(*maps, *momentum))
    return flat(train(plan_with(rows=rows, combine=combine, update=update, epochs=4, **stages), 3))


def test_for_the_mean_all_places_of_momentum_are_the_same_training() -> None:
    """A linear rule commutes with momentum, so twelve steps end in the same network."""
    update = placed("update")
    assert float((update - placed("none")).abs().max()) > 0.01
    for place in ("worker", "server"):
        torch.testing.assert_close(placed(place), update, rtol=1e-5, atol=1e-6)


def test_for_krum_momentum_at_the_server_is_momentum_of_the_update_and_not_of_the_workers() -> None:
    """Krum commutes with translations, and is not linear."""
    update = placed("update", Krum(f=1))
    torch.testing.assert_close(placed("server", Krum(f=1)), update, rtol=1e-4, atol=1e-5)
    assert float((update - placed("worker", Krum(f=1))).abs().max()) > 0.01


def test_dampening_makes_momentum_a_running_mean() -> None:
    rows, gen = torch.full((2, 3), 4.0), torch.Generator()
    state = None
    for _ in range(200):
        mapped, state = WorkerMomentum(beta=0.9, dampening=0.9).map_rows(rows, state, gen)
    torch.testing.assert_close(mapped, rows)
    state = None
    for _ in range(400):
        mapped, state = WorkerMomentum(beta=0.9).map_rows(rows, state, gen)
    torch.testing.assert_close(mapped, 10 * rows, rtol=1e-4, atol=0)


@pytest.mark.parametrize("beta", [0.5, 0.9])
def test_momentum_multiplies_the_ratio_of_a_constant_gradient_by_its_limit(beta: float) -> None:
    """(1 - beta) / (1 + beta): 1/3 and 0.0526, for noise around a gradient that does not move."""
    gen = torch.Generator().manual_seed(0)
    signal = torch.randn(2000, generator=gen)
    maps = (SampledRatio(honest=20), WorkerMomentum(beta=beta), SubmittedRatio(honest=20))
    states: dict[str, Any] = {f"rows/{m.name}": None for m in maps}
    for _ in range(300):
        rows = signal + 2 * torch.randn(20, 2000, generator=gen)
        for one in maps:
            rows, states[f"rows/{one.name}"] = one.map_rows(rows, states[f"rows/{one.name}"], gen)
    sampled, sent = (recorded(states, kind) for kind in (SampledRatio, SubmittedRatio))
    assert len(sampled) == len(sent) == 300  # more than the first buffer holds
    found = float(sent[100:].mean() / sampled[100:].mean())
    # |mean|^2 has noise of its own, 1/20 of the variance: both ratios are a little low
    assert found == pytest.approx((1 - beta) / (1 + beta), rel=0.25)
    assert float(sampled.mean()) == pytest.approx(4.0, rel=0.25)


def test_the_ratio_by_hand() -> None:
    rows = torch.tensor([[1.0, 2.0], [3.0, 2.0], [2.0, 5.0]])
    # mean (2, 3); squared distances 2, 2, 4; dev^2 = 8 / 2; |mean|^2 = 13
    assert float(ratio(rows)) == pytest.approx(4 / 13)


def test_recording_changes_nothing() -> None:
    plain = placed("worker", Krum(f=1))
    assert torch.equal(plain, placed("worker", Krum(f=1), maps=(SampledRatio(honest=4), SubmittedRatio(honest=4))))


# everything together


def full_plan(adversary: AbstractAdversary) -> Plan:
    rows = Rows(
        of="worker",
        count=6,
        maps=(RowClipping(), SampledRatio(honest=5), WorkerMomentum(), SubmittedRatio(honest=5)),
        hostile=Hostile(f=1, adversary=adversary),
    )
    return plan_with(
        draw=PerWorker(workers=6, batch=4, shards="dirichlet", steps=5),
        rows=rows,
        combine=ServerMomentum(rule=Krum(f=1), beta=0.5),
        epochs=4,
    )


@pytest.mark.parametrize("adversary", [Mimic(warmup=8), LabelFlip(), OptimisedALittleIsEnough(budget=4)])
def test_a_resumed_run_with_workers_is_bit_for_bit_the_uninterrupted_one(
    adversary: AbstractAdversary, tmp_path: Path
) -> None:
    found, resumed_at = killed_and_resumed(full_plan(adversary), 12, tmp_path / "run")
    assert resumed_at == 2
    assert found == uninterrupted(full_plan(adversary))


def test_an_optimised_adversary_is_given_the_rule_of_the_step() -> None:
    """Against Krum the search finds a strength that is still chosen; against the mean it goes as far as it can."""
    strong = flat(train(full_plan(OptimisedALittleIsEnough(budget=8)), 0))
    weak = flat(train(full_plan(OptimisedALittleIsEnough(budget=1)), 0))
    assert float((strong - weak).abs().max()) > 1e-3


def test_workers_ask_the_device_no_question() -> None:
    """Rows, momentum, recorder and a fixed adversary, with a rule that asks none itself."""
    rows = Rows(
        of="worker",
        count=6,
        maps=(RowClipping(), SampledRatio(honest=4), WorkerMomentum(), SubmittedRatio(honest=4)),
        hostile=Hostile(f=2, adversary=ALittleIsEnough()),
    )
    plan = plan_with(rows=rows, combine=Mean(), epochs=2)
    run = steps(plan, 0, begin(plan, 0))
    next(run)
    with Questions() as asked:
        next(run)
    assert asked.calls > 100
    assert asked.asked == []


# what is refused


REFUSED = {
    "MTH-0553": plan_with(draw=PerWorker(workers=61, batch=1), combine=Krum(f=1), rows=Rows(of="worker", count=61)),
    "MTH-0554": plan_with(draw=Shuffle(batch=16), rows=Rows(maps=(WorkerMomentum(),))),
    "MTH-0555": plan_with(combine=Krum(f=1), rows=Rows(of="worker", count=5)),
    "MTH-0556": plan_with(rows=Rows(of="worker", count=6, hostile=Hostile(f=6))),
    "MTH-0503": plan_with(rows=Rows(of="worker", count=6, maps=(RowClipping(), RowClipping(bound=1.0)))),
}


@pytest.mark.parametrize("code", REFUSED)
def test_what_does_not_fit_together_is_refused(code: str) -> None:
    with pytest.raises(Misuse, match=code):
        next(steps(REFUSED[code], 0, begin(REFUSED[code], 0)))
    assert code in CODES


def test_rows_of_examples_have_no_hostile_workers() -> None:
    plan = plan_with(draw=Shuffle(batch=16), rows=Rows(hostile=Hostile(f=1, adversary=SignFlipOwn())))
    with pytest.raises(Misuse, match=r"MTH-0554.*hostile"):
        begin(plan, 0)
