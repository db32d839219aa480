"""How numbers and times are written."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azaion_operator.texts import MAX_MESSAGE, decimal, duration, sentence, size


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (900, "900 B"), (1536, "1.5 KiB"), (512 << 20, "512 MiB"), (5 << 40, "5.0 TiB")],
)
def test_a_size_is_written_in_the_largest_unit_that_fits(size_bytes: int, text: str) -> None:
    assert size(size_bytes) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        (math.nan, None),
        (math.inf, None),
        (-math.inf, None),
        (0.0, "0"),
        (-0.0, "0"),
        (1.0, "1"),
        (100.0, "100"),
        (0.5, "0.5"),
        (0.123456789, "0.123457"),
        (0.00001, "0.00001"),
        (1234567.0, "1234570"),
        (-0.25, "-0.25"),
        (1e-30, "0.000000000000000000000000000001"),
        (1e300, "1e+300"),
    ],
)
def test_a_number_is_a_plain_decimal_of_at_most_six_digits(value: float | None, text: str | None) -> None:
    assert decimal(value) == text


@given(st.floats())
def test_whatever_the_number_the_api_takes_it(value: float) -> None:
    text = decimal(value)
    assert text is None or (
        len(text) <= 32 and re.fullmatch(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?", text) is not None
    )
    assert (text is None) == (not math.isfinite(value))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (0, "0s"),
        (59.4, "59s"),
        (60, "1m"),
        (3599, "59m"),
        (8040, "2h14m"),
        (3660, "1h01m"),
        (86400, "1d0h"),
        (1e6, "11d13h"),
    ],
)
def test_a_duration_reads_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_sentence_is_one_line_within_the_bound() -> None:
    assert sentence("two\n  lines\t") == "two lines"
    assert len(sentence("x" * 5000)) == MAX_MESSAGE
