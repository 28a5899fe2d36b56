"""How a ClickHouse table is described: data, from which the statements follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DELETED = "is_deleted"


@dataclass(frozen=True, slots=True)
class Table:
    """A ReplacingMergeTree whose sorting key is the row's whole identity.

    ``partition_by`` must derive from ``order_by``: FINAL finds no duplicate in another
    partition. The column DELETED is there beside ``columns``: a row in which it is 1 takes back
    the row of its key, and FINAL gives neither.
    """

    name: str
    columns: Mapping[str, str]
    order_by: tuple[str, ...]
    partition_by: str
    start: str
    """The column, part of the key, that holds the event time of a row: its window's start."""
    sums: tuple[str, ...] = ()
    """The columns that add up over the rows of a window, the number of events first."""
    source: str = ""
    """The column, part of the key, that names the topic a row is of, where rows of several are."""
    topic_partition: str = "topic_partition"
    version: str = "version"

    def create(self) -> str:
        """The statement that makes the table, harmless where it stands."""
        columns = "".join(f"    `{name}` {kind},\n" for name, kind in self.columns.items())
        return (
            f"CREATE TABLE IF NOT EXISTS {self.name} (\n{columns}"
            f"    `{DELETED}` UInt8 DEFAULT 0\n)\n"
            f"ENGINE = ReplacingMergeTree({self.version}, {DELETED})\n"
            f"PARTITION BY {self.partition_by}\n"
            f"ORDER BY ({', '.join(self.order_by)})"
        )


@dataclass(frozen=True, slots=True)
class View:
    """What readers ask: each row once."""

    name: str
    select: str

    def create(self) -> str:
        """The statement that makes the view, or replaces an older one."""
        return f"CREATE OR REPLACE VIEW {self.name} AS {self.select.strip()}"
