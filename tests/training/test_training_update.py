"""Updates against torch.optim, the flat vector against the module it stands for, and the loop against a plain one."""

from dataclasses import replace

import pytest
import torch
import training_kit as kit
from torch import nn
from torch.nn import functional

from mithridate.core.seeds import address
from mithridate.numerics.flat import FlatModule
from mithridate.training._base import Clock, Rng
from mithridate.training.loop import begin, steps, train
from mithridate.training.plan import Plan
from mithridate.training.update import SGD, Milestones, Triangle


def plain_loop(plan: Plan, seed: int) -> nn.Module:
    """What anyone would write: a shuffled pass, cross-entropy, torch.optim.SGD and its multi-step schedule."""
    phase = plan.phases[0]
    update, batch = phase.step.update, phase.step.draw.batch
    net = plan.model.build(address(seed, "init")).to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(
        net.parameters(),
        lr=update.lr,
        momentum=update.momentum,
        nesterov=update.nesterov,
        weight_decay=update.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, list(update.schedule.at), update.schedule.drop)
    order_rng = Rng(seed, torch.device("cpu")).child("draw")
    for epoch in range(phase.epochs):
        order = torch.randperm(len(plan.data), generator=order_rng(epoch))
        for index in order.split(batch):
            x = plan.data.images.gather(index).float() / 255
            optimiser.zero_grad()
            functional.cross_entropy(net(x.to(memory_format=torch.channels_last)), plan.data.labels[index]).backward()
            optimiser.step()
        schedule.step()
    return net


@pytest.mark.parametrize("model", ["mlp-w16", "resnet18-w8"])
@pytest.mark.parametrize(
    "update",
    [
        SGD(lr=0.05),
        SGD(lr=0.05, nesterov=False, weight_decay=2e-4),
        SGD(lr=0.02, momentum=0.0, nesterov=False, weight_decay=0.0),
        SGD(lr=0.05, schedule=Milestones(at=(2, 4))),
    ],
    ids=["nesterov", "heavy ball", "plain", "milestones"],
)
def test_thirty_steps_equal_those_of_torch(model: str, update: SGD) -> None:
    data = kit.toy(70)  # batches of 16, 16, 16, 16 and 6: 30 steps in 6 epochs
    plan = kit.plan_of(data, model, epochs=6, update=update)
    assert plan.num_steps == 30
    ours, theirs = train(plan, 3).state_dict(), plain_loop(plan, 3).state_dict()
    start = plan.model.build(address(3, "init")).state_dict()
    moved = max(float((value - start[name]).abs().max()) for name, value in theirs.items() if "head" in name)
    assert moved > 1e-2
    for name, value in theirs.items():
        torch.testing.assert_close(
            ours[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_schedules_by_hand() -> None:
    thirds = Milestones(at=(14, 24, 35))
    epochs = (0, 13.99, 14, 23.9, 24, 35, 39.9)
    assert [round(thirds.factor(e), 9) for e in epochs] == [1, 1, 0.1, 0.1, 0.01, 0.001, 0.001]
    triangle = Triangle(peak=2.0, end=10.0)
    assert [triangle.factor(e) for e in (0, 1, 2, 6, 10, 11)] == [0, 0.5, 1, 0.5, 0, 0]


def test_the_schedule_sees_fractions_of_epochs() -> None:
    """A triangle moves within an epoch: one epoch of five steps has the mean of the five factors."""
    flat, ones = torch.zeros(3), torch.ones(3)
    update = SGD(lr=1.0, momentum=0.0, nesterov=False, weight_decay=0.0, schedule=Triangle(peak=1.0, end=2.0))
    state = update.init_update(flat)
    for step in range(5):
        state = update.update(flat, ones.clone(), state, Clock(step, step / 5))
    assert flat.tolist() == pytest.approx([-(0 + 0.2 + 0.4 + 0.6 + 0.8)] * 3)


@pytest.mark.parametrize("model", ["mlp-w16", "resnet18-w4", "convnet64-w4"])
def test_flat_views_change_neither_layout_nor_outputs(model: str) -> None:
    data = kit.toy(8)
    net = kit.spec(data, model).build(0).to(memory_format=torch.channels_last).eval()
    x = torch.rand(4, 3, 8, 8).to(memory_format=torch.channels_last)
    before = net(x).detach()
    layouts = {
        name: (p.shape, p.is_contiguous(), p.is_contiguous(memory_format=torch.channels_last))
        for name, p in net.named_parameters()
        if p.dim() == 4
    }
    names = list(net.state_dict())
    flat = FlatModule(net)
    assert torch.equal(flat.module(x), before)
    assert list(net.state_dict()) == names
    for name, p in net.named_parameters():
        assert p.untyped_storage().data_ptr() == flat.values.untyped_storage().data_ptr()
        assert p.grad is not None and p.grad.untyped_storage().data_ptr() == flat.grads.untyped_storage().data_ptr()
        if p.dim() == 4:
            last = p.is_contiguous(memory_format=torch.channels_last)
            assert (p.shape, p.is_contiguous(), last) == layouts[name]
    assert sum(p.numel() for p in net.parameters()) == len(flat.values)


def test_gradients_arrive_in_the_flat_vector_in_the_order_of_the_views() -> None:
    data = kit.toy(8)
    oracle = kit.spec(data, "resnet18-w4").build(0)
    flat = FlatModule(kit.spec(data, "resnet18-w4").build(0).to(memory_format=torch.channels_last))
    x = torch.rand(6, 3, 8, 8)
    oracle(x).square().sum().backward()
    flat.module(x).square().sum().backward()
    views = flat.views(flat.grads)
    assert set(views) == {name for name, _ in oracle.named_parameters()}
    for name, p in oracle.named_parameters():
        torch.testing.assert_close(views[name], p.grad, rtol=1e-3, atol=1e-3 * float(p.grad.abs().max()))


def test_views_of_another_vector_are_another_network() -> None:
    flat = FlatModule(kit.spec(kit.toy(4), "resnet18-w4").build(0).to(memory_format=torch.channels_last))
    doubled = flat.views(2 * flat.values)
    for name, p in flat.module.named_parameters():
        assert torch.equal(doubled[name], 2 * p)


def test_load_restores_values_and_buffers_in_place() -> None:
    data = kit.toy(48)
    plan = kit.plan_of(data, "resnet18-w4", epochs=1)
    run = begin(plan, 0)
    values, buffers = run.net.values.clone(), {name: b.clone() for name, b in run.net.buffers().items()}
    before = kit.digest(run.net.module)
    for _event in steps(plan, 0, run):
        pass
    assert kit.digest(run.net.module) != before
    run.net.load(values, buffers)
    assert kit.digest(run.net.module) == before


def test_frozen_parameters_stay_outside() -> None:
    net = kit.spec(kit.toy(4), "mlp-w16").build(0)
    for p in net.net.hidden.parameters():
        p.requires_grad_(False)
    assert len(FlatModule(net).values) == 16 * 4 + 4


def test_precision_bf16_trains_in_float32_and_learns() -> None:
    data = kit.toy(96)
    for model in ("mlp-w16", "resnet18-w4"):
        plan = kit.plan_of(data, model, epochs=8, update=SGD(lr=0.05))
        exact, mixed = train(plan, 0), train(replace(plan, precision="bf16"), 0)
        assert {p.dtype for p in mixed.parameters()} == {torch.float32}
        assert kit.digest(exact) != kit.digest(mixed)
        assert kit.accuracy(mixed, data) > 0.8
