"""The chDB engine, which runs calls with ClickHouse's statements, settings and errors.

Every call has a connection handle of its own (made in 0.2 ms), so that settings and parameters
of one call are never seen by another. Handles run at the same time on the one engine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from footfall.infra._clickhouse_config import check_grants, write_config
from footfall.infra._clickhouse_errors import Code, EngineError, engine_error, failure
from footfall.infra._clickhouse_move import move_tables
from footfall.infra._clickhouse_sql import InsertWithData
from footfall.infra._clickhouse_statements import (
    Statement,
    check_format,
    inspected,
    inspected_plain,
    setting_refusal,
)
from footfall.schemas.embedded_clickhouse import DATABASE

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
_TEXT_SETTINGS = (
    "SELECT name FROM system.settings WHERE type IN ('String', 'Map', 'URI', 'Dialect')"
)
_TEXT_SETTINGS_TAKEN = frozenset(
    {
        "bool_false_representation",
        "bool_true_representation",
        "count_distinct_implementation",
        "format_csv_null_representation",
        "format_tsv_null_representation",
        "insert_deduplication_token",
    }
)
"""Other text settings hold an expression (``filter``), a path, an address or a format."""
_OF_THE_ASKING = re.compile(
    r"[.:]? ?: In scope SELECT parseQueryToJSON\(.*(?=\. \([A-Z_]+\))", re.DOTALL
)
KNOWN_MAX, KNOWN_BYTES_MAX = 512, 8_192
"""Number and length of the statements that are kept as inspected."""
_ANY_FILE = "data"
_OURS = f"&database={DATABASE}"


class EngineMissingError(Exception):
    """The package chdb is not installed."""


@dataclass(frozen=True, slots=True)
class Call:
    """One statement with all that it needs."""

    name: str
    """The name of this call alone; ``Engine.cancel`` takes it."""
    statement: bytes | InsertWithData
    data_file: str = ""
    """The file with the data of an INSERT."""
    default_format: str = "TabSeparated"
    database: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    only_reads: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """The result, its format (None where the statement gives none), and the counts of
    ClickHouse's summary header."""

    body: bytes
    format: str | None
    summary: Mapping[str, int]


def insert_from(insert: InsertWithData, file: str) -> bytes:
    """Return the statement of an INSERT that takes its data from a file.

    The engine's own stream of inserted chunks is not used: it reports success where the rows could
    not be written, such as on a full disk.
    """
    source = f"FROM INFILE {quoted(file)} ".encode()
    ending = f" FORMAT {insert.data_format}".encode()
    return insert.statement + b" " + source + insert.settings + ending


