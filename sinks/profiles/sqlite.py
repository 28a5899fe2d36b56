"""Profiles in one SQLite file: the embedded twin of Aerospike.

Delivery    a put is one transaction, and putting again changes nothing
Durability  a put survives the crash of every process, not of the machine (as embedded topics)
Writers     several processes take turns; readers never wait for them
"""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import polars as pl

from footfall.schemas.profiles import NUM_TAGS_TO_KEEP_DEFAULT, ORDER
from footfall.sinks import SinkError, SinkRefusedError, SinkUnavailableError
from footfall.sinks._sqlite import hint, is_broken, is_busy, make_own
from footfall.sinks.profiles.frames import checked, newest
from footfall.sinks.retry import Backoff, call_with_retry

T = TypeVar("T")

BUSY_S = 5.0
"""Longest single wait in seconds for another process's put; it is repeated until the whole time is
over."""
IDLE_CONNECTIONS_MAX = 8
"""Most connections held open for readers; the writer has one of its own."""
WRITER_CACHE_KIB = 32_768
READER_CACHE_KIB = 4_096
WAL_PAGES = 8_000
"""Pages (32 MB) of the log at which it is folded into the file: folding is the dearest part of a
put."""
LAYOUT = 2
"""Number of the tables' layout; a file with another number is of another version."""
_LAYOUT_WITHOUT_TOPICS = 1

_ORDER = ", ".join(ORDER)
_NEWEST_FIRST = ", ".join(f"{name} DESC" for name in ORDER)
# Tags are stored in the order they came, which writes whole pages; only the narrow index is
# random.
_CREATE = (
    "CREATE TABLE IF NOT EXISTS tags (cookie TEXT NOT NULL, buy INTEGER NOT NULL,"
    " time_ms INTEGER NOT NULL, topic TEXT NOT NULL, topic_partition INTEGER NOT NULL,"
    " offset INTEGER NOT NULL, tag BLOB NOT NULL)",
    f"CREATE UNIQUE INDEX IF NOT EXISTS tags_of_cookie ON tags (cookie, buy, {_ORDER})",
    f"PRAGMA user_version = {LAYOUT}",
)
_MOVE = (
    # The name is quoted, because no value can be bound in a statement that changes a table.
    "ALTER TABLE tags ADD COLUMN topic TEXT NOT NULL DEFAULT {topic}",
    "DROP INDEX tags_of_cookie",
    *_CREATE[1:],
)
_PUT = f"INSERT OR IGNORE INTO tags (cookie, buy, {_ORDER}, tag) VALUES (?, ?, ?, ?, ?, ?, ?)"
_TRIM = (
    f"DELETE FROM tags WHERE cookie = ?1 AND buy = ?2 AND ({_ORDER}) <"
    f" (SELECT {_ORDER} FROM tags WHERE cookie = ?1 AND buy = ?2"
    f" ORDER BY {_NEWEST_FIRST} LIMIT 1 OFFSET ?3)"
)
_GET = (
    "SELECT tag FROM tags WHERE cookie = ? AND buy = ? AND time_ms >= ? AND time_ms < ?"
    f" ORDER BY {_NEWEST_FIRST} LIMIT ?"
)
_INT64_MAX = 2**63 - 1


