"""Prices: decimal numbers that are exact to the cent, by one rule wherever they come from."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Final

PRICE_MAX: Final = 10**11
"""Highest price; its cents fit a 64-bit integer, however many prices are summed up."""

# A number in JSON's form, which the rows of a CSV have too. Python's own Decimal also accepts
# 1_000, " 5", NaN and digits of other scripts.
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_PLAIN: Final = re.compile(r"(?:0|[1-9][0-9]{0,10})(?:\.[0-9]{1,2})?")
"""Form of nearly all prices: good without a closer look."""
_CENT: Final = Decimal("0.01")
_SHOWN_CHARS: Final = 40


class BadPriceError(ValueError):
    """A text that is not a price; the message shows it and says why."""


def cents_of(text: str) -> int:
    """Return the cents of a price from its text in JSON or CSV: ``35.790`` is 3579.

    Raises BadPriceError for what is not a number, is negative or over PRICE_MAX, or has a digit
    other than 0 past the second decimal. The answer is exact for numbers of any length.
    """
    if _PLAIN.fullmatch(text):
        units, _, decimals = text.partition(".")
        return int(units + decimals.ljust(2, "0"))
    if not _NUMBER.fullmatch(text):
        raise BadPriceError(f"{_shown(text)} is not a decimal number")
    try:
        price = Decimal(text)
    except InvalidOperation:
        raise BadPriceError(f"{_shown(text)} has an exponent that no price has") from None
    if price < 0:
        raise BadPriceError(f"{_shown(text)} is negative, and a price is 0 or more")
    if price > PRICE_MAX:
        raise BadPriceError(f"{_shown(text)} is more than {PRICE_MAX}, the highest price")
    rounded = price.quantize(_CENT)
    if rounded != price:
        raise BadPriceError(
            f"{_shown(text)} is not a whole number of cents: only zeros may follow the second "
            "decimal"
        )
    return int(rounded.scaleb(2))


def _shown(text: str) -> str:
    shown = text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."
    return repr(shown)
