"""Columns of a frame: how the values of each are lifted out of records, and made a series."""

from __future__ import annotations

from collections.abc import Callable
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
    """Why a value of the right type is still none of ours; None where it is one."""


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
    """A String series of ids, each an integer, a text or None; fastest where all are alike."""
    first = next((value for value in values if value is not None), None)
    if type(first) is int:
        try:
            return _mostly_integers(name, values)
        except (TypeError, OverflowError):
            pass  # Some are too large for Int64.
    try:
        return pl.Series(name, values, dtype=pl.String)
    except TypeError:
        texts = [value if type(value) is str or value is None else str(value) for value in values]
        return pl.Series(name, texts, dtype=pl.String)


def _mostly_integers(name: str, values: list[Any]) -> pl.Series:
    # Integers of a series are made text at once, much faster than one by one.
    try:
        return pl.Series(name, values, dtype=pl.Int64).cast(pl.String)
    except TypeError:
        pass
    integers = [value if type(value) is int else None for value in values]
    numbers = pl.Series(name, integers, dtype=pl.Int64)
    others = numbers.is_null().arg_true()
    return numbers.cast(pl.String).scatter(others, [values[place] for place in others])


def _cents_series(name: str, values: list[Any]) -> pl.Series:
    scaled = pl.Series(values, dtype=pl.Float64).to_numpy() * 100
    rounded = np.rint(scaled)
    # Prices have at most 1e11 whole units, so that the error of the product stays below this.
    whole = np.abs(scaled - rounded) <= 1e-9 * np.maximum(rounded, 1000.0)
    found = pl.Series(name, rounded.astype(np.int64), dtype=pl.Int64)
    if whole.all():
        return found
    return pl.select(pl.when(pl.Series(whole)).then(found).alias(name)).to_series()


def _bad_price(value: Any) -> str | None:
    if _cents_series("", [value]).null_count():
        return f"price {value} is not a whole number of cents"
    return None
