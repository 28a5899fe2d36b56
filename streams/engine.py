"""The one place where flows meet Bytewax: read, decode, keep state per partition, write.

    topic -> poll -> batch -> step of the partition -> rows        -> their sink
                                                    -> dead letters -> their sink
                                                    -> late events  -> their sink

State, counts and offsets are snapshotted together, so they are exact; a sink may see some
rows again after a crash.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, Protocol

import bytewax.operators as op
import numpy as np
import polars as pl
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source
from bytewax.operators import KeyedStream
from bytewax.outputs import Sink

from schemas.dead_letters import LateEvent, payload_fields
from schemas.metrics import DECODE_SECONDS
from schemas.times import iso_ms
from streams._logic import Logic, Output
from streams.batch import NEVER, ROW, TIME_MS, Batch, Int64s, Poll, Rows
from streams.decode import Records
from streams.log_lines import note_poll
from streams.progress import Progress
from streams.tumbling import Tumbling
from streams.windows import NO_END_MS, NO_ROWS, WindowState


@dataclass(frozen=True, slots=True)
class StepResult:
    """Results of a step for a batch."""

    rows: Rows | None = None
    late: list[LateEvent] | None = None
    filtered: int = 0
    """Number of good records of the batch that the flow does not use."""


class Step(Protocol):
    """The state of one partition, and its handling of each batch. Knows no engine."""

    def on_batch(self, batch: Batch) -> StepResult:
        """Take a batch that a Clock has seen; an empty batch is a mark that time has passed, or
        the end."""

    def snapshot(self) -> bytes:
        """Return the state as bytes."""

    @property
    def watermark_ms(self) -> int:
        """Return the watermark: no earlier event is expected. NEVER before the first."""

    @property
    def mark_at_ms(self) -> int:
        """Return the wall clock before which a mark leads to nothing; NO_END_MS where none
        does."""

    @property
    def holds(self) -> Mapping[str, int]:
        """Return what the state held at its last snapshot, by schemas.metrics.HELD_KINDS."""


MakeStep = Callable[[int, bytes | None], Step]
"""(partition, snapshot or None) -> the step of that partition."""

Choose = Callable[[pl.DataFrame], pl.DataFrame]
"""Function that takes a batch's frame, or its parts, and gives the rows that a flow counts, in
order: with TIME_MS, ROW, and what else it needs. An event may give no row or several."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """Sinks that a flow writes to. Each sink is keyed by partition."""

    rows: Sink[Any]
    dead_letters: Sink[Any]
    late_events: Sink[Any]


@dataclass(frozen=True, slots=True)
class Input:
    """A topic that a flow reads, and the flow's step for it."""

    source: Source[Poll]
    records: Records
    make_step: MakeStep


ONE_TOPIC_STEPS = ("read", "step")


def stateful_steps(topics: Sequence[str], *, sink: bool = False) -> tuple[str, ...]:
    """Return the step ids that keep a state per partition, under the partition's number.

    ``sink`` says that the sink of the rows keeps one as well.
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
    """Wire a flow of one topic. Its step ids are in the recovery store: never rename them."""
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


def _results(flow: Dataflow, suffix: str, read: Input, progress: Progress) -> KeyedStream[Output]:
    name, records = flow.flow_id, read.records
    polls = op.input(f"read{suffix}", flow, read.source)
    batches = op.map(f"decode{suffix}", polls, partial(_decoded, name, records, progress))
    return op.stateful_batch(f"step{suffix}", batches, partial(Logic, read, progress))


def _written(flow: Dataflow, results: KeyedStream[Output], outputs: Outputs) -> Dataflow:
    rows = op.filter_map("rows", results, lambda item: _part(item, item[1].rows))
    dead = op.filter_map("dead", results, lambda item: _part(item, item[1].dead))
    late = op.filter_map("late", results, lambda item: _part(item, item[1].late))
    op.output("write_rows", rows, outputs.rows)
    op.output("write_dead_letters", dead, outputs.dead_letters)
    op.output("write_late_events", late, outputs.late_events)
    return flow


def _decoded(
    flow: str, records: Records, progress: Progress, poll: Poll
) -> tuple[str, tuple[Batch, float]]:
    """Return the batch of a poll, and when its decoding began, under the partition's number."""
    began_s = perf_counter()
    try:
        batch = records.decode(flow, poll)
    except Exception as error:
        note_poll(error, poll)
        raise
    if poll.count:
        progress.took(DECODE_SECONDS, poll.topic, perf_counter() - began_s)
    return str(poll.partition), (batch, began_s)


def _part(item: tuple[str, Output], value: Any) -> tuple[str, Any] | None:
    return None if value is None else (item[0], value)


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
        """Restore the state from a snapshot, if there is one.

        ``finish`` turns window rows and the partition into rows of the sink's table. Where not
        every event is counted once, ``choose`` gives what is counted. The other events are
        filtered, and still move event time on.
        """
        self._flow = flow
        self._finish = finish
        self._partition = partition
        self._choose = choose
        self._state = WindowState.restore(spec, snapshot) if snapshot else WindowState(spec)

    @property
    def spec(self) -> Tumbling:
        """Return its windows."""
        return self._state.spec

    def anew(
        self, spec: Tumbling, finish: Callable[[pl.DataFrame, int], pl.DataFrame] | None = None
    ) -> WindowStep:
        """Return a step without a past that counts the same events in other windows."""
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
        # All rows of an event are late together.
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

    @property
    def holds(self) -> Mapping[str, int]:
        return self._state.holds

    def _finished(self, rows: pl.DataFrame | None) -> pl.DataFrame | None:
        return None if rows is None else self._finish(rows, self._partition)


class StatelessStep:
    """A step whose rows follow from each batch alone; no event is ever too late."""

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

    @property
    def holds(self) -> Mapping[str, int]:
        return {}


def unchosen(rows: int, places: Int64s) -> int:
    """Return the number of rows that ``places`` leaves out."""
    is_chosen = np.zeros(rows, dtype=np.bool_)
    is_chosen[places] = True
    return rows - int(np.count_nonzero(is_chosen))


def late_events(
    flow: str, batch: Batch, late: Int64s = NO_ROWS, watermarks_ms: Int64s = NO_ROWS
) -> list[LateEvent] | None:
    """Return late events of the rows of a batch's frame, with the watermark that each met."""
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
