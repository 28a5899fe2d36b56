"""How a ClickHouse table is described: data, from which the statements follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from schemas.topics import APPENDED, OFFSET, PARTITION, TOPIC

DELETED = "is_deleted"
BESIDE = {DELETED: "UInt8", APPENDED: "Int64"}
"""Columns that stand in each table beside its own; what writes no value there writes 0."""
PLACE = {TOPIC: "LowCardinality(String)", PARTITION: "UInt16"}
"""The columns that say of which partition a row is. The topic comes first: a partition's number
alone would let rows of two topics overwrite each other."""


@dataclass(frozen=True, slots=True)
class Table:
    """A ReplacingMergeTree whose sorting key is the row's whole identity.

    ``partition_by`` must derive from ``order_by``: FINAL finds no duplicate in another
    partition. The columns of BESIDE are there beside ``columns``: a row in which DELETED is 1
    takes back the row of its key, and FINAL gives neither.
    """

    name: str
    columns: Mapping[str, str]
    order_by: tuple[str, ...]
    partition_by: str
    start: str
    """The column, part of the key, that holds the event time of a row: its window's start."""
    sums: tuple[str, ...] = ()
    """The columns that add up over the rows of a window, the number of events first."""
    version: str = "version"

    def __post_init__(self) -> None:
        if PARTITION in self.columns and (TOPIC, PARTITION) not in pairwise(self.order_by):
            raise ValueError(
                f"table {self.name}: put *PLACE into order_by, and **PLACE into columns: without "
                f"{TOPIC} before {PARTITION}, rows of two topics overwrite each other"
            )

    @property
    def is_raw(self) -> bool:
        """Whether a row stands for one record."""
        return OFFSET in self.columns

    def create(self) -> str:
        """The statement that makes the table, harmless where it stands."""
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
        """The statement that adds APPENDED to a table of before, harmless where it has it."""
        return (
            f"ALTER TABLE {self.name} "
            f"ADD COLUMN IF NOT EXISTS `{APPENDED}` {BESIDE[APPENDED]} DEFAULT 0"
        )

    def _constraint(self) -> str:
        # A program that knows of no topics would have a default written for it.
        return f",\n    CONSTRAINT of_a_topic CHECK {TOPIC} != ''" if TOPIC in self.columns else ""


@dataclass(frozen=True, slots=True)
class View:
    """What readers ask: each row once."""

    name: str
    select: str

    def create(self) -> str:
        """The statement that makes the view, or replaces an older one."""
        return f"CREATE OR REPLACE VIEW {self.name} AS {self.select.strip()}"
