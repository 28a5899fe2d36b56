"""Minute buckets in ClickHouse and in Aerospike as the target of one replay.

A row that takes back another in ClickHouse becomes a row of zeros in Aerospike, under the new
generation. Aerospike is written first there, because ClickHouse says which rows to take back: so a
replay that is killed in between is made again. A shadow is only in ClickHouse; its rows go to
Aerospike just before it is exchanged.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import polars as pl

from footfall.schemas.tables.clickhouse import DELETED
from footfall.schemas.tables.minute_buckets import ROWS
from footfall.schemas.versions import GENERATION_SHIFT
from footfall.sinks.aerospike_aggregates import AerospikeAggregates
from footfall.sinks.clickhouse_replay import ClickHouseReplay


class AggregatesReplay(ClickHouseReplay):
    """A ReplayTarget for minute buckets in both stores."""

    def __init__(
        self, url: str, topic: str, aggregates: AerospikeAggregates, *, home: Path | None = None
    ) -> None:
        """Take ClickHouse's ``url``, whose password may be in the home, and the rows'
        ``topic``."""
        super().__init__(url, ROWS, topic, home=home)
        self._aggregates = aggregates

    def write(self, frames: Sequence[pl.DataFrame], *, shadow: bool) -> None:
        """Return when the rows are durable."""
        super().write(frames, shadow=shadow)
        if not shadow:
            self._aggregates.write(frames)

    def _remove(self, where: str, generation: int, *, shadow: bool) -> int:
        if not shadow:
            version = pl.lit(generation << GENERATION_SHIFT, dtype=pl.UInt64)
            for rows in self.rows_where(where):
                gone = rows.with_columns(version.alias(ROWS.version), pl.lit(1).alias(DELETED))
                self._aggregates.write([of_aggregates(gone)])
            self._aggregates.settle()
        return super()._remove(where, generation, shadow=shadow)

    def swap(self, ours: Collection[str]) -> None:
        """Exchange the table with its shadow, and write the shadow's rows to Aerospike."""
        for rows in self.shadow_rows(ours):
            self._aggregates.write([of_aggregates(rows)])
        self._aggregates.settle()
        super().swap(ours)

    def close(self) -> None:
        """Release connections. Never raises."""
        super().close()
        self._aggregates.close()


def of_aggregates(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows read from ClickHouse for Aerospike; a row that takes back counts nothing."""
    counts = pl.col(DELETED) == 0
    return rows.with_columns(
        pl.from_epoch(ROWS.start, time_unit="s").dt.replace_time_zone("UTC"),
        *(pl.when(counts).then(pl.col(name)).otherwise(0).alias(name) for name in ROWS.sums),
    ).drop(DELETED)
