"""CSV as records of JSON. A line is a row, whatever quotes are in it.

A quoted field may hold separators and doubled quotes, but no line end: a quote that is not
closed costs its own row and no other.
"""

from __future__ import annotations

import codecs
import csv

import msgspec
import numpy as np
import polars as pl

from footfall.streams.archive_columns import Bad, Columns, ColumnsError, field_names, joined
from footfall.streams.archive_files import count_of, split_lines

_SEPARATORS = ",;\t|"
_SHOWN_CHARS = 40


class _BadRowError(ValueError):
    """A bad row; the message follows the number of the line."""


class CsvColumns:
    """The columns of a CSV file, by its first line."""

    def __init__(self, struct: type[msgspec.Struct], header: bytes) -> None:
        """Match the header. Raises ColumnsError where it does not name such records' columns."""
        text = header.decode(errors="replace")
        self._separator = max(_SEPARATORS, key=text.count)
        try:
            names = self._quoted_fields(text)
            self._columns = Columns(struct, names)
        except (_BadRowError, ColumnsError) as error:
            raise ColumnsError(
                f"the first line {error}; it must be a header such as "
                f"{','.join(field_names(struct))}"
            ) from None
        self._count = len(names)

    def records(self, lines: bytes, count: int) -> tuple[bytes, Bad]:
        """Return (a line of JSON per row, the rows that cannot be records)."""
        bad: Bad = {}
        # Characters that JSON escapes are looked for in all lines at once.
        is_plain = b'"' not in lines and b"\\" not in lines and _is_printable(lines)
        frame = self._split_at_once(lines, count) if b'"' not in lines else None
        if frame is None:
            frame = self._split_each(lines, bad)
        values = [frame.to_series(place) for place in self._columns.places.values()]
        found = self._columns.lines(values, bad, is_plain=is_plain)
        return joined(found, bad), bad

    def why_bad(self, line: bytes, why: str) -> str:
        """Return why a row is bad, with the text of the field that a decoder named."""
        name, _, reason = why.partition(": ")
        place = self._columns.places.get(name)
        if place is None:
            return f"is no record: {why}"
        return f"has {name} {_shown(self._fields(line)[place])}: {reason}"

    def _split_at_once(self, lines: bytes, count: int) -> pl.DataFrame | None:
        """Return rows without quotes, if each has all of the fields; else None."""
        if count_of(lines, self._separator.encode()) != count * (self._count - 1):
            return None
        if lines.startswith(codecs.BOM_UTF8):
            # The file's own byte order mark is gone: this one is part of a row, and Polars would
            # drop it.
            return None
        try:
            frame = pl.read_csv(
                lines,
                has_header=False,
                separator=self._separator,
                quote_char=None,
                schema={str(place): pl.String for place in range(self._count)},
            )
        except pl.exceptions.PolarsError:
            return None
        return frame if len(frame) == count else None

    def _split_each(self, lines: bytes, bad: Bad) -> pl.DataFrame:
        rows: list[list[str]] = []
        for place, line in enumerate(split_lines(lines)):
            try:
                rows.append(self._fields(line))
            except _BadRowError as error:
                bad[place] = str(error)
                rows.append([""] * self._count)
        columns = zip(*rows, strict=True)
        return pl.DataFrame(
            [
                pl.Series(str(place), [text or None for text in texts], dtype=pl.String)
                for place, texts in enumerate(columns)
            ]
        )

    def _fields(self, line: bytes) -> list[str]:
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise _BadRowError("is not UTF-8") from None
        fields = self._quoted_fields(text) if '"' in text else text.split(self._separator)
        if len(fields) != self._count:
            if not text:
                raise _BadRowError("is empty")
            raise _BadRowError(f"has {len(fields)} fields instead of {self._count}")
        return fields

    def _quoted_fields(self, text: str) -> list[str]:
        try:
            return next(csv.reader([text], delimiter=self._separator, strict=True), [])
        except csv.Error as error:
            raise _BadRowError(f"has a wrong quote: {error}") from None


def _is_printable(lines: bytes) -> bool:
    """Return whether there is no control character except in the ends of lines."""
    chars = np.frombuffer(lines, np.uint8)
    controls = np.count_nonzero(chars < ord(" "))
    if b"\r" in lines:
        controls -= np.count_nonzero((chars[:-1] == ord("\r")) & (chars[1:] == ord("\n")))
    return bool(controls == count_of(lines, b"\n"))


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "...")
