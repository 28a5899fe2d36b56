"""Replay a shop's CSV export as a Source of store events, read as an archive is.

Writes   store_events    a whole row as one JSON record, keyed by user_id
         dead_letters    a row that cannot become an event, as exactly one dead letter
Rows     row 0 is line 2; the same row gives the same bytes each time

A file that ends without a line end is taken to be whole only if its last line has every
field of the header: an optional last column does not excuse a line that was cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from footfall.generator.sources import Batch, Record
from footfall.schemas.dead_letters import record_of
from footfall.schemas.store_events import StoreEvent
from footfall.schemas.topics import DEAD_LETTERS, STORE_EVENTS
from footfall.streams.archive import Rows, csv_rows
from footfall.streams.archive_files import FileLines, is_pipe, printable
from footfall.streams.batch import TIME_MS, Int64s
from footfall.streams.batch import Batch as DecodedBatch
from footfall.streams.columns import integer
from footfall.streams.decode import Records
from footfall.streams.source import SourceError

FLOW = "csv_replay"
"""Name of the replay as the one that gave up on a row."""

_USER: Final = STORE_EVENTS.key
_NO_TIME: Final = -1
_EVENTS = Records(
    StoreEvent,
    time=STORE_EVENTS.time,
    columns={_USER: integer(lambda events: [event.user_id for event in events])},
    # A flow decides later, by the append time, whether a row is in the future.
    future_max_ms=None,
)


class CsvReplay:
    """A file to replay, or a pipe, which can be read once."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raises SourceError at once where it cannot be read as CSV."""
        self.path = path
        self.is_pipe = is_pipe(path)
        self.name = "pipe" if self.is_pipe else printable(path.name)
        """Name of the file; see Source."""
        self.identity = f"file {self.name}"
        """Identity by the file's name; the mark of its stream stands for the content. See
        Source."""
        self.topics = (STORE_EVENTS.name, DEAD_LETTERS.name)
        """Topics that are written to; see Source."""
        self._pipe = CsvStream(path, self.name)
        if not self.is_pipe:
            self._pipe.close()

    def open(self, row: int) -> CsvStream:
        """Read from a row on; see Source."""
        if self.is_pipe:
            return self._pipe
        stream = CsvStream(self.path, self.name)
        try:
            stream.skip(row)
        except BaseException:
            stream.close()
            raise
        return stream


