"""Columns of a frame: taking a column's values out of records, and making a series of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

Lift = Callable[[list[Any]], list[Any]]
"""Function that takes one value out of each of many records: ``lambda tags: [tag.origin for tag in
tags]``."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the frame: how its values are taken out of the records, and its type."""

    lift: Lift
    series: Callable[[str, list[Any]], pl.Series]
    bad: Callable[[Any], str | None] | None = None
    """Function that says why a value of the right type, null in the series, is bad; None if it is
    good."""

    def fit(self, name: str, values: list[Any]) -> tuple[pl.Series, list[int]]:
        """Return (the series, the indexes of values that its type cannot hold); these are null."""
        try:
            return self.series(name, values), []
        except (TypeError, OverflowError):
            unfit = [place for place, value in enumerate(values) if not self._holds(value)]
            kept = [None if place in {*unfit} else value for place, value in enumerate(values)]
            return self.series(name, kept), unfit

    def why_bad(self, name: str, value: Any) -> str | None:
        """Return why a value is bad for this column; None if it is good."""
        if not self._holds(value):
            return f"{str(value)[:40]} cannot be held as {name}"
        return self.bad(value) if self.bad else None

    def _holds(self, value: Any) -> bool:
        try:
            self.series("", [value])
        except (TypeError, OverflowError):
            return False
        return True


def text(lift: Lift) -> Column:
    """Return a String column."""
    return Column(lift, lambda name, values: pl.Series(name, values, dtype=pl.String))


def ident(lift: Lift) -> Column:
    """Return a String column of ids that may come as integers, and may be None."""
    return Column(lift, ident_series)


def integer(lift: Lift) -> Column:
    """Return an Int64 column."""
    return Column(lift, lambda name, values: pl.Series(name, values, dtype=pl.Int64))


def boolean(lift: Lift) -> Column:
    """Return a Boolean column."""
    return Column(lift, lambda name, values: pl.Series(name, values, dtype=pl.Boolean))


def cents(lift: Lift) -> Column:
    """Return an Int64 column of whole cents from decimal prices: 35.79 is 3579."""
    return Column(lift, _cents_series, bad=_bad_price)


def ident_series(name: str, values: list[Any]) -> pl.Series:
    """Return a String series of ids, each an integer of any size, a text or None."""
    kinds = {*map(type, values)} - {type(None)}
    if kinds == {int}:
        # A series of integers is cast to text at once, much faster than one by one.
        with suppress(TypeError, OverflowError):
            return pl.Series(name, values, dtype=pl.Int64).cast(pl.String)
    if kinds != {str}:
        values = [value if value is None else str(value) for value in values]
    return pl.Series(name, values, dtype=pl.String)


def _cents_series(name: str, values: list[Any]) -> pl.Series:
    prices = pl.Series(values, dtype=pl.Float64).to_numpy()
    cents = np.rint(prices * 100)
    # A JSON number is read as the double next to it. Dividing gives the double next to the whole
    # cents, which is the same one only if the price is that number of cents.
    is_whole = cents / 100 == prices
    found = pl.Series(name, cents.astype(np.int64), dtype=pl.Int64)
    if is_whole.all():
        return found
    return found.set(~pl.Series(is_whole), None)


def _bad_price(value: Any) -> str | None:
    if _cents_series("", [value]).null_count():
        return f"price {value} is not a whole number of cents"
    return None
