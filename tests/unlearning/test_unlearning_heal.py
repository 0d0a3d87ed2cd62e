"""Healing from the front door: what comes back, what is refused, what goes on after an interruption."""

import copy
import json
import math

import pytest
import torch
from healing_kit import TARGET, poisoned
from peers_kit import law_of_the_end
from torch import nn

import mithridate
from mithridate.core.codes import CODES
from mithridate.core.errors import BadArtefact, Misuse
from mithridate.evaluation.backdoor import judge_backdoor
from mithridate.numerics.shelf import FileShelf
from mithridate.unlearning import _measuring
from mithridate.unlearning._base import Guard, HealKit
from mithridate.unlearning.cleaning import clean
from mithridate.unlearning.heal import as_examples, named_healer
from mithridate.unlearning.undo import Undo
from mithridate.unlearning.xlf import Xlf

OURS = ("xlf", "lfssd", "ssd", "ssd-fixed", "ssd-grid", "assd", "jit")
KEYS = {
    "method",
    "converged",
    "steps",
    "alpha",
    "percentile",
    "frac_dampened",
    "accuracies",
    "guard",
    "warnings",
    "seconds",
}


@pytest.fixture(scope="module")
def ill():
    return poisoned(0, model="convnet3-w16", epochs=14)


@pytest.fixture(scope="module")
def kit(ill):
    rows = ill.rows(10)
    reference = ill.rest(rows).select(range(300))
    return HealKit(model=ill.model, suspects=ill.train.select(rows), reference=reference)


def changed(kit, **values):
    return HealKit(**{**{key: getattr(kit, key) for key in ("model", "suspects", "reference", "guard")}, **values})


def bits(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(model, before):
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_default_heals_and_harms_little(ill, kit):
    before = bits(ill.model)
    assert judge_backdoor(ill.model, ill.test, ill.trigger, TARGET).attack_success_rate > 0.8
    healed = mithridate.heal(kit.model, kit.suspects, kit.reference)
    after = judge_backdoor(healed.model, ill.test, ill.trigger, TARGET)
    given = judge_backdoor(ill.model, ill.test, ill.trigger, TARGET)
    assert same(ill.model, before), "the given model is never changed"
    assert healed.converged and healed.report["outcome"] == "healed"
    assert after.attack_success_rate < 0.35
    assert abs(after.clean_accuracy - given.clean_accuracy) <= 0.02
    assert healed.report.keys() >= KEYS
    assert json.loads(json.dumps(healed.report)) == healed.report
    assert healed.report["accuracies"]["suspects_after"] <= 0.2 * healed.report["accuracies"]["suspects_before"]
    assert 0 < healed.report["frac_dampened"] < 0.1
    assert not healed.model.training


@pytest.mark.parametrize("method", OURS)
def test_every_method_undoes_what_it_did_and_repeats_itself(kit, method, tmp_path):
    given = bits(kit.model)
    first, second = (named_healer(method).heal(kit, seed=3) for _ in range(2))
    assert same(second.model, bits(first.model))
    assert first.report["method"] == method
    assert first.report.keys() >= KEYS
    json.dumps(first.report)
    law_of_the_end(first)
    first.undo.save(tmp_path / "undo.safetensors")
    Undo.load(tmp_path / "undo.safetensors").apply(first.model)
    assert same(first.model, given)
    assert same(kit.model, given)


def test_any_network_and_plain_tensors_through_the_front_door(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 3)).train()
    given, images = bits(net), torch.rand(40, 1, 8, 8)
    net.eval()
    labels = net(images).argmax(1).detach()
    net.train()
    healed = mithridate.heal(
        net, (images[:4], labels[:4]), (images[4:], labels[4:]), method="xlf", guard=mithridate.Guard(budget=1.0)
    )
    assert isinstance(healed, mithridate.Healed) and healed.report["guard"]["held"]
    assert same(net, given) and net.training
    assert not same(healed.model, given) and not healed.model.training
    healed.undo.save(tmp_path / "undo.safetensors")
    mithridate.Undo.load(tmp_path / "undo.safetensors").apply(healed.model)
    assert same(healed.model, given)


