"""ClickHouse's HTTP interface over the embedded engine: from requests to calls and back."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from infra._clickhouse_bodies import (
    BODY_BYTES_MAX,
    FORM_BYTES_MAX,
    BodyError,
    BodyTooLargeError,
    decoded,
    encoded,
    form_fields,
    new_spool,
)
from infra._clickhouse_engine import Answer, Call, Engine, EngineError, failure, insert_from
from infra._clickhouse_sql import HEAD_BYTES_MAX, Shape, insert_with_data, shape_of

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
        "default_format",
        "compress",
        "decompress",
        "buffer_size",
        "wait_end_of_query",
        "stacktrace",
        "client_protocol_version",
    }
)
"""Parameters of the URL that speak to the HTTP interface; all others are settings."""

_STATUS_OF_CODES = {
    400: {6, 8, 15, 25, 26, 27, 36, 37, 38, 41, 44, 53, 62, 72, 117, 321, 427},
    401: {194},
    403: {192, 193, 497, 516},
    404: {46, 47, 50, 56, 60, 63, 73, 81, 115, 336, 511},
    408: {159},
    501: {48},
    503: {76, 209, 439},
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
_LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request whose body was read whole."""

    method: str
    params: Mapping[str, str]
    headers: Mapping[str, str]
    body: IO[bytes]


