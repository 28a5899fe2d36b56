"""The wrapper of every handler: answers, counts and logs. Plain ASGI."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import dataclass

from prometheus_client import Counter

from footfall.api.answers import (
    Answer,
    ClientGoneError,
    Handler,
    Headers,
    Message,
    Receive,
    RequestError,
    Scope,
    Send,
    error_answer,
    messages_of,
)
from footfall.api.metrics import ApiMetrics

LOGGED_BODY_BYTES_MAX = 2048
SECRET_HEADERS = frozenset({b"authorization", b"proxy-authorization", b"cookie"})

log = logging.getLogger("footfall.api")


@dataclass(frozen=True, slots=True)
class RequestLog:
    """The parts of a request that are logged; nothing where ``requests`` is off."""

    requests: bool = False
    headers: bool = False
    body: bool = False


class Endpoint:
    """The ASGI application of one route: its handler, answered, counted and logged."""

    def __init__(
        self, route: str, handle: Handler, metrics: ApiMetrics, request_log: RequestLog
    ) -> None:
        self.route = route
        self._handle = handle
        self._metrics = metrics
        self._log = request_log
        self._observe = metrics.request_seconds.labels(route).observe
        self._counters: dict[int, Counter] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        body = bytearray()
        try:
            if self._log.requests and self._log.body:
                receive = _overheard(receive, body)
            answer = await self._handle(scope, receive)
        except RequestError as error:
            answer = error.answer()
        except ClientGoneError:
            return
        except asyncio.CancelledError:
            # The server is told to stop, and this request took longer than it was given.
            answer = error_answer(503, "the server is stopping")
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            answer = error_answer(500, "the server failed on this request; its log says why")
        start, end = messages_of(answer, scope["method"] == "HEAD")
        await send(start)
        await send(end)
        took_s = time.perf_counter() - started
        self._observe(took_s)
        self._counter(answer.status).inc()
        if self._log.requests:
            self._log_request(scope, answer, took_s, body)

    def _counter(self, status: int) -> Counter:
        counter = self._counters.get(status)
        if counter is None:
            counter = self._metrics.requests.labels(self.route, str(status))
            self._counters[status] = counter
        return counter

    def _log_request(self, scope: Scope, answer: Answer, took_s: float, body: bytearray) -> None:
        query = scope["query_string"].decode("latin-1")
        target = json.dumps(scope["path"] + ("?" + query if query else ""))
        line = f"{scope['method']} {target} {answer.status} {took_s * 1000:.1f} ms"
        if self._log.headers:
            line += f" headers={json.dumps(_printable(scope['headers']))}"
        if self._log.body:
            line += f" body={json.dumps(body.decode('utf-8', 'replace'))}"
        log.info("%s", line)


def _overheard(receive: Receive, heard: bytearray) -> Receive:
    async def receive_and_keep() -> Message:
        message = await receive()
        room = LOGGED_BODY_BYTES_MAX - len(heard)
        if room > 0:
            heard.extend(message.get("body", b"")[:room])
        return message

    return receive_and_keep


def _printable(headers: Headers) -> dict[str, str]:
    return {
        name.decode("latin-1"): "(hidden)" if name in SECRET_HEADERS else value.decode("latin-1")
        for name, value in headers
    }
