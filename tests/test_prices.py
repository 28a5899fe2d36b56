"""Prices: one rule, exact at any size, and every refusal says what is wrong."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from footfall.schemas.prices import PRICE_MAX, BadPriceError, cents_of


@pytest.mark.parametrize(
    ("text", "cents"),
    [
        ("35.79", 3579),
        ("35.790", 3579),
        ("12.5", 1250),
        ("33", 3300),
        ("0", 0),
        ("-0.00", 0),
        ("0.29", 29),
        ("99999999999.99", 10**13 - 1),
        ("99999999999.990000000000000000000000000000", 10**13 - 1),
        ("100000000000.0", 10**13),
        ("1e11", 10**13),
        ("3.579E+1", 3579),
        ("3579e-2", 3579),
        ("0e999999999", 0),
        ("0." + "0" * 100_000, 0),
    ],
)
def test_a_price_is_its_cents(text: str, cents: int) -> None:
    assert cents_of(text) == cents


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("12.345", "'12.345' is not a whole number of cents"),
        ("999999.995", "whole number of cents"),
        ("5000000.125", "whole number of cents"),
        ("12345678905.120001", "whole number of cents"),
        ("12345678905.1200000000000000000000000001", "whole number of cents"),
        ("1e-999999999999", "whole number of cents"),
        ("0." + "0" * 100_000 + "1", "whole number of cents"),
        ("-5", "'-5' is negative"),
        ("-0.001", "is negative"),
        ("-1e999", "is negative"),
        ("100000000000.01", "is more than 100000000000"),
        ("9" * 40, "is more than 100000000000"),
        ("1e999", "is more than 100000000000"),
        ("1e1" + "0" * 30, "has an exponent that no price has"),
        *(
            (text, "is not a decimal number")
            for text in (
                *("", " 5", "5 ", "5\n", "+5", "05", ".5", "5.", "1,5", "1_000", "0x10", "1e"),
                *("NaN", "Infinity", "\uff15", "\u0663", '"5"', "null", "true", "[5]", "five"),
            )
        ),
    ],
)
def test_what_is_not_a_price_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(BadPriceError, match=reason) as refusal:
        cents_of(text)
    assert len(str(refusal.value)) < 150


@given(
    st.decimals(0, PRICE_MAX, allow_nan=False, allow_infinity=False).filter(
        lambda price: price.as_tuple().exponent > -60  # type: ignore[operator]
    )
)
def test_every_number_is_whole_cents_or_refused(price: Decimal) -> None:
    cents = Fraction(price) * 100
    if cents.denominator == 1:
        assert cents_of(f"{price:f}") == cents_of(str(price)) == cents
    else:
        with pytest.raises(BadPriceError, match="whole number of cents"):
            cents_of(f"{price:f}")
