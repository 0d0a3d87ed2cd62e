"""What an attack is: an arrow from what the attacker has and wants to a poison pack."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import nn

from mithridate.core.params import Checked
from mithridate.core.pool import Tell, silent
from mithridate.data.packs import PoisonPack
from mithridate.data.scenarios import Scenario
from mithridate.data.sources import DataSet
from mithridate.numerics.shelf import Shelf
from mithridate.numerics.warp import Augmentation


@dataclass(frozen=True, kw_only=True, eq=False)
class AttackKit:
    """What the attacker has.

    Args:
        data: The clean data; the poisons are drawn from its training split, the targets from its test split.
        surrogates: Networks trained on clean data, pixels in [0, 1] in and logits out; attacks do not change them.
        augment: The law by which the victim shifts and mirrors training images, None if it does not.
        progress: Told the state of the work now and then: `done` (share of all work), and numbers of the attack.
        shelf: Where to keep and find unfinished work, None to start afresh.
    """

    data: DataSet
    surrogates: tuple[nn.Module, ...] = ()
    augment: Augmentation | None = None
    progress: Tell = silent
    shelf: Shelf | None = None


@dataclass(frozen=True, kw_only=True)
class AbstractAttack(Checked, ABC):
    """A way to poison a training set. The fields of a subclass are its whole configuration."""

    @property
    @abstractmethod
    def surrogates_needed(self) -> int:
        """How many clean-trained networks `craft` expects in the kit."""

    @property
    @abstractmethod
    def crafting_passes(self) -> float:
        """How often every poison is matched: the unit of cost is a pass of the gradient-matching engine."""

    @abstractmethod
    def craft(self, kit: AttackKit, scenario: Scenario, *, seed: int) -> PoisonPack:
        """Make the poisons of one scenario.

        Args:
            kit: What the attacker has.
            scenario: What the attacker wants, and within what bounds.
            seed: All randomness of the attack derives from it.

        Raises:
            Misuse: The kit does not fit the attack or the scenario.
        """
