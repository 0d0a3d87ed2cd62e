"""How many keys, and how many hits: what an owner can know before any model is asked.

`hit_rate` is the share of keys that a model trained on the marked data answers with their labels; `own selfcheck`
measures it. The level is divided as a certificate's p-value is multiplied (`certificate.Evidence`): by m (m + 1) for
verification m, and by 2^64 where no beacon protects from trying seeds.
"""

from dataclasses import dataclass
from fractions import Fraction

from mithridate.core.errors import Misuse
from mithridate.ownership.significance import binomial_upper, hits_at

GRIND = 1 << 64
"""How many seeds somebody might try until an innocent model seems guilty, where no beacon forbids it."""
MOST_KEYS = 500


@dataclass(frozen=True, kw_only=True)
class Prospect:
    """What a number of keys promises.

    Args:
        keys: How many are asked about.
        hits_needed: The least number of hits that shows ownership; None if even all do not.
        power: The chance to reach it.
    """

    keys: int
    hits_needed: int | None
    power: float


def factor(run: int = 1, *, grindable: bool = False) -> int:
    """Return what a p-value is multiplied by in verification number `run`."""
    if run < 1:
        raise Misuse("MTH-1010", f"verifications are numbered from 1, got {run}")
    return run * (run + 1) * (GRIND if grindable else 1)


@dataclass(frozen=True, kw_only=True)
class HitTest:
    """The test of ownership by hits, before its number of keys is chosen.

    Args:
        topk: Answers that count.
        classes: How many there are.
        alpha: The level.
        run: The number of the verification.
        grindable: Whether no beacon after a trusted timestamp protects from trying seeds.

    Raises:
        Misuse: MTH-1010 for numbers that cannot be.
    """

    topk: int
    classes: int
    alpha: float | str | Fraction
    run: int = 1
    grindable: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.topk <= self.classes:
            raise Misuse("MTH-1010", f"there is no test by {self.topk} answers out of {self.classes} classes")
        exact(self.alpha, "alpha")
        factor(self.run)

    @property
    def chance(self) -> Fraction:
        """The hit rate of an innocent model."""
        return Fraction(self.topk, self.classes)

    def hits_needed(self, keys: int) -> int | None:
        """Return the least number of hits of `keys` that shows ownership, or None if even all do not.

        Raises:
            Misuse: MTH-1010, there are no keys.
        """
        if keys < 1:
            raise Misuse("MTH-1010", f"there is no test of {keys} keys")
        return hits_at(keys, self.chance, exact(self.alpha, "alpha") / factor(self.run, grindable=self.grindable))

    def power(self, keys: int, hit_rate: float | str | Fraction) -> float:
        """Return the chance that a model which hits at `hit_rate` is shown to be trained on the data.

        Raises:
            Misuse: MTH-1010 for numbers that cannot be.
        """
        return self.prospect(keys, hit_rate).power

    def prospect(self, keys: int, hit_rate: float | str | Fraction) -> Prospect:
        """Return what `keys` keys promise against a model that hits at `hit_rate`.

        Raises:
            Misuse: MTH-1010 for numbers that cannot be.
        """
        needed, rate = self.hits_needed(keys), exact(hit_rate, "hit_rate")
        reached = 0.0 if needed is None else float(binomial_upper(needed, keys, rate))
        return Prospect(keys=keys, hits_needed=needed, power=reached)

    def keys_needed(self, hit_rate: float | str | Fraction, *, wanted: float = 0.9) -> int:
        """Return the least number of keys whose power is `wanted`.

        Raises:
            Misuse: MTH-1011 when no number up to 500 is enough, MTH-1010 for numbers that cannot be.
        """
        rate = exact(hit_rate, "hit_rate")
        # Power saws along with the number of keys, so no search may skip any.
        if rate > self.chance:
            for keys in range(1, MOST_KEYS + 1):
                if self.power(keys, rate) >= wanted:
                    return keys
        raise Misuse(
            "MTH-1011",
            f"no number of keys up to {MOST_KEYS} has power {wanted:g} when {float(rate):g} of them hit, and "
            f"{float(self.chance):g} by chance",
            hint="mark more images, or with a larger epsilon",
        )


def exact(value: float | str | Fraction, name: str) -> Fraction:
    """Return the fraction that a decimal number is written as, between 0 and 1.

    Raises:
        Misuse: MTH-1010 for anything else.
    """
    try:
        found = Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        found = Fraction(-1)
    if not 0 <= found <= 1:
        raise Misuse("MTH-1010", f"{name} must be a number between 0 and 1, got {str(value)[:40]!r}")
    return found
