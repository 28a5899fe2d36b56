"""The chDB engine as something to send calls to: settings, sessions and errors as ClickHouse has.

Every call outside a session has a connection handle of its own (made in 0.2 ms), so that
settings, parameters and temporary tables of one call are never seen by another. Handles run
at the same time on the one engine; a single handle is used by one call at a time.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra._clickhouse_sql import InsertWithData

SESSIONS_MAX = 256
SESSION_TIMEOUT_MAX_S = 3_600.0
RESULT_BYTES_MAX = 536_870_912
"""A result is held in memory whole; the setting ``max_result_bytes`` of a call moves this."""

_HANDLE_SETTINGS = {
    # An insert is a part at once, so what is acknowledged is on disk with no timer in between.
    "async_insert": "0",
    "max_result_bytes": str(RESULT_BYTES_MAX),
}
_CACHES = {
    "mark_cache_size": 67_108_864,
    "primary_index_cache_size": 67_108_864,
    "index_mark_cache_size": 16_777_216,
    "query_condition_cache_size": 16_777_216,
    "compiled_expression_cache_size": 16_777_216,
    "parquet_metadata_cache_size": 0,
    "vector_similarity_index_cache_size": 0,
    "text_index_tokens_cache_size": 0,
    "text_index_header_cache_size": 0,
    "text_index_postings_cache_size": 0,
    "iceberg_metadata_files_cache_size": 0,
    "unique_key_index_cache_size_bytes": 0,
}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_CODE = re.compile(r"Code: (\d+)\.")
_OF_FILE = re.compile(
    r": \(in file/uri [^)]*\)|: While executing File: data for INSERT was parsed from file"
)
"""Said of the file that a request's body was kept in, which its sender knows nothing of."""
_NESTED = re.compile(
    r"Code: (\d+)\. DB::Exception: (Code: \1\. DB::Exception: .*)\. "
    r"\([A-Z_]+\)(?: \(version .*\))?",
    re.DOTALL,
)

UNKNOWN_SETTING = 115
UNKNOWN_EXCEPTION = 1002
TOO_MANY_SIMULTANEOUS_QUERIES = 202
SESSION_NOT_FOUND = 372
SESSION_IS_LOCKED = 373


class EngineError(Exception):
    """An error in ClickHouse's words: ``Code: 60. DB::Exception: ... (UNKNOWN_TABLE)``."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class EngineMissingError(Exception):
    """The package chdb is not installed."""


def failure(code: int, reason: str, name: str) -> EngineError:
    """An error of our own, written as ClickHouse writes its errors."""
    return EngineError(code, f"Code: {code}. DB::Exception: {reason}. ({name})")


def engine_error(error: Exception) -> EngineError:
    """What the engine raised, without what wraps and repeats it."""
    text = str(error).strip()
    start = text.find("Code: ")
    text = text[max(start, 0) :]
    while nested := _NESTED.fullmatch(text):
        text = nested.group(2)
    text = _OF_FILE.sub("", text)
    code = _CODE.match(text)
    if code is None:
        return failure(UNKNOWN_EXCEPTION, text or type(error).__name__, "UNKNOWN_EXCEPTION")
    return EngineError(int(code.group(1)), text)


@dataclass(frozen=True, slots=True)
class Call:
    """One statement with everything it needs."""

    statement: bytes
    default_format: str = "TabSeparated"
    database: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    session_id: str = ""
    session_timeout_s: float = 60.0
    session_check: bool = False
    """The session must be there already."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The result in its format, and the counts of ClickHouse's summary header."""

    body: bytes
    summary: Mapping[str, int]


class _Handle:
    """A connection to the engine with the settings that were sent over it."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._applied: dict[str, str] = {}
        self.busy = False
        self.expires_at = 0.0

    def run(self, call: Call) -> Answer:
        if call.database:
            escaped = call.database.replace("\\", "\\\\").replace("`", "\\`")
            self._connection.query(f"USE `{escaped}`", "TSV")
        self._apply(call.settings)
        return self._query(call)

    def _apply(self, settings: Mapping[str, str]) -> None:
        """Set what differs from the last call of this session, and take back what it no longer
        sends: settings in a URL hold for one call."""
        changes = [f"{name} = DEFAULT" for name in self._applied if name not in settings]
        for name, value in settings.items():
            if not _NAME.fullmatch(name):
                raise failure(UNKNOWN_SETTING, f"Unknown setting '{name}'", "UNKNOWN_SETTING")
            if self._applied.get(name) != value:
                changes.append(f"{name} = {quoted(value)}")
        try:
            if changes:
                self._connection.query(f"SET {', '.join(changes)}", "TSV")
        except Exception:
            for name in {*self._applied, *settings}:
                with suppress(Exception):
                    self._connection.query(f"SET {name} = DEFAULT", "TSV")
            self._applied = {}
            raise
        self._applied = dict(settings)

    def _query(self, call: Call) -> Answer:
        result = self._connection.query(
            call.statement, call.default_format, params=dict(call.parameters)
        )
        body: bytes = result.bytes()
        return Answer(
            body,
            {
                "read_rows": result.storage_rows_read(),
                "read_bytes": result.storage_bytes_read(),
                "written_rows": result.rows_written(),
                "written_bytes": result.bytes_written(),
                "result_rows": result.rows_read(),
                "result_bytes": len(body),
                "elapsed_ns": int(result.elapsed() * 1e9),
            },
        )

    def close(self) -> None:
        with suppress(Exception):
            self._connection.close()


def insert_from(insert: InsertWithData, file: Path) -> bytes:
    """The statement of an INSERT that takes its data from a file.

    The engine's own stream of inserted chunks is not used: it reports success where the rows
    could not be written, on a full disk for one.
    """
    source = f"FROM INFILE {quoted(str(file))} ".encode()
    ending = f" FORMAT {insert.data_format}".encode()
    return insert.statement + b" " + source + insert.settings + ending


def quoted(text: str) -> str:
    """A string literal of SQL."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


