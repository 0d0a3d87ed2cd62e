"""The two-pass gradient: equal to whole-batch double backward, to hand values, and blind to chunks and order."""

import math
from dataclasses import replace

import pytest
import torch
from matching_makers import Residual, labels_of, network, obvious, pixels, problem, surrogate, target_batch
from torch import nn

from mithridate.numerics.directional import FORMS, prepare
from mithridate.numerics.matching import OBJECTIVES, Matcher
from mithridate.numerics.matching_problem import MatchingProblem, Surrogate
from mithridate.numerics.rng import generator
from mithridate.numerics.visibility import penalty
from mithridate.numerics.warp import Shift

WARP = Shift(max_px=2.0)


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 20), nn.ReLU(), nn.Linear(20, 4))


def close(got, want, relative):
    assert (got - want).norm() <= relative * want.norm()


def agree(net, p, targets, *, per_target=False, relative=1e-6):
    draw = p.draw(generator(0, "augment"))
    value, gradient = p.gradient(p.clean, draw)
    options = {"augment": p.augment, "draw": draw, "fill": p.fill} if p.augment else {}
    want_value, want = obvious(net, targets, p.clean, p.labels, per_target=per_target, **options)
    close(gradient, want, relative)
    assert float(value) == pytest.approx(float(want_value), rel=1e-9)
    assert float(p.value(p.clean, draw)) == pytest.approx(float(want_value), rel=1e-9)


@pytest.mark.parametrize("fold", [True, False], ids=["folded", "as-is"])
@pytest.mark.parametrize("augment", [None, WARP, Shift(law="integer", max_px=1)], ids=["plain", "bilinear", "integer"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", [mlp, Residual])
def test_equals_whole_batch_double_backward(make, form, augment, fold):
    """Seven poisons in chunks of four."""
    net, targets = network(make=make), target_batch()
    p = problem([surrogate(net, targets, form=form, fold=fold)], pixels(7), labels_of(7), augment=augment)
    agree(net, p, targets)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("per_target", [False, True], ids=["mean target", "per target"])
@pytest.mark.parametrize("count", [1, 3])
def test_one_poison_and_several_targets(form, per_target, count):
    net, targets = network(), target_batch(count)
    s = surrogate(net, targets, form=form, per_target=per_target)
    assert len(s.matchers) == (count if per_target else 1)
    for poisons in (1, 5):
        agree(net, problem([s], pixels(poisons), labels_of(poisons)), targets, per_target=per_target)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_gradient_of_every_objective_is_its_slope(objective):
    """Central differences of B in the pixels, in a smooth network, with the poisons' own loss added."""
    net, targets = (
        network(make=lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.Tanh(), nn.Linear(6, 4))),
        target_batch(),
    )
    s = surrogate(net, targets, objective=objective)
    p = problem([s], pixels(5), labels_of(5), augment=WARP, loss_weight=0.2, chunk=2)
    draw = p.draw(generator(1, "augment"))
    _, gradient = p.gradient(p.clean, draw)
    d = torch.randn(p.clean.shape, generator=generator(2, "d"), dtype=torch.float64)
    h = 1e-5
    slope = (p.value(p.clean + h * d, draw) - p.value(p.clean - h * d, draw)) / (2 * h)
    assert float((gradient * d).sum()) == pytest.approx(float(slope), rel=1e-5)


def smooth():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.Tanh(), nn.Linear(6, 4))


def hidden(p: MatchingProblem, nets, weight=0.7) -> MatchingProblem:
    """The problem with the change of features after the tangent added."""
    surrogates = tuple(replace(s, features=net[:3]) for s, net in zip(p.surrogates, nets, strict=True))
    return replace(p, surrogates=surrogates, feature_weight=weight)


