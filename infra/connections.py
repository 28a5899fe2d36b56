"""The server's connections: how long each may wait for its client, and how many there may be.

uvicorn's protocol limits neither the size of headers nor the time that a request takes to come
in. This one does, at about a microsecond per request: connections that wait for their clients are
kept in lines, oldest first, and the heads of the lines are looked at now and then.

Headers  in all at most HEAD_BYTES_MAX, else 431; complete within HEAD_S, else 408
Body     408 once nothing of it has come for BODY_S
Idle     a connection without a request is closed after IDLE_S
Answers  a client that has read nothing of its answer for BODY_S is cut off
Number   beyond ``connections`` the one that has waited longest for its client gives way
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import msgspec
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

HEAD_BYTES_MAX = 65_536
CHUNK_FRAME_BYTES = 8
"""The most that the frame of a chunk adds to each byte of a body."""
HEAD_S = 10.0
BODY_S = 30.0
IDLE_S = 75.0
"""Longer than clients and proxies keep an idle connection, so that theirs is the first to go."""
LINGER_S = 2.0
"""Input of a refused client is read for so long: cut off at once, it could miss the reason."""
LOOK_EVERY_S = 0.5
CONNECTIONS_EXTRA = 64
"""Connections beyond the limit, open only to be told why they are refused."""


# Java's client asks in each first request to upgrade to HTTP/2, and the parser then takes the body
# of the request for the other protocol. A server may ignore an upgrade, so the header is renamed.
_UPGRADE = re.compile(rb"\r\nupgrade(?=[ \t]*:)", re.IGNORECASE)
_NO_UPGRADE = b"\r\nIgnored"
_BODY_HEADERS = {b"content-length", b"transfer-encoding"}


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that connections of one server may take."""

    connections: int = 4000
    head_s: float = HEAD_S
    body_s: float = BODY_S
    idle_s: float = IDLE_S
    linger_s: float = LINGER_S
    look_every_s: float = LOOK_EVERY_S


LIMITS = Limits()


def config(
    app: ASGIApp,
    limits: Limits = LIMITS,
    *,
    refused: Callable[[], object] = lambda: None,
    **more: Any,
) -> uvicorn.Config:
    """Return uvicorn's configuration for an application: the limits, and no unused features.

    ``refused`` is called for each connection that is ended by a limit.
    """
    return uvicorn.Config(
        cast(Any, app),
        # uvicorn only calls it, as it would call a class.
        http=cast(Any, partial(Connection, lines=Lines(limits, refused))),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        limit_concurrency=limits.connections + CONNECTIONS_EXTRA,
        timeout_keep_alive=math.ceil(limits.idle_s),
        **more,
    )


Line = dict["Connection", float]
"""Connections that wait for the same thing, oldest first, with the time since when each waits."""


