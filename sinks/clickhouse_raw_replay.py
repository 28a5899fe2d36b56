"""ClickHouse tables of raw rows, at most one per record, as the target of a replay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from footfall.schemas.tables.clickhouse import Table
from footfall.schemas.topics import OFFSET
from footfall.sinks._clickhouse_rows import rows_for
from footfall.sinks.clickhouse_replay import ClickHouseReplay
from footfall.sinks.replay import Span, Unshadowed
from footfall.sinks.tables import ByTable

MINUTE_MS = 60_000
COMPARED_MAX = 250_000
"""Most rows of a table that are held at once."""


@dataclass(frozen=True, slots=True)
class Unequal:
    """Records whose rows a table does not hold as it should, in one minute of event time."""

    missing: int = 0
    """Records without the row that should be there."""
    other: int = 0
    """Records with another row than should be there."""
    surplus: int = 0
    """Records with a row where there should be none."""

    def __add__(self, more: Unequal) -> Unequal:
        return Unequal(
            self.missing + more.missing, self.other + more.other, self.surplus + more.surplus
        )

    @property
    def rows(self) -> int:
        """Return the sum of all three."""
        return self.missing + self.other + self.surplus


class ClickHouseRawReplay(Unshadowed):
    """A ReplayTarget whose rows are identified by their record's topic, partition and offset."""

    def __init__(
        self, url: str, tables: Sequence[Table], topic: str, *, home: Path | None = None
    ) -> None:
        """Take all ``tables`` that the flow writes; the rest is as in ClickHouseReplay."""
        self._tables = {table.name: table for table in tables}
        self._targets = {
            name: ClickHouseReplay(url, of, topic, home=home) for name, of in self._tables.items()
        }

    def newest_generation(self) -> int:
        """Return the highest generation among the rows of all tables."""
        return max(target.newest_generation() for target in self._targets.values())

    def write(self, frames: Sequence[pl.DataFrame | ByTable], *, shadow: bool) -> None:
        """Return when the rows are durable in all tables; after an error some may have them."""
        for name, target in self._targets.items():
            target.write([rows for item in frames for rows in self._of(item, name)], shadow=False)

    def remove_older(self, spans: Sequence[Span], generation: int, *, shadow: bool) -> int:
        """Take back what earlier generations hold of the spans' records, in each table."""
        return sum(
            target.remove_older(spans, generation, shadow=False)
            for target in self._targets.values()
        )

    def unequal(
        self, frames: Sequence[pl.DataFrame | ByTable], span: Span
    ) -> dict[tuple[int, str], Unequal]:
        """Return where the tables hold other rows of the span, by (minute's start in ms, table).

        ``frames`` have all rows that should be there, in order of their offsets.
        """
        found: dict[tuple[int, str], Unequal] = {}
        for name, table in self._tables.items():
            expected = [rows for item in frames for rows in self._of(item, name)]
            for minute_ms, unequal in self._unequal_of(table, expected, span):
                key = (minute_ms, name)
                found[key] = found.get(key, Unequal()) + unequal
        return found

    def partitions(self, from_ms: int, to_ms: int) -> Mapping[tuple[str, int], int]:
        """Return the number of rows by (topic, partition), of all tables; see ReplayTarget."""
        found: Counter[tuple[str, int]] = Counter()
        for target in self._targets.values():
            found.update(target.partitions(from_ms, to_ms))
        return found

    def close(self) -> None:
        """Release connections. Never raises."""
        for target in self._targets.values():
            target.close()

    def _of(self, item: pl.DataFrame | ByTable, name: str) -> list[pl.DataFrame]:
        """Return the rows of a table; a plain frame is of the only one."""
        if isinstance(item, pl.DataFrame):
            return [item]
        return [item.frames[name]] if name in item.frames else []

    def _unequal_of(
        self, table: Table, frames: Sequence[pl.DataFrame], span: Span
    ) -> list[tuple[int, Unequal]]:
        """Return the same for one table, whose rows are read COMPARED_MAX at a time."""
        assert span.offsets is not None
        expected = pl.concat([rows_for(table, frame) for frame in frames]) if frames else None
        first, end = span.offsets
        counts: list[tuple[int, Unequal]] = []
        while first < end:
            rest = replace(span, offsets=(first, end))
            standing = self._targets[table.name].rows(rest, COMPARED_MAX)
            # The last offset of a full answer may have more rows: the next answer begins with it.
            upto = end
            if len(standing) >= COMPARED_MAX:
                upto = max(first + 1, int(standing[OFFSET][-1]))
            offset = pl.col(OFFSET)
            standing = standing.filter(offset < upto)
            wanted = standing.clear()
            if expected is not None:
                wanted = expected.filter((offset >= first) & (offset < upto))
                standing = standing.cast(wanted.schema)
            counts += _counts(table, wanted, standing)
            first = upto
        return counts


def _counts(
    table: Table, wanted: pl.DataFrame, standing: pl.DataFrame
) -> list[tuple[int, Unequal]]:
    """Return by minute how the rows of one partition differ, whatever their versions are."""
    names = [name for name in table.columns if name != table.version]
    wanted, standing = wanted.select(names), standing.select(names)
    if wanted.sort(OFFSET).equals(standing):
        return []
    lacking = wanted.join(standing, on=names, how="anti", nulls_equal=True)
    beyond = standing.join(wanted, on=names, how="anti", nulls_equal=True)
    is_other = pl.col(OFFSET).is_in(beyond[OFFSET].implode())
    by_kind: Mapping[str, pl.DataFrame] = {
        "missing": lacking.filter(~is_other),
        "other": lacking.filter(is_other),
        "surplus": beyond.filter(~pl.col(OFFSET).is_in(lacking[OFFSET].implode())),
    }
    minute = (pl.col(table.start).dt.epoch("ms") // MINUTE_MS * MINUTE_MS).alias("minute")
    return [
        (minute_ms, Unequal(**{kind: count}))
        for kind, rows in by_kind.items()
        for minute_ms, count in rows.group_by(minute).len().iter_rows()
    ]
