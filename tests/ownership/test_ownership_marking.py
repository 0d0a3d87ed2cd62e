"""Marks: disjoint images of the right class inside epsilon, whatever the order of keys; the objective and its parts."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from mithridate.core.errors import Misuse
from mithridate.data.examples import Examples
from mithridate.data.stores import ResidentStore
from mithridate.numerics.ball import LinfBall
from mithridate.numerics.visibility import PENALTIES, blur, high_pass, penalty, psnr, structural
from mithridate.numerics.warp import Shift
from mithridate.ownership.choosing import choose_rows, per_key
from mithridate.ownership.keys import Key
from mithridate.ownership.marking import MODES, Marking, Signal, cosine, mark

SHAPE = (1, 6, 6)
CLASSES = ("a", "b", "c")


class Net(torch.nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        gen = torch.Generator().manual_seed(seed)
        self.first = torch.nn.Parameter(torch.randn(36, 10, generator=gen) * 0.2)
        self.head = torch.nn.Parameter(torch.randn(10, 3, generator=gen) * 0.4)

    def forward(self, x):
        return torch.nn.functional.softplus(x.flatten(1) @ self.first) @ self.head


def examples(counts=(12, 12, 12)):
    labels = torch.tensor([label for label, count in enumerate(counts) for _ in range(count)])
    gen = torch.Generator().manual_seed(1)
    labels = labels[torch.randperm(len(labels), generator=gen)]
    pixels = torch.randint(0, 256, (len(labels), *SHAPE), generator=gen, dtype=torch.uint8)
    return Examples("toy", ResidentStore(pixels), labels, CLASSES)


def keys(labels=(0, 1, 1)):
    rng = np.random.default_rng(3)
    return [Key(index=i, label=y, image=rng.integers(0, 256, SHAPE, dtype=np.uint8)) for i, y in enumerate(labels)]


CONFIG = Marking(budget=4, epsilon=20 / 255, steps=15)


def marked(config=CONFIG, *, of=None, data=None, nets=None, **options):
    return mark(data or examples(), of or keys(), nets or [Net()], config, seed=2, **options)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "betrayal"])
def test_images_are_disjoint_of_the_key_s_class_and_inside_epsilon(mode):
    data = examples()
    found = marked(replace(CONFIG, mode=mode), data=data)
    assert len(set(found.rows.tolist())) == len(found.rows) == 12
    for place, each in enumerate(found.marks):
        assert set(data.labels[list(each.rows)].tolist()) == {each.label}
        change = found.of_key(place).int() - data.images.gather(torch.tensor(each.rows)).int()
        assert 0 < int(change.abs().max()) <= LinfBall(20 / 255).levels == round(255 * max(each.largest, 20 / 255))
        assert each.cosine > each.clean_cosine


def test_only_the_marked_rows_change():
    data = examples()
    found = marked(data=data)
    new, every = found.apply(data), torch.arange(len(data))
    differs = (new.images.gather(every) != data.images.gather(every)).flatten(1).any(1)
    assert set(differs.nonzero().squeeze(1).tolist()) <= set(found.rows.tolist())
    assert torch.equal(new.labels, data.labels)


def test_the_order_of_keys_is_without_effect():
    one, other = marked(), marked(of=keys()[::-1])
    assert {each.index: each for each in one.marks} == {each.index: each for each in other.marks}


def test_betrayal_takes_the_class_that_the_key_is_taken_for():
    data, chosen = examples(), keys()
    found = marked(replace(CONFIG, mode="betrayal"), data=data)
    for each, key in zip(found.marks, chosen, strict=True):
        assert key.label not in data.labels[list(each.rows)].tolist()


def test_the_selective_mode_takes_the_smallest_gradients():
    data, net = examples((20, 20, 20)), Net()

    def norm(row):
        x = data.images.gather(torch.tensor([row])).float() / 255
        loss = torch.nn.functional.cross_entropy(net(x), data.labels[[row]])
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))]).norm().item()

    found = marked(replace(CONFIG, mode="attractors-selective"), data=data, of=keys((0,)), nets=[net])
    assert sorted(found.marks[0].rows) == sorted(sorted(data.rows_of_class(0).tolist(), key=norm)[:4])


def test_the_chunk_is_without_effect_on_the_objective():
    data, key = examples(), keys()[0]
    base, labels = data.images.gather(torch.arange(7)), data.labels[:7]
    values = []
    for chunk in (1, 2, 7):
        problem = Signal.of([Net()], SHAPE, precision="fp32", chunk=chunk).problem(key, base, labels)
        problem = replace(problem, visibility=structural, visibility_weight=0.3)
        values.append(problem.gradient(problem.clean + 0.01, None))
    for value, gradient in values[1:]:
        torch.testing.assert_close(value, values[0][0])
        torch.testing.assert_close(gradient, values[0][1])


def test_the_key_itself_carries_itself():
    """The objective is zero at the key under its own label, and lies between 0 and 2."""
    key = keys()[0]
    image = torch.from_numpy(key.image)[None]
    signal = Signal.of([Net()], SHAPE, precision="fp32")
    assert cosine(signal.problem(key, image, torch.tensor([key.label])), image) == pytest.approx(1, abs=1e-5)
    assert -1 <= cosine(signal.problem(key, 255 - image, torch.tensor([2])), 255 - image) < 1


def test_too_few_images_lower_the_budget_and_say_so():
    found = marked(data=examples((12, 5, 12)))
    assert [len(each.rows) for each in found.marks] == [4, 3, 2]
    assert len(found.notes) == 2 and "3 images instead of 4" in found.notes[0]


def test_a_class_without_images_for_each_key_is_refused():
    with pytest.raises(Misuse, match="MTH-1030"):
        marked(data=examples((12, 1, 12)))


def test_budgets():
    assert per_key(0.001, None, keys=10, images=5000) == 5
    assert per_key(7, None, keys=10, images=5000) == 7
    assert per_key(0.01, 0.01, keys=10, images=5000) == 5
    with pytest.raises(Misuse, match="MTH-1036"):
        per_key(1, 9, keys=10, images=5000)
    with pytest.raises(Misuse, match="budget"):
        Marking(budget=2.5)


def test_a_smaller_budget_takes_some_of_the_same_images():
    small, large = (choose_rows(examples(), {0: 1}, count, seed=4)[0].tolist() for count in (3, 6))
    assert set(small) < set(large)


def test_views_and_surrogates_and_augmentation():
    law = Shift(law="bilinear", max_px=1.0, flip=False)
    one = marked(replace(CONFIG, views=1), augment=law, nets=[Net(0), Net(1)])
    two = marked(replace(CONFIG, views=3), augment=law, nets=[Net(0), Net(1)])
    assert not torch.equal(one.images, two.images)
    assert min(each.cosine - each.clean_cosine for each in two.marks) > 0
    still = [marked(replace(CONFIG, views=views)) for views in (1, 3)]
    assert torch.equal(still[0].images, still[1].images), "without an augmentation one view serves"


@pytest.mark.parametrize("name", [name for name in PENALTIES if name != "none"])
def test_a_penalty_makes_the_change_less_visible(name):
    data = examples()
    seen = penalty(name)

    def visible(found):
        clean = data.images.gather(found.rows).double() / 255
        return float(seen(found.images.double() / 255, clean).mean())

    plain, hidden = marked(data=data), marked(replace(CONFIG, perceptual=name, weight=100.0), data=data)
    assert visible(hidden) < 0.7 * visible(plain)


def test_penalties_are_zero_without_a_change_and_have_the_right_gradient():
    gen = torch.Generator().manual_seed(0)
    clean = torch.rand(2, 3, 12, 12, generator=gen, dtype=torch.float64)
    other = (clean + 0.05 * torch.randn(clean.shape, generator=gen, dtype=torch.float64)).requires_grad_()
    for seen in (high_pass, structural):
        assert seen(clean, clean).abs().max() < 1e-9
        assert torch.autograd.gradcheck(lambda x, seen=seen: seen(x, clean), (other,))


def test_noise_shows_more_in_plain_areas_than_in_texture():
    gen = torch.Generator().manual_seed(0)
    noise = 0.03 * torch.randn(1, 1, 24, 24, generator=gen)
    plain, texture = torch.full((1, 1, 24, 24), 0.5), torch.rand(1, 1, 24, 24, generator=gen)
    assert high_pass(plain + noise, plain) > 4 * high_pass(texture + noise, texture)


def test_blurring_keeps_a_plain_image():
    assert torch.allclose(blur(torch.full((1, 2, 9, 20), 0.3)), torch.tensor(0.3))


def test_ssim_is_that_of_an_independent_filter():
    filters = pytest.importorskip("scipy.ndimage")

    def blurred(a):
        return filters.gaussian_filter(a, 1.5, truncate=3.5, mode="mirror")

    gen = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 32, 32, generator=gen, dtype=torch.float64).numpy()
    mean_a, mean_b = blurred(a), blurred(b)
    varied = (blurred(a * a) - mean_a**2) + (blurred(b * b) - mean_b**2)
    alike = (2 * mean_a * mean_b + 1e-4) * (2 * (blurred(a * b) - mean_a * mean_b) + 9e-4)
    want = (alike / ((mean_a**2 + mean_b**2 + 1e-4) * (varied + 9e-4))).mean()
    got = 1 - structural(*(torch.from_numpy(each)[None, None] for each in (a, b)))
    assert float(got[0]) == pytest.approx(want, rel=1e-9)


def test_psnr():
    clean = torch.zeros(1, 1, 4, 4)
    assert float(psnr(clean + 0.1, clean)) == pytest.approx(20, abs=1e-4)


def test_what_does_not_fit_is_refused():
    other = [Key(index=0, label=0, image=np.zeros((1, 5, 6), dtype=np.uint8))]
    for of, nets, code in (
        (other, None, "MTH-1031"),
        ([replace(keys()[0], label=3)], None, "MTH-1031"),
        ([keys()[0], keys()[0]], None, "MTH-1031"),
    ):
        with pytest.raises(Misuse, match=code):
            marked(of=of, nets=nets)
    with pytest.raises(Misuse, match="MTH-1033"):
        mark(examples(), keys(), [], CONFIG)
    dead = Net()
    with torch.no_grad():
        dead.head.zero_()
        dead.first.zero_()
        dead.head[0, 0] = torch.inf
    with pytest.raises(Misuse, match="MTH-1032"):
        marked(nets=[dead])
    with pytest.raises(Misuse, match="MTH-1035"):
        marked().apply(examples((11, 12, 12)))


def test_lpips_without_weights_is_refused_and_nothing_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(Misuse, match="MTH-1034"):
        marked(replace(CONFIG, perceptual="lpips"))
    assert not list(tmp_path.rglob("*"))


def test_every_bad_value_is_refused():
    for item in fields(Marking):
        if item.metadata.get("within") is not None:
            with pytest.raises(Misuse, match=item.name):
                Marking(**{item.name: item.metadata["within"].bad()})