@pytest.mark.parametrize("augment", [None, WARP], ids=["plain", "augmented"])
def test_the_gradient_with_the_change_of_features_is_its_slope_whatever_the_chunk(augment):
    nets, targets = [network(seed=k, make=smooth) for k in (0, 1)], target_batch()
    found = []
    for chunk in (2, 5):
        p = problem([surrogate(net, targets) for net in nets], pixels(5), labels_of(5), augment=augment, chunk=chunk)
        p, draw = hidden(p, nets), p.draw(generator(1, "augment"))
        x = p.clean + 0.1 * torch.randn(p.clean.shape, generator=generator(3, "x"), dtype=torch.float64)
        value, gradient = p.gradient(x, draw)
        assert float(p.value(x, draw)) == pytest.approx(float(value), rel=1e-12)
        d = torch.randn(x.shape, generator=generator(2, "d"), dtype=torch.float64)
        slope = (p.value(x + 1e-5 * d, draw) - p.value(x - 1e-5 * d, draw)) / 2e-5
        assert float((gradient * d).sum()) == pytest.approx(float(slope), rel=1e-5)
        found.append(gradient)
    close(*found, 1e-12)


def test_the_change_of_features_is_nothing_at_the_clean_images_and_a_mean_square_elsewhere():
    net, targets = network(make=smooth), target_batch()
    p = problem([surrogate(net, targets)], pixels(3), labels_of(3))
    other = p.clean.clone()
    other[1] += 0.2
    apart = hidden(p, [net], weight=0.5)
    assert float(apart.value(p.clean, None)) == float(p.value(p.clean, None))
    change = (net[:3](other) - net[:3](p.clean)).square().mean().detach()
    assert float(apart.value(other, None) - p.value(other, None)) == pytest.approx(0.5 * float(change), rel=1e-9)


def test_clean_images_are_augmented_by_another_draw_than_their_poisons():
    """With the clean images as poisons the features differ, as the two draws do."""
    net, targets = network(make=smooth), target_batch()
    p = problem([surrogate(net, targets)], pixels(4), labels_of(4), augment=WARP)
    draw = p.draw(generator(1, "augment"))
    assert float(hidden(p, [net]).value(p.clean, draw)) > float(p.value(p.clean, draw))


@pytest.mark.parametrize("form", FORMS)
def test_single_precision_keeps_the_signs(form):
    """The promise of the engine: sign agreement of at least 99.9 %, cosine to 1e-5."""
    net, targets = network(dtype=torch.float32), target_batch(size=16, dtype=torch.float32)
    p = problem([surrogate(net, targets, form=form)], pixels(60, size=16), labels_of(60), augment=WARP, chunk=16)
    draw = p.draw(generator(0, "augment"))
    _, gradient = p.gradient(p.clean, draw)
    _, want = obvious(net, targets, p.clean, p.labels, augment=WARP, draw=draw, fill=p.fill)
    assert (gradient.sign() == want.sign()).double().mean() >= 0.999
    a, b = gradient.double().flatten(), want.double().flatten()
    assert float(a @ b / (a.norm() * b.norm())) == pytest.approx(1, abs=1e-5)


def test_chunks_do_not_matter():
    net, targets = network(), target_batch()
    s = surrogate(net, targets)
    base, labels = pixels(11), labels_of(11)
    reference = problem([s], base, labels, augment=WARP, chunk=11)
    draw = reference.draw(generator(0, "augment"))
    value, gradient = reference.gradient(reference.clean, draw)
    for chunk in (1, 2, 3, 5, 10, 64):
        again, part = problem([s], base, labels, augment=WARP, chunk=chunk).gradient(reference.clean, draw)
        close(part, gradient, 1e-12)
        assert float(again) == pytest.approx(float(value), rel=1e-12)


def test_order_does_not_matter():
    net, targets = network(), target_batch()
    s = surrogate(net, targets)
    base, labels = pixels(9), labels_of(9)
    order = torch.randperm(9, generator=generator(0, "order"))
    value, gradient = (p := problem([s], base, labels)).gradient(p.clean, None)
    again, shuffled = (p := problem([s], base[order], labels[order])).gradient(p.clean, None)
    close(shuffled, gradient[order], 1e-12)
    assert float(again) == pytest.approx(float(value), rel=1e-12)


def test_poisons_given_twice_weigh_half_as_much_each():
    net, targets = network(), target_batch()
    s = surrogate(net, targets)
    base, labels = pixels(5), labels_of(5)
    value, gradient = (p := problem([s], base, labels)).gradient(p.clean, None)
    again, doubled = (p := problem([s], base.repeat(2, 1, 1, 1), labels.repeat(2))).gradient(p.clean, None)
    close(doubled, gradient.repeat(2, 1, 1, 1) / 2, 1e-12)
    assert float(again) == pytest.approx(float(value), rel=1e-12)


