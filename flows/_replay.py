"""Parts of a flow that let a range of its rows be written again, or counted.

Whether a flow has them follows from its steps and its sink: steps of tumbling windows, or steps
without a state whose rows are identified by their event.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import polars as pl

from footfall.flows._sinks import Sink
from footfall.schemas.settings import Settings
from footfall.schemas.tables.clickhouse import Table
from footfall.schemas.topics import PARTITION
from footfall.schemas.versions import GENERATION_SHIFT
from footfall.sinks.replay import START_MS, ReplayTarget
from footfall.streams.batch import Batch, Rows, changed
from footfall.streams.decode import Records
from footfall.streams.replay import Rules, settled
from footfall.streams.steps import MakeStep, StatelessStep, Step, StepResult, WindowStep
from footfall.streams.tumbling import EVENTS, WINDOW

if TYPE_CHECKING:
    from footfall.flows._flow import Reading

ROWS_MAX, RAW_ROWS_MAX = 50_000, 500_000
"""Rows gathered before they are written: of one table, and of all tables."""


@dataclass(frozen=True, slots=True)
class Replayable:
    """Events and rows of a flow for one of its topics, without its engine."""

    topic: str
    records: Records
    rules: Rules
    start_of: pl.Expr
    """Expression for the window's start (or the event's time) of a sink's row, in milliseconds."""
    make_step: Callable[[int, bool], MakeStep]
    """(generation, whether events may come in any order) -> the step that gives the rows"""
    target: Callable[[], ReplayTarget]
    count_step: MakeStep | None = None
    """Step without groups: one row per window, as ``ReplayTarget.totals``. None where the target
    looks at the rows themselves."""
    counted: str = "events"
    """Plural noun for what the first of those sums counts."""
    has_shadow: bool = True
    known_by_offset: bool = False
    """True where a row is identified by its event's place in the topic, which an archive does not
    keep."""
    is_raw: bool = False
    """True where rows in tables of raw rows are so identified: the target is a
    ``ClickHouseRawReplay``."""
    rows_max: int = ROWS_MAX
    """Rows gathered before they are written."""


def has_replay(sink: Sink, step: Step) -> bool:
    """Return whether a range of a topic's rows can be written again: a window or an event must
    be all that a row depends on."""
    if not sink.start:
        return False
    if isinstance(step, WindowStep):
        return len(sink.tables) <= 1
    return isinstance(step, StatelessStep) and all(table.is_raw for table in sink.tables)


def replayable(sink: Sink, topic: str, reading: Reading, settings: Settings) -> Replayable:
    """Return what replays a range of event time of one topic."""
    target = partial(sink.replay, settings, topic)
    if isinstance(reading.step(0, None), WindowStep):
        return _windows(sink, topic, reading, target)
    return _rows(sink, topic, reading, target)


def _windows(
    sink: Sink, topic: str, reading: Reading, target: Callable[[], ReplayTarget]
) -> Replayable:
    def step_of(partition: int) -> WindowStep:
        step = reading.step(partition, None)
        assert isinstance(step, WindowStep)
        return step

    spec = step_of(0).spec
    # The table's sum that the windows do not have is their number of events.
    sums = {name if name in spec.sums else EVENTS: name for name in sink.sums}

    def make_step(generation: int, any_order: bool) -> MakeStep:
        certain = settled(spec, generation, any_order=any_order)
        return lambda partition, _snapshot: step_of(partition).anew(certain)

    def totals(found: pl.DataFrame, partition: int) -> pl.DataFrame:
        return found.select(
            pl.lit(partition, dtype=pl.Int64).alias(PARTITION),
            pl.col(WINDOW).alias(START_MS),
            *(pl.col(name).alias(column) for name, column in sums.items()),
        )

    def count_step(partition: int, _snapshot: bytes | None) -> WindowStep:
        return step_of(partition).anew(replace(settled(spec, 0), by=()), totals)

    return Replayable(
        topic=topic,
        records=reading.records,
        rules=Rules(spec.size_ms, spec.delay_ms + spec.lateness_ms, spec.lateness_ms),
        start_of=sink.starts,
        make_step=make_step,
        target=target,
        count_step=count_step,
        counted="events" if EVENTS in sums else next(iter(sums.values())),
    )


def _rows(
    sink: Sink, topic: str, reading: Reading, target: Callable[[], ReplayTarget]
) -> Replayable:
    def make_step(generation: int, _any_order: bool) -> MakeStep:
        def step(partition: int, _snapshot: bytes | None) -> Step:
            made = reading.step(partition, None)
            return _OfGeneration(made, sink.tables, generation) if sink.tables else made

        return step

    return Replayable(
        topic=topic,
        records=reading.records,
        # No event is ever too late, so one of the range may stand anywhere.
        rules=Rules(size_ms=1, reach_ms=None),
        start_of=sink.starts,
        make_step=make_step,
        target=target,
        has_shadow=False,
        known_by_offset=True,
        is_raw=bool(sink.tables),
        rows_max=min(RAW_ROWS_MAX, ROWS_MAX * max(1, len(sink.tables))),
    )


class _OfGeneration:
    """A step whose rows are of a generation; it has no state of its own."""

    def __init__(self, step: Step, tables: tuple[Table, ...], generation: int) -> None:
        self._step = step
        (version,) = {table.version for table in tables}
        self._raised = pl.col(version) + pl.lit(generation << GENERATION_SHIFT, dtype=pl.UInt64)

    def on_batch(self, batch: Batch) -> StepResult:
        result = self._step.on_batch(batch)
        return replace(result, rows=None if result.rows is None else self._of(result.rows))

    def _of(self, rows: Rows) -> Rows:
        return changed(rows, lambda of_table: of_table.with_columns(self._raised))

    def snapshot(self) -> bytes:
        return self._step.snapshot()

    @property
    def watermark_ms(self) -> int:
        return self._step.watermark_ms

    @property
    def mark_at_ms(self) -> int:
        return self._step.mark_at_ms

    @property
    def holds(self) -> Mapping[str, int]:
        return self._step.holds
