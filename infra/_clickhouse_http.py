"""ClickHouse's HTTP interface over the embedded engine: from requests to calls and back."""

from __future__ import annotations

import json
import re
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from footfall.infra._clickhouse_bodies import (
    BODY_BYTES_MAX,
    FORM_BYTES_MAX,
    BodyError,
    BodyTooLargeError,
    decoded,
    encoded,
    form_fields,
    new_spool,
)
from footfall.infra._clickhouse_door import Door
from footfall.infra._clickhouse_engine import Answer, Call, Engine
from footfall.infra._clickhouse_errors import Code, EngineError, failure
from footfall.infra._clickhouse_metrics import ClickHouseMetrics
from footfall.infra._clickhouse_sql import HEAD_BYTES_MAX, InsertWithData, insert_with_data
from footfall.infra._clickhouse_turns import Turns

STATEMENT_BYTES_MAX = 67_108_864
SERVER_NAME = "footfall-embedded"

_NOT_SETTINGS = frozenset(
    {
        "query",
        "database",
        "user",
        "password",
        "quota_key",
        "role",
        "query_id",
        "session_id",
        "session_timeout",
        "session_check",
        "close_session",
        "log_comment",
        "default_format",
        "compress",
        "decompress",
        "buffer_size",
        "wait_end_of_query",
        "stacktrace",
        "client_protocol_version",
    }
)
"""Parameters of the URL for the HTTP interface; all others are settings.

No session is kept, so parameters about sessions are ignored. ``log_comment`` is reserved for us:
queries are cancelled by it.
"""

_STATUS_OF_CODES = {
    400: {6, 8, 15, 25, 26, 27, 36, 37, 38, 41, 44, 53, 62, 72, 117, 321, 427},
    401: {194},
    403: {192, 193, 497, 516},
    404: {46, 47, 50, 56, 60, 63, 73, 81, 115, 336, 511},
    408: {159},
    501: {48},
    503: {76, 202, 209, 439},
}
_STATUS = {code: status for status, codes in _STATUS_OF_CODES.items() for code in codes}
_CONTENT_TYPES = {
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "TSV": "text/tab-separated-values; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "CSVWithNames": "text/csv; charset=UTF-8; header=present",
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "Native": "application/octet-stream",
    "Arrow": "application/octet-stream",
    "ArrowStream": "application/octet-stream",
    "Parquet": "application/octet-stream",
    "RowBinary": "application/octet-stream",
}
_HEADER_VALUE = re.compile(r"[A-Za-z0-9_./:+-]{1,128}")


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request whose body was read completely."""

    method: str
    params: Mapping[str, str]
    headers: Mapping[str, str]
    body: IO[bytes]


class ClickHouseApp:
    """The interface as an ASGI application."""

    def __init__(
        self,
        engine: Engine,
        door: Door,
        turns: Turns,
        spool_folder: Path,
        metrics: ClickHouseMetrics,
    ) -> None:
        self._metrics = metrics
        self._engine = engine
        self._door = door
        self._turns = turns
        self._spool_folder = spool_folder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. No answer is sent where the client has gone."""
        try:
            response = await self._respond(Request(scope, receive))
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        refusal = self._door.turned_away(request.headers)
        if refusal is not None:
            self._metrics.turned_away()
            return PlainTextResponse(f"{refusal}\n", 403)
        path = request.scope["path"]
        query = request.scope["query_string"].decode("latin-1")
        params = dict(parse_qsl(query, keep_blank_values=True, errors="surrogateescape"))
        asks = request.method == "POST" or bool(params.get("query"))
        if path == "/ping" or (path == "/" and not asks and request.method != "OPTIONS"):
            return PlainTextResponse("Ok.\n")
        if path != "/" or request.method not in ("GET", "POST", "HEAD"):
            hint = "Use / for queries or /ping for health checks.\n"
            return PlainTextResponse(f"There is no handle {request.method} {path}\n{hint}", 404)
        return await self._asked(request, params)

    async def _asked(self, request: Request, params: Mapping[str, str]) -> Response:
        common = {
            "X-ClickHouse-Server-Display-Name": SERVER_NAME,
            "X-ClickHouse-Query-Id": _header(params.get("query_id", "")) or str(uuid.uuid4()),
            "X-ClickHouse-Timezone": _header(params.get("session_timezone", ""))
            or self._engine.timezone,
        }
        try:
            with self._metrics.query():
                # Before the body is read: a client without the password may not fill the disk.
                self._door.check_password(request.headers, params)
                return await self._let_in(request, params, common)
        except EngineError as error:
            return self._error(error, common)
        except BodyTooLargeError as error:
            return PlainTextResponse(f"{error}\n", 413, headers=common)
        except OSError as error:
            reason = f"The body could not be kept: {error.strerror}"
            return self._error(failure(Code.NOT_ENOUGH_SPACE, reason), common)

    async def _let_in(
        self, request: Request, params: Mapping[str, str], common: dict[str, str]
    ) -> Response:
        with new_spool(self._spool_folder) as body:
            await _read_body(request, body)
            asked = _Asked(request.method, params, request.headers, body)
            name = uuid.uuid4().hex
            return await self._turns.run(
                lambda: self._run(asked, name, common),
                gone=_gone(request),
                cancel=lambda: self._engine.cancel(name),
            )

    def _run(self, asked: _Asked, name: str, common: dict[str, str]) -> Response:
        try:
            with tempfile.NamedTemporaryFile(dir=self._spool_folder, prefix="data-") as data:
                params, chunks = _text_of(asked)
                statement = _statement_of(chunks, data)
                answer = self._engine.run(_call_of(asked, params, statement, name, data.name))
        except BodyTooLargeError:
            raise
        except BodyError as error:
            raise failure(Code.BAD_ARGUMENTS, str(error)) from None
        self._metrics.inserted(answer.summary["written_rows"])
        return _answer_response(asked, answer, common)

    def _error(self, error: EngineError, common: dict[str, str]) -> Response:
        text = error.text
        if "(version " not in text:
            text = f"{text} (version {self._engine.version})"
        return PlainTextResponse(
            f"{text}\n",
            _STATUS.get(error.code, 500),
            headers={**common, "X-ClickHouse-Exception-Code": str(error.code)},
        )


