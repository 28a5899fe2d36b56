"""Protocols of this room: what a driver pushes, and where to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

Record = tuple[bytes | None, bytes]
"""Record of a topic: (key, value)."""


class GeneratorError(Exception):
    """A world, a replay or a load that cannot go on; the message says what to do.

    ProgressError   the progress file does not fit what is pushed, or is in use
    LoadError       the HTTP server cannot be reached or spoken to

    A file that is replayed and cannot be read is a streams.source.SourceError.
    """


class TopicWriter(Protocol):
    """A writer that appends records to topics."""

    def write(self, topic: str, records: Sequence[Record]) -> None:
        """Return when all are acknowledged."""


@dataclass(frozen=True)
class TopicView:
    """A resume's access to the topics that it writes to.

    ``end_offsets(topic)`` gives the next offset of every partition; ``read_tail(topic, partition,
    from_offset)`` the values from there to the end, in order; ``partition_of(topic, key)`` the
    partition that the writer puts a key into.
    """

    end_offsets: Callable[[str], list[int]]
    read_tail: Callable[[str, int, int], Iterable[bytes]]
    partition_of: Callable[[str, bytes | None], int]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of a source, each of which is exactly one record of one topic."""

    rows: int
    writes: list[tuple[str, list[Record]]]
    event_time_ms: int | None
    """Newest event time up to here; None as long as no row had one."""


class Stream(Protocol):
    """A source that is being read, from some row on."""

    def take(self, rows_max: int, until_ms: int | None = None) -> Batch:
        """Return at most ``rows_max`` next rows, without event times after ``until_ms``.

        Raises SourceError where the rows can be read no further.
        """

    @property
    def mark(self) -> str:
        """Return a text that tells the rows before the next one from others; "" where the identity
        does."""

    @property
    def at_end(self) -> bool:
        """Return whether no row is left."""

    def next_time_ms(self) -> int | None:
        """Return the event time of the next row; None where it has none."""

    def close(self) -> None:
        """Release files. Never raises."""


class Source(Protocol):
    """Rows in a fixed order that are the same bytes each time they are read."""

    @property
    def name(self) -> str:
        """Return a short name, safe in a file name, for the progress file."""

    @property
    def identity(self) -> str:
        """Return all that decides the bytes, with the marks of its streams; another source
        differs."""

    @property
    def topics(self) -> tuple[str, ...]:
        """Return every topic that is written to."""

    def open(self, row: int) -> Stream:
        """Read from this row on. Raises SourceError."""


class World(Protocol):
    """A simulated stream of one topic that can be entered at any index."""

    @property
    def topic(self) -> str:
        """Return the topic that its records belong to."""

    def batch(self, start: int, count: int) -> list[Record]:
        """Return the records of indices ``start`` to ``start + count - 1``."""

    def time_ms(self, index: int) -> int:
        """Return the event time at which the record of this index is sent."""

    def index_after(self, time_ms: int) -> int:
        """Return the first index whose time is after ``time_ms``."""


class WorldStream:
    """A world that is read from an index on. It never ends."""

    mark = ""
    """No mark: the identity tells the rows apart; see Stream."""

    def __init__(self, world: World, row: int) -> None:
        self._world = world
        self._row = row

    def take(self, rows_max: int, until_ms: int | None = None) -> Batch:
        """Return the next rows; see Stream."""
        rows = rows_max
        if until_ms is not None:
            rows = min(rows, max(0, self._world.index_after(until_ms) - self._row))
        if rows == 0:
            return Batch(0, [], None)
        records = self._world.batch(self._row, rows)
        self._row += rows
        return Batch(rows, [(self._world.topic, records)], self._world.time_ms(self._row - 1))

    @property
    def at_end(self) -> bool:
        """Return False: a world never ends; see Stream."""
        return False

    def next_time_ms(self) -> int | None:
        """Return the event time of the next row; see Stream."""
        return self._world.time_ms(self._row)

    def close(self) -> None:
        """Do nothing; see Stream."""
