"""Columns of a frame: how the values of each are lifted out of records, and made a series."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

Lift = Callable[[list[Any]], list[Any]]
"""Takes one value out of each of many records: ``lambda tags: [tag.origin for tag in tags]``."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the frame: how its values are lifted out of the records, and its type."""

    lift: Lift
    series: Callable[[str, list[Any]], pl.Series]
    bad: Callable[[Any], str | None] | None = None
    """Says why a value of the right type, null in the series, is not a good one; None if it is."""

    def fit(self, name: str, values: list[Any]) -> tuple[pl.Series, list[int]]:
        """Return the series, and which values its type cannot hold; these are null."""
        try:
            return self.series(name, values), []
        except (TypeError, OverflowError):
            unfit = [place for place, value in enumerate(values) if not self._holds(value)]
            kept = [None if place in {*unfit} else value for place, value in enumerate(values)]
            return self.series(name, kept), unfit

    def why_bad(self, name: str, value: Any) -> str | None:
        """Say why a value is not a good one of this column; None if it is."""
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
    """A String column."""
    return Column(lift, lambda name, values: pl.Series(name, values, dtype=pl.String))


def ident(lift: Lift) -> Column:
    """A String column of ids that may come as integers, and may be None."""
    return Column(lift, ident_series)


def integer(lift: Lift) -> Column:
    """An Int64 column."""
    return Column(lift, lambda name, values: pl.Series(name, values, dtype=pl.Int64))


def boolean(lift: Lift) -> Column:
    """A Boolean column."""
    return Column(lift, lambda name, values: pl.Series(name, values, dtype=pl.Boolean))


def cents(lift: Lift) -> Column:
    """An Int64 column of whole cents from decimal prices: 35.79 is 3579."""
    return Column(lift, _cents_series, bad=_bad_price)


def ident_series(name: str, values: list[Any]) -> pl.Series:
    """Return a String series of ids, each an integer of any size, a text or None."""
    kinds = {*map(type, values)} - {type(None)}
    if kinds == {int}:
        # Integers of a series are made text at once, much faster than one by one.
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
