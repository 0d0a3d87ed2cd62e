"""SSD with fixed thresholds: dampen what matters more than alpha times as much to the suspects as to the reference.

    selected  I_F > alpha I_D,      theta <- theta min(lambda I_D / I_F, 1)

Paper    Foster et al., Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening (AAAI 2024);
         alpha = 10 and lambda = 1 are its values for ResNet-18 on CIFAR. Needs the labels of the reference.
Departs  importances are means over samples (`importance_batch` takes gradients of batches), on at most
         `reference_samples` of the reference, which need not hold the suspects.
"""

from dataclasses import dataclass

from mithridate.core.params import In, param
from mithridate.unlearning._base import Healed, HealKit
from mithridate.unlearning._dampening import dampen
from mithridate.unlearning._ptn import AbstractDampener
from mithridate.unlearning._settling import settle


@dataclass(frozen=True, kw_only=True)
class SsdFixed(AbstractDampener):
    """Dampening with one pair of constants."""

    alpha: float = param(10.0, within=In(0.0, 1e12), doc="ratio of importances above which a parameter is dampened")
    lam: float = param(1.0, within=In(0.0, 1e12), doc="strength: the factor is lam / ratio, at most 1")

    def heal(self, kit: HealKit, *, seed: int) -> Healed:
        """Dampen once; see `AbstractHealer.heal`."""
        session = self.begin(kit, seed=seed)
        forget, keep = self.importances(session, seed=seed)
        count = dampen(session.model, forget, keep, alpha=self.alpha, lam=self.lam)
        size = sum(value.numel() for value in forget.values())
        details = {"alpha": self.alpha, "lambda": self.lam, "frac_dampened": count / size, "importance": self.kind}
        return settle(session, session.model, method=self.label(), details=details)


METHOD = SsdFixed
