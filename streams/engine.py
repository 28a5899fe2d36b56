"""The one place where flows meet Bytewax: read, decode, keep state per partition, write.

    topic -> poll -> batch -> step of the partition -> rows        -> their sink
                                                    -> dead letters -> their sink
                                                    -> late events  -> their sink

State, counts and offsets are snapshotted together, so they are exact; a sink may see some
rows again after a crash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import bytewax.operators as op
import numpy as np
import polars as pl
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source
from bytewax.operators import KeyedStream, StatefulBatchLogic
from bytewax.outputs import Sink

from schemas.dead_letters import DeadLetter, LateEvent, payload_fields
from schemas.status import PartitionStatus
from schemas.times import iso_ms
from streams.batch import NEVER, ROW, TIME_MS, Batch, Int64s, Poll, Rows, of_topic
from streams.clock import Clock
from streams.decode import Records
from streams.progress import Counts, Progress
from streams.source import TopicSource
from streams.windows import NO_END_MS, NO_ROWS, Tumbling, WindowState


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step made of a batch."""

    rows: Rows | None = None
    late: list[LateEvent] | None = None
    filtered: int = 0
    """Good records of the batch that the flow does not use."""


class Step(Protocol):
    """The state of one partition, and what it does with each batch. Knows no engine."""

    def on_batch(self, batch: Batch) -> StepResult:
        """Take a batch that a Clock has seen; an empty one is a mark that time has passed, or
        the end."""

    def snapshot(self) -> bytes:
        """The state as bytes."""

    @property
    def watermark_ms(self) -> int:
        """No earlier event is expected; NEVER before the first."""

    @property
    def mark_at_ms(self) -> int:
        """The wall clock before which a mark leads to nothing; NO_END_MS where none does."""


MakeStep = Callable[[int, bytes | None], Step]
"""(partition, snapshot or None) -> the step of that partition."""

Choose = Callable[[pl.DataFrame], pl.DataFrame]
"""A batch's frame, or its parts -> the rows that a flow counts, in order: with TIME_MS, ROW, and
what else it needs. An event may give several rows, or none."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where a flow writes. Each sink is keyed by partition."""

    rows: Sink[Any]
    dead_letters: Sink[Any]
    late_events: Sink[Any]


@dataclass(frozen=True, slots=True)
class Input:
    """A topic that a flow reads, and what it does with it."""

    source: Source[Poll]
    records: Records
    make_step: MakeStep


ONE_TOPIC_STEPS = ("read", "step")


def stateful_steps(topics: Sequence[str], *, sink: bool = False) -> tuple[str, ...]:
    """The steps of a flow that keep a state a partition, under the partition's number.

    With ``sink`` that of its rows is one of them.
    """
    written = ("write_rows",) if sink else ()
    if len(topics) == 1:
        return ONE_TOPIC_STEPS + written
    return tuple(f"{step}_{topic}" for topic in topics for step in ("read", "step")) + written


def dataflow(
    name: str,
    source: Source[Poll],
    records: Records,
    make_step: MakeStep,
    outputs: Outputs,
    *,
    progress: Progress | None = None,
) -> Dataflow:
    """Wire a flow of one topic. Its step ids are those of the recovery store: they stay."""
    flow = Dataflow(name)
    results = _results(flow, "", Input(source, records, make_step), progress or Progress())
    return _written(flow, results, outputs)


def dataflow_of(
    name: str,
    inputs: Mapping[str, Input],
    outputs: Outputs,
    *,
    progress: Progress | None = None,
) -> Dataflow:
    """Wire a flow of several topics, by name, with a state for each partition of each."""
    flow = Dataflow(name)
    counted = progress or Progress()
    results = [_results(flow, f"_{topic}", read, counted) for topic, read in inputs.items()]
    return _written(flow, op.merge("results", *results), outputs)


