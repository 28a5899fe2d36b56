"""Rows in a ClickHouse table's form: its columns in their order, checked and cast."""

from __future__ import annotations

import re
from typing import Literal

import polars as pl

from footfall.schemas.tables.clickhouse import Table
from footfall.schemas.topics import APPENDED

_WRAPPED = re.compile(r"(LowCardinality|Nullable)\((.*)\)")
_DATETIME64 = re.compile(r"DateTime64\((\d)(?:,\s*'[^']*')?\)")
_DATETIME = re.compile(r"DateTime(?:\('[^']*'\))?")
_INTEGERS: dict[str, pl.DataType] = {
    "UInt8": pl.UInt8(),
    "UInt16": pl.UInt16(),
    "UInt32": pl.UInt32(),
    "UInt64": pl.UInt64(),
    "Int8": pl.Int8(),
    "Int16": pl.Int16(),
    "Int32": pl.Int32(),
    "Int64": pl.Int64(),
}
_UNITS: list[Literal["ms", "us", "ns"]] = [*["ms"] * 4, *["us"] * 3, *["ns"] * 3]  # type: ignore[list-item]
"""Polars units of DateTime64, by its number of digits after the second."""
_FLOATS: dict[str, pl.DataType] = {"Float32": pl.Float32(), "Float64": pl.Float64()}


class RowsError(ValueError):
    """Rows that do not fit their table; the message names the column."""


def rows_for(table: Table, frame: pl.DataFrame) -> pl.DataFrame:
    """Return the frame with the table's columns, in its order and types; without APPENDED.

    Nothing is guessed. Raises RowsError for an unknown or missing column, another kind of value, a
    number that does not fit, and a null in a column that is not nullable.
    """
    if unknown := [x for x in frame.columns if x not in table.columns and x != APPENDED]:
        raise RowsError(f"it has no column {', '.join(unknown)}")
    if missing := [name for name in table.columns if name not in frame.columns]:
        raise RowsError(f"the rows lack the column {', '.join(missing)}")
    columns, nullable = [], set()
    for name, kind in table.columns.items():
        plain = kind
        while wrapped := _WRAPPED.fullmatch(plain):
            plain = wrapped.group(2)
            if wrapped.group(1) == "Nullable":
                nullable.add(name)
        cast = _cast(name, plain, frame.schema[name])
        if cast is None:
            raise RowsError(f"the column {name} is {kind}, the rows hold {frame.schema[name]}")
        columns.append(cast)
    try:
        rows = frame.select(columns)
    except pl.exceptions.PolarsError as error:
        reason = str(error).partition("\n")[0]
        raise RowsError(f"a value does not fit its column: {reason}") from None
    for name, nulls in zip(rows.columns, rows.null_count().row(0), strict=True):
        if nulls and name not in nullable:
            raise RowsError(f"the column {name} takes no nulls, {nulls} rows hold one")
    return rows


def _cast(name: str, kind: str, dtype: pl.DataType) -> pl.Expr | None:
    """Return the column cast to the type; None where the values are of another kind."""
    column = pl.col(name)
    fits, cast = True, column
    if dtype == pl.Null:
        pass
    elif kind in _INTEGERS:
        fits, cast = dtype.is_integer(), column.cast(_INTEGERS[kind])
    elif kind in _FLOATS:
        fits, cast = dtype.is_numeric(), column.cast(_FLOATS[kind])
    elif kind == "String":
        plain = dtype in (pl.String, pl.Binary)
        fits = plain or dtype in (pl.Categorical, pl.Enum)
        cast = column if plain else column.cast(pl.String)
    elif kind == "Bool":
        fits = dtype == pl.Boolean
    elif kind in ("Date", "Date32"):
        fits = dtype == pl.Date
    elif _DATETIME.fullmatch(kind):
        # DateTime holds seconds: a moment outside 1970 to 2106 fails here, so that the server
        # cannot wrap it.
        fits, cast = dtype == pl.Datetime, column.dt.epoch("s").cast(pl.UInt32)
    elif precise := _DATETIME64.fullmatch(kind):
        zone = dtype.time_zone if isinstance(dtype, pl.Datetime) else None
        utc = column if zone else column.dt.replace_time_zone("UTC")
        unit = _UNITS[int(precise.group(1))]
        fits, cast = dtype == pl.Datetime, utc.cast(pl.Datetime(unit, "UTC"))
    # Arrays, maps and the like are sent as they are: the server checks them.
    return cast if fits else None
