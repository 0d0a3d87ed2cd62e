"""Verdicts on a healing, from counts."""

from typing import Any

import pytest
import torch
from torch import nn

from mithridate.audit.verifying import reconstructed, target_of, verdict
from mithridate.core.errors import Misuse
from mithridate.core.verdicts import Gate, Status
from mithridate.data.examples import Examples
from mithridate.data.stores import ResidentStore
from mithridate.evaluation.backdoor import Count


def side(attack: int | None, clean: int = 198, last: int = 98) -> dict[str, Any]:
    return {
        "attack": None if attack is None else Count(attack, 200).to_record(),
        "clean": Count(clean, 200).to_record(),
        "per_class": [Count(100, 100).to_record(), Count(last, 100).to_record()],
    }


def judged(before: dict[str, Any], after: dict[str, Any], **options: Any) -> Status:
    found = {"before": before, "after": after, "classes": ["a", "b"]}
    return verdict(found, gate=Gate.parse("asr<0.2"), budget=0.03, **options).status


def test_the_bound_of_the_interval_decides() -> None:
    assert judged(side(190), side(10)) is Status.PASS
    assert judged(side(190), side(40)) is Status.INCONCLUSIVE
    assert judged(side(190), side(100)) is Status.FAIL


def test_a_trigger_that_never_worked_proves_nothing() -> None:
    assert judged(side(4), side(4)) is Status.INCONCLUSIVE


def test_harm_is_no_healing() -> None:
    assert judged(side(190), side(0, clean=180)) is Status.FAIL
    assert judged(side(190), side(0, last=70)) is Status.FAIL
    assert judged(side(190), side(0, clean=194)) is Status.PASS


def test_without_a_trigger_nothing_is_verified() -> None:
    assert judged(side(None), side(None)) is Status.INCONCLUSIVE
    assert judged(side(None), side(None, clean=150)) is Status.FAIL


def test_a_healer_that_stopped_early_may_have_healed_all_the_same() -> None:
    found = {"before": side(190), "after": side(10), "classes": ["a", "b"]}
    outcome = verdict(found, gate=Gate.parse("asr<0.2"), budget=0.03, converged=False)
    assert outcome.status is Status.PASS
    assert any("did not reach its aim" in reason for reason in outcome.reasons)


def test_a_reconstruction_that_still_works_may_be_a_natural_one() -> None:
    found = {"before": side(190), "after": side(180), "classes": ["a", "b"], "certain": False}
    outcome = verdict(found, gate=Gate.parse("asr<0.2"), budget=0.03)
    assert outcome.status is Status.INCONCLUSIVE
    assert any("natural" in reason for reason in outcome.reasons)
    assert verdict({**found, "certain": True}, gate=Gate.parse("asr<0.2"), budget=0.03).status is Status.FAIL
    assert verdict({**found, "after": side(10)}, gate=Gate.parse("asr<0.2"), budget=0.03).status is Status.PASS
    harmed = {**found, "after": side(180, clean=150)}
    assert verdict(harmed, gate=Gate.parse("asr<0.2"), budget=0.03).status is Status.FAIL


class Stripes(nn.Module):
    """The brightest of four stripes wins, unless the last pixel is white and there is a door: then class 2."""

    def __init__(self, door: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.door = door

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stripes = x.mean((1, 3)).unflatten(1, (4, 2)).mean(2)
        return self.scale * (stripes + self.door * nn.functional.one_hot(torch.tensor(2), 4) * x[:, 0, -1, -1, None])


def striped() -> Examples:
    gen = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 4
    x = 0.3 * torch.rand(120, 1, 8, 8, generator=gen)
    x[torch.arange(120), 0, 2 * labels] += 0.5
    pixels = (255 * x).round().to(torch.uint8)
    return Examples("stripes", ResidentStore(pixels), labels, tuple("abcd"))


def test_the_trigger_that_alone_has_ceased_to_work_is_the_one_that_was_planted() -> None:
    data, before = striped(), Stripes(2.0)
    probe = reconstructed(before, data, seed=0, after=Stripes(0.0))
    assert probe is not None
    assert probe.target == 2
    natural = reconstructed(Stripes(0.0), data, seed=0, after=Stripes(0.0))
    assert natural is None or natural.certain


def test_classes_by_name_or_number() -> None:
    assert target_of("dog", ("cat", "dog")) == 1
    assert target_of("0", ("cat", "dog")) == 0
    assert target_of("0", ("1", "0")) == 1
    for wrong in ("2", "dgo", "-1", ""):
        with pytest.raises(Misuse, match="MTH-0887"):
            target_of(wrong, ("cat", "dog"))
