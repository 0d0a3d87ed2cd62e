"""What attacks with a trigger share: the poisons are training images with the trigger, under the class it stands for.

    x_i' = (1 - m) x_i + m p,   y_i' = y_adversarial      for every poison i

The labels are wrong ("dirty label"), and there is no surrogate and no search. The trigger is stamped on the images that
are published; whatever shifts and mirrors the victim applies come after it.
"""

from abc import abstractmethod
from dataclasses import asdict, dataclass

import torch

from mithridate.attacks._base import AbstractAttack, AttackKit
from mithridate.core.errors import Misuse
from mithridate.data.packs import PoisonPack, make_pack, with_trigger
from mithridate.data.scenarios import Scenario
from mithridate.numerics.triggers import Shape, Trigger


@dataclass(frozen=True, kw_only=True)
class AbstractTriggerAttack(AbstractAttack):
    """A way to plant a trigger. `craft` is the same for all that only stamp and relabel."""

    @abstractmethod
    def trigger(self, shape: Shape, *, seed: int) -> Trigger:
        """Return the trigger for images of these channels, rows and columns.

        Args:
            shape: Channels, rows, columns.
            seed: The seed that `craft` gets; patterns that are drawn derive from it.

        Raises:
            Misuse: It does not fit such images.
        """

    @property
    @abstractmethod
    def method(self) -> str:
        """The attack's name, for the manifest."""

    @property
    def surrogates_needed(self) -> int:
        """None."""
        return 0

    @property
    def crafting_passes(self) -> float:
        """None."""
        return 0.0

    def craft(self, kit: AttackKit, scenario: Scenario, *, seed: int) -> PoisonPack:
        """Stamp the poisons and relabel them; see `AbstractAttack.craft`.

        Raises:
            Misuse: MTH-0335, the scenario has targets; MTH-0321, the trigger changes a pixel by more than epsilon.
        """
        if not scenario.triggered:
            raise Misuse(
                "MTH-0335",
                f"{self.method} plants a trigger, and scenario {scenario.name!r} has targets",
                hint="take scenarios of the source 'trigger'",
            )
        train = kit.data.train
        ids = torch.tensor(scenario.poison_ids, dtype=torch.int64)
        base = train.images.gather(ids.to(train.device)).cpu()
        planted = self.trigger(train.images.shape, seed=seed)
        pack = make_pack(
            train,
            scenario,
            planted.stamp(base),
            attack=self.method,
            config=asdict(self),
            seed=seed,
            record={"trigger": planted.name, "share": planted.share},
            labels=torch.full_like(ids, scenario.adversarial_class),
        )
        return with_trigger(pack, train, planted)
