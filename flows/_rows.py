"""Columns that rows of many tables have in common."""

from __future__ import annotations

import polars as pl

from footfall.schemas.tables.clickhouse import Table
from footfall.schemas.topics import TOPIC
from footfall.schemas.versions import FINAL, version_of
from footfall.streams.batch import TIME_MS, Batch

MOMENT = pl.Datetime("ms", "UTC")


def moment(column: str = TIME_MS, name: str = "time") -> pl.Expr:
    """Return a column of milliseconds since 1970 UTC as UTC timestamps."""
    return pl.col(column).cast(MOMENT).alias(name)


def others_of(table: Table, *given: str) -> list[str]:
    """Return the columns of a table but those ``given`` and the topic, which the engine adds."""
    return [name for name in table.columns if name not in (*given, TOPIC)]


def placed(batch: Batch) -> pl.DataFrame:
    """Return the batch's frame with the columns that identify a raw table's row, and its
    version."""
    return batch.frame.with_columns(
        pl.lit(batch.poll.partition, dtype=pl.UInt16).alias("topic_partition"),
        pl.Series("offset", batch.offsets(), dtype=pl.UInt64),
        pl.lit(version_of(0, 0, FINAL), dtype=pl.UInt64).alias("version"),
    )
