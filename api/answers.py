"""The types of handlers: the request that one reads and the answer that it returns.

A handler is ``async (scope, receive) -> Answer``. It raises RequestError for what the client
did wrong (or what cannot be served now); ``api.endpoint`` turns both into bytes on the wire.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import msgspec

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = tuple[tuple[bytes, bytes], ...]

encode_json = msgspec.json.Encoder().encode

PRIVATE: Headers = (
    (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
"""Answers are neither kept nor shared: most hold personal data."""
NOSNIFF = (b"x-content-type-options", b"nosniff")


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, body and further headers of a response."""

    status: int
    body: bytes = b""
    content_type: bytes = b"application/json"
    headers: Headers = PRIVATE


Handler = Callable[[Scope, Receive], Awaitable[Answer]]

NO_CONTENT = Answer(204, headers=())


class RequestError(Exception):
    """A request that is answered with an error: ``{"error": message}``."""

    def __init__(self, status: int, message: str, headers: Headers = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers

    def answer(self) -> Answer:
        """Return the response that says so."""
        return error_answer(self.status, self.message, self.headers)


class ClientGoneError(Exception):
    """The client closed the connection before its request was whole."""


def messages_of(answer: Answer, head_only: bool = False) -> tuple[Message, Message]:
    """Return the ASGI messages of an answer, without its body for HEAD."""
    headers: list[tuple[bytes, bytes]] = list(answer.headers)
    if answer.status not in (204, 304):
        headers += (
            (b"content-type", answer.content_type),
            (b"content-length", str(len(answer.body)).encode()),
            NOSNIFF,
        )
    return (
        {"type": "http.response.start", "status": answer.status, "headers": headers},
        {"type": "http.response.body", "body": b"" if head_only else answer.body},
    )


def error_answer(status: int, message: str, headers: Headers = ()) -> Answer:
    """Return an answer with the body ``{"error": message}``."""
    return Answer(status, encode_json({"error": message}), headers=(*PRIVATE, *headers))


def json_answer(value: Any) -> Answer:
    """Return 200 with the value as JSON."""
    return Answer(200, encode_json(value))
