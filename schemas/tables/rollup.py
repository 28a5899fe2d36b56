"""Partial rows by topic partition and their totals: two SQL tables that belong together."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Table


@dataclass(frozen=True, slots=True)
class Rollup:
    """A pair of tables: ``total`` is ``partial`` summed over topics and their partitions.

    ``partial`` has the columns ``key``, ``topic``, ``topic_partition``, ``sums`` and ``version``;
    ``total`` the same without topic and partition.
    """

    partial: Table
    total: Table
    key: tuple[str, ...]
    """Columns of the key, the window's start first."""
    sums: tuple[str, ...]
    """Columns that are summed, the number of events first."""
    to_announce: Table | None = None
    """Table of the ``key`` and ``write_id`` of the totals whose notice was not sent yet."""
    newest: Table | None = None
    """Table of the newest APPENDED of all rows that were written, by topic and partition."""
