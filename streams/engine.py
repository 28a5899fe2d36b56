"""The one place where flows meet Bytewax: read, decode, keep state per partition, write.

    topic -> poll -> batch -> step of the partition -> rows        -> their sink
                                                    -> dead letters -> their sink
                                                    -> late events  -> their sink

State, counts and offsets are snapshotted together, so they are exact; a sink may see some
rows again after a crash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import bytewax.operators as op
import polars as pl
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source
from bytewax.operators import KeyedStream, StatefulBatchLogic
from bytewax.outputs import Sink

from schemas.dead_letters import DeadLetter, LateEvent, payload_fields
from schemas.status import PartitionStatus
from schemas.times import iso_ms
from streams.batch import Batch, Int64s, Poll
from streams.decode import Records
from streams.progress import Counts, Progress
from streams.windows import NEVER, Tumbling, WindowState


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step made of a batch."""

    rows: pl.DataFrame | None = None
    """Upserts for the sink, in order of writing."""
    late: list[LateEvent] | None = None
    filtered: int = 0
    """Good records of the batch that the flow does not use."""


class Step(Protocol):
    """The state of one partition, and what it does with each batch. Knows no engine."""

    def on_batch(self, batch: Batch) -> StepResult:
        """Take the batch; an empty one is a mark that time has passed, or the end."""

    def snapshot(self) -> bytes:
        """The state as bytes."""

    @property
    def watermark_ms(self) -> int:
        """No earlier event is expected; NEVER before the first."""


MakeStep = Callable[[int, bytes | None], Step]
"""(partition, snapshot or None) -> the step of that partition."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where a flow writes. Each sink is keyed by partition."""

    rows: Sink[Any]
    dead_letters: Sink[Any]
    late_events: Sink[Any]


STATEFUL_STEPS = ("read", "step")
"""The steps of a flow that keep a state a partition, under the partition's number."""


def dataflow(
    name: str,
    source: Source[Poll],
    records: Records,
    make_step: MakeStep,
    outputs: Outputs,
    *,
    progress: Progress | None = None,
) -> Dataflow:
    """Wire a flow. The step ids are those of the recovery store: they never change."""
    counted = progress or Progress()
    flow = Dataflow(name)
    polls = op.input("read", flow, source)
    batches = op.map("decode", polls, lambda poll: _keyed(records.decode(name, poll)))
    results: KeyedStream[_Output] = op.stateful_batch(
        "step", batches, lambda state: _Logic(make_step, counted, state)
    )
    rows = op.filter_map("rows", results, lambda item: _part(item, item[1].rows))
    dead = op.filter_map("dead", results, lambda item: _part(item, item[1].dead))
    late = op.filter_map("late", results, lambda item: _part(item, item[1].late))
    op.output("write_rows", rows, outputs.rows)
    op.output("write_dead_letters", dead, outputs.dead_letters)
    op.output("write_late_events", late, outputs.late_events)
    return flow


@dataclass(frozen=True, slots=True)
class _Output:
    rows: pl.DataFrame | None
    dead: list[DeadLetter] | None
    late: list[LateEvent] | None


def _keyed(batch: Batch) -> tuple[str, Batch]:
    return str(batch.poll.partition), batch


def _part(item: tuple[str, _Output], value: Any) -> tuple[str, Any] | None:
    return None if value is None else (item[0], value)


_State = tuple[bytes, tuple[int, ...]]


class _Logic(StatefulBatchLogic[Batch, _Output, "_State | None"]):
    """Runs the step of one partition under the engine, and keeps its counts."""

    def __init__(self, make_step: MakeStep, progress: Progress, state: _State | None) -> None:
        self._make_step = make_step
        self._progress = progress
        self._resumed = state[0] if state else None
        self._counts = Counts(*state[1]) if state else Counts()
        self._step: Step | None = None

    def on_batch(self, values: list[Batch]) -> tuple[Iterable[_Output], bool]:
        return [self._take(batch) for batch in values], StatefulBatchLogic.RETAIN

    def _take(self, batch: Batch) -> _Output:
        poll = batch.poll
        if self._step is None:
            self._step = self._make_step(poll.partition, self._resumed)
            self._resumed = None
        result = self._step.on_batch(batch)
        late = len(result.late or ())
        counts = self._counts
        counts.read += poll.count
        counts.dead += len(batch.dead)
        counts.late += late
        counts.filtered += result.filtered
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
        return _Output(result.rows, batch.dead or None, result.late or None)

    def snapshot(self) -> _State | None:
        counts = self._counts
        numbers = (counts.read, counts.used, counts.filtered, counts.late, counts.dead)
        if self._step is None:
            return (self._resumed, numbers) if self._resumed is not None else None
        return self._step.snapshot(), numbers


class WindowStep:
    """A step of tumbling windows."""

    def __init__(
        self,
        flow: str,
        spec: Tumbling,
        finish: Callable[[pl.DataFrame, int], pl.DataFrame],
        partition: int,
        snapshot: bytes | None,
    ) -> None:
        """``finish`` turns window rows and the partition into rows of the sink's table."""
        self._flow = flow
        self._finish = finish
        self._partition = partition
        self._state = WindowState.restore(spec, snapshot) if snapshot else WindowState(spec)

    def on_batch(self, batch: Batch) -> StepResult:
        poll = batch.poll
        if poll.count == 0:
            rows = self._state.mark(poll.polled_at_ms, end=poll.end)
            return StepResult(self._finished(rows))
        found = self._state.add(batch.frame, poll.polled_at_ms)
        late = _late_events(self._flow, batch, found.late, found.watermarks_ms)
        return StepResult(self._finished(found.rows), late)

    def snapshot(self) -> bytes:
        return self._state.snapshot()

    @property
    def watermark_ms(self) -> int:
        return self._state.watermark_ms

    def _finished(self, rows: pl.DataFrame | None) -> pl.DataFrame | None:
        return None if rows is None else self._finish(rows, self._partition)


class StatelessStep:
    """A step whose rows follow from each batch alone."""

    def __init__(self, rows_of: Callable[[Batch], pl.DataFrame], snapshot: bytes | None) -> None:
        self._rows_of = rows_of
        self._newest_ms = int.from_bytes(snapshot, "little", signed=True) if snapshot else NEVER

    def on_batch(self, batch: Batch) -> StepResult:
        if batch.frame.is_empty():
            return StepResult()
        self._newest_ms = max(self._newest_ms, int(batch.frame["time_ms"].max()))  # type: ignore[arg-type]
        return StepResult(self._rows_of(batch))

    def snapshot(self) -> bytes:
        return self._newest_ms.to_bytes(8, "little", signed=True)

    @property
    def watermark_ms(self) -> int:
        return self._newest_ms


def _late_events(
    flow: str, batch: Batch, late: Int64s, watermarks_ms: Int64s
) -> list[LateEvent] | None:
    if not len(late):
        return None
    offsets, payloads = batch.offsets(), batch.payloads()
    times = batch.frame["time_ms"]
    return [
        LateEvent(
            flow=flow,
            topic=batch.poll.topic,
            partition=batch.poll.partition,
            offset=int(offsets[row]),
            time=iso_ms(times[int(row)]),
            watermark=iso_ms(int(watermark_ms)),
            **payload_fields(payloads[row]),  # type: ignore[arg-type]
        )
        for row, watermark_ms in zip(late, watermarks_ms, strict=True)
    ]
