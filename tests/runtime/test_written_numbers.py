"""Which text is a number."""

from __future__ import annotations

import math

import pytest

from medfm_compress.runtime.written_numbers import has_only_ascii_digits, is_number, number_of, whole_number_of

NONE = (
    *("", " ", "1_0", "1_000", "_1", "1__0", "0x10", "1e", "e5", ".", "+", "1 0", "1,5", "1'0", "1.2.3", "1e5.0"),
    *("\uff11\uff12", "\u0661\u0662", "1\u0662", "\u00b2", "1\u00a0", "\u22121", "1j", "True", "None", "1_0e1_0"),
)


@pytest.mark.parametrize("text", NONE)
def test_what_is_no_number(text: str) -> None:
    assert not is_number(text)
    for read in (number_of, whole_number_of):
        with pytest.raises(ValueError, match="not how"):
            read(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [("1", 1), ("-1.5", -1.5), (" +.5 ", 0.5), ("1.", 1), ("1E-3", 1e-3), ("1e+05", 1e5), ("007", 7), ("12 \0", 12)],
)
def test_what_is_one(text: str, number: float) -> None:
    assert is_number(text)
    assert number_of(text) == number


def test_what_no_float_holds_is_not_finite() -> None:
    assert not any(math.isfinite(number_of(text)) for text in ("1e999", "-Infinity", "inf", "NaN"))
    assert whole_number_of(" -012 ") == -12
    for text in ("1.0", "1e3", "nan", "9" * 10_000):
        with pytest.raises(ValueError):
            whole_number_of(text)


def test_digits_of_other_scripts() -> None:
    assert has_only_ascii_digits("045Y \u2264 90\u00a0\u00fc")
    assert not any(map(has_only_ascii_digits, ("4\u00b2", "\u0664", "\u00bd", "\u2463", "\u516d")))
