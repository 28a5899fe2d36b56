"""Asking ClickHouse over HTTP without blocking: bound parameters, JSON rows back."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from footfall.api.aggregates import Sums
from footfall.schemas.addresses import AddressError
from footfall.schemas.database_addresses import clickhouse_address
from footfall.schemas.embedded_clickhouse import own_headers
from footfall.sinks import SinkRefusedError, SinkUnavailableError

ANSWER_WITHIN_S = 20.0
CONNECT_WITHIN_S = 2.0
CONNECTIONS_MAX = 8
KEEP_ALIVE_S = 5.0
"""Shorter than servers keep an idle connection."""
ANSWER_BYTES_MAX = 8 * 1_048_576
DATETIME_S_MAX = 2**32 - 1
"""The last second of ClickHouse's DateTime, in 2106: no bucket is later."""

_ERROR = re.compile(r"Code: \d+[.,] [^\n]*[^\n\",]")
_TAGS = re.compile(r"<[^>]*>")
_decode_rows = msgspec.json.Decoder(list[list[Any]]).decode
_ESCAPES = {ord("\\"): "\\\\", ord("\t"): "\\t", ord("\n"): "\\n", ord("\r"): "\\r", 0: "\\0"}


class ClickHouse:
    """A ClickHouse server, real or embedded. Make it inside the event loop that serves."""

    def __init__(self, url: str, home: Path | None = None) -> None:
        """Prepare requests to the server at ``url``.

        Where the URL names no user and the embedded server of ``home`` listens there, requests
        carry that server's password.
        """
        try:
            address = clickhouse_address(url)
            tls = address.tls()
        except AddressError as error:
            raise SinkRefusedError(f"CLICKHOUSE_URL {error}") from None
        self._url = f"{address.origin}/"
        self._own_headers = partial(own_headers, home, address)
        # The status is then that of the whole query, and not of its beginning.
        self._settings = {"wait_end_of_query": "1"}
        if address.database:
            self._settings["database"] = address.database
        self._session = aiohttp.ClientSession(
            headers=address.headers,
            timeout=aiohttp.ClientTimeout(total=ANSWER_WITHIN_S, sock_connect=CONNECT_WITHIN_S),
            connector=aiohttp.TCPConnector(
                limit=CONNECTIONS_MAX, keepalive_timeout=KEEP_ALIVE_S, ssl=tls or True
            ),
        )

    async def rows(
        self, query: str, parameters: Mapping[str, str | int] | None = None
    ) -> list[list[Any]]:
        """Return the rows of a SELECT. ``{name:Type}`` in it takes its value from parameters.

        64-bit integers come as strings. Raises SinkUnavailableError where the server does not
        answer in time, SinkRefusedError with its reason where it refuses.
        """
        bound = {f"param_{name}": _escaped(value) for name, value in (parameters or {}).items()}
        try:
            status, body = await self._post(f"{query} FORMAT JSONCompact".encode(), bound)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise SinkUnavailableError(
                f"ClickHouse at {self._url} does not answer: {_reason(error)}"
            ) from None
        rows = _rows_of(body) if status == 200 else None
        if rows is not None:
            return rows
        text = body.decode("utf-8", "replace")
        found = _ERROR.search(text)
        if status == 200 and found is None:
            raise SinkRefusedError(f"what answers at {self._url} is no ClickHouse")
        reason = " ".join((found.group() if found else _TAGS.sub(" ", text)).split())[:500]
        raise SinkRefusedError(
            f"ClickHouse at {self._url} refuses: {reason or f'HTTP status {status}'}"
        )

    async def _post(self, query: bytes, bound: Mapping[str, str]) -> tuple[int, bytes]:
        parameters = self._settings | dict(bound)
        for last in (False, True):
            try:
                async with self._session.post(
                    self._url, params=parameters, data=query, headers=self._own_headers()
                ) as response:
                    # Without a body a failed query has its code in the header alone.
                    code = response.headers.get("X-ClickHouse-Exception-Code")
                    body = await _read(response)
                    if response.status == 200 and code:
                        return 500, body or f"Code: {code}. DB::Exception".encode()
                    return response.status, body
            except aiohttp.ServerDisconnectedError:
                # The server closed a kept connection just then; to ask again is harmless.
                if last:
                    raise
        raise AssertionError("the second attempt returns or raises")

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()
        # Lets the transports of closed connections end before the loop does.
        await asyncio.sleep(0)


class _Answer(msgspec.Struct):
    data: msgspec.Raw
    exception: str = ""


def _rows_of(body: bytes) -> list[list[Any]] | None:
    """Return the rows of a result, None where it is not whole: it may have ended in an error."""
    try:
        answer = msgspec.json.decode(body, type=_Answer)
        return None if answer.exception else _decode_rows(answer.data)
    except msgspec.DecodeError:
        return None


async def _read(response: aiohttp.ClientResponse) -> bytes:
    pieces = []
    length = 0
    async for piece in response.content.iter_any():
        pieces.append(piece)
        length += len(piece)
        if length > ANSWER_BYTES_MAX:
            raise SinkRefusedError(f"ClickHouse's answer is over {ANSWER_BYTES_MAX} bytes")
    return b"".join(pieces)


def _reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientPayloadError):
        return "its answer broke off"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        why = getattr(error.certificate_error, "verify_message", "")
        return f"its certificate cannot be verified: {why}; CLICKHOUSE_URL takes ?ca_cert=/file"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return "it does not speak TLS, or not this one: is CLICKHOUSE_URL right?"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"its name has no address ({error.os_error.strerror}): is CLICKHOUSE_URL right?"
    number = error.errno if isinstance(error, OSError) else None
    if number is not None and number > 0:
        return os.strerror(number)
    return str(error) or type(error).__name__


def _escaped(value: str | int) -> str:
    """Return a parameter's text as ClickHouse reads it, with tab-separated escapes."""
    return str(value).translate(_ESCAPES)


class MinuteBuckets:
    """AggregatesSource over the view ``minute_buckets``."""

    def __init__(self, clickhouse: ClickHouse) -> None:
        self._clickhouse = clickhouse

    async def sums(
        self, from_ms: int, to_ms: int, action: str, filters: Mapping[str, str]
    ) -> Mapping[int, Sums]:
        from_s, to_s = from_ms // 1000, min(to_ms // 1000, DATETIME_S_MAX)
        if from_s >= to_s:
            return {}
        # Filter names come from a fixed list, and values are bound: no text of a client
        # becomes part of the statement.
        conditions = "".join(f" AND {name} = {{{name}:String}}" for name in filters)
        rows = await self._clickhouse.rows(
            "SELECT toUnixTimestamp(bucket), toString(sum(count)), toString(sum(sum_price))"
            " FROM minute_buckets"
            " WHERE bucket >= toDateTime({from_s:UInt32}, 'UTC')"
            " AND bucket < toDateTime({to_s:UInt32}, 'UTC')"
            " AND action = {action:String}" + conditions + " GROUP BY bucket",
            {"from_s": from_s, "to_s": to_s, "action": action, **filters},
        )
        return {row[0] * 1000: (int(row[1]), int(row[2])) for row in rows}

    async def check(self) -> None:
        """Return if the view can be read. Raises SinkError."""
        await self._clickhouse.rows("SELECT 1 FROM minute_buckets LIMIT 0")
