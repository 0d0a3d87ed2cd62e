"""Epsilon and budgets: what is accepted, what is meant by mistakes, and that text and number are the same thing."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mithridate.core.errors import Misuse
from mithridate.core.units import Pixels, format_epsilon, parse_epsilon, parse_rate


@pytest.mark.parametrize(
    ("written", "value"),
    [("16/255", 16 / 255), ("8 / 255", 8 / 255), ("0.5", 0.5), (0.0625, 0.0625), (1, 1.0), ("1e-2", 0.01), (".5", 0.5)],
)
def test_epsilon_as_written(written, value):
    assert parse_epsilon(written) == value


@pytest.mark.parametrize("value", ["16", 16, "255", 1.5])
def test_levels_instead_of_unit_range_say_what_was_meant(value):
    with pytest.raises(Misuse) as caught:
        parse_epsilon(value)
    assert caught.value.code == "MTH-0103"
    assert caught.value.hint == f"did you mean {float(value):g}/255?"
    assert str(value) in caught.value.message


@pytest.mark.parametrize(
    "value", ["", "x", "1/0", "0/255", 0, -0.1, "-8/255", math.nan, "nan", "inf", "1/2/3", True, "0x10", "1_0", "١/٢"]
)
def test_what_is_no_positive_number_is_refused(value):
    with pytest.raises(Misuse) as caught:
        parse_epsilon(value)
    assert caught.value.code == "MTH-0104"
    assert repr(value) in caught.value.message


@given(st.integers(1, 255))
def test_whole_levels_are_written_as_fractions(level):
    text = format_epsilon(Pixels(level / 255))
    assert text == f"{level}/255"
    assert parse_epsilon(text) == level / 255


@given(st.floats(min_value=1e-12, max_value=1.0, exclude_min=True))
def test_every_epsilon_survives_writing_and_reading(value):
    assert parse_epsilon(format_epsilon(Pixels(value))) == value


@pytest.mark.parametrize(("written", "value"), [("0.01", 0.01), ("1%", 0.01), (" 6 % ", 0.06), (1, 1.0), (0.5, 0.5)])
def test_rate_as_written(written, value):
    assert parse_rate(written, "budget") == value


@pytest.mark.parametrize("value", [0, -1, 2, "0", "200%", "x", "", math.nan, math.inf, True])
def test_rates_outside_are_refused_by_name(value):
    with pytest.raises(Misuse, match=r"budget must be in \(0, 1\]") as caught:
        parse_rate(value, "budget")
    assert caught.value.code == "MTH-0105"
    assert str(value) in caught.value.message


def test_a_percentage_without_its_sign_is_recognised():
    with pytest.raises(Misuse) as caught:
        parse_rate(6, "budget")
    assert caught.value.hint == "did you mean 6%, that is 0.06?"