def test_without_labels_and_with_other_forms(kit):
    images = kit.reference.images.gather(torch.arange(200))
    rows = torch.arange(len(kit.suspects))
    suspects = (kit.suspects.images.gather(rows), kit.suspects.labels)
    plain = mithridate.heal(kit.model, suspects, images)
    floats = mithridate.heal(kit.model, (suspects[0] / 255, suspects[1]), images.double() / 255)
    assert plain.converged
    assert same(floats.model, bits(plain.model))
    with pytest.raises(Misuse) as caught:
        mithridate.heal(kit.model, suspects, images, "ssd")
    assert caught.value.code == "MTH-0823"


def test_bisection_and_walk_agree_here(kit):
    walk, bisect = (Xlf(search=search).heal(kit, seed=0) for search in ("walk", "bisect"))
    assert walk.report["steps"] == bisect.report["steps"]
    assert bisect.report["evaluated"] < walk.report["evaluated"]
    assert same(walk.model, bits(bisect.model))


def test_reference_mode_takes_gradients_of_batches(kit):
    each, batch = Xlf().heal(kit, seed=0), Xlf(importance_batch=512).heal(kit, seed=0)
    assert each.report["alpha"] != batch.report["alpha"]


def test_an_undo_file_of_another_model_is_refused(kit, tmp_path):
    healed = Xlf().heal(kit, seed=0)
    other = copy.deepcopy(healed.model)
    healed.undo.apply(other)
    for wrong in (other, nn.Linear(3, 3)):
        before = bits(wrong)
        with pytest.raises(Misuse) as caught:
            healed.undo.apply(wrong)
        assert caught.value.code == "MTH-0824"
        assert same(wrong, before)
    path = tmp_path / "undo.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(BadArtefact):
        Undo.load(path)


def test_undo_knows_signs_of_zero_and_buffers():
    net = nn.BatchNorm1d(3)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([0.0, 1.0, 2.0]))
    after = copy.deepcopy(net)
    with torch.no_grad():
        after.weight[0] = -0.0
        after.running_mean[1] = math.nan
        after.num_batches_tracked += 5
    undo = Undo.between(net, after)
    assert undo.count == 3
    undo.apply(after)
    assert not torch.signbit(after.weight).any()
    assert same(after, bits(net))


def test_a_search_that_ends_without_success_says_so(kit):
    unguarded = Xlf(max_tries=3).heal(changed(kit, guard=None), seed=0)
    assert not unguarded.converged
    assert unguarded.report["outcome"] == "not converged"
    assert same(unguarded.model, bits(kit.model))
    assert any("3 steps" in text for text in unguarded.warnings)
    guarded = Xlf(max_tries=60).heal(kit, seed=0)
    assert not guarded.converged
    assert guarded.report["guard"]["held"]


def test_suspects_without_the_behaviour_leave_the_model_alone(kit):
    wrong = kit.suspects.overlay(
        torch.arange(10), kit.suspects.images.gather(torch.arange(10)), (kit.suspects.labels + 1) % 10
    )
    healed = Xlf().heal(changed(kit, suspects=wrong), seed=0)
    assert same(healed.model, bits(kit.model))
    assert healed.report["outcome"] == "nothing to heal"
    assert any("left alone" in text for text in healed.warnings)


@pytest.mark.parametrize("target", [True, False])
def test_clean_suspects_do_little_harm_and_are_warned_of(ill, kit, target):
    rows = ill.clean_rows(10, target=target)
    suspects, reference = ill.clean.select(rows), ill.rest(rows)
    healed = Xlf().heal(changed(kit, suspects=suspects, reference=reference), seed=0)
    given = judge_backdoor(ill.model, ill.test, ill.trigger, TARGET).clean_accuracy
    assert given - judge_backdoor(healed.model, ill.test, ill.trigger, TARGET).clean_accuracy <= 0.06
    assert healed.report["guard"]["lost"] <= healed.report["guard"]["budget"] + 1e-9
    assert not healed.converged
    assert any("clean" in text for text in healed.warnings)