def _results(flow: Dataflow, suffix: str, read: Input, progress: Progress) -> KeyedStream[_Output]:
    name, records = flow.flow_id, read.records
    polls = op.input(f"read{suffix}", flow, read.source)
    batches = op.map(f"decode{suffix}", polls, lambda poll: _keyed(records.decode(name, poll)))
    return op.stateful_batch(f"step{suffix}", batches, partial(_Logic, read, progress))


def _written(flow: Dataflow, results: KeyedStream[_Output], outputs: Outputs) -> Dataflow:
    rows = op.filter_map("rows", results, lambda item: _part(item, item[1].rows))
    dead = op.filter_map("dead", results, lambda item: _part(item, item[1].dead))
    late = op.filter_map("late", results, lambda item: _part(item, item[1].late))
    op.output("write_rows", rows, outputs.rows)
    op.output("write_dead_letters", dead, outputs.dead_letters)
    op.output("write_late_events", late, outputs.late_events)
    return flow


@dataclass(frozen=True, slots=True)
class _Output:
    rows: Rows | None
    dead: list[DeadLetter] | None
    late: list[LateEvent] | None


def _keyed(batch: Batch) -> tuple[str, Batch]:
    return str(batch.poll.partition), batch


def _part(item: tuple[str, _Output], value: Any) -> tuple[str, Any] | None:
    return None if value is None else (item[0], value)


_State = tuple[bytes, tuple[int, ...], bytes]
"""Snapshots of step, counts and clock."""


class _Logic(StatefulBatchLogic[Batch, _Output, "_State | None"]):
    """Runs the step of one partition under the engine, and keeps its counts."""

    def __init__(self, read: Input, progress: Progress, state: _State | None) -> None:
        self._make_step = read.make_step
        self._progress = progress
        source = read.source
        self._mark_at_ms = source.mark_at_ms if isinstance(source, TopicSource) else {}
        self._resumed = state[0] if state else None
        self._counts = Counts(*state[1]) if state else Counts()
        self._clock = Clock(state[2] if state else None)
        self._step: Step | None = None

    def on_batch(self, values: list[Batch]) -> tuple[Iterable[_Output], bool]:
        return [self._take(batch) for batch in values], StatefulBatchLogic.RETAIN

    def _take(self, batch: Batch) -> _Output:
        poll = batch.poll
        if self._step is None:
            self._step = self._make_step(poll.partition, self._resumed)
            self._resumed = None
        result = self._step.on_batch(self._clock.see(batch))
        self._mark_at_ms[poll.partition] = self._step.mark_at_ms
        late = len(result.late or ())
        counts = self._counts
        counts.read += poll.count
        counts.dead += len(batch.dead)
        counts.late += late
        counts.filtered += result.filtered + len(poll.tombstones)
        counts.used += len(batch.frame) - late - result.filtered
        self._progress.update(
            PartitionStatus(
                topic=poll.topic,
                partition=poll.partition,
                read=counts.read,
                used=counts.used,
                filtered=counts.filtered,
                late=counts.late,
                dead=counts.dead,
                next_offset=poll.next_offset,
                lag=poll.lag,
                watermark_ms=self._step.watermark_ms,
            )
        )
        rows = None if result.rows is None else of_topic(result.rows, poll.topic)
        return _Output(rows, batch.dead or None, result.late or None)

    def snapshot(self) -> _State | None:
        counts = self._counts
        numbers = (counts.read, counts.used, counts.filtered, counts.late, counts.dead)
        step = self._resumed if self._step is None else self._step.snapshot()
        return None if step is None else (step, numbers, self._clock.snapshot())


