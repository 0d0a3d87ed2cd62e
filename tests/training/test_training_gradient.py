"""The waist of the step: whatever evidence a combiner asks for, plain weights give the mean gradient."""

from dataclasses import replace

import pytest
import torch
import training_kit as kit
from torch import Tensor, nn
from torch.nn import functional

from mithridate.aggregation.adversaries.sign_flip_own import SignFlipOwn
from mithridate.aggregation.clip_noise import ClipNoise
from mithridate.aggregation.krum import Krum
from mithridate.aggregation.mean import Mean
from mithridate.core.errors import Misuse
from mithridate.numerics.flat import FlatModule
from mithridate.training._base import Batch, Rng
from mithridate.training.draw import Shuffle
from mithridate.training.gradient import Gradient
from mithridate.training.loop import begin, train
from mithridate.training.loss import CrossEntropy
from mithridate.training.network import autocasting
from mithridate.training.plan import Phase, Plan
from mithridate.training.rows import Hostile, Rows
from mithridate.training.step import Step
from mithridate.training.update import SGD

MAPS = (kit.Same(),)
FORCED = {
    "mean over examples": Step(rows=Rows(maps=MAPS)),
    "norms of examples": Step(combine=kit.PlainNorms()),
    "norms of mapped examples": Step(combine=kit.PlainNorms(), rows=Rows(maps=MAPS)),
    "gram of examples": Step(combine=kit.PlainGram()),
    "rows of examples": Step(combine=kit.PlainRows()),
    "mean over workers": Step(rows=Rows(of="worker", count=5, maps=MAPS)),
    "norms of workers": Step(combine=kit.PlainNorms(), rows=Rows(of="worker", count=5)),
    "one worker": Step(combine=kit.PlainRows(), rows=Rows(of="worker", count=1)),
    "clipping far away": Step(combine=ClipNoise(bound=1e8, noise_multiplier=0.0)),
    "clipping workers far away": Step(
        combine=ClipNoise(bound=1e8, noise_multiplier=0.0), rows=Rows(of="worker", count=4)
    ),
}


def batch_of(data_size: int = 11) -> Batch:
    data = kit.toy(data_size)
    index = torch.arange(data_size)
    return Batch(index, data.images.gather(index).float() / 255, data.labels, {})


def vector_of(
    step: Step, model: str = "mlp-w16", *, weights: Tensor | None = None, precision: str = "fp32", seed: int = 1
) -> tuple[Tensor, Tensor]:
    batch = batch_of()
    net = FlatModule(kit.spec(kit.toy(), model).build(seed))
    states = {"weigh": None, "combine": step.combine.init(), **{f"rows/{m.name}": None for m in step.rows.maps}}
    gradient = Gradient(step, net, autocasting(precision, torch.device("cpu")))
    weights = torch.full((11,), 1 / 11) if weights is None else weights
    vector, loss = gradient(batch, weights, states, Rng(0, torch.device("cpu")), 0)
    return vector.clone(), loss


def uneven() -> Tensor:
    weights = torch.rand(11, generator=torch.Generator().manual_seed(3))
    weights[4] = 0.0
    return weights / weights.sum()


@pytest.mark.parametrize("model", ["mlp-w16", "lenet", "convnet64-w4"])
@pytest.mark.parametrize("path", FORCED)
def test_every_path_with_plain_weights_is_the_mean(path: str, model: str) -> None:
    expected, loss = vector_of(Step(), model, weights=uneven())
    found, found_loss = vector_of(FORCED[path], model, weights=uneven())
    assert float(expected.norm()) > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found_loss, loss)