async def _gone(request: Request) -> None:
    """Return when the client closes the connection. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _header(value: str) -> str:
    """Return the value where it is fit for a header, else ""."""
    return value if _HEADER_VALUE.fullmatch(value) else ""


async def _read_body(request: Request, body: IO[bytes]) -> None:
    size_bytes = 0
    async for chunk in request.stream():
        size_bytes += len(chunk)
        if size_bytes > BODY_BYTES_MAX:
            raise BodyTooLargeError(f"The body is longer than {BODY_BYTES_MAX} bytes")
        body.write(chunk)
    body.seek(0)


def _text_of(asked: _Asked) -> tuple[dict[str, str], Iterator[bytes]]:
    """Return all parameters, of the URL and of a form, and the statement with its data.

    They are the query of the URL, a line end, and the body.
    """
    params = dict(asked.params)
    content_type = asked.headers.get("content-type", "")
    if content_type.lower().startswith("multipart/form-data"):
        body = asked.body.read(FORM_BYTES_MAX + 1)
        if len(body) > FORM_BYTES_MAX:
            raise BodyTooLargeError(f"The form is longer than {FORM_BYTES_MAX} bytes")
        for name, value in form_fields(body, content_type).items():
            params[name] = value.decode(errors="surrogateescape")
        chunks: Iterator[bytes] = iter(())
    else:
        chunks = decoded(asked.body, asked.headers.get("content-encoding", "").lower())
    query = params.get("query", "").encode(errors="surrogateescape")
    return params, chain((query + b"\n",) if query else (), chunks)


def _statement_of(chunks: Iterator[bytes], data: IO[bytes]) -> bytes | InsertWithData:
    """Return the statement to run; write the data of an INSERT to the file ``data``."""
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= HEAD_BYTES_MAX:
            break
    insert = insert_with_data(head[:HEAD_BYTES_MAX])
    if insert is not None:
        data.write(memoryview(head)[insert.data_starts :])
        for chunk in chunks:
            data.write(chunk)
        data.flush()
        return insert
    statement = bytearray(head)
    for chunk in chunks:
        statement += chunk
        if len(statement) > STATEMENT_BYTES_MAX:
            raise BodyTooLargeError(f"The query is longer than {STATEMENT_BYTES_MAX} bytes")
    if not statement.strip():
        raise failure(Code.SYNTAX_ERROR, "Syntax error: Empty query")
    return bytes(statement)


def _call_of(
    asked: _Asked,
    params: Mapping[str, str],
    statement: bytes | InsertWithData,
    name: str,
    data_file: str,
) -> Call:
    for option in ("compress", "decompress"):
        if params.get(option, "0") not in ("0", "false"):
            reason = f"{option}=1 is not supported, use Accept-Encoding and Content-Encoding"
            raise failure(Code.NOT_IMPLEMENTED, reason)
    headers = asked.headers
    return Call(
        name=name,
        statement=statement,
        data_file=data_file,
        default_format=headers.get("x-clickhouse-format")
        or params.get("default_format")
        or "TabSeparated",
        database=headers.get("x-clickhouse-database") or params.get("database", ""),
        settings={
            key: value
            for key, value in params.items()
            if key not in _NOT_SETTINGS and not key.startswith("param_")
        },
        parameters={
            key.removeprefix("param_"): value
            for key, value in params.items()
            if key.startswith("param_")
        },
        only_reads=asked.method != "POST",
    )


def _answer_response(asked: _Asked, answer: Answer, common: dict[str, str]) -> Response:
    summary = {name: str(count) for name, count in answer.summary.items()}
    headers = {**common, "X-ClickHouse-Summary": json.dumps(summary, separators=(",", ":"))}
    if answer.format is not None:
        headers["X-ClickHouse-Format"] = answer.format
    body, encoding = answer.body, ""
    if asked.params.get("enable_http_compression", "0") in ("1", "true"):
        body, encoding = encoded(body, asked.headers.get("accept-encoding", ""))
    if encoding:
        headers["Content-Encoding"] = encoding
    content_type = _CONTENT_TYPES.get(answer.format or "TSV", "text/plain; charset=UTF-8")
    return Response(body, headers=headers, media_type=content_type)