def test_poisons_that_are_the_targets_match_perfectly():
    net = network()
    base, labels = pixels(3), labels_of(3)
    s = surrogate(net, (base.double() / 255, labels))
    p = problem([s], base, labels)
    assert float(p.value(p.clean, None)) == pytest.approx(0, abs=1e-12)


def test_identical_surrogates_count_as_one():
    net, targets = network(), target_batch()
    s = surrogate(net, targets)
    base, labels = pixels(5), labels_of(5)
    value, gradient = (p := problem([s], base, labels)).gradient(p.clean, None)
    for count in (2, 3):
        again, mean = (p := problem([s] * count, base, labels)).gradient(p.clean, None)
        close(mean, gradient, 1e-12)
        assert float(again) == pytest.approx(float(value), rel=1e-12)


def test_an_ensemble_is_the_mean_of_its_members():
    targets = target_batch()
    members = [surrogate(network(seed=k), targets) for k in range(3)]
    base, labels = pixels(5), labels_of(5)
    values, gradients = zip(*((p := problem([s], base, labels)).gradient(p.clean, None) for s in members), strict=True)
    value, gradient = (p := problem(members, base, labels)).gradient(p.clean, None)
    close(gradient, torch.stack(gradients).mean(0), 1e-12)
    assert float(value) == pytest.approx(sum(map(float, values)) / 3, rel=1e-12)


class _Linear(nn.Module):
    """z = W x of one-row images, without bias."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))

    def forward(self, x):
        return x.flatten(1) @ self.weight.T


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "weight, target, poisons, want_value, want",
    [
        ([[0.0, 0.0], [0.0, 0.0]], (1.0, 0.0), [(1.0, 1.0)], 1 - 1 / math.sqrt(2), [(-0.353553, 0.353553)]),
        (
            [[0.5, -0.25], [-0.5, 0.75]],
            (1.0, 2.0),
            [(2.0, -1.0), (0.5, 1.0)],
            0.80561149,
            [(-0.105084, -0.423823), (-0.161591, -0.048034)],
        ),
    ],
)
def test_linear_softmax_by_hand(form, weight, target, poisons, want_value, want):
    """Vectors of the specification: gradient matrix (p - e_y) x^T, adversarial label and poison labels 1."""
    x_target = torch.tensor([target], dtype=torch.float64).reshape(1, 1, 1, 2)
    net, ones = _Linear(weight), torch.ones(len(poisons), dtype=torch.int64)
    ready = prepare(net, x_target)
    s = surrogate(net, (x_target, ones[:1]), form=form)
    assert isinstance(s, Surrogate)
    assert isinstance(s.matchers[0], Matcher)
    assert ready.sizes == (4,)
    p = MatchingProblem(
        surrogates=(s,),
        base=torch.zeros(len(poisons), 1, 1, 2, dtype=torch.uint8),
        labels=ones,
        epsilon=1.0,
        augment=None,
        fill=torch.zeros(1, dtype=torch.float64),
        chunk=1,
    )
    value, gradient = p.gradient(torch.tensor(poisons, dtype=torch.float64).reshape(-1, 1, 1, 2), None)
    assert float(value) == pytest.approx(want_value, abs=1e-8)
    torch.testing.assert_close(gradient.flatten(1), torch.tensor(want, dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["high-pass", "ssim"])
def test_a_penalty_on_what_is_seen_is_added_for_images_before_the_augmentation(name):
    net, targets = network(), target_batch()
    bare = problem([surrogate(net, targets)], pixels(5), labels_of(5), augment=WARP, chunk=2)
    whole = replace(bare, visibility=penalty(name), visibility_weight=0.7)
    draw = bare.draw(generator(0, "augment"))
    x = (bare.clean + 0.03 * torch.randn(bare.clean.shape, generator=generator(0, "x"), dtype=torch.float64)).detach()
    leaf = x.clone().requires_grad_()
    extra = 0.7 * penalty(name)(leaf, bare.clean).mean()
    (want,) = torch.autograd.grad(extra, leaf)
    value, gradient = bare.gradient(x, draw)
    got_value, got = whole.gradient(x, draw)
    torch.testing.assert_close(got_value, value + extra.detach())
    torch.testing.assert_close(got, gradient + want)
    torch.testing.assert_close(whole.value(x, draw), got_value)
