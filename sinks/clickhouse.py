"""Write frames of rows to ClickHouse as upserts, make tables and views, and answer queries.

A write is one Arrow insert (at most INSERT_ROWS_MAX rows each), LZ4 within, and returns when
the server has it on disk. Rows are checked against the table before they are sent, because
ClickHouse itself wraps a number that is too large and writes a default for a missing value.
"""

from __future__ import annotations

import io
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any

import clickhouse_connect
import msgspec
import polars as pl
from clickhouse_connect.driver.exceptions import DatabaseError
from urllib3.exceptions import HTTPError

from footfall.schemas.addresses import AddressError
from footfall.schemas.database_addresses import clickhouse_address
from footfall.schemas.tables.clickhouse import DELETED, Table, View
from footfall.schemas.topics import APPENDED
from footfall.sinks import SinkRefusedError
from footfall.sinks._clickhouse_errors import (
    error_in_body,
    holds_error,
    is_unresolved,
    reason,
    remedy_of,
    why_again,
)
from footfall.sinks._clickhouse_pool import Pool
from footfall.sinks._clickhouse_rows import RowsError, rows_for
from footfall.sinks.retry import Backoff, call_with_retry
from footfall.sinks.tables import check_columns

INSERT_ROWS_MAX = 1_000_000
CONNECT_TIMEOUT_S = 10
ANSWER_TIMEOUT_S = 60

_INSERT_SETTINGS = {
    # A batch of history may touch many days; refusing it could never end in a success.
    "max_partitions_per_insert_block": "0",
    # The answer means "on disk": no buffer of the server is in between.
    "async_insert": "0",
    # The answer begins only after the insert: what has said 200 can no longer say 500.
    "wait_end_of_query": "1",
    "send_progress_in_http_headers": "0",
}
_FORMAT = re.compile(r"\bformat\b", re.IGNORECASE)


