"""The alignment trace: does training on the poisons pull the victim towards the adversarial goal?

    a(theta) = cos( grad_theta mean_i l(x_i, y_i),  grad_theta l(x_target, y_adversarial) )

taken over the poisoned rows i at the end of every epoch of the victim's training. Gradient-matched poisons should keep
it larger than unmodified images or random noise do: it is the condition under which the proof sketch of Witches' Brew
makes the adversarial loss fall. Paper: Geiping et al. (ICLR 2021), proposition 1.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mithridate.data.examples import Examples
from mithridate.data.scenarios import Scenario
from mithridate.numerics.matching import gradient_cosine

_AT_MOST = 128


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """The two batches whose gradients are compared: images in [0, 1] and labels, at most 128 poisons."""

    poisons: Float[Tensor, "p c h w"]
    poison_labels: Int64[Tensor, " p"]
    targets: Float[Tensor, "t c h w"]
    adversarial_labels: Int64[Tensor, " t"]


def alignment_probe(train: Examples, test: Examples, scenario: Scenario) -> Probe:
    """Return the probe of a scenario; `train` holds the poisoned, noised or clean version of its rows."""
    rows = torch.tensor(scenario.poison_ids[:_AT_MOST], device=train.labels.device)
    targets = torch.tensor(scenario.targets, device=test.labels.device)
    return Probe(
        poisons=train.images.gather(rows).to(torch.float32) / 255,
        poison_labels=train.labels[rows],
        targets=test.images.gather(targets).to(torch.float32) / 255,
        adversarial_labels=torch.full_like(targets, scenario.adversarial_class),
    )


def alignment(net: nn.Module, probe: Probe) -> float:
    """Return the cosine for the network as it is, taken in evaluation mode; the network is left as it was.

    Poisons that the network fits exactly have no gradient and pull nowhere: the alignment is then 0.
    """
    ours, theirs = (probe.poisons, probe.poison_labels), (probe.targets, probe.adversarial_labels)
    cosine = gradient_cosine(net, ours, theirs)
    return cosine if math.isfinite(cosine) else 0.0
