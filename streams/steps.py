"""Steps: the state of one partition, and its handling of each batch. They know no engine.

A flow declares the step of a topic by ``windows``, ``rows`` or, where the order of events counts,
``streams.ordered.fold``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import polars as pl

from footfall.schemas.dead_letters import LateEvent, payload_fields
from footfall.schemas.times import iso_ms
from footfall.streams.batch import NEVER, ROW, TIME_MS, Batch, Int64s, Rows
from footfall.streams.tumbling import Tumbling
from footfall.streams.windows import NO_END_MS, NO_ROWS, WindowState


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


Finish = Callable[[pl.DataFrame, int], pl.DataFrame]
"""Function that turns the rows of windows and their partition into rows of the sink's table."""


class WindowStep:
    """A step of tumbling windows."""

    def __init__(
        self,
        spec: Tumbling,
        finish: Finish,
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
        self._finish = finish
        self._partition = partition
        self._choose = choose
        self._state = WindowState.restore(spec, snapshot) if snapshot else WindowState(spec)

    @property
    def spec(self) -> Tumbling:
        """Return its windows."""
        return self._state.spec

    def anew(self, spec: Tumbling, finish: Finish | None = None) -> WindowStep:
        """Return a step without a past that counts the same events in other windows."""
        return WindowStep(spec, finish or self._finish, self._partition, None, choose=self._choose)

    def on_batch(self, batch: Batch) -> StepResult:
        poll = batch.poll
        if poll.count == 0:
            rows = self._state.mark(poll.polled_at_ms, end=poll.end)
            return StepResult(self._finished(rows))
        if batch.frame.is_empty():
            return StepResult()
        if self._choose is None:
            found = self._state.add(batch.frame, poll.polled_at_ms, batch.seen)
            late = late_events(batch, found.late, found.watermarks_ms)
            return StepResult(self._finished(found.rows), late)
        chosen = self._choose(batch.counted())
        places = chosen[ROW].to_numpy().astype(np.int64)
        found = self._state.add(chosen.drop(ROW), poll.polled_at_ms, batch.seen.at(places))
        # All rows of an event are late together.
        late_places, first = np.unique(places[found.late], return_index=True)
        late = late_events(batch, late_places, found.watermarks_ms[first])
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


RowsOf = Callable[[Batch], Rows | StepResult]
"""Function that gives the rows of a batch; as a StepResult where the flow does not use all of its
records."""


class StatelessStep:
    """A step whose rows follow from each batch alone; no event is ever too late."""

    def __init__(self, rows_of: RowsOf, snapshot: bytes | None) -> None:
        self._rows_of = rows_of
        self._newest_ms = int.from_bytes(snapshot, "little", signed=True) if snapshot else NEVER

    def on_batch(self, batch: Batch) -> StepResult:
        if batch.frame.is_empty():
            return StepResult()
        self._newest_ms = batch.seen.newest_ms
        found = self._rows_of(batch)
        return found if isinstance(found, StepResult) else StepResult(found)

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
    batch: Batch, late: Int64s = NO_ROWS, watermarks_ms: Int64s = NO_ROWS
) -> list[LateEvent] | None:
    """Return late events of the rows of a batch's frame, with the watermark that each met."""
    if not len(late):
        return None
    offsets = batch.offsets()
    payloads = batch.payloads_of(late)
    times = batch.frame[TIME_MS]
    return [
        LateEvent(
            flow=batch.flow,
            topic=batch.poll.topic,
            partition=batch.poll.partition,
            offset=int(offsets[row]),
            time=iso_ms(times[int(row)]),
            watermark=iso_ms(int(watermark_ms)),
            **payload_fields(payload),  # type: ignore[arg-type]
        )
        for row, watermark_ms, payload in zip(late, watermarks_ms, payloads, strict=True)
    ]


def windows(spec: Tumbling, finish: Finish, *, choose: Choose | None = None) -> MakeStep:
    """Declare a step that counts the events of a partition in tumbling windows.

    ``spec`` says how long a window is, how long it waits, by what it groups and what it sums.
    ``finish`` turns the rows of windows and the partition into rows of the table. Without
    ``choose`` every event counts once.
    """
    return lambda partition, snapshot: WindowStep(spec, finish, partition, snapshot, choose=choose)


def rows(rows_of: RowsOf) -> MakeStep:
    """Declare a step without a state: ``rows_of`` gives the rows of a batch alone."""
    return lambda _partition, snapshot: StatelessStep(rows_of, snapshot)
