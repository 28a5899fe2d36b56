"""Where a replay writes: the table itself, or a shadow beside it that is exchanged later.

Each replay is a generation of its own, which wins over all earlier ones. What they hold of the
replayed windows and it does not, is taken back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import polars as pl

from sinks import SinkRefusedError

PARTITION, START_MS = "topic_partition", "start_ms"
"""Columns of ``ReplayTarget.totals``, followed by the table's sums, the number of events first."""
DIFFERENCES_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Span:
    """Windows of one topic partition, or (None) of all: start from inclusive, to exclusive, ms."""

    partition: int | None
    from_ms: int
    to_ms: int
    offsets: tuple[int, int] | None = None
    """Where rows are known by their records' offsets: of these alone, from inclusive, to
    exclusive."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A window that is not the same in the table and its shadow; None where it has no row."""

    start_ms: int
    live: tuple[int, ...] | None
    """The sums, the number of events first."""
    shadow: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Windows:
    """How many windows, and the start of the first and of the last one, ms."""

    count: int
    first_ms: int
    last_ms: int


class ReplayTarget(Protocol):
    """The rows of one flow. Every method may raise SinkError."""

    sums: tuple[str, ...]
    """Names of the sums, the number of events first."""

    def newest_generation(self) -> int:
        """The highest among the rows that stand, 0 where there are none."""

    def make_shadow(self) -> None:
        """Make an empty shadow; an earlier one is dropped."""

    def write(self, frames: Sequence[pl.DataFrame], *, shadow: bool) -> None:
        """Return when the rows are durable."""

    def remove_older(self, spans: Sequence[Span], generation: int, *, shadow: bool) -> int:
        """Take back the rows of the spans that are of an earlier generation; how many."""

    def remove_replaced(self, spans: Sequence[Span], generation: int, *, shadow: bool) -> int:
        """The same of the windows alone that the generation has a row of."""

    def not_replaced(
        self, spans: Sequence[Span], generation: int, *, shadow: bool
    ) -> Windows | None:
        """The windows of the spans that earlier generations have rows of, and it has none of."""

    def differences(self, spans: Sequence[Span]) -> list[Difference]:
        """The windows in which table and shadow differ, at most DIFFERENCES_MAX, in order."""

    def swap(self) -> None:
        """Exchange table and shadow in one moment. Raises SinkRefusedError for no shadow."""

    def totals(self, from_ms: int, to_ms: int) -> pl.DataFrame:
        """The sums of each (partition, window) of the table."""

    def close(self) -> None:
        """Release connections. Never raises."""


class Unshadowed:
    """The part of a ReplayTarget whose rows replace themselves and are compared one by one: no
    shadow, no sums. Each of these raises SinkRefusedError."""

    sums: tuple[str, ...] = ()

    def make_shadow(self) -> None:
        """Refused."""
        raise SinkRefusedError(_NO_SHADOW)

    def differences(self, spans: Sequence[Span]) -> list[Difference]:
        """Refused."""
        raise SinkRefusedError(_NO_SHADOW)

    def remove_replaced(self, spans: Sequence[Span], generation: int, *, shadow: bool) -> int:
        """Refused."""
        raise SinkRefusedError(_NO_WINDOWS)

    def not_replaced(
        self, spans: Sequence[Span], generation: int, *, shadow: bool
    ) -> Windows | None:
        """Refused."""
        raise SinkRefusedError(_NO_WINDOWS)

    def swap(self) -> None:
        """Refused."""
        raise SinkRefusedError(_NO_SHADOW)

    def totals(self, from_ms: int, to_ms: int) -> pl.DataFrame:
        """Refused."""
        raise SinkRefusedError(_NO_WINDOWS)


_NO_WINDOWS = "rows that are compared one by one are not those of windows"
_NO_SHADOW = "there is no shadow of rows that replace themselves when they are written again"


def totals_frame(rows: Sequence[Sequence[Any]], sums: Sequence[str]) -> pl.DataFrame:
    """The frame of ``ReplayTarget.totals`` from rows of plain values."""
    names = (PARTITION, START_MS, *sums)
    return pl.DataFrame(list(rows), schema=dict.fromkeys(names, pl.Int64), orient="row")
