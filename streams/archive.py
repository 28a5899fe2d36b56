"""Files of an archive as one stream: JSON lines, CSV and Parquet, in the order of their names.

A record is a line of JSON. Of a CSV file each row is one, under the names of its header
(``product_info.price`` is a field of a field), with numbers where the struct wants some; of a
Parquet file each row is one, or its column ``payload`` or ``value`` where there is such.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import msgspec
import polars as pl

from streams.batch import Poll
from streams.source import Position, SourceError

ROWS_MAX = 8_192
"""Records of one poll."""
KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
RECORD_COLUMNS = ("payload", "value")

_UNREADABLE = (
    OSError,
    EOFError,
    UnicodeDecodeError,
    zlib.error,
    csv.Error,
    pl.exceptions.PolarsError,
)


class Archive:
    """The files under a path as the one partition of a topic. Knows streams.replay.Partitions."""

    def __init__(self, path: Path, topic: str, struct: type[msgspec.Struct]) -> None:
        """Raises SourceError where there is no file of a known kind."""
        self.files = _files(path)
        self._topic = topic
        self._struct = struct

    def count(self) -> int:
        """One."""
        return 1

    def open(self, partition: int, start: Position) -> ArchiveReader:
        """A reader of all records; an archive is always read from its beginning."""
        return ArchiveReader(self.files, self._topic, self._struct)


class ArchiveReader:
    """Reads the records in order, once."""

    def __init__(self, files: list[Path], topic: str, struct: type[msgspec.Struct]) -> None:
        self._topic = topic
        self._files_left = len(files)
        self._polls = self._all(files, struct)
        self._next: list[bytes] | None = next(self._polls, None)
        self._offset = 0

    def poll(self, now_ms: int) -> Poll:
        """The next records. ``lag`` counts files that were not begun."""
        lines, self._next = self._next or [], next(self._polls, None)
        first, self._offset = self._offset, self._offset + len(lines)
        return Poll(
            topic=self._topic,
            partition=0,
            first_offset=first,
            data=b"".join(lines),
            count=len(lines),
            lag=self._files_left,
            polled_at_ms=now_ms,
        )

    def finished(self) -> bool:
        """True once all records were given."""
        return self._next is None

    def state(self) -> int:
        """The number of records given."""
        return self._offset

    def bounds(self) -> tuple[int, int]:
        """From the first record to an end that is not known."""
        return 0, 2**62

    def close(self) -> None:
        """Close the file that is read."""
        self._polls.close()

    def _all(self, files: list[Path], struct: type[msgspec.Struct]) -> Any:
        for path in files:
            self._files_left -= 1
            try:
                yield from _LINES_OF[_kind(path)](path, struct)
            except _UNREADABLE as error:
                reason = " ".join(str(error).split())[:200]
                raise SourceError(f"{path} cannot be read: {reason}") from None


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise SourceError(f"there is no {path} to read the archive from")
    if path.is_file() and not _kind(path):
        raise SourceError(f"{path} is none of {', '.join(KINDS)} (also with .gz)")
    every = (
        [path] if path.is_file() else sorted(item for item in path.rglob("*") if item.is_file())
    )
    found = [item for item in every if _kind(item)]
    if not found:
        raise SourceError(f"there is no file of {', '.join(KINDS)} (also with .gz) in {path}")
    return found


def _kind(path: Path) -> str:
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    return (
        suffix if suffix in KINDS and not (suffix == ".parquet" and path.suffix == ".gz") else ""
    )


def _opened(path: Path) -> Any:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _of_json(path: Path, _struct: type[msgspec.Struct]) -> Iterator[list[bytes]]:
    with _opened(path) as file:
        lines: list[bytes] = []
        if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            file.seek(0)
        for line in file:
            lines.append(line if line.endswith(b"\n") else line + b"\n")
            if len(lines) == ROWS_MAX:
                yield lines
                lines = []
        if lines:
            yield lines


def _of_csv(path: Path, struct: type[msgspec.Struct]) -> Iterator[list[bytes]]:
    encode = msgspec.json.Encoder().encode
    with io.TextIOWrapper(_opened(path), encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file)
        names = next(rows, [])
        places = [(name.split("."), _number_of(struct, name.split("."))) for name in names]
        lines: list[bytes] = []
        for row in rows:
            # A row that was cut is no record: as it stands it is a dead letter.
            whole = len(row) == len(names)
            lines.append((encode(_nested(places, row)) if whole else _cut(row)) + b"\n")
            if len(lines) == ROWS_MAX:
                yield lines
                lines = []
        if lines:
            yield lines


def _nested(
    places: list[tuple[list[str], Callable[[str], object]]], row: list[str]
) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for (path, convert), text in zip(places, row, strict=True):
        if text == "":
            continue
        inner = record
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        inner[path[-1]] = convert(text)
    return record


def _cut(row: list[str]) -> bytes:
    return ",".join(row).replace("\n", " ").encode()


def _number_of(struct: type[msgspec.Struct], path: list[str]) -> Callable[[str], object]:
    """How the text of a column becomes what the struct's field takes."""
    kinds: set[Any] = {struct}
    for name in path:
        fields: Mapping[str, Any] = {}
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
                fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
        kinds = _alternatives(fields.get(name, str))
    if str in kinds or not kinds & {int, float, bool}:
        return str
    if bool in kinds:
        return lambda text: {"true": True, "false": False}.get(text.lower(), text)
    number = float if float in kinds else int
    return lambda text: _converted(number, text)


def _alternatives(kind: Any) -> set[Any]:
    if hasattr(kind, "__metadata__"):
        return _alternatives(get_args(kind)[0])
    if get_origin(kind) is Union or type(kind).__name__ == "UnionType":
        return set().union(*map(_alternatives, get_args(kind)))
    if get_origin(kind) is not None and get_args(kind):
        # A Literal of texts, for one: its values decide.
        return {type(value) for value in get_args(kind)}
    return {kind}


def _converted(number: Callable[[str], object], text: str) -> object:
    try:
        return number(text)
    except ValueError:
        # The decoder says what is wrong with it.
        return text


def _of_parquet(path: Path, _struct: type[msgspec.Struct]) -> Iterator[list[bytes]]:
    frame = pl.scan_parquet(path)
    names = frame.collect_schema().names()
    column = next((name for name in RECORD_COLUMNS if name in names), None)
    start = 0
    while len(rows := frame.slice(start, ROWS_MAX).collect()):
        start += len(rows)
        if column is not None:
            texts = rows[column].cast(pl.Binary)
            yield [(text or b"").replace(b"\n", b" ") + b"\n" for text in texts]
        else:
            plain = rows.with_columns(pl.col(pl.Decimal).cast(pl.Float64))
            yield plain.write_ndjson().encode().splitlines(keepends=True)


_LINES_OF: dict[str, Callable[[Path, type[msgspec.Struct]], Iterator[list[bytes]]]] = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), _of_json),
    ".csv": _of_csv,
    ".parquet": _of_parquet,
}
