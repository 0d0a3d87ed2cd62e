"""LFSSD with PTN: dampen what matters to the squared norm of the suspects' logits, no more than needed.

    I(theta_i) = mean over samples of | d ||f(x)||_2^2 / d theta_i |,   then the search of `_ptn`

Paper    Foster et al., Loss-Free Selective Synaptic Dampening (ICLR 2024, tiny papers), for the importance; the search
         is Potion's. Needs no labels of the reference.
Departs  see `_ptn`; the paper itself has fixed thresholds.
"""

from dataclasses import dataclass

from mithridate.numerics.importance import Kind
from mithridate.unlearning._ptn import AbstractTriggerNeutraliser


@dataclass(frozen=True, kw_only=True)
class Lfssd(AbstractTriggerNeutraliser):
    """Loss-free importance, and the search."""

    @property
    def kind(self) -> Kind:
        """The squared norm of the logits."""
        return "lf"


METHOD = Lfssd
