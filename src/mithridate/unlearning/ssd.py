"""SSD with PTN: dampen what matters to the loss of the suspects, no more than needed.

    I(theta_i) = mean over samples of ( d CE(f(x), y) / d theta_i )^2,   then the search of `_ptn`

Paper    Foster et al., Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening (AAAI 2024), for
         the importance; the search is Potion's. Needs the labels of the reference.
Departs  see `_ptn`.
"""

from dataclasses import dataclass

from mithridate.numerics.importance import Kind
from mithridate.unlearning._ptn import AbstractTriggerNeutraliser


@dataclass(frozen=True, kw_only=True)
class Ssd(AbstractTriggerNeutraliser):
    """The diagonal of the empirical Fisher matrix, and the search."""

    @property
    def kind(self) -> Kind:
        """The squared gradient of the loss."""
        return "ssd"


METHOD = Ssd
