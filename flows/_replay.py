"""Parts of a flow that let a range of its rows be written again, or counted.

A flow of ``Reading``s joins by ``replay = partial(_replay.replay, CONTRACT, READS)`` if its steps
are of tumbling windows, or stateless with raw rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import polars as pl

from flows import FlowContract
from flows._flow import Readings, topics
from flows._wiring import raw_replay, windows_replay
from schemas.settings import Settings
from schemas.tables.clickhouse import Table
from schemas.topics import PARTITION
from schemas.versions import GENERATION_SHIFT
from sinks.replay import START_MS, ReplayTarget
from streams.batch import Batch, Rows, changed
from streams.decode import Records
from streams.engine import MakeStep, StatelessStep, Step, StepResult, WindowStep
from streams.replay import Rules, settled
from streams.tumbling import EVENTS, WINDOW, Tumbling

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


def replay(
    contract: FlowContract, readings: Readings, settings: Settings
) -> tuple[Replayable, ...]:
    """Return what replays a range of event time, one for each topic that the flow reads.

    All steps are of windows, for one table, or all are stateless, for tables of raw rows. Raises
    SettingError as the flow's ``wire`` does.
    """
    return tuple(
        _of_topic(contract, topic, readings[name].records, readings[name].make_step, settings)
        for name, topic in topics(contract, settings).items()
    )


def _of_topic(
    contract: FlowContract, topic: str, records: Records, make_step: MakeStep, settings: Settings
) -> Replayable:
    step = make_step(0, None)
    if isinstance(step, StatelessStep):
        return _raw(contract, topic, records, make_step, settings)
    assert isinstance(step, WindowStep), f"{contract.name}: no range stands for itself"
    (table,) = contract.tables
    # The table's sum that the windows do not have is their number of events.
    counts = [name for name in table.sums if name not in step.spec.sums]
    of_windows = {name: name for name in step.spec.sums if name in table.sums}
    return _windows(
        topic,
        records,
        step.spec,
        lambda partition: _window_step(make_step, partition),
        start=table.start,
        sums={EVENTS: counts[0], **of_windows} if counts else of_windows,
        target=partial(windows_replay, settings, table, topic),
    )


def _window_step(make_step: MakeStep, partition: int) -> WindowStep:
    step = make_step(partition, None)
    assert isinstance(step, WindowStep)
    return step


def windows(
    flow: str,
    topic: str,
    records: Records,
    spec: Tumbling,
    finish: Callable[[pl.DataFrame, int], pl.DataFrame],
    *,
    start: str,
    sums: Mapping[str, str],
    target: Callable[[str], ReplayTarget],
) -> tuple[Replayable, ...]:
    """Return what replays a flow of tumbling windows.

    ``start`` is the table's column with the window's start; ``sums`` names the table's column for
    EVENTS and for each sum of ``spec``. ``target`` takes the topic.
    """
    found = _windows(
        topic,
        records,
        spec,
        lambda partition: WindowStep(flow, spec, finish, partition, None),
        start=start,
        sums=sums,
        target=partial(target, topic),
    )
    return (found,)


def _windows(
    topic: str,
    records: Records,
    spec: Tumbling,
    step_of: Callable[[int], WindowStep],
    *,
    start: str,
    sums: Mapping[str, str],
    target: Callable[[], ReplayTarget],
) -> Replayable:
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
        records=records,
        rules=Rules(spec.size_ms, spec.delay_ms + spec.lateness_ms, spec.lateness_ms),
        start_of=_milliseconds(start),
        make_step=make_step,
        target=target,
        count_step=count_step,
        counted="events" if EVENTS in sums else next(iter(sums.values())),
    )


def _raw(
    contract: FlowContract, topic: str, records: Records, make_step: MakeStep, settings: Settings
) -> Replayable:
    (start,) = {table.start for table in contract.tables}

    def of_generation(generation: int, _any_order: bool) -> MakeStep:
        return lambda partition, _snapshot: _OfGeneration(
            make_step(partition, None), contract.tables, generation
        )

    return Replayable(
        topic=topic,
        records=records,
        # No event is ever too late, so an event of the range may be anywhere in the topic.
        rules=Rules(size_ms=1, reach_ms=None),
        start_of=_milliseconds(start),
        make_step=of_generation,
        target=partial(raw_replay, settings, contract.tables, topic),
        has_shadow=False,
        known_by_offset=True,
        is_raw=True,
        rows_max=min(RAW_ROWS_MAX, ROWS_MAX * len(contract.tables)),
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


def _milliseconds(column: str) -> pl.Expr:
    return pl.col(column).dt.epoch("ms")