def quoted(text: str) -> str:
    """Return a text as a string literal of SQL."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


class Engine:
    """The one engine of this process, on one data folder. Threads may call its methods at once."""

    def __init__(self, folder: Path, memory_bytes_max: int, query_s_max: int) -> None:
        """Open or make the data in a folder, and move tables that an older version left elsewhere.

        Raises EngineMissingError or EngineError.
        """
        try:
            import chdb
        except ImportError as error:
            raise EngineMissingError(str(error)) from None
        limits = {"max_server_memory_usage": memory_bytes_max, **_CACHES, "implicit_select": 0}
        options = "&".join(f"{name}={value}" for name, value in limits.items())
        at = f"{folder / 'engine'}?{write_config(folder, query_s_max)}&{options}"
        self._connect: Callable[[str], Any] = lambda more: chdb.connect(f"{at}{more}")
        try:
            # This handle stays open: the engine ends with its last one.
            self._first = self._connect("")
            check_grants(self._ask("SHOW GRANTS"))
            self._ask(f"CREATE DATABASE IF NOT EXISTS {DATABASE}")
            self.left = move_tables(self._ask)
            answer = self._ask("SELECT version(), timezone()")
            self._settings_refused = frozenset(self._ask(_TEXT_SETTINGS).split())
        except RuntimeError as error:
            raise engine_error(error) from None
        self._settings_refused -= _TEXT_SETTINGS_TAKEN
        self.version, self.timezone = answer.rstrip("\n").split("\t")
        self._known: dict[tuple[bytes, str | None], Statement] = {}

    def _ask(self, sql: str, parameters: Mapping[str, str] | None = None) -> str:
        """Return the answer to one of the server's own statements."""
        answer = self._first.query(sql, "TSVRaw", params=dict(parameters or {}))
        return bytes(answer.bytes()).decode(errors="replace")

    def run(self, call: Call) -> Answer:
        """Run a call to its end. Raises EngineError for what is wrong or not allowed."""
        try:
            with closing(self._connect(f"{_OURS}&log_comment={call.name}")) as handle:
                statement, text = self._inspected(handle, call)
                check_format(call.default_format)
                if call.only_reads and not statement.reads:
                    reason = "Cannot execute query in readonly mode: GET only reads, use POST"
                    raise failure(Code.READONLY, reason)
                if call.database:
                    handle.query(f"USE {_identifier(call.database)}", "TSV")
                self._set(handle, call.settings)
                if call.only_reads:
                    # This comes last: it can neither be changed nor taken back.
                    handle.query("SET readonly = 1", "TSV")
                return _answered(handle, call, statement, text)
        except EngineError:
            raise
        except Exception as error:
            raise engine_error(error) from None

    def _inspected(self, handle: Any, call: Call) -> tuple[Statement, bytes]:
        """Return what is known of the statement, and its text to run."""
        if isinstance(call.statement, bytes):
            return self._statement(handle, call.statement, None), call.statement
        # It is inspected with a fixed file name, so that equal INSERTs are inspected once. The
        # true name is a quoted literal too, and changes nothing else in the statement.
        text = insert_from(call.statement, _ANY_FILE)
        statement = self._statement(handle, text, _ANY_FILE)
        return statement, insert_from(call.statement, call.data_file)

    def _statement(self, handle: Any, text: bytes, data_file: str | None) -> Statement:
        key = (text, data_file)
        known = self._known.get(key)
        if known is None:
            known = self._asked(handle, text, data_file)
            if len(text) <= KNOWN_BYTES_MAX:
                if len(self._known) >= KNOWN_MAX:
                    self._known.clear()
                self._known[key] = known
        return known

    def _asked(self, handle: Any, text: bytes, data_file: str | None) -> Statement:
        def ask(function: str) -> str:
            sql = f"SELECT {function}(unhex({{q:String}})) SETTINGS max_query_size = 0"
            answer = handle.query(sql, "TSVRaw", params={"q": text.hex()})
            return bytes(answer.bytes()).decode(errors="replace").removesuffix("\n")

        try:
            try:
                tree = ask("parseQueryToJSON")
            except RuntimeError as error:
                if engine_error(error).code != Code.BAD_ARGUMENTS:
                    raise
                return inspected_plain(ask("formatQuerySingleLine"))
        except RuntimeError as error:
            known = engine_error(error)
            raise EngineError(known.code, _OF_THE_ASKING.sub("", known.text)) from None
        return inspected(msgspec.json.decode(tree), self._settings_refused, data_file)

    def _set(self, handle: Any, settings: Mapping[str, str]) -> None:
        for name in settings:
            if not _NAME.fullmatch(name):
                raise failure(Code.UNKNOWN_SETTING, f"Unknown setting '{name}'")
            if name in self._settings_refused:
                raise setting_refusal(name)
        if settings:
            changes = ", ".join(f"{name} = {quoted(value)}" for name, value in settings.items())
            handle.query(f"SET {changes}", "TSV")

    def cancel(self, name: str | None = None) -> None:
        """Ask the call of this name to end, or every one."""
        which = f"Settings['log_comment'] = {quoted(name)}" if name else "query_id != ''"
        with suppress(Exception), closing(self._connect("")) as handle:
            handle.query(f"KILL QUERY WHERE {which} ASYNC", "TSV")

    def close(self) -> None:
        """Close the engine. No call may be running."""
        with suppress(Exception):
            self._first.close()


def _answered(handle: Any, call: Call, statement: Statement, text: bytes) -> Answer:
    result = handle.query(text, call.default_format, params=dict(call.parameters))
    body: bytes = result.bytes()
    gives = statement.reads or bool(body)
    return Answer(
        body,
        (statement.answer_format or call.default_format) if gives else None,
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


def _identifier(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"
