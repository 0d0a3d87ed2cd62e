"""What a defense is: an arrow from plans to plans."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from mithridate.core.params import Checked
from mithridate.training.plan import Plan


@dataclass(frozen=True, kw_only=True)
class AbstractDefense(Checked, ABC):
    """Changes how a network is trained; it knows the plan, and nothing of the poisons."""

    @abstractmethod
    def defend(self, plan: Plan, *, seed: int) -> Plan:
        """Return the defended plan.

        Args:
            plan: The plan to defend; it is not changed.
            seed: The defense's own randomness, for those that train or sample before the plan begins.

        Raises:
            Misuse: The defense does not fit the plan.
        """

    def extra_passes(self, plan: Plan) -> float:
        """Return the forward and backward-to-input passes over the data that the defense adds, for cost estimates."""
        del plan
        return 0.0
