"""Moments in SQL tables: the same in PostgreSQL and in SQLite, which has no type for them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Dialect, String, TypeDecorator
from sqlalchemy.types import TypeEngine


class UtcTime(TypeDecorator[datetime]):
    """An aware moment, read back in UTC.

    PostgreSQL has TIMESTAMP WITH TIME ZONE. SQLite has text as ``sql_time`` gives it, which sorts,
    and which is compared as in PostgreSQL: ``start_event_time = '2019-10-01 00:00:05'``.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(String(26))
        return dialect.type_descriptor(DateTime(timezone=True))

    def process_bind_param(
        self, value: datetime | None, dialect: Dialect
    ) -> datetime | str | None:
        if value is not None and value.tzinfo is None:
            raise ValueError(f"a moment without a zone: {value}")
        return sql_time(value) if value is not None and dialect.name == "sqlite" else value

    def process_result_value(
        self, value: datetime | str | None, dialect: Dialect
    ) -> datetime | None:
        if value is None:
            return None
        if isinstance(value, str):
            return datetime.fromisoformat(value).replace(tzinfo=UTC)
        return value.astimezone(UTC)


def sql_time(moment: datetime) -> str:
    """Return ``2019-10-01 00:00:05``, or ``2019-10-01 00:00:05.250`` where there is a fraction."""
    utc = moment.astimezone(UTC)
    fraction = f".{utc.microsecond:06d}" if utc.microsecond else ""
    return f"{utc:%Y-%m-%d %H:%M:%S}{fraction.removesuffix('000')}"
