"""Units as types: distances between images are in [0, 1] pixel units, budgets are shares of a training set.

"8 of what" decides whether a poisoning result means anything, so the two quantities are parsed in one place.
"""

import math
import re
from typing import NewType

from mithridate.core.errors import Misuse

Pixels = NewType("Pixels", float)
"""A distance between images whose pixels lie in [0, 1]; never in units of a network's normalisation."""

_LEVELS = 255
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


def parse_epsilon(text: str | float) -> Pixels:
    """Read the radius of an L-infinity ball, written as a fraction (`16/255`) or as a decimal in (0, 1].

    Raises:
        Misuse: MTH-0103 when it is above 1 (levels of 255, not [0, 1] units), MTH-0104 when it is no positive number.
    """
    value = _quotient(text) if isinstance(text, str) else _plain(text)
    if value is None or not value > 0 or math.isinf(value):
        raise Misuse(
            "MTH-0104", f"epsilon must be a number in (0, 1], got {text!r}", hint="write a fraction such as 16/255"
        )
    if value > 1:
        meant = f"did you mean {value:g}/255?" if value <= _LEVELS else "write a fraction such as 16/255"
        raise Misuse("MTH-0103", f"epsilon is in [0, 1] units, got {text}", hint=meant)
    return Pixels(value)


def format_epsilon(epsilon: Pixels) -> str:
    """Write a radius as `k/255` where it is a whole number of levels, else as a decimal; `parse_epsilon` reads both."""
    levels = round(epsilon * _LEVELS)
    return f"{levels}/255" if levels / _LEVELS == epsilon else repr(float(epsilon))


def parse_rate(value: str | float, name: str) -> float:
    """Read a share in (0, 1], written as a decimal or with a percent sign.

    Args:
        value: `0.01`, or the text `1%`.
        name: What it is a share of, for the message.

    Raises:
        Misuse: MTH-0105 when it is no number in (0, 1].
    """
    rate = _percent(value) if isinstance(value, str) else _plain(value)
    if rate is None or not 0 < rate <= 1:
        hint = f"did you mean {rate:g}%, that is {rate / 100:g}?" if rate and 1 < rate <= 100 else "0.01 is one percent"
        raise Misuse("MTH-0105", f"{name} must be in (0, 1], got {value}", hint=hint)
    return rate


def _plain(value: object) -> float | None:
    """Return a number as float; `True` is none, whatever Python says."""
    return None if isinstance(value, bool) or not isinstance(value, int | float) else float(value)


def _number(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text.strip()) else None


def _quotient(text: str) -> float | None:
    above, slash, below = text.partition("/")
    top, bottom = _number(above), _number(below) if slash else 1.0
    return None if top is None or not bottom else top / bottom


def _percent(text: str) -> float | None:
    stripped = text.strip()
    number = _number(stripped.removesuffix("%"))
    return number / 100 if number is not None and stripped.endswith("%") else number
