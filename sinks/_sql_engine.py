"""A store of rows behind a URL, PostgreSQL or SQLite: opening, locks, retries and errors."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import polars as pl
from sqlalchemy import Connection, Engine, Table, create_engine, event, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from footfall.schemas.addresses import AddressError, path_of, scheme_of
from footfall.schemas.database_addresses import STORE_TAKES, PostgresAddress, postgres_address
from footfall.sinks import SinkError, SinkRefusedError, SinkUnavailableError
from footfall.sinks._sql_errors import is_transient, is_unresolved, original, reason, remedy_of
from footfall.sinks._sqlite import hint, is_broken, make_own
from footfall.sinks.retry import Backoff, call_with_retry

T = TypeVar("T")

GIVE_UP_AFTER_S = 120.0
LOCK_WAIT_S = 10.0
"""Longest single wait for another writer, in seconds; it is repeated until the whole time is
over."""

CONNECT_S = 10.0
_POSTGRES_LIMITS = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


class Store:
    """A database, and the handling of its errors. Threads and processes may share it."""

    def __init__(
        self,
        url: str,
        *,
        give_up_after_s: float = GIVE_UP_AFTER_S,
        read_only: bool = False,
        statement_s_max: float | None = None,
    ) -> None:
        """Take the URL; the first use connects.

        A statement may take ``give_up_after_s`` where the store is written. Raises
        SinkRefusedError for a URL that is not one of a store.
        """
        self._has_answered = False
        self.is_sqlite = scheme_of(url) == "sqlite"
        self._backoff = Backoff(give_up_after_s=give_up_after_s)
        self._lock_wait_s = min(LOCK_WAIT_S, give_up_after_s)
        self._connect_s = min(CONNECT_S, max(2.0, give_up_after_s))
        self._statement_s_max = statement_s_max
        if not read_only:
            self._statement_s_max = max(1.0, give_up_after_s)
        self._read_only = read_only
        try:
            if self.is_sqlite:
                file = path_of(url, STORE_TAKES)
                self.name = f"sqlite:///{file}"
                self._engine = self._sqlite(file)
            else:
                address = postgres_address(url)
                self.name = address.shown
                self._engine = self._postgres(address)
        except AddressError as error:
            raise SinkRefusedError(f"POSTGRES_URL {error}") from None
        self._errors = (SQLAlchemyError, self._engine.dialect.loaded_dbapi.Error, sqlite3.Warning)

    def transaction(self, lock: str, work: Callable[[Connection], T]) -> T:
        """Do ``work`` in one transaction that excludes all others of the same ``lock``.

        It is tried again as a whole while the server is away or busy. Raises SinkError.
        """

        def locked() -> T:
            with self._engine.begin() as connection:
                self._has_answered = True
                if not self.is_sqlite:
                    connection.execute(
                        text("SELECT pg_advisory_xact_lock(:number)"), {"number": _number(lock)}
                    )
                return work(connection)

        try:
            return call_with_retry(
                locked, why_again=self._why_again, target=self.name, backoff=self._backoff
            )
        except self._errors as error:
            raise self._sink_error(error) from error

    def read(self, work: Callable[[Connection], T]) -> T:
        """Do ``work``, which only reads, once. Raises SinkError."""
        try:
            with self._engine.connect() as connection:
                return work(connection)
        except self._errors as error:
            raise self._sink_error(error) from error

    def cursor(self, work: Callable[[Any], T]) -> T:
        """Do ``work`` with a cursor of the driver, once. Raises SinkError."""

        def once() -> T:
            connection = self._engine.raw_connection()
            try:
                cursor = connection.cursor()
                try:
                    return work(cursor)
                finally:
                    cursor.close()
            finally:
                connection.close()

        try:
            return once()
        except self._errors as error:
            raise self._sink_error(error) from error

    def stage(self, connection: Connection, staged: Table, rows: pl.DataFrame) -> None:
        """Fill an empty temporary table in bulk; its columns are those of ``rows``."""
        if self.is_sqlite:
            marks = ", ".join("?" * rows.width)
            columns = ", ".join(f'"{name}"' for name in rows.columns)
            connection.exec_driver_sql(
                f'INSERT INTO temp."{staged.name}" ({columns}) VALUES ({marks})',
                _sqlite_values(rows).rows(),
            )
            return
        columns = ", ".join(f'"{name}"' for name in rows.columns)
        driver: Any = connection.connection.driver_connection
        with driver.cursor() as cursor:
            copy = f"COPY \"{staged.name}\" ({columns}) FROM STDIN (FORMAT csv, NULL '\\N')"
            with cursor.copy(copy) as sent:
                sent.write(_csv(rows))
            cursor.execute(f'ANALYZE "{staged.name}"')

    def close(self) -> None:
        """Close the connections. Never raises."""
        self._engine.dispose()

    def _sqlite(self, path: Path) -> Engine:
        if self._read_only:
            if not path.is_file():
                raise SinkRefusedError(
                    f"there is no {path}: nothing was written yet; `footfall init` makes it"
                )
            address = f"file:{quote(os.fsencode(path.absolute()))}"
            url = URL.create("sqlite", database=address, query={"mode": "rw", "uri": "true"})
        else:
            try:
                make_own(path)
            except OSError as error:
                raise SinkRefusedError(f"{self.name}: no folder for it ({error})") from None
            url = URL.create("sqlite", database=str(path))
        engine = create_engine(url, connect_args={"timeout": self._lock_wait_s})
        event.listen(engine, "connect", self._set_up_sqlite)
        if not self._read_only:
            event.listen(engine, "begin", lambda found: found.exec_driver_sql("BEGIN IMMEDIATE"))
        return engine

    def _set_up_sqlite(self, connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None
        if self._read_only:
            connection.execute("PRAGMA query_only = ON")
            return
        connection.execute("PRAGMA journal_mode = WAL")
        # As with embedded topics, a commit survives the crash of every process, not of the
        # machine.
        connection.execute("PRAGMA synchronous = NORMAL")

    def _postgres(self, address: PostgresAddress) -> Engine:
        # Each statement must see what was committed while it waited for a lock.
        engine = create_engine(
            "postgresql+psycopg://",
            connect_args={
                "connect_timeout": round(self._connect_s),
                **_POSTGRES_LIMITS,
                **address.options,
            },
            isolation_level="READ COMMITTED",
            pool_pre_ping=True,
        )
        event.listen(engine, "connect", self._set_up_postgres)
        return engine

    def _set_up_postgres(self, connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET TIME ZONE 'UTC'")
            if not self._read_only:
                wait_ms = max(1, round(self._lock_wait_s * 1000))
                cursor.execute(f"SET lock_timeout = {wait_ms}")
            if self._statement_s_max is not None:
                cursor.execute(f"SET statement_timeout = {round(self._statement_s_max * 1000)}")
        connection.commit()
        if self._read_only:
            connection.read_only = True

    def _why_again(self, error: Exception) -> str | None:
        if not isinstance(error, self._errors) or not is_transient(error):
            return None
        # A name that once led to a server may be gone while that server restarts.
        if is_unresolved(error) and not self._has_answered:
            return None
        # Pooled connections may be as dead as the one that just failed.
        self._engine.dispose()
        return reason(error)

    def _sink_error(self, error: Exception) -> SinkError:
        what, remedy = f"{self.name}: {reason(error)}", remedy_of(error)
        if is_transient(error) and not is_unresolved(error):
            return SinkUnavailableError(what, remedy)
        if is_broken(original(error)):
            return SinkUnavailableError(f"{what}{hint(original(error))}", remedy)
        return SinkRefusedError(f"{what}{hint(original(error))}", remedy)


def _number(lock: str) -> int:
    return int.from_bytes(blake2b(lock.encode(), digest_size=8).digest(), "big", signed=True)


def _sqlite_values(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(
        pl.col(name).dt.strftime("%Y-%m-%d %H:%M:%S%.3f").str.strip_suffix(".000")
        for name, kind in rows.schema.items()
        if isinstance(kind, pl.Datetime)
    )


def _csv(rows: pl.DataFrame) -> bytes:
    text = rows.write_csv(
        include_header=False,
        null_value="\\N",
        quote_style="non_numeric",
        datetime_format="%Y-%m-%d %H:%M:%S%.3f+00",
    )
    return text.encode()