class CsvStream:
    """The rows of a file."""

    def __init__(self, path: Path, name: str) -> None:
        self._name = name
        self._lines = FileLines(path)
        self._blocks = csv_rows(self._lines, StoreEvent)
        self._block = _Block(Rows(0, 0, b"", lambda: (b"", {})), name)
        self._place = 0
        """Index of the next row in its block."""
        self._digest = sha256()
        self._time_ms: int | None = None
        self._failure: SourceError | None = None
        has_row = self._has_row()
        if self._failure is None and not has_row and not self._lines.count:
            self._failure = SourceError(f"{path} is empty")
        if self._failure is not None:
            self.close()
            raise self._failure

    def take(self, rows_max: int, until_ms: int | None = None) -> Batch:
        """Return the next rows; see Stream. A row without a time is due with the row before it.

        A file that turns out to be unreadable raises SourceError only after all rows before that
        place were taken.
        """
        events: list[Record] = []
        letters: list[Record] = []
        rows = 0
        while rows < rows_max and self._has_row():
            block, start = self._block, self._place
            stop = block.stop(start, start + rows_max - rows, until_ms)
            if stop == start:
                break
            newest_ms = int(block.times[start:stop].max())
            if newest_ms != _NO_TIME:
                self._time_ms = max(newest_ms, self._time_ms or 0)
            events += block.events_between(start, stop)
            letters += block.letters_between(start, stop)
            rows += stop - start
            self._go_to(stop)
        if self._failure and not rows and rows_max:
            raise self._failure
        writes = [(STORE_EVENTS.name, events), (DEAD_LETTERS.name, letters)]
        return Batch(rows, [write for write in writes if write[1]], self._time_ms)

    def skip(self, rows: int) -> None:
        """Skip this many more rows. Raises SourceError where there are not as many."""
        left = rows
        while left and self._has_row():
            stop = min(self._place + left, self._block.count)
            left -= stop - self._place
            self._go_to(stop)
        if self._failure is not None:
            raise self._failure
        if left:
            raise SourceError(
                f"{self._lines.path} has {rows - left:,} rows, not the {rows:,} done already"
            )

    @property
    def mark(self) -> str:
        """Return a hash of the rows before the next one; see Stream."""
        return self._digest.hexdigest()

    @property
    def at_end(self) -> bool:
        """Return whether no row is left; see Stream."""
        return not self._has_row() and self._failure is None

    def next_time_ms(self) -> int | None:
        """Return the event time of the next row; see Stream."""
        if not self._has_row():
            return None
        time_ms = int(self._block.times[self._place])
        return None if time_ms == _NO_TIME else time_ms

    def close(self) -> None:
        """Close the file; see Stream."""
        self._lines.close()

    def _go_to(self, place: int) -> None:
        self._digest.update(self._block.source(self._place, place))
        self._place = place

    def _has_row(self) -> bool:
        """Return True while rows are left; the next block is read only when it is wanted."""
        while self._place == self._block.count and self._failure is None:
            try:
                rows = next(self._blocks, None)
            except SourceError as error:
                self._failure = error
                return False
            if rows is None:
                return False
            self._block, self._place = _Block(rows, self._name), 0
        return self._place < self._block.count


class _Block:
    """Rows as records of topics, decoded when they are first asked for."""

    def __init__(self, rows: Rows, file: str) -> None:
        self._rows = rows
        self._file = file
        self.count = rows.count

    def source(self, start: int, stop: int) -> bytes:
        """Return the lines of some rows as the file has them."""
        return self._rows.source[self._starts[start] : self._starts[stop]]

    def stop(self, start: int, stop: int, until_ms: int | None) -> int:
        """Return where a stretch of rows that are due at ``until_ms`` ends."""
        if until_ms is not None and (late := self.times[start:stop] > until_ms).any():
            return start + int(late.argmax())
        return min(stop, self.count)

    @cached_property
    def _starts(self) -> list[int]:
        """Return where each row begins, and where the last one ends."""
        chars = np.frombuffer(self._rows.source, np.uint8)
        return [0, *(np.flatnonzero(chars == ord("\n")) + 1).tolist()]

    @cached_property
    def times(self) -> Int64s:
        """Return the event time of each row, _NO_TIME for a bad row."""
        times = np.full(self.count, _NO_TIME)
        times[self._places] = self._batch.frame[TIME_MS].to_numpy()
        return times

    def events_between(self, start: int, stop: int) -> list[Record]:
        """Return the store events of some rows."""
        first, last = np.searchsorted(self._places, np.array([start, stop])).tolist()
        return self._events[first:last]

    def letters_between(self, start: int, stop: int) -> Iterator[Record]:
        """Yield the dead letters of some rows."""
        for letter in self._batch.dead:
            if start <= letter.offset < stop:
                yield record_of(self._rows.letter(self._file, letter.offset, letter))

    @cached_property
    def _batch(self) -> DecodedBatch:
        return _EVENTS.decode(FLOW, self._rows.poll(STORE_EVENTS.name, 0, lag=0, now_ms=0))

    @cached_property
    def _places(self) -> Int64s:
        rows = self._batch.rows
        return np.arange(self.count) if rows is None else rows

    @cached_property
    def _events(self) -> list[Record]:
        users = self._batch.frame[_USER].cast(pl.String).cast(pl.Binary).to_list()
        return list(zip(users, self._batch.payloads(), strict=True))
