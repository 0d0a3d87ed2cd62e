"""BadNets: a small patch in a corner, and the wrong label; the network learns that the patch means the class.

    x_i' = x_i with `size` x `size` pixels of a corner replaced,   y_i' = y_adversarial

Paper    Gu, Dolan-Gavitt, Garg, BadNets (2017), arXiv 1708.06733, all-to-one. A white square of 3 x 3 pixels at the
         bottom right is what BackdoorBench and the code of Potion use on images of 32 pixels.
Departs  images below 16 pixels get a patch of 2 x 2, so that it stays a small part of them.
Cost     nothing.
"""

from dataclasses import dataclass

from mithridate.attacks._trigger import AbstractTriggerAttack
from mithridate.core.params import In, OneOf, param
from mithridate.numerics.triggers import CORNERS, Shape, Trigger, patch

_SMALL = 16


@dataclass(frozen=True, kw_only=True)
class BadNets(AbstractTriggerAttack):
    """A patch in a corner."""

    size: int | None = param(
        None, within=In(1, 224), doc="side of the patch in pixels; by default 3, and 2 on images below 16 pixels"
    )
    corner: str = param("bottom-right", within=OneOf(*CORNERS), doc="where the patch lies")
    value: float = param(1.0, within=In(0.0, 1.0), doc="its colour in [0, 1]; 1 is white")
    checkered: bool = param(False, doc="every second pixel has the opposite colour")

    @property
    def method(self) -> str:
        """`badnets`."""
        return "badnets"

    def trigger(self, shape: Shape, *, seed: int) -> Trigger:
        """Return the patch; nothing is drawn."""
        del seed
        side = self.size if self.size is not None else 2 if min(shape[1:]) < _SMALL else 3
        return patch(shape, size=side, corner=self.corner, value=float(self.value), checkered=self.checkered)


METHOD = BadNets
SCENARIO = "trigger"
