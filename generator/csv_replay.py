"""Replay of a shop's CSV export, plain or .gz, as a Source of store events.

Reads    the file, line by line: LF or CRLF, a header with schemas.store_events.CSV_COLUMNS
Writes   store_events    a whole row as one JSON record, keyed by user_id
         dead_letters    a row that cannot become an event, as exactly one dead letter
Rows     row 0 is line 2; the same row gives the same bytes each time

A file that ends without a line end is taken to be whole only if its last line has every
field of the header: an optional last column does not excuse a line that was cut.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, cast

from generator.csv_rows import RowReader
from generator.sources import Batch, Record, SourceError
from schemas.topics import DEAD_LETTERS, RECORD_BYTES_MAX, STORE_EVENTS

IDENTITY_BYTES = 65_536
LINE_BYTES_MAX = RECORD_BYTES_MAX
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class CsvReplay:
    """One file to replay. Raises SourceError at once when it is no such file."""

    path: Path

    def __post_init__(self) -> None:
        self.open(0).close()

    @cached_property
    def name(self) -> str:
        """See Source."""
        return self.path.name.encode(errors="replace").decode()

    @cached_property
    def identity(self) -> str:
        """See Source: name, size and the hash of the first 64 KiB."""
        try:
            with self.path.open("rb") as file:
                digest = hashlib.sha256(file.read(IDENTITY_BYTES)).hexdigest()
                size_bytes = file.seek(0, 2)
        except OSError as error:
            raise SourceError(f"{self.path}: {error.strerror or error}") from None
        return f"file {self.name} size_bytes={size_bytes} sha256_of_first_64_kib={digest}"

    @property
    def topics(self) -> tuple[str, ...]:
        """See Source."""
        return (STORE_EVENTS.name, DEAD_LETTERS.name)

    def open(self, row: int) -> CsvStream:
        """See Source."""
        lines = _Lines(self.path)
        try:
            header = lines.next_line()
            if header is None:
                raise SourceError(f"{self.path}: the file is empty")
            reader = RowReader(self.name, header[0])
            for done in range(row):
                if lines.next_line() is None:
                    raise SourceError(f"{self.path}: has {done} rows, not the {row} done already")
            return CsvStream(lines, reader, row)
        except BaseException:
            lines.close()
            raise


class CsvStream:
    """The rows of a file from one on; looks one row ahead."""

    def __init__(self, lines: _Lines, reader: RowReader, row: int) -> None:
        self._lines = lines
        self._reader = reader
        self._row = row
        self._time_ms: int | None = None
        self._ahead: tuple[str, Record, int | None] | None = None
        self._failure: SourceError | None = None
        self._look_ahead()

    def take(self, rows_max: int, until_ms: int | None = None) -> Batch:
        """See Stream. A row without a time is due with the row before it.

        A file that turns out to be unreadable raises SourceError only when all rows before
        that were taken.
        """
        events: list[Record] = []
        letters: list[Record] = []
        while self._ahead is not None and len(events) + len(letters) < rows_max:
            topic, record, time_ms = self._ahead
            if time_ms is not None:
                if until_ms is not None and time_ms > until_ms:
                    break
                self._time_ms = max(time_ms, self._time_ms or 0)
            (events if topic == STORE_EVENTS.name else letters).append(record)
            self._look_ahead()
        rows = len(events) + len(letters)
        if self._failure and not rows and rows_max:
            raise self._failure
        writes = [(STORE_EVENTS.name, events), (DEAD_LETTERS.name, letters)]
        return Batch(rows, [write for write in writes if write[1]], self._time_ms)

    @property
    def at_end(self) -> bool:
        """See Stream."""
        return self._ahead is None and self._failure is None

    def next_time_ms(self) -> int | None:
        """See Stream."""
        return self._ahead[2] if self._ahead else None

    def close(self) -> None:
        """See Stream."""
        self._lines.close()

    def _look_ahead(self) -> None:
        self._ahead = None
        try:
            line = self._lines.next_line()
        except SourceError as error:
            self._failure = error
            return
        if line is not None:
            self._row += 1
            self._ahead = self._reader.record(self._row + 1, *line)


class _Lines:
    """The lines of a plain or gzip file, each held to LINE_BYTES_MAX."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._line = 0
        try:
            with path.open("rb") as file:
                is_gzip = file.read(2) == _GZIP_MAGIC
            self._file = cast(
                BinaryIO,
                gzip.open(path, "rb") if is_gzip else path.open("rb"),  # noqa: SIM115
            )
        except OSError as error:
            raise SourceError(f"{path}: {error.strerror or error}") from None

    def next_line(self) -> tuple[bytes, int] | None:
        """(the line without its end, how many bytes were cut off for its length), or None."""
        try:
            line = self._file.readline(LINE_BYTES_MAX)
            cut_bytes = 0
            part = line
            while part[-1:] != b"\n" and len(part) == LINE_BYTES_MAX:
                part = self._file.readline(LINE_BYTES_MAX)
                cut_bytes += len(part.rstrip(b"\r\n"))
        except (EOFError, OSError, zlib.error) as error:
            raise SourceError(
                f"{self._path}: cannot be read past line {self._line}: {error}"
            ) from None
        if not line:
            return None
        self._line += 1
        return line.removesuffix(b"\n").removesuffix(b"\r"), cut_bytes

    def close(self) -> None:
        self._file.close()