def make_app(engine: Engine, executor: Executor, spool_folder: Path) -> ASGIApp:
    """The interface as an ASGI application; calls run in the executor's threads."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            response = await _respond(Request(scope, receive), engine, executor, spool_folder)
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    return app


async def _respond(
    request: Request, engine: Engine, executor: Executor, spool_folder: Path
) -> Response:
    if _is_foreign(request.headers.get("origin", "")):
        return PlainTextResponse("Web pages of other hosts are not answered.\n", 403)
    path = request.scope["path"]
    query = request.scope["query_string"].decode("latin-1")
    params = dict(parse_qsl(query, keep_blank_values=True, errors="surrogateescape"))
    asks_nothing = request.method != "POST" and not params.get("query")
    if path in ("/ping", "/replicas_status") or (path == "/" and asks_nothing):
        return PlainTextResponse("Ok.\n")
    if path != "/" or request.method not in ("GET", "POST", "HEAD"):
        hint = "Use / for queries or /ping for health checks.\n"
        return PlainTextResponse(f"There is no handle {request.method} {path}\n{hint}", 404)
    common = {
        "X-ClickHouse-Server-Display-Name": SERVER_NAME,
        "X-ClickHouse-Query-Id": _header(params.get("query_id", "")) or str(uuid.uuid4()),
        "X-ClickHouse-Timezone": _header(params.get("session_timezone", "")) or engine.timezone,
    }
    try:
        with new_spool(spool_folder) as body:
            await _read_body(request, body)
            asked = _Asked(request.method, params, request.headers, body)
            work = partial(_run, engine, asked, common, spool_folder)
            return await asyncio.get_running_loop().run_in_executor(executor, work)
    except BodyTooLargeError as error:
        return PlainTextResponse(f"{error}\n", 413, headers=common)
    except OSError as error:
        return _error_response(_not_enough_space(error), engine, common)


def _header(value: str) -> str:
    """The value where it is fit for a header, else nothing."""
    return value if _HEADER_VALUE.fullmatch(value) else ""


def _is_foreign(origin: str) -> bool:
    """A page of the web in a local browser must not reach tables through the loopback."""
    return origin != "" and urlsplit(origin).hostname not in _LOCAL_HOSTS


async def _read_body(request: Request, body: IO[bytes]) -> None:
    size_bytes = 0
    async for chunk in request.stream():
        size_bytes += len(chunk)
        if size_bytes > BODY_BYTES_MAX:
            raise BodyTooLargeError(f"The body is longer than {BODY_BYTES_MAX} bytes")
        body.write(chunk)
    body.seek(0)


def _run(engine: Engine, asked: _Asked, common: dict[str, str], spool_folder: Path) -> Response:
    try:
        _check_user(asked)
        with tempfile.NamedTemporaryFile(dir=spool_folder, prefix="data-") as data:
            params, chunks = _text_of(asked)
            statement, shape = _statement_of(chunks, data)
            call, answer_format = _call_of(asked, params, statement, shape)
            answer = engine.run(call)
            if answer.body:
                answer_format = answer_format or call.default_format
    except EngineError as error:
        return _error_response(error, engine, common)
    except BodyTooLargeError:
        raise
    except BodyError as error:
        return _error_response(failure(36, str(error), "BAD_ARGUMENTS"), engine, common)
    return _answer_response(asked, answer, answer_format, common)


def _check_user(asked: _Asked) -> None:
    """There is one user, ``default``, without a password."""
    headers, params = asked.headers, asked.params
    user = headers.get("x-clickhouse-user") or params.get("user") or "default"
    password = headers.get("x-clickhouse-key") or params.get("password") or ""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            plain = base64.b64decode(credentials, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            plain = "?:?"
        user, _, password = plain.partition(":")
    if user != "default" or password:
        reason = (
            f"{user}: Authentication failed: password is incorrect, or there is no user with "
            "such name (the embedded server has the user default without a password)"
        )
        raise failure(516, reason, "AUTHENTICATION_FAILED")


def _text_of(asked: _Asked) -> tuple[dict[str, str], Iterator[bytes]]:
    """All parameters, of the URL and of a form; and the statement with its data: the query of
    the URL, a line end, the body."""
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


def _statement_of(chunks: Iterator[bytes], data: IO[bytes]) -> tuple[bytes, Shape | None]:
    """The statement to run, and its shape; no shape for an INSERT whose data, written to the
    file ``data``, it takes from there."""
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= HEAD_BYTES_MAX:
            break
    insert = insert_with_data(head[:HEAD_BYTES_MAX])
    # Short VALUES go as they are: they may hold parameters.
    short_values = len(head) < HEAD_BYTES_MAX
    if insert is not None and not (insert.data_format == "Values" and short_values):
        data.write(memoryview(head)[insert.data_starts :])
        for chunk in chunks:
            data.write(chunk)
        data.flush()
        return insert_from(insert, Path(data.name)), None
    statement = bytearray(head)
    for chunk in chunks:
        statement += chunk
        if len(statement) > STATEMENT_BYTES_MAX:
            raise BodyTooLargeError(f"The query is longer than {STATEMENT_BYTES_MAX} bytes")
    shape = shape_of(bytes(statement))
    if shape.empty:
        raise failure(62, "Syntax error: Empty query", "SYNTAX_ERROR")
    if shape.several:
        raise failure(62, "Syntax error: Multi-statements are not allowed", "SYNTAX_ERROR")
    if shape.refused:
        raise failure(48, shape.refused, "NOT_IMPLEMENTED")
    return bytes(statement), shape


def _call_of(
    asked: _Asked, params: Mapping[str, str], statement: bytes, shape: Shape | None
) -> tuple[Call, str | None]:
    """The call, and the format of its answer (None where no result is to be expected)."""
    for name in ("compress", "decompress"):
        if params.get(name, "0") not in ("0", "false"):
            reason = f"{name}=1 is not supported, use Accept-Encoding and Content-Encoding"
            raise failure(48, reason, "NOT_IMPLEMENTED")
    default_format = (
        asked.headers.get("x-clickhouse-format") or params.get("default_format") or "TabSeparated"
    )
    reads = shape is not None and shape.reads
    if asked.method != "POST" and not reads:
        reason = "Cannot execute query in readonly mode: the method GET only reads, use POST"
        raise failure(164, reason, "READONLY")
    answer_format = (shape.answer_format or default_format) if shape and reads else None
    return (
        Call(
            statement=statement,
            default_format=default_format,
            database=asked.headers.get("x-clickhouse-database") or params.get("database", ""),
            settings={
                name: value
                for name, value in params.items()
                if name not in _NOT_SETTINGS and not name.startswith("param_")
            },
            parameters={
                name.removeprefix("param_"): value
                for name, value in params.items()
                if name.startswith("param_")
            },
            session_id=params.get("session_id", ""),
            session_timeout_s=_seconds(params.get("session_timeout", "60")),
            session_check=params.get("session_check", "0") == "1",
        ),
        answer_format,
    )


def _seconds(text: str) -> float:
    if not text.isdigit():
        raise failure(36, f"Invalid session timeout: '{text[:40]}'", "BAD_ARGUMENTS")
    return float(text)


def _answer_response(
    asked: _Asked, answer: Answer, answer_format: str | None, common: dict[str, str]
) -> Response:
    summary = {name: str(count) for name, count in answer.summary.items()}
    headers = {**common, "X-ClickHouse-Summary": json.dumps(summary, separators=(",", ":"))}
    if answer_format is not None:
        headers["X-ClickHouse-Format"] = answer_format
    body, encoding = answer.body, ""
    if asked.params.get("enable_http_compression", "0") in ("1", "true"):
        body, encoding = encoded(body, asked.headers.get("accept-encoding", ""))
    if encoding:
        headers["Content-Encoding"] = encoding
    content_type = _CONTENT_TYPES.get(answer_format or "TSV", "text/plain; charset=UTF-8")
    return Response(body, headers=headers, media_type=content_type)


def _error_response(error: EngineError, engine: Engine, common: dict[str, str]) -> Response:
    text = error.text
    if "(version " not in text:
        text = f"{text} (version {engine.version})"
    return PlainTextResponse(
        f"{text}\n",
        _STATUS.get(error.code, 500),
        headers={**common, "X-ClickHouse-Exception-Code": str(error.code)},
    )


def _not_enough_space(error: OSError) -> EngineError:
    return failure(243, f"The body could not be kept: {error.strerror}", "NOT_ENOUGH_SPACE")
