"""Constraints as data next to the field: what is checked, printed in help, listed in the docs and violated in tests.

@dataclass(frozen=True, kw_only=True)
class WitchesBrew(Checked):
    restarts: int = param(8, within=In(1, 1000), doc="number of random starts")

WitchesBrew(restarts=0)  # Misuse MTH-0110: WitchesBrew: restarts must be in [1, 1000], got 0
"""

import math
import types
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, field, fields, is_dataclass
from numbers import Integral, Real
from typing import Any, NewType, TypeVar, Union, cast, get_args, get_origin, overload

from mithridate.core.errors import Misuse
from mithridate.core.registry import closest

T = TypeVar("T")


class AbstractConstraint(ABC):
    """Which values a field may have."""

    @abstractmethod
    def allows(self, value: object) -> bool:
        """Tell whether the value satisfies the constraint."""

    @abstractmethod
    def words(self) -> str:
        """Say what is allowed, as it reads after `must be`."""

    @abstractmethod
    def bad(self) -> object:
        """Return a value that violates the constraint."""

    def hint(self, value: object) -> str:
        """Return the way out for a value that is not allowed, or nothing."""
        del value
        return ""


class In(AbstractConstraint):
    """A number between two bounds, which belong to the interval unless said otherwise; never NaN.

    Args:
        lo: The least value.
        hi: The greatest value.
        open_lo: The least value is not allowed itself.
        open_hi: The greatest value is not allowed itself.
    """

    def __init__(self, lo: float, hi: float, *, open_lo: bool = False, open_hi: bool = False) -> None:
        if not lo <= hi:
            raise ValueError(f"In: {lo} is above {hi}")
        self.lo, self.hi, self.open_lo, self.open_hi = lo, hi, open_lo, open_hi

    def allows(self, value: object) -> bool:
        """Tell whether the value lies between the bounds."""
        if isinstance(value, bool) or not isinstance(value, Real):
            return False
        number = float(value)
        above = self.lo < number if self.open_lo else self.lo <= number
        below = number < self.hi if self.open_hi else number <= self.hi
        return above and below

    def words(self) -> str:
        """Return the interval in the usual notation."""
        left = "(" if self.open_lo or math.isinf(self.lo) else "["
        right = ")" if self.open_hi or math.isinf(self.hi) else "]"
        return f"in {left}{self.lo:g}, {self.hi:g}{right}"

    def bad(self) -> float:
        """Return a number outside the interval, whole if the bounds are."""
        if not math.isinf(self.lo):
            return self.lo if self.open_lo else self.lo - 1
        if not math.isinf(self.hi):
            return self.hi if self.open_hi else self.hi + 1
        return math.nan


class OneOf(AbstractConstraint):
    """One of a few values, usually names."""

    def __init__(self, *values: object) -> None:
        if not values:
            raise ValueError("OneOf needs at least one value, got none")
        self.values = values

    def allows(self, value: object) -> bool:
        """Tell whether the value is listed; `1`, `1.0` and `True` are three values."""
        return any(type(value) is type(allowed) and value == allowed for allowed in self.values)

    def words(self) -> str:
        """List the values."""
        return f"one of {', '.join(map(str, self.values))}"

    def bad(self) -> object:
        """Return a name, or a number, that is not listed."""
        if isinstance(self.values[0], str):
            return "-".join(map(str, self.values)) + "-not"
        return max(value for value in self.values if isinstance(value, int | float)) + 1

    def hint(self, value: object) -> str:
        """Return the closest match."""
        names = [allowed for allowed in self.values if isinstance(allowed, str)]
        match = closest(value, names) if isinstance(value, str) else None
        return f"did you mean {match!r}?" if match else ""


@overload
def param(default: T, *, within: AbstractConstraint | None = None, doc: str = "") -> T: ...
@overload
def param(*, within: AbstractConstraint | None = None, doc: str = "") -> Any: ...
def param(default: object = MISSING, *, within: AbstractConstraint | None = None, doc: str = "") -> object:
    """Declare a field of a `Checked` dataclass; `metadata` has `within` and `doc`.

    Args:
        default: The value when none is given, usually the paper's; without it the field is required.
        within: What is allowed; None allows every value of the field's type.
        doc: One line for help and docs, with the unit.
    """
    metadata = {"within": within, "doc": doc}
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=cast("Any", default), metadata=metadata)


class Checked:
    """A frozen dataclass whose fields are checked against their types and constraints whenever one is built.

    A class with conditions between fields overrides `__post_init__` and calls `check_fields(self)` first.
    """

    def __post_init__(self) -> None:
        check_fields(self)


def check_fields(config: object) -> None:
    """Check every field of a dataclass instance against its annotation and its constraint.

    Raises:
        Misuse: MTH-0110, naming the class, the field, what is allowed and the value.
    """
    assert is_dataclass(config) and not isinstance(config, type), f"{type(config).__name__} is no dataclass"
    # vars, not attribute access: a property of the same name must not stand in for the stored value.
    values: Mapping[str, object] = vars(config)
    for item in fields(config):
        value, within = values[item.name], item.metadata.get("within")
        optional, kinds = _kinds(item.type)
        if value is None and optional:
            continue
        if kinds and not any(_is(value, kind) for kind in kinds):
            nouns = " or ".join(dict.fromkeys(_NOUNS[kind] for kind in kinds)) + (" or none" if optional else "")
            _refuse(config, item.name, nouns + (f" {within.words()}" if within else ""), value)
        if within is not None and not within.allows(value):
            _refuse(config, item.name, within.words(), value, hint=within.hint(value))
        if within is None and isinstance(value, float) and not math.isfinite(value):
            _refuse(config, item.name, "finite", value)


def takes_nothing(annotation: object) -> bool:
    """Tell whether a field may be None and may not be text, so that the word `none` can only mean the former."""
    optional, kinds = _kinds(annotation)
    return optional and bool(kinds) and str not in kinds


_NOUNS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _kinds(annotation: object) -> tuple[bool, tuple[type, ...]]:
    """Return whether None is allowed, and the plain types that are; no types means that anything is."""
    while isinstance(annotation, NewType):
        annotation = annotation.__supertype__
    if get_origin(annotation) in (Union, types.UnionType):
        named = [part for part in get_args(annotation) if part is not type(None)]
        parts = [_kinds(part) for part in named]
        optional = len(named) < len(get_args(annotation)) or any(part[0] for part in parts)
        known = tuple(kind for part in parts for kind in part[1])
        return optional, known if all(part[1] for part in parts) else ()
    return annotation is type(None), (annotation,) if isinstance(annotation, type) and annotation in _NOUNS else ()


def _is(value: object, kind: type) -> bool:
    """Tell whether a value is of a plain type; whole numbers are numbers, truth values are not."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, {int: Integral, float: Real, bool: bool, str: str}[kind])


def _refuse(config: object, name: str, allowed: str, value: object, *, hint: str = "") -> None:
    shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    raise Misuse("MTH-0110", f"{type(config).__name__}: {name} must be {allowed}, got {shown}", hint=hint)
