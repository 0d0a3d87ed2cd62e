"""The descent: hand vectors of signed Adam and the schedule, laws of restarts, bounds, exact continuation."""

import itertools
import math

import pytest
import torch
from matching_makers import labels_of, network, pixels, problem, surrogate, target_batch

from mithridate.numerics.ball import quantise
from mithridate.numerics.brewing import (
    OPTIMIZERS,
    STARTS,
    BrewState,
    Descent,
    begin,
    brew,
    direction,
    milestones,
    score,
)
from mithridate.numerics.rng import generator
from mithridate.numerics.warp import Shift

STATE = ("delta", "first", "second", "best", "scores", "trace")


def small_problem(*, augment=None, dtype=torch.float64, epsilon=0.1, seed=0):
    s = surrogate(network(dtype=dtype), target_batch(dtype=dtype))
    return problem([s], pixels(6, seed=seed), labels_of(6), epsilon=epsilon, augment=augment)


def descent(restarts=2, steps=8, step=0.03, dtype=torch.float64, **options):
    return Descent(restarts=restarts, steps=steps, step_px=torch.full((3,), step, dtype=dtype), **options)


def finished(p, d, *, seed=0, state=None):
    *_, last = brew(p, d, seed=seed, state=state)
    return last


def same(a, b):
    return (a.restart, a.step) == (b.restart, b.step) and all(
        torch.equal(getattr(a, name).nan_to_num(nan=-1), getattr(b, name).nan_to_num(nan=-1)) for name in STATE
    )


@pytest.mark.parametrize(
    "signs, positions",
    [
        ((1, 1, 1), (-0.1, -0.2, -0.3)),
        ((1, -1, 1), (-0.1, -0.0947368, -0.1283162)),
        ((0, 1, 1), (0, -0.0744137, -0.1602599)),
        ((1, 0, 0), (-0.1, -0.1670058, -0.2188015)),
    ],
)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_signed_adam_positions(signs, positions, scale):
    """Sign first, then Adam: the size of the gradient is without effect, and a zero stays a zero."""
    first = second = torch.zeros(1, dtype=torch.float64)
    position = 0.0
    for step, (sign, want) in enumerate(zip(signs, positions, strict=True)):
        gradient = torch.tensor([scale * sign], dtype=torch.float64)
        update, first, second = direction("signed-adam", gradient, first, second, step)
        position -= 0.1 * float(update)
        assert position == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("optimizer", ["signed-adam", "adam"])
def test_it_is_torch_adam(optimizer):
    p = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    oracle = torch.optim.Adam([p], lr=0.05)
    first = second = position = torch.zeros(5, dtype=torch.float64)
    for step in range(12):
        gradient = torch.randn(5, generator=generator(0, step), dtype=torch.float64)
        p.grad = gradient.sign() if optimizer == "signed-adam" else gradient.clone()
        oracle.step()
        update, first, second = direction(optimizer, gradient, first, second, step)
        position = position - 0.05 * update
    torch.testing.assert_close(position, p.detach())


def test_projected_gradient_descent_moves_by_the_sign():
    gradient = torch.tensor([3.0, -0.1, 0.0])
    update, _, _ = direction("pgd", gradient, gradient, gradient, 4)
    assert torch.equal(update, torch.tensor([1.0, -1.0, 0.0]))


def test_milestones():
    assert milestones(40) == (14, 24, 35)
    assert milestones(50) == (18, 31, 43)
    assert milestones(80) == (29, 49, 70)
    assert milestones(250) == (93, 156, 218)


def test_the_schedule_drops_tenfold_after_each_milestone():
    """With the pure sign as update and no bound in reach, every step's length is the step size."""
    p, d = small_problem(epsilon=1.0), descent(restarts=1, steps=40, step=1e-5, optimizer="pgd")
    deltas = [state.delta for state in brew(p, d, seed=0)]
    moved = [float((b - a).abs().max()) for a, b in itertools.pairwise(deltas)]
    for step, length in enumerate(moved, start=1):
        assert length == pytest.approx(1e-5 * 0.1 ** sum(step >= m for m in (14, 24, 35)), rel=1e-6)


