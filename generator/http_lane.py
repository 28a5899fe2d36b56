"""Requests of one kind, made due by the clock and sent over connections of their own."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import Protocol

from footfall.generator.http_client import NO_ANSWER, Address, Connection
from footfall.generator.latency import Latencies, Percentiles

PENDING_MAX = 20_000
"""Most requests that are due and wait for a free client; beyond that no more are made due, and the
rate slips."""


@dataclass(frozen=True)
class RequestCounts:
    """Counts of one kind of requests."""

    sent: int
    by_status: dict[int, int]
    unanswered: int
    """Number of sent requests whose connection was lost, or whose time was over, before an
    answer."""
    latency: Percentiles
    rate_per_s: float
    slipped: int
    """Number of requests that were not made at their time, because PENDING_MAX were waiting."""


class Requests(Protocol):
    """The maker of a lane's requests, which is given their answers."""

    def request(self, number: int) -> tuple[bytes, bytes]:
        """Return (path, body) of a request; asked for in order, each once."""

    def answered(self, number: int, status: int, body: bytes) -> None:
        """Take the answer, or NO_ANSWER."""


class Lane:
    """Requests of one kind at one rate, over connections of their own."""

    def __init__(
        self,
        address: Address,
        clients: int,
        rate_per_s: float | None,
        limit: int | None,
        requests: Requests,
    ) -> None:
        self.connections = [Connection(address, self) for _ in range(clients)]
        self._address = address
        self._rate_per_s = rate_per_s
        self._limit = inf if limit is None else limit
        self._requests = requests
        self._idle: dict[Connection, None] = {}
        self._pending: deque[tuple[int, float]] = deque()
        self._made = 0
        self._began_s: float | None = None
        """Start by the clock; None before the start and after the end."""
        self.sent = self.slipped = 0
        self.by_status: Counter[int] = Counter()
        self.latencies = Latencies()

    def begin(self, now_s: float) -> None:
        """Start: the first request is due now."""
        self._began_s = now_s

    def end(self) -> None:
        """Send no request from now on."""
        self._began_s = None

    @property
    def is_done(self) -> bool:
        """Return whether all requests that there are were sent."""
        return self.sent >= self._limit

    @property
    def is_open(self) -> bool:
        """Return whether the server can be reached."""
        return any(connection.is_open for connection in self.connections)

    @property
    def under_way(self) -> int:
        """Return the number of requests that are neither answered nor lost."""
        return sum(connection.number is not None for connection in self.connections)

    def tick(self, now_s: float) -> None:
        """Make requests due, and send as many as there are free clients."""
        if self._began_s is None:
            return
        if self._rate_per_s:
            due = min(int((now_s - self._began_s) * self._rate_per_s) + 1, self._limit)
            count = int(due) - self._made
            fitting = min(count, PENDING_MAX - len(self._pending))
            self._pending.extend((self._made + n, now_s) for n in range(fitting))
            self._made += fitting
            if count > fitting:
                self.slipped += count - fitting
                self._began_s += (count - fitting) / self._rate_per_s
        while self._idle:
            connection = self._idle.popitem()[0]
            # A connection that was lost while idle comes back through ``ready``.
            if connection.is_open and not self._send_next(connection, now_s):
                break

    def ready(self, connection: Connection) -> None:
        """Send the next request; see Owner."""
        self._send_next(connection, monotonic())

    def answered(self, connection: Connection, status: int, body: bytes) -> None:
        """Count the answer; see Owner."""
        assert connection.number is not None
        self.by_status[status] += 1
        if status != NO_ANSWER:
            self.latencies.add(monotonic() - connection.due_s)
        self._requests.answered(connection.number, status, body)

    def cut_slow(self, sent_before_s: float) -> None:
        """Give up requests that were sent before ``sent_before_s`` and have no answer yet."""
        for connection in self.connections:
            if connection.number is not None and connection.sent_s < sent_before_s:
                connection.abort()

    def counts(self, seconds: float) -> RequestCounts:
        """Return the counts of the requests."""
        by_status = {code: n for code, n in sorted(self.by_status.items()) if code != NO_ANSWER}
        return RequestCounts(
            sent=self.sent,
            by_status=by_status,
            unanswered=self.by_status[NO_ANSWER],
            latency=self.latencies.percentiles(),
            rate_per_s=self.sent / max(seconds, 1e-9),
            slipped=self.slipped,
        )

    def _next(self, now_s: float) -> tuple[int, float] | None:
        if self._rate_per_s is not None:
            return self._pending.popleft() if self._pending else None
        if self._made >= self._limit:
            return None
        self._made += 1
        return self._made - 1, now_s

    def _send_next(self, connection: Connection, now_s: float) -> bool:
        """Send what is due, or keep the connection for it. Returns whether it was sent."""
        request = self._next(now_s) if self._began_s is not None else None
        if request is None:
            self._idle[connection] = None
            return False
        number, due_s = request
        path, body = self._requests.request(number)
        connection.send(number, due_s, now_s, self._address.post(path, body))
        self.sent += 1
        return True
