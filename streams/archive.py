"""Files of an archive as one stream: JSON lines, CSV and Parquet, in the order of their names.

A line of JSON is a record, and so is each row of CSV and Parquet, by the names of its columns.
Where a Parquet file lacks those columns, its column ``payload`` or ``value`` holds the records.
Whatever cannot be a record is reported with its file and line.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from footfall.schemas.dead_letters import DeadLetter, payload_fields
from footfall.streams.archive_columns import NO_RECORD, Bad, Columns, ColumnsError, joined
from footfall.streams.archive_csv import CsvColumns
from footfall.streams.archive_files import Block, FileLines, find_files, kind_of, split_lines
from footfall.streams.batch import Poll
from footfall.streams.source import Position, SourceError

ROWS_MAX = 8_192
"""Rows of Parquet per poll."""
PARQUET_ROWS = 8 * ROWS_MAX
"""Rows of Parquet in memory: a row group may be as large as its file."""
RECORD_COLUMNS = ("payload", "value")


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of a file."""

    first: int
    """Number of the first row: its line number where lines are rows, else counted from 1."""
    count: int
    source: bytes
    """Lines of the rows, as in the file."""
    read: Callable[[], tuple[bytes, Bad]]
    """Function that gives (a line of JSON per row, NO_RECORD for a bad row; the bad rows)."""
    why_bad: Callable[[bytes, str], str] = lambda _line, why: f"is no record: {why}"
    """(a line, why its record cannot be decoded) -> what is wrong with the line"""
    unit: str = "line"
    cut_bytes: int = 0
    """Bytes of the only line that were cut off."""

    @cached_property
    def _records(self) -> tuple[bytes, Bad]:
        return self.read()

    @cached_property
    def _lines(self) -> list[bytes]:
        return split_lines(self.source)

    def poll(self, topic: str, first_offset: int, lag: int, now_ms: int) -> Poll:
        """Return the records as a poll of partition 0 of a topic."""
        records, _ = self._records
        return Poll(topic, 0, first_offset, records, self.count, lag, polled_at_ms=now_ms)

    def letter(self, file: str, place: int, letter: DeadLetter) -> DeadLetter:
        """Return a flow's letter about the record at a place as a letter about the row itself."""
        line = self._lines[place]
        why = self._records[1].get(place) or self.why_bad(line, letter.reason)
        about = DeadLetter(
            flow=letter.flow,
            topic=file,
            partition=0,
            offset=self.first + place,
            code="bad_row",
            reason=f"{self.unit} {self.first + place} {why}",
            **payload_fields(line),  # type: ignore[arg-type]
        )
        return msgspec.structs.replace(about, payload_bytes=about.payload_bytes + self.cut_bytes)


class Archive:
    """The files under a path as the only partition of a topic. Is a streams.replay.Partitions."""

    def __init__(self, path: Path, topic: str, struct: type[msgspec.Struct]) -> None:
        """Find the files. Raises SourceError where there is no file of a known kind."""
        self.files, self.left_out = find_files(path)
        self._topic = topic
        self._struct = struct
        self._reader: ArchiveReader | None = None

    def count(self) -> int:
        """Return 1: an archive has one partition."""
        return 1

    def open(self, partition: int, start: Position) -> ArchiveReader:
        """Return a reader of all records; an archive is always read from its beginning."""
        self._reader = ArchiveReader(self.files, self._topic, self._struct)
        return self._reader

    def letter(self, letter: DeadLetter) -> DeadLetter:
        """Return a letter about a record of the last poll as one about the row of its file."""
        assert self._reader is not None, "nothing was read yet"
        return self._reader.letter(letter)


class ArchiveReader:
    """A reader that gives the records in order, once."""

    def __init__(
        self, files: Sequence[tuple[str, Path]], topic: str, struct: type[msgspec.Struct]
    ) -> None:
        self._topic = topic
        self._files_left = len(files)
        self._all = self._of_all(files, struct)
        self._next = next(self._all, None)
        self._given: tuple[str, Rows] | None = None
        self._first = self._offset = 0

    def poll(self, now_ms: int) -> Poll:
        """Return the next records. ``lag`` counts files that were not begun."""
        assert self._next is not None, "all was read"
        self._given, self._next = self._next, next(self._all, None)
        poll = self._given[1].poll(self._topic, self._offset, self._files_left, now_ms)
        self._first, self._offset = self._offset, poll.next_offset
        return poll

    def letter(self, letter: DeadLetter) -> DeadLetter:
        """Return a letter about a record of the last poll as one about its row; see Archive."""
        assert self._given is not None, "nothing was read yet"
        file, rows = self._given
        return rows.letter(file, letter.offset - self._first, letter)

    def finished(self) -> bool:
        """Return True once all records were given."""
        return self._next is None

    def state(self) -> int:
        """Return the number of records given."""
        return self._offset

    def bounds(self) -> tuple[int, int]:
        """Return (0, an offset that no archive reaches): the end is not known."""
        return 0, 2**62

    def close(self) -> None:
        """Close the file that is being read."""
        self._all.close()

    def _of_all(
        self, files: Sequence[tuple[str, Path]], struct: type[msgspec.Struct]
    ) -> Generator[tuple[str, Rows], None, None]:
        for name, path in files:
            self._files_left -= 1
            for rows in _rows_of(path, struct):
                yield name, rows


