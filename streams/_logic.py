"""The step of one partition under the engine: it is given batches, and its counts are kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from bytewax.operators import StatefulBatchLogic

from footfall.schemas.dead_letters import DeadLetter, LateEvent
from footfall.schemas.metrics import BATCH_SECONDS, COMPUTE_SECONDS, SNAPSHOT_SECONDS
from footfall.streams.batch import UNKNOWN_MS, Batch, Rows, of_topic
from footfall.streams.clock import Clock
from footfall.streams.log_lines import note_poll
from footfall.streams.progress import Counted, Counts, Progress, StateSize
from footfall.streams.source import TopicSource

if TYPE_CHECKING:
    from footfall.streams.engine import Input
    from footfall.streams.steps import Step


@dataclass(frozen=True, slots=True)
class Output:
    """Results of a batch."""

    rows: Rows | None
    dead: list[DeadLetter] | None
    late: list[LateEvent] | None


_State = tuple[bytes, tuple[int, ...], bytes]
"""Snapshots of step, counts and clock."""


class Logic(StatefulBatchLogic[tuple[Batch, float], Output, "_State | None"]):
    """The step of one partition under the engine, and its counts."""

    def __init__(self, read: Input, progress: Progress, state: _State | None) -> None:
        self._make_step = read.make_step
        self._progress = progress
        source = read.source
        self._mark_at_ms = source.mark_at_ms if isinstance(source, TopicSource) else {}
        self._resumed = state[0] if state else None
        self._counts = Counts(*state[1]) if state else Counts()
        self._clock = Clock(state[2] if state else None)
        self._step: Step | None = None
        self._place = "", 0
        self._appended_ms = UNKNOWN_MS

    def on_batch(self, values: list[tuple[Batch, float]]) -> tuple[Iterable[Output], bool]:
        return [self._take(*value) for value in values], StatefulBatchLogic.RETAIN

    def _take(self, batch: Batch, decoded_s: float) -> Output:
        try:
            return self._taken(batch, decoded_s)
        except Exception as error:
            note_poll(error, batch.poll)
            raise

    def _taken(self, batch: Batch, decoded_s: float) -> Output:
        poll = batch.poll
        began_s = perf_counter()
        if self._step is None:
            self._step = self._make_step(poll.partition, self._resumed)
            self._resumed = None
            self._place = poll.topic, poll.partition
        result = self._step.on_batch(self._clock.see(batch))
        self._mark_at_ms[poll.partition] = self._step.mark_at_ms
        late = len(result.late or ())
        counted = Counted(
            read=poll.count,
            used=len(batch.frame) - late - result.filtered,
            filtered=result.filtered + len(poll.tombstones),
            late=late,
            dead=len(batch.dead),
            size_bytes=len(poll.data),
            dead_by_code=Counter(one.code for one in batch.dead) if batch.dead else None,
        )
        self._counts.add(counted)
        status = self._counts.status(poll, self._step.watermark_ms)
        self._progress.update(status, counted)
        if poll.count:
            ended_s = perf_counter()
            self._progress.took(COMPUTE_SECONDS, poll.topic, ended_s - began_s)
            self._progress.took(BATCH_SECONDS, poll.topic, ended_s - decoded_s)
        self._appended_ms = max(self._appended_ms, poll.newest_appended_ms)
        rows = result.rows
        if rows is not None:
            rows = of_topic(rows, poll.topic, self._appended_ms)
        return Output(rows, batch.dead or None, result.late or None)

    def snapshot(self) -> _State | None:
        counts = self._counts
        numbers = (counts.read, counts.used, counts.filtered, counts.late, counts.dead)
        if self._step is None:
            resumed = self._resumed
            return None if resumed is None else (resumed, numbers, self._clock.snapshot())
        began_s = perf_counter()
        step = self._step.snapshot()
        self._progress.took(SNAPSHOT_SECONDS, self._place[0], perf_counter() - began_s)
        self._progress.snapshotted(self._place, StateSize(len(step), self._step.holds))
        return step, numbers, self._clock.snapshot()
