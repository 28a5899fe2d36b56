"""How a ClickHouse table is described: data, from which the statements follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """A ReplacingMergeTree whose sorting key is the row's whole identity.

    ``partition_by`` must derive from ``order_by``: FINAL finds no duplicate in another
    partition.
    """

    name: str
    columns: Mapping[str, str]
    order_by: tuple[str, ...]
    partition_by: str
    version: str = "version"

    def create(self) -> str:
        """The statement that makes the table, harmless where it stands."""
        columns = ",\n    ".join(f"`{name}` {kind}" for name, kind in self.columns.items())
        return (
            f"CREATE TABLE IF NOT EXISTS {self.name} (\n    {columns}\n)\n"
            f"ENGINE = ReplacingMergeTree({self.version})\n"
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
