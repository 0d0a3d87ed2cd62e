"""What a trained victim did: the targets' predictions and the accuracy on clean test data.

A target counts as hit if the victim, at the end of training and in evaluation mode, predicts the adversarial class for
the unmodified test image (not merely a wrong class). Paper: Geiping et al. (ICLR 2021), section 4.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mithridate.data.examples import Examples
from mithridate.data.scenarios import Scenario
from mithridate.models._base import mode
from mithridate.numerics.triggers import Trigger

_AT_ONCE = 1000


@dataclass(frozen=True, kw_only=True)
class TargetOutcome:
    """One target image before one victim."""

    scenario: str
    target: int
    predicted: int
    hit: bool
    adversarial_probability: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One victim: its targets, and its accuracy on clean test data (`correct` of `tested`)."""

    targets: tuple[TargetOutcome, ...]
    correct: int
    tested: int

    def to_record(self) -> dict[str, object]:
        """Return the outcome as plain JSON."""
        return asdict(self)


def logits_of(
    net: nn.Module, data: Examples, ids: Int64[Tensor, " n"] | None = None, *, trigger: Trigger | None = None
) -> Float[Tensor, "n k"]:
    """Return the logits of the given rows (all by default) in evaluation mode and float32; the modes are restored.

    Args:
        net: Takes images in [0, 1]; images are moved to where it is.
        data: The images.
        ids: Which of them, at least one.
        trigger: Stamped on the 8-bit images, if given.
    """
    first = next(net.parameters(), None)
    device = data.device if first is None else first.device
    with mode(net, training=False), torch.no_grad():
        return torch.cat([net(x) for x in _batches(data, ids, trigger, device)])


def judge(net: nn.Module, test: Examples, scenarios: Sequence[Scenario]) -> Outcome:
    """Return how the trained network treats the targets of the scenarios and the whole test set.

    Args:
        net: The victim.
        test: The clean test split.
        scenarios: Each contributes all of its targets.
    """
    logits = logits_of(net, test)
    chance = logits.double().softmax(1)
    predicted = logits.argmax(1)
    outcomes = tuple(
        TargetOutcome(
            scenario=scenario.name,
            target=row,
            predicted=int(predicted[row]),
            hit=int(predicted[row]) == scenario.adversarial_class,
            adversarial_probability=float(chance[row, scenario.adversarial_class]),
        )
        for scenario in scenarios
        for row in scenario.targets
    )
    labels = test.labels.to(predicted.device)
    return Outcome(targets=outcomes, correct=int((predicted == labels).sum()), tested=len(test))


def _batches(
    data: Examples, ids: Int64[Tensor, " n"] | None, trigger: Trigger | None, device: torch.device
) -> Iterator[Float[Tensor, "b c h w"]]:
    every = torch.arange(len(data), device=data.labels.device) if ids is None else ids
    for part in torch.split(every, _AT_ONCE):
        images = data.images.gather(part).to(device)
        images = images if trigger is None else trigger.stamp(images)
        yield images.to(torch.float32).div_(255).contiguous(memory_format=torch.channels_last)
