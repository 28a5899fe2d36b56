"""Rows of several tables, each written to its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Protocol

import polars as pl

from sinks import RowWriter


class ByTable(Protocol):
    """Upserts for several tables."""

    @property
    def frames(self) -> Mapping[str, pl.DataFrame]:
        """By the table's name."""


class TablesWriter:
    """Gives each table's writer its rows."""

    def __init__(self, writers: Mapping[str, RowWriter]) -> None:
        """``writers`` by the table's name."""
        self._writers = writers

    def write(self, items: Sequence[ByTable]) -> None:
        """Return when the rows are durable in all tables; after an error some may have them.

        Raises SinkError.
        """
        frames: dict[str, list[pl.DataFrame]] = defaultdict(list)
        for item in items:
            for name, frame in item.frames.items():
                frames[name].append(frame)
        for name, of_table in frames.items():
            self._writers[name].write(of_table)

    def close(self) -> None:
        """Release connections. Never raises."""
        for writer in self._writers.values():
            writer.close()
