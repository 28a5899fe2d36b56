"""Wanted and actual columns of tables; rows of several tables, each written to its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Protocol

import polars as pl

from footfall.sinks import RowWriter, SinkRefusedError

Columns = Mapping[str, str]
"""Types by column; a type that is empty text is not compared."""


def differing(wanted: Columns, standing: Columns) -> list[str]:
    """Return in words how the actual columns differ from the wanted ones."""
    return [
        f"{name} is {standing.get(name, 'missing')}{f', not {kind}' if kind else ''}"
        for name, kind in wanted.items()
        if name not in standing
        or (kind and standing[name].replace(" ", "") != kind.replace(" ", ""))
    ]


def check_columns(target: str, wanted: Columns, standing: Columns, move: str) -> None:
    """Raise SinkRefusedError for a table with other columns; ``move`` moves it away."""
    if found := differing(wanted, standing):
        raise SinkRefusedError(
            f"{target}: stands there with other columns ({'; '.join(found)})",
            f"move it away ({move}) and run `footfall init` again",
        )


class ByTable(Protocol):
    """Upserts for several tables."""

    @property
    def frames(self) -> Mapping[str, pl.DataFrame]:
        """Return the rows by the table's name."""


AT_ONCE = 4
"""Number of tables that are written at the same time: most of a small insert is waiting."""


class TablesWriter:
    """A writer that gives each table's writer its rows; several tables are written at the same
    time."""

    def __init__(self, writers: Mapping[str, RowWriter]) -> None:
        """Take ``writers`` by the table's name."""
        self._writers = writers
        self._threads = ThreadPoolExecutor(min(AT_ONCE, len(writers)), "tables")

    def write(self, items: Sequence[ByTable]) -> None:
        """Return when the rows are durable in all tables; after an error some may have them.

        Raises SinkError.
        """
        frames: dict[str, list[pl.DataFrame]] = defaultdict(list)
        for item in items:
            for name, frame in item.frames.items():
                frames[name].append(frame)
        writing = [
            self._threads.submit(self._writers[name].write, of_table)
            for name, of_table in frames.items()
        ]
        # All have ended before an error is raised: no late write meets the next one.
        wait(writing)
        for one in writing:
            one.result()

    def close(self) -> None:
        """Release connections. Never raises."""
        self._threads.shutdown()
        for writer in self._writers.values():
            writer.close()