def test_a_budget_of_nothing_changes_nothing_that_counts(kit):
    healed = Xlf().heal(changed(kit, guard=Guard(trusted=True, budget=0.0)), seed=0)
    assert healed.report["guard"]["lost"] <= 0


def test_cleaning_by_flip_order_finds_the_clean_ones(ill, kit):
    rows = torch.cat([ill.rows(5), ill.clean_rows(5, target=False)])
    mixed = changed(kit, suspects=ill.train.select(rows), reference=ill.rest(rows).select(range(400)))
    cleaned = clean(mixed)
    assert set(cleaned.keep) == set(range(5))
    assert all(flip is None for flip in cleaned.flips[5:])
    alone = clean(changed(mixed, suspects=ill.train.select(ill.clean_rows(5, target=False))))
    assert len(alone.keep) == 5
    assert alone.warnings


def test_one_class_only(ill, kit):
    zeros = ill.clean.rows_of_class(TARGET)
    healed = Xlf().heal(changed(kit, reference=ill.clean.select(zeros)), seed=0)
    assert healed.report["accuracies"]["class_changes"].keys() == {"0"}


class StopError(Exception):
    """Stands for Ctrl-C."""


@pytest.mark.parametrize(
    ("what", "search"),
    [
        ("importance of the suspects", "bisect"),
        ("importance of the reference", "bisect"),
        ("search", "bisect"),
        ("search", "walk"),
    ],
)
def test_interrupted_work_goes_on_to_the_same_end(kit, tmp_path, monkeypatch, what, search):
    after = {
        "importance of the suspects": 2,
        "importance of the reference": 4,
        "search": 4 if search == "bisect" else 40,
    }
    if what == "importance of the suspects":  # more than one batch of them
        monkeypatch.setattr(_measuring, "_AT_ONCE", 4)
    healer = Xlf(search=search)
    monkeypatch.setattr(_measuring, "SECONDS_BETWEEN", 0.0)
    words: list[str] = []

    def stop(word):
        words.append(word["what"])
        if words.count(what) == after[what]:
            raise StopError

    want = healer.heal(kit, seed=0)
    shelf = FileShelf(tmp_path / "unfinished.safetensors")
    with pytest.raises(StopError):
        healer.heal(changed(kit, shelf=shelf, progress=stop), seed=0)
    again: list[str] = []
    healed = healer.heal(changed(kit, shelf=shelf, progress=lambda word: again.append(word["what"])), seed=0)
    assert same(healed.model, bits(want.model))
    assert healed.report["steps"] == want.report["steps"]
    assert what == "importance of the suspects" or "importance of the suspects" not in again
    full: list[str] = []
    other = Xlf(rho=0.3, search=search)  # other work does not go on with this
    other.heal(changed(kit, shelf=shelf, progress=lambda word: full.append(word["what"])), seed=0)
    assert "importance of the suspects" in full
    assert again.count(what) < full.count(what)


def broken(model):
    model = copy.deepcopy(model)
    with torch.no_grad():
        next(model.parameters())[0, 0] = math.nan
    return model


def frozen(model):
    return copy.deepcopy(model).requires_grad_(False)


