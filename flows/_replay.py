"""What a flow tells of itself so that a range of its rows can be written anew, or counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import polars as pl

from sinks.replay import PARTITION, START_MS, ReplayTarget
from streams.decode import Records
from streams.engine import MakeStep, WindowStep
from streams.replay import Rules, settled
from streams.windows import WINDOW, Tumbling


@dataclass(frozen=True, slots=True)
class Replayable:
    """A flow's events and rows, without its engine."""

    topic: str
    records: Records
    rules: Rules
    start_of: pl.Expr
    """Of a row of the sink: its window's start (or its event's time), milliseconds."""
    make_step: Callable[[int, bool], MakeStep]
    """(generation, whether events may come in any order) -> the step that gives the rows"""
    target: Callable[[], ReplayTarget]
    count_step: MakeStep | None = None
    """The same without groups: a row a window, as ``ReplayTarget.totals``. None where the target
    looks at the rows themselves."""
    has_shadow: bool = True
    left_out: str = ""
    """What of the flow's results a replay does not write; told to the user."""
    known_by_offset: bool = False
    """A row is identified by its event's place in the topic, which an archive does not keep."""


def windows(
    flow: str,
    topic: str,
    records: Records,
    spec: Tumbling,
    finish: Callable[[pl.DataFrame, int], pl.DataFrame],
    *,
    start: str,
    sums: Mapping[str, str],
    target: Callable[[], ReplayTarget],
    left_out: str = "",
) -> Replayable:
    """A flow of tumbling windows.

    ``start`` is the column of its table with the window's start, ``sums`` names the table's
    column of EVENTS and of each sum of ``spec``.
    """

    def make_step(generation: int, any_order: bool) -> MakeStep:
        certain = settled(spec, generation, any_order=any_order)
        return lambda partition, _snapshot: WindowStep(flow, certain, finish, partition, None)

    def totals(found: pl.DataFrame, partition: int) -> pl.DataFrame:
        return found.select(
            pl.lit(partition, dtype=pl.Int64).alias(PARTITION),
            pl.col(WINDOW).alias(START_MS),
            *(pl.col(name).alias(column) for name, column in sums.items()),
        )

    def count_step(partition: int, _snapshot: bytes | None) -> WindowStep:
        return WindowStep(flow, replace(settled(spec, 0), by=()), totals, partition, None)

    return Replayable(
        topic=topic,
        records=records,
        rules=Rules(spec.size_ms, spec.delay_ms + spec.lateness_ms, spec.lateness_ms),
        start_of=pl.col(start).dt.epoch("ms"),
        make_step=make_step,
        target=target,
        count_step=count_step,
        left_out=left_out,
    )
