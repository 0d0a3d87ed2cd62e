"""Constraints next to fields: checked at every construction, readable by help and docs, violated by `bad()`."""

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mithridate.core.errors import Misuse
from mithridate.core.methods import instantiate
from mithridate.core.params import Checked, In, OneOf, check_fields, param
from mithridate.core.units import Pixels

HALF = Pixels(0.5)


class AbstractBrew(Checked, ABC):
    @abstractmethod
    def brew(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Brew(AbstractBrew):
    restarts: int = param(8, within=In(1, 1000), doc="number of random starts")
    tau: float = param(0.1, within=In(0.0, 1.0, open_lo=True), doc="step size")
    loss: str = param("cosine", within=OneOf("cosine", "squared"), doc="matching loss")
    keep: int | None = param(None, within=In(1, 5), doc="how many to keep; None keeps all")
    radius: Pixels = param(HALF, within=In(0.0, 1.0, open_lo=True))  # noqa: RUF009 - param is a field
    nesterov: bool = param(False)
    title: str = ""
    shape: tuple[int, ...] = (1, 2)
    levels: int = param(3, within=OneOf(3, 5))

    def brew(self) -> str:
        return self.loss


@dataclass(frozen=True, kw_only=True)
class Required(Checked):
    epochs: int = param(within=In(1, 10))


@dataclass(frozen=True, kw_only=True)
class Together(Checked):
    low: float = param(0.0, within=In(0.0, 1.0))
    high: float = param(1.0, within=In(0.0, 1.0))

    def __post_init__(self) -> None:
        check_fields(self)
        if self.low > self.high:
            raise Misuse("MTH-0110", f"Together: low {self.low} is above high {self.high}")


def refused(**given_values: object) -> Misuse:
    with pytest.raises(Misuse) as caught:
        Brew(**given_values)
    assert caught.value.code == "MTH-0110"
    return caught.value


def test_the_message_names_class_field_range_and_value():
    assert refused(restarts=0).message == "Brew: restarts must be in [1, 1000], got 0"
    assert refused(tau=0.0).message == "Brew: tau must be in (0, 1], got 0.0"
    error = refused(loss="cosin")
    assert error.message == "Brew: loss must be one of cosine, squared, got 'cosin'"
    assert error.hint == "did you mean 'cosine'?"


CONSTRAINED = [item for item in fields(Brew) if item.metadata.get("within")]


def test_every_constraint_is_exposed():
    assert [item.name for item in CONSTRAINED] == ["restarts", "tau", "loss", "keep", "radius", "levels"]
    assert fields(Brew)[0].metadata["doc"] == "number of random starts"


@pytest.mark.parametrize("item", CONSTRAINED, ids=lambda item: item.name)
def test_the_bad_value_of_every_constraint_is_refused(item):
    bad = item.metadata["within"].bad()
    assert not item.metadata["within"].allows(bad)
    assert f"Brew: {item.name} must be" in refused(**{item.name: bad}).message


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("restarts", 1.5, "a whole number in [1, 1000]"),
        ("restarts", "8", "a whole number in [1, 1000]"),
        ("restarts", True, "a whole number in [1, 1000]"),
        ("restarts", None, "a whole number in [1, 1000]"),
        ("tau", "0.1", "a number in (0, 1]"),
        ("tau", math.nan, "in (0, 1]"),
        ("keep", 1.5, "a whole number or none in [1, 5]"),
        ("keep", 6, "in [1, 5]"),
        ("nesterov", 1, "true or false"),
        ("title", 3, "text"),
        ("radius", "8/255", "a number in (0, 1]"),
        ("levels", 4, "one of 3, 5"),
        ("levels", 3.0, "a whole number one of 3, 5"),
    ],
)
def test_values_of_another_type_are_refused(field, value, words):
    assert refused(**{field: value}).message.startswith(f"Brew: {field} must be {words}, got ")


def test_good_values_of_neighbouring_types_are_accepted():
    brew = Brew(restarts=np.int64(3), tau=1, keep=5, radius=Pixels(np.float32(0.25)), shape=(7,))
    assert (brew.restarts, brew.tau, brew.keep) == (3, 1, 5)


def test_replace_checks_again():
    assert dataclasses.replace(Brew(), restarts=2).restarts == 2
    with pytest.raises(Misuse, match="restarts must be in"):
        dataclasses.replace(Brew(), restarts=0)


def test_instances_are_frozen_equal_and_hashable():
    assert Brew(restarts=2) == Brew(restarts=2)
    assert hash(Brew(restarts=2)) == hash(Brew(restarts=2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        Brew().restarts = 3  # type: ignore[misc]


def test_required_fields_stay_required():
    assert Required(epochs=3).epochs == 3
    with pytest.raises(TypeError, match="epochs"):
        Required()
    with pytest.raises(Misuse, match=r"Required: epochs must be in \[1, 10\], got 11"):
        Required(epochs=11)


def test_conditions_between_fields():
    with pytest.raises(Misuse, match=r"low 0\.5 is above high 0\.25"):
        Together(low=0.5, high=0.25)
    with pytest.raises(Misuse, match="low must be in"):
        Together(low=2.0)


def test_an_unbounded_number_must_be_finite():
    @dataclass(frozen=True, kw_only=True)
    class Free(Checked):
        factor: float = param(1.0)

    assert Free(factor=-1e300).factor == -1e300
    with pytest.raises(Misuse, match="factor must be finite, got nan"):
        Free(factor=math.nan)


def test_a_long_value_is_cut_in_the_message():
    assert len(refused(loss="x" * 10_000).message) < 200


intervals = st.tuples(st.integers(-1000, 1000), st.integers(0, 1000), st.booleans(), st.booleans())


@given(intervals, st.floats(allow_nan=True))
def test_intervals_agree_with_comparison(interval, value):
    low, width, open_lo, open_hi = interval
    within = In(low, low + width, open_lo=open_lo, open_hi=open_hi)
    above = value > low if open_lo else value >= low
    below = value < low + width if open_hi else value <= low + width
    assert within.allows(value) == (above and below)
    assert not within.allows(within.bad())


def test_nonsense_constraints_are_refused_when_written():
    with pytest.raises(ValueError, match="2 is above 1"):
        In(2, 1)
    with pytest.raises(ValueError, match="at least one value"):
        OneOf()


def test_the_word_none_is_nothing_where_nothing_is_allowed_and_text_is_not():
    built = instantiate(Brew, "brew", {"keep": "none", "title": "none"})
    assert (built.keep, built.title) == (None, "none")
    with pytest.raises(Misuse):
        instantiate(Brew, "brew", {"restarts": "none"})
