"""Writers behind a flow's sinks, and what counts their rows.

Clients of servers are imported where they are opened, because a test of a flow needs no server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Sized
from typing import Any

import polars as pl
from msgspec import Struct

from footfall.schemas.metrics import WRITE_SECONDS
from footfall.schemas.settings import Settings
from footfall.sinks import RowWriter
from footfall.sinks.buffered import ForgetfulWriter, Wrote
from footfall.streams.batch import TableRows
from footfall.streams.progress import Progress


def counted(progress: Progress, table: str) -> Wrote:
    """Return a function that counts the rows that a sink writes to one table, and the time it
    takes."""

    def wrote(items: Sequence[Sized], seconds: float) -> None:
        progress.wrote(table, sum(map(len, items)))
        progress.took(WRITE_SECONDS, "", seconds)

    return wrote


def counted_by_table(progress: Progress) -> Wrote:
    """Return the same for a sink of several tables."""

    def wrote(items: Sequence[TableRows], seconds: float) -> None:
        for item in items:
            for name, frame in item.frames.items():
                progress.wrote(name, len(frame))
        progress.took(WRITE_SECONDS, "", seconds)

    return wrote


class TeeWriter:
    """A ForgetfulWriter of rows to one writer and then, where there is one, to a forgetful one."""

    def __init__(self, first: RowWriter, second: ForgetfulWriter | None) -> None:
        self._first = first
        self._second = second

    def write(self, frames: Sequence[pl.DataFrame]) -> None:
        """Return when the rows are durable in both; after an error the first may have them."""
        self._first.write(frames)
        if self._second is not None:
            self._second.write(frames)

    def recent(self) -> Sequence[pl.DataFrame]:
        """Return what the second may still forget."""
        return self._second.recent() if self._second is not None else ()

    def restore(self, rows: pl.DataFrame) -> None:
        """Write what the second may have forgotten."""
        if self._second is not None:
            self._second.restore(rows)

    def settle(self) -> None:
        """Return when the second can forget nothing any more. Raises SinkError."""
        if self._second is not None:
            self._second.settle()

    def close(self) -> None:
        """Release both."""
        self._first.close()
        if self._second is not None:
            self._second.close()


class ProfileWriter:
    """A ForgetfulWriter of tags to the profile store."""

    def __init__(self, settings: Settings) -> None:
        from footfall.sinks.open import open_profiles

        store = self._store = open_profiles(settings)
        self.recent, self.restore = store.recent, store.restore
        self.settle, self.close = store.settle, store.close

    def write(self, frames: Sequence[pl.DataFrame]) -> None:
        """Return when the tags are durable. Raises SinkError."""
        self._store.put(pl.concat(frames))


class MessageWriter:
    """A writer of rows to a topic, each as a message."""

    def __init__(
        self, settings: Settings, topic: str, message_of: Callable[[dict[str, Any]], Struct]
    ) -> None:
        from footfall.sinks.letters import LetterWriter
        from footfall.sinks.open import open_topics

        self._message_of = message_of
        self._letters = LetterWriter(open_topics(settings), topic)
        self.close = self._letters.close

    def write(self, frames: Sequence[pl.DataFrame]) -> None:
        """Return when the messages of all rows are acknowledged. Raises SinkError."""
        self.write_rows(row for frame in frames for row in frame.iter_rows(named=True))

    def write_rows(self, rows: Iterable[dict[str, Any]]) -> None:
        """Write the messages of rows that are dictionaries."""
        self._letters.write([self._message_of(row) for row in rows])
