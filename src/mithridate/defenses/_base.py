"""What a defense is: an arrow from plans to plans; and what it may tell of itself."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mithridate.aggregation._base import State
from mithridate.core.params import Checked
from mithridate.core.pool import Tell, silent
from mithridate.training.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Diagnostics:
    """What a defense measured of itself in one training run.

    Attributes:
        figures: Numbers by name, such as `agreement`; reports give their mean and extremes over the victims.
        warnings: What is suspicious, in words.
    """

    figures: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def to_record(self) -> dict[str, Any]:
        """Return the diagnostics as plain JSON; a figure that is no finite number becomes a warning."""
        finite = {name: float(value) for name, value in self.figures.items() if math.isfinite(value)}
        odd = [f"{name} is {value}" for name, value in self.figures.items() if name not in finite]
        return {"figures": finite, "warnings": [*self.warnings, *odd]}


@dataclass(frozen=True, kw_only=True)
class AbstractDefense(Checked, ABC):
    """Changes how a network is trained; it knows the plan, and nothing of the poisons."""

    @abstractmethod
    def defend(self, plan: Plan, *, seed: int, tell: Tell = silent) -> Plan:
        """Return the defended plan.

        Args:
            plan: The plan to defend; it is not changed.
            seed: The defense's own randomness, for those that train or sample before the plan begins.
            tell: Called with progress where the defense works long, here or while the plan is trained: `what` it does,
                and how much of that is `done`, a share.

        Raises:
            Misuse: The defense does not fit the plan.
        """

    def diagnostics(self, states: Mapping[str, State]) -> Diagnostics:
        """Return what the defense can say of a run of its plan, from the states of the stages at the run's end."""
        del states
        return Diagnostics()

    def extra_passes(self, plan: Plan) -> float:
        """Return the forward and backward-to-input passes over the data that the defense adds, for cost estimates."""
        del plan
        return 0.0
