"""XLF with PTN, the method called Potion: dampen what matters to the norm of the suspects' logits, no more than needed.

    I(theta_i) = mean over samples of | d ||f(x)||_2 / d theta_i |,   then the search of `_ptn`

Paper    Schoepf, Foster, Brintrup: Potion: Towards Poison Unlearning (2024), arXiv 2406.09173; importance and search as
         in the code of its authors. Needs no labels of the reference, and a few hundred of it.
Departs  see `_ptn`. Gradients of batches of 512, as published, cost accuracy on small networks that gradients of single
         samples keep; `importance_batch=512` has them.
"""

from dataclasses import dataclass

from mithridate.numerics.importance import Kind
from mithridate.unlearning._ptn import AbstractTriggerNeutraliser


@dataclass(frozen=True, kw_only=True)
class Xlf(AbstractTriggerNeutraliser):
    """Outlier-resistant loss-free importance, and the search."""

    @property
    def kind(self) -> Kind:
        """The norm of the logits."""
        return "xlf"


METHOD = Xlf