class Odd(nn.Module):
    """What other people's networks do with images that they do not know."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.layer = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.layer(x.flatten(1))
        if self.what == "an index":
            return logits.sum(5)
        assert self.what != "an assertion", "images of 8 pixels"
        return logits.mean(0, keepdim=True) if self.what == "one row" else logits / torch.zeros(())


def test_half_precision_is_told_what_to_do(kit):
    with pytest.raises(Misuse) as caught:
        mithridate.heal(copy.deepcopy(kit.model).half(), kit.suspects, kit.reference)
    assert "model.float()" in caught.value.hint


def refused(kit):
    images = kit.suspects.images.gather(torch.arange(10))
    labels = kit.suspects.labels
    reference = kit.reference
    model = kit.model
    return {
        "no suspects": ("MTH-0820", lambda: mithridate.heal(model, (images[:0], labels[:0]), reference)),
        "no reference": ("MTH-0820", lambda: mithridate.heal(model, kit.suspects, reference.select([]))),
        "other shape": ("MTH-0821", lambda: mithridate.heal(model, (images[..., :6], labels), reference)),
        "floats": ("MTH-0821", lambda: mithridate.heal(model, (images.float(), labels), reference)),
        "whole numbers": ("MTH-0821", lambda: mithridate.heal(model, (images.int(), labels), reference)),
        "flat images": ("MTH-0821", lambda: mithridate.heal(model, (images[0], labels), reference)),
        "float labels": ("MTH-0821", lambda: mithridate.heal(model, (images, labels.float()), reference)),
        "fewer labels": ("MTH-0241", lambda: mithridate.heal(model, (images, labels[:3]), reference)),
        "label 12": ("MTH-0828", lambda: mithridate.heal(model, (images, labels + 12), reference)),
        "label -1": ("MTH-0242", lambda: mithridate.heal(model, (images, labels - 1), reference)),
        "label 12 in the reference": (
            "MTH-0828",
            lambda: mithridate.heal(model, kit.suspects, (images, labels + 12)),
        ),
        "label 12 in the guard's data": (
            "MTH-0828",
            lambda: mithridate.heal(
                model, kit.suspects, reference, guard=Guard(data=as_examples((images, labels + 12), "guard"))
            ),
        ),
        "NaN": ("MTH-0826", lambda: mithridate.heal(broken(model), kit.suspects, reference)),
        "other channels": ("MTH-0827", lambda: mithridate.heal(nn.Conv2d(3, 4, 3), kit.suspects, reference)),
        "no logits": ("MTH-0827", lambda: mithridate.heal(nn.Conv2d(1, 4, 3), kit.suspects, reference)),
        "one logit": (
            "MTH-0827",
            lambda: mithridate.heal(nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), kit.suspects, reference),
        ),
        "one row for all": ("MTH-0827", lambda: mithridate.heal(Odd("one row"), kit.suspects, reference)),
        "an index": ("MTH-0827", lambda: mithridate.heal(Odd("an index"), kit.suspects, reference)),
        "an assertion": ("MTH-0827", lambda: mithridate.heal(Odd("an assertion"), kit.suspects, reference)),
        "NaN logits": ("MTH-0826", lambda: mithridate.heal(Odd("NaN"), kit.suspects, reference)),
        "half": ("MTH-0827", lambda: mithridate.heal(copy.deepcopy(model).half(), kit.suspects, reference)),
        "frozen": ("MTH-0832", lambda: mithridate.heal(frozen(model), kit.suspects, reference)),
        "frozen for jit": ("MTH-0832", lambda: mithridate.heal(frozen(model), kit.suspects, reference, "jit")),
        "no parameters": ("MTH-0827", lambda: mithridate.heal(nn.Flatten(), kit.suspects, reference)),
        "budget": ("MTH-0822", lambda: Guard(budget=1.5)),
        "rate": ("MTH-0822", lambda: changed(kit, poison_rate=-0.1)),
        "name": ("MTH-0101", lambda: mithridate.heal(model, kit.suspects, reference, "xfl")),
        "option": ("MTH-0123", lambda: mithridate.heal(model, kit.suspects, reference, roh=0.1)),
        "range": ("MTH-0110", lambda: mithridate.heal(model, kit.suspects, reference, rho=1.0)),
        "object": ("MTH-0829", lambda: mithridate.heal(model, kit.suspects, reference, Xlf(), rho=0.1)),
    }


def test_bad_input_is_named(kit):
    for name, (code, call) in refused(kit).items():
        with pytest.raises(Misuse) as caught:
            call()
        assert caught.value.code == code, name
        assert code in CODES