def _rows_of(path: Path, struct: type[msgspec.Struct]) -> Iterator[Rows]:
    if kind_of(path) == ".parquet":
        yield from _of_parquet(path, struct)
        return
    with closing(FileLines(path)) as lines:
        yield from csv_rows(lines, struct) if kind_of(path) == ".csv" else _json_rows(lines)


def csv_rows(lines: FileLines, struct: type[msgspec.Struct]) -> Iterator[Rows]:
    """Yield the rows of a CSV file.

    Raises SourceError where its columns do not make such records, or where it cannot be read on.
    """
    columns: CsvColumns | None = None
    while block := lines.next_block():
        if columns is None:
            header, _, data = block.data.partition(b"\n")
            try:
                columns = CsvColumns(struct, header.removesuffix(b"\r"))
            except ColumnsError as error:
                raise SourceError(f"{lines.path}: {error}") from None
            block = block._replace(first=2, lines=block.lines - 1, data=data)
        if block.cut_bytes:
            yield _too_long(block)
        elif block.lines:
            read = partial(columns.records, block.data, block.lines)
            yield Rows(block.first, block.lines, block.data, read, columns.why_bad)


def _json_rows(lines: FileLines) -> Iterator[Rows]:
    while block := lines.next_block():
        if block.cut_bytes:
            yield _too_long(block)
        else:
            read = partial(_given, block.data, {})
            yield Rows(block.first, block.lines, block.data, read)


def _given(records: bytes, bad: Bad) -> tuple[bytes, Bad]:
    return records, bad


def _too_long(block: Block) -> Rows:
    """Return the row of a line of which only the beginning is in memory."""
    size = len(block.data) - 1 + block.cut_bytes
    bad = {0: f"has {size:,} bytes, too many for a row"}
    read = partial(_given, NO_RECORD.encode() + b"\n", bad)
    return Rows(block.first, 1, block.data, read, cut_bytes=block.cut_bytes)


def _of_parquet(path: Path, struct: type[msgspec.Struct]) -> Iterator[Rows]:
    try:
        yield from _parquet_rows(path, struct)
    except ColumnsError as error:
        raise SourceError(f"{path} {error}") from None
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = " ".join(str(error).split())[:200]
        raise SourceError(f"{path} cannot be read: {reason}") from None


def _parquet_rows(path: Path, struct: type[msgspec.Struct]) -> Iterator[Rows]:
    file = pl.scan_parquet(path, glob=False)
    schema = file.collect_schema()
    flat = dict(_flat((name, pl.col(name), kind) for name, kind in schema.items()))
    names, found = list(flat), list(flat.values())
    try:
        columns = Columns(struct, names)
        wanted = [found[place].alias(name) for name, place in columns.places.items()]
    except ColumnsError:
        columns = None
        wanted = [pl.col(name) for name in RECORD_COLUMNS if name in schema][:1]
        if not wanted:
            raise
    start = 0
    while len(part := file.select(wanted).slice(start, PARQUET_ROWS).collect()):
        for frame in part.iter_slices(ROWS_MAX):
            bad: Bad = {}
            if columns is None:
                texts = frame.to_series().cast(pl.Binary)
                lines = b"".join((text or b"").replace(b"\n", b" ") + b"\n" for text in texts)
                records = lines
            else:
                made = columns.lines(frame.get_columns(), bad)
                lines = joined(made, {})
                records = joined(made, bad) if bad else lines
            read = partial(_given, records, bad)
            yield Rows(start + 1, len(frame), lines, read, unit="row")
            start += len(frame)


def _flat(columns: Iterable[tuple[str, pl.Expr, Any]]) -> Iterator[tuple[str, pl.Expr]]:
    """Yield the columns by name; those within a column of structs under dotted names."""
    for name, column, kind in columns:
        if isinstance(kind, pl.Struct):
            within = (
                (f"{name}.{part.name}", column.struct.field(part.name), part.dtype)
                for part in kind.fields
            )
            yield from _flat(within)
        else:
            yield name, column
