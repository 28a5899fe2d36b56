"""Partial rows by topic partition and their totals: two SQL tables that belong together."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Table


@dataclass(frozen=True, slots=True)
class Rollup:
    """``total`` is ``partial`` summed over topics and their partitions.

    ``partial`` has the columns ``key``, ``topic``, ``topic_partition``, ``sums`` and ``version``;
    ``total`` the same without topic and partition.
    """

    partial: Table
    total: Table
    key: tuple[str, ...]
    """The window's start first."""
    sums: tuple[str, ...]
    """The number of events first."""
    to_announce: Table | None = None
    """``key`` and ``write_id`` of the totals whose notice was not sent yet."""
    newest: Table | None = None
    """By topic and partition the newest APPENDED of all rows that were written."""
