"""Checks of single arguments: what passes, and what the errors say."""

from __future__ import annotations

import math
from typing import Any

import pytest

from skipguide.method import validate


def test_what_passes() -> None:
    validate.check_number("x", 0, 0.0)
    validate.check_number("x", 1e300, 0.0)
    validate.check_number("x", -1.0, -1.0, 1.0)
    validate.check_integer("x", 3, 3, "Take three.")
    assert validate.check_interval("x", [0, 0.5], 1.0, "Change it.") == (0, 0.5)
    assert validate.check_interval("x", (1, 80), math.inf, "Change it.") == (1, 80)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf, True, "1", None])
def test_numbers_that_are_none(value: Any) -> None:
    with pytest.raises(
        ValueError, match=r"^x must be a number from 0 to 1, but got .*\. Pass such a number\.$"
    ):
        validate.check_number("x", value, 0.0, 1.0)
    if value != 1.1:
        with pytest.raises(
            ValueError, match=r"^x must be a finite number >= 0 \(0 is off\), but got"
        ):
            validate.check_number("x", value, 0.0, note="0 is off")


@pytest.mark.parametrize("value", [0, 1.0, True, "1"])
def test_whole_numbers_that_are_none(value: Any) -> None:
    with pytest.raises(
        ValueError, match=r"^x must be a whole number from 1, but got .*\. Take one\.$"
    ):
        validate.check_integer("x", value, 1, "Take one.")


@pytest.mark.parametrize(
    "value", [(0.5, 0.5), (-0.1, 0.5), (0.2, 1.5), (0.1, math.nan), (0.1,), 0.5, "01", None]
)
def test_intervals_that_are_none(value: Any) -> None:
    with pytest.raises(
        ValueError,
        match=r"^x must be two numbers with 0 <= low < high <= 1, but got .*\. Widen it\.$",
    ):
        validate.check_interval("x", value, 1.0, "Widen it.")