class ClickHouseTable:
    """A RowWriter for one table. The first write connects; it is used by one thread."""

    def __init__(
        self,
        url: str,
        table: Table,
        *,
        home: Path | None = None,
        give_up_after_s: float = 120.0,
        answer_timeout_s: int = ANSWER_TIMEOUT_S,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the address; raise SinkRefusedError where it is not a valid one.

        ``url`` is ``http://[user[:password]@]host[:port][/database]``. Where the embedded server
        of ``home`` listens at the URL, and the URL names no user, requests bring that server's
        password.
        """
        self._table = table
        backoff = Backoff(give_up_after_s, sleep=sleep, clock=clock)
        self._link = _Link(url, backoff, home, answer_timeout_s=answer_timeout_s)

    def write(self, frames: Sequence[pl.DataFrame]) -> None:
        """Return when all rows are durable; writing them again changes nothing.

        Raises SinkUnavailableError when the server failed for ``give_up_after_s``, and
        SinkRefusedError for rows or a table that will never fit.
        """
        target = f"{self._link.where}, table {self._table.name}"
        try:
            fitted = [_fitted(self._table, frame) for frame in frames if frame.height]
        except RowsError as error:
            raise SinkRefusedError(f"{target}: {error}") from None
        if not fitted:
            return
        rows = pl.concat(fitted)
        for start in range(0, rows.height, INSERT_ROWS_MAX):
            block = _arrow(rows.slice(start, INSERT_ROWS_MAX))
            self._link.call(partial(self._insert, block), target)

    def _insert(self, block: bytes, client: Any) -> None:
        columns = [*self._table.columns, APPENDED]
        client.raw_insert(self._table.name, columns, block, _INSERT_SETTINGS, "ArrowStream")

    def close(self) -> None:
        """Release connections. Never raises."""
        self._link.close()


class ClickHouseReader:
    """Queries over one kept connection. The first query connects; threads may share it."""

    def __init__(
        self,
        url: str,
        *,
        home: Path | None = None,
        give_up_after_s: float = 0.0,
        answer_timeout_s: int = ANSWER_TIMEOUT_S,
    ) -> None:
        """Take ``url`` and ``home`` as in ClickHouseTable. By default a failed query is not
        repeated."""
        backoff = Backoff(give_up_after_s)
        self._link = _Link(url, backoff, home, answer_timeout_s=answer_timeout_s)

    def rows(
        self, sql: str, parameters: Mapping[str, object] | None = None
    ) -> tuple[list[str], list[list[Any]]]:
        """Return (names of the columns, rows of numbers, texts, lists and None as in JSON).

        ``parameters`` are bound to ``{name:Type}`` in the query. A statement without a result
        gives two empty lists. Raises SinkUnavailableError and SinkRefusedError.
        """
        found: tuple[list[str], list[list[Any]]] = self._link.call(
            partial(self._ask, sql, dict(parameters or {})), self._link.where
        )
        return found

    def _ask(
        self, sql: str, parameters: dict[str, object], client: Any
    ) -> tuple[list[str], list[list[Any]]]:
        answer = client.raw_query(
            sql,
            parameters=parameters,
            settings={"output_format_json_quote_64bit_integers": "0"},
            transport_settings={"X-ClickHouse-Format": "JSONCompact"},
        )
        if not answer.strip():
            return [], []
        try:
            result = msgspec.json.decode(answer)
            if "exception" not in result:
                return [column["name"] for column in result["meta"]], result["data"]
        except (msgspec.DecodeError, KeyError, TypeError):
            if _FORMAT.search(sql) and not holds_error(answer):
                raise SinkRefusedError(
                    f"{self._link.where}: the query chooses its own FORMAT; leave that clause out"
                ) from None
        # The result broke off, perhaps after some rows; or it is a web page.
        raise error_in_body(answer)

    def frame(self, sql: str) -> pl.DataFrame:
        """Return the rows as a frame: quick where there are many. Raises as ``rows`` does."""
        found: pl.DataFrame = self._link.call(partial(self._ask_frame, sql), self._link.where)
        return found

    def _ask_frame(self, sql: str, client: Any) -> pl.DataFrame:
        answer = client.raw_query(
            sql,
            settings={
                "output_format_arrow_string_as_string": "1",
                # With this, an answer that says 200 does not break off.
                "wait_end_of_query": "1",
            },
            transport_settings={"X-ClickHouse-Format": "ArrowStream"},
        )
        try:
            return pl.read_ipc_stream(io.BytesIO(answer))
        except (pl.exceptions.PolarsError, OSError):
            raise error_in_body(answer) from None

    def close(self) -> None:
        """Release connections. Never raises."""
        self._link.close()


def query_rows(
    url: str,
    sql: str,
    parameters: Mapping[str, object] | None = None,
    *,
    home: Path | None = None,
) -> tuple[list[str], list[list[Any]]]:
    """Answer one query over a connection of its own, as ClickHouseReader.rows does."""
    reader = ClickHouseReader(url, home=home)
    try:
        return reader.rows(sql, parameters)
    finally:
        reader.close()


def create_tables(
    url: str,
    tables_and_views: Sequence[Table | View],
    *,
    home: Path | None = None,
    give_up_after_s: float = 30.0,
) -> None:
    """Make the database of the URL, the tables and the views that are not there yet.

    It is safe to repeat, and from several processes at once. Raises SinkRefusedError for a table
    that is there with other columns, and SinkUnavailableError.
    """
    backoff = Backoff(give_up_after_s)
    link = _Link(url, backoff, home)
    try:
        if link.database:
            outside = _Link(url, backoff, home, use_database=False)
            name = link.database.replace("`", "``")
            outside.call(
                methodcaller("command", f"CREATE DATABASE IF NOT EXISTS `{name}`"),
                f"{link.where}, database {link.database}",
            )
            outside.close()
        for item in tables_and_views:
            target = f"{link.where}, {type(item).__name__.lower()} {item.name}"
            link.call(methodcaller("command", item.create()), target)
            if isinstance(item, Table):
                _check_columns(link, item, target)
                link.call(methodcaller("command", item.add_appended()), target)
    finally:
        link.close()


def _check_columns(link: _Link, table: Table, target: str) -> None:
    found = link.call(
        lambda client: (
            client.query(
                "SELECT name, type FROM system.columns "
                "WHERE database = currentDatabase() AND table = {name:String}",
                parameters={"name": table.name},
            ).result_rows
        ),
        target,
    )
    wanted = {**table.columns, DELETED: "UInt8"}
    move = f"RENAME TABLE {table.name} TO {table.name}_old"
    check_columns(target, wanted, dict(found), move)


def _fitted(table: Table, frame: pl.DataFrame) -> pl.DataFrame:
    """Return the frame in the table's form, with APPENDED, which is 0 where the rows lack it."""
    given = frame[APPENDED] if APPENDED in frame.columns else pl.lit(0, pl.Int64).alias(APPENDED)
    return rows_for(table, frame).with_columns(given)


def _arrow(rows: pl.DataFrame) -> bytes:
    """Return the rows as Arrow with the oldest layout of strings, which servers of all ages
    read."""
    block = io.BytesIO()
    rows.write_ipc_stream(block, compression="lz4", compat_level=pl.CompatLevel.oldest())
    return block.getvalue()


class _Link:
    """A server, a client of it that is made when first needed, and calls with retries."""

    def __init__(
        self,
        url: str,
        backoff: Backoff,
        home: Path | None,
        *,
        use_database: bool = True,
        answer_timeout_s: int = ANSWER_TIMEOUT_S,
    ) -> None:
        try:
            address = clickhouse_address(url)
            self._pool = Pool(address, home)
        except AddressError as error:
            raise SinkRefusedError(f"CLICKHOUSE_URL {error}") from None
        self.where = f"ClickHouse at {address.origin}"
        self.database = address.database
        self._backoff = backoff
        self._has_answered = False
        self._client: Any = None
        self._options: dict[str, Any] = {
            "interface": address.scheme,
            "host": address.host,
            "port": address.port,
            "username": address.user or "default",
            "password": address.password,
            "compress": False,
            # Sessions would lock out a retry while the timed-out attempt still runs.
            "autogenerate_session_id": False,
            "connect_timeout": CONNECT_TIMEOUT_S,
            "send_receive_timeout": answer_timeout_s,
            "query_retries": 0,
            "client_name": "footfall",
        }
        if answer_timeout_s > ANSWER_TIMEOUT_S:
            # A server may end what takes longer; the embedded one does so after a minute.
            self._options["settings"] = {"max_execution_time": answer_timeout_s}
        if self.database and use_database:
            self._options["database"] = self.database

    def call(self, action: Callable[[Any], Any], target: str) -> Any:
        """Return what the action returns. Raises SinkUnavailableError and SinkRefusedError."""
        try:
            return call_with_retry(
                lambda: self._done(action),
                why_again=self._why_again,
                target=target,
                backoff=self._backoff,
            )
        except (DatabaseError, HTTPError, OSError) as error:
            raise SinkRefusedError(f"{target}: {reason(error)}", remedy_of(error)) from error

    def _done(self, action: Callable[[Any], Any]) -> Any:
        result = action(self._connected())
        self._has_answered = True
        return result

    def _why_again(self, error: Exception) -> str | None:
        # A name that once led to a server may be gone while that server restarts.
        if is_unresolved(error) and not self._has_answered:
            return None
        return why_again(error)

    def _connected(self) -> Any:
        if self._client is None:
            # The client logs every failed attempt; the retry logs it once.
            for noisy in ("clickhouse_connect", "urllib3.connectionpool"):
                logging.getLogger(noisy).setLevel(logging.ERROR)
            self._client = clickhouse_connect.get_client(**self._options, pool_mgr=self._pool)
        return self._client

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            try:
                client.close()
                self._pool.clear()
            except Exception:
                logging.getLogger(__name__).debug("closing a client failed", exc_info=True)
