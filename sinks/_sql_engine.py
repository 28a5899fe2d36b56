"""A store of rows behind a URL, PostgreSQL or SQLite: opened, locked, asked again, explained."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import polars as pl
from sqlalchemy import Connection, Engine, Table, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from sinks import SinkError, SinkRefusedError, SinkUnavailableError
from sinks._sqlite import hint, is_broken, is_busy
from sinks.retry import Backoff, call_with_retry

T = TypeVar("T")

GIVE_UP_AFTER_S = 120.0
LOCK_WAIT_S = 10.0
"""One wait for another writer; it is tried again until the whole time is over."""

_POSTGRES_LIMITS = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
_TRANSIENT_STATES = ("08", "40001", "40P01", "53", "55P03", "57014", "57P01", "57P02", "57P03")
_TRANSIENT_FATAL = ("starting up", "shutting down", "in recovery", "too many")


class Store:
    """A database, and how its errors are met. Threads and processes may share it."""

    def __init__(
        self, url: str, *, give_up_after_s: float = GIVE_UP_AFTER_S, read_only: bool = False
    ) -> None:
        """Connects at the first use. Raises SinkRefusedError for a URL that is none."""
        self._url = _parsed(url)
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        self._backoff = Backoff(give_up_after_s=give_up_after_s)
        self._lock_wait_s = min(LOCK_WAIT_S, give_up_after_s)
        self._statement_s_max = max(1.0, give_up_after_s)
        self._read_only = read_only
        self.name = self._url.render_as_string(hide_password=True)
        self._engine = self._sqlite() if self.is_sqlite else self._postgres()
        self._errors = (SQLAlchemyError, self._engine.dialect.loaded_dbapi.Error, sqlite3.Warning)

    def transaction(self, lock: str, work: Callable[[Connection], T]) -> T:
        """Do ``work`` in one transaction that excludes all others of the same ``lock``.

        Tried again as a whole while the server is away or busy. Raises SinkError.
        """

        def locked() -> T:
            with self._engine.begin() as connection:
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

    def _sqlite(self) -> Engine:
        assert self._url.database is not None
        path = Path(self._url.database)
        if self._read_only:
            if not path.is_file():
                raise SinkRefusedError(
                    f"there is no {path}: nothing was written yet; `footfall init` makes it"
                )
            address = f"file:{quote(str(path.absolute()))}"
            url = URL.create("sqlite", database=address, query={"mode": "rw", "uri": "true"})
        else:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SinkRefusedError(f"{self.name}: no folder for it ({error})") from None
            url = self._url
        engine = create_engine(url, connect_args={"timeout": self._lock_wait_s})
        event.listen(engine, "connect", self._set_up_sqlite)
        event.listen(engine, "begin", lambda found: found.exec_driver_sql("BEGIN IMMEDIATE"))
        return engine

    def _set_up_sqlite(self, connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None
        if self._read_only:
            connection.execute("PRAGMA query_only = ON")
            return
        connection.execute("PRAGMA journal_mode = WAL")
        # As embedded topics: a commit survives the crash of every process, not of the machine.
        connection.execute("PRAGMA synchronous = NORMAL")

    def _postgres(self) -> Engine:
        url = self._url.set(drivername="postgresql+psycopg")
        limits = {key: value for key, value in _POSTGRES_LIMITS.items() if key not in url.query}
        # A lock is waited for within a statement: each must see what was committed before it.
        engine = create_engine(
            url,
            connect_args=limits,
            isolation_level="READ COMMITTED",
            poolclass=NullPool if self._read_only else None,
            pool_pre_ping=not self._read_only,
        )
        event.listen(engine, "connect", self._set_up_postgres)
        return engine

    def _set_up_postgres(self, connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET TIME ZONE 'UTC'")
            if not self._read_only:
                wait_ms = max(1, round(self._lock_wait_s * 1000))
                cursor.execute(f"SET lock_timeout = {wait_ms}")
                cursor.execute(f"SET statement_timeout = {round(self._statement_s_max * 1000)}")
        connection.commit()
        if self._read_only:
            connection.read_only = True

    def _why_again(self, error: Exception) -> str | None:
        if not isinstance(error, self._errors) or not _is_transient(error):
            return None
        # What is pooled may be as dead as what just failed.
        self._engine.dispose()
        return _reason(error)

    def _sink_error(self, error: Exception) -> SinkError:
        reason = _reason(error)
        if _is_transient(error):
            return SinkUnavailableError(f"{self.name}: {reason}")
        if is_broken(_original(error)):
            return SinkUnavailableError(f"{self.name}: {reason}{hint(_original(error))}")
        if "no such table" in reason or getattr(_original(error), "sqlstate", None) == "42P01":
            reason += ": `footfall init` makes the tables"
        return SinkRefusedError(f"{self.name}: {reason}{hint(_original(error))}")


def _reason(error: Exception) -> str:
    return " ".join(str(_original(error)).split())[:300]


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise SinkRefusedError(
            "the URL of the store is none: takes sqlite:///file or postgresql://user@host/name"
        ) from None
    backend = parsed.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise SinkRefusedError(f"{backend}: takes sqlite:///file or postgresql://user@host/name")
    if backend == "sqlite" and (parsed.database or ":memory:") == ":memory:":
        raise SinkRefusedError("sqlite:// needs the path of a file: sqlite:///file")
    return parsed


def _number(lock: str) -> int:
    return int.from_bytes(blake2b(lock.encode(), digest_size=8).digest(), "big", signed=True)


def _original(error: BaseException) -> BaseException:
    return error.orig if isinstance(error, DBAPIError) and error.orig else error


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    original = _original(error)
    if isinstance(original, sqlite3.Error):
        return is_busy(original)
    if (state := getattr(original, "sqlstate", None)) is not None:
        return str(state).startswith(_TRANSIENT_STATES)
    # Without a state the server was not reached, or refused the connection with a FATAL text.
    if type(original).__name__ != "OperationalError":
        return False
    reason = str(original)
    return "FATAL" not in reason or any(word in reason for word in _TRANSIENT_FATAL)


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
