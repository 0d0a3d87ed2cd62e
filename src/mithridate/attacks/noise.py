"""Random noise of the full size epsilon: the control that any attack of this size must beat.

    x_i' = clamp( x_i + epsilon s_i ),   s_i uniform in {-1, +1} for every pixel and channel

Where a trigger is planted, the noise is in the labels: the poisons get those that the attack gives them, and their
images stay as they are. Noise in the images as well would be a trigger itself: on digits, whose corners are black, sign
noise of 1/4 taught a network to see the wanted class in 265 of 329 images with a white patch.

Paper    the control of Geiping et al., Witches' Brew (ICLR 2021), and of every audit here; sign noise is the corner of
         the ball, the largest noise that the bound allows.
Cost     nothing.
"""

from dataclasses import asdict, dataclass

import torch

from mithridate.attacks._base import AbstractAttack, AttackKit
from mithridate.data.packs import PoisonPack, make_pack
from mithridate.data.scenarios import Scenario
from mithridate.numerics.ball import quantise
from mithridate.numerics.rng import generator


@dataclass(frozen=True, kw_only=True)
class Noise(AbstractAttack):
    """Sign noise."""

    @property
    def surrogates_needed(self) -> int:
        """None."""
        return 0

    @property
    def crafting_passes(self) -> float:
        """None."""
        return 0.0

    def craft(self, kit: AttackKit, scenario: Scenario, *, seed: int) -> PoisonPack:
        """Add the noise; see `AbstractAttack.craft`."""
        train = kit.data.train
        ids = torch.tensor(scenario.poison_ids)
        base = train.images.gather(ids.to(train.device)).cpu()
        signs = 2 * torch.randint(2, base.shape, generator=generator(seed, "noise")) - 1
        epsilon = float(scenario.epsilon)
        labels = None
        if scenario.triggered:
            epsilon = 0.0
            labels = torch.full_like(ids, scenario.adversarial_class)
        images = quantise(base, epsilon * signs.double(), epsilon)
        config = asdict(self)
        return make_pack(train, scenario, images, attack="noise", config=config, seed=seed, record={}, labels=labels)


METHOD = Noise
