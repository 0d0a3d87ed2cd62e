"""ASSD: dampening whose threshold is a percentile that depends on how much is to be forgotten.

    b = 100 - ln(1 + 100 |S_f| / |D|),   alpha = percentile of the finite ratios I_F / I_D at b,   lambda = 1

Paper    Schoepf, Foster, Brintrup: Parameter-tuning-free Data Entry Error Unlearning with Adaptive Selective Synaptic
         Dampening (2024), as in its code. Needs the labels of the reference.
Departs  importances as in ssd-fixed. |D| is the size of the training set; where nobody says it, 50,000 or more.
"""

from dataclasses import dataclass

from mithridate.unlearning._base import Healed, HealKit
from mithridate.unlearning._dampening import DampeningPath, Schedule, widened
from mithridate.unlearning._ptn import AbstractDampener
from mithridate.unlearning._settling import settle


@dataclass(frozen=True, kw_only=True)
class Assd(AbstractDampener):
    """Dampening without constants."""

    def heal(self, kit: HealKit, *, seed: int) -> Healed:
        """Dampen once; see `AbstractHealer.heal`."""
        session = self.begin(kit, seed=seed)
        forget, keep = self.importances(session, seed=seed)
        schedule = Schedule(start=len(kit.suspects) / kit.training_size, factor=2.0)
        path = DampeningPath(session.model, widened(forget), widened(keep), schedule)
        threshold = path.go(0)
        assert threshold is not None
        details = {
            "alpha": threshold.alpha,
            "percentile": threshold.percentile,
            "frac_dampened": threshold.count / path.size,
            "importance": self.kind,
        }
        return settle(session, session.model, method=self.label(), details=details)


METHOD = Assd