@pytest.mark.parametrize("combine", [kit.PlainGram(), kit.PlainRows()], ids=["gram", "rows"])
def test_every_worker_has_one_vote_in_a_robust_rule(combine: object) -> None:
    """Whatever the examples of a worker weigh together: here 4, 4 and 3 examples with weights of their own."""
    weights, parts = uneven(), torch.arange(11).tensor_split(3)
    alone = []
    for part in parts:
        own = torch.zeros(11)
        own[part] = weights[part] / weights[part].sum()
        alone.append(vector_of(Step(), weights=own)[0])
    found, loss = vector_of(Step(combine=combine, rows=Rows(of="worker", count=3)), weights=weights)
    torch.testing.assert_close(found, torch.stack(alone).mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(loss, vector_of(Step(), weights=weights)[1])


def test_the_mean_is_what_autograd_says() -> None:
    weights, batch = uneven(), batch_of()
    net = kit.spec(kit.toy(), "mlp-w16").build(1)
    losses = functional.cross_entropy(net(batch.x), batch.labels, reduction="none")
    (weights * losses).sum().backward()
    expected = torch.cat([p.grad.flatten() for p in net.parameters()])
    found, loss = vector_of(Step(), weights=weights)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(loss, (weights * losses).sum())


def test_clipping_agrees_with_one_example_at_a_time() -> None:
    """The oracle of DP-SGD: gradients one by one, each shortened, averaged."""
    batch, bound = batch_of(), 4.0
    net = kit.spec(kit.toy(), "mlp-w16").build(1)
    total, clipped = torch.zeros(sum(p.numel() for p in net.parameters())), 0
    for row in range(11):
        net.zero_grad()
        functional.cross_entropy(net(batch.x[row : row + 1]), batch.labels[row : row + 1]).backward()
        one = torch.cat([p.grad.flatten() for p in net.parameters()])
        clipped += int(one.norm() > bound)
        total += one * min(1.0, bound / float(one.norm())) / 11
    assert 0 < clipped < 11, "the bound must shorten some rows and leave others"
    found, _ = vector_of(Step(combine=ClipNoise(bound=bound, noise_multiplier=0.0)), "mlp-w16")
    torch.testing.assert_close(found, total, rtol=1e-4, atol=1e-6)


def test_clipping_bounds_the_influence_of_a_row() -> None:
    """Promise: one example moves the vector by at most 2 C / n, however wild it is."""
    step = Step(combine=ClipNoise(bound=0.7, noise_multiplier=0.0))
    batch = batch_of()
    wild = replace(
        batch, x=torch.cat([batch.x[:-1], 1e4 * torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))])
    )
    vectors = []
    for this in (batch, wild):
        net = FlatModule(kit.spec(kit.toy(), "mlp-w16").build(1))
        states = {"weigh": None, "combine": None}
        gradient = Gradient(step, net, autocasting("fp32", torch.device("cpu")))
        vectors.append(gradient(this, torch.full((11,), 1 / 11), states, Rng(0, torch.device("cpu")), 0)[0].clone())
    moved = float((vectors[0] - vectors[1]).norm())
    assert 0 < moved <= 2 * 0.7 / 11 * (1 + 1e-5)


def test_the_noise_has_the_stated_size() -> None:
    quiet, _ = vector_of(Step(combine=ClipNoise(bound=2.0, noise_multiplier=0.0)))
    loud, _ = vector_of(Step(combine=ClipNoise(bound=2.0, noise_multiplier=3.0)))
    again, _ = vector_of(Step(combine=ClipNoise(bound=2.0, noise_multiplier=3.0)))
    noise = loud - quiet
    assert noise.numel() > 3000  # the deviation of the estimate below is then under 1.3 %
    assert float(noise.std()) == pytest.approx(3 * 2.0 / 11, rel=0.06)
    assert torch.equal(loud, again)


def test_bf16_rows_agree_with_the_bf16_mean() -> None:
    exact, _ = vector_of(Step(), "convnet64-w4", weights=uneven())
    mean, _ = vector_of(Step(), "convnet64-w4", weights=uneven(), precision="bf16")
    rows, _ = vector_of(Step(combine=kit.PlainRows()), "convnet64-w4", weights=uneven(), precision="bf16")
    assert mean.dtype == rows.dtype == torch.float32
    assert not torch.equal(exact, mean)
    for found in (mean, rows):
        assert float(functional.cosine_similarity(found, exact, 0)) > 0.99


def test_krum_over_workers_takes_the_row_of_one_worker() -> None:
    batch = batch_of(12)
    net = FlatModule(kit.spec(kit.toy(), "mlp-w16").build(1))
    step = Step(combine=Krum(f=1), rows=Rows(of="worker", count=6))
    states = {"weigh": None, "combine": None}
    gradient = Gradient(step, net, autocasting("fp32", torch.device("cpu")))
    vector, _ = gradient(batch, torch.full((12,), 1 / 12), states, Rng(0, torch.device("cpu")), 0)
    rows = []
    for worker in range(6):
        net.grads.zero_()
        part = slice(2 * worker, 2 * worker + 2)
        functional.cross_entropy(net.module(batch.x[part]), batch.labels[part]).backward()
        rows.append(net.grads.clone())
    matches = [bool(torch.allclose(row, vector, rtol=1e-4, atol=1e-6)) for row in rows]
    assert sum(matches) == 1