class SqliteProfiles:
    """A ProfileStore on a file; the first use makes the file and its folder."""

    def __init__(
        self,
        path: Path,
        keep: int = NUM_TAGS_TO_KEEP_DEFAULT,
        *,
        give_up_after_s: float = 120.0,
        busy_s: float = BUSY_S,
    ) -> None:
        self._path = path
        self._keep = keep
        self._busy_s = busy_s
        self._backoff = Backoff(give_up_after_s=give_up_after_s)
        self._readers: deque[sqlite3.Connection] = deque(maxlen=IDLE_CONNECTIONS_MAX)
        self._writer: deque[sqlite3.Connection] = deque(maxlen=1)

    def put(self, tags: pl.DataFrame) -> None:
        """Add tags; see ProfileStore."""
        if tags.is_empty():
            return
        rows = newest(checked(tags), self._keep).with_columns(
            (pl.col("action") == "BUY").cast(pl.Int64).alias("action")
        )
        kinds = rows.select("cookie", "action").unique(maintain_order=True)
        trims = kinds.with_columns(pl.lit(self._keep - 1)).rows()
        values = rows.rows()

        def put(connection: sqlite3.Connection) -> None:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_PUT, values)
            connection.executemany(_TRIM, trims)
            connection.execute("COMMIT")

        try:
            call_with_retry(
                lambda: self._with_connection(self._writer, WRITER_CACHE_KIB, put),
                why_again=lambda error: str(error) if is_busy(error) else None,
                target=str(self._path),
                backoff=self._backoff,
            )
        except sqlite3.Error as error:
            raise self._sink_error(error) from error

    def get(
        self, cookie: str, from_ms: int, to_ms: int, limit: int
    ) -> tuple[list[bytes], list[bytes]]:
        """Return (views, buys) of a cookie; see ProfileStore."""
        bounds = (max(from_ms, 0), min(to_ms, _INT64_MAX), max(limit, 0))

        def get(connection: sqlite3.Connection) -> tuple[list[bytes], list[bytes]]:
            views = connection.execute(_GET, (cookie, 0, *bounds)).fetchall()
            buys = connection.execute(_GET, (cookie, 1, *bounds)).fetchall()
            return [tag for (tag,) in views], [tag for (tag,) in buys]

        try:
            return self._with_connection(self._readers, READER_CACHE_KIB, get)
        except sqlite3.Error as error:
            raise self._sink_error(error) from error
        except UnicodeEncodeError:
            # The text has half of a surrogate pair, which no cookie that was sent can have.
            return [], []

    def move(self, topic: str) -> int | None:
        """Give the tags of a file in its earlier layout their ``topic``; return their number.

        Returns None where there is no such file. Raises SinkError.
        """
        if not self._path.exists():
            return None

        def moved(connection: sqlite3.Connection) -> int | None:
            if _layout(connection) != _LAYOUT_WITHOUT_TOPICS:
                return None
            (quoted,) = connection.execute("SELECT quote(?)", (topic,)).fetchone()
            for statement in _MOVE:
                connection.execute(statement.format(topic=quoted))
            (count,) = connection.execute("SELECT count(*) FROM tags").fetchone()
            return int(count)

        try:
            with closing(sqlite3.connect(self._path, timeout=self._busy_s)) as connection:
                connection.isolation_level = None
                connection.execute("BEGIN IMMEDIATE")
                count = moved(connection)
                connection.execute("COMMIT")
                return count
        except sqlite3.Error as error:
            raise self._sink_error(error) from error

    def recent(self) -> list[pl.DataFrame]:
        """Return nothing: all tags are in the file."""
        return []

    def restore(self, tags: pl.DataFrame) -> None:
        """Put the tags; see ProfileStore."""
        self.put(tags)

    def settle(self) -> None:
        """Do nothing: there is nothing to wait for."""

    def close(self) -> None:
        """Close the connections; see ProfileStore."""
        for idle in (self._readers, self._writer):
            while idle:
                idle.pop().close()

    def _with_connection(
        self,
        idle: deque[sqlite3.Connection],
        cache_kib: int,
        work: Callable[[sqlite3.Connection], T],
    ) -> T:
        """Do ``work`` with a connection that nobody else uses: an idle one, or a new one."""
        try:
            connection = idle.pop()
        except IndexError:
            connection = self._open(cache_kib)
        try:
            result = work(connection)
        except BaseException:
            connection.close()
            raise
        if len(idle) == idle.maxlen:
            connection.close()
        else:
            idle.append(connection)
        return result

    def _open(self, cache_kib: int) -> sqlite3.Connection:
        try:
            make_own(self._path)
        except OSError as error:
            raise SinkRefusedError(f"profiles {self._path}: no folder for it ({error})") from None
        connection = sqlite3.connect(
            self._path,
            timeout=self._busy_s,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            self._set_up(connection)
            connection.execute(f"PRAGMA cache_size = -{cache_kib}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_up(self, connection: sqlite3.Connection) -> None:
        layout = _layout(connection)
        if layout == 0:
            _turn_wal_on(connection, self._busy_s)
            connection.execute("BEGIN IMMEDIATE")
            for statement in _CREATE:
                connection.execute(statement)
            connection.execute("COMMIT")
        elif layout == _LAYOUT_WITHOUT_TOPICS:
            raise SinkRefusedError(
                f"profiles {self._path} do not say of which topic their tags are: "
                "`footfall init` adds that"
            )
        elif layout != LAYOUT:
            raise SinkRefusedError(
                f"profiles {self._path} were written by another version ({layout}): move it away"
            )
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")

    def _sink_error(self, error: sqlite3.Error) -> SinkError:
        text = f"profiles {self._path}: {error}{hint(error)}"
        if is_broken(error) or is_busy(error):
            return SinkUnavailableError(text)
        return SinkRefusedError(text)


def _layout(connection: sqlite3.Connection) -> int:
    (layout,) = connection.execute("PRAGMA user_version").fetchone()
    return int(layout)


def _turn_wal_on(connection: sqlite3.Connection, wait_s: float) -> None:
    # SQLite's busy timeout does not cover this change, which needs the file for itself.
    deadline = time.monotonic() + wait_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
