"""Tests as streams: events in, rows out. No server, no files, no clock.

result = run_flow(minute_buckets.FLOW.dataflow, [tag, tag, tag])
assert result.upserts("bucket", "origin") == [...]
assert not result.dead and not result.late
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import cycle
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import polars as pl
from bytewax.dataflow import Dataflow
from bytewax.inputs import AbortExecution, Source
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import run_main

from footfall.schemas.dead_letters import DeadLetter, LateEvent
from footfall.schemas.status import PartitionStatus
from footfall.schemas.tables.clickhouse import Table
from footfall.schemas.topics import APPENDED
from footfall.streams.batch import Batch, Poll, Rows, TableRows, of_topic
from footfall.streams.clock import Clock
from footfall.streams.engine import Outputs
from footfall.streams.progress import Progress
from footfall.streams.source import Position, TopicSource
from footfall.streams.steps import MakeStep, Step, StepResult

Event = bytes | str | Mapping[str, Any]
"""A record of a topic: bytes, text, or an object to be written as JSON."""

NOW_MS = 1_900_000_000_000
"""Wall clock of a test, 2030-03-17: later than any event unless a test says so."""


class Build(Protocol):
    """Signature of a flow's ``build``."""

    def __call__(
        self, source: Source[Poll], outputs: Outputs, progress: Progress, /
    ) -> Dataflow: ...


@dataclass(slots=True)
class MemoryTopic:
    """A topic in memory, read in batches of the given sizes."""

    records: Sequence[Sequence[bytes]]
    """Records of each partition."""
    cuts: Sequence[int] = (1_000,)
    """Sizes of the polls, repeated; 0 is a mark."""
    abort_after: int | None = None
    """Number of polls after which the run breaks off, as a killed process does."""
    name: str = "memory"
    agreeing: int = 1
    """Number of the last records that must agree on a time; with 1 every clock is believed."""
    appended_ms: Sequence[int] | None = None
    """Append time of each record, the same in every partition; None: when it is read."""
    polls: int = 0

    def partitions(self) -> int:
        """Return the number of partitions."""
        return len(self.records)

    def open(
        self, partition: int, state: int | None, start: Position | None = None
    ) -> MemoryReader:
        """Return a reader of one partition from an offset on."""
        return MemoryReader(self, partition, state or 0)


class MemoryReader:
    """A reader of one partition of a MemoryTopic."""

    def __init__(self, topic: MemoryTopic, partition: int, offset: int) -> None:
        self._topic = topic
        self._partition = partition
        self._offset = offset
        self._cuts: Iterator[int] = cycle(topic.cuts)

    def poll(self, now_ms: int) -> Poll:
        """Return the next records, as many as the next cut says."""
        topic = self._topic
        if topic.abort_after is not None and topic.polls >= topic.abort_after:
            raise AbortExecution
        topic.polls += 1
        records = topic.records[self._partition]
        first = self._offset
        taken = records[first : first + next(self._cuts)]
        self._offset += len(taken)
        return Poll(
            topic=topic.name,
            partition=self._partition,
            first_offset=first,
            data=b"".join(record.replace(b"\n", b" ") + b"\n" for record in taken),
            count=len(taken),
            lag=len(records) - self._offset,
            polled_at_ms=now_ms,
            appended_ms=np.full(len(taken), now_ms)
            if topic.appended_ms is None
            else np.array(topic.appended_ms[first : self._offset], dtype=np.int64),
            agreeing=topic.agreeing,
        )

    def finished(self) -> bool:
        """Return True once all records were given."""
        return self._offset >= len(self._topic.records[self._partition])

    def state(self) -> int:
        """Return the next offset."""
        return self._offset

    def bounds(self) -> tuple[int, int]:
        """Return (the next offset, the number of records)."""
        return self._offset, len(self._topic.records[self._partition])

    def close(self) -> None:
        """Do nothing: nothing is open."""


@dataclass(slots=True)
class Result:
    """Rows and letters that a flow wrote."""

    items: list[Rows] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    late: list[LateEvent] = field(default_factory=list)
    partitions: list[PartitionStatus] = field(default_factory=list)

    @property
    def rows(self) -> pl.DataFrame:
        """Return all rows, in order of writing, without APPENDED; without columns if there are
        none."""
        return _together(item for item in self.items if isinstance(item, pl.DataFrame))

    def rows_of(self, table: str) -> pl.DataFrame:
        """Return the rows of one of several tables."""
        return _together(
            item.frames[table]
            for item in self.items
            if isinstance(item, TableRows) and table in item.frames
        )

    def upserts(self, *key: str) -> list[dict[str, Any]]:
        """Return the rows as a table holds them in the end: the newest per key, ordered by key."""
        return newest(self.rows, key).to_dicts()

    def table(self, table: Table) -> pl.DataFrame:
        """Return one of several tables as it is in the end, without versions, ordered by its
        key."""
        found = newest(self.rows_of(table.name), table.order_by)
        return found.drop(table.version, strict=False)