def test_steps_are_per_channel():
    p = small_problem(epsilon=1.0)
    d = Descent(restarts=1, steps=2, step_px=torch.tensor([1e-4, 2e-4, 3e-4], dtype=torch.float64), optimizer="pgd")
    states = list(brew(p, d, seed=0))
    moved = (states[1].delta - states[0].delta).abs().amax((0, 2, 3)) * 10  # the third step size: M = 2 drops early
    assert moved[1] / moved[0] == pytest.approx(2, rel=1e-6)
    assert moved[2] / moved[0] == pytest.approx(3, rel=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("augment", [None, Shift(max_px=1.0)], ids=["plain", "augmented"])
def test_every_state_is_within_both_bounds(optimizer, augment):
    p = small_problem(augment=augment)
    for state in brew(p, descent(optimizer=optimizer, step=0.2), seed=3):
        assert state.delta.abs().max() <= p.epsilon
        x = p.clean + state.delta
        assert x.min() >= 0
        assert x.max() <= 1
        assert (state.best.int() - p.base.int()).abs().max() <= math.floor(255 * p.epsilon)


def test_the_start_is_clamped_noise():
    """About 32 % of the entries of N(0, 1) epsilon lie on the boundary, except where the pixel range ends before."""
    s = surrogate(network(), target_batch())
    p = problem([s], torch.full((40, 3, 8, 8), 128, dtype=torch.uint8), labels_of(40), epsilon=0.1)
    (last,) = brew(p, descent(restarts=1, steps=1, step=1e-12), seed=0)
    gen = generator(0, "brew", 0, "start")
    draw = (0.1 * torch.randn(p.base.shape, generator=gen, dtype=torch.float64)).clamp(-0.1, 0.1)
    assert (draw.abs() == 0.1).double().mean() == pytest.approx(0.3173, abs=0.01)
    assert torch.equal(last.best, quantise(p.base, draw, 0.1))


def test_brewing_lowers_the_loss():
    """Poisons that carry the adversarial label, as in the usual threat model."""
    targets = target_batch()
    p = problem([surrogate(network(), targets)], pixels(12), targets[1].expand(12).clone(), epsilon=0.3)
    last = finished(p, descent(restarts=1, steps=60, step=0.04))
    assert float(last.scores[0]) < 0.5 * float(p.value(p.clean, None))


def test_same_seed_same_poisons_and_another_seed_other_ones():
    p, d = small_problem(augment=Shift(max_px=1.0)), descent()
    assert same(finished(p, d), finished(p, d))
    assert not torch.equal(finished(p, d).best, finished(p, d, seed=1).best)


def test_the_first_restarts_of_many_are_the_few():
    p = small_problem(augment=Shift(max_px=1.0))
    few, many = finished(p, descent(restarts=2)), finished(p, descent(restarts=4))
    assert torch.equal(few.scores, many.scores[:2])
    assert torch.equal(few.trace, many.trace[:2])
    assert many.scores.min() <= few.scores.min()


def test_the_best_restart_is_kept_by_its_value_at_the_exported_images():
    """Not by the last value on the way, which is stale and under another augmentation."""
    p, d = small_problem(augment=Shift(max_px=1.0)), descent(restarts=5, steps=4)
    last = finished(p, d)
    assert float(last.scores.min()) == float(score(p, last.best, 0, draws=d.score_draws))
    assert last.best_restart == int(last.scores.argmin())
    assert last.best_restart != int(last.trace[:, -1].argmin()), "choose a seed for which the two orders differ"


def test_scores_see_the_same_draws():
    p = small_problem(augment=Shift(max_px=1.0))
    images = finished(p, descent(restarts=1)).best
    assert torch.equal(score(p, images, 0, draws=3), score(p, images, 0, draws=3))
    assert not torch.equal(score(p, images, 0, draws=3), score(p, images, 1, draws=3))


@pytest.mark.parametrize("at", [0, 3, 7, 8, 12, 15])
def test_a_state_goes_on_to_the_same_end_bit_for_bit(at):
    p, d = small_problem(augment=Shift(max_px=1.0)), descent()
    states = list(brew(p, d, seed=5))
    assert len(states) == 16
    kept = {name: tensor.clone() for name, tensor in states[at].bundle().items()}
    revived = BrewState.unbundle(kept, torch.device("cpu"))
    assert same(revived, states[at])
    if at < 15:
        assert same(finished(p, d, seed=5, state=revived), states[-1])
    else:
        assert list(brew(p, d, seed=5, state=revived)) == []


def test_the_first_order_variant_asks_at_the_clean_images():
    p = small_problem()
    last = finished(p, descent(restarts=1, steps=5, clean_gradient=True))
    clean = float(p.value(p.clean, None))
    assert last.trace[0].tolist() == pytest.approx([clean] * 5)


def test_no_room_no_change():
    p = small_problem(epsilon=0.0)
    last = finished(p, descent(restarts=1, steps=3))
    assert torch.equal(last.best, p.base)
    assert not last.delta.any()


def test_brewing_does_not_touch_the_global_generator():
    p = small_problem(augment=Shift(max_px=1.0))
    before = torch.random.get_rng_state()
    finished(p, descent(restarts=1, steps=2))
    assert torch.equal(before, torch.random.get_rng_state())


def test_another_schedule_of_steps():
    d = descent(steps=250, drops=(6.25, 2.667, 1.6, 1.142), decay=0.3)
    assert d.milestones == (40, 93, 156, 218)


def test_several_views_are_the_mean_over_draws_of_one_generator():
    p = small_problem(augment=Shift(max_px=1.0))
    first, gen = begin(p, descent(), 0), generator(0, "brew", 0, "augment", 0)
    x = p.clean + first.delta
    values, gradients = zip(*(p.gradient(x, p.draw(gen)) for _ in range(3)), strict=True)
    state = next(brew(p, descent(views=3, optimizer="adam"), seed=0))
    torch.testing.assert_close(state.trace[0, 0], torch.stack(values).mean())
    torch.testing.assert_close(state.first, 0.1 * torch.stack(gradients).mean(0))


def test_views_are_one_without_an_augmentation():
    a, b = (finished(small_problem(), descent(restarts=1, steps=3, views=views)) for views in (1, 4))
    assert same(a, b)


def test_a_uniform_start_lies_inside_the_ball():
    p = small_problem(epsilon=0.1)
    normal, uniform = (begin(p, descent(start=start), 0).delta.abs() for start in STARTS)
    assert float(normal.max()) <= 0.1 and float(uniform.max()) <= 0.1
    assert (uniform == 0.1).double().mean() < 0.01 < (normal == 0.1).double().mean()
