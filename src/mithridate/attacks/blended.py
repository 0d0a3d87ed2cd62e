"""Blended: one fixed image mixed faintly into every poison, and the wrong label.

    x_i' = (1 - ratio) x_i + ratio p,   y_i' = y_adversarial

Paper    Chen, Liu, Li, Lu, Song (2017), arXiv 1712.05526, blended injection. BackdoorBench mixes in an image at a ratio
         of 0.2, the same for poisons and for test images.
Departs  the default pattern is uniform noise (the paper's other pattern), drawn from the seed; a file may be given.
Cost     nothing.
"""

from dataclasses import dataclass

from mithridate.attacks._trigger import AbstractTriggerAttack
from mithridate.core.params import In, param
from mithridate.numerics.rng import generator
from mithridate.numerics.triggers import Shape, Trigger, blend, from_png, noise_pattern


@dataclass(frozen=True, kw_only=True)
class Blended(AbstractTriggerAttack):
    """A fixed image, mixed in."""

    ratio: float = param(0.2, within=In(0.0, 1.0, open_lo=True), doc="share of the pattern in the mixture")
    pattern: str = param("noise", doc="noise, or a PNG, JPEG or WebP file; a smaller image lies at the bottom right")

    @property
    def method(self) -> str:
        """`blended`."""
        return "blended"

    def trigger(self, shape: Shape, *, seed: int) -> Trigger:
        """Return the mixture with the pattern, which is drawn from the seed or read from the file."""
        if self.pattern != "noise":
            return from_png(self.pattern, shape, ratio=float(self.ratio))
        pattern = noise_pattern(shape, generator(seed, "blended", "pattern"))
        return blend(pattern, ratio=float(self.ratio), name=f"noise, blended at {self.ratio:g}")


METHOD = Blended
SCENARIO = "trigger"
