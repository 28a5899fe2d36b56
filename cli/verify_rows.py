"""``footfall verify`` of flows whose rows are compared one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from footfall.cli.errors import UsageError, say
from footfall.cli.flows import contract_of
from footfall.cli.ranges import let_worker_write, read_partitions, say_left_out, shown
from footfall.schemas.settings import Settings
from footfall.schemas.topics import OFFSET, PARTITION

if TYPE_CHECKING:
    import polars as pl

    from footfall.sinks.clickhouse_raw_replay import Unequal
    from footfall.sinks.replay import Span
    from footfall.streams.batch import Rows
    from footfall.streams.replay import Range, Replay, Replayed

LINES_SHOWN = 40
MINUTE_MS = 60_000
DAY_MS = 86_400_000
ROWS_MAX = 100_000
"""Rows held at once to be looked up."""


def unexpired(asked: Range, days: int, now_ms: int) -> Range:
    """Return the part of a range whose raw rows are kept for ``days``; 0 means for ever.

    Raises UsageError where no part is left.
    """
    oldest_ms = now_ms - days * DAY_MS
    if not days:
        return asked
    if asked.to_ms <= oldest_ms:
        raise UsageError(
            f"rows of before {shown(oldest_ms)} have expired (RAW_ROWS_TTL_DAYS={days}): there is "
            "nothing to compare"
        )
    return replace(asked, from_ms=max(asked.from_ms, oldest_ms))


def verify_raw(settings: Settings, replay: Replay, target: RawTarget) -> int:
    """Check that tables of raw rows hold the rows that the topic gives, and no others."""
    kept = unexpired(replay.asked, settings.raw_rows_ttl_days, round(time.time() * 1000))
    replay = replace(replay, asked=kept)
    ready_s = time.monotonic() + 2 * contract_of(replay.flow).snapshot_every_s

    def unequal(frames: list[Rows], span: Span) -> Mapping[tuple[int, str], Unequal]:
        let_worker_write(settings, replay.flow, ready_s)
        return target.unequal(frames, span)

    found = Compared(unequal, replay.asked)
    done = read_partitions(replay, f"verify {replay.flow}", found.take, found.end)
    read, dead = sum(part.read for part in done), sum(part.dead for part in done)
    print(f"{replay.flow}: {read:,} records read, {found.rows:,} rows to be found, {dead:,} dead")
    say_left_out(replay, done, replay.flow)
    if not found.differing:
        print(
            f"{replay.flow}: topic and tables are equal"
            if found.rows
            else f"{replay.flow}: no row, in the topic or in the tables"
        )
        return 0
    _print(found.differing)
    minutes = {minute_ms for minute_ms, _ in found.differing}
    rows = sum(unequal.rows for unequal in found.differing.values())
    print(
        f"{replay.flow}: {rows:,} rows differ in {len(minutes):,} minutes; `footfall replay "
        f"{replay.flow} --from {shown(min(minutes))} --to {shown(max(minutes) + MINUTE_MS)}` "
        "writes them anew"
    )
    return 1


class RawTarget(Protocol):
    """A ``ClickHouseRawReplay``."""

    def unequal(self, frames: list[Rows], span: Span) -> Mapping[tuple[int, str], Unequal]:
        """Return where the tables hold other rows of the span than those given."""


class StoreTarget(Protocol):
    """A ``ProfileReplay``."""

    def missing(self, tags: pl.DataFrame) -> Iterable[tuple[int, str, str]]:
        """Yield (time in ms, cookie, kind) of each tag that is missing from its profile."""


class Compared:
    """Compares the rows of one partition after the other with the tables, so many at a time."""

    def __init__(
        self,
        unequal: Callable[[list[Rows], Span], Mapping[tuple[int, str], Unequal]],
        asked: Range,
    ) -> None:
        self._unequal = unequal
        self._asked = asked
        self._waiting: list[Rows] = []
        self._begun: int | None = None
        """The offset of the partition's first row, once some were compared."""
        self._next = 0
        """The offset to go on from after that."""
        self.rows = 0
        self.differing: dict[tuple[int, str], Unequal] = {}
        """(minute's start in ms, table) -> what differs"""

    def take(self, rows: Rows) -> None:
        """Compare the rows of the partition that is read, now or with the next ones."""
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) < ROWS_MAX:
            return
        partition, first, last = _place(self._waiting)
        if self._begun is None:
            self._begun = self._next = first
        self._compare(partition, self._next, last + 1)
        self._next = last + 1

    def end(self, done: Replayed) -> None:
        """Compare the rest of a partition, and look for rows where the topic has none."""
        begun = self._begun
        first = done.first_offset if begun is None else self._next
        self._compare(done.partition, first, done.next_offset)
        if begun is not None:
            self._compare(done.partition, done.first_offset, begun)
        self._begun = None

    def _compare(self, partition: int, first: int, end: int) -> None:
        from footfall.sinks.replay import Span

        frames, self._waiting = self._waiting, []
        self.rows += sum(map(len, frames))
        if first >= end:
            return
        span = Span(partition, self._asked.from_ms, self._asked.to_ms, (first, end))
        for key, unequal in self._unequal(frames, span).items():
            known = self.differing.get(key)
            self.differing[key] = known + unequal if known else unequal


