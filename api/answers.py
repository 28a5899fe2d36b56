"""What a handler gives back and how a request is read: the small HTTP vocabulary of the rooms.

A handler is ``async (scope, receive) -> Answer``. It raises RequestError for what the client
did wrong (or what cannot be served now); ``api.endpoint`` turns both into bytes on the wire.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import msgspec

BODY_BYTES_MAX = 1_048_576
"""The largest body of a request: as large as the largest record that a flow reads."""

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = tuple[tuple[bytes, bytes], ...]

encode_json = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, body and further headers of a response."""

    status: int
    body: bytes = b""
    content_type: bytes = b"application/json"
    headers: Headers = ()


Handler = Callable[[Scope, Receive], Awaitable[Answer]]

NO_CONTENT = Answer(204)


class RequestError(Exception):
    """A request that is answered with an error: ``{"error": message}``."""

    def __init__(self, status: int, message: str, headers: Headers = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers

    def answer(self) -> Answer:
        """The response that says so."""
        return error_answer(self.status, self.message, self.headers)


class ClientGoneError(Exception):
    """The client closed the connection before its request was whole."""


def error_answer(status: int, message: str, headers: Headers = ()) -> Answer:
    """``{"error": message}``"""
    return Answer(status, encode_json({"error": message}), headers=headers)


def json_answer(value: Any) -> Answer:
    """200 with the value as JSON."""
    return Answer(200, encode_json(value))


async def read_body(receive: Receive, bytes_max: int = BODY_BYTES_MAX) -> bytes:
    """The whole body. Raises RequestError 413 for a larger one, ClientGoneError."""
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.request" and not message.get("more_body", False):
        if len(body) > bytes_max:
            raise _too_large(bytes_max)
        return body
    pieces = [body]
    length = len(body)
    while message["type"] == "http.request" and message.get("more_body", False):
        message = await receive()
        pieces.append(message.get("body", b""))
        length += len(pieces[-1])
        if length > bytes_max:
            raise _too_large(bytes_max)
    if message["type"] != "http.request":
        raise ClientGoneError
    return b"".join(pieces)


def _too_large(bytes_max: int) -> RequestError:
    return RequestError(413, f"the body is over {bytes_max} bytes: send less at a time")