class Lines:
    """The connections of a server that wait for their clients."""

    def __init__(self, limits: Limits, refused: Callable[[], object]) -> None:
        self.limits = limits
        self.refused = refused
        self.leaving: Line = {}
        """Connections that are closed or told to go, and not gone yet."""
        self.idle: Line = {}
        self.heads: Line = {}
        self.answers: Line = {}
        self.bodies: Line = {}
        self.now_s = 0.0
        """Time of the last look, in seconds of the loop; entries in lines carry it."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._look_at: asyncio.TimerHandle | None = None

    def welcome(self, staying: int) -> None:
        """Watch one more connection; the oldest gives way if there are too many."""
        if self._look_at is None:
            self._loop = asyncio.get_running_loop()
            self._look_later()
        if staying > self.limits.connections:
            waiting = (self.idle, self.heads, self.answers, self.bodies)
            oldest = next((one for line in waiting for one in line), None)
            if oldest is not None:
                oldest.give_way()
        if len(self.leaving) > CONNECTIONS_EXTRA:
            next(iter(self.leaving)).cut_off()

    def _look_later(self) -> None:
        assert self._loop is not None
        self.now_s = self._loop.time()
        self._look_at = self._loop.call_later(self.limits.look_every_s, self._look)

    def _look(self) -> None:
        """End the connections that have waited too long."""
        self._look_later()
        limits = self.limits
        for one in self._older(self.heads, limits.head_s):
            one.refuse(408, f"the headers were not complete within {limits.head_s:g} s")
        for one in self._older(self.bodies, limits.body_s):
            if one.flow.read_paused:
                # The server itself has paused reading.
                one.stand_in(self.bodies, again=True)
            else:
                one.refuse(408, f"nothing of the body came for {limits.body_s:g} s")
        for one in self._older(self.idle, limits.idle_s):
            one.leave()
        for one in self._older(self.answers, limits.body_s):
            if one.has_read_on():
                one.stand_in(self.answers, again=True)
            else:
                one.cut_off()
        for one in self._older(self.leaving, limits.linger_s):
            one.cut_off()

    def _older(self, line: Line, age_s: float) -> list[Connection]:
        until = self.now_s - age_s
        found = []
        for one, since in line.items():
            if since > until:
                break
            found.append(one)
        return found


class _RefusedError(Exception):
    """Ends the parsing of a head."""


class Connection(HttpToolsProtocol):
    """One connection of uvicorn, which is in a line whenever it waits for its client."""

    def __init__(self, *args: Any, lines: Lines, **more: Any) -> None:
        super().__init__(*args, **more)
        self._lines = lines
        self._line: Line | None = None
        self._reading: Literal["", "head", "body"] = ""
        """Part of a request that is being read."""
        self._piece = self._came = self._came_of_body = 0
        """Bytes of the newest piece, of the request so far, and of its body so far."""
        self._refusal: tuple[int, str] | None = None
        self._unread = 0
        """Bytes of answers that the client had not taken at the last call of ``has_read_on``."""

    # Methods that the transport and the parser call.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._lines.welcome(len(self.connections))
        self._settle()

    def connection_lost(self, exc: Exception | None) -> None:
        self.stand_in(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        if self._reading != "body" and b"pgrade" in data:
            data = _UPGRADE.sub(_NO_UPGRADE, data)
        self._piece = len(data)
        self._came += len(data)
        super().data_received(data)
        if self._came > HEAD_BYTES_MAX and self._refusal is None:
            self._check_size()
        self._settle(again=self._reading == "body" and not self.cycle.response_complete)

    def on_message_begin(self) -> None:
        self._reading = "head"
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        is_large = self._came > HEAD_BYTES_MAX or self._piece > HEAD_BYTES_MAX
        if is_large and self._head_bytes() > HEAD_BYTES_MAX:
            self._refusal = (431, _HEAD_TOO_LARGE)
            raise _RefusedError
        if self.parser.should_upgrade() and _BODY_HEADERS & {name for name, _ in self.headers}:
            # The header came in two pieces and was not renamed; the parser would skip the body.
            self._refusal = (400, "no Upgrade is known here: send it as HTTP/1.1 without")
            raise _RefusedError
        super().on_headers_complete()
        self._reading = "body"

    def on_body(self, body: bytes) -> None:
        self._came_of_body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._reading = ""
        self._came = self._came_of_body = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._settle()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._settle()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._settle()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser could not read; uvicorn calls this."""
        status, message = self._refusal or (400, "the request is not HTTP/1.1 that can be read")
        self.refuse(status, message)

    # Methods that the lines call.

    def stand_in(self, line: Line | None, again: bool = False) -> None:
        """Go to the end of this line and leave any other; within its line, only if ``again``."""
        if line is self._line and not again:
            return
        if self._line is not None:
            self._line.pop(self, None)
        self._line = line
        if line is not None:
            line[self] = self._lines.now_s

    def has_read_on(self) -> bool:
        """Tell whether the client has taken some of its answer since the last call."""
        before, self._unread = self._unread, self.transport.get_write_buffer_size()
        return not before or self._unread < before

    def give_way(self) -> None:
        """Make room for another connection."""
        if self._line is self._lines.answers:
            self._lines.refused()
            self.cut_off()
        elif self._reading:
            self.refuse(503, "too many connections, and this one waited longest: try again")
        else:
            self._lines.refused()
            self.leave()

    def leave(self) -> None:
        """Close the connection once its answers are sent."""
        self.connections.discard(self)
        self.transport.close()
        self._settle()

    def cut_off(self) -> None:
        """Close the connection at once, whatever is under way."""
        self.connections.discard(self)
        self.stand_in(None)
        self.transport.abort()

    def refuse(self, status: int, message: str) -> None:
        """Answer with an error instead of reading on, and close the connection."""
        self._lines.refused()
        self._refusal = (status, message)
        self.connections.discard(self)
        cycle = self.cycle
        is_asked = cycle is not None and not cycle.response_complete
        if is_asked and (self._reading != "body" or self.pipeline or cycle.response_started):
            # The error would come in the middle of another answer.
            self.leave()
            return
        if not self._reading or (self._reading == "body" and not is_asked):
            # No request waits for an answer.
            self.leave()
            return
        if is_asked:
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.write(_whole_answer(status, message))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._settle()

    def _settle(self, again: bool = False) -> None:
        """Go to the line for what this connection waits for now."""
        lines, cycle = self._lines, self.cycle
        is_served = cycle is not None and not cycle.response_complete and not self._reading
        line: Line | None = None
        if is_served and self._refusal is None and not self.flow.write_paused:
            pass  # The client waits for the server.
        elif self.transport.is_closing() or self._refusal is not None:
            line = lines.answers if self.transport.get_write_buffer_size() else lines.leaving
        elif self.flow.write_paused:
            line = lines.answers
        elif self._reading == "body":
            line = lines.bodies
        elif self._reading == "head" or cycle is None:
            line = lines.heads
        elif cycle.response_complete:
            line = lines.idle
        self.stand_in(line, again)

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _check_size(self) -> None:
        """Refuse large headers before they are complete; also trailers and frames of chunks."""
        if self._reading == "head":
            self.refuse(431, _HEAD_TOO_LARGE)
        elif self._reading == "body":
            frames = self._came - self._came_of_body * (1 + CHUNK_FRAME_BYTES)
            if frames > 2 * HEAD_BYTES_MAX:
                self.refuse(431, _HEAD_TOO_LARGE)


_HEAD_TOO_LARGE = f"the headers are over {HEAD_BYTES_MAX} bytes in all"


def _whole_answer(status: int, message: str) -> bytes:
    body = msgspec.json.encode({"error": message})
    head = b"content-type: application/json\r\nconnection: close\r\n"
    return b"%b%bcontent-length: %d\r\n\r\n%b" % (STATUS_LINE[status], head, len(body), body)