def _place(waiting: list[Rows]) -> tuple[int, int, int]:
    """Return the partition of some rows, and their lowest and highest offset."""
    import polars as pl

    frames = [
        frame
        for rows in waiting
        for frame in ([rows] if isinstance(rows, pl.DataFrame) else rows.frames.values())
        if len(frame)
    ]
    offsets = pl.concat([frame[OFFSET] for frame in frames])
    return int(frames[0][PARTITION][0]), int(offsets.min()), int(offsets.max())  # type: ignore[arg-type]


def _print(differing: Mapping[tuple[int, str], Unequal]) -> None:
    from footfall.cli.table import print_table

    rows = [
        (shown(minute_ms), table, unequal.missing, unequal.other, unequal.surplus)
        for (minute_ms, table), unequal in sorted(differing.items())
    ]
    print_table(("minute", "table", "missing", "other", "too many"), rows[:LINES_SHOWN])
    if len(rows) > LINES_SHOWN:
        print(f"... and {len(rows) - LINES_SHOWN:,} more")


def verify_stored(replay: Replay, target: StoreTarget, read_to: Mapping[int, int]) -> int:
    """Check that a store of events holds each event.

    ``read_to``: by partition, the next offset of the worker, which writes what follows.
    """
    flow = replay.flow
    missing = Missing(target.missing, read_to)
    done = read_partitions(replay, f"verify {flow}", missing.take)  # type: ignore[arg-type]
    missing.look_up()
    read, dead = sum(part.read for part in done), sum(part.dead for part in done)
    print(f"{flow}: {read:,} records read, {missing.events:,} to be found, {dead:,} dead")
    if missing.left_out:
        say(
            f"{missing.left_out:,} events were left out that the worker has not read yet "
            "(--complete counts them as missing)"
        )
    minutes = missing.by_minute
    if not minutes:
        print(f"{flow}: all that should stand in the store does")
        return 0
    for minute_ms, (count, example) in sorted(minutes.items())[:LINES_SHOWN]:
        print(f"{shown(minute_ms)}  {count:,} missing, such as {example}")
    first_ms, last_ms = min(minutes), max(minutes) + MINUTE_MS
    total = sum(count for count, _ in minutes.values())
    print(
        f"{flow}: {total:,} missing in {len(minutes):,} minutes; `footfall replay "
        f"{flow} --from {shown(first_ms)} --to {shown(last_ms)}` writes them again"
    )
    return 1


class Missing:
    """Looks events up in a store, so many at a time, and counts those it lacks."""

    def __init__(
        self,
        missing: Callable[[pl.DataFrame], Iterable[tuple[int, str, str]]],
        read_to: Mapping[int, int],
    ) -> None:
        """Prepare lookups. ``read_to``: the worker's next offsets; later rows are left out."""
        self._missing = missing
        self._read_to = read_to
        self.left_out = 0
        self._waiting: list[pl.DataFrame] = []
        self.events = 0
        self.by_minute: dict[int, tuple[int, str]] = {}
        """Minute's start in ms -> (number missing, one of them in words)"""

    def take(self, rows: pl.DataFrame) -> None:
        """Look up the rows of one partition, now or with the next ones."""
        read_to = self._read_to.get(rows["topic_partition"][0])
        if read_to is not None:
            is_read = rows["offset"] < read_to
            self.left_out += len(rows) - int(is_read.sum())
            rows = rows.filter(is_read)
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) >= ROWS_MAX:
            self.look_up()

    def look_up(self) -> None:
        """Look up what was taken."""
        import polars as pl

        if not self._waiting:
            return
        rows = pl.concat(self._waiting)
        self._waiting.clear()
        self.events += len(rows)
        for time_ms, cookie, kind in self._missing(rows):
            minute_ms = time_ms // MINUTE_MS * MINUTE_MS
            count, example = self.by_minute.get(minute_ms, (0, f"{kind} of {cookie}"))
            self.by_minute[minute_ms] = (count + 1, example)