class WindowStep:
    """A step of tumbling windows."""

    def __init__(
        self,
        flow: str,
        spec: Tumbling,
        finish: Callable[[pl.DataFrame, int], pl.DataFrame],
        partition: int,
        snapshot: bytes | None,
        *,
        choose: Choose | None = None,
    ) -> None:
        """``finish`` turns window rows and the partition into rows of the sink's table.

        Where not every event is counted once, ``choose`` gives what is counted; the others
        are filtered, and move event time on all the same.
        """
        self._flow = flow
        self._finish = finish
        self._partition = partition
        self._choose = choose
        self._state = WindowState.restore(spec, snapshot) if snapshot else WindowState(spec)

    @property
    def spec(self) -> Tumbling:
        """Its windows."""
        return self._state.spec

    def anew(
        self, spec: Tumbling, finish: Callable[[pl.DataFrame, int], pl.DataFrame] | None = None
    ) -> WindowStep:
        """A step without a past that counts the same events in other windows."""
        return WindowStep(
            self._flow, spec, finish or self._finish, self._partition, None, choose=self._choose
        )

    def on_batch(self, batch: Batch) -> StepResult:
        poll = batch.poll
        if poll.count == 0:
            rows = self._state.mark(poll.polled_at_ms, end=poll.end)
            return StepResult(self._finished(rows))
        if batch.frame.is_empty():
            return StepResult()
        if self._choose is None:
            found = self._state.add(batch.frame, poll.polled_at_ms, batch.seen)
            late = late_events(self._flow, batch, found.late, found.watermarks_ms)
            return StepResult(self._finished(found.rows), late)
        chosen = self._choose(batch.counted())
        places = chosen[ROW].to_numpy().astype(np.int64)
        found = self._state.add(chosen.drop(ROW), poll.polled_at_ms, batch.seen.at(places))
        # Several rows of one event are late together.
        late_places, first = np.unique(places[found.late], return_index=True)
        late = late_events(self._flow, batch, late_places, found.watermarks_ms[first])
        return StepResult(self._finished(found.rows), late, unchosen(len(batch.frame), places))

    def snapshot(self) -> bytes:
        return self._state.snapshot()

    @property
    def watermark_ms(self) -> int:
        return self._state.watermark_ms

    @property
    def mark_at_ms(self) -> int:
        return self._state.mark_at_ms

    def _finished(self, rows: pl.DataFrame | None) -> pl.DataFrame | None:
        return None if rows is None else self._finish(rows, self._partition)


class StatelessStep:
    """A step whose rows follow from each batch alone; of no event is it ever too late."""

    def __init__(self, rows_of: Callable[[Batch], StepResult], snapshot: bytes | None) -> None:
        self._rows_of = rows_of
        self._newest_ms = int.from_bytes(snapshot, "little", signed=True) if snapshot else NEVER

    def on_batch(self, batch: Batch) -> StepResult:
        if batch.frame.is_empty():
            return StepResult()
        self._newest_ms = batch.seen.newest_ms
        return self._rows_of(batch)

    def snapshot(self) -> bytes:
        return self._newest_ms.to_bytes(8, "little", signed=True)

    @property
    def watermark_ms(self) -> int:
        return self._newest_ms

    @property
    def mark_at_ms(self) -> int:
        return NO_END_MS


def unchosen(rows: int, places: Int64s) -> int:
    """How many of so many rows are at none of the places."""
    is_chosen = np.zeros(rows, dtype=np.bool_)
    is_chosen[places] = True
    return rows - int(np.count_nonzero(is_chosen))


def late_events(
    flow: str, batch: Batch, late: Int64s = NO_ROWS, watermarks_ms: Int64s = NO_ROWS
) -> list[LateEvent] | None:
    """Of the rows of a batch's frame that came too late, with the watermark that each met."""
    if not len(late):
        return None
    offsets = batch.offsets()
    payloads = batch.payloads_of(late)
    times = batch.frame[TIME_MS]
    return [
        LateEvent(
            flow=flow,
            topic=batch.poll.topic,
            partition=batch.poll.partition,
            offset=int(offsets[row]),
            time=iso_ms(times[int(row)]),
            watermark=iso_ms(int(watermark_ms)),
            **payload_fields(payload),  # type: ignore[arg-type]
        )
        for row, watermark_ms, payload in zip(late, watermarks_ms, payloads, strict=True)
    ]
