"""HTTP in: user tags, client reports, and records of any topic that clients may write."""

from __future__ import annotations

import time
from collections.abc import Sequence

from footfall.api.answers import (
    NO_CONTENT,
    Answer,
    Handler,
    Receive,
    RequestError,
    Scope,
    json_answer,
)
from footfall.api.bodies import read_body
from footfall.api.metrics import ApiMetrics
from footfall.api.records import INCOMING, BadRecordError, Incoming, read_records
from footfall.api.writing import BusyError, NotStoredError, RecordTooLargeError, Writing
from footfall.schemas.topics import TOPICS
from footfall.sinks import Record

RETRY_AFTER = ((b"retry-after", b"1"),)


class Collector:
    """Checks what comes in and stores it: all of a request, or nothing of it."""

    def __init__(self, writing: Writing, metrics: ApiMetrics) -> None:
        self._writing = writing
        self._written = {topic: metrics.records_written.labels(topic).inc for topic in INCOMING}
        metrics.records_waiting.set_function(lambda: writing.records_waiting)

    def one(self, topic: str) -> Handler:
        """Return the handler that takes one record of the topic: 204 once it is durable."""
        incoming = INCOMING[topic]

        async def handle(scope: Scope, receive: Receive) -> Answer:
            body = await read_body(scope, receive)
            try:
                record = incoming.record(body, _now_ms())
            except BadRecordError as error:
                raise RequestError(error.status, str(error)) from None
            await self._store(topic, (record,))
            return NO_CONTENT

        return handle

    async def many(self, scope: Scope, receive: Receive) -> Answer:
        """Handle ``POST /events/{topic}``: ``{"stored": n}`` once all are durable."""
        incoming = _writable(scope["path_params"]["topic"])
        content_type = dict(scope["headers"]).get(b"content-type", b"").decode("latin-1")
        body = await read_body(scope, receive)
        try:
            records = read_records(incoming, body, _now_ms(), content_type)
        except BadRecordError as error:
            raise RequestError(error.status, str(error)) from None
        await self._store(incoming.topic, records)
        return json_answer({"stored": len(records)})

    async def _store(self, topic: str, records: Sequence[Record]) -> None:
        try:
            await self._writing.write(topic, records)
        except BusyError:
            raise RequestError(
                503, "too much waits to be written: try again in a second", RETRY_AFTER
            ) from None
        except RecordTooLargeError as error:
            which = f"record {error.place}: " if len(records) > 1 else ""
            raise RequestError(413, f"{which}body: {error}") from None
        except NotStoredError as error:
            raise RequestError(503, f"not stored: {error}", RETRY_AFTER) from None
        self._written[topic](len(records))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _writable(topic: str) -> Incoming:
    incoming = INCOMING.get(topic)
    if incoming is not None:
        return incoming
    choices = ", ".join(sorted(INCOMING))
    if topic in TOPICS:
        raise RequestError(403, f"{topic} is written by flows alone; clients may write {choices}")
    raise RequestError(404, f"no topic {topic[:100]!r}; clients may write {choices}")