def test_a_worker_without_weight_sends_zero() -> None:
    weights = torch.tensor([0.0, 0.0, 0.5, 0.5])
    batch = batch_of(4)
    net = FlatModule(kit.spec(kit.toy(), "mlp-w16").build(1))
    step = Step(combine=kit.PlainRows(), rows=Rows(of="worker", count=2))
    gradient = Gradient(step, net, autocasting("fp32", torch.device("cpu")))
    vector, _ = gradient(batch, weights, {"weigh": None, "combine": None}, Rng(0, torch.device("cpu")), 0)
    assert bool(vector.isfinite().all()) and float(vector.norm()) > 0


def test_a_hostile_worker_multiplies_its_row() -> None:
    rows = torch.arange(12.0).view(4, 3)

    def submitted(hostile: Hostile) -> Tensor:
        return hostile.submit(rows, {"classes": 4, "adversary": None}, torch.Generator(), lambda r: r.mean(0))[0]

    found = submitted(Hostile(f=2, adversary=SignFlipOwn(scale=3.0)))
    assert torch.equal(found, torch.cat([rows[:2], -3 * rows[2:]]))
    assert torch.equal(submitted(Hostile(f=0)), rows)


def test_weights_flow_through_both_paths() -> None:
    """A weigher that is not uniform, in a whole run: mean path, example rows and worker rows are the same training."""
    data = kit.toy(40)
    stages = {"weigh": kit.Hardest(), "update": SGD(lr=0.05)}
    models = [
        train(kit.plan_of(data, "mlp-w16", **stages, **rows), 5)
        for rows in ({}, {"rows": Rows(maps=MAPS)}, {"rows": Rows(of="worker", count=4, maps=MAPS)})
    ]
    plain = train(kit.plan_of(data, "mlp-w16", update=SGD(lr=0.05)), 5)
    first, *others = [torch.cat([p.detach().flatten() for p in model.parameters()]) for model in models]
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(torch.cat([p.detach().flatten() for p in plain.parameters()]), first, atol=1e-4)


@pytest.mark.parametrize("combine", [ClipNoise(), Krum(f=1), kit.PlainRows()], ids=["clip", "krum", "rows"])
def test_example_rows_refuse_batch_normalisation(combine: object) -> None:
    plan = kit.plan_of(kit.toy(), "resnet18-w4", combine=combine)
    with pytest.raises(Misuse, match=r"MTH-0502.*net\.stem\.norm couples.*Rows\(of=\"worker\"") as caught:
        begin(plan, 0)
    assert type(combine).__name__ in str(caught.value)
    begin(kit.plan_of(kit.toy(96), "resnet18-w4", combine=combine, rows=Rows(of="worker", count=5)), 0)
    begin(kit.plan_of(kit.toy(96), "mlp", combine=combine), 0)


def test_example_rows_refuse_a_loss_that_couples() -> None:
    class Coupled(CrossEntropy):
        separable = False

    with pytest.raises(Misuse, match=r"MTH-0502.*Coupled couples those"):
        Step(combine=ClipNoise(), loss=Coupled()).check(nn.Linear(2, 2), 8)
    Step(combine=Mean(), loss=Coupled()).check(nn.Linear(2, 2), 8)
    Step(combine=ClipNoise(), loss=Coupled(), rows=Rows(of="worker", count=2)).check(nn.Linear(2, 2), 8)


def test_example_rows_refuse_dropout() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    with pytest.raises(Misuse, match=r"MTH-0502.*at random"):
        Step(combine=ClipNoise()).check(net, 8)
    Step(combine=Mean()).check(net, 8)


def test_the_smallest_batch_decides() -> None:
    """70 examples in batches of 16 end with one of 6: too small for 7 workers, and for krum with f = 2 on examples."""
    data = kit.toy(70)
    with pytest.raises(Misuse, match=r"MTH-0504.*7 workers cannot share a batch of 6"):
        begin(kit.plan_of(data, "mlp", combine=kit.PlainRows(), rows=Rows(of="worker", count=7)), 0)
    with pytest.raises(Misuse, match=r"MTH-0501.*f=2 needs at least 7 rows .*got 6"):
        begin(kit.plan_of(data, "mlp", combine=Krum(f=2)), 0)
    step = Step(draw=Shuffle(batch=16, drop_last=True), combine=Krum(f=2))
    train(Plan(data=data, model=kit.spec(data, "mlp-w8"), phases=(Phase(step=step, epochs=1),)), 0)


def test_two_views_of_one_name_are_refused() -> None:
    with pytest.raises(Misuse, match=r"MTH-0503.*'tap', 'tap'"):
        begin(kit.plan_of(kit.toy(), "mlp", views=(kit.Tap(), kit.Tap())), 0)