def _together(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Return the frames as one, without APPENDED: append times are not part of a result."""
    given = [frame.drop(APPENDED, strict=False) for frame in frames]
    return pl.concat(given) if given else pl.DataFrame()


def newest(rows: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """Return the row with the highest version per key (the last of equal ones), ordered by key."""
    if rows.is_empty():
        return rows
    ordered = rows.sort("version", maintain_order=True)
    return ordered.unique(key, keep="last", maintain_order=True).sort(key)


def run_flow(
    build: Build,
    events: Iterable[Event] | Sequence[Sequence[Event]],
    *,
    cuts: Sequence[int] = (1_000,),
    now_ms: int = NOW_MS,
    recovery: Path | None = None,
    abort_after: int | None = None,
    outputs: Outputs | None = None,
    agreeing: int = 1,
    appended_ms: Sequence[int] | None = None,
    topic: str = "memory",
) -> Result:
    """Run a flow over events in memory until their end, and return what it wrote.

    ``events`` is one partition, or a sequence of partitions. With ``recovery``, a folder, the run
    goes on where an earlier one broke off (after ``abort_after`` polls); every poll is then an
    epoch of its own. With ``outputs`` the rows go there, and not into the result.

    ``appended_ms`` says when each event was appended; without it that is ``now_ms``. Few events
    cannot agree on a time, so every clock is believed unless ``agreeing`` says otherwise (see
    streams.clock).
    """
    listed = list(events)
    nested = bool(listed) and isinstance(listed[0], (list, tuple))
    partitions: Any = listed if nested else [listed]
    memory = MemoryTopic(
        [[_bytes(event) for event in partition] for partition in partitions],
        cuts,
        abort_after,
        topic,
        agreeing,
        appended_ms,
    )
    result = Result()
    progress = Progress()
    source = TopicSource(memory, threading.Event(), clock_ms=lambda: now_ms, poll_every_s=0)
    sinks = outputs or Outputs(
        ListSink(result.items.extend),
        ListSink(lambda items: _extend(result.dead, items)),
        ListSink(lambda items: _extend(result.late, items)),
    )
    flow = build(source, sinks, progress)
    config = None
    if recovery is not None:
        if not any(recovery.glob("*.sqlite3")):
            init_db_dir(recovery, 1)
        config = RecoveryConfig(str(recovery), timedelta(0))
    run_main(flow, epoch_interval=timedelta(0), recovery_config=config)
    result.partitions = progress.read()[0]
    return result


def _bytes(event: Event) -> bytes:
    if isinstance(event, bytes):
        return event
    return event.encode() if isinstance(event, str) else msgspec.json.encode(event)


def _extend(letters: list[Any], items: list[list[Any]]) -> None:
    for item in items:
        letters += item


class DrivenStep:
    """The step of a partition and its clock, driven without an engine."""

    def __init__(
        self, make_step: MakeStep, partition: int = 0, snapshot: bytes | None = None
    ) -> None:
        self._clock = Clock(snapshot)
        self.step: Step = make_step(partition, snapshot and snapshot[Clock.STATE_BYTES :])

    def on_batch(self, batch: Batch) -> StepResult:
        """Take a batch that no clock has seen yet, and name the topic in its rows."""
        result = self.step.on_batch(self._clock.see(batch))
        if result.rows is None:
            return result
        return replace(result, rows=of_topic(result.rows, batch.poll.topic))

    def snapshot(self) -> bytes:
        """Return the state as bytes."""
        return self._clock.snapshot() + self.step.snapshot()


class ListSink(DynamicSink[Any]):
    """A sink that gives its items to a callable, without the key."""

    def __init__(self, take: Callable[[list[Any]], None]) -> None:
        self._take = take

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _ListPart:
        return _ListPart(self._take)


class _ListPart(StatelessSinkPartition[Any]):
    def __init__(self, take: Callable[[list[Any]], None]) -> None:
        self._take = take

    def write_batch(self, items: list[Any]) -> None:
        self._take([value for _key, value in items])
