"""Words for numbers, and text made visible."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mithridate.report import _format as fmt

VECTORS = [
    (fmt.percent, None, "n/a"),
    (fmt.percent, 0.0, "0.0\N{NO-BREAK SPACE}%"),
    (fmt.percent, 0.7, "70.0\N{NO-BREAK SPACE}%"),
    (fmt.percent, 1.0, "100.0\N{NO-BREAK SPACE}%"),
    (fmt.percent_range, (0.4810, 0.8545), "48.1–85.5\N{NO-BREAK SPACE}%"),
    (fmt.percent_range, None, "n/a"),
    (fmt.p_value, 0.0, "p < 0.0001"),
    (fmt.p_value, 0.00012, "p = 0.00012"),
    (fmt.p_value, 0.0321, "p = 0.032"),
    (fmt.p_value, 0.5, "p = 0.50"),
    (fmt.p_value, None, "n/a"),
    (fmt.fixed, -0.001, "0.00"),
    (fmt.fixed, -0.127, "−0.13"),
    (fmt.fixed, None, "n/a"),
    (fmt.duration, 0.0, "0 s"),
    (fmt.duration, 0.4237, "0.42 s"),
    (fmt.duration, 59.4, "59 s"),
    (fmt.duration, 59.6, "1 min 00 s"),
    (fmt.duration, 185.0, "3 min 05 s"),
    (fmt.duration, 3599.6, "1 h 00 min"),
    (fmt.duration, 7623.0, "2 h 07 min"),
    (fmt.instant, "2026-11-14T10:22:31+02:00", "2026-11-14 08:22 UTC"),
    (fmt.instant, "2026-11-14T10:22:31", "2026-11-14 10:22"),
    (fmt.name, " \n ", "(empty)"),
    (fmt.plain, "a\nb\x00c\x7f\u202ed\x85", "a␊b␀c␡\\u202ed\\x85"),
    (fmt.scalar, 0.24813, "0.2481"),
    (fmt.scalar, 500, "500"),
    (fmt.scalar, "16/255", "16/255"),
]


@pytest.mark.parametrize(("function", "value", "text"), VECTORS)
def test_vectors(function, value, text) -> None:
    assert function(value) == text


@given(st.text(st.characters()))
def test_plain_leaves_nothing_invisible_and_is_idempotent(text: str) -> None:
    shown = fmt.plain(text)
    assert fmt.plain(shown) == shown
    assert not {"Cc", "Cs", "Zl", "Zp"} & {unicodedata.category(c) for c in shown}
    assert not any(
        unicodedata.bidirectional(c) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"} for c in shown
    )


@given(st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S"))))
def test_plain_keeps_ordinary_text(text: str) -> None:
    assert fmt.plain(text) == text


def test_scripts_that_need_joiners_keep_them() -> None:
    for text in ("می\u200cخواهم", "👩\u200d🔬"):
        assert fmt.plain(text) == text


@given(st.text(), st.integers(1, 50))
def test_shorten_bounds_the_length_and_keeps_the_beginning(text: str, limit: int) -> None:
    short = fmt.shorten(text, limit)
    assert len(short) <= limit
    assert short == text if len(text) <= limit else "…" in short
    assert short.split("…")[0] == text[: len(short.split("…")[0])] or "…" in text
