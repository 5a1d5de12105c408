from __future__ import annotations

import pytest

from magg.amounts import dollars, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.9, "59.9 s"), (61, "1 min 01 s"), (3_900, "1 h 05 min")],
)
def test_times_are_told_in_units_that_suit_them(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        (1234.567, "$1,234.57"),
        (0.1, "$0.10"),
        (0.0944, "$0.094"),
        (0.000353, "$0.00035"),
        (0.0000042, "$0.0000042"),
        (0.0, "$0.00"),
    ],
)
def test_small_amounts_of_money_are_not_told_as_nothing(usd, text):
    assert dollars(usd) == text
