"""``/live/requests/{id}`` and ``/live/users/{id}``: lookups of one request and of one user.

An id is any text of up to ID_CHARS_MAX characters, and only ever a bound parameter. An unknown
id has empty lists. AT_ONCE lookups run at a time, WAITING_MAX more wait, and further ones get
503, so that lookups do not slow the panels down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from footfall.api.answers import Answer, Receive, RequestError, Scope, encode_json
from footfall.api.clickhouse import ClickHouse
from footfall.api.shop_questions import ask
from footfall.schemas.operations import OPERATIONS
from footfall.schemas.tables.sessions import SPEND_TIME_VIEW
from footfall.schemas.tables.traces import REQUEST_SUMMARY_VIEW, REQUEST_TRACE, USER_TRACE
from footfall.sinks import SinkError

ID_CHARS_MAX = 200
"""The longest id that a record may have."""
STEPS_SHOWN = 500
TRAIL_SHOWN = 200
SESSIONS_SHOWN = 5
TEXT_CHARS_MAX = 500
AT_ONCE = 3
WAITING_MAX = 50


class TraceStep(Struct, frozen=True):
    """One step of a request; ``status`` and ``error`` are empty where it has none."""

    time_ms: int
    server: str
    log: str
    user_id: str
    status: str
    error: str
    failed: bool


class MissingStep(Struct, frozen=True):
    """The step that a request lacks; ``after`` is the index of the step before it, or -1."""

    server: str
    log: str
    after: int


class Summary(Struct, frozen=True):
    """The one-row outcome of a request."""

    user_id: str
    started_ms: int
    duration_ms: int
    steps: int
    hops: int
    servers: list[str]
    operation: str
    outcome: str


class RequestTrace(Struct, frozen=True):
    """The first steps of a request in order of time, and its summary once there is one."""

    request_id: str
    summary: Summary | None
    missing: MissingStep | None
    steps: list[TraceStep]
    more: bool
    """Whether there are steps beyond those here."""


class TrailStep(Struct, frozen=True):
    """One record of a user."""

    time_ms: int
    log: str
    server: str
    request_id: str


class Session(Struct, frozen=True):
    """A session that has ended."""

    login_ms: int
    ended_ms: int
    spent_s: float
    ended_by: str


class UserTrail(Struct, frozen=True):
    """The newest records and sessions of a user, newest first."""

    user_id: str
    sessions: list[Session]
    trail: list[TrailStep]
    more: bool
    """Whether there are records beyond those here."""


class Lookups:
    """The handlers. Without a ClickHouse there is nothing to look up, and they say so."""

    def __init__(self, clickhouse: ClickHouse | None = None) -> None:
        self._clickhouse = clickhouse
        self._room = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    async def request(self, scope: Scope, receive: Receive) -> Answer:
        """Handle ``GET /live/requests/{id}``."""
        request_id = _id_of(scope, "request_id")
        # One step more than is shown tells whether there are more.
        steps, summary = await self._rows(
            request_id,
            "SELECT toUnixTimestamp64Milli(time), server, log, user_id, status, error, failed"
            f" FROM {REQUEST_TRACE.name} FINAL WHERE request_id = {{id:String}}"
            f" ORDER BY time, topic, topic_partition, offset LIMIT {STEPS_SHOWN + 1}",
            "SELECT user_id, toUnixTimestamp64Milli(started), toString(duration_ms), steps, hops,"
            " arraySlice(servers, 1, 100), operation, outcome, missing"
            f" FROM {REQUEST_SUMMARY_VIEW.name} WHERE request_id = {{id:String}}"
            " ORDER BY started DESC LIMIT 1",
        )
        return Answer(200, encode_json(trace_of(request_id, steps, summary)))

    async def user(self, scope: Scope, receive: Receive) -> Answer:
        """Handle ``GET /live/users/{id}``."""
        user_id = _id_of(scope, "user_id")
        trail, sessions = await self._rows(
            user_id,
            "SELECT toUnixTimestamp64Milli(time), log, server, request_id"
            f" FROM {USER_TRACE.name} FINAL WHERE user_id = {{id:String}}"
            f" ORDER BY time DESC, topic, topic_partition, offset DESC LIMIT {TRAIL_SHOWN + 1}",
            "SELECT toUnixTimestamp64Milli(login), toUnixTimestamp64Milli(ended), spent_s,"
            f" ended_by FROM {SPEND_TIME_VIEW.name} WHERE user_id = {{id:String}}"
            f" ORDER BY login DESC LIMIT {SESSIONS_SHOWN}",
        )
        return Answer(200, encode_json(trail_of(user_id, trail, sessions)))

    async def _rows(self, one: str, *queries: str) -> list[list[list[Any]]]:
        if self._clickhouse is None:
            raise RequestError(503, "lookups need a ClickHouse, and this server has none")
        if self._waiting >= AT_ONCE + WAITING_MAX:
            raise RequestError(503, "too many lookups wait: try again", ((b"retry-after", b"1"),))
        self._waiting += 1
        try:
            async with self._room:
                return [await ask(self._clickhouse, query, {"id": one}) for query in queries]
        except SinkError as error:
            raise RequestError(503, f"it cannot be looked up: {error}") from None
        finally:
            self._waiting -= 1


def trace_of(request_id: str, steps: Sequence[Any], summary: Sequence[Any]) -> RequestTrace:
    """The answer from the rows of both queries."""
    shown = [
        TraceStep(
            int(time_ms), server, log, user_id, status, error[:TEXT_CHARS_MAX], bool(failed)
        )
        for time_ms, server, log, user_id, status, error, failed in steps[:STEPS_SHOWN]
    ]  # fmt: skip
    more = len(steps) > STEPS_SHOWN
    if not summary:
        return RequestTrace(request_id, None, None, shown, more)
    user_id, started_ms, duration_ms, count, hops, servers, operation, outcome, gap = summary[0]
    return RequestTrace(
        request_id,
        Summary(
            user_id, int(started_ms), int(duration_ms), count, hops, servers, operation, outcome
        ),
        missing_in(shown, operation, gap) if gap else None,
        shown,
        more,
    )


def missing_in(steps: Sequence[TraceStep], operation: str, missing: str) -> MissingStep:
    """Return the missing step ("Server.Action") with its place: after the last of the steps that
    come before it in the operation."""
    server, _, log = missing.partition(".")
    known = OPERATIONS.get(operation)
    order = known.steps if known else ()
    before = set(order[: order.index((server, log))]) if (server, log) in order else set()
    places = [place for place, step in enumerate(steps) if (step.server, step.log) in before]
    return MissingStep(server, log, places[-1] if places else -1)


def trail_of(user_id: str, trail: Sequence[Any], sessions: Sequence[Any]) -> UserTrail:
    """The answer from the rows of both queries."""
    return UserTrail(
        user_id,
        [
            Session(int(login_ms), int(ended_ms), float(spent_s), ended_by)
            for login_ms, ended_ms, spent_s, ended_by in sessions
        ],
        [
            TrailStep(int(time_ms), log, server, request_id)
            for time_ms, log, server, request_id in trail[:TRAIL_SHOWN]
        ],
        len(trail) > TRAIL_SHOWN,
    )


def _id_of(scope: Scope, name: str) -> str:
    value: str = scope["path_params"][name]
    if not value:
        raise RequestError(400, f"{name}: empty")
    if len(value) > ID_CHARS_MAX:
        raise RequestError(
            400, f"{name}: over {ID_CHARS_MAX} characters, and no record has one as long"
        )
    return value