class Engine:
    """The one engine of this process, on one data folder. Its methods may be called by threads
    at the same time."""

    def __init__(
        self,
        folder: Path,
        memory_bytes_max: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the folder, or make it. Raises EngineMissingError or EngineError."""
        try:
            import chdb
        except ImportError as error:
            raise EngineMissingError(str(error)) from None
        limits = {"max_server_memory_usage": memory_bytes_max, **_CACHES, **_HANDLE_SETTINGS}
        options = "&".join(f"{name}={value}" for name, value in limits.items())
        self._connect: Callable[[], Any] = lambda: chdb.connect(f"{folder}?{options}")
        self._clock = clock
        self._sessions: dict[str, _Handle] = {}
        self._lock = threading.Lock()
        try:
            # Held open: the engine ends with its last handle.
            self._first = self._connect()
            answer = self._first.query("SELECT version(), timezone()", "TSV").bytes()
        except RuntimeError as error:
            raise engine_error(error) from None
        self.version, self.timezone = answer.decode().rstrip("\n").split("\t")

    def run(self, call: Call) -> Answer:
        """Run a call to its end. Raises EngineError and nothing else."""
        try:
            with self._handle(call) as handle:
                return handle.run(call)
        except EngineError:
            raise
        except Exception as error:
            raise engine_error(error) from None

    @contextmanager
    def _handle(self, call: Call) -> Iterator[_Handle]:
        if not call.session_id:
            handle = _Handle(self._connect())
            try:
                yield handle
            finally:
                handle.close()
            return
        handle = self._enter_session(call)
        try:
            yield handle
        finally:
            with self._lock:
                timeout_s = min(call.session_timeout_s, SESSION_TIMEOUT_MAX_S)
                handle.expires_at = self._clock() + timeout_s
                handle.busy = False

    def _enter_session(self, call: Call) -> _Handle:
        with self._lock:
            self._drop_old_sessions(room_for=call.session_id)
            handle = self._sessions.pop(call.session_id, None)
            if handle is None:
                if call.session_check:
                    reason = f"Session {call.session_id} not found"
                    raise failure(SESSION_NOT_FOUND, reason, "SESSION_NOT_FOUND")
                handle = _Handle(self._connect())
            # The dict is in order of use: its first is the one longest unused.
            self._sessions[call.session_id] = handle
            if handle.busy:
                reason = f"Session {call.session_id} is locked by a concurrent client"
                raise failure(SESSION_IS_LOCKED, reason, "SESSION_IS_LOCKED")
            handle.busy = True
            return handle

    def _drop_old_sessions(self, room_for: str) -> None:
        now = self._clock()
        idle = [name for name, handle in self._sessions.items() if not handle.busy]
        surplus = len(self._sessions) + (room_for not in self._sessions) - SESSIONS_MAX
        for name in idle:
            if (name != room_for and surplus > 0) or self._sessions[name].expires_at < now:
                self._sessions.pop(name).close()
                surplus -= 1
        if surplus > 0:
            raise failure(
                TOO_MANY_SIMULTANEOUS_QUERIES,
                f"Too many sessions at once, at most {SESSIONS_MAX}",
                "TOO_MANY_SIMULTANEOUS_QUERIES",
            )

    def cancel_all(self) -> None:
        """Ask every running query to end."""
        with suppress(Exception):
            handle = self._connect()
            handle.query("KILL QUERY WHERE query_id != '' ASYNC", "TSV")
            handle.close()

    def close(self) -> None:
        """Close the engine. No call may be running."""
        for handle in self._sessions.values():
            handle.close()
        self._sessions.clear()
        with suppress(Exception):
            self._first.close()
