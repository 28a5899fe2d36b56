"""Descriptions of ClickHouse tables: data, from which the statements follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from footfall.schemas.topics import APPENDED, OFFSET, PARTITION, TOPIC

DELETED = "is_deleted"
BESIDE = {DELETED: "UInt8", APPENDED: "Int64"}
"""Columns of each table besides its own; a writer that gives no value there writes 0."""
PLACE = {TOPIC: "LowCardinality(String)", PARTITION: "UInt16"}
"""Columns that say from which partition a row is.

The topic comes first: with only a partition's number, rows of two topics would overwrite each
other.
"""


@dataclass(frozen=True, slots=True)
class Table:
    """A ReplacingMergeTree whose sorting key is the row's whole identity.

    ``partition_by`` must derive from ``order_by``: FINAL finds no duplicate in another partition.
    The columns of BESIDE are there besides ``columns``: a row in which DELETED is 1 takes back the
    row of its key, and FINAL gives neither.
    """

    name: str
    columns: Mapping[str, str]
    order_by: tuple[str, ...]
    partition_by: str
    start: str
    """Column of the key with the event time of a row: its window's start."""
    sums: tuple[str, ...] = ()
    """Columns that add up over the rows of a window, the number of events first."""
    version: str = "version"

    def __post_init__(self) -> None:
        if PARTITION in self.columns and (TOPIC, PARTITION) not in pairwise(self.order_by):
            raise ValueError(
                f"table {self.name}: put *PLACE into order_by, and **PLACE into columns: without "
                f"{TOPIC} before {PARTITION}, rows of two topics overwrite each other"
            )

    @property
    def is_raw(self) -> bool:
        """Return whether a row stands for one record."""
        return OFFSET in self.columns

    def create(self) -> str:
        """Return the statement that makes the table, harmless where it exists."""
        columns = "".join(f"    `{name}` {kind},\n" for name, kind in self.columns.items())
        beside = ",\n".join(f"    `{name}` {kind} DEFAULT 0" for name, kind in BESIDE.items())
        return (
            f"CREATE TABLE IF NOT EXISTS {self.name} (\n{columns}"
            f"{beside}{self._constraint()}\n)\n"
            f"ENGINE = ReplacingMergeTree({self.version}, {DELETED})\n"
            f"PARTITION BY {self.partition_by}\n"
            f"ORDER BY ({', '.join(self.order_by)})"
        )

    def add_appended(self) -> str:
        """Return the statement that adds APPENDED to an older table, harmless where it has it."""
        return (
            f"ALTER TABLE {self.name} "
            f"ADD COLUMN IF NOT EXISTS `{APPENDED}` {BESIDE[APPENDED]} DEFAULT 0"
        )

    def _constraint(self) -> str:
        # Without this, the server would write a default for a program that knows no topics.
        return f",\n    CONSTRAINT of_a_topic CHECK {TOPIC} != ''" if TOPIC in self.columns else ""


@dataclass(frozen=True, slots=True)
class View:
    """A view for readers that gives each row once."""

    name: str
    select: str

    def create(self) -> str:
        """Return the statement that makes the view, or replaces an older one."""
        return f"CREATE OR REPLACE VIEW {self.name} AS {self.select.strip()}"
