"""Targets of a replay: the table itself, or a shadow beside it that is exchanged later.

Each replay is a generation of its own, which wins over all earlier ones. Rows that these hold of
the replayed windows, and it does not, are taken back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import polars as pl

from footfall.schemas.topics import PARTITION
from footfall.sinks import SinkRefusedError

START_MS = "start_ms"
"""Column of ``ReplayTarget.totals``, after PARTITION; the table's sums follow, events first."""
DIFFERENCES_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Span:
    """Windows of one partition of the topic, or (None) of all partitions.

    They start from ``from_ms`` to before ``to_ms``, in milliseconds since 1970 UTC.
    """

    partition: int | None
    from_ms: int
    to_ms: int
    offsets: tuple[int, int] | None = None
    """Offsets (first, end), end excluded, where rows are identified by their records' offsets."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A window that differs between the table and its shadow; None where it has no row."""

    start_ms: int
    live: tuple[int, ...] | None
    """Sums, the number of events first."""
    shadow: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Windows:
    """Number of windows, and the starts of the first and the last in milliseconds."""

    count: int
    first_ms: int
    last_ms: int


class ReplayTarget(Protocol):
    """Rows of one flow for one topic, in tables that may hold those of other topics.

    Every method may raise SinkError.
    """

    sums: tuple[str, ...]
    """Names of the sums, the number of events first."""

    def newest_generation(self) -> int:
        """Return the highest generation among the rows, 0 without rows."""

    def make_shadow(self, ours: Collection[str]) -> None:
        """Make an empty shadow; an earlier one is dropped. ``ours`` are the flow's topics.

        Raises SinkRefusedError where it holds a replay of another topic that was not exchanged
        yet.
        """

    def write(self, frames: Sequence[pl.DataFrame], *, shadow: bool) -> None:
        """Return when the rows are durable."""

    def remove_older(self, spans: Sequence[Span], generation: int, *, shadow: bool) -> int:
        """Take back the spans' rows of earlier generations; return their number."""

    def remove_replaced(self, spans: Sequence[Span], generation: int, *, shadow: bool) -> int:
        """Take back the same, but only in windows that the generation has a row of."""

    def not_replaced(
        self, spans: Sequence[Span], generation: int, *, shadow: bool
    ) -> Windows | None:
        """Return the windows of the spans that only earlier generations have rows of."""

    def differences(self, spans: Sequence[Span]) -> list[Difference]:
        """Return the windows in which table and shadow differ, at most DIFFERENCES_MAX, in
        order."""

    def swap(self, ours: Collection[str]) -> None:
        """Exchange table and shadow in one moment; rows of other topics stay.

        ``ours`` are the flow's topics. Raises SinkRefusedError where there is no shadow, where it
        holds no replay of these topics that waits, and where it holds one of another topic.
        """

    def totals(self, from_ms: int, to_ms: int) -> pl.DataFrame:
        """Return the sums of each (partition, window) of the table."""

    def partitions(self, from_ms: int, to_ms: int) -> Mapping[tuple[str, int], int]:
        """Return the number of rows by (topic, partition), of all topics."""

    def close(self) -> None:
        """Release connections. Never raises."""


class Unshadowed:
    """The part of a ReplayTarget whose rows replace themselves and are compared one by one.

    It has no shadow and no sums. Each of these methods raises SinkRefusedError.
    """

    sums: tuple[str, ...] = ()

    def make_shadow(self, ours: Collection[str]) -> None:
        """Refuse."""
        raise SinkRefusedError(_NO_SHADOW)

    def differences(self, spans: Sequence[Span]) -> list[Difference]:
        """Refuse."""
        raise SinkRefusedError(_NO_SHADOW)

    def remove_replaced(self, spans: Sequence[Span], generation: int, *, shadow: bool) -> int:
        """Refuse."""
        raise SinkRefusedError(_NO_WINDOWS)

    def not_replaced(
        self, spans: Sequence[Span], generation: int, *, shadow: bool
    ) -> Windows | None:
        """Refuse."""
        raise SinkRefusedError(_NO_WINDOWS)

    def swap(self, ours: Collection[str]) -> None:
        """Refuse."""
        raise SinkRefusedError(_NO_SHADOW)

    def totals(self, from_ms: int, to_ms: int) -> pl.DataFrame:
        """Refuse."""
        raise SinkRefusedError(_NO_WINDOWS)


_NO_WINDOWS = "rows that are compared one by one are not those of windows"
_NO_SHADOW = "there is no shadow of rows that replace themselves when they are written again"

Generations = Mapping[str, int]
"""Highest generation among the rows of a table, by topic."""


def waiting(table: Generations, shadow: Generations) -> set[str]:
    """Return the topics of which the shadow holds a replay that was not exchanged yet."""
    return {topic for topic, newest in shadow.items() if newest > table.get(topic, 0)}


def check_others(shadow: str, waits: Collection[str], ours: Collection[str]) -> None:
    """Raise SinkRefusedError where a replay of another topic waits in the shadow."""
    if others := ", ".join(sorted({*waits} - {*ours})):
        raise SinkRefusedError(
            f"table {shadow} holds a replay of {others} that was not exchanged yet: let those who "
            "made it exchange it (--swap), or drop the table"
        )


def check_ours(
    table: str, shadow: str, newest: tuple[Generations, Generations], ours: Collection[str]
) -> None:
    """Raise SinkRefusedError where the shadow has nothing to exchange, or another topic's replay.

    ``newest``: the generations of the table, and those of its shadow.
    """
    waits = waiting(*newest)
    check_others(shadow, waits, ours)
    if not newest[1]:
        raise SinkRefusedError(
            f"table {shadow} has no row, so there is nothing to exchange: no window of its replay "
            "was certain, or none had an event (or it was exchanged for a table that was empty); "
            "replay again --into shadow, later or with --complete if nothing will follow"
        )
    if not waits:
        raise SinkRefusedError(
            f"table {shadow} is no newer than {table}: it was exchanged already, or another "
            "replay has been written since; make it anew with --into shadow"
        )


def totals_frame(rows: Sequence[Sequence[Any]], sums: Sequence[str]) -> pl.DataFrame:
    """Return the frame of ``ReplayTarget.totals`` from rows of plain values."""
    names = (PARTITION, START_MS, *sums)
    return pl.DataFrame(list(rows), schema=dict.fromkeys(names, pl.Int64), orient="row")
